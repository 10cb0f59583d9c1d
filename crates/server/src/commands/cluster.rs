//! `stemedb cluster status|members|layout`; the others are `operate`'s.

use std::collections::HashMap;

use stemedb_api::cluster::{Layout, MemberList, MemberState, Quarantined, Replica, Status};
use stemedb_api::operate::{Drain, PlanRequest};

use crate::cli::ClusterCommand;
use crate::commands::operate;
use crate::endpoint::Who;
use crate::exit::Failure;
use crate::output::{self, Output};

pub(crate) async fn run(command: ClusterCommand) -> Result<(), Failure> {
    match command {
        ClusterCommand::Status(args) => {
            let status = args.client(Who::Admin)?.cluster_status().await?;
            match args.output {
                Output::Json => output::json(&status),
                Output::Table => output::line(&status_table(&status)),
            }
        }
        ClusterCommand::Members(args) => {
            let members = args.client(Who::Admin)?.members().await?;
            match args.output {
                Output::Json => output::json(&members),
                Output::Table => output::line(&members_table(&members)),
            }
        }
        ClusterCommand::Layout(args) => {
            let client = args.client(Who::Admin)?;
            let layout = client.layout().await?;
            match args.output {
                Output::Json => output::json(&layout),
                Output::Table => output::line(&layout_table(&layout, &client.members().await?)),
            }
        }
        ClusterCommand::Plan { client, drain, remove, add } => {
            operate::plan(&client, &PlanRequest { drain, remove, add }).await
        }
        ClusterCommand::Watch(args) => operate::watch(&args).await,
        ClusterCommand::Drain { client, member, off, no_wait } => {
            operate::drain(&client, &member, off, !no_wait).await
        }
        ClusterCommand::Remove { client, member } => operate::remove(&client, &member).await,
        ClusterCommand::Pause(args) => operate::pause(&args, true).await,
        ClusterCommand::Resume(args) => operate::pause(&args, false).await,
    }
}

/// The cluster in one line.
pub(crate) fn status_line(status: &Status) -> String {
    let (members, shards) = (status.members, status.shards);
    format!(
        "cluster {}, epoch {}: {} of {} members alive, {} shards, {} without a leader, {} under-replicated",
        status.cluster_id.as_deref().unwrap_or("not founded yet"),
        status.epoch,
        members.alive,
        members.total,
        shards.total,
        shards.leaderless,
        shards.under_replicated,
    )
}

/// Replicas that the node asked has set aside, one a line.
fn quarantined_table(aside: &[Quarantined]) -> String {
    let rows = aside.iter().map(|aside| {
        let shard = aside.shard.map_or("meta".to_owned(), |shard| shard.to_string());
        let replica = aside.replica.to_string();
        [shard, replica, aside.part.clone(), aside.since.clone(), aside.cause.clone()]
    });
    output::table(["QUARANTINED SHARD", "REPLICA", "DAMAGED", "SINCE", "CAUSE"], rows)
}

/// The cluster in one line, then each member that the key may see.
fn status_table(status: &Status) -> String {
    let mut text = status_line(status);
    if let Some(nodes) = &status.nodes {
        let rows = nodes.iter().map(|node| {
            let state = state_of(node.state, node.drain.as_ref());
            [node.id.clone(), node.name.clone(), state, node.leaders.to_string()]
        });
        text.push_str("\n\n");
        text.push_str(&output::table(["ID", "NAME", "STATE", "LEADERS"], rows));
    }
    if let Some(rebalance) = &status.rebalance {
        if let Some(since) = &rebalance.paused_since {
            text.push_str(&format!("\n\nrebalancing is paused since {since}"));
        }
        if !rebalance.moves.is_empty() {
            let nodes = status.nodes.iter().flatten();
            let names = nodes.map(|node| (node.id.clone(), node.name.clone())).collect();
            text.push_str("\n\n");
            text.push_str(&operate::moves_table(rebalance, &names));
        }
    }
    if let Some(aside) = status.quarantined.as_deref().filter(|aside| !aside.is_empty()) {
        text.push_str("\n\n");
        text.push_str(&quarantined_table(aside));
    }
    text
}

/// Whether a member answers, and how far it is drained.
fn state_of(state: MemberState, drain: Option<&Drain>) -> String {
    match drain {
        None => state.as_str().to_owned(),
        Some(drain) => format!("{}, {}", state.as_str(), drain.state.as_str()),
    }
}

/// Members and where they are reached.
pub(crate) fn members_table(members: &MemberList) -> String {
    let rows = members.items.iter().map(|member| {
        [
            member.id.clone(),
            member.name.clone(),
            state_of(member.state, member.drain.as_ref()),
            member.leaders.to_string(),
            member.replicas.to_string(),
            member.weight.to_string(),
            member.version.clone().unwrap_or_else(|| "-".to_owned()),
            member.http.clone(),
            member.gateway.clone(),
            member.zone.clone(),
        ]
    });
    let header = [
        "ID", "NAME", "STATE", "LEADERS", "REPLICAS", "WEIGHT", "VERSION", "HTTP", "GATEWAY",
        "ZONE",
    ];
    output::table(header, rows)
}

fn layout_table(layout: &Layout, members: &MemberList) -> String {
    let names: HashMap<&str, &str> =
        members.items.iter().map(|member| (member.id.as_str(), member.name.as_str())).collect();
    let name = |replica: &Replica| {
        (*names.get(replica.node.as_str()).unwrap_or(&replica.node.as_str())).to_owned()
    };
    let nodes = |replicas: &[Replica]| replicas.iter().map(name).collect::<Vec<_>>().join(", ");
    let meta = ["meta".to_owned(), nodes(&layout.meta)];
    let shards =
        layout.shards.iter().map(|shard| [shard.shard.to_string(), nodes(&shard.replicas)]);
    let rows = std::iter::once(meta).chain(shards);
    format!("epoch {}\n\n{}", layout.epoch, output::table(["SHARD", "REPLICAS"], rows))
}
