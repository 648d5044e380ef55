// SPDX-License-Identifier: GPL-2.0
/*
 * Endpoints: what the operator granted of a block device becomes a capability
 * (SPEC section 7.9). Blocks are then moved by descriptors; this kernel never
 * sees them.
 */
#include <linux/err.h>
#include <linux/string.h>
#include <linux/uaccess.h>

#include "internal.h"

static int byway_endpoint_ask(struct byway_cap *cap, struct byway_ioc_endpoint_open *open)
{
	struct byway_endpoint_open_request request = {
		.context = cpu_to_le32(cap->context->id),
		.badge = cpu_to_le64(open->badge),
	};
	struct byway_endpoint_open_reply reply;
	int err;

	BUILD_BUG_ON(sizeof(request.name) != sizeof(open->name));
	memcpy(request.name, open->name, sizeof(request.name));
	err = byway_call(cap->context->session, BYWAY_REQUEST_ENDPOINT_OPEN, &request,
			 sizeof(request), &reply, sizeof(reply), BYWAY_KILLABLE);
	if (err)
		return err;
	open->length = le64_to_cpu(reply.length);
	open->rights = le32_to_cpu(reply.rights);
	open->block_bytes = le32_to_cpu(reply.block_bytes);
	open->features = le32_to_cpu(reply.features);
	open->reserved76 = 0;
	return byway_cap_fill(cap, le32_to_cpu(reply.slot), open->rights, open->length,
			      open->badge);
}

long byway_endpoint_open(struct byway_context *context, void __user *arg)
{
	struct byway_ioc_endpoint_open open;
	struct byway_cap *cap;
	long err;

	if (copy_from_user(&open, arg, sizeof(open)))
		return -EFAULT;
	if (open.flags || open.reserved || byway_name_check(open.name))
		return -EINVAL;
	cap = byway_cap_prepare(context);
	if (IS_ERR(cap))
		return PTR_ERR(cap);
	err = byway_endpoint_ask(cap, &open);
	open.fd = cap->fd;
	open.slot = cap->slot;
	return byway_cap_answer(cap, err, arg, &open, sizeof(open));
}
