//! Names of VMs, which are those of their domains, and of endpoints.

use std::str::FromStr;

use byway_engine::endpoint::is_endpoint_name;
use byway_protocols::operands::ENDPOINT_NAME_BYTES;

/// A name that the engine takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Name(pub String);

impl FromStr for Name {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if !is_endpoint_name(text) {
            return Err(format!(
                "use 1 to {ENDPOINT_NAME_BYTES} characters of a-z, 0-9 and '-'"
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
        let longest = "a".repeat(32);
        let too_long = "a".repeat(33);
        for text in ["a", "disk-0", "-", &longest] {
            assert_eq!(text.parse(), Ok(Name(text.to_owned())));
        }
        for text in ["", "A", "a b", "a_b", "\u{e4}", &too_long] {
            let help = "use 1 to 32 characters of a-z, 0-9 and '-'".to_owned();
            assert_eq!(text.parse::<Name>(), Err(help), "{text}");
        }
    }
}
