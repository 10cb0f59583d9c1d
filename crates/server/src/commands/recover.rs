//! `stemedb recover`: goes on with what one node has, after the disks of a majority were lost.
//!
//! Without `--accept-data-loss` it only says what there is and what would be done, for a person to
//! compare the nodes that are left: the one whose logs reach furthest is the one to run it on.
//!
//! Exit codes: 0 it is done; 2 the flag is missing; 1 it can't be done here; 74 a disk failed, and
//! the same command goes on from there.

use serde_json::{Value, json};
use stemedb::recover::{RecoverError, RecoverGroup, RecoverReport, look, recover};

use crate::cli::RecoverArgs;
use crate::exit::{DISK, ERROR, Failure, USAGE};
use crate::output::{self, Output};

pub(crate) fn run(args: &RecoverArgs) -> Result<(), Failure> {
    let (wal, db) = (&args.wal_dir, &args.db_dir);
    let found = if args.accept_data_loss { recover(wal, db) } else { look(wal, db) };
    let found = found.map_err(|error| {
        let code = if matches!(error, RecoverError::Disk(_)) { DISK } else { ERROR };
        Failure::new(code, error.to_string())
    })?;
    match args.output {
        Output::Json => output::json(&in_json(&found, args.accept_data_loss))?,
        Output::Table => output::line(&in_words(&found, args.accept_data_loss))?,
    }
    if args.accept_data_loss {
        return Ok(());
    }
    let why = "nothing was changed: what other nodes had beyond this may be lost for good, so it \
               takes --accept-data-loss";
    Err(Failure::new(USAGE, why))
}

fn group(found: &RecoverGroup) -> String {
    match found.group.shard() {
        None => "meta".to_owned(),
        Some(shard) => format!("shard {shard}"),
    }
}

/// What becomes of a group.
fn fate(found: &RecoverGroup) -> String {
    match (&found.replica, &found.set_aside) {
        (Some((id, has)), _) => {
            let votes = if has.voters.contains(id) { "" } else { ", it only listened" };
            let last = has.last.map_or(0, |(_, last)| last);
            let unsure = last.saturating_sub(has.committed.unwrap_or(0));
            format!("goes on; its last {unsure} entries may have been acknowledged or not{votes}")
        }
        (None, Some(cause)) => format!("begins anew, empty: what is here is damaged: {cause}"),
        (None, None) => "begins anew, empty: nothing of it is here".to_owned(),
    }
}

fn in_words(found: &RecoverReport, done: bool) -> String {
    let or_dash = |number: Option<u64>| number.map_or("-".to_owned(), |number| number.to_string());
    let rows = found.groups.iter().map(|one| {
        let has = one.replica.as_ref().map(|(_, has)| has);
        let last = has.and_then(|has| has.last);
        [
            group(one),
            or_dash(one.replica.as_ref().map(|(id, _)| id.0)),
            or_dash(last.map(|(term, _)| term)),
            or_dash(last.map(|(_, index)| index)),
            or_dash(has.and_then(|has| has.committed)),
            or_dash(has.and_then(|has| has.applied)),
            if done { String::new() } else { fate(one) },
        ]
    });
    let header = ["GROUP", "REPLICA", "TERM", "LAST", "COMMITTED", "APPLIED", ""];
    let names: Vec<String> =
        found.members.iter().map(|(id, name)| format!("{name} ({id})")).collect();
    let said = if done {
        "this node is the only member of its cluster now, under a new cluster id: start it, and let \
         blank nodes join it"
    } else if found.begun {
        "a recovery was begun here and broke off: with the flag it goes on"
    } else {
        "compare LAST, and TERM before it, with what the same command says on the other nodes that \
         are left: whatever those had beyond it, and this node has not, is lost. All of this log counts as \
         committed, revisions jump by 2^32 and older history counts as compacted"
    };
    let head = format!(
        "node {}, cluster {}, members as far as is known: {}",
        found.node,
        found.cluster,
        names.join(", ")
    );
    format!("{head}\n\n{}\n\n{said}", output::table(header, rows))
}

fn in_json(found: &RecoverReport, done: bool) -> Value {
    let groups = found.groups.iter().map(|one| {
        let has = one.replica.as_ref().map(|(_, has)| has);
        json!({
            "group": one.group.0,
            "shard": one.group.shard().map(|shard| shard.0),
            "replica": one.replica.as_ref().map(|(id, _)| id.0),
            "term": has.and_then(|has| has.last).map(|(term, _)| term),
            "last": has.and_then(|has| has.last).map(|(_, index)| index),
            "committed": has.and_then(|has| has.committed),
            "applied": has.and_then(|has| has.applied),
            "voters": has.map(|has| has.voters.iter().map(|id| id.0).collect::<Vec<_>>()),
            "set_aside": one.set_aside,
        })
    });
    let members =
        found.members.iter().map(|(id, name)| json!({"id": id.to_string(), "name": name}));
    json!({
        "node": found.node.to_string(),
        "cluster": found.cluster.to_string(),
        "members": members.collect::<Vec<_>>(),
        "groups": groups.collect::<Vec<_>>(),
        "begun": found.begun,
        "recovered": done,
    })
}
