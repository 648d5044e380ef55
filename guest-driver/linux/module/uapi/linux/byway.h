/* SPDX-License-Identifier: GPL-2.0 WITH Linux-syscall-note */
/*
 * User interface of the Byway module: /dev/byway and the descriptors it gives.
 *
 * Rights, key algorithms, capability states, revoke flags, features and the
 * layouts of ring, completions and header line are those of the device's ABI
 * (protocols/SPEC.md; in C protocols/include/byway.h, which may be included
 * beside this file). Integers here are in the CPU's byte order.
 *
 * Rules for all calls
 *
 * - The calls of one file are made by the address space (mm) that bound it
 *   with BYWAY_IOC_CONTEXT; others get EPERM. That holds for a forked child,
 *   and after exec, whose file is dead for good. Threads share their mm.
 * - Fields marked "out" are ignored on input. Reserved fields and undefined
 *   flag bits must be 0: EINVAL.
 * - A number that is none of the file's calls, in size or direction too:
 *   ENOTTY. A pointer to memory that is not mapped: EFAULT.
 * - New descriptors have O_CLOEXEC. They may be closed in any order; a context
 *   lives until its own file and those of its queues, capabilities and
 *   listeners are closed, or its mm ends.
 * - When the device has been unplugged, unbound or reset, or its engine has
 *   restarted: ENODEV from then on, and poll() on queues, capabilities and
 *   listeners reports EPOLLERR | EPOLLHUP. Close everything, open /dev/byway
 *   again and start over.
 * - A request that the engine leaves unanswered ends in ETIMEDOUT after some
 *   seconds (module parameter timeout_ms), and the device is reset. A fatal
 *   signal ends every wait of an accept, and those for requests that
 *   leave nothing behind.
 *
 * The engine's refusals (SPEC section 8.1), as errno
 *
 *   BadArgument, ReservedNotZero, BadLength   EINVAL
 *   NoSuchObject                              ENOENT
 *   InUse, Busy                               EBUSY
 *   Quota                                     ENOSPC
 *   NoLink                                    EHOSTUNREACH
 *   MissingRight                              EACCES
 *   Bounds                                    ERANGE
 *   Revoked                                   EKEYREVOKED
 *   Depth                                     ELOOP
 *   UnknownRequest, Unsupported               EOPNOTSUPP
 *   Version                                   ENODEV: the engine has restarted
 *   RootOutsideRam, RingOutsideRam,
 *   HostFailure, and codes not known here     EIO
 */
#ifndef _UAPI_LINUX_BYWAY_H
#define _UAPI_LINUX_BYWAY_H

#include <linux/ioctl.h>
#include <linux/types.h>

/* Type byte of the ioctl numbers. */
#define BYWAY_IOC_MAGIC		0xBE

/* Version of this interface, in byway_ioc_info.interface. */
#define BYWAY_IOC_INTERFACE	1

/* Room for the name of a domain or a port, in bytes. */
#define BYWAY_IOC_NAME_BYTES	32

/* What names the context's own memory in place of a capability's descriptor. */
#define BYWAY_IOC_OWN_MEMORY	(-1)

/*
 * The label of an offer is the 64-bit FNV-1a hash of the port's name without
 * its padding: start with BASIS; for each byte: xor it in, multiply by PRIME.
 */
#define BYWAY_IOC_LABEL_BASIS	0xcbf29ce484222325ULL
#define BYWAY_IOC_LABEL_PRIME	0x00000100000001b3ULL

/* ---- /dev/byway, bound or not ------------------------------------------ */

/*
 * byway_ioc_info.flags: address spaces are bound NO_AD, because the kernel has
 * only one CPU online and so changes page tables without locked instructions.
 * Pages that have not been accessed, or written, before are faults then.
 */
#define BYWAY_IOC_INFO_NO_AD	0x1U

/**
 * struct byway_ioc_info - what the engine is and allows
 * @version: out, ABI version in force
 * @instance: out, instance of the engine; changes when it restarts
 * @features: out, BYWAY_FEATURE_* in force
 * @domain: out, number of this domain
 * @workers: out, workers that poll
 * @queue_entries_max: out, most entries of a queue
 * @slots_max: out, most slots of a context, slot 0 included
 * @transfer_bytes_max: out, most bytes of a transfer
 * @batch_count_max: out, most descriptors of a batch
 * @park_us: out, longest time that an idle queue is polled, in microseconds
 * @flags: out, BYWAY_IOC_INFO_*
 * @opcodes: out, bit n of byte n / 8: operation n is supported
 * @name: out, this domain's name, padded with zeros; all of it may be used
 * @page_bytes: out, unit of the offsets in a queue's mapping, in bytes
 * @interface: out, BYWAY_IOC_INTERFACE of the module
 * @reserved: out, 0
 */
struct byway_ioc_info {
	__u32 version;
	__u32 instance;
	__u64 features;
	__u32 domain;
	__u32 workers;
	__u32 queue_entries_max;
	__u32 slots_max;
	__u32 transfer_bytes_max;
	__u32 batch_count_max;
	__u32 park_us;
	__u32 flags;
	__u8 opcodes[32];
	__u8 name[BYWAY_IOC_NAME_BYTES];
	__u32 page_bytes;
	__u32 interface;
	__u64 reserved[2];
};

/* What the engine is and allows. May be asked before BYWAY_IOC_CONTEXT. */
#define BYWAY_IOC_INFO		_IOR(BYWAY_IOC_MAGIC, 0x00, struct byway_ioc_info)

/**
 * struct byway_ioc_context - binds a file to the caller's mm
 * @slots: in, capability slots wanted, slot 0 included; 1 to slots_max
 * @flags: in, 0
 * @context: out, number of the context, as the host's records name it
 * @reserved: in, 0
 */
struct byway_ioc_context {
	__u32 slots;
	__u32 flags;
	__u32 context;
	__u32 reserved;
};

/*
 * Opens a context. Once for each file: EBUSY. All contexts of an mm share one
 * PASID. All other calls need it: EBADFD before.
 */
#define BYWAY_IOC_CONTEXT	_IOWR(BYWAY_IOC_MAGIC, 0x01, struct byway_ioc_context)

/**
 * struct byway_ioc_lookup - whom a name belongs to
 * @name: in, the peer's name, padded with zeros; 1 to 32 of a-z, 0-9 and '-'
 * @domain: out, its number
 * @rights_out: out, BYWAY_RIGHT_* that may be given to it
 * @rights_in: out, BYWAY_RIGHT_* that it may give
 * @reserved: in, 0
 */
struct byway_ioc_lookup {
	__u8 name[BYWAY_IOC_NAME_BYTES];
	__u32 domain;
	__u32 rights_out;
	__u32 rights_in;
	__u32 reserved;
};

/* A linked domain by name. EHOSTUNREACH: no such domain, or no link with it. */
#define BYWAY_IOC_LOOKUP	_IOWR(BYWAY_IOC_MAGIC, 0x02, struct byway_ioc_lookup)

/* ---- /dev/byway, bound -------------------------------------------------- */

/* byway_ioc_queue.flags: polled for as long as it lives; takes a quota. */
#define BYWAY_IOC_QUEUE_NO_PARK	0x1U

/**
 * struct byway_ioc_queue - a work queue
 * @entries: in, a power of two from 2 to queue_entries_max
 * @flags: in, BYWAY_IOC_QUEUE_*
 * @fd: out, the queue's descriptor
 * @queue: out, number of the queue, as the host's records and CANCEL name it
 * @mmap_bytes: out, length of the one mapping that there may be
 * @ring_offset: out, where the ring begins in it (64 bytes * entries)
 * @completions_offset: out, where the completions begin (32 bytes * entries)
 * @header_offset: out, where the header line is (64 bytes)
 * @instance: out, instance of the engine that the queue belongs to
 * @reserved: in, 0
 *
 * mmap() takes the descriptor, offset 0, the whole length, PROT_READ |
 * PROT_WRITE and MAP_SHARED: EINVAL otherwise; EBUSY while it is mapped
 * already. The mapping can neither be split (EINVAL) nor grow (EFAULT), may be
 * moved, and is not inherited by fork. It keeps the queue: that is destroyed when the
 * descriptor is closed and the mapping undone, or when its mm ends.
 *
 * poll() says EPOLLIN when the completion interrupt has come since the last
 * BYWAY_IOC_ARM, EPOLLERR | EPOLLHUP when the queue is dead. A queue starts
 * armed. Only descriptors with the flag REQUEST_INTERRUPT raise interrupts.
 */
struct byway_ioc_queue {
	__u32 entries;
	__u32 flags;
	__s32 fd;
	__u32 queue;
	__u64 mmap_bytes;
	__u64 ring_offset;
	__u64 completions_offset;
	__u64 header_offset;
	__u32 instance;
	__u32 reserved;
};

/* A work queue. */
#define BYWAY_IOC_QUEUE		_IOWR(BYWAY_IOC_MAGIC, 0x03, struct byway_ioc_queue)

/**
 * struct byway_ioc_derive - a capability from a wider one
 * @parent_fd: in, a capability of this mm, or BYWAY_IOC_OWN_MEMORY
 * @rights: in, BYWAY_RIGHT_*, a subset of the parent's
 * @base: in, first byte: a virtual address, or an offset into the parent
 * @length: in, bytes, not 0; the range need not be mapped
 * @badge: in, reported to whoever accepts it
 * @lifetime_ns: in, lifetime from now in nanoseconds; 0: no end
 * @byte_quota: in, bytes that may be moved through it; 0: no limit
 * @fd: out, the new capability's descriptor
 * @slot: out, its slot in this context, for descriptors in the ring
 * @flags: in, 0
 * @reserved: in, 0
 */
struct byway_ioc_derive {
	__s32 parent_fd;
	__u32 rights;
	__u64 base;
	__u64 length;
	__u64 badge;
	__u64 lifetime_ns;
	__u64 byte_quota;
	__s32 fd;
	__u32 slot;
	__u32 flags;
	__u32 reserved;
};

/*
 * A capability over one's own memory, or a narrower one. EBADF: parent_fd is
 * not open; EINVAL: it is open, but no capability; EPERM: made by another mm
 * (see BYWAY_IOC_ATTACH); EXDEV: of another device.
 */
#define BYWAY_IOC_DERIVE	_IOWR(BYWAY_IOC_MAGIC, 0x04, struct byway_ioc_derive)

/**
 * struct byway_ioc_attach - a capability that another process has passed
 * @cap_fd: in, any capability's descriptor, most often from SCM_RIGHTS
 * @rights: in, BYWAY_RIGHT_* wanted, a subset of its; 0: all that it has
 * @base: in, first byte, an offset into it
 * @length: in, bytes; 0: all from @base on. out: bytes of the new one
 * @fd: out, descriptor of the new capability, which is this context's own
 * @slot: out, its slot in this context
 * @badge: out, the badge, which is that of the one attached
 * @rights_out: out, BYWAY_RIGHT_* of the new one
 * @reserved: in, 0
 */
struct byway_ioc_attach {
	__s32 cap_fd;
	__u32 rights;
	__u64 base;
	__u64 length;
	__s32 fd;
	__u32 slot;
	__u64 badge;
	__u32 rights_out;
	__u32 reserved;
};

/*
 * Brings a capability into this context, as a child of the one passed: revoking
 * that ends it. Capabilities over another domain's memory need GRANT: EACCES.
 * Otherwise as BYWAY_IOC_DERIVE, but for any mm.
 */
#define BYWAY_IOC_ATTACH	_IOWR(BYWAY_IOC_MAGIC, 0x05, struct byway_ioc_attach)

/**
 * struct byway_ioc_offer - gives a capability to another domain
 * @cap_fd: in, a capability of this mm
 * @rights: in, BYWAY_RIGHT_* to give, a subset of the capability's and the link's
 * @peer: in, the peer's name, padded with zeros
 * @port: in, the port's name, padded with zeros: 1 to 32 bytes, none of them 0
 * @offer: out, number of the offer, as the host's records name it
 * @flags: in, 0
 * @reserved: in, 0
 */
struct byway_ioc_offer {
	__s32 cap_fd;
	__u32 rights;
	__u8 peer[BYWAY_IOC_NAME_BYTES];
	__u8 port[BYWAY_IOC_NAME_BYTES];
	__u64 offer;
	__u32 flags;
	__u32 reserved;
};

/*
 * Offers a capability under a port's name. It ends when it is accepted, and
 * when the capability is revoked, its descriptor closed, or the link taken
 * away. ENOENT: the peer has no driver at present that could be told.
 */
#define BYWAY_IOC_OFFER		_IOWR(BYWAY_IOC_MAGIC, 0x06, struct byway_ioc_offer)

/* byway_ioc_listen.flags: the listener starts with O_NONBLOCK. */
#define BYWAY_IOC_LISTEN_NONBLOCK	0x1U

/**
 * struct byway_ioc_listen - waits for offers under a port's name
 * @port: in, the port's name, padded with zeros: 1 to 32 bytes, none of them 0
 * @peer: in, name of the only peer whose offers count, or all zeros: any
 * @fd: out, the listener's descriptor
 * @flags: in, BYWAY_IOC_LISTEN_*
 */
struct byway_ioc_listen {
	__u8 port[BYWAY_IOC_NAME_BYTES];
	__u8 peer[BYWAY_IOC_NAME_BYTES];
	__s32 fd;
	__u32 flags;
};

/*
 * A listener; accepted capabilities go to this context. Offers that came
 * earlier count, too: a bounded number is kept for each peer, the newest.
 * poll() says EPOLLIN when one waits. EADDRINUSE: another listener of this
 * guest would get the same offers.
 */
#define BYWAY_IOC_LISTEN	_IOWR(BYWAY_IOC_MAGIC, 0x07, struct byway_ioc_listen)

/**
 * struct byway_ioc_key_load - a key becomes a capability
 * @algorithm: in, BYWAY_KEY_*
 * @length: in, bytes of the key, as many as the algorithm's keys have
 * @rights: in, of ENCRYPT, DECRYPT and GRANT; one of the first two at least
 * @flags: in, 0
 * @badge: in, reported to whoever accepts it
 * @key: in, the key; unused bytes are 0
 * @fd: out, the capability's descriptor
 * @slot: out, its slot in this context
 */
struct byway_ioc_key_load {
	__u32 algorithm;
	__u32 length;
	__u32 rights;
	__u32 flags;
	__u64 badge;
	__u8 key[64];
	__s32 fd;
	__u32 slot;
};

/* Loads a key; the module keeps no copy. The call only reads @key. */
#define BYWAY_IOC_KEY_LOAD	_IOWR(BYWAY_IOC_MAGIC, 0x08, struct byway_ioc_key_load)

/**
 * struct byway_ioc_port_create - a port for messages becomes a capability
 * @depth: in, messages that may wait in it, 1 to BYWAY_PORT_DEPTH_MAX
 * @bytes: in, longest message, 1 to BYWAY_PORT_MESSAGE_MAX
 * @badge: in, told to whoever receives what is sent by way of it
 * @fd: out, the capability's descriptor
 * @slot: out, its slot in this context
 * @flags: in, 0
 * @reserved: in, 0
 */
struct byway_ioc_port_create {
	__u32 depth;
	__u32 bytes;
	__u64 badge;
	__s32 fd;
	__u32 slot;
	__u32 flags;
	__u32 reserved;
};

/* Creates a port of the engine (SPEC section 7.8). */
#define BYWAY_IOC_PORT_CREATE	_IOWR(BYWAY_IOC_MAGIC, 0x09, struct byway_ioc_port_create)

/**
 * struct byway_ioc_endpoint_open - blocks of an endpoint become a capability
 * @name: in, of the endpoint, 0-padded
 * @badge: in, told to whoever accepts what is derived from it
 * @flags: in, 0
 * @reserved: in, 0
 * @length: out, bytes of all blocks
 * @fd: out, the capability's descriptor
 * @slot: out, its slot in this context
 * @rights: out, what the operator granted
 * @block_bytes: out, what offsets and sizes are multiples of
 * @features: out, bits of byway_endpoint_open_reply.features
 * @reserved76: out, 0
 */
struct byway_ioc_endpoint_open {
	__u8 name[BYWAY_IOC_NAME_BYTES];
	__u64 badge;
	__u32 flags;
	__u32 reserved;
	__u64 length;
	__s32 fd;
	__u32 slot;
	__u32 rights;
	__u32 block_bytes;
	__u32 features;
	__u32 reserved76;
};

/*
 * Opens what the operator granted this domain of a block device (SPEC section
 * 7.9). An engine without endpoints: EOPNOTSUPP; a name that it does not know,
 * or of which nothing is granted: ENOENT.
 */
#define BYWAY_IOC_ENDPOINT_OPEN	_IOWR(BYWAY_IOC_MAGIC, 0x0a, struct byway_ioc_endpoint_open)

/* ---- queue -------------------------------------------------------------- */

/*
 * Wakes the engine: after publishing, when need_kick in the header line is 1.
 * One exit of the virtual machine.
 */
#define BYWAY_IOC_KICK		_IO(BYWAY_IOC_MAGIC, 0x20)

/*
 * Arms the completion interrupt for one event and ends EPOLLIN. A completion
 * that was held back since the last event raises it at once, so whoever arms
 * before it sleeps need not look again.
 */
#define BYWAY_IOC_ARM		_IO(BYWAY_IOC_MAGIC, 0x21)

/**
 * struct byway_ioc_eventfd - where completion interrupts are counted
 * @fd: in, an eventfd, in place of the one before; -1: none
 * @reserved: in, 0
 */
struct byway_ioc_eventfd {
	__s32 fd;
	__u32 reserved;
};

/*
 * Has each completion interrupt, and the queue's death, counted by an eventfd
 * as well. An interrupt that has come since the last ARM is counted at once.
 */
#define BYWAY_IOC_EVENTFD	_IOW(BYWAY_IOC_MAGIC, 0x22, struct byway_ioc_eventfd)

/* ---- capability ---------------------------------------------------------- */

/**
 * struct byway_ioc_cap_query - state and use of a capability
 * @state: out, BYWAY_CAPABILITY_*
 * @rights: out, BYWAY_RIGHT_*
 * @length: out, bytes that it spans
 * @badge: out, its badge
 * @depth: out, depth in the derivation tree; 1: over one's own memory
 * @domain: out, number of the domain that owns the memory
 * @descendants: out, capabilities alive below it
 * @bytes_read: out, bytes read through it and all below
 * @bytes_written: out, bytes written through it and all below
 * @slot: out, its slot
 * @context: out, number of the context that holds it
 * @reserved: out, 0
 */
struct byway_ioc_cap_query {
	__u32 state;
	__u32 rights;
	__u64 length;
	__u64 badge;
	__u32 depth;
	__u32 domain;
	__u64 descendants;
	__u64 bytes_read;
	__u64 bytes_written;
	__u32 slot;
	__u32 context;
	__u64 reserved;
};

/*
 * State and use. poll() on a capability says EPOLLIN when its state may have
 * changed since the last query: it was revoked, or events were lost.
 */
#define BYWAY_IOC_CAP_QUERY	_IOR(BYWAY_IOC_MAGIC, 0x30, struct byway_ioc_cap_query)

/* byway_ioc_cap_revoke.flags: end only what is derived from it. */
#define BYWAY_IOC_REVOKE_DESCENDANTS_ONLY	0x1U

/**
 * struct byway_ioc_cap_revoke - ends a capability
 * @flags: in, BYWAY_IOC_REVOKE_*
 * @reserved: in, 0
 */
struct byway_ioc_cap_revoke {
	__u32 flags;
	__u32 reserved;
};

/*
 * Ends a capability and all that was derived from it, in every process and
 * domain: when it returns, nothing is in flight and nothing can start. Not
 * so close(), after which what was derived lives on.
 */
#define BYWAY_IOC_CAP_REVOKE	_IOW(BYWAY_IOC_MAGIC, 0x31, struct byway_ioc_cap_revoke)

/* ---- listener ------------------------------------------------------------ */

/**
 * struct byway_ioc_accept - takes the oldest offer that waits
 * @fd: out, the capability's descriptor
 * @slot: out, its slot in the listener's context
 * @length: out, bytes that it spans
 * @badge: out, its badge
 * @rights: out, BYWAY_RIGHT_* that came with it
 * @domain: out, number of the domain that owns the memory
 * @peer: out, number of the domain that offered it
 * @flags: in, 0
 */
struct byway_ioc_accept {
	__s32 fd;
	__u32 slot;
	__u64 length;
	__u64 badge;
	__u32 rights;
	__u32 domain;
	__u32 peer;
	__u32 flags;
};

/*
 * Waits for an offer and takes it; EAGAIN with O_NONBLOCK when there is none,
 * EINTR after a signal. Offers that have ended meanwhile are skipped.
 */
#define BYWAY_IOC_ACCEPT	_IOWR(BYWAY_IOC_MAGIC, 0x40, struct byway_ioc_accept)

#endif /* _UAPI_LINUX_BYWAY_H */
