//! A data directory as a killed node leaves it, and the bits in it.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bytes::Bytes;
use stemedb::shard::{AssertItem, Write};
use stemedb::{Budget, Call, Consistency, Door, Front, Need, Node, NodeOptions, Op, OpAnswer};
use stemedb_claims::{AgentId, Statement};
use stemedb_types::{Key, ProjectId};
use tempfile::TempDir;

use crate::Draw;

pub(crate) const SHARDS: u16 = 3;
pub(crate) const BUCKETS: [&str; 4] = ["builds", "tests", "facts", "x"];
const PROJECTS: [&str; 2] = ["one", "two"];
const PATIENCE: Duration = Duration::from_secs(60);

/// What a file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    Segment,
    LogOther,
    Table,
    Manifest,
    StoreOther,
}

impl Kind {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Segment => "log: segments",
            Self::LogOther => "log: identity, spares",
            Self::Table => "store: SST",
            Self::Manifest => "store: MANIFEST",
            Self::StoreOther => "store: CURRENT, IDENTITY, OPTIONS, FORMAT",
        }
    }

    pub(crate) fn is_of_log(self) -> bool {
        matches!(self, Self::Segment | Self::LogOther)
    }
}

/// One bit.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    pub(crate) kind: Kind,
    /// Relative to the log's or the store's folder.
    pub(crate) file: PathBuf,
    pub(crate) byte: u64,
    pub(crate) bit: u8,
}

/// The directory: `wal` and `db` in a folder.
pub(crate) struct Place {
    dir: TempDir,
    files: Vec<(Kind, PathBuf, u64)>,
    pub(crate) projects: Vec<ProjectId>,
}

impl Place {
    /// Lets a node write for a while, and copies what it has.
    pub(crate) fn make() -> Self {
        let living = tempfile::tempdir().unwrap();
        let dir = tempfile::tempdir().unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
        let projects = runtime.block_on(async {
            let options = NodeOptions {
                segment_bytes: 64 << 10,
                shards: SHARDS,
                live_log_bytes_max: 768 << 10,
                budget: Budget {
                    block_cache_bytes: 1 << 20,
                    write_buffer_bytes: 256 << 10,
                    ..Budget::default()
                },
                ..NodeOptions::alone(living.path())
            };
            let node = Node::start(options).await.unwrap();
            node.wait_ready(PATIENCE).await.unwrap();
            let projects = fill(&node, living.path()).await;
            copy(living.path(), dir.path());
            node.shutdown().await;
            projects
        });
        let mut files = Vec::new();
        for half in ["wal", "db", "db/rocks"] {
            list(&dir.path().join(half), &mut files);
        }
        Self { dir, files, projects }
    }

    pub(crate) fn log(&self) -> PathBuf {
        self.dir.path().join("wal")
    }

    pub(crate) fn store(&self) -> PathBuf {
        self.dir.path().join("db")
    }

    /// A bit by lot: of segments and tables mostly.
    pub(crate) fn draw(&self, draw: &mut Draw) -> Target {
        let kind = match draw.below(100) {
            0..=46 => Kind::Segment,
            47..=48 => Kind::LogOther,
            49..=93 => Kind::Table,
            94..=97 => Kind::Manifest,
            _ => Kind::StoreOther,
        };
        let of_kind = || self.files.iter().filter(|(other, ..)| *other == kind);
        let mut byte = draw.below(of_kind().map(|(.., bytes)| bytes).sum());
        for (_, path, bytes) in of_kind() {
            if byte < *bytes {
                let root = if kind.is_of_log() { self.log() } else { self.store() };
                let file = path.strip_prefix(root).unwrap().to_path_buf();
                return Target { kind, file, byte, bit: draw.below(8) as u8 };
            }
            byte -= bytes;
        }
        unreachable!("the byte is below the sum")
    }
}

/// Versions, deletions and claims, before and behind a flush.
async fn fill(node: &Node, dir: &Path) -> Vec<ProjectId> {
    let mut draw = Draw(42);
    let mut projects = Vec::new();
    let mut buckets = Vec::new();
    for project in PROJECTS {
        let name = project.parse().unwrap();
        let admission = node.admit(None, Some(name), Need::Write).await.unwrap();
        projects.push(admission.caller.project.clone().expect("a project").0);
        buckets.extend(BUCKETS.map(|bucket| (admission.clone(), bucket)));
    }
    let tables = || {
        let rocks = fs::read_dir(dir.join("db/rocks")).unwrap();
        rocks.filter(|e| e.as_ref().unwrap().path().extension().is_some_and(|e| e == "sst")).count()
    };
    let mut writes = 0;
    let deadline = Instant::now() + PATIENCE;
    // At least two flushes, then some that only the log has.
    while tables() < 2 || writes < 900 {
        assert!(Instant::now() < deadline, "the store is never flushed");
        write(node, &buckets, &mut draw).await;
        writes += 1;
    }
    for _ in 0..300 {
        write(node, &buckets, &mut draw).await;
    }
    projects
}

async fn write(node: &Node, buckets: &[(stemedb::Admission, &str)], draw: &mut Draw) {
    let (admission, bucket) = &buckets[draw.below(buckets.len() as u64) as usize];
    let key = Key::new(format!("key/{:02}", draw.below(40)).into_bytes()).unwrap();
    let condition = stemedb::shard::Condition::Always;
    let write = match draw.below(10) {
        0..=6 => {
            // Half of it does not compress.
            let length = draw.below(2500) as usize;
            let value: Vec<u8> = (0..length)
                .map(|at| if at % 2 == 0 { b'.' } else { draw.below(256) as u8 })
                .collect();
            Write::Put { key, value: value.into(), condition, expires_at_ms: None }
        }
        7 => Write::Delete { key, condition },
        _ => Write::Assert { items: vec![item(draw, admission.agent().unwrap())] },
    };
    let call = Call {
        admission: admission.clone(),
        door: Door::Gateway,
        deadline: PATIENCE,
        bucket: bucket.parse().unwrap(),
        op: Op::Write(write),
        consistency: Consistency::Linearizable,
        once: None,
    };
    let answered = Front::call(node, call).await.unwrap();
    assert!(matches!(answered.answer, OpAnswer::Write(_)));
}

fn item(draw: &mut Draw, agent: AgentId) -> AssertItem {
    let whole = serde_json::json!({
        "subject": format!("run/{}", draw.below(50)),
        "predicate": format!("p{}", draw.below(4)),
        "object": draw.below(1 << 40),
    });
    let statement = Statement::from_value(whole).unwrap();
    AssertItem {
        id: statement.id(),
        subject: statement.subject().to_owned(),
        predicate: statement.predicate().to_owned(),
        agent,
        statement: Bytes::copy_from_slice(statement.canonical()),
    }
}

fn copy(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            fs::create_dir_all(&target).unwrap();
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

fn list(folder: &Path, files: &mut Vec<(Kind, PathBuf, u64)>) {
    for entry in fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().to_string_lossy().into_owned();
        let kind = match name.as_str() {
            name if name.ends_with(".wal") => Kind::Segment,
            name if name.ends_with(".spare") || name == "identity" => Kind::LogOther,
            name if name.ends_with(".sst") => Kind::Table,
            name if name.starts_with("MANIFEST") => Kind::Manifest,
            "CURRENT" | "FORMAT" => Kind::StoreOther,
            "IDENTITY" if folder.ends_with("rocks") => Kind::StoreOther,
            name if name.starts_with("OPTIONS") => Kind::StoreOther,
            _ => continue,
        };
        let bytes = entry.metadata().unwrap().len();
        files.push((kind, entry.path(), bytes));
    }
    files.sort();
}
