/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Restoring: restore_page(), migrate_and_retire() with migrate_folio_unmap() and __migrate_folio(), and
 * folio_fill_from_mirror(). The frame may break at any moment, so this process may start at any.
 */

/* try_to_migrate_one() for one PTE. */
inline try_to_migrate_one(m)
{
	if
	:: atomic { !mm[m].ptl && mm[m].pte == HERE -> mm[m].ptl = 1 }
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
		/* Anonymous memory that is pinned stays: folio_try_share_anon_rmap_pte(). */
		if
#ifndef SHMEM
		:: pins > 0 -> mm[m].pte = HERE
#endif
		:: else ->
			mapcount--;
			folio_put()
		fi;
		unlock(mm[m].ptl)
	:: !mm[m].ptl && mm[m].pte != HERE
	fi
}

/* remove_migration_ptes(): back to the same frame, or on to the new one. */
inline remove_migration_pte(m, to)
{
	atomic {
		!mm[m].ptl ->
		if
		:: mm[m].pte == ENTRY && to == HERE -> refs++; mapcount++; mm[m].pte = HERE
		:: mm[m].pte == ENTRY && to == AWAY -> mm[m].pte = AWAY
		:: else
		fi
	}
}

inline try_to_migrate()
{
	try_to_migrate_one(0);
#if MMS > 1
	try_to_migrate_one(1)
#endif
}

inline remove_migration_ptes(to)
{
	remove_migration_pte(0, to);
#if MMS > 1
	remove_migration_pte(1, to)
#endif
}

/* A page that nobody maps any more, and no cache holds, is about to be freed: nobody sees what becomes of it. */
#if MMS > 1
#define VISIBLE (CACHED || mm[0].pte == ENTRY || mm[1].pte == ENTRY)
#else
#define VISIBLE (CACHED || mm[0].pte == ENTRY)
#endif

/* Store::fill() */
inline store_fill()
{
	atomic {
	!store ->
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
	fi
	}
}

bit mf_mutex;		/* one restore at a time; quiet: memory_mirror_recover() */

proctype restore(bit quiet)
{
	byte try, to[2];
	bit ok, pinned;

	/* mirror_restore_begin(): hints only, nothing is locked. */
	if
	:: atomic { !mf_mutex && flag && owner == US && published && swapbacked -> mf_mutex = 1 }
	:: !mf_mutex && (!flag || owner != US || !published || !swapbacked) -> goto done
	fi;

again:
	try++;
	pinned = 1;
	if
	:: atomic { refs > 0 -> refs++ }	/* get_hwpoison_page() */
	:: refs == 0 -> goto out
	fi;

	/* mirror_restore_fit(), under the folio lock. It is mapped still: who takes the page later has to clear the flag. */
	lock(locked);
	ok = 1;
#if !defined(NO_GUARD_SWAPBACKED) && !defined(NO_GUARD_RESTORE_SWAPBACKED)
	ok = swapbacked;
#endif
#ifndef NO_GUARD_RESTORE_NOTIFIER
	mirror_has_notifier();
#endif
	unlock(locked);
	if
	:: !ok -> pinned = 0; folio_put(); goto retry
	:: ok -> ok = 0
	fi;

	/* isolate_folio_to_list(), which takes a reference, and the first one is dropped. */
	if
	:: atomic { lru -> lru = 0 }
	:: !lru -> folio_put(); goto retry
	fi;

	/* migrate_folio_unmap() */
#ifndef NO_GUARD_RESTORE_LOCK
	lock(locked);
#endif
	try_to_migrate();
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
		assert(!VISIBLE || (to[0] == mem[0] && to[1] == mem[1]));
		restored = 1
	}
	if
	:: try > 1 -> printf("restored after a wait\n")
	:: else
	fi;
	remove_migration_ptes(AWAY);
	unlock(locked);
	/* Recovery::restored(), mirror_restore_end(); the frame is never used again. */
	atomic {
		!store ->
		if
		:: owner == US -> owner = NOBODY; published = 0
		:: else
		fi;
		flag = 0
	}
	goto out;

undo:
	atomic { to[0] = 0; to[1] = 0; ok = 0 }
	remove_migration_ptes(HERE);
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
	unlock(mf_mutex);
done:
	skip
}
