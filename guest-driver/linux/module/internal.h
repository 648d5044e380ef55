/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The module's own structures, and what its files offer each other.
 *
 * Objects and who keeps whom (a reference each, so any order of closing works):
 *
 *   byway_device    one bound virtio device, its node in /dev, its statistics
 *   byway_session   the device from one reset to the next: one engine instance.
 *                   When the engine restarts, the device gets a new session, and
 *                   everything below the old one answers ENODEV
 *   byway_space     an mm bound under a PASID             -> session, mm_struct
 *   byway_context   what BYWAY_IOC_CONTEXT opens          -> space
 *   byway_queue, byway_cap, byway_listener   files        -> context
 *
 * Locks, outermost first. Those on the left sleep, and may be held during a
 * request to the engine.
 *
 *   file->lock > session->spaces_lock > mmap_lock (by mmu_notifier_register)
 *   SRCU of the notifiers (in release) > space->lock
 *   xa_lock of session->{queues,caps,contexts,spaces} > queue->lock > eventfd
 *   session->offers_lock
 *   page-table locks > space->append_lock         (raw; interrupts off)
 *   page-table locks > device->lock > work queues (when the engine stalls)
 *   session->vq_lock                              (interrupts off)
 *
 * Since release() takes space->lock inside SRCU, nobody may unregister a
 * notifier, which waits for SRCU, under space->lock. Since mmap() of a queue
 * runs under mmap_lock, it takes no lock at all.
 */
#ifndef BYWAY_INTERNAL_H
#define BYWAY_INTERNAL_H

#include <linux/atomic.h>
#include <linux/completion.h>
#include <linux/idr.h>
#include <linux/kref.h>
#include <linux/list.h>
#include <linux/miscdevice.h>
#include <linux/mmu_notifier.h>
#include <linux/mutex.h>
#include <linux/spinlock.h>
#include <linux/types.h>
#include <linux/virtio.h>
#include <linux/wait.h>
#include <linux/workqueue.h>
#include <linux/xarray.h>

#include "byway.h"
#include "uapi/linux/byway.h"

struct dentry;
struct eventfd_ctx;
struct file;

/* Features of QUERY that the module makes use of. */
#define BYWAY_FEATURES_WANTED						\
	(BYWAY_FEATURE_INVALIDATION_PAGE | BYWAY_FEATURE_PAGE_REQUESTS |	\
	 BYWAY_FEATURE_LEVELS_5 | BYWAY_FEATURE_EXPIRY |			\
	 BYWAY_FEATURE_BYTE_QUOTA | BYWAY_FEATURE_ENDPOINTS)

/* ---- statistics: debugfs.c ------------------------------------------------ */

/* debugfs.c shows them in this order. */
struct byway_stats {
	atomic64_t requests;		/* requests that the engine was given */
	atomic64_t refusals;		/* requests that it refused */
	atomic64_t timeouts;		/* requests that it left unanswered */
	atomic64_t kicks;		/* doorbells that processes asked for */
	atomic64_t events;		/* events from the engine */
	atomic64_t events_lost;		/* events that it dropped for lack of buffers */
	atomic64_t completions;		/* completion interrupts */
	atomic64_t revocations;		/* capabilities revoked by others */
	atomic64_t invalidations;	/* ranges of page tables invalidated */
	atomic64_t invalidation_waits;	/* invalidations that waited for a worker */
	atomic64_t invalidation_wait_ns;	/* time that they waited, in nanoseconds */
	atomic64_t stalls;		/* invalidations that gave up on a worker */
	atomic64_t page_requests;	/* pages that the engine asked for */
	atomic64_t pages_resolved;	/* answered: there */
	atomic64_t pages_refused;	/* answered: none, or no access */
	atomic64_t pages_later;		/* answered: not now */
	atomic64_t offers;		/* offers from other domains */
	atomic64_t offers_dropped;	/* offers that made room for newer ones, or had ended */
	atomic64_t recoveries;		/* resets after the engine failed or restarted */
	atomic64_t spaces_now;		/* address spaces bound */
	atomic64_t contexts_now;	/* contexts open */
	atomic64_t queues_now;		/* work queues open */
	atomic64_t caps_now;		/* capabilities open */
	atomic64_t listeners_now;	/* listeners open */
};

/* ---- device.c, session.c --------------------------------------------------- */

struct byway_device {
	struct kref kref;
	struct virtio_device *vdev;	/* until removed */
	struct miscdevice misc;
	char node[16];
	int index;
	spinlock_t lock;		/* session, removed */
	struct byway_session *session;	/* NULL while there is no engine */
	struct byway_session *vqs_of;	/* whose the virtqueues are, while there are any */
	bool removed;
	wait_queue_head_t attached;	/* session has changed, or removed */
	struct delayed_work recover;
	unsigned int recover_tries;
	struct workqueue_struct *events_wq;
	struct workqueue_struct *pages_wq;
	struct byway_stats stats;
	struct dentry *debugfs;
};

enum byway_state {
	BYWAY_LIVE,	/* answers, as far as is known */
	BYWAY_BROKEN,	/* gets no more requests; a reset is due or under way */
	BYWAY_QUIET,	/* reset: touches no memory of this session any more */
};

/* QueryReply in the CPU's byte order. */
struct byway_engine {
	u32 version;
	u32 instance;
	u64 features;
	u32 domain;
	u32 workers;
	u32 queue_entries_max;
	u32 slots_max;
	u32 transfer_bytes_max;
	u32 batch_count_max;
	u32 park_us;
	u8 opcodes[32];
	u8 name[BYWAY_NAME_BYTES];
};

struct byway_session {
	struct kref kref;
	struct byway_device *device;
	struct byway_engine engine;
	int state;			/* enum byway_state; only ever grows */
	bool stalled;			/* a worker's heartbeat has stopped */
	struct completion quiet;
	struct delayed_work heartbeat;

	/* control.c, events.c */
	spinlock_t vq_lock;		/* all down to events_work */
	bool vqs_open;
	struct virtqueue *control;
	struct virtqueue *events;
	struct list_head in_flight;
	u64 next_tag;
	struct virtqueue __rcu *doorbell;
	wait_queue_head_t room;
	struct byway_event *event_buffers;
	struct work_struct events_work;
	u32 sequence;			/* next expected; events_work only */
	bool sequence_known;
	atomic_t pages_waiting;

	/* what the engine's numbers stand for */
	struct mutex spaces_lock;	/* creation and end of spaces */
	struct ida pasids;		/* free only after UNBIND or reset */
	struct xarray spaces;		/* PASID */
	struct xarray contexts;		/* context */
	struct xarray queues;		/* queue */
	struct xarray caps;		/* byway_cap_index() */

	/* offer.c */
	spinlock_t offers_lock;
	struct list_head offers;
	unsigned int offers_count;
	struct list_head listeners;
	wait_queue_head_t offers_wait;

	/* memory.c */
	spinlock_t quarantine_lock;
	struct list_head quarantine;
};

/* For a virtqueue's interrupt: the session outlives the virtqueue. */
static inline struct byway_session *byway_vq_session(const struct virtqueue *vq)
{
	struct byway_device *device = vq->vdev->priv;

	return device->vqs_of;
}

static inline int byway_state(const struct byway_session *session)
{
	/* Pairs with the full barrier of the cmpxchg() or xchg() that moved it on. */
	return smp_load_acquire(&session->state);
}

static inline bool byway_live(const struct byway_session *session)
{
	return byway_state(session) == BYWAY_LIVE;
}

struct byway_device *byway_device_create(struct virtio_device *vdev);
int byway_device_publish(struct byway_device *device);
void byway_device_remove(struct byway_device *device);
void byway_device_put(struct byway_device *device);
int byway_device_attach(struct byway_device *device);
void byway_device_detach(struct byway_device *device);
void byway_device_retry(struct byway_device *device);
void byway_device_failed(struct byway_device *device, struct byway_session *session);
struct byway_session *byway_device_session(struct byway_device *device);
struct byway_session *byway_device_use(struct byway_device *device);

struct byway_session *byway_session_start(struct byway_device *device);
void byway_session_stop(struct byway_session *session);
void byway_session_fail(struct byway_session *session, const char *why);
int byway_session_query(struct byway_session *session);
void byway_session_watch(struct byway_session *session);
struct byway_session *byway_session_get(struct byway_session *session);
void byway_session_put(struct byway_session *session);
void byway_session_wait_quiet(struct byway_session *session);

/* ---- control.c --------------------------------------------------------------- */

/* How a caller waits for the answer; both are bounded by timeout_ms. */
enum byway_wait {
	BYWAY_KILLABLE,	/* a request that leaves nothing behind when it is lost */
	BYWAY_FIRM,	/* one whose answer has to be known */
};

unsigned long byway_timeout(void);

int byway_call(struct byway_session *session, u16 kind, const void *body,
	       size_t body_bytes, void *reply, size_t reply_bytes,
	       enum byway_wait how);
void byway_control_done(struct virtqueue *vq);
void byway_control_abandon(struct byway_session *session);
void byway_control_drain(struct byway_session *session);
int byway_kick(struct byway_session *session);

/* ---- events.c, page_request.c --------------------------------------------------- */

int byway_events_post(struct byway_session *session);
void byway_events_arrived(struct virtqueue *vq);
void byway_events_work(struct work_struct *work);

void byway_page_request(struct byway_session *session, const struct byway_event *event);

/* ---- memory.c ------------------------------------------------------------------ */

/* Physically contiguous zeroed pages that the engine is told of. */
struct byway_pages {
	struct list_head node;		/* in quarantine */
	void *virt;
	size_t bytes;			/* a multiple of PAGE_SIZE */
};

struct byway_pages *byway_pages_alloc(size_t bytes);
void byway_pages_free(struct byway_session *session, struct byway_pages *pages, bool returned);
void byway_quarantine_release(struct byway_session *session);

/* ---- space.c, invalidate.c -------------------------------------------------------- */

struct byway_space {
	struct kref kref;
	struct byway_session *session;
	struct mm_struct *mm;		/* mmgrab(): the structure, not its pages */
	u32 pasid;
	struct mmu_notifier notifier;
	struct mutex lock;		/* contexts, bound, returned */
	struct list_head contexts;
	bool bound;
	bool returned;			/* the engine has let go of PASID and page */
	struct byway_pages *page;	/* invalidation page, SPEC section 10 */
	raw_spinlock_t append_lock;	/* generation */
	u64 generation;
};

struct byway_space *byway_space_use(struct byway_session *session);
struct byway_space *byway_space_find(struct byway_session *session, u32 pasid);
void byway_space_put(struct byway_space *space);
bool byway_no_ad(void);

void byway_invalidate(struct byway_space *space, unsigned long start, unsigned long end);

/* ---- context.c ------------------------------------------------------------------- */

struct byway_context {
	struct kref kref;
	struct byway_space *space;
	struct byway_session *session;	/* the space's */
	struct list_head node;		/* in space->contexts */
	u32 id;
	bool dead;			/* space->lock to write */
};

extern const struct file_operations byway_context_fops;

struct byway_context *byway_context_get(struct byway_context *context);
void byway_context_put(struct byway_context *context);
void byway_context_end(struct byway_context *context);
int byway_context_check(const struct byway_context *context);
int byway_name_check(const u8 name[BYWAY_IOC_NAME_BYTES]);

/* ---- queue.c ---------------------------------------------------------------------- */

struct byway_queue {
	struct byway_context *context;
	u32 id;
	u32 entries;
	struct byway_pages *ring;
	struct byway_pages *completions;
	struct byway_pages *header;
	atomic_t mappings;
	bool created;			/* the engine has it, and queues lists it */
	bool returned;			/* the engine has let go of the memory */
	bool pending;			/* an interrupt since the last ARM */
	bool dead;
	wait_queue_head_t wait;
	spinlock_t lock;		/* eventfd */
	struct eventfd_ctx *eventfd;
};

long byway_queue_create(struct byway_context *context, void __user *arg);
void byway_queue_interrupt(struct byway_session *session, u32 id);
void byway_queue_died(struct byway_session *session, u32 id);
void byway_queues_ended(struct byway_session *session, struct byway_context *context,
			bool returned);
void byway_queues_reset(struct byway_session *session);
void byway_queues_look(struct byway_session *session);

/* ---- cap.c, derive.c -------------------------------------------------------------- */

struct byway_cap {
	struct byway_context *context;
	struct file *file;		/* this one; until installed */
	int fd;				/* reserved; until installed */
	u32 slot;			/* 0: not filled */
	u32 rights;
	u64 length;
	u64 badge;
	bool news;			/* state may have changed since the last QUERY */
	wait_queue_head_t wait;
};

/* Slots are below 2^15 (SPEC section 3.1). */
static inline unsigned long byway_cap_index(u32 context, u32 slot)
{
	return (unsigned long)context << BYWAY_SLOT_BITS | slot;
}

struct byway_cap *byway_cap_prepare(struct byway_context *context);
int byway_cap_fill(struct byway_cap *cap, u32 slot, u32 rights, u64 length, u64 badge);
long byway_cap_end(struct byway_cap *cap, long err);
long byway_cap_answer(struct byway_cap *cap, long err, void __user *arg, const void *answer,
		      size_t size);
struct byway_cap *byway_cap_from_fd(int fd, struct file **file);
void byway_cap_revoked(struct byway_session *session, u32 context, u64 slot);
void byway_caps_news(struct byway_session *session);

long byway_cap_derive(struct byway_context *context, void __user *arg);
long byway_cap_attach(struct byway_context *context, void __user *arg);
long byway_key_load(struct byway_context *context, void __user *arg);
long byway_port_create(struct byway_context *context, void __user *arg);

/* ---- endpoint.c ------------------------------------------------------------------- */

long byway_endpoint_open(struct byway_context *context, void __user *arg);

/* ---- offer.c, listener.c ---------------------------------------------------------- */

struct byway_offer {
	struct list_head node;
	u64 id;
	u64 label;
	u32 domain;
};

struct byway_listener {
	struct list_head node;		/* in session->listeners */
	struct byway_context *context;
	u64 label;
	bool any_peer;
	u32 peer;
};

int byway_lookup(struct byway_session *session, const u8 name[BYWAY_NAME_BYTES],
		 struct byway_lookup_reply *reply);
u64 byway_label(const u8 port[BYWAY_IOC_NAME_BYTES]);
long byway_offer_make(struct byway_context *context, void __user *arg);
void byway_offer_arrived(struct byway_session *session, const struct byway_event *event);
void byway_offers_gone(struct byway_session *session, u32 domain);
void byway_offers_clear(struct byway_session *session);
struct byway_offer *byway_offer_take(struct byway_listener *listener);
void byway_offer_return(struct byway_listener *listener, struct byway_offer *offer);
bool byway_offer_waits(struct byway_listener *listener);
long byway_listen(struct byway_context *context, void __user *arg);

/* ---- sysfs.c, debugfs.c ------------------------------------------------------------ */

extern const struct attribute_group *byway_groups[];

void byway_debugfs_init(void);
void byway_debugfs_exit(void);
void byway_debugfs_add(struct byway_device *device);
void byway_debugfs_remove(struct byway_device *device);

#define byway_count(session, name)	\
	atomic64_inc(&(session)->device->stats.name)
#define byway_uncount(session, name)	\
	atomic64_dec(&(session)->device->stats.name)

#endif /* BYWAY_INTERNAL_H */
