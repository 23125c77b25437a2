// SPDX-License-Identifier: GPL-2.0

//! What is counted: how many pages would survive, why the others would not, and what it cost.

/// Why a page is not current, or was not restored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Refusal {
    /// Written since it was last copied.
    Stale,
    /// Not mirrored, or something got hold of it that could write past the page tables.
    Unmirrored,
    /// Pinned, or referenced by somebody unaccounted for.
    Pinned,
    /// Lazily freed (`MADV_FREE`): loses its dirty bit silently.
    Lazyfree,
    /// Part of a huge page that cannot be mirrored or taken apart.
    Huge,
    /// Mapped by processes outside the protected cgroups too.
    SharedForeign,
    /// Of a process with a secondary MMU, which writes without the CPU's page tables.
    Notifier,
    /// It has no replica, or none that is published.
    NoReplica,
    /// Its replica's bytes do not have the hash they were published with.
    BadReplica,
    /// Its folio was locked by somebody else.
    Locked,
    /// Shadow stack: its dirty bits mean something else.
    ShadowStack,
    /// Not memory that can be mirrored: that of a file, or freed.
    NotUser,
    /// There was no memory for the index or the fresh page.
    NoMemory,
    /// In some other state of change: isolated, under migration, being written back.
    Busy,
    /// The mirror region is full.
    NoSpace,
    /// The cgroup uses as much of it as `mirror.max` lets it.
    OverLimit,
    /// The host's service, which is to keep the replica, is not there or has failed.
    NoHost,
}

impl Refusal {
    /// How many reasons there are.
    pub const COUNT: usize = Self::ALL.len();

    /// Every reason, in the order in which sysfs lists them.
    pub const ALL: [Self; 17] = [
        Self::Stale,
        Self::Unmirrored,
        Self::Pinned,
        Self::Lazyfree,
        Self::Huge,
        Self::SharedForeign,
        Self::Notifier,
        Self::NoReplica,
        Self::BadReplica,
        Self::Locked,
        Self::ShadowStack,
        Self::NotUser,
        Self::NoMemory,
        Self::Busy,
        Self::NoSpace,
        Self::OverLimit,
        Self::NoHost,
    ];

    /// The reason's name in sysfs and tracepoints. It never changes.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Stale => "stale",
            Self::Unmirrored => "unmirrored",
            Self::Pinned => "pinned",
            Self::Lazyfree => "lazyfree",
            Self::Huge => "huge",
            Self::SharedForeign => "shared_foreign",
            Self::Notifier => "notifier",
            Self::NoReplica => "no_replica",
            Self::BadReplica => "bad_replica",
            Self::Locked => "locked",
            Self::ShadowStack => "shadow_stack",
            Self::NotUser => "not_user",
            Self::NoMemory => "no_memory",
            Self::Busy => "busy",
            Self::NoSpace => "no_space",
            Self::OverLimit => "over_limit",
            Self::NoHost => "no_host",
        }
    }
}

impl From<crate::index::ClaimError> for Refusal {
    fn from(error: crate::index::ClaimError) -> Self {
        use crate::index::ClaimError;
        match error {
            ClaimError::NoSpace => Self::NoSpace,
            ClaimError::OverLimit => Self::OverLimit,
            ClaimError::NoMemory => Self::NoMemory,
            ClaimError::BadFrame => Self::NotUser,
        }
    }
}

/// The pages of a cgroup, each counted once: as current, or under the reason why it is not.
///
/// Counters stop at their greatest value rather than wrap.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Survey {
    current: u64,
    refused: [u64; Refusal::COUNT],
}

impl Survey {
    /// `pages` more would survive.
    pub fn count_current(&mut self, pages: u64) {
        add(&mut self.current, pages);
    }

    /// `pages` more would not, and why.
    pub fn count_refused(&mut self, reason: Refusal, pages: u64) {
        add(&mut self.refused[reason as usize], pages);
    }

    /// Adds what was counted elsewhere.
    pub fn add(&mut self, other: &Self) {
        add(&mut self.current, other.current);
        for (sum, more) in self.refused.iter_mut().zip(other.refused) {
            add(sum, more);
        }
    }

    /// Pages that would survive.
    pub fn current(&self) -> u64 {
        self.current
    }

    /// Pages that would not, for this reason.
    pub fn refused(&self, reason: Refusal) -> u64 {
        self.refused[reason as usize]
    }

    /// All pages counted.
    pub fn protected(&self) -> u64 {
        self.refused
            .iter()
            .fold(self.current, |sum, &pages| sum.saturating_add(pages))
    }

    /// See [`coverage_ppm`].
    pub fn coverage_ppm(&self) -> u32 {
        coverage_ppm(self.current, self.protected())
    }

    /// Names and values for `mirror.stat`, in order.
    pub fn entries(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        let sums = [("protected", self.protected()), ("current", self.current)];
        let reasons = Refusal::ALL.map(|reason| (reason.as_str(), self.refused(reason)));
        sums.into_iter().chain(reasons)
    }
}

/// What one epoch did, or many together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Work {
    /// Epochs run to their end.
    pub epochs: u64,
    /// Epochs that should have begun but did not, because one before took too long.
    pub late: u64,
    /// Page-table entries looked at.
    pub scanned: u64,
    /// Pages copied.
    pub copied: u64,
    /// Pages left stale until they rest.
    pub deferred: u64,
    /// Time taken by walking page tables, in ns.
    pub scan_ns: u64,
    /// Time taken by copying, in ns.
    pub copy_ns: u64,
}

impl Work {
    /// Adds what was done elsewhere.
    pub fn add(&mut self, other: &Self) {
        add(&mut self.epochs, other.epochs);
        add(&mut self.late, other.late);
        add(&mut self.scanned, other.scanned);
        add(&mut self.copied, other.copied);
        add(&mut self.deferred, other.deferred);
        add(&mut self.scan_ns, other.scan_ns);
        add(&mut self.copy_ns, other.copy_ns);
    }

    /// Names and values for `mirror.stat`, in order.
    pub fn entries(&self) -> impl Iterator<Item = (&'static str, u64)> {
        [
            ("epochs", self.epochs),
            ("late", self.late),
            ("scanned", self.scanned),
            ("copied", self.copied),
            ("deferred", self.deferred),
            ("scan_ns", self.scan_ns),
            ("copy_ns", self.copy_ns),
        ]
        .into_iter()
    }
}

/// Share of `protected` pages that are `current`, in parts per million, rounded down: 1,000,000
/// means that no protected page would be lost. So it is for a cgroup without any.
///
/// More current pages than protected ones (counted at different moments) are all of them.
#[must_use]
pub const fn coverage_ppm(current: u64, protected: u64) -> u32 {
    const ALL: u64 = 1_000_000;
    if current >= protected {
        return ALL as u32;
    }
    // `protected` is not 0 here. Numbers that the product cannot hold lose 20 bits, and there are
    // at least 24 left of the greater one.
    let shift = if current > u64::MAX / ALL { 20 } else { 0 };
    match ((current >> shift) * ALL).checked_div(protected >> shift) {
        Some(ppm) if ppm < ALL => ppm as u32,
        // Rounding both may bring them together, but one page lost is not none.
        _ => ALL as u32 - 1,
    }
}

fn add(sum: &mut u64, more: u64) {
    *sum = sum.saturating_add(more);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    #[test]
    fn reasons_are_listed_at_their_own_place_under_their_own_name() {
        for (place, reason) in Refusal::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, place);
        }
        let (survey, work) = (Survey::default(), Work::default());
        let names: Vec<_> = survey.entries().chain(work.entries()).collect();
        let distinct: BTreeSet<_> = names.iter().map(|entry| entry.0).collect();
        assert_eq!(distinct.len(), names.len());
        assert!(distinct
            .iter()
            .all(|name| name.bytes().all(|c| c.is_ascii_lowercase() || c == b'_')));
    }

    #[test]
    fn every_page_is_counted_once() {
        let mut survey = Survey::default();
        survey.count_current(6);
        survey.count_refused(Refusal::Stale, 3);
        survey.count_refused(Refusal::OverLimit, 1);
        let mut sum = survey;
        sum.add(&survey);
        assert_eq!((sum.current(), sum.protected()), (12, 20));
        assert_eq!(sum.refused(Refusal::Stale), 6);
        assert_eq!(sum.coverage_ppm(), 600_000);
        let entries: Vec<_> = sum.entries().filter(|entry| entry.1 != 0).collect();
        let want = [
            ("protected", 20),
            ("current", 12),
            ("stale", 6),
            ("over_limit", 2),
        ];
        assert_eq!(entries, want);
    }

    #[test]
    fn counters_stop_at_the_top() {
        let mut survey = Survey::default();
        survey.count_current(u64::MAX);
        survey.count_refused(Refusal::Busy, u64::MAX);
        let copy = survey;
        survey.add(&copy);
        assert_eq!(survey.protected(), u64::MAX);
    }

    #[test]
    fn work_is_summed_field_by_field() {
        let one = Work {
            epochs: 1,
            late: 2,
            scanned: 3,
            copied: 4,
            deferred: 5,
            scan_ns: 6,
            copy_ns: 7,
        };
        let mut sum = one;
        sum.add(&one);
        assert!(sum.entries().map(|entry| entry.1).eq((1..8).map(|n| 2 * n)));
    }

    #[test]
    fn coverage_at_the_edges() {
        for (current, protected, want) in [
            (0, 0, 1_000_000),
            (5, 0, 1_000_000),
            (0, 1, 0),
            (1, 3, 333_333),
            (9_999_999, 10_000_000, 999_999),
            (8, 7, 1_000_000),
            (u64::MAX, u64::MAX, 1_000_000),
            (u64::MAX - 1, u64::MAX, 999_999),
            (u64::MAX / 2, u64::MAX, 499_999),
            (0, u64::MAX, 0),
        ] {
            assert_eq!(
                coverage_ppm(current, protected),
                want,
                "{current}/{protected}"
            );
        }
    }

    proptest! {
        #[test]
        fn coverage_is_the_exact_share(protected in 1u64.., current: u64) {
            let current = current % protected;
            let exact = (u128::from(current) * 1_000_000 / u128::from(protected)) as u32;
            let got = coverage_ppm(current, protected);
            prop_assert!(got < 1_000_000);
            prop_assert!(got.abs_diff(exact) <= 1);
            if current <= u64::MAX / 1_000_000 {
                prop_assert_eq!(got, exact);
            }
        }
    }
}
