// SPDX-License-Identifier: GPL-2.0
/*
 * Address spaces: the page tables of an mm bound under a PASID, once for each
 * session and mm, for as long as contexts use it.
 *
 * The notifier is registered before BIND and unregistered after UNBIND, so no
 * change of the page tables is missed while the engine walks them. It holds
 * mmgrab(), not mmget(): processes die as usual, and release() then ends all
 * access before the page tables go.
 */
#include <linux/cpumask.h>
#include <linux/io.h>
#include <linux/mm.h>
#include <linux/pgtable.h>
#include <linux/sched/mm.h>
#include <linux/slab.h>

#include "compat.h"
#include "internal.h"

/**
 * byway_no_ad() - whether the engine must not write page-table entries
 *
 * The engine sets A and D bits by locked instructions of another CPU. With one
 * CPU, x86 patches the LOCK prefixes of the kernel's own away, and either side's
 * update could get lost. They come back for good when a second CPU is first
 * brought up; spaces that are bound by then stay NO_AD.
 */
bool byway_no_ad(void)
{
	return num_online_cpus() == 1;
}

static int byway_bind(struct byway_space *space)
{
	/*
	 * mm->pgd is what CR3 gets in the kernel. With page-table isolation it
	 * is the first of two root tables; the second, for user mode, maps the
	 * same user addresses through the same lower tables, and lacks the
	 * kernel's, where the engine's walks stop anyway, at the first entry
	 * without the U bit. Isolation also marks user entries of the first one
	 * NX, which concerns nobody who fetches no instructions. The first one is
	 * the root that the memory management keeps complete.
	 */
	struct byway_bind_request bind = {
		.root = cpu_to_le64(virt_to_phys(space->mm->pgd)),
		.pasid = cpu_to_le32(space->pasid),
		.levels = pgtable_l5_enabled() ? 5 : 4,
		.maxphyaddr = clamp_t(u8, boot_cpu_data.x86_phys_bits, 32, 52),
		.invalidation_page = cpu_to_le64(virt_to_phys(space->page->virt)),
	};
	u16 flags = 0;

	if (__supported_pte_mask & _PAGE_NX)
		flags |= BYWAY_BIND_NXE;
	if (boot_cpu_has(X86_FEATURE_GBPAGES))
		flags |= BYWAY_BIND_PAGES_1_G;
	if (byway_no_ad())
		flags |= BYWAY_BIND_NO_AD;
	bind.flags = cpu_to_le16(flags);
	return byway_call(space->session, BYWAY_REQUEST_BIND, &bind, sizeof(bind),
			  NULL, 0, BYWAY_FIRM);
}

/*
 * Ends all access by this space: contexts, then the binding. When it returns,
 * the engine reads and writes nothing of the mm any more. May be called twice,
 * and at once.
 */
static void byway_space_stop(struct byway_space *space)
{
	struct byway_unbind_request unbind = { .pasid = cpu_to_le32(space->pasid) };
	struct byway_session *session = space->session;
	struct byway_context *context;
	int err = 0;

	mutex_lock(&space->lock);
	list_for_each_entry(context, &space->contexts, node)
		byway_context_end(context);
	if (space->bound) {
		err = byway_call(session, BYWAY_REQUEST_UNBIND, &unbind, sizeof(unbind),
				 NULL, 0, BYWAY_FIRM);
		space->bound = false;
		space->returned = !err;
		byway_uncount(session, spaces_now);
		if (err && byway_live(session))
			byway_session_fail(session, "does not unbind an address space");
		if (err) {
			byway_session_wait_quiet(session);
			space->returned = byway_state(session) == BYWAY_QUIET;
		}
	}
	mutex_unlock(&space->lock);
}

static void byway_notifier_invalidate(struct mmu_notifier *notifier, struct mm_struct *mm,
				      unsigned long start, unsigned long end)
{
	byway_invalidate(container_of(notifier, struct byway_space, notifier), start, end);
}

/* The mm ends: its last user is gone, its page tables are still there. */
static void byway_notifier_release(struct mmu_notifier *notifier, struct mm_struct *mm)
{
	byway_space_stop(container_of(notifier, struct byway_space, notifier));
}

static const struct mmu_notifier_ops byway_notifier_ops = {
	.release = byway_notifier_release,
	.BYWAY_NOTIFIER_INVALIDATE = byway_notifier_invalidate,
};

static struct byway_space *byway_space_new(struct byway_session *session)
{
	struct byway_space *space = kzalloc(sizeof(*space), GFP_KERNEL_ACCOUNT);
	int pasid;

	if (!space)
		return ERR_PTR(-ENOMEM);
	space->page = byway_pages_alloc(PAGE_SIZE);
	if (!space->page) {
		kfree(space);
		return ERR_PTR(-ENOMEM);
	}
	pasid = ida_alloc_range(&session->pasids, 1, BYWAY_PASID_MAX, GFP_KERNEL);
	if (pasid < 0) {
		byway_pages_free(session, space->page, true);
		kfree(space);
		return ERR_PTR(pasid);
	}
	space->pasid = pasid;
	space->returned = true;
	kref_init(&space->kref);
	mutex_init(&space->lock);
	INIT_LIST_HEAD(&space->contexts);
	raw_spin_lock_init(&space->append_lock);
	space->notifier.ops = &byway_notifier_ops;
	space->session = byway_session_get(session);
	space->mm = current->mm;
	mmgrab(space->mm);
	return space;
}

/* Frees what byway_space_new() made, as far as the engine has returned it. */
static void byway_space_free(struct byway_space *space)
{
	struct byway_session *session = space->session;

	/* A PASID is used again only after the engine has said it is free. */
	if (space->returned)
		ida_free(&session->pasids, space->pasid);
	byway_pages_free(session, space->page, space->returned);
	mmdrop(space->mm);
	kfree(space);
	byway_session_put(session);
}

/* Binds current->mm. Under spaces_lock. */
static struct byway_space *byway_space_open(struct byway_session *session)
{
	struct byway_space *space = byway_space_new(session);
	int err;

	if (IS_ERR(space))
		return space;
	err = mmu_notifier_register(&space->notifier, space->mm);
	if (err)
		goto free;
	space->returned = false;
	err = byway_bind(space);
	/* A refusal has changed nothing; of anything else nothing is known. */
	space->returned = err && byway_live(session);
	if (err)
		goto unregister;
	byway_count(session, spaces_now);
	space->bound = true;
	err = xa_insert(&session->spaces, space->pasid, space, GFP_KERNEL);
	if (err)
		goto unregister;
	return space;

unregister:
	mmu_notifier_unregister(&space->notifier, space->mm);	/* stops it */
free:
	byway_space_free(space);
	return ERR_PTR(err);
}

/**
 * byway_space_use() - the space of current->mm
 * @session: in which
 *
 * Return: a reference to it, bound anew if there is none, or an error.
 */
struct byway_space *byway_space_use(struct byway_session *session)
{
	struct byway_space *space;
	unsigned long pasid;

	if (mutex_lock_killable(&session->spaces_lock))
		return ERR_PTR(-EINTR);
	xa_for_each(&session->spaces, pasid, space) {
		/* Under spaces_lock the last reference cannot go. */
		if (space->mm == current->mm) {
			kref_get(&space->kref);
			goto unlock;
		}
	}
	space = byway_space_open(session);
unlock:
	mutex_unlock(&session->spaces_lock);
	return space;
}

/**
 * byway_space_find() - the space of a PASID
 * @session: in which
 * @pasid: told by the engine
 *
 * Return: a reference to it, or NULL.
 */
struct byway_space *byway_space_find(struct byway_session *session, u32 pasid)
{
	struct byway_space *space;

	xa_lock(&session->spaces);
	space = xa_load(&session->spaces, pasid);
	if (space && !kref_get_unless_zero(&space->kref))
		space = NULL;
	xa_unlock(&session->spaces);
	return space;
}

/* The last reference has gone. Under spaces_lock, which it gives up. */
static void byway_space_close(struct kref *kref)
{
	struct byway_space *space = container_of(kref, struct byway_space, kref);

	xa_erase(&space->session->spaces, space->pasid);
	mutex_unlock(&space->session->spaces_lock);
	/*
	 * Calls release(), unless the mm's end has, and waits for callbacks that
	 * run. Not under a lock that release() takes.
	 */
	mmu_notifier_unregister(&space->notifier, space->mm);
	byway_space_free(space);
}

/* Sleeps. */
void byway_space_put(struct byway_space *space)
{
	struct byway_session *session = byway_session_get(space->session);

	kref_put_mutex(&space->kref, byway_space_close, &session->spaces_lock);
	byway_session_put(session);
}
