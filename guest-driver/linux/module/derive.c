// SPDX-License-Identifier: GPL-2.0
/*
 * How capabilities come to be within a domain: derived from one's own memory or
 * from another capability, brought in from another process, loaded as a key,
 * created as a port (SPEC sections 7.2, 7.7, 7.8).
 */
#include <linux/file.h>
#include <linux/slab.h>
#include <linux/string.h>
#include <linux/uaccess.h>

#include "internal.h"

/*
 * Has the engine derive, and fills @cap with what comes of it.
 * @source: context and slot of the parent; slot 0 for one's own memory.
 */
static int byway_derive(struct byway_cap *cap, struct byway_cap_derive_request *request,
			u32 rights, u64 length, u64 badge)
{
	struct byway_cap_derive_reply reply;
	int err;

	request->target_context = cpu_to_le32(cap->context->id);
	request->rights = cpu_to_le32(rights);
	request->length = cpu_to_le64(length);
	request->badge = cpu_to_le64(badge);
	err = byway_call(cap->context->session, BYWAY_REQUEST_CAP_DERIVE, request,
			 sizeof(*request), &reply, sizeof(reply), BYWAY_KILLABLE);
	if (err)
		return err;
	return byway_cap_fill(cap, le32_to_cpu(reply.slot), rights, length, badge);
}

/* Whether a capability can be the parent of one in @context. */
static int byway_cap_reachable(const struct byway_cap *cap,
			       const struct byway_context *context)
{
	if (cap->context->session->device != context->session->device)
		return -EXDEV;
	if (cap->context->session != context->session || READ_ONCE(cap->context->dead))
		return -ENODEV;
	return 0;
}

long byway_cap_derive(struct byway_context *context, void __user *arg)
{
	struct byway_cap_derive_request derive = {};
	struct byway_ioc_derive request;
	struct file *parent_file = NULL;
	struct byway_cap *parent, *cap;
	long err;

	if (copy_from_user(&request, arg, sizeof(request)))
		return -EFAULT;
	if (request.flags || request.reserved || !request.length)
		return -EINVAL;
	derive.context = cpu_to_le32(context->id);
	if (request.parent_fd != BYWAY_IOC_OWN_MEMORY) {
		parent = byway_cap_from_fd(request.parent_fd, &parent_file);
		if (IS_ERR(parent))
			return PTR_ERR(parent);
		err = byway_cap_reachable(parent, context) ?:
			byway_context_check(parent->context);
		if (err)
			goto put_parent;
		derive.context = cpu_to_le32(parent->context->id);
		derive.slot = cpu_to_le32(parent->slot);
	}
	derive.base = cpu_to_le64(request.base);
	derive.lifetime_ns = cpu_to_le64(request.lifetime_ns);
	derive.byte_quota = cpu_to_le64(request.byte_quota);

	cap = byway_cap_prepare(context);
	if (IS_ERR(cap)) {
		err = PTR_ERR(cap);
		goto put_parent;
	}
	err = byway_derive(cap, &derive, request.rights, request.length, request.badge);
	request.fd = cap->fd;
	request.slot = cap->slot;
	err = byway_cap_answer(cap, err, arg, &request, sizeof(request));
put_parent:
	if (parent_file)
		fput(parent_file);
	return err;
}

long byway_cap_attach(struct byway_context *context, void __user *arg)
{
	struct byway_cap_derive_request derive = {};
	struct byway_ioc_attach request;
	struct byway_cap *source, *cap;
	struct file *file;
	u64 length;
	u32 rights;
	long err;

	if (copy_from_user(&request, arg, sizeof(request)))
		return -EFAULT;
	if (request.reserved)
		return -EINVAL;
	source = byway_cap_from_fd(request.cap_fd, &file);
	if (IS_ERR(source))
		return PTR_ERR(source);
	err = byway_cap_reachable(source, context);
	if (err)
		goto put_source;
	if (request.base >= source->length) {
		err = -ERANGE;
		goto put_source;
	}
	rights = request.rights ?: source->rights;
	length = request.length ?: source->length - request.base;
	derive.context = cpu_to_le32(source->context->id);
	derive.slot = cpu_to_le32(source->slot);
	derive.base = cpu_to_le64(request.base);

	cap = byway_cap_prepare(context);
	if (IS_ERR(cap)) {
		err = PTR_ERR(cap);
		goto put_source;
	}
	err = byway_derive(cap, &derive, rights, length, source->badge);
	request.fd = cap->fd;
	request.slot = cap->slot;
	request.length = length;
	request.badge = cap->badge;
	request.rights_out = rights;
	err = byway_cap_answer(cap, err, arg, &request, sizeof(request));
put_source:
	fput(file);
	return err;
}

/* KEY_LOAD; wipes its own copy of the key, as byway_call() does. */
static int byway_key_send(struct byway_cap *cap, const struct byway_ioc_key_load *request)
{
	struct byway_key_load_request load = {
		.context = cpu_to_le32(cap->context->id),
		.algorithm = cpu_to_le32(request->algorithm),
		.length = cpu_to_le32(request->length),
		.rights = cpu_to_le32(request->rights),
		.badge = cpu_to_le64(request->badge),
	};
	struct byway_key_load_reply reply;
	int err;

	BUILD_BUG_ON(sizeof(load.key) != sizeof(request->key));
	memcpy(load.key, request->key, sizeof(load.key));
	err = byway_call(cap->context->session, BYWAY_REQUEST_KEY_LOAD, &load, sizeof(load),
			 &reply, sizeof(reply), BYWAY_KILLABLE);
	memzero_explicit(&load, sizeof(load));
	if (err)
		return err;
	return byway_cap_fill(cap, le32_to_cpu(reply.slot), request->rights, request->length,
			      request->badge);
}

long byway_key_load(struct byway_context *context, void __user *arg)
{
	struct byway_ioc_key_load __user *user = arg;
	struct byway_ioc_key_load request;
	struct byway_cap *cap;
	long err;

	if (copy_from_user(&request, arg, sizeof(request)))
		return -EFAULT;
	err = -EINVAL;
	if (request.flags || !request.length || request.length > BYWAY_KEY_BYTES_MAX)
		goto wipe;
	cap = byway_cap_prepare(context);
	err = PTR_ERR_OR_ZERO(cap);
	if (err)
		goto wipe;
	err = byway_key_send(cap, &request);
	/* Not the key: the caller may have given a copy that it may only read. */
	if (!err && (put_user(cap->fd, &user->fd) || put_user(cap->slot, &user->slot)))
		err = -EFAULT;
	err = byway_cap_end(cap, err);
wipe:
	memzero_explicit(&request, sizeof(request));
	return err;
}

static int byway_port_send(struct byway_cap *cap, const struct byway_ioc_port_create *request)
{
	const u32 rights = BYWAY_RIGHT_SEND | BYWAY_RIGHT_RECEIVE | BYWAY_RIGHT_GRANT;
	struct byway_port_create_request create = {
		.context = cpu_to_le32(cap->context->id),
		.depth = cpu_to_le32(request->depth),
		.bytes = cpu_to_le32(request->bytes),
		.badge = cpu_to_le64(request->badge),
	};
	struct byway_port_create_reply reply;
	int err;

	err = byway_call(cap->context->session, BYWAY_REQUEST_PORT_CREATE, &create,
			 sizeof(create), &reply, sizeof(reply), BYWAY_KILLABLE);
	if (err)
		return err;
	/* All rights, and the longest message for a length (SPEC section 7.8). */
	return byway_cap_fill(cap, le32_to_cpu(reply.slot), rights, request->bytes,
			      request->badge);
}

long byway_port_create(struct byway_context *context, void __user *arg)
{
	struct byway_ioc_port_create request;
	struct byway_cap *cap;
	long err;

	if (copy_from_user(&request, arg, sizeof(request)))
		return -EFAULT;
	if (request.flags || request.reserved || !request.depth ||
	    request.depth > BYWAY_PORT_DEPTH_MAX || !request.bytes ||
	    request.bytes > BYWAY_PORT_MESSAGE_MAX)
		return -EINVAL;
	cap = byway_cap_prepare(context);
	if (IS_ERR(cap))
		return PTR_ERR(cap);
	err = byway_port_send(cap, &request);
	request.fd = cap->fd;
	request.slot = cap->slot;
	return byway_cap_answer(cap, err, arg, &request, sizeof(request));
}
