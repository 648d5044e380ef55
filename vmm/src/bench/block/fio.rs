//! fio, as the measure of what a file gives: io_uring, O_DIRECT, buffers and file registered, one thread on one core.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use serde::Deserialize;

use super::Shape;

/// What one window of fio's came to.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Window {
    /// Gigabytes (10^9 bytes) a second.
    pub(super) gbps: f64,
    /// Processor time of its thread, in seconds for each GiB.
    pub(super) cpu_s_per_gib: f64,
}

/// Whether this host has it.
pub(super) fn is_here() -> bool {
    let asked = Command::new("fio")
        .arg("--version")
        .stdin(Stdio::null())
        .output();
    asked.is_ok_and(|done| done.status.success())
}

/// Has it read `bytes` of the file `passes` times, in the order of their addresses, on this core.
///
/// # Errors
/// When it fails, or says something else than it is known to.
pub(super) fn read(
    path: &Path,
    bytes: u64,
    passes: u32,
    shape: &Shape,
    core: usize,
) -> Result<Window> {
    let done = Command::new("fio")
        .arg("--name=byway")
        .arg(format!("--filename={}", path.display()))
        .args(["--rw=read", "--ioengine=io_uring", "--direct=1"])
        .args(["--fixedbufs=1", "--registerfiles=1"])
        // As lean as it can be: it takes no time of single requests, which nobody asks for here.
        .args(["--gtod_reduce=1", "--thread", "--output-format=json"])
        .arg(format!("--bs={}", shape.size))
        .arg(format!("--iodepth={}", shape.depth))
        .arg(format!("--size={bytes}"))
        .arg(format!("--loops={passes}"))
        .arg(format!("--cpus_allowed={core}"))
        .stdin(Stdio::null())
        .output()
        .context("cannot run fio")?;
    let said = String::from_utf8_lossy(&done.stdout);
    ensure!(
        done.status.success(),
        "fio ended with {}: {said}{}",
        done.status,
        String::from_utf8_lossy(&done.stderr)
    );
    parse(&said)
}

#[derive(Deserialize)]
struct Output {
    jobs: Vec<Job>,
}

#[derive(Deserialize)]
struct Job {
    read: Direction,
    /// Percent of the time that it ran.
    usr_cpu: f64,
    sys_cpu: f64,
}

#[derive(Deserialize)]
struct Direction {
    io_bytes: u64,
    bw_bytes: u64,
    /// Milliseconds.
    runtime: u64,
}

fn parse(said: &str) -> Result<Window> {
    // Notes to people come before it.
    let json = said.find('{').map_or(said, |at| &said[at..]);
    let output: Output =
        serde_json::from_str(json).with_context(|| format!("fio said no such JSON: {said}"))?;
    let job = output.jobs.first().context("fio tells of no job")?;
    let read = &job.read;
    ensure!(
        read.io_bytes > 0 && read.bw_bytes > 0,
        "fio has read nothing"
    );
    let cpu_s = (job.usr_cpu + job.sys_cpu) / 100.0 * read.runtime as f64 / 1e3;
    Ok(Window {
        gbps: read.bw_bytes as f64 / 1e9,
        cpu_s_per_gib: cpu_s * (1 << 30) as f64 / read.io_bytes as f64,
    })
}

#[cfg(test)]
mod tests {
    use super::{Window, parse};

    #[test]
    fn figures_are_found_in_what_fio_says() {
        let said = r#"fio: a note
            {"jobs": [{"jobname": "byway", "usr_cpu": 2.0, "sys_cpu": 8.0,
              "read": {"io_bytes": 536870912, "bw_bytes": 1073741824, "runtime": 500}}]}"#;
        let window = Window {
            gbps: 1.073_741_824,
            cpu_s_per_gib: 0.1,
        };
        assert_eq!(parse(said).unwrap(), window);
        for bad in ["", "{}", r#"{"jobs": []}"#, &said.replace("536870912", "0")] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
