// SPDX-License-Identifier: GPL-2.0

//! A system made of files, and kmirrorctl run on it.

#![allow(dead_code, unreachable_pub)]

pub mod page;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use tempfile::TempDir;

/// What `mirror.stat` of an idle, covered program says.
pub const STAT: &str = "\
protected 4000
current 3991
stale 9
unmirrored 0
pinned 2
lazyfree 0
huge 0
shared_foreign 0
notifier 0
no_replica 0
bad_replica 0
locked 0
shadow_stack 0
not_user 0
no_memory 0
busy 0
no_space 0
over_limit 0
epochs 120
late 0
scanned 480000
copied 4100
deferred 77
scan_ns 240000000
copy_ns 60000000
";

/// The same, of nothing.
pub const EMPTY_STAT: &str = "protected 0\ncurrent 0\nstale 0\nepochs 0\nlate 0\nscanned 0\ncopied 0\ndeferred 0\nscan_ns 0\ncopy_ns 0\n";

/// A system below a temporary directory.
pub struct Fake {
    dir: TempDir,
}

impl Fake {
    /// One without kmirror.
    pub fn bare() -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
        }
    }

    /// One with kmirror, a region of 1 GiB, and no cgroup but the root's.
    pub fn loaded() -> Self {
        let fake = Self::bare();
        let mirror = "/sys/kernel/kmirror";
        fake.write(&format!("{mirror}/version"), "1\n");
        fake.write(
            &format!("{mirror}/stat"),
            "slots 262144\nused 4000\nfree 258142\nretired 2\nepochs 120\n",
        );
        fake.write(
            &format!("{mirror}/events"),
            "restored 3\nunrestorable 1\nreplica_lost 2\n",
        );
        fake.write(&format!("{mirror}/region/total"), "1073741824\n");
        fake.write(&format!("{mirror}/region/free"), "1057349632\n");
        fake.write(&format!("{mirror}/region/node"), "1\n");
        fake.write("/sys/fs/cgroup/cgroup.controllers", "cpu memory pids\n");
        fake.group(
            "/",
            "off",
            EMPTY_STAT,
            "restored 3\nunrestorable 1\nreplica_lost 2\n",
        );
        fake
    }

    /// One as on a machine with two services.
    pub fn busy() -> Self {
        let fake = Self::loaded();
        let none = "restored 0\nunrestorable 0\nreplica_lost 0\n";
        let some = "restored 3\nunrestorable 1\nreplica_lost 2\n";
        fake.group("/system.slice", "inherit", STAT, some);
        fake.group("/system.slice/web.service", "tracked", STAT, some);
        fake.group("/system.slice/web.service/worker", "inherit", STAT, none);
        fake.group("/system.slice/db.service", "off", EMPTY_STAT, none);
        fake.write(
            "/sys/kernel/kmirror/cgroup/system.slice/web.service/mirror.max",
            "536870912\n",
        );
        fake
    }

    /// Adds a cgroup.
    pub fn group(&self, path: &str, mode: &str, stat: &str, events: &str) {
        let path = path.trim_start_matches('/');
        let dir = format!("/sys/kernel/kmirror/cgroup/{path}");
        for (name, text) in [
            ("mode", format!("{mode}\n")),
            ("interval_ms", "1000\n".into()),
            ("max", "max\n".into()),
            ("current", "16384000\n".into()),
            ("coverage", "997750\n".into()),
            ("stat", stat.into()),
            ("events", events.into()),
            ("sync", String::new()),
        ] {
            self.write(&format!("{dir}/mirror.{name}"), &text);
        }
        fs::create_dir_all(self.path(&format!("/sys/fs/cgroup/{path}"))).unwrap();
    }

    /// Where a file is really.
    pub fn path(&self, absolute: &str) -> PathBuf {
        self.dir.path().join(absolute.trim_start_matches('/'))
    }

    /// The root of it all.
    pub fn root(&self) -> &Path {
        self.dir.path()
    }

    /// Writes a file, with the directories that it needs.
    pub fn write(&self, absolute: &str, text: &str) {
        self.write_bytes(absolute, text.as_bytes());
    }

    /// The same, with any contents.
    pub fn write_bytes(&self, absolute: &str, bytes: &[u8]) {
        let path = self.path(absolute);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }

    /// Reads one.
    pub fn read(&self, absolute: &str) -> String {
        fs::read_to_string(self.path(absolute)).unwrap()
    }

    /// Runs kmirrorctl on it, which must end by itself.
    pub fn run(&self, args: &[&str]) -> Output {
        let mut command = Command::new("timeout");
        command.args(["-k", "1", "20", env!("CARGO_BIN_EXE_kmirrorctl")]);
        self.with(command, args).output().unwrap()
    }

    /// kmirrorctl, not started yet.
    pub fn command(&self, args: &[&str]) -> Command {
        self.with(Command::new(env!("CARGO_BIN_EXE_kmirrorctl")), args)
    }

    fn with(&self, mut command: Command, args: &[&str]) -> Command {
        command
            .arg("--root")
            .arg(self.root())
            .args(args)
            .env_remove("NO_COLOR");
        command
    }

    /// Runs it, and returns what it has printed.
    pub fn ok(&self, args: &[&str]) -> String {
        let output = self.run(args);
        assert!(
            output.status.success(),
            "{args:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8(output.stdout).unwrap()
    }

    /// Runs it, and returns its exit status and what it has said.
    pub fn err(&self, args: &[&str]) -> (i32, String) {
        let output = self.run(args);
        let text = String::from_utf8(output.stderr).unwrap();
        (output.status.code().unwrap(), text)
    }
}

/// Compares with a file of tests/golden. BLESS=1 in the environment writes it anew.
pub fn golden(name: &str, text: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden")
        .join(name);
    if std::env::var_os("BLESS").is_some() {
        fs::write(&path, text).unwrap();
    }
    let want = fs::read_to_string(&path).unwrap();
    assert!(
        text == want,
        "{name} is\n{text}\nand not\n{want}\n(BLESS=1 takes it over)"
    );
}
