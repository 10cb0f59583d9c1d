//! A full disk: writes are refused before anything breaks, reads and deletes go on, and writes come
//! back by themselves when there is space again.
//!
//! Each volume in turn is a file system of its own, in memory, a few MiB large. A ballast
//! file in it stands for whatever else fills a disk. Mounting needs root; without it the tests
//! say so and pass.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use common::{PATIENCE, cluster, places, stop, until};
use stemedb::{Bucket, Budget, Error, Front, Node, NodeOptions};

const MIB: u64 = 1 << 20;
/// How large the small volume is.
const VOLUME_BYTES: u64 = 64 * MIB;
const VALUE_BYTES: usize = 16 << 10;

/// A file system in memory, unmounted when it is dropped.
struct Volume {
    dir: tempfile::TempDir,
}

impl Volume {
    /// `None`, and a line that says why, where nothing may be mounted.
    fn mount() -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let size = format!("size={VOLUME_BYTES}");
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &size, "stemedb-test"])
            .arg(dir.path())
            .output();
        match mounted {
            Ok(output) if output.status.success() => Some(Self { dir }),
            Ok(output) => {
                println!("skipped: no mount: {}", String::from_utf8_lossy(&output.stderr));
                None
            }
            Err(error) => {
                println!("skipped: no mount: {error}");
                None
            }
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Lets a file grow until this much is free, or nothing.
    fn ballast(&self, free_bytes: u64) {
        let free = free(self.dir.path());
        let mut file =
            File::options().append(true).create(true).open(self.path("ballast")).unwrap();
        let chunk = vec![7; 64 << 10];
        let mut left = free.saturating_sub(free_bytes);
        while left > 0 {
            let length = left.min(chunk.len() as u64) as usize;
            if file.write_all(&chunk[..length]).is_err() {
                return;
            }
            left -= length as u64;
        }
    }

    fn drop_ballast(&self) {
        std::fs::remove_file(self.path("ballast")).unwrap();
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        // Lazily: the node under test may hold a file a moment longer.
        let _ = Command::new("umount").arg("-l").arg(self.dir.path()).status();
    }
}

fn free(dir: &Path) -> u64 {
    let stat = rustix::fs::statvfs(dir).unwrap();
    stat.f_bavail * stat.f_frsize
}

/// Small segments and memtables, so that a small volume has room for a few.
fn small(options: &mut NodeOptions) {
    options.segment_bytes = MIB;
    options.budget = Budget { write_buffer_bytes: MIB as usize, ..Budget::default() };
    options.live_log_bytes_max = 8 * MIB;
    options.disk_reserve_bytes = Some(8 * MIB);
}

fn value(number: u32) -> Vec<u8> {
    // Not compressible, so that it takes the space it has.
    let mut state = u64::from(number) + 1;
    let mut next = || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 33) as u8
    };
    (0..VALUE_BYTES).map(|_| next()).collect()
}

/// What was asked to be written, and what was said.
#[derive(Default)]
struct Told {
    acknowledged: BTreeMap<String, u32>,
    refused: Vec<String>,
    next: u32,
}

impl Told {
    async fn put(&mut self, bucket: &Bucket) -> Result<(), Error> {
        let key = format!("k{:06}", self.next);
        let put = bucket.put(key.clone(), value(self.next)).await;
        match &put {
            Ok(_) => drop(self.acknowledged.insert(key, self.next)),
            Err(_) => self.refused.push(key),
        }
        self.next += 1;
        put.map(|_| ())
    }

    /// Puts until one is refused; returns why.
    async fn put_until_refused(&mut self, bucket: &Bucket) -> Error {
        for _ in 0..20_000 {
            if let Err(error) = self.put(bucket).await {
                return error;
            }
        }
        panic!("{} puts and no end", self.next);
    }

    async fn delete(&mut self, bucket: &Bucket, count: usize) {
        let keys: Vec<String> = self.acknowledged.keys().take(count).cloned().collect();
        for key in keys {
            assert!(bucket.delete(key.clone()).await.expect("deletes go on").is_some());
            self.acknowledged.remove(&key);
        }
    }

    /// Puts until one is taken again.
    async fn put_until_taken(&mut self, bucket: &Bucket) {
        let deadline = std::time::Instant::now() + PATIENCE;
        while let Err(error) = self.put(bucket).await {
            assert!(std::time::Instant::now() < deadline, "writes did not come back: {error}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Everything acknowledged is there, nothing refused is, and nothing else.
    async fn check(&self, bucket: &Bucket) {
        let rows = bucket.scan(b"k").await.expect("reads go on");
        let found: Vec<String> = rows
            .iter()
            .map(|row| String::from_utf8_lossy(row.key.as_bytes()).into_owned())
            .collect();
        let wanted: Vec<String> = self.acknowledged.keys().cloned().collect();
        assert_eq!(found, wanted);
        for (row, number) in rows.iter().zip(self.acknowledged.values()) {
            assert_eq!(row.version.value, value(*number), "{:?} came back changed", row.key);
        }
    }
}

fn says_full(node: &Node) -> bool {
    let readiness = node.readiness();
    readiness.ready && readiness.reasons.iter().any(|reason| reason.starts_with("disk-full"))
}

/// Fills the volume that `place` puts a folder on, and follows what the node does.
async fn fill_and_empty(place: impl Fn(&mut NodeOptions, PathBuf)) {
    let Some(volume) = Volume::mount() else { return };
    let dir = tempfile::tempdir().unwrap();
    let mut options = NodeOptions::alone(dir.path());
    small(&mut options);
    place(&mut options, volume.path("node"));
    let start = async |options| {
        let node = Node::start(options).await.expect("starts");
        node.wait_ready(PATIENCE).await.expect("gets ready");
        node
    };
    let node = start(options).await;
    let bucket = node.bucket("demo", "b").await.unwrap();
    let mut told = Told::default();
    for _ in 0..20 {
        told.put(&bucket).await.expect("there is room");
    }

    // Something else takes all but 12 MiB; puts go on to the reserve, no further.
    volume.ballast(12 * MIB);
    assert_eq!(told.put_until_refused(&bucket).await, Error::DiskFull);
    assert!(says_full(&node), "{:?}", node.readiness());
    assert!(free(volume.dir.path()) >= 2 * MIB, "the reserve is left");
    told.delete(&bucket, 10).await;
    told.check(&bucket).await;

    // All of it goes: not even deletes, but reads.
    volume.ballast(0);
    until("a delete is refused", || {
        node.readiness().reasons.iter().any(|r| r.contains("; reads go on"))
    })
    .await;
    assert_eq!(told.put(&bucket).await, Err(Error::DiskFull));
    assert_eq!(bucket.delete("k000015").await, Err(Error::DiskFull));
    told.check(&bucket).await;

    // Space comes back, and with it the writes, in the same process.
    volume.drop_ballast();
    told.put_until_taken(&bucket).await;
    until("it says nothing of disks", || node.readiness().reasons.is_empty()).await;
    for _ in 0..200 {
        told.put(&bucket).await.expect("there is room");
    }
    told.check(&bucket).await;
    node.shutdown().await;
    drop((bucket, node));

    // What was said holds over a restart.
    let mut options = NodeOptions::alone(dir.path());
    small(&mut options);
    place(&mut options, volume.path("node"));
    let node = start(options).await;
    let bucket = node.bucket("demo", "b").await.unwrap();
    told.check(&bucket).await;
    node.shutdown().await;
}

#[tokio::test]
async fn a_full_volume_of_the_log_refuses_puts_lets_deletes_through_and_recovers() {
    fill_and_empty(|options, dir| options.wal_dir = dir).await;
}

#[tokio::test]
async fn a_full_volume_of_the_store_refuses_puts_lets_deletes_through_and_recovers() {
    fill_and_empty(|options, dir| options.db_dir = dir).await;
}

#[tokio::test]
async fn one_full_node_of_three_stops_nothing_two_stop_puts_and_no_more() {
    let volumes: Option<Vec<Volume>> = (0..2).map(|_| Volume::mount()).collect();
    let Some(volumes) = volumes else { return };
    let places = places(3);
    let nodes = cluster(&places, |options| {
        small(options);
        options.shards = 2;
        for (number, volume) in volumes.iter().enumerate() {
            if options.name == places[number].name {
                options.wal_dir = volume.path("wal");
            }
        }
    })
    .await;
    let bucket = nodes[2].bucket("demo", "b").await.unwrap();
    let mut told = Told::default();
    for _ in 0..20 {
        told.put(&bucket).await.expect("there is room");
    }

    // The first node fills up: its leaderships go elsewhere and writes go on.
    volumes[0].ballast(6 * MIB);
    until("it says so", || says_full(&nodes[0])).await;
    until("it leads nothing", || leads(&nodes[0]) == 0).await;
    for _ in 0..50 {
        told.put(&bucket).await.expect("a majority has room");
    }
    // So does the second, and a majority has no room: at once 507, no timeout, nothing in a log.
    volumes[1].ballast(6 * MIB);
    until("it says so", || says_full(&nodes[1])).await;
    let refused = tokio::time::timeout(PATIENCE, told.put_until_refused(&bucket)).await;
    assert_eq!(refused.expect("soon"), Error::DiskFull);
    told.delete(&bucket, 5).await;
    told.check(&bucket).await;

    volumes[1].drop_ballast();
    told.put_until_taken(&bucket).await;
    volumes[0].drop_ballast();
    for _ in 0..20 {
        told.put(&bucket).await.expect("there is room");
    }
    for node in &nodes {
        told.check(&node.bucket("demo", "b").await.unwrap()).await;
    }
    stop(nodes).await;
}

/// How many shards a node leads, as it sees it.
fn leads(node: &Node) -> u32 {
    let status = node.status();
    status.members.iter().find(|m| m.node.id == node.id()).map_or(0, |member| member.leaders)
}
