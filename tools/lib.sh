# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash
#
# What the tools share; sourced, never run. Messages go to stderr, so that a tool's stdout is its result alone.

set -euo pipefail
umask 022

TOP=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
TOOLS=$TOP/tools
# Fixed places inside the tool root: ccache and Kbuild see the same paths in every run and for every cache entry.
SRC=/kmirror-src
TREE=/usr/src/linux
export TOP TOOLS SRC TREE

say() { printf 'kmirror: %s\n' "$*" >&2; }

die() {
	say "$*"
	exit 1
}

# Mounts and the tool root need root. The script starts itself again under sudo if it must; what the user set is kept.
need_root() {
	local kept=KMIRROR_CACHE,DEBIAN_MIRROR,KDIR,DEBUG,RUN,FILES,MEM,CPUS,APPEND,TIMEOUT,TESTS,TRIALS,TRIALS_PER_CLASS,CLASSES,WITHOUT,SEED,JOBS,ROUNDS,DOOR,RESUME,MINUTES,REPLAY,WORKLOADS,MODES,CLOCKS,RUNS,TURNS,BENCH_DIR,EPOCHS,SETTLE,WINDOW_MS,REGION,KEEP,CONSOLE,V,http_proxy,https_proxy
	[ "$(id -u)" -ne 0 ] || return 0
	command -v sudo >/dev/null || die "root is needed: become root or install sudo"
	export KMIRROR_CACHE=$CACHE
	exec sudo --preserve-env="$kept" -- "$@"
}

# The one folder outside the checkout that is ever written.
CACHE=${KMIRROR_CACHE:-${XDG_CACHE_HOME:-${HOME:-/root}/.cache}/kmirror}
case $CACHE in /*) ;; *) die "KMIRROR_CACHE must be an absolute path, not '$CACHE'" ;; esac
mkdir -p "$CACHE" 2>/dev/null || die "cannot make the cache folder $CACHE"
export CACHE

# need_space MIB WHAT: ends with one sentence if the cache's file system has less than MIB free.
need_space() {
	local free
	free=$(df -Pm "$CACHE" | awk 'NR == 2 { print $4 }')
	[ "$free" -ge "$1" ] ||
		die "$2 needs $1 MiB free in $CACHE, only $free MiB are left"
}

# lock NAME: one run at a time makes a cache entry. The lock lasts until the script ends.
lock() {
	local fd
	exec {fd}>"$CACHE/.lock-$1"
	flock -n "$fd" && return
	say "waiting for another run that is making $1"
	flock "$fd"
}

# begin NAME: prints a fresh place to build the entry in; finish NAME PLACE: makes it the entry. What an interrupted
# run left behind is removed; the caller holds the lock.
begin() {
	rm -rf --one-file-system "$CACHE/.new-$1"
	mkdir "$CACHE/.new-$1"
	printf '%s\n' "$CACHE/.new-$1"
}

finish() {
	sync -f "$2"
	mv -T "$2" "$CACHE/$1"
}

# use_kernel: $tree is the built kernel tree: $KDIR, or the project's own. Then $entry is its cache entry, which stays until
# the script ends.
use_kernel() {
	local fd
	entry='' tree=
	if [ -n "${KDIR:-}" ]; then
		[ -f "$KDIR/Module.symvers" ] || die "KDIR=$KDIR is not a built kernel tree (no Module.symvers)"
		tree=$(readlink -f "$KDIR")
		return
	fi
	entry=$("$TOOLS/kernel")
	# shellcheck disable=SC2034 # for whoever sources this
	tree=$entry/linux
	exec {fd}>"$CACHE/.use-$(basename "$entry")"
	flock -s "$fd"
}

# hash FILE...: short hash of the files' contents.
hash() { cat "$@" | sha256sum | cut -c1-16; }

# show_progress WHAT SEEN TOTAL START: one line that is overwritten on a terminal, a new one elsewhere; see watch_steps.
show_progress() {
	local what=$1 seen=$2 total=$3 start=$4 percent minutes
	percent=$((total > 0 ? seen * 100 / total : 0))
	[ "$percent" -lt 99 ] || percent=99
	minutes=$(((SECONDS - start) / 60))
	if [ -t 2 ]; then
		printf '\rkmirror: %s: %d%% (%d of about %d steps, %d min) ' "$what" "$percent" "$seen" "$total" "$minutes" >&2
	else
		say "$what: $percent% ($seen of about $total steps, $minutes min)"
	fi
}

# watch_steps WHAT LOG PATTERN TOTAL CMD...: runs CMD with its output in LOG and shows how many lines that match PATTERN
# have come, of about TOTAL. Returns CMD's status.
watch_steps() {
	local what=$1 log=$2 pattern=$3 total=$4 start=$SECONDS last=0 every=30 pid seen rc=0
	shift 4
	[ -t 2 ] && every=1
	"$@" >"$log" 2>&1 </dev/null &
	pid=$!
	# shellcheck disable=SC2064 # the process id of now is meant
	trap "kill $pid 2>/dev/null || true" EXIT
	while kill -0 "$pid" 2>/dev/null; do
		sleep 1
		[ $((SECONDS - last)) -ge "$every" ] || continue
		last=$SECONDS
		seen=$(grep -cE "$pattern" "$log" || true)
		show_progress "$what" "$seen" "$total" "$start"
	done
	wait "$pid" || rc=$?
	trap - EXIT
	[ -t 2 ] && printf '\r\033[K' >&2
	return "$rc"
}
