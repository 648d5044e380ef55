//! Filters of system calls: one for a whole process, and a narrower one for each kind of its threads.
//!
//! A filter is inherited by new threads and can only be narrowed. So the process begins with what all of its threads need
//! together ([`enter`]), and each thread keeps its own part when it starts ([`narrow`]). A system call beyond that ends the process, and
//! `report` tells which. What the lists are, those who are confined say: [`crate::jail`] for the process of one VM,
//! [`crate::daemon`] for an engine.

mod names;
mod program;
mod report;

pub use names::name_of;
pub(crate) use program::{COMMON, SOCKETS, START_THREADS};
pub use program::{Filters, Permits};
pub use report::{DENIED_CODE, Denied, REPORT_BYTES, Told};

use std::io;
use std::sync::OnceLock;

use seccompiler::{apply_filter, apply_filter_all_threads};

use crate::say::say;

/// Filters of this process, once it is confined.
static FILTERS: OnceLock<Filters> = OnceLock::new();

/// Why a process could not be confined.
#[derive(Debug, thiserror::Error)]
pub enum SeccompError {
    /// The host refused a step.
    #[error("cannot {what}")]
    Host {
        /// Which step.
        what: &'static str,
        /// What the host said.
        #[source]
        source: io::Error,
    },
    /// A filter of system calls could not be made or put on.
    #[error("there is no filter of system calls")]
    Filter(#[from] seccompiler::Error),
    /// It is there already.
    #[error("this process has its filters of system calls already")]
    Twice,
}

/// A kind of thread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// Before any other: what all of them need.
    Base,
    /// The event loop; in an engine, the one that waits for signals.
    Main,
    /// A vCPU.
    Vcpu,
    /// A disk, a network interface, the source of random numbers.
    Device,
    /// The one that takes the parent's requests.
    Api,
    /// A device on the PCI bus: one that raises interrupts by messages.
    PciDevice,
    /// One that carries descriptors out.
    Worker,
    /// The one that serves all domains' virtqueues.
    Control,
    /// One that speaks with a domain's front end.
    Session,
    /// One that lets operators in, or does what one of them asks for.
    Operator,
    /// One that watches a device of another process.
    Watch,
    /// A model of a device.
    Model,
}

impl Kind {
    const ALL: [Self; 12] = [
        Self::Base,
        Self::Main,
        Self::Vcpu,
        Self::Device,
        Self::Api,
        Self::PciDevice,
        Self::Worker,
        Self::Control,
        Self::Session,
        Self::Operator,
        Self::Watch,
        Self::Model,
    ];

    /// The kind with this number.
    #[must_use]
    pub fn of(number: u8) -> Self {
        let mut all = Self::ALL.into_iter();
        all.find(|kind| *kind as u8 == number).unwrap_or(Self::Base)
    }

    /// For messages.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Base => "a helping",
            Self::Main => "the main",
            Self::Vcpu => "a vCPU's",
            Self::Device | Self::PciDevice => "a device's",
            Self::Api | Self::Control => "the control",
            Self::Worker => "a worker's",
            Self::Session => "a front end's",
            Self::Operator => "an operator's",
            Self::Watch => "a device's watching",
            Self::Model => "a model's",
        }
    }
}

/// Gives this process no new privileges and a filter of system calls for every thread, those there are and those to come.
/// `told` hears of violations.
///
/// # Errors
/// When a step fails; the process must not go on then.
pub fn enter(filters: Filters, told: Told) -> Result<(), SeccompError> {
    let base = filters.base().clone();
    prepare(filters, told)?;
    // As wide as the kernel reads them.
    let (yes, none): (libc::c_ulong, libc::c_ulong) = (1, 0);
    // SAFETY: takes numbers only.
    if unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, yes, none, none, none) } != 0 {
        return Err(host("give up new privileges")(io::Error::last_os_error()));
    }
    panic_plainly();
    Ok(apply_filter_all_threads(&base)?)
}

/// The part of [`enter`] that leaves the process as free as it is: threads can be narrowed then.
///
/// # Errors
/// As [`enter`].
pub(crate) fn prepare(filters: Filters, told: Told) -> Result<(), SeccompError> {
    FILTERS.set(filters).map_err(|_| SeccompError::Twice)?;
    report::install(told).map_err(host("catch denied system calls"))
}

/// Keeps to the calling thread what its kind needs, if this process is confined and has a filter for that kind. Without that the process
/// must not go on, and does not.
pub fn narrow(kind: Kind) {
    let Some(filters) = FILTERS.get() else { return };
    report::set_kind(kind);
    let Some(filter) = filters.of(kind) else {
        return;
    };
    if let Err(error) = apply_filter(filter) {
        say(format_args!("a thread cannot be confined: {error}"));
        std::process::exit(1);
    }
}

fn host(what: &'static str) -> impl Fn(io::Error) -> SeccompError {
    move |source| SeccompError::Host { what, source }
}

/// Panics are told without the backtrace that RUST_BACKTRACE asks for: the library would open this program for it.
fn panic_plainly() {
    std::panic::set_hook(Box::new(|info| {
        let thread = std::thread::current();
        let name = thread.name().unwrap_or("without a name");
        say(format_args!("thread {name} {info}"));
    }));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_found_by_their_numbers() {
        for kind in Kind::ALL {
            assert_eq!(Kind::of(kind as u8), kind);
        }
        assert_eq!(Kind::of(u8::MAX), Kind::Base);
    }
}
