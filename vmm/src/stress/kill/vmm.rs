//! The half of `kill` in which a VMM is killed as a process, and the engine is a process of its own.
//!
//! Both are this program, started again. The VMM that is to die attaches to the daemon like `byway run --engine` does
//! and takes orders a line each, on its standard input; it answers with a line each.

use std::fs::{self, File};
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use byway_engine::daemon::RemoteEngine;
use byway_engine::interface::{Action, Reply};

use super::{
    BUFFER, DEPTH, POLLED, Party, SHARE, beside_others, expect_nothing_lands, expect_revoked,
};
use crate::stress::cast::{self, ALL, APP, Cast, accept, memmove, offer};
use crate::stress::plan::{Dice, Plan};
use crate::stress::report::CaseRow;

/// The VM whose VMM is killed.
const DEAD: &str = "mallory";
/// The one in this process with which it exchanges memory.
const SURVIVOR: &str = "bob";
/// How long a child may take to be ready; the daemon may yet be busy with the end of the one before.
const PATIENCE: Duration = Duration::from_secs(20);
/// Between two looks whether it is.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// Runs this half.
///
/// # Errors
/// When the processes or the VMs cannot be made ready.
pub fn run(plan: &Plan<'_>, row: &mut CaseRow) -> Result<()> {
    let (guest_core, engine_core) = cast::cores();
    let daemon = Daemon::start(engine_core)?;
    let names = [SURVIVOR, DEAD, "carol", "dave"];
    let bind = guest_core != engine_core;
    let cast = Cast::of(daemon.remote.clone(), &names, guest_core, bind)?;
    let survivor = Party::boot(&cast, SURVIVOR)?;
    beside_others(plan, &cast, row, |dice, row| {
        round(&daemon, &survivor, dice, row)
    })
}

/// One VMM lives and dies.
fn round(daemon: &Daemon, survivor: &Party, dice: &mut Dice, row: &mut CaseRow) -> Result<()> {
    let mut vmm = Vmm::start(&daemon.folder.0)?;
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
        daemon.await_detached()?;
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
        daemon.await_detached()?;
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
    fn start(core: usize) -> Result<Self> {
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
            let ended = this.child.try_wait()?;
            if ended.is_some() || Instant::now() > deadline {
                let said = fs::read_to_string(&log).unwrap_or_default();
                bail!("the daemon does not come up ({ended:?}): {error}; it says: {said}");
            }
            std::thread::sleep(LOOK_EVERY);
        }
        Ok(this)
    }

    /// Until it has noticed that the VMM is gone: nothing of it is under way any more.
    fn await_detached(&self) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        loop {
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
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A VMM as a child.
struct Vmm {
    child: Child,
    orders: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Vmm {
    /// Comes back when its VM is up.
    fn start(folder: &Path) -> Result<Self> {
        let mut child = again(&["stress", "--vmm-of"])?
            .arg(folder.join("sockets"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot start a VMM")?;
        let orders = child.stdin.take().context("it has a standard input")?;
        let answers = child.stdout.take().context("it has a standard output")?;
        let mut this = Self {
            child,
            orders,
            answers: BufReader::new(answers),
        };
        this.await_done("boot")?;
        Ok(this)
    }

    fn ask(&mut self, order: &str) -> Result<()> {
        writeln!(self.orders, "{order}").context("the VMM takes no orders")?;
        self.await_done(order)
    }

    fn await_done(&mut self, order: &str) -> Result<()> {
        let mut line = String::new();
        self.answers.read_line(&mut line)?;
        // What else there is to say it has said on the standard error.
        ensure!(line == DONE, "a VMM does not {order}: {line:?}");
        Ok(())
    }

    /// `kill -9`.
    fn kill(&mut self) -> Result<()> {
        self.child.kill().context("cannot kill the VMM")?;
        self.child.wait()?;
        Ok(())
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
    let cast = Cast::of(engine, &[], core, false)?;
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
