//! How figures are taken: percentiles, the load on a thread while it was measured, and the
//! host's own copy for comparison.
//!
//! Owns no figure itself; the demo and the benchmark decide what is measured.

pub mod memcpy;
pub mod pin;
pub mod quantile;
pub mod thread_load;
pub mod tsc;

pub use quantile::Quantiles;
pub use thread_load::ThreadLoad;
