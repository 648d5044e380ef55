//! The last words of a guest: why a vCPU could not go on, with all its registers and what was about to be delivered to it.

use std::fmt;

use kvm_bindings::{kvm_regs, kvm_segment, kvm_sregs, kvm_vcpu_events};
use kvm_ioctls::VcpuFd;
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use crate::layout::PAGE_SIZE;

/// Instruction bytes to show.
const CODE_BYTES: usize = 16;
/// Where x86 begins after a reset.
const RESET_RIP: u64 = 0xfff0;
const RESET_CS_BASE: u64 = 0xffff_0000;
const CR0_PE: u64 = 1;

/// Why a vCPU could not go on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cause {
    /// The guest shut its CPU down: a triple fault, as a rule.
    TripleFault,
    /// KVM could not emulate or deliver something (`KVM_EXIT_INTERNAL_ERROR`).
    Emulation {
        /// KVM's sub-error: 1 = emulation failure.
        suberror: u32,
        /// KVM's further words.
        data: Vec<u64>,
    },
    /// The CPU refused to enter the guest.
    EntryFailed {
        /// The hardware's reason.
        reason: u64,
    },
    /// The guest itself reported a crash to the hypervisor.
    Reported {
        /// Type of KVM's system event.
        event: u32,
    },
    /// `KVM_RUN` failed or returned what no guest here should cause.
    Unexpected(String),
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TripleFault => f.write_str("triple fault"),
            Self::Emulation { suberror: 1, .. } => {
                f.write_str("KVM could not emulate an instruction")
            }
            Self::Emulation { suberror, .. } => write!(f, "KVM internal error {suberror}"),
            Self::EntryFailed { reason } => {
                write!(f, "the CPU refused to enter the guest, reason {reason:#x}")
            }
            Self::Reported { event } => write!(f, "the guest reported a crash, event {event}"),
            Self::Unexpected(what) => f.write_str(what),
        }
    }
}

/// A vCPU that could not go on. Its `Display` is one block, ready for a log.
#[derive(Debug, Clone)]
pub struct Crash {
    /// Number of the vCPU.
    pub vcpu: u8,
    /// Why.
    pub cause: Cause,
    /// Its registers, if KVM still gave them.
    pub registers: Option<Box<(kvm_regs, kvm_sregs)>>,
    /// Exceptions and interrupts that were being delivered to it or wait for that, if KVM told them.
    pub events: Option<kvm_vcpu_events>,
    /// What it was doing (`KVM_MP_STATE_`), if KVM told it.
    pub mp_state: Option<u32>,
    /// Bytes at the instruction pointer, if they could be read.
    pub code: Vec<u8>,
}

impl Crash {
    /// A crash without registers: the vCPU is not there to be asked.
    pub fn bare(vcpu: u8, cause: Cause) -> Self {
        Self {
            vcpu,
            cause,
            registers: None,
            events: None,
            mp_state: None,
            code: Vec::new(),
        }
    }

    /// Collects the registers of `fd`, what it was to be told, and the code it stood at.
    pub fn collect(vcpu: u8, cause: Cause, fd: &VcpuFd, memory: &GuestMemoryMmap) -> Self {
        let registers = fd.get_regs().and_then(|regs| Ok((regs, fd.get_sregs()?)));
        let registers = registers.ok().map(Box::new);
        let code = registers.as_ref().map_or_else(Vec::new, |registers| {
            let (regs, sregs) = registers.as_ref();
            let translate = |linear| {
                let found = fd.translate_gva(linear).ok()?;
                (found.valid != 0).then_some(found.physical_address)
            };
            code_at(memory, sregs.cs.base.wrapping_add(regs.rip), translate)
        });
        Self {
            vcpu,
            cause,
            registers,
            events: fd.get_vcpu_events().ok(),
            // Last: KVM may take this for the moment to carry out an INIT that waits.
            mp_state: fd.get_mp_state().ok().map(|state| state.mp_state),
            code,
        }
    }

    /// Whether KVM has reset the vCPU before anybody could look at it, as it does on AMD's processors, whose state is undefined after a
    /// shutdown.
    fn was_reset(&self) -> bool {
        self.cause == Cause::TripleFault
            && self.registers.as_ref().is_some_and(|registers| {
                let (regs, sregs) = registers.as_ref();
                (regs.rip, sregs.cs.base, sregs.cr0 & CR0_PE) == (RESET_RIP, RESET_CS_BASE, 0)
            })
    }
}

/// Bytes at a linear address, as far as the guest's own page tables, which `translate` looks into, lead to RAM.
fn code_at(
    memory: &GuestMemoryMmap,
    linear: u64,
    translate: impl Fn(u64) -> Option<u64>,
) -> Vec<u8> {
    let mut code = Vec::with_capacity(CODE_BYTES);
    while code.len() < CODE_BYTES {
        let at = linear.wrapping_add(code.len() as u64);
        let Some(physical) = translate(at) else { break };
        let on_page = (PAGE_SIZE - at % PAGE_SIZE) as usize;
        let mut bytes = [0; CODE_BYTES];
        let wanted = &mut bytes[..on_page.min(CODE_BYTES - code.len())];
        let read = memory
            .read(wanted, GuestAddress(physical))
            .unwrap_or_default();
        code.extend(&wanted[..read]);
        if read < wanted.len() {
            break;
        }
    }
    code
}

impl fmt::Display for Crash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "vCPU {} stopped: {}", self.vcpu, self.cause)?;
        if let Cause::Emulation { data, .. } = &self.cause
            && !data.is_empty()
        {
            write!(f, "\n  KVM's data")?;
            for word in data {
                write!(f, " {word:#x}")?;
            }
        }
        let Some(registers) = &self.registers else {
            return write!(f, "\n  (its registers cannot be read)");
        };
        let (r, s) = registers.as_ref();
        for row in [
            [
                ("rip", r.rip),
                ("rflags", r.rflags),
                ("rsp", r.rsp),
                ("rbp", r.rbp),
            ],
            [
                ("rax", r.rax),
                ("rbx", r.rbx),
                ("rcx", r.rcx),
                ("rdx", r.rdx),
            ],
            [("rsi", r.rsi), ("rdi", r.rdi), ("r8", r.r8), ("r9", r.r9)],
            [
                ("r10", r.r10),
                ("r11", r.r11),
                ("r12", r.r12),
                ("r13", r.r13),
            ],
            [
                ("r14", r.r14),
                ("r15", r.r15),
                ("cr0", s.cr0),
                ("cr2", s.cr2),
            ],
            [
                ("cr3", s.cr3),
                ("cr4", s.cr4),
                ("cr8", s.cr8),
                ("efer", s.efer),
            ],
        ] {
            write!(f, "\n ")?;
            for (name, value) in row {
                write!(f, " {name:>6} {value:016x}")?;
            }
        }
        for (name, segment) in [
            ("cs", &s.cs),
            ("ss", &s.ss),
            ("ds", &s.ds),
            ("es", &s.es),
            ("fs", &s.fs),
            ("gs", &s.gs),
            ("tr", &s.tr),
        ] {
            write_segment(f, name, segment)?;
        }
        for (name, table) in [("gdt", &s.gdt), ("idt", &s.idt)] {
            write!(
                f,
                "\n  {name:>6} base {:016x} limit {:04x}",
                table.base, table.limit
            )?;
        }
        if let Some(events) = &self.events {
            let events = match pending(events) {
                none if none.is_empty() => "none".to_owned(),
                some => some.join(", "),
            };
            write!(f, "\n  events {events}")?;
        }
        if let Some(state) = self.mp_state {
            write!(f, "\n   state {}", mp_state_name(state))?;
        }
        if !self.code.is_empty() {
            write!(f, "\n    code")?;
            for byte in &self.code {
                write!(f, " {byte:02x}")?;
            }
        }
        if self.was_reset() {
            f.write_str(
                "\n  (these are the registers of a reset: on AMD's processors KVM resets a vCPU that shuts down, and nobody is \
                 told what it was at)",
            )?;
        }
        Ok(())
    }
}

/// What was being delivered to the vCPU, or waits for that.
fn pending(e: &kvm_vcpu_events) -> Vec<String> {
    let exception = &e.exception;
    let number = exception.nr;
    let error = match exception.has_error_code {
        0 => String::new(),
        _ => format!(" with error {:#x}", exception.error_code),
    };
    let kind = match e.interrupt.soft {
        0 => "interrupt",
        _ => "software interrupt",
    };
    let interrupt = format!("{kind} {:#x} injected", e.interrupt.nr);
    [
        (
            exception.injected,
            format!("exception {number} injected{error}").as_str(),
        ),
        (
            exception.pending,
            &format!("exception {number} pending{error}"),
        ),
        (e.interrupt.injected, &interrupt),
        (e.interrupt.shadow, "interrupts held back by STI or MOV SS"),
        (e.nmi.injected, "NMI injected"),
        (e.nmi.pending, "NMI pending"),
        (e.nmi.masked, "NMIs masked"),
        (e.smi.smm, "in SMM"),
        (e.smi.pending, "SMI pending"),
        (e.smi.latched_init, "INIT latched"),
        (e.triple_fault.pending, "triple fault pending"),
    ]
    .into_iter()
    .filter(|(is_there, _)| *is_there != 0)
    .map(|(_, what)| what.to_owned())
    .collect()
}

/// What linux/kvm.h calls it, in words.
fn mp_state_name(state: u32) -> String {
    let name = match state {
        0 => "runnable",
        1 => "not started",
        2 => "INIT received",
        3 => "halted",
        4 => "SIPI received",
        _ => return format!("{state} of KVM's"),
    };
    name.to_owned()
}

fn write_segment(f: &mut fmt::Formatter<'_>, name: &str, s: &kvm_segment) -> fmt::Result {
    write!(
        f,
        "\n  {name:>6} {:04x} base {:016x} limit {:08x} type {:x} dpl {} {}{}{}",
        s.selector,
        s.base,
        s.limit,
        s.type_,
        s.dpl,
        if s.present != 0 { "p" } else { "-" },
        if s.l != 0 { "l" } else { "-" },
        if s.db != 0 { "d" } else { "-" },
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use kvm_bindings::{kvm_vcpu_events__bindgen_ty_1, kvm_vcpu_events__bindgen_ty_2};

    #[test]
    fn the_report_names_cause_and_every_register() {
        let crash = Crash {
            vcpu: 1,
            cause: Cause::Emulation {
                suberror: 1,
                data: vec![0xabc],
            },
            registers: Some(Box::new((
                kvm_regs {
                    rip: 0x1234,
                    r15: 0xfeed,
                    ..Default::default()
                },
                kvm_sregs {
                    cr2: 0xdead_0000,
                    ..Default::default()
                },
            ))),
            events: Some(kvm_vcpu_events {
                exception: kvm_vcpu_events__bindgen_ty_1 {
                    injected: 1,
                    nr: 14,
                    has_error_code: 1,
                    error_code: 2,
                    ..Default::default()
                },
                interrupt: kvm_vcpu_events__bindgen_ty_2 {
                    injected: 1,
                    nr: 0xec,
                    ..Default::default()
                },
                ..Default::default()
            }),
            mp_state: Some(3),
            code: vec![0x0f, 0x0b],
        };
        let text = crash.to_string();
        assert!(!text.contains("registers of a reset"), "{text}");
        for expected in [
            "events exception 14 injected with error 0x2, interrupt 0xec injected\n",
            "state halted",
            "vCPU 1 stopped: KVM could not emulate",
            "rip 0000000000001234",
            "r15 000000000000feed",
            "cr2 00000000dead0000",
            "code 0f 0b",
            "0xabc",
            "idt",
        ] {
            assert!(text.contains(expected), "{expected} missing in\n{text}");
        }
    }

    #[test]
    fn nothing_to_be_delivered_is_said_too() {
        let mut crash = Crash::bare(0, Cause::TripleFault);
        crash.registers = Some(Box::default());
        assert!(!crash.to_string().contains("events"), "{crash}");
        crash.events = Some(kvm_vcpu_events::default());
        assert!(crash.to_string().contains("events none"), "{crash}");
    }

    #[test]
    fn code_is_read_across_pages_that_lie_apart() {
        let memory: GuestMemoryMmap =
            GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 0x3000)]).unwrap();
        memory.write(&[1; 6], GuestAddress(0x2ffa)).unwrap();
        memory.write(&[2; 16], GuestAddress(0x1000)).unwrap();
        let at = 0x7f00_0000_0ffa;
        let apart = |linear: u64| match linear >> 12 {
            0x7_f000_0000 => Some(0x2000 + linear % PAGE_SIZE),
            0x7_f000_0001 => Some(0x1000 + linear % PAGE_SIZE),
            _ => None,
        };
        let both = [[1; 6].as_slice(), &[2; 10]].concat();
        assert_eq!(code_at(&memory, at, apart), both);
        // What is not mapped, or leads out of RAM, ends it.
        let first = |linear| apart(linear).filter(|physical| *physical >= 0x2000);
        assert_eq!(code_at(&memory, at, first), [1; 6]);
        assert!(code_at(&memory, at, |_| None).is_empty());
        assert!(code_at(&memory, at, |_| Some(0x9000)).is_empty());
        assert_eq!(code_at(&memory, 0x8ffa, |at| Some(at - 0x6000)), [1; 6]);
    }

    /// What `kvm_amd` leaves of a vCPU that shut down.
    #[test]
    fn registers_of_a_reset_are_not_taken_for_those_of_the_fault() {
        let mut crash = Crash::bare(1, Cause::TripleFault);
        let mut registers = Box::<(kvm_regs, kvm_sregs)>::default();
        registers.0.rip = RESET_RIP;
        registers.1.cs.base = RESET_CS_BASE;
        registers.1.cr0 = 0x10;
        crash.registers = Some(registers);
        assert!(
            crash.to_string().contains("registers of a reset"),
            "{crash}"
        );
        crash.cause = Cause::EntryFailed { reason: 7 };
        assert!(
            !crash.to_string().contains("registers of a reset"),
            "{crash}"
        );
    }

    #[test]
    fn without_registers_the_cause_remains() {
        let text = Crash::bare(0, Cause::TripleFault).to_string();
        assert!(text.starts_with("vCPU 0 stopped: triple fault"));
    }
}
