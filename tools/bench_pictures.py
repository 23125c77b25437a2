# SPDX-License-Identifier: GPL-2.0
"""The pictures of `make bench`, as SVG and PNG."""

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402  (the backend has to be chosen before)

from bench_figures import KMEMVISOR, ORDER, epoch  # noqa: E402

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
OTHER_COLOUR = "#777777"


def ordered(names):
    """As in the table; those that it does not know at the end."""
    return [name for name in ORDER if name in names] + sorted(set(names) - set(ORDER))


def interval(mode):
    """Greater for what costs more. Other trackers are in the table: beside bars of 100 % and more one could not see ours."""
    if mode == "off":
        return 0
    kind, _, ms = mode.partition("-")
    return 1 / int(ms) if kind == "tracked" else None


def save(figure, folder, name):
    figure.tight_layout()
    # Nothing in them that differs from run to run but the figures.
    figure.savefig(f"{folder}/{name}.svg", metadata={"Date": None, "Creator": "tools/bench_pictures.py"})
    figure.savefig(f"{folder}/{name}.png", dpi=110, metadata={"Software": "tools/bench_pictures.py"})
    plt.close(figure)
    path = f"{folder}/{name}.svg"
    with open(path, encoding="utf-8") as file:
        head, rest = file.read().split("\n", 1)
    with open(path, "w", encoding="utf-8") as file:
        file.write(f"{head}\n<!-- SPDX-License-Identifier: GPL-2.0 -->\n{rest}")


def bar(axes, at, height, cost, colour, digits):
    axes.barh(at, max(0, cost), height, color=colour)
    axes.text(max(0, cost) + 0.4, at, f"{cost:.{digits}f}", va="center", fontsize=6, color=colour if digits == 0 else "black")


def slowdowns(summary, folder):
    """Bars, with kMemvisor's figure beside them."""
    by = {(row["workload"], row["mode"]): row["figures"]["slowdown"] for row in summary}
    by = {key: cost for key, cost in by.items() if cost and interval(key[1]) is not None and key[0].split("-")[0] not in ("scale", "shared", "reread")}
    names = ordered({name for name, _ in by})
    if not names:
        return
    series = sorted({mode for _, mode in by}, key=interval)
    figure, axes = plt.subplots(figsize=(9, 1.4 + 0.52 * len(names)))
    height = 0.8 / (len(series) + 1)
    for index, name in enumerate(names):
        for line, mode in enumerate(series):
            if by.get((name, mode)):
                bar(axes, index + (line - len(series) / 2) * height, height, 100 * (by[name, mode] - 1), COLOURS.get(mode, OTHER_COLOUR), 1)
        if name in KMEMVISOR:
            at = index + (len(series) - len(series) / 2) * height
            bar(axes, at, height, 100 * (KMEMVISOR[name] - 1), KMEMVISOR_COLOUR, 0)
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.set_xlabel("slower by, in per cent of instructions (one CPU, a copy counted byte by byte)")
    axes.set_title("What protection costs")
    handles = [plt.Rectangle((0, 0), 1, 1, color=COLOURS.get(mode, OTHER_COLOUR)) for mode in series]
    handles.append(plt.Rectangle((0, 0), 1, 1, color=KMEMVISOR_COLOUR))
    axes.legend(handles, [*series, "kMemvisor, as it reported"], loc="lower right", fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    save(figure, folder, "slowdown")


def coverages(summary, folder):
    """Coverage against the interval."""
    figure, axes = plt.subplots(figsize=(8, 4.5))
    covered = [row for row in summary if "coverage" in row["figures"] and row["workload"].split("-")[0] not in ("scale", "shared", "reread")]
    for name in ordered({row["workload"] for row in covered}):
        points = sorted(
            (row["interval_ms"], 100 * row["figures"]["coverage"])
            for row in covered
            if row["workload"] == name
        )
        if len(points) > 1:
            axes.plot([p[0] for p in points], [p[1] for p in points], "o-", markersize=4, linewidth=1, label=name)
    if axes.lines:
        axes.set_xscale("log")
        axes.set_xlabel("interval, ms of 10⁶ instructions")
        axes.set_ylabel("coverage, mean over time, %")
        axes.set_ylim(0, 102)
        axes.set_title("How much would survive")
        axes.legend(fontsize=6, loc="center left", bbox_to_anchor=(1, 0.5))
        axes.spines[["top", "right"]].set_visible(False)
        save(figure, folder, "coverage")
    plt.close(figure)


def sizes(rows, folder):
    """What an epoch costs, against what is protected, with the same 64 MiB being written."""
    names = sorted({int(workload[6:]) for workload, *_ in rows if workload.startswith("scale-")})
    points = [(mib / 1024, epoch(rows, f"scale-{mib}")) for mib in names]
    points = [(gib, cost / 1e6) for gib, cost in points if cost]
    if len(points) < 2:
        return
    figure, axes = plt.subplots(figsize=(7, 4.2))
    axes.plot([p[0] for p in points], [p[1] for p in points], "o-", color=COLOURS["tracked-1000"], label="measured")
    axes.axhline(1.2 * dict(points).get(1, points[0][1]), color=KMEMVISOR_COLOUR, linestyle=":", label="1.2 × that of 1 GiB")
    for gib, cost in points:
        axes.annotate(f"{cost:.2f}", (gib, cost), textcoords="offset points", xytext=(0, 7), ha="center", fontsize=7)
    axes.set_xscale("log", base=2)
    axes.set_xticks([p[0] for p in points], [f"{p[0]:g}" for p in points])
    axes.set_ylim(0, 1.15 * max(p[1] for p in points))
    axes.set_xlabel("protected, GiB; 64 MiB of it are written all the time")
    axes.set_ylabel("an epoch, 10⁶ instructions")
    axes.set_title("Cost against size")
    axes.legend(fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    save(figure, folder, "size")


def draw(rows, summary, folder):
    # The same picture has the same names inside.
    plt.rcParams["svg.hashsalt"] = "kmirror"
    plt.rcParams["svg.fonttype"] = "none"
    counted = [row for row in summary if row["clock"] == "instructions" and row["run"] == 0]
    slowdowns(counted, folder)
    coverages(counted, folder)
    sizes(rows, folder)
