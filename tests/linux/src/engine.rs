//! `byway engine` in a process of its own.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::process::Process;

/// How long the daemon may take until its sockets are there.
const START_LIMIT: Duration = Duration::from_secs(20);
const POLL: Duration = Duration::from_millis(20);

/// A running daemon; killed when dropped.
#[derive(Debug)]
pub struct Engine {
    process: Process,
    program: PathBuf,
    sockets: PathBuf,
    config: PathBuf,
    log: PathBuf,
}

impl Engine {
    /// Starts `program engine` with a configuration (TOML) and waits until it is ready. Sockets are
    /// made in `sockets`, what it says goes to `log`.
    ///
    /// # Errors
    /// When it does not start in time; the error says what it said.
    pub fn start(program: &Path, sockets: &Path, config: &str, log: &Path) -> Result<Self> {
        fs::create_dir_all(sockets)?;
        let file = sockets.with_extension("toml");
        fs::write(&file, config)?;
        let mut engine = Self {
            process: spawn(program, sockets, &file, log)?,
            program: program.to_owned(),
            sockets: sockets.to_owned(),
            config: file,
            log: log.to_owned(),
        };
        engine.wait(1)?;
        Ok(engine)
    }

    /// The socket at which a domain's VM attaches.
    #[must_use]
    pub fn socket(&self, domain: &str) -> PathBuf {
        self.sockets.join(format!("{domain}.sock"))
    }

    /// The folder of its sockets.
    #[must_use]
    pub fn sockets(&self) -> &Path {
        &self.sockets
    }

    /// Kills it, as a crash would.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Stops its process (SIGSTOP), or has it go on.
    ///
    /// # Errors
    /// When the signal cannot be sent.
    pub fn stop(&self, stopped: bool) -> Result<()> {
        self.process.stop(stopped)
    }

    /// Starts it again with the same configuration, after [`Engine::kill`].
    ///
    /// # Errors
    /// As [`Engine::start`].
    pub fn restart(&mut self) -> Result<()> {
        let before = self.readies();
        self.process = spawn(&self.program, &self.sockets, &self.config, &self.log)?;
        self.wait(before + 1)
    }

    /// Whether it still runs.
    ///
    /// # Errors
    /// When that cannot be found out.
    pub fn is_alive(&mut self) -> Result<bool> {
        Ok(self.process.ended()?.is_none())
    }

    /// Runs `byway COMMAND ARGUMENTS... --engine DIR` and returns what it prints.
    ///
    /// # Errors
    /// When it fails; the error has what it said.
    pub fn command(&self, arguments: &[&str]) -> Result<String> {
        let output = std::process::Command::new(&self.program)
            .args(arguments)
            .arg("--engine")
            .arg(&self.sockets)
            .output()
            .with_context(|| format!("cannot run {}", self.program.display()))?;
        ensure!(
            output.status.success(),
            "byway {}: {}: {}",
            arguments.join(" "),
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// What `byway ps` tells of a domain.
    ///
    /// # Errors
    /// When there is no such domain or it cannot be asked.
    pub fn domain(&self, name: &str) -> Result<serde_json::Value> {
        let told: serde_json::Value = serde_json::from_str(&self.command(&["ps", "--json"])?)?;
        let domains = told["domains"].as_array().context("byway ps: no domains")?;
        domains
            .iter()
            .find(|domain| domain["name"] == name)
            .cloned()
            .with_context(|| format!("byway ps: no domain {name} in {told}"))
    }

    /// One of its counters.
    ///
    /// # Errors
    /// As [`Engine::domain`].
    pub fn counter(&self, domain: &str, counter: &str) -> Result<u64> {
        let told = self.domain(domain)?;
        told[counter]
            .as_u64()
            .with_context(|| format!("byway ps: no number {counter} in {told}"))
    }

    fn said(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    fn readies(&self) -> usize {
        self.said().matches("engine ready").count()
    }

    fn wait(&mut self, readies: usize) -> Result<()> {
        let deadline = Instant::now() + START_LIMIT;
        while self.readies() < readies {
            if let Some(status) = self.process.ended()? {
                bail!("byway engine ended: {status}: {}", self.said());
            }
            ensure!(
                Instant::now() < deadline,
                "byway engine was not ready after {START_LIMIT:?}: {}",
                self.said()
            );
            std::thread::sleep(POLL);
        }
        Ok(())
    }
}

fn spawn(program: &Path, sockets: &Path, config: &Path, log: &Path) -> Result<Process> {
    ensure!(
        program.exists(),
        "there is no {}: build it with cargo build -p byway-vmm, in the same profile",
        program.display()
    );
    let arguments = [
        "engine".to_owned(),
        "--socket".to_owned(),
        sockets.display().to_string(),
        "--config".to_owned(),
        config.display().to_string(),
    ];
    Process::start(program, &arguments, log)
}
