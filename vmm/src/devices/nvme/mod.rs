//! An NVMe controller as a PCI function: the model of `byway-nvme`, for a guest's stock driver.
//!
//! [`NvmeFunction`] is what vCPUs see: configuration space, one BAR with registers, doorbells and the tables of MSI-X. A doorbell is
//! noted (`doorbells`) and the device's thread woken, which alone has commands carried out, on guest RAM as it is by
//! then (`dma`); other registers are the model's at once, between two of the thread's bursts. A function that is not a bus master, as
//! before a driver has come, accesses no memory.

mod dma;
mod doorbells;
mod function;
#[cfg(test)]
mod tests;

pub use function::NvmeFunction;

/// Most controllers of a VM.
pub const NVMES_MAX: usize = 8;
/// Largest transfer, in pages as a power of two: what the model keeps a buffer for.
const TRANSFER_PAGES_LOG2: u8 = 5;
/// Bytes of a block.
pub const BLOCK_BYTES: u32 = 512;

// What lies where in BAR 0; each part has pages of its own.
/// Bytes of the BAR.
const BAR_BYTES: u64 = 0x4000;
/// Table of MSI-X, behind registers and doorbells.
const TABLE: u64 = 0x2000;
/// Its pending bits.
const PENDING: u64 = 0x3000;
