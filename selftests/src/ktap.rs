// SPDX-License-Identifier: GPL-2.0

//! KTAP, version 1: what the runner prints.

/// How a case ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It holds.
    Pass,
    /// It does not.
    Fail,
    /// It cannot be tested here, for this reason.
    Skip(String),
}

/// A stream of results.
#[derive(Debug, Default)]
pub struct Stream {
    pass: u32,
    fail: u32,
    skip: u32,
}

impl Stream {
    /// Begins a stream of so many results.
    pub fn start(count: usize) -> Self {
        println!("KTAP version 1");
        println!("1..{count}");
        Self::default()
    }

    /// Prints what a case has said.
    pub fn note(text: &str) {
        for line in text.lines() {
            println!("# {line}");
        }
    }

    /// Prints a result.
    pub fn result(&mut self, name: &str, outcome: &Outcome) {
        let number = self.pass + self.fail + self.skip + 1;
        match outcome {
            Outcome::Pass => {
                self.pass += 1;
                println!("ok {number} {name}");
            }
            Outcome::Fail => {
                self.fail += 1;
                println!("not ok {number} {name}");
            }
            Outcome::Skip(why) => {
                self.skip += 1;
                println!("ok {number} {name} # SKIP {why}");
            }
        }
    }

    /// Prints the totals, and returns the exit status of a kselftest.
    pub fn finish(self) -> u8 {
        println!(
            "# Totals: pass:{} fail:{} xfail:0 xpass:0 skip:{} error:0",
            self.pass, self.fail, self.skip
        );
        match (self.pass, self.fail, self.skip) {
            (_, 1.., _) => 1,
            (0, 0, 1..) => 4,
            _ => 0,
        }
    }
}
