//! The bound on kept answers, and what must hold of them whatever happens.

use proptest::prelude::*;
use stemedb_types::{ProjectId, Revision};

use crate::shard::apply::apply_keeping;
use crate::shard::suite::map::MapView;
use crate::shard::suite::once::put;
use crate::shard::suite::random::Draw;
use crate::shard::suite::{Replica, Run};
use crate::shard::{
    Answer, Command, Condition, Fingerprint, IdempotencyKey, KeptRange, Once, apply,
};

fn named(name: &str, at_ms: u64) -> Command {
    let key = IdempotencyKey::new(name.to_owned()).unwrap();
    Command {
        project: ProjectId(1),
        bucket: "b".parse().unwrap(),
        at_ms,
        write: put(b"k", b"v", Condition::Always),
        once: Some(Once { key, fingerprint: Fingerprint([1; 32]) }),
    }
}

#[test]
fn beyond_the_bound_the_oldest_goes_before_its_time_and_no_write_is_refused() {
    let mut state = MapView::default();
    for n in 0..7u64 {
        let outcome = apply_keeping(&state, &named(&format!("n{n}"), 1000), 4).unwrap();
        let revision = Revision(n + 1);
        assert_eq!(outcome.answer, Answer::Put { revision, created: n == 0 });
        state.write(&outcome.changes);
        assert!(state.kept.len() <= 4, "{}", state.kept.len());
    }
    let names: Vec<&[u8]> =
        state.kept_names.values().map(|name| &name.key.as_bytes()[..]).collect();
    assert_eq!(names, [b"n3", b"n4", b"n5", b"n6"]);
    // The oldest of those that stand is answered again, the one before it is a new write.
    let kept = apply_keeping(&state, &named("n3", 1000), 4).unwrap();
    let first = Answer::Put { revision: Revision(4), created: false };
    assert_eq!(kept.answer, Answer::Replayed(Box::new(first)));
    assert_eq!(kept.changes, []);
    let forgotten = apply_keeping(&state, &named("n2", 1000), 4).unwrap();
    assert_eq!(forgotten.answer, Answer::Put { revision: Revision(8), created: false });
}

#[test]
fn a_bound_of_one_is_the_last_write() {
    let mut run = Run::new(MapView::default());
    for (name, at_ms) in [("a", 1), ("b", 2), ("a", 3), ("a", 3), ("b", 4)] {
        let outcome = apply_keeping(&run.replica, &named(name, at_ms), 1).unwrap();
        run.replica.write(&outcome.changes);
    }
    run.in_bucket(1, "b");
    assert_eq!(run.kept(), (KeptRange { first: 3, next: 4, oldest_ms: 4 }, vec!["b".to_owned()]));
    assert_eq!(run.replica.kept.len(), 1);
}

#[test]
fn a_name_is_1_to_64_visible_characters() {
    let long = "x".repeat(64);
    for good in ["a", "!~", long.as_str()] {
        assert!(IdempotencyKey::new(good.to_owned()).is_some(), "{good}");
    }
    let longer = "x".repeat(65);
    for bad in ["", "a b", "a\n", "\u{7f}", "é", longer.as_str()] {
        assert!(IdempotencyKey::new(bad.to_owned()).is_none(), "{bad:?}");
    }
}

proptest! {
    #[test]
    fn every_number_leads_to_an_answer_and_back_and_two_replicas_keep_the_same(
        seed in any::<u64>(), count in 1usize..80,
    ) {
        let mut draw = Draw(seed);
        let (mut one, mut two) = (MapView::default(), MapView::default());
        for _ in 0..count {
            let command = draw.command();
            for state in [&mut one, &mut two] {
                let outcome = apply(state, &command).unwrap();
                state.write(&outcome.changes);
            }
            prop_assert_eq!(one.kept.len(), one.kept_names.len());
        }
        prop_assert_eq!(&one, &two);
        for ((project, bucket, sequence), name) in &one.kept_names {
            let range = one.kept_ranges[&(*project, bucket.clone())];
            prop_assert!((range.first..range.next).contains(sequence));
            let answer = &one.kept[&(*project, bucket.clone(), name.key.clone())];
            prop_assert_eq!((answer.sequence, answer.at_ms), (*sequence, name.at_ms));
            let first = !matches!(answer.answer, Answer::Replayed(_) | Answer::Mismatch { .. });
            prop_assert!(first, "an answer within an answer");
        }
    }
}
