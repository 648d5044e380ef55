//! Sizes as people write them.

/// A number of bytes, with K, M or G for powers of 1024.
///
/// # Errors
/// It is none, or beyond 64 bits.
pub fn parse(text: &str) -> Result<u64, String> {
    let (digits, shift) = match text.strip_suffix(['K', 'k']) {
        Some(digits) => (digits, 10),
        None => match text.strip_suffix(['M', 'm']) {
            Some(digits) => (digits, 20),
            None => match text.strip_suffix(['G', 'g']) {
                Some(digits) => (digits, 30),
                None => (text, 0),
            },
        },
    };
    let number: Option<u64> = digits.parse().ok();
    number
        .and_then(|number| number.checked_mul(1 << shift))
        .ok_or_else(|| {
            format!("expected a number of bytes such as 4096, 64K or 16M, found {text:?}")
        })
}

/// The same for a size that is not 0.
///
/// # Errors
/// As [`parse`]; or it is 0.
pub fn parse_some(text: &str) -> Result<u64, String> {
    match parse(text)? {
        0 => Err("expected 1 byte at least".to_owned()),
        bytes => Ok(bytes),
    }
}

/// The shortest exact form.
#[must_use]
pub fn show(bytes: u64) -> String {
    for (shift, unit) in [(30, "G"), (20, "M"), (10, "K")] {
        if bytes != 0 && bytes.is_multiple_of(1 << shift) {
            return format!("{}{unit}", bytes >> shift);
        }
    }
    bytes.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_and_shown() {
        for (text, bytes) in [("64", 64), ("4K", 4096), ("16M", 16 << 20), ("2g", 2 << 30)] {
            assert_eq!(parse(text), Ok(bytes));
            assert_eq!(parse(&show(bytes)), Ok(bytes));
        }
        for text in ["", "K", "-1", "1T", "99999999999G"] {
            assert!(parse(text).is_err(), "{text}");
        }
        assert!(parse_some("0").is_err());
        assert_eq!(show(0), "0");
        assert_eq!(show(1536), "1536");
    }
}
