// SPDX-License-Identifier: GPL-2.0
/*
 * For rust/inject.rs: what C has as macros and inline functions, and a record
 * of a machine check as the hardware would leave it. For tests only.
 */
#include <linux/highmem.h>
#include <linux/memory_hotplug.h>
#include <linux/mm.h>
#include <asm/mce.h>

#include "inject_helpers.h"

bool kmirror_inject_overwrite(unsigned long pfn, u8 pattern)
{
	struct page *page = pfn_to_online_page(pfn);
	void *addr;

	if (!page)
		return false;
	addr = kmap_local_page(page);
	memset(addr, pattern, PAGE_SIZE);
	kunmap_local(addr);
	return true;
}

bool kmirror_inject_get_page(unsigned long pfn)
{
	struct page *page = pfn_to_online_page(pfn);

	return page && folio_try_get(page_folio(page));
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
