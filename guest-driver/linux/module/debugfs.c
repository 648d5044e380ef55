// SPDX-License-Identifier: GPL-2.0
/*
 * Statistics: /sys/kernel/debug/byway/DEVICE/{stats,queues}. Not an interface:
 * names and contents may change with any version.
 */
#include <linux/debugfs.h>
#include <linux/seq_file.h>

#include "internal.h"

/* Lines of "queues" at most. */
#define BYWAY_DEBUGFS_QUEUES	4096

static struct dentry *byway_debugfs_root;

#define BYWAY_COUNTER(field)	{ #field, offsetof(struct byway_stats, field) }

static const struct {
	const char *name;
	size_t offset;
} byway_counters[] = {
	BYWAY_COUNTER(requests),
	BYWAY_COUNTER(refusals),
	BYWAY_COUNTER(timeouts),
	BYWAY_COUNTER(kicks),
	BYWAY_COUNTER(events),
	BYWAY_COUNTER(events_lost),
	BYWAY_COUNTER(completions),
	BYWAY_COUNTER(revocations),
	BYWAY_COUNTER(invalidations),
	BYWAY_COUNTER(invalidation_waits),
	BYWAY_COUNTER(invalidation_wait_ns),
	BYWAY_COUNTER(stalls),
	BYWAY_COUNTER(page_requests),
	BYWAY_COUNTER(pages_resolved),
	BYWAY_COUNTER(pages_refused),
	BYWAY_COUNTER(pages_later),
	BYWAY_COUNTER(offers),
	BYWAY_COUNTER(offers_dropped),
	BYWAY_COUNTER(recoveries),
	BYWAY_COUNTER(spaces_now),
	BYWAY_COUNTER(contexts_now),
	BYWAY_COUNTER(queues_now),
	BYWAY_COUNTER(caps_now),
	BYWAY_COUNTER(listeners_now),
};

static int stats_show(struct seq_file *seq, void *unused)
{
	struct byway_device *device = seq->private;
	size_t at;

	static_assert(sizeof(struct byway_stats) ==
		      ARRAY_SIZE(byway_counters) * sizeof(atomic64_t));
	for (at = 0; at < ARRAY_SIZE(byway_counters); at++) {
		const atomic64_t *counter = (const void *)&device->stats +
					    byway_counters[at].offset;

		seq_printf(seq, "%-22s %llu\n", byway_counters[at].name,
			   (u64)atomic64_read(counter));
	}
	return 0;
}
DEFINE_SHOW_ATTRIBUTE(stats);

static int queues_show(struct seq_file *seq, void *unused)
{
	struct byway_session *session = byway_device_session(seq->private);
	unsigned int left = BYWAY_DEBUGFS_QUEUES;
	struct byway_queue *queue;
	unsigned long id;

	if (!session)
		return 0;
	seq_puts(seq, "queue context pasid entries taken parked state\n");
	xa_lock(&session->queues);
	xa_for_each(&session->queues, id, queue) {
		const struct byway_queue_header *header = queue->header->virt;

		if (!left--)
			break;
		seq_printf(seq, "%u %u %u %u %u %u %u\n", queue->id, queue->context->id,
			   queue->context->space->pasid, queue->entries,
			   le32_to_cpu(READ_ONCE(header->taken)),
			   le32_to_cpu(READ_ONCE(header->need_kick)),
			   le32_to_cpu(READ_ONCE(header->state)));
	}
	xa_unlock(&session->queues);
	byway_session_put(session);
	return 0;
}
DEFINE_SHOW_ATTRIBUTE(queues);

void byway_debugfs_add(struct byway_device *device)
{
	device->debugfs = debugfs_create_dir(dev_name(&device->vdev->dev), byway_debugfs_root);
	debugfs_create_file("stats", 0400, device->debugfs, device, &stats_fops);
	debugfs_create_file("queues", 0400, device->debugfs, device, &queues_fops);
}

/* Waits for readers. */
void byway_debugfs_remove(struct byway_device *device)
{
	debugfs_remove_recursive(device->debugfs);
}

void byway_debugfs_init(void)
{
	byway_debugfs_root = debugfs_create_dir("byway", NULL);
}

void byway_debugfs_exit(void)
{
	debugfs_remove_recursive(byway_debugfs_root);
}
