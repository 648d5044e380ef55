//! What the programs under `bin` have in common: how they begin and end, and descriptors of two VMs
//! steered from here.

use std::process::ExitCode;

use anyhow::{Context as _, Result};
use byway_agent::Process;
use byway_engine::interface::EndpointKind;
use byway_protocols::Completion;
use byway_ring::{Address, Request, Slot};
use byway_vmm::host;
use byway_vmm::steer::{Guest, Stage, StageSpec};

/// The guests' process that acts.
pub const APP: Process = Process::App;

/// Runs an example on two VMs. Exit codes are those of `byway`: 0 it did what it says and every
/// byte is right, 1 it did not, 3 this host has no KVM.
#[must_use]
pub fn on_two_vms(example: impl FnOnce(&mut Stage) -> Result<()>) -> ExitCode {
    if let Err(lack) = host::open_kvm() {
        eprintln!("this example boots two VMs: {lack}");
        return ExitCode::from(3);
    }
    let stage = Stage::set(StageSpec::default(), &mut |what| eprintln!("{what}"));
    match stage.and_then(|mut stage| example(&mut stage)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Has the guest's ring-3 process submit a request, and waits for its completion.
///
/// # Errors
/// When the guest does not answer.
pub fn execute(guest: &Guest, request: Request) -> Result<Completion> {
    guest.execute_one(APP, &request.into())
}

/// An address of the process's own.
#[must_use]
pub const fn own(va: u64) -> Address {
    Address::own(va)
}

/// An offset into what alice holds of bob's memory.
///
/// # Errors
/// Never: a slot that the engine gave out has 15 bits.
pub fn remote(stage: &Stage, offset: u64) -> Result<Address> {
    let slot = Slot::new(stage.slot).context("a slot above 32767")?;
    Ok(Address::capability(slot, offset))
}

/// A disk that alice may use: a file in the folder for temporary ones, removed at the end.
pub struct Disk {
    name: &'static str,
    path: std::path::PathBuf,
}

impl Disk {
    /// Makes the file, has the engine attach it, and grants it to alice: what an operator says with
    /// `[[endpoint]]` in a TOML file.
    ///
    /// # Errors
    /// When the file cannot be made, or the engine refuses it.
    pub fn attach(stage: &Stage, name: &'static str, bytes: u64) -> Result<Self> {
        let path = std::env::temp_dir().join(format!("byway-{name}-{}.img", std::process::id()));
        std::fs::File::create(&path)
            .and_then(|file| file.set_len(bytes))
            .with_context(|| format!("cannot make {}", path.display()))?;
        let disk = Self { name, path };
        stage.attach_disk(disk.name, EndpointKind::File, &disk.path)?;
        Ok(disk)
    }

    /// What guests ask for it by.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.name
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Nothing depends on it.
        let _ = std::fs::remove_file(&self.path);
    }
}
