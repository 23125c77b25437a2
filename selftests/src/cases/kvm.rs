// SPDX-License-Identifier: GPL-2.0

//! A small virtual machine in the victim: its processor writes through page tables of its own.

use crate::case::{skip, Case, Context};
use crate::inject::Door;
use crate::module;
use crate::rig::Rig;
use crate::{PAGE, PAGE_SIZE};
use anyhow::{bail, ensure, Context as _, Result};
use kvm_bindings::kvm_userspace_memory_region;
use kvm_ioctls::{Kvm, VcpuExit, VcpuFd, VmFd};
use std::sync::Mutex;

pub(super) const CASES: &[Case] = &[
    Case::new(
        "kvm_guest_before_epoch",
        "an epoch refuses the pages of an mm with MMU notifiers",
        before_epoch,
    ),
    Case::new(
        "kvm_guest_after_epoch",
        "a restore refuses the pages of an mm with MMU notifiers; KVM takes pages for writing",
        after_epoch,
    ),
];

/// The page with the guest's program; the page that it writes comes next.
const CODE: u64 = 1;
const DATA: u64 = 2;

/// `mov [0x2000], al; hlt`, and again.
const PROGRAM: [u8; 6] = [0xa2, 0x00, 0x20, 0xf4, 0xeb, 0xfa];

/// In the victim.
static GUEST: Mutex<Option<(VmFd, VcpuFd)>> = Mutex::new(None);

/// Skips the test if no virtual machine can be had.
pub(super) fn need_kvm() -> Result<()> {
    for name in ["kvm_amd", "kvm_intel"] {
        module::probe(name);
    }
    // It may be there and not work: then it has no virtual machine to give.
    match Kvm::new().and_then(|kvm| kvm.create_vm()) {
        Ok(_) => Ok(()),
        Err(error) => skip!("no KVM: {error}"),
    }
}

/// Makes the machine. The first pages of the victim's memory are its physical memory.
fn make(rig: &mut Rig) -> Result<()> {
    rig.victim.call(
        |scene, _, _| {
            let vm = Kvm::new()?.create_vm()?;
            let slot = kvm_userspace_memory_region {
                slot: 0,
                flags: 0,
                guest_phys_addr: 0,
                memory_size: scene.mem.len() as u64,
                userspace_addr: scene.mem.addr(0),
            };
            // SAFETY: The memory is mapped as long as the machine lives, and nothing in this
            // process relies on what the guest leaves alone.
            unsafe { vm.set_user_memory_region(slot) }?;
            let vcpu = vm.create_vcpu(0)?;
            let mut sregs = vcpu.get_sregs()?;
            (sregs.cs.base, sregs.cs.selector) = (0, 0);
            vcpu.set_sregs(&sregs)?;
            *GUEST.lock().unwrap() = Some((vm, vcpu));
            Ok(0)
        },
        0,
        0,
    )?;
    Ok(())
}

/// Lets the guest write one byte, from the start of its program.
fn guest_writes(rig: &mut Rig, byte: u64) -> Result<()> {
    rig.victim.call(
        |_, byte, _| {
            let mut guest = GUEST.lock().unwrap();
            let (_, vcpu) = guest.as_mut().context("no machine")?;
            let mut regs = vcpu.get_regs()?;
            (regs.rip, regs.rax, regs.rflags) = (CODE * PAGE, byte, 2);
            vcpu.set_regs(&regs)?;
            match vcpu.run()? {
                VcpuExit::Hlt => Ok(0),
                other => bail!("the guest ended with {other:?}"),
            }
        },
        byte,
        0,
    )?;
    Ok(())
}

fn load_program(rig: &mut Rig) -> Result<()> {
    rig.victim.call(
        |scene, _, _| {
            let mut page = [0; PAGE_SIZE];
            page[..PROGRAM.len()].copy_from_slice(&PROGRAM);
            for (index, bytes) in (0..).zip(page.chunks_exact(8)) {
                scene
                    .mem
                    .store(CODE, index, u64::from_ne_bytes(bytes.try_into()?));
            }
            Ok(0)
        },
        0,
        0,
    )?;
    Ok(())
}

fn first_byte(rig: &mut Rig) -> Result<u64> {
    rig.victim
        .call(|scene, _, _| Ok(scene.mem.load(DATA, 0) & 0xff), 0, 0)
}

fn before_epoch(cx: &Context) -> Result<()> {
    need_kvm()?;
    let mut rig = Rig::new(cx, 4)?;
    load_program(&mut rig)?;
    make(&mut rig)?;
    guest_writes(&mut rig, 0x11)?;
    ensure!(first_byte(&mut rig)? == 0x11, "the guest does not write");
    rig.sync()?;
    for page in 0..4 {
        rig.must_not_be_mirrored(page)?;
    }
    let refused = rig.mirror.stat("notifier")?;
    ensure!(refused >= 4, "{refused} pages are counted as of a notifier");
    // Through the guest's own page tables, which know this page already.
    guest_writes(&mut rig, 0x22)?;
    rig.must_lose(Door::Fail, DATA)
}

fn after_epoch(cx: &Context) -> Result<()> {
    need_kvm()?;
    let mut rig = Rig::new(cx, 4)?;
    load_program(&mut rig)?;
    rig.sync()?;
    rig.must_be_mirrored(DATA)?;
    make(&mut rig)?;
    guest_writes(&mut rig, 0x11)?;
    rig.must_lose(Door::Fail, DATA)?;
    // Never touched by the guest; but it might have been at any moment.
    rig.must_lose(Door::Mce, 3)
}
