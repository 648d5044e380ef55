//! COM1: a 16550 (vm-superio) whose output goes to a sink of the host's choice.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use vm_superio::serial::NoEvents;
use vm_superio::{Serial, Trigger};

use super::bus::BusDevice;
use crate::say::printable;

/// Most bytes that a captured console keeps; later output replaces the oldest.
/// A guest must not be able to fill the host's memory by printing.
pub const CAPTURE_MAX: usize = 1 << 20;

/// Most bytes of a console line before it is broken up.
const LINE_MAX: usize = 4096;

/// Where console output goes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum SerialSink {
    /// Nowhere.
    #[default]
    Discard,
    /// To standard output, each line after this prefix.
    Stdout {
        /// Prefix of each line; usually the VM's name.
        prefix: String,
    },
    /// To standard output as it is, with every control character: for a VM that has the terminal to itself.
    Terminal,
    /// To a new file.
    File(PathBuf),
    /// To a file, after what is in it.
    Append(PathBuf),
    /// Into memory, the last [`CAPTURE_MAX`] bytes.
    Capture(Console),
}

impl SerialSink {
    /// Opens the sink.
    ///
    /// # Errors
    /// When the file cannot be created; its path is in the message.
    pub fn open(&self) -> io::Result<Box<dyn Write + Send>> {
        Ok(match self {
            Self::Discard => Box::new(io::sink()),
            Self::Stdout { prefix } => Box::new(PrefixedLines::new(prefix, io::stdout())),
            Self::Terminal => Box::new(io::stdout()),
            Self::File(path) => Box::new(File::create(path).map_err(naming(path))?),
            Self::Append(path) => Box::new(
                File::options()
                    .append(true)
                    .create(true)
                    .open(path)
                    .map_err(naming(path))?,
            ),
            Self::Capture(console) => Box::new(console.clone()),
        })
    }

    /// The same for a VM that starts anew: what its former life has said is kept.
    #[must_use]
    pub fn again(&self) -> Self {
        match self {
            Self::File(path) => Self::Append(path.clone()),
            other => other.clone(),
        }
    }
}

/// An error that says which file it is about.
fn naming(path: &Path) -> impl FnOnce(io::Error) -> io::Error {
    move |error| io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

/// Captured console output, shared between the VM and whoever reads it.
#[derive(Debug, Clone, Default)]
pub struct Console(Arc<Mutex<Vec<u8>>>);

impl PartialEq for Console {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for Console {}

impl Console {
    /// What was printed so far, as text; odd bytes are replaced.
    pub fn text(&self) -> String {
        let bytes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

impl Write for Console {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let mut bytes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        bytes.extend_from_slice(data);
        // Trim seldom, by half, so that a byte at a time stays cheap.
        if bytes.len() > 2 * CAPTURE_MAX {
            let surplus = bytes.len() - CAPTURE_MAX;
            bytes.drain(..surplus);
        }
        Ok(data.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Collects bytes and writes whole lines with a prefix, so that the consoles of
/// several VMs stay readable on one terminal, and no line drives it.
struct PrefixedLines<W: Write> {
    prefix: String,
    line: Vec<u8>,
    out: W,
}

impl<W: Write> PrefixedLines<W> {
    fn new(prefix: &str, out: W) -> Self {
        Self {
            prefix: prefix.to_owned(),
            line: Vec::new(),
            out,
        }
    }

    fn end_line(&mut self) -> io::Result<()> {
        let printable = printable(&String::from_utf8_lossy(&self.line));
        self.line.clear();
        writeln!(self.out, "[{}] {printable}", self.prefix)
    }
}

impl<W: Write> Write for PrefixedLines<W> {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        for byte in data {
            match byte {
                b'\n' => self.end_line()?,
                _ => self.line.push(*byte),
            }
            if self.line.len() >= LINE_MAX {
                self.end_line()?;
            }
        }
        Ok(data.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

impl<W: Write> Drop for PrefixedLines<W> {
    fn drop(&mut self) {
        if !self.line.is_empty() {
            // The VM is going away; there is nobody left to tell.
            let _ = self.end_line();
        }
    }
}

/// COM1 on the port bus.
pub struct SerialDevice<T: Trigger> {
    uart: Serial<T, NoEvents, Box<dyn Write + Send>>,
}

impl<T: Trigger> SerialDevice<T> {
    /// A UART that raises `interrupt` and prints to `out`.
    pub fn new(interrupt: T, out: Box<dyn Write + Send>) -> Self {
        Self {
            uart: Serial::new(interrupt, out),
        }
    }

    /// Gives the guest input; returns how many bytes fit into the FIFO.
    pub fn input(&mut self, bytes: &[u8]) -> usize {
        if self.uart.fifo_capacity() == 0 {
            return 0;
        }
        self.uart.enqueue_raw_bytes(bytes).unwrap_or(0)
    }
}

impl<T: Trigger + Send> BusDevice for SerialDevice<T> {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        // The registers are one byte wide; a wider access finds nothing there.
        match data {
            [byte] => *byte = self.uart.read(offset as u8),
            _ => data.fill(0xff),
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        if let [byte] = data {
            // A sink that fails (a closed pipe) costs the guest its output, no more.
            let _ = self.uart.write(offset as u8, *byte);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Quiet;
    impl Trigger for Quiet {
        type E = io::Error;
        fn trigger(&self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn output_is_captured() {
        let console = Console::default();
        let sink = SerialSink::Capture(console.clone()).open().unwrap();
        let mut device = SerialDevice::new(Quiet, sink);
        for byte in b"hello\n" {
            device.write(0, &[*byte]);
        }
        assert_eq!(console.text(), "hello\n");
        let mut status = [0];
        device.read(5, &mut status);
        assert_eq!(status[0] & 0x60, 0x60, "transmitter must be empty");
    }

    #[test]
    fn capture_is_bounded() {
        let mut console = Console::default();
        let block = vec![b'x'; 1 << 16];
        for _ in 0..64 {
            console.write_all(&block).unwrap();
        }
        console.write_all(b"last").unwrap();
        let text = console.text();
        assert!(text.len() <= 2 * CAPTURE_MAX + block.len());
        assert!(text.ends_with("last"));
    }

    #[test]
    fn lines_carry_the_prefix_and_no_control_characters() {
        let mut out = Vec::new();
        {
            let mut lines = PrefixedLines::new("alice", &mut out);
            lines.write_all(b"one\r\n\x1b[2Jtwo\nrest").unwrap();
        }
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "[alice] one\n[alice] [2Jtwo\n[alice] rest\n"
        );
    }

    #[test]
    fn an_endless_line_is_broken_up() {
        let mut out = Vec::new();
        PrefixedLines::new("a", &mut out)
            .write_all(&vec![b'x'; 3 * LINE_MAX])
            .unwrap();
        assert_eq!(out.iter().filter(|byte| **byte == b'\n').count(), 3);
    }

    #[test]
    fn input_is_taken_up_to_the_fifo() {
        let mut device = SerialDevice::new(Quiet, Box::new(io::sink()));
        let taken = device.input(&[7; 1000]);
        assert!(taken > 0 && taken < 1000);
        let mut byte = [0];
        device.read(0, &mut byte);
        assert_eq!(byte, [7]);
    }
}
