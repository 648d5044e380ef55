//! Gets vCPU threads out of `KVM_RUN`.
//!
//! A thread that is to be stopped is sent a real-time signal. The handler sets the
//! thread's own `immediate_exit` flag, so that a signal that arrives between the
//! thread's look at the stop flag and its next `KVM_RUN` is not lost: that `KVM_RUN` returns
//! at once. No pointer to the flag ever leaves its thread.

use std::cell::Cell;
use std::io;
use std::ptr;
use std::sync::{Mutex, OnceLock, PoisonError};

use kvm_bindings::kvm_run;
use vmm_sys_util::signal::{SIGRTMIN, register_signal_handler};

thread_local! {
    /// `kvm_run.immediate_exit` of the vCPU that this thread runs, or null. Const
    /// initialised and without a destructor, so a signal handler may read it.
    static IMMEDIATE_EXIT: Cell<*mut u8> = const { Cell::new(ptr::null_mut()) };
}

extern "C" fn on_kick(_: libc::c_int, _: *mut libc::siginfo_t, _: *mut libc::c_void) {
    let flag = IMMEDIATE_EXIT.get();
    if !flag.is_null() {
        // SAFETY: a non-null pointer is that of `ArmedFlag`, which outlives every moment in
        // which this thread can see it; the flag is a byte that only this thread writes.
        unsafe { ptr::write_volatile(flag, 1) };
    }
}

fn signal() -> libc::c_int {
    SIGRTMIN()
}

/// Installs the handler, once for the process.
fn install_handler() -> io::Result<()> {
    static INSTALLED: OnceLock<Result<(), i32>> = OnceLock::new();
    INSTALLED
        .get_or_init(|| register_signal_handler(signal(), on_kick).map_err(|error| error.errno()))
        .map_err(io::Error::from_raw_os_error)
}

/// The threads of one VM that can be kicked.
#[derive(Debug, Default)]
pub struct Kicks {
    /// A thread enters itself when it starts and leaves before it ends, both under
    /// this lock, so every id in here is that of a live thread.
    threads: Mutex<Vec<libc::pthread_t>>,
}

impl Kicks {
    /// Enters the calling thread, which is about to run the vCPU that `run` belongs to.
    /// Leave again by dropping the guard, before the vCPU goes.
    ///
    /// # Errors
    /// When the signal handler cannot be installed.
    ///
    /// # Safety
    /// `run` must stay valid until the guard is dropped.
    pub unsafe fn enter(&self, run: *mut kvm_run) -> io::Result<Armed<'_>> {
        install_handler()?;
        // SAFETY: the caller says that `run` is valid; only the field's address is taken.
        IMMEDIATE_EXIT.set(unsafe { &raw mut (*run).immediate_exit });
        // SAFETY: takes no argument and cannot fail.
        let thread = unsafe { libc::pthread_self() };
        self.lock().push(thread);
        Ok(Armed {
            kicks: self,
            thread,
        })
    }

    /// Kicks every thread that is entered.
    pub fn kick_all(&self) {
        for thread in self.lock().iter() {
            // SAFETY: threads leave the list before they end, under the lock that is held.
            // The only error left, EINVAL, would mean a signal number out of range.
            unsafe { libc::pthread_kill(*thread, signal()) };
        }
    }

    /// How many are entered.
    pub fn count(&self) -> usize {
        self.lock().len()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<libc::pthread_t>> {
        self.threads.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Membership of the current thread in a [`Kicks`].
pub struct Armed<'a> {
    kicks: &'a Kicks,
    thread: libc::pthread_t,
}

impl Drop for Armed<'_> {
    fn drop(&mut self) {
        IMMEDIATE_EXIT.set(ptr::null_mut());
        // No kick can be under way to this thread once the lock has been had; one that
        // was already delivered found either the flag or null.
        self.kicks.lock().retain(|thread| *thread != self.thread);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::mpsc;
    use std::thread;
    use std::time::{Duration, Instant};

    /// A kick that comes before `KVM_RUN` must make it return at once: the flag is set.
    #[test]
    fn a_kick_sets_the_flag_of_the_thread_that_is_entered() {
        let kicks = Arc::new(Kicks::default());
        let (ready, entered) = mpsc::channel();
        let thread = thread::spawn({
            let kicks = Arc::clone(&kicks);
            move || {
                let mut run = Box::new(kvm_run::default());
                let run: *mut kvm_run = &raw mut *run;
                // SAFETY: the box lives until the end of this closure, after the guard.
                let guard = unsafe { kicks.enter(run) }.unwrap();
                ready.send(()).unwrap();
                let deadline = Instant::now() + Duration::from_secs(20);
                // SAFETY: as above; the handler runs on this thread, so reads and
                // writes never overlap.
                while unsafe { ptr::read_volatile(&raw const (*run).immediate_exit) } == 0 {
                    assert!(Instant::now() < deadline, "the kick was lost");
                    thread::yield_now();
                }
                drop(guard);
                assert!(kicks.lock().is_empty());
            }
        });
        entered.recv().unwrap();
        kicks.kick_all();
        thread.join().unwrap();
        // Nobody is left to be kicked, and that is no error.
        kicks.kick_all();
    }
}
