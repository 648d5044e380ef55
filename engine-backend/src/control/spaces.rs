//! BIND, UNBIND, INVALIDATE.

use byway_protocols::control::{
    BindRequest, InvalidateReply, InvalidateRequest, PASID_MAX, PASID_PHYSICAL, UnbindRequest,
    bind_flags, features, invalidate_scope,
};
use byway_protocols::{ControlStatus, PAGE_SIZE};

use crate::address_space::Tables;
use crate::domain::Domain;

pub(super) fn bind(domain: &Domain, q: &BindRequest) -> Result<(), ControlStatus> {
    check_bindable(q.pasid)?;
    let levels_ok = match q.levels {
        4 => true,
        5 => domain.features() & features::LEVELS_5 != 0,
        _ => false,
    };
    let in_range = levels_ok
        && (32..=52).contains(&q.maxphyaddr)
        && q.flags & !bind_flags::ALL == 0
        && q.invalidation_page.is_multiple_of(PAGE_SIZE);
    if !in_range {
        return Err(ControlStatus::BadArgument);
    }
    let page = (q.invalidation_page != 0).then_some(q.invalidation_page);
    domain.bind(
        q.pasid,
        page,
        Tables {
            gpa: q.root,
            levels: q.levels,
            maxphyaddr: q.maxphyaddr,
            nxe: q.flags & bind_flags::NXE != 0,
            pages_1g: q.flags & bind_flags::PAGES_1G != 0,
            no_ad: q.flags & bind_flags::NO_AD != 0,
        },
    )
}

pub(super) fn unbind(domain: &Domain, q: &UnbindRequest) -> Result<(), ControlStatus> {
    check_bindable(q.pasid)?;
    domain.unbind(q.pasid)
}

fn check_bindable(pasid: u32) -> Result<(), ControlStatus> {
    if pasid == PASID_PHYSICAL || pasid > PASID_MAX {
        return Err(ControlStatus::BadArgument);
    }
    Ok(())
}

pub(super) fn invalidate(
    domain: &Domain,
    q: &InvalidateRequest,
) -> Result<InvalidateReply, ControlStatus> {
    let no_range = q.address == 0 && q.pages == 0;
    let waited_chunks = match q.scope {
        invalidate_scope::DOMAIN if q.pasid == 0 && no_range => domain.invalidate_domain(),
        invalidate_scope::PASID if no_range => domain.invalidate_space(q.pasid)?,
        invalidate_scope::RANGE if is_range(q.address, q.pages) => {
            domain.invalidate_range(q.pasid, q.address, q.pages)?
        }
        _ => return Err(ControlStatus::BadArgument),
    };
    Ok(InvalidateReply {
        waited_chunks,
        reserved4: 0,
    })
}

/// Whole pages, at least one, that end at 2^64 at the latest.
fn is_range(address: u64, pages: u64) -> bool {
    address.is_multiple_of(PAGE_SIZE) && pages != 0 && pages <= (u64::MAX - address) / PAGE_SIZE + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_may_end_where_the_addresses_do() {
        let last = u64::MAX - (PAGE_SIZE - 1);
        assert!(is_range(last, 1));
        assert!(!is_range(last, 2));
        assert!(is_range(0, 1 << 52));
        assert!(!is_range(0, (1 << 52) + 1));
        assert!(!is_range(0, u64::MAX));
        assert!(!is_range(1, 1));
        assert!(!is_range(0, 0));
    }
}
