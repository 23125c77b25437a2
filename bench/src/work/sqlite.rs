// SPDX-License-Identifier: GPL-2.0

//! SQLite's own shell, with a database on tmpfs: create, insert, select, update, delete.

use super::program::{command, Dialogue};
use super::Work;
use anyhow::{ensure, Result};
use kmirror_selftests::rng::Rng;
use std::fmt::Write;

const FILE: &str = "/tmp/bench.db";
/// Rows of the table that is selected from and updated.
const ROWS: u64 = 20_000;
/// Of a row of a large table, besides its numbers and keys.
const TEXT: u64 = 1000;
const TABLE: &str =
    "create table t (id integer primary key, n int, text text); create index t_n on t (n);\n";

/// A statement or what is done with many.
#[derive(Clone, Copy, Debug)]
pub(super) enum Kind {
    Create,
    Insert,
    Select,
    Update,
    Delete,
}

pub(super) struct Sqlite {
    kind: Kind,
    /// In the table that is selected from and updated.
    rows: u64,
    shell: Dialogue,
    rng: Rng,
    text: String,
}

/// So many rows, with so many digits of noise in the text of each.
fn large_rows(count: u64, digits: u64) -> String {
    format!(
        "insert into t with recursive i (id) as (select 1 union all select id + 1 from i where id < {count})
         select id, id * 7919 % {count}, 'row ' || id || ' ' || hex(randomblob({digits} / 2)) from i;\n"
    )
}

fn rows(count: u64) -> String {
    format!(
        "insert into t with recursive i (id) as (select 1 union all select id + 1 from i where id < {count})
         select id, id * 7919 % {ROWS}, 'row ' || id || ' of {count}, and some more text' from i;\n"
    )
}

impl Sqlite {
    pub(super) fn new(kind: Kind) -> Result<Self> {
        let filled = matches!(kind, Kind::Select | Kind::Update);
        Self::with(kind, ROWS, filled.then(|| rows(ROWS)))
    }

    /// Selects from a table of so many MiB.
    pub(super) fn select_from(mib: u64) -> Result<Self> {
        let count = (mib << 20) / TEXT;
        Self::with(Kind::Select, count, Some(large_rows(count, TEXT)))
    }

    fn with(kind: Kind, rows: u64, fill: Option<String>) -> Result<Self> {
        for suffix in ["", "-journal"] {
            // There is none the first time.
            let _ = std::fs::remove_file(format!("{FILE}{suffix}"));
        }
        let mut sqlite = Self {
            kind,
            rows,
            shell: Dialogue::start(command(&["sqlite3", "-batch", FILE]))?,
            rng: Rng::new(5),
            text: String::new(),
        };
        if let Some(fill) = fill {
            sqlite.text = TABLE.to_owned() + &fill;
            sqlite.run()?;
        }
        Ok(sqlite)
    }

    /// Has `self.text` executed. The rows that it gives.
    fn run(&mut self) -> Result<usize> {
        self.text += ".print done\n";
        let said = self.shell.ask(&self.text, "done")?;
        Ok(said.lines().count())
    }
}

impl Work for Sqlite {
    fn unit(&mut self) -> Result<()> {
        let mut text = std::mem::take(&mut self.text);
        text.clear();
        let mut wanted = 0;
        match self.kind {
            Kind::Create => {
                for _ in 0..5 {
                    text += TABLE;
                    text += "drop table t;\n";
                }
            }
            Kind::Insert => {
                text += TABLE;
                for _ in 0..10 {
                    text += "begin;\n";
                    for _ in 0..50 {
                        let n = self.rng.below(ROWS);
                        writeln!(text, "insert into t (n, text) values ({n}, 'row with {n}, and some more text');")?;
                    }
                    text += "commit;\n";
                }
                text += "drop table t;\n";
            }
            Kind::Select => {
                for _ in 0..100 {
                    let id = self.rng.below(self.rows) + 1;
                    writeln!(text, "select * from t where id = {id}; select count(*) from t where n between {id} and {id} + 50;")?;
                }
                wanted = 200;
            }
            Kind::Update => {
                text += "begin;\n";
                for _ in 0..100 {
                    let id = self.rng.below(self.rows) + 1;
                    writeln!(text, "update t set n = n + 1, text = 'updated row {id}, and some more text' where id = {id};")?;
                }
                text += "commit;\n";
            }
            Kind::Delete => {
                text += TABLE;
                text += &rows(500);
                for first in 0..10 {
                    text += "begin;\n";
                    for index in 0..50 {
                        writeln!(text, "delete from t where id = {};", first + 10 * index + 1)?;
                    }
                    text += "commit;\n";
                }
                text += "select count(*) from t where id > 0 having count(*) = 0; drop table t;\n";
                wanted = 1;
            }
        }
        self.text = text;
        let seen = self.run()?;
        ensure!(
            seen == wanted,
            "{:?}: {seen} rows in place of {wanted}",
            self.kind
        );
        Ok(())
    }
}
