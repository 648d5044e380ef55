//! The keys by which whoever sits at a VM's console speaks to `byway run` instead of the guest: Ctrl-A, and then one more.
//! Knows nothing of terminals and VMs: bytes in, what to do out.

/// Ctrl-A.
pub const ESCAPE: u8 = 0x01;

/// What `Ctrl-A ?` shows.
pub const HELP: &str = "\
keys of this console, after Ctrl-A:
  x       end the VM at once       p   pause it, or have it go on
  r       reset it                 b   press its power button
  m       add 128M of memory
  Ctrl-A  send Ctrl-A to the guest     ?   this help";

/// What was typed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Typed {
    /// Bytes for the guest.
    Bytes(Vec<u8>),
    /// End the VM.
    End,
    /// Reset it.
    Reset,
    /// Pause it, or have it go on.
    Pause,
    /// Press its power button.
    PowerButton,
    /// Add memory.
    Memory,
    /// Show [`HELP`].
    Help,
}

/// Tells keys from input, over reads that may end between the two keys.
#[derive(Debug, Default)]
pub struct Keys {
    /// Ctrl-A came last.
    escaped: bool,
}

impl Keys {
    /// What `bytes`, in this order, mean.
    pub fn typed(&mut self, bytes: &[u8]) -> Vec<Typed> {
        let mut typed = Vec::new();
        for byte in bytes {
            if !std::mem::take(&mut self.escaped) {
                match *byte {
                    ESCAPE => self.escaped = true,
                    byte => push(&mut typed, byte),
                }
                continue;
            }
            match *byte {
                b'x' | b'X' => typed.push(Typed::End),
                b'r' | b'R' => typed.push(Typed::Reset),
                b'p' | b'P' => typed.push(Typed::Pause),
                b'b' | b'B' => typed.push(Typed::PowerButton),
                b'm' | b'M' => typed.push(Typed::Memory),
                ESCAPE | b'a' | b'A' => push(&mut typed, ESCAPE),
                // Whoever does not know the keys is told them.
                _ => typed.push(Typed::Help),
            }
        }
        typed
    }
}

fn push(typed: &mut Vec<Typed>, byte: u8) {
    match typed.last_mut() {
        Some(Typed::Bytes(bytes)) => bytes.push(byte),
        _ => typed.push(Typed::Bytes(vec![byte])),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn input_is_the_guests_but_for_the_keys() {
        let mut keys = Keys::default();
        assert_eq!(
            keys.typed(b"ab\x01xc\x01"),
            [
                Typed::Bytes(b"ab".to_vec()),
                Typed::End,
                Typed::Bytes(b"c".to_vec())
            ]
        );
        // The second key of a pair comes with the next read.
        assert_eq!(
            keys.typed(b"?d"),
            [Typed::Help, Typed::Bytes(b"d".to_vec())]
        );
        assert_eq!(
            keys.typed(b"\x01r\x01P\x01b\x01m\x01z"),
            [
                Typed::Reset,
                Typed::Pause,
                Typed::PowerButton,
                Typed::Memory,
                Typed::Help
            ]
        );
    }

    #[test]
    fn the_guest_can_be_sent_the_escape_itself() {
        let mut keys = Keys::default();
        assert_eq!(
            keys.typed(b"\x01\x01x\x01a"),
            [Typed::Bytes(b"\x01x\x01".to_vec())]
        );
    }

    #[test]
    fn every_byte_but_the_escape_is_passed_on() {
        let all: Vec<u8> = (0..=u8::MAX).filter(|byte| *byte != ESCAPE).collect();
        assert_eq!(Keys::default().typed(&all), [Typed::Bytes(all)]);
    }
}
