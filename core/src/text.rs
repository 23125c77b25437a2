// SPDX-License-Identifier: GPL-2.0

//! Reading the short texts that users write to sysfs files and module parameters.

/// Why a text was refused. Nothing is changed by a refused text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ParseError {
    /// It does not have the form that is asked for (`EINVAL`).
    Invalid,
    /// It has, but its value is too small or too large (`ERANGE`).
    Range,
}

/// Takes off one trailing newline, as `echo` adds and sysfs forgives, then blanks at both ends.
pub(crate) fn trim(text: &[u8]) -> &[u8] {
    let mut rest = text.strip_suffix(b"\n").unwrap_or(text);
    while let [b' ' | b'\t', tail @ ..] = rest {
        rest = tail;
    }
    while let [head @ .., b' ' | b'\t'] = rest {
        rest = head;
    }
    rest
}

/// Reads a decimal number that fills `text`.
pub(crate) fn decimal(text: &[u8]) -> Result<u64, ParseError> {
    match digits(text, 10)? {
        (value, []) => value.ok_or(ParseError::Range),
        _ => Err(ParseError::Invalid),
    }
}

/// Reads a number of bytes that fills `text`: decimal or `0x`, with one of the suffixes of
/// `memparse()` (`K`, `M`, `G`, `T`, `P`, `E`, powers of 1024) in either case.
///
/// Unlike `memparse()`, which saturates, a number past 64 bits is [`ParseError::Range`].
pub(crate) fn bytes(text: &[u8]) -> Result<u64, ParseError> {
    let (value, rest) = match text {
        [b'0', b'x' | b'X', hex @ ..] => digits(hex, 16)?,
        _ => digits(text, 10)?,
    };
    let shift = match rest {
        [] => 0,
        [b'k' | b'K'] => 10,
        [b'm' | b'M'] => 20,
        [b'g' | b'G'] => 30,
        [b't' | b'T'] => 40,
        [b'p' | b'P'] => 50,
        [b'e' | b'E'] => 60,
        _ => return Err(ParseError::Invalid),
    };
    value
        .and_then(|value| value.checked_mul(1 << shift))
        .ok_or(ParseError::Range)
}

/// Splits the digits off the front of `text`; their value is `None` when it needs over 64 bits.
///
/// A decimal number with a leading zero is refused: half of the kernel's parsers would take it for
/// octal, so neither reading is what everybody means.
fn digits(text: &[u8], base: u32) -> Result<(Option<u64>, &[u8]), ParseError> {
    let mut value = Some(0u64);
    let mut rest = text;
    while let [first, tail @ ..] = rest {
        let Some(digit) = char::from(*first).to_digit(base) else {
            break;
        };
        value = value
            .and_then(|value| value.checked_mul(u64::from(base)))
            .and_then(|value| value.checked_add(u64::from(digit)));
        rest = tail;
    }
    let count = text.len() - rest.len();
    if count == 0 || (base == 10 && count > 1 && text[0] == b'0') {
        return Err(ParseError::Invalid);
    }
    Ok((value, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trims_one_newline_and_blanks() {
        for (text, want) in [
            (&b"off"[..], &b"off"[..]),
            (b"off\n", b"off"),
            (b" \toff \t\n", b"off"),
            (b"off\n\n", b"off\n"),
            (b"off\n ", b"off\n"),
            (b"a b", b"a b"),
            (b" ", b""),
            (b"\n", b""),
            (b"", b""),
        ] {
            assert_eq!(trim(text), want, "{text:?}");
        }
    }

    #[test]
    fn reads_decimal_numbers() {
        assert_eq!(decimal(b"0"), Ok(0));
        assert_eq!(decimal(b"18446744073709551615"), Ok(u64::MAX));
        assert_eq!(decimal(b"18446744073709551616"), Err(ParseError::Range));
        for text in [
            &b""[..],
            b"-1",
            b"+1",
            b"1 ",
            b"00",
            b"010",
            b"0x1",
            b"1k",
            b"\xff",
        ] {
            assert_eq!(decimal(text), Err(ParseError::Invalid), "{text:?}");
        }
    }

    #[test]
    fn nonsense_is_invalid_even_when_it_begins_with_too_large_a_number() {
        assert_eq!(decimal(b"99999999999999999999x"), Err(ParseError::Invalid));
        assert_eq!(bytes(b"99999999999999999999x"), Err(ParseError::Invalid));
    }

    #[test]
    fn reads_bytes_with_suffixes() {
        for (text, want) in [
            (&b"0"[..], Ok(0)),
            (b"4096", Ok(4096)),
            (b"1k", Ok(1 << 10)),
            (b"3M", Ok(3 << 20)),
            (b"2g", Ok(2 << 30)),
            (b"1T", Ok(1 << 40)),
            (b"1p", Ok(1 << 50)),
            (b"15E", Ok(15 << 60)),
            (b"16E", Err(ParseError::Range)),
            (b"0x10", Ok(16)),
            (b"0X1eM", Ok(0x1e << 20)),
            // As with memparse(), an E after hexadecimal digits is one of them.
            (b"0x1E", Ok(0x1e)),
            (b"0x0010", Ok(16)),
            (b"0x", Err(ParseError::Invalid)),
            (b"K", Err(ParseError::Invalid)),
            (b"1KB", Err(ParseError::Invalid)),
            (b"1 K", Err(ParseError::Invalid)),
            (b"1.5G", Err(ParseError::Invalid)),
            (b"010", Err(ParseError::Invalid)),
            (b"0x10000000000000000", Err(ParseError::Range)),
        ] {
            assert_eq!(bytes(text), want, "{text:?}");
        }
    }
}
