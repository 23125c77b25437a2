// SPDX-License-Identifier: GPL-2.0

//! Units of systemd that ask for protection: those whose file, or a drop-in, has a section
//! `[X-Kmirror]`. systemd ignores sections whose names begin with `X-`.

use crate::error::{Error, Result};
use crate::setting::Setting;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// The section.
pub const SECTION: &str = "[X-Kmirror]";

/// Its keys, and the settings that they stand for, in the order in which they are written.
const KEYS: [(&str, &str); 3] = [
    ("MirrorIntervalMs", "interval_ms"),
    ("MirrorMax", "max"),
    ("MirrorMode", "mode"),
];

/// The assignments in the section of one file.
fn section(text: &str) -> Vec<(&str, &str)> {
    let mut inside = false;
    let mut found = Vec::new();
    for line in text.lines().map(str::trim) {
        if line.starts_with('[') {
            inside = line == SECTION;
        } else if inside && !line.starts_with(['#', ';']) {
            if let Some((key, value)) = line.split_once('=') {
                found.push((key.trim(), value.trim()));
            }
        }
    }
    found
}

/// The settings that files of a unit ask for, the last word counting, as in systemd; an empty value
/// takes back what was said before. `None` if none has the section.
pub fn settings<'a>(files: impl IntoIterator<Item = &'a str>) -> Result<Option<Vec<Setting>>> {
    let mut words: BTreeMap<&str, &str> = BTreeMap::new();
    let mut asked = false;
    for (key, value) in files.into_iter().flat_map(section) {
        if !KEYS.iter().any(|&(known, _)| known == key) {
            return Err(Error::usage(format!(
                "{key} is not known in {SECTION}; use MirrorMode=, MirrorIntervalMs= and MirrorMax="
            )));
        }
        asked = true;
        words.insert(key, value);
    }
    if !asked {
        return Ok(None);
    }
    let said = KEYS
        .iter()
        .filter_map(|&(key, name)| Some((name, *words.get(key)?)));
    said.filter(|(_, value)| !value.is_empty())
        .map(|(name, value)| Setting::new(name, value))
        .collect::<Result<_>>()
        .map(Some)
}

/// The names of all units in these directories, the first having the last word as in systemd, that
/// have the section in their file or a drop-in. Those of templates end in `@.TYPE`.
pub fn asking(dirs: &[PathBuf]) -> BTreeSet<String> {
    let mut units = BTreeSet::new();
    let mut seen = BTreeSet::new();
    for dir in dirs {
        for path in entries(dir) {
            let Some(name) = path.file_name().and_then(|name| name.to_str()) else {
                continue;
            };
            if let Some(unit) = name.strip_suffix(".d") {
                let drop_ins = entries(&path);
                if drop_ins.iter().any(|file| is_drop_in(file) && asks(file)) {
                    units.insert(unit.to_owned());
                }
            } else if seen.insert(name.to_owned()) && path.is_file() && asks(&path) {
                units.insert(name.to_owned());
            }
        }
    }
    units.retain(|unit| has_cgroup(unit));
    units
}

fn entries(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).collect()
}

fn is_drop_in(path: &Path) -> bool {
    path.extension().is_some_and(|end| end == "conf")
}

fn asks(path: &Path) -> bool {
    fs::read_to_string(path).is_ok_and(|text| !section(&text).is_empty())
}

/// Whether units of this kind have processes.
fn has_cgroup(unit: &str) -> bool {
    [".service", ".slice", ".scope"]
        .iter()
        .any(|end| unit.ends_with(end) && unit != *end)
}

/// The drop-in that makes a unit start `kmirror@UNIT.service` along.
pub const DROP_IN: &str = "\
# Made by kmirror-generator
[Unit]
Wants=kmirror@%n.service
";

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const UNIT: &str = "[Service]\nExecStart=/bin/x\n[X-Kmirror]\n# why\nMirrorMode=tracked\nMirrorMax = 512M\n[Install]\nMirrorMode=off\n";

    fn shown(files: &[&str]) -> Vec<String> {
        let settings = settings(files.iter().copied()).unwrap().unwrap();
        settings
            .iter()
            .map(|s| format!("{}={}", s.key, s.value))
            .collect()
    }

    #[test]
    fn the_section_is_read_and_nothing_else() {
        assert_eq!(shown(&[UNIT]), ["max=536870912", "mode=tracked"]);
        assert_eq!(settings(["[Service]\nMirrorMode=tracked\n"]).unwrap(), None);
    }

    #[test]
    fn drop_ins_have_the_last_word() {
        let drop_in = "[X-Kmirror]\nMirrorMax=\nMirrorMode=off\nMirrorIntervalMs=200\n";
        assert_eq!(shown(&[UNIT, drop_in]), ["interval_ms=200", "mode=off"]);
    }

    #[test]
    fn misspelt_keys_are_not_passed_over() {
        assert!(settings(["[X-Kmirror]\nMirorMode=tracked\n"]).is_err());
        assert!(settings(["[X-Kmirror]\nMirrorIntervalMs=1\n"]).is_err());
    }

    #[test]
    fn units_that_ask_are_found() {
        let dir = tempfile::tempdir().unwrap();
        let (etc, lib) = (dir.path().join("etc"), dir.path().join("lib"));
        for path in [
            etc.join("db.service.d"),
            lib.join("x.timer.d"),
            lib.join("web@.service.d"),
        ] {
            fs::create_dir_all(path).unwrap();
        }
        fs::write(etc.join("db.service.d/mirror.conf"), UNIT).unwrap();
        fs::write(lib.join("db.service"), "[Service]\n").unwrap();
        fs::write(lib.join("web@.service.d/mirror.conf"), UNIT).unwrap();
        fs::write(lib.join("x.timer.d/mirror.conf"), UNIT).unwrap();
        fs::write(lib.join("own.slice"), UNIT).unwrap();
        fs::write(lib.join("masked.service"), UNIT).unwrap();
        fs::write(etc.join("masked.service"), "").unwrap();
        fs::write(lib.join("db.service.d.txt"), UNIT).unwrap();
        let units = asking(&[etc, lib]);
        let units: Vec<&str> = units.iter().map(String::as_str).collect();
        assert_eq!(units, ["db.service", "own.slice", "web@.service"]);
    }

    proptest! {
        #[test]
        fn nothing_makes_it_panic(text: String) {
            let _ = settings([text.as_str()]);
        }
    }
}
