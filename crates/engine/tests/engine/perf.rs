use std::time::Instant;
use stemedb_machine::shard::suite::{Run, key};
use stemedb_machine::shard::View;
use stemedb_machine::shard::BucketNumber;
use stemedb_engine::*;
use stemedb_types::GroupId;
use crate::common::Counted;

#[test]
fn perf() {
    let dir = tempfile::TempDir::new().unwrap();
    let store = std::sync::Arc::new(RocksStore::open(dir.path(), Budget::default()).unwrap());
    let mut run = Run::new(Counted::over(Group::open(store, GroupId(1)).unwrap()));
    let n = 60_000u64;
    let t = Instant::now();
    for i in 0..n {
        let k = i.wrapping_mul(0x9e3779b97f4a7c15);
        run.put(&k.to_be_bytes(), &[1; 200]);
        if i % 20_000 == 19_999 && i + 1 < n { run.replica.group.store().flush().unwrap(); }
    }
    println!("put {:?}", t.elapsed() / n as u32);
    let g = &run.replica.group;
    for (what, mul) in [("hit", 0x9e3779b97f4a7c15u64), ("miss", 0x12345677)] {
        let t = Instant::now();
        let mut found = 0;
        for i in 0..20_000u64 {
            let k = ((i * 3 % n) + if mul & 1 == 0 { 0 } else { 0 }).wrapping_mul(mul).wrapping_add(u64::from(what == "miss"));
            found += usize::from(g.head(BucketNumber(0), &key(&k.to_be_bytes())).unwrap().is_some());
        }
        println!("head {what} {:?} found {found}", t.elapsed() / 20_000);
    }
    let t = Instant::now();
    let name = "default".parse().unwrap();
    for _ in 0..20_000u64 { g.bucket(run.project, &name).unwrap(); }
    println!("bucket get {:?}", t.elapsed() / 20_000);
    let t = Instant::now();
    for i in 0..20_000u64 { key(&i.to_be_bytes()); }
    println!("key {:?}", t.elapsed() / 20_000);
}
