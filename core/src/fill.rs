// SPDX-License-Identifier: GPL-2.0

//! Pages that are filled with one word over and over, most of them with zeros.
//!
//! All that has to be remembered of such a page is the word, so its replica takes no memory of its
//! own.

/// The word that `words` consists of, if there is no other in it. `None` if there are no words.
pub fn filling_word(words: &[u64]) -> Option<u64> {
    let (&first, others) = words.split_first()?;
    // The difference of all, and not a way out at the first: there is nearly always none, since the
    // page was looked at in a few places before.
    let differ = others.iter().fold(0, |bits, &word| bits | (word ^ first));
    (differ == 0).then_some(first)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn nothing_is_filled_with_nothing() {
        assert_eq!(filling_word(&[]), None);
        assert_eq!(filling_word(&[7]), Some(7));
    }

    proptest! {
        #[test]
        fn a_page_is_its_word_until_one_bit_of_it_is_another(
            word in prop_oneof![Just(0), any::<u64>()],
            at in 0usize..512,
            bit in 0u32..64,
        ) {
            let mut page = [word; 512];
            prop_assert_eq!(filling_word(&page), Some(word));
            page[at] ^= 1 << bit;
            prop_assert_eq!(filling_word(&page), None);
        }

        #[test]
        fn what_it_finds_makes_the_page_again(
            words in proptest::collection::vec(0u64..2, 1..20),
        ) {
            match filling_word(&words) {
                Some(word) => prop_assert_eq!(vec![word; words.len()], words),
                None => prop_assert!(words.contains(&0) && words.contains(&1)),
            }
        }
    }
}
