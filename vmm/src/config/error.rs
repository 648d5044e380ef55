//! What is wrong with a configuration, and where.

use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// A mistake in a configuration file: file, line and column, what is wrong and what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    /// The file.
    pub path: PathBuf,
    /// Line and column from 1, where the mistake has a place.
    pub place: Option<(usize, usize)>,
    /// What is wrong.
    pub what: String,
    /// What to do about it.
    pub help: String,
    /// The line in question.
    line: String,
}

impl ConfigError {
    /// A mistake of the whole file.
    pub fn whole(path: &Path, what: impl Into<String>, help: impl Into<String>) -> Self {
        Self {
            path: path.to_owned(),
            place: None,
            what: what.into(),
            help: help.into(),
            line: String::new(),
        }
    }

    /// A mistake at `span` of `text`.
    pub fn at(
        path: &Path,
        text: &str,
        span: Range<usize>,
        what: impl Into<String>,
        help: impl Into<String>,
    ) -> Self {
        let before = text.get(..span.start).unwrap_or(text);
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        let line = text[line_start..].lines().next().unwrap_or_default();
        Self {
            path: path.to_owned(),
            place: Some((
                before.matches('\n').count() + 1,
                before[line_start..].chars().count() + 1,
            )),
            what: what.into(),
            help: help.into(),
            line: line.to_owned(),
        }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.path.display())?;
        if let Some((line, column)) = self.place {
            write!(f, ":{line}:{column}")?;
        }
        write!(f, ": {}", self.what)?;
        if let Some((line, column)) = self.place {
            let margin = line.to_string().len();
            write!(f, "\n {line} | {}", self.line)?;
            write!(f, "\n {:margin$} | {:>column$}", "", "^")?;
        }
        if !self.help.is_empty() {
            write!(f, "\n help: {}", self.help)?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_place_is_line_and_column() {
        let text = "one\n  two = 2\n";
        let error = ConfigError::at("vms.toml".as_ref(), text, 6..9, "no two", "use one");
        assert_eq!(
            error.to_string(),
            "vms.toml:2:3: no two\n 2 |   two = 2\n   |   ^\n help: use one"
        );
    }

    #[test]
    fn a_place_beyond_the_text_is_its_end() {
        let error = ConfigError::at("f".as_ref(), "a\n", 99..100, "w", "");
        assert_eq!(error.place, Some((2, 1)));
    }
}
