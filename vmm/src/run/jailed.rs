//! `byway run --jail`: each VM in a process of its own, which confines itself before its guest runs.
//!
//! This process keeps the engine, to which the others attach by vhost-user, starts them, and tells how they end. It runs no guest
//! and opens nothing for one: a VM's process is this program again, with the same arguments and `--jailed`; it reads the
//! configuration and opens what it names while it still may, and then enters its jail ([`crate::jail`]).

use std::fs::{self, DirBuilder, File};
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError, Sender, SyncSender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use byway_engine::STACK_BYTES;
use byway_engine::daemon::{Daemon, Refusal, RemoteEngine, ask_line, serve_lines};
use byway_engine::interface::{Action, Admin};
use byway_engine::vhost_user::wait;
use serde::{Deserialize, Serialize};
use signal_hook::consts::SIGUSR1;

use super::supervisor::{self, Settings};
use super::{Args, AuditFile, act, embedded_engine, launch_remote};
use crate::api::client::{ANSWER_BYTES_MAX, ANSWER_MAX};
use crate::api::{
    self, LocalVms, Operator, VmAction, VmAnswer, VmControl, VmInfo, VmReply, unknown,
};
use crate::config::{RunConfig, VmEntry};
use crate::control::{self, VmState};
use crate::devices::block::unnamed_overlay;
use crate::devices::settings::{DiskWrites, TapSource};
use crate::exit_status::Failure;
use crate::host;
use crate::jail::{self, DENIED_CODE, Denied, Kind, REPORT_BYTES, User};
use crate::say::say;
use crate::signals::SignalSocket;
use crate::vm::VmConfig;

/// Exit code of a VM's process whose guest wants to start anew.
const RESET_CODE: i32 = 75;
/// Descriptors that a VM's process is given: requests, where denied system calls are told, and overlays from then on. Above
/// whatever this process has open itself.
const CONTROL_FD: RawFd = 900;
const REPORT_FD: RawFd = 901;
const OVERLAY_FD: RawFd = 902;
/// How long a VM's process may take to end when it is told to.
const END_MAX: Duration = Duration::from_secs(10);
/// How long a VM that starts anew may wait for the engine to see that its former life has detached.
const ATTACH_MAX: Duration = Duration::from_secs(5);
const ATTACH_RETRY: Duration = Duration::from_millis(10);

/// What a VM's process is told beside the arguments of `byway run`.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Jailed {
    /// Which VM it runs.
    vm: String,
    /// Folder with the engine's sockets.
    sockets: PathBuf,
    /// An empty folder, which becomes its root.
    root: PathBuf,
    /// Its user and group.
    uid: u32,
    /// Disks whose overlay this process holds, so that it outlives a reboot: numbers, from [`OVERLAY_FD`] on.
    overlays: Vec<usize>,
    /// Descriptors that its network interfaces are, open in this process under the same numbers.
    nets: Vec<RawFd>,
}

/// The inside: runs one VM.
///
/// # Errors
/// As [`super::run`].
pub(super) fn run_inside(args: &Args, jailed: &str) -> Result<(), Failure> {
    let jailed: Jailed = serde_json::from_str(jailed).map_err(Failure::usage)?;
    let overlays = OVERLAY_FD..OVERLAY_FD.saturating_add(jailed.overlays.len() as RawFd);
    let own = |fd| fd == CONTROL_FD || fd == REPORT_FD || overlays.contains(&fd);
    jail::close_strangers(|fd| own(fd) || jailed.nets.contains(&fd)).map_err(Failure::failed)?;
    let (control, report) = (take(CONTROL_FD)?, take(REPORT_FD)?);
    let mut config = args.config()?;
    config.vms.retain(|entry| entry.vm.name == jailed.vm);
    for entry in &mut config.vms {
        for (fd, disk) in (OVERLAY_FD..).zip(&jailed.overlays) {
            let path = format!("/proc/self/fd/{fd}").into();
            entry.vm.devices.disks[*disk].writes = DiskWrites::KeptOverlay(path);
        }
    }
    host::open_kvm()?;
    let signals = supervisor::Signals::install().map_err(Failure::failed)?;
    let deadline = Instant::now() + ATTACH_MAX;
    let fleet = loop {
        match launch_remote(config.clone(), &jailed.sockets) {
            Err(Failure::Host(_)) if Instant::now() < deadline => {
                std::thread::sleep(ATTACH_RETRY);
            }
            done => break done?,
        }
    };
    let names = fleet.vms.iter().map(crate::vm::Vm::name);
    let (handles, requests) = control::channel(names).map_err(Failure::failed)?;
    let operator = Operator::new(Arc::new(LocalVms::new(handles)), Arc::clone(&fleet.engine));
    let user = User {
        uid: jailed.uid,
        gid: jailed.uid,
    };
    jail::enter(user, &jailed.root, report).map_err(Failure::failed)?;
    std::thread::Builder::new()
        .name("byway-control".to_owned())
        .stack_size(STACK_BYTES)
        .spawn(move || {
            jail::narrow(Kind::Api);
            // It ends with the parent, which ends this process too.
            let _ = serve_lines(&mut UnixStream::from(control), |line| operator.answer(line));
        })
        .map_err(Failure::failed)?;
    let wants_reset = Arc::new(AtomicBool::new(false));
    let settings = Settings {
        signals,
        requests,
        audit: None,
        may_reboot: false,
        stays: false,
        wants_reset: Arc::clone(&wants_reset),
    };
    supervisor::supervise(fleet, settings, &io::stdin())?;
    if wants_reset.load(Ordering::SeqCst) {
        std::process::exit(RESET_CODE);
    }
    Ok(())
}

/// A descriptor that the parent put at `fd`, as one of this process' own.
fn take(fd: RawFd) -> Result<OwnedFd, Failure> {
    // SAFETY: asks for a copy; a descriptor that is not open is refused.
    let copy = unsafe { libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, 3) };
    if copy < 0 {
        return Err(Failure::usage("--jailed is for `byway run --jail` to use"));
    }
    // SAFETY: nobody in this process owns what the parent left here, and the copy is new.
    unsafe {
        libc::close(fd);
        Ok(OwnedFd::from_raw_fd(copy))
    }
}

/// The outside: starts a process for each VM and stays until all have ended.
///
/// # Errors
/// As [`super::run`].
pub(super) fn run_outside(args: &Args, config: RunConfig) -> Result<(), Failure> {
    host::open_kvm()?;
    check_descriptors(&config)?;
    let folder = Folder::new().map_err(Failure::failed)?;
    let (sockets, engine) = engine(args, &config, &folder)?;
    let (events, happened) = mpsc::channel();
    watch_signals(events.clone())?;
    let first_uid = args.jail_uid;
    let vms = config.vms.into_iter().zip(0u32..);
    let cells = vms
        .map(|(entry, number)| {
            let uid = first_uid.checked_add(number);
            let uid = uid.ok_or_else(|| Failure::usage("--jail-uid leaves no room for all VMs"))?;
            Cell::new(entry, uid).map_err(Failure::failed)
        })
        .collect::<Result<Vec<_>, Failure>>()?;
    let prison = Arc::new(Prison {
        cells,
        sockets,
        folder,
        events,
    });
    let api = args.api.as_deref().map(|path| {
        let vms: Arc<dyn VmControl> = prison.clone();
        api::serve(path, Operator::new(vms, Arc::clone(&engine)))
    });
    let _api = api.transpose().map_err(Failure::usage)?;
    for number in 0..prison.cells.len() {
        if let Err(error) = prison.start(number) {
            prison.end_all(libc::SIGKILL);
            return Err(Failure::failed(error));
        }
    }
    let mut warden = Warden {
        prison: &prison,
        engine: engine.as_ref(),
        audit_file: args.audit.clone().map(AuditFile),
        may_reboot: !args.no_reboot,
        stays: args.stay,
        kill_at: None,
        worst: None,
    };
    loop {
        if !warden.goes_on() {
            break;
        }
        match happened.recv_timeout(warden.patience()) {
            Ok(event) => warden.see(event),
            Err(RecvTimeoutError::Timeout) => warden.kill_late(),
            Err(RecvTimeoutError::Disconnected) => break,
        }
    }
    warden.audit()?;
    warden.worst.map_or(Ok(()), Err)
}

/// The engine: another process', or this one's behind sockets in `folder`.
fn engine(
    args: &Args,
    config: &RunConfig,
    folder: &Folder,
) -> Result<(PathBuf, Arc<dyn Admin>), Failure> {
    if let Some(sockets) = &args.engine {
        return Ok((sockets.clone(), Arc::new(RemoteEngine::new(sockets))));
    }
    let engine = embedded_engine(&config.engine)?;
    let sockets = folder.0.join("engine");
    let daemon = Daemon::new(engine, &sockets).map_err(Failure::failed)?;
    for VmEntry { vm, quotas } in &config.vms {
        let (name, quotas) = (vm.name.clone(), quotas.clone());
        act(&daemon, Action::CreateDomain { name, quotas })?;
    }
    for link in &config.links {
        act(&daemon, Action::Link(link.clone()))?;
    }
    for action in &config.endpoints {
        act(&daemon, action.clone())?;
    }
    Ok((sockets, Arc::new(daemon)))
}

/// Those from [`CONTROL_FD`] on are taken in a VM's process.
fn check_descriptors(config: &RunConfig) -> Result<(), Failure> {
    let mut all = config.vms.iter().flat_map(|entry| descriptors(&entry.vm));
    all.find(|fd| *fd >= CONTROL_FD).map_or(Ok(()), |fd| {
        Err(Failure::usage(format!(
            "with --jail a network interface cannot be descriptor {fd}: use one below {CONTROL_FD}"
        )))
    })
}

/// Descriptors that a VM's network interfaces are, which its process has to get from this one.
fn descriptors(vm: &VmConfig) -> impl Iterator<Item = RawFd> {
    vm.devices.nets.iter().filter_map(|net| match net.tap {
        TapSource::Fd(fd) => Some(fd),
        TapSource::Name(_) => None,
    })
}

/// A folder of this process' own, gone with it.
struct Folder(PathBuf);

impl Folder {
    fn new() -> io::Result<Self> {
        let base = std::env::temp_dir();
        for number in 0..100 {
            let path = base.join(format!("byway-{}-{number}", std::process::id()));
            match DirBuilder::new().mode(0o700).create(&path) {
                Ok(()) => return Ok(Self(path)),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
        }
        Err(io::ErrorKind::AlreadyExists.into())
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// What this process is told.
enum Event {
    /// Ctrl-C or SIGTERM.
    Stop,
    /// SIGUSR1.
    Audit,
    /// A VM without a process is to get one.
    Start(usize, SyncSender<io::Result<()>>),
    /// A VM's process has ended, so; it may have told which system call was denied.
    Ended(usize, io::Result<ExitStatus>, Option<Denied>),
}

fn watch_signals(events: Sender<Event>) -> Result<(), Failure> {
    let stop = SignalSocket::install().map_err(Failure::failed)?;
    let (mut audit, sender) = UnixStream::pair().map_err(Failure::failed)?;
    signal_hook::low_level::pipe::register(SIGUSR1, sender).map_err(Failure::failed)?;
    std::thread::Builder::new()
        .name("byway-signals".to_owned())
        .stack_size(STACK_BYTES)
        .spawn(move || {
            loop {
                let ready = wait(&[stop.as_fd(), audit.as_fd()], None).unwrap_or_default();
                if ready.has(0) {
                    break;
                }
                // Only the arrival matters, not how many.
                if ready.has(1) && audit.read(&mut [0; 16]).is_ok() {
                    let _ = events.send(Event::Audit);
                }
            }
            let _ = events.send(Event::Stop);
            // The handlers stay, so that a second signal ends this process.
            std::mem::forget(stop);
        })
        .map_err(Failure::failed)?;
    Ok(())
}

/// A VM and the process that runs it, if one does.
struct Cell {
    entry: VmEntry,
    uid: u32,
    overlays: Vec<(usize, File)>,
    life: Mutex<Life>,
    /// Requests to it, one at a time.
    control: Mutex<Option<UnixStream>>,
}

/// With neither, it has not started yet, or is about to start anew.
#[derive(Default)]
struct Life {
    pid: Option<u32>,
    /// How the last one ended.
    outcome: Option<String>,
}

impl Life {
    /// Where a VM is that nobody answers for.
    fn state(&self) -> VmState {
        match self {
            Self {
                pid: None,
                outcome: None,
            } => VmState::Built,
            _ => VmState::Ended,
        }
    }
}

impl Cell {
    fn new(entry: VmEntry, uid: u32) -> io::Result<Self> {
        let disks = entry.vm.devices.disks.iter().enumerate();
        let overlays = disks
            .filter(|(_, disk)| disk.writes == DiskWrites::Overlay)
            .map(|(number, disk)| Ok((number, unnamed_overlay(&disk.path)?)))
            .collect::<io::Result<_>>()?;
        Ok(Self {
            entry,
            uid,
            overlays,
            life: Mutex::default(),
            control: Mutex::default(),
        })
    }

    fn name(&self) -> &str {
        &self.entry.vm.name
    }

    fn life(&self) -> MutexGuard<'_, Life> {
        self.life.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From here on nobody asks the process that it had.
    fn is_not_asked(&self) {
        *self.control.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Asks its process.
    fn ask(&self, action: &VmAction) -> Result<VmReply, Refusal> {
        let gone = |why: &dyn std::fmt::Display| {
            Refusal::new(
                "gone",
                format!("VM {:?} does not answer: {why}", self.name()),
            )
        };
        let mut control = self.control.lock().unwrap_or_else(PoisonError::into_inner);
        let socket = control.as_mut().ok_or_else(|| match self.life().state() {
            VmState::Built => gone(&"it has not started yet"),
            _ => gone(&"it has ended"),
        })?;
        let answer = ask_line(socket, action, ANSWER_BYTES_MAX, ANSWER_MAX);
        let answer = answer.and_then(|line| match serde_json::from_slice(&line)? {
            VmAnswer::Reply(reply) => Ok(Ok(reply)),
            VmAnswer::Error(refusal) => Ok(Err(refusal)),
        });
        answer.unwrap_or_else(|error| {
            let ends = matches!(action, VmAction::Stop { .. } | VmAction::Reboot { .. });
            if ends && error.kind() == io::ErrorKind::UnexpectedEof {
                // Its process was faster to end than to say that it will.
                return Ok(VmReply::Done);
            }
            // An answer that comes late would be taken for that to the next request.
            *control = None;
            Err(gone(&error))
        })
    }

    /// As much as is known without asking it.
    fn info(&self) -> VmInfo {
        let life = self.life();
        VmInfo {
            name: self.name().to_owned(),
            state: life.state(),
            outcome: life.outcome.clone(),
            cpus: self.entry.vm.cpus.into(),
            memory: self.entry.vm.ram.size,
            disks: Vec::new(),
            nvmes: Vec::new(),
            pid: 0,
        }
    }
}

/// All VMs.
struct Prison {
    cells: Vec<Cell>,
    sockets: PathBuf,
    folder: Folder,
    events: Sender<Event>,
}

impl Prison {
    /// Starts the process of a VM that has none.
    fn start(&self, number: usize) -> io::Result<()> {
        let cell = &self.cells[number];
        let root = self.folder.0.join(format!("root-{}", cell.name()));
        match DirBuilder::new().mode(0o755).create(&root) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        let jailed = serde_json::to_string(&Jailed {
            vm: cell.name().to_owned(),
            sockets: std::path::absolute(&self.sockets)?,
            root,
            uid: cell.uid,
            overlays: cell.overlays.iter().map(|(number, _)| *number).collect(),
            nets: descriptors(&cell.entry.vm).collect(),
        })?;
        let (control, theirs) = UnixStream::pair()?;
        let (report, told) = io::pipe()?;
        let mut given: Vec<(RawFd, RawFd)> = vec![
            (theirs.as_raw_fd(), CONTROL_FD),
            (told.as_raw_fd(), REPORT_FD),
        ];
        let overlays = cell.overlays.iter().map(|(_, file)| file.as_raw_fd());
        given.extend(overlays.zip(OVERLAY_FD..));
        let mut command = Command::new("/proc/self/exe");
        command
            .args(std::env::args_os().skip(1))
            .arg("--jailed")
            .arg(jailed)
            .stdin(if number == 0 {
                Stdio::inherit()
            } else {
                Stdio::null()
            });
        // SAFETY: makes only system calls on plain numbers between fork and exec.
        unsafe {
            command.pre_exec(move || {
                for (from, to) in &given {
                    if libc::dup2(*from, *to) < 0 {
                        return Err(io::Error::last_os_error());
                    }
                }
                Ok(())
            });
        }
        let child = command.spawn()?;
        // In this order: one that has a process and nobody to ask is taken to have ended.
        *cell.control.lock().unwrap_or_else(PoisonError::into_inner) = Some(control);
        *cell.life() = Life {
            pid: Some(child.id()),
            outcome: None,
        };
        drop((theirs, told));
        let events = self.events.clone();
        std::thread::Builder::new()
            .name("byway-warden".to_owned())
            .spawn(move || attend(number, child, report, &events))?;
        Ok(())
    }

    /// Has every VM stopped, and waits for none. By request, not by signal: Ctrl-C has reached their processes too, and a
    /// second signal ends one without more ado.
    fn stop_all(self: &Arc<Self>) {
        for number in 0..self.cells.len() {
            let prison = Arc::clone(self);
            let asked = std::thread::Builder::new().spawn(move || {
                let cell = &prison.cells[number];
                let name = cell.name().to_owned();
                // One that does not take it is killed in a while.
                let _ = cell.ask(&VmAction::Stop { name });
            });
            if let Err(error) = asked {
                tracing::warn!("a VM cannot be asked to stop: {error}");
            }
        }
    }

    fn end_all(&self, signal: libc::c_int) {
        for cell in &self.cells {
            if let Some(pid) = cell.life().pid {
                // SAFETY: sends a signal to a child that has not been waited for: under the lock that is held, its number is
                // its own.
                unsafe { libc::kill(pid as libc::pid_t, signal) };
            }
        }
    }

    fn named(&self, name: &str) -> Result<usize, Refusal> {
        let mut cells = self.cells.iter();
        cells
            .position(|cell| cell.name() == name)
            .ok_or_else(|| unknown(name))
    }
}

/// Waits for the end of a VM's process, and what it told.
fn attend(number: usize, mut child: Child, mut report: io::PipeReader, events: &Sender<Event>) {
    // It ends when the process does, which alone has the other end.
    let mut bytes = [0; REPORT_BYTES];
    let denied = report
        .read_exact(&mut bytes)
        .ok()
        .map(|()| Denied::from_bytes(bytes));
    let status = child.wait();
    let _ = events.send(Event::Ended(number, status, denied));
}

impl VmControl for Prison {
    fn act(&self, action: VmAction) -> Result<VmReply, Refusal> {
        let Some(name) = action.vm() else {
            let vms = self.cells.iter().map(|cell| match cell.ask(&action) {
                Ok(VmReply::Vms { mut vms }) if vms.len() == 1 => vms.remove(0),
                _ => cell.info(),
            });
            return Ok(VmReply::Vms { vms: vms.collect() });
        };
        let number = self.named(name)?;
        let cell = &self.cells[number];
        if matches!(action, VmAction::Start { .. }) && cell.life().pid.is_none() {
            // By the loop's thread: a VM's process ends with the thread that has started it.
            let (answer, answered) = mpsc::sync_channel(1);
            let asked = self.events.send(Event::Start(number, answer));
            let gone = || io::Error::other("this process is about to end");
            let started = asked
                .map_err(|_| gone())
                .and_then(|()| answered.recv().map_err(|_| gone())?);
            let failed = |error: io::Error| Refusal::new("host", error.to_string());
            return started.map(|()| VmReply::Done).map_err(failed);
        }
        cell.ask(&action)
    }
}

/// The loop's view.
struct Warden<'a> {
    prison: &'a Arc<Prison>,
    engine: &'a dyn Admin,
    audit_file: Option<AuditFile>,
    may_reboot: bool,
    stays: bool,
    /// Told to stop; those that still run then are killed.
    kill_at: Option<Instant>,
    /// What this command ends with.
    worst: Option<Failure>,
}

impl Warden<'_> {
    fn goes_on(&self) -> bool {
        let mut cells = self.prison.cells.iter();
        let alive = cells.any(|cell| cell.life().pid.is_some());
        alive || (self.stays && self.kill_at.is_none())
    }

    fn patience(&self) -> Duration {
        self.kill_at.map_or(Duration::from_secs(3600), |at| {
            at.saturating_duration_since(Instant::now())
        })
    }

    fn kill_late(&self) {
        if self.kill_at.is_some_and(|at| at <= Instant::now()) {
            self.prison.end_all(libc::SIGKILL);
        }
    }

    fn see(&mut self, event: Event) {
        match event {
            Event::Stop => {
                say("stopping");
                self.kill_at = Some(Instant::now() + END_MAX);
                self.prison.stop_all();
            }
            Event::Audit => {
                if let Err(failure) = self.audit() {
                    say(failure);
                }
            }
            Event::Start(number, answer) => {
                let idle = self.prison.cells[number].life().pid.is_none();
                let started = if idle && self.kill_at.is_none() {
                    self.prison.start(number)
                } else {
                    Err(io::Error::other(
                        "it runs already, or everything is being stopped",
                    ))
                };
                // Whoever asked may have gone meanwhile.
                let _ = answer.send(started);
            }
            Event::Ended(number, status, denied) => self.ended(number, status, denied),
        }
    }

    fn audit(&self) -> Result<(), Failure> {
        let names = self.prison.cells.iter().map(|cell| cell.name().to_owned());
        match &self.audit_file {
            Some(file) => file.write(self.engine, names).map_err(Failure::failed),
            None => Ok(()),
        }
    }

    fn ended(&mut self, number: usize, status: io::Result<ExitStatus>, denied: Option<Denied>) {
        let cell = &self.prison.cells[number];
        let code = status.as_ref().ok().and_then(ExitStatus::code);
        let name = cell.name();
        let outcome = match (code, denied) {
            (Some(0), _) => "ended".to_owned(),
            (Some(RESET_CODE), _) if self.may_reboot && self.kill_at.is_none() => {
                *cell.life() = Life::default();
                cell.is_not_asked();
                match self.prison.start(number) {
                    Ok(()) => return,
                    Err(error) => format!("cannot start anew: {error}"),
                }
            }
            (Some(RESET_CODE), _) => "was reset".to_owned(),
            (Some(DENIED_CODE), Some(denied)) => {
                format!("was ended: {denied}, which its jail does not permit")
            }
            (Some(code), _) => format!("ended with code {code}"),
            (None, _) => match status {
                Ok(status) => format!("was ended by signal {}", status.signal().unwrap_or(0)),
                Err(error) => format!("cannot be waited for: {error}"),
            },
        };
        // Before anybody reads of it: whoever has may ask.
        *cell.life() = Life {
            pid: None,
            outcome: Some(outcome.clone()),
        };
        cell.is_not_asked();
        if !matches!(code, Some(0 | RESET_CODE)) {
            say(format_args!("{name} {outcome}"));
            let failure = format!("{name} {outcome}");
            self.worst.get_or_insert(match code {
                Some(2) => Failure::usage(failure),
                Some(3) => Failure::host(failure),
                _ => Failure::failed(failure),
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOML: &str = "[[vm]]\nname = \"a\"\nimage = \"byway-guest\"\nmemory = \"64M\"\n";

    /// The socket answers before the first process is started, and between two lives of a VM.
    #[test]
    fn a_vm_that_has_not_started_yet_has_not_ended() {
        let config = RunConfig::parse("vms.toml".as_ref(), TOML).unwrap();
        let cells = config.vms.into_iter().map(|entry| Cell::new(entry, 1000));
        let prison = Prison {
            cells: cells.collect::<io::Result<_>>().unwrap(),
            sockets: PathBuf::new(),
            folder: Folder::new().unwrap(),
            events: mpsc::channel().0,
        };
        let told = || match prison.act(VmAction::List {}).unwrap() {
            VmReply::Vms { mut vms } => vms.remove(0),
            other => panic!("{other:?}"),
        };
        let stop = VmAction::Stop { name: "a".into() };
        assert_eq!((told().state, told().outcome), (VmState::Built, None));
        let refusal = prison.act(stop.clone()).unwrap_err().message;
        assert!(refusal.contains("not started yet"), "{refusal}");

        prison.cells[0].life().outcome = Some("ended".into());
        assert_eq!(told().state, VmState::Ended);
        assert_eq!(told().outcome.as_deref(), Some("ended"));
        let refusal = prison.act(stop).unwrap_err().message;
        assert!(refusal.contains("it has ended"), "{refusal}");
    }
}
