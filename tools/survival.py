#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0
"""Runs the trials of `make survival`; called by tools/survival in the tool root, see docs/survival.md.

/mnt holds the guest's second disk (data) and takes what comes out; /media holds root.erofs. A guest is booted and loaded once
and stored (ram, state). Each trial is a new QEMU that begins there, with a private view of the memory and of the disk.
"""

import json
import os
import queue
import random
import re
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
import time

import survival_report as report

OUT = "/mnt"
KERNEL = "/usr/src/linux/arch/x86/boot/bzImage"
PAGE = 4096
# How long the guest may take for one order, in seconds: more than the driver's own bounds.
BOUND = 300
# A guest that waited so much of a trial's time for a CPU of this machine may look stuck and not be.
STARVED = 0.3
# How often a frame is looked at until no epoch comes in between.
LOOKS = 50
# Ticks of the clients between the restored machine and the strike: up to so many, so that it comes at any time of an epoch.
TICKS = 24
REGION = "192M"
# What the kernel says when it has gone wrong.
DOWN = re.compile(r"Kernel panic - not syncing: (.*)|(Oops: .*)|(BUG: .*)|(general protection fault.*)|(.*soft lockup.*)")
COMPLAINT = re.compile(r"BUG: |WARNING: |Oops|general protection|Bad page|refcount_t|stall|blocked for more|bad pmd|Bad swap")


def say(text):
    print(f"kmirror: {text}", file=sys.stderr, flush=True)


class Gone(Exception):
    """The guest has ended."""


class Stuck(Exception):
    """The guest does not answer."""


class Lines:
    """Lines over a Unix socket that QEMU listens at."""

    def __init__(self, path, process):
        self.sock = socket.socket(socket.AF_UNIX)
        self.process = process
        self.rest = b""
        end = time.monotonic() + 30
        while True:
            try:
                self.sock.connect(path)
                break
            except (FileNotFoundError, ConnectionRefusedError):
                # QEMU tells nobody when it has begun to listen.
                if process.poll() is not None or time.monotonic() > end:
                    raise Gone("QEMU did not start") from None
                os.sched_yield()
        self.sock.setblocking(False)

    def send(self, text):
        try:
            self.sock.setblocking(True)
            self.sock.sendall(text.encode() + b"\n")
        except OSError as error:
            raise Gone("the guest has ended") from error
        finally:
            self.sock.setblocking(False)

    def line(self, bound):
        end = time.monotonic() + bound
        while b"\n" not in self.rest:
            left = end - time.monotonic()
            if left <= 0 or not select.select([self.sock], [], [], left)[0]:
                raise Stuck("no answer")
            try:
                got = self.sock.recv(1 << 20)
            except OSError as error:
                raise Gone("the guest has ended") from error
            if not got:
                raise Gone("the guest has ended")
            self.rest += got
        line, self.rest = self.rest.split(b"\n", 1)
        return line.decode(errors="replace")


class Guest:
    """A running QEMU."""

    def __init__(self, place, stored):
        """Boots at `place`; or, if `stored`, begins where the stored guest was."""
        self.place = place
        os.makedirs(place, exist_ok=True)
        for name in ("qmp", "port", "console"):
            if os.path.lexists(f"{place}/{name}"):
                os.unlink(f"{place}/{name}")
        env = os.environ
        memory = env["MEM"]
        append = (
            "root=/dev/vda rootfstype=erofs ro console=ttyS0 mitigations=off panic=-1 oops=panic "
            f"survival.region={REGION} survival.hugepages=22 survival.interval=1000 survival.epochs=4 "
            'init=/bin/sh -- -c "mount -t ext4 /dev/vdb /srv && exec /srv/init"'
        )
        command = [
            "qemu-system-x86_64", "-accel", "tcg,thread=multi", "-cpu", "max", "-smp", env["CPUS"], "-m", memory,
            "-machine", "pc,memory-backend=ram", "-nodefaults", "-display", "none", "-no-reboot",
            # A private view of the file: what a trial writes stays its own.
            "-object", f"memory-backend-file,id=ram,size={memory},mem-path={OUT}/ram,share={'off' if stored else 'on'}",
            "-kernel", KERNEL, "-append", append,
            "-blockdev", "driver=file,node-name=root,filename=/media/root.erofs,read-only=on",
            "-device", "virtio-blk-pci,drive=root",
            "-drive", f"file={OUT}/data,if=none,id=data,format=raw,cache=unsafe,snapshot={'on' if stored else 'off'}",
            "-device", "virtio-blk-pci,drive=data",
            "-chardev", f"socket,id=port,path={place}/port,server=on,wait=off",
            "-device", "virtio-serial-pci", "-device", "virtserialport,chardev=port,name=survival",
            "-chardev", f"file,id=console,path={place}/console", "-serial", "chardev:console",
            "-qmp", f"unix:{place}/qmp,server=on,wait=off",
        ]  # fmt: skip
        if stored:
            command += ["-incoming", "defer"]
        with open(f"{place}/qemu.log", "wb") as log:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        try:
            self.qmp = Lines(f"{place}/qmp", self.process)
            self.qmp.line(30)
            self.order("qmp_capabilities")
            capabilities = [{"capability": name, "state": True} for name in ("x-ignore-shared", "events")]
            self.order("migrate-set-capabilities", capabilities=capabilities)
            self.port = Lines(f"{place}/port", self.process)
            self.memory = None
            if stored:
                self.order("migrate-incoming", uri=f"file:{OUT}/state")
                self.event("MIGRATION", "completed")
                self.order("cont")
        except BaseException:
            self.end()
            raise

    def order(self, name, **arguments):
        """An order to QEMU itself."""
        self.qmp.send(json.dumps({"execute": name, "arguments": arguments}))
        while True:
            answer = json.loads(self.qmp.line(60))
            if "error" in answer:
                raise RuntimeError(f"{name}: {answer['error']['desc']}")
            if "return" in answer:
                return answer["return"]

    def event(self, name, status):
        while True:
            answer = json.loads(self.qmp.line(60))
            if answer.get("event") == name:
                if answer["data"]["status"] == status:
                    return
                if answer["data"]["status"] == "failed":
                    raise RuntimeError(f"{name} failed")

    def store(self):
        """Stores the guest and ends it."""
        self.order("stop")
        self.order("migrate", uri=f"file:{OUT}/state")
        self.event("MIGRATION", "completed")
        self.order("quit")
        self.process.wait(60)

    def ask(self, text, bound=BOUND):
        """An order to the driver in the guest; its answer as (word, rest) pairs."""
        self.port.send(text)
        return self.answer(bound)

    def answer(self, bound):
        lines = []
        while (line := self.port.line(bound)) != ".":
            word, _, rest = line.partition(" ")
            lines.append((word, rest))
        return lines

    def page(self, pfn):
        """The contents of a frame, past the guest."""
        if self.memory is None:
            pid = self.process.pid
            with open(f"/proc/{pid}/maps", encoding="ascii", errors="replace") as maps:
                # Low memory is one piece on this machine; MEM is far below where it has a hole.
                base = next(line for line in maps if line.rstrip().endswith(f"{OUT}/ram"))
            self.memory = (int(base.split("-")[0], 16), os.open(f"/proc/{pid}/mem", os.O_RDONLY))
        base, file = self.memory
        return os.pread(file, PAGE, base + pfn * PAGE)

    def delayed(self):
        """Seconds that its busiest thread was ready to run and had no CPU."""
        delays = [0]
        for task in os.listdir(f"/proc/{self.process.pid}/task"):
            try:
                with open(f"/proc/{self.process.pid}/task/{task}/schedstat", encoding="ascii") as file:
                    delays.append(int(file.read().split()[1]))
            except OSError:
                continue
        return max(delays) / 1e9

    def console(self):
        try:
            with open(f"{self.place}/console", encoding="utf-8", errors="replace") as file:
                return file.read()
        except FileNotFoundError:
            return ""

    def end(self):
        self.process.kill()
        self.process.wait()
        if getattr(self, "memory", None):
            os.close(self.memory[1])
        for lines in ("qmp", "port"):
            if hasattr(self, lines):
                getattr(self, lines).sock.close()


def dirty_entries(guest, tables, pfn):
    """How many entries of user page tables that map a frame are dirty, read past the guest."""
    count = 0
    for table in tables:
        for (entry,) in struct.iter_unpack("<Q", guest.page(table)):
            # Present, for user space, dirty.
            if entry & 0x45 != 0x45:
                continue
            frame = entry >> 12 & (1 << 40) - 1
            huge = entry & 0x80
            if frame == pfn or (huge and frame & ~511 == pfn & ~511 and frame & 511 == 0):
                count += 1
    return count


def look(guest, pfn, result):
    """Finds out what a frame is, and whether it is current, without kmirror's help. What is in it."""
    for _ in range(LOOKS):
        looked = guest.ask(f"look {pfn}")
        facts = dict(looked)
        if "frame" not in facts:
            raise RuntimeError(f"look: {looked}")
        letter, flags, mappings, inside, replica = facts["frame"].split()
        result.update({"class": letter, "flags": flags, "mappings": int(mappings), "inside": inside == "1"})
        before = guest.page(pfn)
        tables = [int(word) for word in facts.get("tables", "").split()]
        # What the promise is about: flagged, no dirty entry, and a replica.
        result["current"] = bool(tables) and dirty_entries(guest, tables, pfn) == 0
        result["same"] = replica != "-" and guest.page(int(replica)) == before
        # An epoch in between may have cleaned the entry of a page that had the flag before, and left it to rest.
        if guest.ask("worked") == [("worked", facts["worked"])]:
            return before
    raise RuntimeError("there is always an epoch")


def trial(place, pfn, ticks, mode):
    """One error in one frame. What became of it."""
    result = {"pfn": pfn, "ticks": ticks, "mode": mode, "class": None, "harm": [], "log": []}
    started = time.monotonic()
    guest = Guest(place, stored=True)
    struck = False
    steps = result["steps"] = {}

    def step(name):
        steps[name] = round(time.monotonic() - started - sum(steps.values()), 1)

    step("restore")
    try:
        if mode == "off":
            guest.ask("mode off")
        early = guest.ask(f"work {ticks}")
        if early:
            raise RuntimeError(f"went wrong before the error: {early}")
        step("work")
        guest.ask("freeze")
        before = look(guest, pfn, result)
        if result["current"] and not result["same"]:
            result["wrong"] = "the replica of a current page has other bytes"

        struck = True
        answer = guest.ask(f"strike {os.environ['DOOR']} {pfn}", 120)
        result["struck"] = answer[0][1] if answer and answer[0][0] == "struck" else str(answer[:1])
        log = [rest for name, rest in answer if name == "log"]
        result["log"] = log
        words = re.compile(r"restored frame (0x[0-9a-f]+) to (0x[0-9a-f]+)")
        moved = next(filter(None, map(words.search, log)), None)
        result["restored"] = bool(moved)
        if moved and int(moved[1], 16) == pfn and guest.page(int(moved[2], 16)) != before:
            result["wrong"] = f"restored with other bytes, to frame {moved[2]}"
        step("strike")
        guest.ask("thaw", 120)
        answer = guest.ask(f"finish {os.environ['ROUNDS']}")
        step("finish")
        result["harm"] = [rest for name, rest in answer if name in ("harm", "error")]
        result["log"] += [rest for name, rest in answer if name == "log"]
        result["outcome"] = "harmed" if result["harm"] else "unharmed"
    except (Gone, Stuck) as end:
        if not struck:
            raise RuntimeError(f"{end} before the error; see {place}/console") from end
        down = DOWN.search(guest.console())
        if down:
            result["outcome"] = "down"
            result["harm"] = ["the kernel: " + next(text for text in down.groups() if text)]
        elif isinstance(end, Stuck):
            result["outcome"] = "down"
            result["harm"] = ["the machine does not answer"]
        else:
            # Without a word of the kernel: the driver has ended, or the CPU could not go on.
            result["outcome"] = "harmed" if "the driver ended" in guest.console() else "down"
            result["harm"] = ["the machine has ended" if result["outcome"] == "down" else "the driver was killed"]
    finally:
        result["delayed"] = round(guest.delayed(), 1)
        guest.end()
    complaints = [line for line in guest.console().splitlines()[-400:] if COMPLAINT.search(line)]
    result["complaints"] = complaints[:8]
    result["seconds"] = round(time.monotonic() - started, 1)
    # The log is kept where something is to be explained.
    result["log"] = result["log"][:12]
    return result


def starved(result):
    """Whether the guest was found stuck when the machine had no time for it."""
    slow = any(word in harm for harm in result["harm"] for word in ("stuck", "does not answer", "Resource temporarily"))
    return slow and result["delayed"] > STARVED * result["seconds"]


def boot():
    """Makes the stored guest."""
    with open(f"{OUT}/ram", "wb") as ram:
        unit = {"M": 1 << 20, "G": 1 << 30}[os.environ["MEM"][-1]]
        ram.truncate(int(os.environ["MEM"][:-1]) * unit)
    say("booting the guest, and starting its servers")
    guest = Guest(f"{OUT}/boot", stored=False)
    try:
        first = guest.answer(900)
        if first[0][0] != "ready":
            raise RuntimeError(f"the guest is not ready: {first}")
        about = guest.ask("about")
        census = guest.ask("census")[0][1]
        guest.store()
    except (Gone, Stuck) as error:
        raise RuntimeError(f"{error}, see build/survival/boot/console") from error
    finally:
        guest.end()
    kernel = re.search(r"Linux version (\S+)", guest.console())
    snapshot = {"census": census, "about": [" ".join(line) for line in about], "kernel": kernel[1] if kernel else "?"}
    with open(f"{OUT}/snapshot.json", "w", encoding="utf-8") as file:
        json.dump(snapshot, file)
    return snapshot


def plan(classes, seed, uniform, per_class, wanted):
    """Which frames break, and after how many ticks: (pfn, ticks, whether it was drawn from all)."""
    rng = random.Random(seed)
    population = [pfn for pfn, letter in enumerate(classes) if letter != "X"]
    # One order of all frames: a longer run begins with the same trials as a shorter one.
    rng.shuffle(population)
    drawn = [(pfn, rng.randint(1, TICKS), True) for pfn in population[:uniform]]
    have = {}
    for pfn in population[:uniform]:
        have[classes[pfn]] = have.get(classes[pfn], 0) + 1
    for pfn in population[uniform:]:
        if classes[pfn] in wanted and have.get(classes[pfn], 0) < per_class:
            have[classes[pfn]] = have.get(classes[pfn], 0) + 1
            drawn.append((pfn, rng.randint(1, TICKS), False))
    return drawn


def main():
    env = os.environ
    stored = f"{OUT}/snapshot.json"
    if os.path.exists(stored):
        with open(stored, encoding="utf-8") as file:
            snapshot = json.load(file)
    else:
        snapshot = boot()
    classes = report.classes_of(snapshot["census"])
    todo = plan(classes, int(env["SEED"]), int(env["TRIALS"]), int(env["TRIALS_PER_CLASS"]), env["CLASSES"])

    done = []
    path = f"{OUT}/trials.jsonl"
    if os.path.exists(path):
        with open(path, encoding="utf-8") as file:
            done = [json.loads(line) for line in file]
    have = {(one["pfn"], one["mode"]) for one in done}
    jobs = queue.SimpleQueue()
    # Without kmirror the outcome is known sooner: of each class only so many frames break there too.
    without = {}
    for pfn, ticks, uniform in todo:
        letter = classes[pfn]
        without[letter] = without.get(letter, 0) + 1
        for mode in ("tracked", "off"):
            if (pfn, mode) not in have and (mode == "tracked" or without[letter] <= int(env["WITHOUT"])):
                jobs.put((pfn, ticks, uniform, mode))
    total = jobs.qsize()
    say(f"{total} trials, {len(have)} already made")
    lock = threading.Lock()
    failures = []
    started = time.monotonic()

    def work(number):
        while not failures:
            try:
                pfn, ticks, uniform, mode = jobs.get_nowait()
            except queue.Empty:
                return
            try:
                try:
                    one = trial(f"{OUT}/job{number}", pfn, ticks, mode)
                    if starved(one):
                        raise RuntimeError("no answer, but this machine is too busy to tell why")
                except (RuntimeError, Gone, Stuck) as error:
                    # Before anything was broken, or for want of time. Once more, and then it counts.
                    say(f"frame {pfn:#x}, {mode}: {error}; once more")
                    one = trial(f"{OUT}/job{number}", pfn, ticks, mode)
            except Exception as error:  # pylint: disable=broad-except
                failures.append(f"frame {pfn:#x}, {mode}: {error!r}")
                return
            one.update({"drawn": classes[pfn], "uniform": uniform})
            with lock:
                done.append(one)
                with open(path, "a", encoding="utf-8") as file:
                    file.write(json.dumps(one) + "\n")
                if "wrong" in one:
                    say(f"WRONG BYTES: frame {pfn:#x}: {one['wrong']}")
                made = total - jobs.qsize()
                if made % 20 == 0 or sys.stderr.isatty():
                    pace = (time.monotonic() - started) / made
                    say(f"{made} of {total} trials, {one['seconds']:.0f} s for the last, {pace * jobs.qsize() / 60:.0f} min left")

    threads = [threading.Thread(target=work, args=(number,)) for number in range(int(env["JOBS"]))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    chosen = {pfn for pfn, _, _ in todo}
    ok = report.write(OUT, snapshot, classes, [one for one in done if one["pfn"] in chosen])
    if failures:
        sys.exit(f"kmirror: a trial could not be made: {failures[0]}")
    sys.exit(0 if ok else 1)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    main()
