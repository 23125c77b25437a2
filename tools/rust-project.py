#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""rust-project.py KBUILD: adds the crates of an out-of-tree Kbuild file to the kernel's rust-project.json (stdin to stdout).

The kernel's generator knows modules of one crate each. Here a Rust object of KBUILD is a crate; its name and the crates
that it uses are read from the flags it is compiled with (--crate-name, --extern in RUSTFLAGS_<object>).
"""

import json
import pathlib
import re
import sys

USED_BY_MODULES = ["core", "kernel", "pin_init", "zerocopy", "zerocopy_derive"]


def crates_of(kbuild):
    """Yields (name, source file, names of crates used), those that are used by others first."""
    text = kbuild.read_text().replace("\\\n", " ")
    flags = dict(re.findall(r"^RUSTFLAGS_(\S+?)\.o\s*[:+]?=\s*(.*)$", text, re.MULTILINE))
    found = {}
    for stem in dict.fromkeys(re.findall(r"([\w./-]+)\.o\b", text)):
        stem = stem.removeprefix("RUSTFLAGS_").removeprefix("$(obj)/")
        source = kbuild.parent / (stem + ".rs")
        if source.exists() and not source.with_suffix(".c").exists():
            own = flags.get(stem, "")
            name = re.search(r"--crate-name[ =](\w+)", own)
            name = name[1] if name else source.stem
            found[name] = (source, re.findall(r"--extern[ =](\w+)", own))
    while found:
        ready = [name for name, (_, uses) in found.items() if not any(use in found for use in uses)]
        for name in ready or list(found):
            source, uses = found.pop(name)
            yield name, source, uses


def main():
    project = json.load(sys.stdin)
    crates = project["crates"]
    index = {crate["display_name"]: i for i, crate in enumerate(crates)}
    kernel = crates[index["kernel"]]
    for name, source, uses in crates_of(pathlib.Path(sys.argv[1]).resolve()):
        known = [use for use in USED_BY_MODULES + uses if use in index]
        crates.append(
            {
                "display_name": name,
                "root_module": str(source),
                "is_workspace_member": True,
                "is_proc_macro": False,
                "deps": [{"crate": index[use], "name": use} for use in dict.fromkeys(known)],
                "cfg": kernel["cfg"] + ["MODULE"],
                "edition": "2021",
                "env": {"RUST_MODFILE": "kmirror"},
            }
        )
        index[name] = len(crates) - 1
    json.dump(project, sys.stdout, sort_keys=True, indent=4)


if __name__ == "__main__":
    main()
