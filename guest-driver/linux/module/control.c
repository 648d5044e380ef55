// SPDX-License-Identifier: GPL-2.0
/*
 * The control virtqueue (SPEC section 8.1): one request, one reply.
 *
 * The engine carries requests out in order, one at a time; any number of tasks
 * may wait for theirs. What is handed to the device stays allocated until the
 * device has returned it or has been reset, whatever happens to the task that
 * waits: a request has two owners, the task and the device.
 */
#include <linux/log2.h>
#include <linux/module.h>
#include <linux/refcount.h>
#include <linux/scatterlist.h>
#include <linux/sched/signal.h>
#include <linux/slab.h>

#include "internal.h"

#define BYWAY_TIMEOUT_MS_MIN	100U
#define BYWAY_TIMEOUT_MS_MAX	60000U	/* below the hung task detector's 120 s */

static unsigned int byway_timeout_ms = 5000;
module_param_named(timeout_ms, byway_timeout_ms, uint, 0644);
MODULE_PARM_DESC(timeout_ms,
		 "Time after which a request counts as unanswered, 100 to 60000 ms (5000)");

/* The time to wait for a request, in jiffies. */
unsigned long byway_timeout(void)
{
	return msecs_to_jiffies(clamp(READ_ONCE(byway_timeout_ms), BYWAY_TIMEOUT_MS_MIN,
				      BYWAY_TIMEOUT_MS_MAX));
}

struct byway_request {
	refcount_t refs;
	struct list_head node;		/* in session->in_flight */
	struct completion done;		/* answered or abandoned */
	bool answered;
	u64 tag;
	u32 used;			/* bytes that the device wrote */
	size_t request_bytes;
	size_t reply_bytes;
	/* Lines of their own: the device writes beside what the CPU uses. */
	u8 request[BYWAY_MESSAGE_BYTES_MAX] ____cacheline_aligned;
	u8 reply[BYWAY_MESSAGE_BYTES_MAX] ____cacheline_aligned;
};

static void byway_request_put(struct byway_request *request)
{
	if (refcount_dec_and_test(&request->refs))
		kfree_sensitive(request);	/* may hold a key */
}

static int byway_control_errno(u32 status)
{
	switch (status) {
	case BYWAY_CONTROL_OK:
	/*
	 * All was done, but a device may still reach memory that its owner's
	 * kernel has pinned (SPEC section 7.10). This one pins none.
	 */
	case BYWAY_CONTROL_DEVICE_HOLDS:
		return 0;
	case BYWAY_CONTROL_BAD_LENGTH:
	case BYWAY_CONTROL_RESERVED_NOT_ZERO:
	case BYWAY_CONTROL_BAD_ARGUMENT:
		return -EINVAL;
	case BYWAY_CONTROL_NO_SUCH_OBJECT:
		return -ENOENT;
	case BYWAY_CONTROL_IN_USE:
	case BYWAY_CONTROL_BUSY:
		return -EBUSY;
	case BYWAY_CONTROL_QUOTA:
		return -ENOSPC;
	case BYWAY_CONTROL_NO_LINK:
		return -EHOSTUNREACH;
	case BYWAY_CONTROL_MISSING_RIGHT:
		return -EACCES;
	case BYWAY_CONTROL_BOUNDS:
		return -ERANGE;
	case BYWAY_CONTROL_REVOKED:
		return -EKEYREVOKED;
	case BYWAY_CONTROL_DEPTH:
		return -ELOOP;
	case BYWAY_CONTROL_UNKNOWN_REQUEST:
	case BYWAY_CONTROL_UNSUPPORTED:
		return -EOPNOTSUPP;
	default:
		return -EIO;
	}
}

static struct byway_request *byway_request_new(u16 kind, const void *body,
					       size_t body_bytes, size_t reply_bytes,
					       enum byway_wait how)
{
	/* What ends something has to be told, also when memory is short. */
	gfp_t gfp = GFP_KERNEL | (how == BYWAY_FIRM ? __GFP_NOFAIL : 0);
	struct byway_request_header *header;
	struct byway_request *request;

	if (WARN_ON_ONCE(sizeof(*header) + body_bytes > sizeof(request->request) ||
			 sizeof(struct byway_reply_header) + reply_bytes >
			 sizeof(request->reply)))
		return NULL;
	request = kzalloc(sizeof(*request), gfp);
	if (!request)
		return NULL;
	refcount_set(&request->refs, 1);
	INIT_LIST_HEAD(&request->node);
	init_completion(&request->done);
	request->request_bytes = sizeof(*header) + body_bytes;
	request->reply_bytes = sizeof(struct byway_reply_header) + reply_bytes;
	header = (struct byway_request_header *)request->request;
	header->kind = cpu_to_le16(kind);
	header->length = cpu_to_le32(request->request_bytes);
	if (body_bytes)
		memcpy(header + 1, body, body_bytes);
	return request;
}

/* Gives the request to the device, unless there is no room: -ENOSPC. */
static int byway_request_try(struct byway_session *session, struct byway_request *request)
{
	struct byway_request_header *header = (void *)request->request;
	struct scatterlist out, in, *lists[2] = { &out, &in };
	struct virtqueue *vq;
	unsigned long flags;
	bool notify = false;
	int err;

	sg_init_one(&out, request->request, request->request_bytes);
	sg_init_one(&in, request->reply, request->reply_bytes);

	/* Keeps the virtqueue until it is notified; see byway_session_stop(). */
	rcu_read_lock();
	spin_lock_irqsave(&session->vq_lock, flags);
	vq = session->control;
	if (!session->vqs_open || !byway_live(session)) {
		err = -ENODEV;
	} else {
		request->tag = session->next_tag++;
		header->tag = cpu_to_le64(request->tag);
		err = virtqueue_add_sgs(vq, lists, 1, 1, request, GFP_ATOMIC);
	}
	if (!err) {
		refcount_inc(&request->refs);	/* the device's */
		list_add_tail(&request->node, &session->in_flight);
		notify = virtqueue_kick_prepare(vq);
	}
	spin_unlock_irqrestore(&session->vq_lock, flags);
	if (notify && !virtqueue_notify(vq))
		err = -EIO;		/* queued all the same: the reset returns it */
	rcu_read_unlock();
	return err;
}

/* A condition to wait for: there was room, or there is no point in waiting. */
static bool byway_request_sent(struct byway_session *session, struct byway_request *request,
			       int *err)
{
	*err = byway_request_try(session, request);
	return *err != -ENOSPC;
}

/* Gives the request to the device; waits for room in the virtqueue. */
static int byway_request_submit(struct byway_session *session,
				struct byway_request *request, enum byway_wait how)
{
	unsigned long timeout = byway_timeout();
	int err = -ENOSPC;
	long left;

	if (how == BYWAY_KILLABLE)
		left = wait_event_killable_timeout(session->room,
						   byway_request_sent(session, request, &err),
						   timeout);
	else
		left = wait_event_timeout(session->room,
					  byway_request_sent(session, request, &err), timeout);
	if (left < 0)
		return -EINTR;
	if (err == -ENOSPC) {
		byway_count(session, timeouts);
		byway_session_fail(session, "leaves requests unanswered");
		return -ETIMEDOUT;
	}
	if (err == -EIO) {
		byway_session_fail(session, "has a broken control queue");
		return -ENODEV;
	}
	return err;
}

/* What the reply says, or -EPROTO when it is none. */
static int byway_request_result(const struct byway_request *request)
{
	const struct byway_reply_header *header = (const void *)request->reply;
	u32 status;

	if (request->used < sizeof(*header) || request->used > request->reply_bytes ||
	    le32_to_cpu(header->length) != request->used ||
	    le64_to_cpu(header->tag) != request->tag)
		return -EPROTO;
	status = le32_to_cpu(header->status);
	if (status == BYWAY_CONTROL_OK && request->used != request->reply_bytes)
		return -EPROTO;
	return status;
}

/**
 * byway_call() - sends a request and waits for the reply
 * @session: whom
 * @kind: BYWAY_REQUEST_*
 * @body: the request's body
 * @body_bytes: its length
 * @reply: where the reply's body goes; written on success only
 * @reply_bytes: its length
 * @how: how to wait
 *
 * Sleeps, timeout_ms at the longest for room and as long for the answer.
 *
 * Return: 0; what byway_control_errno() makes of a refusal; -ETIMEDOUT when
 * this request found out that the engine does not answer; -ENODEV when the
 * session has ended; -EINTR after a fatal signal (BYWAY_KILLABLE only); -EIO
 * when the answer is none; -ENOMEM.
 */
int byway_call(struct byway_session *session, u16 kind, const void *body,
	       size_t body_bytes, void *reply, size_t reply_bytes,
	       enum byway_wait how)
{
	unsigned long timeout = byway_timeout();
	struct byway_request *request;
	unsigned long flags;
	bool answered;
	long left;
	int err;

	request = byway_request_new(kind, body, body_bytes, reply_bytes, how);
	if (!request)
		return -ENOMEM;
	err = byway_request_submit(session, request, how);
	if (err)
		goto out;
	byway_count(session, requests);

	if (how == BYWAY_KILLABLE)
		left = wait_for_completion_killable_timeout(&request->done, timeout);
	else
		left = wait_for_completion_timeout(&request->done, timeout);

	/* The answer may have come with the end of the wait. */
	spin_lock_irqsave(&session->vq_lock, flags);
	answered = request->answered;
	spin_unlock_irqrestore(&session->vq_lock, flags);
	if (!answered) {
		if (left < 0) {
			err = -EINTR;
		} else if (left == 0) {
			byway_count(session, timeouts);
			byway_session_fail(session, "does not answer");
			err = -ETIMEDOUT;
		} else {
			err = -ENODEV;	/* abandoned */
		}
		goto out;
	}

	err = byway_request_result(request);
	if (err == -EPROTO) {
		byway_session_fail(session, "answers what cannot be an answer");
		err = -EIO;
	} else if (err == BYWAY_CONTROL_VERSION && kind != BYWAY_REQUEST_QUERY) {
		/* It knows nothing of our QUERY (SPEC section 8.2). */
		byway_session_fail(session, "has restarted");
		err = -ENODEV;
	} else if (err == BYWAY_CONTROL_VERSION) {
		err = -EPROTONOSUPPORT;
	} else if (err) {
		byway_count(session, refusals);
		err = byway_control_errno(err);
	} else if (reply_bytes) {
		memcpy(reply, request->reply + sizeof(struct byway_reply_header),
		       reply_bytes);
	}
out:
	byway_request_put(request);
	return err;
}

/* The virtqueue's interrupt: replies have arrived. */
void byway_control_done(struct virtqueue *vq)
{
	struct byway_session *session = byway_vq_session(vq);
	struct byway_request *request;
	unsigned long flags;
	unsigned int used;

	spin_lock_irqsave(&session->vq_lock, flags);
	if (session->vqs_open) {
		do {
			virtqueue_disable_cb(vq);
			while ((request = virtqueue_get_buf(vq, &used))) {
				list_del_init(&request->node);
				request->used = used;
				request->answered = true;
				complete(&request->done);
				byway_request_put(request);
			}
		} while (!virtqueue_enable_cb(vq));
	}
	spin_unlock_irqrestore(&session->vq_lock, flags);
	wake_up(&session->room);
}

/*
 * Ends all waits: nobody will be answered any more. The requests stay with the
 * device until byway_control_drain().
 */
void byway_control_abandon(struct byway_session *session)
{
	struct byway_request *request;
	unsigned long flags;

	spin_lock_irqsave(&session->vq_lock, flags);
	session->vqs_open = false;
	list_for_each_entry(request, &session->in_flight, node)
		complete(&request->done);
	spin_unlock_irqrestore(&session->vq_lock, flags);
	wake_up_all(&session->room);
}

/* After the reset: takes back what the device had. */
void byway_control_drain(struct byway_session *session)
{
	struct byway_request *request;

	while ((request = virtqueue_detach_unused_buf(session->control))) {
		list_del_init(&request->node);
		byway_request_put(request);
	}
}

/**
 * byway_kick() - rings the doorbell: a notification without a buffer
 * @session: whose (SPEC section 2.7)
 *
 * Does not sleep, takes no lock: how often is the caller's affair.
 *
 * Return: 0 or -ENODEV.
 */
int byway_kick(struct byway_session *session)
{
	struct virtqueue *vq;
	int err = -ENODEV;

	rcu_read_lock();
	vq = rcu_dereference(session->doorbell);
	if (vq && byway_live(session) && virtqueue_notify(vq))
		err = 0;
	rcu_read_unlock();
	return err;
}
