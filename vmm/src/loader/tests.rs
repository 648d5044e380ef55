//! Loading of each kind of kernel, from images made up here.

use super::*;
use crate::layout::{COMMAND_LINE, PVH_MODULES, PVH_START_INFO, ZERO_PAGE};
use std::io::Write;
use tempfile::NamedTempFile;

const RAM: usize = 64 << 20;

fn ram() -> (GuestMemoryMmap, MemoryMap) {
    let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), RAM)]).unwrap();
    (memory, MemoryMap::new(&[(0, RAM as u64)], 0))
}

/// An ELF with one segment of `code` at `at`, and a PVH note if asked.
fn elf(at: u64, code: &[u8], pvh: Option<u32>) -> Vec<u8> {
    const HEADER: usize = 64;
    const PROGRAM_HEADER: usize = 56;
    let note: Vec<u8> = pvh
        .map(|entry| {
            let mut note = Vec::new();
            for word in [4u32, 4, 18] {
                note.extend(word.to_le_bytes());
            }
            note.extend(b"Xen\0");
            note.extend(entry.to_le_bytes());
            note
        })
        .unwrap_or_default();
    let segments = 1 + u16::from(pvh.is_some());
    let note_offset = HEADER + PROGRAM_HEADER * usize::from(segments);
    let code_offset = note_offset + note.len();

    let mut file = vec![0; HEADER];
    file[..4].copy_from_slice(&ELF_MAGIC);
    file[4] = 2; // 64-bit
    file[5] = 1; // little-endian
    file[6] = 1;
    file[16..18].copy_from_slice(&2u16.to_le_bytes());
    file[18..20].copy_from_slice(&62u16.to_le_bytes());
    file[24..32].copy_from_slice(&at.to_le_bytes());
    file[32..40].copy_from_slice(&(HEADER as u64).to_le_bytes());
    file[54..56].copy_from_slice(&(PROGRAM_HEADER as u16).to_le_bytes());
    file[56..58].copy_from_slice(&segments.to_le_bytes());
    let mut program_header = |kind: u32, offset: usize, at: u64, size: usize| {
        file.extend(kind.to_le_bytes());
        file.extend(7u32.to_le_bytes());
        for field in [offset as u64, at, at, size as u64, size as u64, 4] {
            file.extend(field.to_le_bytes());
        }
    };
    program_header(1, code_offset, at, code.len());
    if pvh.is_some() {
        program_header(4, note_offset, 0, note.len());
    }
    file.extend(note);
    file.extend(code);
    file
}

/// A bzImage with nothing in it but a header and some bytes of "kernel".
fn bzimage(version: u16, xloadflags: u16) -> Vec<u8> {
    let mut file = vec![0; 2 * 512];
    file[0x1f1] = 1; // one setup sector
    file[0x1fe..0x200].copy_from_slice(&0xaa55u16.to_le_bytes());
    file[0x202..0x206].copy_from_slice(&SETUP_MAGIC);
    file[0x206..0x208].copy_from_slice(&version.to_le_bytes());
    file[0x211] = 1; // loaded high
    file[0x214..0x218].copy_from_slice(&0x10_0000u32.to_le_bytes());
    file[0x22c..0x230].copy_from_slice(&0x7fff_ffffu32.to_le_bytes());
    file[0x236..0x238].copy_from_slice(&xloadflags.to_le_bytes());
    file[0x258..0x260].copy_from_slice(&0x100_0000u64.to_le_bytes());
    file[0x260..0x264].copy_from_slice(&0x20_0000u32.to_le_bytes());
    file.extend([0xaa; 4096]);
    file
}

fn file(bytes: &[u8]) -> NamedTempFile {
    let mut file = NamedTempFile::new().unwrap();
    file.write_all(bytes).unwrap();
    file
}

fn load_bytes(bytes: &[u8], initrd: Option<&[u8]>) -> (GuestMemoryMmap, Result<Entry, LoadError>) {
    let (memory, map) = ram();
    let kernel = file(bytes);
    let initrd = initrd.map(file);
    let loaded = load(
        &memory,
        &map,
        &Payload {
            kernel: &KernelSource::File(kernel.path().to_owned()),
            initrd: initrd.as_ref().map(|file| file.path()),
            cmdline: "console=ttyS0",
            rsdp: 0xe_0000,
        },
    );
    (memory, loaded)
}

fn word(memory: &GuestMemoryMmap, at: u64) -> u64 {
    memory.read_obj(GuestAddress(at)).unwrap()
}

#[test]
fn a_pvh_note_is_preferred() {
    let (memory, entry) = load_bytes(&elf(0x20_0000, &[0xf4; 64], Some(0x20_0010)), None);
    assert_eq!(entry.unwrap(), Entry::Pvh(0x20_0010));
    assert_eq!(word(&memory, 0x20_0000), 0xf4f4_f4f4_f4f4_f4f4);
    assert_eq!(word(&memory, PVH_START_INFO) as u32, 0x336e_c578);
    assert_eq!(word(&memory, PVH_START_INFO + 24), COMMAND_LINE);
    assert_eq!(word(&memory, PVH_START_INFO + 32), 0xe_0000);
    let mut cmdline = [0xff; 14];
    memory
        .read_slice(&mut cmdline, GuestAddress(COMMAND_LINE))
        .unwrap();
    assert_eq!(&cmdline, b"console=ttyS0\0");
}

#[test]
fn an_elf_without_note_starts_by_the_linux_protocol() {
    let (memory, entry) = load_bytes(&elf(0x100_0000, &[0x90; 64], None), None);
    assert_eq!(entry.unwrap(), Entry::Linux64(0x100_0000));
    let entries: u8 = memory.read_obj(GuestAddress(ZERO_PAGE + 0x1e8)).unwrap();
    assert_eq!(entries, 3);
    assert_eq!(word(&memory, ZERO_PAGE + 0x70), 0xe_0000);
}

#[test]
fn a_bzimage_starts_at_its_64_bit_entry() {
    let (memory, entry) = load_bytes(&bzimage(0x020f, XLF_KERNEL_64), None);
    assert_eq!(entry.unwrap(), Entry::Linux64(0x10_0200));
    assert_eq!(word(&memory, 0x10_0000), 0xaaaa_aaaa_aaaa_aaaa);
    let pointer: u32 = memory.read_obj(GuestAddress(ZERO_PAGE + 0x228)).unwrap();
    assert_eq!(u64::from(pointer), COMMAND_LINE);
}

#[test]
fn an_initramfs_goes_to_the_top_of_ram() {
    let initrd = vec![0x5a; 5000];
    let expected = (RAM as u64 - 5000) & !0xfff;
    let (memory, entry) = load_bytes(&bzimage(0x020f, XLF_KERNEL_64), Some(&initrd));
    entry.unwrap();
    let at: u32 = memory.read_obj(GuestAddress(ZERO_PAGE + 0x218)).unwrap();
    let size: u32 = memory.read_obj(GuestAddress(ZERO_PAGE + 0x21c)).unwrap();
    assert_eq!((u64::from(at), size), (expected, 5000));
    assert_eq!(word(&memory, expected) as u8, 0x5a);

    let (memory, entry) = load_bytes(&elf(0x20_0000, &[0; 64], Some(0x20_0000)), Some(&initrd));
    entry.unwrap();
    assert_eq!(word(&memory, PVH_MODULES), expected);
    assert_eq!(word(&memory, PVH_MODULES + 8), 5000);
}

#[test]
fn an_initramfs_that_does_not_fit_is_an_error() {
    let initrd = vec![0; RAM - (17 << 20)];
    let (_, loaded) = load_bytes(&bzimage(0x020f, XLF_KERNEL_64), Some(&initrd));
    assert!(
        matches!(loaded, Err(LoadError::Initrd { .. })),
        "{loaded:?}"
    );
}

#[test]
fn other_files_are_refused() {
    for bytes in [&b""[..], b"\x7fEL", b"#!/bin/sh\n", &[0; 4096]] {
        let (_, loaded) = load_bytes(bytes, None);
        assert!(matches!(loaded, Err(LoadError::UnknownKind)), "{loaded:?}");
    }
}

#[test]
fn a_bzimage_without_64_bit_entry_is_refused() {
    for (version, flags) in [(0x020b, XLF_KERNEL_64), (0x020f, 0)] {
        let (_, loaded) = load_bytes(&bzimage(version, flags), None);
        assert!(matches!(loaded, Err(LoadError::No64BitEntry(_))));
    }
}

#[test]
fn damaged_elf_files_are_errors() {
    let good = elf(0x20_0000, &[0x90; 64], Some(0x20_0000));
    for length in 4..good.len() {
        let (_, loaded) = load_bytes(&good[..length], None);
        assert!(loaded.is_err(), "{length} of {} bytes", good.len());
    }
}

#[test]
fn kernels_outside_ram_are_refused() {
    for (at, entry) in [
        (RAM as u64, None),
        (RAM as u64 - 32, None),
        (0x1000, None),
        (0x20_0000, Some(0x1000)),
        (0x20_0000, Some(0x20_0040)),
        (u64::MAX - 8, None),
    ] {
        let (_, loaded) = load_bytes(&elf(at, &[0x90; 64], entry), None);
        assert!(loaded.is_err(), "{at:#x} {entry:?}");
    }
}

#[test]
fn a_missing_file_is_named() {
    let (memory, map) = ram();
    let path = PathBuf::from("/nonexistent/vmlinux");
    let error = load(
        &memory,
        &map,
        &Payload {
            kernel: &KernelSource::File(path),
            initrd: None,
            cmdline: "",
            rsdp: 0,
        },
    )
    .unwrap_err();
    assert!(error.to_string().contains("/nonexistent/vmlinux"));
}

#[test]
fn command_lines_are_bounded() {
    let (memory, map) = ram();
    let image = file(&elf(0x20_0000, &[0x90; 64], None));
    for (cmdline, good) in [
        ("x".repeat(COMMAND_LINE_MAX - 1), true),
        ("x".repeat(COMMAND_LINE_MAX), false),
        ("a\0b".to_owned(), false),
    ] {
        let loaded = load(
            &memory,
            &map,
            &Payload {
                kernel: &KernelSource::File(image.path().to_owned()),
                initrd: None,
                cmdline: &cmdline,
                rsdp: 0,
            },
        );
        assert_eq!(loaded.is_ok(), good);
    }
}
