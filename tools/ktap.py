#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""ktap.py FILE: copies a KTAP stream from stdin to stdout as it comes and writes "passed failed skipped" to FILE.

Each result is counted once: a test that has subtests counts as these do, and by itself only if it failed although they
did not. A planned result that never came is a failure. Subtests may be indented, or be marked with "# " as kselftest does.
"""

import re
import sys

LINE = re.compile(r"^(?P<depth>(?:  |# )*)(?:(?P<not>not )?ok \d+(?P<rest>.*)|1\.\.(?P<plan>\d+)\s*(?P<why>#.*)?)$")


class Level:
    """Results seen at one depth since the last result of the depth above."""

    def __init__(self):
        self.plan = None
        self.results = 0
        self.failed = 0


def count(lines, out):
    passed = failed = skipped = 0
    levels = {}

    def close(depth):
        """Ends the levels deeper than depth; returns whether there were any, and how many failures they held."""
        nonlocal failed
        deeper = [levels.pop(d) for d in sorted(levels) if d > depth]
        missing = sum(max(0, level.plan - level.results) for level in deeper if level.plan is not None)
        failed += missing
        return bool(sum(level.results for level in deeper)), missing + sum(level.failed for level in deeper)

    for line in lines:
        out.write(line)
        out.flush()
        match = LINE.match(line.rstrip())
        if not match:
            continue
        depth = len(match["depth"]) // 2
        if match["plan"] is not None:
            levels.setdefault(depth, Level()).plan = int(match["plan"])
            continue
        had_subtests, below = close(depth)
        level = levels.setdefault(depth, Level())
        level.results += 1
        level.failed += below
        if match["not"]:
            if not below:
                failed += 1
                level.failed += 1
        elif not had_subtests:
            if re.search(r"#\s*SKIP\b", match["rest"], re.IGNORECASE):
                skipped += 1
            else:
                passed += 1
    close(-1)
    return passed, failed, skipped


def main():
    sys.stdin.reconfigure(errors="replace")
    result = count(sys.stdin, sys.stdout)
    with open(sys.argv[1], "w", encoding="ascii") as file:
        file.write("%d %d %d\n" % result)


if __name__ == "__main__":
    main()
