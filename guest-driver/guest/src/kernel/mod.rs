//! The kernel process: owns the machine, and runs the unprivileged processes, one on each CPU.
//!
//! It is an ordinary ring-3 program that can write page tables (all RAM is mapped for it), device
//! registers and the trap area. Its main loop resumes a process; when that traps, the loop goes on.

pub mod boot_info;
pub mod churn;
pub mod commands;
pub mod crash;
pub mod device;
pub mod disk;
pub mod frames;
pub mod interrupts;
pub mod link;
pub mod machine;
pub mod mailbox;
pub mod noise;
pub mod pager;
pub mod second;
pub mod space;
pub mod strangers;
pub mod tables;
pub mod task;

use core::sync::atomic::Ordering;

use crate::runtime::IN_KERNEL_PROCESS;
use crate::serial::log;

/// Entered once, by the boot code, in ring 3, on the stack at the end of the image.
#[unsafe(no_mangle)]
extern "sysv64" fn kernel_entry() -> ! {
    IN_KERNEL_PROCESS.store(true, Ordering::Relaxed);
    match machine::Machine::start() {
        Ok(mut machine) => machine.run(),
        Err(why) => {
            log!("byway guest: cannot start: {}", why);
            crash::stop()
        }
    }
}
