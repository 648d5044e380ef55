//! CPU templates: what of the host's CPU a guest is told of, by name.
//!
//! A template only takes away from KVM's own list. What a host's KVM does not offer, no template adds.

use std::fmt;
use std::str::FromStr;

use kvm_bindings::{CpuId, kvm_cpuid_entry2};
use serde::{Deserialize, Serialize};

/// What a guest's CPU is like.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Template {
    /// Everything that KVM offers.
    #[default]
    Host,
    /// Nothing wider than 128 bits, and no state that XSAVE would be needed for: the level x86-64-v2, which every
    /// server of the last ten years has.
    #[serde(rename = "x86-64-v2")]
    V2,
    /// For a KVM that itself runs under QEMU's emulation: its CMPXCHG16B sometimes damages the flags, which is the end of
    /// Linux 6.12, and what it says of XSAVE's area is not what Linux computes.
    NestedTcg,
    /// For the software KVM `kvm_pvm`, which emulates ring 0, CMPXCHG16B and XSAVE excepted.
    Pvm,
}

impl Template {
    /// All, as they are recommended and documented.
    pub const ALL: [Self; 4] = [Self::Host, Self::V2, Self::NestedTcg, Self::Pvm];

    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Host => "host",
            Self::V2 => "x86-64-v2",
            Self::NestedTcg => "nested-tcg",
            Self::Pvm => "pvm",
        }
    }

    /// Takes away from KVM's list what a guest of this kind is not to use.
    pub fn mask(self, cpuid: &mut CpuId) {
        for entry in cpuid.as_mut_slice() {
            for mask in self.masks() {
                mask.apply(entry);
            }
        }
    }

    fn masks(self) -> &'static [Mask] {
        match self {
            Self::Host => &[],
            Self::V2 => &WIDE_STATE,
            Self::NestedTcg | Self::Pvm => &PLAIN,
        }
    }
}

impl fmt::Display for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Template {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let named = Self::ALL
            .into_iter()
            .find(|template| template.name() == text);
        named.ok_or_else(|| {
            let names = Self::ALL.map(Self::name).join(", ");
            format!("no CPU template {text:?}; use one of {names}")
        })
    }
}

/// Bits of one leaf that are cleared.
#[derive(Debug, Clone, Copy)]
struct Mask {
    function: u32,
    /// `None`: every sub-leaf.
    index: Option<u32>,
    /// EAX, EBX, ECX, EDX.
    clear: [u32; 4],
}

impl Mask {
    const fn new(function: u32, index: Option<u32>, clear: [u32; 4]) -> Self {
        Self {
            function,
            index,
            clear,
        }
    }

    fn apply(&self, entry: &mut kvm_cpuid_entry2) {
        let other = self.index.is_some_and(|index| index != entry.index);
        if entry.function != self.function || other {
            return;
        }
        for (register, clear) in [
            &mut entry.eax,
            &mut entry.ebx,
            &mut entry.ecx,
            &mut entry.edx,
        ]
        .into_iter()
        .zip(self.clear)
        {
            *register &= !clear;
        }
    }
}

/// The word with these bits.
const fn bits<const N: usize>(numbers: [u32; N]) -> u32 {
    let (mut word, mut at) = (0, 0);
    while at < N {
        word |= 1 << numbers[at];
        at += 1;
    }
    word
}

const CX16: u32 = bits([13]);
/// Leaf 1, ECX: FMA, XSAVE, OSXSAVE, AVX, F16C.
const LEAF_1_XSAVE: u32 = bits([12, 26, 27, 28, 29]);

/// Leaf 7, sub-leaf 0. EBX: AVX2, MPX, AVX-512 F, DQ, IFMA, PF, ER, CD, BW, VL.
const LEAF_7_EBX: u32 = bits([5, 14, 16, 17, 21, 26, 27, 28, 30, 31]);
/// ECX: AVX512_VBMI, PKU, OSPKE, VBMI2, VAES, VPCLMULQDQ, VNNI, BITALG, VPOPCNTDQ.
const LEAF_7_ECX: u32 = bits([1, 3, 4, 6, 9, 10, 11, 12, 14]);
/// EDX: AVX512 4VNNIW, 4FMAPS, VP2INTERSECT; AMX-BF16, AVX512_FP16, AMX-TILE, AMX-INT8.
const LEAF_7_EDX: u32 = bits([2, 3, 8, 22, 23, 24, 25]);
/// Extended leaf 1, ECX: XOP, LWP, FMA4.
const EXTENDED_1_ECX: u32 = bits([11, 15, 16]);

/// What needs XSAVE, and XSAVE.
const XSAVE: [Mask; 6] = [
    Mask::new(7, Some(0), [0, LEAF_7_EBX, LEAF_7_ECX, LEAF_7_EDX]),
    // Sub-leaves from 1 are vector and matrix instructions, but for a few that no guest depends on.
    Mask::new(7, Some(1), [u32::MAX; 4]),
    Mask::new(7, Some(2), [u32::MAX; 4]),
    Mask::new(0xd, None, [u32::MAX; 4]),
    Mask::new(0x1d, None, [u32::MAX; 4]),
    Mask::new(0x8000_0001, None, [0, 0, EXTENDED_1_ECX, 0]),
];

const WIDE_STATE: [Mask; 7] = with_leaf_1(LEAF_1_XSAVE);
const PLAIN: [Mask; 7] = with_leaf_1(LEAF_1_XSAVE | CX16);

const fn with_leaf_1(ecx: u32) -> [Mask; 7] {
    let [a, b, c, d, e, f] = XSAVE;
    [Mask::new(1, None, [0, 0, ecx, 0]), a, b, c, d, e, f]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn masked(template: Template) -> Vec<kvm_cpuid_entry2> {
        let all = |function, index| kvm_cpuid_entry2 {
            function,
            index,
            eax: u32::MAX,
            ebx: u32::MAX,
            ecx: u32::MAX,
            edx: u32::MAX,
            ..Default::default()
        };
        let mut cpuid = CpuId::from_entries(&[
            all(1, 0),
            all(7, 0),
            all(7, 1),
            all(0xd, 0),
            all(0xd, 1),
            all(0x8000_0001, 0),
            all(0x8000_0008, 0),
        ])
        .unwrap();
        template.mask(&mut cpuid);
        cpuid.as_slice().to_vec()
    }

    #[test]
    fn the_host_is_left_as_it_is() {
        for entry in masked(Template::Host) {
            assert_eq!((entry.eax, entry.ecx), (u32::MAX, u32::MAX));
        }
    }

    #[test]
    fn no_wide_state_is_left_without_xsave() {
        for (template, cx16) in [
            (Template::V2, CX16),
            (Template::NestedTcg, 0),
            (Template::Pvm, 0),
        ] {
            let [one, seven, more, state, state_1, extended, other] = &masked(template)[..] else {
                panic!("entries are gone");
            };
            assert_eq!(one.ecx & (LEAF_1_XSAVE | CX16), cx16, "{template}");
            // SSE4.2 and POPCNT, of x86-64-v2, and AVX2's neighbour BMI1.
            assert_eq!(one.ecx & bits([20, 23]), bits([20, 23]));
            assert_eq!((seven.ebx & bits([3, 5, 16])), bits([3]));
            for leaf in [more, state, state_1] {
                assert_eq!((leaf.eax, leaf.ebx, leaf.ecx, leaf.edx), (0, 0, 0, 0));
            }
            assert_eq!(extended.ecx & EXTENDED_1_ECX, 0);
            assert_eq!(extended.edx, u32::MAX);
            assert_eq!(other.eax, u32::MAX);
        }
    }

    #[test]
    fn names_are_read_as_they_are_written() {
        for template in Template::ALL {
            assert_eq!(template.to_string().parse(), Ok(template));
            let json = serde_json::to_string(&template).unwrap();
            assert_eq!(json, format!("\"{template}\""));
        }
        let error = "Host".parse::<Template>().unwrap_err();
        assert!(error.contains("x86-64-v2"), "{error}");
    }
}
