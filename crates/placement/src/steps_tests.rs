//! The way of one group step by step, and of whole clusters epoch by epoch.

use super::*;
use crate::{Member, Request, plan};
use proptest::prelude::*;
use stemedb_types::ShardLayout;

fn set(ids: &[u64]) -> BTreeSet<ReplicaId> {
    ids.iter().copied().map(ReplicaId).collect()
}

/// Replicas by their ids, each on the node of the same number.
fn on_nodes(ids: &[u64]) -> Vec<Replica> {
    ids.iter().map(|id| Replica { node: NodeId(*id), id: ReplicaId(*id) }).collect()
}

/// What a group does next: led by its first voter, to have these replicas, all of them voting.
fn next(voters: &[u64], learners: &[u64], caught_up: &[u64], goal: &[u64]) -> Option<Step> {
    let standing = Standing {
        leader: ReplicaId(voters[0]),
        voters: set(voters),
        learners: set(learners),
        caught_up: set(caught_up),
        is_joint: false,
    };
    next_step(&standing, &Goal { replicas: &on_nodes(goal), voters: &set(goal) })
}

#[test]
fn a_replica_moves_by_learning_then_voting_and_only_then_the_old_one_goes() {
    let all = [1, 2, 3, 4];
    assert_eq!(next(&[1, 2, 3], &[], &[1, 2, 3], &[1, 2, 3]), None);
    let learn = Step::Learn(on_nodes(&[4])[0]);
    assert_eq!(next(&[1, 2, 3], &[], &[1, 2, 3], &[1, 2, 4]), Some(learn));
    let wait = Step::Await(ReplicaId(4));
    assert_eq!(next(&[1, 2, 3], &[4], &[1, 2, 3], &[1, 2, 4]), Some(wait));
    let vote = Step::Vote(set(&[1, 2, 4]));
    assert_eq!(next(&[1, 2, 3], &[4], &all, &[1, 2, 4]), Some(vote));
    let drop = Step::Drop(set(&[3]));
    assert_eq!(next(&[1, 2, 4], &[3], &all, &[1, 2, 4]), Some(drop));
}

#[test]
fn a_leader_that_is_to_leave_hands_over_first_and_to_the_one_that_is_to_lead() {
    let all = [1, 2, 3, 4];
    let over = Step::HandOver(vec![ReplicaId(3), ReplicaId(2)]);
    assert_eq!(next(&[1, 2, 3], &[4], &all, &[3, 2, 4]), Some(over));
    let vote = Step::Vote(set(&[2, 3, 4]));
    assert_eq!(next(&[2, 1, 3], &[4], &all, &[3, 2, 4]), Some(vote), "once another one leads");
    let nobody = Step::Vote(set(&[4]));
    assert_eq!(next(&[1], &[4], &[1, 4], &[4]), Some(nobody), "there is nobody to hand over to");
}

#[test]
fn a_joint_change_that_was_left_half_done_is_ended() {
    let standing = Standing {
        leader: ReplicaId(1),
        voters: set(&[1, 2, 3]),
        caught_up: set(&[1, 2, 3]),
        is_joint: true,
        ..Standing::default()
    };
    let goal = set(&[1, 2, 3]);
    let step = next_step(&standing, &Goal { replicas: &on_nodes(&[1, 2, 3]), voters: &goal });
    assert_eq!(step, Some(Step::Vote(goal)));
}

#[test]
fn a_learner_that_nobody_wants_goes_before_another_comes() {
    assert_eq!(next(&[1, 2, 3], &[4], &[1, 2, 3], &[1, 2, 5]), Some(Step::Drop(set(&[4]))));
}

#[test]
fn some_replicas_may_only_listen_as_in_the_meta_group() {
    let replicas = on_nodes(&[1, 2, 3, 4]);
    let voters = set(&[1, 2, 3]);
    let goal = Goal { replicas: &replicas, voters: &voters };
    let mut standing = Standing { leader: ReplicaId(1), voters: set(&[1]), ..Standing::default() };
    let mut steps = Vec::new();
    while let Some(step) = next_step(&standing, &goal) {
        take(&mut standing, &step);
        steps.push(step);
    }
    let learn = |id: u64| Step::Learn(on_nodes(&[id])[0]);
    assert_eq!(
        steps,
        [
            learn(2),
            learn(3),
            learn(4),
            Step::Await(ReplicaId(2)),
            Step::Await(ReplicaId(3)),
            Step::Vote(voters.clone())
        ]
    );
    assert_eq!(standing.learners, set(&[4]));
}

/// What becomes of a group by a step; one that is waited for catches up.
fn take(standing: &mut Standing, step: &Step) {
    match step {
        Step::Learn(replica) => drop(standing.learners.insert(replica.id)),
        Step::Await(id) => drop(standing.caught_up.insert(*id)),
        Step::HandOver(heirs) => standing.leader = heirs[0],
        Step::Vote(voters) => {
            let members: BTreeSet<_> = standing.voters.union(&standing.learners).copied().collect();
            standing.learners = members.difference(voters).copied().collect();
            standing.voters = voters.clone();
            standing.is_joint = false;
        }
        Step::Drop(over) => standing.learners.retain(|id| !over.contains(id)),
    }
}

fn members(count: u64) -> Vec<Member> {
    (1..=count).map(|node| Member { node: NodeId(node), zone: None, weight: 1 }).collect()
}

proptest! {
    #[test]
    fn any_group_comes_to_its_goal_and_never_lets_one_vote_that_lacks_the_log(
        voters in prop::collection::btree_set(1..7u64, 1..5),
        learners in prop::collection::btree_set(1..9u64, 0..4),
        wanted in prop::collection::btree_set(1..9u64, 1..6),
        listening in 0..3usize,
        joint in any::<bool>(),
    ) {
        let voters: Vec<u64> = voters.into_iter().collect();
        let mut standing = Standing {
            leader: ReplicaId(voters[0]),
            voters: set(&voters),
            learners: learners.into_iter().filter(|id| !voters.contains(id)).map(ReplicaId).collect(),
            caught_up: set(&voters),
            is_joint: joint,
        };
        let replicas = on_nodes(&wanted.into_iter().collect::<Vec<_>>());
        let voting = replicas.len().saturating_sub(listening).max(1);
        let goal_voters = replicas.iter().take(voting).map(|replica| replica.id).collect();
        let goal = Goal { replicas: &replicas, voters: &goal_voters };
        let mut steps = 0;
        while let Some(step) = next_step(&standing, &goal) {
            if let Step::Vote(voters) = &step {
                prop_assert!(voters.is_subset(&standing.caught_up), "{step:?} at {standing:?}");
                let overlaps = !voters.is_disjoint(&standing.voters);
                prop_assert!(!overlaps || standing.is_joint || voters.contains(&standing.leader), "{step:?} at {standing:?}");
            }
            take(&mut standing, &step);
            steps += 1;
            prop_assert!(steps < 30, "{standing:?}");
        }
        prop_assert!(!standing.is_joint);
        prop_assert_eq!(&standing.voters, &goal_voters);
        let all: BTreeSet<_> = standing.voters.union(&standing.learners).copied().collect();
        prop_assert_eq!(all, ids(&replicas));
    }

    #[test]
    fn epoch_by_epoch_a_cluster_gets_to_the_plan_with_no_move_more(
        before in 1..7u64, after in 1..7u64, shards in 1..20u16, moving_max in 1..4usize,
    ) {
        let ask = |members: &[Member], previous: &Layout, next_replica_id| plan(&Request {
            members, replication_factor: 3, shards, previous, next_replica_id,
        }).unwrap();
        let first = ask(&members(before), &Layout::default(), 1);
        let goal = ask(&members(after), &first.layout, first.next_replica_id);
        let (mut layout, mut next_id) = (first.layout, first.next_replica_id);
        let (mut moved, mut epochs) = (0, 0);
        loop {
            let plan = ask(&members(after), &layout, next_id);
            let Some(next) = advance(&layout, &plan, moving_max, |_| Progress::InPlace, |_| true) else { break };
            let changed = |(was, is): (&ShardLayout, &ShardLayout)| {
                is.replicas.iter().filter(|replica| !was.replicas.contains(replica)).count()
            };
            let counts: Vec<usize> = layout.shards.iter().zip(&next.shards).map(changed).collect();
            prop_assert!(counts.iter().filter(|count| **count > 0).count() <= moving_max);
            prop_assert_eq!(next.epoch, layout.epoch + 1);
            moved += counts.iter().sum::<usize>();
            epochs += 1;
            (layout, next_id) = (next, plan.next_replica_id);
            // Who is to lead may change beside each move, and once more when all is there.
            prop_assert!(epochs <= 2 * usize::from(shards) + 2, "{epochs} epochs");
        }
        prop_assert_eq!(moved, goal.moves.len());
        prop_assert_eq!(ask(&members(after), &layout, next_id).layout, layout);
    }
}

#[test]
fn a_shard_that_is_on_its_way_keeps_its_replicas_and_takes_up_room() {
    fn ask(members: &[Member], previous: &Layout, next_replica_id: u64) -> Plan {
        let (replication_factor, shards) = (3, 8);
        plan(&Request { members, replication_factor, shards, previous, next_replica_id }).unwrap()
    }
    let first = ask(&members(3), &Layout::default(), 1);
    let then = ask(&members(4), &first.layout, first.next_replica_id);
    let moving = |layout: &Layout| -> Vec<usize> {
        let pairs = layout.shards.iter().zip(&first.layout.shards).enumerate();
        pairs
            .filter(|(_, (is, was))| ids(&is.replicas) != ids(&was.replicas))
            .map(|(n, _)| n)
            .collect()
    };
    let in_place = |_| Progress::InPlace;
    let all = advance(&first.layout, &then, 100, in_place, |_| true).unwrap();
    assert_eq!((all.shards.len(), moving(&all).len()), (8, then.moves.len()));
    let numbers = moving(&all);
    let two = advance(&first.layout, &then, 2, in_place, |_| true).unwrap();
    assert_eq!(moving(&two), numbers[..2]);
    // One of these is still on its way from before: it stays, and another one has room.
    let busy = ShardId(numbers[0] as u16);
    let busy =
        |progress| move |shard: ShardId| if shard == busy { progress } else { Progress::InPlace };
    let one = advance(&first.layout, &then, 2, busy(Progress::Moving), |_| true).unwrap();
    assert_eq!(moving(&one), numbers[1..2]);
    // Nothing is known of it: it stays, and takes nobody's place.
    let others = advance(&first.layout, &then, 2, busy(Progress::Unknown), |_| true).unwrap();
    assert_eq!(moving(&others), numbers[1..3]);
    // Nobody moves to a node that does not answer.
    let none = advance(&first.layout, &then, 2, in_place, |node| node != NodeId(4));
    assert_eq!(none.map(|layout| moving(&layout)).unwrap_or_default(), Vec::<usize>::new());
    // Nothing at all is known of the shards: nothing begins.
    let meta_only = advance(&first.layout, &then, 2, |_| Progress::Unknown, |_| true).unwrap();
    assert_eq!((meta_only.shards, meta_only.meta), (first.layout.shards, then.layout.meta));
}
