//! NVMe as Byway uses it (NVM Express base specification 1.4; section numbers are of that).
//!
//! [`layout`] says where things are in registers, commands and completions; it is all that
//! the engine's driver and the model have in common. [`controller`] is the model: a controller
//! with one namespace, behind `mmio_read`, `mmio_write` and a [`dma::Dma`] of its
//! host's choice, over a [`medium::Medium`]. [`attach`] puts a controller's registers into shared memory, for a driver in
//! another process that makes no system call.
//!
//! The model takes nothing that a host writes for granted: each command is copied once,
//! checked, and answered with the status that the specification names.

pub mod attach;
pub mod controller;
pub mod dma;
pub mod layout;
pub mod medium;

/// The examples of `README.md`, so that they are compiled.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
pub struct ReadMe;
