//! The `byway` command as a user or a script calls it: output, exit codes, signals.

mod common;

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use byway_vmm::loader::KernelSource;
use common::{RESET, SPIN, image, kvm_is_here, print};
use tempfile::TempDir;

fn byway(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_byway"));
    command
        .args(arguments)
        .env_remove("BYWAY_LOG")
        .stdin(Stdio::null());
    command
}

fn output(arguments: &[&str]) -> (Option<i32>, String, String) {
    let Output {
        status,
        stdout,
        stderr,
    } = byway(arguments).output().unwrap();
    (
        status.code(),
        String::from_utf8(stdout).unwrap(),
        String::from_utf8(stderr).unwrap(),
    )
}

/// A folder with a `vms.toml` that runs one VM for each `(name, code)`.
fn folder(guests: &[(&str, Vec<u8>)]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let mut toml = String::new();
    for (name, code) in guests {
        let KernelSource::Image(elf) = image(code) else {
            unreachable!("test images are in memory");
        };
        fs::write(folder.path().join(name), elf).unwrap();
        toml += &format!("[[vm]]\nname = \"{name}\"\nkernel = \"{name}\"\nmemory = \"32M\"\n");
    }
    fs::write(folder.path().join("vms.toml"), toml).unwrap();
    folder
}

fn file(folder: &TempDir) -> String {
    folder.path().join("vms.toml").to_str().unwrap().to_owned()
}

fn says_and(text: &str, then: &[u8]) -> Vec<u8> {
    [&print(text), then, &SPIN].concat()
}

#[test]
fn wrong_usage_is_code_2() {
    for arguments in [
        &[][..],
        &["fly"],
        &["run"],
        &["doctor", "--wrong"],
        &["stress", "--case", "peace"],
        &["stress", "--seconds", "0"],
        &[
            "endpoint", "attach", "disk", "--kind", "tape", "--path", "x",
        ],
        &["domain", "create"],
    ] {
        let (code, _, stderr) = output(arguments);
        assert_eq!(code, Some(2), "{arguments:?}");
        assert!(stderr.contains("--help"), "{stderr}");
    }
    let (code, stdout, _) = output(&["--help"]);
    assert_eq!(code, Some(0));
    assert!(stdout.contains("Exit codes"), "{stdout}");
}

/// What it cannot write to is told before anything starts, not when a minute's work has to be thrown away.
#[test]
fn a_place_that_cannot_be_is_code_2_before_anything_starts() {
    for (arguments, what) in [
        (
            &["demo", "--json", "/nowhere/demo.json"][..],
            "cannot write",
        ),
        (
            &["demo", "p2p", "--json", "/nowhere/p2p.json"],
            "cannot write",
        ),
        (
            &["demo", "p2p", "--folder", "/nowhere"],
            "cannot make a folder",
        ),
    ] {
        let (code, stdout, stderr) = output(arguments);
        assert_eq!((code, stdout.as_str()), (Some(2), ""), "{stderr}");
        assert!(stderr.contains(what), "{stderr}");
    }
}

/// A level, and levels of modules, decide what is logged; what cannot be is said, and the usual stands.
#[test]
fn what_is_logged_is_a_level_or_is_refused() {
    for (wanted, is_refused) in [
        ("debug", false),
        ("byway_engine=trace,info", false),
        ("", false),
        ("byway_engine=loud", true),
        ("a=b=c", true),
    ] {
        let output = byway(&["ops", "--json"])
            .env("BYWAY_LOG", wanted)
            .output()
            .unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(
            stderr.contains("is not understood") && stderr.contains("expected off, error"),
            is_refused,
            "{wanted:?}: {stderr}"
        );
    }
}

#[test]
fn every_command_has_examples() {
    let (_, help, _) = output(&["--help"]);
    let (_, commands) = help.split_once("Commands:\n").unwrap();
    let (commands, _) = commands.split_once("\n\n").unwrap();
    let commands = commands
        .lines()
        .map(|line| line.split_whitespace().next().unwrap());
    let commands: Vec<&str> = commands.filter(|command| *command != "help").collect();
    assert!(commands.len() >= 16, "{help}");
    for command in commands {
        let (code, stdout, _) = output(&[command, "--help"]);
        assert_eq!(code, Some(0), "{command}");
        let (_, examples) = stdout.split_once("\nExample").unwrap_or_default();
        let example = format!("\n  byway {command}");
        assert!(examples.contains(&example), "{command}: {stdout}");
        // README says which are not for programs.
        let speaks_json = !["run", "engine", "image"].contains(&command);
        assert_eq!(
            stdout.contains("--json"),
            speaks_json,
            "{command}: {stdout}"
        );
    }
}

/// What people get wrong in a file: each is told with its line and what to do, and nothing is started.
#[test]
fn every_mistake_in_a_file_is_code_2_with_line_and_help() {
    let folder = folder(&[("alice", says_and("started\n", &RESET))]);
    fs::write(folder.path().join("odd.img"), [0; 513]).unwrap();
    let path = file(&folder);
    let good = fs::read_to_string(&path).unwrap();
    for (mistake, line, what) in [
        ("memory = \"32M\"", 5, "duplicate key"),
        ("cpus = 65", 5, "65 vCPUs"),
        ("cpu_template = \"8086\"", 5, "unknown variant"),
        ("pin = [4096]", 5, "no CPU 4096"),
        ("serial = \"modem\"", 5, "not a place for the console"),
        ("initrd = \"initrd.img\"", 5, "there is no file"),
        ("image = \"byway-guest\"", 5, "both kernel and image"),
        ("device_id = 0", 5, "device id"),
        ("hugepages = \"many\"", 5, "unknown variant"),
        ("disks = [{ path = \"root.img\" }]", 5, "there is no file"),
        ("disks = [{ path = \"odd.img\" }]", 5, "513 bytes"),
        (
            "disks = [{ path = \"alice\", overlay = true, readonly = true }]",
            5,
            "readonly",
        ),
        ("nvmes = [{ path = \"odd.img\" }]", 5, "513 bytes"),
        (
            "nvmes = [{ path = \"alice\", overlay = true }]",
            5,
            "unknown field `overlay`",
        ),
        ("nets = [{ }]", 5, "tap"),
        (
            "[vm.quotas]\nqueues = 0\nqueue_entries = 3",
            7,
            "queue_entries",
        ),
        (
            "[[vm]]\nname = \"alice\"\nimage = \"byway-guest\"\nmemory = \"64M\"",
            6,
            "another VM",
        ),
        (
            "[[vm]]\nname = \"Bob\"\nimage = \"byway-guest\"\nmemory = \"64M\"",
            6,
            "not a name",
        ),
        ("[[vm]]\nname = \"bob\"\nmemory = \"64M\"", 5, "no kernel"),
        (
            "[[link]]\nfrom = \"alice\"\nto = \"carol\"\nread = true",
            7,
            "no VM",
        ),
        (
            "[[link]]\nfrom = \"alice\"\nto = \"alice\"\nread = true",
            5,
            "itself",
        ),
        ("[engine]\nworkers = 0", 6, "0 workers"),
        ("[motor]", 5, "unknown field"),
        ("cpus", 5, ""),
    ] {
        fs::write(&path, format!("{good}{mistake}\n")).unwrap();
        let (code, stdout, stderr) = output(&["run", &path]);
        assert_eq!(
            (code, stdout.as_str()),
            (Some(2), ""),
            "{mistake}: {stderr}"
        );
        let place = format!("vms.toml:{line}:");
        assert!(
            stderr.contains(&place) && stderr.contains(what),
            "{mistake}: {stderr}"
        );
        assert!(stderr.contains("\n help: "), "{mistake}: {stderr}");
    }
}

/// A folder with a kernel of these instructions, and the kernel's path.
fn kernel(code: &[u8]) -> (TempDir, String) {
    let folder = folder(&[("kernel", code.to_vec())]);
    let path = folder.path().join("kernel").to_str().unwrap().to_owned();
    (folder, path)
}

#[test]
fn one_vm_needs_no_file() {
    let (_folder, path) = kernel(&says_and("up\r\nand raw \x1b[1m\n", &RESET));
    for (arguments, what) in [
        (
            &["--kernel", "/no/such", "--check"][..],
            "there is no file /no/such",
        ),
        (&["--kernel", &path, "--memory", "1K"], "command line:1:"),
        (&["--kernel", &path, "--memory", "big"], "not a size"),
        (
            &["--kernel", &path, "--cpu-template", "8086"],
            "no CPU template",
        ),
        (
            &["--kernel", &path, "--disk", "/no/disk"],
            "no file /no/disk",
        ),
        (&["--kernel", &path, "--disk", ""], "without a path"),
        (&["--kernel", &path, "vms.toml"], "cannot be used with"),
        (&["--initrd", &path, "vms.toml"], "cannot be used with"),
    ] {
        let (code, _, stderr) = output(&[&["run"][..], arguments].concat());
        assert_eq!(code, Some(2), "{arguments:?}: {stderr}");
        assert!(stderr.contains(what), "{arguments:?}: {stderr}");
    }
    if !kvm_is_here() {
        return;
    }
    let run = ["run", "--memory", "32M", "--cpus", "2", "--kernel", &path];
    let (code, stdout, stderr) = output(&run);
    assert_eq!(code, Some(0), "{stderr}");
    assert_eq!(stdout, "up\r\nand raw \x1b[1m\n");
    assert_eq!(stderr, "byway: vm powered off\n");
    let (_, stdout, _) = output(&[&run[..], &["--serial", "stdout", "--name", "one"]].concat());
    assert_eq!(stdout, "[one] up\n[one] and raw [1m\n");
}

/// Prints a word, then resets by ACPI if the file beside its kernel says so: the kernel is read again at each start.
#[test]
fn a_vm_that_resets_starts_anew_with_what_its_files_are_by_then() {
    if !kvm_is_here() {
        return;
    }
    // Spins a while, so that the test has time; mov dx, 0x602; mov al, 1; out dx, al
    let reset = [0x66, 0xba, 0x02, 0x06, 0xb0, 0x01, 0xee];
    let folder = folder(&[("alice", says_and("first\n", &reset))]);
    let path = file(&folder);
    let mut child = byway(&["run", &path])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "[alice] first");
    let KernelSource::Image(second) = image(&says_and("second\n", &RESET)) else {
        unreachable!("test images are in memory");
    };
    let fresh = folder.path().join("fresh");
    fs::write(&fresh, second).unwrap();
    fs::rename(&fresh, folder.path().join("alice")).unwrap();
    let last = lines.map(Result::unwrap).last();
    assert_eq!(last.as_deref(), Some("[alice] second"));
    let done = child.wait_with_output().unwrap();
    let stderr = String::from_utf8(done.stderr).unwrap();
    assert_eq!(done.status.code(), Some(0), "{stderr}");
    assert!(stderr.starts_with("byway: alice was reset\n"), "{stderr}");
    assert!(stderr.ends_with("byway: alice powered off\n"), "{stderr}");

    // Where it is not wanted, a reset is the end.
    let folder = self::folder(&[("alice", says_and("once\n", &reset))]);
    let (code, stdout, stderr) = output(&["run", "--no-reboot", &file(&folder)]);
    assert_eq!(
        (code, stdout.as_str()),
        (Some(0), "[alice] once\n"),
        "{stderr}"
    );
}

/// The console's keys on a pseudo-terminal, which is left as it was found whichever way out is taken.
#[test]
fn the_terminal_is_the_guests_until_ctrl_a_x() {
    if !kvm_is_here() {
        return;
    }
    let (_folder, path) = kernel(&says_and("up\n", &[]));
    let byway = env!("CARGO_BIN_EXE_byway");
    // A shell without job control: its background commands may read the terminal, which may have no name.
    let command = format!(
        "exec 3<&0; stty -g; {byway} run --memory 32M --kernel {path} <&3 & echo pid=$!; wait $!; stty -g"
    );
    let all: &[&str] = &["keys of this console", "is paused", "goes on", "vm stopped"];
    for (keys, signals, words) in [
        ("\x01?\x01p\x01p\x01x", &[][..], all),
        // Ctrl-C is the guest's. Two signals at once are a way out without a way back.
        ("\x03\x01?", &[libc::SIGTERM, libc::SIGTERM], &all[..1]),
        ("\x03\x01?", &[libc::SIGQUIT], &all[..1]),
    ] {
        let mut script = match Command::new("script")
            .args(["--quiet", "--return", "--command"])
            .args([&command, "/dev/null"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
        {
            Ok(script) => script,
            Err(error) => {
                println!("SKIPPED: no pseudo-terminal without the command script: {error}");
                return;
            }
        };
        let mut input = script.stdin.take().unwrap();
        let mut lines = BufReader::new(script.stdout.take().unwrap()).lines();
        let mut shown = Vec::new();
        let mut show_until = |word: &str, shown: &mut Vec<String>| {
            while !shown.iter().any(|line| line.contains(word)) {
                let Some(line) = lines.next() else { break };
                shown.push(line.unwrap().trim_end().to_owned());
            }
        };
        // In whichever order.
        show_until("up", &mut shown);
        show_until("pid=", &mut shown);
        let pid = shown.iter().find_map(|line| line.strip_prefix("pid="));
        let pid: i32 = pid.unwrap_or_else(|| panic!("{shown:?}")).parse().unwrap();
        std::io::Write::write_all(&mut input, keys.as_bytes()).unwrap();
        // The keys have been read: a late Ctrl-C would be the shell's.
        show_until(all[0], &mut shown);
        for signal in signals {
            // SAFETY: a child of the shell's, which has not waited for it: it does not end by itself.
            unsafe { libc::kill(pid, *signal) };
        }
        shown.extend(lines.map(|line| line.unwrap().trim_end().to_owned()));
        script.wait().unwrap();
        let text = shown.join("\n");
        for word in words {
            assert!(text.contains(word), "{word}: {text}");
        }
        let settings: Vec<_> = shown
            .iter()
            .filter(|line| line.matches(':').count() > 30)
            .collect();
        assert_eq!(settings.len(), 2, "{text}");
        assert_eq!(settings[0], settings[1], "{keys:?} {signals:?}");
    }
}

#[test]
fn a_wrong_configuration_is_code_2_and_names_its_line() {
    let folder = folder(&[("alice", says_and("", &RESET))]);
    let path = file(&folder);
    let good = fs::read_to_string(&path).unwrap();
    fs::write(&path, format!("{good}cpus = 0\n")).unwrap();
    let (code, stdout, stderr) = output(&["run", &path]);
    assert_eq!(code, Some(2), "{stderr}");
    assert!(stderr.contains("vms.toml:5:8: 0 vCPUs"), "{stderr}");
    assert!(stdout.is_empty());

    fs::write(&path, format!("{good}colour = \"red\"\n")).unwrap();
    let (code, _, stderr) = output(&["run", &path]);
    assert_eq!(code, Some(2));
    assert!(
        stderr.contains("vms.toml:5:1: unknown field `colour`"),
        "{stderr}"
    );

    fs::write(&path, format!("{good}serial = \"file:/nonexistent/x\"\n")).unwrap();
    let (code, _, stderr) = output(&["run", &path]);
    assert_eq!(code, Some(2));
    assert!(
        stderr.contains("vms.toml:5:10: ") && stderr.contains("/nonexistent/x"),
        "{stderr}"
    );

    let (code, _, stderr) = output(&["run", "/nonexistent.toml"]);
    assert_eq!(code, Some(2));
    assert!(stderr.contains("/nonexistent.toml"), "{stderr}");
}

#[test]
fn a_check_starts_nothing() {
    let folder = folder(&[("alice", says_and("hello\n", &RESET))]);
    let (code, stdout, stderr) = output(&["run", "--check", &file(&folder)]);
    assert_eq!((code, stdout.as_str()), (Some(0), ""), "{stderr}");
}

#[test]
fn doctor_speaks_json() {
    let (code, stdout, _) = output(&["doctor", "--json"]);
    let report: serde_json::Value = serde_json::from_str(&stdout).unwrap();
    let usable = report["can_run_vms"].as_bool().unwrap();
    assert_eq!(code, Some(if usable { 0 } else { 3 }));
    assert!(report["checks"].as_array().unwrap().len() > 15);
    let (_, table, _) = output(&["doctor"]);
    assert!(table.contains("kvm.device"), "{table}");
}

#[test]
fn consoles_carry_the_name_of_their_vm() {
    if !kvm_is_here() {
        return;
    }
    let folder = folder(&[
        ("alice", says_and("hello\n", &RESET)),
        ("bob", says_and("world\n", &RESET)),
    ]);
    let (code, stdout, stderr) = output(&["run", &file(&folder)]);
    assert_eq!(code, Some(0), "{stderr}");
    let mut lines: Vec<_> = stdout.lines().collect();
    lines.sort_unstable();
    assert_eq!(lines, ["[alice] hello", "[bob] world"]);
    assert!(stderr.contains("byway: alice powered off"), "{stderr}");
}

#[test]
fn a_crash_is_code_1_with_registers_and_leaves_the_other_alone() {
    if !kvm_is_here() {
        return;
    }
    // lidt [zeros behind the code]; ud2
    let mut fault = vec![0x0f, 0x01, 0x1d];
    fault.extend((common::CODE as u32 + 0x100).to_le_bytes());
    fault.extend([0x0f, 0x0b]);
    fault.resize(0x110, 0);
    // The other waits for a while of instructions before it prints.
    let mut slow = vec![0xb9, 0x00, 0x00, 0x01, 0x00, 0xe2, 0xfe];
    slow.extend(says_and("late\n", &RESET));
    let folder = folder(&[("alice", fault), ("bob", slow)]);
    let (code, stdout, stderr) = output(&["run", &file(&folder)]);
    assert_eq!(code, Some(1), "{stderr}");
    for expected in [
        "byway: alice crashed",
        "rip",
        "cr3",
        "idt",
        "byway: bob powered off",
    ] {
        assert!(stderr.contains(expected), "{expected} missing:\n{stderr}");
    }
    assert_eq!(stdout, "[bob] late\n");
}

/// Starts VMs that never end, and returns once each has printed.
fn endless(folder: &TempDir) -> Child {
    let mut child = byway(&["run", &file(folder)])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.as_mut().unwrap()).lines();
    let mut up: Vec<_> = lines.take(2).map(Result::unwrap).collect();
    up.sort_unstable();
    assert_eq!(up, ["[alice] up", "[bob] up"]);
    child
}

#[test]
fn signals_stop_everything_with_code_0() {
    if !kvm_is_here() {
        return;
    }
    let up = || says_and("up\n", &[]);
    let folder = folder(&[("alice", up()), ("bob", up())]);
    for signal in [libc::SIGINT, libc::SIGTERM] {
        let mut child = endless(&folder);
        // SAFETY: the child is ours and has not been waited for.
        unsafe { libc::kill(child.id() as i32, signal) };
        let deadline = Instant::now() + Duration::from_secs(10);
        let status = loop {
            if let Some(status) = child.try_wait().unwrap() {
                break status;
            }
            assert!(Instant::now() < deadline, "signal {signal} is ignored");
            std::thread::sleep(Duration::from_millis(5));
        };
        assert_eq!(status.code(), Some(0), "signal {signal}");
    }
}

#[test]
fn audits_are_written_on_request_and_at_the_end() {
    if !kvm_is_here() {
        return;
    }
    let folder = folder(&[("alice", says_and("up\n", &[]))]);
    let audit = folder.path().join("audit.json");
    let mut child = byway(&["run", "--audit", audit.to_str().unwrap(), &file(&folder)])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.as_mut().unwrap())
        .read_line(&mut line)
        .unwrap();
    assert_eq!(line, "[alice] up\n");
    let mut taken = 0;
    for signal in [libc::SIGUSR1, libc::SIGTERM] {
        // SAFETY: the child is ours and has not been waited for.
        unsafe { libc::kill(child.id() as i32, signal) };
        let deadline = Instant::now() + Duration::from_secs(10);
        taken = loop {
            let text = fs::read_to_string(&audit).unwrap_or_else(|_| "{}".to_owned());
            let json: serde_json::Value = serde_json::from_str(&text).unwrap();
            match json["taken_ms"].as_u64() {
                Some(now) if now > taken => {
                    assert_eq!(json["domains"]["alice"]["live_total"], 0, "{json}");
                    break now;
                }
                _ => assert!(Instant::now() < deadline, "signal {signal}: no audit"),
            }
            std::thread::sleep(Duration::from_millis(5));
        };
    }
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

/// Signals that arrive in the middle of work end it soon, with VMs stopped, one line and no report.
#[test]
fn signals_stop_demo_and_bench_with_code_1() {
    if !kvm_is_here() {
        return;
    }
    for (command, signal) in [("demo", libc::SIGINT), ("bench", libc::SIGTERM)] {
        let mut child = byway(&[command])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // Once both vCPUs are there, the handlers are.
        let deadline = Instant::now() + Duration::from_secs(30);
        while threads_named(child.id(), "vcpu") < 2 {
            assert!(child.try_wait().unwrap().is_none(), "{command} ended");
            assert!(Instant::now() < deadline, "{command} boots nothing");
            std::thread::sleep(Duration::from_millis(5));
        }
        // SAFETY: the child is ours and has not been waited for.
        unsafe { libc::kill(child.id() as i32, signal) };
        let done = child.wait_with_output().unwrap();
        let (stdout, stderr) = (
            String::from_utf8(done.stdout).unwrap(),
            String::from_utf8(done.stderr).unwrap(),
        );
        assert_eq!(done.status.code(), Some(1), "{command}: {stderr}");
        assert_eq!(stdout, "", "{command}");
        assert_eq!(stderr.lines().count(), 1, "{command}: {stderr}");
        assert!(
            stderr.starts_with("byway: interrupted"),
            "{command}: {stderr}"
        );
    }
}

/// Threads of a process whose name contains `part`.
fn threads_named(pid: u32, part: &str) -> usize {
    let Ok(tasks) = fs::read_dir(format!("/proc/{pid}/task")) else {
        return 0;
    };
    tasks
        .flatten()
        .filter_map(|task| fs::read_to_string(task.path().join("comm")).ok())
        .filter(|name| name.contains(part))
        .count()
}

/// A pseudo-terminal is what `script` gives its command.
#[test]
fn progress_shows_on_a_terminal_and_is_silent_in_a_pipe() {
    let arguments = ["bench", "--quick", "translation"];
    let (code, stdout, stderr) = output(&arguments);
    assert_eq!((code, stderr.as_str()), (Some(0), ""));
    assert!(!stdout.contains('\u{1b}'), "{stdout}");

    let command = format!("{} {}", env!("CARGO_BIN_EXE_byway"), arguments.join(" "));
    let shown = match Command::new("script")
        .args(["--quiet", "--return", "--command", &command, "/dev/null"])
        .env("TERM", "xterm")
        .stdin(Stdio::null())
        .output()
    {
        Ok(shown) => shown,
        Err(error) => {
            println!("SKIPPED: no pseudo-terminal without the command script: {error}");
            return;
        }
    };
    let text = String::from_utf8_lossy(&shown.stdout);
    assert_eq!(shown.status.code(), Some(0), "{text}");
    assert!(text.contains("% translation"), "{text}");
}

#[test]
fn what_is_typed_reaches_the_first_vm() {
    if !kvm_is_here() {
        return;
    }
    // Polls the line status until a byte is there, prints it, until it is 'q'.
    let echo = [
        0x66, 0xba, 0xfd, 0x03, // again: mov dx, 0x3fd
        0xec, // in al, dx
        0xa8, 0x01, // test al, 1
        0x74, 0xf7, // jz again
        0x66, 0xba, 0xf8, 0x03, // mov dx, 0x3f8
        0xec, // in al, dx
        0xee, // out dx, al
        0x3c, b'q', // cmp al, 'q'
        0x75, 0xed, // jne again
    ];
    let folder = folder(&[("alice", [&echo[..], &says_and("\n", &RESET)].concat())]);
    let typed = folder.path().join("typed");
    // More than the FIFO holds at once.
    let text = "x".repeat(300) + "q";
    fs::write(&typed, &text).unwrap();
    // A regular file cannot be waited for, so it goes through a pipe.
    let mut cat = Command::new("cat")
        .arg(Path::new(&typed))
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let done = byway(&["run", &file(&folder)])
        .stdin(cat.stdout.take().unwrap())
        .output()
        .unwrap();
    cat.wait().unwrap();
    assert_eq!(done.status.code(), Some(0));
    assert_eq!(
        String::from_utf8(done.stdout).unwrap(),
        format!("[alice] {text}\n")
    );
}
