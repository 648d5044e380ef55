// SPDX-License-Identifier: GPL-2.0
/*
 * Sessions: the device from one reset to the next. A session starts with QUERY
 * and ends with a reset, after which the engine touches nothing any more.
 */
#include <linux/module.h>
#include <linux/slab.h>

#include "compat.h"
#include "internal.h"

#define BYWAY_HEARTBEAT_MS_MIN	100U

static unsigned int byway_heartbeat_ms = 2000;
module_param_named(heartbeat_ms, byway_heartbeat_ms, uint, 0644);
MODULE_PARM_DESC(heartbeat_ms,
		 "How often the engine is asked whether it is still the same while contexts are open; 0: never (2000)");

struct byway_session *byway_session_get(struct byway_session *session)
{
	kref_get(&session->kref);
	return session;
}

static void byway_session_release(struct kref *kref)
{
	struct byway_session *session = container_of(kref, struct byway_session, kref);

	/* A context that was opened while the session ended may have started it. */
	cancel_delayed_work_sync(&session->heartbeat);
	ida_destroy(&session->pasids);
	xa_destroy(&session->spaces);
	xa_destroy(&session->contexts);
	xa_destroy(&session->queues);
	xa_destroy(&session->caps);
	byway_device_put(session->device);
	kfree(session);
}

/* May sleep, if it is the last one. */
void byway_session_put(struct byway_session *session)
{
	kref_put(&session->kref, byway_session_release);
}

/**
 * byway_session_fail() - the engine cannot be used any more: no further requests
 * @session: which; nothing happens if it has failed or ended already
 * @why: what the engine does, for the log
 *
 * Any context but NMI, under page-table locks too. The reset follows in a work.
 */
void byway_session_fail(struct byway_session *session, const char *why)
{
	if (cmpxchg(&session->state, BYWAY_LIVE, BYWAY_BROKEN) != BYWAY_LIVE)
		return;
	dev_warn_ratelimited(&session->device->vdev->dev,
			     "the engine %s: the device will be reset\n", why);
	byway_device_failed(session->device, session);
}

/* Waits, within bounds, until a session that has failed is reset. */
void byway_session_wait_quiet(struct byway_session *session)
{
	if (!wait_for_completion_timeout(&session->quiet, 2 * byway_timeout()))
		pr_warn_ratelimited("byway: the reset of a failed device takes too long\n");
}

/* ---- QUERY --------------------------------------------------------------------- */

static int byway_ask(struct byway_session *session, struct byway_engine *engine,
		     enum byway_wait how)
{
	struct byway_query_request request = {
		.version = cpu_to_le32(BYWAY_ABI_VERSION),
		.features = cpu_to_le64(BYWAY_FEATURES_WANTED),
	};
	struct byway_query_reply reply;
	int err;

	err = byway_call(session, BYWAY_REQUEST_QUERY, &request, sizeof(request), &reply,
			 sizeof(reply), how);
	if (err)
		return err;
	engine->version = le32_to_cpu(reply.version);
	engine->instance = le32_to_cpu(reply.instance);
	engine->features = le64_to_cpu(reply.features);
	engine->domain = le32_to_cpu(reply.domain);
	engine->workers = le32_to_cpu(reply.workers);
	engine->queue_entries_max = le32_to_cpu(reply.queue_entries_max);
	engine->slots_max = le32_to_cpu(reply.slots_max);
	engine->transfer_bytes_max = le32_to_cpu(reply.transfer_bytes_max);
	engine->batch_count_max = le32_to_cpu(reply.batch_count_max);
	engine->park_us = le32_to_cpu(reply.park_us);
	memcpy(engine->opcodes, reply.opcodes, sizeof(engine->opcodes));
	memcpy(engine->name, reply.name, sizeof(engine->name));
	return 0;
}

/* Whether this kernel can work with this engine. */
static int byway_engine_check(struct device *dev, const struct byway_engine *engine)
{
	if (!engine->version || engine->version > BYWAY_ABI_VERSION) {
		dev_err(dev, "the engine speaks ABI version %u, this module %u: update the older one\n",
			engine->version, BYWAY_ABI_VERSION);
		return -EPROTONOSUPPORT;
	}
	/* Without it page tables could not change under the engine's eyes. */
	if (!(engine->features & BYWAY_FEATURE_INVALIDATION_PAGE) ||
	    engine->workers > BYWAY_INVALIDATION_WORKERS) {
		dev_err(dev, "the engine has no invalidation page, or %u workers where %u can be told apart\n",
			engine->workers, BYWAY_INVALIDATION_WORKERS);
		return -EOPNOTSUPP;
	}
	if (pgtable_l5_enabled() && !(engine->features & BYWAY_FEATURE_LEVELS_5)) {
		dev_err(dev, "the engine does not walk five levels of page tables: boot with no5lvl\n");
		return -EOPNOTSUPP;
	}
	if (byway_name_check(engine->name)) {
		dev_err(dev, "the engine gives this domain no name\n");
		return -EPROTO;
	}
	return 0;
}

/**
 * byway_session_query() - whether the engine is still there, and still the same
 * @session: which
 *
 * Return: 0; -ENODEV when another one answers, upon which the session has
 * failed; or what byway_call() says.
 */
int byway_session_query(struct byway_session *session)
{
	struct byway_engine engine;
	int err = byway_ask(session, &engine, BYWAY_KILLABLE);

	if (err)
		return err;
	if (engine.instance != session->engine.instance) {
		byway_session_fail(session, "has restarted");
		return -ENODEV;
	}
	return 0;
}

static void byway_heartbeat(struct work_struct *work)
{
	struct byway_session *session =
		container_of(to_delayed_work(work), struct byway_session, heartbeat);

	if (xa_empty(&session->contexts) || byway_session_query(session))
		return;
	byway_session_watch(session);
}

/*
 * An engine that restarts forgets what it had and says nothing about it. While
 * there are contexts, whose processes poll memory that nobody writes any more,
 * it is asked now and then.
 */
void byway_session_watch(struct byway_session *session)
{
	unsigned int pause_ms = READ_ONCE(byway_heartbeat_ms);

	if (pause_ms && byway_live(session))
		queue_delayed_work(system_wq, &session->heartbeat,
				   msecs_to_jiffies(max(pause_ms, BYWAY_HEARTBEAT_MS_MIN)));
}

/* ---- start and end ----------------------------------------------------------------- */

static struct byway_session *byway_session_new(struct byway_device *device)
{
	struct byway_session *session = kzalloc(sizeof(*session), GFP_KERNEL);

	if (!session)
		return NULL;
	kref_init(&session->kref);
	kref_get(&device->kref);
	session->device = device;
	session->state = BYWAY_LIVE;
	init_completion(&session->quiet);
	INIT_DELAYED_WORK(&session->heartbeat, byway_heartbeat);
	spin_lock_init(&session->vq_lock);
	INIT_LIST_HEAD(&session->in_flight);
	init_waitqueue_head(&session->room);
	INIT_WORK(&session->events_work, byway_events_work);
	mutex_init(&session->spaces_lock);
	ida_init(&session->pasids);
	xa_init(&session->spaces);
	xa_init(&session->contexts);
	xa_init(&session->queues);
	xa_init(&session->caps);
	spin_lock_init(&session->offers_lock);
	INIT_LIST_HEAD(&session->offers);
	INIT_LIST_HEAD(&session->listeners);
	init_waitqueue_head(&session->offers_wait);
	spin_lock_init(&session->quarantine_lock);
	INIT_LIST_HEAD(&session->quarantine);
	return session;
}

static int byway_session_open_vqs(struct byway_session *session)
{
	struct virtio_device *vdev = session->device->vdev;
	struct virtqueue *vqs[BYWAY_QUEUE_COUNT];
	int err = byway_find_vqs(vdev, vqs, byway_control_done, byway_events_arrived);

	if (err)
		return err;
	session->control = vqs[BYWAY_CONTROL_QUEUE];
	session->events = vqs[BYWAY_EVENT_QUEUE];
	session->vqs_open = true;
	/* For the interrupts; vq->priv is the transport's. */
	session->device->vqs_of = session;
	rcu_assign_pointer(session->doorbell, session->control);
	virtio_device_ready(vdev);
	return 0;
}

/**
 * byway_session_start() - begins a session with a device that has been reset
 * @device: whose features have been negotiated
 *
 * Return: a reference to the session; -ETIMEDOUT when nobody answers QUERY; or
 * another error. The device is reset then.
 */
struct byway_session *byway_session_start(struct byway_device *device)
{
	struct byway_session *session = byway_session_new(device);
	int err;

	if (!session)
		return ERR_PTR(-ENOMEM);
	err = byway_session_open_vqs(session);
	if (err)
		goto put;
	err = byway_ask(session, &session->engine, BYWAY_FIRM);
	if (err == -ETIMEDOUT)
		dev_err(&device->vdev->dev,
			"no answer to QUERY: is the engine running, and guest memory shared with it?\n");
	if (!err)
		err = byway_engine_check(&device->vdev->dev, &session->engine);
	if (!err)
		err = byway_events_post(session);
	if (err)
		goto stop;
	return session;

stop:
	byway_session_stop(session);
put:
	byway_session_put(session);
	return ERR_PTR(err);
}

/**
 * byway_session_stop() - resets the device, and ends what depends on it
 * @session: whose; not more than once
 *
 * When it returns, nothing is in flight, all waits have ended, and the
 * virtqueues are gone. Objects live on until their files are closed.
 */
void byway_session_stop(struct byway_session *session)
{
	struct virtio_device *vdev = session->device->vdev;

	cmpxchg(&session->state, BYWAY_LIVE, BYWAY_BROKEN);
	byway_control_abandon(session);
	wake_up_all(&session->offers_wait);
	cancel_delayed_work_sync(&session->heartbeat);
	rcu_assign_pointer(session->doorbell, NULL);
	/* Whoever saw the virtqueues open has notified by then. */
	synchronize_rcu();

	virtio_reset_device(vdev);
	xchg(&session->state, BYWAY_QUIET);
	byway_queues_reset(session);
	complete_all(&session->quiet);

	/* Their requests fail by now, and nothing queues them any more. */
	cancel_work_sync(&session->events_work);
	flush_workqueue(session->device->pages_wq);

	byway_control_drain(session);
	while (virtqueue_detach_unused_buf(session->events))
		;
	vdev->config->del_vqs(vdev);	/* interrupts are over */
	session->device->vqs_of = NULL;
	kfree(session->event_buffers);
	session->event_buffers = NULL;
	byway_quarantine_release(session);
	byway_offers_clear(session);
	byway_caps_news(session);
}
