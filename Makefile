# SPDX-License-Identifier: GPL-2.0
#
# The front of tools/: each target is one script there, and each does the set-up that it needs. The module's own build
# description is Kbuild.

MAKEFLAGS += --no-print-directory --no-builtin-rules
.DEFAULT_GOAL := modules

# Taken over by the tools; `make help` tells what each is.
export RUN HOST GUEST FILES MEM CPUS APPEND TIMEOUT DEBUG KDIR TESTS MODEL TRAIL DEBIAN_MIRROR KMIRROR_CACHE
export TRIALS TRIALS_PER_CLASS CLASSES WITHOUT SEED JOBS ROUNDS DOOR RESUME MINUTES REPLAY
export WORKLOADS MODES CLOCKS RUNS TURNS EPOCHS SETTLE WINDOW_MS REGION KEEP

.PHONY: modules tools check series guards model vm vm-nested test test-service test-nested soak fuzz demo survival bench kernel update rust-analyzer clean distclean help

modules:
	@tools/module >/dev/null

tools:
	@tools/tools >/dev/null

check:
	@tools/check

series:
	@tools/series

guards:
	@tools/guards $(TESTS)

model:
	@tools/model $(MODEL)

vm:
	@tools/vm $(RUN)

vm-nested:
	@tools/vm-nested $(HOST) $(GUEST)

test:
	@tools/test $(TESTS)

test-nested:
	@tools/test-nested $(TESTS)

test-service:
	@tools/test-service $(TESTS)

soak:
	@tools/soak

fuzz:
	@tools/fuzz

demo:
	@tools/demo

survival:
	@tools/survival

bench:
	@tools/bench

kernel:
	@tools/kernel

update:
	@tools/source --newest

rust-analyzer:
	@tools/rust-analyzer

clean:
	@tools/clean

distclean: clean
	@tools/clean --cache

help:
	@sed -n 's/^#: \{0,1\}//p' Makefile

#: make                kmirror.ko, built out of tree
#: make tools          kmirrorctl, its man pages and completions, in build/tools (docs/ctl.md)
#: make demo           a guest loses memory and goes on: see for yourself
#: make test           the tests in guests; TESTS="name..." for some of them
#: make test-nested    the tests that need a host and memory that is really lost, in a guest in a guest
#: make test-service   the same for replicas at the host, with a service that fails on demand
#: make soak           random errors under random work; MINUTES=10, SEED=n, JOBS=1 guests at a time, REPLAY=file
#: make fuzz           inputs that nobody thought of, for the wire format and kmirrord; MINUTES=10 for each target
#: make survival       random frames break under servers at work: who comes to harm? (docs/survival.md)
#: make bench          what protection costs, in instructions and by the clock; WORKLOADS="name...", MODES="mode...",
#:                     CLOCKS=instructions (docs/bench.md)
#: make check          formatting, lints, host tests, the kernel patches
#: make series         does the kernel build after each of its patches? (long)
#: make guards         each guard of the module taken out: do its tests fall? (long; TESTS="guard..." for some)
#: make model          every interleaving of the protocols, and each guard taken away, unless that was done with this model;
#:                     MODEL="name..." for some, TRAIL="name guard" shows the steps
#: make vm RUN=script  run a script in a guest, with kmirror.ko in /kmirror
#: make vm-nested HOST=script GUEST=script   run GUEST in a guest of the guest that runs HOST (docs/testing.md)
#: make kernel         the patched kernel only; prints where it is
#: make update         look for a newer point release of the kernel source
#: make rust-analyzer  rust-project.json, for editors
#: make clean          remove what was built; distclean: the cache as well
#:
#: For all of them   KDIR=tree  your own configured and built 7.3 tree with the patches, instead of the project's
#:                   DEBUG=1    the kernel with KASAN, lockdep and checks of pages and locks
#: For guests        FILES="..." more for /kmirror, MEM=2G, CPUS=2, APPEND="kernel parameters", TIMEOUT=300 (seconds)
#: For survival      TRIALS=200 random frames, TRIALS_PER_CLASS=0 at least of each owner, WITHOUT=n of these without
#:                   kmirror too (all), SEED=1, JOBS=1 at a time, RESUME=1 go on with the machine and the results of the last run
#: make itself exits with 2 whatever failed; tools/vm and the others, called directly, with a status of their own.
#:
#: From outside      KMIRROR_CACHE (default ~/.cache/kmirror), DEBIAN_MIRROR (default: as the host's apt)
