//! CPU and engine make the same accesses through the same random page tables, and must agree.
//!
//! What is compared and how: [`byway_tests::oracle`]. A failure names its seed; run it again with `BYWAY_SEED` set to that.

use std::time::Instant;

use byway_tests::oracle::machine::Machine;
use byway_tests::oracle::{CASES, kvm, rng, run, tcg};

/// Runs all cases on a machine, or says why there is none.
fn agree(machine: anyhow::Result<Result<Machine, String>>) {
    let machine = match machine.expect("the guest boots") {
        Ok(machine) => machine,
        Err(lack) => {
            println!("SKIPPED: {lack}");
            return;
        }
    };
    let (seed, start) = (rng::seed(), Instant::now());
    match run(&machine, seed, CASES) {
        Ok(coverage) => println!(
            "{CASES} cases of seed {seed:#x} in {:.1} s, {} levels:\n{coverage}",
            start.elapsed().as_secs_f64(),
            machine.paging().levels
        ),
        Err(error) => panic!("{error:#}"),
    }
}

#[test]
fn cpu_and_engine_agree_on_kvm() {
    agree(kvm::boot());
}

#[test]
fn cpu_and_engine_agree_under_tcg_with_4_levels() {
    agree(tcg::boot(false));
}

#[test]
fn cpu_and_engine_agree_under_tcg_with_5_levels() {
    agree(tcg::boot(true));
}
