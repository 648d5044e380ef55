//! The mirror of the module's header against the header itself, as a C compiler sees it.

use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;

use byway_linux::uapi;

const HEADER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../module/uapi/linux/byway.h");

/// `BYWAY_IOC_CAP_QUERY` takes a `struct byway_ioc_cap_query`.
fn structure(call: &str) -> String {
    let name = call
        .strip_prefix("BYWAY_IOC_")
        .expect("a call of the header");
    format!("struct byway_ioc_{}", name.to_lowercase())
}

/// Compiles assertions; says what the compiler said.
fn compile(assertions: &str) -> Result<(), String> {
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("check.c");
    let program = format!("#include <stddef.h>\n#include \"{HEADER}\"\n{assertions}");
    std::fs::write(&source, program).unwrap();
    let compiler = std::env::var_os("CC").unwrap_or_else(|| "cc".into());
    let output = Command::new(compiler)
        .args(["-std=gnu11", "-Werror", "-fsyntax-only"])
        .arg(&source)
        .output()
        .expect("a C compiler, which linking takes anyway");
    match output.status.success() {
        true => Ok(()),
        false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
    }
}

#[test]
fn structures_and_numbers_are_those_of_the_header() {
    assert!(Path::new(HEADER).exists(), "{HEADER} is missing");
    let mut check = String::new();
    let mut same = |left: String, right: String| {
        writeln!(
            check,
            "_Static_assert({left} == {right}, \"{}\");",
            left.replace('"', "")
        )
        .unwrap();
    };
    for layout in uapi::LAYOUTS {
        let name = structure(layout.call);
        same(layout.call.to_owned(), format!("{}u", layout.number));
        same(format!("sizeof({name})"), layout.bytes.to_string());
        for (field, offset) in layout.fields {
            same(format!("offsetof({name}, {field})"), offset.to_string());
        }
    }
    for (name, value) in [
        ("BYWAY_IOC_KICK", uapi::KICK),
        ("BYWAY_IOC_ARM", uapi::ARM),
        ("BYWAY_IOC_INTERFACE", uapi::INTERFACE),
        ("BYWAY_IOC_NAME_BYTES", uapi::NAME_BYTES as u32),
        ("BYWAY_IOC_INFO_NO_AD", uapi::INFO_NO_AD),
        ("BYWAY_IOC_QUEUE_NO_PARK", uapi::QUEUE_NO_PARK),
        ("BYWAY_IOC_LISTEN_NONBLOCK", uapi::LISTEN_NONBLOCK),
        (
            "BYWAY_IOC_REVOKE_DESCENDANTS_ONLY",
            uapi::REVOKE_DESCENDANTS_ONLY,
        ),
    ] {
        same(name.to_owned(), format!("{value}u"));
    }
    same(
        "BYWAY_IOC_OWN_MEMORY".to_owned(),
        uapi::OWN_MEMORY.to_string(),
    );
    compile(&check).unwrap();
}

#[test]
fn a_wrong_number_is_noticed() {
    assert!(compile("_Static_assert(BYWAY_IOC_KICK == 1u, \"kick\");").is_err());
}
