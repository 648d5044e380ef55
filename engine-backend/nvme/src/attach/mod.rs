//! A controller's registers in shared memory, for a driver in another process.
//!
//! NVMe's registers are memory that answers; here they are memory that is looked at. The
//! driver's process owns all memory and hands it over in one message ([`Hello`]):
//!
//! | descriptor | what |
//! | --- | --- |
//! | 0 | registers: [`REGISTER_BYTES`] bytes, those of the specification first, then [`WAKE_WANTED`] |
//! | 1 | eventfd *kick*: the controller is to look at its registers |
//! | 2 | eventfd *call*: the driver is to look at its completion queues |
//! | 3 on | DMA memory, each at the address that the message gives it |
//!
//! The controller answers with one [`Answer`]; from then on CAP and VS can be read. The driver stores
//! into a register or doorbell and then writes to *kick*; the controller stores what it has
//! to say into CSTS. Where the controller offers shadow doorbells (section 5.7), queues need neither:
//! the driver stores into the shadow, and writes doorbell and *kick* only when the event index asks
//! for it, which it does before the controller sleeps. *Call* is written once for each time
//! that the driver stored 1 to [`WAKE_WANTED`], so that a driver that polls costs the controller nothing. A
//! connection that ends is a reset.

mod message;
mod serve;

pub use message::{Answer, Hello, REGIONS_MAX, Region};
pub use serve::{Server, serve, serve_with};

/// Bytes of the registers' memory: registers, doorbells, and a page of this binding's own.
pub const REGISTER_BYTES: u64 = 3 * 4096;
/// Where the driver stores 1 to be called, and the controller 0 before it calls.
pub const WAKE_WANTED: u64 = 0x2000;
