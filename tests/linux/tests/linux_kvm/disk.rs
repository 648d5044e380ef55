//! A disk beside the same file in QEMU: the same host, kernel and commands; only the VMM is another. Both are emulated, so what counts
//! is how they compare, and no figure fails.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use byway_linux_tests::images::Kernel;
use byway_linux_tests::lab;
use byway_linux_tests::nested::{CMDLINE, Host, Image, Vm};

/// MiB of the file.
const FILE_MIB: u32 = 64;
/// Times that each is read.
const ROUNDS: usize = 5;
/// How long one round may take.
const LIMIT: Duration = Duration::from_secs(60);
/// How the file is read, past the guest's cache: by its name, bytes of a request, requests.
const READS: [(&str, &str, u32); 2] = [("1 MiB", "1M", FILE_MIB), ("16 KiB", "16k", 64 * FILE_MIB)];

const VM: Vm = Vm {
    name: "disk",
    kernel: Kernel::V6_12,
    image: Image::Elf,
    has_devices: false,
    is_jailed: false,
};

#[test]
fn a_disk_beside_the_same_file_in_qemu() {
    lab::test("kvm-disk", |lab| {
        let mut host = Host::start_with_qemu(lab, &[VM])?;
        let result = compare(&mut host);
        if result.is_err() {
            host.keep_logs();
        }
        result
    });
}

fn compare(host: &mut Host) -> Result<()> {
    host.shell().ok(&format!(
        "dd if=/dev/urandom of=/vms/data.img bs=1M count={FILE_MIB} 2>/dev/null"
    ))?;
    let sum = host.shell().ok("sha256sum </vms/data.img")?;
    let boot = "/vms/disk.kernel --initrd /vms/disk.cpio";
    let ours = of(
        host,
        &sum,
        "byway",
        &format!(
            "byway run --kernel {boot} --cpus 2 --memory 384M --cpu-template nested-tcg \
             --disk /vms/data.img --cmdline \"'{CMDLINE}'\""
        ),
    )?;
    let boot = "/vms/disk.kernel -initrd /vms/disk.cpio";
    let theirs = of(
        host,
        &sum,
        "qemu",
        // What the template leaves out for ours, and for the same reason.
        &format!(
            "/usr/bin/qemu-system-x86_64 -no-user-config -nodefaults -display none -no-reboot -M q35 -accel kvm \
             -cpu host,cx16=off -kernel {boot} -smp 2 -m 384M -serial stdio \
             -drive file=/vms/data.img,format=raw,if=none,id=data -device virtio-blk-pci,drive=data \
             -append \"'{CMDLINE}'\""
        ),
    )?;
    for ((name, ..), (ours, theirs)) in READS.iter().zip(ours.iter().zip(&theirs)) {
        println!(
            "   reads of {name}: {ours:.1} MiB/s, {theirs:.1} MiB/s in QEMU: {:.2} of it",
            ours / theirs
        );
    }
    host.shell().check()
}

/// MiB a second of each of [`READS`], the median of all rounds, in a VM that a command starts.
fn of(host: &mut Host, sum: &str, name: &'static str, command: &str) -> Result<Vec<f64>> {
    host.launch(name, command)?;
    host.up(name, 1)?;
    let found = host.ok(name, "sha256sum </dev/vda")?;
    ensure!(found == sum, "{name} reads other bytes: {found}, not {sum}");
    let mut medians = Vec::new();
    for (_, bytes, count) in READS {
        let mut rates = Vec::new();
        for _ in 0..ROUNDS {
            // To start a program takes about as long as it works, here.
            let without = seconds(host, name, bytes, 0)?;
            let with = seconds(host, name, bytes, count)?;
            rates.push(f64::from(FILE_MIB) / (with - without));
        }
        rates.sort_by(f64::total_cmp);
        println!("   {name}, {bytes}: {rates:.1?} MiB/s");
        medians.push(rates[ROUNDS / 2]);
    }
    host.ok(name, "(sleep 1; poweroff -f) >/dev/null 2>&1 &")?;
    let status = host.ended(name)?;
    ensure!(status == 0, "{name} ended with {status}");
    Ok(medians)
}

/// How long so many reads take a VM by its own clock.
fn seconds(host: &mut Host, name: &str, bytes: &str, count: u32) -> Result<f64> {
    let command = format!("time dd if=/dev/vda of=/dev/null iflag=direct bs={bytes} count={count}");
    let output = host.ask(name, &command, LIMIT)?;
    ensure!(output.status == 0, "{name}: {command}: {}", output.text);
    real(&output.text).with_context(|| output.text.clone())
}

/// Seconds, from a line of busybox' shell: "real 0m 1.28s".
fn real(said: &str) -> Option<f64> {
    let line = said.lines().find_map(|line| line.strip_prefix("real"))?;
    let (minutes, seconds) = line.trim().split_once('m')?;
    let seconds: f64 = seconds.trim().trim_end_matches('s').parse().ok()?;
    Some(minutes.parse::<f64>().ok()? * 60.0 + seconds)
}
