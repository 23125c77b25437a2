/* SPDX-License-Identifier: GPL-2.0 */
#undef TRACE_SYSTEM
#define TRACE_SYSTEM kmirror

#if !defined(_KMIRROR_TRACE_H) || defined(TRACE_HEADER_MULTI_READ)
#define _KMIRROR_TRACE_H

#include <linux/tracepoint.h>

/* An epoch of one protected cgroup has ended. */
TRACE_EVENT(kmirror_epoch,
	TP_PROTO(u64 cgroup, u64 epoch, u64 copied, u64 scan_ns, u64 copy_ns),
	TP_ARGS(cgroup, epoch, copied, scan_ns, copy_ns),
	TP_STRUCT__entry(
		__field(u64, cgroup)
		__field(u64, epoch)
		__field(u64, copied)
		__field(u64, scan_ns)
		__field(u64, copy_ns)
	),
	TP_fast_assign(
		__entry->cgroup = cgroup;
		__entry->epoch = epoch;
		__entry->copied = copied;
		__entry->scan_ns = scan_ns;
		__entry->copy_ns = copy_ns;
	),
	TP_printk("cgroup=%llu epoch=%llu copied=%llu scan_ns=%llu copy_ns=%llu",
		  __entry->cgroup, __entry->epoch, __entry->copied,
		  __entry->scan_ns, __entry->copy_ns)
);

/* A lost page has its contents back, in another frame. */
TRACE_EVENT(kmirror_restore,
	TP_PROTO(u64 cgroup, unsigned long pfn, unsigned long to),
	TP_ARGS(cgroup, pfn, to),
	TP_STRUCT__entry(
		__field(u64, cgroup)
		__field(unsigned long, pfn)
		__field(unsigned long, to)
	),
	TP_fast_assign(
		__entry->cgroup = cgroup;
		__entry->pfn = pfn;
		__entry->to = to;
	),
	TP_printk("cgroup=%llu pfn=%#lx to=%#lx",
		  __entry->cgroup, __entry->pfn, __entry->to)
);

/* A lost page has a replica that could not be proven current. */
TRACE_EVENT(kmirror_refuse,
	TP_PROTO(u64 cgroup, unsigned long pfn, const char *why, size_t len),
	TP_ARGS(cgroup, pfn, why, len),
	TP_STRUCT__entry(
		__field(u64, cgroup)
		__field(unsigned long, pfn)
		__string_len(why, why, len)
	),
	TP_fast_assign(
		__entry->cgroup = cgroup;
		__entry->pfn = pfn;
		__assign_str(why);
	),
	TP_printk("cgroup=%llu pfn=%#lx why=%s",
		  __entry->cgroup, __entry->pfn, __get_str(why))
);

/* A frame of the mirror region is lost, with the replica of primary if not 0. */
TRACE_EVENT(kmirror_replica_lost,
	TP_PROTO(unsigned long pfn, unsigned long primary),
	TP_ARGS(pfn, primary),
	TP_STRUCT__entry(
		__field(unsigned long, pfn)
		__field(unsigned long, primary)
	),
	TP_fast_assign(
		__entry->pfn = pfn;
		__entry->primary = primary;
	),
	TP_printk("pfn=%#lx primary=%#lx", __entry->pfn, __entry->primary)
);

#endif /* _KMIRROR_TRACE_H */

#undef TRACE_INCLUDE_PATH
#undef TRACE_INCLUDE_FILE
#define TRACE_INCLUDE_PATH .
#define TRACE_INCLUDE_FILE trace
#include <trace/define_trace.h>
