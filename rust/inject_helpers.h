/* SPDX-License-Identifier: GPL-2.0 */
#ifndef _KMIRROR_INJECT_HELPERS_H
#define _KMIRROR_INJECT_HELPERS_H

#include <linux/types.h>

bool kmirror_inject_overwrite(unsigned long pfn, u8 pattern);
bool kmirror_inject_hold(unsigned long pfn);
void kmirror_inject_release(unsigned long pfn);
void kmirror_inject_overwrite_held(unsigned long pfn, u8 pattern);
void kmirror_inject_log_mce(unsigned long pfn, bool deferred);

#endif
