//! Compares the tables of `SPEC.md` with the crate, in both directions.

use std::collections::BTreeSet;

use byway_protocols::control::RequestKind;
use byway_protocols::{Opcode, Status, StructLayout, layouts};

use crate::document::{Table, read, table, tables};
use crate::names::{NOT_LISTED, groups, packed_words};

/// The specification's word for a field's type.
fn type_name(c_type: &str, count: usize) -> String {
    let element = c_type.trim_start_matches("__");
    if count == 1 {
        element.to_owned()
    } else {
        format!("{element}[{count}]")
    }
}

fn heading(layout: &StructLayout) -> String {
    format!(
        "`{}`: {} bytes, aligned to {}",
        layout.name, layout.size, layout.align
    )
}

#[test]
fn every_structure_is_specified_as_it_is_laid_out() {
    for layout in layouts::ALL {
        let specified: Vec<[String; 3]> = table(&heading(layout))
            .rows
            .iter()
            .map(|row| [row[0].clone(), row[1].clone(), row[2].clone()])
            .collect();
        let declared: Vec<[String; 3]> = layout
            .fields
            .iter()
            .map(|f| {
                [
                    f.offset.to_string(),
                    format!("`{}`", f.name),
                    type_name(f.c_type, f.count),
                ]
            })
            .collect();
        assert_eq!(specified, declared, "fields of {}", layout.name);
    }
}

#[test]
fn no_structure_is_specified_that_is_not_declared() {
    let declared: BTreeSet<String> = layouts::ALL.iter().map(heading).collect();
    for Table { subject, .. } in tables() {
        if subject.starts_with('`') {
            assert!(declared.contains(&subject), "SPEC.md specifies {subject}");
        }
    }
}

#[test]
fn every_named_number_is_specified() {
    for group in groups() {
        let table = table(group.subject);
        let specified: Vec<(String, u64)> = table
            .rows
            .iter()
            .map(|row| {
                let digits = row[group.number_column].trim_start_matches("0x");
                let number = u64::from_str_radix(digits, group.radix)
                    .unwrap_or_else(|e| panic!("{}: {row:?}: {e}", group.subject));
                (row[group.name_column].clone(), number)
            })
            .collect();
        let declared: Vec<(String, u64)> = group
            .members
            .iter()
            .map(|&(name, number)| (format!("`{name}`"), number))
            .collect();
        assert_eq!(specified, declared, "table of {}", group.subject);
    }
}

#[test]
fn no_constant_of_the_crate_is_left_out() {
    let mut listed: BTreeSet<String> = NOT_LISTED.iter().map(|&n| n.to_owned()).collect();
    for group in groups() {
        listed.extend(group.members.iter().map(|&(name, _)| name.to_owned()));
    }
    listed.extend(packed_words().iter().map(|w| w.rust_name.to_owned()));
    for entry in std::fs::read_dir(crate::document::path("src")).unwrap() {
        let file = entry.unwrap().file_name().into_string().unwrap();
        for line in read(&format!("src/{file}")).lines() {
            let Some(rest) = line.trim_start().strip_prefix("pub const ") else {
                continue;
            };
            let name: String = rest.chars().take_while(|&c| c != ':').collect();
            if name
                .chars()
                .all(|c| c.is_ascii_uppercase() || c == '_' || c.is_ascii_digit())
            {
                assert!(
                    listed.contains(&name),
                    "{file} declares {name}: list it in tests/abi/names.rs and in SPEC.md"
                );
            }
        }
    }
}

#[test]
fn resumable_statuses_are_those_of_the_crate() {
    let table = table("Status");
    for status in Status::ALL {
        let row = table.row(1, status.name());
        let expected = if status.is_resumable() { "yes" } else { "no" };
        assert_eq!(row[3], expected, "{status}");
    }
}

#[test]
fn operations_of_this_version_have_a_section_and_aliases_stand_for_them() {
    let text = read("SPEC.md");
    let table = table("Opcode");
    let supported = |op: Opcode| table.row(1, op.name())[2] == "yes";
    for &op in Opcode::ALL {
        assert_eq!(supported(op), supported(op.canonical()), "{op:?}");
        if supported(op) && op == op.canonical() {
            let code = format!("(`{:#04x}`)\n", op as u8);
            assert!(
                text.lines()
                    .any(|l| l.starts_with("### 4.") && format!("{l}\n").ends_with(&code)),
                "no section for {op:?}"
            );
        }
    }
}

#[test]
fn bodies_of_requests_are_declared_structures() {
    let table = table("RequestKind");
    for kind in RequestKind::ALL {
        let row = table.row(1, kind.name());
        for cell in &row[2..4] {
            let name = cell.trim_matches('`');
            assert!(
                name == "-" || layouts::ALL.iter().any(|l| l.name == name),
                "{kind:?}: {cell}"
            );
        }
    }
}

#[test]
fn links_within_the_specification_lead_somewhere() {
    let text = read("SPEC.md");
    let anchors: BTreeSet<String> = text
        .lines()
        .filter(|l| l.starts_with('#'))
        .map(|l| {
            l.trim_start_matches('#')
                .trim()
                .to_lowercase()
                .chars()
                .filter(|c| c.is_alphanumeric() || " -_".contains(*c))
                .map(|c| if c == ' ' { '-' } else { c })
                .collect()
        })
        .collect();
    for target in text.split("](#").skip(1) {
        let target = target.split(')').next().unwrap();
        assert!(anchors.contains(target), "no heading for #{target}");
    }
}
