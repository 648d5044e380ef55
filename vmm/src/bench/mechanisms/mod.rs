//! What the engine's mechanisms cost: translation, invalidation, revocation, idle queues, fairness.
//!
//! These run on an engine in this process with guests in memory of its own instead of virtual machines: rings, page tables,
//! walks, capabilities and workers are the same, and there is room for thousands of queues and descendants. Needs no KVM.

mod fairness;
mod harness;
mod queues;
mod revocation;
mod translation;

pub use fairness::measure as fairness;
pub use harness::Harness;
pub use queues::measure as idle_queues;
pub use revocation::{descendants, invalidation};
pub use translation::measure as translation;

/// The sample below which a part `p` of all lie; 0 without any.
fn percentile(samples: &mut [f64], p: f64) -> f64 {
    samples.sort_by(f64::total_cmp);
    let at = (samples.len() as f64 * p) as usize;
    samples
        .get(at.min(samples.len().saturating_sub(1)))
        .copied()
        .unwrap_or(0.0)
}

/// Nanoseconds that `f` takes.
fn timed(f: impl FnOnce()) -> f64 {
    let start = std::time::Instant::now();
    f();
    start.elapsed().as_nanos() as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_samples() {
        let mut samples: Vec<f64> = (0..100).rev().map(f64::from).collect();
        assert_eq!(percentile(&mut samples, 0.5), 50.0);
        assert_eq!(percentile(&mut samples, 0.99), 99.0);
        assert_eq!(percentile(&mut samples, 1.0), 99.0);
        assert_eq!(percentile(&mut [], 0.5), 0.0);
    }
}
