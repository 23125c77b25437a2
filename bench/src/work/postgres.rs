// SPDX-License-Identifier: GPL-2.0

//! PostgreSQL under pgbench's own transactions, from two connections.

use super::program::{command, run, serve};
use super::Work;
use anyhow::Result;
use std::fs;
use std::path::Path;

const BIN: &str = "/usr/lib/postgresql/17/bin";
const DATA: &str = "/tmp/pg";
/// The program itself: what Debian has in /usr/bin is a wrapper in Perl, which the image lacks.
const PGBENCH: &str = "/usr/lib/postgresql/17/bin/pgbench";

pub(super) struct Pgbench;

/// `words` as the user that PostgreSQL wants to be.
fn as_postgres<'a>(words: &[&'a str]) -> Vec<&'a str> {
    let user = [
        "setpriv",
        "--reuid",
        "postgres",
        "--regid",
        "postgres",
        "--init-groups",
    ];
    [&user[..], words].concat()
}

impl Pgbench {
    pub(super) fn new() -> Result<Self> {
        let (initdb, postgres) = (format!("{BIN}/initdb"), format!("{BIN}/postgres"));
        // Made once in a guest; its tables are made anew each time.
        if !Path::new(DATA).exists() {
            run(&as_postgres(&[
                &initdb,
                "-D",
                DATA,
                "-U",
                "postgres",
                "-A",
                "trust",
                "-N",
                "--locale=C.UTF-8",
                "-E",
                "UTF8",
            ]))?;
        }
        // Of the one before, which was killed.
        let _ = fs::remove_file(format!("{DATA}/postmaster.pid"));
        let server = command(&as_postgres(&[
            &postgres,
            "-D",
            DATA,
            "-k",
            "/tmp",
            "-c",
            "listen_addresses=",
            "-c",
            "shared_buffers=32MB",
            "-c",
            "fsync=off",
            "-c",
            "autovacuum=off",
            "-c",
            "jit=off",
        ]));
        let ready = format!("{BIN}/pg_isready");
        serve(server, || run(&[&ready, "-h", "/tmp", "-U", "postgres"]))?;
        run(&[
            PGBENCH, "-h", "/tmp", "-U", "postgres", "-i", "-q", "-s", "1", "postgres",
        ])?;
        Ok(Self)
    }
}

impl Work for Pgbench {
    fn unit(&mut self) -> Result<()> {
        run(&[
            PGBENCH, "-h", "/tmp", "-U", "postgres", "-n", "-c", "2", "-t", "20", "postgres",
        ])
    }
}
