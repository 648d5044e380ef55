// SPDX-License-Identifier: GPL-2.0
/*
 * Contexts: the files of /dev/byway, and their calls.
 *
 * A context belongs to the mm that opened it. Who calls from another is refused
 * before anything else: a forked child has neither the parent's memory nor its
 * rings, and an exec'ed program not even the parent's address space.
 */
#include <linux/compat.h>
#include <linux/fs.h>
#include <linux/sched.h>
#include <linux/slab.h>
#include <linux/uaccess.h>

#include "internal.h"

struct byway_file {
	struct byway_device *device;
	struct mutex lock;		/* BYWAY_IOC_CONTEXT */
	struct byway_context *context;	/* set once; see byway_file_context() */
};

/* The file's context, or NULL before BYWAY_IOC_CONTEXT. */
static struct byway_context *byway_file_context(struct byway_file *file)
{
	/* Pairs with the release in byway_file_bind(): the context is complete. */
	return smp_load_acquire(&file->context);
}

struct byway_context *byway_context_get(struct byway_context *context)
{
	kref_get(&context->kref);
	return context;
}

/**
 * byway_context_end() - CONTEXT_DESTROY, unless that has been done
 * @context: the context; its space's lock is held
 *
 * When it returns, the engine uses neither its rings nor, by way of it, any
 * memory, or the session has failed and a reset is under way.
 */
void byway_context_end(struct byway_context *context)
{
	struct byway_context_destroy_request destroy = {
		.context = cpu_to_le32(context->id),
	};
	struct byway_session *session = context->session;
	int err;

	lockdep_assert_held(&context->space->lock);
	if (context->dead)
		return;
	WRITE_ONCE(context->dead, true);
	err = byway_call(session, BYWAY_REQUEST_CONTEXT_DESTROY, &destroy, sizeof(destroy),
			 NULL, 0, BYWAY_FIRM);
	if (err && byway_live(session))
		byway_session_fail(session, "does not destroy a context");
	byway_queues_ended(session, context, !err);
	wake_up_all(&session->offers_wait);
}

static void byway_context_release(struct kref *kref)
{
	struct byway_context *context = container_of(kref, struct byway_context, kref);
	struct byway_space *space = context->space;

	xa_erase(&context->session->contexts, context->id);
	/*
	 * Held across CONTEXT_DESTROY: the mm's end must not find the context
	 * gone from the list while it can still touch memory.
	 */
	mutex_lock(&space->lock);
	byway_context_end(context);
	list_del(&context->node);
	mutex_unlock(&space->lock);
	byway_uncount(context->session, contexts_now);
	byway_space_put(space);
	kfree(context);
}

/* Sleeps. */
void byway_context_put(struct byway_context *context)
{
	kref_put(&context->kref, byway_context_release);
}

/**
 * byway_context_check() - whether the caller may use a context
 * @context: which
 *
 * Return: 0, -EPERM from another mm, -ENODEV when device or context have ended.
 */
int byway_context_check(const struct byway_context *context)
{
	if (context->space->mm != current->mm)
		return -EPERM;
	if (READ_ONCE(context->dead) || !byway_live(context->session))
		return -ENODEV;
	return 0;
}

/* Opens a context for current->mm. Takes over the reference to the session. */
static struct byway_context *byway_context_open(struct byway_session *session, u32 slots)
{
	struct byway_context_create_request create = { .slots = cpu_to_le32(slots) };
	struct byway_context_create_reply reply;
	struct byway_context *context;
	struct byway_space *space;
	int err;

	context = kzalloc(sizeof(*context), GFP_KERNEL_ACCOUNT);
	if (!context)
		return ERR_PTR(-ENOMEM);
	space = byway_space_use(session);
	if (IS_ERR(space)) {
		kfree(context);
		return ERR_CAST(space);
	}
	create.pasid = cpu_to_le32(space->pasid);
	err = byway_call(session, BYWAY_REQUEST_CONTEXT_CREATE, &create, sizeof(create),
			 &reply, sizeof(reply), BYWAY_FIRM);
	if (err) {
		byway_space_put(space);
		kfree(context);
		return ERR_PTR(err);
	}
	kref_init(&context->kref);
	context->space = space;
	context->session = session;	/* kept by the space */
	context->id = le32_to_cpu(reply.context);
	byway_count(session, contexts_now);
	mutex_lock(&space->lock);
	list_add_tail(&context->node, &space->contexts);
	mutex_unlock(&space->lock);
	err = xa_insert(&session->contexts, context->id, context, GFP_KERNEL);
	if (err) {
		/* Told twice, which it must not be; what it had stays with the first. */
		if (err == -EBUSY)
			byway_session_fail(session, "uses the number of a context twice");
		mutex_lock(&space->lock);
		byway_context_end(context);
		list_del(&context->node);
		mutex_unlock(&space->lock);
		byway_uncount(session, contexts_now);
		byway_space_put(space);
		kfree(context);
		return ERR_PTR(err == -EBUSY ? -EIO : err);
	}
	byway_session_watch(session);
	return context;
}

/* The session of the file's context, or else the device's present one. */
static struct byway_session *byway_file_session(struct byway_file *file)
{
	struct byway_context *context = byway_file_context(file);
	struct byway_session *session;

	if (context)
		session = byway_session_get(context->session);
	else
		session = byway_device_session(file->device);
	if (session && !byway_live(session)) {
		byway_session_put(session);
		session = NULL;
	}
	return session ?: ERR_PTR(-ENODEV);
}

static long byway_file_info(struct byway_file *file, void __user *arg)
{
	struct byway_session *session = byway_file_session(file);
	struct byway_ioc_info info = {
		.page_bytes = PAGE_SIZE,
		.interface = BYWAY_IOC_INTERFACE,
		.flags = byway_no_ad() ? BYWAY_IOC_INFO_NO_AD : 0,
	};
	const struct byway_engine *engine;

	if (IS_ERR(session))
		return PTR_ERR(session);
	engine = &session->engine;
	info.version = engine->version;
	info.instance = engine->instance;
	info.features = engine->features;
	info.domain = engine->domain;
	info.workers = engine->workers;
	info.queue_entries_max = engine->queue_entries_max;
	info.slots_max = engine->slots_max;
	info.transfer_bytes_max = engine->transfer_bytes_max;
	info.batch_count_max = engine->batch_count_max;
	info.park_us = engine->park_us;
	memcpy(info.opcodes, engine->opcodes, sizeof(info.opcodes));
	memcpy(info.name, engine->name, sizeof(info.name));
	byway_session_put(session);
	return copy_to_user(arg, &info, sizeof(info)) ? -EFAULT : 0;
}

static long byway_file_bind(struct byway_file *file, void __user *arg)
{
	struct byway_ioc_context request;
	struct byway_context *context;
	struct byway_session *session;
	long err = 0;

	if (copy_from_user(&request, arg, sizeof(request)))
		return -EFAULT;
	if (request.flags || request.reserved)
		return -EINVAL;
	if (mutex_lock_killable(&file->lock))
		return -EINTR;
	if (file->context) {
		err = -EBUSY;
		goto unlock;
	}
	session = byway_device_use(file->device);
	if (IS_ERR(session)) {
		err = PTR_ERR(session);
		goto unlock;
	}
	if (request.slots < 1 || request.slots > session->engine.slots_max)
		err = -EINVAL;
	context = err ? ERR_PTR(err) : byway_context_open(session, request.slots);
	byway_session_put(session);
	if (IS_ERR(context)) {
		err = PTR_ERR(context);
		goto unlock;
	}
	request.context = context->id;
	if (copy_to_user(arg, &request, sizeof(request))) {
		byway_context_put(context);
		err = -EFAULT;
		goto unlock;
	}
	/* Pairs with the acquire in byway_file_context(). */
	smp_store_release(&file->context, context);
unlock:
	mutex_unlock(&file->lock);
	return err;
}

static long byway_file_lookup(struct byway_context *context, void __user *arg)
{
	struct byway_lookup_reply reply;
	struct byway_ioc_lookup request;
	int err;

	if (copy_from_user(&request, arg, sizeof(request)))
		return -EFAULT;
	if (request.reserved || byway_name_check(request.name))
		return -EINVAL;
	err = byway_lookup(context->session, request.name, &reply);
	if (err)
		return err;
	request.domain = le32_to_cpu(reply.domain);
	request.rights_out = le32_to_cpu(reply.rights_out);
	request.rights_in = le32_to_cpu(reply.rights_in);
	return copy_to_user(arg, &request, sizeof(request)) ? -EFAULT : 0;
}

/* 1 to 32 bytes other than 0, padded with zeros to the end. */
int byway_name_check(const u8 name[BYWAY_IOC_NAME_BYTES])
{
	size_t bytes = strnlen(name, BYWAY_IOC_NAME_BYTES);

	if (!bytes || memchr_inv(name + bytes, 0, BYWAY_IOC_NAME_BYTES - bytes))
		return -EINVAL;
	return 0;
}

static long byway_file_ioctl(struct file *filp, unsigned int cmd, unsigned long raw)
{
	struct byway_file *file = filp->private_data;
	void __user *arg = (void __user *)raw;
	struct byway_context *context;
	int err;

	switch (cmd) {
	case BYWAY_IOC_INFO:
		return byway_file_info(file, arg);
	case BYWAY_IOC_CONTEXT:
		return byway_file_bind(file, arg);
	case BYWAY_IOC_LOOKUP:
	case BYWAY_IOC_QUEUE:
	case BYWAY_IOC_DERIVE:
	case BYWAY_IOC_ATTACH:
	case BYWAY_IOC_OFFER:
	case BYWAY_IOC_LISTEN:
	case BYWAY_IOC_KEY_LOAD:
	case BYWAY_IOC_PORT_CREATE:
	case BYWAY_IOC_ENDPOINT_OPEN:
		break;
	default:
		return -ENOTTY;
	}

	context = byway_file_context(file);
	if (!context)
		return -EBADFD;
	err = byway_context_check(context);
	if (err)
		return err;
	switch (cmd) {
	case BYWAY_IOC_LOOKUP:
		return byway_file_lookup(context, arg);
	case BYWAY_IOC_QUEUE:
		return byway_queue_create(context, arg);
	case BYWAY_IOC_DERIVE:
		return byway_cap_derive(context, arg);
	case BYWAY_IOC_ATTACH:
		return byway_cap_attach(context, arg);
	case BYWAY_IOC_OFFER:
		return byway_offer_make(context, arg);
	case BYWAY_IOC_LISTEN:
		return byway_listen(context, arg);
	case BYWAY_IOC_KEY_LOAD:
		return byway_key_load(context, arg);
	case BYWAY_IOC_PORT_CREATE:
		return byway_port_create(context, arg);
	default:
		return byway_endpoint_open(context, arg);
	}
}

static int byway_file_open(struct inode *inode, struct file *filp)
{
	/* Set by misc_open(), which keeps the device from going meanwhile. */
	struct byway_device *device =
		container_of(filp->private_data, struct byway_device, misc);
	struct byway_file *file = kzalloc(sizeof(*file), GFP_KERNEL_ACCOUNT);

	if (!file)
		return -ENOMEM;
	kref_get(&device->kref);
	file->device = device;
	mutex_init(&file->lock);
	filp->private_data = file;
	return nonseekable_open(inode, filp);
}

static int byway_file_release(struct inode *inode, struct file *filp)
{
	struct byway_file *file = filp->private_data;

	if (file->context)
		byway_context_put(file->context);
	byway_device_put(file->device);
	kfree(file);
	return 0;
}

const struct file_operations byway_context_fops = {
	.owner = THIS_MODULE,
	.open = byway_file_open,
	.release = byway_file_release,
	.unlocked_ioctl = byway_file_ioctl,
	.compat_ioctl = compat_ptr_ioctl,
};
