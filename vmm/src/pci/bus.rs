//! [`Root`]: bus 0, and what of it lies on a VM's buses: [`Ecam`], [`ConfigPorts`] and [`Window`].

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{DEVICES_MAX, Function};
use crate::devices::bus::BusDevice;
use crate::layout;

/// Bytes of one function's configuration space in an ECAM window (PCI Express 3.0, 7.2.2).
const FUNCTION_BYTES: u64 = 4096;
/// Functions of a device.
const FUNCTIONS: u64 = 8;
/// Bit 31 of the address port: configuration space is meant (section 3.2.2.3.2).
const ENABLE: u32 = 1 << 31;
/// Bits of the address port that are there: enable, bus, device, function, register.
const ADDRESS_BITS: u32 = 0x80ff_fffc;

type Shared = Arc<Mutex<dyn Function>>;

/// The functions of bus 0, by device number. Filled while the VM is built.
#[derive(Default)]
pub struct Root(Vec<Shared>);

impl fmt::Debug for Root {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Root with {} devices", self.0.len())
    }
}

impl Root {
    /// Adds a device with the next number, which is returned.
    ///
    /// # Panics
    /// When there are [`DEVICES_MAX`]; a VM's configuration bounds them far below.
    pub fn add(&mut self, function: Shared) -> usize {
        assert!(
            self.0.len() < DEVICES_MAX,
            "a bus has {DEVICES_MAX} devices"
        );
        self.0.push(function);
        self.0.len() - 1
    }

    /// Function `number`, device and function together; only functions 0 are there.
    fn function(&self, number: u64) -> Option<MutexGuard<'_, dyn Function + 'static>> {
        let is_there = number.is_multiple_of(FUNCTIONS);
        let found = self.0.get((number / FUNCTIONS) as usize);
        found.filter(|_| is_there).map(lock)
    }

    /// Of a function that is not there all ones are read.
    fn config_read(&self, number: u64, register: u64, data: &mut [u8]) {
        match self.function(number) {
            Some(mut function) => function.config_read(register as u16, data),
            None => data.fill(0xff),
        }
    }

    fn config_write(&self, number: u64, register: u64, data: &[u8]) {
        if let Some(mut function) = self.function(number) {
            function.config_write(register as u16, data);
        }
    }

    /// The function that answers at `len` bytes from `address`, and where in its BAR that is. Of two, the first.
    fn decode(
        &self,
        address: u64,
        len: usize,
    ) -> Option<(MutexGuard<'_, dyn Function + 'static>, u64)> {
        let end = address.checked_add(len as u64)?;
        self.0.iter().map(lock).find_map(|function| {
            let bar = function.bar()?;
            let is_inside = bar.start <= address && end <= bar.end;
            is_inside.then(|| (function, address - bar.start))
        })
    }
}

fn lock(function: &Shared) -> MutexGuard<'_, dyn Function + 'static> {
    // What a panicking thread left is registers like any other.
    function.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Configuration space in memory: 4096 bytes for each function. An access that crosses from one into the next is none.
#[derive(Debug)]
pub struct Ecam(pub Arc<Root>);

impl Ecam {
    fn is_inside(offset: u64, len: usize) -> bool {
        offset % FUNCTION_BYTES + len as u64 <= FUNCTION_BYTES
    }
}

impl BusDevice for Ecam {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        if Self::is_inside(offset, data.len()) {
            self.0
                .config_read(offset / FUNCTION_BYTES, offset % FUNCTION_BYTES, data);
        } else {
            data.fill(0xff);
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        if Self::is_inside(offset, data.len()) {
            self.0
                .config_write(offset / FUNCTION_BYTES, offset % FUNCTION_BYTES, data);
        }
    }
}

/// Configuration space by two ports of four bytes: the address, then the data there (section 3.2.2.3.2).
#[derive(Debug)]
pub struct ConfigPorts {
    root: Arc<Root>,
    address: u32,
}

impl ConfigPorts {
    /// With no address written yet.
    #[must_use]
    pub fn new(root: Arc<Root>) -> Self {
        Self { root, address: 0 }
    }

    /// What an access to the data port means: function and register. Only bus 0 is there.
    fn target(&self, offset: u64) -> Option<(u64, u64)> {
        let is_ours = self.address & ENABLE != 0 && self.address >> 16 & 0xff == 0;
        let byte = offset.checked_sub(4).filter(|_| is_ours)?;
        let register = u64::from(self.address & 0xfc) + byte;
        Some((u64::from(self.address >> 8 & 0xff), register))
    }
}

impl BusDevice for ConfigPorts {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        if offset == 0 && data.len() == 4 {
            data.copy_from_slice(&self.address.to_le_bytes());
        } else if let Some((function, register)) = self.target(offset) {
            self.root.config_read(function, register, data);
        } else {
            data.fill(0xff);
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        if let (0, Ok(address)) = (offset, data.try_into()) {
            self.address = u32::from_le_bytes(address) & ADDRESS_BITS;
        } else if let Some((function, register)) = self.target(offset) {
            self.root.config_write(function, register, data);
        }
    }
}

/// The addresses that BARs can be put to. Where none is, all ones are read.
#[derive(Debug)]
pub struct Window(pub Arc<Root>);

impl BusDevice for Window {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        match self.0.decode(layout::PCI_WINDOW + offset, data.len()) {
            Some((mut function, offset)) => function.bar_read(offset, data),
            None => data.fill(0xff),
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        if let Some((mut function, offset)) = self.0.decode(layout::PCI_WINDOW + offset, data.len())
        {
            function.bar_write(offset, data);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::HostBridge;
    use super::super::config_space::{ConfigSpace, Identity};
    use super::*;
    use crate::layout::{PCI_ECAM_SIZE, PCI_WINDOW, PCI_WINDOW_SIZE};
    use proptest::prelude::*;
    use std::ops::Range;

    /// A function whose BAR is memory.
    struct Memory {
        space: ConfigSpace,
        bytes: Vec<u8>,
    }

    impl Function for Memory {
        fn config_read(&mut self, register: u16, data: &mut [u8]) {
            self.space.read(register, data);
        }
        fn config_write(&mut self, register: u16, data: &[u8]) {
            self.space.write(register, data);
        }
        fn bar(&self) -> Option<Range<u64>> {
            self.space.bar()
        }
        fn bar_read(&mut self, offset: u64, data: &mut [u8]) {
            let at = offset as usize;
            data.copy_from_slice(&self.bytes[at..at + data.len()]);
        }
        fn bar_write(&mut self, offset: u64, data: &[u8]) {
            let at = offset as usize;
            self.bytes[at..at + data.len()].copy_from_slice(data);
        }
    }

    fn root(devices: u64) -> Arc<Root> {
        let mut root = Root::default();
        root.add(Arc::new(Mutex::new(HostBridge::default())));
        for device in 1..=devices {
            let mut space = ConfigSpace::new(Identity {
                device: 0x100 + device as u16,
                class: [5, 0, 0],
            });
            space.set_bar(PCI_WINDOW + 0x1000 * device, 0x1000);
            root.add(Arc::new(Mutex::new(Memory {
                space,
                bytes: vec![device as u8; 0x1000],
            })));
        }
        Arc::new(root)
    }

    fn read(device: &mut dyn BusDevice, offset: u64) -> u32 {
        let mut data = [0; 4];
        device.read(offset, &mut data);
        u32::from_le_bytes(data)
    }

    fn write(device: &mut dyn BusDevice, offset: u64, value: u32) {
        device.write(offset, &value.to_le_bytes());
    }

    #[test]
    fn functions_are_found_by_both_ways() {
        let root = root(2);
        let mut ecam = Ecam(Arc::clone(&root));
        let mut ports = ConfigPorts::new(root);
        for (device, function, id) in [
            (0, 0, 0xb100_1234),
            (1, 0, 0x0101_1234),
            (2, 0, 0x0102_1234),
            (3, 0, u32::MAX),
            (31, 0, u32::MAX),
            (1, 1, u32::MAX),
        ] {
            assert_eq!(read(&mut ecam, device << 15 | function << 12), id);
            write(
                &mut ports,
                0,
                (1 << 31 | device << 11 | function << 8) as u32,
            );
            assert_eq!(read(&mut ports, 4), id);
        }
        assert_eq!(
            read(&mut ecam, 1 << 15 | 0x100),
            0,
            "no extended capability"
        );
        assert_eq!(read(&mut ecam, 1 << 15 | 0xffe), u32::MAX, "it crosses");
        // Another bus; not enabled.
        write(&mut ports, 0, 1 << 31 | 1 << 16);
        assert_eq!(read(&mut ports, 4), u32::MAX);
        write(&mut ports, 0, 0);
        assert_eq!(read(&mut ports, 4), u32::MAX);
    }

    #[test]
    fn the_address_port_is_four_bytes_wide() {
        let mut ports = ConfigPorts::new(root(1));
        write(&mut ports, 0, u32::MAX);
        assert_eq!(read(&mut ports, 0), ADDRESS_BITS);
        ports.write(1, &[0; 1]);
        ports.write(0, &[0; 2]);
        assert_eq!(read(&mut ports, 0), ADDRESS_BITS);
        let mut byte = [0];
        ports.read(1, &mut byte);
        assert_eq!(byte, [0xff]);
        // Part of a register, by part of the data port.
        write(&mut ports, 0, 1 << 31 | 1 << 11);
        let mut word = [0; 2];
        ports.read(6, &mut word);
        assert_eq!(word, [0x01, 0x01]);
    }

    #[test]
    fn a_bar_answers_where_the_guest_puts_it() {
        let root = root(2);
        let mut ecam = Ecam(Arc::clone(&root));
        let mut window = Window(root);
        assert_eq!(
            read(&mut window, 0x2000),
            u32::MAX,
            "it does not answer yet"
        );
        for device in [1, 2] {
            write(&mut ecam, device << 15 | 4, 2);
            assert_eq!(
                read(&mut window, device * 0x1000 + 8),
                device as u32 * 0x0101_0101
            );
        }
        write(
            &mut ecam,
            2 << 15 | 0x10,
            (PCI_WINDOW + PCI_WINDOW_SIZE) as u32 - 0x1000,
        );
        assert_eq!(read(&mut window, 0x2000), u32::MAX);
        assert_eq!(read(&mut window, PCI_WINDOW_SIZE - 4), 0x0202_0202);
        // Onto the other: that one still answers, and the first wins.
        write(&mut ecam, 2 << 15 | 0x10, PCI_WINDOW as u32 + 0x1000);
        assert_eq!(read(&mut window, 0x1000), 0x0101_0101);
        // RAM, and past the end of a BAR.
        write(&mut ecam, 1 << 15 | 0x10, 0);
        assert_eq!(read(&mut window, 0x1000), 0x0202_0202);
        assert_eq!(read(&mut window, 0x1ffe), u32::MAX);
    }

    proptest! {
        #[test]
        fn any_access_is_bounded(
            acts in prop::collection::vec(
                (0_u8..3, any::<u64>(), prop::collection::vec(any::<u8>(), 0..9), any::<bool>()), 0..200),
        ) {
            let root = root(3);
            let mut ecam = Ecam(Arc::clone(&root));
            (1..4).for_each(|device| write(&mut ecam, device << 15 | 4, 2));
            let mut devices: [(Box<dyn BusDevice>, u64); 3] = [
                (Box::new(Ecam(Arc::clone(&root))), PCI_ECAM_SIZE),
                (Box::new(ConfigPorts::new(Arc::clone(&root))), 8),
                (Box::new(Window(root)), PCI_WINDOW_SIZE),
            ];
            for (which, offset, mut data, reads) in acts {
                let (device, len) = &mut devices[usize::from(which)];
                // As a bus does it; often near what is there.
                let span = if offset & 1 == 0 { *len } else { (*len).min(0x2_4000) };
                let offset = (offset >> 1) % (span - data.len() as u64 + 1);
                if reads {
                    device.read(offset, &mut data);
                } else {
                    device.write(offset, &data);
                }
            }
        }
    }
}
