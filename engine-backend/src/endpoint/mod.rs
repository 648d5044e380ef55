//! Endpoints: block devices that the engine drives itself (SPEC section 4.33).
//!
//! [`device`] is what a device has to be able to do, [`staging`] the only memory that it
//! can reach.

pub mod device;
mod in_flight;
pub mod nvme;
mod open_error;
mod peer_memory;
pub mod slot;
pub mod staging;
#[cfg(test)]
mod test_bench;
pub mod vhost_user_blk;
mod watch;

pub use open_error::OpenError;
