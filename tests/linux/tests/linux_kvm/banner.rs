//! A stock kernel on this host's own KVM, as far as that carries it: a software KVM emulates ring 0 and never gets to user
//! space, but what the VMM hands to a kernel, the kernel says within its first hundred lines.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use byway_linux_tests::footprint::{self, Footprint};
use byway_linux_tests::images::{Images, Kernel};
use byway_linux_tests::lab;

/// Longer than the kernel takes on a software KVM to where this looks.
const LIMIT_S: &str = "200";

/// What both kernels say, in this order.
fn expected(kernel: Kernel) -> [String; 6] {
    [
        format!("Linux version {}.", kernel.series()),
        "Command line: earlyprintk=ttyS0 test=banner".to_owned(),
        "BIOS-e820: [mem 0x0000000000100000-0x000000000fffffff] usable".to_owned(),
        "Hypervisor detected: KVM".to_owned(),
        "RAMDISK: [mem 0x".to_owned(),
        "ACPI: RSDP 0x00000000000E0000".to_owned(),
    ]
}

fn banner(kernel: Kernel) -> Result<()> {
    let images = Images::find()?;
    let initrd = images.busybox();
    let start = Instant::now();
    let mut child = Command::new("timeout")
        .args(["--signal=KILL", LIMIT_S])
        .arg(lab::byway()?)
        .args([
            "run",
            "--serial",
            "terminal",
            "--memory",
            "256M",
            "--cpus",
            "2",
            "--cpu-template",
        ])
        .arg(recommended()?)
        .args(["--cmdline", "earlyprintk=ttyS0 test=banner", "--kernel"])
        .arg(images.unpacked_kernel(kernel)?)
        .arg("--initrd")
        .arg(initrd)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut seen = Vec::new();
    let mut expected = expected(kernel).into_iter().peekable();
    for line in BufReader::new(child.stdout.take().context("no output")?).lines() {
        let line = line?;
        if seen.is_empty() {
            println!("   {kernel}: first line after {:?}", start.elapsed());
        }
        if expected.next_if(|words| line.contains(words)).is_some() && expected.peek().is_none() {
            break;
        }
        seen.push(line);
    }
    let beside = beside_ram(child.id());
    let _ = child.kill();
    child.wait()?;
    ensure!(
        expected.peek().is_none(),
        "{kernel}: no {:?} after these lines:\n{}",
        expected.peek(),
        seen.join("\n")
    );
    println!("   {kernel}: ACPI found after {:?}", start.elapsed());
    let beside = beside?;
    println!("   a VMM with an engine has beside its guest's RAM {beside}");
    ensure!(
        beside.total() <= footprint::MOST_KIB,
        "more than {} KiB beside its guest's RAM: {beside}",
        footprint::MOST_KIB
    );
    Ok(())
}

/// What the child of `timeout` has in memory.
fn beside_ram(timeout: u32) -> Result<Footprint> {
    let children = fs::read_to_string(format!("/proc/{timeout}/task/{timeout}/children"))?;
    let child = children.split_whitespace().next().context("no child")?;
    let smaps = fs::read_to_string(format!("/proc/{child}/smaps"))?;
    Footprint::parse(&smaps, "/byway")
}

/// The template that `byway doctor` recommends.
fn recommended() -> Result<String> {
    let output = Command::new(lab::byway()?)
        .args(["doctor", "--json"])
        .output()?;
    let report: serde_json::Value = serde_json::from_slice(&output.stdout)?;
    let rows = report["checks"].as_array().context("no checks")?;
    let row = rows.iter().find(|row| row["item"] == "cpu.template");
    let found = row.and_then(|row| row["found"].as_str()).unwrap_or("");
    let name = found.split(['`', ' ']).nth(3).context("no template")?;
    Ok(name.to_owned())
}

/// One is enough: the suite `vm` gets no more than it needs.
fn those_that_are_there() -> Result<()> {
    let images = Images::find()?;
    let there = Kernel::ALL.map(|kernel| images.unpacked_kernel(kernel).map(|_| kernel));
    let [older, newer] = there;
    banner(older?)?;
    newer.map_or(Ok(()), banner)
}

#[test]
fn banner_and_early_boot_on_the_hosts_own_kvm() {
    if !Path::new("/dev/kvm").exists() {
        println!("SKIPPED: this host has no /dev/kvm");
        return;
    }
    if let Err(error) = those_that_are_there() {
        panic!("{error:?}");
    }
}
