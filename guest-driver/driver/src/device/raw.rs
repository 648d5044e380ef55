//! Messages as they are, right or wrong: for guests that test an engine.

use super::{CONTROL_QUEUE, Device, REPLY, REQUEST};
use crate::error::{Broken, Error};
use crate::hal::Hal;
use crate::transport::Transport;
use crate::virtqueue::Buffer;
use byway_protocols::control::MESSAGE_BYTES_MAX;

impl<T: Transport, H: Hal> Device<T, H> {
    /// Sends the bytes of `message`, which are cut at 256, as one request and waits for an answer, which is not
    /// looked at. Returns its bytes. Whatever the request ends or creates, this driver does not learn of it.
    ///
    /// # Errors
    /// [`Error::Broken`] when the device is, or does not answer.
    pub fn exchange_raw(&mut self, message: &[u8]) -> Result<usize, Error> {
        if let Some(how) = self.broken {
            return Err(how.into());
        }
        let message = &message[..message.len().min(MESSAGE_BYTES_MAX)];
        self.control_dma.write(REQUEST, message);
        let readable = Buffer {
            gpa: self.control_dma.gpa(REQUEST),
            bytes: message.len() as u32,
        };
        let writable = Buffer {
            gpa: self.control_dma.gpa(REPLY),
            bytes: MESSAGE_BYTES_MAX as u32,
        };
        self.control
            .push(&self.control_dma, &[readable], &[writable])
            .ok_or(Error::Broken(Broken::TimedOut))?;
        if self.control.wants_notify(&self.control_dma) {
            self.transport.notify(CONTROL_QUEUE);
        }
        let outcome = self.await_reply();
        if let Err(Error::Broken(how)) = outcome {
            self.broken = Some(how);
        }
        outcome
    }
}
