//! Rounds of SIGKILL: while clients write, while the node starts, again and again.

use std::time::{Duration, Instant};

use crate::ledger::Ledger;
use crate::node::Node;
use crate::{Draw, asked, load};

#[tokio::test(flavor = "current_thread")]
async fn nothing_acknowledged_is_lost_over_rounds_of_sigkill_on_one_folder() {
    let rounds = asked("STEMEDB_CRASH_ROUNDS", 8);
    let seed = asked("STEMEDB_SEED", u64::from(std::process::id()));
    let begun = Instant::now();
    let mut node = Node::new();
    let mut ledger = Ledger::default();
    let mut early = 0;
    for round in 0..rounds {
        let mut draw = Draw(seed + round);
        node.start(node.command());
        if round > 0 && draw.below(4) == 0 {
            // Killed while it starts.
            tokio::time::sleep(Duration::from_millis(draw.below(200))).await;
            node.kill();
            node.start(node.command());
            early += 1;
        }
        node.ready().await.unwrap_or_else(|why| panic!("seed {seed}, round {round}: {why}"));
        check(&mut node, &mut ledger, round, &mut draw, seed).await;
        let load = load::begin(&mut node, seed + round, round).await;
        tokio::time::sleep(Duration::from_millis(20 + draw.below(500))).await;
        node.kill();
        load.end().await.into_iter().for_each(|written| ledger.note(written));
    }
    node.start(node.command());
    node.ready().await.unwrap();
    let all: Vec<String> = ledger.buckets().into_iter().collect();
    let verdict = ledger.compare(&mut node, &all).await;
    println!(
        "SIGKILL: rounds {rounds} (and {early} kills during the start), seed {seed}, acknowledged {}, \
         unknown {}, refused {}, lost {}, wrong {}, {} s",
        ledger.acknowledged,
        ledger.unknown,
        ledger.refused,
        verdict.lost.len(),
        verdict.wrong.len(),
        begun.elapsed().as_secs(),
    );
    assert!(verdict.is_good(), "seed {seed}: {verdict}");
    assert!(ledger.acknowledged > 20 * rounds, "too few writes to prove anything");
}

/// What the rounds before left is there. Old rounds are looked at by lot: there are many.
pub(crate) async fn check(
    node: &mut Node,
    ledger: &mut Ledger,
    round: u64,
    draw: &mut Draw,
    seed: u64,
) {
    if round == 0 {
        return;
    }
    let mut buckets = vec!["slots".to_owned(), load::bucket(round - 1)];
    if round > 1 {
        buckets.push(load::bucket(draw.below(round - 1)));
    }
    let verdict = ledger.compare(node, &buckets).await;
    assert!(verdict.is_good(), "seed {seed}, before round {round}: {verdict}");
}
