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

/// All at once, so that what other processes say on the same terminal does not get in between.
fn write(text: &str) {
    let _ = io::stderr().write_all(text.as_bytes());
}
