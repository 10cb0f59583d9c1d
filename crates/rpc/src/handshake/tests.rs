//! Two sides of a handshake on one table, frame by frame.

use proptest::prelude::*;

use super::*;
use crate::mismatch::refusal;

const OLD: &[u8] = b"the secret of last year";
const NEW: &[u8] = b"the secret of this year";

fn node(node: u64, cluster: Option<u128>) -> PeerIdentity {
    PeerIdentity { node: NodeId(node), cluster: cluster.map(ClusterId) }
}

const LIFE: Life = Life { incarnation: 5, instance: 55 };

fn dial(me: PeerIdentity, wanted: Option<NodeId>, role: Role, nonce: Nonce) -> Dialler {
    Dialler::new(me, LIFE, wanted, role, nonce)
}

fn listen(me: PeerIdentity) -> Listener {
    Listener::new(me, LIFE, [2; 32])
}

struct Side {
    me: PeerIdentity,
    keys: Keys,
}

fn side(id: u64, cluster: Option<u128>, secrets: &[&[u8]]) -> Side {
    Side { me: node(id, cluster), keys: Keys::new(secrets) }
}

type Met = Result<(PeerIdentity, (PeerIdentity, Role)), Ended>;

/// Plays the whole handshake; a refusal is carried across, so that both sides are seen to agree.
#[expect(clippy::panic_in_result_fn, reason = "an assertion of the test, whoever calls it")]
fn meet(dialler: &Side, wanted: Option<u64>, listener: &Side) -> Met {
    let first = dial(dialler.me, wanted.map(NodeId), Role::Main, [1; 32]);
    let hello = first.hello();
    let (challenge, second) = listen(listener.me)
        .greeted(&hello)
        .map_err(|e| tell(e, |head| first_told(dialler, head)))?;
    let (proof, third) = first
        .challenged(&dialler.keys, &challenge)
        .map_err(|e| tell(e, |head| open(head, PROOF).map(|_| ()).unwrap_err()))?;
    let proven = second
        .proven(&listener.keys, &proof)
        .map_err(|e| tell(e, |head| open(head, WELCOME).map(|_| ()).unwrap_err()))?;
    let (peer, life) = third.welcomed(&dialler.keys, &proven.welcome())?;
    assert_eq!((life, proven.peer().1), (LIFE, LIFE));
    Ok((peer, (proven.peer().0, proven.role())))
}

fn first_told(dialler: &Side, head: &[u8]) -> Ended {
    let again = dial(dialler.me, None, Role::Main, [1; 32]);
    again.challenged(&dialler.keys, head).map(|_| ()).unwrap_err()
}

/// What one side found, the other must be told in the same words.
fn tell(found: Ended, hear: impl FnOnce(&[u8]) -> Ended) -> Ended {
    let told = hear(&refusal(found.mismatch()));
    assert_eq!(told, Ended::Told(found.mismatch().clone()));
    found
}

fn refused(mismatch: Mismatch) -> Met {
    Err(Ended::Found(mismatch))
}

#[test]
fn two_nodes_of_one_cluster_know_each_other() {
    let (a, b) = (side(1, Some(9), &[NEW]), side(2, Some(9), &[NEW]));
    assert_eq!(meet(&a, Some(2), &b), Ok((b.me, (a.me, Role::Main))));
    assert_eq!(meet(&a, None, &b), Ok((b.me, (a.me, Role::Main))));
}

#[test]
fn a_blank_node_meets_a_member_either_way() {
    let (blank, member) = (side(1, None, &[NEW]), side(2, Some(9), &[NEW]));
    assert_eq!(meet(&blank, Some(2), &member), Ok((member.me, (blank.me, Role::Main))));
    assert_eq!(meet(&member, Some(1), &blank), Ok((blank.me, (member.me, Role::Main))));
}

#[test]
fn during_a_rotation_any_common_secret_will_do() {
    let both: &[&[u8]] = &[NEW, OLD];
    type Secrets<'a> = &'a [&'a [u8]];
    let cases: [(Secrets<'_>, Secrets<'_>, bool); 6] = [
        (both, &[OLD], true),
        (&[OLD], both, true),
        (both, both, true),
        (&[OLD], &[NEW], false),
        (both, &[], false),
        (&[], &[], true),
    ];
    for (ours, theirs, meets) in cases {
        let (a, b) = (side(1, None, ours), side(2, None, theirs));
        let met = meet(&a, Some(2), &b);
        assert_eq!(met.is_ok(), meets, "{ours:?} and {theirs:?}");
        assert!(meets || met == refused(Mismatch::Secret));
    }
}

#[test]
fn each_mismatch_is_refused_with_its_reason() {
    let a = side(1, Some(9), &[NEW]);
    let other_cluster = Mismatch::Cluster { dialler: ClusterId(9), listener: ClusterId(8) };
    assert_eq!(meet(&a, Some(2), &side(2, Some(8), &[NEW])), refused(other_cluster));
    let other_node = Mismatch::Node { wanted: NodeId(2), found: NodeId(3) };
    assert_eq!(meet(&a, Some(2), &side(3, Some(9), &[NEW])), refused(other_node));
    assert_eq!(meet(&a, None, &side(1, Some(9), &[NEW])), refused(Mismatch::SelfDial));
    assert_eq!(meet(&a, Some(2), &side(2, Some(9), &[OLD])), refused(Mismatch::Secret));
}

fn speaking(oldest: u8, newest: u8) -> Dialler {
    let versions = Versions { oldest, newest };
    Dialler::speaking(versions, node(1, None), LIFE, None, Role::Main, [1; 32])
}

#[test]
fn versions_without_one_in_common_are_refused_by_their_numbers_alone() {
    let mut head = speaking(2, 3).hello();
    head.truncate(3); // The rest of a later hello may be anything.
    let found = listen(node(2, None)).greeted(&head).map(|_| ()).unwrap_err();
    let dialler = Versions { oldest: 2, newest: 3 };
    let mismatch = Mismatch::Version { dialler, listener: Versions::only(1) };
    assert_eq!(found, Ended::Found(mismatch.clone()));
    assert_eq!(
        mismatch.to_string(),
        "the dialling node speaks peer protocol 2 to 3, the other one 1"
    );
    // The dialler hears the same.
    let told = first_told(&side(1, None, &[NEW]), &refusal(&mismatch));
    assert_eq!(told, Ended::Told(mismatch));
}

#[test]
fn the_newest_version_in_common_is_spoken_and_no_other_is_taken() {
    let challenged = |dialler: Dialler, listener: Versions| {
        let listener = Listener { versions: listener, ..listen(node(2, None)) };
        let (challenge, _) = listener.greeted(&dialler.hello()).unwrap();
        (challenge[1], dialler.challenged(&Keys::new(&[NEW]), &challenge).is_ok())
    };
    assert_eq!(challenged(speaking(1, 3), VERSIONS), (1, true));
    assert_eq!(challenged(speaking(1, 3), Versions { oldest: 2, newest: 9 }), (3, true));
    // A listener that takes what was not offered.
    let keys = Keys::new(&[NEW]);
    let challenge = listen(node(2, None)).challenge(1);
    let found = speaking(2, 3).challenged(&keys, &challenge).map(|_| ()).unwrap_err();
    let dialler = Versions { oldest: 2, newest: 3 };
    assert_eq!(found, Ended::Found(Mismatch::Version { dialler, listener: Versions::only(1) }));
}

/// A node ends when it hears this, so only the secret's holders can say it.
#[test]
fn that_it_is_a_double_a_node_believes_only_of_one_that_knows_the_secret() {
    let (ours, theirs) = (Keys::new(&[NEW]), Keys::new(&[NEW, OLD]));
    let newer = Life { incarnation: 9, instance: 1 };
    let steps = |nonce| {
        let first = dial(node(1, None), Some(NodeId(2)), Role::Main, [nonce; 32]);
        let (challenge, second) = listen(node(2, None)).greeted(&first.hello()).unwrap();
        let (proof, third) = first.challenged(&ours, &challenge).unwrap();
        (second.proven(&theirs, &proof).unwrap().double(newer), third)
    };
    let duplicate = duplicate(NodeId(1), newer);
    let ((told, third), (told_before, other)) = (steps(1), steps(3));
    assert_eq!(third.welcomed(&ours, &told), Err(Ended::Proven(duplicate.clone())));
    // Said once, it counts for that handshake only.
    let secret = Err(Ended::Found(Mismatch::Secret));
    assert_eq!(steps(4).1.welcomed(&ours, &told_before), secret);
    let mut changed = told_before;
    changed[1] ^= 1;
    assert_eq!(other.welcomed(&ours, &changed), secret);
    // A stranger's refusal is a stranger's.
    let stranger = steps(5).1.welcomed(&ours, &refusal(&duplicate));
    assert_eq!(stranger, Err(Ended::Told(duplicate)));
}

#[test]
fn the_dialler_checks_the_listener_by_itself() {
    let keys = Keys::new(&[NEW]);
    let dialler = || dial(node(1, Some(9)), Some(NodeId(2)), Role::Main, [1; 32]);
    let challenge = |id, cluster| listen(node(id, cluster)).challenge(1);
    let found = |head: &[u8]| dialler().challenged(&keys, head).map(|_| ()).unwrap_err();
    let other_node = Mismatch::Node { wanted: NodeId(2), found: NodeId(3) };
    assert_eq!(found(&challenge(3, Some(9))), Ended::Found(other_node));
    assert_eq!(found(&challenge(1, Some(9))), Ended::Found(Mismatch::SelfDial));
    let other_cluster = Mismatch::Cluster { dialler: ClusterId(9), listener: ClusterId(8) };
    assert_eq!(found(&challenge(2, Some(8))), Ended::Found(other_cluster));
}

#[test]
fn a_listener_that_lacks_the_secret_is_not_believed() {
    let keys = Keys::new(&[NEW]);
    let first = dial(node(1, None), Some(NodeId(2)), Role::Main, [1; 32]);
    let (challenge, second) = listen(node(2, None)).greeted(&first.hello()).unwrap();
    let (proof, third) = first.challenged(&keys, &challenge).unwrap();
    drop(second);
    // The best it can do is to send the dialler's own proof back.
    let mut welcome = vec![WELCOME];
    welcome.extend_from_slice(&proof[2..]);
    assert_eq!(third.welcomed(&keys, &welcome), Err(Ended::Found(Mismatch::Secret)));
}

#[test]
fn a_proof_counts_for_one_transcript_only() {
    let keys = Keys::new(&[NEW]);
    let proof_in = |id, wanted: Option<u64>, cluster, role, nonce, their_nonce| {
        let first = dial(node(id, cluster), wanted.map(NodeId), role, [nonce; 32]);
        let listener = Listener::new(node(2, Some(9)), LIFE, [their_nonce; 32]);
        let (challenge, second) = listener.greeted(&first.hello()).unwrap();
        (first.challenged(&keys, &challenge).unwrap().0, second)
    };
    let (recorded, same) = proof_in(1, Some(2), Some(9), Role::Main, 1, 2);
    assert!(same.proven(&keys, &recorded).is_ok());
    for (what, (_, other)) in [
        ("node", proof_in(3, Some(2), Some(9), Role::Main, 1, 2)),
        ("wanted", proof_in(1, None, Some(9), Role::Main, 1, 2)),
        ("cluster", proof_in(1, Some(2), None, Role::Main, 1, 2)),
        ("role", proof_in(1, Some(2), Some(9), Role::Snapshot, 1, 2)),
        ("its nonce", proof_in(1, Some(2), Some(9), Role::Main, 3, 2)),
        ("our nonce", proof_in(1, Some(2), Some(9), Role::Main, 1, 3)),
    ] {
        let refused = other.proven(&keys, &recorded).map(|_| ()).unwrap_err();
        assert_eq!(refused, Ended::Found(Mismatch::Secret), "replayed with another {what}");
    }
}

proptest! {
    #[test]
    fn junk_in_any_step_is_refused_without_a_panic(
        tag in 0u8..8, junk in proptest::collection::vec(any::<u8>(), 0..200),
    ) {
        let mut head = vec![tag];
        head.extend(junk);
        let keys = Keys::new(&[NEW]);
        let first = dial(node(1, None), None, Role::Main, [1; 32]);
        let listener = listen(node(2, None));
        let (challenge, second) = listener.greeted(&first.hello()).unwrap();
        let (_, third) = first.challenged(&keys, &challenge).unwrap();
        prop_assert!(second.proven(&keys, &head).is_err());
        prop_assert!(third.welcomed(&keys, &head).is_err());
        let _ = listen(node(2, None)).greeted(&head);
        let _ = dial(node(1, None), None, Role::Main, [1; 32]).challenged(&keys, &head);
    }
}
