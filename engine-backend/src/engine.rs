//! To be written.
/// Configuration.
#[derive(Debug, Default)]
pub struct EngineConfig;
/// The engine.
#[derive(Debug)]
pub struct Engine;
