//! [`Endpoints`]: all endpoints of an engine, as workers and the operator see them.
//!
//! An [`Endpoint`] is what capabilities name, and stays when its device goes; an
//! [`Attachment`](super::Attachment) is the device. Workers find those that have something under way by one word,
//! and nobody else's.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::{ArcSwap, ArcSwapOption};

use super::attachment::{Attachment, staging_bytes};
use super::config::{EndpointConfig, EndpointError};
use super::device::{BlockDevice, Geometry};
use super::reach::{Reach, Reaching};
use super::staging::StagingMemory;
use crate::capability::Link;
use crate::memory::Remains;

/// Most endpoints of an engine.
pub const ENDPOINTS_MAX: usize = 32;

/// What has happened to any of them.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct News {
    /// Endpoints with something under way, by place.
    busy: AtomicU32,
    /// Endpoints with something that their device was not told of, by place.
    untold: AtomicU32,
    /// Counts ends of requests and slots that became free, and in the upper half fences.
    changes: AtomicU64,
}

impl News {
    /// What a fence adds to the changes.
    const FENCE: u64 = 1 << 32;

    /// Places of endpoints with something under way, as bits.
    #[inline(always)]
    pub fn busy(&self) -> u32 {
        self.busy.load(Ordering::Relaxed)
    }
    /// Another number than before when somebody who waits may go on.
    #[inline(always)]
    pub fn changes(&self) -> u64 {
        self.changes.load(Ordering::Acquire)
    }
    /// Whether some device was not told of what was submitted.
    #[inline(always)]
    pub fn is_untold(&self) -> bool {
        self.untold.load(Ordering::Relaxed) != 0
    }
    pub(super) fn set_untold(&self, place: u32) {
        self.untold.fetch_or(1 << place, Ordering::Relaxed);
    }
    pub(super) fn changed(&self) {
        self.changes.fetch_add(1, Ordering::AcqRel);
    }
    /// A right may have ended: all who wait have to look, whatever they wait for.
    pub(super) fn fenced(&self) {
        self.changes.fetch_add(Self::FENCE, Ordering::AcqRel);
    }
    /// Whether there was a fence between two numbers of changes.
    #[must_use]
    pub fn has_fence(before: u64, after: u64) -> bool {
        before / Self::FENCE != after / Self::FENCE
    }
    pub(super) fn set_busy(&self, place: u32) {
        if self.busy.load(Ordering::SeqCst) & 1 << place == 0 {
            self.busy.fetch_or(1 << place, Ordering::SeqCst);
        }
    }
    pub(super) fn clear_busy(&self, place: u32) {
        self.busy.fetch_and(!(1 << place), Ordering::SeqCst);
    }
}

/// What a domain may use of an endpoint.
#[derive(Debug, Clone)]
pub struct Grant {
    /// First byte, a multiple of the blocks.
    pub first: u64,
    /// Bytes, a multiple of the blocks, not 0.
    pub bytes: u64,
    /// Blocks may be read.
    pub read: bool,
    /// Blocks may be written.
    pub write: bool,
    /// The device may reach memory of the domain's that is pinned.
    pub trusted: bool,
    /// Ends what was opened by it.
    pub link: Arc<Link>,
}

/// A block device under a name.
#[derive(Debug)]
pub struct Endpoint {
    place: u32,
    config: EndpointConfig,
    /// What its device is, and whatever comes back has to be.
    geometry: Geometry,
    current: ArcSwapOption<Attachment>,
    /// By domain's number.
    grants: Mutex<BTreeMap<u32, Grant>>,
    /// Domains whose memory the device is trusted with, for workers.
    trusted: ArcSwap<Vec<u32>>,
}

impl Endpoint {
    /// Its number among the engine's.
    #[must_use]
    pub fn place(&self) -> u32 {
        self.place
    }
    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.config.name
    }
    /// What the operator said.
    #[must_use]
    pub fn config(&self) -> &EndpointConfig {
        &self.config
    }
    /// What its device is, or was.
    #[must_use]
    pub fn geometry(&self) -> &Geometry {
        &self.geometry
    }
    /// Its device, while that is there.
    #[must_use]
    pub fn attachment(&self) -> Option<Arc<Attachment>> {
        self.current.load_full()
    }
    /// What a domain was granted of it.
    #[must_use]
    pub fn grant(&self, domain: u32) -> Option<Grant> {
        self.grants().get(&domain).cloned()
    }
    /// Grants a domain something in place of what it had; that is given back, to be ended.
    #[must_use]
    pub fn set_grant(&self, domain: u32, grant: Option<Grant>) -> Option<Grant> {
        let mut grants = self.grants();
        let before = match grant {
            Some(grant) => grants.insert(domain, grant),
            None => grants.remove(&domain),
        };
        let trusted = grants.iter().filter(|(_, grant)| grant.trusted);
        self.trusted
            .store(Arc::new(trusted.map(|(&domain, _)| domain).collect()));
        before
    }
    /// Whether the device is trusted with memory of this domain's. For workers, in a chunk: a grace period after
    /// [`Self::set_grant`] they go by that.
    #[must_use]
    pub fn is_trusted_with(&self, domain: u32) -> bool {
        self.trusted.load().contains(&domain)
    }
    /// All grants, by domain.
    #[must_use]
    pub fn all_grants(&self) -> Vec<(u32, Grant)> {
        let grants = self.grants();
        grants
            .iter()
            .map(|(&id, grant)| (id, grant.clone()))
            .collect()
    }

    fn grants(&self) -> MutexGuard<'_, BTreeMap<u32, Grant>> {
        // Each change is one insertion or removal.
        self.grants.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The endpoints of an engine.
#[derive(Debug, Default)]
pub struct Endpoints {
    news: Arc<News>,
    places: [ArcSwapOption<Endpoint>; ENDPOINTS_MAX],
    /// There is or was one: without, nobody looks at places.
    any: AtomicBool,
    /// Held while endpoints come and go.
    changing: Mutex<()>,
    /// Loans of all devices that were not given back.
    lent: Arc<AtomicU32>,
    /// Devices that are attached no more, and have not given everything back.
    former: Mutex<Vec<Arc<Attachment>>>,
    /// Regions that are gone, and that devices have a part of.
    remains: Mutex<Vec<Remains>>,
}

impl Endpoints {
    /// What workers look at.
    #[inline(always)]
    #[must_use]
    pub fn news(&self) -> &News {
        &self.news
    }

    /// Drives those with something under way.
    #[inline(never)]
    pub fn drive(&self) {
        self.each(self.news.busy(), Attachment::drive);
    }

    /// Tells devices of what was submitted.
    #[inline(never)]
    pub fn tell(&self) {
        self.each(
            self.news.untold.swap(0, Ordering::Relaxed),
            Attachment::drive,
        );
    }

    fn each(&self, mut places: u32, act: impl Fn(&Attachment)) {
        while places != 0 {
            let place = places.trailing_zeros();
            places &= places - 1;
            if let Some(endpoint) = &*self.places[place as usize].load()
                && let Some(attachment) = &*endpoint.current.load()
            {
                act(attachment);
            }
        }
    }

    /// All of them.
    #[must_use]
    pub fn all(&self) -> Vec<Arc<Endpoint>> {
        self.places.iter().filter_map(|p| p.load_full()).collect()
    }
    /// One by name.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<Arc<Endpoint>> {
        self.all().into_iter().find(|e| e.name() == name)
    }

    /// See [`Attachment::fence`].
    pub fn fence(&self) {
        if !self.any.load(Ordering::Acquire) {
            return;
        }
        for endpoint in self.all() {
            if let Some(attachment) = endpoint.attachment() {
                attachment.fence();
            }
        }
        self.news.fenced();
    }

    /// Whether any device has memory of guests. After a grace period, whatever was lent before it counts.
    #[inline]
    #[must_use]
    pub fn reach_memory(&self) -> bool {
        self.lent.load(Ordering::SeqCst) != 0
    }

    /// All that devices reach of guests' memory, as far as somebody asks for that. To be called after the grace period
    /// that follows the end of a right.
    #[must_use]
    pub fn reaching(&self, is_wanted: impl Fn(&Reach) -> bool) -> Reaching {
        let mut all = Reaching::default();
        if !self.reach_memory() {
            return all;
        }
        // First those that are, so that none is missed that becomes one that was.
        for endpoint in self.all() {
            if let Some(attachment) = endpoint.attachment() {
                attachment.reaching(&is_wanted, &mut all);
            }
        }
        let mut former = Reaching::default();
        for attachment in &*self.former() {
            attachment.reaching(&is_wanted, &mut former);
        }
        all.merge(former);
        all
    }

    /// Keeps a region mapped until no device has a part of it any more.
    pub fn keep(&self, remains: Remains) {
        self.remains().push(remains);
    }

    /// A device was replaced or taken away: what it has yet is remembered.
    fn outlive(&self, attachment: &Arc<Attachment>) {
        if attachment.lends() {
            self.former().push(Arc::clone(attachment));
        }
    }

    fn former(&self) -> MutexGuard<'_, Vec<Arc<Attachment>>> {
        // Each change is one push or removal.
        self.former.lock().unwrap_or_else(PoisonError::into_inner)
    }
    fn remains(&self) -> MutexGuard<'_, Vec<Remains>> {
        // Each change is one push or removal.
        self.remains.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives devices up that have not answered in their time, a millisecond of which has so many
    /// ticks, and takes leave of those that are gone. True if there is any endpoint. May wait
    /// for a device that takes its leave.
    pub fn look_after(&self, ticks_per_ms: u64) -> bool {
        if !self.any.load(Ordering::Acquire) {
            return false;
        }
        let all = self.all();
        for endpoint in &all {
            if let Some(attachment) = endpoint.attachment() {
                let limit = ticks_per_ms * u64::from(endpoint.config.timeout_ms);
                attachment.look_after(limit);
            }
        }
        let mut former = self.former();
        former.iter().for_each(|attachment| attachment.drive());
        former.retain(|attachment| attachment.lends());
        drop(former);
        self.remains().retain(Remains::are_used);
        !all.is_empty()
    }

    /// Opens a device under a new name, or one that is gone again. May wait for the device.
    ///
    /// # Errors
    /// See [`EndpointError`].
    pub fn attach(&self, config: EndpointConfig) -> Result<Arc<Endpoint>, EndpointError> {
        self.attach_by(config, super::open)
    }

    /// The same, with what opens it.
    pub(crate) fn attach_by(
        &self,
        config: EndpointConfig,
        open: impl FnOnce(&EndpointConfig, &Arc<StagingMemory>) -> Result<Box<dyn BlockDevice>, String>,
    ) -> Result<Arc<Endpoint>, EndpointError> {
        config.check()?;
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let known = self.find(&config.name);
        if let Some(endpoint) = &known {
            let is_there = endpoint.attachment().is_some_and(|a| !a.is_gone());
            if is_there {
                return Err(EndpointError::Exists(config.name));
            }
            if endpoint.config != config {
                return Err(EndpointError::Changed(config.name));
            }
        }
        let vacancy = self.places.iter().position(|p| p.load().is_none());
        let place = match (&known, vacancy) {
            (Some(endpoint), _) => endpoint.place,
            (None, Some(place)) => place as u32,
            (None, None) => return Err(EndpointError::TooMany),
        };
        let host = |source| EndpointError::Host {
            name: config.name.clone(),
            source,
        };
        let staging = Arc::new(StagingMemory::new(staging_bytes()).map_err(host)?);
        let refused = |reason| EndpointError::Refused {
            name: config.name.clone(),
            reason,
        };
        let device = open(&config, &staging).map_err(refused)?;
        let geometry = *device.geometry();
        geometry.check().map_err(refused)?;
        if let Some(endpoint) = &known {
            let was = &endpoint.geometry;
            if was.block_bytes != geometry.block_bytes || was.blocks > geometry.blocks {
                return Err(refused(format!(
                    "it came back with {} blocks of {} bytes: expected at least {} of {}",
                    geometry.blocks, geometry.block_bytes, was.blocks, was.block_bytes
                )));
            }
        }
        let (news, lent) = (Arc::clone(&self.news), Arc::clone(&self.lent));
        let attachment = Arc::new(Attachment::new(device, staging, news, lent, place));
        let endpoint = known.unwrap_or_else(|| {
            Arc::new(Endpoint {
                place,
                config,
                geometry,
                current: ArcSwapOption::empty(),
                grants: Mutex::default(),
                trusted: ArcSwap::default(),
            })
        });
        if let Some(before) = endpoint.attachment() {
            // Gone, so that it is lent nothing more.
            before.close("another one is attached");
            self.outlive(&before);
        }
        endpoint.current.store(Some(attachment));
        self.any.store(true, Ordering::Release);
        self.places[place as usize].store(Some(Arc::clone(&endpoint)));
        self.news.fenced();
        Ok(endpoint)
    }

    /// Takes a device away; its endpoint and what was granted of it stay.
    ///
    /// # Errors
    /// [`EndpointError::Unknown`].
    pub fn detach(&self, name: &str) -> Result<(), EndpointError> {
        let endpoint = self
            .find(name)
            .ok_or_else(|| EndpointError::Unknown(name.to_owned()))?;
        if let Some(attachment) = endpoint.attachment() {
            attachment.close("the operator took it away");
            // Before it is found no more.
            self.outlive(&attachment);
        }
        endpoint.current.store(None);
        self.news.fenced();
        Ok(())
    }
}
