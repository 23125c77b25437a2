// SPDX-License-Identifier: GPL-2.0

//! Numbers for people.

/// Bytes of a page, and of a replica.
pub const PAGE: u64 = 4096;

/// Bytes, with three digits or four and a binary unit: `15.2 MiB`.
pub fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64 / 1024.0;
    let mut unit = 0;
    // 1023.95 would be printed as 1024.0.
    while value >= 1023.95 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

/// Pages, as bytes.
pub fn pages(pages: u64) -> String {
    bytes(pages.saturating_mul(PAGE))
}

/// Parts per million as per cent. Rounded down: `100.00 %` is said only when it is all.
pub fn percent(ppm: u32) -> String {
    format!("{}.{:02} %", ppm / 10_000, ppm % 10_000 / 100)
}

/// A share, 0.0 to 1.0 and more, as per cent with one digit after the point.
pub fn share(share: f64) -> String {
    format!("{:.1} %", share * 100.0)
}

/// A whole number with the digits in groups of three: `1,234,567`.
pub fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at) % 3 == 0 {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A time given in ns: `12.3 ms`.
pub fn time(ns: u64) -> String {
    match ns {
        0 => "0".into(),
        1..=999 => format!("{ns} ns"),
        1_000..=999_999 => format!("{:.1} µs", ns as f64 / 1e3),
        1_000_000..=999_999_999 => format!("{:.1} ms", ns as f64 / 1e6),
        _ => format!("{:.1} s", ns as f64 / 1e9),
    }
}

/// "1 page" or "2 pages".
pub fn plural(number: u64, what: &str) -> String {
    let s = if number == 1 { "" } else { "s" };
    format!("{} {what}{s}", count(number))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn bytes_have_their_unit() {
        for (number, want) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (15 << 20 | 200 << 10, "15.2 MiB"),
            ((1 << 20) - 1, "1.0 MiB"),
            (2 << 30, "2.0 GiB"),
            (u64::MAX, "16.0 EiB"),
        ] {
            assert_eq!(bytes(number), want);
        }
    }

    #[test]
    fn percent_never_rounds_up() {
        assert_eq!(percent(1_000_000), "100.00 %");
        assert_eq!(percent(999_999), "99.99 %");
        assert_eq!(percent(99), "0.00 %");
        assert_eq!(percent(973_214), "97.32 %");
    }

    #[test]
    fn counts_are_grouped() {
        assert_eq!(count(7), "7");
        assert_eq!(count(1234), "1,234");
        assert_eq!(count(123_456_789), "123,456,789");
        assert_eq!(plural(1, "page"), "1 page");
        assert_eq!(plural(2000, "page"), "2,000 pages");
    }

    #[test]
    fn times_have_their_unit() {
        for (ns, want) in [
            (0, "0"),
            (999, "999 ns"),
            (1500, "1.5 µs"),
            (12_300_000, "12.3 ms"),
            (61_000_000_000, "61.0 s"),
        ] {
            assert_eq!(time(ns), want);
        }
    }

    proptest! {
        #[test]
        fn no_number_is_too_large(number: u64) {
            prop_assert!(bytes(number).len() <= 10);
            prop_assert_eq!(count(number).replace(',', ""), number.to_string());
            let _ = (pages(number), time(number));
        }
    }
}
