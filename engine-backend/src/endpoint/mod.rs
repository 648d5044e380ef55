//! Endpoints: block devices that the engine drives itself (SPEC section 4.33).
//!
//! [`device`] is what a device has to be able to do, [`staging`] the only memory that it
//! can reach; [`file`] is one kind of it. An [`Attachment`] is a device while it is there, an [`Endpoint`] what
//! capabilities name, and [`Endpoints`] all of them.
//!
//! Nothing here knows guests: what moves between staging and their memory is `ops`' matter.

mod attachment;
mod config;
pub mod device;
pub mod file;
mod registry;
pub mod slot;
pub mod staging;

use std::sync::Arc;

pub use attachment::{Attachment, Counters, Refusal};
pub use config::{EndpointConfig, EndpointError, EndpointKind, is_endpoint_name};
pub use registry::{ENDPOINTS_MAX, Endpoint, Endpoints, Grant, News};

use device::BlockDevice;
use staging::StagingMemory;

/// Opens a device of whatever kind. May wait for it.
fn open(
    config: &EndpointConfig,
    staging: &Arc<StagingMemory>,
) -> Result<Box<dyn BlockDevice>, String> {
    match config.kind {
        EndpointKind::File => Ok(Box::new(file::FileDevice::open(config, staging)?)),
    }
}
