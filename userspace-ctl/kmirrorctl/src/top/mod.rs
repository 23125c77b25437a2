// SPDX-License-Identifier: GPL-2.0

//! `kmirrorctl top`: [`model`] is what is shown, [`view`] how.

pub mod model;
pub mod view;
