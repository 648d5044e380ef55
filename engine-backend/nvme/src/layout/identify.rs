//! Where things are in what IDENTIFY returns (section 5.15.2), in bytes.

/// Bytes of any of its data structures.
pub const BYTES: usize = 4096;

/// Selects a namespace's data structure.
pub const CNS_NAMESPACE: u8 = 0;
/// Selects the controller's.
pub const CNS_CONTROLLER: u8 = 1;
/// Selects the list of active namespaces.
pub const CNS_ACTIVE: u8 = 2;
/// Selects a namespace's descriptors.
pub const CNS_DESCRIPTORS: u8 = 3;

/// The controller's data structure.
pub mod controller {
    #![allow(missing_docs, reason = "the names are the specification's")]
    pub const SERIAL: std::ops::Range<usize> = 4..24;
    pub const MODEL: std::ops::Range<usize> = 24..64;
    pub const FIRMWARE: std::ops::Range<usize> = 64..72;
    /// Largest transfer: pages, as a power of two; 0 for no limit.
    pub const MDTS: usize = 77;
    pub const CONTROLLER_ID: usize = 78;
    pub const VERSION: usize = 80;
    /// Kind of controller; 1: for I/O.
    pub const KIND: usize = 111;
    /// Optional admin commands, 16 bits; bit 8: doorbell buffer config.
    pub const OACS: usize = 256;
    pub const AERL: usize = 259;
    pub const LPA: usize = 261;
    pub const SQES: usize = 512;
    pub const CQES: usize = 513;
    pub const NAMESPACES: usize = 516;
    /// Optional commands, 16 bits; bit 0 compare, 2 dataset management, 3 write zeroes.
    pub const ONCS: usize = 520;
    /// Volatile write cache, 8 bits; bit 0: there is one.
    pub const VWC: usize = 525;
    /// SGLs, 32 bits; bits 1:0 not 0: the NVM command set takes them.
    pub const SGLS: usize = 536;
    pub const SUBSYSTEM_NAME: std::ops::Range<usize> = 768..1024;

    pub const OACS_DOORBELL_BUFFER: u16 = 1 << 8;
    pub const ONCS_COMPARE: u16 = 1 << 0;
    pub const ONCS_DATASET_MANAGEMENT: u16 = 1 << 2;
    pub const ONCS_WRITE_ZEROES: u16 = 1 << 3;
}

/// A namespace's data structure.
pub mod namespace {
    #![allow(missing_docs, reason = "the names are the specification's")]
    /// Blocks, 64 bits; so are capacity and use.
    pub const SIZE: usize = 0;
    pub const CAPACITY: usize = 8;
    pub const USE: usize = 16;
    pub const FEATURES: usize = 24;
    /// LBA formats, less one.
    pub const FORMATS: usize = 25;
    /// Which one is used, in bits 3:0; bit 4: metadata behind the data.
    pub const FORMAT_USED: usize = 26;
    /// End-to-end protection that is on, in bits 2:0.
    pub const PROTECTION: usize = 29;
    /// Bit 0: write protected.
    pub const ATTRIBUTES: usize = 99;
    /// What deallocated blocks read as, in bits 2:0, 1: zeros; bit 3: writing zeroes may deallocate.
    pub const DEALLOCATED: usize = 33;
    /// LBA formats, 4 bytes each: metadata bytes in 15:0, block size's power in 23:16.
    pub const FORMAT: usize = 128;
}

/// A little-endian number of `bytes`.
///
/// # Panics
/// When it is not inside.
#[must_use]
pub fn number<const N: usize>(bytes: &[u8], at: usize) -> u64 {
    let mut value = [0; 8];
    value[..N].copy_from_slice(&bytes[at..at + N]);
    u64::from_le_bytes(value)
}
