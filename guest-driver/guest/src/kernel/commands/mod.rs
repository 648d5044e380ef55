//! What the kernel process does for an unprivileged one, one method for each command.
//!
//! Arguments come from the process, which is not trusted: each is checked here, and what goes
//! further down is in range.

mod device;
mod engine;
mod memory;

use byway_agent::commands::{
    DEVICE_COMMANDS, ENGINE_COMMANDS, dispatch_device, dispatch_engine, dispatch_kernel,
};
use byway_agent::{Failure, Status, Words};

use super::machine::Machine;

/// Carries out call `number` of the current process.
pub fn carry_out(machine: &mut Machine, number: u64, words: Words) -> Result<Words, Failure> {
    let opcode = u32::try_from(number).map_err(|_| Failure::new(Status::Unknown, number))?;
    if opcode >= DEVICE_COMMANDS {
        return dispatch_device(machine, opcode, words);
    }
    // Whatever it is may change what pages the process has.
    machine.finish_reads()?;
    if opcode >= ENGINE_COMMANDS {
        dispatch_engine(machine, opcode, words)
    } else {
        dispatch_kernel(machine, opcode, words)
    }
}
