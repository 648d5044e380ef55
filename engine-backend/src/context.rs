//! Contexts.

/// What one guest process opens.
#[derive(Debug)]
pub struct Context {}
