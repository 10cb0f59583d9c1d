//! Real tasks, real sockets on the loopback, the public interface only. The protocol's cases are
//! tested on the agent with a clock of its own; here it is shown that the parts are plugged
//! together: socket, envelope, wake-ups, join list, watches.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests, too, should panic")]

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use stemedb_membership::{
    Error, Handle, JoinTarget, Member, MemberState, Members, Membership, Options, Profile, Refused,
    Secret, Timing, bind,
};
use stemedb_types::{ClusterId, NodeId};
use tokio::sync::watch;

const PATIENCE: Duration = Duration::from_secs(20);
const SECRET: &str = "a secret of the cluster";

fn options(node: u64, join: &[SocketAddr]) -> Options {
    let socket = bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    Options {
        node: NodeId(node),
        incarnation: 1,
        cluster: None,
        socket,
        advertise: SocketAddr::from(([127, 0, 0, 1], 0)),
        grpc_port: 18182,
        secrets: vec![secret(SECRET)],
        join: join.iter().map(target).collect(),
        profile: Profile { zone: format!("zone-{node}"), ..Profile::default() },
        timing: Timing {
            probe_period: Duration::from_millis(200),
            probe_rtt: Duration::from_millis(80),
            join_alone: Duration::from_millis(50),
            join_joined: Duration::from_millis(500),
            reannounce: Duration::from_secs(2),
        },
    }
}

fn secret(text: &str) -> Secret {
    Secret::new(text.as_bytes().to_vec()).unwrap()
}

fn target(addr: &SocketAddr) -> JoinTarget {
    addr.to_string().parse().unwrap()
}

async fn until<T: Clone>(mut seen: watch::Receiver<T>, done: impl Fn(&T) -> bool) -> T {
    let waiting = tokio::time::timeout(PATIENCE, seen.wait_for(|value| done(value)));
    waiting.await.expect("within patience").expect("the task runs").clone()
}

async fn sees(handle: &Handle, node: u64, wanted: impl Fn(&Member) -> bool) -> Arc<Members> {
    until(handle.members(), |members| members.get(NodeId(node)).is_some_and(&wanted)).await
}

fn alive(member: &Member) -> bool {
    member.state == MemberState::Alive
}

#[tokio::test]
async fn three_nodes_meet_through_one_lose_one_and_get_it_back_as_a_newer_life() {
    let told = |members: &Arc<Members>, node: u64, zone: &str| {
        members.profile(NodeId(node)).is_some_and(|profile| profile.zone == zone)
    };
    let one = Membership::start(options(1, &[])).unwrap();
    let seed = [one.advertise()];
    let two = Membership::start(options(2, &seed)).unwrap();
    let three = Membership::start(options(3, &seed)).unwrap();
    for handle in [&one, &two, &three] {
        until(handle.members(), |members| members.count(MemberState::Alive) == 3).await;
        until(handle.members(), |members| {
            (1..=3).all(|node| told(members, node, &format!("zone-{node}")))
        })
        .await;
    }

    drop(three);
    sees(&one, 3, |member| member.state == MemberState::Down).await;
    sees(&two, 3, |member| member.state == MemberState::Down).await;

    // Through the other survivor, on another port, by a name.
    let by_name = JoinTarget { host: "localhost".to_owned(), port: two.advertise().port() };
    let profile = Profile { zone: "elsewhere".to_owned(), ..Profile::default() };
    let back = Options { incarnation: 2, join: vec![by_name], profile, ..options(3, &[]) };
    let three = Membership::start(back).unwrap();
    for handle in [&one, &two] {
        let members = sees(handle, 3, alive).await;
        let member = members.get(NodeId(3)).unwrap();
        assert_eq!((member.incarnation, member.gossip), (2, three.advertise()));
        assert_eq!(member.grpc.port(), 18182);
        until(handle.members(), |members| told(members, 3, "elsewhere")).await;
    }
    until(three.members(), |members| members.count(MemberState::Alive) == 3).await;
}

#[tokio::test]
async fn a_node_with_another_secret_is_never_seen() {
    let one = Membership::start(options(1, &[])).unwrap();
    let stranger =
        Options { secrets: vec![secret("some other secret")], ..options(2, &[one.advertise()]) };
    let stranger = Membership::start(stranger).unwrap();
    let insecure = Options { secrets: Vec::new(), ..options(3, &[one.advertise()]) };
    let insecure = Membership::start(insecure).unwrap();

    until(one.refused(), |refused| refused.unsealed >= 6).await;
    // Whom it looks for answers, and it can't read that: once a second that counts against its secret.
    let doubted = until(stranger.refused(), |refused| refused.unreadable >= 2).await;
    assert!(doubted.unsealed >= doubted.unreadable);
    // Nobody has told the others of any place where they should find it.
    assert_eq!(one.refused().borrow().unreadable, 0);
    for handle in [&one, &stranger, &insecure] {
        assert_eq!(handle.members().borrow().list.len(), 1);
    }
}

#[tokio::test]
async fn a_node_in_a_key_rotation_meets_one_that_is_not_through_it_yet() {
    let both = vec![secret("the next secret."), secret(SECRET)];
    let one = Membership::start(Options { secrets: both.clone(), ..options(1, &[]) }).unwrap();
    let other_way = vec![secret(SECRET), secret("the next secret.")];
    let two = Options { secrets: other_way, ..options(2, &[one.advertise()]) };
    let two = Membership::start(two).unwrap();
    sees(&one, 2, alive).await;
    sees(&two, 1, alive).await;
}

/// Each node in turn goes down and comes back at its place with other secrets, as pods do.
#[tokio::test]
async fn a_secret_is_rotated_node_by_node_and_everybody_stays_in_sight() {
    const NEW: &str = "the next secret.";
    let places: Vec<SocketAddr> = (0..3)
        .map(|_| bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap().local_addr().unwrap())
        .collect();
    let start = |number: usize, life: u64, secrets: &[&str]| {
        let (place, node) = (places[number], number as u64 + 1);
        let secrets = secrets.iter().map(|text| secret(text)).collect();
        let fresh = options(node, &places);
        let (socket, advertise) = (bind(place).unwrap(), place);
        let options = Options { socket, advertise, secrets, incarnation: life, ..fresh };
        Membership::start(options).unwrap()
    };
    let mut handles: Vec<Handle> = (0..3).map(|number| start(number, 1, &[SECRET])).collect();
    let all_alive = async |handles: &[Handle]| {
        for handle in handles {
            until(handle.members(), |members| members.count(MemberState::Alive) == 3).await;
        }
    };
    all_alive(&handles).await;
    for (step, secrets) in [(1, &[NEW, SECRET][..]), (2, &[NEW][..])] {
        for number in 0..3 {
            let life = 10 * step;
            handles[number].stop().await.unwrap();
            handles[number] = start(number, life, secrets);
            let node = number as u64 + 1;
            for handle in &handles {
                sees(handle, node, |member| member.incarnation >= life && alive(member)).await;
            }
            all_alive(&handles).await;
            // Longer than a suspicion takes to become a death (0.8 s), with every node under watch.
            let end = tokio::time::Instant::now() + Duration::from_secs(2);
            while tokio::time::Instant::now() < end {
                for handle in &handles {
                    let members = handle.members().borrow().clone();
                    assert_eq!(members.count(MemberState::Down), 0, "{step} {number} {members:?}");
                    assert_eq!(members.list.len(), 3);
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
    }
}

#[tokio::test]
async fn two_clusters_with_one_secret_refuse_each_other() {
    let one = Options { cluster: Some(ClusterId(1)), ..options(1, &[]) };
    let one = Membership::start(one).unwrap();
    let two = Options { cluster: Some(ClusterId(2)), ..options(2, &[one.advertise()]) };
    let two = Membership::start(two).unwrap();
    until(one.refused(), |refused| refused.foreign >= 3).await;
    let told = until(two.refused(), |refused| refused.other_cluster.is_some()).await;
    let other = told.other_cluster.unwrap();
    assert_eq!((other.at, other.cluster), (one.advertise(), ClusterId(1)));
    assert_eq!(one.refused().borrow().other_cluster, None);
    assert_eq!(one.members().borrow().list.len(), 1);
    assert_eq!(two.members().borrow().list.len(), 1);
}

#[tokio::test]
async fn entering_a_cluster_is_told_to_the_others_and_shows_in_the_incarnation() {
    let one = Membership::start(options(1, &[])).unwrap();
    let two = Membership::start(options(2, &[one.advertise()])).unwrap();
    sees(&one, 2, alive).await;

    two.set_cluster(ClusterId(9)).await.unwrap();
    assert_eq!(*two.incarnation().borrow(), 2);
    assert_eq!(two.members().borrow().get(NodeId(2)).unwrap().cluster, Some(ClusterId(9)));
    sees(&one, 2, |member| member.cluster == Some(ClusterId(9)) && member.incarnation == 2).await;
    let refused = two.set_cluster(ClusterId(8)).await;
    assert!(matches!(refused, Err(Error::OtherCluster { ours: ClusterId(9) })));
}

#[tokio::test]
async fn a_node_that_leaves_is_down_at_the_others_and_its_handle_says_so() {
    let one = Membership::start(options(1, &[])).unwrap();
    let two = Membership::start(options(2, &[one.advertise()])).unwrap();
    sees(&one, 2, alive).await;
    two.leave().await.unwrap();
    sees(&one, 2, |member| member.state == MemberState::Down).await;
    assert!(matches!(two.leave().await, Err(Error::Stopped)));
    assert!(matches!(two.set_cluster(ClusterId(1)).await, Err(Error::Stopped)));
}

#[tokio::test]
async fn two_processes_under_one_id_show_it_in_their_pictures() {
    let one = Membership::start(options(1, &[])).unwrap();
    let copy =
        Membership::start(Options { incarnation: 9, ..options(1, &[one.advertise()]) }).unwrap();
    let seen = until(one.members(), |members| members.double.is_some()).await;
    assert_eq!(seen.double.unwrap().gossip, copy.advertise());
    until(copy.members(), |members| members.double.is_some()).await;
}

#[tokio::test]
async fn junk_is_counted_and_harms_nobody() {
    let one = Membership::start(options(1, &[])).unwrap();
    let socket = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
    for packet in [&b""[..], b"junk", &[1; 41], &[0xff; 1400], &[1; 5000]] {
        socket.send_to(packet, one.advertise()).await.unwrap();
    }
    let refused = until(one.refused(), |refused| refused.unsealed + refused.malformed == 5).await;
    assert_eq!(refused, Refused { unsealed: 4, malformed: 1, ..Refused::default() });
    // An envelope of a newer build.
    socket.send_to(&[2; 60], one.advertise()).await.unwrap();
    until(one.refused(), |refused| refused.newer == 1).await;
    let two = Membership::start(options(2, &[one.advertise()])).unwrap();
    sees(&two, 1, alive).await;
}

#[tokio::test]
async fn what_can_not_work_is_refused_before_anything_runs() {
    let taken = bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    let addr = taken.local_addr().unwrap();
    let Err(Error::Bind { source, .. }) = bind(addr) else { panic!("bound twice") };
    assert_eq!(source.kind(), std::io::ErrorKind::AddrInUse);

    let nowhere = SocketAddr::from(([0, 0, 0, 0], 18183));
    let refused = Membership::start(Options { advertise: nowhere, ..options(1, &[]) });
    assert!(matches!(refused, Err(Error::Advertise { addr }) if addr == nowhere));

    let timing = Timing { probe_rtt: Duration::from_secs(9), ..Timing::default() };
    let refused = Membership::start(Options { timing, ..options(1, &[]) });
    assert!(matches!(refused, Err(Error::Timing { .. })));

    let profile = Profile { version: "1".repeat(65), ..Profile::default() };
    let refused = Membership::start(Options { profile, ..options(1, &[]) });
    assert!(matches!(refused, Err(Error::ProfileTooLong { what: "version", bytes: 65 })));
}

#[test]
fn outside_a_runtime_nothing_starts() {
    assert!(matches!(Membership::start(options(1, &[])), Err(Error::NoRuntime)));
}
