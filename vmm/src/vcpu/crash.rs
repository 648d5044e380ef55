//! The last words of a guest: why a vCPU could not go on, with all its registers.

use std::fmt;

use kvm_bindings::{kvm_regs, kvm_segment, kvm_sregs};
use kvm_ioctls::VcpuFd;
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

/// Instruction bytes to show.
const CODE_BYTES: usize = 16;

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
            code: Vec::new(),
        }
    }

    /// Collects the registers of `fd` and the code it stood at.
    pub fn collect(vcpu: u8, cause: Cause, fd: &VcpuFd, memory: &GuestMemoryMmap) -> Self {
        let registers = fd.get_regs().and_then(|regs| Ok((regs, fd.get_sregs()?)));
        let code = registers
            .as_ref()
            .ok()
            .and_then(|(regs, sregs)| {
                let linear = sregs.cs.base.wrapping_add(regs.rip);
                let translation = fd.translate_gva(linear).ok()?;
                (translation.valid != 0).then_some(translation.physical_address)
            })
            .map(|address| {
                let mut code = vec![0; CODE_BYTES];
                let read = memory
                    .read(&mut code, GuestAddress(address))
                    .unwrap_or_default();
                code.truncate(read);
                code
            })
            .unwrap_or_default();
        Self {
            vcpu,
            cause,
            registers: registers.ok().map(Box::new),
            code,
        }
    }
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
        if !self.code.is_empty() {
            write!(f, "\n    code")?;
            for byte in &self.code {
                write!(f, " {byte:02x}")?;
            }
        }
        Ok(())
    }
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
            code: vec![0x0f, 0x0b],
        };
        let text = crash.to_string();
        for expected in [
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
    fn without_registers_the_cause_remains() {
        let text = Crash::bare(0, Cause::TripleFault).to_string();
        assert!(text.starts_with("vCPU 0 stopped: triple fault"));
    }
}
