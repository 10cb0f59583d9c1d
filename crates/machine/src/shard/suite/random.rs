//! Commands and reads drawn from a seed, out of so few names that they meet.

use bytes::Bytes;
use stemedb_claims::Lens;
use stemedb_types::{ProjectId, Revision};

use super::map::MapView;
use super::{Replica, Run, agent, item, key, statement};
use crate::shard::{
    Command, Condition, Cursor, Fingerprint, IdempotencyKey, KeyRange, Once, Pattern, Read,
    ReadAnswer, TextMatch, View, Write,
};

const KEYS: [&[u8]; 8] = [b"a", b"a\0", b"a\0\x01", b"a\0\xff", b"ab", b"b", b"\0", b"\xff"];
const TERMS: [&str; 5] = ["s", "s\0", "s/1", "s/", "t"];
const AGENTS: [&str; 3] = ["a", "aa", "b"];

/// SplitMix64: the same draws from the same seed, everywhere and for ever.
pub struct Draw(pub u64);

impl Draw {
    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % bound
    }

    fn of<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.below(all.len() as u64) as usize]
    }

    fn revision(&mut self) -> Revision {
        Revision(self.below(40))
    }

    fn condition(&mut self) -> Condition {
        match self.below(8) {
            0 => Condition::Exists,
            1 => Condition::Absent,
            2 => Condition::RevisionIn((0..20).map(|_| self.revision()).collect()),
            3 => Condition::RevisionNotIn(vec![self.revision(), self.revision()]),
            _ => Condition::Always,
        }
    }

    pub fn command(&mut self) -> Command {
        let write = match self.below(12) {
            0..=4 => Write::Put {
                key: key(self.of(&KEYS)),
                value: Bytes::from(vec![7; self.below(5) as usize]),
                condition: self.condition(),
                expires_at_ms: (self.below(3) == 0).then(|| self.below(100)),
            },
            5 => Write::Delete { key: key(self.of(&KEYS)), condition: self.condition() },
            6 => Write::Touch { key: key(self.of(&KEYS)), expires_at_ms: self.below(100) },
            7 | 8 => Write::Expire { key: key(self.of(&KEYS)), lease: self.revision() },
            9 if self.below(3) == 0 => Write::Compact { to: self.revision() },
            _ => {
                let items = (0..self.below(5)).map(|_| {
                    let said = statement(self.of(&TERMS), self.of(&TERMS), self.below(3));
                    item(self.of(&AGENTS), &said)
                });
                Write::Assert { items: items.collect() }
            }
        };
        let bucket = self.of(&["x", "x", "x", "y"]).parse().unwrap();
        let project = ProjectId(1 + u64::from(self.below(5) == 0));
        // Most commands of one name lie within the time that its answer is kept, some beyond.
        let at_ms = self.below(100) * 20_000;
        let once = (self.below(3) == 0).then(|| self.once());
        Command { project, bucket, at_ms, write, once }
    }

    fn once(&mut self) -> Once {
        let key = IdempotencyKey::new(self.of(&["a", "b", "c", "d"])).expect("a name");
        Once { key, fingerprint: Fingerprint([self.below(2) as u8; 32]) }
    }

    fn text(&mut self) -> TextMatch {
        match self.below(3) {
            0 => TextMatch::Any,
            1 => TextMatch::Prefix(self.of(&["", "s", "s/", "t", "x"]).to_owned()),
            _ => TextMatch::Exact(self.of(&TERMS).to_owned()),
        }
    }

    pub fn read(&mut self) -> Read {
        let as_of = (self.below(3) == 0).then(|| self.revision());
        let limit = 1 + self.below(6) as usize;
        match self.below(8) {
            0 => Read::Get { key: key(self.of(&KEYS)), as_of },
            1 => {
                let said = statement(self.of(&TERMS), self.of(&TERMS), self.below(3));
                Read::Claim { id: said.id() }
            }
            2..=4 => {
                let range = match self.below(3) {
                    0 => KeyRange::default(),
                    1 => KeyRange::prefix(self.of(&KEYS)),
                    _ => KeyRange {
                        start: self.of(&KEYS).to_vec(),
                        end: Some(self.of(&KEYS).to_vec()),
                    },
                };
                let (reverse, keys_only) = (self.below(2) == 0, self.below(4) == 0);
                Read::Scan { range, reverse, keys_only, limit, as_of, cursor: None }
            }
            _ => {
                let by = (self.below(2) == 0).then(|| agent(self.of(&AGENTS)));
                let pattern = Pattern { subject: self.text(), predicate: self.text(), agent: by };
                let lens = self.of(&[Lens::Latest, Lens::All]);
                Read::Query { pattern, lens, limit, as_of, cursor: None, now_ms: 1000 }
            }
        }
    }
}

/// Runs the same commands over a replica and over the maps, and asks both the same questions: they
/// must never differ. A few keys get many versions, so that scans have something to skip.
pub fn a_replica_answers_as_the_maps_do<R: Replica>(replica: R, seed: u64, commands: usize) {
    let mut draw = Draw(seed);
    let mut real = Run::new(replica);
    let mut plain = Run::new(MapView::default());
    for step in 0..commands {
        let command = draw.command();
        assert_eq!(real.command(&command), plain.command(&command), "seed {seed}, step {step}");
        if step % 4 == 3 {
            let asked = draw.read();
            compare(&mut real, &mut plain, command.project.0, &asked);
            let (until_ms, limit) = (draw.below(120), draw.below(9) as usize);
            let due = real.replica.view().due(until_ms, limit).unwrap();
            assert_eq!(due, plain.replica.due(until_ms, limit).unwrap(), "seed {seed}");
        }
    }
}

/// Asks both the same question, page after page.
fn compare<R: Replica>(real: &mut Run<R>, plain: &mut Run<MapView>, project: u64, asked: &Read) {
    real.in_bucket(project, "x");
    plain.in_bucket(project, "x");
    let mut asked = asked.clone();
    loop {
        let answer = real.read(&asked);
        assert_eq!(answer, plain.read(&asked), "{asked:?}");
        match (&mut asked, cursor_of(answer)) {
            (Read::Scan { cursor, .. } | Read::Query { cursor, .. }, Some(next)) => {
                assert_ne!(cursor.as_ref(), Some(&next), "a page that does not move on");
                *cursor = Some(next);
            }
            _ => return,
        }
    }
}

fn cursor_of(answer: ReadAnswer) -> Option<Cursor> {
    match answer {
        ReadAnswer::Page { cursor, .. } | ReadAnswer::Claims { cursor, .. } => cursor,
        _ => None,
    }
}
