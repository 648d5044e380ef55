//! Memory, limits and devices of the host.

use std::fs;
use std::io;
use std::path::Path;

use super::Row;
use crate::memory::{GuestRam, HugePages, RAM_MIN, RamConfig, selected};

const THP: &str = "/sys/kernel/mm/transparent_hugepage";
const HUGE_2M: &str = "/sys/kernel/mm/hugepages/hugepages-2048kB";
/// Locked memory under which pinning guest memory will soon fail.
const MEMLOCK_WANTED: u64 = 1 << 30;

pub(super) fn rows() -> Vec<Row> {
    vec![
        memfd(),
        hugetlb(),
        transparent("memory.thp", "enabled", &["always", "madvise"]),
        transparent(
            "memory.shmem-thp",
            "shmem_enabled",
            &["always", "within_size", "advise", "force"],
        ),
        memlock(),
        dsa(),
    ]
}

/// Makes a small RAM and tries to break its seals.
fn memfd() -> Row {
    const ITEM: &str = "memory.memfd-sealing";
    let advice = "allow memfd_create and F_ADD_SEALS (a seccomp filter may forbid them)";
    let ram = GuestRam::new(&RamConfig {
        size: RAM_MIN,
        huge_pages: HugePages::Off,
        populate: false,
    });
    match ram {
        Err(error) => Row::missing(ITEM, error.to_string(), advice),
        Ok(ram) => {
            let shrinks = ram
                .engine_regions()
                .iter()
                .any(|region| region.file.set_len(0).is_ok());
            Row::either(
                ITEM,
                !shrinks,
                if shrinks {
                    "seals do not hold"
                } else {
                    "works"
                },
                advice,
            )
        }
    }
}

fn hugetlb() -> Row {
    const ITEM: &str = "memory.hugetlb";
    let read = |name: &str| {
        fs::read_to_string(Path::new(HUGE_2M).join(name))
            .ok()
            .and_then(|text| text.trim().parse::<u64>().ok())
    };
    let (Some(total), Some(free)) = (read("nr_hugepages"), read("free_hugepages")) else {
        return Row::lacking(
            ITEM,
            "no 2 MiB pool in this kernel",
            "nothing to do: hugepages = \"auto\" works without",
        );
    };
    Row::either(
        ITEM,
        free > 0,
        format!("{free} of {total} 2 MiB pages free"),
        "for hugepages = \"hugetlb\": sysctl vm.nr_hugepages=N with N = MiB of guest RAM / 2",
    )
}

fn transparent(item: &'static str, file: &str, good: &[&str]) -> Row {
    let path = Path::new(THP).join(file);
    let text = fs::read_to_string(&path).unwrap_or_default();
    let choice = selected(&text).unwrap_or("not in this kernel");
    let wanted = if good.contains(&"advise") {
        "advise"
    } else {
        "madvise"
    };
    Row::either(
        item,
        good.contains(&choice),
        choice,
        format!("echo {wanted} > {}", path.display()),
    )
}

fn memlock() -> Row {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: the structure is live and of the type that the call fills.
    let done = unsafe { libc::getrlimit(libc::RLIMIT_MEMLOCK, &raw mut limit) };
    const ITEM: &str = "limits.memlock";
    if done != 0 {
        return Row::lacking(
            ITEM,
            format!("cannot be read: {}", io::Error::last_os_error()),
            "check `ulimit -l`",
        );
    }
    let found = if limit.rlim_cur == libc::RLIM_INFINITY {
        "unlimited".to_owned()
    } else {
        format!("{} MiB", limit.rlim_cur >> 20)
    };
    Row::either(
        ITEM,
        limit.rlim_cur >= MEMLOCK_WANTED,
        found,
        "raise it (ulimit -l unlimited, or LimitMEMLOCK= of the service) before pinning guest memory",
    )
}

fn dsa() -> Row {
    let entries = |path: &str| fs::read_dir(path).map_or(0, Iterator::count);
    let (queues, devices) = (entries("/dev/dsa"), entries("/sys/bus/dsa/devices"));
    Row::either(
        "devices.dsa",
        queues > 0,
        format!("{queues} user work queues, {devices} devices"),
        if devices > 0 {
            "set up a user work queue: accel-config config-wq --type=user ... and enable-wq"
        } else {
            "no Intel DSA here: the software backend does the work; nothing to do"
        },
    )
}
