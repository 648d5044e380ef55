//! Names of domains and of ports (SPEC section 8.2; the label of an offer is a name's hash).

use core::fmt;

/// A name of 1 to 32 bytes, none of them zero: of a domain, or of a port under which something is
/// offered.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Name {
    bytes: [u8; Self::BYTES],
    length: u8,
}

/// Why a text is no [`Name`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NameError {
    /// It is empty.
    Empty,
    /// It has this many bytes, more than 32.
    TooLong(usize),
    /// It contains a zero byte.
    Zero,
}

impl fmt::Display for NameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("a name is empty; expected 1 to 32 bytes"),
            Self::TooLong(found) => write!(f, "a name has {found} bytes; expected 1 to 32"),
            Self::Zero => f.write_str("a name contains a zero byte"),
        }
    }
}

impl core::error::Error for NameError {}

impl Name {
    /// Room for a name, in bytes.
    pub const BYTES: usize = 32;

    /// The name that reads so.
    ///
    /// # Errors
    /// See [`NameError`].
    pub fn new(text: &str) -> Result<Self, NameError> {
        let found = text.as_bytes();
        if found.is_empty() {
            return Err(NameError::Empty);
        }
        if found.contains(&0) {
            return Err(NameError::Zero);
        }
        let mut bytes = [0; Self::BYTES];
        bytes
            .get_mut(..found.len())
            .ok_or(NameError::TooLong(found.len()))?
            .copy_from_slice(found);
        Ok(Self {
            bytes,
            length: found.len() as u8,
        })
    }

    /// The bytes, filled up with zeros.
    #[must_use]
    pub const fn padded(&self) -> &[u8; Self::BYTES] {
        &self.bytes
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        let bytes = self.bytes.get(..usize::from(self.length)).unwrap_or(&[]);
        // `new` took it from a `str`, whole.
        core::str::from_utf8(bytes).unwrap_or("")
    }

    /// The label by which offers under this port name travel: FNV-1a, 64 bits, of its bytes.
    #[must_use]
    pub fn label(&self) -> u64 {
        self.as_str()
            .bytes()
            .fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
                (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
            })
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

impl core::str::FromStr for Name {
    type Err = NameError;
    fn from_str(text: &str) -> Result<Self, NameError> {
        Self::new(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_name_is_refused_with_the_reason() {
        assert_eq!(Name::new(""), Err(NameError::Empty));
        assert_eq!(Name::new("a\0b"), Err(NameError::Zero));
        let long = "x".repeat(33);
        assert_eq!(Name::new(&long), Err(NameError::TooLong(33)));
        assert_eq!(Name::new(&long[1..]).unwrap().as_str(), &long[1..]);
    }

    /// Test vectors of the hash's authors (draft-eastlake-fnv, appendix C).
    #[test]
    fn labels_are_fnv_1a() {
        for (text, label) in [
            ("a", 0xaf63_dc4c_8601_ec8c_u64),
            ("foobar", 0x8594_4171_f739_67e8),
        ] {
            assert_eq!(Name::new(text).unwrap().label(), label);
        }
    }
}
