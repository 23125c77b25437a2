// SPDX-License-Identifier: GPL-2.0
/*
 * What Rust cannot call because C has it as macros and inline functions, and
 * the tracepoints. Nothing here decides anything.
 */
#include <linux/cgroup.h>
#include <linux/gfp.h>
#include <linux/highmem.h>
#include <linux/kvm_para.h>
#include <linux/memcontrol.h>
#include <linux/memory.h>
#include <linux/memory_hotplug.h>
#include <linux/memory_mirror.h>
#include <linux/mm.h>
#include <linux/oom.h>
#include <linux/pci.h>
#include <linux/scatterlist.h>
#include <linux/set_memory.h>
#include <linux/string.h>
#include <linux/sysfs.h>
#include <linux/uaccess.h>
#include <linux/virtio.h>
#include <linux/virtio_config.h>
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

/* One that the kernel has an address for. */
struct page *kmirror_alloc_page(void)
{
	return alloc_page(GFP_KERNEL | __GFP_ZERO);
}

void *kmirror_page_address(struct page *page)
{
	return page_address(page);
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

/*
 * Are three words of it the same? One that cannot be read is not filled; whoever
 * copies it will find out.
 */
bool kmirror_page_seems_filled(struct page *page)
{
	const u64 *words = kmap_local_page(page);
	const size_t last = PAGE_SIZE / sizeof(*words) - 1;
	u64 a, b;
	bool same;

	same = !copy_mc_to_kernel(&a, words, sizeof(a)) &&
	       !copy_mc_to_kernel(&b, words + last, sizeof(b)) && a == b &&
	       !copy_mc_to_kernel(&b, words + last / 2, sizeof(b)) && a == b;
	kunmap_local(words);
	return same;
}

void kmirror_fill_page(struct page *page, u64 word)
{
	u64 *words = kmap_local_page(page);

	memset64(words, word, PAGE_SIZE / sizeof(*words));
	kunmap_local(words);
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

/*
 * Nobody but its owner looks at what is in the page, and it may go offline if
 * its owner lets go of it when asked. Sticks until the page is freed.
 */
void kmirror_offline_page(struct page *page)
{
	__SetPageOffline(page);
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

bool kmirror_pfn_free(unsigned long pfn)
{
	struct page *page = pfn_to_online_page(pfn);

	return page && !page_count(page);
}

bool kmirror_pfn_retired(unsigned long pfn)
{
	struct page *page = pfn_to_online_page(pfn);

	return page && PageHWPoison(page) && !PageCompound(page) &&
	       page_count(page) == 1;
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

/* linux/memory.h */

int kmirror_register_memory_notifier(struct notifier_block *nb)
{
	return register_memory_notifier(nb);
}

void kmirror_unregister_memory_notifier(struct notifier_block *nb)
{
	unregister_memory_notifier(nb);
}

/* Is that what the chain tells? Then, which frames. */
bool kmirror_memory_going_offline(unsigned long action, const void *arg,
				  unsigned long *start, unsigned long *nr)
{
	const struct memory_notify *notify = arg;

	if (action != MEM_GOING_OFFLINE)
		return false;
	*start = notify->start_pfn;
	*nr = notify->nr_pages;
	return true;
}

/* linux/oom.h */

int kmirror_register_oom_notifier(struct notifier_block *nb)
{
	return register_oom_notifier(nb);
}

void kmirror_unregister_oom_notifier(struct notifier_block *nb)
{
	unregister_oom_notifier(nb);
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

/* linux/virtio.h, linux/virtio_config.h */

struct virtqueue *kmirror_virtio_find_queue(struct virtio_device *vdev,
					    const char *name)
{
	return virtio_find_single_vq(vdev, NULL, name);
}

void kmirror_virtio_ready(struct virtio_device *vdev)
{
	virtio_device_ready(vdev);
}

void kmirror_virtio_read_config(struct virtio_device *vdev, void *buf,
				size_t len)
{
	virtio_cread_bytes(vdev, 0, buf, len);
}

void kmirror_virtio_del_queues(struct virtio_device *vdev)
{
	vdev->config->del_vqs(vdev);
}

int kmirror_virtqueue_add(struct virtqueue *vq, void *out, unsigned int out_len,
			  struct page *data, unsigned int data_out,
			  unsigned int data_in, void *in, unsigned int in_len,
			  void *token)
{
	struct scatterlist message, page, answer, *sgs[3];
	unsigned int outs = 0, ins = 0;

	sg_init_one(&message, out, out_len);
	sgs[outs++] = &message;
	sg_init_table(&page, 1);
	sg_set_page(&page, data, data_out ? data_out : data_in, 0);
	if (data_out)
		sgs[outs++] = &page;
	sg_init_one(&answer, in, in_len);
	sgs[outs + ins++] = &answer;
	if (data_in)
		sgs[outs + ins++] = &page;
	return virtqueue_add_sgs(vq, sgs, outs, ins, token, GFP_ATOMIC);
}

/*
 * The guest-physical address of the register that is written, with the queue's
 * index in two bytes, to notify the device; 0 if that is not how it is done. Of
 * the transports only virtio-pci's memory BARs are mapped by a queue's priv.
 */
u64 kmirror_virtqueue_notify_address(struct virtqueue *vq)
{
	struct virtio_device *vdev = vq->vdev;

	if (!vdev->dev.parent || !dev_is_pci(vdev->dev.parent) ||
	    virtio_has_feature(vdev, VIRTIO_F_NOTIFICATION_DATA) ||
	    !is_vmalloc_addr(vq->priv))
		return 0;
	return slow_virt_to_phys(vq->priv);
}

/* asm/kvm_para.h */

/* A guest's kernel need not have the patch that a host's KVM has. */
#ifndef KVM_HC_KMIRROR_KICK
#define KVM_HC_KMIRROR_KICK 13
#endif

int kmirror_kvm_kick(u64 address, u16 value)
{
	if (!kvm_para_available())
		return -ENODEV;
	/* KVM's own error numbers are not Linux's. */
	return kvm_hypercall2(KVM_HC_KMIRROR_KICK, address, value) ? -ENOSYS : 0;
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
