//! Cores: which this process may use, and binding the calling thread to one.

use std::io;
use std::marker::PhantomData;
use std::mem;

/// Cores that the calling thread may run on, ascending.
#[must_use]
pub fn allowed_cores() -> Vec<usize> {
    // SAFETY: an all-zero cpu_set_t is a valid empty set; the kernel writes at most its size.
    let set = unsafe {
        let mut set: libc::cpu_set_t = mem::zeroed();
        if libc::sched_getaffinity(0, mem::size_of::<libc::cpu_set_t>(), &raw mut set) != 0 {
            return vec![0];
        }
        set
    };
    (0..libc::CPU_SETSIZE as usize)
        // SAFETY: the index is below CPU_SETSIZE.
        .filter(|&core| unsafe { libc::CPU_ISSET(core, &set) })
        .collect()
}

/// The calling thread bound to a core, until this is dropped. What it starts meanwhile is bound likewise.
#[derive(Debug)]
pub struct Bound {
    before: Vec<usize>,
    /// Tied to the thread.
    _thread: PhantomData<*const ()>,
}

impl Bound {
    /// Binds the calling thread to `core`.
    ///
    /// # Errors
    /// When the host has no such core for this process.
    pub fn to(core: usize) -> io::Result<Self> {
        Self::among(&[core])
    }

    /// The same with several cores.
    ///
    /// # Errors
    /// When the host has none of them for this process.
    pub fn among(cores: &[usize]) -> io::Result<Self> {
        let before = allowed_cores();
        bind(cores)?;
        Ok(Self {
            before,
            _thread: PhantomData,
        })
    }

    /// Cores that it might run on before.
    #[must_use]
    pub fn before(&self) -> &[usize] {
        &self.before
    }
}

impl Drop for Bound {
    fn drop(&mut self) {
        // Only a host that takes cores away meanwhile refuses it, and then the thread stays where it is.
        let _ = bind(&self.before);
    }
}

/// Binds the calling thread to `core`.
///
/// # Errors
/// When the host has no such core for this process.
pub fn pin_current_thread(core: usize) -> io::Result<()> {
    bind(&[core])
}

fn bind(cores: &[usize]) -> io::Result<()> {
    if cores.iter().any(|&core| core >= libc::CPU_SETSIZE as usize) {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    // SAFETY: an all-zero cpu_set_t is a valid empty set; the indices were checked.
    let result = unsafe {
        let mut set: libc::cpu_set_t = mem::zeroed();
        for &core in cores {
            libc::CPU_SET(core, &mut set);
        }
        libc::sched_setaffinity(0, mem::size_of::<libc::cpu_set_t>(), &raw const set)
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_thread_is_free_again() {
        let before = allowed_cores();
        let last = *before.last().unwrap();
        let bound = Bound::to(last).unwrap();
        assert_eq!(allowed_cores(), [last]);
        drop(bound);
        assert_eq!(allowed_cores(), before);
        assert!(Bound::to(libc::CPU_SETSIZE as usize).is_err());
    }
}
