//! [`ControlThread`]: the one thread that serves all domains' virtqueues.
//!
//! Domains take turns: whoever asks for much waits for the others in between. What is
//! left over goes to clearing away what was revoked.

use std::collections::VecDeque;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use super::Devices;
use crate::device::{Poller, Source, Turn};
use crate::domain::Core;
use crate::threads::{ThreadKind, begins};
use crate::worker::ticks_in_us;

/// How often the workers' loads are compared, where there are several.
const BALANCE_EVERY: Duration = Duration::from_millis(100);

/// How often devices are looked after, where there are any.
const LOOK_AFTER_EVERY: Duration = Duration::from_millis(500);

/// How often a reply is looked at that waits for a device.
const HELD_EVERY: Duration = Duration::from_millis(1);

/// The running thread. Dropping it stops it and waits for its end.
#[derive(Debug)]
pub(super) struct ControlThread {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    core: Arc<Core>,
    poller: Arc<Poller>,
    devices: Arc<Devices>,
    stop: AtomicBool,
    wake: EventFd,
    tid: AtomicI32,
}

impl ControlThread {
    pub(super) fn start(
        core: Arc<Core>,
        poller: Arc<Poller>,
        devices: Arc<Devices>,
        cpu: Option<usize>,
    ) -> io::Result<Self> {
        let wake = EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)?;
        poller.add(&wake, Source::Wake)?;
        let shared = Arc::new(Shared {
            core,
            poller,
            devices,
            stop: AtomicBool::new(false),
            wake,
            tid: AtomicI32::new(0),
        });
        let (report, started) = mpsc::sync_channel(1);
        let thread = std::thread::Builder::new()
            .name("byway-control".to_owned())
            .stack_size(crate::STACK_BYTES)
            .spawn({
                let shared = Arc::clone(&shared);
                move || {
                    // SAFETY: `gettid` has no preconditions.
                    shared
                        .tid
                        .store(unsafe { libc::gettid() }, Ordering::Relaxed);
                    let pinned = cpu.map_or(Ok(()), pin);
                    let go = pinned.is_ok();
                    // The starter waits for it.
                    let _ = report.send(pinned);
                    if go {
                        begins(ThreadKind::Control);
                        shared.run();
                    }
                }
            })?;
        let this = Self {
            shared,
            thread: Some(thread),
        };
        match started.recv() {
            Ok(Ok(())) => Ok(this),
            Ok(Err(e)) => Err(e),
            Err(_) => Err(io::Error::other("the control thread ended at once")),
        }
    }

    /// Has it look for work that no eventfd tells of.
    pub(super) fn wake(&self) {
        // An eventfd that is full is readable anyway.
        let _ = self.shared.wake.write(1);
    }
    pub(super) fn tid(&self) -> i32 {
        self.shared.tid.load(Ordering::Relaxed)
    }
}

impl Drop for ControlThread {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
        self.wake();
        if let Some(thread) = self.thread.take() {
            // It panics only where the engine is broken; nothing to add to its message.
            let _ = thread.join();
        }
        self.shared.poller.remove(&self.shared.wake);
    }
}

impl Shared {
    fn run(&self) {
        // Domains with work, each once, in the order of their turns.
        let mut turns = VecDeque::new();
        // Those that wait for devices: looked at whenever anything happens, and every now and then.
        let mut held = Vec::new();
        let mut all_reaped = true;
        // One worker has nobody to share with.
        let look_every = (self.core.worker_count() > 1).then_some(BALANCE_EVERY);
        let mut looked = Instant::now();
        let ticks_per_ms = ticks_in_us(1000);
        let mut after = Instant::now();
        let mut has_endpoints = self.core.workers().endpoints().look_after(ticks_per_ms);
        while !self.stop.load(Ordering::Acquire) {
            let longest = if turns.is_empty() && all_reaped {
                let late = self.core.pages().next_deadline(Instant::now());
                // Whichever comes first, of those there are.
                let look_after = has_endpoints.then_some(LOOK_AFTER_EVERY);
                let held = (!held.is_empty()).then_some(HELD_EVERY);
                let due = late.into_iter().chain(look_every).chain(look_after);
                due.chain(held).min()
            } else {
                Some(Duration::ZERO)
            };
            let waited = self
                .poller
                .wait(longest, |source| self.note(source, &mut turns));
            if let Err(e) = waited {
                // Only a bad descriptor or argument is left: the engine cannot be
                // controlled any more, but what runs goes on.
                tracing::error!("the control thread cannot wait for requests and ends: {e}");
                return;
            }
            for id in held.drain(..) {
                if !turns.contains(&id) {
                    turns.push_back(id);
                }
            }
            // A turn for each, and no second one for those whose turn it was.
            if let Some(id) = turns.pop_front()
                && let Some(device) = self.devices.find(id)
            {
                match device.serve() {
                    Turn::Idle => {}
                    Turn::More => turns.push_back(id),
                    Turn::Held => held.push(id),
                }
            }
            self.core.end_late_page_requests(Instant::now());
            all_reaped = self.core.reap();
            if !has_endpoints || after.elapsed() >= LOOK_AFTER_EVERY {
                after = Instant::now();
                has_endpoints = self.core.workers().endpoints().look_after(ticks_per_ms);
            }
            if look_every.is_some_and(|every| looked.elapsed() >= every) {
                looked = Instant::now();
                self.core.workers().rebalance();
            }
        }
    }

    fn note(&self, source: Source, turns: &mut VecDeque<u32>) {
        let id = match source {
            Source::Wake => return,
            Source::ControlKick(id) => {
                // The doorbell first: it is what a parked queue waits for.
                self.core.workers().wake(id);
                id
            }
            Source::EventKick(id) | Source::Events(id) => id,
        };
        if !turns.contains(&id) {
            turns.push_back(id);
        }
    }
}

fn pin(cpu: usize) -> io::Result<()> {
    // SAFETY: an all-zero `cpu_set_t` is an empty set.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: `cpu` is below CPU_SETSIZE, which the configuration's check ensures.
    unsafe { libc::CPU_SET(cpu, &mut set) };
    // SAFETY: the set is valid for its size; 0 means the calling thread.
    match unsafe { libc::sched_setaffinity(0, size_of_val(&set), &set) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
