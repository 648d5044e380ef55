//! Linux guests under QEMU's emulation: what they are made of, how they are started and steered,
//! and what each of them is checked for when a test ends.
//!
//! Nothing here needs root or KVM. Kernels, busybox and guest programs come from
//! `tests/lib/linux-images`; the engine is `byway engine` in a process of its own.

pub mod console;
pub mod cpio;
pub mod engine;
pub mod footprint;
pub mod guest;
pub mod images;
pub mod initramfs;
pub mod lab;
mod monitor;
pub mod nested;
mod process;
pub mod qemu;
mod tsc;
mod wire;
