//! The suite `linux-qemu`: see tests/linux/README.md.

mod attacks;
mod endpoints;
mod ends;
mod exchange;
mod harness;
mod links;
mod memory;
mod scenario;
mod stands_still;
