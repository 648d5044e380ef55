//! The usual path without its guests: a thread that reads the file and sends it through a socket to another, which copies it to
//! where it is wanted. A lower bound of what any way through two processes costs, on hosts that emulate what
//! guests' kernels do as well.

use std::fs::OpenOptions;
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};

/// What it is, for the report.
pub(super) const WHAT: &str = "two threads of the host: O_DIRECT reads one after the other, a Unix socket, a copy by \
                               the receiver";

/// Alignment that every disk is content with.
const ALIGN: usize = 4096;

/// What it came to.
pub(super) struct WithoutGuests {
    pub(super) gbps: f64,
    pub(super) cpu_s_per_gib: f64,
    received: Vec<u8>,
}

impl WithoutGuests {
    pub(super) fn bytes_are(&self, expected: &[u8]) -> bool {
        self.received == expected
    }
}

/// Reads `bytes` of the file, `size` at a time, sends them through a socket and has a thread
/// receive them, `rounds` times.
pub(super) fn read_and_send(
    path: &Path,
    bytes: u64,
    size: u64,
    rounds: u64,
) -> Result<WithoutGuests> {
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_DIRECT)
        .open(path)
        .or_else(|_| OpenOptions::new().read(true).open(path))
        .context("cannot open the disk's image")?;
    let (mut out, mut into) = UnixStream::pair()?;
    let started = Instant::now();
    let (cpu_s, received) = std::thread::scope(|scope| {
        let receiver = scope.spawn(move || -> Result<(f64, Vec<u8>)> {
            let before = own_cpu_seconds();
            let mut received = vec![0; bytes as usize];
            for _ in 0..rounds {
                into.read_exact(&mut received)?;
            }
            Ok((own_cpu_seconds() - before, received))
        });
        let before = own_cpu_seconds();
        // Aligned, as O_DIRECT wants it.
        let mut memory = vec![0; size as usize + ALIGN];
        let skip = memory.as_ptr().align_offset(ALIGN);
        let room = &mut memory[skip..skip + size as usize];
        for _ in 0..rounds {
            for at in (0..bytes).step_by(size as usize) {
                // SAFETY: the room is writable and as long as said.
                let got = unsafe {
                    libc::pread64(
                        file.as_raw_fd(),
                        room.as_mut_ptr().cast(),
                        room.len(),
                        at as i64,
                    )
                };
                ensure!(got == size as isize, "a short read of the disk's image");
                out.write_all(room)?;
            }
        }
        let sent = own_cpu_seconds() - before;
        drop(out);
        let (took, received) = receiver
            .join()
            .map_err(|_| anyhow::anyhow!("the receiver panicked"))??;
        Ok((sent + took, received))
    })?;
    let all = bytes * rounds;
    Ok(WithoutGuests {
        gbps: all as f64 / started.elapsed().as_nanos() as f64,
        cpu_s_per_gib: cpu_s * (1 << 30) as f64 / all as f64,
        received,
    })
}

/// Processor time of the calling thread, in seconds.
fn own_cpu_seconds() -> f64 {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: the structure is writable; the clock is always there.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) };
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}
