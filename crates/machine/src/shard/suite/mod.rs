//! The transcripts that every [`View`] must pass: one contract, each implementation run through it.
//!
//! A driver says how changes are written to its state ([`Replica`]); the
//! scenarios speak in commands and reads. Whatever passes through a [`Run`] goes
//! through its bytes and back, so the codecs are part of every transcript.
//! [`crate::view_suite`] makes one test of each scenario. `map` is the plain twin that
//! keeps everything in ordered maps; `random` holds another state against it.

#![allow(clippy::expect_used, clippy::unwrap_used, clippy::panic, reason = "only tests call it")]
#![allow(missing_docs, reason = "the names are sentences")]

pub mod claims;
pub mod expiry;
pub mod history;
pub mod keys;
pub mod map;
pub mod once;
pub mod random;

use bytes::Bytes;
use serde_json::json;
use stemedb_claims::{AgentId, Statement};
use stemedb_types::{BucketName, Decoder, Encoder, Key, ProjectId, Revision};

use super::{
    Answer, AssertItem, Change, Command, Condition, KeyRange, Read, ReadAnswer, View, Write, apply,
    read,
};

/// A state that can be written to, and seen.
pub trait Replica {
    type View: View;

    /// Writes the changes of one entry, all together.
    fn write(&mut self, changes: &[Change]);

    fn view(&self) -> &Self::View;
}

/// One test for each scenario, over the replica that `$start()` makes.
#[macro_export]
macro_rules! view_suite {
    ($start:expr) => {
        $crate::view_suite! { @each $start; keys:
            a_write_takes_the_next_revision_and_a_refused_one_takes_none,
            a_key_made_again_begins_anew,
            buckets_count_their_own_revisions,
            the_past_reads_as_it_was_and_the_future_is_refused,
            a_scan_goes_in_the_order_of_the_bytes,
            the_pages_of_a_scan_show_one_revision_while_writes_go_on,
            a_page_is_full_by_rows_or_by_bytes_and_the_last_one_has_no_cursor,
            a_key_of_many_versions_is_one_row_at_every_revision,
            keys_only_leaves_out_values_and_nothing_else,
            a_walk_tells_of_every_key_whether_it_is_there_or_not,
        }
        $crate::view_suite! { @each $start; expiry:
            a_key_is_there_until_an_expire_of_its_lease_is_applied,
            a_touch_moves_the_time_and_leaves_the_etag,
            what_is_due_comes_in_order_of_time_and_no_more_than_asked,
            every_write_of_a_key_moves_its_place_in_the_index_along,
        }
        $crate::view_suite! { @each $start; once:
            a_named_write_is_done_once_and_answered_the_same_every_time,
            whatever_a_named_write_was_answered_is_kept,
            a_name_that_stands_for_something_else_is_told_so_and_nothing_is_done,
            an_answer_counts_for_its_time_by_the_stamps_and_not_a_ms_longer,
            named_writes_drop_old_answers_faster_than_they_add_new_ones,
            a_compaction_drops_the_answers_of_a_bucket_gone_quiet,
        }
        $crate::view_suite! { @each $start; history:
            below_the_floor_is_refused_and_at_it_everything_reads_as_it_was,
            a_compaction_takes_no_revision_and_goes_so_far_at_a_time,
            a_jump_goes_on_behind_what_may_be_lost_and_forgets_all_history,
            after_a_jump_no_number_from_before_it_is_shown_or_holds,
            behind_a_base_every_new_bucket_begins,
            the_floor_of_one_bucket_is_not_that_of_another,
            a_key_that_is_gone_below_the_floor_can_be_made_again,
        }
        $crate::view_suite! { @each $start; claims:
            a_call_takes_one_revision_and_a_call_of_known_statements_none,
            two_agents_make_one_claim,
            a_statement_is_filed_once_whatever_a_command_calls_it,
            a_pattern_finds_what_it_names_by_every_index,
            the_latest_is_picked_out_of_many_and_all_are_all,
            a_query_of_the_past_counts_what_was_made_by_then,
            the_pages_of_a_query_lose_and_repeat_no_pair_while_writes_go_on,
            a_claim_is_found_by_its_id,
            a_walk_of_claims_begins_behind_the_claim_it_is_told,
            terms_that_begin_alike_are_not_mistaken_for_one_another,
        }
    };
    (@each $start:expr; $file:ident: $($scenario:ident,)*) => {
        $(
            #[test]
            fn $scenario() {
                let mut run = $crate::shard::suite::Run::new($start());
                $crate::shard::suite::$file::$scenario(&mut run);
            }
        )*
    };
}

/// A replica, spoken to in commands and reads.
pub struct Run<R> {
    pub replica: R,
    /// The clock: each command is stamped one second on.
    pub now_ms: u64,
    pub project: ProjectId,
    pub bucket: BucketName,
}

impl<R: Replica> Run<R> {
    pub fn new(replica: R) -> Self {
        let bucket = "default".parse().unwrap();
        Self { replica, now_ms: 1_700_000_000_000, project: ProjectId(1), bucket }
    }

    /// The same replica, speaking of another bucket.
    pub fn in_bucket(&mut self, project: u64, bucket: &str) -> &mut Self {
        self.project = ProjectId(project);
        self.bucket = bucket.parse().unwrap();
        self
    }

    pub fn write(&mut self, write: Write) -> Answer {
        self.now_ms += 1000;
        let (project, bucket) = (self.project, self.bucket.clone());
        self.command(&Command { project, bucket, at_ms: self.now_ms, write, once: None })
    }

    /// Applies a command the way a replica does: from its bytes, and writes what it changes.
    pub fn command(&mut self, command: &Command) -> Answer {
        let decoded = Command::decode(&command.encode()).expect("a command reads back");
        assert_eq!(decoded, *command);
        let outcome = apply(self.replica.view(), &decoded).expect("a command applies");
        self.replica.write(&outcome.changes);
        let mut out = Encoder::new();
        outcome.answer.encode(&mut out);
        let mut from = Decoder::new(out.as_slice());
        assert_eq!(Answer::decode(&mut from).as_ref(), Ok(&outcome.answer));
        assert_eq!(from.finish(), Ok(()));
        outcome.answer
    }

    pub fn put(&mut self, key: &[u8], value: &[u8]) -> Answer {
        self.put_if(key, value, Condition::Always)
    }

    pub fn put_if(&mut self, key: &[u8], value: &[u8], condition: Condition) -> Answer {
        let value = Bytes::copy_from_slice(value);
        self.write(Write::Put { key: self::key(key), value, condition, expires_at_ms: None })
    }

    pub fn put_until(&mut self, key: &[u8], value: &[u8], expires_at_ms: u64) -> Answer {
        let value = Bytes::copy_from_slice(value);
        let (key, condition) = (self::key(key), Condition::Always);
        self.write(Write::Put { key, value, condition, expires_at_ms: Some(expires_at_ms) })
    }

    pub fn touch(&mut self, key: &[u8], expires_at_ms: u64) -> Answer {
        self.write(Write::Touch { key: self::key(key), expires_at_ms })
    }

    pub fn expire(&mut self, key: &[u8], lease: u64) -> Answer {
        self.write(Write::Expire { key: self::key(key), lease: Revision(lease) })
    }

    pub fn compact(&mut self, to: u64) -> Answer {
        self.write(Write::Compact { to: Revision(to) })
    }

    pub fn jump(&mut self, to: u64) -> Answer {
        self.write(Write::Jump { to: Revision(to) })
    }

    pub fn base(&mut self, to: u64) -> Answer {
        self.write(Write::Base { to: Revision(to) })
    }

    pub fn delete(&mut self, key: &[u8]) -> Answer {
        self.delete_if(key, Condition::Always)
    }

    pub fn delete_if(&mut self, key: &[u8], condition: Condition) -> Answer {
        self.write(Write::Delete { key: self::key(key), condition })
    }

    pub fn assert(&mut self, items: Vec<AssertItem>) -> Answer {
        self.write(Write::Assert { items })
    }

    /// Asks, through the bytes of question and answer.
    pub fn read(&self, asked: &Read) -> ReadAnswer {
        let mut out = Encoder::new();
        asked.encode(&mut out);
        let bytes = out.finish();
        let mut from = Decoder::new(&bytes);
        let decoded = Read::decode(&mut from, &bytes).expect("a read reads back");
        assert_eq!((&decoded, from.left()), (asked, &[][..]));
        let answer = read(self.replica.view(), self.project, &self.bucket, &decoded);
        let answer = answer.expect("a read is answered");
        let mut out = Encoder::new();
        answer.encode(&mut out);
        let bytes = out.finish();
        let mut from = Decoder::new(&bytes);
        assert_eq!(ReadAnswer::decode(&mut from, &bytes).as_ref(), Ok(&answer));
        assert_eq!(from.finish(), Ok(()));
        answer
    }

    pub fn get(&self, key: &[u8], as_of: Option<u64>) -> ReadAnswer {
        self.read(&Read::Get { key: self::key(key), as_of: as_of.map(Revision) })
    }
}

pub fn key(bytes: &[u8]) -> Key {
    Key::new(bytes.to_vec()).unwrap()
}

/// A statement; `object` tells those of one subject and predicate apart.
pub fn statement(subject: &str, predicate: &str, object: u64) -> Statement {
    let whole = json!({"subject": subject, "predicate": predicate, "object": object});
    Statement::from_value(whole).unwrap()
}

/// A statement that holds from an hour of the first of January 2020.
pub fn statement_from(subject: &str, predicate: &str, object: u64, hour: u32) -> Statement {
    let valid_from = format!("2020-01-01T{hour:02}:00:00Z");
    let whole = json!({
        "subject": subject, "predicate": predicate, "object": object, "valid_from": valid_from,
    });
    Statement::from_value(whole).unwrap()
}

pub fn agent(label: &str) -> AgentId {
    AgentId::key(label).unwrap()
}

/// A statement as an agent makes it.
pub fn item(label: &str, statement: &Statement) -> AssertItem {
    AssertItem {
        id: statement.id(),
        subject: statement.subject().to_owned(),
        predicate: statement.predicate().to_owned(),
        agent: agent(label),
        statement: Bytes::copy_from_slice(statement.canonical()),
    }
}

pub fn all_keys() -> KeyRange {
    KeyRange::default()
}
