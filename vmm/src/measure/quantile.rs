//! Quantiles of a set of samples, by nearest rank.

/// Samples in ascending order.
#[derive(Debug, Clone, Default)]
pub struct Quantiles {
    sorted: Vec<u64>,
}

impl Quantiles {
    /// Sorts the samples.
    #[must_use]
    pub fn new(mut samples: Vec<u64>) -> Self {
        samples.sort_unstable();
        Self { sorted: samples }
    }

    /// The smallest sample that is not below the fraction `per_mille` of all; 0 without samples.
    #[must_use]
    pub fn per_mille(&self, per_mille: u32) -> u64 {
        let rank = (self.sorted.len() as u64 * u64::from(per_mille)).div_ceil(1000);
        let index = usize::try_from(rank.saturating_sub(1)).unwrap_or(usize::MAX);
        self.sorted.get(index).copied().unwrap_or(0)
    }

    /// Median.
    #[must_use]
    pub fn p50(&self) -> u64 {
        self.per_mille(500)
    }

    /// 99th percentile.
    #[must_use]
    pub fn p99(&self) -> u64 {
        self.per_mille(990)
    }

    /// 99.9th percentile.
    #[must_use]
    pub fn p999(&self) -> u64 {
        self.per_mille(999)
    }

    /// Largest; 0 without samples.
    #[must_use]
    pub fn max(&self) -> u64 {
        self.sorted.last().copied().unwrap_or(0)
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.sorted.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.sorted.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::Quantiles;

    #[test]
    fn nearest_rank() {
        let q = Quantiles::new((1..=1000).rev().collect());
        assert_eq!((q.p50(), q.p99(), q.p999(), q.max()), (500, 990, 999, 1000));
        let one = Quantiles::new(vec![7]);
        assert_eq!((one.p50(), one.p999()), (7, 7));
        assert_eq!(Quantiles::new(Vec::new()).p50(), 0);
    }
}
