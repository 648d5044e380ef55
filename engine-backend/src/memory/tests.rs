//! Tests of regions, spans and the survival of lost backing.

use std::fs::File;
use std::os::fd::FromRawFd;

use proptest::prelude::*;

use super::test_ram::{TestRam, memfd};
use super::*;

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

fn region(guest_addr: u64, size: u64) -> MemoryRegion {
    MemoryRegion {
        guest_addr,
        size,
        file: memfd(size),
        file_offset: 0,
        writable: true,
        populate: false,
    }
}

#[test]
fn host_addresses_are_congruent_so_that_large_leaves_exist() {
    for (start, size, leaf) in [
        (0, GIB, GIB),
        (5 * GIB, GIB + 4 * MIB, GIB),
        (2 * MIB, 16 * MIB, 2 * MIB),
        (0x5000, 8 * MIB, 2 * MIB),
        (0x7_0000_3000, MIB, 4096),
    ] {
        let memory = GuestMemory::new();
        memory.add_region(region(start, size)).unwrap();
        let span = memory.contiguous(start, size).unwrap();
        assert_eq!(span.host().0 % GIB, start % GIB);
        // A page in the middle lies in as large a leaf as fits there.
        let gpa = (start + size / 2) & !0xfff;
        let hit = memory.stage2().walk(gpa, Access::Read).unwrap();
        assert_eq!(hit.leaf_bytes, leaf, "{start:#x}+{size:#x}");
        assert_eq!(hit.host.0, span.host().0 + gpa - start);
    }
}

#[test]
fn bad_regions_are_refused_and_change_nothing() {
    let memory = GuestMemory::new();
    memory.add_region(region(MIB, MIB)).unwrap();
    let bad = |change: &dyn Fn(&mut MemoryRegion)| {
        let mut r = region(16 * MIB, MIB);
        change(&mut r);
        memory.add_region(r).unwrap_err().to_string()
    };
    for message in [
        bad(&|r| r.guest_addr += 1),
        bad(&|r| r.size = 0),
        bad(&|r| r.size -= 512),
        bad(&|r| r.file_offset = 8),
    ] {
        assert!(message.contains("expected multiples of 4096"), "{message}");
    }
    assert!(bad(&|r| r.file_offset = 4096).contains("the file has 0x100000 bytes only"));
    assert!(bad(&|r| r.file_offset = !0xfff).contains("the file has"));
    assert!(bad(&|r| r.guest_addr = MIB).contains("overlaps"));
    assert!(bad(&|r| r.guest_addr = 2 * MIB - 4096).contains("overlaps"));
    assert!(bad(&|r| r.guest_addr = 4096).contains("overlaps"));
    assert!(bad(&|r| r.guest_addr = 1 << 48).contains("48 bits"));
    assert!(bad(&|r| r.guest_addr = (1 << 48) - 4096).contains("48 bits"));
    assert!(bad(&|r| r.guest_addr = !0xfff).contains("48 bits"));
    assert_eq!(memory.regions(), [(MIB, MIB)]);
    assert_eq!(memory.stage2().epoch(), 0);
}

/// An empty file with pages of 2 MiB, of which the host need not have any; `None` where it knows none.
fn huge_memfd(bytes: u64) -> Option<Arc<File>> {
    let flags = libc::MFD_CLOEXEC | libc::MFD_HUGETLB | libc::MFD_HUGE_2MB;
    // SAFETY: the name is a C string; the descriptor is new and owned alone.
    let file = unsafe {
        let fd = libc::memfd_create(c"huge".as_ptr(), flags);
        (fd >= 0).then(|| File::from_raw_fd(fd))?
    };
    file.set_len(bytes).unwrap();
    Some(Arc::new(file))
}

/// The kernel maps whole huge pages: what lies behind a part of one would be mapped over.
#[test]
fn no_part_of_a_huge_page_is_mapped() {
    let Some(file) = huge_memfd(4 * MIB) else {
        println!("SKIPPED: this kernel has no hugetlbfs");
        return;
    };
    let memory = GuestMemory::new();
    let huge = |guest_addr, size, file_offset| MemoryRegion {
        file: Arc::clone(&file),
        file_offset,
        ..region(guest_addr, size)
    };
    for refused in [
        huge(0, 4096, 0),
        huge(GIB - 2 * MIB, 4096, 0),
        huge(4096, 2 * MIB, 0),
        huge(0, 2 * MIB, 4096),
    ] {
        let message = memory.add_region(refused).unwrap_err().to_string();
        assert!(
            message.contains("huge pages of 0x200000 bytes"),
            "{message}"
        );
    }
    assert!(SharedLog::new(file.try_clone().unwrap(), 0, 4096).is_err());
    memory
        .add_region(huge(GIB - 2 * MIB, 2 * MIB, 2 * MIB))
        .unwrap();
    assert_eq!(memory.regions(), [(GIB - 2 * MIB, 2 * MIB)]);
}

#[test]
fn a_domain_has_a_bounded_number_of_regions() {
    let memory = GuestMemory::new();
    for i in 0..REGIONS_MAX as u64 {
        memory.add_region(region(i * MIB, 4096)).unwrap();
    }
    let message = memory
        .add_region(region(GIB, 4096))
        .unwrap_err()
        .to_string();
    assert!(message.contains("as many regions as it may"), "{message}");
}

#[test]
fn a_removed_region_is_gone_for_translation_while_spans_live_on() {
    let ram = TestRam::new(&[(0, 2 * MIB, true), (4 * MIB, MIB, true)]);
    let memory = &ram.memory;
    let span = memory.contiguous(0x3000, 64).unwrap();
    assert!(memory.remove_region(0, MIB).is_err());
    assert!(memory.remove_region(4096, 2 * MIB).is_err());
    let retired = memory.remove_region(0, 2 * MIB).unwrap();
    assert_eq!(memory.stage2().epoch(), 1);
    assert_eq!(
        memory.stage2().walk(0x3000, Access::Read),
        Err(Stage2Fault::NotPresent)
    );
    assert!(memory.stage2().walk(4 * MIB, Access::Write).is_ok());
    assert!(memory.contiguous(0x3000, 64).is_none());
    // SAFETY: no other thread translates by this memory.
    drop(unsafe { retired.free() });
    span.store_u64(8, 7);
    assert_eq!(ram.read_u64(0x3008), 7);
    // The place may be taken again.
    memory.add_region(region(0, 2 * MIB)).unwrap();
    assert!(memory.stage2().walk(0x3000, Access::Read).is_ok());
}

#[test]
fn spans_lie_inside_one_writable_region() {
    let ram = TestRam::new(&[
        (0x10000, 0x4000, true),
        (0x14000, 0x4000, true),
        (0x40000, 0x1000, false),
    ]);
    let has = |gpa, len| ram.memory.contiguous(gpa, len).is_some();
    assert!(has(0x10000, 0x4000) && has(0x13fff, 1) && has(0x14000, 1));
    assert!(!has(0x13fff, 2), "crosses regions");
    assert!(!has(0xffff, 2) && !has(0x17fff, 2) && !has(0x20000, 1));
    assert!(!has(u64::MAX, 2) && !has(0x10000, u64::MAX));
    assert!(!has(0x40000, 8), "read-only");
    let walk = |access| ram.memory.stage2().walk(0x40000, access);
    assert!(walk(Access::Read).is_ok());
    assert_eq!(walk(Access::Write), Err(Stage2Fault::Permission));
    let span = ram.memory.contiguous(0x10000, 0x100).unwrap();
    let part = span.part(0x80, 0x80).unwrap();
    assert_eq!((part.gpa(), part.len()), (0x10080, 0x80));
    assert!(span.part(0x80, 0x81).is_none() && span.part(usize::MAX, 2).is_none());
}

#[test]
fn a_populated_region_is_there_at_once() {
    let file = memfd(4 * MIB);
    let memory = GuestMemory::new();
    memory
        .add_region(MemoryRegion {
            guest_addr: 0,
            size: 4 * MIB,
            file: Arc::clone(&file),
            file_offset: 0,
            writable: true,
            populate: true,
        })
        .unwrap();
    use std::os::unix::fs::MetadataExt;
    assert_eq!(file.metadata().unwrap().blocks() * 512, 4 * MIB);
}

#[test]
#[should_panic(expected = "outside the span")]
fn an_access_past_the_end_of_a_span_panics() {
    let ram = TestRam::new(&[(0, 0x2000, true)]);
    let span = ram.memory.contiguous(0, 0x1000).unwrap();
    let _ = span.load_u64(0xffc);
}

#[test]
#[should_panic(expected = "misaligned")]
fn a_misaligned_access_panics() {
    let ram = TestRam::new(&[(0, 0x2000, true)]);
    let _ = ram.memory.contiguous(0, 0x1000).unwrap().load_u32(2);
}

proptest! {
    #[test]
    fn bytes_go_where_they_belong(
        start in 0usize..40,
        offset in 0usize..40,
        data in proptest::collection::vec(any::<u8>(), 0..200),
    ) {
        let ram = TestRam::new(&[(0, 4096, true)]);
        let all = ram.memory.contiguous(0, 4096).unwrap();
        let span = all.part(start, 300).unwrap();
        span.write_bytes(offset, &data);
        let mut model = [0; 4096];
        model[start + offset..][..data.len()].copy_from_slice(&data);
        let mut seen = [1; 4096];
        all.read_bytes(0, &mut seen);
        prop_assert_eq!(seen, model);
        let mut back = vec![0; data.len()];
        span.read_bytes(offset, &mut back);
        prop_assert_eq!(back, data);
    }
}

#[test]
fn atomics_see_what_the_file_holds() {
    let ram = TestRam::new(&[(0, 4096, true)]);
    let span = ram.memory.contiguous(0, 4096).unwrap();
    ram.write_u64(16, 0x1122_3344_5566_7788);
    assert_eq!(span.load_u64_acquire(16), 0x1122_3344_5566_7788);
    assert_eq!(span.load_u32(20), 0x1122_3344);
    assert_eq!(span.load_u16_acquire(22), 0x1122);
    assert_eq!(span.cmpxchg_u64(16, 1, 2), Err(0x1122_3344_5566_7788));
    assert_eq!(
        span.cmpxchg_u64(16, 0x1122_3344_5566_7788, 5),
        Ok(0x1122_3344_5566_7788)
    );
    span.store_u32(20, 6);
    span.store_u16_release(18, 7);
    assert_eq!(ram.read_u64(16), 0x6_0007_0005);
    span.store_u64_release(16, 9);
    assert_eq!(ram.read_u64(16), 9);
}

#[test]
fn a_truncated_region_reads_as_zeros_and_is_flagged() {
    let memory = GuestMemory::new();
    let lost = region(0, 4 * MIB);
    let file = Arc::clone(&lost.file);
    memory.add_region(lost).unwrap();
    let other = TestRam::new(&[(0, MIB, true)]);
    other.write_u64(0, 3);
    let span = memory.contiguous(0, 4 * MIB).unwrap();
    span.store_u64(8, 1);
    span.store_u64(3 << 20, 2);
    let before = sigbus::generation();
    assert!(!memory.is_dead());
    file.set_len(0).unwrap();
    assert_eq!(span.load_u64(8), 0);
    assert_eq!(span.load_u64(3 << 20), 0);
    span.store_u64(8, 5);
    assert_eq!(span.load_u64(8), 5);
    assert!(memory.is_dead());
    assert!(sigbus::generation() > before);
    assert!(!other.memory.is_dead());
    assert_eq!(other.memory.contiguous(0, 8).unwrap().load_u64(0), 3);
}

#[test]
fn many_threads_survive_the_same_truncation() {
    let memory = GuestMemory::new();
    let lost = region(0, 4 * MIB);
    let file = Arc::clone(&lost.file);
    memory.add_region(lost).unwrap();
    let span = memory.contiguous(0, 4 * MIB).unwrap();
    file.set_len(0).unwrap();
    std::thread::scope(|scope| {
        for i in 0..4 {
            let span = &span;
            scope.spawn(move || {
                for page in 0..1024 {
                    span.store_u64(page * 4096 + i * 8, 1);
                }
            });
        }
    });
    assert!(memory.is_dead());
}

/// Runs `act` in a forked child and returns its wait status.
fn in_child(act: impl FnOnce()) -> libc::c_int {
    // SAFETY: the child makes system calls only and leaves by `_exit`.
    unsafe {
        let pid = libc::fork();
        assert!(pid >= 0);
        if pid == 0 {
            let no_core = libc::rlimit {
                rlim_cur: 0,
                rlim_max: 0,
            };
            libc::setrlimit(libc::RLIMIT_CORE, &no_core);
            act();
            libc::_exit(0);
        }
        let mut status = 0;
        assert_eq!(libc::waitpid(pid, &raw mut status, 0), pid);
        status
    }
}

#[test]
fn a_bus_error_elsewhere_is_as_fatal_as_ever() {
    sigbus::install().unwrap();
    let file = memfd(4096);
    let status = in_child(|| {
        // SAFETY: a private look at a file that then loses its page: the signal is the point.
        unsafe {
            let p = libc::mmap(
                std::ptr::null_mut(),
                4096,
                libc::PROT_READ,
                libc::MAP_SHARED,
                file.as_raw_fd(),
                0,
            );
            libc::ftruncate(file.as_raw_fd(), 0);
            p.cast::<u8>().read_volatile();
        }
    });
    assert!(libc::WIFSIGNALED(status), "{status:#x}");
    assert_eq!(libc::WTERMSIG(status), libc::SIGBUS);
}

#[test]
fn a_bus_error_sent_by_a_process_is_not_mistaken_for_lost_memory() {
    sigbus::install().unwrap();
    let status = in_child(|| {
        // The standard library's handler takes the first one as the end of its own use.
        for _ in 0..2 {
            // SAFETY: sends a signal to the child itself.
            unsafe { libc::raise(libc::SIGBUS) };
        }
    });
    assert!(libc::WIFSIGNALED(status), "{status:#x}");
    assert_eq!(libc::WTERMSIG(status), libc::SIGBUS);
}

/// Has a child queue bus errors of this code at the region's own address to itself; its exit status, 1 when it then
/// takes the region for lost.
fn with_bus_errors(code: libc::c_int, times: u32) -> libc::c_int {
    let ram = TestRam::new(&[(0, 4096, true)]);
    let host = ram.memory.contiguous(0, 8).unwrap().host().0;
    in_child(|| {
        // `siginfo_t` as the kernel takes it: number, errno and code, then the address.
        let mut info = [0u64; 16];
        info[0] = libc::SIGBUS as u64;
        info[1] = u64::from(code as u32);
        info[2] = host;
        for _ in 0..times {
            // SAFETY: queues a signal to the child itself, which may name any code.
            unsafe {
                let queue = libc::SYS_rt_sigqueueinfo;
                libc::syscall(queue, libc::getpid(), libc::SIGBUS, info.as_ptr());
            }
        }
        // SAFETY: ends the child.
        unsafe { libc::_exit(i32::from(ram.memory.is_dead())) };
    })
}

#[test]
fn failed_memory_that_nobody_accesses_ends_neither_region_nor_process() {
    // The standard library's handler, were it called, would make the second one fatal.
    let status = with_bus_errors(libc::BUS_MCEERR_AO, 3);
    assert!(libc::WIFEXITED(status), "{status:#x}");
    assert_eq!(
        libc::WEXITSTATUS(status),
        0,
        "the region was taken for lost"
    );
}

#[test]
fn a_process_cannot_name_a_region_as_lost() {
    let status = with_bus_errors(libc::SI_QUEUE, 1);
    assert!(libc::WIFEXITED(status), "{status:#x}");
    assert_eq!(
        libc::WEXITSTATUS(status),
        0,
        "the region was taken for lost"
    );
}
