//! KEY_LOAD. Key material passes through here and stays nowhere: what held it is wiped by
//! whoever copied it: the chain and the decoded request after the call, the key when it goes.

use byway_protocols::codec::KeyAlgorithm;
use byway_protocols::control::{KeyLoadReply, KeyLoadRequest};
use byway_protocols::{ControlStatus, Rights};

use crate::capability::Key;
use crate::domain::Domain;

pub(super) fn load(domain: &Domain, q: &KeyLoadRequest) -> Result<KeyLoadReply, ControlStatus> {
    let algorithm = KeyAlgorithm::from_code(q.algorithm).ok_or(ControlStatus::BadArgument)?;
    let rights = Rights(q.rights);
    let is_use = rights.intersection(Rights::ENCRYPT | Rights::DECRYPT) != Rights::NONE;
    if !Rights::KEY.contains(rights) || !is_use || q.length as usize != algorithm.key_bytes() {
        return Err(ControlStatus::BadArgument);
    }
    let key = Key::new(algorithm, &q.key.0).ok_or(ControlStatus::BadArgument)?;
    let slot = domain.load_key(q.context, q.slot, key, rights, q.badge)?;
    Ok(KeyLoadReply {
        slot: u32::from(slot),
        reserved4: 0,
    })
}
