#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0
"""The results of `make bench`: tables, JSON and pictures; called by tools/bench in the bench root.

bench_report.py FOLDER DOCUMENT RESULTS...: rows of later results take the place of the same rows of earlier ones. What became
of the targets is written into DOCUMENT too, if that is not empty.
"""

import json
import os
import statistics
import sys

import bench_pictures
from bench_figures import KMEMVISOR, ORDER, Targets, cost, figures, spread

MARKS = ("<!-- targets -->\n", "<!-- /targets -->\n")


def stay_with_bases(rows):
    """Each row keeps what it is compared with: the same boot's, whatever rows of other boots are merged with it."""
    bases = {(of["workload"], of["clock"], of["run"]): cost(of) for of in rows if of["mode"] == "absent"}
    for of in rows:
        of.setdefault("base", bases.get((of["workload"], of["clock"], of["run"])))


def merge(files):
    """All rows, by workload, mode, clock and run; all probes, by name and clock; with the machine each was measured on."""
    rows, probes, machines = {}, {}, []
    for name in files:
        with open(name, encoding="utf-8") as file:
            results = json.load(file)
        here = results.get("machines") or ([{key: results[key] for key in ("machine", "settings")}] if "machine" in results else [])
        # Of the first results there is no machine, and rows did not say by which clock.
        if not here:
            continue
        # In their order: the last is the latest.
        machines += [on for on in here if on not in machines]
        stay_with_bases(results["rows"])
        # All runs of what was measured again.
        again = {(of["workload"], of["mode"], of["clock"]) for of in results["rows"]}
        rows = {key: of for key, of in rows.items() if key[:3] not in again}
        for of in results["rows"] + results["probes"]:
            of["on"] = machines.index(here[of.pop("on", 0)])
            of.pop("figures", None)
            if "probe" in of:
                probes[of["probe"], of["clock"]] = of
            else:
                rows[of["workload"], of["mode"], of["clock"], of["run"]] = of
    # Those that nothing refers to any more are left out.
    used = sorted({of["on"] for of in [*rows.values(), *probes.values()]})
    for of in [*rows.values(), *probes.values()]:
        of["on"] = used.index(of["on"])
    return rows, probes, [machines[on] for on in used]


def place(row):
    """Where a row is in the table."""
    workload, mode = row["workload"], row["mode"]
    known = ORDER.index(workload) if workload in ORDER else len(ORDER)
    rank = {"absent": 0, "off": 1}.get(mode, 2)
    interval = -int(mode.rsplit("-", 1)[1]) if rank == 2 else 0
    size = [int(word) for word in workload.split("-") if word.isdigit()]
    return row["clock"], known, workload.rstrip("0123456789"), size, rank, interval, mode, row["run"]


def percent(share, width, digits=2):
    return f"{100 * share:>{width}.{digits}f}" if share is not None else " " * width


def counted(summary):
    """The table of what was measured in instructions, for people."""
    head = f"{'workload':<18}{'mode':<17}{'slowdown':>9}{'kMemvisor':>10}{'thread':>8}"
    head += f"{'scan':>7}{'flush':>7}{'begin':>7}{'copy':>7}{'hash':>7}{'sweep':>7}{'books':>7}{'rest':>7}{'memcpy':>8}"
    lines = [head + f"{'copied':>8}{'coverage':>10}{'worst':>9}{'replicas':>10}"]
    lines.append(f"{'':<54}{'of an epoch, %':>72}{'/epoch':>8}{'%':>10}{'%':>9}{'MiB':>10}")
    for row in summary:
        of = row["figures"]
        if row["mode"] == "absent" or row["clock"] != "instructions" or row["run"] > 0:
            continue
        slow = f"{of['slowdown']:.4f}" if of["slowdown"] else "-"
        theirs = f"{KMEMVISOR[row['workload']]:.2f}" if row["workload"] in KMEMVISOR and "tracked" in row["mode"] else ""
        line = f"{row['workload']:<18}{row['mode']:<17}{slow:>9}{theirs:>10}{percent(of.get('worker'), 8)}"
        parts = of.get("parts", {})
        names = ("scan", "flush", "begin", "copy", "hash", "sweep", "accounts", "rest")
        line += "".join(percent(parts.get(name), 7) for name in names) + percent(of.get("memcpy"), 8)
        if "copied" in of:
            line += f"{of['copied']:>8.0f}"
        if "coverage" in of:
            line += f"{percent(of['coverage'], 10, 3)}{percent(of['worst'], 9, 3)}{of['replica_mib']:>10.1f}"
        lines.append(line.rstrip())
    return lines


def repeated(rows, by):
    """The table of what was measured more than once, by the clock or in instructions: ratios only."""
    modes = sorted({mode for _, mode, clock, _ in rows if clock == by and mode != "absent"})
    digits, name = (3, "by the clock") if by == "wall" else (4, "instructions")
    lines = []
    for workload in ORDER:
        for mode in modes:
            of = spread(rows, workload, mode, by)
            if of and (of[3] > 1 or by == "wall"):
                median, least, most, runs = of
                lines.append(f"{workload:<18}{mode:<17}{median:>9.{digits}f}   from {least:.{digits}f} to {most:.{digits}f} in {runs} runs")
    return [f"{'workload':<18}{'mode':<17}{'slowdown':>9}   {name}: median of the runs, least and greatest", *lines] if lines else []


def probed(probes):
    """What was measured apart, in a line each."""
    lines = []
    for (name, clock), of in sorted(probes.items()):
        found = of["found"]
        unit = "instructions" if clock == "instructions" else "ns"
        if name == "restore":
            one, other = (statistics.median(found[key]["elapsed_ns"]) for key in ("restore", "soft_offline"))
            lines.append(f"a restore {one:.0f} {unit}, soft_offline_page() {other:.0f}: {one / other:.3f}")
        elif name == "copy":
            mine, theirs = (statistics.median(times) / found["pages"] for times in (found["copy_ns"], found["memcpy"]["elapsed_ns"]))
            lines.append(f"a page copied {mine:.0f} {unit}, by memcpy() in a program {theirs:.0f}: {mine / theirs:.3f}")
        elif name == "metadata":
            lines.append(f"bytes for a slot {found['slot_bytes']:.1f}, and for each page besides {found['index_bytes']:.1f}")
    return lines


def write(folder, name, lines):
    with open(f"{folder}/{name}", "w", encoding="utf-8") as file:
        file.write("\n".join(lines) + "\n")


def document(path, targets):
    """Puts the targets between their marks."""
    with open(path, encoding="utf-8") as file:
        before, rest = file.read().split(MARKS[0], 1)
    after = rest.split(MARKS[1], 1)[1]
    met = {True: "met", False: "**missed**", None: "-"}
    lines = ["", "| what | target | measured | | kmirror |", "|---|---|---|---|---|"]
    lines += [f"| {of['what']} | {of['target']} | {of['measured']} | {met[of['met']]} | {of.get('kmirror', '')} |" for of in targets]
    with open(path, "w", encoding="utf-8") as file:
        file.write(before + MARKS[0] + "\n".join(lines) + "\n\n" + MARKS[1] + after)


def main(folder, path, files):
    rows, probes, machines = merge(files)
    summary = [rows[key] | {"figures": figures(rows, rows[key], machines[rows[key]["on"]]["machine"])} for key in rows]
    summary.sort(key=place)
    targets = Targets(rows, probes, machines).list
    os.makedirs(folder, exist_ok=True)
    with open(f"{folder}/results.json", "w", encoding="utf-8") as file:
        results = {"machines": machines, "targets": targets, "probes": list(probes.values()), "rows": summary}
        json.dump(results, file, indent=1)
        file.write("\n")
    lines = counted(summary)
    for more in (repeated(rows, "instructions"), repeated(rows, "wall"), probed(probes)):
        lines += ["", *more] if more else []
    write(folder, "table.txt", lines)
    print("\n".join(lines))
    if path:
        document(path, targets)
    bench_pictures.draw(rows, summary, folder)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3:])
