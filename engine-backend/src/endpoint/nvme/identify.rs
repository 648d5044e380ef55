//! What a controller and its namespace say about themselves, turned into a [`Geometry`] or
//! refused (section 5.15.2 of the base specification).

use byway_nvme::layout::PAGE_BYTES;
use byway_nvme::layout::identify::{BYTES, controller as c, namespace as n, number};

use super::pointers::BYTES_MAX;
use super::{Options, Pointers};
use crate::endpoint::device::Geometry;

/// What was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Described {
    pub(super) geometry: Geometry,
    /// Data is named by SGLs.
    pub(super) sgl: bool,
    /// Shadow doorbells are offered.
    pub(super) shadow_doorbells: bool,
}

/// Reads what the controller and namespace 1 say.
///
/// # Errors
/// What was found, and expected.
pub(super) fn read(
    controller: &[u8; BYTES],
    namespace: &[u8; BYTES],
    options: &Options,
) -> Result<Described, String> {
    let format = usize::from(namespace[n::FORMAT_USED] & 0xf);
    let format = number::<4>(namespace, n::FORMAT + 4 * format);
    let (metadata, power) = (format & 0xffff, format >> 16 & 0xff);
    if metadata != 0 || namespace[n::PROTECTION] & 7 != 0 {
        return Err(format!(
            "blocks with {metadata} bytes of metadata, protection {}: expected none of either",
            namespace[n::PROTECTION] & 7
        ));
    }
    if !(9..=12).contains(&power) {
        return Err(format!("blocks of 2^{power} bytes: expected 2^9 to 2^12"));
    }
    let block_bytes = 1 << power;
    let mut transfer_bytes_max = options.transfer_bytes_max.min(BYTES_MAX);
    let limit = u32::from(controller[c::MDTS]);
    if limit != 0 {
        // What does not fit is no limit either.
        let bytes = (PAGE_BYTES as u32)
            .checked_shl(limit)
            .filter(|_| limit < 20);
        transfer_bytes_max = transfer_bytes_max.min(bytes.unwrap_or(u32::MAX));
    }
    transfer_bytes_max -= transfer_bytes_max % block_bytes;
    let optional = number::<2>(controller, c::ONCS) as u16;
    let has = |bit: u16| optional & bit != 0;
    let read_only = options.read_only || namespace[n::ATTRIBUTES] & 1 != 0;
    let geometry = Geometry {
        block_bytes,
        blocks: number::<8>(namespace, n::SIZE),
        transfer_bytes_max,
        depth: options.depth,
        read_only,
        flush: controller[c::VWC] & 1 != 0,
        discard: has(c::ONCS_DATASET_MANAGEMENT),
        write_zeroes: has(c::ONCS_WRITE_ZEROES),
        compare: has(c::ONCS_COMPARE),
    };
    geometry.check()?;
    let takes_sgl = number::<4>(controller, c::SGLS) & 3 != 0;
    let admin = number::<2>(controller, c::OACS) as u16;
    Ok(Described {
        geometry,
        sgl: takes_sgl && options.pointers == Pointers::Any,
        shadow_doorbells: admin & c::OACS_DOORBELL_BUFFER != 0,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    type Page = [u8; BYTES];

    fn pages() -> (Page, Page) {
        let (mut controller, mut namespace) = ([0; BYTES], [0; BYTES]);
        controller[c::MDTS] = 5;
        controller[c::ONCS] = 0b1100;
        namespace[n::SIZE] = 100;
        namespace[n::FORMAT_USED] = 2;
        namespace[n::FORMAT + 10] = 12;
        (controller, namespace)
    }

    #[test]
    fn sizes_come_from_the_format_that_is_used() {
        let (controller, namespace) = pages();
        let what = read(&controller, &namespace, &Options::default()).unwrap();
        let g = what.geometry;
        assert_eq!(
            (g.block_bytes, g.blocks, g.transfer_bytes_max),
            (4096, 100, 131_072)
        );
        assert!(g.discard && g.write_zeroes && !g.compare && !g.flush && !g.read_only);
        assert!(!what.sgl && !what.shadow_doorbells);
    }

    #[test]
    fn what_cannot_be_is_refused() {
        type Change = fn(&mut Page, &mut Page);
        let changes: [(Change, &str); 6] = [
            (|_, n| n[n::FORMAT + 8] = 8, "metadata"),
            (|_, n| n[n::PROTECTION] = 1, "protection 1"),
            (|_, n| n[n::FORMAT + 10] = 8, "2^8"),
            (|_, n| n[n::FORMAT + 10] = 200, "2^200"),
            (|_, n| n[n::SIZE] = 0, "0 blocks"),
            (
                |_, n| n[n::SIZE..n::SIZE + 8].fill(0xff),
                "blocks: expected",
            ),
        ];
        for (change, expected) in changes {
            let (mut controller, mut namespace) = pages();
            change(&mut controller, &mut namespace);
            let error = read(&controller, &namespace, &Options::default()).unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
        for limit in [0, 19, 20, 31, 32, 255] {
            let (mut controller, namespace) = pages();
            controller[c::MDTS] = limit;
            let what = read(&controller, &namespace, &Options::default()).unwrap();
            assert_eq!(what.geometry.transfer_bytes_max, 1 << 20, "{limit}");
        }
    }
}
