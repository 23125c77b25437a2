# SPDX-License-Identifier: GPL-2.0
"""What the results of `make bench` come to: slowdowns, shares, slopes, and the targets beside what was measured."""

import statistics

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
    "sqlite-delete nginx compile redis redis-read redis-bgsave pgbench caddy stress-ng nginx-256 sqlite-select-256 redis-read-256"
).split()
PAGE = 4096
# Programs that are to cost next to nothing.
PROGRAMS = [name for name in ORDER if name.startswith(("sqlite-", "nginx")) or name in ("compile", "suite", "commands")]


def cost(row):
    """Instructions, or nanoseconds, for a unit of work."""
    return row["ns"] / row["units"]


def slowdown(row):
    """Against the same work without kmirror, in the same boot and run."""
    return cost(row) / row["base"] if row["base"] else None


def spread(rows, workload, mode, clock):
    """The slowdowns of all runs: median, least and greatest, and how many there are."""
    runs = [slowdown(row) for row in rows.values() if (row["workload"], row["mode"], row["clock"]) == (workload, mode, clock)]
    runs = [run for run in runs if run]
    return (statistics.median(runs), min(runs), max(runs), len(runs)) if runs else None


def typical(rows, workload, mode, clock="instructions"):
    """The median of the slowdowns of all runs."""
    of = spread(rows, workload, mode, clock)
    return of[0] if of else None


def figures(rows, row, machine):
    """What the table says of a row. The rest is of this run, but the slowdown is that of all."""
    result = {"slowdown": typical(rows, row["workload"], row["mode"], row["clock"])}
    if "worker_ns" in row:
        result["worker"] = row["worker_ns"] / row["ns"]
        result["copied"] = row["copied"] / max(1, row["epochs"] if "epochs" in row else row["rounds"])
    if "parts" in row:
        # The shares of a window that was watched, of the time of one that was not.
        whole = sum(row["parts"].values())
        result["parts"] = {name: result["worker"] * part / max(1, whole) for name, part in row["parts"].items()}
        # Copies count many instructions for what a real CPU does in one: what the same bytes cost in memcpy().
        result["memcpy"] = row["copied"] * PAGE / machine["memcpy_bytes_per_s"] * 1e9 / row["ns"]
    if "coverage" in row:
        result["coverage"] = row["coverage"]["mean"] / 1e6
        result["worst"] = row["coverage"]["worst"] / 1e6
        result["replica_mib"] = row["replica"] / 2**20
    return result


def epoch(rows, workload, mode="tracked-1000", what="worker_ns"):
    """Instructions of the mirror's thread for an epoch, or what else its row counts."""
    row = rows.get((workload, mode, "instructions", 0))
    return row[what] / max(1, row["epochs"]) if row else None


def slopes(rows):
    """Instructions for a clean PTE that is looked at, and to pass over 2 MiB that nobody has touched.

    Of three programs, two have 64 MiB and touch half of it, or all; the third touches as much of 512 MiB. So the second differs
    from them by the PTEs that are looked at, which are counted (those of a page table that has its turn, too), and by 16 page
    tables, or 224, that are passed over: two equations.
    """
    names = [f"reread-{touched}-{mib}" for touched, mib in ((32, 64), (64, 64), (64, 512))]
    costs = [epoch(rows, name, "tracked-10") for name in names]
    ptes = [epoch(rows, name, "tracked-10", "scanned") for name in names]
    if None in costs:
        return None, None
    (cost, more_cost), (looks, more_looks) = ((of[1] - of[0], of[2] - of[1]) for of in (costs, ptes))
    pte = (14 * cost + more_cost) / (14 * looks + more_looks)
    return pte, (more_cost - more_looks * pte) / 224


class Targets:
    """What was promised, what was measured, and whether that is good enough."""

    def __init__(self, rows, probes, machines):
        self.rows, self.machines = rows, machines
        self.probes = {key: of["found"] for key, of in probes.items()}
        self.at = {key: of["on"] for key, of in probes.items()}
        self.machine = machines[-1]["machine"] if machines else None
        self.list = []
        self.costs()
        self.coverages()
        self.parts()

    def add(self, what, limit, measured, good, unit="{:.3f}", on=None):
        """One of them; `good` is asked only of what was measured. `on`: with which machine and kmirror that was."""
        of = {"what": what, "target": limit, "measured": "not measured", "met": None}
        if measured is not None:
            kmirror = self.machines[-1 if on is None else on]["machine"]["kmirror"]
            of |= {"measured": unit.format(measured), "value": measured, "met": bool(good(measured)), "kmirror": kmirror}
        self.list.append(of)

    def row(self, workload, mode):
        return self.rows.get((workload, mode, "instructions", 0))

    def ratio(self, workload, mode):
        return typical(self.rows, workload, mode)

    def on(self, workload, mode="tracked-1000"):
        row = self.row(workload, mode)
        return row and row["on"]

    def costs(self):
        limits = {"seq-read": (1.002, 1.002), "seq-write": (1.05, 1.15), "stress-write": (1.10, 1.25)}
        limits |= {name: (1.02, 1.06) for name in PROGRAMS}
        for workload, both in limits.items():
            for ms, limit in zip((1000, 100), both):
                measured = self.ratio(workload, f"tracked-{ms}")
                self.add(f"{workload}, {ms} ms", f"≤ {limit}", measured, lambda ratio, limit=limit: ratio <= limit, "{:.4f}", self.on(workload, f"tracked-{ms}"))
        off = [(self.ratio(name, "off") or 0, name) for name in ORDER]
        worst, name = max(off)
        self.add(f"off, the dearest ({name})", "≤ 1.001", worst or None, lambda ratio: ratio <= 1.001, "{:.4f}", self.on(name, "off"))

    def coverages(self):
        for workload in ("nginx", "nginx-256", "sqlite-select", "sqlite-select-256", "redis-read", "redis-read-256"):
            for ms, limit in ((1000, 99), (100, 99.9)):
                row = self.row(workload, f"tracked-{ms}")
                mean = row["coverage"]["mean"] / 1e4 if row else None
                on = self.on(workload, f"tracked-{ms}")
                self.add(f"coverage of {workload}, {ms} ms", f"≥ {limit} %", mean, lambda got, limit=limit: got >= limit, "{:.2f} %", on)

    def parts(self):
        for clock, where in (("instructions", "in instructions"), ("wall", "by the clock")):
            found = self.probes.get(("restore", clock))
            ratio = found and statistics.median(found["restore"]["elapsed_ns"]) / statistics.median(found["soft_offline"]["elapsed_ns"])
            on = self.at.get(("restore", clock))
            self.add(f"restore against soft_offline_page(), {where}", "≤ 1.3", ratio, lambda got: got <= 1.3, on=on)
        touched, untouched = slopes(self.rows)
        self.add("a clean, touched PTE", "≤ 20 instructions", touched, lambda got: got <= 20, "{:.1f}", self.on("reread-64-64", "tracked-10"))
        self.add("2 MiB that nobody touched, to pass over", "≤ 40 instructions", untouched, lambda got: got <= 40, "{:.0f}", self.on("reread-64-64", "tracked-10"))
        small, large = (epoch(self.rows, f"scale-{mib}") for mib in (1024, 8192))
        self.add("an epoch with 8 GiB against 1 GiB", "≤ 1.2", small and large and large / small, lambda got: got <= 1.2, "{:.2f}", self.on("scale-8192"))
        small, large = (epoch(self.rows, f"shared-{mib}") for mib in (1024, 4096))
        self.add("an epoch with 4 GiB of shared memory against 1 GiB", "≤ 1.2", small and large and large / small, lambda got: got <= 1.2, "{:.2f}", self.on("shared-4096"))
        known = self.machine and "hashed_bytes_per_s" in self.machine
        share = self.machine["hashed_bytes_per_s"] / self.machine["memcpy_bytes_per_s"] if known else None
        self.add("copy and hash of pages against memcpy(), on the machine itself", "≥ 0.9", share, lambda got: got >= 0.9)
        copies = self.probes.get(("copy", "wall"))
        share = copies and statistics.median(copies["memcpy"]["elapsed_ns"]) / statistics.median(copies["copy_ns"])
        self.add("replicas against memcpy(), in a guest, by the clock", "≥ 0.9", share, lambda got: got >= 0.9, on=self.at.get(("copy", "wall")))
        found = self.probes.get(("metadata", "instructions"))
        on = self.at.get(("metadata", "instructions"))
        size = found and found["slot_bytes"] + found["index_bytes"]
        self.add("metadata of a protected page", "≤ 32 bytes", size, lambda got: got <= 32, "{:.1f}", on)
        # The stack and heap of the program are not of one value.
        size = found and found["same_filled_replica_bytes"] / 2**20
        self.add("replicas of 64 MiB of same-filled pages", "none", size, lambda got: got < 1, "{:.1f} MiB", on)
