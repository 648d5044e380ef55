//! `byway run --jail`: each VM in a process of its own, which confines itself before its guest runs.
//!
//! This process keeps the engine, to which the others attach by vhost-user, starts them, and tells how they end. It runs no guest
//! and opens nothing for one: a VM's process is this program again, with the same arguments and `--jailed`; it reads the
//! configuration and opens what it names while it still may, and then enters its jail ([`crate::jail`]).
//!
//! | file | what |
//! | --- | --- |
//! | this | the outside: the engine, the loop that starts VMs and sees to their ends, and what the API asks |
//! | `cell` | one VM, and whether it has a process |
//! | `process` | one process, from its start to its end |
//! | `channel` | what is asked of it, and what it answers |
//! | `inside` | the process itself |
//!
//! One thread, the loop's ([`Warden`]), starts processes, decides that one is to be killed and says what VMs are; others tell it
//! what has happened ([`Event`]). Threads of the API ask processes themselves, and wait for the loop only to have one started.

mod cell;
mod channel;
mod inside;
mod process;

pub(super) use inside::run_inside;

use std::fs::{self, DirBuilder};
use std::io::{self, Read};
use std::os::fd::{AsFd, RawFd};
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender, SyncSender};
use std::time::{Duration, Instant};

use byway_engine::STACK_BYTES;
use byway_engine::daemon::{Daemon, Refusal, RemoteEngine};
use byway_engine::interface::{Action, Admin};
use byway_engine::vhost_user::wait;
use serde::{Deserialize, Serialize};
use signal_hook::consts::SIGUSR1;

use super::{Args, AuditFile, act, embedded_engine};
use crate::api::{self, Operator, VmAction, VmControl, VmReply, unknown};
use crate::config::{RunConfig, VmEntry};
use crate::exit_status::Failure;
use crate::host;
use crate::say::say;
use crate::seccomp::DENIED_CODE;
use crate::signals::SignalSocket;
use cell::{Cell, Life, descriptors};
use process::{End, Ends, Process};

/// Exit code of a VM's process whose guest wants to start anew.
const RESET_CODE: i32 = 75;
/// How long a VM's process may take to end when it is told to, before it is killed.
const END_MAX: Duration = Duration::from_secs(10);
/// How long a process that was killed may take to be gone, before it is killed again: one that waits for a device takes its time.
const KILL_AGAIN: Duration = Duration::from_secs(1);
/// How long a VM's process may take to say what it does, or that it will end.
const LOOK_MAX: Duration = Duration::from_secs(5);
/// How long it may take for anything else: longer than it waits for its engine, less than who asked waits for this process.
const ACT_MAX: Duration = Duration::from_secs(25);

/// What a VM's process is told beside the arguments of `byway run`. It has the descriptors under the numbers that they have here:
/// no number is free for sure in a process that may have been given any.
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
    /// The process that has started it, with which it ends.
    parent: u32,
    /// Socket of requests.
    control: RawFd,
    /// Where denied system calls are told.
    report: RawFd,
    /// Disks whose overlay its parent holds, so that it outlives a reboot: number and descriptor.
    overlays: Vec<(usize, RawFd)>,
    /// Descriptors that its network interfaces are.
    nets: Vec<RawFd>,
}

/// The outside: starts a process for each VM and stays until all have ended.
///
/// # Errors
/// As [`super::run`].
pub(super) fn run_outside(args: &Args, config: RunConfig) -> Result<(), Failure> {
    check_descriptors(&config)?;
    host::open_kvm()?;
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
        folder: folder.0.clone(),
        events,
    });
    let api = args.api.as_deref().map(|path| {
        let vms: Arc<dyn VmControl> = prison.clone();
        api::serve(path, Operator::new(vms, Arc::clone(&engine)))
    });
    let _api = api.transpose().map_err(Failure::usage)?;
    let mut warden = Warden {
        prison: &prison,
        may_reboot: !args.no_reboot,
        audit: &|| {
            let names = prison.cells.iter().map(|cell| cell.name().to_owned());
            match args.audit.clone().map(AuditFile) {
                Some(file) => file.write(engine.as_ref(), names).map_err(Failure::failed),
                None => Ok(()),
            }
        },
        stays: args.stay,
        stopping: false,
        doomed: Vec::new(),
        worst: None,
    };
    warden.run(happened);
    let audited = (warden.audit)();
    match warden.worst {
        None => audited,
        Some(worst) => {
            audited.unwrap_or_else(say);
            Err(worst)
        }
    }
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

/// Those that network interfaces are have to be there before this process opens anything, which might take their numbers.
fn check_descriptors(config: &RunConfig) -> Result<(), Failure> {
    let mut all = config.vms.iter().flat_map(|entry| descriptors(&entry.vm));
    let absent = all.find(|fd| {
        // SAFETY: asks for the flags of a descriptor; one that is not open is refused.
        let flags = unsafe { libc::fcntl(*fd, libc::F_GETFD) };
        // One that an exec closes is this process' own.
        flags < 0 || flags & libc::FD_CLOEXEC != 0
    });
    absent.map_or(Ok(()), |fd| {
        Err(Failure::usage(format!(
            "a network interface is to be descriptor {fd}, which is not open: `byway run` has to be started with it"
        )))
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
    /// A process has been told to end, and is to be killed if it has not in a while.
    Doom(Arc<Process>),
    /// A VM's process has ended.
    Ended(usize, End),
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

/// All VMs.
struct Prison {
    cells: Vec<Cell>,
    sockets: PathBuf,
    folder: PathBuf,
    events: Sender<Event>,
}

impl Prison {
    /// Starts the process of a VM that has none. By the loop's thread: it ends with the thread that has started it.
    fn start(&self, number: usize) -> io::Result<()> {
        let cell = &self.cells[number];
        let root = self.folder.join(format!("root-{}", cell.name()));
        match DirBuilder::new().mode(0o755).create(&root) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        let ends = Ends::new()?;
        let jailed = serde_json::to_string(&Jailed {
            vm: cell.name().to_owned(),
            sockets: std::path::absolute(&self.sockets)?,
            root,
            uid: cell.uid,
            parent: std::process::id(),
            control: ends.control_fd(),
            report: ends.report_fd(),
            overlays: cell.overlays().collect(),
            nets: descriptors(&cell.entry.vm).collect(),
        })?;
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
        let events = self.events.clone();
        let ended = move |end| {
            let _ = events.send(Event::Ended(number, end));
        };
        let overlays = cell.overlays().map(|(_, fd)| fd);
        let process = ends.start(command, overlays, ended)?;
        *cell.life() = Life::Lives(Arc::new(process));
        Ok(())
    }

    /// Has a VM stopped: by request, as long as its process takes requests, else by a signal, and in a while by one that it
    /// cannot ignore, whatever it has answered.
    fn stop(&self, cell: &Cell) -> Result<VmReply, Refusal> {
        let process = cell.process().ok_or_else(|| cell.has_none())?;
        let name = cell.name().to_owned();
        let answer = process.ask(&VmAction::Stop { name }, LOOK_MAX);
        if !matches!(answer, Ok(Ok(VmReply::Done))) {
            process.signal(libc::SIGTERM);
        }
        // Who does not take it any more has seen the end of every process.
        let _ = self.events.send(Event::Doom(process));
        Ok(VmReply::Done)
    }

    /// Has every VM stopped, and waits for none. By request first, and not by signal: Ctrl-C has reached their processes too, and a
    /// second signal ends one without more ado.
    fn stop_all(self: &Arc<Self>) {
        for number in 0..self.cells.len() {
            let prison = Arc::clone(self);
            let asked = std::thread::Builder::new().spawn(move || {
                // One that has ended need not be stopped.
                let _ = prison.stop(&prison.cells[number]);
            });
            if let Err(error) = asked {
                tracing::warn!("a VM cannot be asked to stop, and is killed in a while: {error}");
            }
        }
    }

    /// What is known of all VMs. They are asked at once: one that does not answer takes no time from others.
    fn list(&self) -> VmReply {
        let vms = std::thread::scope(|scope| {
            let cells = self.cells.iter().map(|cell| {
                let ask = || cell.info(LOOK_MAX);
                (cell, std::thread::Builder::new().spawn_scoped(scope, ask))
            });
            let asked: Vec<_> = cells.collect();
            let told = asked.into_iter().map(|(cell, asked)| {
                let told = asked.ok().and_then(|asked| asked.join().ok());
                // Without a thread for it.
                told.unwrap_or_else(|| cell.known())
            });
            told.collect()
        });
        VmReply::Vms { vms }
    }

    fn named(&self, name: &str) -> Result<usize, Refusal> {
        let mut cells = self.cells.iter();
        cells
            .position(|cell| cell.name() == name)
            .ok_or_else(|| unknown(name))
    }
}

impl VmControl for Prison {
    fn act(&self, action: VmAction) -> Result<VmReply, Refusal> {
        let Some(name) = action.vm() else {
            return Ok(self.list());
        };
        let number = self.named(name)?;
        let cell = &self.cells[number];
        match action {
            VmAction::Start { .. } if cell.process().is_none() => {
                let (answer, answered) = mpsc::sync_channel(1);
                let asked = self.events.send(Event::Start(number, answer));
                // The loop drops what it has not taken when it ends.
                let gone = || io::Error::other("this process is about to end");
                let started = asked
                    .map_err(|_| gone())
                    .and_then(|()| answered.recv().map_err(|_| gone())?);
                let failed = |error: io::Error| Refusal::new("host", error.to_string());
                started.map(|()| VmReply::Done).map_err(failed)
            }
            VmAction::Stop { .. } => self.stop(cell),
            _ => cell.ask(&action, ACT_MAX),
        }
    }
}

/// A process that is to be killed, if it has not ended by then.
struct Doomed {
    process: Arc<Process>,
    at: Instant,
}

/// The loop.
struct Warden<'a> {
    prison: &'a Arc<Prison>,
    /// Writes who gave what to whom, if it is to be written.
    audit: &'a dyn Fn() -> Result<(), Failure>,
    may_reboot: bool,
    stays: bool,
    /// Nothing is started any more.
    stopping: bool,
    doomed: Vec<Doomed>,
    /// What this command ends with.
    worst: Option<Failure>,
}

impl Warden<'_> {
    /// Starts every VM, and stays until all have ended. It owns what it is told by: who waits for it to take something is not
    /// left waiting when it has returned.
    fn run(&mut self, happened: Receiver<Event>) {
        for number in 0..self.prison.cells.len() {
            if let Err(error) = self.prison.start(number) {
                self.worst = Some(Failure::failed(error));
                self.stopping = true;
                self.doom_all(Duration::ZERO);
                break;
            }
        }
        while self.goes_on() {
            self.kill_late();
            match happened.recv_timeout(self.patience()) {
                Ok(event) => self.see(event),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
    }

    fn goes_on(&self) -> bool {
        let mut cells = self.prison.cells.iter();
        cells.any(|cell| cell.process().is_some()) || (self.stays && !self.stopping)
    }

    /// How long nothing is to be done unless something happens.
    fn patience(&self) -> Duration {
        let next = self.doomed.iter().map(|doomed| doomed.at).min();
        next.map_or(Duration::from_secs(3600), |at| {
            at.saturating_duration_since(Instant::now())
        })
    }

    fn doom(&mut self, process: Arc<Process>, within: Duration) {
        let is_it = |doomed: &Doomed| Arc::ptr_eq(&doomed.process, &process);
        if !self.doomed.iter().any(is_it) {
            let at = Instant::now() + within;
            self.doomed.push(Doomed { process, at });
        }
    }

    fn doom_all(&mut self, within: Duration) {
        for process in self.prison.cells.iter().filter_map(Cell::process) {
            self.doom(process, within);
        }
    }

    fn kill_late(&mut self) {
        let now = Instant::now();
        for doomed in self.doomed.iter_mut().filter(|doomed| doomed.at <= now) {
            doomed.process.signal(libc::SIGKILL);
            doomed.at = now + KILL_AGAIN;
        }
    }

    fn see(&mut self, event: Event) {
        match event {
            Event::Stop => {
                say("stopping");
                self.stopping = true;
                self.doom_all(END_MAX);
                self.prison.stop_all();
            }
            Event::Audit => (self.audit)().unwrap_or_else(say),
            Event::Start(number, answer) => {
                let idle = self.prison.cells[number].process().is_none();
                let started = if idle && !self.stopping {
                    self.prison.start(number)
                } else {
                    Err(io::Error::other(
                        "it runs already, or everything is being stopped",
                    ))
                };
                // Whoever asked may have gone meanwhile.
                let _ = answer.send(started);
            }
            Event::Doom(process) => {
                // One whose end was seen meanwhile is nobody's.
                let mut all = self.prison.cells.iter().filter_map(Cell::process);
                if all.any(|other| Arc::ptr_eq(&other, &process)) {
                    self.doom(process, END_MAX);
                }
            }
            Event::Ended(number, end) => self.ended(number, end),
        }
    }

    fn ended(&mut self, number: usize, end: End) {
        let End { status, denied } = end;
        let cell = &self.prison.cells[number];
        if let Some(process) = cell.process() {
            let is_other = |doomed: &Doomed| !Arc::ptr_eq(&doomed.process, &process);
            self.doomed.retain(is_other);
        }
        let code = status.as_ref().ok().and_then(ExitStatus::code);
        let name = cell.name();
        let outcome = match (code, denied) {
            (Some(0), _) => "ended".to_owned(),
            (Some(RESET_CODE), _) if self.may_reboot && !self.stopping => {
                *cell.life() = Life::Before;
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
        *cell.life() = Life::Over(outcome.clone());
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
    use crate::control::VmState;

    const TOML: &str = "[[vm]]\nname = \"a\"\nimage = \"byway-guest\"\nmemory = \"64M\"\n";
    const LONG: Duration = Duration::from_secs(20);

    fn prison(folder: &Folder) -> (Arc<Prison>, Receiver<Event>) {
        let config = RunConfig::parse("vms.toml".as_ref(), TOML).unwrap();
        let cells = config.vms.into_iter().map(|entry| Cell::new(entry, 1000));
        let (events, happened) = mpsc::channel();
        let prison = Prison {
            cells: cells.collect::<io::Result<_>>().unwrap(),
            sockets: PathBuf::new(),
            folder: folder.0.clone(),
            events,
        };
        (Arc::new(prison), happened)
    }

    fn warden(prison: &Arc<Prison>) -> Warden<'_> {
        Warden {
            prison,
            audit: &|| Ok(()),
            may_reboot: true,
            stays: false,
            stopping: false,
            doomed: Vec::new(),
            worst: None,
        }
    }

    /// A process that is not this program, which takes no requests.
    fn lives(prison: &Prison, script: &str) -> Arc<Process> {
        let mut command = Command::new("bash");
        command.args(["-c", script]).stdin(Stdio::null());
        let events = prison.events.clone();
        let ended = move |end| events.send(Event::Ended(0, end)).unwrap_or(());
        let process = Ends::new().unwrap().start(command, [], ended).unwrap();
        let process = Arc::new(process);
        *prison.cells[0].life() = Life::Lives(Arc::clone(&process));
        process
    }

    fn told(prison: &Prison) -> crate::api::VmInfo {
        match prison.act(VmAction::List {}).unwrap() {
            VmReply::Vms { mut vms } => vms.remove(0),
            other => panic!("{other:?}"),
        }
    }

    fn stop() -> VmAction {
        VmAction::Stop { name: "a".into() }
    }

    /// The socket answers before the first process is started, and between two lives of a VM.
    #[test]
    fn a_vm_that_has_not_started_yet_has_not_ended() {
        let folder = Folder::new().unwrap();
        let (prison, _happened) = prison(&folder);
        let before = told(&prison);
        assert_eq!((before.state, before.outcome), (VmState::Built, None));
        let refusal = prison.act(stop()).unwrap_err().message;
        assert!(refusal.contains("not started yet"), "{refusal}");

        *prison.cells[0].life() = Life::Over("ended".into());
        let over = told(&prison);
        assert_eq!(over.state, VmState::Ended);
        assert_eq!(over.outcome.as_deref(), Some("ended"));
        let refusal = prison.act(stop()).unwrap_err().message;
        assert!(refusal.contains("it has ended"), "{refusal}");
    }

    /// Neither that of a VM whose process cannot be started nor one that comes when the loop ends.
    #[test]
    fn who_waits_for_a_start_is_not_left_waiting_when_the_loop_has_ended() {
        let folder = Folder::new().unwrap();
        let (prison, happened) = prison(&folder);
        fs::remove_dir_all(&folder.0).unwrap();
        let start = VmAction::Start { name: "a".into() };
        let (answer, answered) = mpsc::sync_channel(1);
        prison.events.send(Event::Start(0, answer)).unwrap();
        let mut warden = warden(&prison);
        warden.run(happened);
        assert!(warden.worst.is_some());
        let gone = answered.recv_timeout(LONG).unwrap_err();
        assert_eq!(gone, RecvTimeoutError::Disconnected);
        let refusal = prison.act(start).unwrap_err();
        assert!(refusal.message.contains("about to end"), "{refusal:?}");
    }

    /// It answers nothing, and ignores what can be ignored.
    #[test]
    fn a_vm_that_does_not_answer_lives_and_is_stopped_all_the_same() {
        let folder = Folder::new().unwrap();
        let (prison, happened) = prison(&folder);
        let ready = folder.0.join("ready");
        let script = format!(
            "trap '' TERM; >{}; while :; do sleep 1; done",
            ready.display()
        );
        let process = lives(&prison, &script);
        while !ready.exists() {
            std::thread::sleep(Duration::from_millis(5));
        }
        let (asked, listed) = (Instant::now(), told(&prison));
        assert!(asked.elapsed() < 2 * LOOK_MAX);
        assert_eq!((listed.state, listed.outcome), (VmState::Silent, None));
        assert_eq!((listed.name.as_str(), listed.pid), ("a", process.pid()));
        assert_eq!(prison.act(stop()), Ok(VmReply::Done));
        assert_eq!(told(&prison).state, VmState::Silent);
        let mut warden = warden(&prison);
        warden.see(happened.recv().unwrap());
        warden.see(Event::Doom(Arc::clone(&process)));
        assert_eq!(warden.doomed.len(), 1);
        warden.kill_late();
        assert!(warden.patience() > Duration::ZERO, "it has its time");
        warden.doomed[0].at = Instant::now();
        warden.kill_late();
        // No sooner again than in a while, though nobody has seen its end yet.
        assert!(warden.patience() > KILL_AGAIN / 2);
        let end = happened.recv_timeout(LONG).unwrap();
        assert!(matches!(&end, Event::Ended(0, _)));
        warden.see(end);
        assert!(warden.doomed.is_empty() && !warden.goes_on());
        assert_eq!(told(&prison).outcome.unwrap(), "was ended by signal 9");
        warden.see(Event::Doom(process));
        assert!(warden.doomed.is_empty());
    }

    /// Only a signal says that it is to stop.
    #[test]
    fn a_vm_that_takes_no_requests_is_told_by_a_signal_to_stop() {
        let folder = Folder::new().unwrap();
        let (prison, happened) = prison(&folder);
        lives(
            &prison,
            "sleep 600 & P=$!; trap 'kill $P; exit 0' TERM; wait",
        );
        std::thread::sleep(Duration::from_millis(300));
        assert_eq!(prison.act(stop()), Ok(VmReply::Done));
        let mut warden = warden(&prison);
        while warden.goes_on() {
            warden.see(happened.recv_timeout(LONG).unwrap());
        }
        assert!(warden.worst.is_none());
        assert_eq!(told(&prison).outcome.unwrap(), "ended");
    }
}
