//! The half of `kill` in which a VMM is killed as a process, and the engine is a process of its own.
//!
//! Both are this program, started again. The VMM that is to die attaches to the daemon like `byway run --engine` does
//! and takes orders a line each, on its standard input; it answers with a line each.

use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use byway_engine::daemon::RemoteEngine;
use byway_engine::interface::{Action, Reply};
use byway_engine::vhost_user::wait;

use super::{
    BUFFER, DEPTH, POLLED, Party, SHARE, beside_others, expect_nothing_lands, expect_revoked,
};
use crate::signals::Stop;
use crate::stress::cast::{self, ALL, APP, Cast, accept, memmove, offer};
use crate::stress::plan::{Dice, Plan};
use crate::stress::report::CaseRow;

/// The VM whose VMM is killed.
const DEAD: &str = "mallory";
/// The one in this process with which it exchanges memory.
const SURVIVOR: &str = "bob";
/// How long a child may take to be ready; the daemon may yet be busy with the end of the one before.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long a VMM may take to carry out an order. It has patience of its own, with its guest and with the daemon, and says what
/// it was that did not answer, if it can.
const ORDER_MAX: Duration = Duration::from_secs(90);
/// How long the host may take to take a process apart that was killed.
const END_MAX: Duration = Duration::from_secs(60);
/// Between two looks whether it is.
const LOOK_EVERY: Duration = Duration::from_millis(5);
/// Between two looks whether to stop, while a child is waited for.
const STOP_EVERY: Duration = Duration::from_millis(50);

/// Runs this half.
///
/// # Errors
/// When the processes or the VMs cannot be made ready.
pub fn run(plan: &Plan<'_>, row: &mut CaseRow) -> Result<()> {
    let (guest_core, engine_core) = cast::cores();
    let daemon = Daemon::start(engine_core, plan.stop)?;
    let names = [SURVIVOR, DEAD, "carol", "dave"];
    let bind = guest_core != engine_core;
    let cast = Cast::of(daemon.remote.clone(), &names, guest_core, bind, plan.stop)?;
    let survivor = Party::boot(&cast, SURVIVOR)?;
    let round =
        |dice: &mut Dice, row: &mut CaseRow| round(&daemon, &survivor, plan.stop, dice, row);
    // Before the VMs that are attached to it: one that does not answer would be waited for by each of them.
    beside_others(plan, &cast, row, round, || daemon.begin_end())
}

/// One VMM lives and dies.
fn round(
    daemon: &Daemon,
    survivor: &Party,
    stop: &Stop,
    dice: &mut Dice,
    row: &mut CaseRow,
) -> Result<()> {
    let mut vmm = Vmm::start(&daemon.folder.0, stop)?;
    let bytes = (SHARE >> dice.below(8)).max(64);
    let Party { guest, buffer } = survivor;
    if dice.below(2) == 0 {
        vmm.ask("give")?;
        let held = accept(guest)?;
        let put = memmove((0, *buffer), (held, 0), bytes);
        let flood = guest.start_flood(APP, &put, DEPTH)?;
        std::thread::sleep(Duration::from_micros(dice.below(4000)));
        vmm.kill()?;
        // Until the daemon hears of it the copies go on: the memory is there for as long as it has it.
        daemon.await_detached(stop)?;
        let ran = guest
            .stop_flood(flood)
            .context("the survivor's copies to the dead")?;
        expect_revoked(survivor, &put, &ran, row)?;
        guest.drop_capability(APP, held)?;
    } else {
        let given = offer(guest, DEAD, *buffer, BUFFER, ALL)?;
        guest.sleep()?;
        vmm.ask(&format!("put {bytes}"))?;
        std::thread::sleep(Duration::from_micros(dice.below(4000)));
        vmm.kill()?;
        daemon.await_detached(stop)?;
        expect_nothing_lands(survivor, dice, row)?;
        guest.revoke(APP, given)?;
        guest.drop_capability(APP, given)?;
    }
    *row.killed.get_or_insert(0) += 1;
    Ok(())
}

/// This program, to be started again with `arguments`. It does not hear of Ctrl-C, and ends with the thread that
/// starts it at the latest.
fn again(arguments: &[&str]) -> Result<Command> {
    let program = std::env::current_exe().context("cannot find this program's file")?;
    let mut command = Command::new(program);
    command.args(arguments).process_group(0);
    let die_with_parent = || {
        // SAFETY: sets a property of the calling process; takes no pointer.
        match unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    };
    // SAFETY: one system call, which is safe between fork and exec; it allocates nothing.
    unsafe { command.pre_exec(die_with_parent) };
    Ok(command)
}

/// A folder that goes when this is dropped.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Result<Self> {
        let name = format!("byway-stress-{}", std::process::id());
        let path = std::env::temp_dir().join(name);
        fs::create_dir(&path).with_context(|| format!("cannot make {}", path.display()))?;
        Ok(Self(path))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// `byway engine` as a child, killed when this is dropped.
struct Daemon {
    child: Child,
    remote: RemoteEngine,
    /// Of its sockets; its settings and what it says are there too.
    folder: Folder,
}

impl Daemon {
    fn start(core: usize, stop: &Stop) -> Result<Self> {
        let folder = Folder::new()?;
        let (config, log) = (folder.0.join("engine.toml"), folder.0.join("engine.log"));
        let settings = format!(
            "[engine]\nworkers = 1\npin = [{core}]\nspin_us = {}\n",
            POLLED.as_micros()
        );
        fs::write(&config, settings).context("cannot write the daemon's settings")?;
        let sockets = folder.0.join("sockets");
        let child = again(&["engine"])?
            .arg("--socket")
            .arg(&sockets)
            .arg("--config")
            .arg(&config)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(&log).context("cannot write the daemon's log")?)
            .spawn()
            .context("cannot start the daemon")?;
        let mut this = Self {
            child,
            remote: RemoteEngine::new(&sockets),
            folder,
        };
        let deadline = Instant::now() + PATIENCE;
        while let Err(error) = this.remote.ask(&Action::List) {
            stop.check()?;
            let ended = this.child.try_wait()?;
            if ended.is_some() || Instant::now() > deadline {
                let said = fs::read_to_string(&log).unwrap_or_default();
                bail!("the daemon does not come up ({ended:?}): {error}; it says: {said}");
            }
            std::thread::sleep(LOOK_EVERY);
        }
        Ok(this)
    }

    /// Kills it, and does not wait for its end.
    fn begin_end(&self) {
        // SAFETY: takes two numbers; a child that was not waited for keeps its own.
        unsafe { libc::kill(self.child.id() as libc::pid_t, libc::SIGKILL) };
    }

    /// Until it has noticed that the VMM is gone: nothing of it is under way any more.
    fn await_detached(&self, stop: &Stop) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            stop.check()?;
            let Reply::Domains { domains } = self.remote.ask(&Action::List)? else {
                bail!("the daemon lists no domains");
            };
            if !domains.iter().any(|row| row.name == DEAD && row.attached) {
                return Ok(());
            }
            ensure!(
                Instant::now() < deadline,
                "the daemon does not notice that a VMM was killed"
            );
            std::thread::sleep(LOOK_EVERY);
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = kill(&mut self.child);
    }
}

/// `kill -9`, and what is left to the host.
fn kill(child: &mut Child) -> Result<()> {
    child.kill().context("cannot kill a child")?;
    let deadline = Instant::now() + END_MAX;
    while child.try_wait()?.is_none() {
        ensure!(
            Instant::now() < deadline,
            "process {} was killed and has not ended within {END_MAX:?}: a thread of it is in the host's kernel (see \
             /proc/{0}/task/*/stack)",
            child.id()
        );
        std::thread::sleep(LOOK_EVERY / 10);
    }
    Ok(())
}

/// A VMM as a child.
struct Vmm {
    child: Child,
    orders: ChildStdin,
    answers: Answers,
    stop: Stop,
}

/// What a child says, line by line.
struct Answers {
    out: ChildStdout,
    /// Said, and not yet a line.
    rest: Vec<u8>,
}

impl Answers {
    /// The next line, which must come within `patience`; what was said so far when nobody says more.
    fn next(&mut self, patience: Duration, stop: &Stop) -> Result<String> {
        let deadline = Instant::now() + patience;
        loop {
            if let Some(end) = self.rest.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.rest.drain(..=end).collect();
                return Ok(String::from_utf8_lossy(&line).into_owned());
            }
            stop.check()?;
            ensure!(
                Instant::now() < deadline,
                "it has not answered within {patience:?}, and is killed: is it, or the engine that it is attached to, stopped?"
            );
            if wait(&[self.out.as_fd()], Some(STOP_EVERY))?.has(0) {
                let mut bytes = [0; 64];
                match self.out.read(&mut bytes)? {
                    0 => {
                        let rest = std::mem::take(&mut self.rest);
                        return Ok(String::from_utf8_lossy(&rest).into_owned());
                    }
                    read => self.rest.extend_from_slice(&bytes[..read]),
                }
            }
        }
    }
}

impl Vmm {
    /// Comes back when its VM is up.
    fn start(folder: &Path, stop: &Stop) -> Result<Self> {
        let mut child = again(&["stress", "--vmm-of"])?
            .arg(folder.join("sockets"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot start a VMM")?;
        let orders = child.stdin.take().context("it has a standard input")?;
        let out = child.stdout.take().context("it has a standard output")?;
        let rest = Vec::new();
        let mut this = Self {
            child,
            orders,
            answers: Answers { out, rest },
            stop: stop.clone(),
        };
        this.await_done("boot")?;
        Ok(this)
    }

    fn ask(&mut self, order: &str) -> Result<()> {
        writeln!(self.orders, "{order}").context("the VMM takes no orders")?;
        self.await_done(order)
    }

    fn await_done(&mut self, order: &str) -> Result<()> {
        let line = self.answers.next(ORDER_MAX, &self.stop);
        let line = line.with_context(|| format!("a VMM does not {order}"))?;
        // What else there is to say it has said on the standard error.
        ensure!(line == DONE, "a VMM does not {order}: {line:?}");
        Ok(())
    }

    fn kill(&mut self) -> Result<()> {
        kill(&mut self.child)
    }
}

impl Drop for Vmm {
    fn drop(&mut self) {
        let _ = self.kill();
    }
}

/// A VMM's answer to an order.
const DONE: &str = "done\n";

/// What the VMM does, until it is killed or nobody gives it orders.
///
/// # Errors
/// When its VM does not come up, or the engine refuses.
pub fn be_killed(folder: &Path) -> Result<()> {
    let engine = RemoteEngine::new(folder);
    let (core, _) = cast::cores();
    // It is killed, and told nothing.
    let cast = Cast::of(engine, &[], core, false, &Stop::default())?;
    let party = attach_in_time(&cast)?;
    let Party { guest, buffer } = &party;
    answer()?;
    let mut under_way = Vec::new();
    for order in io::stdin().lines() {
        let order = order?;
        match order.split_once(' ') {
            None if order == "give" => {
                offer(guest, SURVIVOR, *buffer, BUFFER, ALL)?;
                guest.sleep()?;
            }
            Some(("put", bytes)) => {
                let put = memmove((0, *buffer), (accept(guest)?, 0), bytes.parse()?);
                under_way.push(guest.start_flood(APP, &put, DEPTH)?);
            }
            _ => bail!("no such order: {order:?}"),
        }
        answer()?;
    }
    Ok(())
}

/// The one before it may yet be attached.
fn attach_in_time(cast: &Cast<RemoteEngine>) -> Result<Party> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match Party::boot(cast, DEAD) {
            Ok(party) => return Ok(party),
            Err(_) if Instant::now() < deadline => std::thread::sleep(LOOK_EVERY),
            Err(error) => return Err(error),
        }
    }
}

fn answer() -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(DONE.as_bytes())?;
    out.flush()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::signals::Interrupted;

    /// Says something, and then nothing more, for much longer than any test takes.
    fn mute(text: &str) -> (Child, Answers) {
        let mut child = Command::new("sh")
            .args(["-c", &format!("printf '{text}'; exec sleep 3600")])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let out = child.stdout.take().unwrap();
        let rest = Vec::new();
        (child, Answers { out, rest })
    }

    #[test]
    fn a_child_that_says_no_more_is_not_waited_for_for_ever() {
        let (mut child, mut answers) = mute("one\\ntwo\\nthr");
        let (stop, short) = (Stop::default(), Duration::from_millis(50));
        for line in ["one\n", "two\n"] {
            assert_eq!(answers.next(PATIENCE, &stop).unwrap(), line);
        }
        let late = answers.next(short, &stop).unwrap_err().to_string();
        assert!(late.contains("has not answered within 50ms"), "{late}");
        // Nor is one that was stopped, nor when this process is told to stop.
        // SAFETY: takes two numbers; the child was not waited for, so the first is its own.
        assert_eq!(unsafe { libc::kill(child.id() as i32, libc::SIGSTOP) }, 0);
        assert!(answers.next(short, &stop).is_err());
        stop.set();
        let since = Instant::now();
        let told = answers.next(Duration::from_secs(3600), &stop).unwrap_err();
        assert!(told.is::<Interrupted>() && since.elapsed() < PATIENCE);
        kill(&mut child).unwrap();
        let rest = answers.next(PATIENCE, &Stop::default()).unwrap();
        assert_eq!(rest, "thr");
    }
}
