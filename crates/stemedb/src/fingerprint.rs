//! What a write means, in 32 bytes: what an idempotency key stands for. Pure.
//!
//! Reckoned where the request came in, before it is sent anywhere, and carried with it: a retry
//! that comes in at another node has the same. Times that were reckoned from a clock are left out,
//! as they differ from one try to the next; what they were reckoned from stands in the request's
//! query.

use sha2::{Digest, Sha256};
use stemedb_machine::shard::{Fingerprint, Write};
use stemedb_types::Encoder;

/// First of what is hashed. Another way to put it together gets another number.
const VERSION: u8 = 1;

/// The fingerprint of a write, asked for with this query.
pub fn fingerprint(write: &Write, query: &str) -> Fingerprint {
    let mut front = Encoder::new();
    front.u8(VERSION);
    front.text(query);
    let mut hash = Sha256::new();
    match write {
        // A value is hashed where it stands.
        Write::Put { key, value, condition, expires_at_ms } => {
            let (key, condition) = (key.clone(), condition.clone());
            front.bool(expires_at_ms.is_some());
            let value_apart = Default::default();
            Write::Put { key, value: value_apart, condition, expires_at_ms: None }
                .encode(&mut front);
            hash.update(front.as_slice());
            hash.update(value);
        }
        Write::Touch { key, .. } => {
            Write::Touch { key: key.clone(), expires_at_ms: 0 }.encode(&mut front);
            hash.update(front.as_slice());
        }
        other => {
            other.encode(&mut front);
            hash.update(front.as_slice());
        }
    }
    Fingerprint(hash.finalize().into())
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use stemedb_machine::shard::Condition;
    use stemedb_types::{Key, Revision};

    use super::*;

    fn put(key: &'static str, value: &'static str, condition: Condition) -> Write {
        let (key, value) = (Key::new(key).expect("a key"), Bytes::from(value));
        Write::Put { key, value, condition, expires_at_ms: None }
    }

    #[test]
    fn whatever_differs_in_what_is_asked_differs_in_the_fingerprint() {
        let key = || Key::new("k").expect("a key");
        let (at, other) = (vec![Revision(7)], vec![Revision(8)]);
        let asked = [
            (put("k", "v", Condition::Always), ""),
            (put("k", "v", Condition::Always), "ttl=60s"),
            (put("k", "w", Condition::Always), ""),
            (put("k", "", Condition::Always), ""),
            (put("kv", "", Condition::Always), ""),
            (put("k", "v", Condition::Absent), ""),
            (put("k", "v", Condition::RevisionIn(at.clone())), ""),
            (put("k", "v", Condition::RevisionIn(other)), ""),
            (put("k", "v", Condition::RevisionNotIn(at)), ""),
            (Write::Delete { key: key(), condition: Condition::Always }, ""),
            (Write::Delete { key: key(), condition: Condition::Exists }, ""),
            (Write::Touch { key: key(), expires_at_ms: 5 }, "ttl=60s"),
            (Write::Touch { key: key(), expires_at_ms: 5 }, "ttl=90s"),
            (Write::Assert { items: vec![] }, ""),
        ];
        let all: Vec<Fingerprint> = asked.iter().map(|(w, query)| fingerprint(w, query)).collect();
        let distinct: std::collections::BTreeSet<Fingerprint> = all.iter().copied().collect();
        assert_eq!(distinct.len(), asked.len());
        // The same again is the same.
        assert_eq!(fingerprint(&put("k", "v", Condition::Always), ""), all[0]);
    }

    #[test]
    fn a_time_reckoned_from_a_clock_is_not_part_of_what_was_asked() {
        let key = || Key::new("k").expect("a key");
        let touch = |expires_at_ms| Write::Touch { key: key(), expires_at_ms };
        assert_eq!(fingerprint(&touch(5), "ttl=1s"), fingerprint(&touch(6), "ttl=1s"));
        let put = |expires_at_ms| Write::Put {
            key: key(),
            value: Bytes::new(),
            condition: Condition::Always,
            expires_at_ms,
        };
        assert_eq!(fingerprint(&put(Some(5)), "ttl=1s"), fingerprint(&put(Some(6)), "ttl=1s"));
        assert_ne!(fingerprint(&put(Some(5)), ""), fingerprint(&put(None), ""));
    }

    #[test]
    fn the_fingerprint_of_a_write_never_changes() {
        // Frozen: answers are kept under it, and a retry may come in at a node of another release.
        let Fingerprint(bytes) = fingerprint(&put("k", "v", Condition::Always), "");
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, "e1cf713b63037dd19f3daa443ed8b9658db5b2f9950b3dc2ba5d1c4a58157e02");
    }
}
