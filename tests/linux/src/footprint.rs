//! What a VMM has in memory beside its guest's RAM, by what its kernel tells of its mappings (`/proc/PID/smaps`).

use anyhow::{Context, Result, ensure};

/// Most that a VMM may have, in KiB.
pub const MOST_KIB: u64 = 8 << 10;

/// The mapping of guest RAM, by the name of its file.
const GUEST_RAM: &str = "/memfd:byway-guest-ram";

/// KiB of all mappings but those of guest RAM.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Footprint {
    /// Memory that a VMM more would have again: heap, stacks, what it has changed of its files.
    pub own: u64,
    /// Pages of the program's file, all of them: as if no other VMM shared them.
    pub program: u64,
    /// Its share of the libraries, which every process of the host has.
    pub libraries: u64,
}

impl Footprint {
    /// All of it.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.own + self.program + self.libraries
    }

    /// Of the content of an smaps file; `program` is the end of the path of the program.
    ///
    /// # Errors
    /// When it is not such a file, or guest RAM or the program are not in it.
    pub fn parse(smaps: &str, program: &str) -> Result<Self> {
        let mut found = Self::default();
        let (mut path, mut resident, mut share) = ("", 0, 0);
        let mut has_ram = false;
        for line in smaps.lines() {
            let (first, rest) = line.split_once(' ').unwrap_or((line, ""));
            let Some(field) = first.strip_suffix(':') else {
                // A mapping: addresses, rights, offset, device, inode, path.
                path = rest.splitn(5, ' ').nth(4).unwrap_or_default().trim();
                has_ram |= path.starts_with(GUEST_RAM);
                continue;
            };
            let number = || -> Result<u64> {
                let number = rest.trim().trim_end_matches(" kB");
                number.parse().with_context(|| line.to_owned())
            };
            match field {
                "Rss" => resident = number()?,
                "Pss" => share = number()?,
                // Comes after both.
                "Anonymous" if !path.starts_with(GUEST_RAM) => {
                    let own = number()?;
                    let is_file = path.starts_with('/') && !path.starts_with("/memfd:");
                    if !is_file {
                        found.own += share;
                        continue;
                    }
                    found.own += own;
                    if path.ends_with(program) {
                        found.program += resident.saturating_sub(own);
                    } else {
                        found.libraries += share.saturating_sub(own);
                    }
                }
                _ => {}
            }
        }
        ensure!(has_ram, "no guest RAM among the mappings");
        ensure!(found.program != 0, "no {program} among the mappings");
        Ok(found)
    }
}

impl std::fmt::Display for Footprint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            own,
            program,
            libraries,
        } = self;
        write!(
            f,
            "{} KiB: {own} of its own, {program} of the program, {libraries} its share of libraries",
            self.total()
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMAPS: &str = "\
5562-5563 r-xp 002c9000 fe:00 1234                     /bin/byway
Rss:                5000 kB
Pss:                2500 kB
Anonymous:             0 kB
5564-5565 rw-p 008f0000 fe:00 1234                     /bin/byway
Rss:                  30 kB
Pss:                  20 kB
Anonymous:            10 kB
5566-5567 rw-p 00000000 00:00 0                        [heap]
Rss:                 800 kB
Pss:                 800 kB
Anonymous:           800 kB
7f00-7f01 rw-p 00000000 00:00 0 
Rss:                  16 kB
Pss:                  16 kB
Anonymous:            16 kB
7f10-7f11 rw-s 00000000 00:01 7                        /memfd:byway-guest-ram (deleted)
Rss:              262144 kB
Pss:              262144 kB
Anonymous:             0 kB
7f20-7f21 r-xp 00026000 fe:00 99                       /usr/lib/x86_64-linux-gnu/libc.so.6
Rss:                1000 kB
Pss:                  60 kB
Anonymous:             0 kB
VmFlags: rd ex mr mw me sd
";

    #[test]
    fn all_but_guest_ram_counts() {
        let found = Footprint::parse(SMAPS, "byway").unwrap();
        let expected = Footprint {
            own: 826,
            program: 5020,
            libraries: 60,
        };
        assert_eq!(found, expected);
        assert_eq!(found.total(), 5906);
    }

    #[test]
    fn what_is_not_a_vmms_is_refused() {
        assert!(Footprint::parse(SMAPS, "qemu").is_err());
        assert!(Footprint::parse(&SMAPS.replace("guest-ram", "other"), "byway").is_err());
        assert!(Footprint::parse("", "byway").is_err());
    }
}
