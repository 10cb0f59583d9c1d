//! `stemedb check`: what the disks of a stopped node hold, and what is wrong with it.
//!
//! Exit codes: 0 nothing is wrong; 1 something is, or the directories are in use or absent; 74 a
//! disk can't be read.

use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};
use stemedb::check::{
    CheckError, CheckFault, CheckReport, CheckStep, CheckedGroup, RepairReport, check, repair,
};
use stemedb_types::GroupId;

use crate::cli::CheckArgs;
use crate::exit::{DISK, ERROR, Failure};
use crate::output::{self, Output};

pub(crate) fn run(args: &CheckArgs) -> Result<(), Failure> {
    let bar = Bar::new();
    let mut progress = |step, done, all| bar.show(step, done, all);
    let (wal, db) = (&args.wal_dir, &args.db_dir);
    let found = if args.repair {
        repair(wal, db, &mut progress)
    } else {
        check(wal, db, &mut progress).map(|now| RepairReport { now, ..RepairReport::default() })
    };
    bar.end();
    let found = found.map_err(|error| {
        let code = if matches!(error, CheckError::Io(_)) { DISK } else { ERROR };
        Failure::new(code, error.to_string())
    })?;
    match args.output {
        Output::Json => output::json(&in_json(&found, args.repair))?,
        Output::Table => output::line(&in_words(&found, args.repair))?,
    }
    match found.now.faults.len() {
        0 => Ok(()),
        1 => Err(Failure::error("1 fault")),
        many => Err(Failure::error(format!("{many} faults"))),
    }
}

/// What is read now, on stderr; nothing where that is no terminal.
struct Bar(ProgressBar);

impl Bar {
    fn new() -> Self {
        let bar = ProgressBar::new(0);
        let style = "{spinner} {msg:12} {bar:32} {bytes}/{total_bytes}";
        if let Ok(style) = ProgressStyle::with_template(style) {
            bar.set_style(style);
        }
        Self(bar)
    }

    fn show(&self, step: CheckStep, done: u64, all: u64) {
        self.0.set_message(match step {
            CheckStep::Log => "the log",
            CheckStep::Store => "the store",
        });
        self.0.set_length(all);
        self.0.set_position(done);
        self.0.tick();
    }

    fn end(&self) {
        self.0.finish_and_clear();
    }
}

fn group(group: GroupId) -> String {
    match group.shard() {
        None => "meta".to_owned(),
        Some(shard) => format!("shard {shard}"),
    }
}

fn in_words(found: &RepairReport, repaired: bool) -> String {
    let CheckReport { node, cluster, log, store, groups, faults, notes, .. } = &found.now;
    let or_none = |id: Option<String>| id.unwrap_or_else(|| "none".to_owned());
    let mut parts = vec![format!(
        "node {}, cluster {}: {} segments with {} records, {} files with {} bytes",
        or_none(node.map(|id| id.to_string())),
        or_none(cluster.map(|id| id.to_string())),
        log[0],
        log[1],
        store[0],
        store[1],
    )];
    parts.push(group_table(groups));
    let list = |title: &str, lines: &[String]| {
        let lines: Vec<String> = lines.iter().map(|line| format!("  {line}")).collect();
        (!lines.is_empty()).then(|| format!("{title}\n{}", lines.join("\n")))
    };
    if repaired && found.gave_up.is_empty() {
        parts.push("nothing was changed".to_owned());
    }
    parts.extend(list("done, and given up with it:", &found.gave_up));
    parts.extend(list("not done:", &found.refused));
    parts.extend(list("to know:", notes));
    let faults: Vec<String> = faults.iter().map(fault_in_words).collect();
    parts.extend(list("wrong:", &faults));
    if faults.is_empty() {
        parts.push("nothing is wrong".to_owned());
    }
    parts.join("\n\n")
}

fn fault_in_words(fault: &CheckFault) -> String {
    let groups: Vec<String> = fault.groups.iter().map(|id| group(*id)).collect();
    let mut at = vec![fault.place.as_str().to_owned()];
    at.extend(fault.file.clone());
    at.extend(fault.offset.map(|offset| format!("at offset {offset}")));
    if !groups.is_empty() {
        at.push(format!("({})", groups.join(", ")));
    }
    format!("{}: {}\n    {}", at.join(" "), fault.cause, fault.advice)
}

fn group_table(groups: &[CheckedGroup]) -> String {
    let or_dash = |number: Option<u64>| number.map_or("-".to_owned(), |number| number.to_string());
    let rows = groups.iter().map(|found| {
        [
            found.group.map_or("?".to_owned(), group),
            or_dash(found.replica.map(|replica| replica.0)),
            or_dash(found.flushed),
            or_dash(found.purged),
            or_dash(found.first),
            or_dash(found.last),
            found.to_replay.to_string(),
            if found.quarantined.is_some() { "set aside" } else { "" }.to_owned(),
        ]
    });
    let header = ["GROUP", "REPLICA", "FLUSHED", "PURGED", "FIRST", "LAST", "TO REPLAY", "STATE"];
    output::table(header, rows)
}

fn in_json(found: &RepairReport, repaired: bool) -> Value {
    let now = &found.now;
    let groups = now.groups.iter().map(|found| {
        json!({
            "group": found.group.map(|id| id.0),
            "shard": found.group.and_then(|id| id.shard()).map(|shard| shard.0),
            "replica": found.replica.map(|replica| replica.0),
            "flushed": found.flushed,
            "purged": found.purged,
            "first": found.first,
            "last": found.last,
            "to_replay": found.to_replay,
            "quarantined": found.quarantined,
        })
    });
    let faults = now.faults.iter().map(|fault| {
        json!({
            "place": fault.place.as_str(),
            "file": fault.file,
            "offset": fault.offset,
            "groups": fault.groups.iter().map(|id| id.0).collect::<Vec<_>>(),
            "cause": fault.cause,
            "advice": fault.advice,
        })
    });
    let mut report = json!({
        "clean": now.faults.is_empty(),
        "node": now.node.map(|id| id.to_string()),
        "cluster": now.cluster.map(|id| id.to_string()),
        "alone": now.alone,
        "log": { "segments": now.log[0], "records": now.log[1], "bytes": now.log[2] },
        "store": { "files": now.store[0], "bytes": now.store[1] },
        "groups": groups.collect::<Vec<_>>(),
        "faults": faults.collect::<Vec<_>>(),
        "notes": now.notes,
    });
    if repaired {
        report["gave_up"] = json!(found.gave_up);
        report["refused"] = json!(found.refused);
    }
    report
}

#[cfg(test)]
mod tests {
    use super::*;
    use stemedb::check::Place;
    use stemedb_types::{NodeId, ReplicaId};

    fn report() -> RepairReport {
        let fault = CheckFault {
            place: Place::Log,
            file: Some("0000000000000001.wal".to_owned()),
            offset: Some(4096),
            groups: vec![GroupId(0), GroupId(3)],
            cause: "it fails its checksum".to_owned(),
            advice: "look",
        };
        let group = CheckedGroup {
            group: Some(GroupId(3)),
            replica: Some(ReplicaId(9)),
            flushed: Some(10),
            last: Some(12),
            to_replay: 2,
            ..CheckedGroup::default()
        };
        let now = CheckReport {
            node: Some(NodeId(0xab)),
            groups: vec![group],
            faults: vec![fault],
            notes: vec!["a note".to_owned()],
            ..CheckReport::default()
        };
        let gave_up = vec!["a record".to_owned()];
        RepairReport { gave_up, refused: Vec::new(), now }
    }

    #[test]
    fn a_report_names_every_fault_with_its_place_in_words_and_in_json() {
        let words = in_words(&report(), true);
        for line in [
            "node 00000000000000ab, cluster none:",
            "  log 0000000000000001.wal at offset 4096 (meta, shard 2): it fails its checksum",
            "    look",
            "  a note",
            "  a record",
        ] {
            assert!(words.contains(line), "{line}\n{words}");
        }
        assert!(!words.contains("nothing"), "{words}");
        let json = in_json(&report(), false);
        assert_eq!(json["faults"][0]["offset"], 4096);
        assert_eq!(json["faults"][0]["groups"], json!([0, 3]));
        assert_eq!((&json["clean"], json.get("gave_up")), (&json!(false), None));
    }

    #[test]
    fn a_whole_directory_is_said_to_be_whole() {
        let clean = RepairReport::default();
        assert!(in_words(&clean, false).ends_with("\n\nnothing is wrong"));
        assert!(in_words(&clean, true).contains("nothing was changed"));
        assert_eq!(in_json(&clean, true)["clean"], json!(true));
    }
}
