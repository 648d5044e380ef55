// SPDX-License-Identifier: GPL-2.0
/*
 * Invalidation from atomic context (SPEC section 10).
 *
 * The memory management calls this under page-table locks after it has changed
 * entries, and before it frees pages or page tables: when it returns, the
 * engine must neither use an old translation nor read an old table. Nothing
 * here may sleep, allocate, or wait for a virtqueue.
 */
#include <linux/module.h>
#include <linux/processor.h>
#include <linux/timekeeping.h>

#include "internal.h"

#define BYWAY_STALL_MS_MIN	10U
#define BYWAY_STALL_MS_MAX	8000U	/* well below the soft lockup detector's 20 s */

static unsigned int byway_stall_ms = 1000;
module_param_named(stall_ms, byway_stall_ms, uint, 0644);
MODULE_PARM_DESC(stall_ms,
		 "Time for which a worker of the engine may stand still during an invalidation, 10 to 8000 ms (1000)");

static struct byway_invalidation_range *byway_range(struct byway_space *space, u64 generation)
{
	struct byway_invalidation_range *ranges =
		space->page->virt + BYWAY_INVALIDATION_RANGES_OFFSET;

	return &ranges[generation % BYWAY_INVALIDATION_RANGES];
}

/* The range first, then the generation that says it is there. */
static void byway_append(struct byway_space *space, u64 address, u64 pages)
{
	struct byway_invalidation_header *header = space->page->virt;
	struct byway_invalidation_range *range;
	unsigned long flags;

	/* A raw lock with interrupts off: others spin for a few stores only. */
	raw_spin_lock_irqsave(&space->append_lock, flags);
	range = byway_range(space, space->generation);
	WRITE_ONCE(range->address, cpu_to_le64(address));
	WRITE_ONCE(range->pages, cpu_to_le64(pages));
	space->generation++;
	/* Pairs with the worker's acquire of the generation. */
	virt_store_release(&header->generation, cpu_to_le64(space->generation));
	raw_spin_unlock_irqrestore(&space->append_lock, flags);
}

static __le64 byway_busy(const struct byway_space *space, u32 worker)
{
	const __le64 *busy = space->page->virt + BYWAY_INVALIDATION_BUSY_OFFSET;

	return READ_ONCE(busy[worker]);
}

/* Spins until each worker that was inside a chunk has left it. */
static void byway_wait_workers(struct byway_space *space)
{
	struct byway_session *session = space->session;
	struct byway_stats *stats = &session->device->stats;
	__le64 noted[BYWAY_INVALIDATION_WORKERS];
	u32 workers = session->engine.workers;
	u64 began = 0, now = 0;
	s64 limit;
	u32 worker;

	limit = clamp(byway_stall_ms, BYWAY_STALL_MS_MIN, BYWAY_STALL_MS_MAX);
	limit *= NSEC_PER_MSEC;

	/* All at once: those that are waited for later have the more time to move. */
	for (worker = 0; worker < workers; worker++)
		noted[worker] = byway_busy(space, worker);
	for (worker = 0; worker < workers; worker++) {
		while (noted[worker] && byway_busy(space, worker) == noted[worker]) {
			/* After a reset, and after a stall, there is nobody to wait for. */
			if (READ_ONCE(session->stalled) ||
			    byway_state(session) == BYWAY_QUIET)
				return;
			now = ktime_get_mono_fast_ns();
			if (!began)
				began = now;
			/* Signed: that clock may step back by a little. */
			if ((s64)(now - began) > limit) {
				WRITE_ONCE(session->stalled, true);
				atomic64_inc(&stats->stalls);
				byway_session_fail(session, "stands still in a chunk");
				return;
			}
			cpu_relax();
		}
	}
	if (began) {
		atomic64_inc(&stats->invalidation_waits);
		atomic64_add(now - began, &stats->invalidation_wait_ns);
	}
	/* Later accesses of this CPU, the reuse of a page among them, stay behind. */
	virt_mb();
}

/**
 * byway_invalidate() - has the engine forget translations
 * @space: whose
 * @start: first address
 * @end: the one after the last; ULONG_MAX with @start 0: everything
 *
 * Any context but NMI. A worker that does not move for stall_ms is given up on:
 * the session fails, and page tables go on changing without it.
 */
void byway_invalidate(struct byway_space *space, unsigned long start, unsigned long end)
{
	u64 address = 0, pages = 0;

	if (start >= end || byway_state(space->session) == BYWAY_QUIET)
		return;
	if (start || end < TASK_SIZE_MAX) {
		address = start & PAGE_MASK;
		pages = DIV_ROUND_UP(end - address, PAGE_SIZE);
	}
	byway_append(space, address, pages);
	byway_count(space->session, invalidations);
	/*
	 * Store-load: the generation before the busy words. Pairs with the
	 * worker's fence between its busy word and the generation. virt_mb(),
	 * since the other side is not part of this kernel and has more CPUs.
	 */
	virt_mb();
	byway_wait_workers(space);
}
