//! `byway ops`: the operations of the ABI, and which backend of this build and host carries
//! each of them out.
//!
//! Only looks: what the engine supports, what the host's DSA work queues take. An operation
//! under `dsa` is one of which the device does the long pieces; software does the rest.

use std::io::{self, Write};

use byway_engine::backend::Software;
use byway_engine::backend::dsa::{self, OFFLOADED, Operations};
use byway_engine::ops::supported_opcodes;
use byway_protocols::Opcode;
use clap::Parser;
use comfy_table::Table;
use comfy_table::presets::UTF8_BORDERS_ONLY;
use serde::Serialize;

use crate::exit_status::Failure;

/// Arguments of `byway ops`.
#[derive(Debug, Clone, Parser)]
#[command(
    after_help = "Examples:\n  byway ops         the operations and who carries each out\n  byway ops --json  the same for programs"
)]
pub struct Args {
    /// Write JSON to standard output instead of a table
    #[arg(long)]
    pub json: bool,
}

/// What this build and host support.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct OpsList {
    /// Vector kernels of the software backend on this processor.
    pub software_kernels: String,
    /// Usable DSA work queues by name; none: everything is software's.
    pub dsa_queues: Vec<String>,
    /// A row for each operation of the ABI, by code.
    pub operations: Vec<OpRow>,
}

/// One operation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct OpRow {
    /// Its code in descriptors.
    pub opcode: u8,
    /// Its name in the specification.
    pub name: &'static str,
    /// For another spelling of an operation, which one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub alias_of: Option<&'static str>,
    /// Backends that carry it out: `software`, `dsa`. Empty: this engine refuses it.
    pub backends: Vec<&'static str>,
}

/// Lists the operations for the queues of this host.
#[must_use]
pub fn list() -> OpsList {
    let queues: Vec<_> = dsa::candidates()
        .into_iter()
        .filter_map(|candidate| candidate.found.ok())
        .map(|queue| (queue.name, queue.operations))
        .collect();
    list_with(&queues)
}

fn list_with(queues: &[(String, Operations)]) -> OpsList {
    let supported = supported_opcodes();
    let has = |code: u8| supported[usize::from(code / 8)] >> (code % 8) & 1 != 0;
    let row = |&opcode: &Opcode| {
        let real = opcode.canonical();
        let mut backends = Vec::new();
        if has(opcode as u8) {
            backends.push("software");
            if OFFLOADED.contains(&real) && queues.iter().any(|(_, takes)| takes.has(real)) {
                backends.push("dsa");
            }
        }
        OpRow {
            opcode: opcode as u8,
            name: opcode.name(),
            alias_of: (real != opcode).then(|| real.name()),
            backends,
        }
    };
    OpsList {
        software_kernels: Software::new().kernels(),
        dsa_queues: queues.iter().map(|(name, _)| name.clone()).collect(),
        operations: Opcode::ALL.iter().map(row).collect(),
    }
}

/// Carries the command out.
///
/// # Errors
/// When standard output cannot be written.
pub fn run(args: &Args) -> Result<(), Failure> {
    let list = list();
    let text = if args.json {
        serde_json::to_string_pretty(&list).map_err(Failure::failed)?
    } else {
        table(&list)
    };
    writeln!(io::stdout(), "{text}").map_err(Failure::failed)
}

fn table(list: &OpsList) -> String {
    let mut table = Table::new();
    table
        .load_style(UTF8_BORDERS_ONLY)
        .set_header(["code", "operation", "software", "dsa"]);
    for row in &list.operations {
        let mark = |backend| {
            if row.backends.contains(&backend) {
                "yes"
            } else {
                "-"
            }
        };
        let name = match row.alias_of {
            Some(real) => format!("{} (alias of {real})", row.name),
            None => row.name.to_owned(),
        };
        table.add_row([
            format!("{:#04x}", row.opcode),
            name,
            mark("software").to_owned(),
            mark("dsa").to_owned(),
        ]);
    }
    let queues = if list.dsa_queues.is_empty() {
        "none here (`byway doctor` says why)".to_owned()
    } else {
        list.dsa_queues.join(", ")
    };
    format!(
        "{table}\nsoftware kernels: {}\ndsa work queues: {queues}",
        list.software_kernels
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn backends(list: &OpsList, opcode: Opcode) -> &[&'static str] {
        let row = list.operations.iter().find(|r| r.opcode == opcode as u8);
        &row.expect("every opcode has a row").backends
    }

    #[test]
    fn an_operation_is_listed_where_it_is_carried_out() {
        let takes = Operations::of(&[Opcode::Memmove, Opcode::Drain]);
        let list = list_with(&[("wq0.0".to_owned(), takes)]);
        assert_eq!(list.operations.len(), Opcode::ALL.len());
        assert_eq!(backends(&list, Opcode::Memmove), ["software", "dsa"]);
        assert_eq!(
            backends(&list, Opcode::InterDomainMemmove),
            ["software", "dsa"]
        );
        assert_eq!(backends(&list, Opcode::Fill), ["software"]);
        assert_eq!(backends(&list, Opcode::Drain), ["software"]);
        assert!(backends(&list, Opcode::Execute).is_empty());
        let none = list_with(&[]);
        assert_eq!(backends(&none, Opcode::Memmove), ["software"]);
    }

    #[test]
    fn the_table_and_the_json_say_the_same() {
        let list = list_with(&[("wq0.0".to_owned(), Operations::of(&[Opcode::Fill]))]);
        let text = table(&list);
        assert!(text.contains("0x04") && text.contains("wq0.0"), "{text}");
        assert!(text.contains("InterDomainFill (alias of Fill)"), "{text}");
        let json = serde_json::to_value(&list).unwrap();
        let fill = json["operations"]
            .as_array()
            .and_then(|rows| rows.iter().find(|row| row["opcode"] == 4))
            .unwrap();
        assert_eq!(fill["backends"], serde_json::json!(["software", "dsa"]));
    }
}
