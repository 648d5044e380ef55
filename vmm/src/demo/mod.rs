//! `byway demo`: two VMs exchange memory through the engine, and everything that is promised about it is
//! shown and checked.

pub mod report;
