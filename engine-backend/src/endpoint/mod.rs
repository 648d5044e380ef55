//! Endpoints: block devices that the engine drives itself (SPEC section 4.33).
//!
//! [`device`] is what a device has to be able to do, [`staging`] the only memory that it
//! can reach.

pub mod device;
pub mod slot;
pub mod staging;
