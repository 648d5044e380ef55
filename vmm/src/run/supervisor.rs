//! The event loop beside running VMs: ends of VMs, signals, console input, and engines of other
//! processes that go and come back.

use std::cell::RefCell;
use std::io::{self, Read};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use event_manager::{EventManager, EventOps, EventSet, Events, MutEventSubscriber, SubscriberOps};
use signal_hook::consts::{SIGINT, SIGTERM, SIGUSR1};
use signal_hook::{SigId, flag, low_level};
use vmm_sys_util::eventfd::EventFd;

use super::audit::{AuditError, AuditFile};
use super::launch::Fleet;
use crate::exit_status::Failure;
use crate::vm::Vm;

/// Event data: which descriptor became ready. VMs are numbered from [`FIRST_VM`].
const SIGNAL: u32 = 0;
const INPUT: u32 = 1;
const AUDIT: u32 = 2;
const FIRST_VM: u32 = 3;

/// First and longest time between two attempts to attach to an engine that is gone.
const RETRY_MIN: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(5);

/// How long to wait before input that did not fit into the guest's FIFO is offered again.
const INPUT_RETRY_MS: i32 = 20;
/// Console input kept for a guest that does not read; what is typed beyond it is lost.
const INPUT_MAX: usize = 64 << 10;

/// Ctrl-C and SIGTERM as something to wait for, and SIGUSR1 as another. A second one of the former ends the process
/// at once with code 1, should stopping take too long.
pub struct Signals {
    receiver: UnixStream,
    audit: UnixStream,
    ids: Vec<SigId>,
}

impl Signals {
    /// Takes the signals over until dropped.
    ///
    /// # Errors
    /// When the host refuses a socket pair or a handler.
    pub fn install() -> io::Result<Self> {
        let (receiver, sender) = UnixStream::pair()?;
        receiver.set_nonblocking(true)?;
        let mut ids = Vec::new();
        let asked_before = Arc::new(AtomicBool::new(false));
        for signal in [SIGINT, SIGTERM] {
            // The order matters: the first signal finds the flag clear and sets it.
            ids.push(flag::register_conditional_shutdown(
                signal,
                1,
                Arc::clone(&asked_before),
            )?);
            ids.push(flag::register(signal, Arc::clone(&asked_before))?);
            ids.push(low_level::pipe::register(signal, sender.try_clone()?)?);
        }
        let (audit, sender) = UnixStream::pair()?;
        audit.set_nonblocking(true)?;
        ids.push(low_level::pipe::register(SIGUSR1, sender)?);
        Ok(Self {
            receiver,
            audit,
            ids,
        })
    }
}

impl Drop for Signals {
    fn drop(&mut self) {
        for id in self.ids.drain(..) {
            low_level::unregister(id);
        }
    }
}

/// When to try again to attach a VM.
#[derive(Debug, Clone, Copy)]
struct Retry {
    at: Instant,
    then: Duration,
}

/// What the loop knows.
struct Supervisor {
    fleet: Fleet,
    /// Kept, so that what is waited for stays open. By VM.
    lost: Vec<Option<EventFd>>,
    /// Of VMs whose engine is gone.
    retries: Vec<Option<Retry>>,
    signals: Signals,
    audit: Option<AuditFile>,
    input: RawFd,
    /// Typed, but not yet taken by the first VM's FIFO.
    pending: Vec<u8>,
    running: usize,
    stopping: bool,
}

/// Stays until all VMs have ended or a signal says stop; stops what still runs.
///
/// # Errors
/// [`Failure::Failed`] when a VM crashed or the loop itself cannot work.
pub fn supervise(
    fleet: Fleet,
    signals: Signals,
    audit: Option<AuditFile>,
    input: &impl AsRawFd,
) -> Result<(), Failure> {
    let supervisor = Rc::new(RefCell::new(Supervisor {
        running: fleet.vms.len(),
        lost: fleet.vms.iter().map(Vm::engine_lost).collect(),
        retries: vec![None; fleet.vms.len()],
        fleet,
        signals,
        audit,
        input: input.as_raw_fd(),
        pending: Vec::new(),
        stopping: false,
    }));
    let mut events = EventManager::<Rc<RefCell<Supervisor>>>::new().map_err(Failure::failed)?;
    events.add_subscriber(Rc::clone(&supervisor));
    while supervisor.borrow().goes_on() {
        let timeout_ms = supervisor.borrow().timeout_ms();
        events
            .run_with_timeout(timeout_ms)
            .map_err(Failure::failed)?;
        supervisor.borrow_mut().offer_input();
        supervisor.borrow_mut().attach_again();
    }
    let clean = supervisor.borrow_mut().fleet.stop();
    // Now every capability has an end.
    let audited = supervisor.borrow().write_audit();
    if clean {
        audited.map_err(Failure::failed)
    } else {
        report(audited);
        Err(Failure::failed("a guest crashed; its report is above"))
    }
}

/// Says what kept an audit from being written.
fn report(audited: Result<(), AuditError>) {
    if let Err(error) = audited {
        eprintln!("byway: {}", Failure::failed(error));
    }
}

impl Supervisor {
    fn write_audit(&self) -> Result<(), AuditError> {
        let Some(file) = &self.audit else {
            return Ok(());
        };
        let names = self.fleet.vms.iter().map(|vm| vm.name().to_owned());
        file.write(self.fleet.engine.as_ref(), names)
    }

    /// How long nothing is to be done unless something happens; negative: for ever.
    fn timeout_ms(&self) -> i32 {
        let input = (!self.pending.is_empty()).then_some(INPUT_RETRY_MS);
        let now = Instant::now();
        let retries = self.retries.iter().flatten().map(|retry| {
            let left = retry.at.saturating_duration_since(now);
            // Rounded up, so as not to come too early for it.
            i32::try_from(left.as_millis()).map_or(i32::MAX, |ms| ms.saturating_add(1))
        });
        retries.chain(input).min().unwrap_or(-1)
    }

    fn engine_lost(&mut self, index: usize) {
        let vm = &self.fleet.vms[index];
        // An event of before may come after it has been seen to.
        if self.retries[index].is_some() || vm.outcome().is_some() || !vm.engine_is_lost() {
            return;
        }
        eprintln!(
            "byway: {} has lost its engine; its device needs a reset, and attaching is tried again",
            vm.name()
        );
        vm.report_lost_engine();
        self.retries[index] = Some(Retry {
            at: Instant::now() + RETRY_MIN,
            then: RETRY_MIN,
        });
    }

    fn attach_again(&mut self) {
        for (vm, slot) in self.fleet.vms.iter().zip(&mut self.retries) {
            let now = Instant::now();
            let Some(retry) = slot.filter(|retry| retry.at <= now) else {
                continue;
            };
            if vm.outcome().is_some() {
                *slot = None;
                continue;
            }
            match vm.reattach() {
                Ok(()) => {
                    eprintln!("byway: {} is attached again", vm.name());
                    *slot = None;
                }
                Err(error) => {
                    tracing::info!("{}: {error}", vm.name());
                    let then = RETRY_MAX.min(2 * retry.then);
                    *slot = Some(Retry {
                        at: now + then,
                        then,
                    });
                }
            }
        }
    }

    fn goes_on(&self) -> bool {
        self.running > 0 && !self.stopping
    }

    fn vm_ended(&mut self, index: usize) {
        let vm = &mut self.fleet.vms[index];
        // Joins its threads and detaches its domain, while the others go on.
        let outcome = vm.stop();
        eprintln!("byway: {} {outcome}", vm.name());
        self.running -= 1;
    }

    /// Reads what was typed; returns whether there may be more later.
    fn read_input(&mut self) -> bool {
        let mut bytes = [0; 1024];
        // SAFETY: the buffer is live and its length is given; the descriptor is this process'
        // standard input, which stays open.
        let read = unsafe { libc::read(self.input, bytes.as_mut_ptr().cast(), bytes.len()) };
        let Ok(read) = usize::try_from(read) else {
            let error = io::Error::last_os_error();
            return matches!(
                error.kind(),
                io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock
            );
        };
        let room = INPUT_MAX - self.pending.len();
        self.pending.extend_from_slice(&bytes[..read.min(room)]);
        read > 0
    }

    fn offer_input(&mut self) {
        let Some(vm) = self.fleet.vms.first() else {
            return;
        };
        if vm.outcome().is_some() {
            self.pending.clear();
        } else if !self.pending.is_empty() {
            let taken = vm.serial_input(&self.pending);
            self.pending.drain(..taken);
        }
    }
}

impl MutEventSubscriber for Supervisor {
    fn init(&mut self, ops: &mut EventOps) {
        let mut add_for = |fd: RawFd, data, set| {
            ops.add(Events::with_data_raw(fd, data, set))
                .map_err(|error| (fd, error))
        };
        // Readable until the VM is attached again: once is enough.
        let once = EventSet::IN | EventSet::EDGE_TRIGGERED;
        let first_lost = FIRST_VM + self.fleet.vms.len() as u32;
        let mut watched: Result<(), (RawFd, _)> = Ok(());
        for (data, lost) in (first_lost..).zip(&self.lost) {
            if let Some(lost) = lost {
                watched = watched.and_then(|()| add_for(lost.as_raw_fd(), data, once));
            }
        }
        let mut add = |fd, data| add_for(fd, data, EventSet::IN);
        let mut result = watched.and_then(|()| add(self.signals.receiver.as_raw_fd(), SIGNAL));
        result = result.and_then(|()| add(self.signals.audit.as_raw_fd(), AUDIT));
        for (data, vm) in (FIRST_VM..).zip(&self.fleet.vms) {
            result = result.and_then(|()| add(vm.ended_event().as_raw_fd(), data));
        }
        if let Err((fd, error)) = result {
            // Without these events nobody could stop the VMs, so they must not go on.
            eprintln!("byway: descriptor {fd} cannot be waited for: {error}");
            self.stopping = true;
        }
        // Standard input may be a file or closed; then there is nothing to type.
        let _ = add(self.input, INPUT);
    }

    fn process(&mut self, events: Events, ops: &mut EventOps) {
        match events.data() {
            SIGNAL => {
                let mut bytes = [0; 16];
                // Only the arrival matters, not which signal or how many.
                let _ = self.signals.receiver.read(&mut bytes);
                eprintln!("byway: stopping");
                self.stopping = true;
            }
            AUDIT => {
                let mut bytes = [0; 16];
                // As above.
                let _ = self.signals.audit.read(&mut bytes);
                report(self.write_audit());
            }
            INPUT => {
                if !self.read_input() {
                    // Removing what was added cannot fail.
                    let _ = ops.remove(Events::empty_raw(self.input));
                }
            }
            lost if lost >= FIRST_VM + self.fleet.vms.len() as u32 => {
                let first_lost = FIRST_VM + self.fleet.vms.len() as u32;
                self.engine_lost((lost - first_lost) as usize);
            }
            vm => {
                let index = (vm - FIRST_VM) as usize;
                let fd = self.fleet.vms[index].ended_event().as_raw_fd();
                let _ = ops.remove(Events::empty_raw(fd));
                self.vm_ended(index);
            }
        }
    }
}
