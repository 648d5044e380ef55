//! The machine: memory, interrupt controllers, the two unprivileged processes, and the loop that
//! runs them.
//!
//! Owns everything that exists once. Start-up is here, from the loader's word to the first process.

use core::arch::x86_64::{__cpuid, __cpuid_count};

use byway_agent::layout::{CHANNELS, GuestState, Process};
use byway_agent::{Failure, Status};

use super::boot_info::{BootInfo, Range};
use super::churn::Ledger;
use super::commands;
use super::crash;
use super::device::Byway;
use super::disk::Disk;
use super::frames::Frames;
use super::interrupts::{FIRST_VECTOR, IO_APIC, Interrupts, LOCAL_APIC};
use super::link::Link;
use super::mailbox::Mailbox;
use super::pager::Pager;
use super::second::Second;
use super::space::{Reach, image, map_image, map_kernel_data};
use super::tables::{
    ACCESSED, DIRTY, NO_EXECUTE, OutOfFrames, PRESENT, Tables, UNCACHED, USER, WRITABLE,
    WRITE_THROUGH,
};
use super::task::Task;
use crate::layout::{DIRECT_MAP, MMIO_MAP, PAGE};
use crate::process::call;
use crate::ring0::{self, Trap};
use crate::serial::log;

/// Vector of a breakpoint: a call.
const BREAKPOINT: u64 = 3;
/// Vector of a page fault.
const PAGE_FAULT: u64 = 14;
/// Bit of a page fault's error code: the page was there.
const WAS_PRESENT: u64 = 1;

/// Everything there is.
pub struct Machine {
    /// Physical memory.
    pub frames: Frames,
    /// Interrupt controllers.
    pub interrupts: Interrupts,
    /// What the loader said.
    pub info: BootInfo,
    /// The mailbox, if there is one.
    pub mailbox: Option<Mailbox>,
    /// The Byway device, if there is one that works.
    pub byway: Option<Byway>,
    /// A disk, if there is one.
    pub disk: Option<Disk>,
    /// A network interface, if there is one.
    pub link: Option<Link>,
    /// Times that the machine went to sleep for one of the two.
    pub dozes: u64,
    /// What is mapped on demand only.
    pub pager: Pager,
    /// What became of pages that were moved, discarded or shared.
    pub ledger: Ledger,
    tasks: [Task; CHANNELS],
    current: Process,
    second: Option<Second>,
}

impl Machine {
    /// Brings the machine up.
    pub fn start() -> Result<Self, &'static str> {
        let facts = ring0::boot_facts();
        // SAFETY: the first thing that the kernel process does, before any trap.
        unsafe { ring0::fill_idt() };
        // SAFETY: the boot code passes the loader's address on and maps the first GiB at
        // DIRECT_MAP.
        let info = unsafe { BootInfo::read(facts.start_info) }?;
        let mailbox = info.mailbox.map(|range| {
            // SAFETY: reserved by the loader for this, and mapped below.
            unsafe { Mailbox::new(range.start) }
        });
        let (image_start, image_end) = image();
        let image = Range {
            start: image_start,
            len: image_end - image_start,
        };
        // SAFETY: called once; the memory map is the loader's.
        let mut frames = unsafe { Frames::new(&info, image) }?;
        map_kernel(&info, &mut frames, facts.levels)
            .map_err(|OutOfFrames| "not enough memory for page tables")?;
        if let Some(mailbox) = mailbox {
            mailbox.identify();
            crash::report_to(mailbox);
        }
        // SAFETY: called once, after both controllers were mapped and the table filled.
        let interrupts = unsafe { Interrupts::new(facts) };
        let second = match info.cpus {
            1 => None,
            // SAFETY: called once; what the loader put into low memory has been read.
            _ => Some(unsafe { Second::start(facts) }?),
        };
        let mut task = |process| {
            Task::new(
                &mut frames,
                process,
                mailbox.map(|m| m.address()),
                facts.levels,
            )
            .map_err(|OutOfFrames| "not enough memory for a process")
        };
        let tasks = [task(Process::App)?, task(Process::Peer)?];
        let byway = Byway::attach(info.devices(), &mut frames);
        let taken = byway.as_ref().map(|byway| byway.irq);
        // SAFETY: `map_kernel` mapped the registers of all; these drivers are the only other ones, each of its kind of device.
        let disk = unsafe { Disk::attach(info.devices(), taken, &mut frames) };
        // SAFETY: as above.
        let link = unsafe { Link::attach(info.devices(), taken, &mut frames) };
        let irqs = [
            info.wake_irq,
            taken,
            disk.as_ref().map(|disk| disk.irq),
            link.as_ref().map(|link| link.irq),
        ];
        for irq in irqs.into_iter().flatten() {
            interrupts.enable(irq);
        }
        log!(
            "byway guest: {} MiB free, {} levels",
            frames.free_frames() >> 8,
            facts.levels
        );
        Ok(Self {
            frames,
            interrupts,
            info,
            mailbox,
            byway,
            disk,
            link,
            dozes: 0,
            pager: Pager::new(),
            ledger: Ledger::new(),
            tasks,
            current: Process::App,
            second,
        })
    }

    /// Runs the processes, for ever.
    pub fn run(&mut self) -> ! {
        let Some(mailbox) = self.mailbox else {
            log!("byway guest: no mailbox= on the command line, nothing to do");
            crash::stop()
        };
        let roots = Process::ALL.map(|process| self.task(process).space.tables.root);
        let levels = self.task(self.current).space.tables.levels;
        mailbox.publish(tsc_hz(), roots, levels);
        self.resume_second();
        loop {
            self.serve_second();
            let current = self.current;
            let trap = self.task(current).run();
            match trap.frame.vector {
                BREAKPOINT => _ = self.call(),
                ring0::second::VECTOR => {}
                vector if vector >= FIRST_VECTOR => {
                    let irq = self.interrupts.end(vector);
                    self.interrupted(irq);
                }
                _ => self.faulted(mailbox, &trap),
            }
        }
    }

    fn task(&mut self, process: Process) -> &mut Task {
        &mut self.tasks[process as usize]
    }

    /// The process that runs, and the allocator: what most commands need.
    pub fn current(&mut self) -> (&mut Task, &mut Frames) {
        self.task_and_frames(self.current)
    }

    /// The process that runs.
    pub const fn current_process(&self) -> Process {
        self.current
    }

    /// A process, and the allocator.
    pub fn task_and_frames(&mut self, process: Process) -> (&mut Task, &mut Frames) {
        (&mut self.tasks[process as usize], &mut self.frames)
    }

    /// Disk, network interface, and the memory of `process` for them.
    pub fn devices(
        &mut self,
        process: Process,
    ) -> (Option<&mut Disk>, Option<&mut Link>, Reach<'_>) {
        let memory = Reach::new(&self.tasks[process as usize].space, &self.frames);
        (self.disk.as_mut(), self.link.as_mut(), memory)
    }

    /// What became of pages, the process that does not run, and the allocator.
    pub fn ledger_and_other(&mut self) -> (&mut Ledger, &mut Task, &mut Frames) {
        let other = match self.current {
            Process::App => Process::Peer,
            Process::Peer => Process::App,
        };
        (
            &mut self.ledger,
            &mut self.tasks[other as usize],
            &mut self.frames,
        )
    }

    /// Copies from the beginning of the current process's bulk area.
    pub fn read_bulk(&self, bytes: &mut [u8]) {
        if let Some(mailbox) = self.mailbox {
            mailbox.read_bulk(self.current, bytes);
        }
    }

    /// Serves the second CPU, if its process has trapped.
    fn serve_second(&mut self) {
        let Some(trap) = self.second.as_mut().and_then(Second::trap) else {
            return;
        };
        let interrupted = core::mem::replace(&mut self.current, Process::Peer);
        self.task(Process::Peer).trapped(&trap);
        let is_answered = match (trap.frame.vector, self.mailbox) {
            (BREAKPOINT, _) => self.call(),
            (_, Some(mailbox)) => {
                self.faulted(mailbox, &trap);
                true
            }
            // Nothing runs without a mailbox.
            (_, None) => false,
        };
        self.current = interrupted;
        if is_answered {
            self.resume_second();
        }
    }

    fn resume_second(&mut self) {
        if let Some(second) = &mut self.second {
            let peer = &self.tasks[Process::Peer as usize];
            second.resume(peer.frame(), peer.space.tables.root);
        }
    }

    /// After a change of page tables by which the second CPU may run.
    pub fn flush_second(&self) {
        if let Some(second) = &self.second {
            second.flush();
        }
    }

    /// A call of the current process. False: it is answered later.
    fn call(&mut self) -> bool {
        let current = self.current;
        let (number, words) = self.task(current).call();
        let (status, results) = match number {
            call::YIELD => {
                if self.second.is_none() {
                    self.switch();
                }
                (0, [0; 8])
            }
            // One that came after the process last looked has woken it already.
            call::AWAIT_INTERRUPT => {
                if words[0] == self.interrupts.taken {
                    if let (Process::Peer, Some(second)) = (current, &mut self.second) {
                        second.awaits_interrupt = true;
                        return false;
                    }
                    self.sleep_until(|_| true);
                }
                (0, [0; 8])
            }
            _ => match commands::carry_out(self, number, words) {
                Ok(results) => (Status::Ok as u64, results),
                Err(Failure {
                    status,
                    details: [a, b, c, d],
                }) => (status as u64, [a, b, c, d, 0, 0, 0, 0]),
            },
        };
        self.task(current).answer(status, results);
        true
    }

    /// Runs the process that the host wants next.
    fn switch(&mut self) {
        if let Some(mailbox) = self.mailbox
            && let Some(wanted) = mailbox.wanted()
        {
            self.current = wanted;
            mailbox.set_running(wanted);
        }
    }

    /// Sleeps, serving interrupts, until one for which `wakes` holds.
    pub fn sleep_until(&mut self, wakes: impl Fn(Option<u32>) -> bool) {
        self.set_state(GuestState::Sleeping);
        loop {
            let vector = ring0::halt();
            if vector == ring0::second::VECTOR {
                self.serve_second();
                continue;
            }
            let irq = self.interrupts.end(vector);
            self.interrupted(irq);
            if wakes(irq) {
                break;
            }
        }
        self.set_state(GuestState::Ready);
    }

    fn set_state(&self, state: GuestState) {
        if let Some(mailbox) = self.mailbox {
            mailbox.set_state(state);
        }
    }

    /// Serves an interrupt.
    fn interrupted(&mut self, irq: Option<u32>) {
        if irq.is_some() && irq == self.byway.as_ref().map(|byway| byway.irq) {
            self.drain_events();
        }
        if let Some(mailbox) = self.mailbox {
            mailbox.count_interrupts(self.interrupts.taken);
        }
        if let Some(second) = &mut self.second
            && core::mem::take(&mut second.awaits_interrupt)
        {
            self.task(Process::Peer).answer(0, [0; 8]);
            self.resume_second();
        }
    }

    /// An exception of the current process: expected, or reported and the process restarted.
    fn faulted(&mut self, mailbox: Mailbox, trap: &Trap) {
        let current = self.current;
        let missing = trap.frame.vector == PAGE_FAULT && trap.frame.error & WAS_PRESENT == 0;
        if missing && self.touched(current, trap.cr2) {
            return;
        }
        if self.task(current).divert_expected_fault(trap) {
            return;
        }
        let frame = &trap.frame;
        let details = [frame.vector, frame.error, trap.cr2, frame.rip];
        mailbox.fail(
            current,
            Failure {
                status: Status::Fault,
                details,
            },
        );
        self.task(current).restart();
    }
}

/// Makes the kernel process's own page tables, and runs on them from here on.
fn map_kernel(info: &BootInfo, frames: &mut Frames, levels: u32) -> Result<(), OutOfFrames> {
    const DATA: u64 = PRESENT | WRITABLE | USER | ACCESSED | DIRTY | NO_EXECUTE;
    const REGISTERS: u64 = DATA | UNCACHED | WRITE_THROUGH;
    let tables = Tables::new(frames, levels).ok_or(OutOfFrames)?;
    map_image(tables, frames, USER)?;
    map_kernel_data(tables, frames)?;
    let top = info
        .mailbox
        .map_or(0, |range| range.start + range.len)
        .max(frames.top());
    tables.map(frames, DIRECT_MAP, 0, top, DATA)?;
    let pages = [IO_APIC, LOCAL_APIC].into_iter();
    let pages = pages.chain(
        info.devices()
            .iter()
            .map(|device| device.registers.start & !(PAGE - 1)),
    );
    for page in pages {
        tables.map(frames, MMIO_MAP + page, page, PAGE, REGISTERS)?;
    }
    // SAFETY: image, stack and all RAM are where they were.
    unsafe { ring0::load_kernel_tables(tables.root) };
    Ok(())
}

/// Ticks of the time-stamp counter a second, where CPUID says so; else 0.
fn tsc_hz() -> u64 {
    let highest = __cpuid(0).eax;
    if highest >= 0x15 {
        let ratio = __cpuid_count(0x15, 0);
        if ratio.eax != 0 && ratio.ebx != 0 && ratio.ecx != 0 {
            return u64::from(ratio.ecx) * u64::from(ratio.ebx) / u64::from(ratio.eax);
        }
    }
    let hypervisor = __cpuid(1).ecx & 1 << 31 != 0;
    if hypervisor && __cpuid(0x4000_0000).eax >= 0x4000_0010 {
        return u64::from(__cpuid(0x4000_0010).eax) * 1000;
    }
    0
}
