//! Names of VMs, which are those of their domains, and of endpoints.

use std::str::FromStr;

/// Most bytes of a name.
const NAME_MAX: usize = 32;

/// A name that the engine takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Name(pub String);

impl FromStr for Name {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let good = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        if text.is_empty() || text.len() > NAME_MAX || !text.chars().all(good) {
            return Err(format!(
                "use 1 to {NAME_MAX} characters of a-z, 0-9 and '-'"
            ));
        }
        Ok(Self(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_what_the_engine_takes() {
        let longest = "a".repeat(NAME_MAX);
        let too_long = "a".repeat(NAME_MAX + 1);
        for text in [
            "a", "disk-0", "-", &longest, "", "A", "a b", "a_b", "\u{e4}", &too_long,
        ] {
            let taken = byway_engine::endpoint::is_endpoint_name(text);
            assert_eq!(text.parse::<Name>().is_ok(), taken, "{text}");
        }
    }
}
