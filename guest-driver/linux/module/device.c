// SPDX-License-Identifier: GPL-2.0
/*
 * Devices: a bound virtio device with its node in /dev. It outlives its sessions:
 * when the engine fails or restarts, the device is reset and gets a new one.
 *
 * Sessions come and go by three ways that exclude each other: probe and remove
 * (remove cancels the recovery first), suspend and resume (the recovery runs on
 * a freezable work queue), and the recovery.
 */
#include <linux/idr.h>
#include <linux/module.h>
#include <linux/slab.h>

#include "compat.h"
#include "internal.h"

#define BYWAY_RECOVER_SECONDS_MAX	32U

static DEFINE_IDA(byway_indices);

static void byway_device_release(struct kref *kref)
{
	kfree(container_of(kref, struct byway_device, kref));
}

void byway_device_put(struct byway_device *device)
{
	kref_put(&device->kref, byway_device_release);
}

/* The present session, a reference to it, or NULL. */
struct byway_session *byway_device_session(struct byway_device *device)
{
	struct byway_session *session;
	unsigned long flags;

	spin_lock_irqsave(&device->lock, flags);
	session = device->session;
	if (session)
		byway_session_get(session);
	spin_unlock_irqrestore(&device->lock, flags);
	return session;
}

/* Whether waiting for a session is over. */
static bool byway_device_settled(struct byway_device *device)
{
	unsigned long flags;
	bool settled;

	spin_lock_irqsave(&device->lock, flags);
	settled = device->removed || (device->session && byway_live(device->session));
	spin_unlock_irqrestore(&device->lock, flags);
	return settled;
}

/**
 * byway_device_use() - the session of an engine that has just answered
 * @device: which
 *
 * An engine that has restarted unnoticed is noticed here, and waited for while
 * the device gets its new session.
 *
 * Return: a reference, -ENODEV, -ETIMEDOUT, or -EINTR after a fatal signal.
 */
struct byway_session *byway_device_use(struct byway_device *device)
{
	struct byway_session *session;
	int tries, err = -ENODEV;
	long left;

	for (tries = 0; tries < 2; tries++) {
		session = byway_device_session(device);
		if (session) {
			err = byway_session_query(session);
			if (!err)
				return session;
			byway_session_put(session);
			if (err == -EINTR)
				break;
		}
		left = wait_event_killable_timeout(device->attached,
						   byway_device_settled(device),
						   2 * byway_timeout());
		if (left < 0)
			return ERR_PTR(-EINTR);
		if (!left)
			break;
	}
	return ERR_PTR(err);
}

/* Begins a session and makes it the device's. */
int byway_device_attach(struct byway_device *device)
{
	struct byway_session *session = byway_session_start(device);

	if (IS_ERR(session))
		return PTR_ERR(session);
	device->recover_tries = 0;
	spin_lock_irq(&device->lock);
	device->session = session;
	spin_unlock_irq(&device->lock);
	/* One that has failed before it was listed has not been recovered. */
	if (!byway_live(session))
		byway_device_failed(device, session);
	wake_up_all(&device->attached);
	dev_info(&device->vdev->dev, "domain %.32s, engine instance %u\n",
		 session->engine.name, session->engine.instance);
	return 0;
}

/* Ends the session, if there is one. */
void byway_device_detach(struct byway_device *device)
{
	struct byway_session *session;

	spin_lock_irq(&device->lock);
	session = device->session;
	device->session = NULL;
	spin_unlock_irq(&device->lock);
	if (!session)
		return;
	byway_session_stop(session);
	byway_session_put(session);
}

/* A session has failed; atomic context. */
void byway_device_failed(struct byway_device *device, struct byway_session *session)
{
	unsigned long flags;

	spin_lock_irqsave(&device->lock, flags);
	if (device->session == session && !device->removed)
		queue_delayed_work(system_freezable_wq, &device->recover, 0);
	spin_unlock_irqrestore(&device->lock, flags);
}

/* There is no session: resets the device again in a while, and more rarely each time. */
void byway_device_retry(struct byway_device *device)
{
	unsigned int seconds = min(1U << min(device->recover_tries, 5U),
				   BYWAY_RECOVER_SECONDS_MAX);

	device->recover_tries++;
	dev_warn_ratelimited(&device->vdev->dev,
			     "no session with the engine: next try in %u s\n", seconds);
	spin_lock_irq(&device->lock);
	if (!device->removed)
		queue_delayed_work(system_freezable_wq, &device->recover, seconds * HZ);
	spin_unlock_irq(&device->lock);
}

/* Resets the device and starts a new session, by way of our own restore(). */
static void byway_device_recover(struct work_struct *work)
{
	struct byway_device *device =
		container_of(to_delayed_work(work), struct byway_device, recover);

	if (device->session && byway_live(device->session))
		return;		/* a resume was faster */
	atomic64_inc(&device->stats.recoveries);
	byway_device_detach(device);
	/* What fails in our restore() is tried again; what fails before it is not. */
	if (byway_virtio_restore(device->vdev) && !delayed_work_pending(&device->recover))
		dev_err(&device->vdev->dev,
			"the device cannot be initialised again: unbind and bind it\n");
}

static int byway_device_queues(struct byway_device *device)
{
	device->events_wq = alloc_workqueue("byway-events%d", WQ_UNBOUND | WQ_HIGHPRI, 1,
					    device->index);
	device->pages_wq = alloc_workqueue("byway-pages%d", WQ_UNBOUND, 16, device->index);
	return device->events_wq && device->pages_wq ? 0 : -ENOMEM;
}

static void byway_device_undo(struct byway_device *device)
{
	if (device->events_wq)
		destroy_workqueue(device->events_wq);
	if (device->pages_wq)
		destroy_workqueue(device->pages_wq);
	ida_free(&byway_indices, device->index);
	byway_device_put(device);
}

/* A device without a session. */
struct byway_device *byway_device_create(struct virtio_device *vdev)
{
	struct byway_device *device = kzalloc(sizeof(*device), GFP_KERNEL);
	int err;

	if (!device)
		return ERR_PTR(-ENOMEM);
	kref_init(&device->kref);
	device->vdev = vdev;
	spin_lock_init(&device->lock);
	init_waitqueue_head(&device->attached);
	INIT_DELAYED_WORK(&device->recover, byway_device_recover);
	device->index = ida_alloc(&byway_indices, GFP_KERNEL);
	if (device->index < 0) {
		err = device->index;
		byway_device_put(device);
		return ERR_PTR(err);
	}
	err = byway_device_queues(device);
	if (err) {
		byway_device_undo(device);
		return ERR_PTR(err);
	}
	return device;
}

/* Lets user space in: /dev/byway, or /dev/byway1 and so on beside another one. */
int byway_device_publish(struct byway_device *device)
{
	int err;

	if (device->index)
		snprintf(device->node, sizeof(device->node), "byway%d", device->index);
	else
		strscpy(device->node, "byway", sizeof(device->node));
	device->misc.minor = MISC_DYNAMIC_MINOR;
	device->misc.name = device->node;
	device->misc.fops = &byway_context_fops;
	device->misc.parent = &device->vdev->dev;
	device->misc.mode = 0660;
	err = misc_register(&device->misc);
	if (err)
		return err;
	byway_debugfs_add(device);
	return 0;
}

/**
 * byway_device_remove() - ends a device; files that are open answer ENODEV
 * @device: which, published or not; the reference is given up
 */
void byway_device_remove(struct byway_device *device)
{
	spin_lock_irq(&device->lock);
	device->removed = true;
	spin_unlock_irq(&device->lock);
	wake_up_all(&device->attached);
	if (device->misc.fops) {
		byway_debugfs_remove(device);
		misc_deregister(&device->misc);
	}
	cancel_delayed_work_sync(&device->recover);
	byway_device_detach(device);
	byway_device_undo(device);
}
