//! A log that is cut: whoever needs more of it than is left gets a snapshot.
//!
//! Thresholds are low, so that what happens once a week elsewhere happens here all the time.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use common::{PATIENCE, cluster, places, ready, start_with, stop, until};
use stemedb::{AdminCall, Budget, Error, Front, GroupOptions, Need, Node, NodeOptions};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

const BUCKETS: usize = 6;
const VALUE_BYTES: usize = 2048;

/// Snapshots every 50 entries, 10 of them kept; flushes and segments of 64 KiB or so.
fn low(options: &mut NodeOptions) {
    options.groups = GroupOptions { snapshot_entries: 50, kept_entries: 10, ..options.groups };
    options.budget =
        Budget { block_cache_bytes: 1 << 20, write_buffer_bytes: 64 << 10, ..Budget::default() };
    options.segment_bytes = 256 << 10;
    options.live_log_bytes_max = 384 << 10;
    options.shards = 2;
}

/// A value that says what it is the value of, so that it can be found in a file.
fn value(key: &str) -> Vec<u8> {
    let mut value = format!("<value of {key}>").into_bytes();
    value.resize(VALUE_BYTES, b'.');
    value
}

async fn write(nodes: &[Node], name: &str, count: usize) {
    for number in 0..count {
        let node = &nodes[number % nodes.len()];
        let bucket = node.bucket("demo", &format!("b{}", number % BUCKETS)).await.unwrap();
        let key = format!("{name}-{number:04}");
        bucket.put(key.clone(), value(&key)).await.unwrap();
    }
}

/// Whether all that was written under a name is there, whole.
async fn read_back(node: &Node, name: &str, count: usize) {
    let (mut found, patience) = (0, Instant::now() + PATIENCE);
    for bucket in 0..BUCKETS {
        let bucket = node.bucket("demo", &format!("b{bucket}")).await.unwrap();
        let rows = loop {
            match bucket.scan(name.as_bytes()).await {
                // As a client does: a read that had no leader for as long as it may wait is asked again.
                Err(Error::Unavailable { .. }) if Instant::now() < patience => {}
                answer => break answer.unwrap(),
            }
        };
        for row in rows {
            let key = String::from_utf8(row.key.as_bytes().to_vec()).unwrap();
            assert_eq!(row.version.value, value(&key));
            found += 1;
        }
    }
    assert_eq!(found, count, "{name}");
}

/// How often a text stands in the files of a folder.
fn occurrences(dir: &Path, text: &[u8]) -> usize {
    let files = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let count = |path: PathBuf| {
        let bytes = std::fs::read(path).unwrap_or_default();
        bytes.windows(text.len()).filter(|window| *window == text).count()
    };
    files.filter(|path| path.is_file()).map(count).sum()
}

/// The segments of a log.
fn segments(log: &Path) -> BTreeSet<PathBuf> {
    let files = std::fs::read_dir(log).unwrap().map(|entry| entry.unwrap().path());
    files.filter(|path| path.extension().is_some_and(|ending| ending == "wal")).collect()
}

fn logs_of(places: &[common::Place]) -> Vec<PathBuf> {
    places.iter().map(|place| place.dir.path().join("wal")).collect()
}

/// Waits until logs have none of their early segments any more, so that nobody can be sent them.
async fn until_cut(logs: &[PathBuf], early: &[BTreeSet<PathBuf>]) {
    until("what was missed first is cut off the logs", || {
        logs.iter().zip(early).all(|(log, early)| early.is_disjoint(&segments(log)))
    })
    .await;
}

fn leads(node: &Node) -> u32 {
    let status = node.status();
    status.members.iter().find(|m| m.node.id == status.node).map_or(0, |m| m.leaders)
}

#[tokio::test]
async fn a_node_behind_a_cut_log_is_caught_up_by_a_snapshot_while_writes_go_on() {
    let places = places(3);
    let mut nodes = cluster(&places, low).await;
    write(&nodes, "before", 60).await;

    // It is away while others write and cut their logs. Where what it missed first still stood in
    // one of them all the same (a quiet end of a log is moved on, not cut), it is away once more.
    let mut written: Vec<(String, usize)> = vec![("before".to_owned(), 60)];
    for attempt in 0.. {
        assert!(attempt < 4, "it was sent the log each time");
        let late = nodes.remove(2);
        late.shutdown().await;
        drop(late);
        let logs = logs_of(&places[..2]);
        let first = format!("early{attempt}");
        write(&nodes, &first, 2).await;
        let early = logs.iter().map(|log| segments(log)).collect::<Vec<_>>();
        let second = format!("during{attempt}");
        write(&nodes, &second, 800).await;
        until_cut(&logs, &early).await;

        // It comes back while others write.
        let stopped = Arc::new(AtomicBool::new(false));
        let (writers, until_stopped) = (nodes.clone(), stopped.clone());
        let writing = tokio::spawn(async move {
            let mut rounds = 0;
            while !until_stopped.load(Ordering::Relaxed) {
                write(&writers, &format!("meanwhile{attempt}{rounds:04}"), 30).await;
                rounds += 1;
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            rounds
        });
        nodes.push(start_with(&places[2], &places, low).await);
        ready(&nodes).await;
        let log = places[2].dir.path().join("wal");
        let sent = occurrences(&log, format!("<value of {first}-0001>").as_bytes());
        stopped.store(true, Ordering::Relaxed);
        let rounds = writing.await.unwrap();
        written.extend([(first, 2), (second, 800)]);
        written.extend((0..rounds).map(|round| (format!("meanwhile{attempt}{round:04}"), 30)));
        if sent == 0 {
            break;
        }
    }

    // Each of the others goes in turn; what is left has it all.
    for gone in [0, 1, 0] {
        let node = nodes.remove(gone);
        node.shutdown().await;
        drop(node);
        for node in &nodes {
            for (name, count) in &written {
                read_back(node, name, *count).await;
            }
        }
        nodes.insert(gone, start_with(&places[gone], &places, low).await);
        ready(&nodes).await;
    }

    // The others are drained: the late one leads, and has it all as well.
    for member in ["node-0", "node-1"] {
        drain(&nodes[2], member, true).await;
    }
    until("the late one leads everything", || leads(&nodes[2]) == 2).await;
    for (name, count) in &written {
        read_back(&nodes[2], name, *count).await;
    }
    for member in ["node-0", "node-1"] {
        drain(&nodes[2], member, false).await;
    }

    // All go and come back: cut logs, installed snapshots and stores fit together.
    stop(nodes).await;
    let nodes = cluster(&places, low).await;
    read_back(&nodes[2], "during0", 800).await;
    write(&nodes, "after", 30).await;
    read_back(&nodes[2], "after", 30).await;
    stop(nodes).await;
}

#[tokio::test]
async fn few_large_values_do_not_keep_the_log_for_ever() {
    let places = places(1);
    let set = |options: &mut NodeOptions| {
        low(options);
        // Entries alone would never cut this log.
        options.groups = GroupOptions::default();
        options.expect = 1;
    };
    let nodes = cluster(&places, set).await;
    let bucket = nodes[0].bucket("demo", "b").await.unwrap();
    let mut first = b"<the first large value>".to_vec();
    first.resize(100 << 10, b'.');
    bucket.put("first", first.clone()).await.unwrap();
    for number in 0..40 {
        bucket.put(format!("k{number}"), vec![b'x'; 100 << 10]).await.unwrap();
    }
    let log = places[0].dir.path().join("wal");
    let bytes = || {
        let files = std::fs::read_dir(&log).unwrap().map(|entry| entry.unwrap());
        let segment = |path: &Path| path.extension().is_some_and(|ending| ending == "wal");
        // One that goes while it is looked at is gone.
        let length = |file: std::fs::DirEntry| file.metadata().map_or(0, |file| file.len());
        files.filter(|f| segment(&f.path())).map(length).sum::<u64>()
    };
    until("the log is cut", || bytes() < 2 << 20 && nodes[0].readiness().ready).await;
    assert_eq!(bucket.get("first").await.unwrap().expect("is there").value, first);
    drop(bucket);
    stop(nodes).await;
    let nodes = cluster(&places, set).await;
    let bucket = nodes[0].bucket("demo", "b").await.unwrap();
    assert_eq!(bucket.scan(b"").await.unwrap().len(), 41);
    stop(nodes).await;
}

/// A line to a node that breaks each connection once it has carried so many bytes to it.
#[derive(Default)]
struct Line {
    bytes_max: AtomicU64,
    /// Bytes carried to the node.
    carried: AtomicU64,
    breaks: AtomicU64,
}

impl Line {
    /// Stands at one address for the node at another.
    async fn lay(at: SocketAddr, to: SocketAddr) -> Arc<Self> {
        let line = Arc::new(Self { bytes_max: AtomicU64::new(u64::MAX), ..Self::default() });
        let listener = TcpListener::bind(at).await.unwrap();
        let laid = line.clone();
        tokio::spawn(async move {
            while let Ok((from, _)) = listener.accept().await {
                let line = laid.clone();
                tokio::spawn(async move { line.carry(from, to).await });
            }
        });
        line
    }

    async fn carry(&self, from: TcpStream, to: SocketAddr) {
        let Ok(to) = TcpStream::connect(to).await else { return };
        let (mut caller, mut back) = from.into_split();
        let (mut answers, mut node) = to.into_split();
        let there = async {
            let (mut buffer, mut carried) = (vec![0; 16 << 10], 0);
            loop {
                let Ok(count @ 1..) = caller.read(&mut buffer).await else { return };
                if node.write_all(&buffer[..count]).await.is_err() {
                    return;
                }
                carried += count as u64;
                self.carried.fetch_add(count as u64, Ordering::Relaxed);
                if carried > self.bytes_max.load(Ordering::Relaxed) {
                    self.breaks.fetch_add(1, Ordering::Relaxed);
                    return;
                }
            }
        };
        tokio::select! {
            () = there => {}
            _ = tokio::io::copy(&mut answers, &mut back) => {}
        }
    }
}

async fn drain(node: &Node, member: &str, on: bool) {
    let admission = node.admit(None, None, Need::Administer).await.unwrap();
    let drain = AdminCall::Drain { member: member.to_owned(), on };
    node.admin(admission, drain).await.expect("is decided");
}

/// A value that says what it is the value of, and does not compress.
fn noise(key: &str) -> Vec<u8> {
    let mut noise = format!("<value of {key}>").into_bytes();
    let mut state = key.bytes().fold(0x9e37_79b9_7f4a_7c15_u64, |sum, byte| {
        (sum ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    while noise.len() < 4096 {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        noise.extend(state.to_le_bytes());
    }
    noise
}

/// The line never carries a third of a shard in one go: a snapshot that began anew each time would
/// never arrive.
#[tokio::test]
async fn a_snapshot_over_a_line_that_breaks_goes_on_where_it_was_while_writes_go_on() {
    let set = |options: &mut NodeOptions| {
        low(options);
        options.shards = 1;
        options.groups.snapshot_file_bytes = 64 << 10;
        options.groups.snapshot_bytes_per_second = 4 << 20;
    };
    let mut places = places(3);
    // Its peers hear of the late one at an address where the line stands.
    places[2].gossip.set_ip(IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2)));
    let line =
        Line::lay((places[2].gossip.ip(), places[2].grpc.port()).into(), places[2].grpc).await;
    let mut nodes = cluster(&places, set).await;
    let late = nodes.remove(2);
    late.shutdown().await;
    drop(late);
    let bucket = nodes[0].bucket("demo", "b").await.unwrap();
    const COUNT: u64 = 600;
    bucket.put("early", noise("early-0001")).await.unwrap();
    let logs = logs_of(&places[..2]);
    let early = logs.iter().map(|log| segments(log)).collect::<Vec<_>>();
    for number in 0..COUNT {
        let key = format!("during-{number:04}");
        bucket.put(key.clone(), noise(&key)).await.unwrap();
    }
    let bytes = COUNT * 4096;
    until_cut(&logs, &early).await;

    line.bytes_max.store(bytes / 4, Ordering::Relaxed);
    line.carried.store(0, Ordering::Relaxed);
    let (writes, stopped) = (bucket.clone(), Arc::new(AtomicBool::new(false)));
    let until_stopped = stopped.clone();
    let writing = tokio::spawn(async move {
        let mut count = 0;
        while !until_stopped.load(Ordering::Relaxed) {
            writes.put(format!("meanwhile-{count:05}"), b"small".to_vec()).await.unwrap();
            count += 1;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        count
    });
    nodes.push(start_with(&places[2], &places, set).await);
    ready(&nodes).await;
    stopped.store(true, Ordering::Relaxed);
    let count = writing.await.unwrap();
    let (carried, breaks) =
        (line.carried.load(Ordering::Relaxed), line.breaks.load(Ordering::Relaxed));
    let log = places[2].dir.path().join("wal");
    assert_eq!(occurrences(&log, b"<value of early-0001>"), 0, "it was sent the log");
    assert!(breaks >= 3, "{breaks} breaks, {carried} bytes");
    assert!(carried > bytes, "{carried} of {bytes}");
    assert!(carried < 2 * bytes, "{carried} bytes were carried for {bytes}, over {breaks} breaks");

    // What it holds is all of it, where it leads.
    line.bytes_max.store(u64::MAX, Ordering::Relaxed);
    let first = nodes.remove(0);
    first.shutdown().await;
    drop((first, bucket));
    for node in &nodes {
        let bucket = node.bucket("demo", "b").await.unwrap();
        let rows = bucket.scan(b"during").await.unwrap();
        assert_eq!(rows.len() as u64, COUNT);
        for row in rows {
            let key = String::from_utf8(row.key.as_bytes().to_vec()).unwrap();
            assert_eq!(row.version.value, noise(&key));
        }
        assert_eq!(bucket.scan(b"meanwhile").await.unwrap().len(), count);
    }
    stop(nodes).await;
}
