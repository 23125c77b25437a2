/* SPDX-License-Identifier: GPL-2.0 */
/*
 * A model of the two protocols of kmirror, synchronising and restoring a page, for spin. See README.md.
 *
 * RUN names the processes that run beside sync and restore: model/configurations.
 */
#include "page.pml"
#include "sync.pml"
#include "restore.pml"
#include "writers.pml"
#include "movers.pml"

init
{
	atomic {
		mm[0].pte = HERE;
		mm[0].w = 1;
		refs = 1 + CACHED;
		mapcount = 1;
		lru = 1;
		swapbacked = 1;
		mem[0] = 1;
		mem[1] = 1;
#ifdef SHARED
		/* Both have the page: after fork(), or for writing as with shmem. */
		mm[1].pte = HERE;
		refs++;
		mapcount++;
		mm[1].d = 1;
#if SHARED == 2
		mm[1].w = 1;
		mm[1].tlb = 1;
#else
		mm[0].w = 0;
#endif
#endif
		if
		:: true ->
			/* Just written, never copied. */
			mm[0].d = 1;
			mm[0].tlb = mm[0].w
#ifndef FRESH
		:: true ->
			/* Copied by an earlier epoch. */
			flag = 1;
			owner = US;
			slot[0] = 1;
			slot[1] = 1;
			hash[0] = 1;
			hash[1] = 1;
			published = 1;
#ifdef SHARED
			mm[1].d = 0;
			mm[1].tlb = 0
#endif
#endif
		fi;
		run sync();
		run restore(0);
		RUN
	}
}
