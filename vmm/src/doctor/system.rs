//! Memory, limits and devices of the host.

use std::fs;
use std::io;
use std::path::Path;

use byway_engine::backend::dsa::{self, Candidate, Mode};

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
    dsa_row(&dsa::candidates())
}

fn dsa_row(candidates: &[Candidate]) -> Row {
    const ITEM: &str = "devices.dsa";
    let usable: Vec<_> = candidates
        .iter()
        .filter_map(|c| c.found.as_ref().ok())
        .map(|queue| {
            let mode = match queue.mode {
                Mode::Shared => "shared",
                Mode::Dedicated => "dedicated",
            };
            format!("{} ({mode}, {} entries)", queue.name, queue.size)
        })
        .collect();
    if !usable.is_empty() {
        return Row::ok(ITEM, usable.join(", "));
    }
    let reasons: Vec<_> = candidates
        .iter()
        .filter_map(|c| Some(format!("{}: {}", c.name, c.found.as_ref().err()?)))
        .collect();
    if reasons.is_empty() {
        return Row::lacking(
            ITEM,
            "no work queues",
            "no Intel DSA set up here: the software backend does the work; on a host that has \
             one: accel-config config-wq --type=user ... and enable-wq",
        );
    }
    Row::lacking(
        ITEM,
        format!("{} work queues, none usable", candidates.len()),
        reasons.join("; "),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Verdict;
    use byway_engine::backend::dsa::{Operations, QueueInfo, Unusable};

    #[test]
    fn work_queues_are_named_or_explained() {
        assert_eq!(dsa_row(&[]).verdict, Verdict::Lacking);
        let broken = Candidate {
            name: "wq0.1".to_owned(),
            found: Err(Unusable::State("disabled".to_owned())),
        };
        let row = dsa_row(std::slice::from_ref(&broken));
        assert_eq!(row.verdict, Verdict::Lacking);
        assert!(row.advice.contains("wq0.1") && row.advice.contains("enable-wq"));
        let good = Candidate {
            name: "wq0.0".to_owned(),
            found: Ok(QueueInfo {
                name: "wq0.0".to_owned(),
                node: "/dev/dsa/wq0.0".into(),
                mode: Mode::Dedicated,
                size: 16,
                transfer_bytes_max: 1 << 21,
                batch_max: 32,
                operations: Operations::default(),
                version: 0x100,
            }),
        };
        let row = dsa_row(&[broken, good]);
        assert_eq!(row.verdict, Verdict::Ok);
        assert_eq!(row.found, "wq0.0 (dedicated, 16 entries)");
    }
}
