//! Operations against naive references.
