//! [`Medium`]: what a namespace's blocks are kept on.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;

/// Bytes that can be read and written. Offsets and lengths are inside; they were checked.
pub trait Medium: Send {
    /// How many bytes there are.
    fn bytes(&self) -> u64;

    /// Whether nothing may be written.
    fn is_read_only(&self) -> bool;

    /// Reads.
    ///
    /// # Errors
    /// What the host said.
    fn read(&mut self, offset: u64, into: &mut [u8]) -> io::Result<()>;

    /// Writes.
    ///
    /// # Errors
    /// What the host said; some may have been written.
    fn write(&mut self, offset: u64, from: &[u8]) -> io::Result<()>;

    /// Makes what was written durable.
    ///
    /// # Errors
    /// What the host said.
    fn flush(&mut self) -> io::Result<()>;

    /// Makes bytes read as zeros, and gives their room back if `deallocate`.
    ///
    /// # Errors
    /// What the host said.
    fn zero(&mut self, offset: u64, length: u64, deallocate: bool) -> io::Result<()>;

    /// Gives the room of bytes back if it can, and then they read as zeros; if not, they stay. It takes no time that grows with
    /// the length, which nothing bounds.
    ///
    /// # Errors
    /// What the host said.
    fn deallocate(&mut self, offset: u64, length: u64) -> io::Result<()>;
}

/// In memory.
#[derive(Debug, Clone)]
pub struct Memory(pub Vec<u8>);

impl Medium for Memory {
    fn bytes(&self) -> u64 {
        self.0.len() as u64
    }

    fn is_read_only(&self) -> bool {
        false
    }

    fn read(&mut self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        let offset = offset as usize;
        into.copy_from_slice(&self.0[offset..offset + into.len()]);
        Ok(())
    }

    fn write(&mut self, offset: u64, from: &[u8]) -> io::Result<()> {
        let offset = offset as usize;
        self.0[offset..offset + from.len()].copy_from_slice(from);
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }

    fn zero(&mut self, offset: u64, length: u64, _: bool) -> io::Result<()> {
        self.0[offset as usize..(offset + length) as usize].fill(0);
        Ok(())
    }

    fn deallocate(&mut self, offset: u64, length: u64) -> io::Result<()> {
        self.zero(offset, length, true)
    }
}

/// A file of fixed size, or a block device.
#[derive(Debug)]
pub struct Image {
    file: File,
    bytes: u64,
    read_only: bool,
}

impl Image {
    /// Over an open file; its size now is the medium's.
    ///
    /// # Errors
    /// When the size cannot be told.
    pub fn new(file: File, read_only: bool) -> io::Result<Self> {
        let bytes = file.metadata()?.len();
        Ok(Self::with_bytes(file, bytes, read_only))
    }

    /// Over the first `bytes` bytes of an open file or block device, which has to have them.
    #[must_use]
    pub fn with_bytes(file: File, bytes: u64, read_only: bool) -> Self {
        Self {
            file,
            bytes,
            read_only,
        }
    }

    /// Whether the file system can do that.
    fn fallocate(&self, kind: libc::c_int, offset: u64, length: u64) -> io::Result<bool> {
        // SAFETY: the descriptor is the file's; the others are integers, inside its size.
        let rc = unsafe {
            libc::fallocate(
                self.file.as_raw_fd(),
                kind | libc::FALLOC_FL_KEEP_SIZE,
                offset as libc::off_t,
                length as libc::off_t,
            )
        };
        if rc == 0 {
            return Ok(true);
        }
        let error = io::Error::last_os_error();
        match error.raw_os_error() {
            Some(libc::EOPNOTSUPP) => Ok(false),
            _ => Err(error),
        }
    }
}

/// Zeros that are written where the file system cannot make them.
static ZEROS: [u8; 65536] = [0; 65536];

impl Medium for Image {
    fn bytes(&self) -> u64 {
        self.bytes
    }

    fn is_read_only(&self) -> bool {
        self.read_only
    }

    fn read(&mut self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(into, offset)
    }

    fn write(&mut self, offset: u64, from: &[u8]) -> io::Result<()> {
        self.file.write_all_at(from, offset)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn zero(&mut self, offset: u64, length: u64, deallocate: bool) -> io::Result<()> {
        let kind = if deallocate {
            libc::FALLOC_FL_PUNCH_HOLE
        } else {
            libc::FALLOC_FL_ZERO_RANGE
        };
        if self.fallocate(kind, offset, length)? {
            return Ok(());
        }
        let mut at = offset;
        while at < offset + length {
            let piece = (offset + length - at).min(ZEROS.len() as u64);
            self.file.write_all_at(&ZEROS[..piece as usize], at)?;
            at += piece;
        }
        Ok(())
    }

    fn deallocate(&mut self, offset: u64, length: u64) -> io::Result<()> {
        self.fallocate(libc::FALLOC_FL_PUNCH_HOLE, offset, length)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::OpenOptions;
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn room_is_given_back_where_the_file_system_can() {
        let memory = vmm_sys_util::tempfile::TempFile::new().unwrap();
        let file = memory.into_file();
        file.write_all_at(&[7; 3 * 65536], 0).unwrap();
        let mut image = Image::new(file, false).unwrap();
        let before = image.file.metadata().unwrap().blocks();
        image.deallocate(65536, 65536).unwrap();
        let mut found = [1; 3 * 65536];
        image.read(0, &mut found).unwrap();
        assert!(found[..65536].iter().all(|byte| *byte == 7));
        assert!(found[65536..2 * 65536].iter().all(|byte| *byte == 0));
        assert!(found[2 * 65536..].iter().all(|byte| *byte == 7));
        assert!(image.file.metadata().unwrap().blocks() < before);
    }

    #[test]
    fn where_it_cannot_nothing_is_written_instead() {
        // A file of a file system without any such thing.
        let file = OpenOptions::new().write(true).open("/proc/self/comm");
        let mut image = Image::with_bytes(file.unwrap(), 1 << 30, false);
        image.deallocate(0, 1 << 30).unwrap();
        let name = std::fs::read_to_string("/proc/self/comm").unwrap();
        assert!(name.len() > 1, "{name:?}");
    }
}
