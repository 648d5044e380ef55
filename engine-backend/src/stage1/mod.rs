//! Stage 1: virtual to guest-physical by the guest's own page tables.
