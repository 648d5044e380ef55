//! The two messages of an attachment, numbers little-endian.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, RawFd};
use std::os::unix::net::UnixStream;

use vmm_sys_util::sock_ctrl_msg::ScmSocket;

/// What both messages begin with: "BYWNVME" and a version.
const MAGIC: u64 = u64::from_le_bytes(*b"BYWNVME\x01");
/// Most pieces of DMA memory.
pub const REGIONS_MAX: usize = 4;
/// Descriptors before those of DMA memory.
const FIXED_FDS: usize = 3;
const HELLO_BYTES: usize = 16 + 16 * REGIONS_MAX;
const ANSWER_BYTES: usize = 16;

/// A piece of DMA memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Region {
    /// Where the controller sees it.
    pub address: u64,
    /// Its size, a multiple of 4096.
    pub bytes: u64,
}

/// What a driver says first: 16 bytes magic and number of regions, then address and size of
/// each of [`REGIONS_MAX`].
#[derive(Debug)]
pub struct Hello<F> {
    /// Registers.
    pub registers: F,
    /// To the controller.
    pub kick: F,
    /// To the driver.
    pub call: F,
    /// DMA memory.
    pub regions: Vec<(Region, F)>,
}

impl Hello<BorrowedFd<'_>> {
    /// Says it.
    ///
    /// # Errors
    /// What the host said; or more than [`REGIONS_MAX`] regions.
    pub fn send(&self, socket: &UnixStream) -> io::Result<()> {
        if self.regions.is_empty() || self.regions.len() > REGIONS_MAX {
            return Err(invalid("1 to 4 pieces of DMA memory are expected"));
        }
        let mut bytes = [0; HELLO_BYTES];
        bytes[..8].copy_from_slice(&MAGIC.to_le_bytes());
        bytes[8..16].copy_from_slice(&(self.regions.len() as u64).to_le_bytes());
        let mut fds: Vec<RawFd> = [&self.registers, &self.kick, &self.call]
            .map(AsRawFd::as_raw_fd)
            .to_vec();
        for (i, (region, fd)) in self.regions.iter().enumerate() {
            let at = 16 + 16 * i;
            bytes[at..at + 8].copy_from_slice(&region.address.to_le_bytes());
            bytes[at + 8..at + 16].copy_from_slice(&region.bytes.to_le_bytes());
            fds.push(fd.as_raw_fd());
        }
        let sent = socket.send_with_fds(&[&bytes[..]], &fds);
        match sent.map_err(io::Error::from)? {
            HELLO_BYTES => Ok(()),
            _ => Err(invalid("the socket took part of a message only")),
        }
    }
}

impl Hello<File> {
    /// Waits for it.
    ///
    /// # Errors
    /// When the other side breaks off, or says something else.
    pub fn receive(socket: &UnixStream) -> io::Result<Self> {
        let mut bytes = [0_u8; HELLO_BYTES];
        let mut raw = [-1; FIXED_FDS + REGIONS_MAX];
        let mut iovecs = [libc::iovec {
            iov_base: bytes.as_mut_ptr().cast(),
            iov_len: bytes.len(),
        }];
        // SAFETY: the vector names a buffer of plain bytes that lives across the call.
        let received = unsafe { socket.recv_with_fds(&mut iovecs, &mut raw) };
        let (length, count) = received.map_err(io::Error::from)?;
        // SAFETY: descriptors that were just received belong to nobody else.
        let mut files = raw[..count]
            .iter()
            .map(|&fd| unsafe { File::from_raw_fd(fd) });
        let files: Vec<File> = files.by_ref().collect();
        let word = |at: usize| u64::from_le_bytes(std::array::from_fn(|i| bytes[at + i]));
        if length != HELLO_BYTES || word(0) != MAGIC {
            return Err(invalid("not the greeting of a driver of this version"));
        }
        let regions = word(8) as usize;
        if word(8) == 0 || word(8) > REGIONS_MAX as u64 || files.len() != FIXED_FDS + regions {
            return Err(invalid(
                "numbers of regions and descriptors that do not agree",
            ));
        }
        let mut files = files.into_iter();
        let mut next = || files.next().ok_or_else(|| invalid("too few descriptors"));
        let (registers, kick, call) = (next()?, next()?, next()?);
        let regions = (0..regions)
            .map(|i| {
                let (address, bytes) = (word(16 + 16 * i), word(24 + 16 * i));
                Ok((Region { address, bytes }, next()?))
            })
            .collect::<io::Result<_>>()?;
        Ok(Self {
            registers,
            kick,
            call,
            regions,
        })
    }
}

/// What a controller answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// The registers are there.
    Welcome,
    /// It has no use for what it was given.
    Refused,
}

impl Answer {
    /// Says it.
    ///
    /// # Errors
    /// What the host said.
    pub fn send(self, mut socket: &UnixStream) -> io::Result<()> {
        let mut bytes = [0; ANSWER_BYTES];
        bytes[..8].copy_from_slice(&MAGIC.to_le_bytes());
        bytes[8] = u8::from(self == Self::Refused);
        io::Write::write_all(&mut socket, &bytes)
    }

    /// Waits for it.
    ///
    /// # Errors
    /// When the other side breaks off, or says something else.
    pub fn receive(mut socket: &UnixStream) -> io::Result<Self> {
        let mut bytes = [0; ANSWER_BYTES];
        io::Read::read_exact(&mut socket, &mut bytes)?;
        let word = |at: usize| u64::from_le_bytes(std::array::from_fn(|i| bytes[at + i]));
        match (word(0), word(8)) {
            (MAGIC, 0) => Ok(Self::Welcome),
            (MAGIC, 1) => Ok(Self::Refused),
            _ => Err(invalid("not the answer of a controller of this version")),
        }
    }
}

fn invalid(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn a_greeting_arrives_as_it_was_sent() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let file = File::open("/dev/null").unwrap();
        let region = |n: u64| Region {
            address: n << 32,
            bytes: 4096 * n,
        };
        let hello = Hello {
            registers: file.as_fd(),
            kick: file.as_fd(),
            call: file.as_fd(),
            regions: (1..3).map(|n| (region(n), file.as_fd())).collect(),
        };
        hello.send(&ours).unwrap();
        let got = Hello::receive(&theirs).unwrap();
        let regions: Vec<_> = got.regions.iter().map(|(region, _)| *region).collect();
        assert_eq!(regions, [region(1), region(2)]);
        for answer in [Answer::Welcome, Answer::Refused] {
            answer.send(&theirs).unwrap();
            assert_eq!(Answer::receive(&ours).unwrap(), answer);
        }
    }

    #[test]
    fn anything_else_is_refused() {
        for bytes in [&[0; HELLO_BYTES][..], b"BYWNVME\x01", &[]] {
            let (ours, theirs) = UnixStream::pair().unwrap();
            io::Write::write_all(&mut &ours, bytes).unwrap();
            drop(ours);
            assert!(Hello::receive(&theirs).is_err());
        }
        let (ours, theirs) = UnixStream::pair().unwrap();
        io::Write::write_all(&mut &ours, &[7; ANSWER_BYTES]).unwrap();
        assert!(Answer::receive(&theirs).is_err());
    }
}
