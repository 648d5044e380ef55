//! [`HostBridge`]: device 0, by which drivers know a bus for one.

use std::ops::Range;

use super::Function;
use super::config_space::{ConfigSpace, Identity};

/// Host bridge.
const IDENTITY: Identity = Identity {
    device: 0xb100,
    class: [6, 0, 0],
};

/// A host bridge with nothing to set.
#[derive(Debug)]
pub struct HostBridge(ConfigSpace);

impl Default for HostBridge {
    fn default() -> Self {
        Self(ConfigSpace::new(IDENTITY))
    }
}

impl Function for HostBridge {
    fn config_read(&mut self, register: u16, data: &mut [u8]) {
        self.0.read(register, data);
    }

    fn config_write(&mut self, register: u16, data: &[u8]) {
        self.0.write(register, data);
    }

    fn bar(&self) -> Option<Range<u64>> {
        None
    }

    fn bar_read(&mut self, _: u64, data: &mut [u8]) {
        data.fill(0xff);
    }

    fn bar_write(&mut self, _: u64, _: &[u8]) {}
}
