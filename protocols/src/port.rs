//! Ports: limits of two-sided messages (SPEC section 7.8).

/// Most messages that wait in one port.
pub const PORT_DEPTH_MAX: u32 = 64;
/// Longest message, in bytes.
pub const PORT_MESSAGE_MAX: u32 = 4096;
