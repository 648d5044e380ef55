//! Every mistake a file can have, and where it is said to be.

use super::*;
use crate::devices::serial::SerialSink;
use crate::loader::KernelSource;
use crate::memory::HugePages;
use byway_engine::interface::Share;
use proptest::prelude::*;
use std::io::Write;

const GOOD: &str = r#"
[engine]
workers = 2
spin_us = 100

[[vm]]
name = "alice"
image = "byway-guest"
memory = "256M"
cpus = 2
pin = [0, 0]
hugepages = "off"
populate = true
serial = "off"
[vm.quotas]
queues = 16

[[vm]]
name = "bob-2"
kernel = "KERNEL"
initrd = "KERNEL"
cmdline = "console=ttyS0"
memory = 1073741824
serial = "file:bob.log"
device_id = 40

[[link]]
from = "bob-2"
to = "alice"
read = true
write = true
max_bytes = "64M"
"#;

/// The good file with a real kernel path and some text replaced.
fn parse(replace: &str, by: &str) -> Result<RunConfig, ConfigError> {
    let folder = tempfile::tempdir().unwrap();
    std::fs::File::create(folder.path().join("vmlinux"))
        .unwrap()
        .write_all(b"x")
        .unwrap();
    assert!(GOOD.contains(replace), "{replace}");
    let text = GOOD.replacen(replace, by, 1).replace("KERNEL", "vmlinux");
    RunConfig::parse(&folder.path().join("vms.toml"), &text)
}

#[track_caller]
fn refused(replace: &str, by: &str, line: usize, what: &str) {
    let error = parse(replace, by).unwrap_err();
    assert_eq!(error.place.map(|place| place.0), Some(line), "{error}");
    assert!(error.what.contains(what), "{error}");
    assert!(!error.help.is_empty(), "{error}");
}

const ENGINE: &str = r#"
[engine]
workers = 2

[[domain]]
name = "alice"
uid = 1000
[domain.quotas]
queues = 16
[domain.quotas.share]
weight = 3

[[domain]]
name = "bob"

[[link]]
from = "bob"
to = "alice"
read = true
"#;

fn parse_engine(replace: &str, by: &str) -> Result<DaemonConfig, ConfigError> {
    assert!(ENGINE.contains(replace), "{replace}");
    let text = ENGINE.replacen(replace, by, 1);
    DaemonConfig::parse("engine.toml".as_ref(), &text)
}

#[test]
fn an_engines_file_becomes_actions() {
    let config = parse_engine("alice", "alice").unwrap();
    assert_eq!(config.engine.engine().workers, 2);
    let actions = config.actions();
    let [
        Action::CreateDomain { name, quotas },
        Action::Admit {
            name: admitted,
            uid: Some(1000),
        },
        Action::CreateDomain { name: bob, .. },
        Action::Link(link),
    ] = &actions[..]
    else {
        panic!("{actions:?}");
    };
    assert_eq!(
        (&name[..], &admitted[..], &bob[..]),
        ("alice", "alice", "bob")
    );
    assert_eq!((quotas.queues, quotas.share.weight), (16, 3));
    assert_eq!(
        (&link.from[..], &link.to[..], link.read),
        ("bob", "alice", true)
    );
    assert_eq!(
        DaemonConfig::parse("f".as_ref(), "").unwrap(),
        DaemonConfig::default()
    );
}

#[test]
fn mistakes_in_an_engines_file_name_their_line() {
    for (replace, by, line, what) in [
        ("uid = 1000", "uid = -1", 7, "integer"),
        ("uid = 1000", "memory = 1", 7, "unknown field"),
        ("queues = 16", "queues = 99999999", 9, "quota queues"),
        ("weight = 3", "weight = 0", 11, "share.weight"),
        ("name = \"bob\"", "name = \"alice\"", 14, "in line 6"),
        ("name = \"bob\"", "name = \"B\"", 14, "is not a name"),
        ("name = \"bob\"", "name = \"admin\"", 14, "operator"),
        ("to = \"alice\"", "to = \"carol\"", 18, "no domain"),
        (
            "[[domain]]\nname = \"bob\"",
            "[[vm]]\nname = \"bob\"\nmemory = \"1M\"",
            13,
            "byway run",
        ),
    ] {
        let error = parse_engine(replace, by).unwrap_err();
        assert_eq!(error.place.map(|place| place.0), Some(line), "{error}");
        assert!(error.what.contains(what), "{error}");
    }
    let error = parse("[[link]]", "[[domain]]\nname = \"x\"\n[[link]]").unwrap_err();
    assert!(error.what.contains("byway engine"), "{error}");
}

#[test]
fn a_remote_engine_is_left_to_its_operator() {
    let path = Path::new("vms.toml");
    let vm = "[[vm]]\nname = \"a\"\nimage = \"byway-guest\"\nmemory = \"64M\"\n";
    let check = |more: &str| {
        let config = RunConfig::parse(path, &format!("{more}{vm}")).unwrap();
        config.check_remote(path)
    };
    assert_eq!(check(""), Ok(()));
    for (more, what) in [
        ("[engine]\nworkers = 2\n".to_owned(), "[engine]"),
        (
            format!("{}[vm.quotas]\nqueues = 1\n", vm.replace("\"a\"", "\"b\"")),
            "\"b\"",
        ),
        (
            format!(
                "{}[[link]]\nfrom = \"a\"\nto = \"b\"\nread = true\n",
                vm.replace("\"a\"", "\"b\"")
            ),
            "[[link]]",
        ),
        (
            "[[endpoint]]\nname = \"disk\"\nkind = \"file\"\npath = \"disk.img\"\n".to_owned(),
            "[[endpoint]]",
        ),
    ] {
        let error = check(&more).unwrap_err();
        assert!(error.what.contains(what), "{error}");
    }
}

#[test]
fn a_good_file_means_what_it_says() {
    let config = parse("alice", "alice").unwrap();
    assert_eq!(config.engine.workers, Some(2));
    assert_eq!(config.engine.spin_us, Some(100));
    let [alice, bob] = &config.vms[..] else {
        panic!("{config:?}");
    };
    assert_eq!(alice.vm.ram.size, 256 << 20);
    assert_eq!(alice.vm.ram.huge_pages, HugePages::Off);
    assert!(alice.vm.ram.populate);
    assert_eq!((alice.vm.cpus, &alice.vm.pin[..]), (2, &[0, 0][..]));
    assert_eq!(alice.vm.serial, SerialSink::Discard);
    assert_eq!(alice.vm.mailbox_bytes, crate::GUEST_MAILBOX_BYTES);
    assert!(matches!(alice.vm.kernel, KernelSource::Image(_)));
    assert_eq!(alice.quotas.queues, 16);
    assert_eq!(alice.quotas.contexts, Quotas::default().contexts);
    assert_eq!(bob.vm.ram.size, 1 << 30);
    assert_eq!(bob.vm.cpus, 1);
    assert_eq!(bob.vm.device_id, 40);
    assert_eq!(bob.vm.mailbox_bytes, 0);
    assert!(bob.vm.initrd.is_some());
    assert!(matches!(&bob.vm.serial, SerialSink::File(path) if path.ends_with("bob.log")));
    let link = &config.links[0];
    assert_eq!((link.from.as_str(), link.to.as_str()), ("bob-2", "alice"));
    assert!(link.read && link.write && !link.grant);
    assert_eq!(link.max_bytes, 64 << 20);
}

#[test]
fn unknown_keys_are_refused_with_their_line() {
    refused("workers = 2", "wrokers = 2", 3, "unknown field `wrokers`");
    refused("cpus = 2", "cpu = 2", 10, "unknown field `cpu`");
    refused("queues = 16", "queue = 16", 16, "unknown field `queue`");
    refused("write = true", "wirte = true", 31, "unknown field `wirte`");
    refused("[engine]", "[motor]", 2, "unknown field `motor`");
}

#[test]
fn values_of_the_wrong_kind_are_refused_with_their_line() {
    refused("\"256M\"", "\"lots\"", 9, "not a size");
    refused("\"256M\"", "-1", 9, "not a size");
    refused("cpus = 2", "cpus = \"two\"", 10, "invalid type");
    refused(
        "\"off\"\npopulate",
        "\"big\"\npopulate",
        12,
        "unknown variant",
    );
    refused("read = true", "read = 1", 30, "invalid type");
    refused(
        "cpus = 2",
        "cpu_template = \"8086\"",
        10,
        "unknown variant `8086`",
    );
    refused("cpus = 2", "cpus = ", 10, "");
}

#[test]
fn missing_keys_are_refused() {
    refused("memory = \"256M\"\n", "", 6, "missing field `memory`");
    refused("image = \"byway-guest\"\n", "", 6, "has no kernel");
    let error = RunConfig::parse("f.toml".as_ref(), "").unwrap_err();
    assert!(error.to_string().contains("[[vm]]"), "{error}");
}

#[test]
fn sizes_and_counts_are_bounded() {
    refused("cpus = 2", "cpus = 0", 10, "0 vCPUs");
    refused("cpus = 2", "cpus = 65", 10, "65 vCPUs");
    refused("\"256M\"", "\"1M\"", 9, "1M of memory");
    refused("\"256M\"", "\"1000T\"", 9, "of memory");
    refused("\"256M\"", "268435457", 9, "of memory");
    refused("workers = 2", "workers = 0", 3, "0 workers");
    refused("workers = 2", "workers = 1000", 3, "1000 workers");
    refused("spin_us = 100", "spin_us = 1000001", 4, "spinning");
    refused("device_id = 40", "device_id = 0", 25, "device id");
    let long = format!("cmdline = \"{}\"", "x".repeat(COMMAND_LINE_MAX));
    refused("cmdline = \"console=ttyS0\"", &long, 19, "command line");
}

use crate::layout::COMMAND_LINE_MAX;

#[test]
fn quotas_out_of_the_engines_bounds_are_refused_with_their_line() {
    let wrong = [
        ("address_spaces", u32::MAX),
        ("contexts", u32::MAX),
        ("queues", 99_999_999),
        ("queue_entries", 3),
        ("capabilities", (1 << 20) + 1),
        ("offers", u32::MAX),
        ("no_park_queues", u32::MAX),
        ("parked", (1 << 16) + 1),
        ("share.weight", 0),
        ("share.weight", 257),
        ("share.burst_us", 1_000_001),
    ];
    for (key, value) in wrong {
        let by = format!("{key} = {value}");
        refused("queues = 16", &by, 16, &format!("{value} as quota {key}"));
    }
    refused("queues = 16", "queues = 4294967296", 16, "4294967296");
}

#[test]
fn every_quota_reaches_the_engine() {
    let text = "address_spaces = 1\ncontexts = 2\nqueues = 3\nqueue_entries = 16\ncapabilities = 5\n\
                offers = 6\nno_park_queues = 7\nparked = 8\n[vm.quotas.share]\nweight = 9\n\
                bytes_per_s = 10\noperations_per_s = 11\nburst_us = 12";
    let quotas = parse("queues = 16", text).unwrap().vms[0].quotas.clone();
    let meant = Quotas {
        address_spaces: 1,
        contexts: 2,
        queues: 3,
        queue_entries: 16,
        capabilities: 5,
        offers: 6,
        no_park_queues: 7,
        parked: 8,
        share: Share {
            weight: 9,
            bytes_per_s: 10,
            operations_per_s: 11,
            burst_us: 12,
        },
    };
    assert_eq!(quotas, meant);
}

#[test]
fn the_time_for_page_requests_is_bounded() {
    let with = |ms: u32| format!("spin_us = 100\npage_response_ms = {ms}");
    for ms in [1, 60_000] {
        let config = parse("spin_us = 100", &with(ms)).unwrap();
        assert_eq!(config.engine.page_response_ms, Some(ms));
    }
    for ms in [0, 60_001] {
        refused("spin_us = 100", &with(ms), 5, "to answer a page request");
    }
}

#[test]
fn the_backend_is_one_of_three() {
    let engine = |backend: &str| format!("spin_us = 100\nbackend = {backend:?}");
    let chosen = |backend| parse("spin_us = 100", &engine(backend)).unwrap();
    assert_eq!(
        parse("alice", "alice").unwrap().engine.backend,
        Choice::Auto
    );
    assert_eq!(chosen("auto").engine.backend, Choice::Auto);
    assert_eq!(chosen("dsa").engine.backend, Choice::Dsa);
    assert_eq!(chosen("software").engine.backend, Choice::Software);
    refused("spin_us = 100", &engine("gpu"), 5, "unknown variant");
}

#[test]
fn host_cpus_are_checked() {
    let pin = "pin = [0, 0]";
    refused(pin, "pin = [0, 4096]", 11, "no CPU 4096");
    refused(pin, "pin = [0]", 11, "1 host CPUs for 2 threads");
    refused(pin, "pin = [0, 0, 0]", 11, "3 host CPUs for 2 threads");
    assert!(parse(pin, "pin = []").unwrap().vms[0].vm.pin.is_empty());
}

#[test]
fn names_are_checked() {
    refused("\"bob-2\"", "\"alice\"", 19, "another VM, in line 7");
    for name in ["", "Bob", "b b", &"x".repeat(33), "böb"] {
        refused("\"alice\"", &format!("{name:?}"), 7, "is not a name");
    }
}

#[test]
fn links_lead_from_one_vm_to_another() {
    refused(
        "to = \"alice\"",
        "to = \"carol\"",
        29,
        "there is no VM \"carol\"",
    );
    refused("to = \"alice\"", "to = \"bob-2\"", 27, "to itself");
    refused(
        "read = true\nwrite = true",
        "grant = true",
        27,
        "permits nothing",
    );
    let second = "[[link]]\nfrom = \"bob-2\"\nto = \"alice\"\nread = true\n[[link]]";
    refused("[[link]]", second, 31, "a second link");
}

/// The engine takes a device back only from who says the same of it, whoever says it.
#[test]
fn paths_of_endpoints_are_whole_whatever_the_files_path_is() {
    let file = "[[endpoint]]\nname = \"disk\"\nkind = \"file\"\npath = \"disk.img\"\n";
    let here = std::env::current_dir().unwrap();
    for (at, folder) in [
        ("engine.toml", here.clone()),
        ("a/engine.toml", here.join("a")),
        ("/b/engine.toml", "/b".into()),
    ] {
        let config = DaemonConfig::parse(Path::new(at), file).unwrap();
        let [Action::AttachEndpoint(endpoint)] = &config.endpoints[..] else {
            panic!("{config:?}");
        };
        assert_eq!(endpoint.path, folder.join("disk.img"), "{at}");
        assert_eq!(endpoint.timeout_ms, 30_000);
    }
}

#[test]
fn devices_are_trusted_with_memory_by_name_alone_and_may_not_take_long() {
    let endpoint = |timeout: &str, grant: &str| {
        format!(
            "[[link]]\nfrom = \"alice\"\nto = \"bob-2\"\nread = true\n\
             [[endpoint]]\nname = \"disk\"\nkind = \"file\"\npath = \"disk.img\"\n{timeout}\n\
             [[endpoint.grant]]\ndomain = \"alice\"\n{grant}\n[[link]]"
        )
    };
    for (timeout, grant, expected) in [
        ("", "read = true", false),
        ("", "read = true\ntrusted = false", false),
        ("timeout_ms = 10000", "read = true\ntrusted = true", true),
        // Its memory, and none of the blocks.
        ("timeout_ms = 500", "trusted = true", true),
    ] {
        let parsed = parse("[[link]]", &endpoint(timeout, grant)).unwrap();
        let trusted = parsed.endpoints.iter().find_map(|action| match action {
            Action::GrantEndpoint(grant) => Some(grant.trusted),
            _ => None,
        });
        assert_eq!(trusted, Some(expected), "{timeout}, {grant}");
    }
    let line = GOOD.lines().position(|line| line == "[[link]]").unwrap() + 1;
    let long = endpoint("", "read = true\ntrusted = true");
    refused(
        "[[link]]",
        &long,
        line + 12,
        "timeout_ms of \"disk\" is 30000",
    );
    let nothing = endpoint("timeout_ms = 500", "trusted = false");
    refused("[[link]]", &nothing, line + 9, "permits nothing");
}

#[test]
fn files_must_be_there() {
    refused(
        "kernel = \"KERNEL\"",
        "kernel = \"nowhere\"",
        20,
        "there is no file",
    );
    refused(
        "initrd = \"KERNEL\"",
        "initrd = \".\"",
        21,
        "is not a regular file",
    );
    refused(
        "kernel = \"KERNEL\"",
        "kernel = \"/dev/null\"",
        20,
        "is not a regular file",
    );
    let error = RunConfig::load("/nonexistent.toml".as_ref()).unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with("/nonexistent.toml: cannot be read")
    );
}

#[test]
fn kernels_and_consoles_are_checked() {
    refused(
        "\"byway-guest\"",
        "\"other\"",
        8,
        "no built-in image \"other\"",
    );
    refused("kernel =", "image = \"byway-guest\"\nkernel =", 20, "both");
    for place in ["file:", "tty", ""] {
        refused("\"file:bob.log\"", &format!("{place:?}"), 24, "console");
    }
    let both = GOOD.replace("\"off\"\n[vm.quotas]", "\"terminal\"\n[vm.quotas]");
    let both = both.replace("\"file:bob.log\"", "\"terminal\"");
    let both = both.replace("KERNEL", "/proc/self/exe");
    let error = RunConfig::parse("vms.toml".as_ref(), &both).unwrap_err();
    assert_eq!(error.place.map(|place| place.0), Some(24), "{error}");
    assert!(error.what.contains("\"alice\" has the terminal"), "{error}");
    for (place, reason) in [
        ("file:no/log", "its folder does not exist"),
        ("file:.", "a folder"),
    ] {
        refused("\"file:bob.log\"", &format!("{place:?}"), 24, reason);
    }
}

#[test]
fn a_file_that_is_not_text_is_refused_with_its_line() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("vms.toml");
    std::fs::write(&path, b"[[vm]]\nname = \"b\xffb\"\n").unwrap();
    let error = RunConfig::load(&path).unwrap_err();
    assert_eq!(error.place, Some((2, 10)), "{error}");
    assert!(error.what.contains("UTF-8"), "{error}");
}

#[test]
fn too_many_vms_are_refused() {
    let mut text = String::new();
    for index in 0..=VMS_MAX {
        text +=
            &format!("[[vm]]\nname = \"v{index}\"\nimage = \"byway-guest\"\nmemory = \"64M\"\n");
    }
    let error = RunConfig::parse("f.toml".as_ref(), &text).unwrap_err();
    assert_eq!(error.place, Some((4 * VMS_MAX + 1, 1)), "{error}");
}

proptest! {
    #[test]
    fn no_damage_is_a_panic(at in 0..GOOD.len(), byte in "[ -~\n]") {
        let mut text = GOOD.to_owned();
        text.replace_range(at..=at, &byte);
        if let Err(error) = RunConfig::parse("vms.toml".as_ref(), &text) {
            prop_assert!(error.to_string().starts_with("vms.toml"));
        }
    }
}
