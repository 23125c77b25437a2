// SPDX-License-Identifier: GPL-2.0

//! `kmirrorctl status`.

use super::Context;
use crate::cli::StatusArgs;
use crate::error::Result;
use crate::snapshot::{Scope, Snapshot};
use crate::table;

pub(super) fn run(cx: &Context, args: &StatusArgs) -> Result<()> {
    let path = cx.resolve(args.path.as_deref())?;
    if args.path.is_some() && !args.all {
        return cx.print_group(&path);
    }
    let scope = if args.all { Scope::All } else { Scope::Set };
    let mut snapshot = Snapshot::take(&cx.system, &path, scope)?;
    if scope == Scope::Set && snapshot.groups.len() > 1 {
        // Left alone as it is, the root says nothing.
        snapshot
            .groups
            .retain(|group| group.path != "/" || group.is_protected());
    }
    cx.print(&snapshot, |paint| table::status(&snapshot, paint))
}
