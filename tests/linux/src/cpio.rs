//! Writes archives in cpio's "newc" format, which the kernel unpacks as its first file system.
//!
//! Written here because device nodes can be put into an archive without being root, and so that
//! a guest's files are put together in milliseconds.

/// An archive in the making.
#[derive(Debug, Default)]
pub struct Archive {
    bytes: Vec<u8>,
    files: u32,
}

/// File type bits of a mode, as `stat` has them.
const DIRECTORY: u32 = 0o040_000;
const CHARACTER_DEVICE: u32 = 0o020_000;
const REGULAR: u32 = 0o100_000;
/// Each header and each file begins at a multiple of this.
const ALIGNMENT: usize = 4;
/// Name of the entry after the last one.
const TRAILER: &str = "TRAILER!!!";

impl Archive {
    /// Adds a folder; those above it have to be there.
    pub fn folder(&mut self, path: &str) {
        self.entry(path, DIRECTORY | 0o755, (0, 0), &[]);
    }

    /// Adds a character device.
    pub fn device(&mut self, path: &str, major: u32, minor: u32) {
        self.entry(path, CHARACTER_DEVICE | 0o600, (major, minor), &[]);
    }

    /// Adds a file with its permissions.
    pub fn file(&mut self, path: &str, permissions: u32, content: &[u8]) {
        self.entry(path, REGULAR | permissions, (0, 0), content);
    }

    /// The archive, complete.
    #[must_use]
    pub fn finish(mut self) -> Vec<u8> {
        self.entry(TRAILER, 0, (0, 0), &[]);
        self.bytes
    }

    fn entry(&mut self, path: &str, mode: u32, device: (u32, u32), content: &[u8]) {
        self.files += 1;
        let name = path.trim_start_matches('/');
        let size = u32::try_from(content.len()).expect("a file of a guest is below 4 GiB");
        let name_size = u32::try_from(name.len() + 1).expect("a path is short");
        let fields = [
            self.files, mode, 0, 0, // inode, mode, user, group
            1, 0, size, 0, 0, // links, time, size, device
            device.0, device.1, name_size,
            0, // device numbers, name with its zero, no checksum
        ];
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            self.bytes
                .extend_from_slice(format!("{field:08X}").as_bytes());
        }
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(content);
        self.pad();
    }

    fn pad(&mut self) {
        let end = self.bytes.len().next_multiple_of(ALIGNMENT);
        self.bytes.resize(end, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_laid_out_as_newc_says() {
        let mut archive = Archive::default();
        archive.file("/bin/abc", 0o755, b"hello");
        let bytes = archive.finish();
        let text = String::from_utf8_lossy(&bytes);
        assert_eq!(&text[..6], "070701");
        assert_eq!(&text[6 + 8..6 + 16], "000081ED", "mode");
        assert_eq!(&text[6 + 6 * 8..6 + 7 * 8], "00000005", "size");
        assert_eq!(
            &text[6 + 11 * 8..6 + 12 * 8],
            "00000008",
            "name with its zero"
        );
        assert_eq!(&text[110..118], "bin/abc\0");
        // 110 + 8 is rounded up to 120.
        assert_eq!(&text[120..125], "hello");
        assert_eq!(&text[128..134], "070701");
        assert!(text.contains(TRAILER));
        assert_eq!(bytes.len() % ALIGNMENT, 0);
    }

    #[test]
    fn devices_carry_their_numbers() {
        let mut archive = Archive::default();
        archive.folder("/dev");
        archive.device("/dev/console", 5, 1);
        let bytes = archive.finish();
        // The folder's header, its name and padding: 110 + 4 = 114, rounded up to 116.
        let header = &bytes[116..];
        assert_eq!(&header[6 + 8..6 + 16], b"00002180", "mode");
        assert_eq!(&header[6 + 9 * 8..6 + 11 * 8], b"0000000500000001");
    }
}
