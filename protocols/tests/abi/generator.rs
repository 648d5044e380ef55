//! Generates `include/byway.h`: numbers and layouts from the crate, comments from `SPEC.md`.

use std::fmt::Write as _;

use byway_protocols::{StructLayout, layouts};

use crate::document::{Table, plain, tables};
use crate::names::{Group, groups, packed_words, screaming};

/// Columns of text in a comment; kernel style asks for 80 with tabs of 8.
const COMMENT_COLUMNS: usize = 74;

const PROLOGUE: &str = "\
/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * Byway's paravirtual data-movement device: wire formats of ABI version 1.
 *
 * Generated from the crate byway-protocols and its SPEC.md; do not edit. Section
 * numbers are those of SPEC.md. `BYWAY_BLESS=1 cargo test -p byway-protocols`
 * writes this file anew.
 *
 * Structures have no implicit padding. Fields named reserved... are written as 0.
 */
#ifndef BYWAY_H
#define BYWAY_H

#if defined(__linux__) || defined(__KERNEL__)
#include <linux/types.h>
#else
#include <stdint.h>
typedef uint8_t __u8;
typedef uint32_t __u32;
typedef uint16_t __le16;
typedef uint32_t __le32;
typedef uint64_t __le64;
#endif
";

const HELPERS: &str = "
/* Word 0 of a descriptor: capability slots and phase (section 3.1). */
#define BYWAY_WORD0(src_slot, dst_slot, phase) \\
\t((__u32)(src_slot) | (__u32)(dst_slot) << BYWAY_SLOT_BITS | \\
\t ((phase) ? BYWAY_WORD0_PHASE : 0U))

/* Word 1 of a descriptor: flags and operation code (section 3.2). */
#define BYWAY_FLAGS_OPCODE(flags, opcode) \\
\t((__u32)(flags) | (__u32)(opcode) << BYWAY_OPCODE_SHIFT)
";

/// The whole header.
pub fn header() -> String {
    let tables = tables();
    let mut out = PROLOGUE.to_owned();
    for group in groups() {
        numbers(&mut out, &group, of(&tables, group.subject));
    }
    out += "\n/* Parts of packed words (sections 2.4, 3.1, 5) */\n";
    for word in packed_words() {
        define(&mut out, word.c_name, word.value, word.meaning);
    }
    out += HELPERS;
    for layout in layouts::ALL {
        let heading = format!(
            "`{}`: {} bytes, aligned to {}",
            layout.name, layout.size, layout.align
        );
        structure(&mut out, layout, of(&tables, &heading));
    }
    out += "\n#endif /* BYWAY_H */\n";
    out
}

/// Name of a structure in C.
pub fn struct_name(layout: &StructLayout) -> String {
    format!("byway_{}", screaming(layout.name).to_lowercase())
}

/// Name of a number in C.
pub fn number_name(group: &Group, member: &str) -> String {
    let prefix = if group.prefix.is_empty() {
        String::new()
    } else {
        format!("{}_", group.prefix)
    };
    // The names of section 10 say what they are in their module only.
    let scope = if matches!(
        member,
        "RANGES" | "WORKERS" | "BUSY_OFFSET" | "RANGES_OFFSET"
    ) {
        "INVALIDATION_"
    } else {
        ""
    };
    format!("BYWAY_{prefix}{scope}{}", screaming(member))
}

/// A number as a C literal; the kernel's and user space's preprocessors take both.
pub fn literal(value: u64) -> String {
    if u32::try_from(value).is_ok() {
        format!("{value:#x}U")
    } else {
        format!("{value:#x}ULL")
    }
}

fn of<'a>(tables: &'a [Table], subject: &str) -> &'a Table {
    tables
        .iter()
        .find(|t| t.subject == subject)
        .unwrap_or_else(|| panic!("SPEC.md has no table of {subject}"))
}

fn numbers(out: &mut String, group: &Group, table: &Table) {
    let _ = writeln!(out, "\n/* {} */", group.heading);
    for &(member, value) in &group.members {
        let row = table.row(group.name_column, member);
        let meaning = plain(&row[group.meaning_column]);
        define(out, &number_name(group, member), value, &meaning);
    }
}

fn define(out: &mut String, name: &str, value: u64, meaning: &str) {
    comment(out, "", meaning);
    let _ = writeln!(out, "#define {name} {}", literal(value));
}

fn structure(out: &mut String, layout: &StructLayout, table: &Table) {
    let _ = writeln!(out, "\nstruct {} {{", struct_name(layout));
    for field in layout.fields {
        let row = table.row(1, field.name);
        if !field.name.starts_with("reserved") {
            comment(out, "\t", &plain(&row[3]));
        }
        let array = if field.count == 1 {
            String::new()
        } else {
            format!("[{}]", field.count)
        };
        let _ = writeln!(out, "\t{} {}{array};", field.c_type, field.name);
    }
    let _ = writeln!(out, "}} __attribute__((aligned({})));", layout.align);
}

/// A comment of one line, or of several where it must.
fn comment(out: &mut String, indent: &str, text: &str) {
    let text = text.trim_end_matches('.');
    let columns = COMMENT_COLUMNS - 8 * indent.len();
    if text.chars().count() <= columns {
        let _ = writeln!(out, "{indent}/* {text} */");
        return;
    }
    let _ = writeln!(out, "{indent}/*");
    let mut line = String::new();
    for word in text.split(' ') {
        if !line.is_empty() && line.chars().count() + word.chars().count() >= columns {
            let _ = writeln!(out, "{indent} * {line}");
            line.clear();
        }
        if !line.is_empty() {
            line.push(' ');
        }
        line += word;
    }
    let _ = writeln!(out, "{indent} * {line}\n{indent} */");
}
