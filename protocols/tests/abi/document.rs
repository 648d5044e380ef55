//! Reads the tables of `SPEC.md`. Owns no knowledge of what they should say.

use std::path::{Path, PathBuf};

/// A table of the specification.
pub struct Table {
    /// What it lists: the name in `<!-- table: NAME -->`, or the heading of a structure.
    pub subject: String,
    /// Cells of the rows below the header.
    pub rows: Vec<Vec<String>>,
}

impl Table {
    /// The row whose `column` holds `` `name` ``.
    pub fn row(&self, column: usize, name: &str) -> &[String] {
        let quoted = format!("`{name}`");
        self.rows
            .iter()
            .find(|row| row.get(column) == Some(&quoted))
            .unwrap_or_else(|| panic!("SPEC.md: no {name} in the table of {}", self.subject))
    }
}

/// A file of this crate.
pub fn path(relative: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(relative)
}

/// The text of a file of this crate.
pub fn read(relative: &str) -> String {
    let path = path(relative);
    std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// Every table of the specification that has a subject, in order.
pub fn tables() -> Vec<Table> {
    let text = read("SPEC.md");
    let mut tables: Vec<Table> = Vec::new();
    let mut subject = None;
    let mut lines = text.lines().peekable();
    while let Some(line) = lines.next() {
        if let Some(name) = line.strip_prefix("<!-- table: ") {
            subject = Some(name.trim_end_matches(" -->").to_owned());
        } else if line.starts_with("#### `") {
            subject = Some(line.trim_start_matches("#### ").to_owned());
        } else if line.starts_with('#') {
            subject = None;
        } else if line.starts_with('|') {
            lines.next(); // the rule below the column titles
            let mut rows = Vec::new();
            while let Some(row) = lines.next_if(|l| l.starts_with('|')) {
                rows.push(cells(row));
            }
            if let Some(subject) = subject.take() {
                tables.push(Table { subject, rows });
            }
        }
    }
    tables
}

/// The one table with this subject.
pub fn table(subject: &str) -> Table {
    let mut found: Vec<Table> = tables();
    found.retain(|t| t.subject == subject);
    assert_eq!(found.len(), 1, "tables of {subject} in SPEC.md");
    found.remove(0)
}

fn cells(line: &str) -> Vec<String> {
    line.trim_matches('|')
        .split('|')
        .map(|cell| cell.trim().to_owned())
        .collect()
}

/// A cell without Markdown: no back quotes, no emphasis, links reduced to their text.
pub fn plain(cell: &str) -> String {
    let mut text = String::new();
    let mut rest = cell;
    while let Some((before, link)) = rest.split_once('[') {
        let (label, after) = link.split_once("](").expect("a link has a target");
        let (_, after) = after.split_once(')').expect("a target is closed");
        text += before;
        text += label;
        rest = after;
    }
    text += rest;
    text.replace(['`', '*'], "")
}
