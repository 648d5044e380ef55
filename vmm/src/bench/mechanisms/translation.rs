//! IOTLB hits and misses, and walks by size of page.

use std::hint::black_box;

use anyhow::{Result, ensure};
use byway_engine::iotlb::Iotlb;
use byway_engine::stage2::Access;
use byway_engine::testing::{Guest, PageSize, Process, pte};

use super::{percentile, timed};
use crate::bench::report::Row;

/// Pages in each set; more than the IOTLB has room for.
const PAGES: u64 = 8192;
/// Rounds, of which the median counts.
const ROUNDS: usize = 15;
/// Where small, large and huge pages are mapped, each with tables of its own.
const SMALL: u64 = 0x4000_0000;
const LARGE: u64 = SMALL + (1 << 40);
const HUGE: u64 = SMALL + (2 << 40);

/// Nanoseconds per translation of these addresses, the median of some rounds.
fn per_translation(process: &Process, addresses: &[u64], warm: bool) -> Result<f64> {
    let mut iotlb = Iotlb::new();
    let space = process.space();
    let mut failed = 0_u64;
    let mut rounds: Vec<f64> = (0..ROUNDS)
        .map(|_| {
            if !warm {
                iotlb.flush();
            }
            let ns = timed(|| {
                for &addr in addresses {
                    let span = iotlb.translate(space, addr, Access::Read);
                    failed += u64::from(black_box(span).is_err());
                }
            });
            ns / addresses.len() as f64
        })
        .collect();
    ensure!(failed == 0, "{failed} translations of mapped pages failed");
    Ok(percentile(&mut rounds, 0.5))
}

/// Rows: a hit in the page used last and in others, and walks with 4 levels to pages of each size.
///
/// # Errors
/// When a mapped page is not found.
pub fn measure(rows: &mut Vec<Row>) -> Result<()> {
    let guest = Guest::sealed(1, 128 << 20);
    let process = Process::new(&guest, 2);
    // Small pages of their own; larger ones are all the same: walks differ by the tables they go through, not by what is
    // behind.
    process.map_scattered(SMALL, PAGES * 4096);
    let frame = guest.alloc(2 << 20, 2 << 20);
    let (ram, _) = guest.ram();
    for page in 0..PAGES {
        process.map_page(LARGE + (page << 21), frame, PageSize::Large, pte::USER);
        process.map_page(HUGE + (page << 30), ram, PageSize::Huge, pte::USER);
    }
    // Each once, in an order that no prefetcher guesses.
    let order: Vec<u64> = (0..PAGES)
        .map(|i| i.wrapping_mul(2_654_435_761) % PAGES)
        .collect();
    let set = |base: u64, shift: u32| -> Vec<u64> {
        order.iter().map(|page| base + (page << shift)).collect()
    };
    let one_page = vec![SMALL; PAGES as usize];
    // As many as fit several times over, so that all hit but the first.
    let few: Vec<u64> = (0..PAGES).map(|i| SMALL + (i * 7 % 64) * 4096).collect();
    // Huge pages reach beyond the RAM: the address within is that of the frame.
    let huge: Vec<u64> = set(HUGE, 30).iter().map(|va| va + frame - ram).collect();
    for (case, size, addresses, warm) in [
        ("IOTLB hit, page used last", 4096, one_page, true),
        ("IOTLB hit, other page", 4096, few, true),
        ("IOTLB miss and walk", 4096, set(SMALL, 12), false),
        ("IOTLB miss and walk", 2 << 20, set(LARGE, 21), false),
        ("IOTLB miss and walk", 1 << 30, huge, false),
    ] {
        let ns = per_translation(&process, &addresses, warm)?;
        rows.push(Row {
            case: case.to_owned(),
            size,
            depth: 1,
            ops_per_s: Some(1e9 / ns.max(1e-3)),
            p50_ns: Some(ns),
            samples: Some(ROUNDS as u64 * PAGES),
            ..Row::default()
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_set_is_translated() {
        let mut rows = Vec::new();
        measure(&mut rows).unwrap();
        assert_eq!(rows.len(), 5);
        assert!(rows.iter().all(|row| row.p50_ns > Some(0.0)));
    }
}
