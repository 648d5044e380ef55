//! Byway's bare-metal guest: what boots in a VM of the tests, the demo and the benchmark.
//!
//! Ring 0 is assembly only (`ring0/`). Everything written in Rust runs in ring 3, in three
//! processes with page tables of their own: the kernel process ([`kernel`]), which owns the
//! machine, and two unprivileged ones ([`process`]), `app` and `peer`, which carry out what the
//! host program writes into the agent mailbox.
//!
//! README.md beside this crate has the address map and the call gate.
#![no_std]
#![no_main]
#![cfg_attr(test, allow(unused))]

mod kernel;
mod layout;
mod process;
mod ring0;
mod runtime;
mod serial;
