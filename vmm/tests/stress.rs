//! `byway stress` as a program that is told to stop: at any moment of any case, and when what it waits for does not move.

mod common;

use std::fs;
use std::io::Read;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use common::kvm_is_here;

/// How long stopping may take by itself: less than the time after which it is cut short.
const STOP_MAX: Duration = Duration::from_secs(8);
/// Longest wait for what takes a moment; a busy host takes longer.
const SLOW: Duration = Duration::from_secs(60);

/// A stress run, killed when a test fails.
struct Stress(Child);

impl Stress {
    /// Of one case, for much longer than any test takes.
    fn start(case: &str) -> Self {
        Self::start_for(case, 3600)
    }

    /// Of one case, for so many seconds.
    fn start_for(case: &str, seconds: u32) -> Self {
        let child = Command::new(env!("CARGO_BIN_EXE_byway"))
            .args(["stress", "--case", case, "--seconds", &seconds.to_string()])
            .env_remove("BYWAY_LOG")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        Self(child)
    }

    fn terminate(&self) {
        signal(self.0.id(), libc::SIGTERM);
    }

    /// Waits until it hears signals: a case begins after that, and with threads. One without a core for a while has not
    /// even read its arguments.
    fn until_it_hears(&mut self) {
        let since = Instant::now();
        let tasks = format!("/proc/{}/task", self.0.id());
        while fs::read_dir(&tasks).map_or(0, Iterator::count) < 2 {
            assert!(self.0.try_wait().unwrap().is_none(), "it ended early");
            assert!(since.elapsed() < SLOW, "it begins with no case");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Waits for its end: how it ended, what it said, and how long that took.
    fn end(mut self, most: Duration) -> (ExitStatus, String, Duration) {
        let since = Instant::now();
        let status = loop {
            if let Some(status) = self.0.try_wait().unwrap() {
                break status;
            }
            assert!(
                since.elapsed() < most,
                "it was told to stop {most:?} ago and runs"
            );
            std::thread::sleep(Duration::from_millis(10));
        };
        let took = since.elapsed();
        let mut said = String::new();
        let mut stderr = self.0.stderr.take().unwrap();
        stderr.read_to_string(&mut said).unwrap();
        (status, said, took)
    }

    /// Its children by the first word of their arguments.
    fn child(&self, command: &str) -> Option<u32> {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.0.id())).ok()?;
        let children =
            tasks.filter_map(|task| fs::read_to_string(task.ok()?.path().join("children")).ok());
        let children: Vec<u32> = children
            .flat_map(|list| {
                list.split_whitespace()
                    .filter_map(|pid| pid.parse().ok())
                    .collect::<Vec<_>>()
            })
            .collect();
        children.into_iter().find(|pid| {
            let arguments = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            arguments.split(|byte| *byte == 0).nth(1) == Some(command.as_bytes())
        })
    }
}

impl Drop for Stress {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn signal(pid: u32, signal: i32) {
    // SAFETY: takes two numbers; the process is a child, or a child's that it has not waited for.
    assert_eq!(unsafe { libc::kill(pid as i32, signal) }, 0);
}

#[test]
fn every_case_ends_when_it_is_told_to() {
    if !kvm_is_here() {
        return;
    }
    // While it boots, and under way.
    for (case, after_ms) in [
        ("storm", 0),
        ("storm", 50),
        ("storm", 1500),
        ("regions", 1500),
        ("hostile", 1700),
        ("revoke", 1500),
        ("flood", 300),
        ("flood", 2500),
        ("kill", 2000),
    ] {
        let mut stress = Stress::start(case);
        stress.until_it_hears();
        std::thread::sleep(Duration::from_millis(after_ms));
        stress.terminate();
        let (status, said, took) = stress.end(SLOW);
        assert_eq!(status.code(), Some(1), "{case}: {said}");
        assert!(
            said.contains("told to stop before the end: no violation until then"),
            "{case} after {took:?}: {said}"
        );
    }
}

/// The second half of `kill` begins after half of its time, which the test cannot wait for.
fn second_half_of_kill() -> (Stress, u32) {
    let stress = Stress::start_for("kill", 30);
    let since = Instant::now();
    loop {
        // Its VMM is there: the VMs of this half are attached.
        if let (Some(engine), Some(_)) = (stress.child("engine"), stress.child("stress")) {
            return (stress, engine);
        }
        assert!(since.elapsed() < 2 * SLOW, "there is no engine of its own");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_run_whose_engine_stands_still_ends_when_it_is_told_to() {
    if !kvm_is_here() {
        return;
    }
    let (stress, engine) = second_half_of_kill();
    signal(engine, libc::SIGSTOP);
    // Now a VMM is waited for that waits for the engine.
    std::thread::sleep(Duration::from_secs(1));
    stress.terminate();
    let (status, said, took) = stress.end(SLOW);
    assert_eq!(status.code(), Some(1), "{said}");
    let stopped = said.contains("told to stop before the end: no violation until then");
    assert!(stopped && took < STOP_MAX, "{took:?}: {said}");
    // Nothing is left behind.
    let since = Instant::now();
    while fs::read(format!("/proc/{engine}/cmdline")).is_ok_and(|line| !line.is_empty()) {
        assert!(since.elapsed() < SLOW, "its engine is still there");
        std::thread::sleep(Duration::from_millis(10));
    }
}
