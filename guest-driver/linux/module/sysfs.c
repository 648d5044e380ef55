// SPDX-License-Identifier: GPL-2.0
/*
 * Attributes of the virtio device, in its folder "byway". The driver core takes
 * them away before it calls remove().
 */
#include <linux/device.h>
#include <linux/sysfs.h>

#include "internal.h"

static struct byway_session *byway_sysfs_session(struct device *dev)
{
	return byway_device_session(dev_to_virtio(dev)->priv);
}

#define BYWAY_ATTRIBUTE(field, format, ...)					\
static ssize_t field##_show(struct device *dev, struct device_attribute *attr,	\
			    char *buf)						\
{										\
	struct byway_session *session = byway_sysfs_session(dev);		\
	ssize_t bytes = -ENODEV;						\
										\
	if (session) {								\
		const struct byway_engine *engine = &session->engine;		\
										\
		bytes = sysfs_emit(buf, format "\n", __VA_ARGS__);		\
		byway_session_put(session);					\
	}									\
	return bytes;								\
}										\
static DEVICE_ATTR_RO(field)

BYWAY_ATTRIBUTE(name, "%*pE", (int)strnlen(engine->name, sizeof(engine->name)), engine->name);
BYWAY_ATTRIBUTE(domain, "%u", engine->domain);
BYWAY_ATTRIBUTE(instance, "%u", engine->instance);
BYWAY_ATTRIBUTE(version, "%u", engine->version);
BYWAY_ATTRIBUTE(features, "0x%llx", engine->features);

static ssize_t state_show(struct device *dev, struct device_attribute *attr, char *buf)
{
	struct byway_session *session = byway_sysfs_session(dev);
	const char *state = "detached";

	if (session) {
		state = byway_live(session) ? "live" : "failed";
		byway_session_put(session);
	}
	return sysfs_emit(buf, "%s\n", state);
}
static DEVICE_ATTR_RO(state);

static ssize_t node_show(struct device *dev, struct device_attribute *attr, char *buf)
{
	struct byway_device *device = dev_to_virtio(dev)->priv;

	return sysfs_emit(buf, "%s\n", device->node);
}
static DEVICE_ATTR_RO(node);

static struct attribute *byway_attributes[] = {
	&dev_attr_name.attr,
	&dev_attr_domain.attr,
	&dev_attr_instance.attr,
	&dev_attr_version.attr,
	&dev_attr_features.attr,
	&dev_attr_state.attr,
	&dev_attr_node.attr,
	NULL
};

static const struct attribute_group byway_group = {
	.name = "byway",
	.attrs = byway_attributes,
};

const struct attribute_group *byway_groups[] = { &byway_group, NULL };
