/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Synchronising: memory_mirror_walk(), memory_mirror_begin(), Store::copy(), memory_mirror_end(). The process is a worker's
 * epoch as far as it touches this page.
 */

/*
 * mirror_clean_one() for one PTE: the reverse map, with each page-table lock taken, also where the PTE is gone (PVMW_SYNC). What
 * was found dirty is copied after this, so the flag stays.
 */
inline mirror_clean_one(m)
{
	if
#ifdef NO_GUARD_CLEAN_SYNC
	:: mm[m].pte != HERE
#endif
	:: atomic { !mm[m].ptl && mm[m].pte != HERE -> skip }
	:: atomic { !mm[m].ptl && mm[m].pte == HERE && !mm[m].d ->
#ifndef NO_GUARD_CLEAN_PENDING
		if
		:: mm[m].pending -> flush_tlb(m)
		:: else
		fi
#else
		skip
#endif
		}
	:: atomic { !mm[m].ptl && mm[m].pte == HERE && mm[m].d -> mm[m].ptl = 1; mm[m].d = 0 }
#ifndef NO_GUARD_CLEAN_FLUSH
		flush_tlb(m);
#endif
		/* folio_move_dirty() */
		atomic { fresh = 1; unlock(mm[m].ptl) }
	fi;
#ifndef NO_GUARD_BATCHED_FLUSH
	flush_tlb_batched_pending(m)
#endif
}

/* mirror_clean() */
#ifdef SHMEM
#ifdef NO_GUARD_CLEAN_UNMAPPED
#define CLEANS (mapcount > 0)
#else
#define CLEANS true
#endif
#else
/* Exclusive memory has one mapping, which the walk has cleaned. */
#define CLEANS (mapcount > 1)
#endif
inline mirror_clean()
{
#if MMS > 1 && !defined(NO_GUARD_CLEAN_ALL)
	if
	:: CLEANS ->
		mirror_clean_one(0);
		mirror_clean_one(1)
	:: else
	fi
#else
	skip
#endif
}

/* mirror_refs_accounted(): two loads. C leaves their order open; with a page cache it has to be this one. */
inline mirror_refs_accounted()
{
	if
	:: seen = refs; ok = (seen == mapcount + CACHED + 1)
#if !defined(REFS_FIRST) || defined(NO_GUARD_REFS_FIRST)
	:: seen = mapcount; ok = (refs == seen + CACHED + 1)
#endif
	fi;
	seen = 0
}

inline mirror_refs_one(m)
{
	atomic {
		!mm[m].ptl ->
		if
		:: mm[m].pte == HERE ->
			ok = (mapcount == 1 && refs == mapcount + CACHED + 1);
#ifndef NO_GUARD_FLUSH_PENDING
			if
			:: mm[m].pending -> flush_tlb(m)
			:: else
			fi
#endif
		:: else
		fi
	}
}

/*
 * mirror_unreferenced(). The single mapping is looked at under its page-table lock. A flush of the TLB that is pending there
 * belongs to one who has cleaned the PTE already, so stores may still pass unseen: it is done here.
 */
inline mirror_unreferenced()
{
#ifdef NO_GUARD_BEGIN_REFS
	ok = 1;
#else
	ok = 0;
	if
	:: pins > 0				/* folio_maybe_dma_pinned() */
#if !defined(SHMEM) && !defined(NO_GUARD_REFS_PTL)
	:: pins == 0 && mapcount == 1 ->
		mirror_refs_one(0);
#if MMS > 1
		mirror_refs_one(1)
#endif
	:: pins == 0 && mapcount != 1 -> mirror_refs_accounted()
#else
	:: pins == 0 -> mirror_refs_accounted()
#endif
	fi
#endif
}

#define MAPPED_NOTIFIER(m) ((mm[m].pte == HERE || mm[m].pte == ENTRY) && mm[m].notifier)

inline mirror_has_notifier()
{
#if MMS > 1
	ok = ok && !MAPPED_NOTIFIER(0) && !MAPPED_NOTIFIER(1)
#else
	ok = ok && !MAPPED_NOTIFIER(0)
#endif
}

/* Store::copy(), under the store's lock from the claim until it is published. */
inline store_copy()
{
#ifndef NO_GUARD_STORE_LOCK
	lock(store);
#endif
	if
	:: owner == OTHER -> ok = 0			/* NoSpace */
#ifdef REFUSALS
	:: ok = 0					/* over the limit, or not tracked any more: nothing has changed */
#endif
	:: owner != OTHER ->
		d_step { owner = US; published = 0 }	/* Replicas::claim() */
#ifndef NO_GUARD_BEGIN_RMB
		slot[0] = mem[0];
#else
		slot[0] = early;
#endif
		if
		:: slot[1] = mem[1];
			d_step { hash[0] = slot[0]; hash[1] = slot[1]; published = 1 }
#ifdef REFUSALS
		:: owner = NOBODY; ok = 0		/* the primary breaks while it is copied: Replicas::release() */
#endif
		fi
	fi;
#ifndef NO_GUARD_STORE_LOCK
	unlock(store)
#endif
}

#ifdef NO_GUARD_WALK_NOTIFIER
#define WALK_NOTIFIER true
#else
#define WALK_NOTIFIER !mm[m].notifier
#endif
#ifdef NO_GUARD_SWAPBACKED
#define WALK_SWAPBACKED true
#else
#define WALK_SWAPBACKED swapbacked
#endif

#define WALK_TAKES (mm[m].pte == HERE && WALK_NOTIFIER && (mm[m].d || !flag) && WALK_SWAPBACKED)

/* mirror_run_begin() */
inline set_flag() { d_step { fresh = fresh || !flag; flag = 1 } }

proctype sync()
{
	byte epoch, m, seen;
	bit ok, fresh;
#ifdef NO_GUARD_BEGIN_RMB
	byte early;
#endif

	do
	:: epoch == EPOCHS -> break
	:: epoch < EPOCHS ->
		epoch++;
		if
		:: m = 0
#if MMS > 1
		:: m = 1
#endif
		fi;

		/* memory_mirror_walk(): mirror_pte_range(), mirror_hand_over(). */
		mmap_read_lock(m);
		if
		:: atomic { !mm[m].ptl && (!WALK_TAKES) -> goto walked }
		:: atomic { !mm[m].ptl && WALK_TAKES -> mm[m].ptl = 1 }
		fi;
		if
		:: mm[m].d ->
			mm[m].d = 0;
#ifndef NO_GUARD_WALK_MARK
			folio_mark_dirty()
#endif
		:: else
		fi;
		atomic { refs++; ok = 1; unlock(mm[m].ptl) }
#ifndef NO_GUARD_WALK_FLUSH
		flush_tlb(m);
#endif
walked:
		atomic {
			mmap_read_unlock(m);
			m = 0;
			if
			:: !ok -> goto next
			:: else -> ok = 0
			fi
		}

		/* memory_mirror_begin(): a trylock, for the batch may hold pages that wait for each other. */
#ifndef NO_GUARD_SYNC_LOCK
		if
		:: atomic { !locked -> locked = 1 }
		:: locked -> goto drop
		fi;
#endif
#ifndef NO_GUARD_SWAPBACKED
		if
		:: !swapbacked -> goto unlock_folio
		:: else
		fi;
#endif
#ifdef NO_GUARD_FLAG_BEFORE_CLEAN
		mirror_clean();
#endif
#ifdef NO_GUARD_BEGIN_RMB
		/* The loads of the copy may come as early as the barrier lets them. */
		set_flag();
		mirror_clean();
		early = mem[0];
		mirror_unreferenced();
#elif defined(NO_GUARD_BEGIN_MB)
		/* A store and a later load: either may come first. */
		if
		:: set_flag(); mirror_unreferenced()
		:: mirror_unreferenced(); set_flag()
		fi;
#elif defined(NO_GUARD_FLAG_FIRST)
		fresh = 1;
		mirror_unreferenced();
#else
		set_flag();
#ifndef NO_GUARD_FLAG_BEFORE_CLEAN
		mirror_clean();
#endif
#ifndef NO_GUARD_SWAPBACKED
		if
		:: !swapbacked -> goto refuse
		:: else
		fi;
#endif
		mirror_unreferenced();
#endif
#ifndef NO_GUARD_BEGIN_NOTIFIER
		mirror_has_notifier();
#endif
		if
		:: !ok -> goto refuse
		:: else
		fi;

		if
		:: fresh -> store_copy()
		:: else				/* another worker has copied it since the walk */
		fi;
#ifdef NO_GUARD_FLAG_FIRST
		/* The flag is set when the copy is made, not before. */
		flag = ok;
#endif
		/* memory_mirror_end() */
#ifndef NO_GUARD_END_CLEAR
		if
		:: !ok -> flag = 0
		:: else
		fi;
#endif
		fresh = 0;
		goto unlock_folio;
refuse:
#ifndef NO_GUARD_BEGIN_CLEAR
		/* mirror_run_undo() */
		if
		:: fresh -> flag = 0
		:: else
		fi;
#endif
		fresh = 0;
unlock_folio:
#ifndef NO_GUARD_SYNC_LOCK
		unlock(locked);
#endif
		skip;
drop:
		folio_put();
next:
		ok = 0
	od
}
