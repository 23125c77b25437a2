// SPDX-License-Identifier: GPL-2.0

//! Hypercalls of KVM.
//!
//! C headers: [`include/linux/kvm_para.h`](srctree/include/linux/kvm_para.h),
//! [`arch/x86/include/asm/kvm_para.h`](srctree/arch/x86/include/asm/kvm_para.h)

use crate::helpers;
use kernel::{error::to_result, prelude::*};

/// Asks KVM to write `value` to the register at guest-physical `address`, as two bytes, which tells
/// the device behind it that there is something in its queue. Takes the instruction that the
/// processor has for it, and none of the decoding that an access to the register would need.
///
/// # Errors
///
/// [`ENODEV`] without KVM. [`ENOSYS`] if KVM does not know this call, or nobody has registered for
/// this address: it will not later either.
///
/// Context: any, also that of a machine check.
pub fn mirror_kick(address: u64, value: u16) -> Result {
    // SAFETY: Any address will do: KVM writes only where somebody has registered for it.
    to_result(unsafe { helpers::kmirror_kvm_kick(address, value) })
}
