//! Opens the host's KVM, says in one sentence why there is none, and tells its kind.

use std::arch::x86_64::__cpuid;
use std::io;
use std::path::Path;

use kvm_ioctls::Kvm;

use crate::vcpu::Template;

/// Where KVM is.
pub const KVM_PATH: &str = "/dev/kvm";
/// The API version that KVM has had since 2007.
const KVM_API_VERSION: i32 = 12;

/// The host has no usable KVM. The message is one sentence that says what to do.
#[derive(Debug, thiserror::Error)]
pub enum NoKvm {
    /// There is no /dev/kvm.
    #[error(
        "this host has no {KVM_PATH}: load the kvm module, or enable (nested) virtualisation; `byway doctor` says more"
    )]
    Absent,
    /// It may not be opened.
    #[error("{KVM_PATH} may not be opened: join the group `kvm` or run as root")]
    Forbidden,
    /// It cannot be opened for another reason.
    #[error("{KVM_PATH} cannot be opened: {0}; `byway doctor` says more")]
    Broken(io::Error),
    /// It speaks another API.
    #[error("{KVM_PATH} has API version {0} where {KVM_API_VERSION} is needed; use a Linux kernel")]
    Version(i32),
}

/// Opens KVM.
///
/// # Errors
/// See [`NoKvm`].
pub fn open_kvm() -> Result<Kvm, NoKvm> {
    let kvm = Kvm::new().map_err(|error| match error.errno() {
        libc::ENOENT | libc::ENODEV | libc::ENXIO => NoKvm::Absent,
        libc::EACCES | libc::EPERM => NoKvm::Forbidden,
        errno => NoKvm::Broken(io::Error::from_raw_os_error(errno)),
    })?;
    match kvm.get_api_version() {
        KVM_API_VERSION => Ok(kvm),
        other => Err(NoKvm::Version(other)),
    }
}

/// What runs guest code behind `/dev/kvm`. The kinds count differently and emulate different instructions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KvmKind {
    /// Intel VT-x.
    Vmx,
    /// AMD-V.
    Svm,
    /// Software: ring 3 runs natively, every instruction of ring 0 is emulated.
    Pvm,
}

impl KvmKind {
    /// All kinds with the kernel module that makes each.
    const MODULES: [(Self, &str); 3] = [
        (Self::Vmx, "kvm_intel"),
        (Self::Svm, "kvm_amd"),
        (Self::Pvm, "kvm_pvm"),
    ];

    /// The kind of this host, by its kernel's modules; `None` when none of the known ones is there.
    #[must_use]
    pub fn of_host() -> Option<Self> {
        let loaded = |module: &str| Path::new("/sys/module").join(module).exists();
        Self::MODULES
            .into_iter()
            .find_map(|(kind, module)| loaded(module).then_some(kind))
    }

    /// The kind in words.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Vmx => "VMX (Intel VT-x)",
            Self::Svm => "SVM (AMD-V)",
            Self::Pvm => "PVM (software: guest ring 0 is emulated)",
        }
    }

    /// Whether KVM's `io_exits` and `mmio_exits` move when a guest touches a port and a register. PVM leaves the first at 0,
    /// and some of its versions the second.
    #[must_use]
    pub fn counts_io_by_kind(self) -> bool {
        self != Self::Pvm
    }
}

/// The CPU template for guests of this host: the one that its KVM can carry out without fault.
#[must_use]
pub fn recommended_template() -> Template {
    if KvmKind::of_host() == Some(KvmKind::Pvm) {
        Template::Pvm
    } else if runs_under_tcg() {
        Template::NestedTcg
    } else {
        Template::Host
    }
}

/// Whether this host is itself emulated by QEMU, by what its CPUID says of the hypervisor.
fn runs_under_tcg() -> bool {
    const HYPERVISOR: u32 = 1 << 31;
    const SIGNATURE: &[u8; 12] = b"TCGTCGTCGTCG";
    if __cpuid(1).ecx & HYPERVISOR == 0 {
        return false;
    }
    let leaf = __cpuid(0x4000_0000);
    let words = [leaf.ebx, leaf.ecx, leaf.edx].map(u32::to_le_bytes);
    words.concat() == SIGNATURE
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_lack_is_one_line_with_advice() {
        for lack in [
            NoKvm::Absent,
            NoKvm::Forbidden,
            NoKvm::Broken(io::ErrorKind::Other.into()),
            NoKvm::Version(11),
        ] {
            let text = lack.to_string();
            assert!(text.contains(KVM_PATH) && !text.contains('\n'), "{text}");
        }
    }
}
