//! A run of entries laid over one another is the entries one by one.

use bytes::Bytes;
use proptest::prelude::*;
use stemedb_types::{ProjectId, Revision};

use crate::shard::suite::map::MapView;
use crate::shard::suite::random::Draw;
use crate::shard::suite::{Replica, all_keys, item, key, statement};
use crate::shard::{Answer, BucketNumber, Change, Command, Condition, Overlay, View, Write, apply};

/// Applies a run over one overlay; returns its answers and the changes, to be written together.
fn apply_run(view: &MapView, run: &[Command]) -> (Vec<Answer>, Vec<Change>) {
    let mut overlay = Overlay::new(view);
    let mut answers = Vec::new();
    let mut changes = Vec::new();
    for command in run {
        let outcome = apply(&overlay, command).unwrap();
        overlay.absorb(&outcome.changes);
        answers.push(outcome.answer);
        changes.extend(outcome.changes);
    }
    (answers, changes)
}

fn put(bucket: &str, name: &[u8], condition: Condition) -> Command {
    let write = Write::Put { key: key(name), value: Bytes::new(), condition, expires_at_ms: None };
    Command { project: ProjectId(1), bucket: bucket.parse().unwrap(), at_ms: 5, write, once: None }
}

#[test]
fn the_second_entry_of_a_run_sees_the_first() {
    let mut run = vec![
        put("a", b"k", Condition::Absent),
        put("a", b"k", Condition::Absent),
        put("b", b"k", Condition::Absent),
        put("a", b"k", Condition::RevisionIn(vec![Revision(1)])),
    ];
    let delete = Write::Delete { key: key(b"k"), condition: Condition::Exists };
    run.push(Command { write: delete, ..run[0].clone() });
    run.push(put("a", b"k", Condition::Absent));
    for _ in 0..2 {
        let items = vec![item("ci", &statement("s", "p", 1))];
        run.push(Command { write: Write::Assert { items }, ..run[0].clone() });
    }
    // A touch needs the value that stands in the run alone, an expire the lease.
    run.push(Command {
        write: Write::Touch { key: key(b"k"), expires_at_ms: 9 },
        ..run[0].clone()
    });
    for lease in [4, 6, 6] {
        let write = Write::Expire { key: key(b"k"), lease: Revision(lease) };
        run.push(Command { write, ..run[0].clone() });
    }
    run.push(Command { write: Write::Compact { to: Revision(5) }, ..run[0].clone() });
    let (answers, changes) = apply_run(&MapView::default(), &run);
    let told: Vec<String> = answers.iter().map(|answer| format!("{answer:?}")).collect();
    let wanted = [
        "Put { revision: Revision(1), created: true }",
        "PreconditionFailed { revision: Revision(1), current: Some(Revision(1)) }",
        "Put { revision: Revision(1), created: true }",
        "Put { revision: Revision(2), created: false }",
        "Deleted { revision: Revision(3) }",
        "Put { revision: Revision(4), created: true }",
        "Asserted { revision: Revision(5), items: [Created] }",
        "Asserted { revision: Revision(5), items: [Known] }",
        "Touched { revision: Revision(6), current: Revision(4) }",
        "PreconditionFailed { revision: Revision(6), current: Some(Revision(4)) }",
        "Deleted { revision: Revision(7) }",
        "NotFound { revision: Revision(7) }",
        "Compacted { revision: Revision(7), floor: Revision(5) }",
    ];
    assert_eq!(told, wanted);
    let mut state = MapView::default();
    state.write(&changes);
    let numbers: Vec<BucketNumber> = state.buckets.values().map(|state| state.number).collect();
    assert_eq!(numbers, [BucketNumber(0), BucketNumber(1)]);
}

#[test]
fn a_scan_over_a_half_applied_run_is_refused_and_not_answered_in_part() {
    let state = MapView::default();
    let overlay = Overlay::new(&state);
    let bucket = BucketNumber(0);
    let mut visit = |_| std::ops::ControlFlow::Continue(());
    let scanned = overlay.scan_keys(bucket, &all_keys(), Revision(1), false, &mut visit);
    assert!(scanned.is_err());
    assert!(overlay.version(bucket, &key(b"k"), Revision(1)).is_err());
    assert!(overlay.due(u64::MAX, 1).is_err());
    assert!(overlay.trimmed(bucket).is_err());
}

proptest! {
    #[test]
    fn a_run_over_an_overlay_is_its_entries_one_by_one(seed in any::<u64>(), count in 1usize..60) {
        let mut draw = Draw(seed);
        let commands: Vec<Command> = (0..count).map(|_| draw.command()).collect();
        let (mut single, mut single_answers) = (MapView::default(), Vec::new());
        for command in &commands {
            let outcome = apply(&single, command).unwrap();
            single.write(&outcome.changes);
            single_answers.push(outcome.answer);
        }
        let (mut in_runs, mut run_answers) = (MapView::default(), Vec::new());
        let mut left = &commands[..];
        while !left.is_empty() {
            let (run, rest) = left.split_at(1 + draw.below(left.len() as u64) as usize);
            let (answers, changes) = apply_run(&in_runs, run);
            // Written twice, as a replay after a crash may: the same as once.
            in_runs.write(&changes);
            in_runs.write(&changes);
            run_answers.extend(answers);
            left = rest;
        }
        prop_assert_eq!(single_answers, run_answers);
        prop_assert_eq!(&single, &in_runs);
        // Revisions of a bucket are 1, 2, 3 … without a gap, those above its floor in the log once.
        for state in single.buckets.values() {
            let of_bucket = single.log.keys().filter(|(bucket, _)| *bucket == state.number);
            let revisions: Vec<u64> = of_bucket.map(|(_, revision)| revision.0).collect();
            prop_assert_eq!(revisions, (state.compacted.0 + 1..=state.revision.0).collect::<Vec<_>>());
        }
    }
}
