//! [`PageNeed`]: what a worker tells of a page that a descriptor cannot go on without.

/// A page that is not there, in terms that no worker looks up: numbers only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PageNeed {
    /// Domain that owns the memory.
    pub owner: u32,
    /// Number of its address space ([`crate::address_space::AddressSpace::id`]).
    pub space: u64,
    /// First byte of the 4 KiB page, in that space.
    pub page: u64,
    /// Whether it is needed for writing.
    pub write: bool,
    /// Whether the memory belongs to the submitter's own domain.
    pub own: bool,
}
