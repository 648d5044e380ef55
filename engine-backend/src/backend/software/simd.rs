//! Which vector instructions the kernels use.

/// Widest vectors that the processor has and the kernels know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Simd {
    /// 16 bytes; every x86-64 processor.
    Sse2,
    /// 32 bytes.
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
