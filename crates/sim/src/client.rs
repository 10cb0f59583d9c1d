//! Clients: they ask whoever leads, write down what they asked and what they heard.
//!
//! A client never asks twice unless it was told that nothing was done, or its writes have names: then
//! it asks again where it heard nothing, and what it asked must be done once. What it does not hear in
//! time is unknown: it may have happened, may yet happen, or never will.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use stemedb_machine::shard::{
    Answer, Command, Condition, Fingerprint, IdempotencyKey, Once, Read, ReadAnswer, Write, read,
};
use stemedb_raft::{Error, Group, Groups, Outcome as Done};
use stemedb_types::{BucketName, GroupId, Key, NodeId, ProjectId, Revision};
use tokio::time::{Instant, sleep, timeout_at};

use crate::checks::linearizable::{Action, Outcome};
use crate::draw::Draw;
use crate::history::{Acknowledged, Counts, History, Place};
use crate::schedule::Reads;

/// How long a client waits.
const PATIENCE: Duration = Duration::from_millis(1500);
/// How long a client waits that asks again where it heard nothing.
const PATIENCE_NAMED: Duration = Duration::from_secs(6);
/// How long it waits for one answer.
const PATIENCE_ONE: Duration = Duration::from_millis(700);
/// Keys of a shard: few, so that clients meet.
pub const KEYS: u64 = 5;

/// The project of every key.
pub const PROJECT: ProjectId = ProjectId(1);

/// What clients know of the cluster.
#[derive(Default)]
pub struct Directory {
    /// The replicas of each node that is up, and how far its clock is from the true one.
    pub nodes: BTreeMap<NodeId, (Groups, i64)>,
    /// Which life of a node that is.
    pub lives: BTreeMap<NodeId, u64>,
}

/// What clients share.
#[derive(Default)]
pub struct Shared {
    directory: Mutex<Directory>,
    history: Mutex<History>,
    reads: Reads,
}

impl Shared {
    /// Clients that read so.
    pub fn read(reads: Reads) -> Self {
        Self { reads, ..Self::default() }
    }

    /// What they know of the cluster.
    pub fn directory(&self) -> MutexGuard<'_, Directory> {
        self.directory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What they did.
    pub fn history(&self) -> MutexGuard<'_, History> {
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How often they heard what.
    pub fn counts(&self) -> Counts {
        self.history().counts
    }
}

/// The bucket of every key of a shard.
#[expect(clippy::expect_used, reason = "the name is a constant, and valid")]
pub fn bucket() -> BucketName {
    "facts".parse().expect("a bucket's name")
}

/// A key by its number.
#[expect(clippy::expect_used, reason = "one byte is a key")]
pub fn key(number: u8) -> Key {
    Key::new(vec![b'k', number]).expect("a key")
}

fn encode(value: u64) -> Bytes {
    Bytes::copy_from_slice(&value.to_be_bytes())
}

/// The number in a value; other bytes than a number are a value that nobody wrote.
pub fn decode(value: &[u8]) -> u64 {
    value.try_into().map_or(u64::MAX, u64::from_be_bytes)
}

/// One client.
pub struct Client {
    number: u32,
    shared: Arc<Shared>,
    shards: Vec<GroupId>,
    draw: Draw,
    /// What it last saw of a key: its value, and under which revision.
    seen: BTreeMap<Place, Option<(u64, Revision)>>,
    /// Who led a shard when it asked last. Nobody tells it that another leads by now.
    leaders: BTreeMap<GroupId, NodeId>,
    /// Whether its writes have names, and how many it has given.
    names: Option<u64>,
}

impl Client {
    /// A client that has seen nothing.
    pub fn new(number: u32, shared: Arc<Shared>, shards: Vec<GroupId>, draw: Draw) -> Self {
        let (seen, leaders) = (BTreeMap::new(), BTreeMap::new());
        Self { number, shared, shards, draw, seen, leaders, names: None }
    }

    /// The same, which names its writes or does not.
    pub fn naming(self, named: bool) -> Self {
        Self { names: named.then_some(0), ..self }
    }

    /// A name that no other write has, if writes have names.
    fn next_name(&mut self) -> Option<Once> {
        let given = self.names.as_mut()?;
        *given += 1;
        let key = IdempotencyKey::new(format!("{}-{given}", self.number))?;
        Some(Once { key, fingerprint: Fingerprint([0; 32]) })
    }

    /// Asks one thing after another, for ever.
    pub async fn run(mut self) {
        loop {
            sleep(Duration::from_micros(self.draw.range(200..=60_000))).await;
            let group = *self.draw.pick(&self.shards);
            let place = (group, self.draw.below(KEYS) as u8);
            self.ask(place).await;
        }
    }

    /// Writes to a place until it is answered; for the end of a run.
    pub async fn insist(&mut self, place: Place) {
        loop {
            let value = self.shared.history().fresh_value();
            if self.write(place, Action::Put { value }, Condition::Always).await {
                return;
            }
            sleep(Duration::from_millis(50)).await;
        }
    }

    async fn ask(&mut self, place: Place) {
        let fresh = |client: &Self| client.shared.history().fresh_value();
        match self.draw.below(10) {
            0..=3 => self.get(place).await,
            4..=6 => {
                let value = fresh(self);
                self.write(place, Action::Put { value }, Condition::Always).await;
            }
            7 => {
                self.write(place, Action::Delete, Condition::Always).await;
            }
            _ => {
                let seen = self.seen.get(&place).copied().flatten();
                let condition = match seen {
                    Some((_, revision)) => Condition::RevisionIn(vec![revision]),
                    None => Condition::Absent,
                };
                let value = fresh(self);
                let expect = seen.map(|(value, _)| value);
                self.write(place, Action::Swap { expect, value }, condition).await;
            }
        }
    }

    /// A replica to ask: of the node that led last, or of any.
    fn replica(&mut self, group: GroupId) -> Option<(Group, i64)> {
        let directory = self.shared.directory();
        let leads = self.leaders.get(&group).and_then(|node| directory.nodes.get(node));
        if let Some((groups, clock_ms)) = leads
            && let Some(replica) = groups.get(group)
        {
            return Some((replica, *clock_ms));
        }
        let holders: Vec<_> =
            directory.nodes.iter().filter(|(_, (groups, _))| groups.get(group).is_some()).collect();
        if holders.is_empty() {
            return None;
        }
        let (node, (groups, clock_ms)) = holders[self.draw.below(holders.len() as u64) as usize];
        self.leaders.insert(group, *node);
        groups.get(group).map(|replica| (replica, *clock_ms))
    }

    /// It was not the leader: whom to ask instead.
    fn redirect(&mut self, group: GroupId, leader: Option<NodeId>) {
        let directory = self.shared.directory();
        match leader.filter(|leader| directory.nodes.contains_key(leader)) {
            Some(leader) => self.leaders.insert(group, leader),
            None => self.leaders.remove(&group),
        };
    }

    async fn get(&mut self, place: Place) {
        if self.shared.reads != Reads::Led {
            return self.get_by_permit(place).await;
        }
        let begun = self.shared.history().begin(self.number, place, Action::Get);
        let deadline = Instant::now() + PATIENCE;
        let found = loop {
            if Instant::now() >= deadline {
                break None;
            }
            let Some((replica, _)) = self.replica(place.0) else {
                sleep(Duration::from_millis(50)).await;
                continue;
            };
            match timeout_at(deadline, replica.confirm_read()).await {
                Ok(Ok(_)) => break look_up(&replica, place),
                Ok(Err(Error::NotLeader { leader })) => self.redirect(place.0, leader),
                Ok(Err(_)) => self.redirect(place.0, None),
                Err(_) => {
                    self.redirect(place.0, None);
                    break None;
                }
            }
            sleep(Duration::from_millis(self.draw.range(5..=80))).await;
        };
        let mut history = self.shared.history();
        match found {
            Some(found) => {
                history.end(begun, Outcome::Found(found.map(|(value, _)| value)));
                drop(history);
                self.seen.insert(place, found);
            }
            None => history.forget(begun),
        }
    }

    /// Whether it was answered.
    async fn write(&mut self, place: Place, action: Action, condition: Condition) -> bool {
        let begun = self.shared.history().begin(self.number, place, action);
        let once = self.next_name();
        let deadline = Instant::now() + if once.is_some() { PATIENCE_NAMED } else { PATIENCE };
        // Whether a try of it may have been done.
        let mut doubtful = false;
        let answer = loop {
            if Instant::now() >= deadline {
                break if doubtful { Told::Nothing } else { Told::NotApplied };
            }
            let Some((replica, clock_ms)) = self.replica(place.0) else {
                sleep(Duration::from_millis(50)).await;
                continue;
            };
            let command = command(place, &action, condition.clone(), clock_ms, once.clone());
            let until = match once {
                Some(_) => deadline.min(Instant::now() + PATIENCE_ONE),
                None => deadline,
            };
            match timeout_at(until, replica.write(command)).await {
                Ok(Ok(written)) => break Told::Done(written.outcome),
                Ok(Err(Error::NotLeader { leader })) => self.redirect(place.0, leader),
                Ok(Err(Error::NoQuorum | Error::Overloaded)) => self.redirect(place.0, None),
                Ok(Err(_)) | Err(_) => {
                    self.redirect(place.0, None);
                    if once.is_none() {
                        break Told::Nothing;
                    }
                    doubtful = true;
                }
            }
            sleep(Duration::from_millis(self.draw.range(5..=80))).await;
        };
        let mut history = self.shared.history();
        let answer = match answer {
            Told::Done(Done::Shard(Answer::Replayed(first))) => Told::Done(Done::Shard(*first)),
            answer => answer,
        };
        let Told::Done(Done::Shard(answer)) = answer else {
            match answer {
                Told::NotApplied => history.forget(begun),
                _ => drop(history.end(begun, Outcome::Unknown)),
            }
            return false;
        };
        let value = match action {
            Action::Put { value } | Action::Swap { value, .. } => Some(value),
            Action::Get | Action::Delete => None,
        };
        let outcome = match (&answer, &action) {
            (Answer::PreconditionFailed { .. }, _) => Outcome::Refused,
            (Answer::Deleted { .. }, _) => Outcome::Deleted(true),
            (Answer::NotFound { .. }, _) => Outcome::Deleted(false),
            _ => Outcome::Done,
        };
        let span = history.end(begun, outcome);
        if let Answer::Put { revision, .. } | Answer::Deleted { revision } = answer {
            history.acknowledged.push(Acknowledged { place, revision, value, span });
            drop(history);
            self.seen.insert(place, value.map(|value| (value, revision)));
        }
        true
    }
}

enum Told {
    Done(Done),
    NotApplied,
    Nothing,
}

fn command(
    place: Place,
    action: &Action,
    condition: Condition,
    clock_ms: i64,
    once: Option<Once>,
) -> Bytes {
    let key = key(place.1);
    let write = match action {
        Action::Put { value } | Action::Swap { value, .. } => {
            Write::Put { key, value: encode(*value), condition, expires_at_ms: None }
        }
        Action::Get | Action::Delete => Write::Delete { key, condition },
    };
    let at_ms = 1_000_000_u64.saturating_add_signed(clock_ms);
    Command { project: PROJECT, bucket: bucket(), at_ms, write, once }.encode()
}

/// What a replica has under a key: its value and revision. `None`: it can't be read.
pub fn look_up(replica: &Group, place: Place) -> Option<Option<(u64, Revision)>> {
    let question = Read::Get { key: key(place.1), as_of: None };
    let answer = read(&replica.applied().store(), PROJECT, &bucket(), &question).ok()?;
    if replica.is_closing() {
        // As the node does: its rows may be going.
        return None;
    }
    let ReadAnswer::Value { version, .. } = answer else { return None };
    Some(version.map(|version| (decode(&version.value), version.head.revision())))
}

impl Client {
    /// Reads as a node does that holds a replica: with leave, which must still hold afterwards.
    async fn get_by_permit(&mut self, place: Place) {
        let begun = self.shared.history().begin(self.number, place, Action::Get);
        let deadline = Instant::now() + PATIENCE;
        let leased = self.shared.reads == Reads::Leased;
        let found = loop {
            if Instant::now() >= deadline {
                break None;
            }
            if !leased {
                // Whoever comes, wherever it leads.
                self.leaders.remove(&place.0);
            }
            let Some((replica, _)) = self.replica(place.0) else {
                sleep(Duration::from_millis(50)).await;
                continue;
            };
            let node = self.leaders.get(&place.0).copied();
            let life = |client: &Self| {
                let directory = client.shared.directory();
                let node = node.filter(|node| directory.nodes.contains_key(node))?;
                directory.lives.get(&node).copied()
            };
            let alive = life(self);
            match replica.permit_read(deadline).await {
                Ok(permit) => {
                    if leased && self.draw.below(8) == 0 {
                        // The process stands still, here of all places.
                        sleep(Duration::from_millis(self.draw.range(10..=1500))).await;
                    }
                    if alive.is_none() || life(self) != alive {
                        break None;
                    }
                    let found = look_up(&replica, place);
                    if permit.holds() {
                        break found;
                    }
                }
                Err(Error::NotLeader { leader }) => self.redirect(place.0, leader),
                Err(_) => self.redirect(place.0, None),
            }
            sleep(Duration::from_millis(self.draw.range(5..=80))).await;
        };
        let mut history = self.shared.history();
        match found {
            Some(found) => {
                history.end(begun, Outcome::Found(found.map(|(value, _)| value)));
                drop(history);
                self.seen.insert(place, found);
            }
            None => history.forget(begun),
        }
    }

    /// Reads a place, and writes down what it heard.
    pub async fn read(&mut self, place: Place) {
        self.get(place).await;
    }
}
