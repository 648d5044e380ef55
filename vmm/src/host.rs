//! Opens the host's KVM, and says in one sentence why there is none.

use std::io;

use kvm_ioctls::Kvm;

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
