// SPDX-License-Identifier: GPL-2.0

//! Makes a list that fails shorter, by leaving out ever smaller parts of it.

/// Leaves out of `list` what it can, as long as what is left fails. `fails` is asked as long as
/// `may_ask` allows it.
pub(super) fn shorten<T: Copy>(
    mut list: Vec<T>,
    mut may_ask: impl FnMut() -> bool,
    mut fails: impl FnMut(&[T]) -> bool,
) -> Vec<T> {
    let mut part = list.len().div_ceil(2);
    while part > 0 {
        let mut shorter = false;
        // From the end: what comes first is what the rest is built upon.
        let mut end = list.len();
        while end > 0 {
            if !may_ask() {
                return list;
            }
            let start = end.saturating_sub(part);
            let rest: Vec<T> = [&list[..start], &list[end..]].concat();
            if rest.len() < list.len() && fails(&rest) {
                list = rest;
                shorter = true;
            }
            end = start;
        }
        if part == 1 && !shorter {
            break;
        }
        part = if shorter {
            part.min(list.len().div_ceil(2))
        } else {
            part / 2
        };
    }
    list
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;

    #[test]
    fn only_what_is_needed_is_left() {
        let mut rng = Rng::new(3);
        for len in [1, 2, 3, 10, 777] {
            let mut needed: Vec<u64> = (0..1 + rng.below(4)).map(|_| rng.below(len)).collect();
            needed.sort_unstable();
            needed.dedup();
            let mut asked = 0;
            let left = shorten(
                (0..len).collect(),
                || true,
                |list| {
                    asked += 1;
                    needed.iter().all(|step| list.contains(step))
                },
            );
            assert_eq!(left, needed);
            assert!(
                asked < 40 + 60 * needed.len(),
                "{asked} questions for {len}"
            );
        }
    }

    #[test]
    fn it_ends_when_it_must() {
        let mut questions = 5;
        let may_ask = || {
            questions -= 1;
            questions >= 0
        };
        let left = shorten((0..1000).collect::<Vec<u64>>(), may_ask, |list| {
            list.contains(&999)
        });
        assert!(left.contains(&999) && left.len() < 1000);
        assert!(shorten(Vec::<u64>::new(), || true, |_| true).is_empty());
    }
}
