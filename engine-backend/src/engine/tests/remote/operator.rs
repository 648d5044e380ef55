//! The operator's socket: one line asks, one answers.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::Path;

use super::World;
use crate::daemon::{Answer, ClientError, REQUEST_BYTES_MAX, RemoteEngine};
use crate::interface::{Action, Reply, Share};

/// Sends bytes, and reads what is answered until the end.
fn say(w: &World, bytes: &[u8]) -> Vec<Answer> {
    say_at(&w.socket("admin"), bytes)
}

fn say_at(socket: &Path, bytes: &[u8]) -> Vec<Answer> {
    let mut stream = UnixStream::connect(socket).unwrap();
    // It may be closed before all is read.
    let _ = stream.write_all(bytes);
    let _ = stream.shutdown(std::net::Shutdown::Write);
    let lines = BufReader::new(stream).lines();
    let lines = lines.map_while(Result::ok);
    lines.map(|l| serde_json::from_str(&l).unwrap()).collect()
}

fn error_of(answer: &Answer) -> &str {
    match answer {
        Answer::Error(refusal) => &refusal.error,
        Answer::Reply(reply) => panic!("{reply:?}"),
    }
}

#[test]
fn the_operator_is_answered() {
    let w = World::new();
    let daemon = w.daemon.clone().unwrap();
    let socket = daemon.serve_operator().unwrap();
    let engine = RemoteEngine::new(w.folder.path());
    let Reply::Domains { domains } = engine.ask(&Action::List).unwrap() else {
        panic!("List answers with domains");
    };
    assert_eq!(domains.len(), 2);
    assert!(!domains[0].attached && domains[0].share == Share::default());
    let share = Share {
        weight: 64,
        ..Share::default()
    };
    let name = || "alice".to_owned();
    let quota = Action::Quota {
        name: name(),
        share,
    };
    assert_eq!(engine.ask(&quota).unwrap(), Reply::Done);
    assert_eq!(w.engine.stats().domains[0].share, share);
    let audit = Action::Audit {
        name: name(),
        limit: 1,
    };
    assert!(matches!(engine.ask(&audit).unwrap(), Reply::Audit(_)));
    let unknown = Action::RemoveDomain {
        name: "carol".into(),
    };
    match engine.ask(&unknown).unwrap_err() {
        ClientError::Refused(refusal) => assert_eq!(refusal.error, "unknown"),
        other => panic!("{other}"),
    }
    // Several in one go, a bad one in between.
    let answers = say(
        &w,
        b"{\"action\":\"list\"}\nnonsense\n{\"action\":\"unlink\",\"from\":\"alice\",\"to\":\"bob\"}\n",
    );
    assert_eq!(answers.len(), 3);
    assert_eq!(error_of(&answers[1]), "bad-request");
    assert_eq!(answers[2], Answer::Reply(Reply::Done));
    drop(socket);
    let absent = engine.ask(&Action::List).unwrap_err();
    assert!(matches!(absent, ClientError::Absent { .. }), "{absent}");
    assert!(absent.to_string().contains("byway engine"), "{absent}");
}

#[test]
fn hostile_lines_end_their_connection_with_an_answer() {
    let w = World::new();
    let _socket = w.daemon.as_ref().unwrap().serve_operator().unwrap();
    let long = vec![b' '; REQUEST_BYTES_MAX + 1];
    for bytes in [&long[..], b"{\"action\":\"list\"}"] {
        let answers = say(&w, bytes);
        assert_eq!(answers.len(), 1);
        assert_eq!(error_of(&answers[0]), "bad-request");
    }
    let name = "admin".to_owned();
    let reserved = serde_json::json!({"action": "create-domain", "name": name}).to_string();
    assert_eq!(
        error_of(&say(&w, format!("{reserved}\n").as_bytes())[0]),
        "exists"
    );
    // As many as may be connected, and one more; then they go.
    let connect = || UnixStream::connect(w.socket("admin")).unwrap();
    let idle: Vec<_> = (0..16).map(|_| connect()).collect();
    assert_eq!(error_of(&say(&w, b"")[0]), "busy");
    drop(idle);
    let engine = RemoteEngine::new(w.folder.path());
    crate::engine::tests::world::until("there is room again", || engine.ask(&Action::List).is_ok());
}

#[test]
fn only_the_user_that_is_admitted_may_attach() {
    use crate::interface::{Admin, AdminError};
    let w = World::new();
    let daemon = w.daemon.as_ref().unwrap();
    let mode = || {
        let found = std::fs::metadata(w.socket("alice")).unwrap();
        found.permissions().mode() & 0o777
    };
    let admit = |name: &str, uid| {
        let name = name.to_owned();
        daemon.act(Action::Admit { name, uid })
    };
    assert_eq!(mode(), 0o600);
    // SAFETY: no preconditions.
    let own = unsafe { libc::geteuid() };
    admit("alice", Some(own + 1)).unwrap();
    assert_eq!(mode(), 0o666);
    assert!(crate::vhost_user::RemoteDomain::connect(&w.socket("alice")).is_err());
    admit("alice", Some(own)).unwrap();
    drop(w.connect("alice"));
    w.wait_detached("alice");
    admit("alice", None).unwrap();
    assert_eq!(mode(), 0o600);
    drop(w.connect("alice"));
    assert_eq!(
        admit("carol", None),
        Err(AdminError::Unknown("carol".into()))
    );
    let embedded = w.engine.act(Action::Admit {
        name: "alice".into(),
        uid: None,
    });
    assert_eq!(embedded, Err(AdminError::NoSockets));
}

#[test]
fn only_the_engines_user_and_root_may_operate() {
    const NOBODY: libc::uid_t = 65534;
    // SAFETY: no preconditions.
    if unsafe { libc::geteuid() } != 0 {
        println!("SKIPPED: only root can connect as another user");
        return;
    }
    let w = World::new();
    let _socket = w.daemon.as_ref().unwrap().serve_operator().unwrap();
    let socket = w.socket("admin");
    // Modes keep others out; that is not all there is.
    for path in [w.folder.path(), &socket] {
        std::fs::set_permissions(path, PermissionsExt::from_mode(0o777)).unwrap();
    }
    let list = b"{\"action\":\"list\"}\n";
    assert!(matches!(say(&w, list)[..], [Answer::Reply(_)]));
    let other = std::thread::spawn(move || {
        // SAFETY: changes numbers of the kernel's; the call itself, unlike the C library's function of
        // its name, is about this thread alone, which ends with the test.
        let rc = unsafe { libc::syscall(libc::SYS_setresuid, NOBODY, NOBODY, NOBODY) };
        assert_eq!(rc, 0);
        say_at(&socket, list)
    });
    let answers = other.join().unwrap();
    assert_eq!(answers.len(), 1);
    assert_eq!(error_of(&answers[0]), "denied");
}
