//! The figures of an operation, as programs and as people read them.

use comfy_table::{CellAlignment, Table, presets};
use serde::{Deserialize, Serialize};

use super::LIBRARY_MIN;
use crate::bench::report::Row;
use crate::demo::report::bytes_name;

/// What only rows of operations have.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct OpsFigures {
    /// Operation; behind it in parentheses what of it.
    pub op: String,
    /// Backend: `software` or `dsa`.
    pub backend: String,
    /// Gigabytes per second of the same library, or of the best host code, called directly.
    pub library_gbps: Option<f64>,
    /// The engine's over the library's.
    pub over_library: Option<f64>,
    /// Whether the operation works on private copies, so that the library's figure has a copy through a buffer in the
    /// second cache in it.
    pub staged: bool,
    /// Fused operations of more than the caches hold: how much faster than the passes that they replace.
    pub over_two_passes: Option<f64>,
    /// Whether it has to reach nine tenths of the library.
    pub has_target: bool,
}

impl OpsFigures {
    /// The ratio to the library, where it has a target.
    #[must_use]
    pub fn judged(&self) -> Option<f64> {
        self.over_library.filter(|_| self.has_target)
    }
}

fn number(value: Option<f64>, digits: usize) -> String {
    value.map_or_else(|| "-".to_owned(), |v| format!("{v:.digits$}"))
}

/// A table of those rows that are of operations; `None` when there are none.
#[must_use]
pub fn table(rows: &[Row]) -> Option<Table> {
    let of_ops = || rows.iter().filter_map(|row| Some((row, row.ops.as_ref()?)));
    of_ops().next()?;
    let mut table = Table::new();
    table.load_style(presets::UTF8_BORDERS_ONLY);
    table.set_header([
        "operation",
        "backend",
        "size",
        "GB/s",
        "library GB/s",
        "over library",
        "target 0.9",
        "over 2 passes",
        "note",
    ]);
    for (row, ops) in of_ops() {
        let met = match ops.judged() {
            Some(ratio) if ratio >= LIBRARY_MIN => "met",
            Some(_) => "missed",
            None => "",
        };
        let staged = if ops.staged { " + copy" } else { "" };
        table.add_row([
            ops.op.clone(),
            ops.backend.clone(),
            if row.size == 0 {
                String::new()
            } else {
                bytes_name(row.size)
            },
            number(row.gbps, 2),
            number(ops.library_gbps, 2) + staged,
            number(ops.over_library, 2),
            met.to_owned(),
            number(ops.over_two_passes, 2),
            row.note.clone().unwrap_or_default(),
        ]);
    }
    for column in [2, 3, 5, 7] {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    Some(table)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(ratio: f64, has_target: bool) -> Row {
        Row {
            case: "ops".to_owned(),
            size: 1 << 20,
            ops: Some(OpsFigures {
                op: "Memmove".to_owned(),
                backend: "software".to_owned(),
                over_library: Some(ratio),
                has_target,
                ..OpsFigures::default()
            }),
            ..Row::default()
        }
    }

    #[test]
    fn a_row_says_whether_it_met_its_target() {
        let text = |ratio, has| table(&[row(ratio, has)]).unwrap().to_string();
        assert!(text(0.9, true).contains("met"));
        assert!(text(0.89, true).contains("missed"));
        assert!(!text(0.5, false).contains("missed"));
        assert!(table(&[Row::default()]).is_none());
    }

    #[test]
    fn its_json_has_the_fields_that_programs_look_for_in_the_row_itself() {
        let json = serde_json::to_value(row(1.0, true)).unwrap();
        for key in ["op", "backend", "size", "gbps", "library_gbps"] {
            assert!(json.get(key).is_some(), "{key}");
        }
        let back: Row = serde_json::from_value(json).unwrap();
        assert_eq!(back.ops, row(1.0, true).ops);
        let json = serde_json::to_value(Row::default()).unwrap();
        assert!(json.get("op").is_none());
        let back: Row = serde_json::from_value(json).unwrap();
        assert!(back.ops.is_none());
    }
}
