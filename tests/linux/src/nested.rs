//! A Linux guest of QEMU's that has a KVM of its own, and VMs of `byway run` in it.
//!
//! QEMU emulates an AMD processor with SVM and nested paging, so the stock `kvm_amd` works in the guest: what runs under it
//! runs as on hardware, slowly. The guest is called the host here, as it is one.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::console;
use crate::guest::{Config, Guest, Output};
use crate::images::{Kernel, repository};
use crate::initramfs::{self, Module};
use crate::lab::{self, Lab};
use crate::qemu::Machine;
use crate::tsc;
use crate::wire::base64;

/// The host's kernel.
const HOST_KERNEL: Kernel = Kernel::V6_1;
/// A processor with SVM and nested paging, as QEMU emulates it.
const HOST_CPU: &str = "EPYC,svm=on,npt=on";
/// One more than VMs run on, see [`VM_CPUS`].
const HOST_CPUS: u32 = 3;
/// The host's CPUs that VMs run on, as `taskset` takes them: all but the first, in which QEMU's emulation now and then loses the
/// word that nested paging is on. See tests/linux/README.md.
const VM_CPUS: &str = "1,2";
/// The emulated time stamp counters are one, and reading them is quick. Linux does not trust them, and takes the HPET for its clock,
/// each look at which waits for the emulation of devices; KVM looks several times for each exit. Their rate is told, as they are this
/// machine's: when that is busy, the kernel finds something else by its timers, and its clock, with those of all VMs, went fifty
/// times too fast.
fn host_cmdline() -> String {
    format!("tsc=reliable tsc_early_khz={}", tsc::khz())
}
/// MiB of the host: kernels and initramfs are in it twice, as an archive and as files, beside two VMs.
const HOST_MIB: u32 = 3072;
/// Size of a VM's disk, as mke2fs takes it.
const DISK_SIZE: &str = "24M";
/// Address of the host's end of a VM's TAP interface; others of its first three bytes are the VM's.
pub const HOST_ADDRESS: &str = "10.9.8.1";
/// The kernel's command line of a VM, which takes its commands from the console.
pub const CMDLINE: &str = "console=ttyS0 quiet panic=-1 guest.console=1";
/// How long a VM may take to its first command. It is half a minute when nothing else runs.
const UP_LIMIT: Duration = Duration::from_secs(180);
/// What an answer by the console takes beside the command itself.
const GRACE: Duration = Duration::from_secs(20);

/// How the host's shell asks a VM over its console: `ask NAME SECONDS BASE64`, the last being the command. Neither this nor
/// [`VM`] looks for anything again and again: what a shell starts is dear here, and takes the guests' time.
const ASK: &str = r#"#!/bin/sh
name=$1 seconds=$2
exec 3<>/tmp/$name.answers
read -r nonce </tmp/$name.nonce
nonce=$((nonce + 1))
echo $nonce >/tmp/$name.nonce
line="$nonce $seconds ${#3} $3"
echo "$line" >/tmp/$name.in
waited=0
while [ $waited -lt $((seconds + 15)) ]; do
    if ! IFS=' ' read -r -t 5 answer status text <&3; then
        waited=$((waited + 5))
        # Should it be the line's end that is lost.
        echo >/tmp/$name.in
        continue
    fi
    case $answer in
    LOST) echo "$line" >/tmp/$name.in ;;
    $nonce)
        [ "$text" = . ] || echo "${text% .}" | base64 -d
        exit "$status"
        ;;
    esac
done
echo "ask: $name does not answer" >&2
exit 124
"#;

/// How a VM is started: `vm NAME COMMAND...`, with a terminal of its own. What it answers goes to whoever asks; all goes
/// to `/tmp/NAME.console`.
const VM: &str = r#"#!/bin/sh
name=$1
shift
rm -f /tmp/$name.status
for fifo in in out answers; do
    [ -e /tmp/$name.$fifo ] || mkfifo /tmp/$name.$fifo
done
echo 0 >/tmp/$name.nonce
{
    echo "echo \$\$ >/tmp/$name.pid"
    echo "exec $* 2>/tmp/$name.err"
} >/tmp/$name.sh
(
    setsid script --quiet --flush --return --command "sh /tmp/$name.sh" /dev/null \
        <>/tmp/$name.in >/tmp/$name.out 2>&1
    echo $? >/tmp/$name.status
) &
(
    exec </tmp/$name.out >>/tmp/$name.console 3<>/tmp/$name.answers
    cr=$(printf '\r')
    while IFS= read -r line; do
        # One of the guest's, one of the terminal's.
        line=${line%%"$cr"*}
        case $line in
        'ANSWER '*' .') echo "${line#ANSWER }" >&3 ;;
        LOST) echo LOST >&3 ;;
        esac
        printf '%s\n' "$line"
    done
    printf %s "$line"
) &
"#;

/// Which process has the guest of a VM: `vmpid NAME`. In a jail that is a child of its `byway run`.
const VMPID: &str = r#"#!/bin/sh
read -r pid </tmp/$1.pid
read -r child others </proc/$pid/task/$pid/children
echo ${child:-$pid}
"#;

/// Which image of a kernel a VM boots.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Image {
    /// The bzImage, which unpacks itself.
    Packed,
    /// The ELF image, entered by PVH.
    Elf,
}

/// A VM to be.
#[derive(Debug, Clone)]
pub struct Vm {
    /// Its name, and its domain's.
    pub name: &'static str,
    /// Its kernel.
    pub kernel: Kernel,
    /// The kernel's image.
    pub image: Image,
    /// Whether it has a disk, which its root file system is on, another one, whose writes an overlay keeps, a TAP interface and a source of
    /// random numbers.
    pub has_devices: bool,
    /// Whether it runs in a jail, a process of its own.
    pub is_jailed: bool,
}

/// The host.
#[derive(Debug)]
pub struct Host {
    guest: Guest,
    logs: PathBuf,
    /// Names of VMs that were started, for their logs.
    started: Vec<&'static str>,
}

impl Host {
    /// Boots it with what `vms` need, loads its KVM, and starts `byway engine` with a configuration (TOML).
    ///
    /// # Errors
    /// When a part is missing, or it does not come up with a KVM that has nested paging.
    pub fn start(lab: &Lab, vms: &[Vm], engine: &str) -> Result<Self> {
        let mut host = Self::boots(lab, vms, Vec::new())?;
        let config64 = base64(engine.as_bytes());
        host.guest
            .ok(&format!("echo {config64} | base64 -d >/root/engine.toml"))?;
        host.guest.ok(
            "setsid byway engine --socket /tmp/engine --config /root/engine.toml \
             >/tmp/engine.err 2>&1 </dev/null &\n\
             n=0; until grep -q ready /tmp/engine.err || [ $n -gt 200 ]; do n=$((n + 1)); usleep 100000; done; \
             grep ready /tmp/engine.err",
        )?;
        Ok(host)
    }

    /// The same without an engine, and with a QEMU to compare with, the one that emulates the host.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn start_with_qemu(lab: &Lab, vms: &[Vm]) -> Result<Self> {
        Self::boots(lab, vms, qemu(lab)?)
    }

    fn boots(lab: &Lab, vms: &[Vm], more: Vec<(String, PathBuf)>) -> Result<Self> {
        let scratch = lab.scratch();
        let mut files = programs(scratch)?;
        for (inside, path) in more {
            if !files.iter().any(|(there, _)| *there == inside) {
                files.push((inside, path));
            }
        }
        let mut add = |inside: String, content: &[u8], mode: u32| -> Result<()> {
            let path = scratch.join(inside.replace('/', "_"));
            fs::write(&path, content)?;
            set_mode(&path, mode)?;
            files.push((inside, path));
            Ok(())
        };
        add("/bin/ask".into(), ASK.as_bytes(), 0o755)?;
        add("/bin/vm".into(), VM.as_bytes(), 0o755)?;
        add("/bin/vmpid".into(), VMPID.as_bytes(), 0o755)?;
        for vm in vms {
            let image = made_by_byway(scratch, vm)?;
            files.push((format!("/vms/{}.cpio", vm.name), image));
        }
        for vm in vms.iter().filter(|vm| vm.has_devices) {
            let disk = root_disk(lab, vm)?;
            files.push((format!("/vms/{}.img", vm.name), disk));
        }
        for vm in vms {
            let kernel = match vm.image {
                Image::Packed => lab.images.kernel(vm.kernel, false)?,
                Image::Elf => lab.images.unpacked_kernel(vm.kernel)?,
            };
            files.push((format!("/vms/{}.kernel", vm.name), kernel));
        }
        for module in lab.images.kvm_modules(HOST_KERNEL)? {
            let name = module.file_name().unwrap_or_default().to_string_lossy();
            files.push((format!("/kvm/{name}"), module.clone()));
        }
        let config = Config {
            name: "host".into(),
            kernel: HOST_KERNEL,
            module: Module::None,
            machine: Machine {
                cpu: HOST_CPU.into(),
                cpus: HOST_CPUS,
                memory_mib: HOST_MIB,
                cmdline: host_cmdline(),
                ..Machine::default()
            },
            files,
            device: None,
        };
        let mut guest = Guest::start(&lab.images, &config, scratch, lab.logs())?;
        guest.up()?;
        guest.ok("for module in /kvm/*.ko; do insmod $module; done; [ -c /dev/kvm ]")?;
        // Each first touch of a page by a VM is an exit, which takes a millisecond here: large pages are 512 times fewer.
        guest.ok("echo advise >/sys/kernel/mm/transparent_hugepage/shmem_enabled")?;
        for vm in vms {
            guest.ok(&format!(
                "cd /vms; truncate -s 16M {0}.nvme; echo kept! >{0}.ro; truncate -s 1M {0}.ro",
                vm.name
            ))?;
        }
        let npt = guest.ok("cat /sys/module/kvm_amd/parameters/npt")?;
        ensure!(npt == "Y", "kvm_amd has no nested paging: npt={npt}");
        Ok(Self {
            guest,
            logs: lab.logs().to_owned(),
            started: Vec::new(),
        })
    }

    /// The host itself.
    pub fn shell(&mut self) -> &mut Guest {
        &mut self.guest
    }

    /// Starts a VM; [`Self::up`] waits for it. It has two NVMe controllers: over `/vms/NAME.nvme`, 16 MiB of zeros, and over
    /// `/vms/NAME.ro`, which is read-only and begins with a word.
    ///
    /// # Errors
    /// When the host does not answer.
    pub fn boot(&mut self, vm: &Vm) -> Result<()> {
        let name = vm.name;
        let (mut devices, mut root) = (String::new(), "");
        let nvmes = format!("--nvme /vms/{name}.nvme --nvme /vms/{name}.ro,readonly");
        let jail = if vm.is_jailed { "--jail" } else { "" };
        if vm.has_devices {
            self.guest.ok(&format!(
                "tunctl -t {name} >/dev/null && ifconfig {name} {HOST_ADDRESS} netmask 255.255.255.0 up && \
                 dd if=/dev/urandom of={base} bs=1M count=4 2>/dev/null && chmod 444 {base}",
                base = base_of(name)
            ))?;
            devices = format!(
                "--disk /vms/{name}.img --disk {},overlay={} --net tap={name} --rng",
                base_of(name),
                overlay_of(name)
            );
            root = "root=/dev/vda";
        }
        self.launch(
            name,
            &format!(
                "byway run {jail} --engine /tmp/engine --name {name} --kernel /vms/{name}.kernel --initrd /vms/{name}.cpio \
                 --cpus 2 --memory 384M --cpu-template nested-tcg {devices} {nvmes} \
                 --cmdline \"'{CMDLINE} {root}'\""
            ),
        )
    }

    /// Starts a VM by a command whose standard input and output are its console; [`Self::up`] waits for it, if its kernel's
    /// command line has what [`CMDLINE`] has.
    ///
    /// # Errors
    /// When the host does not answer.
    pub fn launch(&mut self, name: &'static str, command: &str) -> Result<()> {
        self.started.push(name);
        self.guest
            .ok(&format!("vm {name} taskset -c {VM_CPUS} {command}"))?;
        Ok(())
    }

    /// Waits until a VM has come up so many times, and returns its kernel's release.
    ///
    /// # Errors
    /// When it does not in time, or could not load a module.
    pub fn up(&mut self, name: &str, times: u32) -> Result<String> {
        let rounds = UP_LIMIT.as_secs() * 2;
        let found = self.guest.run_within(
            &format!(
                "n=0; until ready=$(grep -a '^READY ' /tmp/{name}.console | sed -n {times}p) && [ -n \"$ready\" ]; do \
                 n=$((n + 1)); [ $n -lt {rounds} ] && [ ! -e /tmp/{name}.status ] || exit 1; usleep 500000; done; \
                 echo \"$ready\""
            ),
            UP_LIMIT + GRACE,
        )?;
        let mut words = found.text.split_whitespace().skip(2);
        let Some(release) = words.next().filter(|_| found.status == 0) else {
            let said = self.said(name)?;
            bail!("{name} did not come up: {said}");
        };
        let failed: Vec<_> = words.collect();
        ensure!(failed.is_empty(), "{name} could not load {failed:?}");
        Ok(release.to_owned())
    }

    /// Runs a shell command in a VM and waits for its end, whatever its status.
    ///
    /// # Errors
    /// When the VM does not answer.
    pub fn ask(&mut self, name: &str, command: &str, limit: Duration) -> Result<Output> {
        let command64 = base64(command.as_bytes());
        let seconds = limit.as_secs();
        let output = self
            .guest
            .run_within(&format!("ask {name} {seconds} {command64}"), limit + GRACE)?;
        ensure!(
            output.status != 124,
            "{name}: {command}: no answer: {}",
            self.said(name)?
        );
        Ok(output)
    }

    /// Runs a command in a VM that has to succeed; returns what it printed, without the last line's end.
    ///
    /// # Errors
    /// When its status is not 0.
    pub fn ok(&mut self, name: &str, command: &str) -> Result<String> {
        let output = self.ask(name, command, Duration::from_secs(120))?;
        ensure!(
            output.status == 0,
            "{name}: {command}: exit status {}: {}",
            output.status,
            output.text.trim_end()
        );
        Ok(output.text.trim_end().to_owned())
    }

    /// Starts a command in the background of a VM; its status will be in `/tmp/LABEL.status` there.
    ///
    /// # Errors
    /// When the VM does not answer.
    pub fn spawn(&mut self, name: &str, label: &str, command: &str) -> Result<()> {
        self.ok(
            name,
            &format!(
                "rm -f /tmp/{label}.status; (setsid sh -c '{command}' >/tmp/{label}.out 2>&1 </dev/null; \
                 echo $? >/tmp/{label}.status) >/dev/null 2>&1 &"
            ),
        )?;
        Ok(())
    }

    /// Waits for the end of such a command; its exit status and what it printed.
    ///
    /// # Errors
    /// When it does not end in time.
    pub fn wait(&mut self, name: &str, label: &str, limit: Duration) -> Result<Output> {
        let rounds = limit.as_secs() * 2;
        let output = self.ask(
            name,
            &format!(
                "n=0; until [ -s /tmp/{label}.status ]; do n=$((n + 1)); [ $n -lt {rounds} ] || exit 9; usleep 500000; \
                 done; cat /tmp/{label}.status /tmp/{label}.out"
            ),
            limit + GRACE,
        )?;
        ensure!(
            output.status == 0,
            "{name}: {label} has not ended within {limit:?}"
        );
        let (status, text) = output.text.split_once('\n').unwrap_or_default();
        Ok(Output {
            status: status.parse().context("an exit status")?,
            text: text.to_owned(),
        })
    }

    /// Presses Ctrl-A and a key at a VM's console, and waits until `byway run` has said `words`, as often as
    /// `times` in all.
    ///
    /// # Errors
    /// When it does not.
    pub fn key(&mut self, name: &str, key: char, words: &str, times: u32) -> Result<()> {
        let said = self.guest.run(&format!(
            "printf '\\001{key}' >/tmp/{name}.in; n=0; until [ $(grep -c '{words}' /tmp/{name}.err) -ge {times} ]; do \
             n=$((n + 1)); [ $n -lt 200 ] || exit 1; usleep 100000; done"
        ))?;
        ensure!(
            said.status == 0,
            "{name}: no {words:?} after Ctrl-A {key}: {}",
            self.said(name)?
        );
        Ok(())
    }

    /// How its `byway run` ended.
    ///
    /// # Errors
    /// When it does not end in time.
    pub fn ended(&mut self, name: &str) -> Result<i32> {
        let status = self.guest.ok(&format!(
            "n=0; until [ -s /tmp/{name}.status ]; do n=$((n + 1)); [ $n -lt 300 ] || exit 1; usleep 100000; done; \
             cat /tmp/{name}.status"
        ))?;
        Ok(status.parse()?)
    }

    /// What KVM has counted of a VM, and what the engine has of its domain: exits, port exits, descriptors.
    ///
    /// # Errors
    /// When there is no such VM.
    pub fn counts(&mut self, name: &str) -> Result<Counts> {
        let told = self.guest.ok(&format!(
            "cd /sys/kernel/debug/kvm/$(vmpid {name})-*; cat exits io_exits; byway ps --engine /tmp/engine --json"
        ))?;
        let mut lines = told.splitn(3, '\n');
        let mut number = || -> Result<u64> {
            let line = lines.next().unwrap_or_default();
            line.trim().parse().with_context(|| told.clone())
        };
        let (exits, io_exits) = (number()?, number()?);
        let report: serde_json::Value =
            serde_json::from_str(lines.next().unwrap_or_default()).with_context(|| told.clone())?;
        let domains = report["domains"].as_array().context("no domains")?;
        let domain = domains.iter().find(|domain| domain["name"] == name);
        let counter = |counter: &str| {
            domain
                .and_then(|domain| domain[counter].as_u64())
                .with_context(|| format!("no {counter} of {name}: {report}"))
        };
        Ok(Counts {
            exits,
            io_exits,
            descriptors: counter("descriptors")?,
            bytes: counter("bytes")?,
        })
    }

    /// What a VM's `byway run` has said, and the end of its console.
    ///
    /// # Errors
    /// When the host does not answer.
    pub fn said(&mut self, name: &str) -> Result<String> {
        self.guest.ok(&format!(
            "cat /tmp/{name}.err; echo '-- console'; tail -n 30 /tmp/{name}.console"
        ))
    }

    /// Nothing in a VM's kernel says that something is wrong with it.
    ///
    /// # Errors
    /// With what was found.
    pub fn check_vm(&mut self, name: &str) -> Result<()> {
        self.ok(name, &console::log_check())
            .context("the kernel complains")?;
        let taint: u64 = self.ok(name, "cat /proc/sys/kernel/tainted")?.parse()?;
        let wrong = console::wrong_taint(taint);
        ensure!(wrong == 0, "{name}: kernel taint {wrong:#x}");
        Ok(())
    }

    /// Keeps what the VMs and the engine have said beside the host's console, and what they say now.
    pub fn keep_logs(&mut self) {
        const ASKED: &str =
            "dmesg | tail -n 30; ps; tail -n 5 /tmp/*.out; cat /sys/kernel/debug/byway/*/stats";
        let names = std::iter::once("engine.err".to_owned()).chain(
            self.started
                .iter()
                .flat_map(|name| [format!("{name}.err"), format!("{name}.console")]),
        );
        for name in names {
            // A host that does not answer has its console.
            if let Ok(output) = self.guest.run(&format!("cat /tmp/{name}")) {
                let _ = fs::write(self.logs.join(name), output.text);
            }
        }
        let mut now = String::new();
        for name in self.started.clone() {
            if let Ok(output) = self.ask(name, ASKED, Duration::from_secs(30)) {
                now += &format!("== {name}\n{}\n", output.text);
            }
        }
        // Where each thread of a VMM stands, too.
        let host = "byway ps --engine /tmp/engine; ps; free; for task in $(cat /tmp/*.pid); do \
                    for thread in /proc/$task/task/*; do echo \"== $thread $(cat $thread/comm)\"; cat $thread/stack; \
                    done; done";
        if let Ok(output) = self.guest.run(host) {
            now += &output.text;
        }
        let _ = fs::write(self.logs.join("now.log"), now);
    }
}

/// Where the host has the disk of a VM that nobody writes to.
#[must_use]
pub fn base_of(name: &str) -> String {
    format!("/vms/{name}.base")
}

/// Where the host has what the VM has written to it.
#[must_use]
pub fn overlay_of(name: &str) -> String {
    format!("/vms/{name}.overlay")
}

/// See [`Host::counts`].
#[derive(Debug, Clone, Copy)]
pub struct Counts {
    /// Exits of all vCPUs.
    pub exits: u64,
    /// Those by ports.
    pub io_exits: u64,
    /// Descriptors that the engine has carried out for it.
    pub descriptors: u64,
    /// Bytes that those moved.
    pub bytes: u64,
}

/// The initramfs that `byway image` makes for a VM's kernel, out of what the tests have fetched and built. The file that comes
/// with it has no mistakes.
fn made_by_byway(scratch: &Path, vm: &Vm) -> Result<PathBuf> {
    let (byway, folder) = (lab::byway()?, scratch.join(format!("{}.image", vm.name)));
    let mut make = Command::new(&byway);
    make.arg("image").arg(&folder);
    make.args(["--kernel", vm.kernel.series(), "--source"]);
    make.arg(repository());
    let mut check = Command::new(&byway);
    check
        .args(["run", "--check"])
        .arg(folder.join("guest.toml"));
    for command in [&mut make, &mut check] {
        let output = command.output()?;
        ensure!(
            output.status.success(),
            "{command:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(folder.join("initramfs.img"))
}

/// An ext4 file system with what a guest needs to go on from it, as `/init` does.
fn root_disk(lab: &Lab, vm: &Vm) -> Result<PathBuf> {
    let folder = lab.scratch().join(format!("{}.root", vm.name));
    for inside in ["bin", "dev", "lib", "proc", "root", "run", "sys", "tmp"] {
        fs::create_dir_all(folder.join(inside))?;
    }
    fs::write(folder.join("init"), initramfs::INIT)?;
    set_mode(&folder.join("init"), 0o755)?;
    fs::copy(lab.images.busybox(), folder.join("bin/busybox"))?;
    for program in lab.images.programs()? {
        let name = program.file_name().unwrap_or_default();
        fs::copy(&program, folder.join("bin").join(name))?;
    }
    let module = lab.images.byway_module(vm.kernel).context("no module")?;
    fs::copy(module, folder.join("lib/byway.ko"))?;
    let disk = folder.with_extension("img");
    let made = Command::new("/sbin/mke2fs")
        .args(["-q", "-F", "-t", "ext4", "-d"])
        .args([&folder, &disk])
        .arg(DISK_SIZE)
        .stdout(Stdio::null())
        .status()
        .context("cannot run /sbin/mke2fs (package e2fsprogs)")?;
    ensure!(made.success(), "mke2fs: {made}");
    Ok(disk)
}

/// `byway` and `script`, with the libraries that they need. What debuggers want of `byway` stays behind: it is four
/// times as large with it, and the host unpacks all of its archive before it boots.
fn programs(scratch: &Path) -> Result<Vec<(String, PathBuf)>> {
    let byway = scratch.join("byway");
    let stripped = Command::new("strip")
        .arg("--strip-debug")
        .arg("-o")
        .args([&byway, &lab::byway()?])
        .status()
        .context("cannot run strip (package binutils)")?;
    ensure!(stripped.success(), "strip: {stripped}");
    let mut files = Vec::new();
    for program in [byway, PathBuf::from("/usr/bin/script")] {
        ensure!(
            program.exists(),
            "there is no {} (package bsdutils)",
            program.display()
        );
        let name = program.file_name().unwrap_or_default().to_string_lossy();
        files.push((format!("/bin/{name}"), program.clone()));
        for library in libraries(&program)? {
            let inside = library.display().to_string();
            if !files.iter().any(|(there, _)| *there == inside) {
                files.push((inside, library));
            }
        }
    }
    Ok(files)
}

/// QEMU, with its libraries and what it reads to boot a kernel of its command line.
fn qemu(lab: &Lab) -> Result<Vec<(String, PathBuf)>> {
    const PARTS: [&str; 5] = [
        "usr/bin/qemu-system-x86_64",
        "usr/share/seabios/bios-256k.bin",
        "usr/share/qemu/pvh.bin",
        "usr/share/qemu/linuxboot_dma.bin",
        "usr/share/qemu/kvmvapic.bin",
    ];
    let program = lab.images.recent_qemu()?;
    let root = program.ancestors().nth(3).context("a path in usr/bin")?;
    let parts = PARTS.map(|part| (format!("/{part}"), root.join(part)));
    for (_, path) in &parts {
        ensure!(path.exists(), "there is no {}", path.display());
    }
    let libraries = libraries(&program)?.into_iter();
    Ok(libraries
        .map(|path| (path.display().to_string(), path))
        .chain(parts)
        .collect())
}

/// Paths of what a program is linked with, the loader included.
fn libraries(program: &Path) -> Result<Vec<PathBuf>> {
    let output = Command::new("ldd").arg(program).output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let words = text
        .split_whitespace()
        .filter(|word| word.starts_with('/'))
        .map(PathBuf::from)
        .collect::<Vec<_>>();
    ensure!(!words.is_empty(), "ldd {}: {text}", program.display());
    Ok(words)
}

fn set_mode(path: &Path, mode: u32) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
    Ok(())
}
