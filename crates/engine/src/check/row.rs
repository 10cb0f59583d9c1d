//! Whether a row is one that this build writes.

use crate::rows::{Kind, NODE_SCOPE, SCOPE_BYTES};
use crate::{meta, shard};

/// Checks a row's name and its value.
pub(super) fn check(name: &[u8], value: &[u8]) -> Result<(), String> {
    const APPLIED: u8 = Kind::Applied as u8;
    const META: u8 = Kind::Meta as u8;
    let Some((scope, [kind, rest @ ..])) = name.split_at_checked(SCOPE_BYTES) else {
        return Err("a row's name is too short".to_owned());
    };
    if scope.starts_with(&NODE_SCOPE.to_be_bytes()) {
        let pointer = (*kind, rest.len(), value.len()) == (1, 4, 4);
        return if pointer {
            Ok(())
        } else {
            Err("a generation pointer does not parse".to_owned())
        };
    }
    match *kind {
        // The mark is its writer's: any bytes.
        APPLIED if rest.is_empty() => Ok(()),
        META => meta::check(rest, value),
        kind => match shard::whole::check(kind, rest, value)? {
            true => Ok(()),
            false => Err(format!("a row of the unknown kind {kind:#04x}")),
        },
    }
}
