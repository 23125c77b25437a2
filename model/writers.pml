/* SPDX-License-Identifier: GPL-2.0 */
/* Who writes to the page, and who only holds it. */

/* A thread of user space that stores. */
#ifdef RUNS_user
proctype user(byte m; byte stores)
{
	do
	:: stores == 0 -> break
	:: mm[m].pte == NONE || mm[m].pte == AWAY -> break
	:: atomic { stores > 0 && mm[m].tlb -> write_one(stores) }
	:: atomic { stores > 0 && !mm[m].tlb && mm[m].pte == HERE && mm[m].w -> mm[m].d = 1; mm[m].tlb = 1 }
	:: stores > 0 && mm[m].pte == HERE && !mm[m].w ->
		/* do_wp_page(): wp_can_reuse_anon_folio(), or else a copy in another frame */
		lock(mm[m].ptl);
		if
		:: atomic { mm[m].pte == HERE && refs == 1 + CACHED && !locked -> mm[m].w = 1; mm[m].d = 1 }
		:: mm[m].pte == HERE && (refs != 1 + CACHED || locked) ->
			ptep_get_and_clear(m, AWAY);
			flush_tlb(m);
			mapcount--;
			folio_put()
		:: mm[m].pte != HERE
		fi;
		unlock(mm[m].ptl)
	od
}
#endif

/*
 * get_user_pages_fast() with FOLL_WRITE. The barrier is that of __folio_mirror_stale(); the clearing of the flag is not
 * ordered before the second look at the PTE, nor before what is written, only before the reference is given back.
 */
inline gup_fast(m, pin)
{
	if
	:: mm[m].pte == HERE && mm[m].w -> skip
	:: else -> goto out
	fi;
#ifdef NO_GUARD_STALE_MB
	/* A store and a later load: either may come first. */
	if
	:: if
	   :: atomic { refs > 0 -> refs++; pins = pins + pin }
	   :: refs == 0 -> goto out
	   fi;
	   clear = flag
	:: clear = flag;
	   if
	   :: atomic { refs > 0 -> refs++; pins = pins + pin }
	   :: refs == 0 -> goto out
	   fi
	fi;
#else
	if
	:: atomic { refs > 0 -> refs++; pins = pins + pin }
	:: refs == 0 -> goto out
	fi;
	clear = flag;
#endif
#ifdef NO_GUARD_GUP
	clear = 0;
#endif
	if
	:: clear -> flag = 0; clear = 0
	:: skip
	fi;
	/* The PTE is as it was, and no fork() is under way: write_protect_seq. */
	if
	:: mm[m].pte == HERE && mm[m].w && !mm[m].mmap -> skip
	:: else -> goto put
	fi
}

inline gup_put(pin)
{
	if
	:: clear -> flag = 0; clear = 0
	:: else
	fi;
	pins = pins - pin;
	folio_put()
}

/*
 * DMA into a page that was taken for writing, and given back without a word; with FOLL_PIN, or with FOLL_GET, which shows less.
 */
#ifdef RUNS_dma
proctype dma(byte writes; bit pin)
{
	bit clear;

	gup_fast(0, pin);
	do
	:: atomic { writes > 0 -> write_one(writes) }
	:: writes == 0 -> break
	od;
put:
	gup_put(pin);
out:
	skip
}
#endif

/*
 * get_user_pages() with FOLL_WRITE, the slow way, under the page-table lock; FOLL_GET, so that fork() shares the page all
 * the same. POLITE marks the page dirty when it has written, as it must.
 */
#ifdef RUNS_getter
proctype getter(bit polite)
{
	lock(mm[0].ptl);
	if
	:: mm[0].pte == HERE && mm[0].w -> refs++; folio_mirror_stale()
	:: else -> unlock(mm[0].ptl); goto out
	fi;
	unlock(mm[0].ptl);
	write(1);
	if
	:: polite -> folio_mark_dirty()
	:: else
	fi;
	folio_put();
out:
	skip
}
#endif

/* Direct I/O from the page: a pin that only reads. The page must not go away under it. */
#ifdef RUNS_reader
proctype reader()
{
	if
	:: atomic { mm[0].pte == HERE -> refs++ }
	:: mm[0].pte != HERE -> goto out
	fi;
	assert(!restored);
	folio_put();
out:
	skip
}
#endif

/* Punching a hole into shmem: marks the folio dirty first and writes after. Its reference is the page cache's. */
#ifdef RUNS_punch
proctype punch()
{
	lock(locked);
	folio_mark_dirty();
	if
	:: !restored && refs > 0 -> write(0); write(1)
	:: else
	fi;
	unlock(locked)
}
#endif

/* write(2) to shmem: shmem_write_begin() to shmem_write_end(). */
#ifdef RUNS_writer
proctype writer()
{
	lock(locked);
	if
	:: !restored && refs > 0 -> write(0); write(1); folio_mark_dirty()
	:: else
	fi;
	unlock(locked)
}
#endif

/*
 * A secondary MMU. kvm takes the page for writing and gives it back before it writes; hmm (hmm_range_fault()) only looks at
 * the PTE. Both write without a reference until they are invalidated.
 */
inline sec_write(m)
{
	do
	:: atomic { mm[m].sec && writes > 0 -> write_one(writes) }
	:: !mm[m].sec || writes == 0 -> break
	od
}

#ifdef RUNS_kvm
proctype kvm(byte writes)
{
	bit clear;

	mm[0].notifier = 1;			/* mmu_notifier_register() */
	gup_fast(0, 0);
	if
	:: clear -> flag = 0; clear = 0		/* mmu_lock orders it before the mapping */
	:: else
	fi;
	if
	:: atomic { mm[0].pte == HERE && mm[0].w -> mm[0].sec = 1 }
	:: mm[0].pte != HERE || !mm[0].w
	fi;
put:
	gup_put(0);
	sec_write(0);
out:
	skip
}
#endif

#ifdef RUNS_hmm
proctype hmm(byte writes)
{
	mm[0].notifier = 1;			/* mmu_interval_notifier_insert() */
	if
	:: mm[0].pte == HERE && mm[0].w -> skip
	:: else -> goto out
	fi;
#ifndef NO_GUARD_HMM
	folio_mirror_stale();
#endif
	if
	:: atomic { mm[0].pte == HERE && mm[0].w -> mm[0].sec = 1 }
	:: mm[0].pte != HERE || !mm[0].w
	fi;
	sec_write(0);
out:
	skip
}
#endif
