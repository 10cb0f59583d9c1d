//! The store's half: opened with one bit flipped in one file, and asked everything.

use std::fmt;
use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use stemedb::Budget;
use stemedb_claims::Lens;
use stemedb_engine::{Group, RocksStore, Store};
use stemedb_machine::meta::MetaState;
use stemedb_machine::shard::{
    ClaimOrder, ClaimStart, KeyRange, Pattern, Read, ReadAnswer, TextMatch, View, read,
};
use stemedb_raft::wal::StreamId;
use stemedb_types::{BucketName, Decoder, GroupId, ProjectId, Revision};

use crate::place::{BUCKETS, Place, SHARDS, Target};
use crate::{Outcome, log};

const PAGE: usize = 1000;

struct Asked {
    group: usize,
    project: ProjectId,
    bucket: BucketName,
    read: Read,
    answer: ReadAnswer,
}

/// Everything that the store answers without a flip.
pub(crate) struct Truth {
    marks: Vec<Option<Bytes>>,
    /// Up to where the log of each group begins only.
    purged: Vec<u64>,
    meta: MetaState,
    asked: Vec<Asked>,
}

impl fmt::Display for Truth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a store that is asked {} questions", self.asked.len())
    }
}

/// Where one worker opens its flipped copies.
pub(crate) struct Bench {
    from: PathBuf,
    to: PathBuf,
    _dir: tempfile::TempDir,
}

impl Bench {
    pub(crate) fn new(place: &Place, worker: usize) -> Self {
        let dir = tempfile::tempdir().unwrap();
        Self { from: place.store(), to: dir.path().join(format!("{worker}")), _dir: dir }
    }

    /// The store's folder with one bit of it flipped: tables are linked, for nobody changes them.
    fn lay_out(&self, target: Option<&Target>) -> &Path {
        let _ = fs::remove_dir_all(&self.to);
        fs::create_dir_all(self.to.join("rocks")).unwrap();
        let format = fs::read(self.from.join("FORMAT")).unwrap();
        fs::write(self.to.join("FORMAT"), format).unwrap();
        for entry in fs::read_dir(self.from.join("rocks")).unwrap() {
            let from = entry.unwrap().path();
            let to = self.to.join("rocks").join(from.file_name().unwrap());
            if from.extension().is_some_and(|extension| extension == "sst") {
                fs::hard_link(from, to).unwrap();
            } else {
                fs::copy(from, to).unwrap();
            }
        }
        if let Some(target) = target {
            let path = self.to.join(&target.file);
            let mut bytes = fs::read(&path).unwrap();
            bytes[target.byte as usize] ^= 1 << target.bit;
            fs::remove_file(&path).unwrap();
            fs::write(&path, bytes).unwrap();
        }
        &self.to
    }
}

fn open(dir: &Path) -> Result<Vec<Group>, stemedb_engine::Error> {
    let budget =
        Budget { block_cache_bytes: 1 << 20, write_buffer_bytes: 1 << 20, ..Budget::default() };
    let store: Arc<dyn Store> = Arc::new(RocksStore::open(dir, budget)?);
    (0..=u32::from(SHARDS)).map(|number| Group::open(store.clone(), GroupId(number))).collect()
}

/// How many entries an applied mark says are in.
fn count_of(mark: &Option<Bytes>) -> Option<u64> {
    let Some(mark) = mark else { return Some(0) };
    let mut from = Decoder::new(mark);
    from.u8().ok()?;
    let id = from.option(|from| Ok((from.varint()?, from.varint()?))).ok()?;
    Some(id.map_or(0, |(_, index)| index + 1))
}

impl Truth {
    pub(crate) fn read(place: &Place, log: &log::Truth) -> Self {
        let bench = Bench::new(place, 0);
        let groups = open(bench.lay_out(None)).unwrap();
        let marks = groups.iter().map(|group| group.applied().unwrap()).collect();
        let meta = groups[0].meta_state().unwrap();
        let purged = groups.iter().map(|group| {
            let replicas = meta.layout.replicas(group.id()).unwrap();
            log.purged(StreamId(replicas[0].id.0))
        });
        let mut truth =
            Self { marks, purged: purged.collect(), meta: meta.clone(), asked: Vec::new() };
        for project in &place.projects {
            for bucket in BUCKETS {
                let bucket: BucketName = bucket.parse().unwrap();
                let holds =
                    |group: &Group| View::bucket(group, *project, &bucket).unwrap().is_some();
                let Some(group) = (1..groups.len()).find(|group| holds(&groups[*group])) else {
                    continue;
                };
                truth.ask_all(&groups[group], group, *project, &bucket);
            }
        }
        assert!(truth.asked.len() > 500, "only {} questions", truth.asked.len());
        truth
    }

    fn ask_all(&mut self, view: &Group, group: usize, project: ProjectId, bucket: &BucketName) {
        let mut ask = |read_: Read| {
            let answer = read(view, project, bucket, &read_).unwrap();
            let bucket = bucket.clone();
            self.asked.push(Asked { group, project, bucket, read: read_, answer });
        };
        let state = View::bucket(view, project, bucket).unwrap().expect("it holds the bucket");
        for number in 0..40 {
            let key = stemedb_types::Key::new(format!("key/{number:02}").into_bytes()).unwrap();
            ask(Read::Get { key: key.clone(), as_of: None });
            let mut at = state.revision;
            // Each version, from the newest back.
            while let Some(version) = view.version(state.number, &key, at).unwrap() {
                ask(Read::Get { key: key.clone(), as_of: Some(version.head.mod_revision) });
                at = Revision(version.head.mod_revision.0 - 1);
            }
        }
        for (reverse, keys_only) in [(false, false), (true, false), (false, true)] {
            let range = KeyRange::default();
            let (limit, as_of, cursor) = (PAGE, None, None);
            ask(Read::Scan { range, reverse, keys_only, limit, as_of, cursor });
        }
        let patterns = [
            (TextMatch::Any, TextMatch::Any),
            (TextMatch::Prefix("run/1".to_owned()), TextMatch::Any),
            (TextMatch::Any, TextMatch::Exact("p2".to_owned())),
        ];
        for (subject, predicate) in patterns {
            let pattern = Pattern { subject, predicate, agent: None };
            let (lens, limit, as_of, cursor, now_ms) = (Lens::All, PAGE, None, None, 1);
            ask(Read::Query { pattern, lens, limit, as_of, cursor, now_ms });
        }
        let mut ids = Vec::new();
        let all = ClaimStart::default();
        view.scan_claims(state.number, &ClaimOrder::Subject, &all, &mut |row| {
            ids.push(row.key.id);
            ControlFlow::Continue(())
        })
        .unwrap();
        ids.into_iter().for_each(|id| ask(Read::Claim { id }));
    }

    pub(crate) fn try_flip(&self, bench: &Bench, target: &Target) -> Outcome {
        let Ok(groups) = open(bench.lay_out(Some(target))) else { return Outcome::Refused };
        match self.marks(&groups) {
            Some(outcome) => outcome,
            None => self.answers(&groups),
        }
    }

    /// Marks that went back tell that the whole store did: the log has the rest, or the group stops.
    fn marks(&self, groups: &[Group]) -> Option<Outcome> {
        let mut back = None;
        for (number, group) in groups.iter().enumerate() {
            let Ok(mark) = group.applied() else { return Some(Outcome::ReadError) };
            if mark == self.marks[number] {
                continue;
            }
            let (Some(found), Some(truth)) = (count_of(&mark), count_of(&self.marks[number]))
            else {
                return Some(Outcome::Wrong(format!("group {number} has a mark that is none")));
            };
            if found >= truth {
                return Some(Outcome::Wrong(format!("group {number} is at {found}, not {truth}")));
            }
            let gap = self.purged.get(number).is_some_and(|purged| *purged > found);
            back = if gap || back == Some(Outcome::Gap) {
                Some(Outcome::Gap)
            } else {
                Some(Outcome::Replayed)
            };
        }
        back
    }

    fn answers(&self, groups: &[Group]) -> Outcome {
        let mut unread = false;
        match groups[0].meta_state() {
            Ok(meta) if meta != self.meta => {
                return Outcome::Wrong("the meta state".to_owned());
            }
            Ok(_) => {}
            Err(_) => unread = true,
        }
        for asked in &self.asked {
            match read(&groups[asked.group], asked.project, &asked.bucket, &asked.read) {
                Ok(answer) if answer != asked.answer => {
                    return Outcome::Wrong(format!("{:?}", asked.read));
                }
                Ok(_) => {}
                Err(_) => unread = true,
            }
        }
        if unread { Outcome::ReadError } else { Outcome::NoEffect }
    }
}
