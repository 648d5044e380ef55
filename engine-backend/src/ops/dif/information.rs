//! Protection information of one block: 8 bytes, made and checked (SPEC section 4.16).
//!
//! Guard (CRC-16/T10-DIF of the data), application tag and reference tag, each with its
//! most significant byte first, as T10 and NVMe store them.

use byway_protocols::operands::{
    dif_destination_flags as made, dif_mismatch, dif_source_flags as checked,
};

/// Bytes of it.
pub(super) const BYTES: usize = 8;

/// Protection information, taken apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Information {
    pub(super) guard: u16,
    pub(super) app_tag: u16,
    pub(super) ref_tag: u32,
}

impl Information {
    /// Of a block that has none.
    pub(super) const NONE: Self = Self {
        guard: 0,
        app_tag: 0,
        ref_tag: 0,
    };

    /// From its 8 bytes.
    #[inline]
    pub(super) fn from_bytes(bytes: [u8; BYTES]) -> Self {
        let word = u64::from_be_bytes(bytes);
        Self {
            guard: (word >> 48) as u16,
            app_tag: (word >> 32) as u16,
            ref_tag: word as u32,
        }
    }

    /// As its 8 bytes.
    #[inline]
    pub(super) fn to_bytes(self) -> [u8; BYTES] {
        let tags = u64::from(self.app_tag) << 32 | u64::from(self.ref_tag);
        (u64::from(self.guard) << 48 | tags).to_be_bytes()
    }
}

/// Which tags blocks have, or get.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Tags {
    /// `dif_source_flags` or `dif_destination_flags`; both tell in the same bits how tags
    /// go on from block to block.
    pub flags: u8,
    /// Bits of the application tag that do not count, or come from the source.
    pub app_mask: u16,
    /// Application tag of the next block.
    pub app_tag: u16,
    /// Reference tag of the next block.
    pub ref_tag: u32,
}

const _: () = assert!(
    checked::APP_TAG_INCREMENTS == made::APP_TAG_INCREMENTS
        && checked::REF_TAG_FIXED == made::REF_TAG_FIXED
);

impl Tags {
    /// 0 when all of it is.
    pub fn bits(self) -> u64 {
        u64::from(self.flags)
            | u64::from(self.app_mask)
            | u64::from(self.app_tag)
            | u64::from(self.ref_tag)
    }

    /// The tags of the block `blocks` further on.
    #[inline]
    pub(super) fn after(mut self, blocks: usize) -> Self {
        if self.flags & checked::APP_TAG_INCREMENTS != 0 {
            self.app_tag = self.app_tag.wrapping_add(blocks as u16);
        }
        if self.flags & checked::REF_TAG_FIXED == 0 {
            self.ref_tag = self.ref_tag.wrapping_add(blocks as u32);
        }
        self
    }

    /// Whether the guard counts where these are checked.
    #[inline]
    pub(super) fn checks_guard(self) -> bool {
        self.flags & checked::GUARD_CHECK_DISABLE == 0
    }

    /// Whether a new guard is made where these are written.
    #[inline]
    pub(super) fn makes_guard(self) -> bool {
        self.flags & made::GUARD_PASS == 0
    }

    /// Whether a block's information is as it should be: the bits of `dif_mismatch`.
    /// `guard` is the data's, or anything where [`Self::checks_guard`] says that it does not count.
    #[inline]
    pub(super) fn check(self, found: Information, guard: u16) -> u8 {
        let has = |flag: u8| self.flags & flag != 0;
        let app_f = found.app_tag == 0xffff;
        let tags_f = app_f && found.ref_tag == 0xffff_ffff;
        let all_f = tags_f && found.guard == 0xffff;
        if all_f && has(checked::ALL_F_ERROR) {
            return dif_mismatch::ALL_F;
        }
        if all_f && has(checked::ALL_F_DETECT)
            || app_f && has(checked::APP_TAG_F_DETECT)
            || tags_f && has(checked::APP_AND_REF_TAG_F_DETECT)
        {
            return 0;
        }
        let mut wrong = 0;
        if self.checks_guard() && found.guard != guard {
            wrong |= dif_mismatch::GUARD;
        }
        if (found.app_tag ^ self.app_tag) & !self.app_mask != 0 {
            wrong |= dif_mismatch::APP_TAG;
        }
        if !has(checked::REF_TAG_CHECK_DISABLE) && found.ref_tag != self.ref_tag {
            wrong |= dif_mismatch::REF_TAG;
        }
        wrong
    }

    /// The information that a block gets, `source` being what it had.
    /// `guard` is the data's, or anything where [`Self::makes_guard`] says that the source's is passed on.
    #[inline]
    pub(super) fn make(self, source: Information, guard: u16) -> Information {
        let passes = |flag: u8| self.flags & flag != 0;
        Information {
            guard: if self.makes_guard() {
                guard
            } else {
                source.guard
            },
            app_tag: if passes(made::APP_TAG_PASS) {
                source.app_tag
            } else {
                self.app_tag & !self.app_mask | source.app_tag & self.app_mask
            },
            ref_tag: if passes(made::REF_TAG_PASS) {
                source.ref_tag
            } else {
                self.ref_tag
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn information_is_stored_most_significant_byte_first() {
        let bytes = [1, 2, 3, 4, 5, 6, 7, 8];
        let found = Information::from_bytes(bytes);
        assert_eq!(
            (found.guard, found.app_tag, found.ref_tag),
            (0x0102, 0x0304, 0x0506_0708)
        );
        assert_eq!(found.to_bytes(), bytes);
    }

    #[test]
    fn all_ones_are_treated_as_asked() {
        let ones = Information::from_bytes([0xff; 8]);
        let tagged = Information { guard: 1, ..ones };
        let escaped = Information {
            ref_tag: 1,
            ..tagged
        };
        for (flags, found, wrong) in [
            (0, ones, 0x7),
            (checked::ALL_F_ERROR, ones, 0x8),
            (checked::ALL_F_ERROR | checked::ALL_F_DETECT, ones, 0x8),
            (checked::ALL_F_DETECT, ones, 0),
            (checked::ALL_F_DETECT, tagged, 0x7),
            (checked::APP_AND_REF_TAG_F_DETECT, tagged, 0),
            (checked::APP_AND_REF_TAG_F_DETECT, escaped, 0x7),
            (checked::APP_TAG_F_DETECT, escaped, 0),
            (checked::GUARD_CHECK_DISABLE, escaped, 0x6),
            (checked::REF_TAG_CHECK_DISABLE, escaped, 0x3),
        ] {
            let tags = Tags {
                flags,
                ..Tags::default()
            };
            assert_eq!(tags.check(found, 0), wrong, "{flags:#x} {found:?}");
        }
        let masked = Tags {
            app_mask: 0xff00,
            app_tag: 0x12ff,
            ..Tags::default()
        };
        assert_eq!(masked.check(ones, 0xffff), dif_mismatch::REF_TAG);
    }

    #[test]
    fn tags_go_on_as_asked_and_wrap() {
        let tags = Tags {
            app_tag: 0xffff,
            ref_tag: u32::MAX,
            ..Tags::default()
        };
        let next = tags.after(2);
        assert_eq!((next.app_tag, next.ref_tag), (0xffff, 1));
        let flags = made::APP_TAG_INCREMENTS | made::REF_TAG_FIXED;
        let next = Tags { flags, ..tags }.after(2);
        assert_eq!((next.app_tag, next.ref_tag), (1, u32::MAX));
    }
}
