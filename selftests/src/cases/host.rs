// SPDX-License-Identifier: GPL-2.0

//! A guest without the host's service. What is done with one, test-nested tells.

use crate::case::{Case, Context};
use crate::inject::Door;
use crate::mirror::{self, Mirror};
use crate::rig::Rig;
use crate::{cgroup::Cgroup, file};
use anyhow::{ensure, Result};
use nix::errno::Errno;
use std::path::Path;

pub(super) const CASES: &[Case] = &[
    Case::new(
        "host_absent",
        "set_place() looks for a session and a pool before it changes anything",
        absent,
    ),
    Case::new(
        "store_set_again",
        "set_place() drops replicas only where the place changes",
        set_again,
    ),
];

fn absent(cx: &Context) -> Result<()> {
    let mut rig = Rig::synced(cx, 8)?;
    let stat = Path::new(mirror::ROOT).join("stat");
    for key in ["host_connected", "host_slots", "host_used", "host_requests"] {
        ensure!(file::keyed(&stat, key)? == 0, "{key}");
    }
    ensure!(file::keyed(mirror::region_file("placement"), "pages")? == 0);

    for mirror in [&rig.mirror, &Mirror::of(&Cgroup::at(""))] {
        for place in ["host", "guest+host"] {
            let error = mirror.try_set("store", place).err();
            let errno = error.and_then(|error| error.raw_os_error());
            ensure!(errno == Some(Errno::ENODEV as i32), "{place}: {errno:?}");
            ensure!(mirror.get("store")? == "guest", "{place}");
        }
    }
    ensure!(rig.mirror.stat("no_host")? == 0);
    for page in 0..8 {
        rig.must_be_mirrored(page)?;
    }
    rig.must_restore(Door::Fail, 3, 1)?;
    Ok(())
}

fn set_again(cx: &Context) -> Result<()> {
    let mut rig = Rig::synced(cx, 8)?;
    let copied = rig.mirror.stat("copied")?;
    for place in ["guest", "inherit", "guest"] {
        rig.mirror.set("store", place)?;
    }
    rig.sync()?;
    ensure!(
        rig.mirror.stat("copied")? == copied,
        "what stays where it is was copied again"
    );
    rig.must_restore(Door::Mce, 5, 1)?;
    Ok(())
}
