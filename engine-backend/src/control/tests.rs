//! Control requests against a domain with real RAM.
