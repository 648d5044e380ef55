// SPDX-License-Identifier: GPL-2.0
/*
 * Capabilities as files: a filled slot of a context each (SPEC section 7).
 *
 * Whoever holds the descriptor can have the capability brought into a context
 * of its own; what changes or ends it is left to the mm that made it.
 */
#include <linux/anon_inodes.h>
#include <linux/file.h>
#include <linux/fs.h>
#include <linux/poll.h>
#include <linux/slab.h>
#include <linux/uaccess.h>

#include "internal.h"

static __poll_t byway_cap_poll(struct file *file, poll_table *wait)
{
	struct byway_cap *cap = file->private_data;
	__poll_t mask = 0;

	poll_wait(file, &cap->wait, wait);
	if (READ_ONCE(cap->news))
		mask |= EPOLLIN | EPOLLRDNORM;
	if (READ_ONCE(cap->context->dead) || !byway_live(cap->context->session))
		mask |= EPOLLERR | EPOLLHUP;
	return mask;
}

static int byway_cap_slot_call(struct byway_cap *cap, u16 kind, u32 flags, void *reply,
			       size_t reply_bytes, enum byway_wait how)
{
	struct byway_cap_slot_request request = {
		.context = cpu_to_le32(cap->context->id),
		.slot = cpu_to_le32(cap->slot),
		.flags = cpu_to_le32(flags),
	};

	return byway_call(cap->context->session, kind, &request, sizeof(request), reply,
			  reply_bytes, how);
}

static long byway_cap_query(struct byway_cap *cap, void __user *arg)
{
	struct byway_cap_query_reply reply;
	struct byway_ioc_cap_query out = {};
	int err;

	WRITE_ONCE(cap->news, false);
	err = byway_cap_slot_call(cap, BYWAY_REQUEST_CAP_QUERY, 0, &reply, sizeof(reply),
				  BYWAY_KILLABLE);
	if (err)
		return err;
	out.state = le32_to_cpu(reply.state);
	out.rights = le32_to_cpu(reply.rights);
	out.length = le64_to_cpu(reply.length);
	out.badge = le64_to_cpu(reply.badge);
	out.depth = le32_to_cpu(reply.depth);
	out.domain = le32_to_cpu(reply.domain);
	out.descendants = le64_to_cpu(reply.descendants);
	out.bytes_read = le64_to_cpu(reply.bytes_read);
	out.bytes_written = le64_to_cpu(reply.bytes_written);
	out.slot = cap->slot;
	out.context = cap->context->id;
	return copy_to_user(arg, &out, sizeof(out)) ? -EFAULT : 0;
}

static long byway_cap_revoke(struct byway_cap *cap, void __user *arg)
{
	struct byway_ioc_cap_revoke request;

	BUILD_BUG_ON(BYWAY_IOC_REVOKE_DESCENDANTS_ONLY != BYWAY_REVOKE_DESCENDANTS_ONLY);
	if (copy_from_user(&request, arg, sizeof(request)))
		return -EFAULT;
	if (request.flags & ~BYWAY_IOC_REVOKE_DESCENDANTS_ONLY || request.reserved)
		return -EINVAL;
	/* Firm: who is told EINTR here could not know what is still in flight. */
	return byway_cap_slot_call(cap, BYWAY_REQUEST_CAP_REVOKE, request.flags, NULL, 0,
				   BYWAY_FIRM);
}

static long byway_cap_ioctl(struct file *file, unsigned int cmd, unsigned long raw)
{
	struct byway_cap *cap = file->private_data;
	void __user *arg = (void __user *)raw;
	int err;

	if (cmd != BYWAY_IOC_CAP_QUERY && cmd != BYWAY_IOC_CAP_REVOKE)
		return -ENOTTY;
	err = byway_context_check(cap->context);
	if (err)
		return err;
	if (cmd == BYWAY_IOC_CAP_QUERY)
		return byway_cap_query(cap, arg);
	return byway_cap_revoke(cap, arg);
}

static int byway_cap_release(struct inode *inode, struct file *file)
{
	struct byway_cap *cap = file->private_data;
	struct byway_context *context = cap->context;

	if (cap->slot) {
		/* First: once it is dropped, the slot may be filled anew. */
		xa_erase(&context->session->caps, byway_cap_index(context->id, cap->slot));
		if (!READ_ONCE(context->dead))
			byway_cap_slot_call(cap, BYWAY_REQUEST_CAP_DROP, 0, NULL, 0,
					    BYWAY_FIRM);
		byway_uncount(context->session, caps_now);
	}
	byway_context_put(context);
	kfree(cap);
	return 0;
}

static const struct file_operations byway_cap_fops = {
	.owner = THIS_MODULE,
	.release = byway_cap_release,
	.poll = byway_cap_poll,
	.unlocked_ioctl = byway_cap_ioctl,
	.compat_ioctl = compat_ptr_ioctl,
};

/**
 * byway_cap_prepare() - all that can fail on this side, before the engine is asked
 * @context: that is to hold the capability
 *
 * Return: a capability with a file and a reserved descriptor, for
 * byway_cap_fill() and byway_cap_end() or byway_cap_answer(); or an error.
 */
struct byway_cap *byway_cap_prepare(struct byway_context *context)
{
	struct byway_cap *cap = kzalloc(sizeof(*cap), GFP_KERNEL_ACCOUNT);
	int err;

	if (!cap)
		return ERR_PTR(-ENOMEM);
	init_waitqueue_head(&cap->wait);
	cap->fd = get_unused_fd_flags(O_CLOEXEC);
	if (cap->fd < 0) {
		err = cap->fd;
		goto free;
	}
	cap->file = anon_inode_getfile("[byway-capability]", &byway_cap_fops, cap, O_RDWR);
	if (IS_ERR(cap->file)) {
		err = PTR_ERR(cap->file);
		goto put_fd;
	}
	cap->context = byway_context_get(context);
	return cap;

put_fd:
	put_unused_fd(cap->fd);
free:
	kfree(cap);
	return ERR_PTR(err);
}

/**
 * byway_cap_fill() - the engine has filled a slot
 * @cap: the capability; from now on its release drops the slot
 * @slot: which
 * @rights: its rights
 * @length: bytes that it spans
 * @badge: its badge
 *
 * Return: 0, or an error, with which byway_cap_end() is due.
 */
int byway_cap_fill(struct byway_cap *cap, u32 slot, u32 rights, u64 length, u64 badge)
{
	struct byway_context *context = cap->context;
	int err;

	if (!slot || slot > BYWAY_SLOT_MAX) {
		byway_session_fail(context->session, "fills a slot that cannot be");
		return -EIO;
	}
	cap->slot = slot;
	cap->rights = rights;
	cap->length = length;
	cap->badge = badge;
	byway_count(context->session, caps_now);
	err = xa_insert(&context->session->caps, byway_cap_index(context->id, slot), cap,
			GFP_KERNEL);
	if (err == -EBUSY) {
		/* The other one's entry has to stay. */
		cap->slot = 0;
		byway_uncount(context->session, caps_now);
		byway_session_fail(context->session, "fills a slot twice");
		return -EIO;
	}
	return err;
}

/**
 * byway_cap_end() - makes the descriptor usable, or gives everything back
 * @cap: of byway_cap_prepare()
 * @err: 0, or what failed since
 *
 * The last thing to be done.
 *
 * Return: @err.
 */
long byway_cap_end(struct byway_cap *cap, long err)
{
	if (err) {
		put_unused_fd(cap->fd);
		fput(cap->file);
	} else {
		fd_install(cap->fd, cap->file);
	}
	return err;
}

/**
 * byway_cap_answer() - byway_cap_end() of a call that tells about the capability
 * @cap: of byway_cap_prepare()
 * @err: 0, or what failed since; the caller is told nothing then
 * @arg: where the caller wants the answer
 * @answer: the answer
 * @size: its bytes
 *
 * Return: @err, or -EFAULT.
 */
long byway_cap_answer(struct byway_cap *cap, long err, void __user *arg, const void *answer,
		      size_t size)
{
	if (!err && copy_to_user(arg, answer, size))
		err = -EFAULT;
	return byway_cap_end(cap, err);
}

/**
 * byway_cap_from_fd() - the capability of a descriptor
 * @fd: the descriptor
 * @file: to be put by the caller; keeps the capability
 *
 * Return: the capability, -EBADF, or -EINVAL when it is something else.
 */
struct byway_cap *byway_cap_from_fd(int fd, struct file **file)
{
	*file = fget(fd);
	if (!*file)
		return ERR_PTR(-EBADF);
	if ((*file)->f_op != &byway_cap_fops) {
		fput(*file);
		return ERR_PTR(-EINVAL);
	}
	return (*file)->private_data;
}

static void byway_cap_tell(struct byway_cap *cap)
{
	WRITE_ONCE(cap->news, true);
	wake_up_interruptible(&cap->wait);
}

/* Somebody else has ended a capability. */
void byway_cap_revoked(struct byway_session *session, u32 context, u64 slot)
{
	struct byway_cap *cap;

	if (slot > BYWAY_SLOT_MAX)
		return;
	xa_lock(&session->caps);
	cap = xa_load(&session->caps, byway_cap_index(context, slot));
	if (cap)
		byway_cap_tell(cap);
	xa_unlock(&session->caps);
}

/* Events were lost, or the session has ended: all had better look. */
void byway_caps_news(struct byway_session *session)
{
	struct byway_cap *cap;
	unsigned long index;

	xa_lock(&session->caps);
	xa_for_each(&session->caps, index, cap)
		byway_cap_tell(cap);
	xa_unlock(&session->caps);
}
