//! Ring 0, and how the kernel process asks it for things.
//!
//! Owns the trap area that `traps.s` defines, and the call gate. All of this is the kernel
//! process's alone: the others cannot reach the trap area, and an `int3` of theirs means something
//! else ([`crate::process::call`]).

pub mod second;

use core::arch::{global_asm, naked_asm};
use core::ptr::{addr_of, addr_of_mut};

global_asm!(include_str!("boot.s"));
global_asm!(include_str!("traps.s"));
global_asm!(include_str!("second.s"));

/// Registers of an interrupted process, as the stubs save them.
#[derive(Debug, Clone, Copy, Default)]
#[repr(C)]
pub struct Frame {
    pub r15: u64,
    pub r14: u64,
    pub r13: u64,
    pub r12: u64,
    pub r11: u64,
    pub r10: u64,
    pub r9: u64,
    pub r8: u64,
    pub rbp: u64,
    pub rdi: u64,
    pub rsi: u64,
    pub rdx: u64,
    pub rcx: u64,
    pub rbx: u64,
    pub rax: u64,
    pub vector: u64,
    pub error: u64,
    pub rip: u64,
    pub cs: u64,
    pub rflags: u64,
    pub rsp: u64,
    pub ss: u64,
}

const _: () = assert!(size_of::<Frame>() == 22 * 8);

/// Code selector of ring 3; Linux's, so that it reads the same on hypervisors that do not
/// virtualise it.
pub const USER_CODE: u64 = 0x33;
/// Stack selector of ring 3.
pub const USER_DATA: u64 = 0x2b;
/// RFLAGS with which a process starts: interrupts on.
pub const USER_FLAGS: u64 = 0x202;

/// State of the x87 and SSE units, in FXSAVE's format.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(16))]
pub struct FpState([u8; 512]);

impl FpState {
    /// As after a reset: all exceptions masked.
    pub const fn new() -> Self {
        let mut bytes = [0; 512];
        bytes[0] = 0x7f; // FCW 0x037f
        bytes[1] = 0x03;
        bytes[24] = 0x80; // MXCSR 0x1f80
        bytes[25] = 0x1f;
        Self(bytes)
    }
}

/// One entry of the interrupt descriptor table.
#[derive(Clone, Copy)]
#[repr(C)]
struct Gate {
    offset_low: u16,
    selector: u16,
    ist: u8,
    kind: u8,
    offset_middle: u16,
    offset_high: u32,
    reserved: u32,
}

const VECTORS: usize = 64;

impl Gate {
    /// An interrupt gate to `address`, on interrupt stack `stack`. Open to ring 3: for `int3` only.
    const fn new(address: u64, stack: u8, is_open: bool) -> Self {
        Self {
            offset_low: address as u16,
            selector: 0x10,
            ist: stack,
            kind: if is_open { 0xee } else { 0x8e },
            offset_middle: (address >> 16) as u16,
            offset_high: (address >> 32) as u32,
            reserved: 0,
        }
    }
}

unsafe extern "C" {
    static boot_start_info: u64;
    static x2apic_id: u64;
    static boot_levels: u64;
    static x2apic: u32;
    static mut kernel_cr3: u64;
    static mut resume_cr3: u64;
    static mut resume_frame: Frame;
    static trap_frame: Frame;
    static trap_cr2: u64;
    static mut idt: [Gate; VECTORS];
    fn trap_stubs();
}

/// What the boot code found out.
#[derive(Debug, Clone, Copy)]
pub struct BootFacts {
    /// Guest-physical address of hvm_start_info.
    pub start_info: u64,
    /// Id of the local APIC, where it is driven by MSRs; the stubs then end interrupts themselves.
    pub x2apic: Option<u32>,
    /// Levels of page tables that the CPU walks: 4 or 5.
    pub levels: u32,
}

/// Reads what the boot code left.
pub fn boot_facts() -> BootFacts {
    // SAFETY: written once, by the boot code, before any Rust ran.
    unsafe {
        BootFacts {
            start_info: boot_start_info,
            x2apic: if x2apic != 0 {
                Some(x2apic_id as u32)
            } else {
                None
            },
            levels: boot_levels as u32,
        }
    }
}

/// Fills the interrupt descriptor table. Before this, any trap is the end.
///
/// # Safety
/// Called once, by the kernel process, before its first trap.
pub unsafe fn fill_idt() {
    for vector in 0..VECTORS {
        let address = trap_stubs as *const () as u64 + vector as u64 * 16;
        // Only int3 may be executed from ring 3.
        let gate = Gate::new(address, 1, vector == 3);
        // SAFETY: inside the table, which nothing else touches now.
        unsafe {
            addr_of_mut!(idt)
                .cast::<Gate>()
                .add(vector)
                .write_volatile(gate)
        };
    }
}

/// Why the kernel process runs again.
#[derive(Debug, Clone, Copy)]
pub struct Trap {
    /// Registers of what was interrupted; vector and error code say why.
    pub frame: Frame,
    /// Faulting address; meaningful for vector 14.
    pub cr2: u64,
}

/// The latest trap.
pub fn last_trap() -> Trap {
    // SAFETY: written by the stubs only, which cannot run now.
    unsafe {
        Trap {
            frame: addr_of!(trap_frame).read_volatile(),
            cr2: addr_of!(trap_cr2).read_volatile(),
        }
    }
}

/// Runs a process until it traps or is interrupted.
///
/// # Safety
/// `root` is the CR3 value of page tables that map ring 0's sections as the kernel process's do, so
/// that the trap can be delivered.
pub unsafe fn resume(frame: &Frame, root: u64, fp: &mut FpState) -> Trap {
    // SAFETY: the resume area is the kernel process's; the rest is the caller's promise.
    unsafe {
        addr_of_mut!(resume_frame).write_volatile(*frame);
        addr_of_mut!(resume_cr3).write_volatile(root);
        gate_resume(fp);
    }
    last_trap()
}

/// Sleeps until an interrupt, and says which vector it was.
pub fn halt() -> u64 {
    // SAFETY: function 1 of the gate has no arguments; every interrupt comes back here.
    unsafe { gate(1) };
    last_trap().frame.vector
}

/// Makes the kernel process run on the page tables at `root`, or on changed ones.
///
/// # Safety
/// They map all that the kernel process uses, at the addresses it uses.
pub unsafe fn load_kernel_tables(root: u64) {
    // SAFETY: the caller's promise; function 2 reloads CR3.
    unsafe {
        addr_of_mut!(kernel_cr3).write_volatile(root);
        gate(2);
    }
}

/// Calls function `function` of ring 0.
///
/// # Safety
/// As the function in `traps.s` asks.
#[unsafe(naked)]
unsafe extern "sysv64" fn gate(function: u64) {
    naked_asm!(
        "push rbx",
        "push rbp",
        "push r12",
        "push r13",
        "push r14",
        "push r15",
        "lea rcx, [rip + 2f]",
        "mov [rip + kernel_iret], rcx",
        "mov [rip + kernel_iret + 24], rsp",
        "mov rax, rdi",
        "int3",
        "ud2",
        "2:",
        "pop r15",
        "pop r14",
        "pop r13",
        "pop r12",
        "pop rbp",
        "pop rbx",
        "ret",
    )
}

/// Function 0: resumes what the resume area says, with the floating-point state in `fp`, and saves
/// that state when the process traps.
///
/// # Safety
/// As [`resume`].
#[unsafe(naked)]
unsafe extern "sysv64" fn gate_resume(fp: *mut FpState) {
    naked_asm!(
        "push rbx",
        "push rbp",
        "push r12",
        "push r13",
        "push r14",
        "push r15",
        "push rdi",
        "lea rcx, [rip + 2f]",
        "mov [rip + kernel_iret], rcx",
        "mov [rip + kernel_iret + 24], rsp",
        "fxrstor64 [rdi]",
        "xor eax, eax",
        "int3",
        "ud2",
        "2:",
        "pop rdi",
        "fxsave64 [rdi]",
        // The process's rounding and exception masks are not the kernel's.
        "push 0x1f80",
        "ldmxcsr [rsp]",
        "pop rax",
        "pop r15",
        "pop r14",
        "pop r13",
        "pop r12",
        "pop rbp",
        "pop rbx",
        "ret",
    )
}
