//! The suite `linux-kvm`: `byway run` boots stock Debian kernels on the stock `kvm_amd`, and all that is promised of two
//! guests holds there. See tests/linux/README.md.

mod banner;
mod disk;
mod image;
mod nvme;

use std::sync::OnceLock;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use byway_linux_tests::footprint::{self, Footprint};
use byway_linux_tests::images::Kernel;
use byway_linux_tests::lab;
use byway_linux_tests::nested::{HOST_ADDRESS, Host, Image, Vm, base_of, overlay_of};

/// How long a transfer may take until it hangs.
const LIMIT: Duration = Duration::from_secs(90);

/// Two domains, linked in both directions. A worker polls for as long as the emulated host may take a guest's CPU away, so that
/// a guest that only polls need not wake it.
const LINKED: &str = r#"
[engine]
spin_us = 20000
[[domain]]
name = "alice"
[[domain]]
name = "bob"
[[endpoint]]
name = "nvme-of-alice"
kind = "nvme-model"
path = "/vms/alice.nvme"
read_only = true
[[endpoint.grant]]
domain = "bob"
read = true
[[link]]
from = "alice"
to = "bob"
read = true
write = true
[[link]]
from = "bob"
to = "alice"
read = true
write = true
"#;

/// One after the other on one host, since a boot takes longest of all.
#[test]
fn two_vms_exchange_memory_pause_grow_restart_and_die() {
    lab::test("kvm", |lab| {
        let alice = Vm {
            name: "alice",
            kernel: Kernel::V6_1,
            image: Image::Packed,
            has_devices: false,
            is_jailed: true,
        };
        let bob = Vm {
            name: "bob",
            kernel: Kernel::V6_12,
            image: Image::Elf,
            has_devices: true,
            is_jailed: false,
        };
        step("the host boots");
        let mut host = Host::start(lab, &[alice.clone(), bob.clone()], LINKED)?;
        let result = scenario(&mut host, [&alice, &bob]);
        if result.is_err() {
            host.keep_logs();
        }
        result
    });
}

fn scenario(host: &mut Host, [alice, bob]: [&Vm; 2]) -> Result<()> {
    step("two VMs boot");
    for vm in [alice, bob] {
        host.boot(vm)?;
    }
    let base = host
        .shell()
        .ok(&format!("sha256sum <{}", base_of(bob.name)))?;
    for vm in [alice, bob] {
        let release = host.up(vm.name, 1)?;
        ensure!(
            release.starts_with(vm.kernel.series()),
            "{}: {release}",
            vm.name
        );
        is_complete(host, vm.name)?;
        // Each page that a transfer finds missing is a request to the guest's kernel, which on a busy host takes tens of
        // milliseconds here. With less than 512 MiB Linux makes no large pages unless told to.
        host.ok(
            vm.name,
            "echo always >/sys/kernel/mm/transparent_hugepage/enabled",
        )?;
    }
    step("disk, network, random numbers");
    devices(host)?;
    overlay(host, &base)?;
    step("NVMe controllers");
    nvme::drive(host)?;
    step("figures");
    figures(host)?;
    step("64 MiB from process to process");
    give(host, "alice", "bob", 1)?;
    give(host, "alice", "bob", 64)?;
    give(host, "bob", "alice", 8)?;
    step("exits of polled transfers");
    polled_transfers_cause_no_exit(host)?;
    step("pause in mid-transfer");
    pause_and_resume(host)?;
    step("memory is added");
    add_memory(host)?;
    step("power button, reset, power off");
    button(host)?;
    for name in ["alice", "bob"] {
        host.check_vm(name)?;
    }
    restart(host)?;
    step("a VM is killed");
    kill(host)?;
    host.check_vm("bob")?;
    power_off(host)?;
    kept(host, &base)?;
    host.shell().check()
}

/// Names what comes next, and says when it began.
fn step(what: &str) {
    static START: OnceLock<Instant> = OnceLock::new();
    let start = START.get_or_init(Instant::now);
    println!("{:6.1} s  {what}", start.elapsed().as_secs_f64());
}

/// The kernel has found what ACPI describes: both CPUs, and the device, without a word on its command line.
fn is_complete(host: &mut Host, name: &str) -> Result<()> {
    host.ok(
        name,
        "[ $(nproc) = 2 ] && [ -c /dev/byway ] && ls /sys/bus/acpi/devices | grep -q LNRO0005 && \
         ! grep -q virtio_mmio.device /proc/cmdline",
    )?;
    Ok(())
}

/// Bob's root is a disk of his, which keeps what he writes; his packets come and go; his random numbers are not all the same.
fn devices(host: &mut Host) -> Result<()> {
    host.ok(
        "bob",
        "grep -q '^/dev/vda / ext4 rw' /proc/mounts && echo kept >/root/kept && sync",
    )?;
    host.ok(
        "bob",
        &format!(
            "ifconfig eth0 10.9.8.2 netmask 255.255.255.0 up && ping -c 3 -s 1400 {HOST_ADDRESS}"
        ),
    )?;
    host.shell().ok("ping -c 3 -s 1400 10.9.8.2")?;
    host.ok(
        "bob",
        "grep -q virtio /sys/class/misc/hw_random/rng_current && dd if=/dev/hwrng of=/tmp/random bs=64 count=2 && \
         [ $(wc -c </tmp/random) -gt 0 ] && ! cmp -n 64 /tmp/random /dev/zero",
    )?;
    Ok(())
}

/// What bob writes into the disk that nobody else writes to.
const WRITTEN: &str = "written-by-bob";
/// Where, in blocks of 4096 bytes, and a write of two blocks that begins within one.
const WRITTEN_AT: u32 = 300;
/// Reads it back.
fn read_back() -> String {
    format!(
        "dd if=/dev/vdb bs=4k skip={WRITTEN_AT} count=1 2>/dev/null | grep -q {WRITTEN} && \
         dd if=/dev/vdb bs=1k skip=2 count=4 2>/dev/null | sha256sum | cmp - /root/two-blocks"
    )
}

/// Bob sees the bytes of a disk whose file nobody may write to, and writes: whole blocks, and parts of two.
fn overlay(host: &mut Host, base: &str) -> Result<()> {
    let seen = host.ok("bob", "sha256sum </dev/vdb")?;
    ensure!(
        seen == base,
        "bob reads other bytes than the disk has: {seen}, not {base}"
    );
    host.ok(
        "bob",
        &format!(
            "(echo {WRITTEN}; head -c 4000 /dev/urandom) >/tmp/w && dd if=/tmp/w of=/dev/vdb bs=4k seek={WRITTEN_AT} conv=notrunc,fsync && \
             dd if=/dev/urandom bs=1k count=4 of=/tmp/w && sha256sum </tmp/w >/root/two-blocks && \
             dd if=/tmp/w of=/dev/vdb bs=1k seek=2 conv=notrunc,fsync && rm /tmp/w && sync && \
             echo 3 >/proc/sys/vm/drop_caches"
        ),
    )?;
    host.ok("bob", &read_back())?;
    let now = host.ok("bob", "sha256sum </dev/vdb")?;
    ensure!(now != base, "bob's writes changed nothing for him");
    Ok(())
}

/// The file under the overlay is as it was, and the overlay has what was written.
fn kept(host: &mut Host, base: &str) -> Result<()> {
    let now = host.shell().ok(&format!("sha256sum <{}", base_of("bob")))?;
    ensure!(
        now == base,
        "the disk under the overlay is {now}, was {base}"
    );
    host.shell().ok(&format!(
        "grep -q {WRITTEN} {} && ! grep -q {WRITTEN} {}",
        overlay_of("bob"),
        base_of("bob")
    ))?;
    Ok(())
}

/// What a VM costs its host beside its RAM, and how often it comes out while it does nothing.
fn figures(host: &mut Host) -> Result<()> {
    let smaps = host.shell().ok("cat /proc/$(vmpid alice)/smaps")?;
    let beside = Footprint::parse(&smaps, "/byway")?;
    println!("   a VMM has beside its guest's RAM {beside}");
    ensure!(
        beside.total() <= footprint::MOST_KIB,
        "a VMM has more than {} KiB beside its guest's RAM: {beside}",
        footprint::MOST_KIB
    );
    let (idle, seconds) = window(host, Duration::from_secs(4))?;
    println!(
        "   an idle guest has {:.0} exits a second",
        idle.0 as f64 / seconds
    );
    Ok(())
}

/// SHA-256 of `/tmp/NAME`.
fn sha256(host: &mut Host, vm: &str, name: &str) -> Result<String> {
    let line = host.ok(vm, &format!("sha256sum /tmp/{name}"))?;
    let sum = line.split_whitespace().next().context("no sum")?;
    ensure!(sum.len() == 64, "no SHA-256: {line}");
    Ok(sum.to_owned())
}

/// A process of `giver` gives as many MiB to a process of `taker`; both sides see the same bytes.
fn give(host: &mut Host, giver: &str, taker: &str, mib: u32) -> Result<()> {
    host.ok(
        giver,
        &format!("dd if=/dev/urandom of=/tmp/given bs=1M count={mib} 2>/dev/null"),
    )?;
    let given = sha256(host, giver, "given")?;
    host.spawn(
        giver,
        "give",
        &format!("byway-cat offer {taker} port /tmp/given --timeout 80"),
    )?;
    let started = Instant::now();
    let output = host.ask(
        taker,
        &format!("byway-cat fetch port --from {giver} -o /tmp/taken --timeout 80"),
        LIMIT,
    )?;
    ensure!(output.status == 0, "{taker} took: {}", output.text);
    println!("   {mib} MiB to {taker} in {:.1?}", started.elapsed());
    let output = host.wait(giver, "give", LIMIT)?;
    ensure!(output.status == 0, "{giver} gave: {}", output.text);
    let taken = sha256(host, taker, "taken")?;
    ensure!(given == taken, "{giver} gave {given}, {taker} took {taken}");
    host.ok(giver, "rm /tmp/given")?;
    host.ok(taker, "rm /tmp/taken")?;
    Ok(())
}

/// One process copies within its memory.
fn local(host: &mut Host, name: &str) -> Result<()> {
    host.ok(
        name,
        "dd if=/dev/urandom of=/tmp/a bs=1M count=4 2>/dev/null && byway-cat local /tmp/a -o /tmp/b && \
         cmp /tmp/a /tmp/b && rm /tmp/a /tmp/b",
    )?;
    Ok(())
}

/// Bob puts into alice's memory, polling, and then spins as long for nothing: what comes out of the guest in both
/// is its own timer's. The counter is one that has been seen to count.
fn polled_transfers_cause_no_exit(host: &mut Host) -> Result<()> {
    const WINDOW: Duration = Duration::from_secs(4);
    // Fewer than these say nothing about exits; on a busy host they take longer.
    const LEAST: u64 = 1000;
    // Every character of the console is an exit by a port, which this counter has to see.
    let before = host.counts("bob")?;
    host.ok("bob", "head -c 600 /dev/zero | tr '\\0' x")?;
    let seen = host.counts("bob")?.io_exits - before.io_exits;
    ensure!(seen >= 600, "KVM counts {seen} exits for 600 characters");

    host.spawn(
        "alice",
        "serve",
        "byway-perf serve bob perf --size 64K --forever",
    )?;
    host.spawn(
        "bob",
        "perf",
        "byway-perf run perf --sizes 4K --depth 8 --operations put --seconds 90",
    )?;
    flowing(host)?;
    let (busy, busy_s) = window_of(host, WINDOW, LEAST)?;
    host.ok("bob", "killall byway-perf")?;
    host.spawn("bob", "spin", "while :; do :; done")?;
    let (idle, idle_s) = window(host, WINDOW)?;
    end_loop(host, "bob", "while [:]")?;
    host.ok("alice", "killall byway-perf")?;
    let ticks = idle.0 as f64 / idle_s * busy_s;
    println!(
        "   {} transfers in {busy_s:.1} s with {} exits; {:.0} in an idle spin of the same time",
        busy.1, busy.0, ticks
    );
    ensure!(busy.1 >= LEAST, "only {} transfers", busy.1);
    // Of an exit for each transfer there would be as many more as transfers; ticks are as many as the host's load lets come.
    let more = busy.0 as f64 - 1.5 * ticks - 100.0;
    ensure!(
        more < busy.1 as f64 / 20.0,
        "{} exits for {} transfers in {busy_s:.1} s, {} in an idle spin of {idle_s:.1} s",
        busy.0,
        busy.1,
        idle.0
    );
    Ok(())
}

/// (exits, descriptors) of bob's in a window of time, and how long that was in seconds.
fn window(host: &mut Host, time: Duration) -> Result<((u64, u64), f64)> {
    window_of(host, time, 0)
}

/// The same, in a window that is longer, ten times at most, until there were so many descriptors.
fn window_of(host: &mut Host, time: Duration, descriptors: u64) -> Result<((u64, u64), f64)> {
    let start = Instant::now();
    let before = host.counts("bob")?;
    std::thread::sleep(time);
    let mut after = host.counts("bob")?;
    while after.descriptors - before.descriptors < descriptors && start.elapsed() < 10 * time {
        std::thread::sleep(time);
        after = host.counts("bob")?;
    }
    Ok((
        (
            after.exits - before.exits,
            after.descriptors - before.descriptors,
        ),
        start.elapsed().as_secs_f64(),
    ))
}

/// Waits until bob's descriptors move bytes.
fn flowing(host: &mut Host) -> Result<()> {
    let start = host.counts("bob")?.bytes;
    for _ in 0..200 {
        if host.counts("bob")?.bytes > start {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(200));
    }
    anyhow::bail!("no byte was moved")
}

/// Alice gives the same file again and again; bob fetches it until something ends.
fn traffic(host: &mut Host) -> Result<()> {
    host.ok(
        "alice",
        "dd if=/dev/urandom of=/tmp/endless bs=1M count=24 2>/dev/null",
    )?;
    host.spawn(
        "alice",
        "giving",
        "while byway-cat offer bob endless /tmp/endless --timeout 50 2>&1; do :; done",
    )?;
    host.spawn(
        "bob",
        "taking",
        "while byway-cat fetch endless --timeout 40 -o /dev/null 2>&1; do :; done; exit 7",
    )?;
    flowing(host)
}

/// Kills the shell of [`Host::spawn`] whose command matches a pattern, which is not to match itself. It may have ended with
/// what it did: a giver's does when its taker lets go.
fn end_loop(host: &mut Host, name: &str, pattern: &str) -> Result<()> {
    host.ok(
        name,
        &format!(
            "shells=$(ps | sed -n '/{pattern}/s/^ *\\([0-9]*\\).*/\\1/p'); [ -z \"$shells\" ] || kill -9 $shells"
        ),
    )?;
    Ok(())
}

/// Bob stands still in mid-transfer, and not a byte moves for him; then he goes on and all is as it was.
fn pause_and_resume(host: &mut Host) -> Result<()> {
    traffic(host)?;
    for round in 1..=2 {
        host.key("bob", 'p', "bob is paused", round)?;
        let before = host.counts("bob")?;
        std::thread::sleep(Duration::from_secs(3));
        let after = host.counts("bob")?;
        ensure!(
            (before.bytes, before.exits) == (after.bytes, after.exits),
            "bob is paused and moves: {before:?}, {after:?}"
        );
        host.key("bob", 'p', "bob goes on", round)?;
        flowing(host)?;
    }
    host.ok("bob", "[ ! -e /tmp/taking.status ]")
        .context("bob's transfers did not survive")?;
    for name in ["bob", "alice"] {
        end_loop(host, name, "while [b]yway-cat")?;
        host.ok(name, "killall byway-cat; rm -f /tmp/endless; :")?;
    }
    give(host, "alice", "bob", 4)
}

/// Bob gets memory; his kernel uses it first for what processes ask for, so it is what the engine writes to.
fn add_memory(host: &mut Host) -> Result<()> {
    let total = |host: &mut Host| -> Result<u64> {
        let line = host.ok("bob", "grep MemTotal /proc/meminfo | tr -dc 0-9")?;
        Ok(line.parse()?)
    };
    let before = total(host)?;
    host.key("bob", 'm', "bob has 128M more", 1)?;
    host.ok(
        "bob",
        "n=0; until grep -q online /sys/devices/system/memory/memory32/state; do n=$((n + 1)); [ $n -lt 300 ] || \
         exit 1; usleep 100000; done",
    )?;
    let after = total(host)?;
    ensure!(
        after >= before + (120 << 10),
        "bob had {before} KiB and has {after}"
    );
    // The driver starts over, and finds its virtqueues in the new memory as well.
    host.ok(
        "bob",
        "rmmod byway && insmod /lib/byway.ko && n=0 && until [ -c /dev/byway ]; do n=$((n + 1)); \
         [ $n -lt 100 ] || exit 1; usleep 100000; done",
    )?;
    give(host, "alice", "bob", 16)?;
    give(host, "bob", "alice", 16)
}

/// Bob's kernel hears of the button; what to do is its user's matter.
fn button(host: &mut Host) -> Result<()> {
    let count =
        "grep 'ACPI:Ged' /proc/interrupts | head -n 1 | tr -s ' ' | cut -d ' ' -f 3,4 | tr ' ' +";
    let count = format!("echo $(( $({count}) ))");
    let before: u64 = host.ok("bob", &count)?.parse()?;
    host.shell().ok("printf '\\001b' >/tmp/bob.in")?;
    host.ok(
        "bob",
        &format!("n=0; until [ $({count}) -gt {before} ]; do n=$((n + 1)); [ $n -lt 50 ] || exit 1; usleep 100000; done"),
    )?;
    Ok(())
}

/// Bob reboots, and is as before.
fn restart(host: &mut Host) -> Result<()> {
    let boot = host.ok("bob", "cat /proc/sys/kernel/random/boot_id")?;
    host.ok("bob", "(sleep 1; reboot -f) >/dev/null 2>&1 &")?;
    host.up("bob", 2)?;
    let again = host.ok("bob", "cat /proc/sys/kernel/random/boot_id")?;
    ensure!(boot != again, "bob has not rebooted");
    is_complete(host, "bob")?;
    host.ok("bob", "grep -q kept /root/kept")
        .context("bob's disk")?;
    host.ok("bob", &read_back()).context("bob's overlay")?;
    give(host, "alice", "bob", 4)
}

/// Alice's process is killed in mid-transfer, which her jail tells: bob's transfer ends with a status, and he goes on.
fn kill(host: &mut Host) -> Result<()> {
    traffic(host)?;
    host.shell().ok("kill -9 $(vmpid alice)")?;
    let (status, said) = (host.ended("alice")?, host.said("alice")?);
    ensure!(
        status == 1 && said.contains("alice was ended by signal 9"),
        "alice ended with {status}: {said}"
    );
    let taking = host.wait("bob", "taking", LIMIT)?;
    ensure!(taking.status == 7, "bob's transfer: {}", taking.text);
    local(host, "bob")
}

/// Bob powers himself off, and his `byway run` ends well.
fn power_off(host: &mut Host) -> Result<()> {
    host.ok("bob", "(sleep 1; poweroff -f) >/dev/null 2>&1 &")?;
    let status = host.ended("bob")?;
    let said = host.said("bob")?;
    ensure!(
        status == 0 && said.contains("bob powered off"),
        "bob ended with {status}: {said}"
    );
    Ok(())
}
