//! The mailbox between the bare-metal guest and the host program that steers it.
//!
//! Tests, the demo and the benchmark need a guest that does exactly what it is
//! told and that causes no VM exit while it does so. The mailbox is how it is told:
//! a reserved range of guest RAM ([`layout`]), in which the host program writes a
//! command and an unprivileged guest process, which polls that cache line,
//! writes a reply.
//!
//! This crate owns the layout, the list of commands ([`commands`]), the accessors of both
//! sides ([`host`], [`guest`]) and the functions that both must compute alike
//! ([`checksum`], [`pattern`], [`canary`], [`stream`]). It is a tool for steering a guest, not part of the data path
//! that Byway offers: nothing here may be needed by an application.
//!
//! Trust: the host program believes nothing that it reads here beyond what it checks, since the
//! guest can write all of the range; every read is a single fetch and every length is bounded
//! by the accessor.
#![no_std]
#![warn(missing_docs)]

pub mod canary;
pub mod checksum;
pub mod commands;
pub mod guest;
pub mod host;
pub mod layout;
pub mod pattern;
pub mod storm;
pub mod stream;

/// The example of `README.md`, so that it is compiled.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
pub struct ReadMe;

pub use commands::{Failure, Request, Status, Words};
pub use host::{CallError, HostMailbox};
pub use layout::{GuestState, Process};
