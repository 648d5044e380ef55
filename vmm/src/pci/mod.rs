//! A PCI bus: one host bridge, functions behind it, and the ways on which a guest reaches their configuration space.
//!
//! It is there only where a VM has a device for it. A guest is told of it by ACPI ([`crate::acpi`]): configuration space by
//! ECAM, or by the ports 0xcf8 and 0xcfc, which Linux wants before it has read that table; one window of addresses for the
//! BARs, which are honoured wherever in it the guest puts them. Interrupts are MSI-X alone, so no function has an interrupt
//! pin and the bridge has no routing table. One bus, no bridges behind it, no hot-plug.
//!
//! Section numbers are those of the PCI Local Bus specification 3.0. Everything here is called by vCPU threads; every access,
//! of whatever width and wherever it begins, has a meaning and ends within its device.

mod bus;
mod config_space;
mod host_bridge;
mod msix;

pub use bus::{ConfigPorts, Ecam, Root, Window};
pub use config_space::{COMMAND, ConfigSpace, Identity};
pub use host_bridge::HostBridge;
#[cfg(test)]
pub use msix::Kept;
pub use msix::{CAPABILITY as MSIX_CAPABILITY, KvmMessages, Messages, Msix};

use std::ops::Range;

/// Devices of the bus, each with one function.
pub const DEVICES_MAX: usize = 32;
/// A vendor that is registered to nobody and that emulated devices use, so that no driver takes ours for another's.
pub const VENDOR: u16 = 0x1234;

/// Function 0 of a device. Offsets are relative to what is named, and `data` is little-endian.
pub trait Function: Send {
    /// Reads configuration space. What is not there reads as 0.
    fn config_read(&mut self, register: u16, data: &mut [u8]);
    /// Writes configuration space. What cannot be written stays as it is.
    fn config_write(&mut self, register: u16, data: &[u8]);
    /// Where its BAR is now, if it answers there.
    fn bar(&self) -> Option<Range<u64>>;
    /// Reads in its BAR; `offset + data.len()` does not exceed it.
    fn bar_read(&mut self, offset: u64, data: &mut [u8]);
    /// Writes in its BAR; likewise.
    fn bar_write(&mut self, offset: u64, data: &[u8]);
}
