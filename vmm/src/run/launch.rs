//! Builds the engine and all VMs of a configuration.

use std::path::Path;
use std::sync::Arc;

use byway_engine::Engine;
use byway_engine::daemon::RemoteEngine;
use byway_engine::engine::EngineError;
use byway_engine::interface::{Action, Admin, AdminError};
use byway_engine::vhost_user::RemoteDomain;

use crate::config::{EngineSettings, RunConfig};
use crate::exit_status::Failure;
use crate::vm::Vm;

/// The VMs of one configuration and the engine between them.
pub struct Fleet {
    /// Dropped first: a domain is detached before its engine goes.
    pub vms: Vec<Vm>,
    /// The operator's side of the engine.
    pub engine: Arc<dyn Admin>,
}

impl Fleet {
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
    let mut vms = Vec::with_capacity(config.vms.len());
    for entry in config.vms {
        let name = entry.vm.name.clone();
        act(
            engine.as_ref(),
            Action::CreateDomain {
                name: name.clone(),
                quotas: entry.quotas,
            },
        )?;
        let domain = engine.attach(&name).map_err(Failure::failed)?;
        let vm = Vm::new(entry.vm, Some(domain)).map_err(|error| {
            let failure = Failure::from(error);
            eprintln!("byway: VM {name:?} cannot be built");
            failure
        })?;
        vms.push(vm);
    }
    for link in config.links {
        act(engine.as_ref(), Action::Link(link))?;
    }
    for action in config.endpoints {
        act(engine.as_ref(), action)?;
    }
    Ok(Fleet { vms, engine })
}

/// Builds every VM with its domain of the daemon whose sockets are in `folder`; no guest runs yet.
/// That the domains are there, and linked, is that engine's operator's matter.
///
/// # Errors
/// When nobody answers at a domain's socket, or what else kept a VM from being built.
pub fn launch_remote(config: RunConfig, folder: &Path) -> Result<Fleet, Failure> {
    let engine = RemoteEngine::new(folder);
    let mut vms = Vec::with_capacity(config.vms.len());
    for entry in config.vms {
        let name = entry.vm.name.clone();
        let socket = engine.socket(&name);
        let domain = RemoteDomain::connect(&socket).map_err(|error| {
            Failure::host(format!(
                "VM {name:?} cannot attach: {error} (is `byway engine --socket {}` running, with a \
                 domain of this name that no other VMM has?)",
                folder.display()
            ))
        })?;
        let vm = Vm::new(entry.vm, Some(Box::new(domain))).map_err(|error| {
            let failure = Failure::from(error);
            eprintln!("byway: VM {name:?} cannot be built");
            failure
        })?;
        vms.push(vm);
    }
    Ok(Fleet {
        vms,
        engine: Arc::new(engine),
    })
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
