//! A `byway engine` and the commands that ask it, as programs.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

/// Two domains and a link.
pub const CONFIG: &str = r#"
[[domain]]
name = "alice"
[domain.quotas.share]
weight = 3
[[domain]]
name = "bob"
[[link]]
from = "alice"
to = "bob"
read = true
"#;

/// Runs a command to its end.
pub fn byway(args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_byway"));
    command.args(args).output().unwrap()
}

/// What one that succeeds prints.
#[track_caller]
pub fn ok(args: &[&str]) -> String {
    let output = byway(args);
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{args:?}: {error}");
    String::from_utf8(output.stdout).unwrap()
}

/// Runs one that ends with a code and says something of why.
#[track_caller]
pub fn fails(code: i32, says: &str, args: &[&str]) {
    let output = byway(args);
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{args:?}: {error}");
    assert!(error.contains(says), "{args:?}: {error}");
}

/// A running engine; killed when a test fails.
pub struct Engine(pub Child);

impl Engine {
    /// Puts its sockets into `s` of that folder.
    pub fn start(folder: &Path) -> Self {
        Self::start_with(folder, &[])
    }
    /// The same with more arguments.
    pub fn start_with(folder: &Path, more: &[&str]) -> Self {
        let config = folder.join("engine.toml");
        std::fs::write(&config, CONFIG).unwrap();
        let mut child = Command::new(env!("CARGO_BIN_EXE_byway"))
            .args(["engine", "--socket", sockets(folder).as_str()])
            .arg("--config")
            .arg(config)
            .args(more)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let this = Self(child);
        let first = lines.next().unwrap().unwrap();
        assert!(first.contains("engine ready"), "{first}");
        // From here on nobody reads what it logs, which is no concern of its.
        this
    }
    /// Sends it a signal.
    pub fn signal(&self, signal: i32) {
        // SAFETY: sends a signal to a child that was not waited for yet.
        assert_eq!(unsafe { libc::kill(self.0.id() as i32, signal) }, 0);
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The engine's folder below that of a test.
pub fn sockets(folder: &Path) -> String {
    folder.join("s").to_str().unwrap().to_owned()
}
