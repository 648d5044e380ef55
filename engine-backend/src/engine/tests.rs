//! The whole engine: operators, guests with virtqueues and page tables, transfers.

mod admin;
mod audit;
mod changes;
mod endpoints;
mod invalidation;
mod lifetime;
mod messages;
mod negatives;
mod pages;
mod remote;
mod shares;
mod soak;
mod transfers;
mod world;
