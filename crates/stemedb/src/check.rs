//! Looks at the two directories of a node that does not run: everything that is wrong with them,
//! and what of it can be mended without losing anything.
//!
//! ```text
//! identity ─┐
//! quarantine├─► facts ─► assess (pure) ─► report       check: reads, and changes nothing
//! log       │                 │
//! store    ─┘                 └► plan (pure) ─► mend    repair: then looks again
//! ```
//!
//! A check reads every record and every block, and puts the two halves side by side: what the store
//! has flushed must be continued by the log without a gap. A repair does only what is safe: log
//! entries that the store has flushed are not needed, leftovers are nobody's, and a replica that
//! is set aside in a cluster can let go of its damaged log, once that is written down for good.
//! It never guesses, and never drops a row: what only this node may have is left as it is.
//!
//! Which group a stream of the log belongs to is known from the list of replicas that the node holds
//! (`held`); without one, from the founding that it accepted. Whether a group goes on
//! elsewhere is known from the founding alone: of a replica that moved here it tells nothing, and
//! nothing of such a one is given up.

use std::collections::BTreeMap;
use std::path::Path;

use bytes::Bytes;
use stemedb_engine::check as store;
use stemedb_raft::wal::{self, StreamId, check as log};
use stemedb_raft::{Damage, Part, applied_entry};
use stemedb_types::{ClusterId, GroupId, NodeId, ReplicaId};

use crate::core::now_ms;
use crate::damage::group_name;
use crate::held::{self, Stock};
use crate::identity::{Identity, IdentityFiles};
use crate::quarantine::{self, Entries, Entry, Quarantine};

/// Why the directories were not looked at. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// A process has one of them open.
    #[error("{dir} is in use by a running process: stop the node first")]
    InUse {
        /// Which directory.
        dir: String,
    },
    /// There is no such directory.
    #[error("there is no directory {dir}")]
    Absent {
        /// Which directory.
        dir: String,
    },
    /// A disk that can't be read or written.
    #[error("{0}")]
    Io(String),
}

/// Where something is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// In the small files that say who the node is.
    Identity,
    /// In the file of replicas that are set aside.
    Quarantine,
    /// In the file of replicas that the node holds.
    Replicas,
    /// In the log's directory.
    Log,
    /// In the store's directory.
    Store,
    /// Between the two: each is whole, and they do not fit.
    Between,
}

impl Place {
    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Place::Identity => "identity",
            Place::Quarantine => "quarantine",
            Place::Replicas => "replicas",
            Place::Log => "log",
            Place::Store => "store",
            Place::Between => "between",
        }
    }
}

/// Something that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckFault {
    /// Where.
    pub place: Place,
    /// The file, below its directory, if it is in one.
    pub file: Option<String>,
    /// Where in the file, bytes.
    pub offset: Option<u64>,
    /// The groups that are hit. Empty: not known, it may be any.
    pub groups: Vec<GroupId>,
    /// What is wrong.
    pub cause: String,
    /// What happens at the next start, and what a person can do.
    pub advice: &'static str,
}

/// One group of the node, as its two halves have it. Indexes of log entries.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CheckedGroup {
    /// Which group; `None`: not known, the stream's number is all there is.
    pub group: Option<GroupId>,
    /// What the group calls this node's copy; the number of its stream in the log.
    pub replica: Option<ReplicaId>,
    /// The last entry that is durable in the store.
    pub flushed: Option<u64>,
    /// The last entry that the log has let go of.
    pub purged: Option<u64>,
    /// The first entry in the log.
    pub first: Option<u64>,
    /// The last entry in the log.
    pub last: Option<u64>,
    /// Entries of the log that a start applies again.
    pub to_replay: u64,
    /// Why it is set aside, if it is.
    pub quarantined: Option<String>,
}

/// What a check found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CheckReport {
    /// Whose directories they are; `None`: blank, or not to be told.
    pub node: Option<NodeId>,
    /// Its cluster.
    pub cluster: Option<ClusterId>,
    /// Whether no other node was ever given a copy of what is here.
    pub alone: bool,
    /// Segments, records and bytes of the log that were read.
    pub log: [u64; 3],
    /// Files and bytes of the store that were read.
    pub store: [u64; 2],
    /// The node's groups.
    pub groups: Vec<CheckedGroup>,
    /// Everything that is wrong. Empty: the node will start, and lacks nothing.
    pub faults: Vec<CheckFault>,
    /// What is worth knowing although nothing is wrong.
    pub notes: Vec<String>,
}

/// What a repair did, and what is left.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RepairReport {
    /// What was changed and what was given up with it, one thing a line.
    pub gave_up: Vec<String>,
    /// What could not be done, and why.
    pub refused: Vec<String>,
    /// What a check finds now.
    pub now: CheckReport,
}

/// What is being read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CheckStep {
    /// The log, whose length is not known before.
    Log,
    /// The store.
    Store,
}

/// Told what is read, and how many bytes of how many.
pub type CheckProgress<'p> = &'p mut dyn FnMut(CheckStep, u64, u64);

const SET_ASIDE: &str = "a start sets the group aside here and the other nodes serve it";
const REJOIN: &str = "the node does not start; rename both directories and start it: it joins its \
    cluster as a new node and is sent its groups";
const BACKUP: &str = "the node does not start, and no other has this: restore a backup";
const REPAIR: &str = "the node does not start; --repair lets go of what the store has flushed, \
    else restore a backup";
const NEWER: &str = "a newer build wrote this: use that build";

/// Looks at everything and changes nothing.
pub fn check(
    wal_dir: &Path,
    db_dir: &Path,
    progress: CheckProgress<'_>,
) -> Result<CheckReport, CheckError> {
    Ok(assess(gather(wal_dir, db_dir, progress)?))
}

/// Mends what can be mended without losing anything, says what was given up, and looks again.
pub fn repair(
    wal_dir: &Path,
    db_dir: &Path,
    progress: CheckProgress<'_>,
) -> Result<RepairReport, CheckError> {
    let mut mend = Mend { wal_dir, db_dir, gave_up: Vec::new(), refused: Vec::new() };
    let facts = gather(wal_dir, db_dir, progress)?;
    if let Some(why) = untouchable(&facts) {
        mend.refused.push(why.to_owned());
        let (gave_up, refused) = (mend.gave_up, mend.refused);
        return Ok(RepairReport { gave_up, refused, now: assess(facts) });
    }
    mend.keep_what_the_store_lost(&facts);
    mend.log(&facts, &[])?;
    // What is damaged still was not flushed.
    let facts = gather(wal_dir, db_dir, progress)?;
    let plan = plan(&facts);
    if !plan.set_aside.is_empty() {
        mend.set_aside(&plan.set_aside)?;
    }
    if !plan.give_up.is_empty() {
        mend.log(&facts, &plan.give_up)?;
    }
    mend.store()?;
    let now = check(wal_dir, db_dir, progress)?;
    Ok(RepairReport { gave_up: mend.gave_up, refused: mend.refused, now })
}

/// What the two directories hold.
#[derive(Debug, Default)]
struct Facts {
    identity: Option<Identity>,
    aside: Entries,
    /// The replicas that are held, if there is a list of them.
    held: Option<Stock>,
    log: Option<log::Report>,
    store: Option<store::Report>,
    /// What could not even be opened.
    faults: Vec<CheckFault>,
}

fn gather(wal_dir: &Path, db_dir: &Path, progress: CheckProgress<'_>) -> Result<Facts, CheckError> {
    for dir in [wal_dir, db_dir] {
        if !dir.is_dir() {
            return Err(CheckError::Absent { dir: dir.display().to_string() });
        }
    }
    let mut facts = Facts::default();
    progress(CheckStep::Log, 0, 0);
    match log::check(wal_dir) {
        Ok(report) => facts.log = Some(report),
        Err(wal::OpenError::InUse) => {
            return Err(CheckError::InUse { dir: wal_dir.display().to_string() });
        }
        Err(error) => facts.faults.push(log_fault(&error)),
    }
    match store::check(db_dir, &mut |done, all| progress(CheckStep::Store, done, all)) {
        Ok(report) => facts.store = Some(report),
        Err(stemedb_engine::Error::InUse { dir }) => return Err(CheckError::InUse { dir }),
        Err(error) => facts.faults.push(store_fault(&error)),
    }
    match IdentityFiles::peek(wal_dir, db_dir) {
        Ok(identity) => facts.identity = identity,
        Err(error) => facts.faults.push(plain(Place::Identity, error.to_string())),
    }
    match quarantine::read(&db_dir.join(quarantine::FILE)) {
        Ok(entries) => facts.aside = entries,
        Err(cause) => facts.faults.push(plain(Place::Quarantine, cause)),
    }
    match held::read(&db_dir.join(held::FILE)) {
        Ok(held) => facts.held = held,
        Err(cause) => facts.faults.push(plain(Place::Replicas, cause)),
    }
    Ok(facts)
}

fn plain(place: Place, cause: String) -> CheckFault {
    let advice = REJOIN;
    CheckFault { place, file: None, offset: None, groups: Vec::new(), cause, advice }
}

fn log_fault(error: &wal::OpenError) -> CheckFault {
    let mut fault = plain(Place::Log, error.to_string());
    match error {
        wal::OpenError::Corrupt { file, offset, reason } => {
            fault.file = Some(file.clone());
            fault.offset = Some(*offset);
            fault.cause = (*reason).to_owned();
        }
        wal::OpenError::Version { file, .. } => {
            fault.file = Some(file.clone());
            fault.advice = NEWER;
        }
        _ => {}
    }
    fault
}

fn store_fault(error: &stemedb_engine::Error) -> CheckFault {
    let mut fault = plain(Place::Store, error.to_string());
    if matches!(error, stemedb_engine::Error::Format { .. }) {
        fault.advice = NEWER;
    }
    fault
}

impl Facts {
    fn is_alone(&self) -> bool {
        self.identity.as_ref().is_some_and(Identity::is_alone)
    }

    /// This node's replicas: those it has written down; without a list, those it founded.
    fn own(&self) -> BTreeMap<GroupId, ReplicaId> {
        let mut own = self.held.clone().map(|stock| stock.held).unwrap_or_default();
        let Some(identity) = &self.identity else { return own };
        if self.held.is_none() {
            own.extend(identity.founded());
        }
        own.extend(identity.meta_replica.map(|replica| (GroupId::META, replica)));
        own
    }

    /// Whether a group goes on without this node. The founding tells it of the replicas it gave this node. Of one that moved here it tells
    /// nothing: there may be no other, so nothing is risked.
    fn goes_on_elsewhere(&self, group: GroupId) -> bool {
        let founded = self.identity.as_ref().map(Identity::founded).unwrap_or_default();
        let held = self.held.as_ref().and_then(|stock| stock.held.get(&group));
        held.is_none_or(|held| founded.get(&group) == Some(held))
            && self.identity.as_ref().is_some_and(|identity| identity.goes_on_elsewhere(group))
    }

    /// Whether a fault hits what does not go on without this node; one of no known group may hit
    /// all it has.
    fn hits_what_is_needed(&self, fault: &CheckFault) -> bool {
        match fault.groups.as_slice() {
            [] => self.identity.as_ref().is_some_and(Identity::is_needed),
            hit => hit.iter().any(|group| !self.goes_on_elsewhere(*group)),
        }
    }

    /// Whether a group's rows may be damaged.
    fn store_is_damaged(&self, group: GroupId) -> bool {
        let faults = self.store.iter().flat_map(|store| &store.faults);
        let mut hit = faults.map(|fault| fault.groups.as_slice());
        hit.any(|groups| groups.is_empty() || groups.contains(&group))
    }

    fn group_of(&self, stream: StreamId) -> Option<GroupId> {
        let of = |(group, replica): (GroupId, ReplicaId)| (replica.0 == stream.0).then_some(group);
        self.own().into_iter().find_map(of)
    }

    /// The last entry that a group's store has for good, and the note of a log purged up to it.
    fn flushed(&self, group: GroupId) -> Option<(u64, Bytes)> {
        let marks = &self.store.as_ref()?.marks;
        let (_, mark) = marks.iter().find(|(marked, _)| *marked == group)?;
        applied_entry(mark.as_deref()?).ok().flatten()
    }

    /// Every group and stream there is, the known ones first.
    fn groups(&self) -> Vec<CheckedGroup> {
        let own = self.own();
        let mut groups: BTreeMap<GroupId, CheckedGroup> = BTreeMap::new();
        let marked = self.store.iter().flat_map(|store| &store.marks).map(|(group, _)| *group);
        for group in own.keys().copied().chain(marked).chain(self.aside.keys().copied()) {
            let aside = self.aside.get(&group);
            let known = CheckedGroup {
                group: Some(group),
                replica: own.get(&group).copied().or(aside.map(|entry| entry.replica)),
                flushed: self.flushed(group).map(|(index, _)| index),
                quarantined: aside.map(|entry| entry.damage.cause.clone()),
                ..CheckedGroup::default()
            };
            groups.insert(group, known);
        }
        let mut groups: Vec<_> = groups.into_values().collect();
        for stream in self.log.iter().flat_map(|log| &log.streams) {
            let replica = Some(ReplicaId(stream.stream.0));
            let known = groups.iter_mut().find(|group| group.replica == replica);
            let bounds = |group: &mut CheckedGroup| {
                group.purged = stream.purged;
                group.first = stream.first;
                group.last = stream.last;
            };
            match known {
                Some(group) => bounds(group),
                None => {
                    let mut unknown = CheckedGroup { replica, ..CheckedGroup::default() };
                    bounds(&mut unknown);
                    groups.push(unknown);
                }
            }
        }
        for group in &mut groups {
            let from = group.flushed.map_or(0, |flushed| flushed + 1).max(group.first.unwrap_or(0));
            group.to_replay = group.last.map_or(0, |last| (last + 1).saturating_sub(from));
        }
        groups
    }
}

/// Puts the halves side by side. Pure.
fn assess(facts: Facts) -> CheckReport {
    let groups = facts.groups();
    let alone = facts.is_alone();
    let mut report = CheckReport {
        node: facts.identity.as_ref().map(|identity| identity.node),
        cluster: facts.identity.as_ref().and_then(|identity| identity.cluster),
        alone,
        groups,
        ..CheckReport::default()
    };
    if let Some(log) = &facts.log {
        report.log = [log.segments, log.records, log.bytes];
        let (hurts, harmless): (Vec<_>, Vec<_>) =
            log.damage.iter().partition(|damage| damage.unknown || !damage.streams.is_empty());
        report.faults.extend(hurts.into_iter().map(|damage| damaged(&facts, damage)));
        report.notes.extend(harmless.into_iter().map(|damage| {
            format!(
                "{} bytes of {} at offset {} can't be read, and nobody needs them any more: they \
                 go with their segment",
                damage.bytes, damage.file, damage.offset
            )
        }));
        let faults = log.faults.iter().map(|cause| plain(Place::Log, cause.clone()));
        report.faults.extend(faults);
        if let Some(torn) = &log.torn {
            report.notes.push(format!(
                "{} was torn at offset {} by a crash: what follows was never acknowledged, and a \
                 start cuts it off",
                torn.file, torn.offset
            ));
        }
    }
    if let Some(store) = &facts.store {
        report.store = [store.files, store.bytes];
        report.faults.extend(store.faults.iter().map(|fault| CheckFault {
            place: Place::Store,
            file: Some(fault.file.clone()),
            offset: fault.offset,
            groups: fault.groups.clone(),
            cause: fault.cause.clone(),
            advice: SET_ASIDE,
        }));
        for (group, mark) in &store.marks {
            if let Some(Err(error)) = mark.as_deref().map(applied_entry) {
                let mut fault = plain(Place::Store, error.to_string());
                (fault.groups, fault.advice) = (vec![*group], SET_ASIDE);
                report.faults.push(fault);
            }
        }
    }
    if facts.log.is_some() && facts.store.is_some() {
        let gaps = report.groups.iter().filter(|group| group.quarantined.is_none());
        let gaps: Vec<_> = gaps.filter_map(gap).collect();
        report.faults.extend(gaps);
        let ahead = report.groups.iter().filter_map(ahead);
        report.notes.extend(ahead);
    }
    for group in report.groups.iter().filter(|group| group.quarantined.is_some()) {
        let name = group.group.map_or_else(String::new, group_name);
        let cause = group.quarantined.clone().unwrap_or_default();
        report.notes.push(format!("{name} is set aside on this node: {cause}"));
    }
    report.faults.extend(facts.faults.iter().cloned());
    for fault in &mut report.faults {
        fault.advice = advice(fault, facts.hits_what_is_needed(fault));
    }
    report
}

fn damaged(facts: &Facts, damage: &wal::Damage) -> CheckFault {
    let streams = damage.streams.iter();
    CheckFault {
        place: Place::Log,
        file: Some(damage.file.clone()),
        offset: Some(damage.offset),
        groups: streams.filter_map(|stream| facts.group_of(*stream)).collect(),
        cause: format!("{} ({} bytes can't be read)", damage.reason, damage.bytes),
        advice: SET_ASIDE,
    }
}

/// Entries that neither half has.
fn gap(group: &CheckedGroup) -> Option<CheckFault> {
    let needed = group.flushed.map_or(0, |flushed| flushed + 1);
    let purged = group.purged.filter(|purged| *purged >= needed)?;
    let flushed = group.flushed.map_or("nothing".to_owned(), |flushed| format!("entry {flushed}"));
    let cause = format!(
        "entries {needed} to {purged} are missing: the store has flushed up to {flushed}, and the \
         log begins behind entry {purged}"
    );
    let groups = group.group.into_iter().collect();
    let (place, advice) = (Place::Between, SET_ASIDE);
    Some(CheckFault { place, file: None, offset: None, groups, cause, advice })
}

/// A store that is ahead of its log: of two causes one is harmless, and only a start can tell.
fn ahead(group: &CheckedGroup) -> Option<String> {
    let flushed = group.flushed?;
    let end = group.last.max(group.purged);
    if end.is_some_and(|end| end >= flushed) {
        return None;
    }
    let name = group.group.map_or_else(String::new, group_name);
    let ends = end.map_or("is empty".to_owned(), |end| format!("ends at entry {end}"));
    Some(format!(
        "the store of {name} holds entry {flushed} and its log {ends}: a snapshot came in last, or \
         the log lost its end; a start looks which, and sets the group aside if it is the latter"
    ))
}

/// What happens at the next start, and what a person can do. Pure.
fn advice(fault: &CheckFault, needed: bool) -> &'static str {
    let stops = fault.advice == REJOIN || fault.groups.is_empty();
    match (fault.advice, fault.place) {
        (NEWER, _) => NEWER,
        (_, Place::Log) if needed => REPAIR,
        (_, _) if needed => BACKUP,
        (_, _) if stops || fault.groups.contains(&GroupId::META) => REJOIN,
        _ => SET_ASIDE,
    }
}

/// Why nothing may be changed in these directories.
fn untouchable(facts: &Facts) -> Option<&'static str> {
    if facts.identity.is_none() {
        return Some("nothing was changed: whose directories these are can't be told");
    }
    let unread = |fault: &CheckFault| {
        matches!(fault.place, Place::Quarantine | Place::Replicas) || fault.advice == NEWER
    };
    if facts.faults.iter().any(unread) {
        return Some("nothing was changed: a file that decides what may be changed does not read");
    }
    None
}

/// What a repair gives up.
#[derive(Debug, Default, PartialEq, Eq)]
struct Plan {
    /// Replicas to set aside, before anything of them goes.
    set_aside: Vec<(GroupId, Entry)>,
    /// Streams of the log to forget.
    give_up: Vec<StreamId>,
}

/// Decides what a repair gives up: damaged streams of shards that go on at other nodes. The meta
/// group's is kept: without it the node does not know what it holds. Pure.
fn plan(facts: &Facts) -> Plan {
    let mut plan = Plan::default();
    let Some(log) = &facts.log else { return plan };
    for stream in log.streams.iter().filter(|stream| stream.damaged) {
        let group = facts.group_of(stream.stream);
        let gives_up = |group: &GroupId| *group != GroupId::META && facts.goes_on_elsewhere(*group);
        let Some(group) = group.filter(gives_up) else { continue };
        let aside = facts.aside.get(&group);
        if aside.is_none_or(|entry| entry.replica.0 != stream.stream.0) {
            let hit = log.damage.iter().find(|damage| damage.streams.contains(&stream.stream));
            let cause = hit.map_or_else(
                || "its stream is damaged".to_owned(),
                |hit| format!("{} at offset {}: {}", hit.file, hit.offset, hit.reason),
            );
            let damage = Damage { part: Part::Log, cause };
            let replica = ReplicaId(stream.stream.0);
            plan.set_aside.push((group, Entry { replica, damage, since_ms: now_ms() }));
        }
        plan.give_up.push(stream.stream);
    }
    plan
}

/// Changes the directories.
struct Mend<'d> {
    wal_dir: &'d Path,
    db_dir: &'d Path,
    gave_up: Vec<String>,
    refused: Vec<String>,
}

impl Mend<'_> {
    /// Says which entries are not let go of although the store had flushed them.
    fn keep_what_the_store_lost(&mut self, facts: &Facts) {
        let streams = facts.log.iter().flat_map(|log| &log.streams);
        let groups = streams.filter(|stream| stream.damaged);
        let groups = groups.filter_map(|stream| facts.group_of(stream.stream));
        for group in groups.filter(|group| facts.store_is_damaged(*group)) {
            let name = group_name(group);
            self.refused.push(format!(
                "the log's entries of {name} are kept: its rows in the store are damaged, too"
            ));
        }
    }

    fn log(&mut self, facts: &Facts, give_up: &[StreamId]) -> Result<(), CheckError> {
        // What a damaged table has flushed may be gone with it: then the log's entries are needed.
        let flushed = |stream: StreamId| {
            let group = facts.group_of(stream)?;
            if facts.store_is_damaged(group) { None } else { facts.flushed(group) }
        };
        match log::repair(self.wal_dir, &flushed, give_up) {
            Ok(given_up) => self.gave_up.extend(given_up.iter().map(ToString::to_string)),
            Err(wal::OpenError::InUse) => {
                return Err(CheckError::InUse { dir: self.wal_dir.display().to_string() });
            }
            Err(error) => self.refused.push(format!("the log: {error}")),
        }
        Ok(())
    }

    fn set_aside(&mut self, entries: &[(GroupId, Entry)]) -> Result<(), CheckError> {
        let quarantine = Quarantine::open(self.db_dir).map_err(CheckError::Io)?;
        for (group, entry) in entries {
            let name = group_name(*group);
            self.gave_up.push(format!(
                "{name}, replica {}, is set aside for good: {}",
                entry.replica, entry.damage.cause
            ));
            quarantine.set_aside(*group, entry.clone());
        }
        quarantine.save().map_err(|cause| CheckError::Io(cause.to_string()))
    }

    fn store(&mut self) -> Result<(), CheckError> {
        match store::repair(self.db_dir) {
            Ok(gone) => self.gave_up.extend(gone),
            Err(stemedb_engine::Error::InUse { dir }) => return Err(CheckError::InUse { dir }),
            Err(error) => self.refused.push(format!("the store: {error}")),
        }
        Ok(())
    }
}
