// SPDX-License-Identifier: GPL-2.0

//! What the fuzz targets share: libFuzzer's entry, and a guest whose memory is a small memfd.

use std::fs::File;
use std::sync::Arc;

use kmirrord::metrics::Metrics;
use kmirrord::nodes::Nodes;
use kmirrord::service::{Limits, Service};
use rustix::fs::MemfdFlags;
use vm_memory::mmap::MmapRegionBuilder;
use vm_memory::{FileOffset, GuestAddress, GuestMemoryMmap, GuestRegionMmap};

/// Makes a function of bytes the target that libFuzzer calls.
#[macro_export]
macro_rules! fuzz_target {
    ($function:path) => {
        /// Called by libFuzzer.
        ///
        /// # Safety
        ///
        /// `data` points to `size` bytes that stay as they are.
        #[no_mangle]
        pub unsafe extern "C" fn LLVMFuzzerTestOneInput(data: *const u8, size: usize) -> i32 {
            let bytes = if size == 0 {
                &[]
            } else {
                // SAFETY: By what libFuzzer promises.
                unsafe { std::slice::from_raw_parts(data, size) }
            };
            $function(bytes);
            0
        }
    };
}

/// Bytes of the guest's memory.
pub const RAM_BYTES: usize = 256 << 10;

/// Memory of a guest, shared as QEMU would.
pub fn memory() -> GuestMemoryMmap {
    let file = File::from(rustix::fs::memfd_create("guest", MemfdFlags::CLOEXEC).expect("a memfd"));
    file.set_len(RAM_BYTES as u64).expect("it grows");
    const READ_WRITE: i32 = 3;
    const MAP_SHARED: i32 = 1;
    let region = MmapRegionBuilder::new(RAM_BYTES)
        .with_file_offset(FileOffset::new(file, 0))
        .with_mmap_prot(READ_WRITE)
        .with_mmap_flags(MAP_SHARED)
        .build()
        .expect("a mapping");
    let region = GuestRegionMmap::new(region, GuestAddress(0)).expect("a region");
    GuestMemoryMmap::from_regions(vec![region]).expect("one region")
}

/// A service with a pool of 16 slots.
pub fn service() -> Service {
    let limits = Limits {
        slots: 16,
        ..Limits::default()
    };
    Service::new(limits, Nodes::parse("0"), Metrics::new()).expect("a service")
}

/// The memory as the service sees it.
pub fn ram() -> kmirrord::ram::Ram {
    kmirrord::ram::Ram::new(Arc::new(memory()))
}
