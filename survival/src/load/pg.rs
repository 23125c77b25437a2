// SPDX-License-Identifier: GPL-2.0

//! pgbench's bank, in PostgreSQL, with a client that keeps books of its own.

use super::{Client, PATIENCE};
use anyhow::{bail, ensure, Context, Result};
use kmirror_selftests::rng::Rng;
use std::io::{BufReader, Read, Write};
use std::os::unix::net::UnixStream;

/// What `pgbench -i` makes for each branch, of which tools/survival-disk leaves the first ones.
const NUMBERS: u64 = 100_000;
const ACCOUNTS: u64 = 20_000;
const TELLERS: u64 = 10;
/// One account in so many is ever changed.
const BUSY: u64 = 20;

type Rows = Vec<Vec<String>>;

/// A connection: the simple query protocol, version 3.
struct Connection(BufReader<UnixStream>);

impl Connection {
    /// A server that is still starting takes a connection, and then refuses it.
    fn open(dir: &str) -> Result<Self> {
        let path = format!("{dir}/.s.PGSQL.5432");
        super::connect(|| Self::try_open(&path))
    }

    fn try_open(path: &str) -> Result<Self> {
        let stream = UnixStream::connect(path)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut this = Self(BufReader::new(stream));
        let parameters = b"\0\x03\0\0user\0postgres\0database\0postgres\0\0";
        let mut start = (parameters.len() as u32 + 4).to_be_bytes().to_vec();
        start.extend_from_slice(parameters);
        this.0.get_mut().write_all(&start)?;
        this.rows()?;
        Ok(this)
    }

    fn query(&mut self, text: &str) -> Result<Rows> {
        let mut message = vec![b'Q'];
        message.extend_from_slice(&(text.len() as u32 + 5).to_be_bytes());
        message.extend_from_slice(text.as_bytes());
        message.push(0);
        self.0.get_mut().write_all(&message)?;
        self.rows()
    }

    /// Reads until the server waits for a query; the rows that came, of all statements.
    fn rows(&mut self) -> Result<Rows> {
        let mut rows = Rows::new();
        let mut failed = None;
        loop {
            let mut head = [0; 5];
            self.0.read_exact(&mut head)?;
            let len = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
            let mut body = vec![0; len.saturating_sub(4)];
            self.0.read_exact(&mut body)?;
            match head[0] {
                b'D' => rows.push(row(&body).context("a short row")?),
                b'E' => {
                    let text = String::from_utf8_lossy(&body).replace('\0', " ");
                    failed.get_or_insert(text);
                }
                b'Z' => break,
                _ => {}
            }
        }
        match failed {
            Some(text) => bail!("{text}"),
            None => Ok(rows),
        }
    }
}

fn row(body: &[u8]) -> Option<Vec<String>> {
    let count = u16::from_be_bytes(body.get(..2)?.try_into().ok()?);
    let mut at = 2;
    (0..count)
        .map(|_| {
            let len = i32::from_be_bytes(body.get(at..at + 4)?.try_into().ok()?);
            at += 4;
            let len = usize::try_from(len).unwrap_or(0); // -1: null
            let text = String::from_utf8_lossy(body.get(at..at + len)?).into_owned();
            at += len;
            Some(text)
        })
        .collect()
}

/// One branch of the bank, which only this client changes.
pub(super) struct Bank {
    dir: String,
    branch: u64,
    branches: u64,
    connection: Option<Connection>,
    rng: Rng,
    accounts: Vec<i64>,
    tellers: Vec<i64>,
    transactions: i64,
    total: i64,
}

impl Bank {
    pub(super) fn new(dir: &str, branch: u64, branches: u64) -> Self {
        Self {
            dir: dir.into(),
            branch,
            branches,
            connection: None,
            rng: Rng::new(branch + 11),
            accounts: vec![0; ACCOUNTS as usize],
            tellers: vec![0; TELLERS as usize],
            transactions: 0,
            total: 0,
        }
    }

    fn ask(&mut self, text: &str) -> Result<Rows> {
        self.connection
            .as_mut()
            .context("not connected")?
            .query(text)
    }

    /// The rows must be these.
    fn same(&mut self, what: &str, text: &str, wanted: &[i64]) -> Result<()> {
        let rows = self.ask(text)?;
        let got: Vec<&str> = rows.iter().flatten().map(String::as_str).collect();
        let wanted: Vec<String> = wanted.iter().map(i64::to_string).collect();
        ensure!(got == wanted, "{what}: {got:?} in place of {wanted:?}");
        Ok(())
    }
}

impl Client for Bank {
    fn name(&self) -> String {
        format!("postgresql {} branch {}", self.dir, self.branch)
    }

    fn prepare(&mut self) -> Result<()> {
        self.connection = Some(Connection::open(&self.dir)?);
        if self.branch == 0 {
            // Into the shared buffers with everything.
            self.ask(
                "select pg_prewarm('pgbench_accounts'); select pg_prewarm('pgbench_accounts_pkey')",
            )?;
        }
        self.check()
    }

    /// A transaction of pgbench's, with each new balance compared.
    fn round(&mut self) -> Result<()> {
        let account = self.rng.below(ACCOUNTS / BUSY) * BUSY;
        let teller = self.rng.below(TELLERS);
        let delta = self.rng.below(10_001) as i64 - 5000;
        let other = self.rng.below(ACCOUNTS);
        let (branch, accounts, tellers) = (
            self.branch + 1,
            self.branch * NUMBERS + 1,
            self.branch * TELLERS + 1,
        );
        self.accounts[account as usize] += delta;
        self.tellers[teller as usize] += delta;
        self.total += delta;
        self.transactions += 1;
        let (account_id, teller_id, other_id) =
            (accounts + account, tellers + teller, accounts + other);
        let wanted = [
            self.accounts[account as usize],
            self.tellers[teller as usize],
            self.total,
            self.accounts[other as usize],
        ];
        self.same(
            "a transaction",
            &format!(
                "begin;
                 update pgbench_accounts set abalance = abalance + {delta} where aid = {account_id} returning abalance;
                 update pgbench_tellers set tbalance = tbalance + {delta} where tid = {teller_id} returning tbalance;
                 update pgbench_branches set bbalance = bbalance + {delta} where bid = {branch} returning bbalance;
                 insert into pgbench_history (tid, bid, aid, delta, mtime)
                   values ({teller_id}, {branch}, {account_id}, {delta}, current_timestamp);
                 end;
                 select abalance from pgbench_accounts where aid = {other_id}"
            ),
            &wanted,
        )
    }

    /// Reads every row of the branch, and compares the indexes with the tables.
    fn check(&mut self) -> Result<()> {
        let (branch, first) = (self.branch + 1, self.branch * NUMBERS + 1);
        let weighed: i64 = (first as i64..)
            .zip(&self.accounts)
            .map(|(id, balance)| id * balance)
            .sum();
        let wanted = [
            ACCOUNTS as i64,
            self.total,
            weighed,
            ACCOUNTS as i64,
            self.total,
            self.total,
            self.transactions,
            self.total,
        ];
        let last = first + ACCOUNTS - 1;
        self.same(
            "all accounts",
            &format!(
                "select count(*), coalesce(sum(abalance), 0), coalesce(sum(aid::bigint * abalance), 0), sum((filler = '')::int)
                   from pgbench_accounts where aid between {first} and {last};
                 select sum(tbalance) from pgbench_tellers where bid = {branch};
                 select bbalance from pgbench_branches where bid = {branch};
                 select count(*), coalesce(sum(delta), 0) from pgbench_history where bid = {branch}"
            ),
            &wanted,
        )?;
        if self.branch == 0 {
            let branches = self.branches;
            self.same(
                "indexes",
                "select count(*) from (select bt_index_check(i, true) from unnest(
                   array['pgbench_accounts_pkey', 'pgbench_tellers_pkey', 'pgbench_branches_pkey']::regclass[]) i) c;
                 select count(*) from pgbench_branches",
                &[3, branches as i64],
            )?;
            // Writes what is dirty, with fsync: what was lost on the way shows here.
            self.ask("checkpoint")?;
        }
        Ok(())
    }
}
