//! Floors: history let go of, and what stays.

use stemedb_types::Revision;

use super::keys::{Scan, put, value, version};
use super::{Replica, Run, agent, item, statement};
use crate::shard::{Answer, COMPACT_REVISIONS_MAX, Condition, Head, Read, ReadAnswer, View};

fn compacted(revision: u64, floor: u64) -> Answer {
    Answer::Compacted { revision: Revision(revision), floor: Revision(floor) }
}

fn gone(newest: u64) -> ReadAnswer {
    ReadAnswer::Compacted { revision: Revision(newest) }
}

pub fn below_the_floor_is_refused_and_at_it_everything_reads_as_it_was<R: Replica>(
    run: &mut Run<R>,
) {
    run.put(b"a", b"1");
    run.put(b"b", b"2");
    run.put(b"a", b"3");
    run.put(b"c", b"4");
    run.delete(b"c");
    run.put_until(b"t", b"6", 1);
    run.touch(b"t", 2);
    run.put(b"a", b"8");
    run.delete(b"b");
    let states: Vec<_> = (0..=9).map(|as_of| everything(run, as_of)).collect();
    for floor in [4, 5, 7, 9] {
        assert_eq!(run.compact(floor), compacted(9, floor));
        for (as_of, state) in (0u64..).zip(&states) {
            if as_of < floor {
                assert_eq!(run.get(b"a", Some(as_of)), gone(9), "floor {floor}, as of {as_of}");
            } else {
                assert_eq!(&everything(run, as_of), state, "floor {floor}, as of {as_of}");
            }
        }
        let now = Scan { as_of: None, ..Scan::default() };
        assert_eq!(run.page(&now, None).1, states[9].0);
    }
}

/// Every key by scan, both ways, and by look-up.
fn everything<R: Replica>(
    run: &Run<R>,
    as_of: u64,
) -> (Vec<crate::shard::ScanRow>, Vec<ReadAnswer>) {
    let scan = |reverse| Scan { as_of: Some(as_of), reverse, ..Scan::default() };
    let (_, rows, _) = run.page(&scan(false), None);
    let (_, mut reversed, _) = run.page(&scan(true), None);
    reversed.reverse();
    assert_eq!(rows, reversed);
    let keys: [&[u8]; 4] = [b"a", b"b", b"c", b"t"];
    (rows, keys.iter().map(|key| run.get(key, Some(as_of))).collect())
}

pub fn a_jump_goes_on_behind_what_may_be_lost_and_forgets_all_history<R: Replica>(
    run: &mut Run<R>,
) {
    const FAR: u64 = 1 << 32;
    // There is no bucket, and none is made.
    assert_eq!(run.jump(FAR), compacted(0, 0));
    assert_eq!(run.replica.view().bucket(run.project, &run.bucket).unwrap(), None);
    run.put(b"k", b"1");
    run.put(b"k", b"2");
    run.put(b"gone", b"3");
    run.delete(b"gone");
    assert_eq!(run.jump(FAR + 4), compacted(FAR + 4, FAR + 4));
    for as_of in [2, 4, FAR + 3] {
        assert_eq!(run.get(b"k", Some(as_of)), gone(FAR + 4), "as of {as_of}");
    }
    let two = version(FAR + 4, FAR + 4, 2, b"2");
    assert_eq!(run.get(b"k", Some(FAR + 4)), value(FAR + 4, Some(two.clone())));
    assert_eq!(run.get(b"gone", None), value(FAR + 4, None));
    // Never back, and the next write is the next revision.
    assert_eq!(run.jump(7), compacted(FAR + 4, FAR + 4));
    assert_eq!(run.put(b"k", b"5"), put(FAR + 5, false));
    assert_eq!(run.get(b"k", Some(FAR + 4)), value(FAR + 4, Some(two)));
}

pub fn after_a_jump_no_number_from_before_it_is_shown_or_holds<R: Replica>(run: &mut Run<R>) {
    const FAR: u64 = 1 << 32;
    for key in [b"a", b"b", b"c"] {
        run.put(key, b"1");
    }
    run.jump(FAR);
    // Not the one that stands in the store, nor one that was lost with the others.
    for old in [0, 2, 3, FAR - 1] {
        let refused =
            Answer::PreconditionFailed { revision: Revision(FAR), current: Some(Revision(FAR)) };
        let condition = || Condition::RevisionIn(vec![Revision(old)]);
        assert_eq!(run.put_if(b"b", b"2", condition()), refused);
        assert_eq!(run.delete_if(b"b", condition()), refused);
        assert_eq!(run.get(b"b", None), value(FAR, Some(version(FAR, FAR, 1, b"1"))));
    }
    let shown = || Condition::RevisionIn(vec![Revision(FAR)]);
    assert_eq!(run.put_if(b"b", b"2", shown()), put(FAR + 1, false));
    assert_eq!(run.delete_if(b"c", shown()), Answer::Deleted { revision: Revision(FAR + 2) });
    // A page shows what a get does, and a touch leaves it.
    let touched = Answer::Touched { revision: Revision(FAR + 3), current: Revision(FAR) };
    assert_eq!(run.touch(b"a", 1 << 50), touched);
    let (_, rows, _) = run.page(&Scan::default(), None);
    let numbers = |head: Head| (head.create_revision.0, head.mod_revision.0, head.version);
    let rows: Vec<_> = rows.into_iter().map(|row| numbers(row.version.head)).collect();
    assert_eq!(rows, [(FAR, FAR, 1), (FAR, FAR + 1, 2)]);
    // A floor that goes up changes no number.
    run.compact(FAR + 3);
    assert_eq!(run.put_if(b"a", b"2", shown()), put(FAR + 4, false));
}

pub fn behind_a_base_every_new_bucket_begins<R: Replica>(run: &mut Run<R>) {
    const FAR: u64 = 1 << 32;
    run.put(b"k", b"1");
    assert_eq!(run.base(FAR), compacted(FAR, FAR));
    assert_eq!(run.base(7), compacted(FAR, FAR), "never back");
    // Those that are there go on as they did: a jump is their own affair.
    assert_eq!(run.put(b"k", b"2"), put(2, false));
    run.in_bucket(1, "new");
    assert_eq!(run.jump(2 * FAR), compacted(FAR, FAR), "there is none, and none is made");
    assert_eq!(run.get(b"k", None), value(0, None));
    assert_eq!(run.put(b"k", b"1"), put(FAR + 1, true));
    assert_eq!(run.get(b"k", Some(FAR - 1)), gone(FAR + 1));
    let one = version(FAR + 1, FAR + 1, 1, b"1");
    assert_eq!(run.get(b"k", None), value(FAR + 1, Some(one)));
    assert_eq!(run.get(b"k", Some(FAR)), value(FAR, None));
    assert_eq!(run.in_bucket(2, "new").put(b"k", b"1"), put(FAR + 1, true));
}

pub fn a_compaction_takes_no_revision_and_goes_so_far_at_a_time<R: Replica>(run: &mut Run<R>) {
    // There is no bucket, and none is made.
    assert_eq!(run.compact(7), compacted(0, 0));
    assert_eq!(run.replica.view().bucket(run.project, &run.bucket).unwrap(), None);
    run.put(b"k", b"1");
    // A second bucket, then the floor of the first: its number is not given out again.
    run.in_bucket(1, "second").put(b"k", b"");
    run.in_bucket(1, "default");
    assert_eq!(run.compact(1), compacted(1, 1));
    assert_eq!(run.in_bucket(1, "third").put(b"k", b"third"), put(1, true));
    let second = value(1, Some(version(1, 1, 1, b"")));
    assert_eq!(run.in_bucket(1, "second").get(b"k", None), second);
    run.in_bucket(1, "default");
    assert_eq!(run.put(b"k", b"2"), put(2, false));
    // Never beyond what is there, never back.
    assert_eq!(run.compact(u64::MAX), compacted(2, 2));
    assert_eq!(run.compact(1), compacted(2, 2));
    for n in 3..=COMPACT_REVISIONS_MAX + 5 {
        assert_eq!(run.put(b"k", b""), put(n, false));
    }
    let (newest, reach) = (COMPACT_REVISIONS_MAX + 5, COMPACT_REVISIONS_MAX + 2);
    assert_eq!(run.compact(newest), compacted(newest, reach));
    assert_eq!(run.get(b"k", Some(reach - 1)), gone(newest));
    assert_eq!(run.compact(newest), compacted(newest, newest));
}

pub fn the_floor_of_one_bucket_is_not_that_of_another<R: Replica>(run: &mut Run<R>) {
    for bucket in ["a", "b"] {
        run.in_bucket(1, bucket).put(b"k", b"1");
        run.put(b"k", b"2");
        run.put(b"k", b"3");
    }
    run.in_bucket(1, "a").compact(3);
    assert_eq!(run.get(b"k", Some(1)), gone(3));
    let first = value(1, Some(version(1, 1, 1, b"1")));
    assert_eq!(run.in_bucket(1, "b").get(b"k", Some(1)), first);
    assert_eq!(run.in_bucket(2, "a").get(b"k", None), value(0, None));
    // Claims have no versions to let go of: only the past of a query is refused.
    run.in_bucket(1, "a").assert(vec![item("ci", &statement("s", "p", 1))]);
    run.put(b"k", b"5");
    run.compact(5);
    let read = run.read(&Read::Claim { id: statement("s", "p", 1).id() });
    let ReadAnswer::Claims { answers, .. } = read else { panic!("{read:?}") };
    assert_eq!(answers[0].attestations[0].agent, agent("ci"));
}

pub fn a_key_that_is_gone_below_the_floor_can_be_made_again<R: Replica>(run: &mut Run<R>) {
    run.put(b"k", b"1");
    run.delete(b"k");
    run.put(b"other", b"3");
    run.compact(3);
    assert_eq!(run.get(b"k", None), value(3, None));
    assert_eq!(run.get(b"k", Some(3)), value(3, None));
    assert_eq!(run.put(b"k", b"4"), put(4, true));
    assert_eq!(run.get(b"k", None), value(4, Some(version(4, 4, 1, b"4"))));
    assert_eq!(run.get(b"k", Some(3)), value(3, None));
    run.compact(4);
    assert_eq!(run.get(b"k", None), value(4, Some(version(4, 4, 1, b"4"))));
}
