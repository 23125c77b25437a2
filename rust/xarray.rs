// SPDX-License-Identifier: GPL-2.0

//! Numbers in an XArray, which the `kernel` crate's has for pointers.
//!
//! C header: [`include/linux/xarray.h`](srctree/include/linux/xarray.h)

use kernel::{ffi::c_void, types::ForeignOwnable};

/// A number of up to 60 bits that can be stored in an [`XArray`](kernel::xarray::XArray) without
/// memory of its own.
///
/// # Invariants
///
/// Below 2^60.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Value(u64);

impl Value {
    /// [`None`] if `number` has more than 60 bits.
    pub fn new(number: u64) -> Option<Self> {
        // INVARIANT: Just checked.
        (number < 1 << 60).then_some(Self(number))
    }

    /// The number.
    pub fn get(self) -> u64 {
        self.0
    }

    fn from_ptr(ptr: *mut c_void) -> Self {
        // INVARIANT: A shift by 4 leaves 60 bits.
        Self(ptr.addr() as u64 >> 4)
    }
}

// SAFETY: The "pointer" is a multiple of 8 as promised, and never null thanks to bit 3, which the
// alignment leaves free; nobody dereferences it. Values are `Copy`, so that borrowing one and
// taking it back are the same.
unsafe impl ForeignOwnable for Value {
    const FOREIGN_ALIGN: usize = 8;
    type Borrowed<'a> = Self;
    type BorrowedMut<'a> = Self;

    fn into_foreign(self) -> *mut c_void {
        core::ptr::without_provenance_mut((self.0 as usize) << 4 | 8)
    }

    unsafe fn from_foreign(ptr: *mut c_void) -> Self {
        Self::from_ptr(ptr)
    }

    unsafe fn borrow<'a>(ptr: *mut c_void) -> Self::Borrowed<'a> {
        Self::from_ptr(ptr)
    }

    unsafe fn borrow_mut<'a>(ptr: *mut c_void) -> Self::BorrowedMut<'a> {
        Self::from_ptr(ptr)
    }
}
