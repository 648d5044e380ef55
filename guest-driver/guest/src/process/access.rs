//! One memory access by one instruction, which may fault: what makes the CPU an oracle for the
//! engine's walker.
//!
//! The kernel process knows the instructions here by their addresses; where one faults it goes on
//! at [`probe_fault`] with the cause in registers.

use core::arch::{asm, global_asm, naked_asm};

use byway_agent::Failure;
use byway_agent::commands::{ACCESS_EXCHANGE, ACCESS_READ, ACCESS_WRITE, Access, Accessed};

// Each instruction stands alone between the two symbols, 16 bytes apart, in the order of `variant`.
// Address in rdi, value in rsi.
global_asm!(
    ".macro probe instruction:vararg",
    ".balign 16",
    "\\instruction",
    "jmp probe_done",
    ".endm",
    ".section .text.probe, \"ax\", @progbits",
    ".balign 16",
    ".global probe_start",
    "probe_start:",
    "probe movzx eax, byte ptr [rdi]",
    "probe movzx eax, word ptr [rdi]",
    "probe mov eax, dword ptr [rdi]",
    "probe mov rax, qword ptr [rdi]",
    "probe mov byte ptr [rdi], sil",
    "probe mov word ptr [rdi], si",
    "probe mov dword ptr [rdi], esi",
    "probe mov qword ptr [rdi], rsi",
    "probe xchg byte ptr [rdi], sil",
    "probe xchg word ptr [rdi], si",
    "probe xchg dword ptr [rdi], esi",
    "probe xchg qword ptr [rdi], rsi",
    ".global probe_end",
    "probe_end:",
    ".global probe_done",
    "probe_done:",
    "xor r8d, r8d",
    "xor r9d, r9d",
    "xor r10d, r10d",
    "xor edx, edx",
    "ret",
    ".global probe_fault",
    "probe_fault:",
    "mov edx, 1",
    "ret",
    ".text",
);

unsafe extern "C" {
    fn probe_start();
    fn probe_end();
    /// Where a process goes on after one of the instructions faulted: vector in r8, error code in
    /// r9, faulting address in r10.
    pub fn probe_fault();
}

/// Whether `rip` is one of the instructions that may fault.
pub fn is_probe(rip: u64) -> bool {
    (probe_start as *const () as u64..probe_end as *const () as u64).contains(&rip)
}

/// Calls the instruction at `rax`.
#[unsafe(naked)]
unsafe extern "C" fn probe() {
    naked_asm!("jmp rax")
}

/// Makes the access.
pub fn access(request: Access) -> Result<Accessed, Failure> {
    let width = match request.width {
        1 | 2 | 4 | 8 => u64::from(request.width.trailing_zeros()),
        other => return Err(Failure::argument(2, other)),
    };
    let kind = match request.kind {
        ACCESS_READ | ACCESS_WRITE | ACCESS_EXCHANGE => request.kind,
        other => return Err(Failure::argument(1, other)),
    };
    let instruction = probe_start as *const () as u64 + (kind * 4 + width) * 16;
    let (mut value, faulted, vector, error, cr2);
    // SAFETY: the instruction reads or writes what the host program named, in memory that is this
    // process's to lose; a fault ends at `probe_fault`, which returns here too.
    unsafe {
        asm!("call {probe}", probe = sym probe, inout("rax") instruction => value, in("rdi") request.va,
             inout("rsi") request.value => _, out("rdx") faulted, out("r8") vector, out("r9") error,
             out("r10") cr2, clobber_abi("C"));
    }
    if faulted != 0 || kind != ACCESS_READ {
        value = 0;
    }
    Ok(Accessed {
        faulted,
        value,
        vector,
        error,
        cr2,
    })
}
