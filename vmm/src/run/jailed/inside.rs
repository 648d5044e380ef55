//! The process of one VM: opens what the configuration names, confines itself, and runs the VM until it ends or its parent does.

use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use byway_engine::STACK_BYTES;
use byway_engine::daemon::serve_lines;
use signal_hook::consts::SIGTERM;
use signal_hook::low_level;

use super::super::supervisor::{self, Settings};
use super::super::{Args, launch_remote};
use super::{Jailed, RESET_CODE};
use crate::api::{LocalVms, Operator};
use crate::control;
use crate::devices::settings::DiskWrites;
use crate::exit_status::Failure;
use crate::host;
use crate::jail::{self, User};
use crate::seccomp::{self, Kind};

/// How long a VM that starts anew may wait for the engine to see that its former life has detached.
const ATTACH_MAX: Duration = Duration::from_secs(5);
const ATTACH_RETRY: Duration = Duration::from_millis(10);

/// The inside: runs one VM.
///
/// # Errors
/// As [`run`](super::super::run).
pub(in super::super) fn run_inside(args: &Args, jailed: &str) -> Result<(), Failure> {
    let jailed: Jailed = serde_json::from_str(jailed).map_err(Failure::usage)?;
    // Before anything that takes its time.
    jail::end_with_parent(jailed.parent).map_err(Failure::failed)?;
    let Jailed {
        control, report, ..
    } = jailed;
    let overlays = jailed.overlays.iter().map(|(_, fd)| fd);
    let given: Vec<_> = overlays.chain(&jailed.nets).collect();
    jail::close_strangers(|fd| fd == control || fd == report || given.contains(&&fd))
        .map_err(Failure::failed)?;
    let (control, report) = (take(control)?, take(report)?);
    let mut config = args.config()?;
    config.vms.retain(|entry| entry.vm.name == jailed.vm);
    for entry in &mut config.vms {
        for (disk, fd) in &jailed.overlays {
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
    jail::enter(user, &jailed.root, report, jailed.parent).map_err(Failure::failed)?;
    std::thread::Builder::new()
        .name("byway-control".to_owned())
        .stack_size(STACK_BYTES)
        .spawn(move || {
            seccomp::narrow(Kind::Api);
            // Never closed: a debug build looks at a descriptor before it closes it, for which this thread has no right.
            let mut control = ManuallyDrop::new(UnixStream::from(control));
            // Until the parent has gone.
            let _ = serve_lines(&mut control, |line| operator.answer(line));
            // Stops the VM, and ends this process in any case in a while: nobody could ask for it any more.
            let _ = low_level::raise(SIGTERM);
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

/// A descriptor that came from the parent, as one of this process' own.
fn take(fd: RawFd) -> Result<OwnedFd, Failure> {
    // SAFETY: asks for a copy; a descriptor that is not open is refused.
    let copy = unsafe { libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, 3) };
    if copy < 0 {
        return Err(Failure::usage("--jailed is for `byway run --jail` to use"));
    }
    // SAFETY: nobody in this process owns what came from the parent, and the copy is new.
    unsafe {
        libc::close(fd);
        Ok(OwnedFd::from_raw_fd(copy))
    }
}
