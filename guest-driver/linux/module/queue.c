// SPDX-License-Identifier: GPL-2.0
/*
 * Work queues: rings in kernel memory, mapped into the one process that submits
 * (SPEC section 2). The kernel is asked only for what costs an exit anyway.
 */
#include <linux/anon_inodes.h>
#include <linux/eventfd.h>
#include <linux/file.h>
#include <linux/fs.h>
#include <linux/io.h>
#include <linux/log2.h>
#include <linux/mm.h>
#include <linux/poll.h>
#include <linux/slab.h>
#include <linux/uaccess.h>

#include "compat.h"
#include "internal.h"

static size_t byway_queue_bytes(const struct byway_queue *queue)
{
	return queue->ring->bytes + queue->completions->bytes + queue->header->bytes;
}

/* ---- what sleepers are told -------------------------------------------------- */

static void byway_queue_signal(struct byway_queue *queue)
{
	spin_lock(&queue->lock);
	if (queue->eventfd)
		byway_eventfd_signal(queue->eventfd);
	spin_unlock(&queue->lock);
	wake_up_interruptible(&queue->wait);
}

static void byway_queue_raise(struct byway_queue *queue)
{
	WRITE_ONCE(queue->pending, true);
	byway_queue_signal(queue);
}

static void byway_queue_die(struct byway_queue *queue)
{
	if (queue->dead)
		return;
	WRITE_ONCE(queue->dead, true);
	byway_queue_signal(queue);
}

/* The completion interrupt of a queue. */
void byway_queue_interrupt(struct byway_session *session, u32 id)
{
	struct byway_queue *queue;

	xa_lock(&session->queues);
	queue = xa_load(&session->queues, id);
	if (queue)
		byway_queue_raise(queue);
	xa_unlock(&session->queues);
}

/* The engine serves a queue no longer. */
void byway_queue_died(struct byway_session *session, u32 id)
{
	struct byway_queue *queue;

	xa_lock(&session->queues);
	queue = xa_load(&session->queues, id);
	if (queue)
		byway_queue_die(queue);
	xa_unlock(&session->queues);
}

/* The queues of a context have ended with it. */
void byway_queues_ended(struct byway_session *session, struct byway_context *context,
			bool returned)
{
	struct byway_queue *queue;
	unsigned long id;

	xa_lock(&session->queues);
	xa_for_each(&session->queues, id, queue) {
		if (queue->context != context)
			continue;
		queue->returned |= returned;
		byway_queue_die(queue);
	}
	xa_unlock(&session->queues);
}

/*
 * The device has been reset. Nobody else writes the header lines any more, so
 * the kernel says there what the engine could not (SPEC section 2.2).
 */
void byway_queues_reset(struct byway_session *session)
{
	struct byway_queue *queue;
	unsigned long id;

	xa_lock(&session->queues);
	xa_for_each(&session->queues, id, queue) {
		struct byway_queue_header *header = queue->header->virt;

		/* After the last completion, as the engine would do it. */
		virt_store_release(&header->state, cpu_to_le32(BYWAY_QUEUE_STATE_DEAD));
		queue->returned = true;
		byway_queue_die(queue);
	}
	xa_unlock(&session->queues);
}

/* Events were lost: an interrupt too many does no harm, one too few would. */
void byway_queues_look(struct byway_session *session)
{
	struct byway_queue *queue;
	unsigned long id;

	xa_lock(&session->queues);
	xa_for_each(&session->queues, id, queue) {
		struct byway_queue_header *header = queue->header->virt;

		if (READ_ONCE(header->state) == cpu_to_le32(BYWAY_QUEUE_STATE_DEAD))
			byway_queue_die(queue);
		byway_queue_raise(queue);
	}
	xa_unlock(&session->queues);
}

/* ---- mapping --------------------------------------------------------------------- */

static void byway_vma_open(struct vm_area_struct *vma)
{
	struct byway_queue *queue = vma->vm_private_data;

	atomic_inc(&queue->mappings);	/* moved by mremap(): the old one goes */
}

static void byway_vma_close(struct vm_area_struct *vma)
{
	struct byway_queue *queue = vma->vm_private_data;

	atomic_dec(&queue->mappings);
}

static int byway_vma_may_split(struct vm_area_struct *vma, unsigned long address)
{
	return -EINVAL;
}

static const struct vm_operations_struct byway_vm_ops = {
	.open = byway_vma_open,
	.close = byway_vma_close,
	.may_split = byway_vma_may_split,
};

static int byway_queue_map(struct vm_area_struct *vma, unsigned long *at,
			   const struct byway_pages *pages)
{
	int err = remap_pfn_range(vma, *at, PHYS_PFN(virt_to_phys(pages->virt)),
				  pages->bytes, vma->vm_page_prot);

	*at += pages->bytes;
	return err;
}

/*
 * Maps by page frame numbers: so VM_IO and VM_PFNMAP are set, madvise() cannot
 * undo VM_DONTCOPY or VM_DONTDUMP, mremap() can neither grow nor duplicate it,
 * and nobody can take references to pages that the engine writes.
 */
static int byway_queue_mmap(struct file *file, struct vm_area_struct *vma)
{
	const unsigned long wanted = VM_SHARED | VM_READ | VM_WRITE;
	struct byway_queue *queue = file->private_data;
	unsigned long at = vma->vm_start;
	int err;

	err = byway_context_check(queue->context);
	if (err)
		return err;
	if (READ_ONCE(queue->dead))
		return -ENODEV;
	if (vma->vm_pgoff || vma->vm_end - vma->vm_start != byway_queue_bytes(queue) ||
	    (vma->vm_flags & (wanted | VM_EXEC)) != wanted)
		return -EINVAL;
	if (atomic_cmpxchg(&queue->mappings, 0, 1))
		return -EBUSY;
	byway_vma_flags(vma, VM_DONTCOPY | VM_DONTEXPAND | VM_DONTDUMP, VM_MAYEXEC);
	err = byway_queue_map(vma, &at, queue->ring);
	if (!err)
		err = byway_queue_map(vma, &at, queue->completions);
	if (!err)
		err = byway_queue_map(vma, &at, queue->header);
	if (err) {
		atomic_set(&queue->mappings, 0);	/* the caller undoes the rest */
		return err;
	}
	vma->vm_private_data = queue;	/* kept by vm_file */
	vma->vm_ops = &byway_vm_ops;
	return 0;
}

/* ---- calls --------------------------------------------------------------------------- */

static __poll_t byway_queue_poll(struct file *file, poll_table *wait)
{
	struct byway_queue *queue = file->private_data;
	__poll_t mask = 0;

	poll_wait(file, &queue->wait, wait);
	if (READ_ONCE(queue->pending))
		mask |= EPOLLIN | EPOLLRDNORM;
	if (READ_ONCE(queue->dead))
		mask |= EPOLLERR | EPOLLHUP;
	return mask;
}

static long byway_queue_arm(struct byway_queue *queue)
{
	struct byway_queue_request request = { .queue = cpu_to_le32(queue->id) };

	/* First: an interrupt that this raises must not be forgotten. */
	WRITE_ONCE(queue->pending, false);
	return byway_call(queue->context->session, BYWAY_REQUEST_QUEUE_ARM, &request,
			  sizeof(request), NULL, 0, BYWAY_KILLABLE);
}

static long byway_queue_eventfd(struct byway_queue *queue, void __user *arg)
{
	struct byway_ioc_eventfd request;
	struct eventfd_ctx *eventfd = NULL;

	if (copy_from_user(&request, arg, sizeof(request)))
		return -EFAULT;
	if (request.reserved || request.fd < -1)
		return -EINVAL;
	if (request.fd >= 0) {
		eventfd = eventfd_ctx_fdget(request.fd);
		if (IS_ERR(eventfd))
			return PTR_ERR(eventfd);
	}
	spin_lock(&queue->lock);
	swap(queue->eventfd, eventfd);
	if (queue->eventfd && (READ_ONCE(queue->pending) || READ_ONCE(queue->dead)))
		byway_eventfd_signal(queue->eventfd);
	spin_unlock(&queue->lock);
	if (eventfd)
		eventfd_ctx_put(eventfd);
	return 0;
}

static long byway_queue_ioctl(struct file *file, unsigned int cmd, unsigned long raw)
{
	struct byway_queue *queue = file->private_data;
	struct byway_session *session = queue->context->session;
	int err;

	switch (cmd) {
	case BYWAY_IOC_KICK:
	case BYWAY_IOC_ARM:
	case BYWAY_IOC_EVENTFD:
		break;
	default:
		return -ENOTTY;
	}
	err = byway_context_check(queue->context);
	if (err)
		return err;
	if (READ_ONCE(queue->dead))
		return -ENODEV;
	switch (cmd) {
	case BYWAY_IOC_KICK:
		byway_count(session, kicks);
		return byway_kick(session);
	case BYWAY_IOC_ARM:
		return byway_queue_arm(queue);
	default:
		return byway_queue_eventfd(queue, (void __user *)raw);
	}
}

/* ---- life ------------------------------------------------------------------------------ */

static void byway_queue_free(struct byway_queue *queue)
{
	struct byway_session *session = queue->context->session;

	byway_pages_free(session, queue->ring, queue->returned);
	byway_pages_free(session, queue->completions, queue->returned);
	byway_pages_free(session, queue->header, queue->returned);
	if (queue->eventfd)
		eventfd_ctx_put(queue->eventfd);
	byway_context_put(queue->context);
	kfree(queue);
}

static int byway_queue_destroy(struct byway_session *session, u32 id)
{
	struct byway_queue_request request = { .queue = cpu_to_le32(id) };
	int err = byway_call(session, BYWAY_REQUEST_QUEUE_DESTROY, &request, sizeof(request),
			     NULL, 0, BYWAY_FIRM);

	/* It may have ended with its context, which was acknowledged as well. */
	return err == -ENOENT ? 0 : err;
}

/* Descriptor and mapping are gone. */
static int byway_queue_release(struct inode *inode, struct file *file)
{
	struct byway_queue *queue = file->private_data;
	struct byway_session *session = queue->context->session;

	if (queue->created) {
		xa_erase(&session->queues, queue->id);
		if (!queue->returned)
			queue->returned = !byway_queue_destroy(session, queue->id);
		byway_uncount(session, queues_now);
	}
	byway_queue_free(queue);
	return 0;
}

static const struct file_operations byway_queue_fops = {
	.owner = THIS_MODULE,
	.release = byway_queue_release,
	.mmap = byway_queue_mmap,
	.poll = byway_queue_poll,
	.unlocked_ioctl = byway_queue_ioctl,
	.compat_ioctl = compat_ptr_ioctl,
};

static struct byway_queue *byway_queue_new(struct byway_context *context, u32 entries)
{
	struct byway_queue *queue = kzalloc(sizeof(*queue), GFP_KERNEL_ACCOUNT);

	if (!queue)
		return NULL;
	queue->context = byway_context_get(context);
	queue->entries = entries;
	queue->returned = true;
	spin_lock_init(&queue->lock);
	init_waitqueue_head(&queue->wait);
	queue->ring = byway_pages_alloc(entries * sizeof(struct byway_descriptor));
	queue->completions = byway_pages_alloc(entries * sizeof(struct byway_completion));
	queue->header = byway_pages_alloc(sizeof(struct byway_queue_header));
	if (!queue->ring || !queue->completions || !queue->header) {
		byway_queue_free(queue);
		return NULL;
	}
	return queue;
}

/* QUEUE_CREATE, after which the engine may write to the memory. */
static int byway_queue_start(struct byway_queue *queue, u32 flags)
{
	struct byway_context *context = queue->context;
	struct byway_session *session = context->session;
	struct byway_queue_create_request request = {
		.context = cpu_to_le32(context->id),
		.entries = cpu_to_le32(queue->entries),
		.ring = cpu_to_le64(virt_to_phys(queue->ring->virt)),
		.completions = cpu_to_le64(virt_to_phys(queue->completions->virt)),
		.header = cpu_to_le64(virt_to_phys(queue->header->virt)),
		.flags = cpu_to_le32(flags),
	};
	struct byway_queue_create_reply reply;
	int err;

	err = byway_call(session, BYWAY_REQUEST_QUEUE_CREATE, &request, sizeof(request),
			 &reply, sizeof(reply), BYWAY_FIRM);
	if (err) {
		/* A refusal has changed nothing; of anything else nothing is known. */
		queue->returned = byway_live(session);
		return err;
	}
	queue->returned = false;
	queue->id = le32_to_cpu(reply.queue);
	err = xa_insert(&session->queues, queue->id, queue, GFP_KERNEL);
	if (err == -EBUSY) {
		byway_session_fail(session, "uses the number of a queue twice");
		return -EIO;
	}
	if (err) {
		queue->returned = !byway_queue_destroy(session, queue->id);
		return err;
	}
	queue->created = true;
	byway_count(session, queues_now);
	/*
	 * A reset may have gone through the list before the queue was on it; its
	 * memory is then returned, and nobody else says that it is dead.
	 */
	if (byway_state(session) == BYWAY_QUIET)
		byway_queues_reset(session);
	return 0;
}

long byway_queue_create(struct byway_context *context, void __user *arg)
{
	struct byway_session *session = context->session;
	struct byway_ioc_queue request;
	struct byway_queue *queue;
	struct file *file;
	int err, fd;

	if (copy_from_user(&request, arg, sizeof(request)))
		return -EFAULT;
	if (request.flags & ~BYWAY_IOC_QUEUE_NO_PARK || request.reserved ||
	    !is_power_of_2(request.entries) || request.entries < BYWAY_ENTRIES_MIN ||
	    request.entries > min(BYWAY_ENTRIES_MAX, session->engine.queue_entries_max))
		return -EINVAL;
	BUILD_BUG_ON(BYWAY_IOC_QUEUE_NO_PARK != BYWAY_QUEUE_NO_PARK);

	fd = get_unused_fd_flags(O_CLOEXEC);
	if (fd < 0)
		return fd;
	queue = byway_queue_new(context, request.entries);
	if (!queue) {
		err = -ENOMEM;
		goto put_fd;
	}
	file = anon_inode_getfile("[byway-queue]", &byway_queue_fops, queue, O_RDWR);
	if (IS_ERR(file)) {
		byway_queue_free(queue);
		err = PTR_ERR(file);
		goto put_fd;
	}
	err = byway_queue_start(queue, request.flags);
	if (err)
		goto put_file;
	request.fd = fd;
	request.queue = queue->id;
	request.mmap_bytes = byway_queue_bytes(queue);
	request.ring_offset = 0;
	request.completions_offset = queue->ring->bytes;
	request.header_offset = queue->ring->bytes + queue->completions->bytes;
	request.instance = session->engine.instance;
	if (copy_to_user(arg, &request, sizeof(request))) {
		err = -EFAULT;
		goto put_file;
	}
	fd_install(fd, file);
	return 0;

put_file:
	fput(file);	/* ends the queue */
put_fd:
	put_unused_fd(fd);
	return err;
}
