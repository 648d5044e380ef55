//! `byway engine` and the commands that ask it, as programs: answers, exit codes, signals. Only
//! `byway run --engine` needs KVM.

mod common;

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use byway_vmm::seccomp::{DENIED_CODE, Kind};
use common::engine::{CONFIG, Engine, byway, fails, ok, sockets};

#[test]
fn an_engine_is_operated_by_commands() {
    let folder = tempfile::tempdir().unwrap();
    let dir = &sockets(folder.path());
    fails(3, "no engine answers", &["ps", "--engine", dir]);
    let mut engine = Engine::start(folder.path());
    let table = ok(&["ps", "--engine", dir]);
    assert!(table.contains("alice") && table.contains("bob"), "{table}");
    let json: serde_json::Value =
        serde_json::from_str(&ok(&["ps", "--engine", dir, "--json"])).unwrap();
    let alice = &json["domains"][0];
    assert_eq!(alice["name"], "alice");
    assert_eq!(alice["share"]["weight"], 3);
    assert_eq!(alice["walks_2m"], 0);
    let quota = ["quota", "--engine", dir, "alice"];
    assert!(ok(&quota).contains("no limit"));
    let changed = ok(&[&quota[..], &["--bytes-per-s", "1000", "--json"]].concat());
    let json: serde_json::Value = serde_json::from_str(&changed).unwrap();
    assert_eq!(
        (&json["weight"], &json["bytes_per_s"]),
        (&3.into(), &1000.into())
    );
    ok(&[
        "link",
        "--engine",
        dir,
        "bob",
        "alice",
        "--read",
        "--max-bytes",
        "64M",
    ]);
    let done = ok(&["unlink", "--engine", dir, "bob", "alice", "--json"]);
    assert_eq!(done.trim(), r#"{"reply":"done"}"#);
    assert!(ok(&["audit", "--engine", dir, "alice"]).contains("rights"));

    fails(
        2,
        "no domain named",
        &["link", "--engine", dir, "carol", "bob", "--read"],
    );
    fails(
        2,
        "permit nothing",
        &["link", "--engine", dir, "alice", "bob"],
    );
    fails(2, "no domain named", &["audit", "--engine", dir, "carol"]);
    fails(2, "weight", &[&quota[..], &["--weight", "1000"]].concat());
    fails(1, "another engine", &["engine", "--socket", dir]);

    engine.signal(libc::SIGTERM);
    assert_eq!(engine.0.wait().unwrap().code(), Some(0));
    let left: Vec<_> = std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert_eq!(left, ["engine.lock"]);
}

#[test]
fn another_user_is_told_that_he_may_not_operate_it() {
    const NOBODY: u32 = 65534;
    let folder = tempfile::tempdir().unwrap();
    let dir = &sockets(folder.path());
    let _engine = Engine::start(folder.path());
    // SAFETY: no preconditions.
    let own = unsafe { libc::geteuid() };
    for name in ["admin.sock", "alice.sock", "bob.sock", "engine.lock"] {
        let found = std::fs::metadata(Path::new(dir).join(name)).unwrap();
        assert_eq!((found.mode() & 0o777, found.uid()), (0o600, own), "{name}");
    }
    if own != 0 {
        println!("SKIPPED: only root can run a program as another user");
        return;
    }
    // Where anybody can get at it; the build's folder may be private.
    let program = folder.path().join("byway");
    // By another process: what one that forks has open to write, another test's child may have open too for
    // a moment, and a program that somebody may write to cannot be run.
    let copied = Command::new("cp")
        .arg(env!("CARGO_BIN_EXE_byway"))
        .arg(&program)
        .status();
    assert!(copied.unwrap().success());
    let opened = |path: &Path, mode| {
        std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
    };
    opened(folder.path(), 0o755);
    let nobody_fails = |args: &[&str], code, says: &[&str]| {
        let mut command = Command::new(&program);
        let output = command.args(args).uid(NOBODY).gid(NOBODY).output().unwrap();
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{args:?}: {error}");
        assert!(says.iter().all(|says| error.contains(says)), "{error}");
    };
    let ps = ["ps", "--engine", dir];
    let link = ["link", "--engine", dir, "bob", "alice", "--read"];
    // By the modes, with the question that leads to the answer.
    let by_mode = ["Permission denied", "may this user open its socket?"];
    nobody_fails(&ps, 3, &by_mode);
    nobody_fails(&link, 3, &by_mode);
    // And by who he is, should somebody have opened the socket to all.
    opened(&Path::new(dir).join("admin.sock"), 0o666);
    let by_user = ["only processes of user 0 may operate this engine"];
    nobody_fails(&ps, 1, &by_user);
    nobody_fails(&link, 1, &by_user);
    assert!(ok(&ps).contains("alice"));
}

#[test]
fn an_engine_whose_log_nobody_reads_serves_on() {
    let folder = tempfile::tempdir().unwrap();
    let dir = &sockets(folder.path());
    let _engine = Engine::start(folder.path());
    let socket = Path::new(dir).join("alice.sock");
    // Something to log: a front end that does not know the protocol.
    let mut rude = std::os::unix::net::UnixStream::connect(&socket).unwrap();
    rude.write_all(&[0xff; 64]).unwrap();
    let _ = rude.set_read_timeout(Some(Duration::from_secs(20)));
    let _ = rude.read_to_end(&mut Vec::new());
    drop(rude);
    byway_engine::vhost_user::RemoteDomain::connect(&socket).unwrap();
    assert!(ok(&["ps", "--engine", dir]).contains("alice"));
}

#[test]
fn an_engine_that_was_killed_is_followed_by_another() {
    let folder = tempfile::tempdir().unwrap();
    let dir = &sockets(folder.path());
    let mut engine = Engine::start(folder.path());
    engine.signal(libc::SIGKILL);
    assert_eq!(engine.0.wait().unwrap().signal(), Some(libc::SIGKILL));
    fails(3, "no engine answers", &["ps", "--engine", dir]);
    let mut engine = Engine::start(folder.path());
    ok(&["ps", "--engine", dir]);
    // A front end that says nothing holds nobody up.
    let idle = std::os::unix::net::UnixStream::connect(Path::new(dir).join("bob.sock")).unwrap();
    let since = Instant::now();
    engine.signal(libc::SIGINT);
    assert_eq!(engine.0.wait().unwrap().code(), Some(0));
    assert!(since.elapsed() < Duration::from_secs(60));
    drop(idle);
}

/// What the host's kernel says of each thread of a process: its name and, from its status, whether it may get new privileges, the
/// mode of its system calls (2: filtered) and the number of its filters.
fn threads(pid: u32) -> Vec<(String, [u32; 3])> {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let status = |task: std::io::Result<std::fs::DirEntry>| {
        // One that has ended meanwhile has none.
        let text = std::fs::read_to_string(task.ok()?.path().join("status")).ok()?;
        let value = |key| Some(text.lines().find_map(|l| l.strip_prefix(key))?.trim());
        let number = |key| value(key)?.parse().ok();
        let numbers = [
            number("NoNewPrivs:")?,
            number("Seccomp:")?,
            number("Seccomp_filters:")?,
        ];
        Some((value("Name:")?.to_owned(), numbers))
    };
    tasks.filter_map(status).collect()
}

fn own_filters() -> u32 {
    let [_, _, filters] = threads(std::process::id())[0].1;
    filters
}

/// Each thread has more than the filter of all: those that were there at first, and those that come with an operator's wishes.
#[test]
fn every_thread_of_an_engine_is_confined() {
    let folder = tempfile::tempdir().unwrap();
    let dir = &sockets(folder.path());
    let engine = Engine::start(folder.path());
    let disk = folder.path().join("disk.img");
    std::fs::write(&disk, [7; 1 << 16]).unwrap();
    let mut operator =
        std::os::unix::net::UnixStream::connect(Path::new(dir).join("admin.sock")).unwrap();
    let mut answers = BufReader::new(operator.try_clone().unwrap()).lines();
    let mut ask = |what: serde_json::Value| {
        writeln!(operator, "{what}").unwrap();
        let answer = answers.next().unwrap().unwrap();
        assert_eq!(answer, r#"{"reply":"done"}"#, "{what}");
    };
    ask(serde_json::json!({"action": "create-domain", "name": "carol"}));
    ask(serde_json::json!({"action": "admit", "name": "carol", "uid": 1}));
    for kind in ["file", "nvme-model"] {
        ask(
            serde_json::json!({"action": "attach-endpoint", "name": kind, "kind": kind, "path": disk}),
        );
    }
    byway_engine::vhost_user::RemoteDomain::connect(&Path::new(dir).join("bob.sock")).unwrap();
    let all = [
        "byway",
        "byway-worker-0",
        "byway-control",
        "byway-admin",
        "byway-operator",
        "byway-blk-watch",
        "byway-nvme-mode",
        "vu-alice",
        "vu-bob",
        "vu-carol",
    ];
    // Whoever runs this test may have a filter of his own on everything.
    let own = own_filters();
    // One that was just started has yet to come so far.
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let found = threads(engine.0.id());
        let is_confined = |(_, [privileges, mode, filters]): &(String, [u32; 3])| {
            (*privileges, *mode) == (1, 2) && *filters >= own + 2
        };
        let is_there = |name: &&str| found.iter().any(|(found, _)| found == name);
        if found.iter().all(is_confined) && all.iter().all(is_there) {
            break;
        }
        assert!(Instant::now() < deadline, "{found:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
    // What an operator takes away, and what goes with the engine.
    ask(serde_json::json!({"action": "detach-endpoint", "name": "file"}));
    ask(serde_json::json!({"action": "remove-domain", "name": "carol"}));
    engine.signal(libc::SIGTERM);
    let mut engine = engine;
    assert_eq!(engine.0.wait().unwrap().code(), Some(0));
}

#[test]
fn an_engine_without_filters_is_to_be_had() {
    let folder = tempfile::tempdir().unwrap();
    let engine = Engine::start_with(folder.path(), &["--no-seccomp"]);
    let found = threads(engine.0.id());
    let own = own_filters();
    let has_none = |(_, [_, _, filters]): &(String, [u32; 3])| *filters == own;
    assert!(found.iter().all(has_none), "{found:?}");
}

#[cfg(debug_assertions)]
#[test]
fn a_system_call_that_an_engine_is_denied_is_told_and_ends_it() {
    let folder = tempfile::tempdir().unwrap();
    let dir = &sockets(folder.path());
    let test = "--test-denied-call";
    // 128 and the number of SIGSYS.
    fails(
        159,
        "a worker's thread made the system call socket (41), which its filter does not permit",
        &["engine", "--socket", dir, test],
    );
    // What it left behind keeps nobody from being the next.
    let _engine = Engine::start_with(folder.path(), &["--no-seccomp", test]);
    ok(&["ps", "--engine", dir]);
}

/// `byway ps --watch` until it has said `what` for a second time.
fn watch(command: &mut Command, what: &str) -> (Child, String) {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let (mut said, mut part) = (String::new(), [0; 4096]);
    while said.matches(what).count() < 2 {
        let bytes = child.stdout.as_mut().unwrap().read(&mut part).unwrap();
        assert_ne!(bytes, 0, "it has ended: {said}");
        said += &String::from_utf8_lossy(&part[..bytes]);
    }
    (child, said)
}

#[test]
fn what_is_used_can_be_watched() {
    let folder = tempfile::tempdir().unwrap();
    let dir = &sockets(folder.path());
    fails(2, "0.1 to 3600", &["ps", "--watch=0"]);
    fails(3, "no engine answers", &["ps", "--watch", "--engine", dir]);
    let engine = Engine::start(folder.path());
    let ps = |json: bool| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_byway"));
        command.args(["ps", "--watch=0.1", "--engine", dir]);
        command.args(json.then_some("--json"));
        command
    };
    // Nobody reads it any more: that is its end, and no failure.
    let (mut child, said) = watch(&mut ps(false), "bytes/s");
    assert!(!said.contains('\x1b'), "{said:?}");
    drop(child.stdout.take());
    assert_eq!(child.wait().unwrap().code(), Some(0));
    // The engine is away: so it says.
    let (mut child, said) = watch(&mut ps(true), "}\n");
    let lines: Vec<serde_json::Value> = said
        .split_inclusive('\n')
        .filter(|line| line.ends_with('\n'))
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(lines[0]["domains"][0]["name"], "alice");
    let when = |line: &serde_json::Value| line["unix_ms"].as_u64().unwrap();
    assert!(when(&lines[1]) > when(&lines[0]));
    drop(engine);
    let mut rest = Vec::new();
    child.stdout.take().unwrap().read_to_end(&mut rest).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(3));
    assert!(String::from_utf8_lossy(&output.stderr).contains("no engine answers"));
}

#[test]
fn a_terminal_shows_one_table_that_changes() {
    let folder = tempfile::tempdir().unwrap();
    let dir = &sockets(folder.path());
    let _engine = Engine::start(folder.path());
    let byway = env!("CARGO_BIN_EXE_byway");
    let line = format!("stty rows 6 cols 300; exec {byway} ps --watch=0.1 --engine {dir}");
    let mut script = Command::new("script");
    script.args(["--quiet", "--command", &line, "/dev/null"]);
    if let Err(error) = Command::new("script").arg("--version").output() {
        println!("SKIPPED: no terminal, since script (package bsdutils) cannot be run: {error}");
        return;
    }
    let (mut child, said) = watch(&mut script, "\x1b[H");
    let _ = child.kill();
    let _ = child.wait();
    let frames: Vec<_> = said.split("\x1b[H").skip(1).collect();
    // Top, header, line between, and two domains; the terminal has no room for the table's end.
    assert_eq!(frames[0].lines().count(), 6, "{:?}", frames[0]);
    assert!(frames[0].contains("alice") && frames[0].contains("bob"));
}

/// Names of the domains that have a VMM.
fn attached(dir: &str) -> Vec<String> {
    let json: serde_json::Value =
        serde_json::from_str(&ok(&["ps", "--engine", dir, "--json"])).unwrap();
    let domains = json["domains"].as_array().unwrap().iter();
    let attached = domains.filter(|domain| domain["attached"] == true);
    attached
        .map(|d| d["name"].as_str().unwrap().to_owned())
        .collect()
}

/// Reads lines until one contains `what`.
#[track_caller]
fn until_said(lines: &mut impl Iterator<Item = std::io::Result<String>>, what: &str) {
    let said = lines.map(Result::unwrap).any(|line| line.contains(what));
    assert!(said, "it ended without saying {what:?}");
}

#[test]
fn vms_follow_their_engine() {
    if let Err(error) = byway_vmm::host::open_kvm() {
        println!("SKIPPED: {error}");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let dir = &sockets(folder.path());
    let vms = folder.path().join("vms.toml");
    let vm =
        "[[vm]]\nname = \"alice\"\nimage = \"byway-guest\"\nmemory = \"64M\"\nserial = \"off\"\n";
    std::fs::write(&vms, vm).unwrap();
    let vms = vms.to_str().unwrap();
    fails(3, "cannot attach", &["run", "--engine", dir, vms]);
    let engine = Engine::start(folder.path());
    let api = folder.path().join("api");
    let api = api.to_str().unwrap();
    let mut child = Command::new(env!("CARGO_BIN_EXE_byway"))
        .args(["run", "--engine", dir, "--api", api, vms])
        .stdin(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = BufReader::new(child.stderr.take().unwrap()).lines();
    let mut run = Engine(child);
    let deadline = Instant::now() + Duration::from_secs(60);
    // Attached is not up yet: an engine that goes in between ends the VMM.
    let is_up = || {
        let listed = byway(&["vm", "list", "--api", api]);
        String::from_utf8_lossy(&listed.stdout).contains("running")
    };
    while attached(dir) != ["alice"] || !is_up() {
        assert!(Instant::now() < deadline && run.0.try_wait().unwrap().is_none());
        std::thread::sleep(Duration::from_millis(20));
    }
    // A second VMM of that name is refused, and the first one left alone.
    fails(3, "cannot attach", &["run", "--engine", dir, vms]);
    engine.signal(libc::SIGKILL);
    drop(engine);
    until_said(&mut said, "alice has lost its engine");
    let engine = Engine::start(folder.path());
    until_said(&mut said, "alice is attached again");
    assert_eq!(attached(dir), ["alice"]);
    run.signal(libc::SIGTERM);
    assert_eq!(run.0.wait().unwrap().code(), Some(0));
    drop(engine);
}

#[test]
fn what_cannot_be_is_said_before_anything_starts() {
    let folder = tempfile::tempdir().unwrap();
    let dir = &sockets(folder.path());
    let file = |text: &str| {
        let path = folder.path().join("file.toml");
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let wrong = file("[[domain]]\nname = \"a\"\nmemory = 1\n");
    fails(
        2,
        "file.toml:3",
        &["engine", "--socket", dir, "--config", &wrong],
    );
    assert!(!Path::new(dir).exists());
    let good = file(CONFIG);
    ok(&["engine", "--socket", dir, "--config", &good, "--check"]);
    assert!(!Path::new(dir).exists());
    let vm = "[[vm]]\nname = \"a\"\nimage = \"byway-guest\"\nmemory = \"64M\"\n";
    let limited = file(&format!("{vm}[vm.quotas]\nqueues = 1\n"));
    fails(
        2,
        "engine's operator",
        &["run", "--engine", dir, "--check", &limited],
    );
}

/// Which of the system calls of [`make`] this program makes, when a test has started it again, and as which kind of thread.
const ROLE: &str = "BYWAY_TEST_ROLE";
const TEST: &str = "a_thread_that_goes_beyond_its_kind_ends_the_process";

fn make(call: &str) {
    let path = c"/dev/null".as_ptr();
    let none = std::ptr::null::<libc::c_char>();
    // SAFETY: calls that are denied, and do no harm where they are not.
    unsafe {
        match call {
            "openat" => libc::syscall(libc::SYS_openat, libc::AT_FDCWD, path, libc::O_RDONLY),
            "socket" => libc::syscall(libc::SYS_socket, libc::AF_INET, libc::SOCK_DGRAM, 0),
            "connect" => libc::syscall(libc::SYS_connect, -1, none, 0),
            "execve" => libc::syscall(libc::SYS_execve, path, none, none),
            "ptrace" => libc::syscall(libc::SYS_ptrace, libc::PTRACE_TRACEME, 0, none, none),
            "clone" => libc::syscall(libc::SYS_clone, libc::SIGCHLD, none, none, none, 0),
            "clone3" => libc::syscall(libc::SYS_clone3, none, 0),
            "io_uring_setup" => libc::syscall(libc::SYS_io_uring_setup, 0, none),
            "io_uring_register" => libc::syscall(libc::SYS_io_uring_register, -1, 4, none, 0),
            "rt_sigaction" => libc::syscall(libc::SYS_rt_sigaction, libc::SIGSYS, none, none, 8),
            "mmap" => {
                let (code, anyhow) = (libc::PROT_EXEC, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
                libc::syscall(libc::SYS_mmap, none, 4096, code, anyhow, -1, 0)
            }
            "tgkill" => libc::syscall(libc::SYS_tgkill, 1, 1, 0),
            "mprotect" => libc::syscall(libc::SYS_mprotect, none, 4096, libc::PROT_EXEC),
            other => panic!("{other}"),
        }
    };
}

fn play(role: &str) {
    let (kind, call) = role.split_once(' ').unwrap();
    let kind = match kind {
        "worker" => Kind::Worker,
        "control" => Kind::Control,
        "session" => Kind::Session,
        "main" => Kind::Main,
        "operator" => Kind::Operator,
        "watch" => Kind::Watch,
        "model" => Kind::Model,
        other => panic!("{other}"),
    };
    byway_vmm::daemon::confine().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            byway_vmm::seccomp::narrow(kind);
            make(call);
        });
    });
}

#[test]
fn a_thread_that_goes_beyond_its_kind_ends_the_process() {
    if let Ok(role) = std::env::var(ROLE) {
        return play(&role);
    }
    let narrow = "openat socket connect execve ptrace clone clone3 io_uring_setup io_uring_register \
        rt_sigaction mmap mprotect tgkill";
    let operator = "socket execve ptrace clone io_uring_register rt_sigaction mmap mprotect tgkill";
    for (kind, thread, calls) in [
        ("worker", "a worker's", narrow),
        ("control", "the control", narrow),
        ("session", "a front end's", narrow),
        ("main", "the main", narrow),
        ("watch", "a device's watching", narrow),
        ("model", "a model's", narrow),
        ("operator", "an operator's", operator),
    ] {
        for call in calls.split_whitespace() {
            let output = Command::new(std::env::current_exe().unwrap())
                .args([TEST, "--exact", "--nocapture"])
                .env(ROLE, format!("{kind} {call}"))
                .output()
                .unwrap();
            let said = String::from_utf8_lossy(&output.stderr);
            assert_eq!(
                output.status.code(),
                Some(DENIED_CODE),
                "{kind} {call}: {said}"
            );
            let told = format!("byway: {thread} thread made the system call {call} (");
            assert!(said.contains(&told), "{kind} {call}: {said}");
        }
    }
}
