//! The committed C header is what the generator makes, and a C compiler agrees with it.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::Command;

use byway_protocols::{Flags, Opcode, Word0, layouts};

use crate::document::path;
use crate::generator::{header, literal, number_name, struct_name};
use crate::names::{groups, packed_words};

const HEADER: &str = "include/byway.h";

#[test]
fn the_committed_header_is_the_generated_one() {
    let generated = header();
    if std::env::var_os("BYWAY_BLESS").is_some() {
        std::fs::write(path(HEADER), &generated).unwrap();
    }
    let committed = std::fs::read_to_string(path(HEADER)).unwrap_or_default();
    if let Some((number, (is, should))) = (1..)
        .zip(committed.lines().zip(generated.lines()))
        .find(|(_, (is, should))| is != should)
    {
        panic!(
            "{HEADER}:{number} is {is:?}, should be {should:?}; \
             `BYWAY_BLESS=1 cargo test -p byway-protocols` rewrites it"
        );
    }
    assert_eq!(committed.len(), generated.len(), "{HEADER} ends elsewhere");
}

/// A translation unit that does not compile unless every offset, size and value is right.
fn assertions() -> String {
    let mut c = String::from("#include \"byway.h\"\n#include <stddef.h>\n\n");
    let mut claim = |claim: String| {
        let _ = writeln!(c, "_Static_assert({claim}, {claim:?});");
    };
    for layout in layouts::ALL {
        let name = struct_name(layout);
        claim(format!("sizeof(struct {name}) == {}", layout.size));
        claim(format!("_Alignof(struct {name}) == {}", layout.align));
        for field in layout.fields {
            let f = field.name;
            let bytes = field.count * element_bytes(field.c_type);
            claim(format!("offsetof(struct {name}, {f}) == {}", field.offset));
            claim(format!("sizeof(((struct {name} *)0)->{f}) == {bytes}"));
        }
    }
    for group in groups() {
        for &(member, value) in &group.members {
            claim(format!(
                "{} == {}",
                number_name(&group, member),
                literal(value)
            ));
        }
    }
    for word in packed_words() {
        claim(format!("{} == {}", word.c_name, literal(word.value)));
    }
    for (src, dst, phase) in [(0, 0, false), (0x7fff, 0, true), (1, 0x7fff, false)] {
        let word = Word0::new(src, dst, phase).0;
        claim(format!(
            "BYWAY_WORD0({src}, {dst}, {}) == {word:#x}U",
            i32::from(phase)
        ));
    }
    let word = byway_protocols::Descriptor::new(Opcode::Memmove, Flags::FENCE).flags_opcode;
    claim(format!(
        "BYWAY_FLAGS_OPCODE(BYWAY_FLAG_FENCE, BYWAY_OP_MEMMOVE) == {word:#x}U"
    ));
    c
}

fn element_bytes(c_type: &str) -> usize {
    match c_type {
        "__u8" => 1,
        "__le16" => 2,
        "__le32" => 4,
        "__le64" => 8,
        other => panic!("no such type on the wire: {other}"),
    }
}

/// Compiles `source`; the compiler's words when it refuses, `None` when there is no compiler.
fn compile(name: &str, source: &str, options: &[&str]) -> Option<Result<(), String>> {
    let compiler = std::env::var("CC").unwrap_or_else(|_| "cc".to_owned());
    // A folder and a header of its own: tests run at the same time, and one may rewrite
    // the committed header.
    let dir = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
    std::fs::create_dir_all(&dir).unwrap();
    std::fs::write(dir.join("byway.h"), header()).unwrap();
    let file = dir.join("assertions.c");
    std::fs::write(&file, source).unwrap();
    let output = Command::new(&compiler)
        .args(["-std=c11", "-Wall", "-Wextra", "-Werror", "-pedantic"])
        .args(options)
        .arg("-fsyntax-only")
        .arg(&file)
        .output()
        .ok()?;
    Some(if output.status.success() {
        Ok(())
    } else {
        Err(format!(
            "{compiler}: {}",
            String::from_utf8_lossy(&output.stderr)
        ))
    })
}

/// Says that a test could not run, in the words that `tests/run` counts as skipped.
fn skip_without_compiler() {
    println!("SKIPPED: no C compiler; install gcc and libc6-dev, or set CC");
}

#[test]
fn a_c_compiler_agrees_with_every_offset_and_value() {
    match compile("as_it_is", &assertions(), &[]) {
        None => skip_without_compiler(),
        Some(result) => result.unwrap_or_else(|words| panic!("{words}")),
    }
}

#[test]
fn the_header_needs_no_linux() {
    match compile("elsewhere", &assertions(), &["-U__linux__"]) {
        None => skip_without_compiler(),
        Some(result) => result.unwrap_or_else(|words| panic!("{words}")),
    }
}

#[test]
fn a_wrong_offset_does_not_compile() {
    let wrong = assertions().replace(
        "offsetof(struct byway_descriptor, src) == 16",
        "offsetof(struct byway_descriptor, src) == 24",
    );
    match compile("wrong", &wrong, &[]) {
        None => skip_without_compiler(),
        Some(result) => {
            let words = result.expect_err("an assertion that does not hold compiled");
            assert!(words.contains("byway_descriptor, src"), "{words}");
        }
    }
}
