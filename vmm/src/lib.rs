//! Byway's virtual machine monitor as a library; the `byway` command is a thin layer above it.
//!
//! It owns guest RAM and vCPUs, registers each VM with the engine and exposes the paravirtual
//! virtio device. It never touches a transfer: notifications and interrupts are eventfds
//! between guest and engine, and the bytes move in the engine's workers.

#![deny(missing_docs)]
// It panics when nobody reads; see `say`.
#![cfg_attr(not(test), deny(clippy::print_stderr))]

#[cfg(not(all(target_os = "linux", target_arch = "x86_64")))]
compile_error!("Byway's VMM runs on x86-64 Linux only");

pub mod acpi;
pub mod api;
pub mod bench;
pub mod config;
pub mod control;
pub mod daemon;
pub mod demo;
pub mod devices;
pub mod doctor;
pub mod exit_status;
pub mod exits;
mod guest;
pub mod host;
pub mod image;
pub mod irq;
pub mod jail;
pub mod layout;
pub mod loader;
pub mod measure;
pub mod memory;
pub mod operator;
pub mod ops_list;
pub mod pci;
mod reset_vector;
pub mod run;
pub mod say;
pub mod seccomp;
pub mod signals;
pub mod steer;
pub mod stress;
pub mod vcpu;
pub mod vm;

pub use guest::{GUEST_MAILBOX_BYTES, guest_image};
