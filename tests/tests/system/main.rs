//! Whole-system tests: real VMs on /dev/kvm, their drivers and ring-3 processes, one engine.
//!
//! Each module holds one promise. Tests take turns (each wants both cores for vCPUs and a worker), and say
//! `SKIPPED:` where there is no KVM. None asserts how long something takes.

mod accessed_dirty;
mod audit;
mod changes;
mod endpoints;
mod exits;
mod faults;
mod interrupts;
mod kill;
mod library;
mod limits;
mod lost_memory;
mod messages;
mod operations;
mod page_requests;
mod page_tables;
mod parking;
mod processes;
mod refusals;
mod remote;
mod reset;
mod revoke;
mod rings;
mod smp;
mod world;
