//! Keys that go by themselves: put with a time, touched, expired.

use bytes::Bytes;
use stemedb_types::{ProjectId, Revision};

use super::keys::{deleted, not_found, put, refused, value, version};
use super::{Replica, Run, key};
use crate::shard::{Answer, Condition, Due, Expiry, Head, Read, ReadAnswer, Version, View};

/// A version that goes at a time, under a lease.
fn leased(version: Version, at_ms: u64, lease: u64) -> Version {
    let expiry = Some(Expiry { at_ms, lease: Revision(lease) });
    Version { head: Head { expiry, ..version.head }, ..version }
}

fn touched(revision: u64, current: u64) -> Answer {
    Answer::Touched { revision: Revision(revision), current: Revision(current) }
}

/// What is due, as (time, key, lease).
fn due<R: Replica>(run: &Run<R>, until_ms: u64, limit: usize) -> Vec<(u64, Bytes, u64)> {
    let due = run.replica.view().due(until_ms, limit).unwrap();
    due.into_iter().map(|due| (due.at_ms, due.key.as_bytes().clone(), due.lease.0)).collect()
}

fn named(at_ms: u64, key: &'static [u8], lease: u64) -> (u64, Bytes, u64) {
    (at_ms, Bytes::from_static(key), lease)
}

pub fn a_key_is_there_until_an_expire_of_its_lease_is_applied<R: Replica>(run: &mut Run<R>) {
    assert_eq!(run.put_until(b"k", b"1", 50), put(1, true));
    let first = leased(version(1, 1, 1, b"1"), 50, 1);
    // Long past its time, for every read and every condition.
    assert!(run.now_ms > 50);
    assert_eq!(run.get(b"k", None), value(1, Some(first)));
    assert_eq!(run.put_if(b"k", b"", Condition::Absent), refused(1, Some(1)));
    // An expire of another lease, of a key without one, of no key: nothing happens.
    assert_eq!(run.put(b"stays", b""), put(2, true));
    assert_eq!(run.expire(b"k", 2), refused(2, Some(1)));
    assert_eq!(run.expire(b"stays", 2), refused(2, Some(2)));
    assert_eq!(run.expire(b"none", 1), not_found(2));
    // A put in between has a lease of its own, though the time is the same.
    assert_eq!(run.put_until(b"k", b"2", 50), put(3, false));
    assert_eq!(run.expire(b"k", 1), refused(3, Some(3)));
    assert_eq!(run.get(b"k", None), value(3, Some(leased(version(1, 3, 2, b"2"), 50, 3))));
    assert_eq!(run.expire(b"k", 3), deleted(4));
    assert_eq!(run.get(b"k", None), value(4, None));
    assert_eq!(run.expire(b"k", 3), not_found(4));
    // What it was before can be read; made again it begins anew.
    let before = leased(version(1, 3, 2, b"2"), 50, 3);
    assert_eq!(run.get(b"k", Some(3)), value(3, Some(before)));
    assert_eq!(run.put(b"k", b"3"), put(5, true));
    assert_eq!(run.get(b"k", None), value(5, Some(version(5, 5, 1, b"3"))));
}

pub fn a_touch_moves_the_time_and_leaves_the_etag<R: Replica>(run: &mut Run<R>) {
    assert_eq!(run.touch(b"k", 9), not_found(0));
    run.put(b"k", b"one");
    run.put_until(b"k", b"two", 50);
    assert_eq!(run.touch(b"k", 70), touched(3, 2));
    assert_eq!(run.get(b"k", None), value(3, Some(leased(version(1, 2, 2, b"two"), 70, 3))));
    // Its revision is its own: the past shows the time that held then.
    assert_eq!(run.get(b"k", Some(2)), value(2, Some(leased(version(1, 2, 2, b"two"), 50, 2))));
    assert_eq!(run.get(b"k", Some(1)), value(1, Some(version(1, 1, 1, b"one"))));
    // The ETag holds for a condition, the old lease for nothing.
    assert_eq!(run.expire(b"k", 2), refused(3, Some(2)));
    let at = Condition::RevisionIn(vec![Revision(2)]);
    assert_eq!(run.put_if(b"k", b"three", at), put(4, false));
    // A put without a time takes the time away; a touch gives one to a key that had none.
    assert_eq!(run.get(b"k", None), value(4, Some(version(1, 4, 3, b"three"))));
    assert_eq!(run.touch(b"k", 80), touched(5, 4));
    assert_eq!(run.touch(b"k", 80), touched(6, 4));
    let last = leased(version(1, 4, 3, b"three"), 80, 6);
    assert_eq!(run.get(b"k", None), value(6, Some(last.clone())));
    // A scan shows one row of it, in both directions.
    for reverse in [false, true] {
        let (range, as_of, cursor) = (super::all_keys(), None, None);
        let scan = Read::Scan { range, reverse, keys_only: false, limit: 9, as_of, cursor };
        let ReadAnswer::Page { rows, .. } = run.read(&scan) else { panic!() };
        let rows: Vec<_> = rows.into_iter().map(|row| row.version).collect();
        assert_eq!(rows, std::slice::from_ref(&last));
    }
    run.delete(b"k");
    assert_eq!(run.touch(b"k", 90), not_found(7));
}

pub fn what_is_due_comes_in_order_of_time_and_no_more_than_asked<R: Replica>(run: &mut Run<R>) {
    run.put_until(b"c", b"", 300);
    run.put_until(b"b", b"", 20);
    run.put_until(b"a\0", b"", 20);
    run.put_until(b"late", b"", u64::MAX);
    run.put_until(b"first", b"", 0);
    run.in_bucket(9, "other").put_until(b"o", b"", 256);
    run.in_bucket(1, "default");
    let early = [named(0, b"first", 5), named(20, b"a\0", 3), named(20, b"b", 2)];
    assert_eq!(due(run, 19, 9), early[..1]);
    assert_eq!(due(run, 20, 9), early);
    assert_eq!(due(run, 255, 9), early);
    assert_eq!(due(run, 299, 9)[3..], [named(256, b"o", 1)]);
    assert_eq!(due(run, u64::MAX - 1, 9).len(), 5);
    assert_eq!(due(run, u64::MAX, 9)[5], named(u64::MAX, b"late", 4));
    assert_eq!(due(run, u64::MAX, 2), early[..2]);
    assert_eq!(due(run, u64::MAX, 0), []);
    // It names all that the expire of it needs.
    let told = run.replica.view().due(256, 9).unwrap().pop();
    let bucket = "other".parse().unwrap();
    let (project, lease) = (ProjectId(9), Revision(1));
    assert_eq!(told, Some(Due { at_ms: 256, project, bucket, key: key(b"o"), lease }));
}

pub fn every_write_of_a_key_moves_its_place_in_the_index_along<R: Replica>(run: &mut Run<R>) {
    run.put_until(b"k", b"", 10);
    assert_eq!(due(run, 99, 9), [named(10, b"k", 1)]);
    run.put_until(b"k", b"", 20);
    assert_eq!(due(run, 99, 9), [named(20, b"k", 2)]);
    run.touch(b"k", 5);
    assert_eq!(due(run, 99, 9), [named(5, b"k", 3)]);
    run.touch(b"k", 5);
    assert_eq!(due(run, 99, 9), [named(5, b"k", 4)]);
    run.put(b"k", b"");
    assert_eq!(due(run, 99, 9), []);
    run.touch(b"k", 7);
    run.delete(b"k");
    assert_eq!(due(run, 99, 9), []);
    run.put_until(b"k", b"", 8);
    let lease = due(run, 99, 9)[0].2;
    run.expire(b"k", lease - 1);
    assert_eq!(due(run, 99, 9), [named(8, b"k", 8)]);
    assert_eq!(run.expire(b"k", lease), deleted(9));
    assert_eq!(due(run, 99, 9), []);
}
