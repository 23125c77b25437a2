// SPDX-License-Identifier: GPL-2.0

//! What users write, against a plain reading of the same grammar with 128-bit numbers.

use kmirror_core::*;
use proptest::prelude::*;

/// Takes off what sysfs forgives.
fn trim(text: &str) -> &str {
    text.strip_suffix('\n')
        .unwrap_or(text)
        .trim_matches([' ', '\t'])
}

fn bytes(text: &str) -> Result<u64, ParseError> {
    let (number, scale) = match text.char_indices().last() {
        Some((at, c)) if !text.to_lowercase().starts_with("0x") || !c.is_ascii_hexdigit() => {
            match "kmgtpe".find(c.to_ascii_lowercase()) {
                Some(power) => (&text[..at], 1024u128.pow(power as u32 + 1)),
                None => (text, 1),
            }
        }
        _ => (text, 1),
    };
    let (digits, base) = match number.get(..2) {
        Some("0x" | "0X") => (&number[2..], 16),
        _ => (number, 10),
    };
    if digits.is_empty()
        || !digits.chars().all(|c| c.is_digit(base))
        || (base == 10 && digits.len() > 1 && digits.starts_with('0'))
    {
        return Err(ParseError::Invalid);
    }
    u128::from_str_radix(digits, base)
        .ok()
        .and_then(|n| n.checked_mul(scale))
        .and_then(|n| u64::try_from(n).ok())
        .ok_or(ParseError::Range)
}

fn size(text: &str) -> Result<u64, ParseError> {
    match bytes(text)? {
        n if n == 0 || (2 << 20..=1 << 52).contains(&n) => Ok(n),
        _ => Err(ParseError::Range),
    }
}

fn decimal(text: &str) -> Result<u64, ParseError> {
    if text.chars().all(|c| c.is_ascii_digit()) {
        bytes(text)
    } else {
        Err(ParseError::Invalid)
    }
}

fn spec(text: &str) -> Result<(u64, Option<u64>), ParseError> {
    let Some((before, after)) = text.split_once('@') else {
        return Ok((size(text)?, None));
    };
    let bytes = size(before)?;
    match decimal(after)? {
        node @ 0..=1023 => Ok((bytes, Some(node))),
        _ => Err(ParseError::Range),
    }
}

/// Texts that are nearly right.
fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        "[ \t]?(0x|0X)?[0-9a-f]{0,20}[kmgtpeKMGTPEx ]?(@[0-9]{0,5})?[ \t]?\n?\n?",
        "[1-9][0-9]{0,6}[kKmMgGtT]?(@[0-9]{1,4})?\n?",
        "(max|inherit|off|tracked|[0-9]{1,7})[ \n]{0,2}",
        "[ \t\n@+x0-9kKeE-]{0,12}",
        ".{0,12}",
    ]
}

/// Every parser, for those that only have to live through it.
fn parse_all(text: &[u8]) {
    let _ = RegionSpec::parse(text);
    let _ = RegionSize::parse(text);
    let _ = Limit::parse(text);
    let _ = Interval::parse(text);
    let _ = Mode::parse(text);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4096, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_are_lived_through(text in proptest::collection::vec(any::<u8>(), 0..40)) {
        parse_all(&text);
    }

    #[test]
    fn nearly_right_texts_are_read_as_the_grammar_says(text in text()) {
        parse_all(text.as_bytes());
        let inner = trim(&text);
        let got = RegionSpec::parse(text.as_bytes());
        let got = got.map(|spec| (spec.size.bytes(), spec.node.map(u64::from)));
        prop_assert_eq!(got, spec(inner));

        let got = RegionSize::parse(text.as_bytes()).map(RegionSize::bytes);
        prop_assert_eq!(got, size(inner));

        let limit = Limit::parse(text.as_bytes()).map(Limit::bytes);
        let want = match inner {
            "max" => Ok(None),
            number => bytes(number).map(|n| Some(n - n % 4096)),
        };
        prop_assert_eq!(limit, want);

        let interval = Interval::parse(text.as_bytes()).map(|i| i.map(Interval::as_ms));
        let want = match inner {
            "inherit" => Ok(None),
            number => match decimal(number) {
                Ok(ms @ 10..=600_000) => Ok(Some(ms as u32)),
                Ok(_) => Err(ParseError::Range),
                Err(error) => Err(error),
            },
        };
        prop_assert_eq!(interval, want);

        let mode = Mode::parse(text.as_bytes());
        prop_assert_eq!(mode.is_ok(), ["inherit", "off", "tracked"].contains(&inner));
    }

    #[test]
    fn what_is_printed_is_read_back(bytes in (2u64 << 20)..=1 << 52, node in 0u32..1024) {
        let spec = RegionSpec::parse(format!("{bytes}@{node}\n").as_bytes()).unwrap();
        prop_assert_eq!((spec.size.bytes(), spec.node), (bytes, Some(node)));
        // Never more than asked, and less than a block short of it.
        let reserved = u64::from(spec.size.blocks()) * BLOCK_BYTES;
        prop_assert!(reserved <= bytes && bytes - reserved < BLOCK_BYTES);

        let limit = Limit::parse(format!("{bytes}\n").as_bytes()).unwrap();
        let printed = limit.bytes().unwrap();
        prop_assert_eq!(Limit::parse(format!("{printed}\n").as_bytes()), Ok(limit));
    }
}
