// SPDX-License-Identifier: GPL-2.0
/*
 * What Rust cannot call because C has it as macros and inline functions, and
 * the tracepoints. Nothing here decides anything.
 */
#include <linux/cgroup.h>
#include <linux/gfp.h>
#include <linux/highmem.h>
#include <linux/memcontrol.h>
#include <linux/memory_hotplug.h>
#include <linux/memory_mirror.h>
#include <linux/mm.h>
#include <linux/sysfs.h>
#include <linux/xxhash.h>
#include <asm/mce.h>

#include "helpers.h"

#define CREATE_TRACE_POINTS
#include "trace.h"

/* linux/cgroup.h */

void kmirror_cgroup_get(struct cgroup *cgrp)
{
	cgroup_get(cgrp);
}

void kmirror_cgroup_put(struct cgroup *cgrp)
{
	cgroup_put(cgrp);
}

bool kmirror_cgroup_tryget(struct cgroup *cgrp)
{
	return cgroup_tryget(cgrp);
}

bool kmirror_cgroup_is_online(struct cgroup *cgrp)
{
	return css_is_online(&cgrp->self);
}

struct cgroup *kmirror_cgroup_parent(struct cgroup *cgrp)
{
	return cgroup_parent(cgrp);
}

bool kmirror_cgroup_on_dfl(struct cgroup *cgrp)
{
	return cgrp->root == &cgrp_dfl_root;
}

u64 kmirror_cgroup_id(struct cgroup *cgrp)
{
	return cgroup_id(cgrp);
}

int kmirror_cgroup_path(struct cgroup *cgrp, char *buf, size_t size)
{
	return cgroup_path(cgrp, buf, size);
}

/* linux/mm.h, linux/gfp.h, linux/highmem.h */

/* Tries hard, but kills nobody for it; from one node only if one is given. */
struct page *kmirror_alloc_block(int nid, unsigned int order)
{
	gfp_t gfp = GFP_KERNEL | __GFP_RETRY_MAYFAIL | __GFP_NOWARN;

	if (nid == NUMA_NO_NODE)
		return alloc_pages(gfp, order);
	if (nid < 0 || nid >= MAX_NUMNODES || !node_online(nid))
		return NULL;
	return alloc_pages_node(nid, gfp | __GFP_THISNODE, order);
}

void kmirror_free_page(struct page *page)
{
	__free_page(page);
}

void kmirror_put_page(struct page *page)
{
	put_page(page);
}

unsigned long kmirror_page_to_pfn(struct page *page)
{
	return page_to_pfn(page);
}

int kmirror_copy_mc_page(struct page *to, struct page *from)
{
	return copy_mc_highpage(to, from);
}

u64 kmirror_hash_page(struct page *page)
{
	void *addr = kmap_local_page(page);
	u64 hash = xxh64(addr, PAGE_SIZE, 0);

	kunmap_local(addr);
	return hash;
}

/* linux/page-flags.h */

void kmirror_poison_page(struct page *page)
{
	SetPageHWPoison(page);
}

bool kmirror_pfn_mirrored(unsigned long pfn)
{
	struct page *page = pfn_to_online_page(pfn);

	return page && page_mirrored(page);
}

void kmirror_pfn_drop_mirrored(unsigned long pfn)
{
	struct page *page = pfn_to_online_page(pfn);

	if (page)
		memory_mirror_drop(page);
}

/* linux/memcontrol.h */

/* The cgroup that user memory is charged to; 0 if that is unknown. */
u64 kmirror_pfn_cgroup_id(unsigned long pfn)
{
	struct page *page = pfn_to_online_page(pfn);
	struct mem_cgroup *memcg;
	u64 id = 0;

	if (!page)
		return 0;
	rcu_read_lock();
	memcg = folio_memcg_check(page_folio(page));
	if (memcg)
		id = cgroup_id(memcg->css.cgroup);
	rcu_read_unlock();
	return id;
}

/* asm/mce.h */

unsigned long kmirror_mce_pfn(const struct mce *mce)
{
	return PHYS_PFN(mce->addr & MCI_ADDR_PHYSADDR);
}

void kmirror_mce_set_handled(struct mce *mce)
{
	mce->kflags |= MCE_HANDLED_UC;
}

/* linux/sysfs.h */

void kmirror_sysfs_attr_init(struct attribute *attr)
{
	sysfs_attr_init(attr);
}

/* trace.h */

void kmirror_trace_epoch(u64 cgroup, u64 epoch, u64 copied, u64 scan_ns,
			 u64 copy_ns)
{
	trace_kmirror_epoch(cgroup, epoch, copied, scan_ns, copy_ns);
}

void kmirror_trace_restore(u64 cgroup, unsigned long pfn, unsigned long to)
{
	trace_kmirror_restore(cgroup, pfn, to);
}

void kmirror_trace_refuse(u64 cgroup, unsigned long pfn, const char *why,
			  size_t len)
{
	trace_kmirror_refuse(cgroup, pfn, why, len);
}

void kmirror_trace_replica_lost(unsigned long pfn, unsigned long primary)
{
	trace_kmirror_replica_lost(pfn, primary);
}
