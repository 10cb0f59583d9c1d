//! `stemedb cluster plan|watch|drain|remove|pause|resume`.
//!
//! What is waited for is looked at once a second. On a terminal the newest picture stands in one line
//! of stderr; elsewhere each new picture is a line of its own, so that a pipeline's log tells the
//! story.

use std::collections::HashMap;
use std::io::{IsTerminal, Write};
use std::time::Duration;

use stemedb_api::cluster::{Member, MemberList, Status};
use stemedb_api::operate::{
    Drain, DrainState, MemberChange, NewMember, Plan, PlanRequest, Rebalance, ShardMove,
};
use stemedb_client::Client;

use crate::endpoint::{ClientArgs, Who};
use crate::exit::{CONFLICT, Failure};
use crate::output::{self, Output};

/// Between two looks.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// Reads a node that would join: its name, then `zone=…` and `weight=…` by comma. For clap.
pub(crate) fn new_member(text: &str) -> Result<NewMember, String> {
    let mut parts = text.split(',');
    let name = parts.next().unwrap_or_default().to_owned();
    if name.is_empty() || name.contains('=') {
        return Err("a node is NAME[,zone=ZONE][,weight=N]".to_owned());
    }
    let mut new = NewMember { name, zone: String::new(), weight: 1 };
    for part in parts {
        match part.split_once('=') {
            Some(("zone", zone)) => new.zone = zone.to_owned(),
            Some(("weight", weight)) => {
                let parsed = weight.parse().ok().filter(|weight| (1..=100).contains(weight));
                new.weight = parsed.ok_or(format!("{weight:?} is no weight from 1 to 100"))?;
            }
            _ => return Err(format!("{part:?} is neither zone=ZONE nor weight=N")),
        }
    }
    Ok(new)
}

/// Shows what a change would move.
pub(crate) async fn plan(args: &ClientArgs, change: &PlanRequest) -> Result<(), Failure> {
    let client = args.client(Who::Admin)?;
    let plan = client.plan_layout(change).await?;
    match args.output {
        Output::Json => output::json(&plan),
        Output::Table => output::line(&plan_table(&plan, &names(&client.members().await?))),
    }
}

/// Follows what moves until nothing does.
pub(crate) async fn watch(args: &ClientArgs) -> Result<(), Failure> {
    let client = args.client(Who::Admin)?;
    let mut line = ProgressLine::new();
    loop {
        let status = client.cluster_status().await?;
        let names = names(&client.members().await?);
        if let Some(end) = is_over(&status) {
            line.clear();
            return match args.output {
                Output::Json => output::json(&status),
                Output::Table => output::line(&end),
            };
        }
        line.show(&picture(&status, &names))?;
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
}

/// Has a member hold nothing, or lets it again, and waits for it.
pub(crate) async fn drain(
    args: &ClientArgs,
    member: &str,
    off: bool,
    wait: bool,
) -> Result<(), Failure> {
    let client = args.client(Who::Admin)?;
    let mut change = client.drain_member(member, !off).await?;
    let mut line = ProgressLine::new();
    while let Some(drain) = change.drain.as_ref().filter(|drain| wait && !off && !ended(drain)) {
        line.show(&format!("{}: {}", change.name, drain_line(drain)))?;
        tokio::time::sleep(LOOK_INTERVAL).await;
        change.drain = drain_now(&client, &change.id).await?;
    }
    line.clear();
    say_drained(args.output, &change, wait && !off)
}

/// A drain as it is now; `None` if somebody ended it.
async fn drain_now(client: &Client, id: &str) -> Result<Option<Drain>, Failure> {
    let members = client.members().await?;
    Ok(members.items.into_iter().find(|member| member.id == id).and_then(|member| member.drain))
}

/// Whether there is nothing more to wait for.
fn ended(drain: &Drain) -> bool {
    match drain.state {
        DrainState::Draining => false,
        DrainState::Drained => true,
        DrainState::Blocked => drain.leaders == 0,
    }
}

fn drain_line(drain: &Drain) -> String {
    let (state, reason) = (drain.state.as_str(), &drain.reason);
    let held = format!("holds {} shards, leads {}", drain.replicas, drain.leaders);
    if reason.is_empty() {
        format!("{state}; {held}")
    } else {
        format!("{state}; {held}; {reason}")
    }
}

fn say_drained(output: Output, change: &MemberChange, waited: bool) -> Result<(), Failure> {
    let (id, name) = (&change.id, &change.name);
    let line = match &change.drain {
        None => format!("{name} ({id}) is not being drained"),
        Some(drain) => format!("{name} ({id}): {}", drain_line(drain)),
    };
    match output {
        Output::Json => output::json(change)?,
        Output::Table => output::line(&line)?,
    }
    match &change.drain {
        Some(drain) if waited && drain.state == DrainState::Blocked => {
            Err(Failure::new(CONFLICT, format!("{name} is not drained: {}", drain.reason)))
        }
        None if waited => {
            Err(Failure::new(CONFLICT, format!("{name} is not drained: somebody ended the drain")))
        }
        _ => Ok(()),
    }
}

/// Does without a member.
pub(crate) async fn remove(args: &ClientArgs, member: &str) -> Result<(), Failure> {
    let removed = args.client(Who::Admin)?.remove_member(member).await?;
    match args.output {
        Output::Json => output::json(&removed),
        Output::Table => {
            output::line(&format!("{} ({}) is no member any more", removed.name, removed.id))
        }
    }
}

/// Lets nothing begin to move, or lets it again.
pub(crate) async fn pause(args: &ClientArgs, on: bool) -> Result<(), Failure> {
    let paused = args.client(Who::Admin)?.pause_rebalance(on).await?;
    match args.output {
        Output::Json => output::json(&paused),
        Output::Table if on => output::line("rebalancing is paused; what moves already ends"),
        Output::Table => output::line("rebalancing goes on"),
    }
}

/// Names by id.
type Names = HashMap<String, String>;

fn names(members: &MemberList) -> Names {
    let named = |member: &Member| (member.id.clone(), member.name.clone());
    members.items.iter().map(named).collect()
}

fn named(nodes: &[String], names: &Names) -> String {
    let name = |node: &String| names.get(node).unwrap_or(node).clone();
    nodes.iter().map(name).collect::<Vec<_>>().join(", ")
}

/// The sum, what stands in the way, then each move.
fn plan_table(plan: &Plan, names: &Names) -> String {
    let mut text = format!(
        "epoch {}: {} shards move, {} to copy, {} change their leader",
        plan.epoch,
        plan.moves.len(),
        size(plan.bytes_total),
        plan.leaders_moved,
    );
    for why in &plan.blocked {
        text.push_str(&format!("\nblocked: {why}"));
    }
    if !plan.moves.is_empty() {
        let rows = plan.moves.iter().map(|planned| {
            let (add, remove) = (named(&planned.add, names), named(&planned.remove, names));
            [planned.shard.to_string(), add, remove, size(planned.bytes)]
        });
        text.push_str("\n\n");
        text.push_str(&output::table(["SHARD", "TO", "FROM", "BYTES"], rows));
    }
    text
}

/// What moves, one a line, as `cluster status` shows it.
pub(crate) fn moves_table(rebalance: &Rebalance, names: &Names) -> String {
    let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    let rows = rebalance.moves.iter().map(|moving| {
        [
            moving.shard.to_string(),
            moving.step.clone(),
            named(&moving.add, names),
            named(&moving.remove, names),
            or_dash(moving.entries_behind.map(|entries| entries.to_string())),
            or_dash(moving.sent_bytes.map(size)),
            or_dash(moving.bytes.map(size)),
        ]
    });
    output::table(["MOVING SHARD", "STEP", "TO", "FROM", "BEHIND", "SENT", "BYTES"], rows)
}

/// The last line of a watch, once nothing moves and no drain is under way.
fn is_over(status: &Status) -> Option<String> {
    let rebalance = status.rebalance.as_ref()?;
    let drains = || status.nodes.iter().flatten().filter_map(|node| node.drain.as_ref());
    let waits = |moving: &ShardMove| moving.step == "waiting";
    let waiting = rebalance.moves.iter().filter(|moving| waits(moving)).count();
    if rebalance.paused && waiting == rebalance.moves.len() {
        let epoch = status.epoch;
        return Some(format!("epoch {epoch}: rebalancing is paused, {waiting} moves wait"));
    }
    (rebalance.moves.is_empty() && drains().all(ended))
        .then(|| format!("epoch {}: nothing moves", status.epoch))
}

/// What moves, in one line.
fn picture(status: &Status, names: &Names) -> String {
    let mut parts = vec![format!("epoch {}", status.epoch)];
    let Some(rebalance) = &status.rebalance else {
        parts.push("no quorum of the meta group says what moves".to_owned());
        return parts.join("; ");
    };
    if rebalance.paused {
        parts.push("paused".to_owned());
    }
    let waiting = rebalance.moves.iter().filter(|moving| moving.step == "waiting").count();
    for moving in rebalance.moves.iter().filter(|moving| moving.step != "waiting") {
        let to = named(&moving.add, names);
        let to = if to.is_empty() { to } else { format!(" to {to}") };
        let sent = match (moving.sent_bytes, moving.bytes) {
            (Some(sent), Some(bytes)) => format!(", {} of about {} sent", size(sent), size(bytes)),
            _ => String::new(),
        };
        let behind = moving.entries_behind.map(|n| format!(", {n} entries behind"));
        let behind = behind.unwrap_or_default();
        parts.push(format!("shard {}{to}: {}{behind}{sent}", moving.shard, moving.step));
    }
    if waiting > 0 {
        parts.push(format!("{waiting} wait"));
    }
    for node in status.nodes.iter().flatten() {
        if let Some(drain) = node.drain.as_ref().filter(|drain| !ended(drain)) {
            parts.push(format!("{}: {}", node.name, drain_line(drain)));
        }
    }
    parts.join("; ")
}

/// Bytes, for people.
fn size(bytes: u64) -> String {
    let units = [("GiB", 30), ("MiB", 20), ("KiB", 10)];
    match units.into_iter().find(|(_, shift)| bytes >> shift > 0) {
        Some((unit, shift)) => format!("{:.1} {unit}", bytes as f64 / (1u64 << shift) as f64),
        None => format!("{bytes} B"),
    }
}

/// A line that stands on a terminal and is written over; elsewhere each new one is a line.
struct ProgressLine {
    terminal: bool,
    last: String,
}

impl ProgressLine {
    fn new() -> Self {
        Self { terminal: std::io::stderr().is_terminal(), last: String::new() }
    }

    fn show(&mut self, line: &str) -> Result<(), Failure> {
        if self.last == line {
            return Ok(());
        }
        self.last = line.to_owned();
        let mut out = std::io::stderr().lock();
        let end = if self.terminal { "" } else { "\n" };
        let start = if self.terminal { "\r\x1b[2K" } else { "" };
        let written = write!(out, "{start}{line}{end}").and_then(|()| out.flush());
        written.map_err(Failure::error)
    }

    fn clear(&mut self) {
        if self.terminal && !self.last.is_empty() {
            let mut out = std::io::stderr().lock();
            // A terminal that went away needs no clearing.
            let _ = write!(out, "\r\x1b[2K").and_then(|()| out.flush());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use stemedb_api::cluster::{MemberState, Members, NodeStatus, Shards};
    use stemedb_api::operate::PlannedMove;

    fn drain(state: DrainState, leaders: u32, reason: &str) -> Drain {
        let (since, reason) = ("1970-01-01T00:00:01Z".to_owned(), reason.to_owned());
        Drain { since, state, replicas: 2, leaders, reason }
    }

    fn status(paused: bool, moves: Vec<ShardMove>, drain: Option<Drain>) -> Status {
        let node = NodeStatus {
            id: "a1".to_owned(),
            name: "n1".to_owned(),
            state: MemberState::Alive,
            leaders: 0,
            drain,
        };
        Status {
            cluster_id: None,
            epoch: 7,
            members: Members { total: 1, alive: 1 },
            shards: Shards {
                total: 4,
                leaderless: 0,
                under_replicated: 0,
                quarantined: 0,
                moving: 0,
            },
            nodes: Some(vec![node]),
            quarantined: None,
            rebalance: Some(Rebalance { paused, paused_since: None, moves }),
        }
    }

    fn moving(step: &str) -> ShardMove {
        ShardMove {
            shard: 2,
            step: step.to_owned(),
            add: vec!["a1".to_owned()],
            remove: vec!["b2".to_owned()],
            entries_behind: Some(12),
            sent_bytes: Some(3 << 20),
            bytes: Some(5 << 30),
        }
    }

    fn called() -> Names {
        [("a1".to_owned(), "n1".to_owned())].into()
    }

    #[test]
    fn a_watch_is_over_when_nothing_moves_or_everything_waits_for_the_end_of_a_pause() {
        let over = |paused, moves, drain| is_over(&status(paused, moves, drain));
        assert_eq!(over(false, vec![], None).as_deref(), Some("epoch 7: nothing moves"));
        assert_eq!(over(false, vec![moving("waiting")], None), None);
        let waits = "epoch 7: rebalancing is paused, 1 moves wait";
        assert_eq!(over(true, vec![moving("waiting")], None).as_deref(), Some(waits));
        assert_eq!(over(true, vec![moving("voting")], None), None, "what moves ends");
        for (state, leaders, ends) in [
            (DrainState::Draining, 0, false),
            (DrainState::Blocked, 1, false),
            (DrainState::Blocked, 0, true),
            (DrainState::Drained, 0, true),
        ] {
            let seen = over(false, vec![], Some(drain(state, leaders, "")));
            assert_eq!(seen.is_some(), ends, "{state:?} {leaders}");
        }
        let unknown = Status { rebalance: None, ..status(false, vec![], None) };
        assert_eq!(is_over(&unknown), None, "nobody says");
    }

    #[test]
    fn what_moves_is_told_in_one_line() {
        let drained = drain(DrainState::Draining, 1, "2 replicas are on their way to others");
        let seen = status(false, vec![moving("catching-up"), moving("waiting")], Some(drained));
        assert_eq!(
            picture(&seen, &called()),
            "epoch 7; shard 2 to n1: catching-up, 12 entries behind, 3.0 MiB of about 5.0 GiB sent; \
             1 wait; n1: draining; holds 2 shards, leads 1; 2 replicas are on their way to others"
        );
    }

    #[test]
    fn a_plan_is_a_sum_what_is_in_the_way_and_a_table() {
        let planned = PlannedMove {
            shard: 3,
            add: vec!["a1".to_owned(), "new".to_owned()],
            remove: vec!["b2".to_owned()],
            bytes: 2048,
        };
        let plan = Plan {
            epoch: 7,
            moves: vec![planned],
            bytes_total: 2048,
            leaders_moved: 1,
            blocked: vec!["rebalancing is paused".to_owned()],
        };
        assert_eq!(
            plan_table(&plan, &called()),
            "epoch 7: 1 shards move, 2.0 KiB to copy, 1 change their leader\n\
             blocked: rebalancing is paused\n\n\
             SHARD  TO       FROM  BYTES\n3      n1, new  b2    2.0 KiB"
        );
    }

    #[test]
    fn a_node_to_be_is_read_and_a_misspelled_one_is_not() {
        let read = new_member("n4:1,zone=b,weight=7").unwrap();
        assert_eq!((read.name.as_str(), read.zone.as_str(), read.weight), ("n4:1", "b", 7));
        assert_eq!(new_member("n4").unwrap().weight, 1);
        for bad in ["", "zone=b", "n4,b", "n4,weight=0", "n4,weight=101", "n4,wieght=1"] {
            assert!(new_member(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_blocked_drain_that_was_waited_for_is_a_conflict() {
        let (id, name, removed) = ("a1".to_owned(), "n1".to_owned(), false);
        let blocked = Some(drain(DrainState::Blocked, 0, "no room: …"));
        let change = MemberChange { id, name, removed, drain: blocked };
        let refused = say_drained(Output::Table, &change, true).unwrap_err();
        assert_eq!((refused.code, refused.line.as_str()), (5, "n1 is not drained: no room: …"));
        assert_eq!(say_drained(Output::Table, &change, false), Ok(()));
        let done = MemberChange { drain: Some(drain(DrainState::Drained, 0, "")), ..change };
        assert_eq!(say_drained(Output::Table, &done, true), Ok(()));
        let ended = MemberChange { drain: None, ..done };
        assert_eq!(say_drained(Output::Table, &ended, true).unwrap_err().code, 5);
    }
}
