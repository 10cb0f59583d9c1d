//! Two sides of a handshake on one table, frame by frame.

use proptest::prelude::*;

use super::*;
use crate::mismatch::refusal;

const OLD: &[u8] = b"the secret of last year";
const NEW: &[u8] = b"the secret of this year";

fn node(node: u64, cluster: Option<u128>) -> PeerIdentity {
    PeerIdentity { node: NodeId(node), cluster: cluster.map(ClusterId) }
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
fn meet(dialler: &Side, wanted: Option<u64>, listener: &Side) -> Met {
    let first = Dialler::new(dialler.me, wanted.map(NodeId), Role::Main, [1; 32]);
    let hello = first.hello();
    let (challenge, second) = Listener::new(listener.me, [2; 32])
        .greeted(&hello)
        .map_err(|e| tell(e, |head| first_told(dialler, head)))?;
    let (proof, third) = first
        .challenged(&dialler.keys, &challenge)
        .map_err(|e| tell(e, |head| open(head, PROOF).map(|_| ()).unwrap_err()))?;
    let (welcome, peer, role) = second
        .proven(&listener.keys, &proof)
        .map_err(|e| tell(e, |head| open(head, WELCOME).map(|_| ()).unwrap_err()))?;
    Ok((third.welcomed(&welcome)?, (peer, role)))
}

fn first_told(dialler: &Side, head: &[u8]) -> Ended {
    let again = Dialler::new(dialler.me, None, Role::Main, [1; 32]);
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

#[test]
fn another_version_is_refused_by_its_number_alone() {
    let newer = Dialler::with_version(2, node(1, None), None, Role::Main, [1; 32]);
    let mut head = newer.hello();
    head.truncate(2); // The rest of a later hello may be anything.
    let found = Listener::new(node(2, None), [2; 32]).greeted(&head).map(|_| ()).unwrap_err();
    assert_eq!(found, Ended::Found(Mismatch::Version { dialler: 2, listener: 1 }));
}

#[test]
fn the_dialler_checks_the_listener_by_itself() {
    let keys = Keys::new(&[NEW]);
    let dialler = || Dialler::new(node(1, Some(9)), Some(NodeId(2)), Role::Main, [1; 32]);
    let challenge = |id, cluster| Listener::new(node(id, cluster), [2; 32]).challenge();
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
    let first = Dialler::new(node(1, None), Some(NodeId(2)), Role::Main, [1; 32]);
    let (challenge, second) =
        Listener::new(node(2, None), [2; 32]).greeted(&first.hello()).unwrap();
    let (proof, third) = first.challenged(&keys, &challenge).unwrap();
    drop(second);
    // The best it can do is to send the dialler's own proof back.
    let mut welcome = vec![WELCOME];
    welcome.extend_from_slice(&proof[2..]);
    assert_eq!(third.welcomed(&welcome), Err(Ended::Found(Mismatch::Secret)));
}

#[test]
fn a_proof_counts_for_one_transcript_only() {
    let keys = Keys::new(&[NEW]);
    let proof_in = |id, wanted: Option<u64>, cluster, role, nonce, their_nonce| {
        let first = Dialler::new(node(id, cluster), wanted.map(NodeId), role, [nonce; 32]);
        let listener = Listener::new(node(2, Some(9)), [their_nonce; 32]);
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
        let first = Dialler::new(node(1, None), None, Role::Main, [1; 32]);
        let listener = Listener::new(node(2, None), [2; 32]);
        let (challenge, second) = listener.greeted(&first.hello()).unwrap();
        let (_, third) = first.challenged(&keys, &challenge).unwrap();
        prop_assert!(second.proven(&keys, &head).is_err());
        prop_assert!(third.welcomed(&head).is_err());
        let _ = Listener::new(node(2, None), [2; 32]).greeted(&head);
        let _ = Dialler::new(node(1, None), None, Role::Main, [1; 32]).challenged(&keys, &head);
    }
}
