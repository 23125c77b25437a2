#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0
"""Whether results of `make bench` are nonsense; called by tools/test-bench in the tool root.

bench_check.py FOLDER: looks at a report on small-write under all kinds of modes. Then it spoils the results in one way after the
other, as a broken driver, parser or kernel would: each must be noticed, or the check itself is worth nothing.
"""

import copy
import json
import os
import sys

MODES = "absent off tracked-300 tracked-50 soft-dirty-50 pagemap-scan-50".split()
# 8 MiB, all of which is written.
PAGES = 2048


def nonsense(results, folder):
    """What cannot be, in a sentence each."""
    rows = {row["mode"]: row for row in results["rows"]}
    if sorted(rows) != sorted(MODES) or len(results["rows"]) != len(MODES):
        return [f"rows are there for {sorted(rows)}"]
    wrong = []

    def must(holds, text):
        if not holds:
            wrong.append(text)

    cost = {mode: row["figures"]["slowdown"] for mode, row in rows.items()}
    must(cost["absent"] == 1, "what all are compared with is not 1")
    must(abs(cost["off"] - 1) < 0.005, f"off costs {cost['off']}")
    must(all(row["units"] > 1 and row["ns"] > 10**6 for row in rows.values()), "a window is empty")
    # It is known not to be free, and not to be as bad as write protection.
    must(1 < cost["tracked-300"] < cost["tracked-50"] < 2, f"tracked costs {cost['tracked-300']} and {cost['tracked-50']}")
    for ms in (300, 50):
        row = rows[f"tracked-{ms}"]
        of = row["figures"]
        # Not much more often than asked for. A window ends with an epoch, and a busy machine may keep that one waiting.
        must(row["epochs"] >= 1 and 0.7 * ms * 10**6 < row["ns"] / row["epochs"] < 5 * ms * 10**6, f"{row['epochs']} epochs in {row['ns']} ns")
        must(row["scanned"] >= PAGES * row["epochs"], f"{row['scanned']} entries looked at")
        if ms > 250:
            must(row["first"]["copied"] >= PAGES and row["replica"] >= PAGES * 4096, "not all pages were copied")
        else:
            # What is always written is never copied there.
            must(row["first"]["deferred"] >= PAGES and row["replica"] < PAGES * 4096, "pages were copied that never rest")
        must(row["protected"] >= PAGES, f"{row['protected']} pages are protected")
        # All of it is written all the time.
        must(row["coverage"]["mean"] < 500_000 and row["coverage"]["samples"] > 0, f"coverage {row['coverage']}")
        must(0 < of["worker"] < 0.5, f"the thread takes {of['worker']}")
        # What the thread takes is what it costs, all but what it does to caches and the TLB.
        must(abs((of["slowdown"] - 1) - of["worker"] / (1 - of["worker"])) < 0.02, f"{of['slowdown']} with a thread of {of['worker']}")
        must(abs(sum(of["parts"].values()) - of["worker"]) < 1e-9 and sum(row["parts"].values()) > 5, f"parts {row['parts']}")
        must(row["parts"]["scan"] + row["parts"]["flush"] > 0, f"parts {row['parts']}")
    for peer in ("soft-dirty-50", "pagemap-scan-50"):
        row = rows[peer]
        must(row["copied"] >= 0.9 * PAGES * row["rounds"], f"{peer} has copied {row['copied']}")
        must(cost[peer] > cost["tracked-50"], f"{peer} costs {cost[peer]}")
    on = results["machines"][rows["off"]["on"]]["machine"]
    must(all(on.get(key) for key in ("cpu", "cpus", "qemu", "kernel", "kmirror", "memory_mib")), f"the machine is {on}")
    must(1e8 < on["hashed_bytes_per_s"] < on["memcpy_bytes_per_s"] * 1.2 < 1e12, "pages are copied faster than can be")
    for name in ("slowdown", "coverage"):
        for kind, head in (("svg", b"<?xml"), ("png", b"\x89PNG")):
            path = f"{folder}/{name}.{kind}"
            picture = b""
            if os.path.exists(path):
                with open(path, "rb") as file:
                    picture = file.read()
            must(picture.startswith(head) and len(picture) > 4000, f"there is no picture {path}")
    with open(f"{folder}/table.txt", encoding="utf-8") as file:
        table = file.read()
    must(all(f"{mode:<17}{cost[mode]:>9.4f}" in table for mode in MODES[1:]), "the table has other figures")
    return wrong


def row(results, mode):
    return next(row for row in results["rows"] if row["mode"] == mode)


def spoil(results, mode, **keys):
    of = row(results, mode)
    for key, value in keys.items():
        target = of["figures"] if key in of["figures"] else of
        target[key] = value


# Each makes of good results what something broken would have left.
SPOILED = {
    "a mode is missing": lambda r: r["rows"].pop(),
    "a row is there twice": lambda r: r["rows"].append(r["rows"][-1]),
    "off is as dear as an epoch": lambda r: spoil(r, "off", slowdown=1.02),
    "off is faster than nothing": lambda r: spoil(r, "off", slowdown=0.98),
    "protection costs nothing": lambda r: spoil(r, "tracked-300", slowdown=1.0),
    "more epochs cost less": lambda r: spoil(r, "tracked-50", slowdown=1.0001),
    "the window is empty": lambda r: spoil(r, "absent", units=0),
    "no epoch ran": lambda r: spoil(r, "tracked-300", epochs=0),
    "the clock is another": lambda r: spoil(r, "tracked-50", ns=row(r, "tracked-50")["ns"] // 8),
    "the thread has not been found": lambda r: spoil(r, "tracked-50", worker=0.0),
    "the walk looked at half": lambda r: spoil(r, "tracked-50", scanned=row(r, "tracked-50")["scanned"] // 2),
    "what never rests is copied": lambda r: spoil(r, "tracked-50", replica=PAGES * 4096),
    "no page has a replica": lambda r: spoil(r, "tracked-300", replica=0),
    "what is dirty counts as covered": lambda r: row(r, "tracked-50")["coverage"].update(mean=990_000),
    "nothing was sampled": lambda r: row(r, "tracked-50")["parts"].update(dict.fromkeys(row(r, "tracked-50")["parts"], 0)),
    "symbols are not found": lambda r: row(r, "tracked-50")["parts"].update(scan=0, flush=0, rest=10**6),
    "the other tracker tracks nothing": lambda r: row(r, "soft-dirty-50").update(copied=1),
    "the machine is unknown": lambda r: r["machines"][row(r, "off")["on"]]["machine"].pop("cpu"),
    "the table is of another run": lambda r: spoil(r, "tracked-50", slowdown=row(r, "tracked-50")["figures"]["slowdown"] + 0.001),
}


def main(folder):
    with open(f"{folder}/results.json", encoding="utf-8") as file:
        results = json.load(file)
    failed = 0
    wrong = nonsense(results, folder)
    for text in wrong:
        print(f"not ok  bench: {text}")
        failed += 1
    if not failed:
        print("ok      bench: small-write under all modes, and the report")
        for name, change in SPOILED.items():
            spoiled = copy.deepcopy(results)
            change(spoiled)
            if nonsense(spoiled, folder):
                print(f"ok      bench: noticed: {name}")
            else:
                print(f"not ok  bench: not noticed: {name}")
                failed += 1
    print(f"{1 - bool(wrong) + (0 if wrong else len(SPOILED)) - (0 if wrong else failed)} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
