//! The machine's contract, over RocksDB.

use proptest::prelude::*;
use stemedb_machine::shard::suite::random::a_replica_answers_as_the_maps_do;

use crate::common::Counted;

stemedb_machine::view_suite!(Counted::fresh);

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn rocksdb_answers_as_the_maps_do(seed in any::<u64>()) {
        a_replica_answers_as_the_maps_do(Counted::fresh(), seed, 200);
    }
}
