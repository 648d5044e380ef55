// SPDX-License-Identifier: GPL-2.0
/*
 * Byway: the guest kernel's part of a data-movement device between virtual
 * machines. Finds the virtio device, and nothing else; see README.md for a map.
 */
#include <linux/module.h>
#include <linux/virtio.h>
#include <linux/virtio_config.h>
#include <linux/virtio_ids.h>

#include "compat.h"
#include "internal.h"

/* Generic vhost-user devices, whose virtio id can be chosen (SPEC section 9). */
#define BYWAY_VIRTIO_ID_GENERIC	0x3fff

/*
 * Both ids are shared with others: whether the device is ours is told by the
 * first words of its configuration space. ENODEV is not reported by the driver
 * core, and lets the next driver have a look.
 */
static int byway_identify(struct virtio_device *vdev)
{
	u32 magic, version;

	if (!vdev->config->get)		/* there is no configuration space */
		return -ENODEV;
	virtio_cread_le(vdev, struct byway_config_space, magic, &magic);
	if (magic != BYWAY_MAGIC)
		return -ENODEV;
	virtio_cread_le(vdev, struct byway_config_space, version, &version);
	if (!version || !virtio_has_feature(vdev, VIRTIO_F_VERSION_1)) {
		dev_err(&vdev->dev, "a Byway device of version %u%s\n", version,
			version ? " that is no virtio 1 device" : ", which does not exist");
		return -ENODEV;
	}
	return 0;
}

/*
 * Rings, root tables and invalidation pages are told by their guest-physical
 * addresses, which no IOMMU of the guest may translate (as with the balloon).
 */
static int byway_validate(struct virtio_device *vdev)
{
	int err = byway_identify(vdev);

	if (!err)
		__virtio_clear_bit(vdev, VIRTIO_F_ACCESS_PLATFORM);
	return err;
}

static int byway_probe(struct virtio_device *vdev)
{
	struct byway_device *device;
	int err;

	err = byway_identify(vdev);
	if (err)
		return err;
	device = byway_device_create(vdev);
	if (IS_ERR(device))
		return PTR_ERR(device);
	vdev->priv = device;
	err = byway_device_attach(device);
	if (!err)
		err = byway_device_publish(device);
	if (err) {
		device->misc.fops = NULL;
		byway_device_remove(device);
		vdev->priv = NULL;
	}
	return err;
}

static void byway_remove(struct virtio_device *vdev)
{
	byway_device_remove(vdev->priv);
	vdev->priv = NULL;
}

/*
 * The engine's state does not survive a suspend: it ends the session, as a
 * restart of the engine does. User space is frozen and finds its queues dead.
 */
static int __maybe_unused byway_freeze(struct virtio_device *vdev)
{
	byway_device_detach(vdev->priv);
	return 0;
}

/* After the reset that ends a suspend, or that the recovery asked for. */
static int __maybe_unused byway_restore(struct virtio_device *vdev)
{
	struct byway_device *device = vdev->priv;
	int err = byway_device_attach(device);

	if (err)
		byway_device_retry(device);
	return err;
}

static const struct virtio_device_id byway_ids[] = {
	{ VIRTIO_ID_GPIO, VIRTIO_DEV_ANY_ID },
	{ BYWAY_VIRTIO_ID_GENERIC, VIRTIO_DEV_ANY_ID },
	{}
};
MODULE_DEVICE_TABLE(virtio, byway_ids);

static struct virtio_driver byway_driver = {
	.driver.name = KBUILD_MODNAME,
	.driver.owner = THIS_MODULE,
	.driver.dev_groups = byway_groups,
	.id_table = byway_ids,
	.validate = byway_validate,
	.probe = byway_probe,
	.remove = byway_remove,
#ifdef CONFIG_PM_SLEEP
	.freeze = byway_freeze,
	.restore = byway_restore,
#endif
};

static int __init byway_init(void)
{
	int err;

	byway_debugfs_init();
	err = register_virtio_driver(&byway_driver);
	if (err)
		byway_debugfs_exit();
	return err;
}
module_init(byway_init);

static void __exit byway_exit(void)
{
	unregister_virtio_driver(&byway_driver);
	byway_debugfs_exit();
}
module_exit(byway_exit);

MODULE_DESCRIPTION("Byway: memory exchange between virtual machines");
MODULE_AUTHOR("The Byway authors");
MODULE_LICENSE("GPL");
MODULE_VERSION("0.1.0");
