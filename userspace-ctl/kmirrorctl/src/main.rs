// SPDX-License-Identifier: GPL-2.0

//! kmirrorctl shows and controls kmirror.

#![forbid(unsafe_code)]

fn main() {}
