//! A query over more claims than one page may look at.

use std::collections::BTreeSet;

use bytes::Bytes;
use stemedb_claims::{Lens, StatementId};
use stemedb_types::ProjectId;

use super::rows::{Rows, made};
use crate::Error;
use crate::shard::query::CLAIMS_VISITED_MAX;
use crate::shard::suite::statement;
use crate::shard::{ClaimKey, ClaimRow, Cursor, Pattern, Read, ReadAnswer, TextMatch, read};

/// So many claims, so many on each subject, none of which can be read as a statement.
fn unreadable(count: usize, on_each: usize) -> Rows {
    let claim = |n: usize| {
        let subject = format!("{:08}", n / on_each);
        let mut id = [0; 32];
        id[24..].copy_from_slice(&(n as u64).to_be_bytes());
        let key = ClaimKey { subject, predicate: "p".to_owned(), id: StatementId(id) };
        made(key, Bytes::new(), 1)
    };
    Rows { claims: (0..count).map(claim).collect(), ..Rows::default() }
}

/// So many claims of one pair, each made at a revision of its own.
fn of_one_pair(subject: &str, count: usize) -> Vec<ClaimRow> {
    let claim = |n: usize| {
        let said = statement(subject, "p", n as u64);
        let (subject, predicate) = (subject.to_owned(), "p".to_owned());
        let statement = Bytes::copy_from_slice(said.canonical());
        made(ClaimKey { subject, predicate, id: said.id() }, statement, n as u64 + 1)
    };
    let mut claims: Vec<_> = (0..count).map(claim).collect();
    claims.sort_by_key(|row| row.key.id);
    claims
}

fn ask(
    view: &Rows,
    lens: Lens,
    predicate: &str,
    cursor: Option<Cursor>,
) -> Result<ReadAnswer, Error> {
    let predicate = TextMatch::Exact(predicate.to_owned());
    let pattern = Pattern { predicate, ..Pattern::default() };
    let asked = Read::Query { pattern, lens, limit: 10, as_of: None, cursor, now_ms: 0 };
    read(view, ProjectId(1), &"b".parse().unwrap(), &asked)
}

/// The ids on each page, and how many claims each page has looked at.
fn pages(view: &Rows, lens: Lens) -> Vec<(Vec<StatementId>, usize)> {
    let (mut pages, mut cursor) = (Vec::new(), None);
    loop {
        let answer = ask(view, lens, "p", cursor).unwrap();
        let ReadAnswer::Claims { answers, cursor: next, .. } = answer else { panic!() };
        pages.push((answers.iter().map(|answer| answer.id).collect(), view.stepped()));
        if next.is_none() {
            return pages;
        }
        cursor = next;
    }
}

#[test]
fn a_page_that_finds_nothing_ends_early_with_a_cursor_and_the_pages_come_to_an_end() {
    let view = unreadable(CLAIMS_VISITED_MAX * 2 + 100, 2);
    let mut cursor = None;
    let mut lasts = Vec::new();
    loop {
        let answer = ask(&view, Lens::All, "other", cursor).unwrap();
        let ReadAnswer::Claims { answers, cursor: next, .. } = answer else { panic!() };
        assert_eq!(answers, []);
        let Some(Cursor::Claim { subject, .. }) = &next else { break };
        lasts.push(subject.clone());
        cursor = next;
    }
    let pairs = CLAIMS_VISITED_MAX / 2;
    assert_eq!(lasts, [format!("{:08}", pairs - 1), format!("{:08}", pairs * 2 - 1)]);
}

#[test]
fn a_stored_statement_that_does_not_read_back_stops_the_query() {
    let refused = ask(&unreadable(3, 2), Lens::All, "p", None);
    assert!(matches!(refused, Err(Error::Contradiction(_))), "{refused:?}");
}

#[test]
fn the_rest_of_a_large_pair_that_does_not_match_is_passed_over() {
    let view = unreadable(CLAIMS_VISITED_MAX * 4, CLAIMS_VISITED_MAX * 3);
    let ReadAnswer::Claims { cursor, .. } = ask(&view, Lens::Latest, "other", None).unwrap() else {
        panic!()
    };
    assert!(matches!(&cursor, Some(Cursor::Claim { subject, .. }) if subject == "00000000"));
    assert_eq!(view.stepped(), CLAIMS_VISITED_MAX);
    let ReadAnswer::Claims { cursor, .. } = ask(&view, Lens::Latest, "other", cursor).unwrap()
    else {
        panic!()
    };
    assert_eq!(view.stepped(), CLAIMS_VISITED_MAX);
    assert!(matches!(&cursor, Some(Cursor::Claim { subject, .. }) if subject == "00000001"));
}

#[test]
fn a_pair_too_large_for_a_page_goes_over_several_and_is_answered_whole() {
    let (large, small) = (of_one_pair("a", CLAIMS_VISITED_MAX * 2 + 1000), of_one_pair("b", 2));
    let newest = |claims: &[ClaimRow]| {
        claims.iter().max_by_key(|row| row.attestations[0].revision).unwrap().key.id
    };
    let latest = [newest(&large), newest(&small)];
    let all: BTreeSet<_> = large.iter().chain(&small).map(|row| row.key.id).collect();
    let view = Rows { claims: [large, small].concat(), ..Rows::default() };
    // The best of the first page wins or loses against those of the second.
    let found = pages(&view, Lens::Latest);
    assert_eq!(found.iter().flat_map(|(ids, _)| ids).copied().collect::<Vec<_>>(), latest);
    assert_eq!(found[0], (vec![], CLAIMS_VISITED_MAX * 2));
    let found = pages(&view, Lens::All);
    let ids: Vec<_> = found.iter().flat_map(|(ids, _)| ids).copied().collect();
    assert_eq!((ids.len(), ids.into_iter().collect()), (all.len(), all));
    assert!(found.iter().all(|(_, looked_at)| *looked_at <= CLAIMS_VISITED_MAX * 2));
}

#[test]
fn a_pair_that_fills_a_page_and_no_more_is_not_split() {
    let claims = [of_one_pair("a", 3), of_one_pair("b", CLAIMS_VISITED_MAX)].concat();
    let found = pages(&Rows { claims, ..Rows::default() }, Lens::All);
    assert_eq!(
        found.iter().map(|(ids, _)| ids.len()).collect::<Vec<_>>(),
        [CLAIMS_VISITED_MAX + 3]
    );
}

#[test]
fn a_cursor_that_names_a_best_claim_of_another_pair_or_none_finds_what_is_there() {
    let view = Rows { claims: of_one_pair("a", 3), ..Rows::default() };
    let [first, second, third] = [0, 1, 2].map(|n| view.claims[n].clone());
    let ask = |best| {
        let (subject, predicate) = ("a".to_owned(), "p".to_owned());
        let (as_of, last) = (stemedb_types::Revision(9), second.key.id);
        let cursor = Cursor::Within { as_of, subject, predicate, last, best };
        let answer = ask(&view, Lens::Latest, "p", Some(cursor)).unwrap();
        let ReadAnswer::Claims { answers, cursor: None, .. } = answer else { panic!() };
        answers.into_iter().map(|answer| answer.id).collect::<Vec<_>>()
    };
    let newer = |a: &ClaimRow, b: &ClaimRow| {
        if a.attestations[0].revision > b.attestations[0].revision { a.key.id } else { b.key.id }
    };
    assert_eq!(ask(None), [third.key.id]);
    assert_eq!(ask(Some(StatementId([9; 32]))), [third.key.id]);
    assert_eq!(ask(Some(first.key.id)), [newer(&first, &third)]);
}
