//! Programs to copy from; each is a binary of its own in `src/bin`, explained in `README.md`.
