//! Frames and blocks piece by piece, and what is not valid.

use proptest::prelude::*;

use super::*;

/// Text with repetitions, and noise.
fn data() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        prop::collection::vec(any::<u8>(), 0..200),
        (1..40_usize, 0..90_000_usize).prop_map(|(period, len)| {
            (0..len).map(|i| (i % period + i / 5000) as u8).collect()
        }),
        (0..70_000_usize, any::<u64>()).prop_map(|(len, seed)| {
            let mut x = seed | 1;
            (0..len)
                .map(|_| {
                    x ^= x << 13;
                    x ^= x >> 7;
                    x ^= x << 17;
                    x as u8
                })
                .collect()
        }),
    ]
}

fn encode(framed: bool, data: &[u8], input: usize, output: usize) -> Vec<u8> {
    let mut encoder = Encoder::new();
    encoder.reset(framed);
    let (mut at, mut out) = (0, Vec::new());
    loop {
        let end = data.len().min(at + input);
        let mut room = vec![0; output];
        let p = encoder.run(&data[at..end], end == data.len(), &mut room);
        at += p.consumed;
        out.extend_from_slice(&room[..p.produced]);
        if p.finished {
            assert_eq!(at, data.len());
            return out;
        }
    }
}

fn decode(
    framed: bool,
    data: &[u8],
    input: usize,
    output: usize,
) -> Result<(Vec<u8>, usize), DecodeError> {
    let mut decoder = Decoder::new();
    decoder.reset(framed);
    let (mut at, mut out) = (0, Vec::new());
    loop {
        let end = data.len().min(at + input);
        let mut room = vec![0; output];
        let p = decoder.run(&data[at..end], end == data.len(), &mut room)?;
        at += p.consumed;
        out.extend_from_slice(&room[..p.produced]);
        if p.finished {
            return Ok((out, at));
        }
        if p.consumed == 0 && p.produced == 0 {
            return Err(DecodeError::Bad);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn what_comes_out_does_not_depend_on_the_pieces(
        data in data(), i in 1..30_000_usize, o in 1..30_000_usize,
    ) {
        let straight = |framed, data| encode(framed, data, ENCODER_BLOCK, ENCODED_MAX);
        prop_assert_eq!(encode(true, &data, i, o), straight(true, &data));
        let block = &data[..data.len().min(ENCODER_BLOCK)];
        prop_assert_eq!(encode(false, block, i, o), straight(false, block));
    }

    #[test]
    fn frames_come_back(data in data(), i in 1..30_000_usize, o in 1..30_000_usize) {
        let frame = encode(true, &data, i, o);
        prop_assert_eq!(&frame[..7], &[0x04, 0x22, 0x4d, 0x18, 0x60, 0x40, 0x82]);
        let (back, used) = decode(true, &frame, o, i).unwrap();
        prop_assert_eq!(back, data);
        prop_assert_eq!(used, frame.len());
        for end in [0, 1, 6, 7, frame.len() / 2, frame.len() - 1] {
            prop_assert_eq!(decode(true, &frame[..end], o, i), Err(DecodeError::Bad));
        }
    }

    #[test]
    fn single_blocks_come_back(mut data in data(), o in 1..30_000_usize) {
        data.truncate(ENCODER_BLOCK);
        let block = encode(false, &data, 5000, o);
        prop_assert!(block.len() <= SINGLE_BLOCK_MAX);
        let plain = lz4_flex::block::decompress_into(&block, &mut vec![0; data.len()]);
        prop_assert_eq!(plain.ok(), Some(data.len()));
        prop_assert_eq!(decode(false, &block, 700, o), Ok((data, block.len())));
    }

    #[test]
    fn what_is_not_valid_ends(bytes in prop::collection::vec(any::<u8>(), 0..3000), framed: bool) {
        let _ = decode(framed, &bytes, 1000, 1000);
        let mut frame = vec![0x04, 0x22, 0x4d, 0x18, 0x60, 0x40, 0x82];
        frame.extend(&bytes);
        let _ = decode(true, &frame, 1000, 1000);
    }

    #[test]
    fn a_changed_bit_is_no_more_than_another_content(data in data(), bit: prop::sample::Index) {
        let mut frame = encode(true, &data, 9000, 9000);
        let bit = bit.index(frame.len() * 8);
        frame[bit / 8] ^= 1 << (bit % 8);
        if let Ok((back, _)) = decode(true, &frame, 9000, 9000) {
            prop_assert!(bit >= 56, "a header that differs");
            prop_assert!(back.len() <= data.len() + 2 * DECODER_BLOCK);
        }
    }
}

/// A frame with these flags and limit whose blocks are `blocks`.
fn frame(flags: u8, limit: u8, size: Option<u64>, blocks: &[u8]) -> Vec<u8> {
    let mut descriptor = vec![flags, limit];
    descriptor.extend(size.iter().flat_map(|s| s.to_le_bytes()));
    let checksum = header_checksum(&descriptor);
    let mut frame = MAGIC.to_le_bytes().to_vec();
    frame.extend(descriptor);
    frame.push(checksum);
    frame.extend(blocks);
    frame
}

#[test]
fn optional_fields_are_checked() {
    let plain = VERSION | INDEPENDENT;
    let stored = [3, 0, 0, 0x80, b'a', b'b', b'c'];
    let sum = XxHash32::oneshot(0, b"abc").to_le_bytes();
    let end = [0; 4];
    let cat = |parts: &[&[u8]]| parts.concat();
    let run = |f: Vec<u8>| decode(true, &f, 1 << 20, 1 << 20).map(|(out, _)| out);
    let good = Ok(b"abc".to_vec());

    let blocks = cat(&[&stored, &end]);
    assert_eq!(run(frame(plain, BLOCKS_64K, None, &blocks)), good);
    assert_eq!(
        run(frame(plain | CONTENT_SIZE, BLOCKS_64K, Some(3), &blocks)),
        good
    );
    assert_eq!(
        run(frame(plain | CONTENT_SIZE, BLOCKS_64K, Some(4), &blocks)),
        Err(DecodeError::Bad)
    );
    let checked = cat(&[&stored, &sum, &end, &sum]);
    let both = plain | BLOCK_CHECKSUMS | CONTENT_CHECKSUM;
    assert_eq!(run(frame(both, BLOCKS_64K, None, &checked)), good);
    for at in [7, 15] {
        let mut wrong = checked.clone();
        wrong[at] ^= 1;
        assert_eq!(
            run(frame(both, BLOCKS_64K, None, &wrong)),
            Err(DecodeError::Bad)
        );
    }
    // Linked blocks, a dictionary, larger blocks, another version, a block too long.
    for (flags, limit) in [
        (VERSION, BLOCKS_64K),
        (plain | 1, BLOCKS_64K),
        (plain | 2, BLOCKS_64K),
        (plain, 5 << 4),
        (INDEPENDENT, BLOCKS_64K),
    ] {
        assert_eq!(
            run(frame(flags, limit, None, &blocks)),
            Err(DecodeError::Bad)
        );
    }
    let long = cat(&[&[1, 0, 1, 0x80], &[0; 65537], &end]);
    assert_eq!(
        run(frame(plain, BLOCKS_64K, None, &long)),
        Err(DecodeError::Bad)
    );
}

#[test]
fn a_single_block_holds_no_more_than_it_may() {
    let data = vec![7; ENCODER_BLOCK + 1];
    let block = lz4_flex_block(&data);
    assert_eq!(
        decode(false, &block, 1 << 20, 1 << 20),
        Err(DecodeError::TooLong)
    );
    let block = lz4_flex_block(&data[1..]);
    assert_eq!(
        decode(false, &block, 1 << 20, 1 << 20).map(|(d, _)| d.len()),
        Ok(ENCODER_BLOCK)
    );
}

fn lz4_flex_block(data: &[u8]) -> Vec<u8> {
    let mut block = vec![0; get_maximum_output_size(data.len())];
    let len = lz4_flex::block::compress_into(data, &mut block).unwrap();
    block.truncate(len);
    block
}
