// SPDX-License-Identifier: GPL-2.0
/*
 * Memory that the engine is told of: rings, header lines, invalidation pages.
 *
 * It is freed when the engine has acknowledged that it let go of it, or after
 * the reset that ends the session; until then it waits in quarantine.
 */
#include <linux/gfp.h>
#include <linux/slab.h>

#include "internal.h"

/*
 * Contiguous, since an area must lie within one memory region (SPEC section
 * 2.1), and charged to the caller's memory cgroup, since it stays.
 */
struct byway_pages *byway_pages_alloc(size_t bytes)
{
	struct byway_pages *pages = kmalloc(sizeof(*pages), GFP_KERNEL_ACCOUNT);

	BUILD_BUG_ON(PAGE_SIZE != BYWAY_PAGE_SIZE);
	if (!pages)
		return NULL;
	INIT_LIST_HEAD(&pages->node);
	pages->bytes = PAGE_ALIGN(bytes);
	pages->virt = alloc_pages_exact(pages->bytes,
					GFP_KERNEL_ACCOUNT | __GFP_ZERO | __GFP_NOWARN);
	if (!pages->virt) {
		kfree(pages);
		return NULL;
	}
	return pages;
}

static void byway_pages_release(struct byway_pages *pages)
{
	free_pages_exact(pages->virt, pages->bytes);
	kfree(pages);
}

/**
 * byway_pages_free() - frees pages as soon as that is safe
 * @session: whose engine knows them
 * @pages: the pages, or NULL
 * @returned: it has acknowledged that it does not use them any more
 */
void byway_pages_free(struct byway_session *session, struct byway_pages *pages, bool returned)
{
	if (!pages)
		return;
	spin_lock(&session->quarantine_lock);
	if (!returned && byway_state(session) != BYWAY_QUIET) {
		list_add(&pages->node, &session->quarantine);
		pages = NULL;
	}
	spin_unlock(&session->quarantine_lock);
	if (pages)
		byway_pages_release(pages);
}

/* After the reset: the session is quiet, and nothing comes in any more. */
void byway_quarantine_release(struct byway_session *session)
{
	struct byway_pages *pages, *next;
	LIST_HEAD(list);

	spin_lock(&session->quarantine_lock);
	list_splice_init(&session->quarantine, &list);
	spin_unlock(&session->quarantine_lock);
	list_for_each_entry_safe(pages, next, &list, node)
		byway_pages_release(pages);
}
