//! The machine's contract, over RocksDB.

use bytes::Bytes;
use proptest::prelude::*;
use stemedb_machine::shard::suite::Replica;
use stemedb_machine::shard::suite::random::a_replica_answers_as_the_maps_do;
use stemedb_machine::shard::{BucketNumber, Change, Head, View};
use stemedb_types::{Key, Revision};

use crate::common::Counted;

stemedb_machine::view_suite!(Counted::fresh);

/// The same transcripts where old versions vanish as soon as they may.
mod compacting {
    use crate::common::Counted;

    stemedb_machine::view_suite!(|| Counted { compact_every: 5, ..Counted::fresh() });
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn rocksdb_answers_as_the_maps_do_while_it_lets_go_of_history(seed in any::<u64>()) {
        let compacting = Counted { compact_every: 11, ..Counted::fresh() };
        a_replica_answers_as_the_maps_do(compacting, seed, 150);
    }

    #[test]
    fn rocksdb_answers_as_the_maps_do(seed in any::<u64>()) {
        a_replica_answers_as_the_maps_do(Counted::fresh(), seed, 200);
    }
}

fn version(key: &str, revision: u64, deleted: bool) -> Change {
    let head = Head {
        create_revision: Revision(revision),
        mod_revision: Revision(revision),
        version: 1,
        deleted,
        expiry: None,
    };
    let key = Key::new(key.to_owned()).unwrap();
    Change::Version { bucket: BucketNumber(0), key, head, value: Bytes::from_static(b"v") }
}

fn head(view: &impl View, key: &str) -> Option<(u64, bool)> {
    let head = view.head(BucketNumber(0), &Key::new(key.to_owned()).unwrap()).unwrap();
    head.map(|head| (head.mod_revision.0, head.deleted))
}

#[test]
fn a_run_looks_up_what_the_group_does_as_it_stood_at_the_beginning_of_the_run() {
    let mut counted = Counted::fresh();
    // Keys that are each other's prefixes, with a zero byte too; rows in memory and in files.
    let keys = ["a", "ab", "a\0b", "b"];
    for revision in 1..40 {
        let key = keys[revision as usize % 3];
        counted.write(&[version(key, revision, revision % 5 == 0)]);
    }
    let run = counted.group.run();
    for key in keys {
        assert_eq!(head(&run, key), head(&counted.group, key), "{key:?}");
    }
    assert_eq!(head(&run, "b"), None);
    let before = head(&run, "a");
    let group = counted.group.clone();
    let mut batch = group.batch();
    batch.put_change(&version("a", 99, false));
    group.commit(batch, Vec::new()).unwrap();
    assert_eq!(head(&group, "a"), Some((99, false)));
    assert_eq!(head(&run, "a"), before);
}
