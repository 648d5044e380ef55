//! [`EngineCommands`]: what a process has the kernel ask of the engine.
//!
//! Owns nothing. Numbers of the engine's objects pass through unchecked: the engine is to refuse
//! them. What the kernel itself relies on - which queue is mapped where - goes by its own records.

use byway_agent::commands::{
    Accept, Accepted, ArmQueue, Armed, AwaitOffer, BindRoot, Bound, CapabilityIs, CloseContext,
    ContextClosed, ContextOpened, CreatePort, CreateQueue, CreateQueueAt, Derive, Derived,
    DestroyQueue, DeviceIsReset, DeviceReset, Doorbell, DropCapability, Dropped, EndpointOpened,
    EngineCommands, EngineIs, EventWas, Invalidate, Invalidated, KeyLoaded, LoadKey, Lookup,
    NextEvent, Noise, NoiseMade, Offer, OfferCame, Offered, OpenContext, OpenEndpoint, PASID_OWN,
    Peer, PortCreated, QueryCapability, QueryEngine, QueueCreated, QueueCreatedAt, QueueDestroyed,
    Revoke, Revoked, Rung, Unbind, Unbound, capability, capability_context, capability_slot,
};
use byway_agent::layout::Process;
use byway_agent::{Failure, Status};
use byway_driver::{
    Bind, CapSlot, ContextId, DomainId, DriverEvent, Error, Invalidation, OfferId, Pasid, Rights,
    RingAddresses, RingLayout,
};
use byway_protocols::codec::{KEY_BYTES_MAX, KeyAlgorithm};
use byway_protocols::control::{bind_flags, invalidate_scope, queue_flags};
use byway_protocols::event::EventKind;

use crate::kernel::device::{Byway, OwnContext, QueueRecord, failure, own_pasid, ticks};
use crate::kernel::frames::direct;
use crate::kernel::machine::Machine;
use crate::kernel::noise;
use crate::layout::{PAGE, QUEUES};

/// `value` as 32 bits, or the complaint that argument `index` is too large.
fn narrow(index: u64, value: u64) -> Result<u32, Failure> {
    u32::try_from(value).map_err(|_| Failure::argument(index, value))
}

/// `value` as 8 bits.
fn byte(index: u64, value: u64) -> Result<u8, Failure> {
    u8::try_from(value).map_err(|_| Failure::argument(index, value))
}

/// A capability's name as the driver has it.
fn slot(name: u64) -> CapSlot {
    CapSlot::new(
        ContextId(capability_context(name) as u32),
        capability_slot(name) as u32,
    )
}

/// A capability's name as the mailbox has it.
fn name(slot: CapSlot) -> u64 {
    capability(u64::from(slot.context.0), u64::from(slot.slot))
}

/// Rights as they came: the engine refuses bits that it does not know.
fn rights(index: u64, value: u64) -> Result<Rights, Failure> {
    narrow(index, value).map(Rights)
}

/// Physical address bits, by CPUID.
fn cpu_maxphyaddr() -> u8 {
    core::arch::x86_64::__cpuid(0x8000_0008).eax as u8
}

impl Machine {
    fn byway(&mut self) -> Result<&mut Byway, Failure> {
        self.byway.as_mut().ok_or(Failure::new(Status::NoDevice, 0))
    }

    /// Unmaps a queue and frees its pages. The engine must not serve it any more.
    fn release_queue(&mut self, record: QueueRecord) {
        let (task, frames) = self.task_and_frames(record.process);
        let va = QUEUES.address(record.place);
        task.space.unmap_window(frames, va, record.pages);
        frames.give_run(record.gpa, record.pages);
    }

    /// Releases all queues on record for which `ended` holds.
    fn release_queues(&mut self, ended: impl Fn(&QueueRecord) -> bool) {
        loop {
            let Some(byway) = &mut self.byway else { return };
            let found = byway
                .queues
                .iter_mut()
                .find(|slot| slot.as_ref().is_some_and(&ended));
            let Some(record) = found.and_then(Option::take) else {
                return;
            };
            self.release_queue(record);
        }
    }

    fn bind_own(&mut self, process: Process, request: &OpenContext) -> Result<(), Failure> {
        let flags = request.flags;
        if flags & !u64::from(bind_flags::ALL) != 0 {
            return Err(Failure::argument(3, flags));
        }
        let maxphyaddr = match byte(2, request.maxphyaddr)? {
            0 => cpu_maxphyaddr(),
            bits => bits,
        };
        let tables = self.task_and_frames(process).0.space.tables;
        let byway = self.byway()?;
        if byway.bound[process as usize] {
            return Ok(());
        }
        let bind = Bind {
            pasid: own_pasid(process),
            root: tables.root,
            levels: tables.levels as u8,
            maxphyaddr,
            nxe: true,
            pages_1g: flags & u64::from(bind_flags::PAGES_1G) != 0,
            no_ad: flags & u64::from(bind_flags::NO_AD) != 0,
            invalidation_page: 0,
        };
        byway.device().bind(&bind).map_err(failure)?;
        byway.bound[process as usize] = true;
        Ok(())
    }

    fn unbind_own_if_unused(&mut self, process: Process) -> Result<(), Failure> {
        let byway = self.byway()?;
        let used = byway
            .contexts
            .iter()
            .flatten()
            .any(|own| own.process == process);
        if !used && byway.bound[process as usize] {
            byway.device().unbind(own_pasid(process)).map_err(failure)?;
            byway.bound[process as usize] = false;
        }
        Ok(())
    }
}

impl EngineCommands for Machine {
    fn query_engine(&mut self, _request: QueryEngine) -> Result<EngineIs, Failure> {
        let engine = self.byway()?.device().query().map_err(failure)?;
        Ok(EngineIs {
            version: u64::from(engine.version),
            instance: u64::from(engine.instance),
            features: engine.features,
            domain: u64::from(engine.domain.0),
            workers: u64::from(engine.workers),
            queue_entries_max: u64::from(engine.queue_entries_max),
            slots_max: u64::from(engine.slots_max),
            park_us: u64::from(engine.park_us),
        })
    }

    fn lookup(&mut self, request: Lookup) -> Result<Peer, Failure> {
        let mut bytes = [0; 32];
        let len = request.name_len as usize;
        let bytes = bytes
            .get_mut(..len)
            .ok_or(Failure::argument(0, request.name_len))?;
        self.read_bulk(bytes);
        let name =
            core::str::from_utf8(bytes).map_err(|_| Failure::argument(0, request.name_len))?;
        let peer = self.byway()?.device().lookup(name).map_err(failure)?;
        Ok(Peer {
            domain: u64::from(peer.domain.0),
            rights_out: u64::from(peer.rights_out.0),
            rights_in: u64::from(peer.rights_in.0),
        })
    }

    fn bind_root(&mut self, request: BindRoot) -> Result<Bound, Failure> {
        let flag = |bit: u16| request.flags & u64::from(bit) != 0;
        if request.flags & !u64::from(bind_flags::ALL) != 0 {
            return Err(Failure::argument(4, request.flags));
        }
        let bind = Bind {
            root: request.root,
            pasid: Pasid(narrow(1, request.pasid)?),
            levels: byte(2, request.levels)?,
            maxphyaddr: byte(3, request.maxphyaddr)?,
            nxe: flag(bind_flags::NXE),
            pages_1g: flag(bind_flags::PAGES_1G),
            no_ad: flag(bind_flags::NO_AD),
            invalidation_page: request.invalidation_page,
        };
        self.byway()?.device().bind(&bind).map_err(failure)?;
        Ok(Bound {})
    }

    fn unbind(&mut self, request: Unbind) -> Result<Unbound, Failure> {
        let pasid = Pasid(narrow(0, request.pasid)?);
        let byway = self.byway()?;
        byway.device().unbind(pasid).map_err(failure)?;
        for process in Process::ALL {
            byway.bound[process as usize] &= own_pasid(process) != pasid;
        }
        Ok(Unbound {})
    }

    fn open_context(&mut self, request: OpenContext) -> Result<ContextOpened, Failure> {
        let process = self.current_process();
        let own = request.pasid == PASID_OWN;
        let slots = narrow(1, request.slots)?;
        let pasid = if own {
            own_pasid(process)
        } else {
            Pasid(narrow(0, request.pasid)?)
        };
        let free = self.byway()?.contexts.iter().position(Option::is_none);
        let free = free.ok_or(Failure::new(Status::NoMemory, 1))?;
        if own {
            self.bind_own(process, &request)?;
        }
        let byway = self.byway()?;
        let context = byway
            .device()
            .create_context(pasid, slots)
            .map_err(failure)?;
        if own {
            byway.contexts[free] = Some(OwnContext {
                context: context.0,
                process,
            });
        }
        Ok(ContextOpened {
            context: u64::from(context.0),
            pasid: u64::from(pasid.0),
        })
    }

    fn close_context(&mut self, request: CloseContext) -> Result<ContextClosed, Failure> {
        let context = Byway::context_id(request.context)?;
        let byway = self.byway()?;
        byway.device().destroy_context(context).map_err(failure)?;
        let generation = byway.device().generation();
        let own = byway
            .contexts
            .iter_mut()
            .find(|own| own.is_some_and(|own| own.context == context.0));
        let own = own.and_then(Option::take);
        self.release_queues(|r| r.context == context.0 && r.generation == generation);
        if let Some(own) = own {
            self.unbind_own_if_unused(own.process)?;
        }
        Ok(ContextClosed {})
    }

    fn create_queue(&mut self, request: CreateQueue) -> Result<QueueCreated, Failure> {
        let process = self.current_process();
        let context = Byway::context_id(request.context)?;
        let entries = narrow(1, request.entries)?;
        if request.flags & !u64::from(queue_flags::ALL) != 0 {
            return Err(Failure::argument(2, request.flags));
        }
        let layout = RingLayout::new(entries).ok_or(Failure::argument(1, request.entries))?;
        let no_memory = Failure::new(Status::NoMemory, layout.pages() as u64 * PAGE);
        let (index, place) = self.byway()?.free_place(process).ok_or(no_memory)?;
        let gpa = self.frames.take_run(layout.pages()).ok_or(no_memory)?;
        // SAFETY: frames that were just taken, and all RAM is mapped.
        unsafe { direct::<u8>(gpa).write_bytes(0, layout.pages() * PAGE as usize) };

        let va = QUEUES.address(place);
        let (task, frames) = self.task_and_frames(process);
        let mapped = task.space.map_window(frames, va, gpa, layout.pages());
        let no_park = request.flags & u64::from(queue_flags::NO_PARK) != 0;
        let byway = self.byway()?;
        let created = match mapped {
            Ok(()) => byway
                .device()
                .create_queue(context, &layout.at(gpa), no_park)
                .map_err(failure),
            Err(out_of_frames) => Err(out_of_frames.into()),
        };
        let record = QueueRecord {
            queue: created.map_or(0, |id| id.0),
            context: context.0,
            process,
            place,
            gpa,
            pages: layout.pages(),
            generation: byway.device().generation(),
        };
        match created {
            Ok(id) => {
                byway.queues[index] = Some(record);
                let at = layout.at(va);
                Ok(QueueCreated {
                    queue: u64::from(id.0),
                    ring: at.ring,
                    completions: at.completions,
                    header: at.header,
                    gpa,
                    bytes: layout.pages() as u64 * PAGE,
                })
            }
            Err(refused) => {
                // Without an answer the engine may have taken the pages: then they are lost.
                if refused.status != Status::NoDevice {
                    self.release_queue(record);
                }
                Err(refused)
            }
        }
    }

    fn create_queue_at(&mut self, request: CreateQueueAt) -> Result<QueueCreatedAt, Failure> {
        let rings = RingAddresses {
            entries: narrow(1, request.entries)?,
            ring: request.ring,
            completions: request.completions,
            header: request.header,
        };
        let context = Byway::context_id(request.context)?;
        let id = self
            .byway()?
            .device()
            .create_queue(context, &rings, request.flags != 0)
            .map_err(failure)?;
        Ok(QueueCreatedAt {
            queue: u64::from(id.0),
        })
    }

    fn destroy_queue(&mut self, request: DestroyQueue) -> Result<QueueDestroyed, Failure> {
        let process = self.current_process();
        let byway = self.byway()?;
        let record = byway
            .queue_of(process, request.queue)
            .and_then(|slot| *slot);
        if record.is_none_or(|record| byway.is_current(&record)) {
            let id = Byway::queue_id(request.queue)?;
            byway.device().destroy_queue(id).map_err(failure)?;
        }
        if let Some(record) = byway
            .queue_of(process, request.queue)
            .and_then(Option::take)
        {
            self.release_queue(record);
        }
        Ok(QueueDestroyed {})
    }

    fn arm_queue(&mut self, request: ArmQueue) -> Result<Armed, Failure> {
        let id = Byway::queue_id(request.queue)?;
        self.byway()?.device().arm(id).map_err(failure)?;
        Ok(Armed {})
    }

    fn doorbell(&mut self, _request: Doorbell) -> Result<Rung, Failure> {
        self.byway()?.device().doorbell();
        Ok(Rung {})
    }

    fn derive(&mut self, request: Derive) -> Result<Derived, Failure> {
        let derive = byway_driver::Derive {
            parent: slot(request.parent),
            base: request.base,
            length: request.length,
            rights: rights(4, request.rights)?,
            target: slot(request.target),
            badge: request.badge,
            lifetime_ns: request.lifetime_ns,
            byte_quota: request.byte_quota,
        };
        let derived = self.byway()?.device().derive(&derive).map_err(failure)?;
        Ok(Derived {
            capability: name(derived),
        })
    }

    fn create_port(&mut self, request: CreatePort) -> Result<PortCreated, Failure> {
        let port = byway_driver::PortCreate {
            target: slot(request.target),
            depth: narrow(1, request.depth)?,
            bytes: narrow(2, request.bytes)?,
            badge: request.badge,
        };
        let created = self.byway()?.device().create_port(&port).map_err(failure)?;
        Ok(PortCreated {
            capability: name(created),
        })
    }

    fn open_endpoint(&mut self, request: OpenEndpoint) -> Result<EndpointOpened, Failure> {
        let mut bytes = [0; 32];
        let wrong = Failure::argument(1, request.name_len);
        let bytes = bytes.get_mut(..request.name_len as usize).ok_or(wrong)?;
        self.read_bulk(bytes);
        let text = core::str::from_utf8(bytes).map_err(|_| wrong)?;
        let endpoint = byway_driver::Name::new(text).ok_or(wrong)?;
        let device = self.byway()?.device();
        let opened = device.open_endpoint(slot(request.target), endpoint, request.badge);
        let opened = opened.map_err(failure)?;
        Ok(EndpointOpened {
            capability: name(opened.slot),
            length: opened.length,
            rights: u64::from(opened.rights.0),
            block_bytes: u64::from(opened.block_bytes),
            features: u64::from(opened.features),
        })
    }

    fn load_key(&mut self, request: LoadKey) -> Result<KeyLoaded, Failure> {
        let algorithm = narrow(1, request.algorithm)?;
        let mut key = [0; KEY_BYTES_MAX];
        let key = key
            .get_mut(..request.length as usize)
            .ok_or(Failure::argument(2, request.length))?;
        self.read_bulk(key);
        let load = byway_driver::KeyLoad {
            target: slot(request.target),
            algorithm: KeyAlgorithm::from_code(algorithm)
                .ok_or(Failure::argument(1, request.algorithm))?,
            key,
            rights: rights(3, request.rights)?,
            badge: request.badge,
        };
        let loaded = self.byway()?.device().load_key(&load);
        key.fill(0);
        Ok(KeyLoaded {
            capability: name(loaded.map_err(failure)?),
        })
    }

    fn offer(&mut self, request: Offer) -> Result<Offered, Failure> {
        let domain = DomainId(narrow(1, request.domain)?);
        let given = rights(2, request.rights)?;
        let device = self.byway()?.device();
        let offer = device.offer(slot(request.capability), domain, given, request.label);
        Ok(Offered {
            offer: offer.map_err(failure)?.0,
        })
    }

    fn await_offer(&mut self, request: AwaitOffer) -> Result<OfferCame, Failure> {
        let start = ticks();
        loop {
            self.drain_events();
            if let Some(DriverEvent::CapabilityOffered {
                domain,
                offer,
                length,
                rights,
                ..
            }) = self.byway()?.take_offer(request.label)
            {
                return Ok(OfferCame {
                    offer: offer.0,
                    domain: u64::from(domain.0),
                    length,
                    rights: u64::from(rights.0),
                });
            }
            if ticks() - start > request.ticks {
                return Err(Failure::new(Status::TimedOut, 0));
            }
            core::hint::spin_loop();
        }
    }

    fn accept(&mut self, request: Accept) -> Result<Accepted, Failure> {
        let device = self.byway()?.device();
        let accepted = device
            .accept(OfferId(request.offer), slot(request.target))
            .map_err(failure)?;
        Ok(Accepted {
            capability: name(accepted.slot),
            rights: u64::from(accepted.rights.0),
            length: accepted.length,
            badge: accepted.badge,
            domain: u64::from(accepted.domain.0),
        })
    }

    fn revoke(&mut self, request: Revoke) -> Result<Revoked, Failure> {
        let capability = slot(request.capability);
        let device = self.byway()?.device();
        let start = ticks();
        match request.descendants_only {
            0 => device.revoke(capability),
            1 => device.revoke_descendants(capability),
            other => return Err(Failure::argument(1, other)),
        }
        .map_err(failure)?;
        Ok(Revoked {
            ticks: ticks() - start,
        })
    }

    fn drop_capability(&mut self, request: DropCapability) -> Result<Dropped, Failure> {
        self.byway()?
            .device()
            .drop_capability(slot(request.capability))
            .map_err(failure)?;
        Ok(Dropped {})
    }

    fn query_capability(&mut self, request: QueryCapability) -> Result<CapabilityIs, Failure> {
        let device = self.byway()?.device();
        let info = device
            .query_capability(slot(request.capability))
            .map_err(failure)?;
        Ok(CapabilityIs {
            state: info.state as u64,
            rights: u64::from(info.rights.0),
            length: info.length,
            badge: info.badge,
            depth_and_domain: u64::from(info.depth) << 32 | u64::from(info.domain.0),
            descendants: info.descendants,
            bytes_read: info.bytes_read,
            bytes_written: info.bytes_written,
        })
    }

    fn invalidate(&mut self, request: Invalidate) -> Result<Invalidated, Failure> {
        let process = self.current_process();
        let pasid = match request.pasid {
            PASID_OWN => own_pasid(process),
            other => Pasid(narrow(1, other)?),
        };
        let what = match byte(0, request.scope)? {
            invalidate_scope::DOMAIN => Invalidation::Domain,
            invalidate_scope::PASID => Invalidation::Pasid(pasid),
            invalidate_scope::RANGE => Invalidation::Range {
                pasid,
                address: request.address,
                pages: request.pages,
            },
            other => return Err(Failure::argument(0, u64::from(other))),
        };
        let device = self.byway()?.device();
        let start = ticks();
        let waited = device.invalidate(what).map_err(failure)?;
        Ok(Invalidated {
            waited_chunks: u64::from(waited),
            ticks: ticks() - start,
        })
    }

    fn device_reset(&mut self, _request: DeviceReset) -> Result<DeviceIsReset, Failure> {
        let byway = self.byway()?;
        let outcome: Result<(), Error> = byway.device().reset();
        byway.forget_all();
        outcome.map_err(failure)?;
        Ok(DeviceIsReset {
            instance: u64::from(byway.device().engine().instance),
        })
    }

    fn noise(&mut self, request: Noise) -> Result<NoiseMade, Failure> {
        let answered = noise::send(self.byway()?.device(), &request)?;
        Ok(NoiseMade { answered })
    }

    fn next_event(&mut self, _request: NextEvent) -> Result<EventWas, Failure> {
        self.drain_events();
        let event = self.byway()?.take_event();
        let none = EventWas {
            kind: 0,
            object: 0,
            id: 0,
            label: 0,
            length: 0,
            rights: 0,
        };
        let of = |kind: EventKind| EventWas {
            kind: kind as u64,
            ..none
        };
        Ok(match event {
            None => none,
            Some(DriverEvent::CapabilityOffered {
                domain,
                offer,
                label,
                length,
                rights,
            }) => EventWas {
                object: u64::from(domain.0),
                id: offer.0,
                label,
                length,
                rights: u64::from(rights.0),
                ..of(EventKind::CapabilityOffered)
            },
            Some(DriverEvent::CapabilityRevoked(slot)) => EventWas {
                id: name(slot),
                ..of(EventKind::CapabilityRevoked)
            },
            // Answered when it came; none is kept.
            Some(DriverEvent::PageRequest(request)) => EventWas {
                id: request.request,
                label: request.address,
                ..of(EventKind::PageRequest)
            },
            Some(DriverEvent::Completion(queue)) => EventWas {
                object: u64::from(queue.0),
                ..of(EventKind::Completion)
            },
            Some(DriverEvent::DomainGone(domain)) => EventWas {
                object: u64::from(domain.0),
                ..of(EventKind::DomainGone)
            },
            Some(DriverEvent::QueueDead { queue, status }) => EventWas {
                object: u64::from(queue.0),
                id: status.map_or(0, |status| status as u64),
                ..of(EventKind::QueueDead)
            },
            Some(DriverEvent::Lost { count }) => EventWas {
                length: count,
                ..of(EventKind::Lost)
            },
            // A kind that the driver does not know; it has no fields that could be told.
            Some(DriverEvent::Unknown { kind }) => EventWas {
                kind: u64::from(kind),
                ..none
            },
            Some(_) => none,
        })
    }
}
