//! Operation codes (SPEC section 4). Where Intel DSA has the operation, the
//! number is DSA's; private operations start at `0x60`.

macro_rules! opcodes {
    ($( $(#[$doc:meta])* $name:ident = $code:literal, )*) => {
        /// What a descriptor asks for.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum Opcode { $( $(#[$doc])* $name = $code, )* }

        impl Opcode {
            /// Every code of this ABI, in ascending order.
            pub const ALL: &'static [Self] = &[ $( Self::$name, )* ];

            /// The operation with this code, or `None` when the ABI has none such.
            #[inline]
            #[must_use]
            pub const fn from_code(code: u8) -> Option<Self> {
                // One load: of a `match` the compiler makes a jump for each code.
                BY_CODE[code as usize]
            }

            /// Name as the specification spells it.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $( Self::$name => stringify!($name), )* }
            }
        }

        const BY_CODE: [Option<Opcode>; 256] = {
            let mut by_code = [None; 256];
            $( by_code[$code] = Some(Opcode::$name); )*
            by_code
        };
    };
}

opcodes! {
    /// Does nothing but complete.
    Nop = 0x00,
    /// Runs an array of descriptors, each with a status of its own.
    Batch = 0x01,
    /// Completes after every earlier descriptor of the queue.
    Drain = 0x02,
    /// Copies; source and destination may overlap.
    Memmove = 0x03,
    /// Fills with an 8- or 16-byte pattern.
    Fill = 0x04,
    /// Compares two ranges.
    Compare = 0x05,
    /// Compares a range with an 8-byte pattern.
    CompareValue = 0x06,
    /// Records the differences of two ranges.
    CreateDelta = 0x07,
    /// Applies recorded differences.
    ApplyDelta = 0x08,
    /// Copies to two destinations.
    Dualcast = 0x09,
    /// Walks a range's pages and faults them in, touching no data.
    TranslationFetch = 0x0a,
    /// CRC-32C of a range.
    CrcGen = 0x10,
    /// Copies and computes CRC-32C in one pass.
    CopyCrc = 0x11,
    /// Checks T10 protection information.
    DifCheck = 0x12,
    /// Inserts it.
    DifInsert = 0x13,
    /// Strips it.
    DifStrip = 0x14,
    /// Replaces it.
    DifUpdate = 0x15,
    /// Writes it to a separate buffer.
    DixGen = 0x17,
    /// Writes a range back from the caches.
    CacheFlush = 0x20,
    /// Alias of [`Self::Memmove`].
    InterDomainMemmove = 0x23,
    /// Alias of [`Self::Fill`].
    InterDomainFill = 0x24,
    /// Alias of [`Self::Compare`].
    InterDomainCompare = 0x25,
    /// Alias of [`Self::CompareValue`].
    InterDomainCompareValue = 0x26,
    /// Alias of [`Self::CacheFlush`].
    InterDomainCacheFlush = 0x27,
    /// Decrypts with a key in a slot.
    Decrypt = 0x40,
    /// Encrypts with a key in a slot.
    Encrypt = 0x41,
    /// Decompresses.
    Decompress = 0x42,
    /// Compresses.
    Compress = 0x43,
    /// CRC-64 of a range.
    Crc64 = 0x44,
    /// Exclusive or of 2 to 16 sources.
    Xor = 0x60,
    /// Copies a scatter-gather list.
    CopySg = 0x61,
    /// T10 protection information in place.
    DifGen = 0x62,
    /// Verifies it from a separate buffer.
    DixVerify = 0x63,
    /// Copies and seals under a channel key.
    SealCopy = 0x64,
    /// Opens what was sealed.
    OpenCopy = 0x65,
    /// A 64-bit atomic operation.
    Atomic64 = 0x66,
    /// Publishes a value after a fence.
    Signal = 0x67,
    /// Sends a message through a port.
    Send = 0x6c,
    /// Posts a buffer for a message to a port.
    Receive = 0x6d,
    /// Drives an endpoint.
    DeviceTransfer = 0x70,
    /// Gives up descriptors of a queue that wait.
    Cancel = 0x71,
    /// Runs a verified user program.
    Execute = 0x78,
}

impl Opcode {
    /// The operation that an inter-domain alias stands for; itself for all others.
    #[must_use]
    pub const fn canonical(self) -> Self {
        match self {
            Self::InterDomainMemmove => Self::Memmove,
            Self::InterDomainFill => Self::Fill,
            Self::InterDomainCompare => Self::Compare,
            Self::InterDomainCompareValue => Self::CompareValue,
            Self::InterDomainCacheFlush => Self::CacheFlush,
            other => other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_unique_and_found_again() {
        for pair in Opcode::ALL.windows(2) {
            assert!((pair[0] as u8) < pair[1] as u8);
        }
        for &op in Opcode::ALL {
            assert_eq!(Opcode::from_code(op as u8), Some(op));
        }
        // DSA's raw-PASID forms are refused, not aliased.
        for code in 0x33..=0x37 {
            assert_eq!(Opcode::from_code(code), None);
        }
    }
}
