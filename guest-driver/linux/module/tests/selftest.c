// SPDX-License-Identifier: GPL-2.0
/*
 * Tests of the module's user interface, run in a guest by root: every call, each
 * of its refusals, and what fork, exec, mmap and closing in any order must do.
 *
 *   byway-module-selftest           prints a line for each check that fails, and
 *                                   a last line "checks: N, failed: M"
 *   byway-module-selftest --hold    opens a queue, prints "holding", and waits for
 *                                   its end: reset, unbinding, the engine's restart.
 *                                   Then "dead", and "again" when a new one works
 *
 * Exit status: 0 all held, 1 some did not, 2 there is no device.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <linux/byway.h>
#include "byway.h"

static unsigned int checks, failed;

#define CHECK(condition)							\
	do {									\
		checks++;							\
		if (!(condition)) {						\
			failed++;						\
			printf("FAILED %s:%d: %s (errno %d %s)\n", __func__,	\
			       __LINE__, #condition, errno, strerror(errno));	\
		}								\
	} while (0)

/* The call fails with this errno. */
#define REFUSED(call, expected)							\
	do {									\
		errno = 0;							\
		checks++;							\
		if ((call) != -1 || errno != (expected)) {			\
			int was = errno;					\
										\
			failed++;						\
			printf("FAILED %s:%d: %s: expected %s, found %s\n",	\
			       __func__, __LINE__, #call, strerror(expected),	\
			       strerror(was));					\
		}								\
	} while (0)

static struct byway_ioc_info info;
static const struct byway_descriptor nothing;

/* ---- a submitter, as short as it can be --------------------------------------- */

struct ring {
	int fd;
	struct byway_ioc_queue queue;
	struct byway_descriptor *ring;
	volatile struct byway_completion *completions;
	volatile struct byway_queue_header *header;
	uint32_t position;
};

static int open_context(uint32_t slots)
{
	struct byway_ioc_context context = { .slots = slots };
	int fd = open("/dev/byway", O_RDWR | O_CLOEXEC);

	if (fd >= 0 && ioctl(fd, BYWAY_IOC_CONTEXT, &context)) {
		int was = errno;

		close(fd);
		errno = was;
		return -1;
	}
	return fd;
}

static int open_ring(int context, uint32_t entries, struct ring *ring)
{
	char *at;

	memset(ring, 0, sizeof(*ring));
	ring->queue.entries = entries;
	if (ioctl(context, BYWAY_IOC_QUEUE, &ring->queue))
		return -1;
	ring->fd = ring->queue.fd;
	at = mmap(NULL, ring->queue.mmap_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, ring->fd, 0);
	if (at == MAP_FAILED)
		return -1;
	ring->ring = (void *)(at + ring->queue.ring_offset);
	ring->completions = (void *)(at + ring->queue.completions_offset);
	ring->header = (void *)(at + ring->queue.header_offset);
	return 0;
}

static void close_ring(struct ring *ring)
{
	munmap(ring->ring, ring->queue.mmap_bytes);
	close(ring->fd);
}

static uint64_t now_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1000ULL + now.tv_nsec / 1000000;
}

/* Publishes a descriptor (SPEC section 2.5); returns its position. */
static uint32_t submit(struct ring *ring, const struct byway_descriptor *descriptor,
		       uint32_t flags, uint32_t opcode, uint32_t src, uint32_t dst)
{
	uint32_t entries = ring->queue.entries, position = ring->position++;
	struct byway_descriptor *slot = &ring->ring[position % entries];
	uint64_t word;

	word = BYWAY_WORD0(src, dst, !(position / entries % 2)) |
	       (uint64_t)BYWAY_FLAGS_OPCODE(flags, opcode) << 32;
	memcpy((char *)slot + 8, (const char *)descriptor + 8, sizeof(*slot) - 8);
	__atomic_store_n((uint64_t *)slot, word, __ATOMIC_RELEASE);
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	if (ring->header->need_kick)
		ioctl(ring->fd, BYWAY_IOC_KICK);
	return position;
}

/* The status of a position, or -1 when it does not complete. */
static int finish(struct ring *ring, uint32_t position)
{
	uint32_t entries = ring->queue.entries;
	volatile struct byway_completion *completion = &ring->completions[position % entries];
	uint8_t phase = position / entries % 2 ? 0 : BYWAY_COMPLETION_PHASE;
	uint64_t until = now_ms() + 10000;

	while ((__atomic_load_n(&completion->phase, __ATOMIC_ACQUIRE) & BYWAY_COMPLETION_PHASE)
	       != phase) {
		if (now_ms() > until)
			return -1;
		sched_yield();
	}
	return completion->status & 0x7f;
}

static int copy(struct ring *ring, uint32_t flags, uint32_t src_slot, uint64_t src,
		uint32_t dst_slot, uint64_t dst, uint32_t bytes)
{
	struct byway_descriptor descriptor = { .src = src, .dst = dst, .size = bytes };

	return finish(ring, submit(ring, &descriptor, flags, BYWAY_OP_MEMMOVE, src_slot,
				   dst_slot));
}

static char *anonymous(size_t bytes)
{
	char *at = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	return at == MAP_FAILED ? NULL : at;
}

/* Runs @body in a child; its exit status is the number of checks that failed. */
static void in_child(int (*body)(void *), void *argument)
{
	int status = -1;
	pid_t child;

	fflush(stdout);
	child = fork();
	if (!child) {
		checks = 0;
		failed = 0;
		body(argument);
		fflush(stdout);
		_exit(failed > 100 ? 100 : failed);
	}
	waitpid(child, &status, 0);
	checks++;
	if (!WIFEXITED(status) || WEXITSTATUS(status)) {
		failed++;
		printf("FAILED in a child: status %x\n", status);
	}
}

/* ---- tests ------------------------------------------------------------------------ */

static void test_unbound(void)
{
	void *nowhere = (void *)0x10000;	/* not mapped */
	struct byway_ioc_context context = { .slots = 8 };
	struct byway_ioc_lookup lookup = { .name = "nobody" };
	struct byway_ioc_queue queue = { .entries = 8 };
	int fd = open("/dev/byway", O_RDWR | O_CLOEXEC);

	CHECK(fd >= 0);
	CHECK(ioctl(fd, BYWAY_IOC_INFO, &info) == 0);
	CHECK(info.version == BYWAY_ABI_VERSION && info.interface == BYWAY_IOC_INTERFACE);
	CHECK(info.name[0] && info.page_bytes == 4096 && !info.reserved[0] && !info.reserved[1]);
	REFUSED(ioctl(fd, BYWAY_IOC_INFO, nowhere), EFAULT);
	REFUSED(ioctl(fd, BYWAY_IOC_INFO, NULL), EFAULT);
	/* Known number, other size or direction; another number; another type. */
	REFUSED(ioctl(fd, _IOR(BYWAY_IOC_MAGIC, 0x00, uint64_t), &info), ENOTTY);
	REFUSED(ioctl(fd, _IOW(BYWAY_IOC_MAGIC, 0x00, struct byway_ioc_info), &info), ENOTTY);
	REFUSED(ioctl(fd, _IO(BYWAY_IOC_MAGIC, 0x7f)), ENOTTY);
	REFUSED(ioctl(fd, BYWAY_IOC_KICK), ENOTTY);
	REFUSED(ioctl(fd, 0x5401, &info), ENOTTY);
	/* Nothing works before the context. */
	REFUSED(ioctl(fd, BYWAY_IOC_QUEUE, &queue), EBADFD);
	REFUSED(ioctl(fd, BYWAY_IOC_LOOKUP, &lookup), EBADFD);
	REFUSED(read(fd, &context, 1), EINVAL);
	REFUSED(write(fd, &context, 1), EINVAL);
	REFUSED((int)(intptr_t)mmap(NULL, 4096, PROT_READ, MAP_SHARED, fd, 0), ENODEV);

	context.slots = 0;
	REFUSED(ioctl(fd, BYWAY_IOC_CONTEXT, &context), EINVAL);
	context.slots = info.slots_max + 1;
	REFUSED(ioctl(fd, BYWAY_IOC_CONTEXT, &context), EINVAL);
	context.slots = 8;
	context.flags = 1;
	REFUSED(ioctl(fd, BYWAY_IOC_CONTEXT, &context), EINVAL);
	context.flags = 0;
	context.reserved = 1;
	REFUSED(ioctl(fd, BYWAY_IOC_CONTEXT, &context), EINVAL);
	context.reserved = 0;
	REFUSED(ioctl(fd, BYWAY_IOC_CONTEXT, nowhere), EFAULT);
	CHECK(ioctl(fd, BYWAY_IOC_CONTEXT, &context) == 0);
	REFUSED(ioctl(fd, BYWAY_IOC_CONTEXT, &context), EBUSY);
	REFUSED(ioctl(fd, BYWAY_IOC_LOOKUP, &lookup), EHOSTUNREACH);
	lookup.reserved = 1;
	REFUSED(ioctl(fd, BYWAY_IOC_LOOKUP, &lookup), EINVAL);
	lookup.reserved = 0;
	lookup.name[20] = 'x';	/* after its end */
	REFUSED(ioctl(fd, BYWAY_IOC_LOOKUP, &lookup), EINVAL);
	memset(lookup.name, 0, sizeof(lookup.name));
	REFUSED(ioctl(fd, BYWAY_IOC_LOOKUP, &lookup), EINVAL);
	strcpy((char *)lookup.name, "No Name");
	REFUSED(ioctl(fd, BYWAY_IOC_LOOKUP, &lookup), EINVAL);
	close(fd);
	REFUSED(ioctl(fd, BYWAY_IOC_INFO, &info), EBADF);
}

static void test_queue_arguments(void)
{
	struct byway_ioc_queue queue;
	int fd = open_context(8);
	uint32_t entries;

	CHECK(fd >= 0);
	for (entries = 0; entries < 3; entries++) {
		memset(&queue, 0, sizeof(queue));
		queue.entries = (uint32_t[]){ 0, 1, 3 }[entries];
		REFUSED(ioctl(fd, BYWAY_IOC_QUEUE, &queue), EINVAL);
	}
	queue.entries = 2 * info.queue_entries_max;
	REFUSED(ioctl(fd, BYWAY_IOC_QUEUE, &queue), EINVAL);
	queue.entries = 0x80000000;
	REFUSED(ioctl(fd, BYWAY_IOC_QUEUE, &queue), EINVAL);
	queue.entries = 8;
	queue.flags = 2;
	REFUSED(ioctl(fd, BYWAY_IOC_QUEUE, &queue), EINVAL);
	queue.flags = 0;
	queue.reserved = 1;
	REFUSED(ioctl(fd, BYWAY_IOC_QUEUE, &queue), EINVAL);
	REFUSED(ioctl(fd, BYWAY_IOC_QUEUE, (void *)1), EFAULT);
	close(fd);
}

static void test_mapping(void)
{
	struct byway_ioc_queue queue = { .entries = 256 };
	const int rw = PROT_READ | PROT_WRITE;
	int fd = open_context(8);
	size_t bytes;
	char *at, *moved;

#define MAPPING(bytes, protection, flags, offset)				\
	((int)(intptr_t)mmap(NULL, bytes, protection, flags, queue.fd, offset))
	CHECK(ioctl(fd, BYWAY_IOC_QUEUE, &queue) == 0);
	CHECK(fcntl(queue.fd, F_GETFD) == FD_CLOEXEC);
	bytes = queue.mmap_bytes;
	REFUSED(MAPPING(bytes - 4096, rw, MAP_SHARED, 0), EINVAL);
	REFUSED(MAPPING(bytes + 4096, rw, MAP_SHARED, 0), EINVAL);
	REFUSED(MAPPING(bytes, rw, MAP_SHARED, 4096), EINVAL);
	REFUSED(MAPPING(bytes, rw, MAP_PRIVATE, 0), EINVAL);
	REFUSED(MAPPING(bytes, PROT_READ, MAP_SHARED, 0), EINVAL);
	REFUSED(MAPPING(bytes, rw | PROT_EXEC, MAP_SHARED, 0), EINVAL);
	at = mmap(NULL, bytes, rw, MAP_SHARED, queue.fd, 0);
	CHECK(at != MAP_FAILED);
	REFUSED(MAPPING(bytes, rw, MAP_SHARED, 0), EBUSY);
	/* In parts, larger, twice, executable, dumped, inherited: no. */
	REFUSED(munmap(at, 4096), EINVAL);
	REFUSED(mprotect(at, 4096, PROT_READ), EINVAL);
	REFUSED(mprotect(at, bytes, PROT_READ | PROT_EXEC), EACCES);
	REFUSED(madvise(at, bytes, MADV_DOFORK), EINVAL);
	REFUSED(madvise(at, bytes, MADV_DODUMP), EINVAL);
	REFUSED((int)(intptr_t)mremap(at, bytes, 2 * bytes, MREMAP_MAYMOVE), EFAULT);
	CHECK(mremap(at, 0, bytes, MREMAP_MAYMOVE) == MAP_FAILED);
	/* Moved as a whole: yes, and it still is the only one. */
	moved = mmap(NULL, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	at[queue.header_offset + 63] = 0x55;
	CHECK(mremap(at, bytes, bytes, MREMAP_MAYMOVE | MREMAP_FIXED, moved) == moved);
	CHECK(moved[queue.header_offset + 63] == 0x55);
	REFUSED(MAPPING(bytes, rw, MAP_SHARED, 0), EBUSY);
	/* Undone and made again; the memory outlives the descriptor. */
	CHECK(munmap(moved, bytes) == 0);
	at = mmap(NULL, bytes, rw, MAP_SHARED, queue.fd, 0);
	CHECK(at != MAP_FAILED);
	close(queue.fd);
	close(fd);
	CHECK(at[queue.header_offset + 63] == 0x55);
	CHECK(*(uint32_t *)(at + queue.header_offset + 8) == BYWAY_QUEUE_STATE_RUNNING);
	munmap(at, bytes);
#undef MAPPING
}

static void test_copy(void)
{
	const size_t bytes = 1 << 20;
	char *src = anonymous(bytes), *dst = anonymous(bytes);
	int fd = open_context(8);
	struct ring ring;
	unsigned int lap;
	size_t at;

	CHECK(open_ring(fd, 4, &ring) == 0);
	CHECK(ring.header->state == BYWAY_QUEUE_STATE_RUNNING);
	CHECK(ring.header->instance == info.instance && ring.queue.instance == info.instance);
	for (at = 0; at < bytes; at++)
		src[at] = at * 2654435761U >> 13;
	memset(dst, 0, bytes);
	for (lap = 0; lap < 20; lap++)	/* more than the ring has entries */
		CHECK(finish(&ring, submit(&ring, &nothing, 0, BYWAY_OP_NOP,
					   0, 0)) == BYWAY_STATUS_SUCCESS);
	CHECK(copy(&ring, 0, 0, (uint64_t)src, 0, (uint64_t)dst, bytes) == BYWAY_STATUS_SUCCESS);
	CHECK(!memcmp(src, dst, bytes));
	/* A hole, a page that may not be written, and the kernel. */
	CHECK(copy(&ring, 0, 0, 0x10000, 0, (uint64_t)dst, 64) == BYWAY_STATUS_STAGE1_NOT_PRESENT);
	mprotect(dst, 4096, PROT_READ);
	CHECK(copy(&ring, 0, 0, (uint64_t)src, 0, (uint64_t)dst, 64) ==
	      BYWAY_STATUS_STAGE1_PERMISSION);
	CHECK(copy(&ring, 0, 0, 0xffffffff81000000, 0, (uint64_t)dst + 4096, 64) !=
	      BYWAY_STATUS_SUCCESS);
	mprotect(dst, 4096, PROT_READ | PROT_WRITE);
	CHECK(copy(&ring, 0, 0, (uint64_t)src, 0, (uint64_t)dst, 64) != BYWAY_STATUS_PAGE_FAULT);
	close_ring(&ring);
	close(fd);
	munmap(src, bytes);
	munmap(dst, bytes);
}

/* Pages that are not there yet are asked for, and those that never are, refused. */
static void test_page_requests(void)
{
	const size_t bytes = 256 * 1024;
	char *src = anonymous(bytes), *dst = anonymous(bytes);
	int fd = open_context(8);
	struct ring ring;

	if (!(info.features & BYWAY_FEATURE_PAGE_REQUESTS))
		return;
	CHECK(open_ring(fd, 8, &ring) == 0);
	memset(src, 0x5a, bytes);
	CHECK(copy(&ring, BYWAY_FLAG_BLOCK_ON_FAULT, 0, (uint64_t)src, 0, (uint64_t)dst, bytes) ==
	      BYWAY_STATUS_SUCCESS);
	CHECK(!memcmp(src, dst, bytes));
	CHECK(copy(&ring, BYWAY_FLAG_BLOCK_ON_FAULT, 0, (uint64_t)src, 0, 0x10000, 64) ==
	      BYWAY_STATUS_PAGE_REFUSED);
	close_ring(&ring);
	close(fd);
	munmap(src, bytes);
	munmap(dst, bytes);
}

/* Page tables change under copies: no byte may come from an old page. */
static void test_invalidation(void)
{
	const size_t bytes = 64 * 4096;
	char *src = anonymous(bytes), *dst = anonymous(bytes);
	int fd = open_context(8), round, status;
	struct ring ring;

	CHECK(open_ring(fd, 8, &ring) == 0);
	memset(dst, 0, bytes);
	for (round = 1; round <= 50; round++) {
		/* New pages each time: the old ones are freed by the notifier's leave. */
		madvise(src, bytes, MADV_DONTNEED);
		memset(src, round, bytes);
		status = copy(&ring, 0, 0, (uint64_t)src, 0, (uint64_t)dst, bytes);
		if (status != BYWAY_STATUS_SUCCESS || dst[0] != round || dst[bytes - 1] != round)
			break;
	}
	CHECK(round == 51);
	/* Taken away from the engine's side, too. */
	munmap(src, bytes);
	CHECK(copy(&ring, 0, 0, (uint64_t)src, 0, (uint64_t)dst, 64) ==
	      BYWAY_STATUS_STAGE1_NOT_PRESENT);
	close_ring(&ring);
	close(fd);
	munmap(dst, bytes);
}

static void test_sleeping(void)
{
	struct byway_ioc_eventfd wanted = {};
	struct pollfd polled = { .events = POLLIN };
	int fd = open_context(8), counter, epoll;
	struct epoll_event event = { .events = EPOLLIN };
	struct ring ring;
	uint64_t count;

	CHECK(open_ring(fd, 8, &ring) == 0);
	polled.fd = ring.fd;
	CHECK(poll(&polled, 1, 0) == 0);
	submit(&ring, &nothing, BYWAY_FLAG_REQUEST_INTERRUPT, BYWAY_OP_NOP, 0, 0);
	CHECK(poll(&polled, 1, 5000) == 1 && polled.revents == POLLIN);
	/* Without ARM it stays, and no other comes. */
	CHECK(ioctl(ring.fd, BYWAY_IOC_ARM) == 0);
	CHECK(poll(&polled, 1, 0) == 0);

	counter = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	wanted.fd = counter;
	wanted.reserved = 1;
	REFUSED(ioctl(ring.fd, BYWAY_IOC_EVENTFD, &wanted), EINVAL);
	wanted.reserved = 0;
	wanted.fd = -2;
	REFUSED(ioctl(ring.fd, BYWAY_IOC_EVENTFD, &wanted), EINVAL);
	wanted.fd = fd;
	REFUSED(ioctl(ring.fd, BYWAY_IOC_EVENTFD, &wanted), EINVAL);
	wanted.fd = 1000;
	REFUSED(ioctl(ring.fd, BYWAY_IOC_EVENTFD, &wanted), EBADF);
	REFUSED(ioctl(ring.fd, BYWAY_IOC_EVENTFD, NULL), EFAULT);
	wanted.fd = counter;
	CHECK(ioctl(ring.fd, BYWAY_IOC_EVENTFD, &wanted) == 0);
	epoll = epoll_create1(EPOLL_CLOEXEC);
	CHECK(epoll_ctl(epoll, EPOLL_CTL_ADD, counter, &event) == 0);
	submit(&ring, &nothing, BYWAY_FLAG_REQUEST_INTERRUPT, BYWAY_OP_NOP, 0, 0);
	CHECK(epoll_wait(epoll, &event, 1, 5000) == 1);
	CHECK(read(counter, &count, 8) == 8 && count == 1);
	wanted.fd = -1;
	CHECK(ioctl(ring.fd, BYWAY_IOC_EVENTFD, &wanted) == 0);
	REFUSED(ioctl(ring.fd, BYWAY_IOC_INFO, &info), ENOTTY);
	close(epoll);
	close(counter);
	close_ring(&ring);
	close(fd);
}

static int derive(int context, int parent, const void *base, uint64_t length, uint32_t rights,
		  uint32_t *slot)
{
	struct byway_ioc_derive request = {
		.parent_fd = parent, .rights = rights, .base = (uint64_t)base, .length = length,
		.badge = 0x1234,
	};

	if (ioctl(context, BYWAY_IOC_DERIVE, &request))
		return -1;
	*slot = request.slot;
	return request.fd;
}

static void test_capabilities(void)
{
	const uint32_t both = BYWAY_RIGHT_READ | BYWAY_RIGHT_WRITE;
	struct byway_ioc_cap_query query;
	struct byway_ioc_cap_revoke revoke = {};
	struct byway_ioc_derive request = { .parent_fd = -1, .rights = both, .length = 4096 };
	struct pollfd polled = { .events = POLLIN };
	char *memory = anonymous(8192);
	int fd = open_context(8), cap, child;
	uint32_t slot, child_slot;
	struct ring ring;

	memset(memory, 7, 8192);
	CHECK(open_ring(fd, 8, &ring) == 0);
	request.reserved = 1;
	REFUSED(ioctl(fd, BYWAY_IOC_DERIVE, &request), EINVAL);
	request.reserved = 0;
	request.length = 0;
	REFUSED(ioctl(fd, BYWAY_IOC_DERIVE, &request), EINVAL);
	request.length = 4096;
	request.rights = 0x8000;
	REFUSED(ioctl(fd, BYWAY_IOC_DERIVE, &request), EINVAL);
	request.rights = both;
	request.parent_fd = 1000;
	REFUSED(ioctl(fd, BYWAY_IOC_DERIVE, &request), EBADF);
	request.parent_fd = -2;
	REFUSED(ioctl(fd, BYWAY_IOC_DERIVE, &request), EBADF);
	request.parent_fd = 0;
	REFUSED(ioctl(fd, BYWAY_IOC_DERIVE, &request), EINVAL);
	request.parent_fd = -1;
	request.base = ~0ULL - 100;	/* wraps */
	REFUSED(ioctl(fd, BYWAY_IOC_DERIVE, &request), ERANGE);
	REFUSED(ioctl(fd, BYWAY_IOC_DERIVE, (void *)8), EFAULT);

	cap = derive(fd, -1, memory, 4096, both, &slot);
	CHECK(cap >= 0 && slot);
	CHECK(ioctl(cap, BYWAY_IOC_CAP_QUERY, &query) == 0);
	CHECK(query.state == BYWAY_CAPABILITY_LIVE && query.length == 4096 &&
	      query.badge == 0x1234 && query.depth == 1 && query.slot == slot);
	CHECK(derive(fd, cap, (void *)4000, 200, both, &child_slot) == -1 && errno == ERANGE);
	CHECK(derive(fd, cap, NULL, 200, both | BYWAY_RIGHT_GRANT, &child_slot) == -1 &&
	      errno == EACCES);
	child = derive(fd, cap, (void *)1024, 1024, BYWAY_RIGHT_READ, &child_slot);
	CHECK(child >= 0);
	CHECK(copy(&ring, 0, child_slot, 0, 0, (uint64_t)memory + 4096, 1024) ==
	      BYWAY_STATUS_SUCCESS);
	CHECK(copy(&ring, 0, child_slot, 512, 0, (uint64_t)memory + 4096, 1024) ==
	      BYWAY_STATUS_BOUNDS);
	CHECK(copy(&ring, 0, 0, (uint64_t)memory, child_slot, 0, 64) ==
	      BYWAY_STATUS_MISSING_RIGHT);

	revoke.flags = 2;
	REFUSED(ioctl(cap, BYWAY_IOC_CAP_REVOKE, &revoke), EINVAL);
	revoke.flags = BYWAY_IOC_REVOKE_DESCENDANTS_ONLY;
	CHECK(ioctl(cap, BYWAY_IOC_CAP_REVOKE, &revoke) == 0);
	CHECK(copy(&ring, 0, child_slot, 0, 0, (uint64_t)memory + 4096, 64) ==
	      BYWAY_STATUS_REVOKED);
	CHECK(copy(&ring, 0, slot, 0, 0, (uint64_t)memory + 4096, 64) == BYWAY_STATUS_SUCCESS);
	CHECK(ioctl(child, BYWAY_IOC_CAP_QUERY, &query) == 0 &&
	      query.state == BYWAY_CAPABILITY_REVOKED);
	CHECK(derive(fd, child, NULL, 8, BYWAY_RIGHT_READ, &child_slot) == -1 &&
	      errno == EKEYREVOKED);
	polled.fd = cap;
	CHECK(poll(&polled, 1, 0) == 0);
	REFUSED(ioctl(cap, BYWAY_IOC_KICK), ENOTTY);
	REFUSED(ioctl(cap, BYWAY_IOC_CAP_QUERY, NULL), EFAULT);
	/* The context's descriptor first: the others keep it. */
	close(fd);
	CHECK(ioctl(cap, BYWAY_IOC_CAP_QUERY, &query) == 0);
	CHECK(copy(&ring, 0, slot, 0, 0, (uint64_t)memory + 4096, 64) == BYWAY_STATUS_SUCCESS);
	close(child);
	close(cap);
	CHECK(copy(&ring, 0, slot, 0, 0, (uint64_t)memory + 4096, 64) ==
	      BYWAY_STATUS_NO_CAPABILITY);
	close_ring(&ring);
	munmap(memory, 8192);
}

static void test_keys_and_ports(void)
{
	struct byway_ioc_key_load key = {
		.algorithm = BYWAY_KEY_AES_GCM128, .length = 16,
		.rights = BYWAY_RIGHT_ENCRYPT | BYWAY_RIGHT_DECRYPT, .key = "0123456789abcde",
	};
	struct byway_ioc_port_create port = { .depth = 4, .bytes = 256, .badge = 9 };
	struct byway_ioc_cap_query query;
	int fd = open_context(8);

	key.flags = 1;
	REFUSED(ioctl(fd, BYWAY_IOC_KEY_LOAD, &key), EINVAL);
	key.flags = 0;
	key.length = 65;
	REFUSED(ioctl(fd, BYWAY_IOC_KEY_LOAD, &key), EINVAL);
	key.length = 17;
	REFUSED(ioctl(fd, BYWAY_IOC_KEY_LOAD, &key), EINVAL);
	key.length = 16;
	if (info.opcodes[BYWAY_OP_ENCRYPT / 8] & 1 << BYWAY_OP_ENCRYPT % 8) {
		CHECK(ioctl(fd, BYWAY_IOC_KEY_LOAD, &key) == 0);
		CHECK(ioctl(key.fd, BYWAY_IOC_CAP_QUERY, &query) == 0 && query.length == 16);
		close(key.fd);
	}
	port.depth = 0;
	REFUSED(ioctl(fd, BYWAY_IOC_PORT_CREATE, &port), EINVAL);
	port.depth = 4;
	port.bytes = BYWAY_PORT_MESSAGE_MAX + 1;
	REFUSED(ioctl(fd, BYWAY_IOC_PORT_CREATE, &port), EINVAL);
	port.bytes = 256;
	CHECK(ioctl(fd, BYWAY_IOC_PORT_CREATE, &port) == 0);
	CHECK(ioctl(port.fd, BYWAY_IOC_CAP_QUERY, &query) == 0 && query.length == 256 &&
	      query.badge == 9);
	close(port.fd);
	close(fd);
}

static void test_listeners(void)
{
	struct byway_ioc_listen first = { .port = "selftest" }, second = first;
	struct byway_ioc_accept accepted = {};
	struct byway_ioc_offer offer = { .cap_fd = 0, .peer = "nobody", .port = "x" };
	struct pollfd polled = { .events = POLLIN };
	int fd = open_context(8), cap;
	uint32_t slot;

	first.flags = 2;
	REFUSED(ioctl(fd, BYWAY_IOC_LISTEN, &first), EINVAL);
	first.flags = BYWAY_IOC_LISTEN_NONBLOCK;
	strcpy((char *)first.peer, "nobody");
	REFUSED(ioctl(fd, BYWAY_IOC_LISTEN, &first), EHOSTUNREACH);
	memset(first.peer, 0, sizeof(first.peer));
	CHECK(ioctl(fd, BYWAY_IOC_LISTEN, &first) == 0);
	REFUSED(ioctl(fd, BYWAY_IOC_LISTEN, &second), EADDRINUSE);
	polled.fd = first.fd;
	CHECK(poll(&polled, 1, 0) == 0);
	REFUSED(ioctl(first.fd, BYWAY_IOC_ACCEPT, &accepted), EAGAIN);
	accepted.flags = 1;
	REFUSED(ioctl(first.fd, BYWAY_IOC_ACCEPT, &accepted), EINVAL);
	REFUSED(ioctl(first.fd, BYWAY_IOC_ACCEPT, NULL), EFAULT);
	REFUSED(ioctl(first.fd, BYWAY_IOC_CAP_QUERY, &accepted), ENOTTY);
	close(first.fd);
	CHECK(ioctl(fd, BYWAY_IOC_LISTEN, &second) == 0);	/* the name is free again */
	close(second.fd);
	memset(second.port, 0, sizeof(second.port));
	REFUSED(ioctl(fd, BYWAY_IOC_LISTEN, &second), EINVAL);

	REFUSED(ioctl(fd, BYWAY_IOC_OFFER, &offer), EINVAL);	/* no capability */
	cap = derive(fd, -1, &slot, 4, BYWAY_RIGHT_READ, &slot);
	offer.cap_fd = cap;
	offer.rights = BYWAY_RIGHT_READ;
	REFUSED(ioctl(fd, BYWAY_IOC_OFFER, &offer), EHOSTUNREACH);
	offer.flags = 1;
	REFUSED(ioctl(fd, BYWAY_IOC_OFFER, &offer), EINVAL);
	close(cap);
	close(fd);
}

/* ---- other processes ------------------------------------------------------------------ */

struct parent {
	int context, cap;
	struct ring *ring;
};

static int forked(void *argument)
{
	struct parent *parent = argument;
	struct byway_ioc_cap_query query;
	struct byway_ioc_queue queue = { .entries = 8 };
	unsigned char resident;
	uint32_t slot;
	int own;

	/* Neither the parent's context, nor its rings. */
	REFUSED(ioctl(parent->context, BYWAY_IOC_QUEUE, &queue), EPERM);
	REFUSED(ioctl(parent->ring->fd, BYWAY_IOC_KICK), EPERM);
	REFUSED(ioctl(parent->ring->fd, BYWAY_IOC_ARM), EPERM);
	REFUSED(ioctl(parent->cap, BYWAY_IOC_CAP_QUERY, &query), EPERM);
	REFUSED(mincore(parent->ring->ring, 4096, &resident), ENOMEM);
	REFUSED((int)(intptr_t)mmap(NULL, parent->ring->queue.mmap_bytes, PROT_READ | PROT_WRITE,
				    MAP_SHARED, parent->ring->fd, 0), EPERM);
	/* But one of its own. */
	own = open_context(8);
	CHECK(own >= 0);
	CHECK(derive(own, parent->cap, NULL, 8, BYWAY_RIGHT_READ, &slot) == -1 && errno == EPERM);
	return 0;
}

/* Gets a capability by SCM_RIGHTS, as another program would. */
static int receive_fd(int socket)
{
	char byte, room[CMSG_SPACE(sizeof(int))];
	struct iovec iovec = { &byte, 1 };
	struct msghdr message = {
		.msg_iov = &iovec, .msg_iovlen = 1, .msg_control = room,
		.msg_controllen = sizeof(room),
	};
	int fd = -1;

	if (recvmsg(socket, &message, MSG_CMSG_CLOEXEC) == 1 && CMSG_FIRSTHDR(&message))
		memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&message)), sizeof(fd));
	return fd;
}

static void send_fd(int socket, int fd)
{
	char byte = 0, room[CMSG_SPACE(sizeof(int))] = {};
	struct iovec iovec = { &byte, 1 };
	struct msghdr message = {
		.msg_iov = &iovec, .msg_iovlen = 1, .msg_control = room,
		.msg_controllen = sizeof(room),
	};
	struct cmsghdr *control = CMSG_FIRSTHDR(&message);

	control->cmsg_level = SOL_SOCKET;
	control->cmsg_type = SCM_RIGHTS;
	control->cmsg_len = CMSG_LEN(sizeof(int));
	memcpy(CMSG_DATA(control), &fd, sizeof(fd));
	CHECK(sendmsg(socket, &message, 0) == 1);
}

static int attacher(void *argument)
{
	struct byway_ioc_attach attach = {};
	char *memory = anonymous(4096), expected[4096];
	int socket = *(int *)argument, fd;
	struct ring ring;
	char byte = 0;

	memset(memory, 0, 4096);
	memset(expected, 0x42, sizeof(expected));
	attach.cap_fd = receive_fd(socket);
	CHECK(attach.cap_fd >= 0);
	fd = open_context(8);
	CHECK(open_ring(fd, 8, &ring) == 0);
	attach.base = 1 << 20;
	REFUSED(ioctl(fd, BYWAY_IOC_ATTACH, &attach), ERANGE);
	attach.base = 0;
	attach.reserved = 1;
	REFUSED(ioctl(fd, BYWAY_IOC_ATTACH, &attach), EINVAL);
	attach.reserved = 0;
	CHECK(ioctl(fd, BYWAY_IOC_ATTACH, &attach) == 0);
	CHECK(attach.length == 4096 && attach.badge == 0x1234 &&
	      attach.rights_out == (BYWAY_RIGHT_READ | BYWAY_RIGHT_WRITE));
	CHECK(copy(&ring, 0, attach.slot, 0, 0, (uint64_t)memory, 4096) == BYWAY_STATUS_SUCCESS);
	CHECK(!memcmp(memory, expected, 4096));
	memset(memory, 0x24, 4096);
	CHECK(copy(&ring, 0, 0, (uint64_t)memory, attach.slot, 0, 4096) == BYWAY_STATUS_SUCCESS);
	CHECK(write(socket, &byte, 1) == 1);
	CHECK(read(socket, &byte, 1) == 1);	/* it has been revoked */
	CHECK(copy(&ring, 0, attach.slot, 0, 0, (uint64_t)memory, 64) == BYWAY_STATUS_REVOKED);
	return 0;
}

static void test_processes(void)
{
	char *memory = anonymous(4096), expected[4096], byte = 0;
	struct byway_ioc_cap_revoke revoke = {};
	int fd = open_context(8), sockets[2], status;
	struct parent parent;
	struct ring ring;
	uint32_t slot;
	pid_t child;

	memset(memory, 0x42, 4096);
	CHECK(open_ring(fd, 8, &ring) == 0);
	parent.context = fd;
	parent.ring = &ring;
	parent.cap = derive(fd, -1, memory, 4096, BYWAY_RIGHT_READ | BYWAY_RIGHT_WRITE, &slot);
	in_child(forked, &parent);

	CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sockets) == 0);
	fflush(stdout);
	child = fork();
	if (!child) {
		close(sockets[0]);
		checks = 0;
		failed = 0;
		attacher(&sockets[1]);
		fflush(stdout);
		_exit(failed);
	}
	close(sockets[1]);
	/* fork has made the page read-only: what the engine may write has to be ours. */
	memset(memory, 0x42, 4096);
	send_fd(sockets[0], parent.cap);
	CHECK(read(sockets[0], &byte, 1) == 1);
	memset(expected, 0x24, 4096);
	CHECK(!memcmp(memory, expected, 4096));
	CHECK(ioctl(parent.cap, BYWAY_IOC_CAP_REVOKE, &revoke) == 0);
	CHECK(write(sockets[0], &byte, 1) == 1);
	waitpid(child, &status, 0);
	CHECK(WIFEXITED(status) && !WEXITSTATUS(status));
	/* The parent's own queue has not suffered from what the children did. */
	CHECK(finish(&ring, submit(&ring, &nothing, 0, BYWAY_OP_NOP, 0, 0)) ==
	      BYWAY_STATUS_SUCCESS);
	close(sockets[0]);
	close(parent.cap);
	close_ring(&ring);
	close(fd);
	munmap(memory, 4096);
}

/* A process that is killed with work in flight, and its descriptors elsewhere. */
static void test_killed(void)
{
	int sockets[2], status, cap;
	struct byway_ioc_attach attach = {};
	int fd = open_context(8);
	pid_t child;

	CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sockets) == 0);
	fflush(stdout);
	child = fork();
	if (!child) {
		char *memory = anonymous(16 << 20);
		int own = open_context(8);
		struct ring ring;
		uint32_t slot;

		memset(memory, 1, 16 << 20);
		open_ring(own, 64, &ring);
		send_fd(sockets[1], derive(own, -1, memory, 4096, BYWAY_RIGHT_READ, &slot));
		for (;;) {
			struct byway_descriptor move = {
				.src = (uint64_t)memory, .dst = (uint64_t)memory + (8 << 20),
				.size = 8 << 20,
			};
			uint32_t position = submit(&ring, &move, 0, BYWAY_OP_MEMMOVE, 0, 0);

			if (position >= 32)
				finish(&ring, position - 32);
		}
	}
	cap = receive_fd(sockets[0]);
	CHECK(cap >= 0);
	usleep(100000);
	kill(child, SIGKILL);
	waitpid(child, &status, 0);
	CHECK(WIFSIGNALED(status));
	attach.cap_fd = cap;
	CHECK(ioctl(fd, BYWAY_IOC_ATTACH, &attach) == -1 && (errno == ENODEV || errno == ENOENT));
	close(cap);
	close(sockets[0]);
	close(sockets[1]);
	close(fd);
}

/* After exec the descriptor is there, if it was not closed, and good for nothing. */
static void test_exec(void)
{
	int fd = open_context(8), status;
	char number[16];
	pid_t child;

	fcntl(fd, F_SETFD, 0);
	snprintf(number, sizeof(number), "%d", fd);
	fflush(stdout);
	child = fork();
	if (!child) {
		execl("/proc/self/exe", "selftest", "--inherited", number, NULL);
		_exit(99);
	}
	waitpid(child, &status, 0);
	CHECK(WIFEXITED(status) && !WEXITSTATUS(status));
	close(fd);
}

static int inherited(int fd)
{
	struct byway_ioc_queue queue = { .entries = 8 };

	CHECK(ioctl(fd, BYWAY_IOC_INFO, &info) == 0);
	REFUSED(ioctl(fd, BYWAY_IOC_QUEUE, &queue), EPERM);
	return failed;
}

/* A queue that ends from outside, and a new one as soon as there can be. */
static int hold(void)
{
	struct pollfd polled = { .events = POLLIN };
	uint64_t until = now_ms() + 120000;
	struct byway_ioc_queue another = { .entries = 8 };
	struct ring ring, fresh;
	int fd = open_context(8), again = -1;

	CHECK(fd >= 0 && open_ring(fd, 8, &ring) == 0);
	if (failed)
		return 1;
	printf("holding\n");
	fflush(stdout);
	polled.fd = ring.fd;
	CHECK(poll(&polled, 1, 120000) == 1 && polled.revents & POLLHUP && polled.revents & POLLERR);
	CHECK(ring.header->state == BYWAY_QUEUE_STATE_DEAD);
	REFUSED(ioctl(ring.fd, BYWAY_IOC_KICK), ENODEV);
	REFUSED(ioctl(ring.fd, BYWAY_IOC_ARM), ENODEV);
	REFUSED(ioctl(fd, BYWAY_IOC_QUEUE, &another), ENODEV);
	printf("dead\n");
	fflush(stdout);
	while (again < 0 && now_ms() < until) {
		again = open_context(8);
		if (again < 0)
			usleep(50000);
	}
	CHECK(again >= 0 && open_ring(again, 8, &fresh) == 0);
	if (!failed)
		CHECK(finish(&fresh, submit(&fresh, &nothing, 0, BYWAY_OP_NOP,
					    0, 0)) == BYWAY_STATUS_SUCCESS);
	/* The old one's pages are still there, and its end does no harm. */
	CHECK(ring.header->state == BYWAY_QUEUE_STATE_DEAD);
	close_ring(&ring);
	close(fd);
	printf("again: %u failed\n", failed);
	return failed ? 1 : 0;
}

int main(int argc, char **argv)
{
	if (argc == 2 && !strcmp(argv[1], "--hold"))
		return hold();
	if (argc == 3 && !strcmp(argv[1], "--inherited"))
		return inherited(atoi(argv[2]));
	if (access("/dev/byway", F_OK)) {
		fprintf(stderr, "there is no /dev/byway: is the module loaded?\n");
		return 2;
	}
	test_unbound();
	test_queue_arguments();
	test_mapping();
	test_copy();
	test_page_requests();
	test_invalidation();
	test_sleeping();
	test_capabilities();
	test_keys_and_ports();
	test_listeners();
	test_processes();
	test_killed();
	test_exec();
	printf("checks: %u, failed: %u\n", checks, failed);
	return failed ? 1 : 0;
}
