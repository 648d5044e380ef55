//! The device end to end, over virtqueues in a memfd.
