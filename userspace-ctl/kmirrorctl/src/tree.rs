// SPDX-License-Identifier: GPL-2.0

//! The tree of cgroups, and how users name one of them.

use crate::error::{Error, Result};
use crate::group::{Group, OFF};
use crate::system::{self, System};

/// What users may put before a cgroup's path.
const PREFIXES: [&str; 2] = ["/sys/fs/cgroup", "/sys/kernel/kmirror/cgroup"];

/// All cgroups below `path` and itself, parents first, without `mirror.stat`.
pub fn walk(system: &System, path: &str) -> Result<Vec<Group>> {
    system.require_mirror()?;
    let inherited = mode_above(system, path)?;
    let mut groups = Vec::new();
    descend(system, path, &inherited, &mut groups)?;
    Ok(groups)
}

fn descend(system: &System, path: &str, inherited: &str, groups: &mut Vec<Group>) -> Result<()> {
    let Some(group) = Group::read(system, path, inherited)? else {
        return Ok(());
    };
    let mode = group.mode_in_force.clone();
    groups.push(group);
    for name in system::directories(&system.mirror_of(path))? {
        descend(system, &join(path, &name), &mode, groups)?;
    }
    Ok(())
}

/// One cgroup, without `mirror.stat`.
pub fn group(system: &System, path: &str) -> Result<Group> {
    system.require_mirror()?;
    let inherited = mode_above(system, path)?;
    Group::read(system, path, &inherited)?.ok_or_else(|| no_such(system, path))
}

/// The mode in force for the parent of `path`.
fn mode_above(system: &System, path: &str) -> Result<String> {
    let mut mode = OFF.to_owned();
    let mut above = "/".to_owned();
    for name in path.split('/').filter(|name| !name.is_empty()) {
        if let Some(group) = Group::read(system, &above, &mode)? {
            mode = group.mode_in_force;
        }
        above = join(&above, name);
    }
    Ok(mode)
}

fn join(path: &str, name: &str) -> String {
    format!("{}/{name}", path.trim_end_matches('/'))
}

fn no_such(system: &System, path: &str) -> Error {
    if system.cgroup(path).is_dir() {
        return Error::missing(format!(
            "the cgroup {path} has no directory below /sys/kernel/kmirror/cgroup; `dmesg | grep kmirror` says why, most likely its name begins with \"mirror.\""
        ));
    }
    Error::missing(format!(
        "there is no cgroup {path}; `kmirrorctl status --all` lists them"
    ))
}

/// The path of the cgroup that a user means: a path below the root of cgroup v2, that of its
/// directory in sysfs or in the cgroup file system, or, with no slash, the last part of a path that
/// no other cgroup has, such as `postgresql.service`.
pub fn resolve(system: &System, text: &str) -> Result<String> {
    system.require_mirror()?;
    let bare = PREFIXES
        .iter()
        .find_map(|prefix| match text.strip_prefix(prefix) {
            Some("") => Some("/"),
            Some(rest) if rest.starts_with('/') => Some(rest),
            _ => None,
        });
    let path = normal(bare.unwrap_or(text))?;
    if system.mirror_of(&path).join("mirror.mode").exists() {
        return Ok(path);
    }
    let name = path.trim_start_matches('/');
    if text.contains('/') || name.is_empty() {
        return Err(no_such(system, &path));
    }
    let mut found = Vec::new();
    find(system, "/", name, &mut found)?;
    match found.as_slice() {
        [] => Err(no_such(system, &path)),
        [one] => Ok(one.clone()),
        several => Err(Error::missing(format!(
            "there are several cgroups called {name}; give one of these paths: {}",
            several.join(", ")
        ))),
    }
}

/// A path with one slash before each part.
fn normal(text: &str) -> Result<String> {
    let parts: Vec<&str> = text
        .split('/')
        .filter(|part| !part.is_empty() && *part != ".")
        .collect();
    if parts.contains(&"..") {
        return Err(Error::usage(format!(
            "{text} is no path of a cgroup; give it without \"..\""
        )));
    }
    Ok(format!("/{}", parts.join("/")))
}

fn find(system: &System, path: &str, name: &str, found: &mut Vec<String>) -> Result<()> {
    for below in system::directories(&system.mirror_of(path))? {
        let path = join(path, &below);
        if below == name {
            found.push(path.clone());
        }
        find(system, &path, name, found)?;
    }
    Ok(())
}
