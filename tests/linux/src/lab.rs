//! What one test has: an engine, guests, and a folder of logs that stays when the test fails.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;

use crate::engine::Engine;
use crate::guest::{Config, Guest};
use crate::images::{Images, Kernel, repository, target_folder};
use crate::initramfs::Module;
use crate::qemu::Machine;

/// See the module's description.
#[derive(Debug)]
pub struct Lab {
    /// Where guests' parts come from.
    pub images: Images,
    scratch: TempDir,
    logs: PathBuf,
}

/// Runs a test. Its logs are in `target/test-logs/linux-NAME` while it runs, and stay if it fails.
///
/// # Panics
/// When the test's body fails, so that it counts as failed.
pub fn test(name: &str, body: impl FnOnce(&Lab) -> Result<()>) {
    let lab = match Lab::new(name) {
        Ok(lab) => lab,
        Err(error) => panic!("{error:?}"),
    };
    if let Err(error) = body(&lab) {
        // There at once: the runner tells it when all tests have ended.
        let _ = fs::write(lab.logs.join("failure.log"), format!("{error:?}\n"));
        panic!("{error:?}\nlogs: {}", lab.logs.display());
    }
    let _ = fs::remove_dir_all(&lab.logs);
}

/// One part of a test: its name and time go to the output, and its name before the error if it fails.
///
/// # Errors
/// Those of the part.
pub fn step<T>(what: &str, body: impl FnOnce() -> Result<T>) -> Result<T> {
    let start = Instant::now();
    let outcome = body().with_context(|| format!("step: {what}"));
    println!("{:7.1} s  {what}", start.elapsed().as_secs_f64());
    outcome
}

impl Lab {
    /// Makes the folders.
    ///
    /// # Errors
    /// When there are no images or a folder cannot be made.
    pub fn new(name: &str) -> Result<Self> {
        let logs = target_folder()
            .join("test-logs")
            .join(format!("linux-{name}"));
        let _ = fs::remove_dir_all(&logs);
        fs::create_dir_all(&logs).with_context(|| format!("cannot make {}", logs.display()))?;
        Ok(Self {
            images: Images::find()?,
            // A socket's path has to be short.
            scratch: tempfile::Builder::new().prefix("byway-").tempdir()?,
            logs,
        })
    }

    /// Where the test's logs are.
    #[must_use]
    pub fn logs(&self) -> &Path {
        &self.logs
    }

    /// A folder that goes with the test.
    #[must_use]
    pub fn scratch(&self) -> &Path {
        self.scratch.path()
    }

    /// Starts the engine with a configuration file of this content.
    ///
    /// # Errors
    /// When it does not start.
    pub fn engine(&self, config: &str) -> Result<Engine> {
        let program = byway()?;
        let log = self.logs.join("engine.log");
        Engine::start(&program, &self.scratch().join("engine"), config, &log)
    }

    /// What a guest is made of unless a test changes it.
    #[must_use]
    pub fn config(&self, name: &str, kernel: Kernel, engine: &Engine) -> Config {
        Config {
            name: name.into(),
            kernel,
            module: Module::Built,
            machine: Machine::default(),
            files: Vec::new(),
            device: Some(engine.socket(name)),
        }
    }

    /// Starts guests side by side and waits until all are up.
    ///
    /// # Errors
    /// When one does not come up.
    pub fn boot<const N: usize>(&self, configs: [Config; N]) -> Result<[Guest; N]> {
        let mut guests = Vec::new();
        for config in &configs {
            let guest = Guest::start(&self.images, config, self.scratch(), &self.logs)?;
            guests.push(guest);
        }
        step("boot", || guests.iter_mut().try_for_each(Guest::up))?;
        guests
            .try_into()
            .ok()
            .context("as many guests as configurations")
    }
}

/// The `byway` command of the same profile as this test program, built anew if it is older than its
/// sources: what is tested is never what was built some time before.
///
/// # Errors
/// When it cannot be built.
pub fn byway() -> Result<PathBuf> {
    static BUILT: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    BUILT
        .get_or_init(|| build_byway().map_err(|error| format!("{error:#}")))
        .clone()
        .map_err(anyhow::Error::msg)
}

fn build_byway() -> Result<PathBuf> {
    let mut build = Command::new(env!("CARGO"));
    build.current_dir(repository());
    build.args(["build", "--quiet", "--locked", "-p", "byway-vmm"]);
    build.args(["--bin", "byway"]);
    let profile = if cfg!(debug_assertions) {
        "debug"
    } else {
        build.arg("--release");
        "release"
    };
    let status = build.status().context("cannot run cargo")?;
    ensure!(status.success(), "byway cannot be built: {status}");
    Ok(target_folder().join(profile).join("byway"))
}
