//! Polled transfers cause no exit, by a witness that is seen to count the exits that there are.

use anyhow::Result;
use byway_agent::commands::{ExitOnPurpose, MmioOnPurpose};
use byway_protocols::control::queue_flags;
use byway_vmm::demo::exits::Witness;
use byway_vmm::steer::{Direction, RunDone, RunSpec, Stage, StageSpec};

use super::parking::header;
use super::world::{APP, ENTRIES, MIB, turn, until};

fn stage() -> Result<Stage> {
    let spec = StageSpec {
        memory_bytes: 64 * MIB,
        buffer_bytes: 2 * MIB,
    };
    Stage::set(spec, &mut |_| ())
}

fn run(stage: &Stage, direction: Direction, size: u64, depth: u64) -> Result<RunDone> {
    let spec = RunSpec {
        descriptor: direction.descriptor(stage, size),
        iterations: 2000,
        depth,
        stride: 0,
        samples: 0,
    };
    stage.alice.run(APP, &spec)
}

#[test]
fn polled_transfers_cause_none() -> Result<()> {
    let Some(_turn) = turn() else { return Ok(()) };
    let stage = stage()?;
    // On a busy host alice may be off her core for longer than an idle queue is polled.
    let no_park = u64::from(queue_flags::NO_PARK);
    stage.alice.create_queue(APP, ENTRIES, no_park)?;
    stage.bob.sleep()?;
    let mut witness = Witness::proven(&stage)?;
    for direction in Direction::BOTH {
        for (size, depth) in [(64, 1), (64, 32), (64 << 10, 1), (64 << 10, 8)] {
            let done = witness.window(&stage, |stage| run(stage, direction, size, depth))?;
            assert_eq!((done.completed, done.failed, done.kicks), (2000, 0, 0));
        }
    }
    let report = witness.close(&stage)?;
    assert!(
        report.witness_sees_an_exit,
        "not measured: {:?}",
        report.witness_lacks
    );
    let counted = [
        report.userspace,
        report.emulated,
        report.mmio,
        report.io,
        report.hypercall,
    ];
    assert_eq!(counted, [Some(0); 5], "{report:?}");
    assert_eq!(report.caused_by_transfers(), Some(0), "{report:?}");
    Ok(())
}

/// Waits until alice's queue is parked, however late the worker gets a core.
fn until_parked(stage: &Stage) -> Result<()> {
    until("the queue to park", || {
        Ok((header(&stage.alice, APP)?.need_kick == 1).then_some(()))
    })
}

#[test]
fn the_witness_counts_a_kick() -> Result<()> {
    let Some(_turn) = turn() else { return Ok(()) };
    let stage = stage()?;
    until_parked(&stage)?;
    stage.alice.settle()?;
    let before = stage.alice.exits()?;
    let done = run(&stage, Direction::Put, 64, 1)?;
    let delta = stage.alice.exits()?.delta(&before);
    // Once; again only if alice was off her core for longer than an idle queue is polled.
    assert!(done.kicks >= 1, "the queue was not parked");
    assert!(!delta.is_quiet(), "a doorbell went unseen: {delta:?}");
    Ok(())
}

/// As on a host that keeps alice from her core, by which the queue parks, or that brings her an interrupt late.
#[test]
fn a_window_into_which_something_else_comes_is_made_again() -> Result<()> {
    let Some(_turn) = turn() else { return Ok(()) };
    let stage = stage()?;
    stage.bob.sleep()?;
    let mut witness = Witness::proven(&stage)?;
    for late in [0, 1, 3] {
        let mut made = 0;
        let done = witness.window(&stage, |stage| {
            made += 1;
            if made <= late && made % 2 == 0 {
                until_parked(stage)?;
            } else if made <= late {
                let taken = stage.alice.interrupts();
                stage.alice.vm().wake()?;
                until("an interrupt", || {
                    Ok((stage.alice.interrupts() > taken).then_some(()))
                })?;
            }
            run(stage, Direction::Put, 64, 1)
        })?;
        assert_eq!((done.completed, done.failed, done.kicks), (2000, 0, 0));
        assert!(made > late, "{made} windows, {late} of them late");
    }
    let report = witness.close(&stage)?;
    assert!(report.windows_repeated >= 4, "{report:?}");
    if report.witness_sees_an_exit {
        assert_eq!(report.caused_by_transfers(), Some(0), "{report:?}");
    }
    // One that always parks counts.
    let mut witness = Witness::proven(&stage)?;
    let done = witness.window(&stage, |stage| {
        until_parked(stage)?;
        run(stage, Direction::Put, 64, 1)
    })?;
    assert!(done.kicks >= 1);
    let caused = witness.close(&stage)?.caused_by_transfers();
    assert!(caused.is_none_or(|caused| caused >= 1), "{caused:?}");
    Ok(())
}

#[test]
fn the_witness_counts_ports_and_registers() -> Result<()> {
    let Some(_turn) = turn() else { return Ok(()) };
    let stage = stage()?;
    let returns = |act: &dyn Fn() -> Result<()>| {
        stage.alice.settle()?;
        let before = stage.alice.exits()?;
        act()?;
        anyhow::Ok(stage.alice.exits()?.delta(&before).kvm_run_returns)
    };
    for count in [1, 5] {
        let port = returns(&|| stage.alice.call(APP, ExitOnPurpose { count }).map(drop))?;
        assert_eq!(port, count);
        let mmio = returns(&|| stage.alice.call(APP, MmioOnPurpose { count }).map(drop))?;
        assert_eq!(mmio, count);
    }
    Ok(())
}
