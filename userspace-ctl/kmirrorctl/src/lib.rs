// SPDX-License-Identifier: GPL-2.0

//! What kmirrorctl knows: how to read `/sys/kernel/kmirror`, and how to show it.

#![forbid(unsafe_code)]
