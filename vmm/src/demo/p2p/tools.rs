//! Programs of others, as witnesses: what they read in the images has to be what was written.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};

use super::P2pReport;

/// What a program prints, or `None` when this host does not have it.
pub(super) fn output(program: &str, arguments: &[&str]) -> Result<Option<Vec<u8>>> {
    let done = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output();
    match done {
        Ok(done) => {
            ensure!(
                done.status.success(),
                "{program} ended with {}",
                done.status
            );
            Ok(Some(done.stdout))
        }
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e).with_context(|| format!("cannot run {program}")),
    }
}

pub(super) fn text(path: &Path) -> Result<&str> {
    path.to_str().context("a path that is not UTF-8")
}

/// sha256sum of each of these is that of the first.
pub(super) fn same_sums(first: &Path, others: &[&Path], report: &mut P2pReport) -> Result<()> {
    let sum = |path: &Path| -> Result<Option<String>> {
        let printed = output("sha256sum", &[text(path)?])?;
        Ok(printed.map(|p| String::from_utf8_lossy(&p).chars().take(64).collect()))
    };
    let Some(expected) = sum(first)? else {
        report.skipped.push("sha256sum: not installed".to_owned());
        return Ok(());
    };
    for other in others {
        ensure!(
            sum(other)?.as_ref() == Some(&expected),
            "sha256sum of {} differs",
            other.display()
        );
    }
    report
        .checked_by
        .push(format!("sha256sum: {expected} for both disks"));
    Ok(())
}

/// qemu-img finds no difference.
pub(super) fn same_images(one: &Path, other: &Path, report: &mut P2pReport) -> Result<()> {
    let arguments = [
        "compare",
        "-f",
        "raw",
        "-F",
        "raw",
        text(one)?,
        text(other)?,
    ];
    match output("qemu-img", &arguments)? {
        Some(_) => report
            .checked_by
            .push("qemu-img compare: the clone is identical".to_owned()),
        None => report.skipped.push("qemu-img: not installed".to_owned()),
    }
    Ok(())
}
