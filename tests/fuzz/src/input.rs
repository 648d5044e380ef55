//! [`Input`]: a fuzzer's bytes, read from front to back.
//!
//! Bytes in order and nothing else, so that a seed is written by appending what a target
//! will read, and a mutation changes one thing. Past the end everything is 0.

/// What is left of an input.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Input<'a> {
    bytes: &'a [u8],
}

impl<'a> Input<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes }
    }
    /// Whether anything is left.
    pub(crate) fn has_more(&self) -> bool {
        !self.bytes.is_empty()
    }
    /// The next `len` bytes, or as many as are left.
    pub(crate) fn take(&mut self, len: usize) -> &'a [u8] {
        let (taken, rest) = self.bytes.split_at(len.min(self.bytes.len()));
        self.bytes = rest;
        taken
    }
    /// The next `N` bytes.
    pub(crate) fn array<const N: usize>(&mut self) -> [u8; N] {
        let mut array = [0; N];
        let taken = self.take(N);
        array[..taken.len()].copy_from_slice(taken);
        array
    }
    pub(crate) fn u8(&mut self) -> u8 {
        u8::from_le_bytes(self.array())
    }
    pub(crate) fn u16(&mut self) -> u16 {
        u16::from_le_bytes(self.array())
    }
    pub(crate) fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.array())
    }
    /// One of `choices` things, by the next byte.
    pub(crate) fn below(&mut self, choices: usize) -> usize {
        usize::from(self.u8()) % choices
    }
}
