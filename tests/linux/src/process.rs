//! A child process that does not outlive its test, however that ends.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use anyhow::{Context, Result, ensure};

/// Killed and reaped when dropped; killed by the kernel when the thread that started it dies.
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
    log: PathBuf,
}

/// Lines of its log that tell how it ended.
const LAST_LINES: usize = 10;

impl Process {
    /// Starts a program; what it prints goes to the end of a file.
    pub(crate) fn start(program: &Path, arguments: &[String], log_path: &Path) -> Result<Self> {
        let log = File::options()
            .create(true)
            .append(true)
            .open(log_path)
            .with_context(|| format!("cannot write {}", log_path.display()))?;
        // `setpriv` asks for the signal and becomes the program.
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "--"])
            .arg(program)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("cannot start setpriv (package util-linux)")?;
        Ok(Self {
            child,
            log: log_path.to_owned(),
        })
    }

    /// The last lines of what it, or `setpriv` in its stead, has printed.
    pub(crate) fn said(&self) -> String {
        let bytes = std::fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&bytes);
        let lines: Vec<_> = text.lines().collect();
        lines[lines.len().saturating_sub(LAST_LINES)..].join("\n")
    }

    /// How it ended, if it has.
    pub(crate) fn ended(&mut self) -> Result<Option<ExitStatus>> {
        Ok(self.child.try_wait()?)
    }

    /// Its process id.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Stops it where it is, or has it go on: it keeps all it has, and answers nothing meanwhile.
    pub(crate) fn stop(&self, stopped: bool) -> Result<()> {
        let signal = if stopped { "-STOP" } else { "-CONT" };
        let status = Command::new("sh")
            .args(["-c", "kill \"$0\" \"$1\"", signal, &self.id().to_string()])
            .status()?;
        ensure!(status.success(), "cannot send SIG{signal}");
        Ok(())
    }

    /// Kills it at once, as `kill -9` does, and waits until it is gone.
    pub(crate) fn kill(&mut self) {
        // Both fail only when it is gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}
