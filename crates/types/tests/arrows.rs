//! The house's plan as a test: which room may know which.
//!
//! A new arrow is a decision: write an ADR, then add it here. Only
//! `[dependencies]` count: tests may look anywhere.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

/// Every room and the rooms it may depend on, `types` apart, which all but `wal` may.
const ARROWS: &[(&str, &[&str])] = &[
    ("types", &[]),
    ("claims", &[]),
    ("placement", &[]),
    ("membership", &[]),
    ("rpc", &[]),
    ("wal", &[]),
    // For developers: it may point anywhere, and nobody points at it.
    ("sim", &["placement", "machine", "engine", "wal", "rpc", "raft"]),
    ("machine", &["claims"]),
    ("engine", &["machine"]),
    ("raft", &["machine", "engine", "wal", "rpc"]),
    ("stemedb", &["claims", "machine", "engine", "raft", "rpc", "membership", "placement"]),
    ("api", &["claims"]),
    ("gateway", &["stemedb", "api", "claims"]),
    ("client", &["api", "claims"]),
    ("server", &["gateway", "stemedb", "client", "api", "claims"]),
];

/// Members of the workspace that no room may depend on, and that may depend on any: for developers.
const OUTSIDE: &[&str] = &["benches", "fuzz"];

fn crates() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The rooms a manifest names under `[dependencies]`, and whatever it takes by path instead.
fn arrows_of(manifest: &str) -> BTreeSet<String> {
    let mut section = "";
    let mut arrows = BTreeSet::new();
    for line in manifest.lines().map(str::trim) {
        if line.starts_with('[') {
            section = line;
        } else if section == "[dependencies]" {
            assert!(
                !line.contains("path"),
                "a path dependency outside the workspace's list: {line}"
            );
            let name = line.split(['.', '=', ' ']).next().unwrap_or_default();
            if name == "stemedb" {
                arrows.insert("stemedb".to_owned());
            } else if let Some(room) = name.strip_prefix("stemedb-") {
                arrows.insert(room.to_owned());
            }
        }
    }
    arrows
}

#[test]
fn no_room_knows_a_room_it_should_not() {
    let allowed: BTreeMap<&str, &[&str]> = ARROWS.iter().copied().collect();
    let mut seen = BTreeSet::new();
    for entry in fs::read_dir(crates()).unwrap() {
        let path = entry.unwrap().path();
        let Ok(manifest) = fs::read_to_string(path.join("Cargo.toml")) else { continue };
        let room = path.file_name().unwrap().to_string_lossy().into_owned();
        let may = allowed.get(room.as_str());
        let may = may.unwrap_or_else(|| panic!("{room} is a new room: name its arrows here"));
        let types = if room == "wal" || room == "types" { &[][..] } else { &["types"][..] };
        for arrow in arrows_of(&manifest) {
            let known = may.contains(&arrow.as_str()) || types.contains(&arrow.as_str());
            assert!(known, "{room} → {arrow} is a new arrow: it needs an ADR, then a line here");
        }
        seen.insert(room);
    }
    let rooms: BTreeSet<String> = ARROWS.iter().map(|(room, _)| (*room).to_owned()).collect();
    assert_eq!(seen, rooms);
}

#[test]
fn what_stands_outside_the_house_is_known_and_no_room_leans_on_it() {
    let workspace = fs::read_to_string(crates().join("../Cargo.toml")).unwrap();
    let members = workspace.lines().find_map(|line| line.strip_prefix("members = ")).unwrap();
    let named: Vec<&str> = members.split('"').skip(1).step_by(2).collect();
    assert_eq!(named, [&["crates/*"], OUTSIDE].concat(), "another member: name it here");
    // `no_room_knows_a_room_it_should_not` refuses an arrow to either: neither is a room.
    let rooms = ARROWS.iter().flat_map(|(room, may)| may.iter().chain([room]));
    assert!(rooms.into_iter().all(|room| !OUTSIDE.contains(room)));
}

#[test]
fn a_new_arrow_would_be_seen() {
    let manifest = "[package]\nname = \"x\"\n[dependencies]\nstemedb-wal.workspace = true\n\
                    stemedb = { workspace = true }\n[dev-dependencies]\nstemedb-raft.workspace = true\n";
    let arrows: Vec<String> = arrows_of(manifest).into_iter().collect();
    assert_eq!(arrows, ["stemedb", "wal"]);
}
