//! Bits that flip on disk: nothing wrong is ever served.
//!
//! A node writes a real data directory: several shards, history, deletions, claims, tables that
//! were flushed and a log that holds what was not. It is copied as a kill would leave it. Then one
//! bit of one file is flipped at a time, log and store are opened, and everything that can be read
//! is read, by the same code that serves it: the log's entries, notes and marks; every version of
//! every key, scans both ways, every claim by pattern and by id, what the meta group knows.
//!
//! | outcome | what it means |
//! |---|---|
//! | no effect | everything is as it was: nobody needs the bit |
//! | refused | it does not open, and says why |
//! | told | it opens, says that there is damage, and no stream has lost anything by it |
//! | quarantined | it opens, says which streams lost records, and answers nothing for them |
//! | cut | the log ends earlier and says that it cut a torn tail |
//! | read error | what the bit is part of can't be read, and says so |
//! | replayed | the store is an earlier one, as its marks say, and the log still has the rest |
//! | gap | the store is an earlier one, as its marks say, and the log begins too late: the group stops |
//! | WRONG, PANIC | must not be |
//!
//! A bit of the newest batch of the log is the one case in which damage looks like a torn write:
//! nothing behind it proves that it was synced. `STEMEDB_FLIPS` asks for more than a test run
//! needs, `STEMEDB_SEED` sets where they fall.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod log;
mod place;
mod store;

use std::collections::BTreeMap;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use place::{Place, Target};

/// What became of a flipped bit.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Outcome {
    NoEffect,
    Refused,
    Told,
    Quarantined,
    Cut,
    ReadError,
    Replayed,
    Gap,
    Wrong(String),
    Panic,
}

impl Outcome {
    fn column(&self) -> usize {
        match self {
            Self::NoEffect => 0,
            Self::Refused => 1,
            Self::Told => 2,
            Self::Quarantined => 3,
            Self::Cut => 4,
            Self::ReadError => 5,
            Self::Replayed => 6,
            Self::Gap => 7,
            Self::Wrong(_) => WRONG,
            Self::Panic => 9,
        }
    }
}

const WRONG: usize = 8;
const COLUMNS: [&str; 10] = [
    "no effect",
    "refused",
    "told",
    "quarantined",
    "cut",
    "read error",
    "replayed",
    "gap",
    "WRONG",
    "PANIC",
];

/// How often what became of bits of what.
#[derive(Default)]
struct Table {
    rows: BTreeMap<&'static str, [u64; COLUMNS.len()]>,
    bad: Vec<String>,
}

impl Table {
    fn note(&mut self, target: &Target, outcome: Outcome) {
        self.rows.entry(target.kind.name()).or_default()[outcome.column()] += 1;
        if matches!(outcome, Outcome::Wrong(_) | Outcome::Panic) {
            self.bad.push(format!("{target:?}: {outcome:?}"));
        }
    }

    fn sum(&self, column: usize) -> u64 {
        self.rows.values().map(|row| row[column]).sum()
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "| bits of | flips |")?;
        COLUMNS.iter().try_for_each(|column| write!(f, " {column} |"))?;
        writeln!(f)?;
        writeln!(f, "|---|{}", "---|".repeat(COLUMNS.len() + 1))?;
        for (kind, row) in &self.rows {
            write!(f, "| {kind} | {} |", row.iter().sum::<u64>())?;
            row.iter().try_for_each(|count| write!(f, " {count} |"))?;
            writeln!(f)?;
        }
        let all: u64 = (0..COLUMNS.len()).map(|column| self.sum(column)).sum();
        write!(f, "| all | {all} |")?;
        (0..COLUMNS.len()).try_for_each(|column| write!(f, " {} |", self.sum(column)))
    }
}

/// SplitMix64: the same draws from the same seed.
pub(crate) struct Draw(pub(crate) u64);

impl Draw {
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % bound
    }
}

fn asked(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).map_or(otherwise, |text| text.parse().expect("a number"))
}

const PROGRESS_FLIPS: u64 = 1000;

#[test]
fn no_flipped_bit_is_ever_served() {
    let flips = asked("STEMEDB_FLIPS", 300);
    let seed = asked("STEMEDB_SEED", 1);
    let place = Place::make();
    let log = log::Truth::read(&place);
    let store = store::Truth::read(&place, &log);
    let table = Mutex::new(Table::default());
    let next = AtomicU64::new(0);
    let workers = thread::available_parallelism().map_or(2, usize::from).min(4);
    thread::scope(|scope| {
        for worker in 0..workers {
            let (place, log, store, table, next) = (&place, &log, &store, &table, &next);
            scope.spawn(move || {
                let bench = store::Bench::new(place, worker);
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= flips {
                        return;
                    }
                    let target = place.draw(&mut Draw(seed.wrapping_add(number << 20)));
                    let tried = catch_unwind(AssertUnwindSafe(|| {
                        if target.kind.is_of_log() {
                            log.try_flip(&target)
                        } else {
                            store.try_flip(&bench, &target)
                        }
                    }));
                    let outcome = tried.unwrap_or(Outcome::Panic);
                    table.lock().unwrap().note(&target, outcome);
                    if number % PROGRESS_FLIPS == PROGRESS_FLIPS - 1 {
                        println!("{} of {flips} bits", number + 1);
                    }
                }
            });
        }
    });
    let table = table.into_inner().unwrap();
    println!(
        "bit flips: {flips}, seed {seed}, over {} and {}; wrong bytes served {}\n{table}",
        log,
        store,
        table.sum(WRONG),
    );
    assert!(table.bad.is_empty(), "seed {seed}: {:#?}", table.bad);
    let noticed: u64 = (1..WRONG).map(|column| table.sum(column)).sum();
    assert!(noticed * 4 > flips, "too few flips hit anything that matters");
}
