//! Statements and attestations; queries.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use stemedb_claims::{Lens, Statement, StatementId};
use stemedb_types::Revision;

use super::{Replica, Run, agent, item, statement, statement_from};
use crate::shard::AssertStatus::{self, Created, Known};
use crate::shard::{
    Answer, ClaimAnswer, ClaimOrder, ClaimStart, Cursor, Pattern, Read, ReadAnswer, TextMatch, View,
};

fn asserted(revision: u64, items: &[AssertStatus]) -> Answer {
    Answer::Asserted { revision: Revision(revision), items: items.to_vec() }
}

fn exact(text: &str) -> TextMatch {
    TextMatch::Exact(text.to_owned())
}

fn prefix(text: &str) -> TextMatch {
    TextMatch::Prefix(text.to_owned())
}

/// A query for everything, for `..` to fill in from.
#[derive(Clone, Debug, Default)]
struct Asked {
    subject: TextMatch,
    predicate: TextMatch,
    by: Option<&'static str>,
    lens: Lens,
    limit: Option<usize>,
    as_of: Option<u64>,
}

type Page = (Revision, Vec<ClaimAnswer>, Option<Cursor>);

impl<R: Replica> Run<R> {
    fn claims(&self, asked: &Asked, cursor: Option<Cursor>) -> Page {
        let Asked { subject, predicate, by, lens, limit, as_of } = asked.clone();
        let pattern = Pattern { subject, predicate, agent: by.map(agent) };
        let as_of = as_of.map(Revision);
        let limit = limit.unwrap_or(1000);
        let now_ms = self.now_ms;
        match self.read(&Read::Query { pattern, lens, limit, as_of, cursor, now_ms }) {
            ReadAnswer::Claims { revision, answers, cursor } => (revision, answers, cursor),
            other => panic!("{other:?}"),
        }
    }

    /// What is claimed, as (subject, predicate, object), and who is counted for it.
    fn found(&self, asked: &Asked) -> Vec<(String, Vec<String>)> {
        let (_, answers, cursor) = self.claims(asked, None);
        assert_eq!(cursor, None);
        answers.iter().map(told).collect()
    }

    fn ids(&self, asked: &Asked) -> Vec<StatementId> {
        let (_, answers, cursor) = self.claims(asked, None);
        assert_eq!(cursor, None);
        answers.iter().map(|answer| answer.id).collect()
    }
}

fn told(answer: &ClaimAnswer) -> (String, Vec<String>) {
    let statement = Statement::from_stored(&answer.statement, answer.id).unwrap();
    let what = format!("{} {} {}", statement.subject(), statement.predicate(), statement.object());
    let by = answer.attestations.iter().map(|a| format!("{}@{}", a.agent, a.revision));
    (what, by.collect())
}

/// What a query should find: a sentence, and who is counted for it.
fn told_as(what: &str, by: &[&str]) -> (String, Vec<String>) {
    (what.to_owned(), by.iter().map(|by| (*by).to_owned()).collect())
}

pub fn a_call_takes_one_revision_and_a_call_of_known_statements_none<R: Replica>(run: &mut Run<R>) {
    let [one, two, three] = [1, 2, 3].map(|object| statement("s", "p", object));
    assert_eq!(run.assert(vec![]), asserted(0, &[]));
    assert_eq!(
        run.assert(vec![item("a", &one), item("a", &two)]),
        asserted(1, &[Created, Created])
    );
    // The same call again, a part of it, and one statement twice in one call.
    assert_eq!(run.assert(vec![item("a", &one), item("a", &two)]), asserted(1, &[Known, Known]));
    assert_eq!(run.assert(vec![item("a", &two)]), asserted(1, &[Known]));
    let mixed = vec![item("a", &three), item("a", &one), item("a", &three)];
    assert_eq!(run.assert(mixed), asserted(2, &[Created, Known, Known]));
    assert_eq!(run.put(b"k", b"v").revision(), Revision(3));
    let all = Asked { lens: Lens::All, ..Asked::default() };
    let mut found = run.found(&all);
    found.sort();
    let wanted = [
        told_as("s p 1", &["key:a@1"]),
        told_as("s p 2", &["key:a@1"]),
        told_as("s p 3", &["key:a@2"]),
    ];
    assert_eq!(found, wanted);
}

pub fn two_agents_make_one_claim<R: Replica>(run: &mut Run<R>) {
    let one = statement("s", "p", 1);
    assert_eq!(run.assert(vec![item("b", &one)]), asserted(1, &[Created]));
    assert_eq!(run.assert(vec![item("a", &one)]), asserted(2, &[Created]));
    let both = vec![item("a", &one), item("b", &one), item("c", &one), item("c", &one)];
    assert_eq!(run.assert(both), asserted(3, &[Known, Known, Created, Known]));
    // Two who make a new one in one call.
    let two = statement("s", "q", 2);
    assert_eq!(
        run.assert(vec![item("b", &two), item("a", &two)]),
        asserted(4, &[Created, Created])
    );
    let wanted = [
        told_as("s p 1", &["key:b@1", "key:a@2", "key:c@3"]),
        told_as("s q 2", &["key:a@4", "key:b@4"]),
    ];
    assert_eq!(run.found(&Asked::default()), wanted);
    let by_a = Asked { by: Some("a"), ..Asked::default() };
    assert_eq!(run.found(&by_a), [told_as("s p 1", &["key:a@2"]), told_as("s q 2", &["key:a@4"])]);
    // A bucket beside it knows nothing of them.
    let elsewhere = run.in_bucket(1, "other").assert(vec![item("a", &one)]);
    assert_eq!(elsewhere, asserted(1, &[Created]));
}

pub fn a_statement_is_filed_once_whatever_a_command_calls_it<R: Replica>(run: &mut Run<R>) {
    let one = statement("s", "p", 1);
    let mut astray = item("b", &one);
    astray.subject = "elsewhere".to_owned();
    run.assert(vec![item("a", &one)]);
    assert_eq!(run.assert(vec![astray.clone()]), asserted(2, &[Created]));
    assert_eq!(run.assert(vec![astray]), asserted(2, &[Known]));
    assert_eq!(run.found(&Asked::default()), [told_as("s p 1", &["key:a@1", "key:b@2"])]);
    let by_b = Asked { by: Some("b"), ..Asked::default() };
    assert_eq!(run.found(&by_b), [told_as("s p 1", &["key:b@2"])]);
}

/// Three claims each on nine pairs, by two agents.
fn grid<R: Replica>(run: &mut Run<R>) -> BTreeMap<(String, String), Vec<StatementId>> {
    let mut ids: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for subject in ["s", "s/1", "t"] {
        for predicate in ["p", "p/1", "q"] {
            for object in 0..3 {
                let by = if object == 1 { "b" } else { "a" };
                let said = statement(subject, predicate, object);
                run.assert(vec![item(by, &said)]);
                ids.entry((subject.to_owned(), predicate.to_owned())).or_default().push(said.id());
            }
        }
    }
    ids
}

pub fn a_pattern_finds_what_it_names_by_every_index<R: Replica>(run: &mut Run<R>) {
    let ids = grid(run);
    let subjects = [TextMatch::Any, exact("s"), exact("s/"), prefix("s"), prefix("s/"), prefix("")];
    let predicates =
        [TextMatch::Any, exact("p"), exact("x"), prefix("p"), prefix("p/1"), exact("q")];
    for subject in &subjects {
        for predicate in &predicates {
            for by in [None, Some("a"), Some("b"), Some("nobody")] {
                let pairs: Vec<_> = ids
                    .iter()
                    .filter(|((s, p), _)| subject.matches(s) && predicate.matches(p))
                    .map(|(_, ids)| match by {
                        None => ids.clone(),
                        Some("a") => vec![ids[0], ids[2]],
                        Some("b") => vec![ids[1]],
                        _ => vec![],
                    })
                    .collect();
                let asked = Asked {
                    subject: subject.clone(),
                    predicate: predicate.clone(),
                    by,
                    ..Asked::default()
                };
                // The newest of each pair; all of each pair, newest first.
                let mut latest: Vec<_> =
                    pairs.iter().filter_map(|ids| ids.last()).copied().collect();
                let mut found = run.ids(&asked);
                latest.sort();
                found.sort();
                assert_eq!(found, latest, "{asked:?}");
                let asked = Asked { lens: Lens::All, ..asked };
                let mut all: Vec<_> =
                    pairs.iter().map(|ids| ids.iter().rev().copied().collect::<Vec<_>>()).collect();
                all.retain(|ids| !ids.is_empty());
                let found = run.ids(&asked);
                let mut found: Vec<_> = all.first().map_or(vec![], |ids| {
                    found.chunks(ids.len()).map(<[StatementId]>::to_vec).collect()
                });
                all.sort();
                found.sort();
                assert_eq!(found, all, "{asked:?}");
            }
        }
    }
}

pub fn the_latest_is_picked_out_of_many_and_all_are_all<R: Replica>(run: &mut Run<R>) {
    // 200 claims of one pair, the one of hour 23 neither first nor last, then two of another.
    let many: Vec<_> = (0..200u64)
        .map(|n| statement_from("s", "p", n, if n == 77 { 23 } else { (n % 20) as u32 }))
        .collect();
    for call in many.chunks(50) {
        run.assert(call.iter().map(|said| item("a", said)).collect());
    }
    let others = [statement("s", "q", 1), statement("s", "q", 2)];
    for said in &others {
        run.assert(vec![item("a", said)]);
    }
    let wanted = [many[77].id(), others[1].id()];
    assert_eq!(run.ids(&Asked::default()), wanted);
    let by_predicate = Asked { predicate: prefix(""), ..Asked::default() };
    assert_eq!(run.ids(&by_predicate), wanted);
    let by_agent = Asked { by: Some("a"), ..Asked::default() };
    assert_eq!(run.ids(&by_agent), wanted);
    let all = run.ids(&Asked { lens: Lens::All, ..Asked::default() });
    assert_eq!((all.len(), all[0], all[200]), (202, many[77].id(), others[1].id()));
    // A pair is never split, so a page of all goes over its limit.
    let asked = Asked { lens: Lens::All, limit: Some(1), ..Asked::default() };
    let (_, page, cursor) = run.claims(&asked, None);
    assert_eq!(page.len(), 200);
    let (_, page, cursor) = run.claims(&asked, cursor);
    assert_eq!((page.len(), cursor), (2, None));
}

pub fn a_query_of_the_past_counts_what_was_made_by_then<R: Replica>(run: &mut Run<R>) {
    let [one, two] = [1, 2].map(|object| statement("s", "p", object));
    run.assert(vec![item("a", &one)]);
    run.assert(vec![item("b", &two)]);
    run.assert(vec![item("c", &one)]);
    let asked = |as_of, lens| Asked { as_of: Some(as_of), lens, ..Asked::default() };
    assert_eq!(run.found(&asked(0, Lens::All)), []);
    assert_eq!(run.found(&asked(1, Lens::All)), [told_as("s p 1", &["key:a@1"])]);
    let two_later = [told_as("s p 2", &["key:b@2"]), told_as("s p 1", &["key:a@1"])];
    assert_eq!(run.found(&asked(2, Lens::All)), two_later);
    assert_eq!(run.found(&asked(2, Lens::Latest)), two_later[..1]);
    // Said again by another: the newest of all.
    assert_eq!(run.found(&asked(3, Lens::Latest)), [told_as("s p 1", &["key:a@1", "key:c@3"])]);
    let pattern = Pattern::default();
    let (lens, as_of, cursor) = (Lens::All, Some(Revision(4)), None);
    let future = Read::Query { pattern, lens, limit: 1, as_of, cursor, now_ms: 0 };
    assert_eq!(run.read(&future), ReadAnswer::Compacted { revision: Revision(3) });
}

pub fn the_pages_of_a_query_lose_and_repeat_no_pair_while_writes_go_on<R: Replica>(
    run: &mut Run<R>,
) {
    grid(run);
    let orders = [
        Asked::default(),
        Asked { subject: prefix("s"), ..Asked::default() },
        Asked { predicate: prefix("p"), ..Asked::default() },
        Asked { by: Some("a"), ..Asked::default() },
    ];
    let mut object = 100;
    for asked in orders {
        for lens in [Lens::Latest, Lens::All] {
            for limit in 1..5 {
                let asked = Asked { lens, limit: Some(limit), ..asked.clone() };
                let (pinned, wanted, _) = run.claims(&Asked { limit: None, ..asked.clone() }, None);
                let mut answers = Vec::new();
                let mut cursor = None;
                loop {
                    let (revision, page, next) = run.claims(&asked, cursor);
                    assert_eq!(revision, pinned);
                    answers.extend(page);
                    // New claims on old pairs, a new pair before and behind, an old claim again.
                    object += 1;
                    let said = [("r", "p"), ("s", "p"), ("s/0", "p/0"), ("u", "q")]
                        .map(|(s, p)| item("a", &statement(s, p, object)));
                    run.assert(said.to_vec());
                    run.assert(vec![item("c", &statement("t", "q", 0))]);
                    let Some(next) = next else { break };
                    cursor = Some(next);
                }
                assert_eq!(answers, wanted, "{asked:?}");
            }
        }
    }
}

pub fn a_claim_is_found_by_its_id<R: Replica>(run: &mut Run<R>) {
    let one = statement("s", "p", 1);
    let asked = Read::Claim { id: one.id() };
    let none = |revision| ReadAnswer::Claims {
        revision: Revision(revision),
        answers: vec![],
        cursor: None,
    };
    assert_eq!(run.read(&asked), none(0));
    run.assert(vec![item("a", &statement("s", "p", 2))]);
    assert_eq!(run.read(&asked), none(1));
    run.assert(vec![item("a", &one)]);
    run.assert(vec![item("b", &one)]);
    let ReadAnswer::Claims { revision, answers, cursor: None } = run.read(&asked) else {
        panic!("a claim has no pages")
    };
    let told: Vec<_> = answers.iter().map(told).collect();
    assert_eq!((revision, told), (Revision(3), vec![told_as("s p 1", &["key:a@2", "key:b@3"])]));
}

pub fn a_walk_of_claims_begins_behind_the_claim_it_is_told<R: Replica>(run: &mut Run<R>) {
    grid(run);
    let view = run.replica.view();
    let bucket = view.bucket(run.project, &run.bucket).unwrap().unwrap().number;
    let walk = |order: &ClaimOrder, start: &ClaimStart| {
        let mut keys = Vec::new();
        let walked = view.scan_claims(bucket, order, start, &mut |row| {
            keys.push(row.key);
            ControlFlow::Continue(())
        });
        walked.map(|()| keys).unwrap()
    };
    for order in [ClaimOrder::Subject, ClaimOrder::Predicate, ClaimOrder::Agent(agent("a"))] {
        let all = walk(&order, &ClaimStart::default());
        assert!(all.len() >= 18, "{order:?}");
        for (n, key) in all.iter().enumerate() {
            let after = Some((key.subject.clone(), key.predicate.clone()));
            let start = ClaimStart { after, after_id: Some(key.id), ..ClaimStart::default() };
            assert_eq!(walk(&order, &start), all[n + 1..], "{order:?} behind {key:?}");
        }
    }
}

pub fn terms_that_begin_alike_are_not_mistaken_for_one_another<R: Replica>(run: &mut Run<R>) {
    // The same letters, cut differently; agents that begin alike.
    let said = [("ab", "c"), ("a", "bc"), ("a", "b"), ("abc", "x"), ("a", "x"), ("ä", "x")];
    for (n, (subject, predicate)) in said.into_iter().enumerate() {
        let by = ["k", "kk"][n % 2];
        run.assert(vec![item(by, &statement(subject, predicate, n as u64))]);
    }
    let found = |asked: Asked| -> Vec<String> {
        let mut found: Vec<_> = run.found(&asked).into_iter().map(|(what, _)| what).collect();
        found.sort();
        found
    };
    assert_eq!(
        found(Asked { subject: exact("a"), ..Asked::default() }),
        ["a b 2", "a bc 1", "a x 4"]
    );
    assert_eq!(found(Asked { subject: exact("ab"), ..Asked::default() }), ["ab c 0"]);
    assert_eq!(found(Asked { subject: prefix("ab"), ..Asked::default() }), ["ab c 0", "abc x 3"]);
    let x = Asked { predicate: exact("x"), ..Asked::default() };
    assert_eq!(found(x.clone()), ["a x 4", "abc x 3", "ä x 5"]);
    assert_eq!(found(Asked { by: Some("k"), ..Asked::default() }), ["a b 2", "a x 4", "ab c 0"]);
    assert_eq!(found(Asked { by: Some("kk"), ..x }), ["abc x 3", "ä x 5"]);
}
