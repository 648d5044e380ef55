//! [`NvmeFunction`]: the function that vCPUs see, and the state that its thread serves.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::RawFd;
use std::sync::Arc;

use byway_nvme::controller::{Config, Controller, VECTORS};
use byway_nvme::layout::registers::{CC, DOORBELLS};
use byway_nvme::medium::Image;

use super::dma::Ram;
use super::doorbells::Doorbells;
use super::{BAR_BYTES, BLOCK_BYTES, PENDING, TABLE, TRANSFER_PAGES_LOG2};
use crate::devices::memory::DeviceMemory;
use crate::devices::seat::{Again, Confine, OwnThread, Seat, Serve};
use crate::pci::{COMMAND, ConfigSpace, Function, Identity, MSIX_CAPABILITY, Messages, Msix};

/// NVM Express, I/O controller (NVMe 1.4, section 2.1.5). Drivers go by that; by the number some go for others' mistakes.
const IDENTITY: Identity = Identity {
    device: 0xb101,
    class: [1, 8, 2],
};

/// An NVMe controller with one namespace.
#[derive(Debug)]
pub struct NvmeFunction {
    space: ConfigSpace,
    /// Where MSI-X is in configuration space.
    msix_at: usize,
    msix: Arc<Msix>,
    doorbells: Arc<Doorbells>,
    seat: Seat<State>,
}

#[derive(Debug)]
struct State {
    controller: Controller<Image>,
    memory: DeviceMemory,
    doorbells: Arc<Doorbells>,
    msix: Arc<Msix>,
    is_bus_master: bool,
}

impl NvmeFunction {
    /// A controller over the first `bytes` bytes of `file`, with its BAR at `address` until the guest moves it.
    /// `serial` has up to 16 letters, and is another for each controller of a VM.
    ///
    /// # Errors
    /// When the host has no eventfd left.
    pub fn new(
        memory: DeviceMemory,
        (file, bytes, readonly): (File, u64, bool),
        serial: &str,
        address: u64,
        messages: Box<dyn Messages>,
    ) -> io::Result<Self> {
        let config = Config {
            block_bytes: BLOCK_BYTES,
            transfer_pages_log2: TRANSFER_PAGES_LOG2,
            serial: serial.to_owned(),
            ..Config::default()
        };
        let medium = Image::with_bytes(file, bytes, readonly);
        let msix = Arc::new(Msix::new(VECTORS, messages));
        let mut space = ConfigSpace::new(IDENTITY);
        space.set_bar(address, BAR_BYTES);
        let (body, writable) = msix.capability(TABLE as u32, PENDING as u32);
        let msix_at = space.add_capability(MSIX_CAPABILITY, &body, &writable);
        let doorbells = Arc::new(Doorbells::new()?);
        let seat = Seat::new(State {
            controller: Controller::new(config, medium),
            memory,
            doorbells: Arc::clone(&doorbells),
            msix: Arc::clone(&msix),
            is_bus_master: false,
        })?;
        Ok(Self {
            space,
            msix_at,
            msix,
            doorbells,
            seat,
        })
    }

    /// Back to the state after creation, but for where the guest put its BAR. Afterwards it does not access the guest.
    pub fn reset(&mut self) {
        self.space.write(COMMAND, &[0; 2]);
        self.space.write(self.msix_at as u16 + 2, &[0; 2]);
        self.seat.with(|state| {
            state.is_bus_master = false;
            state.take_doorbells();
            state.controller.mmio_write(CC, 0, 4);
        });
        self.msix.reset();
    }
}

impl Function for NvmeFunction {
    fn config_read(&mut self, register: u16, data: &mut [u8]) {
        self.space.read(register, data);
    }

    fn config_write(&mut self, register: u16, data: &[u8]) {
        self.space.write(register, data);
        let is_bus_master = self.space.is_bus_master();
        let control = self.space.word(self.msix_at + 2);
        self.msix.configure(control, is_bus_master);
        // When this returns, one that no longer is accesses nothing.
        self.seat.with(|state| state.is_bus_master = is_bus_master);
    }

    fn bar(&self) -> Option<Range<u64>> {
        self.space.bar()
    }

    fn bar_read(&mut self, offset: u64, data: &mut [u8]) {
        if offset >= PENDING {
            self.msix.read_pending(offset - PENDING, data);
        } else if offset >= TABLE {
            self.msix.read_table(offset - TABLE, data);
        } else {
            let value = self.seat.with(|state| {
                state.take_doorbells();
                state.controller.mmio_read(offset, data.len())
            });
            for (byte, value) in data.iter_mut().zip(value.to_le_bytes()) {
                *byte = value;
            }
        }
    }

    fn bar_write(&mut self, offset: u64, data: &[u8]) {
        if offset >= TABLE {
            // What is behind the table cannot be written.
            return self.msix.write_table(offset - TABLE, data);
        }
        if offset >= DOORBELLS {
            // Of another width, or not aligned, it is none.
            if let (Ok(value), true) = (data.try_into(), offset.is_multiple_of(4)) {
                let value = u32::from_le_bytes(value);
                self.doorbells.ring(offset - DOORBELLS, value);
            }
            return;
        }
        let mut value = [0; 8];
        if let Some(room) = value.get_mut(..data.len()) {
            room.copy_from_slice(data);
            let value = u64::from_le_bytes(value);
            self.seat.with(|state| {
                // In the order in which they were written.
                state.take_doorbells();
                state.controller.mmio_write(offset, value, data.len());
            });
        }
    }
}

impl OwnThread for NvmeFunction {
    fn start_thread(&mut self, name: String, confine: Confine) -> io::Result<()> {
        self.seat.start(name, confine)
    }

    fn set_resting(&self, rests: bool) {
        self.seat.set_resting(rests);
    }

    fn settle(&self) {
        self.seat.with(|_| ());
    }
}

impl State {
    fn take_doorbells(&mut self) {
        let controller = &mut self.controller;
        self.doorbells.take(|offset, value| {
            controller.mmio_write(DOORBELLS + offset, value.into(), 4);
        });
    }
}

impl Serve for State {
    fn waits(&self) -> Vec<RawFd> {
        vec![self.doorbells.kick()]
    }

    fn serve(&mut self) -> Again {
        self.doorbells.clear_kick();
        self.take_doorbells();
        if !self.is_bus_master {
            return Again::WhenReady;
        }
        let ram = Ram::new(&self.memory);
        let msix = &self.msix;
        let fetched = self
            .controller
            .process(&ram, &mut |vector| msix.raise(vector));
        if fetched > 0 || self.controller.arm(&ram) {
            Again::Now
        } else {
            Again::WhenReady
        }
    }
}
