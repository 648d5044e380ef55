//! Rights of capabilities (SPEC section 7).

/// What a capability allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash)]
pub struct Rights(pub u32);

impl Rights {
    /// Nothing.
    pub const NONE: Self = Self(0);
    /// The engine may read for the holder.
    pub const READ: Self = Self(1);
    /// The engine may write for the holder.
    pub const WRITE: Self = Self(2);
    /// The holder may derive and offer further.
    pub const GRANT: Self = Self(4);
    /// The engine may encrypt for the holder with this key.
    pub const ENCRYPT: Self = Self(8);
    /// The engine may decrypt for the holder with this key.
    pub const DECRYPT: Self = Self(16);
    /// The holder may send messages to this port.
    pub const SEND: Self = Self(32);
    /// The holder may receive messages from this port.
    pub const RECEIVE: Self = Self(64);
    /// The engine may read blocks of this endpoint for the holder.
    pub const BLOCK_READ: Self = Self(128);
    /// The engine may write, discard and flush blocks of this endpoint for the holder.
    pub const BLOCK_WRITE: Self = Self(256);
    /// The owner's kernel has pinned this memory: devices that the operator trusts may reach it.
    pub const PINNED: Self = Self(512);
    /// All that there are over memory, but for [`Self::PINNED`], which is a promise of its owner's kernel.
    pub const ALL: Self = Self(7);
    /// All that there are over a key.
    pub const KEY: Self = Self(4 | 8 | 16);
    /// All that there are over a port.
    pub const PORT: Self = Self(4 | 32 | 64);
    /// All that there are over blocks of an endpoint.
    pub const BLOCK: Self = Self(4 | 128 | 256);
    /// Every right that this ABI has, whatever it is over.
    pub const KNOWN: Self =
        Self(Self::ALL.0 | Self::KEY.0 | Self::PORT.0 | Self::BLOCK.0 | Self::PINNED.0);

    /// The rights with these bits, or `None` when a bit is not of this ABI.
    #[must_use]
    pub const fn from_bits(bits: u32) -> Option<Self> {
        if bits & !Self::KNOWN.0 == 0 {
            Some(Self(bits))
        } else {
            None
        }
    }
    /// Whether every right of `other` is there.
    #[must_use]
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
    /// What both allow.
    #[must_use]
    pub const fn intersection(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }
    /// What either allows.
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl core::ops::BitOr for Rights {
    type Output = Self;
    fn bitor(self, other: Self) -> Self {
        self.union(other)
    }
}

impl core::fmt::Display for Rights {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        for (right, letter) in [(Self::READ, "r"), (Self::WRITE, "w"), (Self::GRANT, "g")] {
            f.write_str(if self.contains(right) { letter } else { "-" })?;
        }
        let of_objects = [
            (Self::ENCRYPT, "e"),
            (Self::DECRYPT, "d"),
            (Self::SEND, "s"),
            (Self::RECEIVE, "m"),
            (Self::BLOCK_READ, "R"),
            (Self::BLOCK_WRITE, "W"),
            (Self::PINNED, "p"),
        ];
        for (right, letter) in of_objects {
            f.write_str(if self.contains(right) { letter } else { "" })?;
        }
        Ok(())
    }
}

/// Deepest derivation; a capability over one's own memory has depth 1.
pub const DEPTH_MAX: u32 = 16;

/// States that CAP_QUERY reports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum CapabilityState {
    /// Usable.
    Live = 1,
    /// Revoked; the slot stays taken until its holder drops it.
    Revoked = 2,
    /// Past its expiry or byte quota.
    Expired = 3,
}
