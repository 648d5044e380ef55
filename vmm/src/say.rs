//! What `byway` tells whoever started it, on standard error. Nobody has to be reading there: a terminal that was closed or a pipe whose
//! reader has gone is no reason to end a VM, as the panic of `eprintln!` would.

use std::fmt::Display;
use std::io::{self, Write as _};

/// A line of its own.
pub fn say(what: impl Display) {
    write(&format!("byway: {what}\n"));
}

/// The same on a terminal that a guest may have left in the middle of a line.
pub(crate) fn say_amid(what: impl Display) {
    write(&format!("\nbyway: {what}\n"));
}

/// A line that somebody else has made, as it may be shown: without control characters other than tab. A guest, or what
/// a guest has got hold of, must not be able to drive the operator's terminal.
pub(crate) fn printable(line: &str) -> String {
    line.chars()
        .filter(|c| *c == '\t' || !c.is_control())
        .collect()
}

/// All at once, so that what other processes say on the same terminal does not get in between.
fn write(text: &str) {
    let _ = io::stderr().write_all(text.as_bytes());
}
