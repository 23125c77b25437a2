/* SPDX-License-Identifier: GPL-2.0 */
/*
 * One page: its frame, the PTEs that map it, the TLBs that cache them, its replica.
 *
 * The bytes of a page are two halves, each with a version that every write raises. So a torn copy and one that is too old
 * both differ from the page. What is not said to be atomic can be interleaved at each statement.
 *
 * NO_GUARD_* takes a guard away, one macro each: model/guards says what the checker must find then.
 */

#ifndef MMS
#define MMS 1		/* address spaces that can map the frame */
#endif
#ifndef EPOCHS
#define EPOCHS 1
#endif
#ifndef TRIES
#define TRIES 2		/* attempts of one restore: restore_page() */
#endif
#ifndef CACHED
#define CACHED 0	/* references of the page cache or the swap cache, which are accounted for */
#endif

/* Where a PTE leads. */
#define NONE  0
#define HERE  1		/* to the frame that this model is about */
#define ENTRY 2		/* a migration entry for it */
#define AWAY  3		/* to some other frame */

typedef Mm {
	bit mmap;	/* mmap_lock is held for writing */
	byte readers;	/* or, by so many, for reading */
	bit ptl;	/* page-table lock */
	byte pte;	/* NONE, HERE, ENTRY, AWAY */
	bit w;		/* writable */
	bit d;		/* dirty; kept in a migration entry */
	bit tlb;	/* a CPU caches this PTE as writable and dirty: its stores change no PTE */
	byte pending;	/* mm->tlb_flush_pending */
	bit batched;	/* mm->tlb_flush_batched: reclaim has unmapped, and flushes later */
	bit notifier;	/* mm_has_notifiers(): stays once set */
	bit sec;	/* a secondary MMU maps the frame for writing */
};
Mm mm[MMS];

/* struct folio of the frame. */
bit flag;		/* PG_mirrored */
bit locked;
bit lru;		/* PG_lru: not isolated */
bit swapbacked;
bit dirty;		/* PG_dirty, where it matters: LAZYFREE */
byte refs, mapcount;
byte pins;		/* references taken with FOLL_PIN: fork() copies such a page */
byte mem[2];		/* what the frame contains, or would if it were not lost */

/* The store: one slot of the mirror region. */
#define NOBODY 0
#define US 1
#define OTHER 2
bit store;		/* Store::inner */
byte owner;		/* whose the slot is, by its record and the map */
bit published;
byte slot[2];
byte hash[2];		/* of the bytes that were published; a hash without collisions */

bit restored;		/* the page has moved to another frame, with the bytes of the replica */

inline lock(l) { atomic { !l -> l = 1 } }
inline unlock(l) { l = 0 }

/* Steps are joined where nobody could see what is between them: it is under a lock, or one's own. */

/* mmap_lock for reading, by one who will flush the TLB before he lets go: inc_tlb_flush_pending(). */
inline mmap_read_lock(m) { atomic { !mm[m].mmap -> mm[m].readers++; mm[m].pending++ } }
inline mmap_read_unlock(m) { d_step { mm[m].pending--; mm[m].readers-- } }
inline mmap_write_lock(m) { atomic { !mm[m].mmap && mm[m].readers == 0 -> mm[m].mmap = 1 } }

/* Whoever writes to a frame after the page has left it has lost his bytes: stale in the new one. */
inline write(h) { d_step { assert(!restored); mem[h]++ } }

/*
 * One of `left` writes still to come. The halves differ only in that the first is copied first, so the last write of all, to
 * the first half, is the one that is missed most easily. BOTH tries either.
 */
#ifdef BOTH
inline write_one(left) { if :: left--; write(0) :: left--; write(1) fi }
#else
inline write_one(left) { left--; if :: left == 0 -> write(0) :: else -> write(1) fi }
#endif

/* __folio_mirror_stale() for those whose evidence is under a lock. The test and the clearing are two steps. */
inline folio_mirror_stale()
{
	if
	:: flag -> flag = 0
	:: else
	fi
}

inline folio_mark_dirty()
{
#ifndef NO_GUARD_MARK_DIRTY
	folio_mirror_stale();
#endif
#ifdef LAZYFREE
	dirty = 1
#else
	skip
#endif
}

/* folio_put(). Freeing clears every flag: PAGE_FLAGS_CHECK_AT_PREP. */
inline folio_put()
{
	d_step {
		assert(refs > 0);
		refs--;
		if
		:: refs == 0 ->
			assert(mapcount == 0);
#ifndef NO_GUARD_FREE_CLEARS
			flag = 0;
#endif
			lru = 0;
			swapbacked = 0;
			dirty = 0
		:: else
		fi
	}
}

/* flush_tlb_*() of one address space: the CPU has finished its store, or looks at the PTE anew. */
inline flush_tlb(m) { mm[m].tlb = 0 }

inline flush_tlb_batched_pending(m)
{
	d_step {
		if
		:: mm[m].batched -> mm[m].tlb = 0; mm[m].batched = 0
		:: else
		fi
	}
}

/* A PTE is taken away. Secondary MMUs are told before: mmu_notifier_invalidate_range_start(). */
inline ptep_get_and_clear(m, to) { d_step { mm[m].pte = to; mm[m].sec = 0 } }
