//! The meta machine, told as transcripts.

use stemedb_types::{
    ClusterId, Layout, NodeId, ProjectId, ProjectName, Replica, ReplicaId, ShardLayout,
};

use super::*;

fn run(state: &mut MetaState, command: MetaCommand) -> MetaAnswer {
    let bytes = command.encode();
    let decoded = MetaCommand::decode(&bytes).expect("a command reads back");
    assert_eq!(decoded, command);
    let outcome = apply(state, decoded).expect("applies");
    for record in outcome.changes {
        let mut out = stemedb_types::Encoder::new();
        record.encode(&mut out);
        let mut from = stemedb_types::Decoder::new(out.as_slice());
        let read_back = MetaRecord::decode(&mut from).expect("a record reads back");
        assert_eq!(read_back, record);
        state.absorb(read_back);
    }
    let mut out = stemedb_types::Encoder::new();
    outcome.answer.encode(&mut out);
    let read_back = MetaAnswer::decode(&mut stemedb_types::Decoder::new(out.as_slice()));
    assert_eq!(read_back.as_ref(), Ok(&outcome.answer));
    outcome.answer
}

fn node(id: u64) -> Node {
    Node {
        id: NodeId(id),
        name: format!("node-{id}"),
        zone: String::new(),
        addresses: NodeAddresses::default(),
        meta_replica: ReplicaId(id),
        weight: 1,
        draining_since_ms: None,
    }
}

fn found() -> MetaCommand {
    let replica = |id| Replica { node: NodeId(id), id: ReplicaId(id) };
    MetaCommand::Found {
        founding: Founding { cluster: ClusterId(9), replication_factor: 1, at_ms: 5 },
        nodes: vec![node(1)],
        layout: Layout {
            epoch: 1,
            shards: vec![ShardLayout {
                replicas: vec![Replica { node: NodeId(1), id: ReplicaId(2) }],
            }],
            meta: vec![replica(1)],
        },
        next_replica: ReplicaId(3),
    }
}

fn founded() -> MetaState {
    let mut state = MetaState::default();
    assert_eq!(run(&mut state, found()), MetaAnswer::Done);
    state
}

fn new_key(byte: u8, label: &str, if_exists: IfExists) -> MetaCommand {
    MetaCommand::CreateKey(NewKey {
        hash: KeyHash([byte; 32]),
        label: label.to_owned(),
        role: Role::WriteAgent,
        project: "alpha".parse::<ProjectName>().ok(),
        at_ms: 10,
        by: "root".to_owned(),
        if_exists,
    })
}

#[test]
fn a_cluster_is_founded_once_and_nothing_comes_before_it() {
    let mut state = MetaState::default();
    assert_eq!(run(&mut state, new_key(1, "a", IfExists::Conflict)), MetaAnswer::Stale);
    assert_eq!(state, MetaState::default());
    assert_eq!(run(&mut state, found()), MetaAnswer::Done);
    let before = state.clone();
    assert_eq!(run(&mut state, found()), MetaAnswer::Stale);
    assert_eq!(state, before);
}

#[test]
fn a_new_node_gets_the_next_replica_id_and_a_known_one_keeps_its_own() {
    let mut state = founded();
    let register = |name: &str| MetaCommand::Register {
        id: NodeId(7),
        name: name.to_owned(),
        zone: "z".to_owned(),
        addresses: NodeAddresses::default(),
        weight: 1,
    };
    let registered = MetaAnswer::Registered { meta_replica: ReplicaId(3) };
    assert_eq!(run(&mut state, register("new")), registered);
    assert_eq!(state.next_replica, ReplicaId(4));
    assert_eq!(state.layout.epoch, 2);
    // Again, under another label: the same replica, no new epoch.
    assert_eq!(run(&mut state, register("renamed")), registered);
    assert_eq!((state.layout.epoch, state.next_replica), (2, ReplicaId(4)));
    assert_eq!(state.nodes[&NodeId(7)].name, "renamed");
}

fn register(id: u64) -> MetaCommand {
    let (name, zone) = (format!("node-{id}"), String::new());
    let addresses = NodeAddresses::default();
    MetaCommand::Register { id: NodeId(id), name, zone, addresses, weight: 1 }
}

fn replace(gone: u64, id: u64) -> MetaCommand {
    MetaCommand::Replace {
        gone: NodeId(gone),
        id: NodeId(id),
        name: format!("node-{gone}"),
        zone: String::new(),
        addresses: NodeAddresses::default(),
        weight: 1,
        at_ms: 30,
    }
}

fn meta_nodes(state: &MetaState) -> Vec<(u64, u64)> {
    state.layout.meta.iter().map(|replica| (replica.node.0, replica.id.0)).collect()
}

#[test]
fn a_removed_node_leaves_the_meta_group_and_is_not_taken_in_again() {
    let mut state = founded();
    run(&mut state, register(7));
    let remove = |id| MetaCommand::Remove { id: NodeId(id), at_ms: 20 };
    assert_eq!(run(&mut state, remove(9)), MetaAnswer::NotFound);
    assert_eq!(run(&mut state, remove(7)), MetaAnswer::Done);
    assert_eq!((meta_nodes(&state), state.layout.epoch), (vec![(1, 1)], 3));
    assert_eq!(state.nodes.keys().collect::<Vec<_>>(), [&NodeId(1)]);
    let again = state.clone();
    assert_eq!(run(&mut state, remove(7)), MetaAnswer::Done, "a retry");
    assert_eq!(run(&mut state, register(7)), MetaAnswer::Gone);
    assert_eq!(run(&mut state, replace(1, 7)), MetaAnswer::Gone);
    assert_eq!(run(&mut state, remove(1)), MetaAnswer::Stale, "the last one stays");
    assert_eq!(state, again);
}

#[test]
fn a_new_node_takes_the_place_of_one_that_lost_its_disk() {
    let mut state = founded();
    run(&mut state, register(7));
    run(&mut state, register(8));
    assert_eq!(meta_nodes(&state), [(1, 1), (7, 3), (8, 4)]);
    let registered = MetaAnswer::Registered { meta_replica: ReplicaId(5) };
    assert_eq!(run(&mut state, replace(7, 20)), registered);
    assert_eq!(meta_nodes(&state), [(1, 1), (20, 5), (8, 4)]);
    assert_eq!(state.gone[&NodeId(7)].successor, Some(NodeId(20)));
    assert_eq!(state.nodes[&NodeId(20)].name, "node-7");
    let again = state.clone();
    assert_eq!(run(&mut state, replace(7, 20)), registered, "a retry");
    assert_eq!(run(&mut state, replace(7, 21)), MetaAnswer::Stale, "somebody else was first");
    assert_eq!(run(&mut state, replace(99, 21)), MetaAnswer::Stale, "nobody had that id");
    assert_eq!(state, again);
    // Read back from its records, in whatever order.
    let mut read = again.clone();
    let old = Node { id: NodeId(7), meta_replica: ReplicaId(3), ..node(7) };
    read.absorb(MetaRecord::Node(old));
    assert_eq!(read, again);
}

#[test]
fn a_layout_must_follow_the_one_it_was_made_from() {
    let mut state = founded();
    let mut layout = state.layout.clone();
    for (epoch, answer) in [(1, MetaAnswer::Stale), (3, MetaAnswer::Stale), (2, MetaAnswer::Done)] {
        layout.epoch = epoch;
        let command = MetaCommand::SetLayout { layout: layout.clone(), next_replica: ReplicaId(3) };
        assert_eq!(run(&mut state, command), answer, "epoch {epoch}");
    }
    assert_eq!(state.layout.epoch, 2);
}

#[test]
fn one_living_key_has_a_label_and_a_project_is_made_once() {
    let mut state = founded();
    let first = run(&mut state, new_key(1, "ci", IfExists::Conflict));
    let MetaAnswer::Key { key, created: true } = first else { panic!("{first:?}") };
    assert_eq!(key.project, Some(ProjectId(1)));
    // The same label: refused, or given back, or added beside; the same key: itself again.
    assert_eq!(run(&mut state, new_key(2, "ci", IfExists::Conflict)), MetaAnswer::LabelTaken);
    let given = MetaAnswer::Key { key: key.clone(), created: false };
    assert_eq!(run(&mut state, new_key(2, "ci", IfExists::Return)), given);
    assert_eq!(run(&mut state, new_key(1, "other", IfExists::Conflict)), given);
    let MetaAnswer::Key { created: true, .. } = run(&mut state, new_key(3, "ci", IfExists::Add))
    else {
        panic!("not added")
    };
    assert_eq!((state.keys.len(), state.projects.len()), (2, 1));
    // Revoked: the label is free again, the key itself never.
    for hash in [1, 3] {
        let revoke = MetaCommand::RevokeKey { hash: KeyHash([hash; 32]), at_ms: 20 };
        assert_eq!(run(&mut state, revoke), MetaAnswer::Done);
    }
    assert_eq!(state.living_key(&KeyHash([1; 32])), None);
    assert_eq!(run(&mut state, new_key(1, "ci", IfExists::Conflict)), MetaAnswer::LabelTaken);
    let again = run(&mut state, new_key(4, "ci", IfExists::Conflict));
    assert!(matches!(again, MetaAnswer::Key { created: true, .. }), "{again:?}");
    assert_eq!((state.next_project, state.projects.len()), (ProjectId(2), 1));
}

#[test]
fn no_cut_of_a_command_is_read_as_one() {
    for command in [found(), new_key(1, "a", IfExists::Add)] {
        let bytes = command.encode();
        for cut in 0..bytes.len() {
            assert!(MetaCommand::decode(&bytes[..cut]).is_err(), "cut at {cut}");
        }
    }
}

#[test]
fn a_mark_stays_until_it_is_taken_away_and_one_member_has_none() {
    let mut state = founded();
    let drain = |id, on| MetaCommand::Drain { id: NodeId(id), on, at_ms: 50 };
    assert_eq!(run(&mut state, drain(9, true)), MetaAnswer::NotFound);
    assert_eq!(run(&mut state, drain(1, true)), MetaAnswer::Stale, "nobody else could hold it");
    run(&mut state, register(7));
    let epoch = state.layout.epoch;
    assert_eq!(run(&mut state, drain(7, true)), MetaAnswer::Done);
    let later = MetaCommand::Drain { id: NodeId(7), on: true, at_ms: 60 };
    assert_eq!(run(&mut state, later), MetaAnswer::Done, "a retry");
    assert_eq!(state.nodes[&NodeId(7)].draining_since_ms, Some(50));
    assert_eq!(run(&mut state, drain(1, true)), MetaAnswer::Stale, "the last one without");
    // It registers again from elsewhere, with another weight: the mark is a person's.
    let addresses = NodeAddresses { http: "h:1".to_owned(), ..NodeAddresses::default() };
    let (name, zone) = ("node-7".to_owned(), String::new());
    let moved = MetaCommand::Register { id: NodeId(7), name, zone, addresses, weight: 3 };
    run(&mut state, moved);
    assert!(state.is_draining(NodeId(7)) && state.nodes[&NodeId(7)].weight == 3);
    // Another disk is another node, and nobody said a word on that one.
    run(&mut state, replace(7, 20));
    assert!(!state.is_draining(NodeId(20)) && !state.is_draining(NodeId(7)));
    run(&mut state, drain(20, true));
    assert_eq!(run(&mut state, drain(20, false)), MetaAnswer::Done);
    assert_eq!(run(&mut state, drain(20, false)), MetaAnswer::Done, "a retry");
    assert!(!state.is_draining(NodeId(20)));
    assert_eq!(state.layout.epoch, epoch + 1, "marks are no layout");
}

#[test]
fn a_pause_begins_once_and_ends() {
    let mut state = founded();
    let pause = |on, at_ms| MetaCommand::Pause { on, at_ms };
    for (command, since_ms) in [
        (pause(false, 1), None),
        (pause(true, 2), Some(2)),
        (pause(true, 3), Some(2)),
        (pause(false, 4), None),
    ] {
        assert_eq!(run(&mut state, command.clone()), MetaAnswer::Done);
        assert_eq!(state.paused_since_ms, since_ms, "{command:?}");
    }
}

/// What version 1 wrote, byte for byte: it is read for ever, and what it had room for is still
/// written so.
#[test]
fn what_version_1_wrote_is_read_and_written_the_same() {
    let node = "01\
        07000000000000000663696e6465720162036e3a3101320133013405";
    let register = "0102\
        07000000000000000663696e6465720162036e3a31013201330134";
    let replace = "0108\
        0300000000000000\
        07000000000000000663696e6465720162036e3a31013201330134b960";
    let addresses = NodeAddresses {
        http: "n:1".to_owned(),
        gateway: "2".to_owned(),
        grpc: "3".to_owned(),
        gossip: "4".to_owned(),
    };
    let (id, name, zone, weight) = (NodeId(7), "cinder".to_owned(), "b".to_owned(), 1);
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let commands = [
        (
            register,
            MetaCommand::Register {
                id,
                name: name.clone(),
                zone: zone.clone(),
                addresses: addresses.clone(),
                weight,
            },
        ),
        (
            replace,
            MetaCommand::Replace {
                gone: NodeId(3),
                id,
                name: name.clone(),
                zone: zone.clone(),
                addresses: addresses.clone(),
                weight,
                at_ms: 12345,
            },
        ),
    ];
    for (bytes, command) in commands {
        assert_eq!(hex(&command.encode()), bytes);
        assert_eq!(MetaCommand::decode(&unhex(bytes)), Ok(command));
    }
    let record = MetaRecord::Node(Node {
        id,
        name,
        zone,
        addresses,
        meta_replica: ReplicaId(5),
        weight,
        draining_since_ms: None,
    });
    let node = node.replacen("01", "0105", 1);
    let mut out = stemedb_types::Encoder::new();
    record.encode(&mut out);
    assert_eq!(hex(out.as_slice()), node);
    let bytes = unhex(&node);
    assert_eq!(MetaRecord::decode(&mut stemedb_types::Decoder::new(&bytes)), Ok(record));
}

fn unhex(text: &str) -> Vec<u8> {
    let digits: Vec<u32> = text.chars().map(|digit| digit.to_digit(16).expect("hex")).collect();
    digits.chunks(2).map(|pair| u8::try_from(pair[0] << 4 | pair[1]).expect("a byte")).collect()
}

#[test]
fn weights_marks_and_the_pause_read_back() {
    let plain = node(7);
    for (weight, draining_since_ms) in [(1, None), (3, None), (1, Some(5)), (100, Some(0))] {
        let record = MetaRecord::Node(Node { weight, draining_since_ms, ..plain.clone() });
        let mut out = stemedb_types::Encoder::new();
        record.encode(&mut out);
        let read = MetaRecord::decode(&mut stemedb_types::Decoder::new(out.as_slice()));
        assert_eq!(read, Ok(record));
    }
    let mut heavy = found();
    if let MetaCommand::Found { nodes, .. } = &mut heavy {
        nodes[0].weight = 9;
    }
    let mut state = MetaState::default();
    assert_eq!(run(&mut state, heavy), MetaAnswer::Done);
    assert_eq!(state.nodes[&NodeId(1)].weight, 9);
    let mut weighty = replace(1, 4);
    if let MetaCommand::Replace { weight, .. } = &mut weighty {
        *weight = 2;
    }
    run(&mut state, weighty);
    assert_eq!(state.nodes[&NodeId(4)].weight, 2);
}

#[test]
fn one_member_goes_on_alone_under_a_new_id_with_all_keys_and_no_other_member() {
    let mut state = founded();
    let register = |id| MetaCommand::Register {
        id: NodeId(id),
        name: format!("node-{id}"),
        zone: String::new(),
        addresses: NodeAddresses::default(),
        weight: WEIGHT_DEFAULT,
    };
    for id in [2, 3] {
        run(&mut state, register(id));
    }
    let name: ProjectName = "alpha".parse().unwrap();
    run(&mut state, MetaCommand::EnsureProject { name: name.clone(), at_ms: 6 });
    let recovery =
        Recovery { by: NodeId(1), before: ClusterId(9), after: ClusterId(77), at_ms: 1000 };
    let layout = Layout {
        epoch: state.layout.epoch + 1,
        meta: vec![Replica { node: NodeId(1), id: ReplicaId(1) }],
        ..state.layout.clone()
    };
    let next_replica = state.next_replica;
    let recover =
        |recovery| MetaCommand::Recover { recovery, layout: layout.clone(), next_replica };
    let before = state.clone();
    for wrong in
        [Recovery { by: NodeId(8), ..recovery }, Recovery { before: ClusterId(8), ..recovery }]
    {
        assert_eq!(run(&mut state, recover(wrong)), MetaAnswer::Stale);
    }
    assert_eq!(state, before);
    assert_eq!(run(&mut state, recover(recovery)), MetaAnswer::Done);
    assert_eq!(state.founding.map(|founding| founding.cluster), Some(ClusterId(77)));
    assert_eq!(state.nodes.keys().copied().collect::<Vec<_>>(), [NodeId(1)]);
    assert_eq!(state.gone.keys().copied().collect::<Vec<_>>(), [NodeId(2), NodeId(3)]);
    assert_eq!(state.layout, layout);
    assert!(state.project(&name).is_some());
    assert_eq!(state.recoveries.values().copied().collect::<Vec<_>>(), [recovery]);

    // A retry changes nothing; the lost ones are not taken in under their ids again.
    let after = state.clone();
    assert_eq!(run(&mut state, recover(recovery)), MetaAnswer::Done);
    assert_eq!(state, after);
    assert_eq!(run(&mut state, register(2)), MetaAnswer::Gone);
}
