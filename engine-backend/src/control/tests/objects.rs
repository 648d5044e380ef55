//! Address spaces, contexts and queues: every status of their requests.

use byway_protocols::ControlStatus::{
    self, BadArgument, Busy, HostFailure, InUse, NoLink, NoSuchObject, Quota, RingOutsideRam,
    RootOutsideRam,
};
use byway_protocols::control::{
    BindRequest, ContextCreateReply, ContextCreateRequest, ContextDestroyRequest, InvalidateReply,
    InvalidateRequest, LookupReply, LookupRequest, PASID_MAX, QueueCreateReply, QueueCreateRequest,
    QueueRequest, RequestKind, UnbindRequest, bind_flags, features, invalidate_scope, queue_flags,
};
use byway_protocols::{QueueHeader, Rights};

use super::{SLOTS_MAX, Side, World};
use crate::interface::{MemoryRegion, Quotas};

impl Side {
    fn bind(&self, q: &BindRequest) -> Result<(), ControlStatus> {
        self.do_it(RequestKind::Bind, q)
    }
    /// A good BIND; the tables are empty.
    fn bindable(&self, pasid: u32) -> BindRequest {
        BindRequest {
            root: self.guest.ram().0,
            pasid,
            levels: 4,
            maxphyaddr: 46,
            flags: bind_flags::NXE | bind_flags::PAGES_1G,
            ..BindRequest::default()
        }
    }
    fn unbind(&self, pasid: u32) -> Result<(), ControlStatus> {
        self.do_it(
            RequestKind::Unbind,
            &UnbindRequest {
                pasid,
                reserved4: 0,
            },
        )
    }
    fn create_context(&self, pasid: u32, slots: u32) -> Result<u32, ControlStatus> {
        let q = ContextCreateRequest { pasid, slots };
        let reply: ContextCreateReply = self.ask(RequestKind::ContextCreate, &q)?;
        Ok(reply.context)
    }
    fn destroy_context(&self, context: u32) -> Result<(), ControlStatus> {
        let q = ContextDestroyRequest {
            context,
            reserved4: 0,
        };
        self.do_it(RequestKind::ContextDestroy, &q)
    }
    fn create_queue(&self, q: &QueueCreateRequest) -> Result<u32, ControlStatus> {
        let reply: QueueCreateReply = self.ask(RequestKind::QueueCreate, q)?;
        Ok(reply.queue)
    }
    /// A good QUEUE_CREATE over fresh memory.
    fn creatable(&self, context: u32) -> QueueCreateRequest {
        let entries = 8;
        QueueCreateRequest {
            context,
            entries,
            ring: self.guest.alloc(64 * u64::from(entries), 64),
            completions: self.guest.alloc(32 * u64::from(entries), 64),
            header: self.guest.alloc(64, 64),
            ..QueueCreateRequest::default()
        }
    }
    fn queue(&self, kind: RequestKind, queue: u32) -> Result<(), ControlStatus> {
        let q = QueueRequest {
            queue,
            reserved4: 0,
        };
        self.do_it(kind, &q)
    }
    fn state_of(&self, header: u64) -> u32 {
        let mut bytes = [0; QueueHeader::SIZE];
        bytes.copy_from_slice(&self.guest.read(header, QueueHeader::SIZE as u64));
        QueueHeader::from_bytes(&bytes).state
    }
    fn invalidate(&self, q: &InvalidateRequest) -> Result<(), ControlStatus> {
        let reply: InvalidateReply = self.ask(RequestKind::Invalidate, q)?;
        assert_eq!(reply.waited_chunks, 0, "nothing runs in these tests");
        Ok(())
    }
}

#[test]
fn lookup_tells_linked_names_only() {
    let w = World::new();
    w.link(&w.alice, &w.bob, Rights::READ, u64::MAX);
    w.link(&w.bob, &w.alice, Rights::READ | Rights::WRITE, u64::MAX);
    let lookup = |name: &[u8]| -> Result<LookupReply, ControlStatus> {
        let mut q = LookupRequest::default();
        q.name[..name.len()].copy_from_slice(name);
        w.alice.ask(RequestKind::Lookup, &q)
    };
    let bob = lookup(b"bob").unwrap();
    assert_eq!(bob.domain, w.bob.domain.id());
    assert_eq!((bob.rights_out, bob.rights_in), (1, 3));
    assert_eq!(lookup(b"carol"), Err(NoLink));
    assert_eq!(lookup(b"nobody"), Err(NoLink));
    assert_eq!(lookup(b"alice"), Err(NoLink));
    for bad in [&b""[..], b"Bob", b"bob\0x", b"b b", &[0xff; 32]] {
        assert_eq!(lookup(bad), Err(BadArgument));
    }
    w.unlink(&w.alice, &w.bob);
    assert_eq!(lookup(b"bob").unwrap().rights_out, 0);
    w.unlink(&w.bob, &w.alice);
    assert_eq!(lookup(b"bob"), Err(NoLink));
}

#[test]
fn bind_refuses_what_it_cannot_use() {
    let w = World::with_quotas(Quotas {
        address_spaces: 2,
        ..Quotas::default()
    });
    let good = w.alice.bindable(1);
    let (start, size) = w.alice.guest.ram();
    let bad_arguments = [
        BindRequest { pasid: 0, ..good },
        BindRequest {
            pasid: PASID_MAX + 1,
            ..good
        },
        BindRequest { levels: 3, ..good },
        BindRequest { levels: 6, ..good },
        BindRequest {
            maxphyaddr: 31,
            ..good
        },
        BindRequest {
            maxphyaddr: 53,
            ..good
        },
        BindRequest { flags: 8, ..good },
        BindRequest {
            invalidation_page: 1,
            ..good
        },
    ];
    for q in &bad_arguments {
        assert_eq!(w.alice.bind(q), Err(BadArgument), "{q:?}");
    }
    for page in [start - 4096, start + size, 1 << 50, !0xfff] {
        let q = BindRequest {
            invalidation_page: page,
            ..good
        };
        assert_eq!(w.alice.bind(&q), Err(RootOutsideRam), "{page:#x}");
    }
    for root in [0, start - 4096, start + size, 1 << 50, u64::MAX] {
        let q = BindRequest { root, ..good };
        assert_eq!(w.alice.bind(&q), Err(RootOutsideRam), "{root:#x}");
    }
    // CR3 as it is, with PCID and LAM bits.
    let cr3 = BindRequest {
        root: start | 0xfff | 3 << 61,
        ..good
    };
    assert_eq!(w.alice.bind(&cr3), Ok(()));
    assert_eq!(w.alice.bind(&good), Err(InUse));
    let five = BindRequest {
        levels: 5,
        ..w.alice.bindable(PASID_MAX)
    };
    assert_eq!(w.alice.bind(&five), Ok(()));
    assert_eq!(w.alice.bind(&w.alice.bindable(3)), Err(Quota));
    assert_eq!(w.alice.unbind(PASID_MAX), Ok(()));
    assert_eq!(w.alice.bind(&w.alice.bindable(3)), Ok(()));
    // PASIDs are each domain's own.
    assert_eq!(w.bob.bind(&w.bob.bindable(1)), Ok(()));
}

#[test]
fn five_levels_need_their_feature() {
    let w = World::silent(Quotas::default());
    w.alice.domain.set_ready(features::EXPIRY);
    let five = BindRequest {
        levels: 5,
        ..w.alice.bindable(1)
    };
    assert_eq!(w.alice.bind(&five), Err(BadArgument));
}

#[test]
fn unbind_waits_for_contexts() {
    let w = World::new();
    for pasid in [0, PASID_MAX + 1] {
        assert_eq!(w.alice.unbind(pasid), Err(BadArgument));
    }
    assert_eq!(w.alice.unbind(1), Err(NoSuchObject));
    w.alice.bind(&w.alice.bindable(1)).unwrap();
    let context = w.alice.create_context(1, 1).unwrap();
    let second = w.alice.create_context(1, 1).unwrap();
    assert_eq!(w.alice.unbind(1), Err(Busy));
    w.alice.destroy_context(context).unwrap();
    assert_eq!(w.alice.unbind(1), Err(Busy));
    w.alice.destroy_context(second).unwrap();
    assert_eq!(w.alice.unbind(1), Ok(()));
    assert_eq!(w.alice.unbind(1), Err(NoSuchObject));
    assert_eq!(w.alice.create_context(1, 1), Err(NoSuchObject));
}

#[test]
fn contexts_are_bounded() {
    let w = World::with_quotas(Quotas {
        contexts: 2,
        ..Quotas::default()
    });
    assert_eq!(w.alice.create_context(PASID_MAX + 1, 1), Err(BadArgument));
    assert_eq!(w.alice.create_context(0, 0), Err(BadArgument));
    assert_eq!(w.alice.create_context(0, SLOTS_MAX + 1), Err(BadArgument));
    assert_eq!(w.alice.create_context(9, 1), Err(NoSuchObject));
    let first = w.alice.create_context(0, SLOTS_MAX).unwrap();
    let second = w.alice.create_context(0, 1).unwrap();
    assert_eq!(w.alice.create_context(0, 1), Err(Quota));
    assert_eq!(w.alice.destroy_context(first), Ok(()));
    assert_eq!(w.alice.destroy_context(first), Err(NoSuchObject));
    let third = w.alice.create_context(0, 1).unwrap();
    assert!(third != first && third != second, "no number twice");
    // Another domain's contexts are not there.
    assert_eq!(w.bob.destroy_context(third), Err(NoSuchObject));
}

#[test]
fn queues_are_checked_and_bounded() {
    let w = World::with_quotas(Quotas {
        queues: 3,
        queue_entries: 16,
        no_park_queues: 1,
        ..Quotas::default()
    });
    let context = w.alice.context();
    let good = w.alice.creatable(context);
    let (start, size) = w.alice.guest.ram();
    let bad_arguments = [
        QueueCreateRequest { entries: 0, ..good },
        QueueCreateRequest { entries: 1, ..good },
        QueueCreateRequest { entries: 6, ..good },
        QueueCreateRequest {
            entries: 32,
            ..good
        },
        QueueCreateRequest {
            ring: good.ring + 32,
            ..good
        },
        QueueCreateRequest {
            completions: good.completions + 8,
            ..good
        },
        QueueCreateRequest {
            header: good.header + 4,
            ..good
        },
        QueueCreateRequest { flags: 2, ..good },
    ];
    for q in &bad_arguments {
        assert_eq!(w.alice.create_queue(q), Err(BadArgument), "{q:?}");
    }
    let end = start + size;
    let outside = [
        QueueCreateRequest { ring: 0, ..good },
        QueueCreateRequest {
            ring: end - 64,
            ..good
        },
        QueueCreateRequest {
            completions: end,
            ..good
        },
        QueueCreateRequest {
            completions: end - 64,
            ..good
        },
        QueueCreateRequest {
            header: u64::MAX - 63,
            ..good
        },
        QueueCreateRequest {
            header: good.ring,
            ..good
        },
        QueueCreateRequest {
            header: good.ring + 7 * 64,
            ..good
        },
        QueueCreateRequest {
            completions: good.ring + 64,
            ..good
        },
        QueueCreateRequest {
            header: good.completions + 192,
            ..good
        },
    ];
    for q in &outside {
        assert_eq!(w.alice.create_queue(q), Err(RingOutsideRam), "{q:?}");
    }
    let nobody = QueueCreateRequest {
        context: 999,
        ..good
    };
    assert_eq!(w.alice.create_queue(&nobody), Err(NoSuchObject));

    let unparked = QueueCreateRequest {
        flags: queue_flags::NO_PARK,
        ..good
    };
    let first = w.alice.create_queue(&unparked).unwrap();
    assert_eq!(w.alice.state_of(good.header), 1);
    let second = QueueCreateRequest {
        flags: queue_flags::NO_PARK,
        ..w.alice.creatable(context)
    };
    assert_eq!(w.alice.create_queue(&second), Err(Quota));
    let second = w
        .alice
        .create_queue(&QueueCreateRequest { flags: 0, ..second })
        .unwrap();
    w.alice.create_queue(&w.alice.creatable(context)).unwrap();
    assert_eq!(
        w.alice.create_queue(&w.alice.creatable(context)),
        Err(Quota)
    );

    assert_eq!(w.alice.queue(RequestKind::QueueArm, first), Ok(()));
    assert_eq!(w.bob.queue(RequestKind::QueueArm, first), Err(NoSuchObject));
    assert_eq!(w.alice.queue(RequestKind::QueueDestroy, first), Ok(()));
    assert_eq!(w.alice.state_of(good.header), 2);
    for kind in [RequestKind::QueueArm, RequestKind::QueueDestroy] {
        assert_eq!(w.alice.queue(kind, first), Err(NoSuchObject));
    }
    // Its charge came back.
    w.alice
        .create_queue(&QueueCreateRequest {
            flags: queue_flags::NO_PARK,
            ..w.alice.creatable(context)
        })
        .unwrap();
    // A context takes its queues along.
    w.alice.destroy_context(context).unwrap();
    assert_eq!(
        w.alice.queue(RequestKind::QueueArm, second),
        Err(NoSuchObject)
    );
    assert_eq!(w.alice.domain.info().queues, 0);
}

#[test]
fn a_ring_crosses_no_region() {
    let w = World::new();
    let context = w.alice.context();
    let (start, size) = w.alice.guest.ram();
    // More of the same file, right behind in guest-physical memory.
    let next = start + size;
    let region = MemoryRegion {
        guest_addr: next,
        size: 1 << 20,
        file: w.bob.guest.file().clone(),
        file_offset: 0,
        writable: true,
        populate: false,
    };
    w.alice.domain.memory().add_region(region).unwrap();
    let good = w.alice.creatable(context);
    let across = QueueCreateRequest {
        ring: next - 64,
        ..good
    };
    assert_eq!(w.alice.create_queue(&across), Err(RingOutsideRam));
    let behind = QueueCreateRequest { ring: next, ..good };
    assert!(w.alice.create_queue(&behind).is_ok());
}

#[test]
fn a_ring_is_writable() {
    let w = World::new();
    let context = w.alice.context();
    let region = MemoryRegion {
        guest_addr: 1 << 40,
        size: 1 << 20,
        file: w.bob.guest.file().clone(),
        file_offset: 0,
        writable: false,
        populate: false,
    };
    w.alice.domain.memory().add_region(region).unwrap();
    let read_only = QueueCreateRequest {
        header: 1 << 40,
        ..w.alice.creatable(context)
    };
    assert_eq!(w.alice.create_queue(&read_only), Err(RingOutsideRam));
}

#[test]
fn invalidations_name_what_is_bound() {
    let w = World::new();
    w.alice.bind(&w.alice.bindable(4)).unwrap();
    let of = |scope, pasid, address, pages| InvalidateRequest {
        scope,
        pasid,
        address,
        pages,
        ..InvalidateRequest::default()
    };
    use invalidate_scope::{DOMAIN, PASID, RANGE};
    for good in [
        of(DOMAIN, 0, 0, 0),
        of(PASID, 4, 0, 0),
        of(PASID, 0, 0, 0),
        of(RANGE, 4, 0x1000, 1),
        of(RANGE, 0, 0x1000, 1),
        of(RANGE, 4, 0, 1 << 52),
    ] {
        assert_eq!(w.alice.invalidate(&good), Ok(()), "{good:?}");
    }
    for bad in [
        of(3, 0, 0, 0),
        of(0xff, 4, 0x1000, 1),
        of(DOMAIN, 4, 0, 0),
        of(DOMAIN, 0, 0x1000, 0),
        of(DOMAIN, 0, 0, 1),
        of(PASID, 4, 0x1000, 0),
        of(PASID, 4, 0, 1),
        of(RANGE, 4, 0x1000, 0),
        of(RANGE, 4, 0x1001, 1),
        of(RANGE, 4, 0x1000, 1 << 52),
        of(RANGE, 4, 0, u64::MAX),
    ] {
        assert_eq!(w.alice.invalidate(&bad), Err(BadArgument), "{bad:?}");
    }
    assert_eq!(w.alice.invalidate(&of(PASID, 5, 0, 0)), Err(NoSuchObject));
    assert_eq!(w.alice.invalidate(&of(RANGE, 5, 0, 1)), Err(NoSuchObject));
    assert_eq!(w.bob.invalidate(&of(PASID, 4, 0, 0)), Err(NoSuchObject));
}

#[test]
fn a_domain_that_runs_out_of_numbers_stops_itself_only() {
    let w = World::new();
    let context = w.alice.context();
    w.alice.domain.use_up_numbers();
    assert_eq!(w.alice.create_context(0, 1), Err(HostFailure));
    let queue = w.alice.creatable(context);
    assert_eq!(w.alice.create_queue(&queue), Err(HostFailure));
    let info = w.alice.domain.info();
    assert_eq!((info.contexts, info.queues), (1, 0));
    let context = w.bob.context();
    assert!(w.bob.create_queue(&w.bob.creatable(context)).is_ok());
}
