# SPDX-License-Identifier: GPL-2.0
"""The results of `make survival`: a table, JSON and a picture.

survival_report.py FOLDER: reports on the trials that have been made so far, also while more are.
"""

import json
import math
import re
import sys

# In the order of the table: the letter between guest and host, and the name.
CLASSES = {
    "A": "anonymous",
    "M": "shared memory",
    "H": "huge (THP)",
    "G": "hugetlb",
    "D": "page cache, dirty",
    "C": "page cache, clean",
    "O": "unprotected programs",
    "T": "page tables",
    "S": "slab",
    "N": "kernel, other",
    "K": "kernel image",
    "R": "mirror region",
    "F": "free",
}
# Memory of the protected programs whose only other copy would be a replica.
MIRRORABLE = "AMHGD"
MODES = {"tracked": "kmirror", "off": "without"}
# What a trial can end with, the best first.
OUTCOMES = {
    "kept": ("nobody harmed, nothing lost", "#3a8f5c"),
    "lost": ("nobody harmed yet, data lost", "#e3c04a"),
    "harmed": ("a service harmed", "#d9752b"),
    "down": ("the machine down", "#8c2d3f"),
}


def classes_of(text):
    """The census: the class of each frame, by its number."""
    classes = []
    for count, letter in re.findall(r"(\d+)(\D)", text):
        classes += [letter] * int(count)
    return classes


def outcome(one):
    """The outcome of a trial, one of OUTCOMES."""
    if one["outcome"] != "unharmed":
        return one["outcome"]
    # Whoever meets this faults for ever. A process that does little else is not missed by the clients.
    if any("Bad swap file entry" in line for line in one["complaints"]):
        return "harmed"
    if one["class"] in MIRRORABLE + "O" and not one.get("restored") and one["class"] != "G":
        return "lost"
    # A frame of the pool that nobody uses holds nothing; mapped ones show in the count.
    if one["class"] == "G" and one["mappings"] and not one.get("restored"):
        return "lost"
    return "kept"


def wilson(good, n):
    """95 % interval of a share, good of n; n may be the effective size of a weighted sample."""
    if n <= 0:
        return 0.0, 1.0
    z, p = 1.959964, good / n
    middle = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return max(0.0, middle - half), min(1.0, middle + half)


def share(trials, good):
    """The share of trials that are good, with its interval; over all weights."""
    weight = sum(one["weight"] for one in trials)
    if not trials or not weight:
        return None
    p = sum(one["weight"] for one in trials if good(one)) / weight
    size = weight * weight / sum(one["weight"] ** 2 for one in trials)
    low, high = wilson(p * size, size)
    return {"share": p, "low": low, "high": high, "trials": len(trials), "good": sum(1 for one in trials if good(one))}


def weigh(trials, classes):
    """Gives each trial the number of frames that it stands for: the class it was drawn from, over the trials drawn there."""
    frames = {}
    for letter in classes:
        frames[letter] = frames.get(letter, 0) + 1
    for mode in MODES:
        drawn = [one for one in trials if one["mode"] == mode]
        for letter in CLASSES:
            of_class = [one for one in drawn if one["drawn"] == letter]
            for one in of_class:
                one["weight"] = frames[letter] / len(of_class)
    return frames


def unharmed(one):
    return outcome(one) in ("kept", "lost")


def kept(one):
    return outcome(one) == "kept"


def summary(trials, classes, snapshot):
    """All figures."""
    frames = weigh(trials, classes)
    total = sum(count for letter, count in frames.items() if letter != "X")
    missing = [CLASSES[c] for c in CLASSES if frames.get(c) and not any(one["drawn"] == c for one in trials)]
    result = {
        "kernel": snapshot["kernel"],
        "frames": total,
        "classes_without_trial": missing,
        "by_class": {},
        "wrong": [one for one in trials if "wrong" in one],
    }
    groups = {CLASSES[c]: (frames.get(c, 0), [c]) for c in CLASSES}
    for name, (count, letters) in groups.items():
        row = {"frames": count, "of_all": count / total}
        for mode in MODES:
            hit = [one for one in trials if one["mode"] == mode and one["class"] in letters]
            row[mode] = {
                "unharmed": share(hit, unharmed),
                "kept": share(hit, kept),
                "outcomes": {key: sum(one["weight"] for one in hit if outcome(one) == key) for key in OUTCOMES},
                "counts": {key: sum(1 for one in hit if outcome(one) == key) for key in OUTCOMES},
            }
            if mode == "tracked" and letters[0] in MIRRORABLE:
                row["current"] = share(hit, lambda one: one["current"])
                row["kept_of_current"] = share([one for one in hit if one["current"]], kept)
                row["kept_of_other"] = share([one for one in hit if not one["current"]], kept)
        result["by_class"][name] = row
    for mode in MODES:
        hit = [one for one in trials if one["mode"] == mode]
        user = [one for one in hit if one["class"] in MIRRORABLE]
        result[mode] = {
            "unharmed": share(hit, unharmed),
            "kept": share(hit, kept),
            # In a machine that never had kmirror there is no region: its memory would be somebody's.
            "unharmed_outside": share([one for one in hit if one["class"] != "R"], unharmed),
            "kept_outside": share([one for one in hit if one["class"] != "R"], kept),
            "unharmed_uniform": share([one | {"weight": 1} for one in hit if one["uniform"]], unharmed),
            "kept_uniform": share([one | {"weight": 1} for one in hit if one["uniform"]], kept),
            "user_unharmed": share(user, unharmed),
            "user_kept": share(user, kept),
            "outcomes": {key: sum(one["weight"] for one in hit if outcome(one) == key) for key in OUTCOMES},
            "user_outcomes": {key: sum(one["weight"] for one in user if outcome(one) == key) for key in OUTCOMES},
            "counts": {key: sum(1 for one in hit if outcome(one) == key) for key in OUTCOMES},
        }
    user = [one for one in trials if one["mode"] == "tracked" and one["class"] in MIRRORABLE]
    # Counted, not weighted: this is a promise about each of them.
    plain = [one | {"weight": 1} for one in user if one["current"]]
    result["current"] = share(plain, kept)
    result["share_current"] = share(user, lambda one: one["current"])
    return result


def percent(figure):
    if figure is None:
        return "-"
    return f"{100 * figure['share']:.0f} ({100 * figure['low']:.0f}-{100 * figure['high']:.0f})"


def table(result):
    """For people: shares in per cent with their 95 % intervals."""
    lines = []

    def row(name, *cells):
        lines.append(f"{name:<22}" + "".join(f"{cell:>17}" for cell in cells))

    row("", "share of", "trials", "nobody harmed, %", "", "nothing lost, %", "")
    row("owner of the frame", "memory, %", "each", "kmirror", "without", "kmirror", "without")
    for name, figures in result["by_class"].items():
        if not figures["frames"] and not figures["tracked"]["unharmed"] and not figures["off"]["unharmed"]:
            continue
        made = [figures[mode]["unharmed"]["trials"] if figures[mode]["unharmed"] else 0 for mode in MODES]
        row(
            name,
            f"{100 * figures['of_all']:.1f}",
            str(made[0]) if made[0] == made[1] else f"{made[0]}/{made[1]}",
            percent(figures["tracked"]["unharmed"]),
            percent(figures["off"]["unharmed"]),
            percent(figures["tracked"]["kept"]),
            percent(figures["off"]["kept"]),
        )
    lines.append("")
    user = [figures["of_all"] for name, figures in result["by_class"].items() if name in [CLASSES[c] for c in MIRRORABLE]]
    made = [result[mode]["user_unharmed"]["trials"] if result[mode]["user_unharmed"] else 0 for mode in MODES]
    row(
        "user memory",
        f"{100 * sum(user):.1f}",
        str(made[0]) if made[0] == made[1] else f"{made[0]}/{made[1]}",
        percent(result["tracked"]["user_unharmed"]),
        percent(result["off"]["user_unharmed"]),
        percent(result["tracked"]["user_kept"]),
        percent(result["off"]["user_kept"]),
    )
    region = result["by_class"][CLASSES["R"]]["of_all"]
    wholes = {"": ("whole machine", 1), "_uniform": ("  uniform draws only", 1), "_outside": ("  but for the region", 1 - region)}
    for suffix, (name, of_all) in wholes.items():
        figures = [result[mode][key + suffix] for key in ("unharmed", "kept") for mode in MODES]
        made = [figure["trials"] if figure else 0 for figure in figures[:2]]
        trials = str(made[0]) if made[0] == made[1] else f"{made[0]}/{made[1]}"
        row(name, f"{100 * of_all:.1f}", trials, *[percent(figure) for figure in figures])
    lines.append("")
    row("with kmirror", "current, %", "", "trials", "nothing lost", "trials", "nothing lost")
    row("", "", "", "on current", "of current, %", "on others", "of others, %")
    for letter in MIRRORABLE:
        figures = result["by_class"][CLASSES[letter]]
        now, good, other = figures["current"], figures["kept_of_current"], figures["kept_of_other"]
        if now is None:
            continue
        row(
            CLASSES[letter],
            percent(now),
            "",
            str(good["trials"] if good else 0),
            percent(good),
            str(other["trials"] if other else 0),
            percent(other),
        )
    good = result["current"]
    row("all of them", percent(result["share_current"]), "", str(good["trials"] if good else 0), percent(good))
    lines.append("")
    if result["classes_without_trial"]:
        lines.append("no trial, and so not in the estimate: " + ", ".join(result["classes_without_trial"]))
    lines.append(f"wrong bytes given back: {len(result['wrong'])}")
    return "\n".join(line.rstrip() for line in lines) + "\n"


def picture(result):
    """Stacked bars: one pair for each class, with kmirror and without."""
    rows = [(name, figures) for name, figures in result["by_class"].items() if figures["tracked"]["unharmed"]]
    users = {CLASSES[c] for c in MIRRORABLE}
    bars = [("whole machine", 1.0, {mode: result[mode]["outcomes"] for mode in MODES})]
    of_user = sum(figures["of_all"] for name, figures in rows if name in users)
    bars.append(("user memory", of_user, {mode: result[mode]["user_outcomes"] for mode in MODES}))
    bars += [(name, figures["of_all"], {mode: figures[mode]["outcomes"] for mode in MODES}) for name, figures in rows]
    left, width, bar, step, top = 210, 520, 13, 44, 84
    height = top + step * len(bars) + 34
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {left + width + 70} {height}" '
        'font-family="sans-serif" font-size="12" fill="#222">',
        "<!-- SPDX-License-Identifier: GPL-2.0, made by tools/survival_report.py -->",
        f'<rect width="{left + width + 70}" height="{height}" fill="#fff"/>',
        '<text x="16" y="26" font-size="16" font-weight="bold">A random frame breaks: who comes to harm?</text>',
    ]
    x = 16
    for name, colour in OUTCOMES.values():
        out.append(f'<rect x="{x}" y="44" width="12" height="12" fill="{colour}"/>')
        out.append(f'<text x="{x + 17}" y="54">{name}</text>')
        x += 34 + 6.4 * len(name)
    for index, (name, of_all, by_mode) in enumerate(bars):
        y = top + index * step + (8 if index > 1 else 0)
        bold = ' font-weight="bold"' if index < 2 else ""
        out.append(f'<text x="16" y="{y + 11}"{bold}>{name}</text>')
        out.append(f'<text x="16" y="{y + 26}" fill="#777" font-size="11">{100 * of_all:.1f} % of memory</text>')
        for line, (mode, title) in enumerate(MODES.items()):
            at, now = y + line * (bar + 3), float(left)
            total = sum(by_mode[mode].values())
            out.append(f'<text x="{left - 6}" y="{at + 10}" text-anchor="end" font-size="11" fill="#555">{title}</text>')
            for key, (_, colour) in OUTCOMES.items():
                part = width * by_mode[mode][key] / total if total else 0
                if part:
                    out.append(f'<rect x="{now:.1f}" y="{at}" width="{part:.1f}" height="{bar}" fill="{colour}"/>')
                now += part
            if total:
                text = f"{100 * by_mode[mode]['kept'] / total:.0f} %"
                out.append(f'<text x="{left + width + 8}" y="{at + 11}">{text}</text>')
    made = {mode: result[mode]["unharmed"]["trials"] for mode in MODES}
    foot = f'{made["tracked"]} frames broken with kmirror, {made["off"]} in the same machine without'
    out.append(f'<text x="16" y="{height - 10}" fill="#777" font-size="11">{foot}</text>')
    out.append("</svg>")
    return "\n".join(out) + "\n"


def write(folder, snapshot, classes, trials):
    """Writes all of it and prints the table. Whether the promise about current pages was kept."""
    trials = [dict(one) for one in trials]
    for one in trials:
        # Pages in a CPU's own free lists show no flag; memory_failure() takes them from there.
        if one["class"] == "N" and any("free buddy page" in line for line in one["log"]):
            one["class"] = "F"
    if not trials:
        print("no trial was made", file=sys.stderr)
        return False
    result = summary(trials, classes, snapshot)
    text = table(result)
    with open(f"{folder}/results.json", "w", encoding="utf-8") as file:
        json.dump(result | {"machine": snapshot["about"], "trials": trials}, file, indent=1)
    with open(f"{folder}/table.txt", "w", encoding="utf-8") as file:
        file.write(text)
    if all(result[mode]["unharmed"] for mode in MODES):
        with open(f"{folder}/survival.svg", "w", encoding="utf-8") as file:
            file.write(picture(result))
    print(text, end="")
    for one in result["wrong"]:
        print(f"WRONG: frame {one['pfn']:#x} ({CLASSES.get(one['class'])}): {one['wrong']}")
    good = result["current"]
    return not result["wrong"] and (good is None or good["share"] >= 0.99)


if __name__ == "__main__":
    place = sys.argv[1]
    with open(f"{place}/snapshot.json", encoding="utf-8") as source:
        machine = json.load(source)
    with open(f"{place}/trials.jsonl", encoding="utf-8") as source:
        made = [json.loads(line) for line in source]
    sys.exit(0 if write(place, machine, classes_of(machine["census"]), made) else 1)
