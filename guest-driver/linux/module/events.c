// SPDX-License-Identifier: GPL-2.0
/*
 * The event virtqueue (SPEC section 8.3). The interrupt only queues work; the
 * work copies each event out, gives the buffer back, and tells whom it concerns.
 */
#include <linux/scatterlist.h>
#include <linux/slab.h>

#include "internal.h"

/* Events that wait for the work at most; the engine keeps more of its own. */
#define BYWAY_EVENT_BUFFERS	64U

static int byway_event_add(struct byway_session *session, struct byway_event *buffer)
{
	struct scatterlist sg;

	sg_init_one(&sg, buffer, sizeof(*buffer));
	return virtqueue_add_inbuf(session->events, &sg, 1, buffer, GFP_ATOMIC);
}

/* Gives the device all buffers, once. */
int byway_events_post(struct byway_session *session)
{
	unsigned int count = min(BYWAY_EVENT_BUFFERS,
				 virtqueue_get_vring_size(session->events));
	unsigned int at;
	int err = 0;

	session->event_buffers = kcalloc(count, sizeof(*session->event_buffers), GFP_KERNEL);
	if (!session->event_buffers)
		return -ENOMEM;
	spin_lock_irq(&session->vq_lock);
	for (at = 0; at < count && !err; at++)
		err = byway_event_add(session, &session->event_buffers[at]);
	spin_unlock_irq(&session->vq_lock);
	if (!err && !virtqueue_kick(session->events))
		err = -EIO;
	return err;
}

/* The virtqueue's interrupt. */
void byway_events_arrived(struct virtqueue *vq)
{
	struct byway_session *session = byway_vq_session(vq);
	unsigned long flags;

	spin_lock_irqsave(&session->vq_lock, flags);
	if (session->vqs_open) {
		virtqueue_disable_cb(vq);
		queue_work(session->device->events_wq, &session->events_work);
	}
	spin_unlock_irqrestore(&session->vq_lock, flags);
}

static void byway_event_lost(struct byway_session *session, u64 count)
{
	atomic64_add(count, &session->device->stats.events_lost);
	byway_queues_look(session);
	byway_caps_news(session);
}

static void byway_event_tell(struct byway_session *session, const struct byway_event *event)
{
	u32 sequence = le32_to_cpu(event->sequence);

	byway_count(session, events);
	if (session->sequence_known && sequence != session->sequence &&
	    le16_to_cpu(event->kind) != BYWAY_EVENT_LOST)
		dev_dbg(&session->device->vdev->dev, "event %u where %u was due\n", sequence,
			session->sequence);
	session->sequence = sequence + 1;
	session->sequence_known = true;

	switch (le16_to_cpu(event->kind)) {
	case BYWAY_EVENT_CAPABILITY_OFFERED:
		byway_offer_arrived(session, event);
		break;
	case BYWAY_EVENT_CAPABILITY_REVOKED:
		byway_count(session, revocations);
		byway_cap_revoked(session, le32_to_cpu(event->context), le64_to_cpu(event->id));
		break;
	case BYWAY_EVENT_PAGE_REQUEST:
		byway_page_request(session, event);
		break;
	case BYWAY_EVENT_COMPLETION:
		byway_count(session, completions);
		byway_queue_interrupt(session, le32_to_cpu(event->object));
		break;
	case BYWAY_EVENT_DOMAIN_GONE:
		byway_offers_gone(session, le32_to_cpu(event->object));
		break;
	case BYWAY_EVENT_QUEUE_DEAD:
		byway_queue_died(session, le32_to_cpu(event->object));
		break;
	case BYWAY_EVENT_LOST:
		byway_event_lost(session, le64_to_cpu(event->length));
		break;
	default:
		break;	/* of a later engine (SPEC section 12) */
	}
}

/* Takes one event, and gives its buffer back. False: there is none. */
static bool byway_event_next(struct byway_session *session, struct byway_event *event,
			     unsigned int *used)
{
	struct byway_event *buffer = NULL;

	spin_lock_irq(&session->vq_lock);
	if (session->vqs_open) {
		do {
			buffer = virtqueue_get_buf(session->events, used);
		} while (!buffer && !virtqueue_enable_cb(session->events));
	}
	if (buffer) {
		memcpy(event, buffer, sizeof(*event));
		byway_event_add(session, buffer);	/* there is room: it was just taken */
	}
	spin_unlock_irq(&session->vq_lock);
	return buffer;
}

static void byway_events_kick(struct byway_session *session)
{
	bool notify = false;

	rcu_read_lock();	/* keeps the virtqueue: see byway_session_stop() */
	spin_lock_irq(&session->vq_lock);
	if (session->vqs_open)
		notify = virtqueue_kick_prepare(session->events);
	spin_unlock_irq(&session->vq_lock);
	if (notify)
		virtqueue_notify(session->events);
	rcu_read_unlock();
}

void byway_events_work(struct work_struct *work)
{
	struct byway_session *session =
		container_of(work, struct byway_session, events_work);
	unsigned int budget = BYWAY_EVENT_BUFFERS;
	struct byway_event event;
	unsigned int used;

	while (budget && byway_event_next(session, &event, &used)) {
		budget--;
		if (used == sizeof(event))
			byway_event_tell(session, &event);
	}
	if (budget < BYWAY_EVENT_BUFFERS)
		byway_events_kick(session);
	if (!budget)
		queue_work(session->device->events_wq, &session->events_work);
}
