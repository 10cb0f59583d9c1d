//! Rounds of power cuts: the process is killed, and its folders become what a power cut would have
//! left, log, store and identity alike.

use std::time::{Duration, Instant};

use crate::faults::power::{Cut, Image};
use crate::faults::{Faults, Switch};
use crate::kill::check;
use crate::ledger::Ledger;
use crate::node::Node;
use crate::{Draw, asked, load};

/// A node, what its folders held when its process began, and what watches it.
struct Watched {
    node: Node,
    faults: Faults,
    before: Image,
}

impl Watched {
    fn new() -> Self {
        let node = Node::new();
        let faults = Faults::new(&[&node.data()], &node.aside());
        let before = Image::read(faults.roots());
        Self { node, faults, before }
    }

    fn start(&mut self) {
        let mut command = self.node.command();
        self.faults.put_on(&mut command);
        self.node.start(command);
    }

    /// The power goes. The folders are then what it left.
    fn cut(&mut self, draw: &mut Draw) -> Cut {
        self.node.kill();
        let diary = self.faults.diary();
        let (left, cut) = self.before.after_cut(&diary, &mut |bound| draw.below(bound));
        left.write(self.faults.roots());
        self.before = Image::read(self.faults.roots());
        cut
    }
}

#[tokio::test(flavor = "current_thread")]
async fn nothing_acknowledged_is_lost_over_rounds_of_power_cuts_on_one_folder() {
    let rounds = asked("STEMEDB_POWER_ROUNDS", 3);
    let seed = asked("STEMEDB_SEED", u64::from(std::process::id()));
    let begun = Instant::now();
    let mut watched = Watched::new();
    let mut ledger = Ledger::default();
    let mut lost = Cut::default();
    let mut early = 0;
    let mut add = |cut: Cut| {
        lost.unsynced_writes += cut.unsynced_writes;
        lost.lost_writes += cut.lost_writes;
        lost.unsynced_names += cut.unsynced_names;
        lost.lost_names += cut.lost_names;
    };
    for round in 0..rounds {
        let mut draw = Draw(seed + round);
        watched.start();
        if draw.below(3) == 0 {
            // While it starts, or founds its cluster.
            tokio::time::sleep(Duration::from_millis(draw.below(300))).await;
            add(watched.cut(&mut draw));
            watched.start();
            early += 1;
        }
        let node = &mut watched.node;
        node.ready().await.unwrap_or_else(|why| panic!("seed {seed}, round {round}: {why}"));
        check(node, &mut ledger, round, &mut draw, seed).await;
        let load = load::begin(node, seed + round, round).await;
        // Long enough for the log to be cut and the store to be flushed in some rounds.
        tokio::time::sleep(Duration::from_millis(50 + draw.below(2000))).await;
        node.kill();
        load.end().await.into_iter().for_each(|written| ledger.note(written));
        add(watched.cut(&mut draw));
    }
    watched.start();
    watched.node.ready().await.unwrap_or_else(|why| panic!("seed {seed}, at the end: {why}"));
    let all: Vec<String> = ledger.buckets().into_iter().collect();
    let verdict = ledger.compare(&mut watched.node, &all).await;
    println!(
        "power cuts: rounds {rounds} (and {early} cuts during the start), seed {seed}, unsynced \
         writes {} (lost or torn {}), unsynced names {} (lost {}), acknowledged {}, unknown {}, \
         lost {}, wrong {}, {} s",
        lost.unsynced_writes,
        lost.lost_writes,
        lost.unsynced_names,
        lost.lost_names,
        ledger.acknowledged,
        ledger.unknown,
        verdict.lost.len(),
        verdict.wrong.len(),
        begun.elapsed().as_secs(),
    );
    assert!(verdict.is_good(), "seed {seed}: {verdict}");
    assert!(lost.lost_writes > 0, "the cuts took nothing");
    assert!(ledger.acknowledged > 20 * rounds, "too few writes to prove anything");
}

/// The harness itself: on a disk that only says that it has synced, writes are missed.
#[tokio::test(flavor = "current_thread")]
async fn a_disk_that_lies_about_its_syncs_loses_what_was_acknowledged_and_that_is_noticed() {
    let mut watched = Watched::new();
    let mut ledger = Ledger::default();
    watched.start();
    watched.node.ready().await.expect("an honest disk keeps it alive");
    let load = load::begin(&mut watched.node, 1, 0).await;
    watched.faults.set(Switch::LieSync, 1);
    tokio::time::sleep(Duration::from_millis(500)).await;
    watched.node.kill();
    load.end().await.into_iter().for_each(|written| ledger.note(written));
    watched.faults.set(Switch::LieSync, 0);
    // The plainest cut: everything that no sync has covered is gone.
    let (left, cut) = watched.before.after_cut(&watched.faults.diary(), &mut |_| 0);
    left.write(watched.faults.roots());
    assert!(cut.lost_writes > 0, "{cut:?}");
    watched.start();
    watched.node.ready().await.expect("what is left is an earlier state, and whole");
    let buckets = ["slots".to_owned(), load::bucket(0)];
    let verdict = ledger.compare(&mut watched.node, &buckets).await;
    println!("lying disk: acknowledged {}, lost {}", ledger.acknowledged, verdict.lost.len());
    assert!(verdict.lost.len() > 20, "{} acknowledged, {verdict}", ledger.acknowledged);
}

/// The harness itself: nothing that the process does to its folders goes past the diary.
#[tokio::test(flavor = "current_thread")]
async fn the_diary_tells_everything_that_a_node_did_to_its_folders() {
    let mut watched = Watched::new();
    let mut ledger = Ledger::default();
    for round in 0..2 {
        watched.start();
        watched.node.ready().await.unwrap();
        let load = load::begin(&mut watched.node, 7, round).await;
        // The store is flushed and the log is cut when a second has passed.
        tokio::time::sleep(Duration::from_millis(2500)).await;
        watched.node.stop();
        load.end().await.into_iter().for_each(|written| ledger.note(written));
        let diary = watched.faults.diary();
        let told = watched.before.after_all(&diary);
        let found = Image::read(watched.faults.roots());
        let differ = told.differs(&found);
        assert!(differ.is_empty(), "the diary lacks something of {differ:?}");
        assert!(diary.notes.len() > 100, "too little was done: {}", diary.notes.len());
        watched.before = found;
    }
    assert!(ledger.acknowledged > 100, "too few writes to prove anything");
}
