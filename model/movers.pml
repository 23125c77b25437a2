/* SPDX-License-Identifier: GPL-2.0 */
/* Who maps, unmaps, moves, frees or gives away the page, or holds it for a moment. */

/* zap_present_folio_ptes(). The bit of anonymous memory is dropped: the frame is freed, or others have the same bit. */
inline zap(m)
{
	lock(mm[m].ptl);
	if
	:: mm[m].pte == HERE ->
		ptep_get_and_clear(m, NONE);
#ifdef SHMEM
		/* Of shared memory a dirty entry is flushed, and the mapping dropped, before the page table is unlocked. */
		if
		:: mm[m].d -> folio_mark_dirty(); flush_tlb(m)
		:: else
		fi;
#endif
		mm[m].d = 0;
		mapcount--;
		unlock(mm[m].ptl);
		flush_tlb(m);			/* tlb_finish_mmu(): before the reference goes */
		folio_put()
	:: mm[m].pte == NONE || mm[m].pte == AWAY -> unlock(mm[m].ptl)
	:: mm[m].pte == ENTRY -> mm[m].pte = NONE; unlock(mm[m].ptl)
	fi
}

/* munmap() or exit, and perhaps the frame is used again: read from swap, so the new PTE is clean. */
#ifdef RUNS_unmap
proctype unmap(byte m; byte next)
{
	zap(m);
#ifdef REUSE
	if
	:: restored || mapcount > 0
	:: atomic { refs == 0 && !restored ->
		mem[0] = 9; mem[1] = 9;
		refs = 1; mapcount = 1; lru = 1; swapbacked = 1;
		mm[next].pte = HERE; mm[next].w = 1; mm[next].d = 0 }
	fi
#endif
}
#endif

/* An ordinary migration to another frame: compaction, NUMA balancing, soft offlining. */
#ifdef RUNS_migrate
proctype migrate(byte next)
{
	if
	:: atomic { lru && refs > 0 -> lru = 0; refs++ }
	:: !lru || refs == 0 -> goto out
	fi;
	lock(locked);
	try_to_migrate();
	if
	:: mapcount == 0 && refs == CACHED + 1 ->
		/* The copy is made, and none of the flags of this model goes to the new frame but PG_dirty. */
		remove_migration_ptes(AWAY);
		unlock(locked);
		folio_put()
	:: else ->
		remove_migration_ptes(HERE);
		unlock(locked);
		lru = 1;
		folio_put()
	fi;
#ifdef REUSE
	if
	:: restored || mapcount > 0
	:: atomic { refs == 0 && !restored && mm[next].pte != ENTRY ->
		mem[0] = 9; mem[1] = 9;
		refs = 1; mapcount = 1; lru = 1; swapbacked = 1;
		mm[next].pte = HERE; mm[next].w = 1; mm[next].d = 0 }
	fi;
#endif
out:
	skip
}
#endif

/* Reclaim or compaction that takes the page off the LRU and puts it back, having changed its mind. */
#ifdef RUNS_isolate
proctype isolate()
{
	if
	:: atomic { lru && refs > 0 -> lru = 0; refs++ }
	:: !lru || refs == 0 -> goto out
	fi;
	lru = 1;
	folio_put();
out:
	skip
}
#endif

/* copy_present_ptes(): the child shares the page, write-protected, with the dirty bit; a pinned page is copied instead. */
#ifdef RUNS_fork
proctype fork(bit child_exits; bit parent_exits)
{
	mmap_write_lock(0);
	lock(mm[0].ptl);
	lock(mm[1].ptl);
	if
	:: mm[0].pte == HERE && mm[1].pte == NONE && pins == 0 ->
		refs++;
		mapcount++;
		d_step { mm[0].w = 0; mm[0].sec = 0 }
		d_step { mm[1].pte = HERE; mm[1].w = 0; mm[1].d = mm[0].d }
	:: mm[0].pte == HERE && mm[1].pte == NONE && pins > 0 -> mm[1].pte = AWAY
	:: mm[0].pte == ENTRY && mm[1].pte == NONE ->
		d_step { mm[0].w = 0; mm[1].pte = ENTRY; mm[1].w = 0; mm[1].d = mm[0].d }
	:: else
	fi;
	unlock(mm[1].ptl);
	unlock(mm[0].ptl);
	flush_tlb(0);				/* dup_mmap(): flush_tlb_mm(), and only then the lock goes */
	mm[0].mmap = 0;
	if
	:: child_exits -> zap(1)
	:: else
	fi;
	if
	:: parent_exits -> zap(0)
	:: else
	fi
}
#endif

/* lru_lazyfree() from folio_batch_move_lru(), and the batch's reference. */
inline lru_lazyfree()
{
	if
	:: atomic { lru -> lru = 0 }
		swapbacked = 0;
		lru = 1
	:: !lru
	fi;
	folio_put();
	batch = 0
}

/* madvise_free_pte_range(): the TLB is flushed at the end of madvise(), which may be long after. */
#ifdef RUNS_madvise_free
proctype madvise_free()
{
	bit batch, skipped;

	mmap_read_lock(0);
	lock(mm[0].ptl);
	if
	:: mm[0].pte != HERE -> skipped = 1
	:: else ->
		if
		:: !dirty
		:: dirty ->
			if
			:: atomic { !locked -> locked = 1 }
				if
				:: mapcount == 1 -> dirty = 0
				:: else -> skipped = 1
				fi;
				unlock(locked)
			:: locked -> skipped = 1
			fi
		fi
	fi;
	if
	:: skipped
	:: else ->
		mm[0].d = 0;
		/* folio_mark_lazyfree() */
#ifdef NO_GUARD_LAZYFREE_ORDER
		folio_mirror_stale();
#endif
		if
		:: lru && swapbacked -> refs++; batch = 1
		:: else
		fi;
#if !defined(NO_GUARD_LAZYFREE) && !defined(NO_GUARD_LAZYFREE_ORDER)
		folio_mirror_stale()
#endif
	fi;
	unlock(mm[0].ptl);
	if
	:: batch -> lru_lazyfree()		/* before the flush or after, sooner or later */
	:: true
	fi;
	flush_tlb(0);				/* tlb_finish_mmu() */
	mmap_read_unlock(0);
	if
	:: batch -> lru_lazyfree()
	:: else
	fi
}
#endif

/* try_to_unmap_one() of a lazily freed folio: it was written, and is kept; or it was not, and goes. */
#ifdef RUNS_reclaim
proctype reclaim()
{
	bit was;

	if
	:: atomic { lru && !swapbacked && refs > 0 -> lru = 0; refs++ }
	:: true -> goto out
	fi;
	lock(locked);
	lock(mm[0].ptl);
	if
	:: mm[0].pte == HERE && !restored ->
		d_step { mm[0].pte = ENTRY; mm[0].sec = 0 }
		flush_tlb(0);
		if
		:: mm[0].d -> folio_mark_dirty()
		:: else
		fi;
		if
		:: dirty -> mm[0].pte = HERE; swapbacked = 1
		:: !dirty && refs != 1 + mapcount -> mm[0].pte = HERE
		:: !dirty && refs == 1 + mapcount -> mm[0].pte = NONE; mapcount--; folio_put()
		fi
	:: else
	fi;
	unlock(mm[0].ptl);
	unlock(locked);
	lru = 1;
	folio_put();
out:
	skip
}
#endif

/*
 * try_to_unmap(TTU_BATCH_FLUSH): the TLBs are flushed after the folio is unlocked, try_to_unmap_flush(). Reclaim keeps its
 * reference until then. khugepaged's collapse_file() does not: when it finds a reference too many, it puts the page back,
 * unlocks it, gives up its references, and flushes last.
 */
#ifdef RUNS_unmap_batched
inline try_to_unmap_one(m)
{
	if
	:: atomic { !mm[m].ptl && mm[m].pte == HERE -> mm[m].ptl = 1; ptep_get_and_clear(m, NONE) }
		mm[m].batched = 1;		/* set_tlb_ubc_flush_pending() */
		if
		:: mm[m].d -> folio_mark_dirty(); mm[m].d = 0
		:: else
		fi;
		mapcount--;
		atomic { unlock(mm[m].ptl); folio_put() }
	:: atomic { !mm[m].ptl && mm[m].pte != HERE -> skip }
	fi
}

proctype unmap_batched(bit collapse)
{
	if
	:: atomic { lru && refs > 0 && !locked -> lru = 0; refs++; locked = 1 }
	:: true -> goto out
	fi;
	if
	:: !restored ->
		try_to_unmap_one(0);
		try_to_unmap_one(1)
	:: else
	fi;
	if
	:: collapse -> atomic { lru = 1; folio_put(); unlock(locked) }
	:: else -> unlock(locked)
	fi;
	d_step { mm[0].tlb = 0; mm[0].batched = 0 }
	d_step { mm[1].tlb = 0; mm[1].batched = 0 }
	if
	:: !collapse -> atomic { lru = 1; folio_put() }
	:: else
	fi;
out:
	skip
}
#endif

/* The replica is taken away: switched off, over the limit, its frame lost, its block given back. Another page gets the slot. */
#ifdef RUNS_taker
proctype taker()
{
	lock(store);
	if
	:: owner == US ->
		d_step { owner = NOBODY; published = 0 }
		flag = 0			/* clear_mirrored(): after, and of whoever has the frame now */
	:: else
	fi;
	unlock(store);
	if
	:: true
	:: lock(store);
		if
		:: owner == NOBODY ->
			d_step { owner = OTHER; published = 0 }
			slot[0] = 7;
			slot[1] = 7;
			d_step { hash[0] = slot[0]; hash[1] = slot[1]; published = 1 }
		:: else
		fi;
		unlock(store);
		lock(store);
		assert(owner != OTHER || (slot[0] == 7 && slot[1] == 7));
		if
		:: owner == OTHER -> d_step { owner = NOBODY; published = 0 }
		:: else
		fi;
		unlock(store)
	fi
}
#endif

/* A replica rots in its frame, and no machine check says so. Before it is hashed it would not be noticed. */
#ifdef RUNS_rot
proctype rot()
{
	if
	:: atomic { published && !store -> slot[0] = 66 }
	:: true
	fi
}
#endif
