// SPDX-License-Identifier: GPL-2.0

//! Flat-keyed files: lines of "key number", as `mirror.stat` and `memory.stat` have them.

use crate::error::Result;
use crate::system;
use serde::{Serialize, Serializer};
use std::path::Path;

/// Numbers by key, in the file's order. Keys that are not known here are kept and shown.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Keyed(Vec<(String, u64)>);

impl Keyed {
    /// Reads the text of such a file; `None` if any line is not a key, one blank and a number.
    pub fn parse(text: &str) -> Option<Self> {
        text.lines()
            .map(|line| {
                let (key, number) = line.split_once(' ')?;
                let digits = number.bytes().all(|byte| byte.is_ascii_digit());
                if key.is_empty() || !digits {
                    return None;
                }
                Some((key.to_owned(), number.parse().ok()?))
            })
            .collect::<Option<_>>()
            .map(Self)
    }

    /// Reads such a file.
    pub fn read(path: &Path) -> Result<Self> {
        let text = system::read(path)?;
        Self::parse(&text).ok_or_else(|| system::strange(path, &text, "lines of \"key number\""))
    }

    /// The number of a key; 0 if the kernel does not count that.
    pub fn get(&self, key: &str) -> u64 {
        let found = self.0.iter().find(|(name, _)| name == key);
        found.map_or(0, |&(_, number)| number)
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = (&str, u64)> {
        self.0.iter().map(|(key, number)| (key.as_str(), *number))
    }
}

impl<'a> FromIterator<(&'a str, u64)> for Keyed {
    fn from_iter<I: IntoIterator<Item = (&'a str, u64)>>(pairs: I) -> Self {
        let pairs = pairs.into_iter();
        Self(pairs.map(|(key, n)| (key.to_owned(), n)).collect())
    }
}

impl Serialize for Keyed {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.collect_map(self.iter())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn keeps_order_and_what_it_does_not_know() {
        let keyed = Keyed::parse("current 5\nbrand_new 7\n").unwrap();
        let all: Vec<_> = keyed.iter().collect();
        assert_eq!(all, [("current", 5), ("brand_new", 7)]);
        assert_eq!(keyed.get("brand_new"), 7);
        assert_eq!(keyed.get("not_there"), 0);
    }

    #[test]
    fn refuses_what_is_no_such_file() {
        for text in [
            "current",
            "current ",
            "current x",
            "current -1",
            "current +1",
            "current 1 2",
            "current  1",
            " 1",
            "\n",
            "current 18446744073709551616",
        ] {
            assert_eq!(Keyed::parse(text), None, "{text:?}");
        }
        assert_eq!(Keyed::parse(""), Some(Keyed::default()));
    }

    proptest! {
        #[test]
        fn what_is_printed_is_read(pairs in proptest::collection::vec(("[a-z_]{1,12}", any::<u64>()), 0..20)) {
            let lines: Vec<String> = pairs.iter().map(|(key, n)| format!("{key} {n}")).collect();
            let text = lines.join("\n");
            let keyed = Keyed::parse(&text).unwrap();
            let want: Vec<_> = pairs.iter().map(|(key, n)| (key.as_str(), *n)).collect();
            prop_assert_eq!(keyed.iter().collect::<Vec<_>>(), want);
        }

        #[test]
        fn nothing_makes_it_panic(text: String) {
            let _ = Keyed::parse(&text);
        }
    }
}
