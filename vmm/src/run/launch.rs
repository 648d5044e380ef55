//! Builds the engine and all VMs of a configuration, and again a VM that starts anew.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use byway_engine::Engine;
use byway_engine::daemon::RemoteEngine;
use byway_engine::engine::EngineError;
use byway_engine::interface::{Action, Admin, AdminError, Domain};
use byway_engine::vhost_user::RemoteDomain;

use crate::config::{EngineSettings, RunConfig};
use crate::devices::serial::SerialSink;
use crate::exit_status::Failure;
use crate::say::say;
use crate::vm::{Vm, VmConfig};

/// How long a VM that starts anew may wait for its engine, if that is another process, to see that its
/// former life has detached.
const ATTACH_LIMIT: Duration = Duration::from_secs(5);
const ATTACH_RETRY: Duration = Duration::from_millis(5);

/// The VMs of one configuration and the engine between them.
pub struct Fleet {
    /// Dropped first: a domain is detached before its engine goes.
    pub vms: Vec<Vm>,
    /// The operator's side of the engine.
    pub engine: Arc<dyn Admin>,
    /// What each VM was built from, in the same order.
    pub(super) plans: Vec<Plan>,
}

/// What a VM is built from, each time.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    config: VmConfig,
    /// The sockets' folder, if the engine is another process.
    sockets: Option<PathBuf>,
}

impl Plan {
    /// Name of the VM.
    pub(super) fn name(&self) -> &str {
        &self.config.name
    }

    /// Whether its console is the terminal.
    pub(super) fn has_terminal(&self) -> bool {
        self.config.serial == SerialSink::Terminal
    }

    /// Builds the VM with its domain, which is there and which nobody else has.
    fn build(&self, engine: &dyn Admin) -> Result<Vm, Failure> {
        let name = &self.config.name;
        let domain: Box<dyn Domain> = match &self.sockets {
            None => engine.attach(name).map_err(Failure::failed)?,
            Some(folder) => {
                let socket = RemoteEngine::new(folder).socket(name);
                let domain = RemoteDomain::connect(&socket).map_err(|error| {
                    Failure::host(format!(
                        "VM {name:?} cannot attach: {error} (is `byway engine --socket {}` running, with a \
                         domain of this name that no other VMM has?)",
                        folder.display()
                    ))
                })?;
                Box::new(domain)
            }
        };
        Vm::new(self.config.clone(), Some(domain)).map_err(|error| {
            let failure = Failure::from(error);
            say(format_args!("VM {name:?} cannot be built"));
            failure
        })
    }

    /// Builds and starts the VM anew, from what the files of its configuration are by now. Its former
    /// life has been dropped; memory that was added to it is gone.
    ///
    /// # Errors
    /// What kept it from being built or started.
    pub(super) fn restart(&mut self, engine: &dyn Admin) -> Result<Vm, Failure> {
        self.config.serial = self.config.serial.again();
        let deadline = Instant::now() + ATTACH_LIMIT;
        let mut vm = loop {
            match self.build(engine) {
                Ok(vm) => break vm,
                // The daemon sees the end of a connection when it gets to it.
                Err(Failure::Host(_)) if self.sockets.is_some() && Instant::now() < deadline => {
                    std::thread::sleep(ATTACH_RETRY);
                }
                Err(failure) => return Err(failure),
            }
        };
        vm.start()?;
        Ok(vm)
    }
}

impl Fleet {
    fn add(&mut self, config: VmConfig, sockets: Option<PathBuf>) -> Result<(), Failure> {
        let plan = Plan { config, sockets };
        self.vms.push(plan.build(self.engine.as_ref())?);
        self.plans.push(plan);
        Ok(())
    }

    /// Starts every VM. If one cannot be, all are stopped again.
    ///
    /// # Errors
    /// What kept a VM from starting.
    pub fn start(&mut self) -> Result<(), Failure> {
        for index in 0..self.vms.len() {
            if let Err(error) = self.vms[index].start() {
                self.stop();
                return Err(error.into());
            }
        }
        Ok(())
    }

    /// Stops every VM that runs; returns whether all ended cleanly.
    pub fn stop(&mut self) -> bool {
        let mut clean = true;
        for vm in &mut self.vms {
            clean &= vm.stop().is_clean();
        }
        clean
    }
}

/// Starts the embedded engine and builds every VM with its domain; no guest runs yet.
///
/// # Errors
/// What kept the engine or a VM from being built.
pub fn launch(config: RunConfig) -> Result<Fleet, Failure> {
    let engine = embedded_engine(&config.engine)?;
    launch_with(config, engine)
}

/// An engine with these settings and no domains, in this process.
///
/// # Errors
/// When a setting is impossible or the host lacks something.
pub fn embedded_engine(settings: &EngineSettings) -> Result<Arc<dyn Admin>, Failure> {
    let engine = Engine::new(settings.engine()).map_err(|error| match error {
        EngineError::Config(error) => Failure::usage(error),
        EngineError::Backend(error) => Failure::host(error),
        other => Failure::failed(other),
    })?;
    Ok(Arc::new(engine))
}

/// Like [`launch`], with an engine that is there already.
///
/// # Errors
/// What kept a VM from being built.
pub fn launch_with(config: RunConfig, engine: Arc<dyn Admin>) -> Result<Fleet, Failure> {
    let mut fleet = Fleet {
        vms: Vec::with_capacity(config.vms.len()),
        engine,
        plans: Vec::new(),
    };
    for entry in config.vms {
        act(
            fleet.engine.as_ref(),
            Action::CreateDomain {
                name: entry.vm.name.clone(),
                quotas: entry.quotas,
            },
        )?;
        fleet.add(entry.vm, None)?;
    }
    for link in config.links {
        act(fleet.engine.as_ref(), Action::Link(link))?;
    }
    for action in config.endpoints {
        act(fleet.engine.as_ref(), action)?;
    }
    Ok(fleet)
}

/// Builds every VM with its domain of the daemon whose sockets are in `folder`; no guest runs yet.
/// That the domains are there, and linked, is that engine's operator's matter.
///
/// # Errors
/// When nobody answers at a domain's socket, or what else kept a VM from being built.
pub fn launch_remote(config: RunConfig, folder: &Path) -> Result<Fleet, Failure> {
    let mut fleet = Fleet {
        vms: Vec::with_capacity(config.vms.len()),
        engine: Arc::new(RemoteEngine::new(folder)),
        plans: Vec::new(),
    };
    for entry in config.vms {
        fleet.add(entry.vm, Some(folder.to_owned()))?;
    }
    Ok(fleet)
}

/// What the operator wrote is the usual reason for a refusal.
pub(crate) fn act(engine: &dyn Admin, action: Action) -> Result<(), Failure> {
    engine.act(action).map(drop).map_err(|error| match error {
        AdminError::BadName(_)
        | AdminError::BadQuota(_)
        | AdminError::Exists(_)
        | AdminError::Endpoint(_) => Failure::usage(error),
        _ => Failure::failed(error),
    })
}
