//! `byway run --api` and `byway vm`, as an operator's program uses them.

mod common;

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use byway_vmm::loader::KernelSource;
use common::{FAULT_RAX, RESET, SPIN, image, kvm_is_here, triple_fault};
use serde_json::Value;
use tempfile::TempDir;

/// A `byway run --api` and its folder.
struct Run {
    child: Child,
    folder: TempDir,
}

impl Drop for Run {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Run {
    /// Runs one VM for each `(name, code, more keys)`.
    fn start(guests: &[(&str, &[u8], &str)], more: &[&str]) -> Self {
        Self::start_telling(guests, more, None)
    }

    /// The same, with another standard error than a file.
    fn start_telling(guests: &[(&str, &[u8], &str)], more: &[&str], stderr: Option<Stdio>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let file = fs::File::create(folder.path().join("stderr")).unwrap();
        let mut toml = String::new();
        for (name, code, keys) in guests {
            let KernelSource::Image(elf) = image(code) else {
                unreachable!("test images are in memory");
            };
            fs::write(folder.path().join(name), elf).unwrap();
            toml += &format!(
                "[[vm]]\nname = \"{name}\"\nkernel = \"{name}\"\nmemory = \"32M\"\n{keys}\n"
            );
        }
        fs::write(folder.path().join("vms.toml"), toml).unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_byway"))
            .args(["run", "--api"])
            .arg(folder.path().join("api"))
            .args(more)
            .arg(folder.path().join("vms.toml"))
            .env("BYWAY_LOG", "warn")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(stderr.unwrap_or_else(|| file.into()))
            .spawn()
            .unwrap();
        let this = Self { child, folder };
        // Its name is there a moment before anybody may connect.
        this.until("the socket answers", || {
            UnixStream::connect(this.api()).is_ok()
        });
        this
    }

    fn api(&self) -> PathBuf {
        self.folder.path().join("api")
    }

    fn stderr(&self) -> String {
        fs::read_to_string(self.folder.path().join("stderr")).unwrap()
    }

    fn until(&self, what: &str, mut is_so: impl FnMut() -> bool) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while !is_so() {
            assert!(
                Instant::now() < deadline,
                "not so: {what}; {}",
                self.stderr()
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// `byway vm ARGUMENTS --json`: exit code and output.
    fn vm(&self, arguments: &[&str]) -> (Option<i32>, String, String) {
        vm_at(&self.api(), arguments)
    }

    fn done(&self, arguments: &[&str]) {
        let (code, stdout, stderr) = self.vm(arguments);
        assert_eq!(code, Some(0), "{arguments:?}: {stderr}");
        assert_eq!(stdout.trim(), r#"{"reply":"done"}"#);
    }

    fn list(&self) -> Vec<Value> {
        let (code, stdout, stderr) = self.vm(&["list"]);
        assert_eq!(code, Some(0), "{stderr}");
        let answer: Value = serde_json::from_str(&stdout).unwrap();
        answer["vms"].as_array().unwrap().clone()
    }

    fn state(&self, index: usize) -> String {
        self.list()[index]["state"].as_str().unwrap().to_owned()
    }

    /// Lines sent as they are, and what is answered.
    fn raw(&self, lines: &[&str]) -> Vec<Value> {
        let mut socket = UnixStream::connect(self.api()).unwrap();
        socket
            .set_read_timeout(Some(Duration::from_secs(20)))
            .unwrap();
        let mut answers = BufReader::new(socket.try_clone().unwrap());
        lines
            .iter()
            .map(|line| {
                writeln!(socket, "{line}").unwrap();
                let mut answer = String::new();
                answers.read_line(&mut answer).unwrap();
                serde_json::from_str(&answer).unwrap()
            })
            .collect()
    }
}

fn vm_at(api: &Path, arguments: &[&str]) -> (Option<i32>, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_byway"))
        .arg("vm")
        .args(arguments)
        .arg("--api")
        .arg(api)
        .arg("--json")
        .output()
        .unwrap();
    (
        output.status.code(),
        String::from_utf8(output.stdout).unwrap(),
        String::from_utf8(output.stderr).unwrap(),
    )
}

#[test]
fn vms_pause_resume_stop_and_start_again() {
    if !kvm_is_here() {
        return;
    }
    let run = Run::start(&[("alice", &SPIN, ""), ("bob", &SPIN, "")], &[]);
    let mode = fs::metadata(run.api()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let vms = run.list();
    assert_eq!(vms[0]["name"], "alice");
    assert_eq!(vms[0]["memory"], 32 << 20);
    assert_eq!(vms[0]["pid"], run.child.id());
    run.until("alice runs", || run.state(0) == "running");
    run.done(&["pause", "alice"]);
    assert_eq!(
        (run.state(0), run.state(1)),
        ("paused".into(), "running".into())
    );
    run.done(&["resume", "alice"]);
    assert_eq!(run.state(0), "running");
    let (code, _, stderr) = run.vm(&["start", "alice"]);
    assert_eq!(code, Some(1), "{stderr}");
    assert!(stderr.contains("while it is running"), "{stderr}");
    run.done(&["stop", "alice"]);
    run.until("alice has ended", || run.state(0) == "ended");
    assert_eq!(run.list()[0]["outcome"], "stopped");
    // The loop sees to the end a moment later.
    run.until("alice can be started", || {
        run.vm(&["start", "alice"]).0 == Some(0)
    });
    assert_eq!(run.state(0), "running");
    assert_eq!(run.state(1), "running");
    run.done(&["reboot", "bob"]);
    run.until("bob runs again", || run.state(1) == "running");
    let (code, _, stderr) = run.vm(&["pause", "carol"]);
    assert_eq!(code, Some(2));
    assert!(stderr.contains("no VM named \"carol\""), "{stderr}");
}

#[test]
fn it_stays_for_vms_that_have_ended_where_it_is_told_to() {
    if !kvm_is_here() {
        return;
    }
    let mut run = Run::start(&[("alice", &RESET, "")], &["--stay"]);
    for _ in 0..2 {
        run.until("alice has ended", || run.state(0) == "ended");
        run.until("alice is started", || {
            run.vm(&["start", "alice"]).0 == Some(0)
        });
    }
    assert!(run.child.try_wait().unwrap().is_none());
}

#[test]
fn a_disk_comes_while_the_vm_runs_and_stays_across_a_reboot() {
    if !kvm_is_here() {
        return;
    }
    let run = Run::start(&[("alice", &SPIN, "spare_disks = 1")], &[]);
    let disk = run.folder.path().join("disk");
    let disk = disk.to_str().unwrap();
    let (code, _, stderr) = run.vm(&["add-disk", "alice", disk]);
    assert_eq!(code, Some(2));
    assert!(stderr.contains("cannot open disk"), "{stderr}");
    fs::write(disk, [0; 4096]).unwrap();
    assert_eq!(run.list()[0]["disks"], serde_json::json!([null]));
    let (code, stdout, stderr) = run.vm(&["add-disk", "alice", &format!("{disk},overlay")]);
    assert_eq!(code, Some(0), "{stderr}");
    assert_eq!(stdout.trim(), r#"{"reply":"disk","number":0,"bytes":4096}"#);
    let added = serde_json::json!([{"path": disk, "writes": "overlay", "bytes": 4096}]);
    assert_eq!(run.list()[0]["disks"], added);
    let (code, _, stderr) = run.vm(&["add-disk", "alice", disk]);
    assert_eq!(code, Some(2));
    assert!(stderr.contains("no empty spare disk"), "{stderr}");
    run.done(&["reboot", "alice"]);
    run.until("alice runs again", || {
        run.stderr().contains("was reset") && run.state(0) == "running"
    });
    assert_eq!(run.list()[0]["disks"], added);
}

#[test]
fn nvme_controllers_are_listed_and_stay_across_a_pause_and_a_reboot_in_a_jail_too() {
    if !kvm_is_here() {
        return;
    }
    for more in [&[][..], &["--jail"]] {
        let disk = tempfile::NamedTempFile::new().unwrap();
        disk.as_file().set_len(8192).unwrap();
        let path = disk.path();
        let readonly = tempfile::NamedTempFile::new().unwrap();
        readonly.as_file().set_len(512).unwrap();
        let keys = format!(
            "nvmes = [{{ path = {path:?} }}, {{ path = {:?}, readonly = true }}]",
            readonly.path()
        );
        let run = Run::start(&[("alice", &SPIN, &keys)], more);
        run.until("alice runs", || run.state(0) == "running");
        let listed = serde_json::json!([
            {"path": path, "writes": "through", "bytes": 8192},
            {"path": readonly.path(), "writes": "refused", "bytes": 512},
        ]);
        assert_eq!(run.list()[0]["nvmes"], listed);
        run.done(&["pause", "alice"]);
        run.done(&["resume", "alice"]);
        run.done(&["reboot", "alice"]);
        run.until("alice runs again", || {
            run.stderr().contains("was reset") && run.state(0) == "running"
        });
        assert_eq!(run.list()[0]["nvmes"], listed);
    }
}

#[test]
fn lines_that_are_no_actions_are_refused_and_others_go_on() {
    if !kvm_is_here() {
        return;
    }
    let run = Run::start(&[("alice", &SPIN, "")], &[]);
    run.until("alice runs", || run.state(0) == "running");
    let answers = run.raw(&[
        "fly",
        r#"{"action":"vm-fly"}"#,
        r#"{"action":"vm-pause","name":"alice","now":true}"#,
        // The engine's own actions come the same way.
        r#"{"action":"list"}"#,
        r#"{"action":"vm-list"}"#,
    ]);
    for answer in &answers[..3] {
        assert_eq!(answer["error"], "bad-request", "{answer}");
    }
    assert_eq!(answers[3]["domains"][0]["name"], "alice");
    assert_eq!(answers[4]["vms"][0]["state"], "running");
}

#[test]
fn nobody_there_is_code_3_and_a_place_that_is_taken_code_2() {
    let folder = tempfile::tempdir().unwrap();
    let nowhere = folder.path().join("no");
    let (code, _, stderr) = vm_at(&nowhere, &["list"]);
    assert_eq!(code, Some(3));
    assert!(stderr.contains("byway run --api"), "{stderr}");
    let asked = Command::new(env!("CARGO_BIN_EXE_byway"))
        .args(["endpoint", "list", "--api"])
        .arg(&nowhere)
        .output()
        .unwrap();
    assert_eq!(asked.status.code(), Some(3));
    let stderr = String::from_utf8(asked.stderr).unwrap();
    assert!(stderr.contains("byway run --api"), "{stderr}");
    if !kvm_is_here() {
        return;
    }
    let taken = folder.path().join("file");
    fs::write(&taken, "x").unwrap();
    let toml = folder.path().join("vms.toml");
    fs::write(
        &toml,
        "[[vm]]\nname = \"a\"\nimage = \"byway-guest\"\nmemory = \"64M\"\n",
    )
    .unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_byway"))
        .args(["run", "--api"])
        .arg(&taken)
        .arg(&toml)
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(stderr.contains("is not a socket"), "{stderr}");
}

/// A line of `/proc/PID/status`, without its name.
fn status(pid: &Value, key: &str) -> String {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(key));
    line.unwrap().trim_start_matches(':').trim().to_owned()
}

#[test]
fn jailed_vms_are_confined_and_a_denied_call_ends_one_and_is_reported() {
    if !kvm_is_here() {
        return;
    }
    // A descriptor of whoever starts `byway`, which is nothing to a VM.
    let strange = tempfile::NamedTempFile::new().unwrap();
    // SAFETY: sets the flags of a descriptor that is open.
    let set = unsafe { libc::fcntl(strange.as_raw_fd(), libc::F_SETFD, 0) };
    assert_eq!(set, 0);
    let mut run = Run::start(&[("alice", &SPIN, ""), ("bob", &SPIN, "")], &["--jail"]);
    run.until("both run", || {
        run.state(0) == "running" && run.state(1) == "running"
    });
    let vms = run.list();
    let (alice, bob) = (&vms[0]["pid"], &vms[1]["pid"]);
    assert_ne!(alice, bob);
    // SAFETY: no preconditions.
    let root = unsafe { libc::geteuid() } == 0;
    for (pid, uid) in [(alice, "2000000000"), (bob, "2000000001")] {
        assert_ne!(pid.as_u64().unwrap(), u64::from(run.child.id()));
        assert_eq!(status(pid, "NoNewPrivs"), "1");
        assert_eq!(status(pid, "Seccomp"), "2");
        if root {
            let uids = status(pid, "Uid");
            assert_eq!(uids.split_whitespace().collect::<Vec<_>>(), [uid; 4]);
            assert_eq!(status(pid, "CapEff"), "0000000000000000");
            assert_eq!(status(pid, "Groups"), "");
            let files = fs::read_dir(format!("/proc/{pid}/root")).unwrap();
            assert_eq!(files.count(), 0, "its root folder is not empty");
            // Its parent, which has no reason to close it, shows that it came so far.
            let has_strange = |pid: &str| {
                let fds = fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
                fds.filter_map(|fd| fs::read_link(fd.unwrap().path()).ok())
                    .any(|path| path == strange.path())
            };
            assert!(has_strange(&run.child.id().to_string()));
            assert!(!has_strange(&pid.to_string()), "a descriptor came along");
        }
        // Every thread, and each kind has more than the filter of all.
        for task in fs::read_dir(format!("/proc/{pid}/task")).unwrap() {
            let path = task.unwrap().path();
            let text = fs::read_to_string(path.join("status")).unwrap();
            let filters = text
                .lines()
                .find_map(|line| line.strip_prefix("Seccomp_filters:"));
            let filters: u32 = filters.unwrap().trim().parse().unwrap();
            let watches = text.contains("byway-watch");
            assert!(filters >= if watches { 1 } else { 2 }, "{text}");
        }
    }
    // What an operator asks goes through.
    run.done(&["pause", "alice"]);
    run.done(&["resume", "alice"]);
    let (code, _, stderr) = run.vm(&["add-disk", "alice", "/dev/null"]);
    assert_eq!(code, Some(1));
    assert!(stderr.contains("without --jail"), "{stderr}");

    let _ = run.raw(&[r#"{"action":"vm-test-denied-call","name":"alice"}"#]);
    run.until("alice's end is told", || {
        run.stderr().contains(
            "the main thread made the system call socket (41), which its jail does not permit",
        )
    });
    run.until("alice has ended", || run.state(0) == "ended");
    let vms = run.list();
    assert!(vms[0]["outcome"].as_str().unwrap().contains("socket (41)"));
    assert_eq!(
        (vms[1]["state"].as_str(), &vms[1]["pid"]),
        (Some("running"), bob)
    );
    // It can be started again, and bob rebooted.
    run.done(&["start", "alice"]);
    run.until("alice runs again", || run.state(0) == "running");
    run.done(&["reboot", "bob"]);
    run.until("bob has another process", || {
        let bob_now = &run.list()[1];
        bob_now["state"] == "running" && bob_now["pid"] != *bob
    });
    for name in ["alice", "bob"] {
        run.done(&["stop", name]);
    }
    // Code 1, for the one that was ended.
    let mut ended = None;
    let deadline = Instant::now() + Duration::from_secs(20);
    while ended.is_none() && Instant::now() < deadline {
        ended = run.child.try_wait().unwrap();
        std::thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(ended.unwrap().code(), Some(1), "{}", run.stderr());
}

/// What a file says of devices that the engine drives holds with `--jail` as it does without.
#[test]
fn a_jail_leaves_nobody_without_the_files_endpoints() {
    if !kvm_is_here() {
        return;
    }
    let disk = tempfile::NamedTempFile::new().unwrap();
    disk.as_file().set_len(1 << 20).unwrap();
    let endpoint = |path: &Path| {
        format!(
            "[[endpoint]]\nname = \"disk\"\nkind = \"file\"\npath = {path:?}\n\
             [[endpoint.grant]]\ndomain = \"alice\"\nread = true\n"
        )
    };
    for more in [&[][..], &["--jail"]] {
        let run = Run::start(&[("alice", &SPIN, &endpoint(disk.path()))], more);
        run.until("alice runs", || run.state(0) == "running");
        let answers = run.raw(&[r#"{"action":"endpoints"}"#]);
        let found = &answers[0]["endpoints"][0];
        assert_eq!(found["attached"], true, "{more:?}: {answers:?}");
        assert_eq!(found["users"][0]["domain"], "alice", "{more:?}");
    }
    // One that is not there is told before anything starts.
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("vms.toml");
    let nowhere = endpoint(&folder.path().join("nowhere"));
    let vm = "[[vm]]\nname = \"alice\"\nimage = \"byway-guest\"\nmemory = \"64M\"\n";
    fs::write(&file, format!("{vm}{nowhere}")).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_byway"))
        .args(["run", "--jail"])
        .arg(&file)
        .output()
        .unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{stderr}");
    assert!(stderr.contains("cannot open"), "{stderr}");
}

/// What asks an engine that is a daemon asks that of a `byway run --api`, too.
#[test]
fn the_engine_of_vms_is_operated_by_the_daemons_commands() {
    if !kvm_is_here() {
        return;
    }
    let disk = tempfile::NamedTempFile::new().unwrap();
    disk.as_file().set_len(1 << 20).unwrap();
    let disk = disk.path().to_str().unwrap();
    for (more, admits) in [(&[][..], 1), (&["--jail"], 0)] {
        let run = Run::start(&[("alice", &SPIN, ""), ("bob", &SPIN, "")], more);
        run.until("alice runs", || run.state(0) == "running");
        let asked = |arguments: &[&str]| {
            let mut command = Command::new(env!("CARGO_BIN_EXE_byway"));
            let output = command.args(arguments).arg("--api").arg(run.api()).output();
            let output = output.unwrap();
            let said = String::from_utf8(output.stdout).unwrap();
            (
                output.status.code(),
                said,
                String::from_utf8(output.stderr).unwrap(),
            )
        };
        let done = |arguments: &[&str]| {
            assert_eq!(
                asked(arguments),
                (Some(0), String::new(), String::new()),
                "{arguments:?}"
            );
        };
        let endpoints = |command: &[&str]| {
            let (_, said, _) = asked(&[command, &["--json"]].concat());
            let listed: Value = serde_json::from_str(&said).unwrap();
            listed["endpoints"].clone()
        };
        let listed = || endpoints(&["endpoint", "list"]);
        let attach = [
            "endpoint", "attach", "disk", "--kind", "file", "--path", disk,
        ];
        done(&attach);
        done(&[
            "endpoint", "grant", "disk", "alice", "--read", "--bytes", "64K",
        ]);
        let found = listed();
        assert_eq!(
            (&found[0]["attached"], &found[0]["path"]),
            (&true.into(), &disk.into())
        );
        assert_eq!(found[0]["users"][0]["bytes"], 64 << 10);
        assert_eq!(endpoints(&["ps"]), found);
        done(&["endpoint", "ungrant", "disk", "alice"]);
        assert_eq!(listed()[0]["users"], serde_json::json!([]));
        done(&["endpoint", "detach", "disk"]);
        assert_eq!(listed()[0]["attached"], false);
        done(&["link", "alice", "bob", "--read"]);
        done(&["domain", "create", "carol"]);
        let (code, _, stderr) = asked(&["domain", "admit", "carol"]);
        assert_eq!(code, Some(admits), "{more:?}: {stderr}");
        assert_eq!(stderr.contains("has no sockets"), admits == 1, "{stderr}");
        done(&["domain", "remove", "carol"]);
        let (code, _, stderr) = asked(&["endpoint", "detach", "tape"]);
        assert_eq!(code, Some(2), "{stderr}");
        assert!(stderr.contains("no endpoint named \"tape\""), "{stderr}");
    }
}

/// A socket that is open when byway starts is its VM's, after a reboot too, and no other VM's.
#[test]
fn a_socket_of_packets_goes_into_the_jail_of_its_vm_alone() {
    if !kvm_is_here() {
        return;
    }
    let (ours, theirs) = socket_pair();
    let inode = |path: &Path| fs::read_link(path).map(|link| link.display().to_string());
    let own_fd = |fd: &OwnedFd| PathBuf::from(format!("/proc/self/fd/{}", fd.as_raw_fd()));
    let socket = inode(&own_fd(&theirs)).unwrap();
    let keys = format!("nets = [{{ fd = {} }}]", theirs.as_raw_fd());
    let run = Run::start(&[("alice", &SPIN, &keys), ("bob", &SPIN, "")], &["--jail"]);
    drop((ours, theirs));
    for life in 0..2 {
        run.until("both run", || {
            run.state(0) == "running" && run.state(1) == "running"
        });
        // Others may not look at what a jailed process has open.
        // SAFETY: no preconditions.
        if unsafe { libc::geteuid() } == 0 {
            for (vm, is_hers) in [(0, true), (1, false)] {
                let fds = format!("/proc/{}/fd", run.list()[vm]["pid"]);
                let mut fds = fs::read_dir(fds).unwrap();
                let has = fds.any(|fd| inode(&fd.unwrap().path()).is_ok_and(|at| at == socket));
                assert_eq!(has, is_hers, "VM {vm}, life {life}");
            }
        }
        if life == 0 {
            run.done(&["reboot", "alice"]);
            run.until("alice was reset", || run.stderr().contains("was reset"));
        }
    }
}

/// It may be taken by something else in a moment.
#[test]
fn a_descriptor_that_is_not_open_is_no_network_interface_of_a_jail() {
    let output = Command::new(env!("CARGO_BIN_EXE_byway"))
        .args([
            "run",
            "--jail",
            "--kernel",
            "/proc/self/exe",
            "--net",
            "fd=901",
        ])
        .output()
        .unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{stderr}");
    assert!(stderr.contains("901, which is not open"), "{stderr}");
}

/// No number is a jail's own: whoever starts byway may have given it a thousand descriptors, network interfaces among them.
#[test]
fn a_jail_gets_along_with_a_thousand_descriptors() {
    if !kvm_is_here() {
        return;
    }
    let (ours, theirs) = socket_pair();
    let disk = tempfile::NamedTempFile::new().unwrap();
    disk.as_file().set_len(4096).unwrap();
    // SAFETY: copies a descriptor that is open, to the first free number from 900 on; the copies are this test's.
    let copies = (0..100).map(|_| unsafe { libc::fcntl(theirs.as_raw_fd(), libc::F_DUPFD, 900) });
    let copies: Vec<_> = copies.collect();
    assert!(copies.iter().all(|fd| *fd >= 900), "{copies:?}");
    let keys = format!(
        "nets = [{{ fd = {} }}]\ndisks = [{{ path = {:?}, overlay = true }}]",
        copies[1],
        disk.path()
    );
    let run = Run::start(&[("alice", &SPIN, &keys), ("bob", &SPIN, "")], &["--jail"]);
    for fd in copies {
        // SAFETY: made above, and nobody else has it.
        unsafe { libc::close(fd) };
    }
    drop((ours, theirs));
    run.until("both run", || {
        run.state(0) == "running" && run.state(1) == "running"
    });
    run.done(&["reboot", "alice"]);
    run.until("alice runs again", || {
        run.stderr().contains("was reset") && run.state(0) == "running"
    });
}

/// The loop has ended, and something is done yet: here the audit waits for its reader. Who asks for a start then is not left
/// waiting, nor is the end.
#[test]
fn a_start_that_comes_when_all_has_ended_is_refused_and_holds_nothing_up() {
    if !kvm_is_here() {
        return;
    }
    let audits = tempfile::tempdir().unwrap();
    let audit = audits.path().join("audit");
    let written = audits.path().join("audit.new");
    let made = Command::new("mkfifo").arg(&written).status().unwrap();
    assert!(made.success());
    let mut run = Run::start(
        &[("alice", &RESET, "")],
        &["--jail", "--no-reboot", "--audit", audit.to_str().unwrap()],
    );
    // Not by her own word: the loop has seen the end of her process.
    run.until("alice has ended and has no process", || {
        let alice = &run.list()[0];
        alice["state"] == "ended" && alice["pid"] == 0
    });
    let mut asks = UnixStream::connect(run.api()).unwrap();
    asks.write_all(b"{\"action\":\"vm-start\",\"name\":\"alice\"}\n")
        .unwrap();
    std::thread::sleep(Duration::from_millis(200));
    let read = std::thread::spawn(move || fs::read(written).unwrap());
    let mut answer = String::new();
    asks.set_read_timeout(Some(Duration::from_secs(20)))
        .unwrap();
    BufReader::new(&asks).read_line(&mut answer).unwrap();
    assert!(answer.contains("about to end"), "{answer:?}");
    drop(asks);
    read.join().unwrap();
    let deadline = Instant::now() + Duration::from_secs(20);
    while run.child.try_wait().unwrap().is_none() {
        assert!(Instant::now() < deadline, "it does not end");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Here it waits for an engine that is not there.
#[test]
fn a_vm_that_is_being_built_ends_with_its_parent() {
    if !kvm_is_here() {
        return;
    }
    let nobody = tempfile::tempdir().unwrap();
    let engine = nobody.path().to_str().unwrap();
    let mut run = Run::start(&[("alice", &SPIN, "")], &["--jail", "--engine", engine]);
    let parent = run.child.id();
    let children = format!("/proc/{parent}/task/{parent}/children");
    let mut child = String::new();
    let is_jailed = |pid: &str| {
        fs::read(format!("/proc/{pid}/cmdline"))
            .is_ok_and(|line| String::from_utf8_lossy(&line).contains("--jailed"))
    };
    run.until("alice has a process", || {
        child = fs::read_to_string(&children).unwrap().trim().to_owned();
        is_jailed(&child)
    });
    // It does not have to have come far.
    run.child.kill().unwrap();
    run.child.wait().unwrap();
    let deadline = Instant::now() + Duration::from_secs(2);
    while is_jailed(&child) {
        assert!(Instant::now() < deadline, "alice outlives her parent");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Its parent ended before it could say that it is to end with it.
#[test]
fn a_vm_whose_parent_has_ended_already_leaves() {
    let jailed = serde_json::json!({
        "vm": "alice", "sockets": "/nowhere", "root": "/nowhere", "uid": 1000, "parent": 1,
        "control": 3, "report": 4, "overlays": [], "nets": [],
    });
    let output = Command::new(env!("CARGO_BIN_EXE_byway"))
        .args(["run", "--jail", "--kernel", "/nowhere", "--jailed"])
        .arg(jailed.to_string())
        .output()
        .unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("parent: it has ended already"), "{stderr}");
}

/// Two ends that survive an exec.
fn socket_pair() -> (OwnedFd, OwnedFd) {
    let mut fds = [0; 2];
    // SAFETY: the array has room for both.
    let made =
        unsafe { libc::socketpair(libc::AF_UNIX, libc::SOCK_SEQPACKET, 0, fds.as_mut_ptr()) };
    assert_eq!(made, 0);
    // SAFETY: the kernel has just made them, and nobody else has them.
    fds.map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }).into()
}

/// What a crash is told with is asked of KVM by a thread that may ask for little.
#[test]
fn a_crash_in_a_jail_is_told_in_full() {
    if !kvm_is_here() {
        return;
    }
    let run = Run::start(
        &[("alice", &triple_fault(), ""), ("bob", &SPIN, "")],
        &["--jail"],
    );
    // All at once, a moment after she has.
    const FIRST: &str = "vCPU 0 stopped: triple fault";
    run.until("alice's end is told", || run.stderr().contains(FIRST));
    run.until("alice has ended", || run.state(0) == "ended");
    let told = run.stderr();
    for expected in [
        &format!("rax {FAULT_RAX:016x}"),
        "cr3 ",
        "efer ",
        "events ",
        "state runnable",
        "code 0f 0b",
    ] {
        assert!(told.contains(expected), "{expected} missing in\n{told}");
    }
    assert!(!told.contains("its jail does not permit"), "{told}");
    // He may not even have been started when she ended.
    run.until("bob runs", || run.state(1) == "running");
}

/// Whoever started it may have closed the terminal, or have stopped to read.
#[test]
fn vms_whose_log_nobody_reads_go_on() {
    if !kvm_is_here() {
        return;
    }
    for jail in [&[][..], &["--jail"]] {
        let (reader, writer) = std::io::pipe().unwrap();
        let run = Run::start_telling(
            &[
                ("alice", &SPIN, ""),
                ("bob", &SPIN, ""),
                ("carol", &triple_fault(), ""),
            ],
            jail,
            Some(writer.into()),
        );
        drop(reader);
        run.until("carol has crashed", || run.state(2) == "ended");
        run.done(&["stop", "alice"]);
        run.until("alice has ended", || run.state(0) == "ended");
        run.done(&["reboot", "bob"]);
        run.until("bob runs", || run.state(1) == "running");
        let mut run = run;
        // SAFETY: takes numbers only.
        unsafe { libc::kill(run.child.id().cast_signed(), libc::SIGTERM) };
        let code = run.child.wait().unwrap().code();
        // Carol's.
        assert_eq!(code, Some(1), "{jail:?}");
    }
}
