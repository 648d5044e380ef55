//! What a vhost-user-blk device says about itself, turned into a [`Geometry`] or refused
//! (virtio 1.2, section 5.2.4).

use virtio_bindings::virtio_blk::{
    VIRTIO_BLK_F_BLK_SIZE, VIRTIO_BLK_F_DISCARD, VIRTIO_BLK_F_FLUSH, VIRTIO_BLK_F_RO,
    VIRTIO_BLK_F_SEG_MAX, VIRTIO_BLK_F_SIZE_MAX, VIRTIO_BLK_F_WRITE_ZEROES,
};
use virtio_bindings::virtio_config::VIRTIO_F_VERSION_1;
use virtio_bindings::virtio_ring::VIRTIO_RING_F_EVENT_IDX;

use super::Options;
use crate::endpoint::device::Geometry;

/// Bytes of the configuration space that are read: up to `write_zeroes_may_unmap`.
pub(super) const CONFIG_BYTES: usize = 60;
/// Bytes of what virtio-blk counts in.
pub(super) const SECTOR: u64 = 512;

/// Feature bits that this front end knows what to do with.
pub(super) const UNDERSTOOD: u64 = 1 << VIRTIO_F_VERSION_1
    | 1 << VIRTIO_RING_F_EVENT_IDX
    | 1 << VIRTIO_BLK_F_SIZE_MAX
    | 1 << VIRTIO_BLK_F_SEG_MAX
    | 1 << VIRTIO_BLK_F_RO
    | 1 << VIRTIO_BLK_F_BLK_SIZE
    | 1 << VIRTIO_BLK_F_FLUSH
    | 1 << VIRTIO_BLK_F_DISCARD
    | 1 << VIRTIO_BLK_F_WRITE_ZEROES;

/// Whether a feature is among these.
pub(super) fn has(features: u64, bit: u32) -> bool {
    features >> bit & 1 != 0
}

/// What the device is like, and how much it takes at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Described {
    pub(super) geometry: Geometry,
    /// Most blocks of one discard; 0 without them.
    pub(super) discard_blocks_max: u32,
    /// Most blocks of one request for zeroes; 0 without them.
    pub(super) write_zeroes_blocks_max: u32,
}

/// Reads what the device says of itself.
///
/// # Errors
/// What was found, and expected.
pub(super) fn read(
    features: u64,
    config: &[u8; CONFIG_BYTES],
    options: &Options,
) -> Result<Described, String> {
    let u32_at = |at: usize| {
        u32::from_le_bytes([config[at], config[at + 1], config[at + 2], config[at + 3]])
    };
    let sectors = u64::from(u32_at(0)) | u64::from(u32_at(4)) << 32;
    let block_bytes = if has(features, VIRTIO_BLK_F_BLK_SIZE) {
        u32_at(20)
    } else {
        SECTOR as u32
    };
    // Not yet known to be in order: the check below is for what depends on it.
    let per_block = block_bytes / SECTOR as u32;
    if per_block == 0 {
        return Err(format!(
            "blocks of {block_bytes} bytes: expected 512 or more"
        ));
    }
    let blocks = sectors / u64::from(per_block);
    if has(features, VIRTIO_BLK_F_SEG_MAX) && u32_at(12) == 0 {
        return Err("requests of no segment (seg_max is 0): expected at least 1".to_owned());
    }
    let mut transfer_bytes_max = options.transfer_bytes_max;
    let segment_bytes_max = u32_at(8);
    // A request's data is one segment. 0 is no limit: QEMU offers the feature and leaves the
    // field empty.
    if has(features, VIRTIO_BLK_F_SIZE_MAX) && segment_bytes_max != 0 {
        transfer_bytes_max = transfer_bytes_max.min(segment_bytes_max);
    }
    transfer_bytes_max -= transfer_bytes_max % block_bytes;
    // How many blocks at once, for requests that name a range; at least one segment of them.
    let ranges = |bit: u32, sectors_at: usize, segments_at: usize| {
        let usable = has(features, bit) && u32_at(segments_at) != 0;
        let blocks = u32_at(sectors_at) / per_block;
        if usable { blocks } else { 0 }
    };
    let discard_blocks_max = ranges(VIRTIO_BLK_F_DISCARD, 36, 40);
    let write_zeroes_blocks_max = ranges(VIRTIO_BLK_F_WRITE_ZEROES, 48, 52);
    let geometry = Geometry {
        block_bytes,
        blocks,
        transfer_bytes_max,
        depth: options.depth,
        read_only: options.read_only || has(features, VIRTIO_BLK_F_RO),
        flush: has(features, VIRTIO_BLK_F_FLUSH),
        discard: discard_blocks_max != 0,
        write_zeroes: write_zeroes_blocks_max != 0,
        compare: false,
    };
    geometry.check()?;
    Ok(Described {
        geometry,
        discard_blocks_max,
        write_zeroes_blocks_max,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(fields: &[(usize, u32)]) -> [u8; CONFIG_BYTES] {
        let mut config = [0; CONFIG_BYTES];
        for &(at, value) in fields {
            config[at..at + 4].copy_from_slice(&value.to_le_bytes());
        }
        config
    }

    #[test]
    fn sizes_come_from_the_fields_whose_features_are_there() {
        let all = UNDERSTOOD & !(1 << VIRTIO_BLK_F_RO);
        let fields = [
            (0, 64),
            (8, 70_000),
            (12, 126),
            (20, 4096),
            (36, 32768),
            (40, 1),
            (48, 16),
            (52, 1),
        ];
        let config = config(&fields);
        let options = Options::default();
        let disk = read(all, &config, &options).unwrap();
        let g = disk.geometry;
        assert_eq!(
            (g.block_bytes, g.blocks, g.transfer_bytes_max),
            (4096, 8, 69632)
        );
        assert_eq!(
            (disk.discard_blocks_max, disk.write_zeroes_blocks_max),
            (4096, 2)
        );
        assert!(g.flush && g.discard && g.write_zeroes && !g.read_only && !g.compare);

        let g = read(1 << VIRTIO_F_VERSION_1, &config, &options)
            .unwrap()
            .geometry;
        assert_eq!(
            (g.block_bytes, g.blocks, g.transfer_bytes_max),
            (512, 64, 1 << 20)
        );
        assert!(!g.flush && !g.discard && !g.write_zeroes);
        let g = read(1 << VIRTIO_BLK_F_RO, &config, &options)
            .unwrap()
            .geometry;
        assert!(g.read_only);
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let refused = |features: &[u32], fields: &[(usize, u32)]| {
            let bits = features.iter().fold(0, |bits, bit| bits | 1 << bit);
            read(bits, &config(fields), &Options::default()).unwrap_err()
        };
        for block in [0, 256, 1000, 8192, u32::MAX] {
            let error = refused(&[VIRTIO_BLK_F_BLK_SIZE], &[(0, 64), (20, block)]);
            assert!(error.contains("expected"), "{error}");
        }
        for (low, high) in [(0, 0), (u32::MAX, u32::MAX)] {
            let error = refused(&[], &[(0, low), (4, high)]);
            assert!(error.contains("blocks: expected 1 to"), "{error}");
        }
        let error = refused(&[VIRTIO_BLK_F_SEG_MAX], &[(0, 64)]);
        assert!(error.contains("seg_max"), "{error}");
        let error = refused(&[VIRTIO_BLK_F_SIZE_MAX], &[(0, 64), (8, 511)]);
        assert!(error.contains("at most 0 bytes a request"), "{error}");
    }
}
