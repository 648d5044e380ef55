//! QEMU's monitor, in the form that people use: one command, what it says.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

/// What it ends each of its answers with.
const PROMPT: &str = "(qemu) ";
/// Commands are carried out at once.
const LIMIT: Duration = Duration::from_secs(60);

/// Where one guest's monitor listens.
#[derive(Debug)]
pub(crate) struct Monitor(PathBuf);

impl Monitor {
    pub(crate) fn new(path: PathBuf) -> Self {
        Self(path)
    }

    /// Has a command carried out that says nothing when it succeeds.
    pub(crate) fn say(&self, command: &str) -> Result<()> {
        let mut stream = UnixStream::connect(&self.0).context("QEMU's monitor")?;
        stream.set_read_timeout(Some(LIMIT))?;
        answer(&mut stream)?;
        stream.write_all(format!("{command}\n").as_bytes())?;
        let said = answer(&mut stream).with_context(|| format!("QEMU's monitor: {command}"))?;
        // After the command, which is echoed with control characters, everything is complaint.
        let complaint = said.split_once('\n').map_or("", |(_, rest)| rest).trim();
        ensure!(complaint.is_empty(), "{command}: {complaint}");
        Ok(())
    }
}

/// What comes before the next prompt.
fn answer(stream: &mut UnixStream) -> Result<String> {
    let mut bytes = Vec::new();
    let mut byte = [0];
    while !bytes.ends_with(PROMPT.as_bytes()) {
        stream.read_exact(&mut byte)?;
        bytes.push(byte[0]);
    }
    bytes.truncate(bytes.len() - PROMPT.len());
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}
