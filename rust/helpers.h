/* SPDX-License-Identifier: GPL-2.0 */
#ifndef _KMIRROR_HELPERS_H
#define _KMIRROR_HELPERS_H

#include <linux/types.h>

struct attribute;
struct cgroup;
struct mce;
struct notifier_block;
struct page;
struct virtio_device;
struct virtqueue;

void kmirror_cgroup_get(struct cgroup *cgrp);
void kmirror_cgroup_put(struct cgroup *cgrp);
bool kmirror_cgroup_tryget(struct cgroup *cgrp);
bool kmirror_cgroup_is_online(struct cgroup *cgrp);
struct cgroup *kmirror_cgroup_parent(struct cgroup *cgrp);
bool kmirror_cgroup_on_dfl(struct cgroup *cgrp);
u64 kmirror_cgroup_id(struct cgroup *cgrp);
int kmirror_cgroup_path(struct cgroup *cgrp, char *buf, size_t size);

struct page *kmirror_alloc_block(int nid, unsigned int order);
struct page *kmirror_alloc_page(void);
void *kmirror_page_address(struct page *page);
void kmirror_free_page(struct page *page);
void kmirror_put_page(struct page *page);
unsigned long kmirror_page_to_pfn(struct page *page);
int kmirror_copy_mc_page(struct page *to, struct page *from);
bool kmirror_page_seems_filled(struct page *page);
void kmirror_fill_page(struct page *page, u64 word);
u64 kmirror_hash_page(struct page *page);
void kmirror_poison_page(struct page *page);
void kmirror_offline_page(struct page *page);
u64 kmirror_pfn_cgroup_id(unsigned long pfn);
bool kmirror_pfn_mirrored(unsigned long pfn);
bool kmirror_pfn_free(unsigned long pfn);
bool kmirror_pfn_retired(unsigned long pfn);
void kmirror_pfn_drop_mirrored(unsigned long pfn);

int kmirror_register_memory_notifier(struct notifier_block *nb);
void kmirror_unregister_memory_notifier(struct notifier_block *nb);
bool kmirror_memory_going_offline(unsigned long action, const void *arg,
				  unsigned long *start, unsigned long *nr);

int kmirror_register_oom_notifier(struct notifier_block *nb);
void kmirror_unregister_oom_notifier(struct notifier_block *nb);

unsigned long kmirror_mce_pfn(const struct mce *mce);
void kmirror_mce_set_handled(struct mce *mce);

void kmirror_sysfs_attr_init(struct attribute *attr);

struct virtqueue *kmirror_virtio_find_queue(struct virtio_device *vdev,
					    const char *name);
void kmirror_virtio_ready(struct virtio_device *vdev);
void kmirror_virtio_read_config(struct virtio_device *vdev, void *buf,
				size_t len);
void kmirror_virtio_del_queues(struct virtio_device *vdev);
int kmirror_virtqueue_add(struct virtqueue *vq, void *out, unsigned int out_len,
			  struct page *data, unsigned int data_out,
			  unsigned int data_in, void *in, unsigned int in_len,
			  void *token);
u64 kmirror_virtqueue_notify_address(struct virtqueue *vq);
int kmirror_kvm_kick(u64 address, u16 value);

void kmirror_trace_epoch(u64 cgroup, u64 epoch, u64 copied, u64 scan_ns,
			 u64 copy_ns);
void kmirror_trace_restore(u64 cgroup, unsigned long pfn, unsigned long to);
void kmirror_trace_refuse(u64 cgroup, unsigned long pfn, const char *why,
			  size_t len);
void kmirror_trace_replica_lost(unsigned long pfn, unsigned long primary);

#endif
