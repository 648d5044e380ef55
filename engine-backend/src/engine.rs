//! The engine: everything put together, and what the operator does with it.
//!
//! An [`Engine`] owns the workers and one control thread. It is embedded in a VMM's
//! process, or wrapped by a daemon; either way it is used through [`Admin`] and, per VM,
//! through the [`Domain`] that [`Admin::attach`] hands out. What else is public here is
//! for looking: statistics, thread numbers, revocation latencies.

mod audit;
mod config;
mod control_thread;
mod endpoints;

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use byway_protocols::Rights;

pub use config::{ConfigError, EngineConfig, QuotaError};

use crate::backend::{Backends, ChoiceError, Dsa};
use crate::capability::LinkTerms;
use crate::control::is_domain_name;
use crate::device::{Device, Handle, Poller, Source};
use crate::domain::{Core, CoreLimits, DeviceWaitSummary, Domain as Vm, Events, LatencySummary};
use crate::epoch::Epochs;
use crate::interface::{
    Action, Admin, AdminError, Domain, DomainInfo, LinkPolicy, Quotas, Reply, Share,
};
use crate::iotlb::Invalidations;
use crate::ops::supported_opcodes;
use crate::worker::{WorkerError, WorkerStats, Workers};
use control_thread::ControlThread;

/// Why an engine cannot be started.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// A setting is out of range.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The workers cannot be started.
    #[error(transparent)]
    Workers(#[from] WorkerError),
    /// The backend asked for is not to be had.
    #[error(transparent)]
    Backend(#[from] ChoiceError),
    /// The host refused something else.
    #[error("{what}")]
    Host {
        /// What was tried.
        what: &'static str,
        /// What the host said.
        #[source]
        source: io::Error,
    },
}

/// What an engine has done so far.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EngineStats {
    /// Per worker.
    pub workers: Vec<WorkerStats>,
    /// Who moves the bytes, per worker: `software`, or `dsa` and the work queue that the
    /// worker started with.
    pub backends: Vec<String>,
    /// Per domain, by name.
    pub domains: Vec<DomainInfo>,
    /// Revocations, from taking the request to its acknowledgement.
    pub revokes: LatencySummary,
    /// Ends of rights that had to wait for a device that was in pinned memory: apart from the others, since only the
    /// device's time bounds them.
    pub device_waits: DeviceWaitSummary,
    /// Offers that wait to be accepted.
    pub offers: usize,
}

/// An engine. It stops when it and all domains that it handed out are dropped.
#[derive(Debug)]
pub struct Engine {
    inner: Arc<Inner>,
}

/// What handles keep alive.
#[derive(Debug)]
struct Inner {
    core: Arc<Core>,
    backend_names: Vec<String>,
    poller: Arc<Poller>,
    devices: Arc<Devices>,
    /// Stops when dropped.
    control: ControlThread,
}

/// Announced domains: by name for the operator, by number for the control thread.
#[derive(Debug, Default)]
struct Devices {
    by_name: Mutex<BTreeMap<String, Arc<Device>>>,
}

impl Devices {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Arc<Device>>> {
        // Each change is one insertion or removal.
        self.by_name.lock().unwrap_or_else(|e| e.into_inner())
    }
    fn get(&self, name: &str) -> Result<Arc<Device>, AdminError> {
        let devices = self.lock();
        let device = devices.get(name).cloned();
        device.ok_or_else(|| AdminError::Unknown(name.to_owned()))
    }
    fn find(&self, id: u32) -> Option<Arc<Device>> {
        let devices = self.lock();
        devices.values().find(|d| d.domain().id() == id).cloned()
    }
    fn all(&self) -> Vec<Arc<Device>> {
        self.lock().values().cloned().collect()
    }
}

impl Engine {
    /// Starts the workers and the control thread.
    ///
    /// # Errors
    /// See [`EngineError`].
    pub fn new(config: EngineConfig) -> Result<Self, EngineError> {
        config.check()?;
        let host = |what| move |source| EngineError::Host { what, source };
        let workers = config.workers as usize;
        let epochs = Arc::new(Epochs::new(workers));
        let invalidations = Arc::new(Invalidations::new(workers));
        let backends = Backends::open(config.backend, workers)?;
        let backend_names = backends.names(workers);
        let (settings, guards, stale) = (
            config.worker_config(),
            Arc::clone(&epochs),
            Arc::clone(&invalidations),
        );
        let threads = match backends {
            Backends::Software => Workers::start(settings, guards, stale)?,
            Backends::Dsa(opened, _) => {
                let mut opened = opened.into_iter();
                Workers::start_with(settings, guards, stale, |_| {
                    opened.next().unwrap_or_else(|| Dsa::new(None))
                })?
            }
        };
        let limits = CoreLimits {
            slots_max: config.slots_max,
            park_us: config.park_us,
            page_response: Duration::from_millis(config.page_response_ms.into()),
            opcodes: supported_opcodes(),
        };
        let instance = random_instance().map_err(host("cannot draw an instance number"))?;
        let core = Arc::new(Core::new(epochs, invalidations, threads, limits, instance));
        let poller = Arc::new(Poller::new().map_err(host("cannot create an epoll instance"))?);
        let devices = Arc::new(Devices::default());
        let control = ControlThread::start(
            Arc::clone(&core),
            Arc::clone(&poller),
            Arc::clone(&devices),
            config.control_cpu,
        )
        .map_err(host("cannot start the control thread"))?;
        Ok(Self {
            inner: Arc::new(Inner {
                core,
                backend_names,
                poller,
                devices,
                control,
            }),
        })
    }

    /// What it has done so far.
    #[must_use]
    pub fn stats(&self) -> EngineStats {
        EngineStats {
            workers: self.inner.core.workers().stats(),
            backends: self.inner.backend_names.clone(),
            domains: self.inner.list(),
            revokes: self.inner.core.revokes().summary(),
            device_waits: self.inner.core.device_waits().summary(),
            offers: self.inner.core.exchange().len(),
        }
    }
    /// Thread numbers of the workers, for `/proc/self/task/<tid>/schedstat`.
    #[must_use]
    pub fn worker_tids(&self) -> Vec<i32> {
        let stats = self.inner.core.workers().stats();
        stats.into_iter().map(|w| w.tid).collect()
    }
    /// Thread number of the control thread.
    #[must_use]
    pub fn control_tid(&self) -> i32 {
        self.inner.control.tid()
    }
    /// How long the latest revocations took, oldest first, in nanoseconds: from taking
    /// the request to its acknowledgement.
    #[must_use]
    pub fn revoke_latencies_ns(&self) -> Vec<u64> {
        self.inner.core.revokes().samples()
    }
}

impl Admin for Engine {
    fn act(&self, action: Action) -> Result<Reply, AdminError> {
        let inner = &self.inner;
        match action {
            Action::CreateDomain { name, quotas } => inner.create(name, quotas)?,
            Action::RemoveDomain { name } => inner.remove(&name)?,
            Action::Link(policy) => inner.link(&policy)?,
            Action::Unlink { from, to } => inner.unlink(&from, &to)?,
            Action::Quota { name, share } => inner.set_share(&name, &share)?,
            Action::Audit { name, limit } => return inner.audit(&name, limit),
            Action::AttachEndpoint(config) => inner.attach_endpoint(config)?,
            Action::DetachEndpoint { name } => inner.detach_endpoint(&name)?,
            Action::GrantEndpoint(grant) => inner.grant_endpoint(&grant)?,
            Action::UngrantEndpoint { endpoint, domain } => {
                inner.ungrant_endpoint(&endpoint, &domain)?;
            }
            Action::Endpoints => {
                return Ok(Reply::Endpoints {
                    endpoints: inner.list_endpoints(),
                });
            }
            Action::Admit { .. } => return Err(AdminError::NoSockets),
            Action::List => {
                return Ok(Reply::Domains {
                    domains: inner.list(),
                });
            }
        }
        Ok(Reply::Done)
    }

    fn attach(&self, name: &str) -> Result<Box<dyn Domain>, AdminError> {
        let device = self.inner.devices.get(name)?;
        if !device.domain().claim() {
            return Err(AdminError::Attached(name.to_owned()));
        }
        Ok(Box::new(Handle::new(device, Arc::clone(&self.inner))))
    }
}

impl Admin for Arc<Engine> {
    fn act(&self, action: Action) -> Result<Reply, AdminError> {
        Engine::act(self, action)
    }
    fn attach(&self, name: &str) -> Result<Box<dyn Domain>, AdminError> {
        Engine::attach(self, name)
    }
}

impl Inner {
    fn create(&self, name: String, quotas: Quotas) -> Result<(), AdminError> {
        if !is_domain_name(&name) {
            return Err(AdminError::BadName(name));
        }
        quotas.check().map_err(bad_quota)?;
        let mut devices = self.devices.lock();
        if devices.contains_key(&name) {
            return Err(AdminError::Exists(name));
        }
        let no_room = |what: &dyn std::fmt::Display| {
            AdminError::BadQuota(format!("of the host: no domain can be added ({what})"))
        };
        let id = self.core.next_domain().map_err(|e| no_room(&e))?;
        let events = Events::new().map_err(|e| no_room(&e))?;
        self.poller
            .add(events.signal(), Source::Events(id))
            .map_err(|e| no_room(&e))?;
        let core = Arc::clone(&self.core);
        let domain = Arc::new(Vm::new(core, id, name.clone(), quotas, events));
        self.core.peers().add(&domain);
        let device = Device::new(domain, Arc::clone(&self.poller));
        devices.insert(name, Arc::new(device));
        Ok(())
    }

    fn remove(&self, name: &str) -> Result<(), AdminError> {
        let removed = self.devices.lock().remove(name);
        let device = removed.ok_or_else(|| AdminError::Unknown(name.to_owned()))?;
        // Peers are told while they are peers still.
        device.detach(true);
        self.forget_grants(device.domain().id());
        let links = self.core.peers().remove(device.domain().id());
        self.core.end_links(&links);
        self.poller.remove(device.domain().events().signal());
        self.control.wake();
        Ok(())
    }

    fn link(&self, policy: &LinkPolicy) -> Result<(), AdminError> {
        let (from, to) = self.ends(&policy.from, &policy.to)?;
        let chosen = [
            (policy.read, Rights::READ),
            (policy.write, Rights::WRITE),
            (policy.grant, Rights::GRANT),
            (policy.keys, Rights::ENCRYPT | Rights::DECRYPT),
        ];
        let rights = chosen
            .into_iter()
            .filter_map(|(is_set, right)| is_set.then_some(right))
            .fold(Rights::NONE, Rights::union);
        let max_bytes = match policy.max_bytes {
            0 => u64::MAX,
            bytes => bytes,
        };
        let narrowed = self
            .core
            .peers()
            .set_link(from, to, LinkTerms { rights, max_bytes });
        self.end(narrowed.as_slice());
        Ok(())
    }

    fn set_share(&self, name: &str, share: &Share) -> Result<(), AdminError> {
        share.check().map_err(bad_quota)?;
        let device = self.devices.get(name)?;
        device.domain().account().set_share(share);
        Ok(())
    }

    fn unlink(&self, from: &str, to: &str) -> Result<(), AdminError> {
        let (from, to) = self.ends(from, to)?;
        let link = self.core.peers().remove_link(from, to);
        self.end(link.as_slice());
        Ok(())
    }

    fn end(&self, links: &[Arc<crate::capability::Link>]) {
        self.core.end_links(links);
        // It buries the dead.
        self.control.wake();
    }

    fn ends(&self, from: &str, to: &str) -> Result<(u32, u32), AdminError> {
        let id = |name| Ok(self.devices.get(name)?.domain().id());
        Ok((id(from)?, id(to)?))
    }

    fn audit(&self, name: &str, limit: u32) -> Result<Reply, AdminError> {
        let device = self.devices.get(name)?;
        let names = self.devices.all().into_iter().map(|d| {
            let domain = d.domain();
            (domain.id(), domain.name().to_owned())
        });
        let audit = device.domain().audit(limit as usize);
        Ok(Reply::Audit(audit::books(&audit, &names.collect())))
    }

    fn list(&self) -> Vec<DomainInfo> {
        let devices = self.devices.all();
        devices.iter().map(|d| d.domain().info()).collect()
    }
}

/// A number that an engine started before or after is unlikely to have.
fn random_instance() -> io::Result<u32> {
    let mut bytes = [0; 4];
    // SAFETY: the buffer is valid for the length given.
    let got = unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), bytes.len(), 0) };
    if usize::try_from(got) != Ok(bytes.len()) {
        return Err(io::Error::last_os_error());
    }
    Ok(u32::from_le_bytes(bytes))
}

fn bad_quota(error: QuotaError) -> AdminError {
    AdminError::BadQuota(error.to_string())
}

#[cfg(test)]
mod tests;
