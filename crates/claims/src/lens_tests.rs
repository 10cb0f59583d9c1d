//! Which claim answers, and that the order of reading never matters.

use super::*;
use crate::agent::AgentId;
use crate::claim::Attestation;
use crate::statement::Statement;
use proptest::prelude::*;
use serde_json::{Value, json};
use stemedb_types::Revision;

/// A claim that `object` is so, within these seconds after 1970, made at a revision and a stamp.
fn claim(object: u32, from_s: Option<i64>, to_s: Option<i64>, revision: u64, at_s: i64) -> Claim {
    let mut whole = json!({"subject": "s", "predicate": "p", "object": object});
    let text = |s: i64| Value::from(seconds(s).to_string());
    if let Some(from_s) = from_s {
        whole["valid_from"] = text(from_s);
    }
    if let Some(to_s) = to_s {
        whole["valid_to"] = text(to_s);
    }
    let agent = AgentId::key("ci").unwrap();
    let attestation = Attestation { agent, revision: Revision(revision), at_ms: at_s * 1000 };
    Claim::new(Statement::from_value(whole).unwrap(), vec![attestation]).unwrap()
}

fn seconds(s: i64) -> InstantNs {
    InstantNs::from_ms(s * 1000)
}

fn now(s: i64) -> Asked {
    Asked { now: seconds(s), valid_at: None }
}

fn about(s: i64) -> Asked {
    Asked { now: seconds(1_000_000), valid_at: Some(seconds(s)) }
}

fn objects(claims: &[&Claim]) -> Vec<u64> {
    claims.iter().map(|c| c.statement().object().as_u64().unwrap()).collect()
}

/// The answers and the contenders, as the objects claimed.
fn resolved(lens: Lens, claims: &[Claim], asked: Asked) -> (Vec<u64>, Vec<u64>) {
    let resolution = lens.resolve(claims, asked);
    (objects(resolution.answers()), objects(resolution.contenders()))
}

#[test]
fn latest_is_the_one_that_holds_from_the_latest_instant_not_the_last_one_written() {
    let claims = [claim(1, Some(50), None, 1, 60), claim(2, Some(40), None, 2, 61)];
    assert_eq!(resolved(Lens::Latest, &claims, now(100)), (vec![1], vec![2]));
    assert_eq!(Decision::between(&claims[0], &claims[1]), Decision::EffectiveFrom);
}

#[test]
fn a_claim_without_valid_from_is_placed_by_the_leaders_stamp_of_its_write() {
    let claims = [claim(1, Some(50), None, 1, 10), claim(2, None, None, 2, 60)];
    assert_eq!(resolved(Lens::Latest, &claims, now(100)), (vec![2], vec![1]));
    let older = [claim(1, Some(50), None, 1, 10), claim(2, None, None, 2, 40)];
    assert_eq!(resolved(Lens::Latest, &older, now(100)), (vec![1], vec![2]));
}

#[test]
fn at_one_instant_the_revision_decides_and_in_one_call_the_id() {
    // Both ways round, so that the ids can't have decided it.
    for (older, newer) in [(1, 2), (2, 1)] {
        let claims = [claim(older, Some(50), None, 2, 10), claim(newer, Some(50), None, 3, 10)];
        let answer = (vec![u64::from(newer)], vec![u64::from(older)]);
        assert_eq!(resolved(Lens::Latest, &claims, now(100)), answer);
        assert_eq!(Decision::between(&claims[0], &claims[1]), Decision::Revision);
    }

    let tied = [claim(1, None, None, 2, 10), claim(2, None, None, 2, 10)];
    let greatest = tied.iter().max_by_key(|c| c.statement().id()).unwrap();
    let resolution = Lens::Latest.resolve(&tied, now(100));
    assert_eq!(resolution.answers(), [greatest]);
    assert_eq!(Decision::between(&tied[0], &tied[1]), Decision::Id);
}

#[test]
fn latest_leaves_out_what_holds_no_longer_or_not_yet() {
    let claims = [
        claim(1, Some(10), Some(20), 1, 5),
        claim(2, Some(20), Some(30), 2, 5),
        claim(3, Some(30), None, 3, 5),
    ];
    for (at, answer) in [(9, vec![]), (10, vec![1]), (19, vec![1]), (20, vec![2]), (30, vec![3])] {
        assert_eq!(resolved(Lens::Latest, &claims, about(at)), (answer.clone(), vec![]), "{at}");
        assert_eq!(resolved(Lens::Latest, &claims, now(at)), (answer, vec![]), "now {at}");
    }
}

#[test]
fn a_claim_just_written_answers_even_a_reader_whose_clock_is_behind() {
    let claims = [claim(1, None, None, 1, 100)];
    assert_eq!(resolved(Lens::Latest, &claims, now(99)), (vec![1], vec![]));
}

#[test]
fn all_gives_every_claim_newest_first_and_only_a_named_instant_narrows_it() {
    let claims = [claim(1, Some(10), Some(20), 1, 5), claim(2, Some(30), None, 2, 5)];
    assert_eq!(resolved(Lens::All, &claims, now(25)), (vec![2, 1], vec![]));
    assert_eq!(resolved(Lens::All, &claims, about(25)), (vec![], vec![]));
    assert_eq!(resolved(Lens::All, &claims, about(15)), (vec![1], vec![]));
}

#[test]
fn a_lens_that_does_not_exist_yet_is_refused_and_not_stood_in_for() {
    assert_eq!(Lens::default(), Lens::Latest);
    for lens in [Lens::All, Lens::Latest] {
        assert_eq!(lens.to_string().parse(), Ok(lens));
    }
    for name in ["", "ALL", "confidence", "weighted", "consensus", "authority"] {
        assert_eq!(name.parse::<Lens>(), Err(UnknownLens), "{name}");
    }
}

fn arbitrary_claims() -> impl Strategy<Value = Vec<Claim>> {
    let from = prop::option::of(0..4i64);
    let one = (from, prop::option::of(4..8i64), 0..4u64, 0..4i64);
    prop::collection::vec(one, 0..12).prop_map(|drawn| {
        let number =
            |(n, (from, to, revision, at)): (usize, _)| claim(n as u32, from, to, revision, at);
        drawn.into_iter().enumerate().map(number).collect()
    })
}

proptest! {
    #[test]
    fn the_answer_does_not_depend_on_the_order_of_the_claims(
        (claims, shuffled) in arbitrary_claims().prop_flat_map(|claims| {
            (Just(claims.clone()), Just(claims).prop_shuffle())
        }),
        at in 0..9i64,
        named in any::<bool>(),
    ) {
        let asked = if named { about(at) } else { now(at) };
        for lens in [Lens::All, Lens::Latest] {
            prop_assert_eq!(resolved(lens, &claims, asked), resolved(lens, &shuffled, asked));
        }
    }

    #[test]
    fn the_latest_is_the_first_of_all_that_are_valid_then(claims in arbitrary_claims(), at in 0..9i64) {
        let (latest, contenders) = resolved(Lens::Latest, &claims, about(at));
        let (all, none) = resolved(Lens::All, &claims, about(at));
        prop_assert_eq!([latest, contenders].concat(), all);
        prop_assert!(none.is_empty());
    }
}
