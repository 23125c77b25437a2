// SPDX-License-Identifier: GPL-2.0

//! How long an epoch is, and when the next one begins.

use crate::text::{self, ParseError};

/// Length of an epoch: 10 to 600,000 ms.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Interval(u32);

impl Interval {
    /// The shortest, 10 ms.
    pub const MIN: Self = Self(10);
    /// The longest, ten minutes.
    pub const MAX: Self = Self(600_000);
    /// Up to here one epoch more costs a page hardly any coverage: 250 ms.
    pub const SHORT: Self = Self(250);
    /// One second.
    pub const DEFAULT: Self = Self(1000);

    /// Reads what is written to `mirror.interval_ms`: milliseconds in decimal, or `inherit`, which
    /// is `None`.
    ///
    /// # Errors
    ///
    /// [`ParseError::Range`] for a number outside [`MIN`](Self::MIN) to [`MAX`](Self::MAX),
    /// [`ParseError::Invalid`] for what is no number.
    pub fn parse(text: &[u8]) -> Result<Option<Self>, ParseError> {
        match text::trim(text) {
            b"inherit" => Ok(None),
            number => Self::from_ms(text::decimal(number)?).map(Some),
        }
    }

    /// An interval of `ms` milliseconds.
    ///
    /// # Errors
    ///
    /// [`ParseError::Range`] outside [`MIN`](Self::MIN) to [`MAX`](Self::MAX).
    pub fn from_ms(ms: u64) -> Result<Self, ParseError> {
        match u32::try_from(ms).map(Self) {
            Ok(interval) if (Self::MIN..=Self::MAX).contains(&interval) => Ok(interval),
            _ => Err(ParseError::Range),
        }
    }

    /// In milliseconds.
    pub fn as_ms(self) -> u32 {
        self.0
    }

    /// In nanoseconds.
    pub fn as_ns(self) -> u64 {
        // At most 6 * 10^11.
        u64::from(self.0) * 1_000_000
    }
}

impl Default for Interval {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// When the next epoch begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deadline {
    /// On the clock that `last_start` was read from, in ns.
    pub at: u64,
    /// How many epochs should have begun before then and will not.
    pub late: u64,
}

/// When the next epoch begins, after one that began at `last_start` and took `last_duration` (both
/// in ns).
///
/// That is one interval after the last one began. A worker that cannot keep to this rests for a
/// quarter of the time it worked, so that it never takes more than four fifths of a CPU however
/// short the interval is; what it missed is not made up for, since the next epoch finds the same
/// dirty pages.
#[must_use]
pub fn next_deadline(last_start: u64, last_duration: u64, interval: Interval) -> Deadline {
    let rested = last_duration.saturating_add(last_duration / 4);
    let wait = rested.max(interval.as_ns());
    Deadline {
        at: last_start.saturating_add(wait),
        // The epochs due at 1, 2, .. intervals: the first is this one, unless it is late itself.
        // An interval is never 0, so neither does `wait - 1` wrap nor does the division fail; but
        // objtool wants to see no panic.
        late: (wait - 1).checked_div(interval.as_ns()).unwrap_or(0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn range_is_not_nonsense() {
        assert_eq!(Interval::parse(b"1000\n"), Ok(Some(Interval::DEFAULT)));
        assert_eq!(Interval::parse(b"10"), Ok(Some(Interval::MIN)));
        assert_eq!(Interval::parse(b" 600000 "), Ok(Some(Interval::MAX)));
        assert_eq!(Interval::parse(b"inherit\n"), Ok(None));
        for text in [
            &b"0"[..],
            b"9",
            b"600001",
            b"4294967306",
            b"99999999999999999999",
        ] {
            assert_eq!(Interval::parse(text), Err(ParseError::Range), "{text:?}");
        }
        for text in [
            &b""[..],
            b"\n",
            b"-10",
            b"1s",
            b"1000ms",
            b"0x100",
            b"1 0",
            b"Inherit",
            b"1000\n\n",
        ] {
            assert_eq!(Interval::parse(text), Err(ParseError::Invalid), "{text:?}");
        }
    }

    #[test]
    fn a_worker_in_time_keeps_the_interval() {
        let at = |start, duration| next_deadline(start, duration, Interval::DEFAULT);
        let ms = 1_000_000;
        assert_eq!(
            at(5, 0),
            Deadline {
                at: 5 + 1000 * ms,
                late: 0
            }
        );
        assert_eq!(
            at(5, 800 * ms),
            Deadline {
                at: 5 + 1000 * ms,
                late: 0
            }
        );
        assert_eq!(
            at(0, 1000 * ms),
            Deadline {
                at: 1250 * ms,
                late: 1
            }
        );
        assert_eq!(
            at(0, 3200 * ms),
            Deadline {
                at: 4000 * ms,
                late: 3
            }
        );
        assert_eq!(
            at(0, 3204 * ms),
            Deadline {
                at: 4005 * ms,
                late: 4
            }
        );
    }

    proptest! {
        #[test]
        fn a_worker_that_is_late_never_spins(
            start in 0u64..1 << 62,
            duration in 0u64..1 << 60,
            ms in 10u64..=600_000,
        ) {
            let interval = Interval::from_ms(ms).unwrap();
            let Deadline { at, late } = next_deadline(start, duration, interval);
            let idle = at.checked_sub(start + duration);
            prop_assert!(idle.is_some_and(|idle| idle >= duration / 4));
            prop_assert!(at >= start + interval.as_ns());
            // It rests no longer than it must.
            prop_assert!(at == start + interval.as_ns() || idle == Some(duration / 4));
            // By counting on fingers, where that is possible.
            if (at - start) / interval.as_ns() < 1000 {
                let due = (1..).map(|n| start + n * interval.as_ns());
                prop_assert_eq!(late, due.take_while(|&due| due < at).count() as u64);
            }
        }

        #[test]
        fn no_clock_makes_it_panic(start: u64, duration: u64, ms in 10u64..=600_000) {
            let next = next_deadline(start, duration, Interval::from_ms(ms).unwrap());
            prop_assert!(next.at >= start);
        }

        #[test]
        fn what_is_printed_is_read_back(ms in 10u64..=600_000) {
            let read = Interval::parse(format!("{ms}\n").as_bytes());
            prop_assert_eq!(read.map(|i| i.map(Interval::as_ms)), Ok(Some(ms as u32)));
        }
    }
}
