#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0
"""Boots the guests of `make bench` and gathers what they measure; called by tools/bench in the tool root, see docs/bench.md.

/mnt holds the guests' initramfs and takes what comes out. Each workload has a boot of its own, and all that it is compared with
is measured in that boot; so what is measured does not depend on what else is.
"""

import json
import os
import platform
import re
import subprocess
import sys
import time

OUT = "/mnt"
KERNEL = "/usr/src/linux/arch/x86/boot/bzImage"
# Seconds of this machine that a guest may take for one line, which may be a window of some 10^10 instructions.
BOUND = int(os.environ["TIMEOUT"])


def say(text):
    print(f"kmirror: {text}", file=sys.stderr, flush=True)


def accelerator(wall):
    """QEMU's options. Counting: the clock is the number of instructions, and nothing else makes anything happen."""
    if not wall:
        return ["-accel", "tcg,thread=single", "-icount", "shift=0,sleep=off", "-smp", "1", "-cpu", "max"]
    if os.environ.get("KVM"):
        return ["-accel", "kvm", "-smp", "2", "-cpu", "host"]
    return ["-accel", "tcg,thread=multi", "-smp", "2", "-cpu", "max"]


def boot(workload, modes, settings, wall=False):
    """Runs a guest. Yields the rows as they come."""
    place = f"{OUT}/{workload}"
    os.makedirs(place, exist_ok=True)
    port = f"{place}/port"
    open(port, "wb").close()
    words = {"workloads": workload, "modes": ",".join(modes)} | settings
    # A ramfs: what is in a tmpfs is shared memory, which every epoch has to look at.
    append = "console=ttyS0 mitigations=off panic=-1 oops=panic nokaslr rootfstype=ramfs tsc=reliable clocksource=tsc loglevel=5 "
    append += " ".join(f"bench.{key}={value}" for key, value in words.items())
    full = workload in os.environ["FULL"].split()
    command = ["qemu-system-x86_64", *accelerator(wall)] + [
        "-m", settings["mem"], "-nodefaults", "-display", "none", "-no-reboot",
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
                    yield row
    finally:
        guest.kill()
        guest.wait()


def memcpy():
    """Bytes a second that memcpy() copies on this machine, page after page through more memory than a cache holds."""
    source, target = bytearray(b"\1") * (64 << 20), bytearray(b"\2") * (64 << 20)
    best = 0.0
    for _ in range(7):
        started = time.monotonic()
        # CPython's slice assignment is one memcpy().
        target[:] = source
        best = max(best, len(source) / (time.monotonic() - started))
    return int(best)


def machine():
    """On what it was measured."""
    with open("/proc/cpuinfo", encoding="utf-8") as file:
        cpu = re.search(r"model name\s*: (.*)", file.read())
    qemu = subprocess.run(["qemu-system-x86_64", "--version"], capture_output=True, text=True, check=True).stdout
    with open("/usr/src/linux/include/config/kernel.release", encoding="utf-8") as file:
        kernel = file.read().strip()
    return {
        "memcpy_bytes_per_s": memcpy(),
        "cpu": cpu[1] if cpu else platform.machine(),
        "cpus": os.cpu_count(),
        "qemu": re.search(r"version (\S+)", qemu)[1],
        "kernel": kernel,
        "kmirror": os.environ["VERSION"],
    }


def show(row, base):
    """One line of the table."""
    cost = row["ns"] / row["units"]
    ratio = cost / base if base else float("nan")
    text = f"{row['workload']:<16}{row['mode']:<16}{ratio:>9.5f}"
    if "coverage" in row:
        split, epochs = row["split"], max(1, row["epochs"])
        text += f"  epochs {row['epochs']:>3}  worker {100 * row['worker_ns'] / row['ns']:7.3f} %"
        text += f"  an epoch: {row['worker_ns'] // epochs:>9} instructions, {row['scanned'] // epochs:>6} PTEs"
        text += f", {row['copied'] // epochs:>6} copied, {row['deferred'] // epochs:>6} deferred"
        text += f"  (scan {split['scan_ns'] // max(1, split['epochs'])}, copy {split['copy_ns'] // max(1, split['epochs'])})"
        text += f"  coverage {row['coverage']['mean'] / 1e4:7.3f} % (worst {row['coverage']['worst'] / 1e4:.3f} %)"
    print(text, flush=True)


def main():
    modes = os.environ["MODES"].split()
    settings = {key: os.environ[key.upper()] for key in ("mem", "region", "window_ms", "settle", "epochs")}
    rows, failed, on = [], 0, machine()
    for workload in os.environ["WORKLOADS"].split():
        started, base = time.monotonic(), None
        try:
            for row in boot(workload, modes, settings):
                rows.append(row)
                if row["mode"] == "absent":
                    base = row["ns"] / row["units"]
                show(row, base)
        except RuntimeError as error:
            say(f"{workload}: {error}")
            failed += 1
        say(f"{workload}: {time.monotonic() - started:.0f} s")
        with open(f"{OUT}/measured.json", "w", encoding="utf-8") as file:
            json.dump({"machine": on, "settings": settings, "rows": rows}, file, indent=1)
            file.write("\n")
    return 1 if failed or not rows else 0


if __name__ == "__main__":
    sys.exit(main())
