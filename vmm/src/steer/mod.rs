//! A bare-metal guest that does as it is told: what the demo, the benchmark and the whole-system tests stand on.
//!
//! [`Guest`] boots the built-in image in a VM and gives its processes commands through the agent mailbox in guest
//! RAM, so that steering causes no exit. [`Stage`] is two of them, linked, with a capability given. Nothing here is
//! on the data path or needed by users' own guests.

mod direction;
mod engine_calls;
mod guest;
mod pending;
mod run;
mod stage;

pub use direction::Direction;
pub use engine_calls::{Accepted, Blocks, Control, is_success};
pub use guest::{Guest, GuestSpec, PAGE_2M, PAGE_4K};
pub use pending::Pending;
pub use run::{RunDone, RunSpec, Running};
pub use stage::{DeviceCalls, POLLED, PingWindow, Stage, StageSpec};
