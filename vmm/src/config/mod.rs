//! `vms.toml`: which VMs to run, what each may use, and who may reach whose memory; and
//! `engine.toml`, which says the same of an engine that is a daemon, but for the VMs themselves.
//!
//! Reading is separate from running: a file is checked completely before anything starts, and
//! every mistake names its line. See `vmm/README.md` for the keys.

mod check;
mod command_line;
mod devices;
mod error;
mod file;
mod name;
mod quotas;
mod size;

pub use command_line::COMMAND_LINE_PATH;
pub use devices::check_devices;
pub use error::ConfigError;
pub use name::Name;
pub use size::ByteSize;

use std::fs;
use std::path::Path;

use byway_engine::EngineConfig;
use byway_engine::backend::Choice;
use byway_engine::interface::{Action, LinkPolicy, Quotas};

use crate::run::VmOptions;
use crate::vm::VmConfig;

/// Most VMs in one file.
pub const VMS_MAX: usize = 256;
/// Most engine workers.
pub const WORKERS_MAX: u64 = 64;
/// Longest time that an idle worker may spin, in microseconds.
pub const SPIN_US_MAX: u64 = 1_000_000;

/// An engine's settings; what is absent is the engine's own choice.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EngineSettings {
    /// Number of workers, 1 to [`WORKERS_MAX`].
    pub workers: Option<u32>,
    /// Host CPU of each worker, in order.
    pub pin: Vec<usize>,
    /// Microseconds that a worker spins before it sleeps, up to [`SPIN_US_MAX`].
    pub spin_us: Option<u32>,
    /// Milliseconds that a guest kernel has to answer a page request.
    pub page_response_ms: Option<u32>,
    /// Who moves the bytes.
    pub backend: Choice,
}

/// One VM with its limits.
#[derive(Debug, Clone)]
pub struct VmEntry {
    /// The VM.
    pub vm: VmConfig,
    /// What it may use of the engine.
    pub quotas: Quotas,
}

/// A checked configuration.
#[derive(Debug, Clone)]
pub struct RunConfig {
    /// The embedded engine.
    pub engine: EngineSettings,
    /// The VMs: at least one, names unique.
    pub vms: Vec<VmEntry>,
    /// Links between them; each pair and direction at most once.
    pub links: Vec<LinkPolicy>,
    /// Block devices, each followed by what is granted of it.
    pub endpoints: Vec<Action>,
}

/// A domain of a daemon.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DomainEntry {
    /// Its name, and its socket's.
    pub name: String,
    /// The user whose processes may attach; without one, the daemon's own.
    pub uid: Option<u32>,
    /// What it may use of the engine.
    pub quotas: Quotas,
}

/// A daemon's checked configuration.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DaemonConfig {
    /// The engine.
    pub engine: EngineSettings,
    /// Domains, names unique.
    pub domains: Vec<DomainEntry>,
    /// Links between them; each pair and direction at most once.
    pub links: Vec<LinkPolicy>,
    /// Block devices, each followed by what is granted of it.
    pub endpoints: Vec<Action>,
}

impl DaemonConfig {
    /// Reads and checks a file.
    ///
    /// # Errors
    /// The first mistake, with its place.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let text = read(path, "give the path of a TOML file with [[domain]] tables")?;
        Self::parse(path, &text)
    }

    /// Checks `text` as if it had been read from `path`.
    ///
    /// # Errors
    /// The first mistake, with its place.
    pub fn parse(path: &Path, text: &str) -> Result<Self, ConfigError> {
        let file = toml::from_str(text).map_err(|error| syntax_error(path, text, &error))?;
        check::check_daemon(path, text, file)
    }

    /// What the operator would ask of an engine without domains to have it so.
    #[must_use]
    pub fn actions(self) -> Vec<Action> {
        let mut actions = Vec::new();
        for DomainEntry { name, uid, quotas } in self.domains {
            let admit = uid.map(|uid| Action::Admit {
                name: name.clone(),
                uid: Some(uid),
            });
            actions.push(Action::CreateDomain { name, quotas });
            actions.extend(admit);
        }
        actions.extend(self.links.into_iter().map(Action::Link));
        actions.extend(self.endpoints);
        actions
    }
}

impl EngineSettings {
    /// As the engine wants it.
    #[must_use]
    pub fn engine(&self) -> EngineConfig {
        let default = EngineConfig::default();
        EngineConfig {
            workers: self.workers.unwrap_or(default.workers),
            worker_cpus: self.pin.clone(),
            park_us: self.spin_us.unwrap_or(default.park_us),
            page_response_ms: self.page_response_ms.unwrap_or(default.page_response_ms),
            backend: self.backend,
            ..default
        }
    }
}

impl RunConfig {
    /// Reads and checks a file. Relative paths in it are relative to it.
    ///
    /// # Errors
    /// The first mistake, with its place.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let text = read(
            path,
            "give the path of a TOML file with at least one [[vm]]",
        )?;
        Self::parse(path, &text)
    }

    /// Checks `text` as if it had been read from `path`.
    ///
    /// # Errors
    /// The first mistake, with its place.
    pub fn parse(path: &Path, text: &str) -> Result<Self, ConfigError> {
        let file = toml::from_str(text).map_err(|error| syntax_error(path, text, &error))?;
        check::check(path, text, file)
    }

    /// Checks the one VM of a command line, which the parser of that has seen to have a kernel.
    ///
    /// # Errors
    /// The first mistake, with its place in the options.
    pub fn from_options(options: &VmOptions) -> Result<Self, ConfigError> {
        command_line::check(options)
    }

    /// Whether its VMs could run with an engine of another process: what that engine's operator
    /// decides must not be in it, since nobody would heed it.
    ///
    /// # Errors
    /// What must not be there.
    pub fn check_remote(&self, path: &Path) -> Result<(), ConfigError> {
        let theirs = |what: &str| {
            ConfigError::whole(
                path,
                format!("{what} cannot be set with --engine: the engine's operator decides"),
                "remove it here, and put it into the file of `byway engine`",
            )
        };
        if self.engine != EngineSettings::default() {
            return Err(theirs("[engine]"));
        }
        if let Some(link) = self.links.first() {
            let LinkPolicy { from, to, .. } = link;
            return Err(theirs(&format!("the [[link]] from {from:?} to {to:?}")));
        }
        if !self.endpoints.is_empty() {
            return Err(theirs("[[endpoint]]"));
        }
        let limited = |entry: &&VmEntry| entry.quotas != Quotas::default();
        if let Some(entry) = self.vms.iter().find(limited) {
            return Err(theirs(&format!("[vm.quotas] of {:?}", entry.vm.name)));
        }
        Ok(())
    }
}

fn read(path: &Path, help: &str) -> Result<String, ConfigError> {
    let bytes = fs::read(path)
        .map_err(|error| ConfigError::whole(path, format!("cannot be read: {error}"), help))?;
    String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        // The text up to there is as it was, so the place is the same.
        let text = String::from_utf8_lossy(error.as_bytes());
        ConfigError::at(
            path,
            &text,
            at..at,
            "not UTF-8 text",
            "save the file as UTF-8",
        )
    })
}

fn syntax_error(path: &Path, text: &str, error: &toml::de::Error) -> ConfigError {
    let message = error.message().trim();
    let help = if message.contains("unknown field") {
        "remove the key or correct its name"
    } else if message.contains("missing field") {
        "add the key to this table"
    } else {
        "see vmm/README.md for the keys and their values"
    };
    match error.span() {
        Some(span) => ConfigError::at(path, text, span, message, help),
        None => ConfigError::whole(path, message, help),
    }
}

#[cfg(test)]
mod tests;
