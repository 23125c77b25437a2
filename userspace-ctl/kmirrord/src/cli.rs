// SPDX-License-Identifier: GPL-2.0

//! The command line, and the manual that is made from it.

use std::io;
use std::path::PathBuf;

use clap::{CommandFactory, Parser};

use crate::config::Settings;

/// The host's service for kmirror, one process for one virtual machine
///
/// Serves a vhost-user device to QEMU. For the guest's kmirror.ko it holds replicas, keeps the
/// mirror region on another NUMA node, and gives broken frames fresh memory.
#[derive(Debug, Parser)]
#[command(name = "kmirrord", version, after_help = AFTER)]
pub struct Cli {
    /// Read settings from this file; flags stand over it
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// Print the manual page, as roff, and end
    #[arg(long)]
    pub manual: bool,

    /// Read everything, check it, and end
    #[arg(long)]
    pub check: bool,

    #[allow(missing_docs, reason = "would replace the text above in the help")]
    #[command(flatten)]
    pub settings: Settings,
}

const AFTER: &str = "\
The file has the flags' names as keys, in TOML:
  socket = \"/run/kmirrord/web.sock\"
  pool = \"4G\"
  pool-node = 1

QEMU needs its memory shared, and the device:
  -object memory-backend-memfd,id=ram,size=8G,share=on -machine memory-backend=ram
  -chardev socket,id=kmirror,path=/run/kmirrord/web.sock
  -device vhost-user-test-device-pci,chardev=kmirror,virtio-id=38,num_vqs=1,config_size=16";

/// Writes the manual page.
///
/// # Errors
///
/// When it cannot be written.
pub fn manual(out: &mut dyn io::Write) -> io::Result<()> {
    clap_mangen::Man::new(Cli::command())
        .section("8")
        .render(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
        let mut page = Vec::new();
        manual(&mut page).unwrap();
        let page = String::from_utf8(page).unwrap();
        for flag in [
            "pool\\-node",
            "place\\-max",
            "metrics",
            "vhost\\-user\\-test\\-device\\-pci",
        ] {
            assert!(page.contains(flag), "{flag}");
        }
    }
}
