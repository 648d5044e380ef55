//! Programs for Linux guests to copy from: see `src/bin`.
