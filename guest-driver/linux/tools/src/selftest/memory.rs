//! Memory that changes under the engine, as it does in every Linux process.

use std::fs;
use std::time::{Duration, Instant};

use byway_linux::Status;
use byway_protocols::Flags;

use super::Check;
use super::lab::{
    Lab, PAGE, Pages, Problem, copy, ensure, expect_bytes, expect_ok, expect_pattern, fail, skip,
    wait_for, with, write_pattern,
};

pub const CHECKS: &[Check] = &[
    Check {
        name: "page-request-on-fresh-memory",
        run: fresh_memory,
    },
    Check {
        name: "library-touches-missing-pages",
        run: touched_by_library,
    },
    Check {
        name: "copy-on-write-after-fork",
        run: copy_on_write,
    },
    Check {
        name: "discarded-pages",
        run: discarded,
    },
    Check {
        name: "protected-pages",
        run: protected,
    },
    Check {
        name: "moved-pages",
        run: moved,
    },
    Check {
        name: "unmapped-pages",
        run: unmapped,
    },
    Check {
        name: "unmapped-under-a-transfer",
        run: unmapped_under_transfer,
    },
    Check {
        name: "accessed-bit-kept",
        run: accessed,
    },
    Check {
        name: "dirty-bit-kept",
        run: dirty,
    },
];

const PAGES: usize = 64;

fn fresh_memory(lab: &mut Lab) -> Result<(), Problem> {
    lab.needs_page_requests()?;
    let pages = Pages::writable(PAGES)?;
    let own = lab.buffer(pages.len(), 1)?;
    let bytes = pages.len() as u32;
    let write = copy(pages.address(), own.region().address(), bytes);
    lab.expect(with(write, Flags::BLOCK_ON_FAULT), Status::Success)?;
    expect_pattern(pages.region(), 1, 0)?;
    let read = Pages::writable(PAGES)?;
    let read_back = copy(own.region().address(), read.address(), bytes);
    lab.expect(with(read_back, Flags::BLOCK_ON_FAULT), Status::Success)?;
    expect_bytes(own.region(), 0)
}

fn touched_by_library(lab: &mut Lab) -> Result<(), Problem> {
    let pages = Pages::writable(PAGES)?;
    let own = lab.buffer(pages.len(), 1)?;
    lab.queue.copy(pages.region(), own.region())?;
    expect_pattern(pages.region(), 1, 0)
}

fn copy_on_write(lab: &mut Lab) -> Result<(), Problem> {
    let pages = Pages::writable(4)?;
    write_pattern(pages.region(), 1)?;
    let own = lab.buffer(pages.len(), 2)?;
    let mut pipe = [0; 2];
    // SAFETY: a place for two descriptors.
    if unsafe { libc::pipe2(pipe.as_mut_ptr(), libc::O_CLOEXEC) } != 0 {
        return Err(super::lab::last("pipe2"));
    }
    let [reader, writer] = pipe;
    // SAFETY: the tool has one thread; the child reads and ends.
    let child = unsafe { libc::fork() };
    if child == 0 {
        // SAFETY: descriptors of this check, and a byte of the child's own.
        unsafe {
            libc::close(writer);
            // Until the parent has closed its end.
            libc::read(reader, (&raw mut pipe).cast(), 1);
            let same = expect_pattern(pages.region(), 1, 0).is_ok();
            libc::_exit(i32::from(!same));
        }
    }
    let write = copy(pages.address(), own.region().address(), pages.len() as u32);
    let refused = lab.expect(write, Status::Stage1Permission);
    // The kernel, asked, makes the first page the process's own.
    let asked = lab.needs_page_requests().and_then(|()| {
        let first = copy(pages.address(), own.region().address(), PAGE as u32);
        lab.expect(with(first, Flags::BLOCK_ON_FAULT), Status::Success)
    });
    // The library writes to each page first, as the process itself would.
    let done = lab.queue.copy(pages.region(), own.region());
    // SAFETY: as above.
    unsafe {
        libc::close(writer);
        libc::close(reader);
    }
    let ended = wait_for(child)?;
    refused?;
    done?;
    expect_pattern(pages.region(), 2, 0)?;
    // Above all, the child never saw a byte of it.
    expect_ok(ended)?;
    asked.map(drop)
}

fn discarded(lab: &mut Lab) -> Result<(), Problem> {
    let pages = Pages::writable(4)?;
    write_pattern(pages.region(), 1)?;
    let own = lab.buffer(pages.len(), 2)?;
    let read = copy(own.region().address(), pages.address(), pages.len() as u32);
    lab.expect(read, Status::Success)?;
    expect_pattern(own.region(), 1, 0)?;
    pages.advise(libc::MADV_DONTNEED)?;
    lab.expect(read, Status::Stage1NotPresent)?;
    expect_pattern(own.region(), 1, 0)?;
    lab.needs_page_requests()?;
    lab.expect(with(read, Flags::BLOCK_ON_FAULT), Status::Success)?;
    expect_bytes(own.region(), 0)
}

fn protected(lab: &mut Lab) -> Result<(), Problem> {
    let pages = Pages::writable(1)?;
    write_pattern(pages.region(), 1)?;
    let own = lab.buffer(PAGE, 2)?;
    let at = own.region().address();
    let (read, write) = (copy(at, pages.address(), 64), copy(pages.address(), at, 64));
    lab.expect(write, Status::Success)?;
    pages.protect(libc::PROT_READ)?;
    lab.expect(write, Status::Stage1Permission)?;
    lab.expect(read, Status::Success)?;
    // Asked, the kernel says no: the mapping is what it is.
    lab.expect(with(write, Flags::BLOCK_ON_FAULT), Status::Stage1Permission)?;
    pages.protect(libc::PROT_NONE)?;
    for refused in [read, write] {
        let completion = lab.execute(refused)?;
        match completion.status() {
            Some(Status::Stage1NotPresent | Status::Stage1Permission) => {}
            other => return fail(format!("with PROT_NONE expected a fault, found {other:?}")),
        }
    }
    pages.protect(libc::PROT_READ | libc::PROT_WRITE)?;
    lab.expect(read, Status::Success)?;
    expect_pattern(pages.region().slice(64..PAGE)?, 1, 64)
}

fn moved(lab: &mut Lab) -> Result<(), Problem> {
    let mut pages = Pages::writable(4)?;
    write_pattern(pages.region(), 1)?;
    let own = lab.buffer(pages.len(), 2)?;
    let (at, bytes) = (own.region().address(), pages.len() as u32);
    lab.expect(copy(at, pages.address(), bytes), Status::Success)?;
    own.region().fill(0);
    let old = pages.move_away()?;
    lab.expect(copy(at, old, bytes), Status::Stage1NotPresent)?;
    expect_bytes(own.region(), 0)?;
    lab.expect(copy(at, pages.address(), bytes), Status::Success)?;
    expect_pattern(own.region(), 1, 0)
}

fn unmapped(lab: &mut Lab) -> Result<(), Problem> {
    let mut pages = Pages::writable(4)?;
    write_pattern(pages.region(), 1)?;
    let own = lab.buffer(pages.len(), 2)?;
    let read = copy(own.region().address(), pages.address(), 64);
    let write = copy(pages.address(), own.region().address(), 64);
    lab.expect(read, Status::Success)?;
    pages.unmap()?;
    lab.expect(read, Status::Stage1NotPresent)?;
    lab.expect(write, Status::Stage1NotPresent)?;
    if lab.needs_page_requests().is_ok() {
        lab.expect(with(read, Flags::BLOCK_ON_FAULT), Status::PageRefused)?;
    }
    Ok(())
}

/// Long enough to be caught in its middle, with several descriptors in flight.
const LONG: usize = 16 << 20;
/// How long the first byte of one may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// Tries to catch one.
const TRIES: usize = 50;

fn unmapped_under_transfer(lab: &mut Lab) -> Result<(), Problem> {
    let own = lab.buffer(LONG, 1)?;
    for _ in 0..TRIES {
        let mut pages = Pages::writable(LONG / PAGE)?;
        pages.region().fill(0);
        let write = copy(pages.address(), own.region().address(), LONG as u32);
        // SAFETY: the source outlives it; the target goes away under it, which is what is tried.
        let ticket = unsafe { lab.queue.submit(write) }?;
        // Until some of it has been written.
        let start = Instant::now();
        while pages.region().load(0)? == 0 {
            if start.elapsed() > PATIENCE {
                return fail("nothing of a copy arrived");
            }
            std::hint::spin_loop();
        }
        pages.unmap()?;
        let completion = lab.queue.wait(ticket)?;
        match completion.status() {
            Some(Status::Success) => {}
            Some(Status::Stage1NotPresent) => {
                return ensure(
                    completion.bytes_completed < LONG as u32,
                    "it is told as done, and as faulted",
                );
            }
            other => return fail(format!("expected 0x40 or 0x01, found {other:?}")),
        }
    }
    skip(format!(
        "none of {TRIES} transfers was caught in its middle"
    ))
}

/// What /proc/self/smaps says of a mapping, in KiB.
fn smaps(address: u64, field: &str) -> Result<u64, Problem> {
    let text = fs::read_to_string("/proc/self/smaps")
        .map_err(|why| Problem::Skipped(format!("/proc/self/smaps: {why}")))?;
    let begin = format!("{address:x}-");
    let lines = text
        .lines()
        .skip_while(|line| !line.trim_start_matches('0').starts_with(begin.as_str()));
    for line in lines {
        let rest = line
            .strip_prefix(field)
            .and_then(|rest| rest.strip_prefix(':'));
        if let Some(rest) = rest {
            let number = rest.trim().trim_end_matches(" kB").parse();
            return number.map_err(|_| Problem::Failed(format!("smaps says {line:?}")));
        }
    }
    fail(format!("smaps has no {field} for {address:#x}"))
}

fn accessed(lab: &mut Lab) -> Result<(), Problem> {
    lab.needs_accessed_dirty()?;
    let pages = Pages::writable(8)?;
    write_pattern(pages.region(), 1)?;
    let own = lab.buffer(PAGE, 2)?;
    if let Err(why) = fs::write("/proc/self/clear_refs", "1") {
        return skip(format!("/proc/self/clear_refs: {why}"));
    }
    let before = smaps(pages.address(), "Referenced")?;
    if before != 0 {
        return skip(format!("{before} KiB count as referenced at once"));
    }
    let third = pages.address() + 3 * PAGE as u64;
    lab.expect(copy(own.region().address(), third, 64), Status::Success)?;
    match smaps(pages.address(), "Referenced")? {
        4 => Ok(()),
        found => fail(format!(
            "{found} KiB are referenced after a read of one page; expected 4"
        )),
    }
}

fn dirty(lab: &mut Lab) -> Result<(), Problem> {
    lab.needs_accessed_dirty()?;
    let pages = Pages::writable(8)?;
    write_pattern(pages.region(), 1)?;
    let own = lab.buffer(PAGE, 2)?;
    // Pages that may be dropped as long as nobody writes them again: clean from now on.
    pages.advise(libc::MADV_FREE)?;
    let before = smaps(pages.address(), "Private_Dirty")?;
    if before != 0 {
        return skip(format!("{before} KiB count as dirty after MADV_FREE"));
    }
    let third = pages.address() + 3 * PAGE as u64;
    lab.expect(copy(third, own.region().address(), 64), Status::Success)?;
    match smaps(pages.address(), "Private_Dirty")? {
        4 => expect_pattern(pages.region().slice(3 * PAGE..3 * PAGE + 64)?, 2, 0),
        found => fail(format!(
            "{found} KiB are dirty after a write to one page; expected 4"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn smaps_tells_of_pages_that_were_touched() {
        let pages = Pages::writable(8).unwrap();
        assert_eq!(smaps(pages.address(), "Private_Dirty").unwrap(), 0);
        pages.region().write(PAGE, &[1]).unwrap();
        assert_eq!(smaps(pages.address(), "Private_Dirty").unwrap(), 4);
        assert!(smaps(0x10, "Private_Dirty").is_err());
    }
}
