//! IOTLB hits and misses, and walks by size of page.

use byway_engine::iotlb::Iotlb;
use byway_engine::stage2::Access;
use byway_engine::testing::{Guest, PageSize, Process, pte};
use serde_json::{Value, json};

use crate::bench::{VA, percentile, timed};

/// Pages in each set; more than the IOTLB has room for.
const PAGES: u64 = 8192;
const ROUNDS: usize = 15;

/// Nanoseconds per translation of these addresses, the median of some rounds.
fn per_translation(process: &Process, addresses: &[u64], warm: bool) -> f64 {
    let mut iotlb = Iotlb::new();
    let space = process.space();
    let mut rounds: Vec<f64> = (0..ROUNDS)
        .map(|_| {
            if !warm {
                iotlb.flush();
            }
            let ns = timed(|| {
                for &addr in addresses {
                    let span = iotlb.translate(space, addr, Access::Read);
                    std::hint::black_box(span.expect("a mapped page"));
                }
            });
            ns / addresses.len() as f64
        })
        .collect();
    percentile(&mut rounds, 0.5)
}

/// Numbers below `PAGES`, each once, in an order that no prefetcher guesses.
fn shuffled() -> Vec<u64> {
    (0..PAGES)
        .map(|i| i.wrapping_mul(2_654_435_761) % PAGES)
        .collect()
}

pub fn figures() -> Value {
    let guest = Guest::new(1, 128 << 20);
    let process = Process::new(&guest, 2);
    // Small pages of their own, and large ones that are all the same: walks differ by the
    // tables they go through, not by what is behind.
    process.map_scattered(VA, PAGES * 4096);
    let large = VA + (1 << 40);
    let frame = guest.alloc(2 << 20, 2 << 20);
    for page in 0..PAGES {
        process.map_page(large + (page << 21), frame, PageSize::Large, pte::USER);
    }
    let order = shuffled();
    let small_pages: Vec<u64> = order.iter().map(|p| VA + p * 4096).collect();
    let large_pages: Vec<u64> = order.iter().map(|p| large + (p << 21)).collect();
    let one_page = vec![VA; 8192];
    // As many as fit several times over, so that all hit but the first.
    let few: Vec<u64> = (0..8192).map(|i| VA + (i * 7 % 64) * 4096).collect();
    json!({
        "hit_same_page_ns": per_translation(&process, &one_page, true),
        "hit_other_page_ns": per_translation(&process, &few, true),
        "miss_4k_ns": per_translation(&process, &small_pages, false),
        "miss_2m_ns": per_translation(&process, &large_pages, false),
    })
}
