// SPDX-License-Identifier: GPL-2.0
/*
 * Listeners: files that wait for offers under a port's name, and accept them.
 */
#include <linux/anon_inodes.h>
#include <linux/file.h>
#include <linux/fs.h>
#include <linux/poll.h>
#include <linux/slab.h>
#include <linux/uaccess.h>

#include "internal.h"

static bool byway_listener_ended(const struct byway_listener *listener)
{
	return READ_ONCE(listener->context->dead) || !byway_live(listener->context->session);
}

static __poll_t byway_listener_poll(struct file *file, poll_table *wait)
{
	struct byway_listener *listener = file->private_data;
	__poll_t mask = 0;

	poll_wait(file, &listener->context->session->offers_wait, wait);
	if (byway_listener_ended(listener))
		return EPOLLERR | EPOLLHUP;
	if (byway_offer_waits(listener))
		mask |= EPOLLIN | EPOLLRDNORM;
	return mask;
}

/* Waits for an offer and takes it off the list. */
static struct byway_offer *byway_listener_wait(struct byway_listener *listener, bool block)
{
	struct byway_session *session = listener->context->session;
	struct byway_offer *offer = NULL;
	int err;

	if (!block)
		return byway_offer_take(listener) ?: ERR_PTR(-EAGAIN);
	err = wait_event_interruptible(session->offers_wait,
				       byway_listener_ended(listener) ||
				       (offer = byway_offer_take(listener)));
	if (err)
		return ERR_PTR(err);
	return offer ?: ERR_PTR(-ENODEV);
}

/* Takes offers until one has not ended meanwhile. */
static int byway_listener_accept(struct byway_listener *listener, bool block,
				 struct byway_cap *cap, struct byway_cap_accept_reply *reply,
				 u32 *peer)
{
	struct byway_context *context = listener->context;
	struct byway_session *session = context->session;
	struct byway_cap_accept_request request = {
		.context = cpu_to_le32(context->id),
	};
	struct byway_offer *offer;
	int err;

	for (;;) {
		offer = byway_listener_wait(listener, block);
		if (IS_ERR(offer))
			return PTR_ERR(offer);
		request.offer = cpu_to_le64(offer->id);
		err = byway_call(session, BYWAY_REQUEST_CAP_ACCEPT, &request, sizeof(request),
				 reply, sizeof(*reply), BYWAY_KILLABLE);
		if (!err) {
			*peer = offer->domain;
			kfree(offer);
			return byway_cap_fill(cap, le32_to_cpu(reply->slot),
					      le32_to_cpu(reply->rights),
					      le64_to_cpu(reply->length),
					      le64_to_cpu(reply->badge));
		}
		if (err == -ENOSPC) {
			/* No slot is free; it still stands. */
			byway_offer_return(listener, offer);
			return err;
		}
		kfree(offer);
		byway_count(session, offers_dropped);
		/* Ended, or ended in this instant: the next one may be alive. */
		if (err != -ENOENT && err != -EKEYREVOKED)
			return err;
	}
}

static long byway_listener_ioctl(struct file *file, unsigned int cmd, unsigned long raw)
{
	struct byway_listener *listener = file->private_data;
	void __user *arg = (void __user *)raw;
	struct byway_cap_accept_reply reply;
	struct byway_ioc_accept request;
	struct byway_cap *cap;
	long err;

	if (cmd != BYWAY_IOC_ACCEPT)
		return -ENOTTY;
	err = byway_context_check(listener->context);
	if (err)
		return err;
	if (copy_from_user(&request, arg, sizeof(request)))
		return -EFAULT;
	if (request.flags)
		return -EINVAL;
	cap = byway_cap_prepare(listener->context);
	if (IS_ERR(cap))
		return PTR_ERR(cap);
	err = byway_listener_accept(listener, !(file->f_flags & O_NONBLOCK), cap, &reply,
				    &request.peer);
	if (!err)
		request.domain = le32_to_cpu(reply.domain);
	request.fd = cap->fd;
	request.slot = cap->slot;
	request.length = cap->length;
	request.badge = cap->badge;
	request.rights = cap->rights;
	return byway_cap_answer(cap, err, arg, &request, sizeof(request));
}

static int byway_listener_release(struct inode *inode, struct file *file)
{
	struct byway_listener *listener = file->private_data;
	struct byway_session *session = listener->context->session;

	spin_lock(&session->offers_lock);
	list_del(&listener->node);
	spin_unlock(&session->offers_lock);
	byway_uncount(session, listeners_now);
	byway_context_put(listener->context);
	kfree(listener);
	return 0;
}

static const struct file_operations byway_listener_fops = {
	.owner = THIS_MODULE,
	.release = byway_listener_release,
	.poll = byway_listener_poll,
	.unlocked_ioctl = byway_listener_ioctl,
	.compat_ioctl = compat_ptr_ioctl,
};

/* Enters a listener, unless another would get the same offers. */
static int byway_listener_enter(struct byway_listener *listener)
{
	struct byway_session *session = listener->context->session;
	struct byway_listener *other;
	int err = 0;

	spin_lock(&session->offers_lock);
	list_for_each_entry(other, &session->listeners, node) {
		if (other->label == listener->label &&
		    (other->any_peer || listener->any_peer || other->peer == listener->peer)) {
			err = -EADDRINUSE;
			break;
		}
	}
	if (!err)
		list_add_tail(&listener->node, &session->listeners);
	spin_unlock(&session->offers_lock);
	return err;
}

static struct byway_listener *byway_listener_new(struct byway_context *context,
						 const struct byway_ioc_listen *request)
{
	struct byway_listener *listener;
	struct byway_lookup_reply peer;
	int err;

	listener = kzalloc(sizeof(*listener), GFP_KERNEL_ACCOUNT);
	if (!listener)
		return ERR_PTR(-ENOMEM);
	listener->label = byway_label(request->port);
	listener->any_peer = !request->peer[0];
	if (!listener->any_peer) {
		err = byway_lookup(context->session, request->peer, &peer);
		if (err)
			goto free;
		listener->peer = le32_to_cpu(peer.domain);
	}
	listener->context = byway_context_get(context);
	err = byway_listener_enter(listener);
	if (err)
		goto put_context;
	byway_count(context->session, listeners_now);
	return listener;

put_context:
	byway_context_put(context);
free:
	kfree(listener);
	return ERR_PTR(err);
}

long byway_listen(struct byway_context *context, void __user *arg)
{
	struct byway_ioc_listen __user *user = arg;
	struct byway_listener *listener;
	struct byway_ioc_listen request;
	struct file *file;
	int flags, fd;
	long err;

	if (copy_from_user(&request, arg, sizeof(request)))
		return -EFAULT;
	if (request.flags & ~BYWAY_IOC_LISTEN_NONBLOCK || byway_name_check(request.port) ||
	    (memchr_inv(request.peer, 0, sizeof(request.peer)) &&
	     byway_name_check(request.peer)))
		return -EINVAL;
	fd = get_unused_fd_flags(O_CLOEXEC);
	if (fd < 0)
		return fd;
	listener = byway_listener_new(context, &request);
	if (IS_ERR(listener)) {
		err = PTR_ERR(listener);
		goto put_fd;
	}
	flags = O_RDWR | (request.flags & BYWAY_IOC_LISTEN_NONBLOCK ? O_NONBLOCK : 0);
	file = anon_inode_getfile("[byway-listener]", &byway_listener_fops, listener, flags);
	if (IS_ERR(file)) {
		spin_lock(&context->session->offers_lock);
		list_del(&listener->node);
		spin_unlock(&context->session->offers_lock);
		byway_uncount(context->session, listeners_now);
		byway_context_put(context);
		kfree(listener);
		err = PTR_ERR(file);
		goto put_fd;
	}
	if (put_user(fd, &user->fd)) {
		fput(file);
		err = -EFAULT;
		goto put_fd;
	}
	fd_install(fd, file);
	return 0;

put_fd:
	put_unused_fd(fd);
	return err;
}
