//! Named writes: done once, however often they come.

use bytes::Bytes;
use stemedb_types::Revision;

use super::{Replica, Run, item, key, statement};
use crate::shard::{
    ANSWERS_KEPT_MS, Answer, AssertStatus, Command, Condition, Fingerprint, IdempotencyKey,
    KeptRange, Once, ReadAnswer, View, Write,
};

impl<R: Replica> Run<R> {
    /// A write with a name that stands for `meaning`, stamped `at_ms`.
    pub fn named(&mut self, name: &str, meaning: u8, at_ms: u64, write: Write) -> Answer {
        let (project, bucket) = (self.project, self.bucket.clone());
        let key = IdempotencyKey::new(name.to_owned()).unwrap();
        let once = Some(Once { key, fingerprint: Fingerprint([meaning; 32]) });
        self.command(&Command { project, bucket, at_ms, write, once })
    }

    /// Which answers stand, and the names that their numbers lead to.
    pub fn kept(&self) -> (KeptRange, Vec<String>) {
        let view = self.replica.view();
        let range = view.kept_range(self.project, &self.bucket).unwrap();
        let all = 0..range.next + 1;
        let names = all.filter_map(|n| view.kept_name(self.project, &self.bucket, n).unwrap());
        let text = |key: IdempotencyKey| String::from_utf8(key.as_bytes().to_vec()).unwrap();
        (range, names.map(|name| text(name.key)).collect())
    }
}

pub fn put(name: &[u8], value: &'static [u8], condition: Condition) -> Write {
    Write::Put { key: key(name), value: Bytes::from(value), condition, expires_at_ms: None }
}

fn again(answer: &Answer) -> Answer {
    Answer::Replayed(Box::new(answer.clone()))
}

pub fn a_named_write_is_done_once_and_answered_the_same_every_time<R: Replica>(run: &mut Run<R>) {
    let write = put(b"k", b"v", Condition::Always);
    let first = run.named("n", 1, 1000, write.clone());
    assert_eq!(first, Answer::Put { revision: Revision(1), created: true });
    // Others write meanwhile: the answer is what it was, and their value stands.
    run.put(b"k", b"theirs");
    assert_eq!(run.named("n", 1, 2000, write.clone()), again(&first));
    assert_eq!(run.named("n", 1, 1500, write.clone()), again(&first));
    let ReadAnswer::Value { revision, version } = run.get(b"k", None) else { panic!() };
    let version = version.unwrap();
    assert_eq!((revision, version.value), (Revision(2), Bytes::from("theirs")));
    // Under another name it is another write, and so is this name in another bucket.
    let second = run.named("m", 1, 2000, write.clone());
    assert_eq!(second, Answer::Put { revision: Revision(3), created: false });
    let elsewhere = run.in_bucket(1, "other").named("n", 1, 2000, write.clone());
    assert_eq!(elsewhere, Answer::Put { revision: Revision(1), created: true });
    let theirs = run.in_bucket(2, "default").named("n", 1, 2000, write);
    assert_eq!(theirs, Answer::Put { revision: Revision(1), created: true });
}

pub fn whatever_a_named_write_was_answered_is_kept<R: Replica>(run: &mut Run<R>) {
    // Even of a bucket that is not there, and does not come to be by it.
    let delete = Write::Delete { key: key(b"k"), condition: Condition::Always };
    let absent = run.named("delete", 1, 1000, delete.clone());
    assert_eq!(absent, Answer::NotFound { revision: Revision(0) });
    assert_eq!(run.replica.view().bucket(run.project, &run.bucket).unwrap(), None);
    run.put(b"k", b"v");
    assert_eq!(run.named("delete", 1, 1000, delete.clone()), again(&absent));
    let if_absent = put(b"k", b"w", Condition::Absent);
    let failed = run.named("if", 1, 1000, if_absent.clone());
    let current = Some(Revision(1));
    assert_eq!(failed, Answer::PreconditionFailed { revision: Revision(1), current });
    run.delete(b"k");
    assert_eq!(run.named("if", 1, 1000, if_absent), again(&failed));
    assert_eq!(run.named("delete", 1, 1000, delete), again(&absent));
    let items = vec![item("ci", &statement("s", "p", 1)), item("ci", &statement("s", "p", 1))];
    let made = run.named("assert", 1, 1000, Write::Assert { items: items.clone() });
    let statuses = vec![AssertStatus::Created, AssertStatus::Known];
    assert_eq!(made, Answer::Asserted { revision: Revision(3), items: statuses });
    assert_eq!(run.named("assert", 1, 1000, Write::Assert { items }), again(&made));
    let touch = Write::Touch { key: key(b"t"), expires_at_ms: 9 };
    run.put(b"t", b"");
    let touched = run.named("touch", 1, 1000, touch.clone());
    assert_eq!(touched, Answer::Touched { revision: Revision(5), current: Revision(4) });
    assert_eq!(run.named("touch", 1, 1000, touch), again(&touched));
    // What a replay was answered is not kept in turn.
    let (range, names) = run.kept();
    assert_eq!((range.first, range.next), (0, 4));
    assert_eq!(names, ["delete", "if", "assert", "touch"]);
}

pub fn a_name_that_stands_for_something_else_is_told_so_and_nothing_is_done<R: Replica>(
    run: &mut Run<R>,
) {
    run.put(b"k", b"v");
    let write = put(b"k", b"w", Condition::Always);
    let first = run.named("n", 1, 1000, write.clone());
    let other = put(b"k", b"x", Condition::Always);
    let refused = Answer::Mismatch { revision: Revision(2) };
    assert_eq!(run.named("n", 2, 1000, other.clone()), refused);
    assert_eq!(run.named("n", 2, 1000, other.clone()), refused);
    assert_eq!(run.named("n", 1, 1000, write), again(&first));
    // Its time over, the name is free for anything.
    let free = run.named("n", 2, 1000 + ANSWERS_KEPT_MS, other);
    assert_eq!(free, Answer::Put { revision: Revision(3), created: false });
}

pub fn an_answer_counts_for_its_time_by_the_stamps_and_not_a_ms_longer<R: Replica>(
    run: &mut Run<R>,
) {
    let write = put(b"k", b"v", Condition::Always);
    let made = 1_000_000;
    let first = run.named("n", 1, made, write.clone());
    // A later leader's clock may be behind.
    for at_ms in [made - 999_999, made, made + ANSWERS_KEPT_MS - 1] {
        assert_eq!(run.named("n", 1, at_ms, write.clone()), again(&first), "at {at_ms}");
    }
    let second = run.named("n", 1, made + ANSWERS_KEPT_MS, write.clone());
    assert_eq!(second, Answer::Put { revision: Revision(2), created: false });
    // The new one counts from its own stamp, and the old one's number is nobody's.
    assert_eq!(run.named("n", 1, made + 2 * ANSWERS_KEPT_MS - 1, write), again(&second));
    let oldest_ms = made + ANSWERS_KEPT_MS;
    assert_eq!(run.kept(), (KeptRange { first: 1, next: 2, oldest_ms }, vec!["n".to_owned()]));
}

pub fn named_writes_drop_old_answers_faster_than_they_add_new_ones<R: Replica>(run: &mut Run<R>) {
    let write = || put(b"k", b"v", Condition::Always);
    for n in 0..6 {
        run.named(&format!("old{n}"), 1, 1000 + n, write());
    }
    let later = 1000 + ANSWERS_KEPT_MS;
    let names = |run: &Run<R>| run.kept().1.join(" ");
    // One is over, the next is not yet.
    run.named("new0", 1, later, write());
    assert_eq!(names(run), "old1 old2 old3 old4 old5 new0");
    // All are: two go with each write, and a name that comes again leaves its number empty.
    run.named("old3", 1, later + 9, write());
    assert_eq!(names(run), "old4 old5 new0 old3");
    run.named("new1", 1, later + 9, write());
    assert_eq!(names(run), "old5 new0 old3 new1");
    // A write without a name drops nothing; a replay does not either.
    run.put(b"k", b"v");
    run.named("new1", 1, later + 9, write());
    assert_eq!(names(run), "old5 new0 old3 new1");
    run.named("new2", 1, later + 9, write());
    let (range, names) = run.kept();
    assert_eq!((names.join(" "), range.first, range.next), ("new0 old3 new1 new2".into(), 6, 10));
}

pub fn a_compaction_drops_the_answers_of_a_bucket_gone_quiet<R: Replica>(run: &mut Run<R>) {
    for n in 0..5 {
        run.named(&format!("n{n}"), 1, 1000 + n, put(b"k", b"v", Condition::Always));
    }
    let compact = |run: &mut Run<R>, at_ms| {
        let (project, bucket) = (run.project, run.bucket.clone());
        let write = Write::Compact { to: Revision(0) };
        run.command(&Command { project, bucket, at_ms, write, once: None });
        run.kept().1.len()
    };
    assert_eq!(compact(run, 1002), 5);
    assert_eq!(compact(run, 1002 + ANSWERS_KEPT_MS), 2);
    assert_eq!(compact(run, 1004 + ANSWERS_KEPT_MS), 0);
    assert_eq!(run.kept().0, KeptRange { first: 5, next: 5, oldest_ms: 1003 });
}
