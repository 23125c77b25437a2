// SPDX-License-Identifier: GPL-2.0
/*
 * For rust/inject.rs: what C has as macros and inline functions, and a record
 * of a machine check as the hardware would leave it. For tests only.
 */
#include <linux/highmem.h>
#include <linux/memory_hotplug.h>
#include <linux/mm.h>
#include <linux/pagemap.h>
#include <linux/pgtable.h>
#include <linux/vmalloc.h>
#include <asm/mce.h>

#include "inject_helpers.h"

bool kmirror_inject_overwrite(unsigned long pfn, u8 pattern)
{
	struct page *page = pfn_to_online_page(pfn);
	unsigned int level;
	void *addr;
	pte_t *pte;

	if (!page)
		return false;
	/*
	 * The kernel's text, read-only data and modules cannot be written
	 * through the direct map, which is the kernel's protection from itself
	 * and none from failing hardware.
	 */
	pte = lookup_address((unsigned long)page_address(page), &level);
	if (!pte || !(pte_flags(*pte) & _PAGE_PRESENT) ||
	    !(pte_flags(*pte) & _PAGE_RW)) {
		addr = vmap(&page, 1, VM_MAP, PAGE_KERNEL);
		if (!addr)
			return false;
		memset(addr, pattern, PAGE_SIZE);
		vunmap(addr);
		return true;
	}
	addr = kmap_local_page(page);
	memset(addr, pattern, PAGE_SIZE);
	kunmap_local(addr);
	return true;
}

/* Takes a reference that keeps the folio of a frame in one piece and in its place. */
bool kmirror_inject_hold(unsigned long pfn)
{
	struct page *page = pfn_to_online_page(pfn);
	struct folio *folio;

	if (!page)
		return false;
	folio = page_folio(page);
	if (!folio_try_get(folio))
		return false;
	if (page_folio(page) != folio) {
		folio_put(folio);
		return false;
	}
	return true;
}

void kmirror_inject_release(unsigned long pfn)
{
	folio_put(page_folio(pfn_to_page(pfn)));
}

/*
 * With a reference held: once this has returned, nobody copies the page before
 * the reference is given up. What was under way is waited for by the folio
 * lock, and what begins later meets with a reference too many.
 */
void kmirror_inject_overwrite_held(unsigned long pfn, u8 pattern)
{
	struct folio *folio = page_folio(pfn_to_page(pfn));

	folio_lock(folio);
	folio_wait_writeback(folio);
	kmirror_inject_overwrite(pfn, pattern);
	folio_unlock(folio);
}

void kmirror_inject_log_mce(unsigned long pfn, bool deferred)
{
	struct mce_hw_err err = {};

	err.m.status = MCI_STATUS_VAL | MCI_STATUS_ADDRV | MCI_STATUS_MISCV |
		       MCI_STATUS_EN | MCI_STATUS_POISON | MCACOD_SCRUB;
	err.m.status |= deferred ? MCI_STATUS_DEFERRED :
			MCI_STATUS_UC | MCI_STATUS_S;
	err.m.misc = (MCI_MISC_ADDR_PHYS << 6) | PAGE_SHIFT;
	err.m.addr = PFN_PHYS(pfn);
	err.m.severity = deferred ? 1 /* DEFERRED */ : 4 /* AO */;
	err.m.cpuvendor = boot_cpu_data.x86_vendor;
	mce_log(&err);
}
