//! The second CPU as the kernel process on the first one sees it; its side is `second.s`.
//!
//! Owns the words that the two CPUs share. Whoever writes a word tells the other CPU by an
//! interrupt.

use core::ptr::{addr_of, addr_of_mut};
use core::sync::atomic::{AtomicU32, Ordering, fence};

use super::{Frame, Gate, Trap, VECTORS, gate};
use crate::layout::DIRECT_MAP;

/// Vector by which either CPU interrupts the other.
pub const VECTOR: u64 = 0x3e;
/// Vector of spurious interrupts.
const SPURIOUS: usize = 0x3f;
/// Where the CPU starts, in real mode.
const TRAMPOLINE: u64 = 0x8000;
/// `second_state`: it runs a process.
const RUNS: u32 = 2;
/// `second_state`: the process has trapped.
const TRAPPED: u32 = 3;

/// Interrupt command: INIT.
const INIT: u32 = 0x4500;
/// Interrupt command: SIPI, at the page of the trampoline.
const STARTUP: u32 = 0x4600 | (TRAMPOLINE >> 12) as u32;
/// Interrupt command: an interrupt.
const FIXED: u32 = 0x4000 | VECTOR as u32;

/// Looks for the other CPU's answer before it is given up: seconds at least.
const PATIENCE: u32 = 1 << 31;

unsafe extern "C" {
    static second_trampoline: u8;
    static second_trampoline_end: u8;
    static second_state: AtomicU32;
    static second_go: AtomicU32;
    static second_flushed: AtomicU32;
    static second_frame: Frame;
    static second_cr2: u64;
    static mut second_cr3: u64;
    static mut second_resume_frame: Frame;
    static mut second_idt: [Gate; VECTORS];
    static mut ipi_command: [u32; 2];
    fn second_stubs();
    fn second_interrupt();
    fn second_spurious();
}

fn state() -> u32 {
    // SAFETY: an aligned word that is accessed atomically only.
    unsafe { &second_state }.load(Ordering::Acquire)
}

/// Sends an interrupt command to the CPU with this APIC id, by way of ring 0.
fn send(apic_id: u32, command: u32) {
    // SAFETY: the words are the kernel process's; function 3 of the gate sends what they say.
    unsafe {
        addr_of_mut!(ipi_command).write_volatile([command, apic_id]);
        gate(3);
    }
}

/// Fills its interrupt descriptor table.
///
/// # Safety
/// The CPU has not started.
unsafe fn fill_idt() {
    for vector in 0..VECTORS {
        let (address, stack) = match vector {
            0..32 => (second_stubs as *const () as u64 + vector as u64 * 16, 1),
            v if v as u64 == VECTOR => (second_interrupt as *const () as u64, 2),
            SPURIOUS => (second_spurious as *const () as u64, 2),
            _ => continue,
        };
        // SAFETY: inside the table, which nothing else touches now.
        unsafe {
            addr_of_mut!(second_idt)
                .cast::<Gate>()
                .add(vector)
                .write_volatile(Gate::new(address, stack, vector == 3));
        }
    }
}

/// Starts the CPU with this APIC id, which then waits for its first process. False: it does not
/// answer.
///
/// # Safety
/// Called once, on a machine with x2APIC, while nothing lies at guest-physical 0x8000.
pub unsafe fn start(apic_id: u32) -> bool {
    // SAFETY: it has not started; low memory is mapped at DIRECT_MAP, and the page is free.
    unsafe {
        fill_idt();
        let code = addr_of!(second_trampoline);
        let bytes = addr_of!(second_trampoline_end) as usize - code as usize;
        code.copy_to((DIRECT_MAP + TRAMPOLINE) as *mut u8, bytes);
    }
    fence(Ordering::SeqCst);
    send(apic_id, INIT);
    send(apic_id, STARTUP);
    (0..PATIENCE).any(|_| {
        core::hint::spin_loop();
        state() != 0
    })
}

/// The trap in which its process is, if it is in one.
pub fn trap() -> Option<Trap> {
    // SAFETY: it wrote both before it said that it trapped, and waits now.
    (state() == TRAPPED).then(|| unsafe {
        Trap {
            frame: addr_of!(second_frame).read_volatile(),
            cr2: addr_of!(second_cr2).read_volatile(),
        }
    })
}

/// Has it run a process, or go on after a trap.
///
/// # Safety
/// It waits; and as [`super::resume`].
pub unsafe fn resume(apic_id: u32, frame: &Frame, root: u64) {
    // SAFETY: it waits and looks at none of this before `second_go` is set.
    unsafe {
        addr_of_mut!(second_resume_frame).write_volatile(*frame);
        addr_of_mut!(second_cr3).write_volatile(root);
        second_go.store(1, Ordering::Release);
    }
    send(apic_id, FIXED);
    // So that an old trap is not taken for a new one.
    while state() != RUNS {
        core::hint::spin_loop();
        if state() == TRAPPED && !is_going() {
            break;
        }
    }
}

/// Whether it was told to go on, and has not noticed.
fn is_going() -> bool {
    // SAFETY: an aligned word that is accessed atomically only.
    unsafe { &second_go }.load(Ordering::Acquire) != 0
}

/// Has it forget what it has cached of page tables, and waits until it did.
pub fn flush(apic_id: u32) {
    // SAFETY: an aligned word that is accessed atomically only.
    let flushed = || unsafe { &second_flushed }.load(Ordering::Acquire);
    fence(Ordering::SeqCst);
    // One that waits loads CR3 when it goes on.
    if state() != RUNS {
        return;
    }
    let before = flushed();
    send(apic_id, FIXED);
    while flushed() == before && state() == RUNS {
        core::hint::spin_loop();
    }
}
