// SPDX-License-Identifier: GPL-2.0

//! Colours, where somebody looks at them.

use clap::ValueEnum;
use comfy_table::Color;
use std::io::IsTerminal;

/// When to use colours.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum When {
    /// On a terminal, unless NO_COLOR is set or TERM is dumb
    #[default]
    Auto,
    /// Always
    Always,
    /// Never
    Never,
}

/// Whether to use them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Paint {
    on: bool,
}

impl Paint {
    /// None.
    pub const OFF: Self = Self { on: false };

    /// For what is written to standard output. See <https://no-color.org>.
    pub fn stdout(when: When) -> Self {
        let wanted = || {
            let set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
            let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
            !set("NO_COLOR") && !dumb && std::io::stdout().is_terminal()
        };
        Self {
            on: match when {
                When::Auto => wanted(),
                When::Always => true,
                When::Never => false,
            },
        }
    }

    /// Whether colours are used.
    pub fn is_on(self) -> bool {
        self.on
    }

    /// `text` in `color`, bold or not.
    pub fn text(self, text: &str, color: Color, bold: bool) -> String {
        if !self.on {
            return text.to_owned();
        }
        let code = match color {
            Color::Red => 31,
            Color::Green => 32,
            Color::Yellow => 33,
            Color::Blue => 34,
            Color::Cyan => 36,
            _ => 39,
        };
        let bold = if bold { "1;" } else { "" };
        format!("\x1b[{bold}{code}m{text}\x1b[0m")
    }
}

/// The colour of a coverage in parts per million.
pub fn of_coverage(ppm: u32) -> Color {
    match ppm {
        990_000.. => Color::Green,
        900_000..=989_999 => Color::Yellow,
        _ => Color::Red,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_colours_mean_no_escapes() {
        assert_eq!(Paint::OFF.text("x", Color::Red, true), "x");
        let on = Paint::stdout(When::Always);
        assert_eq!(on.text("x", Color::Red, false), "\x1b[31mx\x1b[0m");
        assert!(!Paint::stdout(When::Never).is_on());
    }
}
