//! Trees that grow, lose branches and are buried.

use super::Seeds;
use crate::capabilities::step;

fn derive(parent: u8, length: u16, rights: u8, link: u8, quota: u16) -> Vec<u8> {
    let mut bytes = vec![step::DERIVE, parent, 0];
    bytes.extend(length.to_le_bytes());
    bytes.extend([rights, link]);
    bytes.extend(quota.to_le_bytes());
    bytes
}

fn account(node: u8, bytes: u16) -> Vec<u8> {
    [&[step::ACCOUNT, node][..], &bytes.to_le_bytes()].concat()
}

pub(super) fn seeds() -> Seeds {
    let chain: Vec<u8> = (0..17).flat_map(|n| derive(n, 100, 7, 0, 0)).collect();
    let star: Vec<u8> = (0..8)
        .flat_map(|n| derive(0, 50 + n, 3, n as u8 % 4, 0))
        .collect();
    let limited = [
        derive(0, 1000, 7, 0, 100),
        derive(1, 500, 3, 1, 50),
        account(2, 40),
        account(1, 30),
        account(2, 20),
        derive(2, 10, 1, 0, 0),
    ]
    .concat();
    vec![
        (
            "chain-revoked",
            [&chain[..], &[step::REVOKE, 3, step::REAP, 40]].concat(),
        ),
        (
            "chain-dropped",
            [
                &chain[..],
                &[step::DROP, 5, step::DROP, 16, step::REVOKE_BELOW, 2],
            ]
            .concat(),
        ),
        (
            "star-unlinked",
            [
                &star[..],
                &[step::END_LINK, 1, step::END_LINK, 0, step::REAP, 3],
            ]
            .concat(),
        ),
        ("limited", limited),
    ]
}
