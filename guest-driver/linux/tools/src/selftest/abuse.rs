//! Calls that a program must not make, and the errno that each has to get.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use byway_linux::{Device, KernelError, Key, PATH, Port, QueueOptions, Rights, Terms, uapi};
use byway_protocols::codec::KeyAlgorithm;
use byway_ring::Transport;

use super::Check;
use super::lab::{Lab, PAGE, Problem, expect_errno, expect_refusal, fail};

pub const CHECKS: &[Check] = &[
    Check {
        name: "unknown-calls",
        run: unknown_calls,
    },
    Check {
        name: "pointers-that-lead-nowhere",
        run: bad_pointers,
    },
    Check {
        name: "calls-before-a-context",
        run: before_context,
    },
    Check {
        name: "a-context-once",
        run: context_once,
    },
    Check {
        name: "reserved-arguments",
        run: reserved_arguments,
    },
    Check {
        name: "queue-arguments",
        run: queue_arguments,
    },
    Check {
        name: "queue-mappings",
        run: queue_mappings,
    },
    Check {
        name: "capability-arguments",
        run: capability_arguments,
    },
    Check {
        name: "port-and-key-arguments",
        run: port_and_key_arguments,
    },
    Check {
        name: "read-and-write-of-the-device",
        run: no_read_no_write,
    },
];

/// Any call at all.
fn call(file: BorrowedFd<'_>, number: u32, argument: *mut libc::c_void) -> Result<(), KernelError> {
    // SAFETY: the kernel checks what it is given; checks give it structures of their own, or nothing.
    if unsafe { libc::ioctl(file.as_raw_fd(), libc::Ioctl::from(number), argument) } < 0 {
        let errno = std::io::Error::last_os_error().raw_os_error();
        return Err(KernelError {
            call: "ioctl",
            errno: errno.unwrap_or(0),
        });
    }
    Ok(())
}

fn structured<A: uapi::Argument>(
    file: BorrowedFd<'_>,
    argument: &mut A,
) -> Result<(), KernelError> {
    call(file, A::NUMBER, std::ptr::from_mut(argument).cast())
}

fn unknown_calls(lab: &mut Lab) -> Result<(), Problem> {
    let share = lab.share(PAGE, 1, Rights::READ)?;
    let context = lab.context.transport().as_fd();
    let null = std::ptr::null_mut();
    let mut room = [0_u64; 64];
    let room = room.as_mut_ptr().cast();
    let info = <uapi::Info as uapi::Argument>::NUMBER;
    for number in [
        // Index 0x7f of the type byte; another type byte.
        0xbe7f,
        0xaa00,
        // INFO of another size, and of another direction.
        info + (8 << 16),
        info ^ (3 << 30),
        // Calls of other files.
        uapi::KICK,
        uapi::ARM,
        <uapi::CapQuery as uapi::Argument>::NUMBER,
        <uapi::Accept as uapi::Argument>::NUMBER,
    ] {
        expect_errno(call(context, number, room), libc::ENOTTY)
            .map_err(|problem| at(problem, &format!("ioctl {number:#x} of a context")))?;
    }
    expect_errno(call(share.handle().as_fd(), uapi::KICK, null), libc::ENOTTY)?;
    let Some(queue) = lab.queue.handle() else {
        return fail("the queue is gone");
    };
    expect_errno(call(queue.as_fd(), info, room), libc::ENOTTY)
}

/// Says where a problem was found.
fn at(problem: Problem, place: &str) -> Problem {
    match problem {
        Problem::Failed(text) => Problem::Failed(format!("{place}: {text}")),
        skipped => skipped,
    }
}

fn bad_pointers(lab: &mut Lab) -> Result<(), Problem> {
    let context = lab.context.transport().as_fd();
    for layout in uapi::LAYOUTS
        .iter()
        .filter(|layout| layout.number & 0xff < 0x20)
    {
        // CONTEXT would say that there is one already, whichever is looked at first.
        if layout.call == "BYWAY_IOC_CONTEXT" {
            continue;
        }
        for address in [8_usize, usize::MAX - 4095, 1 << 63] {
            let pointer = std::ptr::without_provenance_mut(address);
            expect_errno(call(context, layout.number, pointer), libc::EFAULT)
                .map_err(|problem| at(problem, &format!("{} of {address:#x}", layout.call)))?;
        }
    }
    Ok(())
}

fn before_context(_lab: &mut Lab) -> Result<(), Problem> {
    let device = Device::open()?;
    let mut queue = uapi::Queue {
        entries: 16,
        ..Default::default()
    };
    expect_errno(structured(device.as_fd(), &mut queue), libc::EBADFD)?;
    let mut derive = uapi::Derive {
        parent_fd: uapi::OWN_MEMORY,
        base: 4096,
        length: 1,
        rights: 1,
        ..Default::default()
    };
    expect_errno(structured(device.as_fd(), &mut derive), libc::EBADFD)?;
    expect_errno(device.context(0).map(drop), libc::EINVAL)
}

fn context_once(lab: &mut Lab) -> Result<(), Problem> {
    let mut context = uapi::Context {
        slots: 8,
        ..Default::default()
    };
    let file = lab.context.transport().as_fd();
    expect_errno(structured(file, &mut context), libc::EBUSY)?;
    let most = lab.info().raw().slots_max;
    let Some(more) = most.checked_add(1) else {
        return Ok(());
    };
    match Device::open()?.context(more) {
        Err(error) if [libc::EINVAL, libc::ENOSPC].contains(&error.errno) => Ok(()),
        Err(error) => fail(format!("{more} slots: {error}")),
        Ok(_) => fail(format!("a context of {more} slots was granted")),
    }
}

fn reserved_arguments(lab: &mut Lab) -> Result<(), Problem> {
    let file = lab.context.transport().as_fd();
    let queue = uapi::Queue {
        entries: 16,
        ..Default::default()
    };
    let derive = uapi::Derive {
        parent_fd: uapi::OWN_MEMORY,
        base: 4096,
        length: 1,
        rights: 1,
        ..Default::default()
    };
    let port = uapi::PortCreate {
        depth: 1,
        bytes: 1,
        ..Default::default()
    };
    let refused =
        |outcome, place| expect_errno(outcome, libc::EINVAL).map_err(|problem| at(problem, place));
    refused(
        structured(
            file,
            &mut uapi::Queue {
                reserved: 1,
                ..queue
            },
        ),
        "QUEUE.reserved",
    )?;
    refused(
        structured(file, &mut uapi::Queue { flags: 2, ..queue }),
        "QUEUE.flags",
    )?;
    refused(
        structured(file, &mut uapi::Derive { flags: 1, ..derive }),
        "DERIVE.flags",
    )?;
    refused(
        structured(
            file,
            &mut uapi::Derive {
                reserved: 1,
                ..derive
            },
        ),
        "DERIVE.reserved",
    )?;
    refused(
        structured(file, &mut uapi::PortCreate { flags: 1, ..port }),
        "PORT_CREATE.flags",
    )?;
    refused(
        structured(
            file,
            &mut uapi::PortCreate {
                reserved: 1,
                ..port
            },
        ),
        "PORT_CREATE.reserved",
    )?;
    let share = lab.share(PAGE, 1, Rights::READ)?;
    let capability = share.handle().as_fd();
    let mut revoke = uapi::CapRevoke {
        flags: 2,
        reserved: 0,
    };
    refused(structured(capability, &mut revoke), "CAP_REVOKE.flags")?;
    let mut revoke = uapi::CapRevoke {
        flags: 0,
        reserved: 1,
    };
    refused(structured(capability, &mut revoke), "CAP_REVOKE.reserved")
}

fn queue_arguments(lab: &mut Lab) -> Result<(), Problem> {
    for entries in [0, 1, 3, 48, 1 << 16, u32::MAX] {
        let options = QueueOptions {
            entries,
            no_park: false,
        };
        expect_errno(
            lab.context.transport().create_queue(&options).map(drop),
            libc::EINVAL,
        )
        .map_err(|problem| at(problem, &format!("{entries} entries")))?;
    }
    let Some(queue) = lab.queue.handle() else {
        return fail("the queue is gone");
    };
    let no_eventfd = File::open("/dev/null")?;
    expect_errno(queue.set_eventfd(Some(no_eventfd.as_fd())), libc::EINVAL)?;
    let mut closed = uapi::Eventfd {
        fd: 999_999,
        reserved: 0,
    };
    expect_errno(structured(queue.as_fd(), &mut closed), libc::EBADF)
}

fn queue_mappings(lab: &mut Lab) -> Result<(), Problem> {
    let mut made = uapi::Queue {
        entries: 16,
        ..Default::default()
    };
    let file = lab.context.transport().as_fd();
    structured(file, &mut made)?;
    // SAFETY: the call's own, and nobody else's.
    let queue: std::os::fd::OwnedFd = unsafe { std::os::fd::FromRawFd::from_raw_fd(made.fd) };
    let whole = made.mmap_bytes as usize;
    let (rw, shared) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED);
    let map = |bytes, protection, flags, offset| {
        // SAFETY: a new mapping at a place of the kernel's choice.
        let start = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                bytes,
                protection,
                flags,
                queue.as_raw_fd(),
                offset,
            )
        };
        if start == libc::MAP_FAILED {
            let errno = std::io::Error::last_os_error().raw_os_error();
            return Err(KernelError {
                call: "mmap",
                errno: errno.unwrap_or(0),
            });
        }
        Ok(start)
    };
    let unmap = |start| {
        // SAFETY: a mapping of this check's that nothing refers to.
        unsafe { libc::munmap(start, whole) }
    };
    for (what, outcome) in [
        ("half", map(whole / 2, rw, shared, 0)),
        ("too long", map(whole + PAGE, rw, shared, 0)),
        ("at an offset", map(whole, rw, shared, PAGE as i64)),
        ("private", map(whole, rw, libc::MAP_PRIVATE, 0)),
        ("read-only", map(whole, libc::PROT_READ, shared, 0)),
        ("executable", map(whole, rw | libc::PROT_EXEC, shared, 0)),
    ] {
        expect_errno(outcome, libc::EINVAL).map_err(|problem| at(problem, what))?;
    }
    let start = map(whole, rw, shared, 0)?;
    let again = map(whole, rw, shared, 0);
    let second = expect_errno(again, libc::EBUSY).map_err(|problem| at(problem, "twice"));
    // SAFETY: half of it, which is to be refused.
    let split = unsafe { libc::munmap(start, PAGE) };
    let undone = unmap(start);
    second?;
    if whole > PAGE && split == 0 {
        return fail("the mapping was split");
    }
    if undone != 0 {
        return fail("the mapping cannot be undone");
    }
    let start = map(whole, rw, shared, 0)?;
    unmap(start);
    Ok(())
}

fn capability_arguments(lab: &mut Lab) -> Result<(), Problem> {
    let file = lab.context.transport().as_fd();
    let derive = uapi::Derive {
        parent_fd: uapi::OWN_MEMORY,
        base: 4096,
        length: 1,
        rights: 1,
        ..Default::default()
    };
    let attempt = |argument: uapi::Derive| {
        let mut argument = argument;
        structured(file, &mut argument)
    };
    expect_errno(
        attempt(uapi::Derive {
            length: 0,
            ..derive
        }),
        libc::EINVAL,
    )?;
    expect_errno(
        attempt(uapi::Derive {
            rights: 1 << 20,
            ..derive
        }),
        libc::EINVAL,
    )?;
    let no_capability = File::open("/dev/null")?;
    for (parent_fd, errno) in [
        (999_999, libc::EBADF),
        (-2, libc::EBADF),
        (no_capability.as_raw_fd(), libc::EINVAL),
        (file.as_raw_fd(), libc::EINVAL),
    ] {
        expect_errno(
            attempt(uapi::Derive {
                parent_fd,
                ..derive
            }),
            errno,
        )
        .map_err(|problem| at(problem, &format!("parent_fd {parent_fd}")))?;
    }
    let mut attach = uapi::Attach {
        cap_fd: no_capability.as_raw_fd(),
        ..Default::default()
    };
    expect_errno(structured(file, &mut attach), libc::EINVAL)?;
    let share = lab.share(PAGE, 1, Rights::READ)?;
    let mut attach = uapi::Attach {
        cap_fd: share.handle().as_fd().as_raw_fd(),
        base: PAGE as u64,
        ..Default::default()
    };
    if structured(file, &mut attach).is_ok() {
        return fail("attached nothing at all of a capability");
    }
    let whole = Terms::new(0, PAGE as u64, Rights::READ | Rights::WRITE);
    expect_refusal(share.derive(&whole), libc::EACCES)
}

fn port_and_key_arguments(lab: &mut Lab) -> Result<(), Problem> {
    for (depth, bytes) in [(0, 1), (65, 1), (1, 0), (1, 4097)] {
        let port = Port {
            depth,
            bytes,
            badge: 0,
        };
        expect_refusal(lab.context.port(&port), libc::EINVAL)
            .map_err(|problem| at(problem, &format!("depth {depth}, {bytes} bytes")))?;
    }
    let key = Key {
        algorithm: KeyAlgorithm::from_code(1).ok_or("no key algorithm has code 1")?,
        bytes: &[1; 3],
        rights: Rights::ENCRYPT,
        badge: 0,
    };
    expect_refusal(lab.context.key(&key), libc::EINVAL)
}

fn no_read_no_write(lab: &mut Lab) -> Result<(), Problem> {
    let device = File::options().read(true).write(true).open(PATH)?;
    let mut byte = [0_u8];
    // SAFETY: one byte of ours.
    let results = unsafe {
        [
            libc::read(device.as_raw_fd(), byte.as_mut_ptr().cast(), 1),
            libc::write(device.as_raw_fd(), byte.as_ptr().cast(), 1),
        ]
    };
    if results != [-1, -1] {
        return fail("the device can be read or written");
    }
    drop(lab.share(PAGE, 1, Rights::READ)?);
    Ok(())
}
