//! Rings whose pages change in the guest's page tables under the engine.

use anyhow::Result;
use byway_vmm::demo::rings;
use byway_vmm::steer::{Stage, StageSpec};

use super::world::turn;

#[test]
fn a_ring_goes_on_where_it_was_created_when_its_pages_change_in_flight() -> Result<()> {
    let Some(_turn) = turn() else { return Ok(()) };
    let stage = Stage::set(StageSpec::default(), &mut |_| ())?;
    let rows = rings::provoke(&stage)?;
    let statuses: Vec<_> = rows.iter().map(|row| row.status.as_str()).collect();
    // A read by the process of a page that is not there.
    assert!(statuses[0].starts_with("vector 14 error 0x4"), "{rows:?}");
    assert!(statuses[1].starts_with("new frames ignored"), "{rows:?}");
    Ok(())
}
