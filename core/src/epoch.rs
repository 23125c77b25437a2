// SPDX-License-Identifier: GPL-2.0

//! Copy a page when it rests, not when it is dirty.
//!
//! A copy of a page that is written all the time is stale before the epoch is over. So each page
//! has a heat, and only a cool one is copied when it is found dirty; a hot one waits until an epoch
//! finds it clean, and is copied then, at once: its contents are known to hold still.
//!
//! What follows, for any order of events:
//!
//! - A page that was clean for a whole epoch is current. Heat never delays a copy beyond the first
//!   epoch in which the page rests.
//! - A page is copied at most once for each epoch in which it was found dirty, and a page dirty in
//!   every epoch at most [`HOT`] + 1 times in all.
//! - A page that is freed after a moment is not copied at all where epochs are short.
//!
//! A page that never rests is never current for long, however often it is copied; a shorter
//! interval, in which it may rest, is what helps it.

use crate::interval::Interval;

/// From this heat on, a dirty page is not copied. At 2 a page that is written once in a while is
/// copied when it is found dirty, and one found dirty a third time running waits.
pub const HOT: Heat = Heat(2);

/// How often a page was found dirty lately: 0 to 15.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Heat(u8);

impl Heat {
    /// Of a page that was just copied for the first time, or rested for long.
    pub const COLD: Self = Self(0);
    /// It gets no hotter.
    pub const HOTTEST: Self = Self(15);

    /// Heat `heat`, or the greatest there is.
    pub fn new(heat: u8) -> Self {
        Self(heat).min(Self::HOTTEST)
    }

    /// The number.
    pub fn get(self) -> u8 {
        self.0
    }

    fn hotter(self) -> Self {
        Self::new(self.0.saturating_add(1))
    }

    /// Halving forgets fifteen dirty epochs in four that rested.
    fn cooler(self) -> Self {
        Self(self.0 / 2)
    }
}

/// What to do with a page now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Copy it.
    Copy,
    /// Leave it stale until it rests.
    Defer,
    /// Map the huge page by PTEs, and see in the next epoch which of its pages are written.
    Split,
}

/// From this heat on, a huge page that is dirty once more is mapped by PTEs. At 1 a huge page that
/// is being filled when it is first seen stays huge if it rests after that.
pub const HOT_HUGE: Heat = Heat(1);

/// A page without a replica was found dirty (and has been cleaned): most likely it is new.
///
/// Much of what is new is freed soon, with the program that ends, or goes on being filled. Where the
/// next epoch comes soon, it shows: what rests then is copied. A longer one is not worth the wait.
#[must_use]
pub fn on_first_dirty(interval: Interval, forced: bool) -> Decision {
    if !forced && interval <= Interval::SHORT {
        Decision::Defer
    } else {
        Decision::Copy
    }
}

/// A page with a replica was found dirty (and has been cleaned).
///
/// In an epoch that the user asked for (`mirror.sync`) every page is copied. Such an epoch begins
/// at any moment and says nothing about how often the page is written, so the heat stays.
#[must_use]
pub fn on_dirty(heat: Heat, forced: bool) -> (Heat, Decision) {
    if forced {
        (heat, Decision::Copy)
    } else if heat < HOT {
        (heat.hotter(), Decision::Copy)
    } else {
        (heat.hotter(), Decision::Defer)
    }
}

/// The same for the pages behind a huge mapping, which has one dirty bit for all of them; the heat
/// is that of the first, and [`Heat::COLD`] if that has no replica. A new one is copied at once: where
/// there is no replica, nothing could tell that it was found dirty before, and it would wait for ever.
///
/// One store makes all of them stale, so a huge page that goes on being written would never be
/// current. Read through a huge mapping, it stays huge.
#[must_use]
pub fn on_dirty_huge(heat: Heat, forced: bool) -> (Heat, Decision) {
    if !forced && heat >= HOT_HUGE {
        (heat, Decision::Split)
    } else {
        on_dirty(heat, forced)
    }
}

/// A page whose replica is stale was found clean: it was not written for an epoch.
#[must_use]
pub fn on_rest(heat: Heat) -> (Heat, Decision) {
    (heat.cooler(), Decision::Copy)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heat_has_four_bits() {
        assert_eq!(Heat::new(200), Heat::HOTTEST);
        assert_eq!(on_dirty(Heat::HOTTEST, false).0, Heat::HOTTEST);
        assert_eq!(on_rest(Heat::COLD).0, Heat::COLD);
    }

    #[test]
    fn a_new_page_waits_for_an_epoch_that_comes_soon() {
        let on = |ms, forced| on_first_dirty(Interval::from_ms(ms).unwrap(), forced);
        assert_eq!(on(10, false), Decision::Defer);
        assert_eq!(on(250, false), Decision::Defer);
        assert_eq!(on(251, false), Decision::Copy);
        assert_eq!(on(600_000, false), Decision::Copy);
        assert_eq!(on(10, true), Decision::Copy);
    }

    #[test]
    fn the_third_dirty_epoch_running_waits() {
        let mut heat = Heat::COLD;
        let mut decisions = Vec::new();
        for _ in 0..4 {
            let (next, decision) = on_dirty(heat, false);
            heat = next;
            decisions.push(decision);
        }
        use Decision::{Copy, Defer};
        assert_eq!(decisions, [Copy, Copy, Defer, Defer]);
        assert_eq!(heat, Heat(4));
    }

    #[test]
    fn a_huge_page_that_goes_on_being_written_is_mapped_by_ptes() {
        // The first is copied, however soon the next epoch comes.
        let (heat, decision) = on_dirty_huge(Heat::COLD, false);
        assert_eq!(decision, Decision::Copy);
        assert_eq!(on_dirty_huge(heat, false), (heat, Decision::Split));
        assert_eq!(on_dirty_huge(heat, true), (heat, Decision::Copy));
        // One that has rested meanwhile is not.
        let (heat, _) = on_rest(heat);
        assert_eq!(on_dirty_huge(heat, false).1, Decision::Copy);
    }

    #[test]
    fn a_resting_page_is_copied_however_hot_and_cools_by_half() {
        for heat in 0..16 {
            assert_eq!(on_rest(Heat(heat)), (Heat(heat / 2), Decision::Copy));
        }
    }

    #[test]
    fn a_forced_epoch_copies_and_heats_nothing() {
        for heat in 0..16 {
            assert_eq!(on_dirty(Heat(heat), true), (Heat(heat), Decision::Copy));
        }
    }
}
