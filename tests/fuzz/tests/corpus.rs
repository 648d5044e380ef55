//! Every kept input, run as a plain test: the corpus, the seeds as the generator makes them,
//! and whatever has crashed a target once.

use std::fs;
use std::path::{Path, PathBuf};

use byway_fuzz::{TARGETS, Target, seeds};

/// Most that the corpus may take in the repository, in bytes.
const CORPUS_BYTES_MAX: u64 = 300 << 10;

/// Files of `corpus/TARGET` or `crashes/TARGET`, in order.
fn files(kind: &str, target: &Target) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join(kind)
        .join(target.name);
    let Ok(entries) = fs::read_dir(folder) else {
        return Vec::new();
    };
    let mut files: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

fn replay(name: &str) {
    let target = TARGETS.iter().find(|t| t.name == name).unwrap();
    let kept = files("corpus", target);
    assert!(!kept.is_empty(), "{name} has a corpus");
    for file in kept.into_iter().chain(files("crashes", target)) {
        // Shown when the input fails.
        println!("{}", file.display());
        (target.run)(&fs::read(file).unwrap());
    }
    for (seed, bytes) in seeds::of(name) {
        println!("seed {seed}");
        (target.run)(&bytes);
    }
}

#[test]
fn descriptors() {
    replay("descriptors");
}

#[test]
fn control() {
    replay("control");
}

#[test]
fn tables() {
    replay("tables");
}

#[test]
fn capabilities() {
    replay("capabilities");
}

#[test]
fn config() {
    replay("config");
}

#[test]
fn the_corpus_is_small() {
    let all = TARGETS.iter().flat_map(|target| files("corpus", target));
    let bytes: u64 = all.map(|file| fs::metadata(file).unwrap().len()).sum();
    assert!(bytes <= CORPUS_BYTES_MAX, "{bytes} bytes");
}

/// A generator that makes other bytes each time would make a corpus that nobody can
/// make again.
#[test]
fn seeds_are_the_same_each_time() {
    for target in TARGETS {
        let seeds = seeds::of(target.name);
        assert!(!seeds.is_empty(), "{} has seeds", target.name);
        assert_eq!(seeds, seeds::of(target.name));
    }
}
