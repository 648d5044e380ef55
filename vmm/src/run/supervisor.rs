//! The event loop beside running VMs: ends of VMs and new lives, signals, console input, what is asked of
//! VMs, and engines of other processes that go and come back.

use std::cell::RefCell;
use std::io::{self, Read};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use byway_engine::interface::Admin;
use event_manager::{EventManager, EventOps, EventSet, Events, MutEventSubscriber, SubscriberOps};
use signal_hook::consts::{SIGINT, SIGTERM, SIGUSR1};
use signal_hook::{SigId, flag, low_level};

use super::audit::{AuditError, AuditFile};
use super::console::{HELP, Keys, Typed};
use super::launch::Fleet;
use super::slot::Slot;
use super::terminal::{self, RawTerminal};
use crate::control::{Act, ControlError, Requests, VmState};
use crate::exit_status::Failure;
use crate::say::{say, say_amid};
use crate::seccomp::{self, Kind};
use crate::signals::{LastResort, SERVICE_GRACE};
use crate::vcpu::Outcome;
use crate::vm::{PLUG_UNIT, Vm};

/// Event data: which descriptor became ready. VMs are numbered from [`FIRST_VM`].
const SIGNAL: u32 = 0;
const INPUT: u32 = 1;
const AUDIT: u32 = 2;
const REQUEST: u32 = 3;
const FIRST_VM: u32 = 4;

/// How long to wait before input that did not fit into the guest's FIFO is offered again.
const INPUT_RETRY_MS: i32 = 20;
/// Console input kept for a guest that does not read; what is typed beyond it is lost.
const INPUT_MAX: usize = 64 << 10;

/// Ctrl-C and SIGTERM as something to wait for, and SIGUSR1 as another. A second one of the former ends the process
/// at once with code 1, should stopping take too long, and the first does after 30 s.
pub struct Signals {
    receiver: UnixStream,
    audit: UnixStream,
    ids: Vec<SigId>,
    _last_resort: LastResort,
}

impl Signals {
    /// Takes the signals over until dropped.
    ///
    /// # Errors
    /// When the host refuses a socket pair or a handler.
    pub fn install() -> io::Result<Self> {
        let last_resort = LastResort::install(SERVICE_GRACE)?;
        let (receiver, sender) = UnixStream::pair()?;
        receiver.set_nonblocking(true)?;
        let mut ids = Vec::new();
        let asked_before = Arc::new(AtomicBool::new(false));
        for signal in [SIGINT, SIGTERM] {
            // The order matters: the first signal finds the flag clear and sets it.
            ids.push(end_at_once(signal, Arc::clone(&asked_before))?);
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
            _last_resort: last_resort,
        })
    }
}

/// Ends the process with code 1 on `signal`, if `asked` is set by then; the terminal is left as it was found.
fn end_at_once(signal: i32, asked: Arc<AtomicBool>) -> io::Result<SigId> {
    let handler = move || {
        if asked.load(Ordering::SeqCst) {
            terminal::restore();
            low_level::exit(1);
        }
    };
    // SAFETY: the handler loads atomics and makes system calls that may be made in one.
    unsafe { low_level::register(signal, handler) }
}

impl Drop for Signals {
    fn drop(&mut self) {
        for id in self.ids.drain(..) {
            low_level::unregister(id);
        }
    }
}

/// What the loop is given beside the VMs.
pub struct Settings {
    /// When to stop.
    pub signals: Signals,
    /// What is asked of VMs.
    pub requests: Requests,
    /// Where audits go.
    pub audit: Option<AuditFile>,
    /// Whether a VM that asks for a reset is started anew.
    pub may_reboot: bool,
    /// Whether to go on when all VMs have ended: they may be started again.
    pub stays: bool,
    /// Set when a VM asks for a reset and is not started anew here.
    pub wants_reset: Arc<AtomicBool>,
}

/// What the loop knows.
struct Supervisor {
    slots: Vec<Slot>,
    engine: Arc<dyn Admin>,
    settings: Settings,
    input: RawFd,
    /// Whose console the input is.
    console: usize,
    /// While the terminal is the guest's: keys for this process come after Ctrl-A.
    keys: Option<Keys>,
    /// Typed, but not yet taken by the VM's FIFO.
    pending: Vec<u8>,
    running: usize,
    stopping: bool,
}

/// Starts all VMs and stays until they have ended or a signal says stop; stops what still runs.
///
/// # Errors
/// What kept a VM from starting; [`Failure::Failed`] when one crashed or the loop itself cannot work.
pub fn supervise(
    mut fleet: Fleet,
    settings: Settings,
    input: &impl AsRawFd,
) -> Result<(), Failure> {
    let on_terminal = fleet.plans.iter().position(|plan| plan.has_terminal());
    // Before a guest can ask for a key.
    let raw = match on_terminal {
        Some(_) => RawTerminal::new(input).map_err(Failure::failed)?,
        None => None,
    };
    fleet.start()?;
    // From here on this thread starts no other.
    seccomp::narrow(Kind::Main);
    let Fleet { vms, engine, plans } = fleet;
    let slots: Vec<_> = plans
        .into_iter()
        .zip(vms)
        .map(|(plan, vm)| Slot::new(plan, vm))
        .collect();
    let supervisor = Rc::new(RefCell::new(Supervisor {
        running: slots.len(),
        slots,
        engine,
        settings,
        input: input.as_raw_fd(),
        console: on_terminal.unwrap_or(0),
        keys: raw.is_some().then(Keys::default),
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
        for slot in &mut supervisor.borrow_mut().slots {
            slot.attach_again();
        }
    }
    let clean = supervisor.borrow_mut().stop();
    // From here on the terminal is the host's.
    drop(raw);
    // Now every capability has an end.
    let audited = supervisor.borrow().write_audit();
    if clean {
        audited.map_err(Failure::failed)
    } else {
        report(audited);
        Err(Failure::failed(
            "a guest crashed or could not start anew; the reason is above",
        ))
    }
}

/// Says what kept an audit from being written.
fn report(audited: Result<(), AuditError>) {
    if let Err(error) = audited {
        say(Failure::failed(error));
    }
}

impl Supervisor {
    /// Stops every VM that runs; returns whether all ended cleanly.
    fn stop(&mut self) -> bool {
        let mut clean = true;
        for slot in &mut self.slots {
            clean &= slot.stop();
        }
        clean
    }

    fn write_audit(&self) -> Result<(), AuditError> {
        let Some(file) = &self.settings.audit else {
            return Ok(());
        };
        let names = self.slots.iter().map(|slot| slot.name().to_owned());
        file.write(self.engine.as_ref(), names)
    }

    /// How long nothing is to be done unless something happens; negative: for ever.
    fn timeout_ms(&self) -> i32 {
        let input = (!self.pending.is_empty()).then_some(INPUT_RETRY_MS);
        let now = Instant::now();
        let retries = self.slots.iter().filter_map(Slot::next_retry).map(|at| {
            let left = at.saturating_duration_since(now);
            // Rounded up, so as not to come too early for it.
            i32::try_from(left.as_millis()).map_or(i32::MAX, |ms| ms.saturating_add(1))
        });
        retries.chain(input).min().unwrap_or(-1)
    }

    fn goes_on(&self) -> bool {
        (self.running > 0 || self.settings.stays) && !self.stopping
    }

    fn vm_ended(&mut self, index: usize, ops: &mut EventOps) {
        self.unwatch(index, ops);
        let slot = &mut self.slots[index];
        let Some(vm) = &mut slot.vm else { return };
        // Joins its threads and detaches its domain, while the others go on.
        let outcome = vm.stop();
        say(format_args!("{} {outcome}", vm.name()));
        if matches!(outcome, Outcome::Reset) && self.settings.may_reboot {
            match slot.restart(self.engine.as_ref()) {
                Ok(()) => return self.watch(index, ops),
                Err(failure) => say(format_args!("{} cannot start anew: {failure}", slot.name())),
            }
        }
        if matches!(outcome, Outcome::Reset) {
            self.settings.wants_reset.store(true, Ordering::SeqCst);
        }
        slot.is_over = true;
        self.running -= 1;
    }

    /// Waits for the end of a VM, and for that of its engine.
    fn watch(&mut self, index: usize, ops: &mut EventOps) {
        let (vms, slot) = (self.slots.len() as u32, &self.slots[index]);
        let ended = slot.vm.as_ref().map(|vm| vm.ended_event().as_raw_fd());
        let data = FIRST_VM + index as u32;
        // A lost engine stays readable until the VM is attached again: once is enough.
        let once = EventSet::IN | EventSet::EDGE_TRIGGERED;
        let lost = slot.lost.as_ref().map(AsRawFd::as_raw_fd);
        let mut add = |fd: Option<RawFd>, data, set| match fd {
            Some(fd) => ops.add(Events::with_data_raw(fd, data, set)),
            None => Ok(()),
        };
        let added = add(ended, data, EventSet::IN).and_then(|()| add(lost, data + vms, once));
        if let Err(error) = added {
            // Without these events nobody would see its end, so it must not go on.
            say(format_args!(
                "{} cannot be waited for: {error}",
                slot.name()
            ));
            self.stopping = true;
        }
    }

    fn unwatch(&self, index: usize, ops: &mut EventOps) {
        let slot = &self.slots[index];
        let ended = slot.vm.as_ref().map(|vm| vm.ended_event().as_raw_fd());
        let lost = slot.lost.as_ref().map(AsRawFd::as_raw_fd);
        for fd in [ended, lost].into_iter().flatten() {
            // Removing what was added cannot fail.
            let _ = ops.remove(Events::empty_raw(fd));
        }
    }

    fn carry_out(&mut self, ops: &mut EventOps) {
        for request in self.settings.requests.take() {
            let index = request.vm();
            let Some(slot) = self.slots.get_mut(index) else {
                continue;
            };
            match request.into_act() {
                Act::With(act) => {
                    if let Some(vm) = &mut slot.vm {
                        act(vm);
                    }
                }
                Act::Start(answer) => {
                    let was_over = slot.is_over;
                    let started = slot.start(self.engine.as_ref());
                    if started.is_ok() && was_over {
                        self.running += 1;
                        self.watch(index, ops);
                    }
                    // Whoever asked may have gone meanwhile.
                    let _ = answer.send(started);
                }
            }
        }
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
        let bytes = &bytes[..read];
        match &mut self.keys {
            Some(keys) => {
                for typed in keys.typed(bytes) {
                    self.typed(typed);
                }
            }
            None => self.keep(bytes),
        }
        read > 0
    }

    fn keep(&mut self, bytes: &[u8]) {
        let room = INPUT_MAX - self.pending.len();
        self.pending
            .extend_from_slice(&bytes[..bytes.len().min(room)]);
    }

    fn typed(&mut self, typed: Typed) {
        let verb: fn(&mut Vm) -> Result<(), ControlError> = match typed {
            Typed::Bytes(bytes) => return self.keep(&bytes),
            Typed::Help => return say_amid(HELP),
            Typed::End => |vm| vm.pull_plug(),
            Typed::Reset => |vm| vm.reboot(),
            Typed::PowerButton => |vm| vm.power_button(),
            Typed::Pause => toggle_pause,
            Typed::Memory => add_memory,
        };
        let vm = self.slots.get_mut(self.console);
        if let Some(vm) = vm.and_then(|slot| slot.vm.as_mut())
            && let Err(error) = verb(vm)
        {
            say_amid(Failure::failed(error));
        }
    }

    fn offer_input(&mut self) {
        let Some(slot) = self.slots.get(self.console) else {
            return;
        };
        match &slot.vm {
            Some(vm) if slot.is_live() => {
                if !self.pending.is_empty() {
                    let taken = vm.serial_input(&self.pending);
                    self.pending.drain(..taken);
                }
            }
            _ => self.pending.clear(),
        }
    }
}

fn add_memory(vm: &mut Vm) -> Result<(), ControlError> {
    let at = vm.plug_memory(PLUG_UNIT)?;
    say_amid(format_args!(
        "{} has {}M more, at {at:#x}",
        vm.name(),
        PLUG_UNIT >> 20
    ));
    Ok(())
}

fn toggle_pause(vm: &mut Vm) -> Result<(), ControlError> {
    if vm.state() == VmState::Paused {
        vm.resume()?;
        say_amid(format_args!("{} goes on", vm.name()));
    } else {
        vm.pause()?;
        say_amid(format_args!(
            "{} is paused; Ctrl-A p has it go on",
            vm.name()
        ));
    }
    Ok(())
}

impl MutEventSubscriber for Supervisor {
    fn init(&mut self, ops: &mut EventOps) {
        let mut add = |fd, data| {
            ops.add(Events::with_data_raw(fd, data, EventSet::IN))
                .map_err(|error| (fd, error))
        };
        let settings = &self.settings;
        let mut result = add(settings.signals.receiver.as_raw_fd(), SIGNAL);
        result = result.and_then(|()| add(settings.signals.audit.as_raw_fd(), AUDIT));
        result = result.and_then(|()| add(settings.requests.event().as_raw_fd(), REQUEST));
        if let Err((fd, error)) = result {
            // Without these events nobody could stop the VMs, so they must not go on.
            say(format_args!(
                "descriptor {fd} cannot be waited for: {error}"
            ));
            self.stopping = true;
        }
        // Standard input may be a file or closed; then there is nothing to type.
        let _ = add(self.input, INPUT);
        for index in 0..self.slots.len() {
            self.watch(index, ops);
        }
    }

    fn process(&mut self, events: Events, ops: &mut EventOps) {
        let first_lost = FIRST_VM + self.slots.len() as u32;
        match events.data() {
            SIGNAL => {
                let mut bytes = [0; 16];
                // Only the arrival matters, not which signal or how many.
                let _ = self.settings.signals.receiver.read(&mut bytes);
                say("stopping");
                self.stopping = true;
            }
            AUDIT => {
                let mut bytes = [0; 16];
                // As above.
                let _ = self.settings.signals.audit.read(&mut bytes);
                report(self.write_audit());
            }
            INPUT => {
                if !self.read_input() {
                    // As in `unwatch`.
                    let _ = ops.remove(Events::empty_raw(self.input));
                }
            }
            REQUEST => self.carry_out(ops),
            lost if lost >= first_lost => self.slots[(lost - first_lost) as usize].engine_lost(),
            vm => self.vm_ended((vm - FIRST_VM) as usize, ops),
        }
    }
}
