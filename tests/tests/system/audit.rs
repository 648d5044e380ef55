//! The operator learns who gave what to whom, how much went through it, and how it ended.

use anyhow::{Context as _, Result};
use byway_agent::Process;
use byway_engine::interface::{AuditEnding, AuditParty};
use byway_protocols::Status;
use byway_vmm::run::AuditReport;
use byway_vmm::steer::{Direction, Stage, StageSpec};

use super::world::turn;

#[test]
fn an_audit_tells_giver_holder_bytes_and_end() -> Result<()> {
    let Some(_turn) = turn() else { return Ok(()) };
    let stage = Stage::set(StageSpec::default(), &mut |_| ())?;
    for (direction, bytes) in [(Direction::Put, 1 << 20), (Direction::Get, 4096)] {
        let done = stage
            .alice
            .execute_one(Process::App, &direction.descriptor(&stage, bytes))?;
        assert_eq!(done.status(), Some(Status::Success));
    }
    let books = || -> Result<_> {
        let mut report = AuditReport::take(&stage.engine, ["bob".to_owned()])?;
        report.domains.remove("bob").context("no books of bob's")
    };
    let holds = |party: &AuditParty| matches!(party, AuditParty::Slot { name: Some(name), slot, .. } if name == "alice" && *slot == stage.slot);

    let now = books()?;
    let given = now.live.iter().find(|record| holds(&record.holder));
    let given = given.context("alice's capability is not in bob's books")?;
    // 64 bytes came before: the stage's own first transfer.
    assert_eq!(
        (given.bytes_written, given.bytes_read),
        ((1 << 20) + 64, 4096)
    );
    assert_eq!(given.length, stage.buffer_bytes);
    assert!(given.read && given.write && given.end.is_none());
    assert!(given.parent.is_some() && given.given_ms <= now_ms());

    stage.bob.revoke(Process::App, stage.bob_slot)?;
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
    let ended = loop {
        let now = books()?;
        let of = |records: &[_]| {
            records
                .iter()
                .find(|r: &&byway_engine::interface::AuditRecord| r.id == given.id)
                .cloned()
        };
        // It is cleared away in the background.
        if let Some(record) = of(&now.past).or_else(|| of(&now.live))
            && let Some(end) = record.end
        {
            break end;
        }
        assert!(std::time::Instant::now() < deadline, "no end in the books");
        std::thread::sleep(std::time::Duration::from_millis(2));
    };
    assert!(
        matches!(&ended.how, AuditEnding::Revoked { name: Some(name), .. } if name == "bob"),
        "{ended:?}"
    );
    assert!(ended.at_ms >= given.given_ms);
    Ok(())
}

fn now_ms() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |since| since.as_millis() as u64)
}
