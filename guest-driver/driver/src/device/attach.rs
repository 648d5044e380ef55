//! Attaching, resetting and detaching the device (virtio 3.1; SPEC section 9).
//!
//! Owns the order of the steps, and the rule that the device's memory is never
//! given back before the device has acknowledged a reset.

use super::{CONTROL_ENTRIES, Device, EVENT_ENTRIES, EngineInfo, Failure, Options, events};
use crate::dma::Dma;
use crate::error::{Broken, Error};
use crate::hal::Hal;
use crate::handshake;
use crate::transport::{Transport, status};
use crate::virtqueue::Virtqueue;
use byway_protocols::config::{CONTROL_QUEUE, EVENT_QUEUE, MAGIC};
use byway_protocols::{ABI_VERSION, ConfigSpace};
use core::mem::offset_of;

impl<T: Transport, H: Hal> Device<T, H> {
    /// Checks that the device is Byway's, resets it, sets both virtqueues up and asks the engine
    /// who it is (virtio 3.1.1, SPEC sections 1 and 9).
    ///
    /// Nothing is written to the device before its magic and version were read, so that a
    /// device of somebody else's is not disturbed.
    ///
    /// # Errors
    /// With what was given, so that the kernel can look elsewhere.
    pub fn attach(mut transport: T, mut hal: H, options: Options) -> Result<Self, Failure<T, H>> {
        if let Err(error) = identify(&mut transport) {
            return Err(Failure {
                error,
                transport,
                hal,
            });
        }
        let Some(control_pages) = hal.allocate(1) else {
            return Err(Failure {
                error: Error::NoMemory,
                transport,
                hal,
            });
        };
        let Some(event_pages) = hal.allocate(1) else {
            // SAFETY: allocated above, and no device has heard of it.
            unsafe { hal.free(control_pages) };
            return Err(Failure {
                error: Error::NoMemory,
                transport,
                hal,
            });
        };
        let mut device = Self {
            transport,
            hal,
            options,
            control: Virtqueue::new(),
            control_dma: Dma::new(control_pages),
            events: Virtqueue::new(),
            events_dma: Dma::new(event_pages),
            sequence: events::Sequence::default(),
            engine: EngineInfo::unknown(),
            generation: 0,
            tag: 1,
            broken: None,
        };
        match device.reset() {
            Ok(()) => Ok(device),
            Err(error) => {
                let (transport, hal, _) = device.give_back();
                Err(Failure {
                    error,
                    transport,
                    hal,
                })
            }
        }
    }

    /// Resets the device and attaches it anew, whatever state it was in (virtio 2.4). All address
    /// spaces, contexts, queues and capabilities are gone afterwards; nothing under an old right is
    /// in flight when this returns.
    ///
    /// # Errors
    /// As for [`Self::attach`]; the device stays broken then, and this may be tried again.
    pub fn reset(&mut self) -> Result<(), Error> {
        self.generation = self.generation.wrapping_add(1);
        let result = self.restart();
        match result {
            Ok(()) => {}
            Err(Error::Broken(how)) => self.broken = Some(how),
            // Half attached: unusable until another reset succeeds.
            Err(_) => {
                self.transport.set_status(status::FAILED);
                self.broken = Some(Broken::NeedsReset);
            }
        }
        result
    }

    /// Resets the device, frees what the driver allocated, and returns transport and `Hal`.
    /// Queues that were allocated by the driver are given back before, or leak.
    ///
    /// # Errors
    /// The device did not acknowledge the reset: its two pages are leaked, because it may still
    /// write to them.
    pub fn detach(self) -> Result<(T, H), Failure<T, H>> {
        match self.give_back() {
            (transport, hal, Ok(())) => Ok((transport, hal)),
            (transport, hal, Err(error)) => Err(Failure {
                error,
                transport,
                hal,
            }),
        }
    }

    /// The way down, and whether the device acknowledged it.
    fn give_back(mut self) -> (T, H, Result<(), Error>) {
        let quiet = self.quiesce();
        if quiet.is_ok() {
            // SAFETY: they came from this `hal`, and the device acknowledged a reset, after which it
            // touches no memory (virtio 2.4.1).
            unsafe {
                self.hal.free(self.control_dma.into_pages());
                self.hal.free(self.events_dma.into_pages());
            }
        }
        (self.transport, self.hal, quiet)
    }

    fn restart(&mut self) -> Result<(), Error> {
        self.quiesce()?;
        self.broken = None;
        identify(&mut self.transport)?;
        // VIRTIO_F_VERSION_1 and nothing else.
        handshake::negotiate(&mut self.transport, 0)?;
        self.set_up_queues()?;
        handshake::go(&mut self.transport);
        self.transport.notify(EVENT_QUEUE);
        self.engine = self.ask()?;
        Ok(())
    }

    /// Resets the device and waits until it says that it is (virtio 2.4.2).
    fn quiesce(&mut self) -> Result<(), Error> {
        handshake::reset(&mut self.transport, &mut self.hal, self.options.timeout_ns)
    }

    fn set_up_queues(&mut self) -> Result<(), Error> {
        self.control_dma.clear();
        self.control = Virtqueue::new();
        self.control
            .set_interrupts(&self.control_dma, self.options.reply_interrupts);
        self.events_dma.clear();
        self.events = Virtqueue::new();
        self.sequence = events::Sequence::default();
        self.stock_events();

        for (queue, entries) in [
            (CONTROL_QUEUE, CONTROL_ENTRIES),
            (EVENT_QUEUE, EVENT_ENTRIES),
        ] {
            handshake::check_queue(&mut self.transport, queue, entries)?;
        }
        let addresses = Virtqueue::<CONTROL_ENTRIES>::addresses(&self.control_dma);
        self.transport.enable_queue(CONTROL_QUEUE, &addresses);
        let addresses = Virtqueue::<EVENT_ENTRIES>::addresses(&self.events_dma);
        self.transport.enable_queue(EVENT_QUEUE, &addresses);
        Ok(())
    }
}

/// Reads who the device is, changing nothing (SPEC section 9).
fn identify<T: Transport>(transport: &mut T) -> Result<(), Error> {
    transport.probe()?;
    let found = transport.config_u32(offset_of!(ConfigSpace, magic));
    if found != MAGIC {
        return Err(Error::NotByway { found });
    }
    let engine = transport.config_u32(offset_of!(ConfigSpace, version));
    // Version 0 never existed. A newer engine also speaks this driver's version or says
    // otherwise in its answer to QUERY.
    if engine == 0 {
        return Err(Error::AbiVersion { engine });
    }
    const {
        assert!(
            ABI_VERSION == 1,
            "a second version needs a lowest one to compare with"
        )
    };
    Ok(())
}
