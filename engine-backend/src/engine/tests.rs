//! The whole engine: operators, guests with virtqueues and page tables, transfers.

mod admin;
mod changes;
mod invalidation;
mod lifetime;
mod soak;
mod transfers;
mod world;
