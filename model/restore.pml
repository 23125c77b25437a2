/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Restoring: restore_page(), migrate_and_retire() with migrate_folio_unmap() and __migrate_folio(), and
 * folio_fill_from_mirror(). The frame may break at any moment, so this process may start at any.
 */

/* try_to_migrate_one() for one PTE. */
inline try_to_migrate_one(m)
{
	lock(mm[m].ptl);
	if
	:: mm[m].pte == HERE ->
		ptep_get_and_clear(m, ENTRY);
#ifndef NO_GUARD_UNMAP_FLUSH
		flush_tlb(m);
#endif
		if
		:: mm[m].d ->
#ifndef NO_GUARD_UNMAP_MARK
			folio_mark_dirty()
#endif
			skip
		:: else
		fi;
		mapcount--;
		folio_put()
	:: else
	fi;
	unlock(mm[m].ptl)
}

/* remove_migration_ptes(): back to the same frame, or on to the new one. */
inline remove_migration_pte(m, to)
{
	lock(mm[m].ptl);
	if
	:: mm[m].pte == ENTRY && to == HERE -> refs++; mapcount++; mm[m].pte = HERE
	:: mm[m].pte == ENTRY && to == AWAY -> mm[m].pte = AWAY
	:: else
	fi;
	unlock(mm[m].ptl)
}

/* Store::fill() */
inline store_fill()
{
	lock(store);
	if
#ifndef NO_GUARD_INDEX
	:: owner != US || !published -> ok = 0		/* NoReplica */
	:: else ->
#else
	:: true ->
#endif
		to[0] = slot[0];
		to[1] = slot[1];
#ifndef NO_GUARD_HASH
		ok = (to[0] == hash[0] && to[1] == hash[1])
#endif
	fi;
	unlock(store)
}

bit mf_mutex;		/* one restore at a time; quiet: memory_mirror_recover() */

proctype restore(bit quiet)
{
	byte try, k, to[2];
	bit ok, pinned;

	lock(mf_mutex);
	/* mirror_restore_begin(): hints only, nothing is locked. */
	if
	:: owner == US && published && swapbacked -> skip
	:: else -> goto out
	fi;
	if
	:: flag -> skip
	:: else -> goto out
	fi;

again:
	try++;
	pinned = 1;
	if
	:: atomic { refs > 0 -> refs++ }	/* get_hwpoison_page() */
	:: refs == 0 -> goto out
	fi;
	lock(locked);				/* folio_wait_writeback() */
	unlock(locked);

	/* isolate_folio_to_list() */
	if
	:: atomic { lru -> lru = 0; refs++ }
	:: !lru -> folio_put(); goto retry
	fi;
	folio_put();

	/* migrate_folio_unmap() */
#ifndef NO_GUARD_RESTORE_LOCK
	lock(locked);
#endif
	for (k : 0 .. MMS - 1) {
		try_to_migrate_one(k)
	}
	k = 0;
	if
	:: mapcount > 0 -> goto undo
	:: else
	fi;

#ifdef NO_GUARD_RESTORE_MB
	/* The flag may be loaded before the references. */
	ok = flag;
#endif
	/* __migrate_folio(): no reference but the isolation's, and the caches'? */
#ifndef NO_GUARD_RESTORE_REFS
	if
	:: refs != mapcount + CACHED + 1 -> goto undo
	:: else
	fi;
#endif

	/* folio_fill_from_mirror() */
	pinned = 0;
#ifndef NO_GUARD_SWAPBACKED
#ifndef NO_GUARD_RESTORE_SWAPBACKED
	if
	:: !swapbacked -> goto undo
	:: else
	fi;
#endif
#endif
#ifdef NO_GUARD_RESTORE_MB
	skip;
#elif defined(NO_GUARD_RESTORE_FLAG)
	ok = 1;
#else
	ok = flag;
#endif
#ifndef NO_GUARD_RESTORE_NOTIFIER
	mirror_has_notifier();
#endif
	if
	:: !ok -> goto undo
	:: else
	fi;
	store_fill();
	if
	:: !ok -> goto undo
	:: else
	fi;

	/* The page is in its new frame from here on, with these bytes. */
	atomic {
		assert(to[0] == mem[0] && to[1] == mem[1]);
		restored = 1
	}
	if
	:: try > 1 -> printf("restored after a wait\n")
	:: else
	fi;
	for (k : 0 .. MMS - 1) {
		remove_migration_pte(k, AWAY)
	}
	unlock(locked);
	lock(store);				/* Recovery::restored() */
	if
	:: owner == US -> d_step { owner = NOBODY; published = 0 }
	:: else
	fi;
	unlock(store);
	flag = 0;				/* mirror_restore_end(); the frame is never used again */
	goto done;

undo:
	for (k : 0 .. MMS - 1) {
		remove_migration_pte(k, HERE)
	}
	k = 0;
#ifndef NO_GUARD_RESTORE_LOCK
	unlock(locked);
#endif
	lru = 1;				/* putback_movable_pages() */
	folio_put();
retry:
	/* mirror_restore_worth_waiting() */
	if
	:: try < TRIES && !quiet && pinned && flag -> goto again
	:: else
	fi;
	if
	:: !quiet -> flag = 0			/* mirror_restore_end() */
	:: else
	fi;
out:
	skip;
done:
	unlock(mf_mutex)
}
