//! What the processor has: vector instructions and caches.

use std::arch::x86_64::{__cpuid, __cpuid_count};

/// Widest vectors that the processor has and the kernels know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Simd {
    /// 16 bytes; every x86-64 processor.
    Sse2,
    /// 32 bytes. Whatever ends with `vzeroupper` names all of the first 16 registers as clobbered: it clears their upper halves, in
    /// which a compiler that is allowed to use AVX may keep something.
    Avx2,
    /// 64 bytes.
    Avx512,
}

impl Simd {
    /// What this processor has.
    pub(super) fn detect() -> Self {
        if is_x86_feature_detected!("avx512f") {
            Self::Avx512
        } else if is_x86_feature_detected!("avx2") {
            Self::Avx2
        } else {
            Self::Sse2
        }
    }

    /// For reports.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Sse2 => "SSE2",
            Self::Avx2 => "AVX2",
            Self::Avx512 => "AVX-512",
        }
    }

    /// All that this processor has, for tests.
    #[cfg(test)]
    pub(super) fn available() -> Vec<Self> {
        let mut all = vec![Self::Sse2];
        if is_x86_feature_detected!("avx2") {
            all.push(Self::Avx2);
        }
        if is_x86_feature_detected!("avx512f") {
            all.push(Self::Avx512);
        }
        all
    }
}

/// Size of the last-level cache, in bytes; 0 when the processor does not say.
pub(super) fn last_cache_bytes() -> u64 {
    // "Deterministic cache parameters": the same layout at Intel's leaf and at AMD's.
    [(0, 0x4), (0x8000_0000, 0x8000_001d)]
        .into_iter()
        .filter(|&(base, leaf)| __cpuid(base).eax >= leaf)
        .flat_map(|(_, leaf)| (0..8).map(move |index| __cpuid_count(leaf, index)))
        .filter(|cache| cache.eax & 0x1f != 0)
        .map(|cache| {
            let ways = u64::from(cache.ebx >> 22) + 1;
            let partitions = u64::from(cache.ebx >> 12 & 0x3ff) + 1;
            let line = u64::from(cache.ebx & 0xfff) + 1;
            let sets = u64::from(cache.ecx) + 1;
            ways * partitions * line * sets
        })
        .max()
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_last_cache_is_of_a_believable_size() {
        let bytes = super::last_cache_bytes();
        assert!(
            bytes == 0 || (256 << 10..4 << 30).contains(&bytes),
            "{bytes}"
        );
    }
}
