// SPDX-License-Identifier: GPL-2.0

//! The epoch policy against the promises in its documentation, over any history of a page.

use kmirror_core::*;
use proptest::prelude::*;

/// What an epoch finds.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Found {
    Dirty,
    DirtyInSync,
    Clean,
}

/// A page and its replica as the worker handles them.
#[derive(Default)]
struct Page {
    heat: Heat,
    current: bool,
    copies: u32,
}

impl Page {
    /// One epoch. The worker asks nothing about a clean page whose replica is current.
    fn epoch(&mut self, found: Found) {
        let (heat, decision) = match found {
            Found::Dirty => on_dirty(self.heat, false),
            Found::DirtyInSync => on_dirty(self.heat, true),
            Found::Clean if self.current => return,
            Found::Clean => on_rest(self.heat),
        };
        self.heat = heat;
        self.current = decision == Decision::Copy;
        self.copies += u32::from(self.current);
    }
}

fn found() -> impl Strategy<Value = Found> {
    prop_oneof![
        6 => Just(Found::Dirty),
        4 => Just(Found::Clean),
        1 => Just(Found::DirtyInSync),
    ]
}

/// Long runs, so that pages get hot and cold.
fn history() -> impl Strategy<Value = Vec<Found>> {
    proptest::collection::vec((found(), 1usize..25), 1..20)
        .prop_map(|runs| runs.into_iter().flat_map(|(f, n)| vec![f; n]).collect())
}

proptest! {
    #[test]
    fn a_page_that_rested_is_current_and_a_synced_one_too(history in history()) {
        let mut page = Page::default();
        for found in history {
            page.epoch(found);
            prop_assert!(page.current || found == Found::Dirty);
        }
    }

    #[test]
    fn no_more_copies_than_epochs_that_found_it_dirty(history in history()) {
        let mut page = Page::default();
        let mut dirty = 0;
        for found in history {
            // A page not yet seen is no replica out of date; it is found dirty first.
            if dirty == 0 && found == Found::Clean {
                continue;
            }
            dirty += u32::from(found != Found::Clean);
            page.epoch(found);
            prop_assert!(page.copies <= dirty);
        }
    }

    #[test]
    fn a_run_of_dirty_epochs_costs_two_copies_at_most(history in history(), run in 1usize..100) {
        let mut page = Page::default();
        history.into_iter().for_each(|found| page.epoch(found));
        let before = page.copies;
        (0..run).for_each(|_| page.epoch(Found::Dirty));
        prop_assert!(page.copies - before <= 2);
        prop_assert!(page.heat.get() <= 15);
    }

    #[test]
    fn heat_is_forgotten_in_four_rests(heat in 0u8..16) {
        let heat = (0..4).fold(Heat::new(heat), |heat, _| on_rest(heat).0);
        prop_assert_eq!(heat, Heat::COLD);
    }
}

#[test]
fn a_page_written_in_each_other_epoch_is_copied_once_for_each_write() {
    let mut page = Page::default();
    for n in 1..=50 {
        page.epoch(Found::Dirty);
        page.epoch(Found::Clean);
        assert!(page.current);
        assert_eq!(page.copies, n);
    }
}
