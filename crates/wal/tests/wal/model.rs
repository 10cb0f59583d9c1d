//! Random changes, crashes at any point, any unsynced bytes lost: what is there afterwards is
//! a state the log went through, and no older than the last one it called back for. One contract
//! for both kinds of log, with a thread of its own and driven.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use proptest::prelude::*;
use stemedb_wal::disk::sim::SimDisk;
use stemedb_wal::{
    Completion, Driver, Error, OnDamage, OpenError, Options, Recovery, StreamId, Wal,
};

use crate::common::{Dice, image, seeds, small};

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Model {
    streams: BTreeMap<u64, Stream>,
}

impl Model {
    fn entries(&self) -> usize {
        self.streams.values().map(|stream| stream.entries.len()).sum()
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Stream {
    purged: Option<(u64, Bytes)>,
    first: u64,
    entries: VecDeque<Bytes>,
    marks: BTreeMap<u8, Bytes>,
}

#[derive(Clone, Debug)]
enum Step {
    Append {
        stream: u64,
        count: u8,
        skip: u8,
        bytes: u16,
    },
    /// 500 tiny entries in one call.
    AppendMany {
        stream: u64,
    },
    Mark {
        stream: u64,
        tag: u8,
        synced: bool,
    },
    Truncate {
        stream: u64,
        keep: u8,
    },
    Purge {
        stream: u64,
        count: u16,
        synced: bool,
    },
    Forget {
        stream: u64,
    },
    Settle,
    CrashAfter {
        changes: u8,
    },
    /// The next write reaches the disk up to this byte, and the power goes.
    TornWrite {
        bytes: u16,
    },
    /// The next write fails in the middle.
    ShortWrite {
        bytes: u16,
    },
    /// Syncs fail after so many.
    FailSyncs {
        syncs: u8,
    },
    PowerCut,
    Kill,
    Reopen,
}

fn step() -> impl Strategy<Value = Step> {
    let stream = 1u64..4;
    prop_oneof![
        12 => (stream.clone(), 0u8..6, 0u8..3, prop_oneof![3 => 0u16..40, 1 => 0u16..1500, 1 => 0u16..6000])
            .prop_map(|(stream, count, skip, bytes)| Step::Append { stream, count, skip, bytes }),
        1 => stream.clone().prop_map(|stream| Step::AppendMany { stream }),
        3 => (stream.clone(), 0u8..3, any::<bool>())
            .prop_map(|(stream, tag, synced)| Step::Mark { stream, tag, synced }),
        3 => (stream.clone(), 0u8..12).prop_map(|(stream, keep)| Step::Truncate { stream, keep }),
        4 => (stream.clone(), prop_oneof![3 => 0u16..12, 1 => 0u16..800], any::<bool>())
            .prop_map(|(stream, count, synced)| Step::Purge { stream, count, synced }),
        1 => stream.prop_map(|stream| Step::Forget { stream }),
        3 => Just(Step::Settle),
        2 => (0u8..20).prop_map(|changes| Step::CrashAfter { changes }),
        1 => (0u16..2000).prop_map(|bytes| Step::TornWrite { bytes }),
        1 => (0u16..2000).prop_map(|bytes| Step::ShortWrite { bytes }),
        1 => (0u8..3).prop_map(|syncs| Step::FailSyncs { syncs }),
        1 => Just(Step::PowerCut),
        1 => Just(Step::Kill),
        1 => Just(Step::Reopen),
    ]
}

impl Step {
    /// A step by dice: for runs that a single seed replays.
    fn roll(dice: &mut Dice) -> Self {
        let stream = 1 + dice.below(3);
        let mut small = |bound: u64| dice.below(bound) as u8;
        match small(36) {
            0..12 => {
                let (count, skip) = (small(6), small(3));
                let bytes = [40, 40, 40, 1500, 6000][dice.below(5) as usize];
                Self::Append { stream, count, skip, bytes: dice.below(bytes) as u16 }
            }
            12..15 => Self::Mark { stream, tag: small(3), synced: small(2) == 1 },
            15..18 => Self::Truncate { stream, keep: small(12) },
            18..22 => {
                let count = [12, 12, 12, 800][dice.below(4) as usize];
                let (count, synced) = (dice.below(count) as u16, dice.below(2) == 1);
                Self::Purge { stream, count, synced }
            }
            22 => Self::Forget { stream },
            23..26 => Self::Settle,
            26..28 => Self::CrashAfter { changes: small(20) },
            28 => Self::TornWrite { bytes: dice.below(2000) as u16 },
            29 => Self::ShortWrite { bytes: dice.below(2000) as u16 },
            30 => Self::FailSyncs { syncs: small(3) },
            31 => Self::PowerCut,
            32 => Self::Kill,
            33 => Self::AppendMany { stream },
            _ => Self::Reopen,
        }
    }
}

/// Who writes the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Thread,
    Driven,
}

/// The log, its model, and every state the model went through since the log was opened.
struct Bench {
    mode: Mode,
    disk: SimDisk,
    wal: Option<Wal>,
    /// Of a driven log.
    driver: Option<Driver>,
    options: Options,
    history: Vec<Model>,
    /// The newest state of the history that was called back for.
    acknowledged: Arc<AtomicUsize>,
    /// A completion came before an earlier one. (The log would catch a panic in one.)
    disordered: Arc<AtomicBool>,
    /// A crash is due: reads may fail from now on.
    armed: bool,
    made: u64,
    crashes: u64,
    dice: Dice,
    /// When a driven log is stepped.
    turns: Dice,
}

impl Bench {
    fn new(mode: Mode, seed: u64) -> Self {
        let mut dice = Dice(seed);
        let spare_segments = dice.below(2) as usize * usize::from(mode == Mode::Thread);
        let tail_cache_bytes = [0, 500, 1 << 20][dice.below(3) as usize];
        // Half of them would open whatever they find; that must be nothing, too.
        let on_damage = [OnDamage::Refuse, OnDamage::Quarantine][dice.below(2) as usize];
        let options = Options { spare_segments, tail_cache_bytes, on_damage, ..small() };
        let mut bench = Self {
            mode,
            disk: SimDisk::new(seed),
            wal: None,
            driver: None,
            options,
            history: vec![Model::default()],
            acknowledged: Arc::default(),
            disordered: Arc::default(),
            armed: false,
            made: 0,
            crashes: 0,
            dice,
            turns: Dice(seed.rotate_left(32)),
        };
        bench.open();
        bench
    }

    /// Damage is never seen by who only loses what was not synced.
    fn unharmed(recovery: &Recovery) {
        assert_eq!((&recovery.damage, &recovery.quarantined), (&vec![], &vec![]));
    }

    fn run(&mut self, step: &Step) {
        match *step {
            Step::Append { stream, count, skip, bytes } => {
                self.append(stream, count.into(), skip, bytes)
            }
            // Each of them makes a state; so the states must not be large.
            Step::AppendMany { stream } if self.now().entries() < 200 => {
                self.append(stream, 500, 0, 0);
            }
            Step::AppendMany { .. } => {}
            Step::Mark { stream, tag, synced } => self.mark(stream, tag, synced),
            Step::Truncate { stream, keep } => self.truncate(stream, keep),
            Step::Purge { stream, count, synced } => self.purge(stream, count, synced),
            Step::Forget { stream } => self.forget(stream),
            Step::Settle => self.settle(),
            Step::CrashAfter { changes } => {
                self.disk.crash_after(u64::from(changes));
                self.armed = true;
            }
            Step::TornWrite { bytes } => {
                self.disk.tear_next_write(usize::from(bytes));
                self.armed = true;
            }
            Step::ShortWrite { bytes } => {
                self.disk.shorten_next_write(usize::from(bytes));
                self.armed = true;
            }
            Step::FailSyncs { syncs } => {
                self.disk.fail_syncs_after(u64::from(syncs));
                self.armed = true;
            }
            Step::PowerCut => self.power_cut(),
            Step::Kill => {
                self.disk = self.disk.restart_process();
                (self.wal, self.driver) = (None, None);
                self.open();
            }
            Step::Reopen => self.reopen(),
        }
        if let Some(driver) = &self.driver {
            (0..self.turns.below(3)).for_each(|_| _ = driver.step());
        }
        if !self.armed {
            assert_eq!(observe(self.wal()), *self.now(), "what callers see");
        }
    }

    fn wal(&self) -> &Wal {
        self.wal.as_ref().unwrap()
    }

    fn now(&self) -> &Model {
        self.history.last().unwrap()
    }

    fn stream(&self, stream: u64) -> Stream {
        self.now().streams.get(&stream).cloned().unwrap_or_default()
    }

    fn payload(&mut self, bytes: u16) -> Bytes {
        self.made += 1;
        let mut payload = self.made.to_string().into_bytes();
        payload.resize(payload.len().max(bytes as usize), b'.');
        payload.into()
    }

    /// A completion that acknowledges the newest state, which must not be acknowledged yet.
    fn acknowledge(&self, newest: usize) -> Completion {
        let (acknowledged, disordered) = (self.acknowledged.clone(), self.disordered.clone());
        Box::new(move |result| {
            if result.is_ok() && acknowledged.fetch_max(newest, Ordering::SeqCst) > newest {
                disordered.store(true, Ordering::SeqCst);
            }
        })
    }

    /// Adds states to the history if the log took the change; a crash may be why it did not.
    fn submit(
        &mut self,
        states: Vec<Model>,
        call: impl FnOnce(&Wal, Completion) -> Result<(), Error>,
    ) {
        let newest = self.history.len() + states.len() - 1;
        let completion = self.acknowledge(newest);
        let before = self.acknowledged.load(Ordering::SeqCst);
        let answer = call(self.wal(), completion);
        if self.mode == Mode::Driven {
            let after = self.acknowledged.load(Ordering::SeqCst);
            assert_eq!(before, after, "nobody is called back between two steps");
        }
        match answer {
            Ok(()) => self.history.extend(states),
            Err(Error::Poisoned { .. } | Error::Full) if self.armed => self.power_cut(),
            Err(error) => panic!("refused: {error}"),
        }
    }

    fn append(&mut self, stream: u64, count: u16, skip: u8, bytes: u16) {
        let before = self.stream(stream);
        let first = match (before.entries.len() as u64, &before.purged) {
            (0, None) => u64::from(skip),
            (0, Some((to, _))) => to + 1 + u64::from(skip),
            (count, _) => before.first + count,
        };
        let payloads: Vec<Bytes> = (0..count).map(|_| self.payload(bytes)).collect();
        let mut model = self.now().clone();
        let mut states = Vec::new();
        for payload in &payloads {
            let known = model.streams.entry(stream).or_default();
            known.first = if known.entries.is_empty() { first } else { known.first };
            known.entries.push_back(payload.clone());
            states.push(model.clone());
        }
        self.submit(states, |wal, done| wal.append(StreamId(stream), first, payloads, done));
    }

    fn mark(&mut self, stream: u64, tag: u8, synced: bool) {
        let value = self.payload(0);
        let mut model = self.now().clone();
        model.streams.entry(stream).or_default().marks.insert(tag, value.clone());
        self.submit(vec![model], |wal, done| {
            wal.mark(StreamId(stream), tag, value, synced.then_some(done))
        });
    }

    fn truncate(&mut self, stream: u64, keep: u8) {
        let mut model = self.now().clone();
        let first = self.stream(stream).first;
        if let Some(known) = model.streams.get_mut(&stream) {
            known.entries.truncate(keep as usize);
            known.tidy();
        }
        let lowest = self.stream(stream).purged.map_or(0, |(to, _)| to + 1);
        let from = (first + u64::from(keep)).max(lowest);
        self.submit(vec![model], |wal, done| wal.truncate_from(StreamId(stream), from, done));
    }

    fn purge(&mut self, stream: u64, count: u16, synced: bool) {
        let note = self.payload(0);
        let mut model = self.now().clone();
        let known = model.streams.entry(stream).or_default();
        let lowest = known.purged.as_ref().map_or(0, |(to, _)| to + 1);
        let to = known.first.max(lowest) + u64::from(count);
        let gone = (u64::from(count) + 1).min(known.entries.len() as u64);
        known.entries.drain(..gone as usize);
        known.first += gone;
        known.purged = Some((to, note.clone()));
        known.tidy();
        self.submit(vec![model], |wal, done| {
            wal.purge_to(StreamId(stream), to, note, synced.then_some(done))
        });
    }

    fn forget(&mut self, stream: u64) {
        let mut model = self.now().clone();
        model.streams.remove(&stream);
        self.submit(vec![model], |wal, done| wal.forget(StreamId(stream), done));
    }

    /// Waits until everything is durable (or the crash has come).
    fn settle(&mut self) {
        let (send, receive) = std::sync::mpsc::channel();
        let newest = self.history.len() - 1;
        let acknowledge = self.acknowledge(newest);
        let done = Box::new(move |result: Result<(), Error>| {
            acknowledge(result.clone());
            drop(send.send(result));
        });
        // An append of nothing is durable once all before it is.
        let lowest = self.stream(9).purged.map_or(0, |(to, _)| to + 1);
        let settled = match self.wal().append(StreamId(9), lowest, Vec::new(), done) {
            Ok(()) => {
                self.step_on();
                receive.recv_timeout(Duration::from_secs(60)).unwrap()
            }
            Err(error) => Err(error),
        };
        if settled.is_err() {
            assert!(self.armed, "{settled:?}");
            self.power_cut();
        } else {
            assert_eq!(self.acknowledged.load(Ordering::SeqCst), newest);
        }
    }

    fn power_cut(&mut self) {
        self.disk = self.after_power_cut();
        (self.wal, self.driver) = (None, None);
        self.open();
    }

    /// Steps until nothing is left, if nobody else writes.
    fn step_on(&self) {
        while self.driver.as_ref().is_some_and(Driver::step) {}
    }

    /// What survives: any sectors of each write, or any pages as they were at the end.
    fn after_power_cut(&mut self) -> SimDisk {
        self.crashes += 1;
        let dice = &mut self.dice;
        let page_bytes = [0, 512, 4096][dice.below(3) as usize];
        let mut chance = |bound| dice.below(bound);
        match page_bytes {
            0 => self.disk.restart(&mut chance),
            _ => self.disk.restart_pages(page_bytes, &mut chance),
        }
    }

    fn reopen(&mut self) {
        let mut closed = self.wal().close();
        if self.mode == Mode::Driven {
            self.step_on();
            closed = self.wal().close();
        }
        if closed.is_ok() {
            self.acknowledged.store(self.history.len() - 1, Ordering::SeqCst);
        } else {
            assert!(self.armed, "{closed:?}");
        }
        self.power_cut();
    }

    fn try_open(&self) -> Result<(Wal, Option<Driver>, Recovery), OpenError> {
        let (disk, options) = (Arc::new(self.disk.clone()), self.options.clone());
        match self.mode {
            Mode::Thread => {
                Wal::open_on(disk, options).map(|(wal, recovery)| (wal, None, recovery))
            }
            Mode::Driven => Wal::open_driven(disk, options, Box::new(|| {}))
                .map(|(wal, driver, recovery)| (wal, Some(driver), recovery)),
        }
    }

    /// Opens the log, perhaps with crashes in between, and finds its state in the history.
    fn open(&mut self) {
        while self.wal.is_none() {
            self.armed = self.dice.below(3) == 0;
            if self.armed {
                self.disk.crash_after(self.dice.below(12));
            }
            match self.try_open() {
                Ok((wal, driver, recovery)) => {
                    Self::unharmed(&recovery);
                    (self.wal, self.driver) = (Some(wal), driver);
                }
                Err(OpenError::Io { .. }) if self.armed => {
                    self.disk = self.after_power_cut();
                }
                Err(error) => panic!("not opened: {error}"),
            }
        }
        // Reads must work here, so look at a copy that no crash is due for.
        let copy = self.disk.copy();
        let (twin, recovery) = Wal::open_on(Arc::new(copy), self.options.clone()).unwrap();
        Self::unharmed(&recovery);
        assert!(!self.disordered.load(Ordering::SeqCst), "completions come in order");
        let found = observe(&twin);
        let least = self.acknowledged.load(Ordering::SeqCst);
        assert!(
            self.history[least..].contains(&found),
            "found {found:#?}\nacknowledged {:#?}\nwritten {:#?}",
            self.history[least],
            self.now(),
        );
        self.history = vec![found];
        self.acknowledged = Arc::default();
    }
}

impl Stream {
    /// An empty stream's first index means nothing.
    fn tidy(&mut self) {
        if self.entries.is_empty() {
            self.first = 0;
        }
    }
}

/// The whole log, read through its interface.
fn observe(wal: &Wal) -> Model {
    let stream = |id: StreamId| {
        let bounds = wal.bounds(id);
        let first = bounds.first.unwrap_or(0);
        let end = bounds.last.map_or(first, |last| last + 1);
        let entries = if first == end {
            Vec::new()
        } else {
            wal.entries(id, first..end, usize::MAX).unwrap()
        };
        assert_eq!(entries.len() as u64, end - first, "every entry between the bounds is there");
        let marks = (0..3).filter_map(|tag| Some((tag, wal.mark_value(id, tag)?))).collect();
        (id.0, Stream { purged: bounds.purged, first, entries: entries.into(), marks })
    };
    Model { streams: wal.streams().into_iter().map(stream).collect() }
}

/// `PROPTEST_CASES` asks for more than a merge needs.
fn config() -> ProptestConfig {
    let config = ProptestConfig::default();
    let asked = std::env::var_os("PROPTEST_CASES").is_some();
    if asked { config } else { ProptestConfig { cases: 100, ..config } }
}

fn run_and_reopen(mode: Mode, seed: u64, steps: &[Step]) {
    let mut bench = Bench::new(mode, seed);
    for step in steps {
        bench.run(step);
    }
    bench.reopen();
}

proptest! {
    #![proptest_config(config())]
    #[test]
    fn what_a_crash_leaves_is_a_state_the_log_went_through_and_nothing_acknowledged_is_lost(
        seed in any::<u64>(), steps in prop::collection::vec(step(), 1..80),
    ) {
        run_and_reopen(Mode::Thread, seed, &steps);
    }

    #[test]
    fn what_a_crash_leaves_of_a_driven_log_is_no_less(
        seed in any::<u64>(), steps in prop::collection::vec(step(), 1..80),
    ) {
        run_and_reopen(Mode::Driven, seed, &steps);
    }
}

/// Runs each seed, and says which one failed.
fn each_seed(count: u64, mut run: impl FnMut(u64)) -> std::ops::Range<u64> {
    let seeds = seeds(count);
    for seed in seeds.clone() {
        let run = std::panic::AssertUnwindSafe(|| run(seed));
        if let Err(failure) = std::panic::catch_unwind(run) {
            eprintln!("replay with STEMEDB_SEED={seed}");
            std::panic::resume_unwind(failure);
        }
    }
    seeds
}

fn crash_again_and_again(mode: Mode) {
    let (mut crashes, mut steps) = (0, 0);
    let seeds = each_seed(600, |seed| {
        let mut bench = Bench::new(mode, seed);
        let mut dice = Dice(!seed);
        for _ in 0..30 {
            bench.run(&Step::roll(&mut dice));
            steps += 1;
        }
        bench.power_cut();
        crashes += bench.crashes;
    });
    println!("seeds {seeds:?}: {steps} steps, {crashes} crash points; acknowledged lost 0");
    assert!(crashes >= 2000 || seeds.end - seeds.start == 1, "{crashes} crash points are too few");
}

#[test]
fn two_thousand_seeded_crashes_lose_nothing_acknowledged_and_quarantine_nobody() {
    crash_again_and_again(Mode::Thread);
}

#[test]
fn two_thousand_seeded_crashes_of_a_driven_log_do_no_more() {
    crash_again_and_again(Mode::Driven);
}

#[test]
fn a_driven_log_does_the_same_twice_to_the_byte() {
    // Intent: the same seed, crashes and failing disks included. Two runs side by side agree on
    // each byte of the directory and on who was called back, after each step.
    let look = |bench: &Bench| (image(&bench.disk), bench.acknowledged.load(Ordering::SeqCst));
    each_seed(60, |seed| {
        let mut twins = [Bench::new(Mode::Driven, seed), Bench::new(Mode::Driven, seed)];
        let mut dice = Dice(!seed);
        for _ in 0..60 {
            let step = Step::roll(&mut dice);
            let seen = twins.each_mut().map(|bench| {
                bench.run(&step);
                look(bench)
            });
            assert!(seen[0] == seen[1], "they differ after {step:?}");
        }
        assert!(twins[0].crashes == twins[1].crashes && twins[0].made == twins[1].made);
    });
}
