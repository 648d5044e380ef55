//! `byway endpoint` and `byway domain`, as an operator uses them on a running engine.

mod common;

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;

use common::engine::{Engine, fails, ok, sockets};
use serde_json::{Value, json};

/// The arguments, for the engine of this folder.
fn at<'a>(dir: &'a str, arguments: &[&'a str]) -> Vec<&'a str> {
    [arguments, &["--engine", dir]].concat()
}

/// Has something done, of which there is nothing to say.
#[track_caller]
fn done(dir: &str, arguments: &[&str]) {
    assert_eq!(ok(&at(dir, arguments)), "");
}

/// What a command tells as JSON.
#[track_caller]
fn json(dir: &str, arguments: &[&str]) -> Value {
    let said = ok(&at(dir, &[arguments, &["--json"]].concat()));
    serde_json::from_str(&said).unwrap()
}

const LIST: [&str; 2] = ["endpoint", "list"];

/// What `byway endpoint list` tells of one of them.
#[track_caller]
fn endpoint(dir: &str, name: &str) -> Value {
    let listed = json(dir, &LIST);
    let mut endpoints = listed["endpoints"].as_array().unwrap().iter();
    endpoints
        .find(|found| found["name"] == name)
        .unwrap()
        .clone()
}

/// A file of 1 MiB.
fn image(folder: &Path, name: &str) -> String {
    let path = folder.join(name);
    std::fs::File::create(&path)
        .unwrap()
        .set_len(1 << 20)
        .unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn endpoints_come_and_go_by_commands() {
    let folder = tempfile::tempdir().unwrap();
    let dir = &sockets(folder.path());
    fails(3, "no engine answers", &at(dir, &LIST));
    let _engine = Engine::start(folder.path());
    assert_eq!(json(dir, &LIST)["endpoints"], json!([]));

    let disk = image(folder.path(), "disk.img");
    // A path is relative to the folder of who says it, which is not the engine's.
    let attached = Command::new(env!("CARGO_BIN_EXE_byway"))
        .args(["endpoint", "attach", "disk", "--kind", "file"])
        .args(["--path", "disk.img", "--engine", "s", "--json"])
        .current_dir(folder.path())
        .output()
        .unwrap();
    assert_eq!(
        String::from_utf8_lossy(&attached.stdout),
        "{\"reply\":\"done\"}\n"
    );
    let model = image(folder.path(), "model.img");
    let attach = [
        "endpoint",
        "attach",
        "model",
        "--kind",
        "nvme-model",
        "--path",
        &model,
    ];
    let model = [&attach[..], &["--read-only", "--timeout-ms", "5000"]].concat();
    done(dir, &model);
    let said = |name: &str| {
        let found = endpoint(dir, name);
        [
            "kind",
            "path",
            "attached",
            "read_only",
            "timeout_ms",
            "blocks",
        ]
        .map(|key| found[key].clone())
    };
    let is =
        |expected: Value| <[Value; 6]>::try_from(expected.as_array().unwrap().clone()).unwrap();
    assert_eq!(
        said("disk"),
        is(json!(["file", disk, true, false, 30_000, 2048]))
    );
    assert_eq!(said("model")[..1], [json!("nvme-model")]);
    assert_eq!(said("model")[2..5], [json!(true), json!(true), json!(5000)]);
    assert_eq!(
        json(dir, &["ps"])["endpoints"],
        json(dir, &LIST)["endpoints"]
    );

    // Gone, it can come back as what it was, and not as another.
    done(dir, &["endpoint", "detach", "model"]);
    let found = endpoint(dir, "model");
    assert_eq!(
        (&found["attached"], &found["reason"]),
        (&json!(false), &json!("the operator took it away"))
    );
    let table = ok(&at(dir, &LIST));
    for part in [
        "nvme-model",
        "(read-only)",
        "gone: the operator took it away",
        " attached ",
    ] {
        assert!(table.contains(part), "{part}: {table}");
    }
    fails(2, "with other settings before", &at(dir, &attach));
    done(dir, &model);
    assert_eq!(endpoint(dir, "model")["attached"], true);
}

#[test]
fn endpoints_are_granted_and_taken_back_by_commands() {
    let folder = tempfile::tempdir().unwrap();
    let dir = &sockets(folder.path());
    let _engine = Engine::start(folder.path());
    let disk = image(folder.path(), "disk.img");
    let attach = [
        "endpoint",
        "attach",
        "disk",
        "--kind",
        "file",
        "--path",
        &disk,
        "--timeout-ms",
        "10000",
    ];
    done(dir, &attach);
    let grant = ["endpoint", "grant", "disk", "alice"];
    done(
        dir,
        &[
            &grant[..],
            &["--read", "--write", "--first", "4K", "--bytes", "64K"],
        ]
        .concat(),
    );
    done(
        dir,
        &["endpoint", "grant", "disk", "bob", "--read", "--trusted"],
    );
    let users = json!([
        {"domain": "alice", "first": 4096, "bytes": 65536, "read": true, "write": true, "trusted": false},
        {"domain": "bob", "first": 0, "bytes": 1 << 20, "read": true, "write": false, "trusted": true},
    ]);
    assert_eq!(endpoint(dir, "disk")["users"], users);
    let table = ok(&at(dir, &LIST));
    for part in ["alice rw- 64K from 4K", "bob r-t 1M from 0"] {
        assert!(table.contains(part), "{part}: {table}");
    }
    // Another grant takes the place of the first.
    done(dir, &[&grant[..], &["--read", "--first", "1020K"]].concat());
    let alice = endpoint(dir, "disk")["users"][0].clone();
    assert_eq!(
        (&alice["bytes"], &alice["write"]),
        (&json!(4096), &json!(false))
    );
    done(dir, &["endpoint", "ungrant", "disk", "alice"]);
    assert_eq!(endpoint(dir, "disk")["users"], json!([users[1]]));
    // A detached one keeps them.
    done(dir, &["endpoint", "detach", "disk"]);
    assert_eq!(endpoint(dir, "disk")["users"], json!([users[1]]));
}

#[test]
fn mistakes_about_endpoints_are_code_2_and_say_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let dir = &sockets(folder.path());
    let _engine = Engine::start(folder.path());
    let disk = image(folder.path(), "disk.img");
    let attach = |name, kind, path| ["endpoint", "attach", name, "--kind", kind, "--path", path];
    done(dir, &attach("disk", "file", &disk));
    // One that takes a connection, and says nothing to it.
    let silent = folder.path().join("silent");
    let _listener = std::os::unix::net::UnixListener::bind(&silent).unwrap();
    let silent = attach("mute", "vhost-user-blk", silent.to_str().unwrap());
    let grant =
        |more: &[&'static str]| [&["endpoint", "grant", "disk", "alice", "--read"], more].concat();
    for (says, arguments) in [
        (
            "invalid value 'Disk' for '<NAME>'",
            attach("Disk", "file", &disk).to_vec(),
        ),
        (
            "use one of file, vhost-user-blk",
            attach("other", "tape", &disk).to_vec(),
        ),
        ("attached already", attach("disk", "file", &disk).to_vec()),
        (
            "cannot open /nowhere",
            attach("other", "file", "/nowhere").to_vec(),
        ),
        (
            "a value is required for '--path <PATH>'",
            attach("other", "file", "").to_vec(),
        ),
        (
            "10 to 600000 milliseconds",
            [&attach("other", "file", &disk)[..], &["--timeout-ms", "9"]].concat(),
        ),
        (
            "10 to 600000 milliseconds",
            [&attach("other", "file", &disk)[..], &["--timeout-ms", "1s"]].concat(),
        ),
        (
            "is the device's process running",
            [&silent[..], &["--timeout-ms", "100"]].concat(),
        ),
        (
            "--kind <KIND>",
            vec!["endpoint", "attach", "other", "--path", &disk],
        ),
        (
            "no endpoint named \"other\"",
            vec!["endpoint", "detach", "other"],
        ),
        (
            "no endpoint named \"other\"",
            vec!["endpoint", "grant", "other", "alice", "--read"],
        ),
        (
            "no endpoint named \"other\"",
            vec!["endpoint", "ungrant", "other", "alice"],
        ),
        (
            "no domain named \"carol\"",
            vec!["endpoint", "grant", "disk", "carol", "--read"],
        ),
        (
            "no domain named \"carol\"",
            vec!["endpoint", "ungrant", "disk", "carol"],
        ),
        ("add --read", vec!["endpoint", "grant", "disk", "alice"]),
        (
            "expected multiples of 512, within 1048576",
            grant(&["--bytes", "1000"]),
        ),
        (
            "expected multiples of 512, within 1048576",
            grant(&["--bytes", "2M"]),
        ),
        (
            "expected multiples of 512, within 1048576",
            grant(&["--first", "1M"]),
        ),
        ("is not a size", grant(&["--bytes", "64m"])),
        ("expected 10000 at most", grant(&["--trusted"])),
        (
            "keep one of them",
            [&LIST[..], &["--api", "/nowhere"]].concat(),
        ),
        ("--help", vec!["endpoint"]),
        ("--help", vec!["endpoint", "fly"]),
    ] {
        fails(2, says, &at(dir, &arguments));
    }
    let listed = json(dir, &LIST);
    assert_eq!(listed["endpoints"].as_array().unwrap().len(), 1);
    assert_eq!(listed["endpoints"][0]["users"], json!([]));
}

#[test]
fn domains_come_and_go_by_commands() {
    let folder = tempfile::tempdir().unwrap();
    let dir = &sockets(folder.path());
    fails(
        3,
        "no engine answers",
        &at(dir, &["domain", "create", "carol"]),
    );
    // Nobody has to be asked for that.
    let many = ["domain", "create", "carol", "--queues", "1048577"];
    fails(2, "queues = 1048577: expected", &at(dir, &many));
    let _engine = Engine::start(folder.path());
    let mode = || {
        let found = std::fs::metadata(Path::new(dir).join("carol.sock"));
        found.ok().map(|found| found.mode() & 0o777)
    };
    assert_eq!(mode(), None);
    let create = ["domain", "create", "carol"];
    done(
        dir,
        &[&create[..], &["--queues", "64", "--weight", "7"]].concat(),
    );
    let carol = json(dir, &["ps"])["domains"][2].clone();
    assert_eq!(
        (&carol["name"], &carol["share"]["weight"]),
        (&json!("carol"), &json!(7))
    );
    assert_eq!(mode(), Some(0o600));
    // By the kernel's word for who knocks, from then on.
    done(dir, &["domain", "admit", "carol", "--uid", "1002"]);
    assert_eq!(mode(), Some(0o666));
    done(dir, &["domain", "admit", "carol"]);
    assert_eq!(mode(), Some(0o600));
    for (says, arguments) in [
        ("exists already", &create[..]),
        ("exists already", &["domain", "create", "admin"]),
        ("invalid value 'Carol'", &["domain", "create", "Carol"]),
        (
            "queues = 1048577: expected",
            &["domain", "create", "dave", "--queues", "1048577"],
        ),
        (
            "share.weight = 0: expected",
            &["domain", "create", "dave", "--weight", "0"],
        ),
        ("no domain named", &["domain", "remove", "dave"]),
        (
            "no domain named",
            &["domain", "admit", "dave", "--uid", "1002"],
        ),
        ("--uid", &["domain", "admit", "carol", "--uid", "nobody"]),
    ] {
        fails(2, says, &at(dir, arguments));
    }
    done(dir, &["domain", "remove", "carol"]);
    assert_eq!(mode(), None);
    let domains = json(dir, &["ps"])["domains"].clone();
    assert_eq!(domains.as_array().unwrap().len(), 2);
}
