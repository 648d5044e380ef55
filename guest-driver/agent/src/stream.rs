//! How two guests of this image send each other bytes over a network interface: frames with a number, no more under way
//! than the receiver has buffers for, and word of what was taken. The least that a stream needs on a wire that loses
//! nothing unless it is overrun; a frame that is missing is an error, not a reason to send it again.
//!
//! Takes numbers and gives numbers; touches no device.

/// EtherType for experiments (IEEE 802).
const ETHERTYPE: u16 = 0x88b5;
/// Bytes before the payload of a frame: addresses, type, and what [`Header`] has.
pub const HEADER_BYTES: usize = 32;
/// Most bytes of payload in a frame. Three of them carry 128 KiB.
pub const PAYLOAD_BYTES_MAX: usize = 43_776;
/// Most frames that are sent and not yet taken, however much the wire has room for.
pub const WINDOW_MAX: u32 = 24;
/// After so many frames that were taken the other end is told; no window is smaller.
pub const WORD_EVERY: u32 = 4;

/// What a frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u16)]
pub enum Kind {
    /// It has payload.
    Data = 1,
    /// It tells what was taken, as all do, and nothing else.
    Taken = 2,
}

/// What a frame says before its payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// What it is.
    pub kind: Kind,
    /// Bytes of payload.
    pub bytes: u32,
    /// Frames with payload that were sent before it, modulo 2^32.
    pub number: u32,
    /// Frames of the other direction that were taken, modulo 2^32.
    pub taken: u32,
}

impl Header {
    /// As it is sent from the interface with this address, to whoever hears it.
    #[must_use]
    pub fn to_bytes(&self, from: [u8; 6]) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[..6].fill(0xff);
        bytes[6..12].copy_from_slice(&from);
        bytes[12..14].copy_from_slice(&ETHERTYPE.to_be_bytes());
        bytes[14..16].copy_from_slice(&(self.kind as u16).to_le_bytes());
        bytes[16..20].copy_from_slice(&self.bytes.to_le_bytes());
        bytes[20..24].copy_from_slice(&self.number.to_le_bytes());
        bytes[24..28].copy_from_slice(&self.taken.to_le_bytes());
        bytes
    }

    /// Of a frame that begins so; `None` where it is none of these.
    #[must_use]
    pub fn from_bytes(bytes: &[u8; HEADER_BYTES]) -> Option<Self> {
        let half = |at: usize| [bytes[at], bytes[at + 1]];
        let word = |at: usize| {
            u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
        };
        if u16::from_be_bytes(half(12)) != ETHERTYPE {
            return None;
        }
        let kind = match u16::from_le_bytes(half(14)) {
            1 => Kind::Data,
            2 => Kind::Taken,
            _ => return None,
        };
        Some(Self {
            kind,
            bytes: word(16),
            number: word(20),
            taken: word(24),
        })
    }
}

/// Why a stream cannot go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Broken {
    /// A frame came after another one than the one before it.
    Lost {
        /// Number of the one that was to come.
        expected: u32,
        /// Number of the one that came.
        found: u32,
    },
    /// More was taken than was sent.
    Taken(u32),
    /// A frame says that it has more payload than came with it.
    Short(u32),
}

/// One end's account of both directions.
#[derive(Debug, Clone, Copy, Default)]
pub struct Flow {
    /// Frames sent.
    sent: u32,
    /// Those of them that the other end has taken.
    acknowledged: u32,
    /// Frames that have come.
    heard: u32,
    /// Those of them that were taken.
    taken: u32,
    /// As much of that as the other end was told.
    told: u32,
}

impl Flow {
    /// Whether another frame may be sent, where `window` may be on their way and not yet taken.
    #[must_use]
    pub const fn may_send(&self, window: u32) -> bool {
        self.sent.wrapping_sub(self.acknowledged) < window
    }

    /// Whether all that was sent was taken.
    #[must_use]
    pub const fn is_drained(&self) -> bool {
        self.sent == self.acknowledged
    }

    /// Header of the next frame with payload, or of one of another kind.
    pub fn send(&mut self, kind: Kind, bytes: u32) -> Header {
        let header = Header {
            kind,
            bytes,
            number: self.sent,
            taken: self.taken,
        };
        if kind == Kind::Data {
            self.sent = self.sent.wrapping_add(1);
        }
        self.told = self.taken;
        header
    }

    /// A frame has come, with `has` bytes behind its header.
    ///
    /// # Errors
    /// When it cannot be the next one.
    pub fn hear(&mut self, header: &Header, has: usize) -> Result<(), Broken> {
        if header.bytes as usize > has {
            return Err(Broken::Short(header.bytes));
        }
        let news = header.taken.wrapping_sub(self.acknowledged);
        if news > self.sent.wrapping_sub(self.acknowledged) {
            return Err(Broken::Taken(header.taken));
        }
        if header.number != self.heard {
            return Err(Broken::Lost {
                expected: self.heard,
                found: header.number,
            });
        }
        self.acknowledged = header.taken;
        if header.kind == Kind::Data {
            self.heard = self.heard.wrapping_add(1);
        }
        Ok(())
    }

    /// The oldest frame that has come was taken.
    pub const fn take(&mut self) {
        self.taken = self.taken.wrapping_add(1);
    }

    /// Whether it is time to tell what was taken: when that is [`WORD_EVERY`] frames, or any and nobody takes more for now.
    #[must_use]
    pub const fn owes_word(&self, is_last: bool) -> bool {
        let untold = self.taken.wrapping_sub(self.told);
        untold >= if is_last { 1 } else { WORD_EVERY }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two ends, from numbers that wrap soon.
    fn ends() -> (Flow, Flow) {
        let near = u32::MAX - 3;
        let one = Flow {
            sent: near,
            acknowledged: near,
            ..Flow::default()
        };
        let other = Flow {
            heard: near,
            taken: near,
            told: near,
            ..Flow::default()
        };
        (one, other)
    }

    #[test]
    fn a_header_survives_the_way() {
        for kind in [Kind::Data, Kind::Taken] {
            let header = Header {
                kind,
                bytes: 1,
                number: 0x0203_0405,
                taken: 0x0607_0809,
            };
            let mut bytes = header.to_bytes([2, 0, 0, 0, 0, 7]);
            assert_eq!(
                bytes[..12],
                [255, 255, 255, 255, 255, 255, 2, 0, 0, 0, 0, 7]
            );
            assert_eq!(Header::from_bytes(&bytes), Some(header));
            bytes[14] = 3;
            assert_eq!(Header::from_bytes(&bytes), None);
            bytes = header.to_bytes([0; 6]);
            bytes[12] = 8;
            assert_eq!(Header::from_bytes(&bytes), None);
        }
    }

    #[test]
    fn no_more_is_under_way_than_the_window_and_word_comes_in_time() {
        let (mut one, mut other) = ends();
        let (mut sent, mut words) = (0, 0);
        for round in 0..100 {
            let window = WORD_EVERY + round % (WINDOW_MAX - WORD_EVERY + 1);
            while one.may_send(window) {
                other.hear(&one.send(Kind::Data, 9), 9).unwrap();
                sent += 1;
            }
            assert!(!one.is_drained());
            let waiting = other.heard.wrapping_sub(other.taken);
            assert!(waiting <= window);
            for _ in 0..waiting {
                other.take();
                if other.owes_word(false) {
                    one.hear(&other.send(Kind::Taken, 0), 0).unwrap();
                    words += 1;
                }
            }
            assert!(one.may_send(window), "all was taken and nobody was told");
        }
        assert_eq!(words, sent / WORD_EVERY);
    }

    #[test]
    fn who_takes_no_more_for_now_tells_the_rest_once() {
        let (mut one, mut other) = ends();
        other.hear(&one.send(Kind::Data, 9), 9).unwrap();
        assert!(!other.owes_word(true), "nothing was taken");
        other.take();
        assert!(!other.owes_word(false));
        assert!(other.owes_word(true));
        one.hear(&other.send(Kind::Taken, 0), 0).unwrap();
        assert!(one.is_drained());
        assert!(!other.owes_word(true));
    }

    #[test]
    fn a_frame_that_is_missing_or_made_up_is_noticed() {
        let (mut one, mut other) = ends();
        let number = one.sent;
        let _lost = one.send(Kind::Data, 9);
        let lost = Broken::Lost {
            expected: number,
            found: number.wrapping_add(1),
        };
        // By the next one with payload, and by one without.
        for kind in [Kind::Taken, Kind::Data] {
            assert_eq!(other.hear(&one.send(kind, 9), 9), Err(lost));
        }
        let taken = one.sent.wrapping_add(1);
        let made_up = Header {
            kind: Kind::Taken,
            bytes: 0,
            number: 0,
            taken,
        };
        assert_eq!(one.hear(&made_up, 0), Err(Broken::Taken(taken)));
        let (mut one, mut other) = ends();
        let short = other.hear(&one.send(Kind::Data, 9), 8);
        assert_eq!(short, Err(Broken::Short(9)));
    }
}
