//! All representations through the one call, against themselves and against the tools
//! that everybody has.

use std::io::Write;
use std::process::{Command, Stdio};

use proptest::prelude::*;

use super::*;

/// Runs a stream to its end; `None` when it ends too early.
fn run(
    stream: &mut Stream,
    kind: StreamKind,
    data: &[u8],
    input: usize,
    output: usize,
) -> Result<Vec<u8>, StreamError> {
    stream.start(kind);
    let (mut at, mut out) = (0, Vec::new());
    loop {
        let wants = stream.wants_input();
        let end = if wants {
            data.len().min(at + input)
        } else {
            at
        };
        let mut room = vec![0; output];
        let p = stream.run(&data[at..end], wants && end == data.len(), &mut room)?;
        at += p.consumed;
        out.extend_from_slice(&room[..p.produced]);
        if p.finished {
            return Ok(out);
        }
        if p.consumed == 0 && p.produced == 0 {
            return Err(StreamError::BadData);
        }
    }
}

fn noise(len: usize, mut x: u64) -> Vec<u8> {
    x |= 1;
    (0..len)
        .map(|_| {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
            x as u8
        })
        .collect()
}

fn text(len: usize) -> Vec<u8> {
    let words = [
        "page", "table", "walk", "engine", "chunk", "right", "\n", "0x7f",
    ];
    let picks = noise(len, 5);
    let all = picks.iter().map(|&b| words[usize::from(b) % words.len()]);
    let mut text = all.collect::<Vec<_>>().join(" ").into_bytes();
    text.truncate(len);
    text
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, ..ProptestConfig::default() })]

    #[test]
    fn data_comes_back(len in 0..120_000_usize, seed: u64, is_text: bool,
                       i in 1..20_000_usize, o in 1..20_000_usize) {
        let mut stream = Stream::new();
        let data = if is_text { text(len) } else { noise(len, seed) };
        for &c in Compression::ALL {
            let data = match c {
                Compression::Lz4Block => &data[..len.min(16384)],
                _ => &data,
            };
            let small = run(&mut stream, StreamKind::Compress(c), data, i, o).unwrap();
            let back = run(&mut stream, StreamKind::Decompress(c), &small, o, i).unwrap();
            prop_assert!(back == data, "{:?}", c);
            // Too early an end is noticed, wherever it is.
            let cut = small.len() - 1;
            prop_assert!(run(&mut stream, StreamKind::Decompress(c), &small[..cut], o, i) != Ok(data.to_vec()));
            // Nothing of this stream is left in the next.
            let again = run(&mut stream, StreamKind::Compress(c), data, o, i).unwrap();
            if c != Compression::Deflate && c != Compression::Zlib {
                prop_assert!(again == small);
            }
        }
    }

    #[test]
    fn what_is_not_valid_ends(bytes in prop::collection::vec(any::<u8>(), 0..4000)) {
        let mut stream = Stream::new();
        for &c in Compression::ALL {
            let _ = run(&mut stream, StreamKind::Decompress(c), &bytes, 700, 900);
        }
    }
}

/// A transfer that is revoked or faults leaves its stream in the middle.
#[test]
fn a_stream_that_was_abandoned_leaves_nothing_to_the_next() {
    let (stranger, data) = (noise(9000, 3), text(40_000));
    for &c in Compression::ALL {
        let data = match c {
            Compression::Lz4Block => &data[..16384],
            _ => &data[..],
        };
        let kind = StreamKind::Compress(c);
        let fresh = run(&mut Stream::new(), kind, data, 2048, 4096).unwrap();
        for (taken, room) in [(1, 4096), (2048, 4096), (9000, 300), (9000, 16384)] {
            let mut stream = Stream::new();
            stream.start(kind);
            let mut out = vec![0; room];
            stream.run(&stranger[..taken], false, &mut out).unwrap();
            let next = run(&mut stream, kind, data, 2048, 4096).unwrap();
            assert!(next == fresh, "{c:?}, abandoned after {taken} bytes");
        }
    }
}

#[test]
fn a_zlib_stream_is_verified() {
    let mut stream = Stream::new();
    let zlib = Compression::Zlib;
    let mut small = run(
        &mut stream,
        StreamKind::Compress(zlib),
        &text(5000),
        5000,
        5000,
    )
    .unwrap();
    let last = small.len() - 1;
    small[last] ^= 1;
    let back = run(
        &mut stream,
        StreamKind::Decompress(zlib),
        &small,
        5000,
        5000,
    );
    assert_eq!(back, Err(StreamError::BadData));
}

/// What a tool makes of its input; `None`, and a word about it, when it is not there.
fn tool(name: &str, arguments: &[&str], input: &[u8]) -> Option<Vec<u8>> {
    let child = Command::new(name)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn();
    let Ok(mut child) = child else {
        println!("SKIPPED: {name} is not installed");
        return None;
    };
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_vec();
    let feeder = std::thread::spawn(move || stdin.write_all(&input));
    let output = child.wait_with_output().unwrap();
    feeder.join().unwrap().unwrap();
    assert!(output.status.success(), "{name} {arguments:?}");
    Some(output.stdout)
}

#[test]
fn the_lz4_tool_agrees() {
    let mut stream = Stream::new();
    let frame = Compression::Lz4Frame;
    for data in [text(300_000), noise(100_000, 7), vec![0; 70_000], vec![]] {
        let small = run(
            &mut stream,
            StreamKind::Compress(frame),
            &data,
            16384,
            16384,
        )
        .unwrap();
        let Some(back) = tool("lz4", &["-dc"], &small) else {
            return;
        };
        assert!(back == data);
        for options in [
            &["-c", "-B4"][..],
            &["-c", "-9", "-B4", "-BX", "--content-size"],
        ] {
            let Some(theirs) = tool("lz4", options, &data) else {
                return;
            };
            let back = run(
                &mut stream,
                StreamKind::Decompress(frame),
                &theirs,
                16384,
                16384,
            );
            assert!(back == Ok(data.clone()), "{options:?}");
        }
    }
}

#[test]
fn pythons_zlib_agrees() {
    let mut stream = Stream::new();
    for (compression, bits) in [(Compression::Zlib, "15"), (Compression::Deflate, "-15")] {
        let script = |body: &str| {
            format!(
                "import sys, zlib\nd = sys.stdin.buffer.read()\n\
                 w = {bits}\nsys.stdout.buffer.write({body})"
            )
        };
        for data in [text(300_000), noise(100_000, 7), vec![0; 70_000], vec![]] {
            let small = run(
                &mut stream,
                StreamKind::Compress(compression),
                &data,
                2048,
                2048,
            )
            .unwrap();
            let inflate = script("zlib.decompress(d, w)");
            let Some(back) = tool("python3", &["-c", &inflate], &small) else {
                return;
            };
            assert!(back == data);
            let deflate = "(lambda c: c.compress(d) + c.flush())(zlib.compressobj(9, 8, w))";
            let Some(theirs) = tool("python3", &["-c", &script(deflate)], &data) else {
                return;
            };
            let back = run(
                &mut stream,
                StreamKind::Decompress(compression),
                &theirs,
                2048,
                8192,
            );
            assert!(back == Ok(data.clone()));
        }
    }
}

/// What is put around DEFLATE here is what the library would put around it, however it is taken.
#[test]
fn a_zlib_stream_is_the_librarys_own() {
    for data in [&b""[..], b"a", &noise(5000, 9), &text(100_000)] {
        let config = zlib_rs::DeflateConfig::new(1);
        let mut room = vec![0; zlib_rs::compress_bound(data.len())];
        let (theirs, code) = zlib_rs::compress_slice(&mut room, data, config);
        assert_eq!(code, zlib_rs::ReturnCode::Ok);
        let kind = StreamKind::Compress(Compression::Zlib);
        for output in [1, 2, 3, 700, 2 * data.len() + 200] {
            let ours = run(&mut Stream::new(), kind, data, data.len().max(1), output).unwrap();
            assert!(ours == theirs, "{} bytes by {output}", data.len());
        }
    }
}

#[test]
fn a_call_of_a_decompressor_gets_what_comes_to_its_share() {
    let mut stream = Stream::new();
    let deflate = StreamKind::Compress(Compression::Deflate);
    // What hardly compresses, what does, and what becomes a thousandth, in one stream: each part tells of the next wrongly.
    let parts = [
        noise(200_000, 7),
        text(400_000),
        vec![0; 400_000],
        noise(200_000, 9),
    ];
    let data = parts.concat();
    let small = run(&mut stream, deflate, &data, 2000, 20_000).unwrap();
    stream.start(StreamKind::Decompress(Compression::Deflate));
    let (mut at, mut out, mut calls) = (0, Vec::new(), Vec::new());
    loop {
        let input = stream.input_bytes().min(small.len() - at);
        assert!(input <= 4 << 10);
        let mut room = vec![0; stream.output_bytes()];
        let ended = stream.run(&small[at..at + input], at + input == small.len(), &mut room);
        let p = ended.unwrap();
        at += p.consumed;
        out.extend_from_slice(&room[..p.produced]);
        calls.push((out.len(), p.produced));
        if p.finished {
            break;
        }
    }
    assert!(out == data, "{} bytes of {}", out.len(), data.len());
    // Well inside the part that compresses, each call comes to 8 KiB, give or take a quarter.
    let usual = calls
        .iter()
        .filter(|(end, _)| (300_000..580_000).contains(end));
    let (least, most) = usual.fold((usize::MAX, 0), |(least, most), &(_, bytes)| {
        (least.min(bytes), most.max(bytes))
    });
    assert!(
        least >= 6 << 10 && most <= 10 << 10,
        "{least} to {most} bytes"
    );
}
