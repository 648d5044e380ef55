//! What an operation costs between two cores of this machine: a submitter on one, a worker
//! on the other, beside the bare cache-line round trip of the same two.
//!
//!     cargo run --release -p byway-engine --features testing --example hotpath [ROW]
//!
//! With ROW only the rows whose names contain it, for a profiler. With `alone` as ROW the
//! worker's turns are taken by the submitting thread, so that a profiler that counts
//! instructions sees nothing else:
//!
//!     valgrind --tool=callgrind target/release/examples/hotpath alone
//!
//! Prints nanoseconds per operation. Not a test: figures of a busy machine mean little.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use byway_engine::backend::Software;
use byway_engine::epoch::Epochs;
use byway_engine::iotlb::Invalidations;
use byway_engine::testing::{Guest, PageSize, Process, Submitter};
use byway_engine::worker::{Solo, WorkerConfig, Workers};
use byway_protocols::{Descriptor, Flags, Opcode, Rights, Word0};

const SUBMITTER_CPU: usize = 0;
const WORKER_CPU: usize = 1;
const VA: u64 = 0x4000_0000;
const ROUNDS: usize = 7;

/// Best of several rounds of `f`, which says how many nanoseconds one operation took.
fn best(mut f: impl FnMut() -> f64) -> f64 {
    (0..ROUNDS).map(|_| f()).fold(f64::INFINITY, f64::min)
}

fn pin(cpu: usize) {
    // SAFETY: plain data, this thread alone.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(cpu, &mut set);
        libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &set);
    }
}

/// Nanoseconds of a cache line's round trip.
fn ping_pong() -> f64 {
    #[repr(align(128))]
    struct Line(AtomicU64);
    let (ping, pong) = (Arc::new(Line(0.into())), Arc::new(Line(0.into())));
    let stop = Arc::new(AtomicBool::new(false));
    let echo = std::thread::spawn({
        let (ping, pong, stop) = (ping.clone(), pong.clone(), stop.clone());
        move || {
            pin(WORKER_CPU);
            let mut seen = 0;
            while !stop.load(Ordering::Relaxed) {
                let now = ping.0.load(Ordering::Acquire);
                if now != seen {
                    seen = now;
                    pong.0.store(now, Ordering::Release);
                }
                std::hint::spin_loop();
            }
        }
    });
    const N: u64 = 200_000;
    let mut count = 0;
    let ns = best(|| {
        let start = Instant::now();
        for _ in 0..N {
            count += 1;
            ping.0.store(count, Ordering::Release);
            while pong.0.load(Ordering::Acquire) != count {
                std::hint::spin_loop();
            }
        }
        start.elapsed().as_nanos() as f64 / N as f64
    });
    stop.store(true, Ordering::Relaxed);
    echo.join().expect("the echo thread");
    ns
}

/// Nanoseconds per descriptor with `depth` of them outstanding.
fn measure(submitter: &mut Submitter, descriptor: &Descriptor, depth: u32, count: u32) -> f64 {
    best(|| {
        let start = Instant::now();
        let mut submitted = 0;
        let mut completed = 0;
        while completed < count {
            while submitted < count && submitter.outstanding() < depth {
                submitter.submit(descriptor);
                submitted += 1;
            }
            match submitter.poll() {
                Some(completion) => {
                    assert_eq!(completion.status, 1, "{completion:?}");
                    completed += 1;
                }
                None => std::hint::spin_loop(),
            }
        }
        start.elapsed().as_nanos() as f64 / f64::from(count)
    })
}

fn copy(size: u32, slot: u16, offset: u64) -> Descriptor {
    Descriptor {
        word0: Word0::new(0, slot, false).0,
        src: VA,
        dst: if slot == 0 { VA + (64 << 20) } else { offset },
        size,
        ..Descriptor::new(Opcode::Memmove, Flags::NONE)
    }
}

/// Nanoseconds per descriptor of a worker that has the processor, and all lines, for itself.
fn alone(process: &Process, descriptor: &Descriptor) -> f64 {
    const DEPTH: u32 = 64;
    const BURSTS: u32 = 500;
    let mut worker = Solo::new();
    let mut submitter = Submitter::new(process, DEPTH, true);
    worker.attach(submitter.queue().clone());
    best(|| {
        let mut took = std::time::Duration::ZERO;
        for _ in 0..BURSTS {
            for _ in 0..DEPTH {
                submitter.submit(descriptor);
            }
            let start = Instant::now();
            while worker.turn() {}
            took += start.elapsed();
            while let Some(completion) = submitter.poll() {
                assert_eq!(completion.status, 1, "{completion:?}");
            }
            assert_eq!(submitter.outstanding(), 0);
        }
        took.as_nanos() as f64 / f64::from(DEPTH * BURSTS)
    })
}

fn main() {
    let wanted = std::env::args().nth(1).unwrap_or_default();
    if wanted == "alone" {
        return alone_only();
    }
    let rtt = ping_pong();
    println!("cache-line round trip {rtt:10.1} ns");
    println!("copy kernels          {:>10}", Software::new().kernels());

    let alice = Guest::new(1, 256 << 20);
    let bob = Guest::new(2, 256 << 20);
    let a = Process::new(&alice, 16);
    let b = Process::new(&bob, 16);
    let a_ram = a.map(VA, 128 << 20, PageSize::Large);
    let b_ram = b.map(VA, 128 << 20, PageSize::Large);
    // Zeros would flatter: some memory controllers move them faster than other bytes.
    let noise: Vec<u8> = (0..128_u64 << 17)
        .flat_map(|i| (i | 1).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes())
        .collect();
    a.write(VA, &noise);
    b.write(VA, &noise);
    let slot = b.give(&a, VA, 128 << 20, Rights::ALL);

    let epochs = Arc::new(Epochs::new(1));
    let invalidations = Arc::new(Invalidations::new(1));
    let config = WorkerConfig {
        count: 1,
        cpus: vec![WORKER_CPU],
        park_us: 1_000_000,
    };
    let workers = Workers::start(config, epochs, invalidations).expect("a worker");
    pin(SUBMITTER_CPU);
    let mut submitter = Submitter::new(&a, 256, true);
    workers.attach(submitter.queue().clone());

    let nop = Descriptor::new(Opcode::Nop, Flags::NONE);
    println!("\n{:<28}{:>10}{:>10}", "", "ns/op", "x rtt");
    let mut row = |name: &str, descriptor: &Descriptor, depth, count| {
        if !name.contains(&wanted) {
            return f64::NAN;
        }
        let ns = measure(&mut submitter, descriptor, depth, count);
        println!("{name:<28}{ns:>10.1}{:>10.2}", ns / rtt);
        ns
    };
    row("nop, depth 1", &nop, 1, 100_000);
    row("nop, depth 64", &nop, 64, 500_000);
    row("64 B own, depth 1", &copy(64, 0, 0), 1, 100_000);
    row("64 B own, depth 64", &copy(64, 0, 0), 64, 500_000);
    row("64 B peer, depth 1", &copy(64, slot, 0), 1, 100_000);
    row("64 B peer, depth 64", &copy(64, slot, 0), 64, 500_000);
    row("4 KiB peer, depth 1", &copy(4096, slot, 0), 1, 50_000);
    row("64 KiB peer, depth 1", &copy(65536, slot, 0), 1, 10_000);
    for mib in [1_u32, 16] {
        let bytes = mib << 20;
        for flags in [Flags::NONE, Flags::CACHE_CONTROL] {
            let kind = if flags == Flags::NONE {
                "peer"
            } else {
                "cached"
            };
            let mut descriptor = copy(bytes, slot, 0);
            descriptor.flags_opcode |= flags.0;
            let name = format!("{mib} MiB {kind}, depth 1");
            let ns = row(&name, &descriptor, 1, 256 / mib);
            println!("{:<28}{:>10.2} GB/s", "", f64::from(bytes) / ns);
        }
        let ahead = u64::from(bytes);
        let (src, dst) = (alice.host(a_ram, ahead), bob.host(b_ram, ahead));
        let ns = best(|| {
            let start = Instant::now();
            for _ in 0..256 / mib {
                // SAFETY: both are inside the guests' windows, which nobody else uses now.
                unsafe { std::ptr::copy_nonoverlapping(src, dst, bytes as usize) };
                std::hint::black_box(dst);
            }
            start.elapsed().as_nanos() as f64 / f64::from(256 / mib)
        });
        println!(
            "{:<28}{:>10.2} GB/s",
            format!("{mib} MiB memcpy"),
            f64::from(bytes) / ns
        );
    }
    let stats = workers.stats();
    println!("\n{:?}", stats[0]);
}

fn alone_only() {
    let alice = Guest::new(1, 4 << 20);
    let bob = Guest::new(2, 4 << 20);
    let a = Process::new(&alice, 16);
    let b = Process::new(&bob, 16);
    a.map(VA, 1 << 20, PageSize::Small);
    b.map(VA, 1 << 20, PageSize::Small);
    let slot = b.give(&a, VA, 1 << 20, Rights::ALL);
    pin(SUBMITTER_CPU);
    let own = Descriptor {
        dst: VA + (512 << 10),
        ..copy(64, 0, 0)
    };
    let nop = Descriptor::new(Opcode::Nop, Flags::NONE);
    for (name, descriptor) in [
        ("nop", nop),
        ("64 B own", own),
        ("64 B peer", copy(64, slot, 0)),
    ] {
        println!("{name:<28}{:>10.1} ns", alone(&a, &descriptor));
    }
}
