// SPDX-License-Identifier: GPL-2.0

//! Loading and unloading kernel modules.

use anyhow::{bail, Context, Result};
use nix::errno::Errno;
use nix::kmod::{delete_module, finit_module, DeleteModuleFlags, ModuleInitFlags};
use std::ffi::CString;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The region that the tests work with unless they ask for another: 64 MiB.
pub const REGION: u64 = 64 << 20;

/// Whether a module is loaded, or built in with something to show in sysfs.
pub fn is_loaded(name: &str) -> bool {
    Path::new("/sys/module").join(name).exists()
}

/// The file of a module of the project: beside the program, in the folders above, or here.
pub fn find(name: &str) -> Result<PathBuf> {
    let program = std::env::current_exe()?;
    let mut folders: Vec<&Path> = program.ancestors().skip(1).take(4).collect();
    folders.push(Path::new("."));
    folders
        .into_iter()
        .map(|folder| folder.join(name))
        .find(|path| path.is_file())
        .with_context(|| format!("{name} is not there"))
}

/// Loads a module from a file, with the kernel's own error.
pub fn load(path: &Path, params: &str) -> Result<Result<(), Errno>> {
    let file = File::open(path)?;
    let params = CString::new(params)?;
    Ok(finit_module(&file, &params, ModuleInitFlags::empty()))
}

/// Unloads a module that is not in use, with the kernel's own error.
pub fn unload(name: &str) -> Result<(), Errno> {
    let name = CString::new(name).map_err(|_| Errno::EINVAL)?;
    delete_module(&name, DeleteModuleFlags::O_NONBLOCK)
}

/// Loads kmirror.ko with these parameters; it must work.
pub fn load_kmirror(params: &str) -> Result<()> {
    match load(&find("kmirror.ko")?, params)? {
        Ok(()) => Ok(()),
        Err(errno) => bail!("kmirror.ko {params}: {errno}"),
    }
}

/// Makes sure that kmirror is loaded with a region of [`REGION`], and the injector.
pub fn provide() -> Result<()> {
    if !is_loaded("kmirror") {
        load_kmirror(&format!("region={REGION}"))?;
    } else if crate::mirror::region("total")? != REGION {
        crate::mirror::resize(REGION).context("resizing the region")?;
    }
    if !is_loaded("kmirror_inject") {
        if let Err(errno) = load(&find("kmirror_inject.ko")?, "")? {
            bail!("kmirror_inject.ko: {errno}");
        }
    }
    Ok(())
}

/// Loads a module of the kernel, with those that it needs. Whether it is there now.
pub fn probe(name: &str) -> bool {
    let run = Command::new("modprobe").args(["-q", name]).status();
    run.is_ok_and(|status| status.success())
}
