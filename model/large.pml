/* SPDX-License-Identifier: GPL-2.0 */
/*
 * A large folio of two pages, mapped by one huge PMD or by a PTE each: synchronised as a whole or page by page, split for a
 * restore. Included instead of mirror.pml where LARGE is defined.
 *
 * What mirror.pml is about is not tried again: a page has one version and is never torn, mappings and their references do not
 * change, so that only references beyond them are counted. What is new is that one dirty bit, one lock and one count of
 * references stand for two pages with a flag and a replica each, and stop doing so at any moment.
 */

#ifndef EPOCHS
#define EPOCHS 1
#endif

/* How the folio is mapped. */
#define PMD	0
#define PTES	1
#define FROZEN	2	/* migration entries, while the folio is split */

bit ptl;		/* pmd_trans_huge_lock(), or that of the page table */
byte map;
bit pd, d[2];		/* dirty: the PMD; the PTEs, or their migration entries */
bit tlbh, tlb[2];	/* a CPU caches this entry as writable and dirty */
bit frozen[2];		/* a migration entry for this page alone: it is being restored */
bit gone[2];		/* the page has moved to another frame */

bit large;		/* not split yet: page 1 has no lock and no references of its own */
bit locked[2];
byte refs[2];		/* beyond those of the page tables */
bit flag[2];		/* PG_mirrored */
bit all;		/* PG_all_mirrored, which is a flag of the second page */

byte mem[2], slot[2];
bit published[2];

bit restored;
bit mf_mutex;

/* The page whose lock and references are those of page h. */
#define HEAD(h) ((h) * (1 - large))

inline lock(l) { atomic { !l -> l = 1 } }
inline unlock(l) { l = 0 }

inline write(h) { d_step { assert(!gone[h]); mem[h]++ } }

/* flush_tlb_range() of a page. */
inline flush_tlb(h) { d_step { tlbh = 0; tlb[h] = 0 } }

inline clear_flag(h)
{
	if
	:: flag[h] -> flag[h] = 0
	:: else
	fi
}

/* __folio_mirror_stale(): the flags, a barrier, and then the hint for all of them. */
inline clear_all()
{
#if !defined(NO_GUARD_ALL_CLEAR) && !defined(NO_GUARD_ALL_MB)
	if
	:: all -> all = 0
	:: else
	fi
#else
	skip
#endif
}

#ifdef NO_GUARD_ALL_MB
/* Without the barrier the hint may be looked at before the flags are cleared. */
#define LOOK_AT_ALL seen = all
#define CLEAR_ALL if :: seen -> all = 0; seen = 0 :: else fi
#else
#define LOOK_AT_ALL skip
#define CLEAR_ALL clear_all()
#endif

inline folio_mirror_stale_page(h)
{
	LOOK_AT_ALL;
	clear_flag(h);
	if
	:: large -> CLEAR_ALL
	:: else
	fi
}

inline folio_mirror_stale()
{
	LOOK_AT_ALL;
	clear_flag(0);
	clear_flag(1);
	CLEAR_ALL
}

/* A thread of user space that stores. */
proctype user(byte stores)
{
	do
	:: stores == 0 || gone[0] || gone[1] -> break
	:: atomic { stores > 0 && (tlbh || tlb[0]) -> stores--; write(0) }
	:: atomic { stores > 0 && (tlbh || tlb[1]) -> stores--; write(1) }
	:: atomic { stores > 0 && map == PMD && !tlbh -> pd = 1; tlbh = 1 }
	:: atomic { stores > 0 && map == PTES && !frozen[0] && !gone[0] && !tlb[0] -> d[0] = 1; tlb[0] = 1 }
	:: atomic { stores > 0 && map == PTES && !frozen[1] && !gone[1] && !tlb[1] -> d[1] = 1; tlb[1] = 1 }
	od
}

#define MAPPED(h) (map != FROZEN && !frozen[h] && !gone[h])

/* DMA into one page, taken by get_user_pages_fast() with FOLL_WRITE, and given back without a word. */
proctype dma()
{
	bit h, seen;

	if
	:: h = 0
	:: h = 1
	fi;
	if
	:: MAPPED(h) -> refs[HEAD(h)]++
	:: else -> goto out
	fi;
#ifdef NO_GUARD_STALE_ALL
	clear_flag(0);
#else
	if
	:: large -> folio_mirror_stale()
	:: else -> folio_mirror_stale_page(h)
	fi;
#endif
	if
	:: MAPPED(h) -> write(h)
	:: else
	fi;
	refs[HEAD(h)]--;
out:
	skip
}

/* __split_huge_pmd_locked(): the PMD is gone from the TLBs, and its dirty bit copied down. */
inline split_huge_pmd(to)
{
	atomic { was = pd; pd = 0; tlbh = 0; map = FROZEN };
	if
	:: was ->
#ifndef NO_GUARD_SPLIT_STALE
		folio_mirror_stale();
#endif
#ifndef NO_GUARD_SPLIT_DOWN
		d[0] = 1;
		d[1] = 1;
#endif
		was = 0
	:: else
	fi;
	map = to
}

/* memory_mirror_split(), mprotect() of a part, and many others. */
proctype split()
{
	bit was, seen;

	lock(ptl);
	if
	:: map == PMD -> split_huge_pmd(PTES)
	:: else
	fi;
	unlock(ptl)
}

/* memory_mirror_end(): remember that all pages have the flag. */
inline mirror_set_all()
{
	all = 1;
#ifndef NO_GUARD_ALL_CHECK
	if
	:: !flag[0] -> all = 0
	:: flag[0] ->
		if
		:: !flag[1] -> all = 0
		:: else
		fi
	fi
#endif
}

/* mirror_run_begin(), for one page; and the copy of it. */
inline set_flag(i) { d_step { fresh[i] = !flag[i]; flag[i] = 1 } }

inline copy(i)
{
	if
	:: fresh[i] -> d_step { slot[i] = mem[i]; published[i] = 1; fresh[i] = 0 }
	:: else
	fi
}

inline undo(i)
{
	if
	:: fresh[i] -> folio_mirror_stale_page(i); fresh[i] = 0
	:: else
	fi
}

#ifdef NO_GUARD_WALK_REF
#define OWN 0
#else
#define OWN 1
#endif

/* An epoch, as far as it touches this folio. */
proctype sync()
{
	byte epoch;
	bit h, both, fresh[2], ok, seen;

	do
	:: epoch == EPOCHS -> break
	:: epoch < EPOCHS ->
		epoch++;
		lock(ptl);
		if
		:: map == PMD ->
			/* mirror_pmd() */
			if
			:: !pd && all -> unlock(ptl); goto next
			:: else
			fi;
			both = 1;
			if
			:: pd ->
				pd = 0;
#ifndef NO_GUARD_PMD_STALE
				folio_mirror_stale()
#endif
			:: else
			fi
		:: map == PTES ->
			/* mirror_pte() */
			if
			:: h = 0
			:: h = 1
			fi;
			if
			:: !MAPPED(h) || (!d[h] && flag[h]) -> unlock(ptl); goto next
			:: else
			fi;
			if
			:: d[h] ->
				d[h] = 0;
#ifndef NO_GUARD_PTE_STALE
				folio_mirror_stale_page(h)
#endif
			:: else
			fi
		:: map == FROZEN -> unlock(ptl); goto next
		fi;
#ifndef NO_GUARD_WALK_REF
		refs[HEAD(h)]++;
#endif
		unlock(ptl);
#ifndef NO_GUARD_PMD_FLUSH
		d_step { tlbh = 0; tlb[h] = 0; tlb[1] = tlb[1] && !both };
#endif

		/* memory_mirror_begin() */
		if
		:: atomic { !locked[HEAD(h)] -> locked[HEAD(h)] = 1 }
		:: locked[HEAD(h)] -> goto drop
		fi;
		set_flag(h);
		if
		:: both -> set_flag(1)
		:: else
		fi;
#ifdef NO_GUARD_LARGE_REFS
		ok = 1;
#else
		ok = (refs[HEAD(h)] == OWN);
#endif
		if
		:: ok ->
			copy(h);
			copy(1);
			if
			:: both && large -> mirror_set_all()
			:: else
			fi
		:: else -> undo(h); undo(1)
		fi;
		unlock(locked[HEAD(h)]);
drop:
		skip;
#ifndef NO_GUARD_WALK_REF
		refs[HEAD(h)]--;
#endif
next:
		h = 0;
		both = 0;
		ok = 0
	od
}

/* try_to_split_thp_page(), with the folio locked: it fails if anybody else holds a reference. */
inline split_folio()
{
	lock(ptl);
	if
	:: map == PMD -> split_huge_pmd(FROZEN)
	:: map == PTES ->
		/* try_to_migrate(): the entries keep their dirty bits. */
		d_step { map = FROZEN; tlb[0] = 0; tlb[1] = 0 };
		if
		:: d[0] -> folio_mirror_stale_page(0)
		:: else
		fi;
		if
		:: d[1] -> folio_mirror_stale_page(1)
		:: else
		fi
	fi;
	unlock(ptl);
	if
	:: atomic { refs[0] == 1 ->
		/* Each page keeps its flag. The hint goes with the other flags of the tail pages. */
		large = 0; all = 0;
		refs[0] = 1 - h; refs[1] = h; locked[0] = 1 - h; locked[1] = h }
	:: refs[0] != 1
	fi;
	map = PTES
}

/* restore_page() */
proctype restore()
{
	bit h, was, ok, seen;

	if
	:: h = 0
	:: h = 1
	fi;
	if
	:: atomic { !mf_mutex && flag[h] && published[h] && !gone[h] -> mf_mutex = 1 }
	:: !mf_mutex && (!flag[h] || !published[h] || gone[h]) -> goto done
	fi;
	refs[HEAD(h)]++;
	lock(locked[HEAD(h)]);
	if
	:: large -> split_folio()
	:: else
	fi;
	unlock(locked[HEAD(h)]);
	if
	:: large -> goto out
	:: else
	fi;

	/* migrate_and_retire() */
	lock(locked[h]);
	lock(ptl);
	atomic { frozen[h] = 1; tlb[h] = 0 };
	if
	:: d[h] ->
#ifndef NO_GUARD_PAGE_UNMAP_MARK
		folio_mirror_stale_page(h)
#endif
	:: else
	fi;
	unlock(ptl);
	ok = (refs[h] == 1);
	/* folio_fill_from_mirror() */
	if
	:: atomic { ok && flag[h] && published[h] ->
		assert(slot[h] == mem[h]);
		gone[h] = 1;
		restored = 1 }
	:: !ok || !flag[h] || !published[h]
	fi;
	frozen[h] = 0;
	/* mirror_restore_end() */
	folio_mirror_stale_page(h);
	unlock(locked[h]);
out:
	refs[HEAD(h)]--;
	unlock(mf_mutex);
done:
	skip
}

init
{
	atomic {
		large = 1;
		map = PMD;
		mem[0] = 1;
		mem[1] = 1;
		if
		:: true ->
			/* Just written, never copied. */
			pd = 1;
			tlbh = 1
		:: true ->
			/* Copied by an earlier epoch. */
			flag[0] = 1; slot[0] = 1; published[0] = 1;
			flag[1] = 1; slot[1] = 1; published[1] = 1;
			all = 1
		fi;
		run sync();
		run restore();
		RUN
	}
	/* A hint that is wrong for good would leave a page without a copy for good. */
	_nr_pr == 1 -> assert(!all || (flag[0] && flag[1]))
}
