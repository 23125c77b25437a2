// SPDX-License-Identifier: GPL-2.0

//! Directories and files in sysfs.
//!
//! C headers: [`include/linux/kobject.h`](srctree/include/linux/kobject.h),
//! [`include/linux/sysfs.h`](srctree/include/linux/sysfs.h)

use crate::helpers;
use core::ptr::NonNull;
use kernel::{
    alloc::Flags,
    bindings,
    error::{from_result, to_result},
    ffi::c_char,
    fmt,
    page::PAGE_SIZE,
    prelude::*,
    str::CStr,
    types::Opaque, //
};

/// A file of a directory.
pub struct File<T> {
    /// Its name.
    pub name: &'static CStr,
    /// Writes the contents.
    pub show: Option<fn(&T, &mut Page<'_>) -> Result>,
    /// Takes what is written, which is up to a page, and all or nothing.
    pub store: Option<fn(&T, &[u8]) -> Result>,
}

/// What a directory in sysfs shows.
pub trait Attributes: Send + Sync + Sized + 'static {
    /// The files in it, all root's: 0644, 0444 or 0200 by what they can do.
    const FILES: &'static [File<Self>];
}

/// The page that a file's contents are written to. What does not fit is cut off.
pub struct Page<'a> {
    buf: &'a mut [u8],
    used: usize,
}

impl fmt::Write for Page<'_> {
    fn write_str(&mut self, s: &str) -> fmt::Result {
        let room = &mut self.buf[self.used..];
        let n = s.len().min(room.len());
        room[..n].copy_from_slice(&s.as_bytes()[..n]);
        self.used += n;
        Ok(())
    }
}

/// The memory behind a directory, freed when its last reference goes.
#[repr(C)]
struct Inner<T> {
    kobj: Opaque<bindings::kobject>,
    attrs: KVec<bindings::attribute>,
    data: T,
}

/// A directory in sysfs, which is removed when this is dropped.
///
/// # Invariants
///
/// `inner` is a kobject initialized with [`Self::KTYPE`], embedded in an [`Inner<T>`] in a
/// [`KBox`], which the kobject's release function takes back. We hold a reference to it.
pub struct Dir<T: Attributes> {
    inner: NonNull<Inner<T>>,
}

// SAFETY: The data may be sent and shared by the bounds of `Attributes`, and the kobject has locks
// of its own.
unsafe impl<T: Attributes> Send for Dir<T> {}
// SAFETY: As above.
unsafe impl<T: Attributes> Sync for Dir<T> {}

/// Where a directory is made. It keeps the memory behind its own, but not the directory.
///
/// # Invariants
///
/// A valid kobject, to which we hold a reference.
pub struct Parent(NonNull<bindings::kobject>);

// SAFETY: References to kobjects may be taken and dropped by any thread.
unsafe impl Send for Parent {}
// SAFETY: As above.
unsafe impl Sync for Parent {}

impl Parent {
    /// `/sys/kernel`.
    pub fn kernel() -> Option<Self> {
        // SAFETY: Made at boot, and never changed.
        unsafe { Self::from_raw(bindings::kernel_kobj) }
    }

    /// # Safety
    ///
    /// `kobj` is null, or valid with references that last during the call.
    unsafe fn from_raw(kobj: *mut bindings::kobject) -> Option<Self> {
        // INVARIANT: The reference is taken here.
        // SAFETY: By the requirement above; null is passed through.
        NonNull::new(unsafe { bindings::kobject_get(kobj) }).map(Self)
    }
}

impl Drop for Parent {
    fn drop(&mut self) {
        // SAFETY: We hold the reference by the type invariant.
        unsafe { bindings::kobject_put(self.0.as_ptr()) }
    }
}

impl<T: Attributes> Dir<T> {
    const OPS: &'static bindings::sysfs_ops = &bindings::sysfs_ops {
        show: Some(Self::show),
        store: Some(Self::store),
    };

    const KTYPE: &'static bindings::kobj_type = &bindings::kobj_type {
        release: Some(Self::release),
        sysfs_ops: Self::OPS,
        default_groups: core::ptr::null_mut(),
        child_ns_type: None,
        namespace: None,
        get_ownership: None,
    };

    /// Makes the directory with all its files.
    ///
    /// # Errors
    ///
    /// [`EEXIST`] if the name is taken, [`ENOMEM`].
    ///
    /// Context: may sleep.
    pub fn new(name: &CStr, parent: &Parent, data: T, flags: Flags) -> Result<Self> {
        let mut attrs = KVec::with_capacity(T::FILES.len(), flags)?;
        for file in T::FILES {
            let mode = match (file.show.is_some(), file.store.is_some()) {
                (true, true) => 0o644,
                (true, false) => 0o444,
                _ => 0o200,
            };
            // With lockdep there are more fields.
            #[allow(clippy::needless_update)]
            attrs.push(
                bindings::attribute {
                    name: file.name.as_char_ptr(),
                    mode,
                    ..Default::default()
                },
                flags,
            )?;
        }
        for attr in attrs.iter_mut() {
            // SAFETY: The attribute is valid for writes.
            unsafe { helpers::kmirror_sysfs_attr_init(attr) };
        }
        let inner = KBox::new(
            Inner {
                // SAFETY: All zeroes are what kobject_init() wants.
                kobj: Opaque::new(unsafe { core::mem::zeroed() }),
                attrs,
                data,
            },
            flags,
        )?;
        let inner = NonNull::from(KBox::leak(inner));
        // INVARIANT: kobject_init_and_add() initializes the kobject and its one reference, also
        // when it fails. From here on, dropping `this` frees everything.
        // SAFETY: The memory is zeroed and pinned; the names are C strings; the parent is valid by
        // its type invariant.
        let ret = unsafe {
            bindings::kobject_init_and_add(
                (*inner.as_ptr()).kobj.get(),
                Self::KTYPE,
                parent.0.as_ptr(),
                c"%s".as_char_ptr(),
                name.as_char_ptr(),
            )
        };
        let this = Self { inner };
        to_result(ret)?;
        for attr in this.inner().attrs.iter() {
            // SAFETY: The kobject is added, and the attributes live as long as it.
            to_result(unsafe {
                bindings::sysfs_create_file_ns(this.kobj(), attr, core::ptr::null())
            })?;
        }
        Ok(this)
    }

    fn inner(&self) -> &Inner<T> {
        // SAFETY: Valid by the type invariant.
        unsafe { self.inner.as_ref() }
    }

    fn kobj(&self) -> *mut bindings::kobject {
        self.inner().kobj.get()
    }

    /// To make directories in this one.
    pub fn as_parent(&self) -> Result<Parent> {
        // SAFETY: The kobject is valid, and we hold a reference.
        unsafe { Parent::from_raw(self.kobj()) }.ok_or(ENODEV)
    }

    /// What the directory shows.
    pub fn data(&self) -> &T {
        &self.inner().data
    }

    /// Wakes those who poll the file of this name.
    ///
    /// Context: may sleep.
    pub fn notify(&self, file: &CStr) {
        // SAFETY: The kobject is valid, and the name is a C string during the call.
        unsafe { bindings::sysfs_notify(self.kobj(), core::ptr::null(), file.as_char_ptr()) }
    }

    /// # Safety
    ///
    /// `kobj` is that of a [`Dir<T>`], which lives during `'a`, and `attr` one of its attributes.
    unsafe fn file<'a>(
        kobj: *mut bindings::kobject,
        attr: *mut bindings::attribute,
    ) -> Result<(&'a T, &'static File<T>)> {
        // SAFETY: The kobject is the first field of its `Inner`.
        let inner = unsafe { &*kobj.cast::<Inner<T>>() };
        let index = (attr.addr() - inner.attrs.as_ptr().addr())
            / core::mem::size_of::<bindings::attribute>();
        Ok((&inner.data, T::FILES.get(index).ok_or(EIO)?))
    }

    /// # Safety
    ///
    /// Only to be called by sysfs, with what was added to it.
    unsafe extern "C" fn show(
        kobj: *mut bindings::kobject,
        attr: *mut bindings::attribute,
        buf: *mut c_char,
    ) -> isize {
        from_result(|| {
            // SAFETY: sysfs calls with what was added, and keeps it during the call.
            let (data, file) = unsafe { Self::file(kobj, attr) }?;
            let mut page = Page {
                // SAFETY: sysfs gives a page to write to.
                buf: unsafe { core::slice::from_raw_parts_mut(buf.cast(), PAGE_SIZE) },
                used: 0,
            };
            file.show.ok_or(EIO)?(data, &mut page)?;
            Ok(page.used as isize)
        })
    }

    /// # Safety
    ///
    /// Only to be called by sysfs, with what was added to it.
    unsafe extern "C" fn store(
        kobj: *mut bindings::kobject,
        attr: *mut bindings::attribute,
        buf: *const c_char,
        len: usize,
    ) -> isize {
        from_result(|| {
            // SAFETY: As in `show()`.
            let (data, file) = unsafe { Self::file(kobj, attr) }?;
            // SAFETY: sysfs gives what was written.
            let text = unsafe { core::slice::from_raw_parts(buf.cast(), len) };
            file.store.ok_or(EIO)?(data, text)?;
            Ok(len as isize)
        })
    }

    /// # Safety
    ///
    /// Only to be called by sysfs, with what was added to it.
    unsafe extern "C" fn release(kobj: *mut bindings::kobject) {
        // SAFETY: The last reference is gone, so nobody uses the box of which the kobject is the
        // first field, by the type invariant.
        drop(unsafe { KBox::from_raw(kobj.cast::<Inner<T>>()) });
    }
}

impl<T: Attributes> Drop for Dir<T> {
    fn drop(&mut self) {
        // SAFETY: We hold a reference, and give it up. kobject_del() waits for those who are
        // reading and writing, and does nothing to a kobject that was never added.
        unsafe {
            bindings::kobject_del(self.kobj());
            bindings::kobject_put(self.kobj());
        }
    }
}
