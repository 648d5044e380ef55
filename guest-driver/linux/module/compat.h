/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What differs between the kernels that the module is built for: 6.1 to 6.12.
 * Nothing else of the module asks for the kernel's version.
 */
#ifndef BYWAY_COMPAT_H
#define BYWAY_COMPAT_H

#include <linux/eventfd.h>
#include <linux/mm.h>
#include <linux/version.h>
#include <linux/virtio.h>
#include <linux/virtio_config.h>

#if LINUX_VERSION_CODE < KERNEL_VERSION(6, 1, 0)
#error "Byway needs Linux 6.1 or newer"
#endif

/*
 * The notifier that is called before pages, and pages of page tables, are
 * freed or change their permissions, with page-table locks held. Up to 6.5 the
 * memory management calls it beside its own flushes; since 6.6 (1af5a8109904)
 * the architecture does, from each TLB flush.
 */
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 6, 0)
#define BYWAY_NOTIFIER_INVALIDATE	arch_invalidate_secondary_tlbs
#else
#define BYWAY_NOTIFIER_INVALIDATE	invalidate_range
#endif

/* Takes no count since 6.8 (3652117f8548). */
static inline void byway_eventfd_signal(struct eventfd_ctx *ctx)
{
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 8, 0)
	eventfd_signal(ctx);
#else
	eventfd_signal(ctx, 1);
#endif
}

/* vm_flags are written by functions since 6.3 (bc292ab00f6c). */
static inline void byway_vma_flags(struct vm_area_struct *vma,
				   unsigned long set, unsigned long clear)
{
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 3, 0)
	vm_flags_mod(vma, set, clear);
#else
	vma->vm_flags = (vma->vm_flags | set) & ~clear;
#endif
}

/* Virtqueues are described by an array of structures since 6.11 (6c85d6b653ca). */
static inline int byway_find_vqs(struct virtio_device *vdev,
				 struct virtqueue *vqs[2],
				 vq_callback_t *control, vq_callback_t *events)
{
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 11, 0)
	struct virtqueue_info info[2] = {
		{ .name = "control", .callback = control },
		{ .name = "events", .callback = events },
	};

	return virtio_find_vqs(vdev, 2, vqs, info, NULL);
#else
	vq_callback_t *callbacks[2] = { control, events };
	static const char * const names[2] = { "control", "events" };

	return virtio_find_vqs(vdev, 2, vqs, callbacks, names, NULL);
#endif
}

/*
 * Resets the device and takes it through initialisation again, as the core does
 * after a suspend: it ends in our own restore().
 */
static inline int byway_virtio_restore(struct virtio_device *vdev)
{
#ifdef CONFIG_PM_SLEEP
	return virtio_device_restore(vdev);
#else
	return -EOPNOTSUPP;
#endif
}

#endif /* BYWAY_COMPAT_H */
