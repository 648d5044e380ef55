//! One running guest: its commands, its reboot, its end.

use std::fs;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::console;
use crate::images::{Images, Kernel};
use crate::initramfs::{self, Module};
use crate::monitor::Monitor;
use crate::process::Process;
use crate::qemu::{self, Emulator, Machine, Wiring};
use crate::wire::{Ready, Wire};

pub use crate::wire::Output;

/// How long a booting guest may be silent. As long as its console gets on, it may take its time: five seconds
/// when nothing else runs.
const SILENCE_LIMIT: Duration = Duration::from_secs(60);
/// What a boot takes when nothing else runs. One that takes longer tells how much slower the host is at
/// the moment, and how much longer everything else may take.
const USUAL_BOOT: Duration = Duration::from_secs(5);
/// Bound of that factor.
const SLOWNESS_MAX: u32 = 8;
/// How long a command may take when a test does not say. Limits are multiplied by the host's slowness.
const COMMAND_LIMIT: Duration = Duration::from_secs(60);
/// What the guest needs beyond a command's limit to kill it and to say so.
const GRACE: Duration = Duration::from_secs(20);
/// Lines of the console that tell how far a boot came: a panic has as many.
const LAST_LINES: usize = 40;
/// How often a guest is started again whose emulator has ended its boot.
const BOOTS_AGAIN: u32 = 2;
/// The kernel's last words before the first program of a guest runs; before it, nothing of Byway's does.
const FIRST_PROGRAM: &str = "Run /init as init process";
const POLL: Duration = Duration::from_millis(20);

/// What a guest is made of.
#[derive(Debug, Clone)]
pub struct Config {
    /// Its name, which is also its domain's.
    pub name: String,
    /// Kernel series.
    pub kernel: Kernel,
    /// The Byway module it has.
    pub module: Module,
    /// The machine it runs on.
    pub machine: Machine,
    /// Files added: (path in the guest, path here).
    pub files: Vec<(String, PathBuf)>,
    /// The engine's socket; without one there is no Byway device.
    pub device: Option<PathBuf>,
}

/// A guest; killed when dropped.
#[derive(Debug)]
pub struct Guest {
    name: String,
    process: Process,
    again: Option<Again>,
    listener: Option<UnixListener>,
    wire: Option<Wire>,
    ready: Option<Ready>,
    console: PathBuf,
    device: Option<PathBuf>,
    monitor: Monitor,
    started: Instant,
    slowness: u32,
    jobs: u32,
}

/// How a guest is started once more whose boot its emulator has ended.
#[derive(Debug)]
struct Again {
    program: PathBuf,
    arguments: Vec<String>,
    log: PathBuf,
    listener: UnixListener,
    left: u32,
}

/// A command that runs in the background of a guest.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use = "a job that nobody waits for can fail unseen"]
pub struct Job(u32);

impl Guest {
    /// Starts QEMU and returns at once, so that guests boot side by side; [`Guest::up`] waits.
    /// `scratch` is for sockets and the initramfs, `logs` for the console and what QEMU says.
    ///
    /// # Errors
    /// When a part is missing or QEMU cannot be started.
    pub fn start(images: &Images, config: &Config, scratch: &Path, logs: &Path) -> Result<Self> {
        let name = config.name.clone();
        let kernel = images.kernel(config.kernel, config.machine.has_four_levels())?;
        let initramfs = scratch.join(format!("{name}.cpio"));
        let archive = initramfs::build(images, config.kernel, &config.module, &config.files)?;
        fs::write(&initramfs, archive)?;
        let commands = scratch.join(format!("{name}.commands"));
        // Of a guest of the same name that was killed.
        let _ = fs::remove_file(&commands);
        let listener = UnixListener::bind(&commands)?;
        listener.set_nonblocking(true)?;
        let console = logs.join(format!("{name}-console.log"));
        let monitor = scratch.join(format!("{name}.monitor"));
        let arguments = qemu::arguments(
            &config.machine,
            &Wiring {
                kernel: &kernel,
                initramfs: &initramfs,
                console: &console,
                commands: &commands,
                monitor: &monitor,
                device: config.device.clone(),
            },
        );
        let program = config.machine.emulator.program(images)?;
        let log = logs.join(format!("{name}-qemu.log"));
        let process = Process::start(&program, &arguments, &log)?;
        let again = match config.machine.emulator {
            Emulator::Recent => None,
            Emulator::Host => Some(Again {
                program,
                arguments,
                log,
                listener: listener.try_clone()?,
                left: BOOTS_AGAIN,
            }),
        };
        Ok(Self {
            name,
            process,
            again,
            listener: Some(listener),
            wire: None,
            ready: None,
            console,
            device: config.device.clone(),
            monitor: Monitor::new(monitor),
            started: Instant::now(),
            slowness: 1,
            jobs: 0,
        })
    }

    /// Waits until it takes commands.
    ///
    /// [`Emulator::Host`] may be one that ends the boot of a kernel now and then. Such a guest is started again, twice at
    /// most, if its kernel was reset before it ran its first program, so that nothing of Byway's had run in it; and that is said.
    ///
    /// # Errors
    /// When it does not come up in time, or a module cannot be loaded.
    pub fn up(&mut self) -> Result<()> {
        for boots in 1.. {
            self.connect()?;
            let Err(error) = self.await_ready() else {
                break;
            };
            if !self.start_again()? {
                return Err(error).with_context(|| format!("boots of {}: {boots}", self.name));
            }
            println!("{}: started again, since {error:#}", self.name);
        }
        let boots = self.started.elapsed().as_secs() / USUAL_BOOT.as_secs();
        self.slowness = u32::try_from(boots)
            .unwrap_or(SLOWNESS_MAX)
            .clamp(1, SLOWNESS_MAX);
        Ok(())
    }

    fn connect(&mut self) -> Result<()> {
        let Some(listener) = self.listener.take() else {
            return Ok(());
        };
        let stream = loop {
            match listener.accept() {
                Ok((stream, _)) => break stream,
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error).context("no command channel"),
            }
            if let Some(status) = self.process.ended()? {
                bail!(
                    "QEMU of {} ended: {status}: {} (is the package qemu-system-x86 installed?)",
                    self.name,
                    self.process.said()
                );
            }
            ensure!(
                self.started.elapsed() < SILENCE_LIMIT,
                "QEMU of {} did not start: {}",
                self.name,
                self.why_silent()
            );
            std::thread::sleep(POLL);
        };
        stream.set_nonblocking(false)?;
        self.wire = Some(Wire::new(stream)?);
        Ok(())
    }

    /// Why it has said nothing: what QEMU waits for before it starts a guest, and what QEMU has said.
    fn why_silent(&self) -> String {
        let said = self.process.said();
        match &self.device {
            Some(socket) if fs::metadata(&self.console).map_or(0, |file| file.len()) == 0 => {
                let socket = socket.display();
                format!("{said} (is `byway engine` running? QEMU waits for it at {socket})")
            }
            _ => said,
        }
    }

    /// Starts it once more if its emulator has ended its boot. Its console starts anew.
    fn start_again(&mut self) -> Result<bool> {
        let was_reset = self.process.ended()?.is_some_and(|status| status.success());
        if !was_reset || self.console().contains(FIRST_PROGRAM) {
            return Ok(false);
        }
        let Some(again) = self.again.as_mut().filter(|again| again.left > 0) else {
            return Ok(false);
        };
        again.left -= 1;
        fs::remove_file(&self.console)?;
        self.process = Process::start(&again.program, &again.arguments, &again.log)?;
        self.listener = Some(again.listener.try_clone()?);
        self.wire = None;
        self.started = Instant::now();
        Ok(true)
    }

    /// What is left of one that does not come up or answer: how its QEMU ended, what that said, and where its kernel was.
    fn last_words(&mut self) -> String {
        // The connection ends a moment before the process.
        let deadline = Instant::now() + Duration::from_secs(1);
        let mut ended = None;
        while ended.is_none() && Instant::now() < deadline {
            ended = self.process.ended().ok().flatten();
            std::thread::sleep(POLL);
        }
        let ended = ended.map_or("its QEMU runs".to_owned(), |status| {
            format!("its QEMU ended ({status})")
        });
        let console = self.console();
        let lines: Vec<_> = console.lines().collect();
        let last = lines[lines.len().saturating_sub(LAST_LINES)..].join("\n");
        format!(
            "{ended}: {}\nthe end of its console:\n{last}",
            self.why_silent()
        )
    }

    fn await_ready(&mut self) -> Result<()> {
        let console = &self.console;
        let (mut said, mut deadline) = (0, Instant::now() + SILENCE_LIMIT);
        let mut silent_until = || {
            let length = fs::metadata(console).map_or(0, |file| file.len());
            if length != said {
                (said, deadline) = (length, Instant::now() + SILENCE_LIMIT);
            }
            deadline
        };
        let wire = self
            .wire
            .as_mut()
            .context("the guest has not been started")?;
        let ready = wire.ready(&mut silent_until);
        let ready = match ready {
            Ok(ready) => ready,
            Err(error) => {
                let last_words = self.last_words();
                let why = format!("{} did not boot: {last_words}", self.name);
                return Err(error).context(why);
            }
        };
        ensure!(
            ready.failed_modules.is_empty(),
            "{} could not load {:?}; see its console",
            self.name,
            ready.failed_modules
        );
        self.ready = Some(ready);
        Ok(())
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Release of its kernel, as `uname -r` says it.
    #[must_use]
    pub fn release(&self) -> &str {
        self.ready.as_ref().map_or("", |ready| &ready.release)
    }

    /// Runs a shell command and waits for its end, whatever its status.
    ///
    /// # Errors
    /// When the guest does not answer.
    pub fn run(&mut self, command: &str) -> Result<Output> {
        self.run_within(command, COMMAND_LIMIT)
    }

    /// As [`Guest::run`], with a limit of its own, after which the command is killed in the guest
    /// (status 137).
    ///
    /// # Errors
    /// When the guest does not answer: a command that cannot be killed.
    pub fn run_within(&mut self, command: &str, limit: Duration) -> Result<Output> {
        let limit = limit * self.slowness;
        let wire = self
            .wire
            .as_mut()
            .context("the guest has not been started")?;
        let answer = wire
            .send(command, limit)
            .and_then(|sent| wire.answer(sent, Instant::now() + limit + GRACE));
        match answer {
            Ok(output) => Ok(output),
            Err(error) => {
                let last_words = self.last_words();
                Err(error).with_context(|| format!("{}: {command}: {last_words}", self.name))
            }
        }
    }

    /// Runs a command that has to succeed; returns what it printed, without the last line's end.
    ///
    /// # Errors
    /// When its status is not 0; the error has what it printed.
    pub fn ok(&mut self, command: &str) -> Result<String> {
        let output = self.run(command)?;
        ensure!(
            output.status == 0,
            "{}: {command}: exit status {}: {}",
            self.name,
            output.status,
            output.text.trim_end()
        );
        Ok(output.text.trim_end().to_owned())
    }

    /// Runs a command that has to fail, with these words in what it prints.
    ///
    /// # Errors
    /// When it succeeds, is killed, or says something else.
    pub fn refused(&mut self, command: &str, words: &str) -> Result<String> {
        let output = self.run(command)?;
        ensure!(
            (1..128).contains(&output.status) && output.text.contains(words),
            "{}: {command}: expected it to fail with {words:?}, found exit status {}: {}",
            self.name,
            output.status,
            output.text.trim_end()
        );
        Ok(output.text)
    }

    /// Starts a command in the background.
    ///
    /// # Errors
    /// When the guest does not answer.
    pub fn spawn(&mut self, command: &str) -> Result<Job> {
        self.jobs += 1;
        let job = self.jobs;
        let quoted = command.replace('\'', r"'\''");
        self.ok(&format!(
            "cat >/tmp/job-{job}.sh <<'GUEST_JOB_END'\n{command}\nGUEST_JOB_END\n\
             setsid sh -c 'sh /tmp/job-{job}.sh; echo $? >/tmp/job-{job}.new; \
             mv /tmp/job-{job}.new /tmp/job-{job}.status' \
             >/tmp/job-{job}.out 2>&1 </dev/null & : '{quoted}'"
        ))?;
        Ok(Job(job))
    }

    /// What a background command has printed so far.
    ///
    /// # Errors
    /// When the guest does not answer.
    pub fn printed(&mut self, job: &Job) -> Result<String> {
        self.ok(&format!("cat /tmp/job-{}.out", job.0))
    }

    /// Waits until a background command has printed these words.
    ///
    /// # Errors
    /// When it has not within the limit, or ended before.
    pub fn wait_for(&mut self, job: &Job, words: &str, limit: Duration) -> Result<()> {
        let limit = limit * self.slowness;
        let deadline = Instant::now() + limit;
        loop {
            let ended = self.run(&format!("cat /tmp/job-{}.status", job.0))?.status == 0;
            let printed = self.printed(job)?;
            if printed.contains(words) {
                return Ok(());
            }
            let name = &self.name;
            ensure!(
                !ended,
                "{name}: ended before it printed {words:?}: {printed}"
            );
            ensure!(
                Instant::now() < deadline,
                "{name}: no {words:?} within {limit:?}: {printed}"
            );
            std::thread::sleep(POLL);
        }
    }

    /// Waits for the end of a background command.
    ///
    /// # Errors
    /// When it does not end within the limit.
    pub fn wait(&mut self, job: &Job, limit: Duration) -> Result<Output> {
        let status = format!("/tmp/job-{}.status", job.0);
        let seconds = (limit * self.slowness).as_secs();
        let waited = self.run_within(
            &format!(
                "n=0; while [ ! -e {status} ] && [ $n -lt $(({seconds} * 10)) ]; do \
                 usleep 100000; n=$((n + 1)); done; cat {status}"
            ),
            limit + GRACE,
        )?;
        let text = self.printed(job)?;
        ensure!(
            waited.status == 0,
            "{}: a command did not end within {limit:?}; it printed: {text}",
            self.name
        );
        Ok(Output {
            status: waited.text.trim().parse().context("a job's exit status")?,
            text,
        })
    }

    /// Waits for the end of a background command that has to succeed.
    ///
    /// # Errors
    /// When it does not end within the limit or fails.
    pub fn wait_ok(&mut self, job: &Job, limit: Duration) -> Result<String> {
        let output = self.wait(job, limit)?;
        ensure!(
            output.status == 0,
            "{}: a command in the background failed with exit status {}: {}",
            self.name,
            output.status,
            output.text
        );
        Ok(output.text)
    }

    /// Reboots it at once, with everything in flight and no driver told, and waits until it is up again.
    ///
    /// # Errors
    /// When it does not come up.
    pub fn reboot(&mut self) -> Result<()> {
        let before = self.ready.take().map(|ready| ready.boot_id);
        let wire = self
            .wire
            .as_mut()
            .context("the guest has not been started")?;
        wire.send("echo b >/proc/sysrq-trigger", COMMAND_LIMIT)?;
        self.await_ready()?;
        let after = self.ready.as_ref().map(|ready| ready.boot_id.clone());
        ensure!(before != after, "{} did not reboot", self.name);
        Ok(())
    }

    /// Kills its QEMU, as a crash of the VMM would.
    pub fn kill(&mut self) {
        self.process.kill();
        self.wire = None;
    }

    /// Stops its QEMU where it is (SIGSTOP), or has it go on: a VM that stands still.
    ///
    /// # Errors
    /// When the signal cannot be sent.
    pub fn stop(&self, stopped: bool) -> Result<()> {
        self.process.stop(stopped)
    }

    /// Plugs RAM in, as much as [`Machine::more_mib`] says, once. Its kernel has to be told to use it.
    ///
    /// # Errors
    /// When QEMU refuses.
    pub fn plug_memory(&self, mib: u32) -> Result<()> {
        self.monitor.say(&format!(
            "object_add memory-backend-memfd,id=more,size={mib}M,share=on"
        ))?;
        self.monitor.say("device_add pc-dimm,id=dimm,memdev=more")
    }

    /// Asks its kernel to give that RAM up, and waits until it has.
    ///
    /// # Errors
    /// When it does not.
    pub fn unplug_memory(&self) -> Result<()> {
        self.monitor.say("device_del dimm")?;
        let deadline = Instant::now() + COMMAND_LIMIT * self.slowness;
        // There is no object of that name as long as a device uses it.
        while let Err(error) = self.monitor.say("object_del more") {
            ensure!(
                Instant::now() < deadline,
                "{}: its kernel keeps the memory: {error}",
                self.name
            );
            std::thread::sleep(POLL);
        }
        Ok(())
    }

    /// Process id of its QEMU.
    #[must_use]
    pub fn process_id(&self) -> u32 {
        self.process.id()
    }

    /// What has come on its console so far.
    #[must_use]
    pub fn console(&self) -> String {
        let bytes = fs::read(&self.console).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// What every test ends with: nothing in the kernel's log says that something is wrong with it, and,
    /// unless the guest was killed, its taint does not either.
    ///
    /// # Errors
    /// With the lines that were found.
    pub fn check(&mut self) -> Result<()> {
        if self.wire.is_some() {
            let taint: u64 = self.ok("cat /proc/sys/kernel/tainted")?.parse()?;
            let wrong = console::wrong_taint(taint);
            ensure!(
                wrong == 0,
                "{}: kernel taint {wrong:#x}: {:#?}",
                self.name,
                console::alarms(&self.console())
            );
        }
        let log = self.console();
        let alarms = console::alarms(&log);
        ensure!(
            alarms.is_empty(),
            "{}: the kernel complains: {alarms:#?}",
            self.name
        );
        Ok(())
    }
}
