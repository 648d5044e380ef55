//! Endpoints, as the operator deals with them.

use std::sync::Arc;

use byway_protocols::Rights;

use super::Inner;
use crate::capability::{Link, LinkTerms};
use crate::endpoint::{Endpoint, Endpoints, Grant};
use crate::interface::{AdminError, EndpointConfig, EndpointGrant, EndpointInfo, EndpointUser};

/// Most that a device may take for a request that is trusted with memory. Front ends of a daemon wait 20 seconds for
/// what waits for it.
const TRUSTED_TIMEOUT_MS_MAX: u32 = 10_000;

impl Inner {
    fn endpoints(&self) -> &Endpoints {
        self.core.workers().endpoints()
    }

    fn endpoint(&self, name: &str) -> Result<Arc<Endpoint>, AdminError> {
        let found = self.endpoints().find(name);
        found.ok_or_else(|| {
            AdminError::Endpoint(format!("no endpoint named {name:?}; `byway ps` lists them"))
        })
    }

    pub(super) fn attach_endpoint(&self, config: EndpointConfig) -> Result<(), AdminError> {
        let attached = self.endpoints().attach(config);
        attached.map_err(|e| AdminError::Endpoint(e.to_string()))?;
        // It looks after devices from now on.
        self.control.wake();
        Ok(())
    }

    pub(super) fn detach_endpoint(&self, name: &str) -> Result<(), AdminError> {
        let detached = self.endpoints().detach(name);
        detached.map_err(|e| AdminError::Endpoint(e.to_string()))
    }

    pub(super) fn grant_endpoint(&self, wanted: &EndpointGrant) -> Result<(), AdminError> {
        let endpoint = self.endpoint(&wanted.endpoint)?;
        let domain = self.devices.get(&wanted.domain)?.domain().id();
        let refused = |reason: String| {
            let name = &wanted.endpoint;
            Err(AdminError::Endpoint(format!("endpoint {name}: {reason}")))
        };
        let geometry = endpoint.geometry();
        let (block, all) = (u64::from(geometry.block_bytes), geometry.bytes());
        let bytes = match wanted.bytes {
            0 => all.saturating_sub(wanted.first),
            bytes => bytes,
        };
        let is_whole = wanted.first.is_multiple_of(block) && bytes.is_multiple_of(block);
        let end = wanted.first.checked_add(bytes);
        if !is_whole || bytes == 0 || end.is_none_or(|end| end > all) {
            return refused(format!(
                "a grant of {bytes} bytes from byte {}: expected multiples of {block}, within {all}",
                wanted.first
            ));
        }
        if !wanted.read && !wanted.write && !wanted.trusted {
            return refused(
                "a grant neither to read nor to write, and without trust: say read, write or trusted".to_owned(),
            );
        }
        let (timeout_ms, max) = (endpoint.config().timeout_ms, TRUSTED_TIMEOUT_MS_MAX);
        if wanted.trusted && timeout_ms > max {
            return refused(format!(
                "a grant with trust, and timeout_ms = {timeout_ms}: expected {max} at most, since \
                 revocations and resets wait that long for a device that does not answer"
            ));
        }
        if wanted.write && geometry.read_only {
            return refused("a grant to write, and it is read-only".to_owned());
        }
        let terms = LinkTerms {
            rights: Rights::BLOCK,
            max_bytes: u64::MAX,
        };
        let before = endpoint.set_grant(
            domain,
            Some(Grant {
                first: wanted.first,
                bytes,
                read: wanted.read,
                write: wanted.write,
                trusted: wanted.trusted,
                link: Arc::new(Link::new(domain, domain, terms)),
            }),
        );
        self.end_grant(before);
        Ok(())
    }

    pub(super) fn ungrant_endpoint(&self, endpoint: &str, domain: &str) -> Result<(), AdminError> {
        let endpoint = self.endpoint(endpoint)?;
        let domain = self.devices.get(domain)?.domain().id();
        let before = endpoint.set_grant(domain, None);
        self.end_grant(before);
        Ok(())
    }

    /// Takes back all that a domain was granted, which will not come again.
    pub(super) fn forget_grants(&self, domain: u32) {
        for endpoint in self.endpoints().all() {
            let before = endpoint.set_grant(domain, None);
            self.end_grant(before);
        }
    }

    fn end_grant(&self, grant: Option<Grant>) {
        let links: Vec<_> = grant.into_iter().map(|grant| grant.link).collect();
        self.end(&links);
    }

    pub(super) fn list_endpoints(&self) -> Vec<EndpointInfo> {
        let devices = self.devices.all();
        let name_of = |id| {
            let device = devices.iter().find(|d| d.domain().id() == id)?;
            Some(device.domain().name().to_owned())
        };
        let endpoints = self.endpoints().all();
        endpoints.iter().map(|e| info(e, name_of)).collect()
    }
}

fn info(endpoint: &Endpoint, name_of: impl Fn(u32) -> Option<String>) -> EndpointInfo {
    let (config, geometry) = (endpoint.config(), endpoint.geometry());
    let attachment = endpoint.attachment();
    let counters = attachment
        .as_ref()
        .map(|a| a.counters())
        .unwrap_or_default();
    let reason = match &attachment {
        Some(attachment) => attachment.reason(),
        None => Some("the operator took it away".to_owned()),
    };
    let users = endpoint.all_grants().into_iter().filter_map(|(id, grant)| {
        Some(EndpointUser {
            domain: name_of(id)?,
            first: grant.first,
            bytes: grant.bytes,
            read: grant.read,
            write: grant.write,
            trusted: grant.trusted,
        })
    });
    EndpointInfo {
        name: config.name.clone(),
        kind: config.kind.name().to_owned(),
        path: config.path.display().to_string(),
        read_only: config.read_only,
        attached: attachment.is_some_and(|a| !a.is_gone()),
        reason,
        block_bytes: geometry.block_bytes,
        blocks: geometry.blocks,
        requests: counters.requests,
        failures: counters.failures,
        bytes_read: counters.bytes_read,
        bytes_written: counters.bytes_written,
        system_calls: counters.system_calls,
        under_way: counters.under_way,
        direct: counters.direct,
        holds: counters.holds,
        timeout_ms: config.timeout_ms,
        users: users.collect(),
    }
}
