//! Embed engine and VMM in a program of your own: launch the VMs of a file, look at them as the operator does, change
//! a link while they run, stop them.
//!
//!     cargo run --release -p byway-examples --bin embed -- examples/two-vms.toml

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result};
use byway_engine::interface::{Action, Reply};
use byway_vmm::config::RunConfig;
use byway_vmm::run::launch;

fn main() -> Result<()> {
    let path: PathBuf = std::env::args_os()
        .nth(1)
        .map_or_else(|| PathBuf::from("examples/two-vms.toml"), PathBuf::from);
    let config = RunConfig::load(&path)?;
    let mut fleet = launch(config).map_err(|failure| anyhow::anyhow!("{failure}"))?;
    fleet
        .start()
        .map_err(|failure| anyhow::anyhow!("{failure}"))?;
    std::thread::sleep(Duration::from_millis(300));

    // The operator's side: one action enum, the same that a TOML file or a socket produces.
    let Reply::Domains { domains } = fleet.engine.act(Action::List)? else {
        anyhow::bail!("List answers with domains");
    };
    for domain in &domains {
        println!(
            "{} (domain {}): attached {}, {} contexts",
            domain.name, domain.id, domain.attached, domain.contexts
        );
    }
    // Policy can be taken back while the VMs run; what went along the link is revoked before this returns.
    fleet
        .engine
        .act(Action::Unlink {
            from: "bob".to_owned(),
            to: "alice".to_owned(),
        })
        .context("the file has a link from bob to alice")?;
    println!("link from bob to alice: gone");

    let clean = fleet.stop();
    println!("all VMs stopped, cleanly: {clean}");
    Ok(())
}
