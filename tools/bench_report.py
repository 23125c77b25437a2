#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0
"""The results of `make bench`: a table, JSON and pictures; called by tools/bench in the bench root.

bench_report.py FOLDER RESULTS...: rows of later results take the place of the same rows of earlier ones.
"""

import json
import os
import sys

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402  (the backend has to be chosen before)

# What kMemvisor reported for its nearest row (HPDC 2013, slides): "no overhead", 33 %, 55 %, usertests 43 %, commands 5 %,
# thttpd at most 10 %, SQLite about double, compilation 6 %.
KMEMVISOR = {
    "seq-read": 1.0,
    "seq-write": 1.33,
    "stress-write": 1.55,
    "suite": 1.43,
    "commands": 1.05,
    "nginx": 1.10,
    "sqlite-create": 2.0,
    "sqlite-insert": 2.0,
    "sqlite-select": 2.0,
    "sqlite-update": 2.0,
    "sqlite-delete": 2.0,
    "compile": 1.06,
}
# In the order of the table.
ORDER = (
    "seq-read seq-write stress-write moving-write suite commands sqlite-create sqlite-insert sqlite-select sqlite-update "
    "sqlite-delete nginx compile redis redis-read redis-bgsave pgbench caddy stress-ng"
).split()
COLOURS = {
    "off": "#9bb7a5",
    "tracked-1000": "#3a8f5c",
    "tracked-100": "#e3a23a",
    "pagemap-scan-1000": "#7aa6c2",
    "pagemap-scan-100": "#2f6690",
    "soft-dirty-1000": "#b9a7d0",
    "soft-dirty-100": "#6b4e9b",
}
KMEMVISOR_COLOUR = "#8c2d3f"


def merge(files):
    """All rows, by workload and mode; with the machine that each was measured on."""
    rows = {}
    for name in files:
        with open(name, encoding="utf-8") as file:
            results = json.load(file)
        for row in results["rows"]:
            row.setdefault("on", results.get("machine"))
            row.setdefault("settings", results.get("settings"))
            rows[row["workload"], row["mode"]] = row
    return rows


def place(key):
    """Where a row is in the table."""
    workload, mode = key
    known = ORDER.index(workload) if workload in ORDER else len(ORDER)
    rank = {"absent": 0, "off": 1}.get(mode, 2)
    return known, workload, rank, -int(mode.rsplit("-", 1)[1]) if rank == 2 else 0, mode


def figures(row, base):
    """What the table says of a row."""
    result = {"slowdown": row["ns"] / row["units"] / base if base else None}
    if "coverage" in row:
        # Copies count many instructions for what a real CPU does in one: what the same bytes cost in memcpy().
        copied = row["copied"] * 4096
        bandwidth = row["on"]["memcpy_bytes_per_s"] if "memcpy_bytes_per_s" in row["on"] else None
        result |= {
            "worker": row["worker_ns"] / row["ns"],
            "memcpy": copied / bandwidth * 1e9 / row["ns"] if bandwidth else None,
            "scan": row["split"]["scan_ns"] / max(1, row["split"]["epochs"]) / (row["interval_ms"] * 1e6),
            "copy": row["split"]["copy_ns"] / max(1, row["split"]["epochs"]) / (row["interval_ms"] * 1e6),
            "copied": row["copied"] / max(1, row["epochs"]),
            "coverage": row["coverage"]["mean"] / 1e6,
            "worst": row["coverage"]["worst"] / 1e6,
            "replica": row["replica"] / 2**20,
        }
    elif "rounds" in row:
        result |= {"worker": row["worker_ns"] / row["ns"], "copied": row["copied"] / max(1, row["rounds"])}
    return result


def summary(rows):
    out = []
    for key in sorted(rows, key=place):
        row = rows[key]
        base = rows.get((row["workload"], "absent"))
        out.append(row | {"figures": figures(row, base and base["ns"] / base["units"])})
    return out


def table(rows):
    """For people."""
    head = f"{'workload':<15}{'mode':<14}{'slowdown':>10}{'kMemvisor':>10}{'thread':>9}{'scan':>8}{'copy':>8}{'memcpy':>8}"
    lines = [head + f"{'copied':>8}{'coverage':>10}{'worst':>9}{'replicas':>10}"]
    lines.append(f"{'':<49}{'':>9}{'of an epoch, %':>24}{'/epoch':>8}{'%':>10}{'%':>9}{'MiB':>10}")
    for row in rows:
        of = row["figures"]
        if row["mode"] == "absent":
            continue
        slow = f"{of['slowdown']:.4f}" if of["slowdown"] else "-"
        theirs = f"{KMEMVISOR[row['workload']]:.2f}" if row["workload"] in KMEMVISOR and "tracked" in row["mode"] else ""
        line = f"{row['workload']:<15}{row['mode']:<14}{slow:>10}{theirs:>10}"
        if "coverage" in of:
            native = f"{100 * of['memcpy']:.2f}" if of["memcpy"] is not None else "-"
            line += f"{100 * of['worker']:>9.2f}{100 * of['scan']:>8.2f}{100 * of['copy']:>8.2f}{native:>8}{of['copied']:>8.0f}"
            line += f"{100 * of['coverage']:>10.3f}{100 * of['worst']:>9.3f}{of['replica']:>10.1f}"
        elif "worker" in of:
            line += f"{100 * of['worker']:>9.2f}{'':>24}{of['copied']:>8.0f}"
        lines.append(line.rstrip())
    return "\n".join(lines) + "\n"


def save(figure, folder, name):
    figure.tight_layout()
    # Nothing in them that differs from run to run but the figures.
    figure.savefig(f"{folder}/{name}.svg", metadata={"Date": None, "Creator": "tools/bench_report.py"})
    figure.savefig(f"{folder}/{name}.png", dpi=110, metadata={"Software": "tools/bench_report.py"})
    plt.close(figure)
    path = f"{folder}/{name}.svg"
    with open(path, encoding="utf-8") as file:
        head, rest = file.read().split("\n", 1)
    with open(path, "w", encoding="utf-8") as file:
        file.write(f"{head}\n<!-- SPDX-License-Identifier: GPL-2.0 -->\n{rest}")


def slowdowns(rows, folder):
    """Bars, with kMemvisor's figure beside them."""
    by = {(row["workload"], row["mode"]): row["figures"]["slowdown"] for row in rows}
    names = [name for name in ORDER if any(work == name and mode != "absent" and cost for (work, mode), cost in by.items())]
    if not names:
        return
    series = [mode for mode in COLOURS if any((name, mode) in by for name in names)]
    figure, axes = plt.subplots(figsize=(9, 0.9 + 0.52 * len(names)))
    height = 0.8 / (len(series) + 1)
    for index, name in enumerate(names):
        for line, mode in enumerate(series):
            cost = by.get((name, mode))
            if cost:
                at = index + (line - len(series) / 2) * height
                axes.barh(at, 100 * (cost - 1), height, color=COLOURS[mode], label=mode if index == 0 else None)
                axes.text(max(0, 100 * (cost - 1)) + 0.4, at, f"{100 * (cost - 1):.1f}", va="center", fontsize=6)
        if name in KMEMVISOR:
            at = index + (len(series) - len(series) / 2) * height
            cost = 100 * (KMEMVISOR[name] - 1)
            axes.barh(at, cost, height, color=KMEMVISOR_COLOUR, label="kMemvisor, as it reported" if index == 0 else None)
            axes.text(cost + 0.4, at, f"{cost:.0f}", va="center", fontsize=6, color=KMEMVISOR_COLOUR)
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.set_xlabel("slower by, in per cent of instructions (one CPU, a copy counted byte by byte)")
    axes.set_title("What protection costs")
    # The first row need not have all of them.
    handles = [plt.Rectangle((0, 0), 1, 1, color=COLOURS[mode]) for mode in series]
    handles.append(plt.Rectangle((0, 0), 1, 1, color=KMEMVISOR_COLOUR))
    axes.legend(handles, [*series, "kMemvisor, as it reported"], loc="upper center", bbox_to_anchor=(0.5, -0.16 - 0.5 / len(names)), ncols=3, fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    save(figure, folder, "slowdown")


def coverages(rows, folder):
    """Coverage against the interval."""
    figure, axes = plt.subplots(figsize=(8, 4.5))
    drawn = False
    for name in ORDER:
        points = sorted(
            (row["interval_ms"], 100 * row["figures"]["coverage"], 100 * row["figures"]["worst"])
            for row in rows
            if row["workload"] == name and "coverage" in row["figures"]
        )
        if len(points) > 1:
            drawn = True
            axes.plot([p[0] for p in points], [p[1] for p in points], "o-", markersize=4, linewidth=1, label=name)
    if drawn:
        axes.set_xscale("log")
        axes.set_xlabel("interval, ms of 10⁶ instructions")
        axes.set_ylabel("coverage, mean over time, %")
        axes.set_ylim(0, 102)
        axes.set_title("How much would survive")
        axes.legend(fontsize=6, loc="center left", bbox_to_anchor=(1, 0.5))
        axes.spines[["top", "right"]].set_visible(False)
        save(figure, folder, "coverage")
    else:
        plt.close(figure)


def main(folder, files):
    # The same picture has the same names inside.
    plt.rcParams["svg.hashsalt"] = "kmirror"
    plt.rcParams["svg.fonttype"] = "none"
    rows = summary(merge(files))
    os.makedirs(folder, exist_ok=True)
    with open(f"{folder}/results.json", "w", encoding="utf-8") as file:
        json.dump({"rows": rows}, file, indent=1)
        file.write("\n")
    text = table(rows)
    with open(f"{folder}/table.txt", "w", encoding="utf-8") as file:
        file.write(text)
    print(text, end="")
    slowdowns(rows, folder)
    coverages(rows, folder)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
