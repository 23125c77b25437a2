#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0
"""Boots the guests of `make bench` and gathers what they measure; called by tools/bench in the tool root, see docs/bench.md.

/mnt holds the guests' initramfs and takes what comes out. Each workload has a boot of its own, and all that it is compared with
is measured in that boot; so what is measured does not depend on what else is.
"""

import concurrent.futures
import json
import os
import platform
import re
import subprocess
import sys
import threading
import time

OUT = "/mnt"
KERNEL = "/usr/src/linux/arch/x86/boot/bzImage"
# Seconds of this machine that a guest may take for one line, which may be a window of some 10^10 instructions.
BOUND = int(os.environ["TIMEOUT"])
# Workloads that come in sizes, by the names of which is said how many MiB.
SIZED = re.compile(r"(?:scale|shared|reread-\d+|nginx|sqlite-select|redis-read)-(\d+)")
# MiB of a guest besides what a workload that comes in sizes has, and replicas of that; and what a program adds to each MiB.
BESIDES, MORE = 1536, 1.5
# A few instructions for a page table show only in the mean of very many epochs.
REREAD = {"modes": ["tracked-10"], "epochs": "342"}


class Skipped(Exception):
    """What cannot be measured on this machine."""


def say(text):
    print(f"kmirror: {text}", file=sys.stderr, flush=True)


def accelerator(clock):
    """The fastest there is; where instructions are the clock, the one that counts them."""
    if clock == "instructions":
        return "icount"
    return "kvm" if subprocess.run(["tools/kvm-runs"], check=False).returncode == 0 else "tcg"


OPTIONS = {
    # The clock is the number of instructions, and nothing else makes anything happen.
    "icount": ["-accel", "tcg,thread=single", "-icount", "shift=0,sleep=off", "-smp", "1", "-cpu", "max"],
    "kvm": ["-accel", "kvm", "-smp", "2", "-cpu", "host"],
    "tcg": ["-accel", "tcg,thread=multi", "-smp", "2", "-cpu", "max"],
}


def memory(workload, settings):
    """The guest's memory and its mirror region. Workloads that come in sizes need as much as they say, twice."""
    size = SIZED.fullmatch(workload)
    if not size:
        return settings["mem"], settings["region"]
    mib = int(int(size[1]) * (1 if workload.startswith(("scale", "shared", "reread")) else MORE))
    wanted = 2 * mib + BESIDES
    with open("/proc/meminfo", encoding="utf-8") as file:
        there = int(re.search(r"MemAvailable:\s*(\d+)", file.read())[1]) // 1024
    if there < wanted:
        raise Skipped(f"it takes {wanted} MiB, and {there} MiB are free")
    return f"{wanted}M", f"{mib + 192}M"


def boot(workload, clock, settings):
    """Runs a guest. Yields what it measures as it comes."""
    place = f"{OUT}/{workload}" if clock == "instructions" else f"{OUT}/{workload}-{clock}"
    os.makedirs(place, exist_ok=True)
    port = f"{place}/port"
    open(port, "wb").close()
    mem, region = memory(workload, settings)
    words = {"workload": workload, "clock": clock, "region": region} | {
        key: settings[key] for key in ("window_ms", "settle", "epochs")
    }
    modes = settings["modes"]
    if workload.startswith(("scale", "shared")):
        # Of these it is the size that makes the difference.
        modes = [mode for mode in modes if mode in ("absent", "tracked-1000")]
    if workload.startswith("reread"):
        modes, words["epochs"] = REREAD["modes"], REREAD["epochs"]
    words["modes"] = ",".join(modes)
    if clock == "instructions":
        # What is counted is the same each time, but for programs that wait for each other.
        words["runs"] = settings["turns"]
    else:
        # As many epochs as show what one costs: here it is runs that are wanted.
        words |= {"runs": settings["runs"], "settle": min(2, int(settings["settle"])), "epochs": min(2, int(settings["epochs"]))}
    # A ramfs: what is in a tmpfs is shared memory, which every epoch has to look at.
    append = "console=ttyS0 mitigations=off panic=-1 oops=panic nokaslr rootfstype=ramfs loglevel=5 "
    if clock == "instructions":
        append += "tsc=reliable clocksource=tsc "
    append += " ".join(f"bench.{key}={value}" for key, value in words.items())
    full = workload in os.environ["FULL"].split()
    command = ["qemu-system-x86_64", *OPTIONS[accelerator(clock)]] + [
        "-m", mem, "-nodefaults", "-display", "none", "-no-reboot",
        # Random numbers and the date are those of every run.
        "-seed", "1", "-rtc", "base=2026-01-01T00:00:00,clock=vm",
        "-kernel", KERNEL, "-initrd", f"{OUT}/{'full' if full else 'small'}.cpio", "-append", append,
        "-serial", f"file:{place}/console", "-serial", f"file:{port}",
    ]  # fmt: skip
    with open(f"{place}/qemu.log", "wb") as log:
        guest = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        with open(port, encoding="utf-8") as lines:
            rest, last = "", time.monotonic()
            while True:
                running = guest.poll() is None
                got = lines.read()
                if not got:
                    if not running:
                        raise RuntimeError(f"the guest has ended, see {place}/console")
                    if time.monotonic() - last > BOUND:
                        raise RuntimeError(f"nothing measured in {BOUND} s, see {place}/console")
                    # QEMU tells nobody that it has written to the file.
                    time.sleep(0.2)
                    continue
                last = time.monotonic()
                rest += got
                *whole, rest = rest.split("\n")
                for line in whole:
                    row = json.loads(line.strip())
                    if row == "end":
                        return
                    if "error" in row:
                        raise RuntimeError(f"{row['error']}, see {place}/console")
                    yield row | {"clock": clock}
    finally:
        guest.kill()
        guest.wait()


def native():
    """How fast this machine itself copies and hashes pages."""
    run = subprocess.run([f"{OUT}/tree/kmirror/bench", "native"], capture_output=True, text=True, check=True)
    return json.loads(run.stdout)


def machine():
    """On what it was measured."""
    with open("/proc/cpuinfo", encoding="utf-8") as file:
        cpu = re.search(r"model name\s*: (.*)", file.read())
    with open("/proc/meminfo", encoding="utf-8") as file:
        mib = int(re.search(r"MemTotal:\s*(\d+)", file.read())[1]) // 1024
    qemu = subprocess.run(["qemu-system-x86_64", "--version"], capture_output=True, text=True, check=True).stdout
    with open("/usr/src/linux/include/config/kernel.release", encoding="utf-8") as file:
        kernel = file.read().strip()
    return {
        "cpu": cpu[1] if cpu else platform.machine(),
        "cpus": os.cpu_count(),
        "memory_mib": mib,
        "qemu": re.search(r"version (\S+)", qemu)[1],
        "kernel": kernel,
        "kmirror": os.environ["VERSION"],
        "wall_accelerator": accelerator("wall"),
    }


def show(row, base):
    """One line, for who is looking on."""
    if "probe" in row:
        print(f"{row['probe']:<18}{row['clock']}", flush=True)
        return
    ratio = row["ns"] / row["units"] / base if base else float("nan")
    text = f"{row['workload']:<18}{row['mode']:<17}{row['clock'][:4]:<5}{ratio:>9.5f}"
    if "worker_ns" in row:
        text += f"  thread {100 * row['worker_ns'] / row['ns']:7.3f} %"
    if "parts" in row:
        epochs, parts = max(1, row["epochs"]), row["parts"]
        text += f"  an epoch: {row['worker_ns'] // epochs:>9} instructions, {row['scanned'] // epochs:>6} PTEs"
        text += f", {row['copied'] // epochs:>6} copied, {row['deferred'] // epochs:>6} deferred"
        text += f"  ({', '.join(f'{key} {count}' for key, count in parts.items() if count)})"
        text += f"  coverage {row['coverage']['mean'] / 1e4:7.3f} % (worst {row['coverage']['worst'] / 1e4:.3f} %)"
    print(text, flush=True)


class Results:
    """What has been measured so far, kept in a file all the time."""

    def __init__(self, settings):
        self.lock = threading.Lock()
        self.all = {"machine": machine() | native(), "settings": settings, "rows": [], "probes": [], "skipped": []}
        self.failed = 0

    def take(self, workload, clock, settings):
        """Measures one workload."""
        started, bases = time.monotonic(), {}
        try:
            for row in boot(workload, clock, settings):
                with self.lock:
                    self.all["probes" if "probe" in row else "rows"].append(row)
                    if row.get("mode") == "absent":
                        bases[row["run"]] = row["ns"] / row["units"]
                    show(row, bases.get(row.get("run")))
            say(f"{workload}, {clock}: {time.monotonic() - started:.0f} s")
        except Skipped as why:
            with self.lock:
                self.all["skipped"].append({"workload": workload, "clock": clock, "why": str(why)})
            say(f"{workload}, {clock}: not measured: {why}")
        except (RuntimeError, ValueError) as error:
            with self.lock:
                self.failed += 1
            say(f"{workload}, {clock}: {error}")
        with self.lock, open(f"{OUT}/measured.json", "w", encoding="utf-8") as file:
            json.dump(self.all, file, indent=1)
            file.write("\n")


def main():
    settings = {key: os.environ[key.upper()] for key in ("mem", "region", "window_ms", "settle", "epochs", "runs", "turns")}
    settings["modes"] = os.environ["MODES"].split()
    workloads = os.environ["WORKLOADS"].split()
    results = Results(settings)
    clocks = os.environ["CLOCKS"].split()
    if "instructions" in clocks:
        # Where instructions are counted it does not matter what else runs. Large guests go alone, for the memory they take.
        large = [name for name in workloads if name.startswith("scale-")]
        small = [name for name in workloads if name not in large]
        with concurrent.futures.ThreadPoolExecutor(int(os.environ["JOBS"])) as pool:
            list(pool.map(lambda name: results.take(name, "instructions", settings), small))
        for name in large:
            results.take(name, "instructions", settings)
    if "wall" in clocks:
        for name in workloads:
            if not SIZED.fullmatch(name) and name != "metadata":
                results.take(name, "wall", settings)
    return 1 if results.failed or not (results.all["rows"] or results.all["probes"]) else 0


if __name__ == "__main__":
    sys.exit(main())
