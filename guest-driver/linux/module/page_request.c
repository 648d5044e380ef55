// SPDX-License-Identifier: GPL-2.0
/*
 * Page requests (SPEC section 8.4): the engine asks for a page that a transfer
 * waits for, and gets it by the same fault that the process would take.
 *
 * Never waits without bound: faults are taken without waiting for I/O or for a
 * user-space fault handler, and repeated for page_wait_ms. So neither a stuck
 * file system nor an idle userfaultfd can hold up the module's removal.
 */
#include <linux/delay.h>
#include <linux/jiffies.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/sched/mm.h>
#include <linux/slab.h>

#include "internal.h"

#define BYWAY_PAGE_WAIT_MS_MAX	10000U

static unsigned int byway_page_wait_ms = 800;
module_param_named(page_wait_ms, byway_page_wait_ms, uint, 0644);
MODULE_PARM_DESC(page_wait_ms,
		 "Time for which a page that needs I/O is waited for, at most 10000 ms (800; engines wait 1000)");

static unsigned int byway_page_requests_max = 256;
module_param_named(page_requests_max, byway_page_requests_max, uint, 0644);
MODULE_PARM_DESC(page_requests_max,
		 "Page requests that wait at once; further ones are put off (256)");

struct byway_page {
	struct work_struct work;
	struct byway_session *session;
	u64 request;
	u64 address;
	u32 pasid;
	bool write;
};

static void byway_page_answer(struct byway_session *session, u64 request, u32 outcome)
{
	struct byway_page_response_request response = {
		.request = cpu_to_le64(request),
		.outcome = cpu_to_le32(outcome),
	};

	if (outcome == BYWAY_PAGE_RESOLVED)
		byway_count(session, pages_resolved);
	else if (outcome == BYWAY_PAGE_REFUSED)
		byway_count(session, pages_refused);
	else
		byway_count(session, pages_later);
	/* ENOENT: the transfer has ended meanwhile. */
	byway_call(session, BYWAY_REQUEST_PAGE_RESPONSE, &response, sizeof(response), NULL, 0,
		   BYWAY_FIRM);
}

/*
 * Takes the fault once, as an access by a user from outside of the mm: rights
 * of the mapping count, protection keys do not (the engine knows none). With
 * NOWAIT the lock is still held after VM_FAULT_RETRY, I/O has been started.
 */
static vm_fault_t byway_page_fault(struct mm_struct *mm, unsigned long address, bool write)
{
	unsigned int flags = FAULT_FLAG_REMOTE | FAULT_FLAG_ALLOW_RETRY | FAULT_FLAG_RETRY_NOWAIT;
	vm_fault_t fault = VM_FAULT_SIGSEGV;
	struct vm_area_struct *vma;

	if (write)
		flags |= FAULT_FLAG_WRITE;
	mmap_read_lock(mm);
	vma = vma_lookup(mm, address);
	if (vma && vma->vm_flags & (write ? VM_WRITE : VM_READ))
		fault = handle_mm_fault(vma, address, flags, NULL);
	if (!(fault & VM_FAULT_COMPLETED))
		mmap_read_unlock(mm);
	return fault;
}

static u32 byway_page_resolve(struct byway_page *page, struct mm_struct *mm)
{
	unsigned int wait_ms = min(READ_ONCE(byway_page_wait_ms), BYWAY_PAGE_WAIT_MS_MAX);
	unsigned long deadline = jiffies + msecs_to_jiffies(wait_ms);
	unsigned int pause_ms = 1;
	vm_fault_t fault;

	for (;;) {
		fault = byway_page_fault(mm, page->address, page->write);
		if (fault & VM_FAULT_OOM)
			return BYWAY_PAGE_RETRY_LATER;
		if (fault & VM_FAULT_ERROR)
			return BYWAY_PAGE_REFUSED;
		if (!(fault & VM_FAULT_RETRY))
			return BYWAY_PAGE_RESOLVED;
		if (time_after(jiffies, deadline) || !byway_live(page->session))
			return BYWAY_PAGE_RETRY_LATER;
		msleep(pause_ms);
		pause_ms = min(2 * pause_ms, 20U);
	}
}

static void byway_page_work(struct work_struct *work)
{
	struct byway_page *page = container_of(work, struct byway_page, work);
	struct byway_session *session = page->session;
	u32 outcome = BYWAY_PAGE_REFUSED;
	struct byway_space *space;

	space = byway_space_find(session, page->pasid);
	if (space) {
		/* A process that is dying has no pages to give. */
		if (mmget_not_zero(space->mm)) {
			outcome = byway_page_resolve(page, space->mm);
			/* Not here: the mm's end would end the space, and wait. */
			mmput_async(space->mm);
		}
		byway_space_put(space);
	}
	byway_page_answer(session, page->request, outcome);
	atomic_dec(&session->pages_waiting);
	byway_session_put(session);
	kfree(page);
}

/* The engine asks for a page. */
void byway_page_request(struct byway_session *session, const struct byway_event *event)
{
	struct byway_page *page = NULL;

	byway_count(session, page_requests);
	if (atomic_inc_return(&session->pages_waiting) <= READ_ONCE(byway_page_requests_max))
		page = kmalloc(sizeof(*page), GFP_KERNEL);
	if (!page) {
		atomic_dec(&session->pages_waiting);
		byway_page_answer(session, le64_to_cpu(event->request), BYWAY_PAGE_RETRY_LATER);
		return;
	}
	INIT_WORK(&page->work, byway_page_work);
	page->session = byway_session_get(session);
	page->request = le64_to_cpu(event->request);
	page->address = le64_to_cpu(event->address);
	page->pasid = le64_to_cpu(event->id);
	page->write = le32_to_cpu(event->rights) & BYWAY_RIGHT_WRITE;
	queue_work(session->device->pages_wq, &page->work);
}
