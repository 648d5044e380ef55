//! The way from who wants something of a VM to the loop that owns it.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender, SyncSender};

use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use super::{ControlError, VmState};
use crate::vm::Vm;

/// Something to do with a VM, on the thread that owns it. Dropping it tells who waits that the VM is gone.
pub enum Act {
    /// With the VM as it is.
    With(Box<dyn FnOnce(&mut Vm) + Send>),
    /// Start it, anew if it has ended, and tell how that went.
    Start(SyncSender<Result<(), ControlError>>),
}

/// What somebody waits for to be done with a VM. Dropping it tells them that the VM is gone.
pub struct Request {
    vm: usize,
    act: Act,
}

impl Request {
    /// Which VM: its place among the names of [`channel`].
    #[must_use]
    pub fn vm(&self) -> usize {
        self.vm
    }

    /// What to do with it.
    #[must_use]
    pub fn into_act(self) -> Act {
        self.act
    }
}

/// Speaks for one VM. Clones speak for the same one; a VM that reboots keeps its handles.
///
/// Every call waits for the loop to carry it out: none may be made on the thread of that loop, which would
/// wait for itself.
#[derive(Clone)]
pub struct VmHandle {
    vm: usize,
    name: Arc<str>,
    sender: Sender<Request>,
    wake: Arc<EventFd>,
}

/// The loop's end.
pub struct Requests {
    receiver: Receiver<Request>,
    wake: Arc<EventFd>,
}

/// A handle for each of `names`, in the order of the loop's VMs, and the loop's end.
///
/// # Errors
/// When the host has no eventfd left.
pub fn channel<'a>(
    names: impl IntoIterator<Item = &'a str>,
) -> io::Result<(Vec<VmHandle>, Requests)> {
    let (sender, receiver) = mpsc::channel();
    let wake = Arc::new(EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)?);
    let handles = names.into_iter().enumerate().map(|(vm, name)| VmHandle {
        vm,
        name: name.into(),
        sender: sender.clone(),
        wake: Arc::clone(&wake),
    });
    Ok((handles.collect(), Requests { receiver, wake }))
}

impl VmHandle {
    /// Name of the VM.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Has `act` done with the VM as it is by then, and returns what it returned.
    ///
    /// # Errors
    /// When the loop has ended.
    pub fn with_vm<R: Send + 'static>(
        &self,
        act: impl FnOnce(&mut Vm) -> R + Send + 'static,
    ) -> Result<R, ControlError> {
        let (answer, answered) = mpsc::sync_channel(1);
        self.send(Act::With(Box::new(move |vm| {
            // Whoever asked may have gone meanwhile.
            let _ = answer.send(act(vm));
        })))?;
        answered.recv().map_err(|_| self.gone())
    }

    fn send(&self, act: Act) -> Result<(), ControlError> {
        let request = Request { vm: self.vm, act };
        self.sender.send(request).map_err(|_| self.gone())?;
        // Fails only when the counter is full; then the loop has been woken before.
        let _ = self.wake.write(1);
        Ok(())
    }

    fn gone(&self) -> ControlError {
        ControlError::Gone(self.name.to_string())
    }

    /// Starts it: for the first time, or anew after it has ended.
    ///
    /// # Errors
    /// When it runs, or cannot be built or started.
    pub fn start(&self) -> Result<(), ControlError> {
        let (answer, answered) = mpsc::sync_channel(1);
        self.send(Act::Start(answer))?;
        answered.recv().map_err(|_| self.gone())?
    }

    /// Where the VM is in its life.
    ///
    /// # Errors
    /// When the loop has ended.
    pub fn state(&self) -> Result<VmState, ControlError> {
        self.with_vm(|vm| vm.state())
    }

    /// Stops its vCPUs, then the engine's work for it. When this returns nothing of the VM moves, and
    /// nothing of its memory is written by itself or for it. A VM that is paused stays so.
    ///
    /// # Errors
    /// When it does not run, or KVM refuses to stop its clock.
    pub fn pause(&self) -> Result<(), ControlError> {
        self.with_vm(Vm::pause)?
    }

    /// Has it go on where it was; its kvm-clock does as if no time had passed. A VM that runs goes on running.
    ///
    /// # Errors
    /// When it has not been started or has ended.
    pub fn resume(&self) -> Result<(), ControlError> {
        self.with_vm(Vm::resume)?
    }

    /// Starts it anew at once, as a reset button does: the guest is not asked.
    ///
    /// # Errors
    /// When it has not been started or has ended.
    pub fn reboot(&self) -> Result<(), ControlError> {
        self.with_vm(|vm| vm.reboot())?
    }

    /// Presses its power button: a guest that listens to ACPI shuts itself down.
    ///
    /// # Errors
    /// When it does not run, or KVM refuses the interrupt.
    pub fn power_button(&self) -> Result<(), ControlError> {
        self.with_vm(|vm| vm.power_button())?
    }

    /// Adds `bytes` of memory, a multiple of 128 MiB, and tells the guest by ACPI; returns its guest-physical
    /// address.
    ///
    /// # Errors
    /// As [`Vm::plug_memory`].
    pub fn add_memory(&self, bytes: u64) -> Result<u64, ControlError> {
        Ok(self.with_vm(move |vm| vm.plug_memory(bytes))??)
    }

    /// Ends it at once, as pulling the plug does.
    ///
    /// # Errors
    /// When it has not been started or has ended.
    pub fn stop(&self) -> Result<(), ControlError> {
        self.with_vm(|vm| vm.pull_plug())?
    }
}

impl Requests {
    /// Readable when there is something to carry out.
    #[must_use]
    pub fn event(&self) -> &EventFd {
        &self.wake
    }

    /// What has been asked so far.
    #[must_use]
    pub fn take(&self) -> Vec<Request> {
        // Before the look, so that what comes after it wakes the loop again.
        let _ = self.wake.read();
        self.receiver.try_iter().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsRawFd;

    fn readable(event: &EventFd) -> bool {
        let mut poll = libc::pollfd {
            fd: event.as_raw_fd(),
            events: libc::POLLIN,
            revents: 0,
        };
        // SAFETY: one live pollfd, and its number is given.
        unsafe { libc::poll(&mut poll, 1, 10_000) == 1 }
    }

    #[test]
    fn who_asks_when_the_loop_has_ended_is_told_so() {
        let (handles, requests) = channel(["alice"]).unwrap();
        drop(requests);
        let error = handles[0].state().unwrap_err();
        assert!(error.to_string().contains("\"alice\" is gone"), "{error}");
    }

    #[test]
    fn a_request_wakes_the_loop_and_one_for_no_vm_is_answered_too() {
        let (handles, requests) = channel(["alice", "bob"]).unwrap();
        assert_eq!(handles[1].name(), "bob");
        let bob = handles[1].clone();
        let asker = std::thread::spawn(move || bob.pause());
        assert!(readable(requests.event()), "the loop is not woken");
        let taken = requests.take();
        assert_eq!(taken.iter().map(Request::vm).collect::<Vec<_>>(), [1]);
        // The loop has no such VM any more.
        drop(taken);
        assert!(matches!(asker.join().unwrap(), Err(ControlError::Gone(_))));
    }
}
