//! Who wins, what is refused, and in which words.

use std::net::IpAddr;

use clap::{Args, Command, FromArgMatches};
use zeroize::Zeroizing;

use super::check::Machine;
use super::table::{Kind, SETTINGS};
use super::*;

/// A machine with one address and two files.
struct Paper;

/// A machine without a network.
struct Island;

impl Machine for Island {
    fn read(&self, _: &str) -> Result<Zeroizing<Vec<u8>>, String> {
        Err("no such file".to_owned())
    }

    fn outward_address(&self) -> Option<IpAddr> {
        None
    }
}

impl Machine for Paper {
    fn read(&self, path: &str) -> Result<Zeroizing<Vec<u8>>, String> {
        match path {
            "/s/secret" => Ok(Zeroizing::new(b"a secret of 18 byt\n".to_vec())),
            "/s/short" => Ok(Zeroizing::new(b"short\n".to_vec())),
            _ => Err("no such file".to_owned()),
        }
    }

    fn outward_address(&self) -> Option<IpAddr> {
        Some([10, 0, 0, 7].into())
    }
}

fn pairs(env: &[(&str, &str)]) -> Vec<(String, String)> {
    env.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect()
}

fn flags(args: &[&str]) -> SettingFlags {
    let command = SettingFlags::augment_args(Command::new("t").no_binary_name(true));
    SettingFlags::from_arg_matches(&command.try_get_matches_from(args).unwrap()).unwrap()
}

fn inputs(args: &[&str], env: &[(&str, &str)], file: Option<&str>) -> Inputs {
    let file = file.map(|text| ("s.toml".to_owned(), text.to_owned()));
    Inputs { flags: flags(args).given, env: pairs(env), file }
}

fn settings(args: &[&str], env: &[(&str, &str)]) -> Result<Settings, Refused> {
    check(&effective(&inputs(args, env, None)).unwrap(), &Paper)
}

fn refusal(args: &[&str], env: &[(&str, &str)]) -> (String, u8) {
    match settings(args, env) {
        Ok(_) => panic!("taken: {args:?} {env:?}"),
        Err(refused) => (refused.line, refused.code),
    }
}

#[test]
fn a_flag_wins_over_the_environment_over_the_file_over_the_default() {
    let zone = |args: &[&str], env: &[(&str, &str)], file: Option<&str>| {
        let all = effective(&inputs(args, env, file)).unwrap();
        let row = all.row("shards").unwrap().clone();
        (row.text.unwrap(), row.given.to_string())
    };
    let (arg, env, file) = (["--shards", "8"], [("STEMEDB_SHARDS", "16")], Some("shards = 32"));
    let wanted = |text: &str, given: &str| (text.to_owned(), given.to_owned());
    assert_eq!(zone(&arg, &env, file), wanted("8", "flag"));
    assert_eq!(zone(&[], &env, file), wanted("16", "env STEMEDB_SHARDS"));
    assert_eq!(zone(&[], &[("STEMEDB_SHARDS", "")], file), wanted("32", "file s.toml"));
    assert_eq!(zone(&[], &[], None), wanted("4", "default"));
}

#[test]
fn without_a_word_a_node_is_alone_on_the_ports_of_the_contract() {
    let got = settings(&[], &[]).unwrap();
    let addresses = [got.bind_addr, got.gateway_addr, got.grpc_addr, got.gossip_addr];
    let wanted = ["0.0.0.0:18180", "0.0.0.0:18181", "0.0.0.0:18182", "0.0.0.0:18183"];
    assert_eq!(addresses.map(|a| a.to_string()), wanted);
    assert_eq!((got.advertise_host.as_str(), got.node_name.as_str()), ("10.0.0.7", "10.0.0.7"));
    assert_eq!((got.wal_dir.to_str(), got.db_dir.to_str()), (Some("/data/wal"), Some("/data/db")));
    assert_eq!((got.bootstrap_expect, got.shards, got.replication_factor), (Some(1), 4, 3));
    assert!(got.auth_enabled && !got.insecure && got.join.is_empty());
}

#[test]
fn the_name_follows_the_advertised_host_and_an_unusual_port() {
    let name = |args: &[&str]| settings(args, &[]).unwrap().node_name;
    assert_eq!(name(&["--bind-addr", "192.0.2.9:1"]), "192.0.2.9");
    assert_eq!(name(&["--advertise-host", "h", "--grpc-addr", "0.0.0.0:5"]), "h:5");
    assert_eq!(name(&["--bind-addr", "[::1]:1", "--grpc-addr", "[::1]:5"]), "[::1]:5");
    assert_eq!(name(&["--node-name", "n", "--grpc-addr", "0.0.0.0:5"]), "n");
}

#[test]
fn without_a_network_a_node_is_alone_or_must_be_told_its_address() {
    let on_island = |args: &[&str]| {
        let all = effective(&inputs(args, &[], None)).unwrap();
        check(&all, &Island).map(|got| got.advertise_host).map_err(|refused| refused.line)
    };
    let told = "this machine has no address that others can dial: set STEMEDB_ADVERTISE_HOST";
    assert_eq!(on_island(&[]), Ok("127.0.0.1".to_owned()));
    assert_eq!(on_island(&["--join", "a", "--insecure"]), Err(told.to_owned()));
    assert_eq!(on_island(&["--bootstrap-expect", "3", "--insecure"]), Err(told.to_owned()));
    assert_eq!(on_island(&["--advertise-host", "h"]), Ok("h".to_owned()));
}

#[test]
fn peers_are_read_in_every_form_and_the_own_address_is_no_peer() {
    let join = |list: &str| {
        let got = settings(&["--join", list, "--advertise-host", "me", "--insecure"], &[]).unwrap();
        (
            got.join.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "),
            got.bootstrap_expect,
        )
    };
    assert_eq!(join("a, b:7,"), ("a:18183 b:7".to_owned(), None));
    assert_eq!(join("10.1.1.1,10.1.1.2:7"), ("10.1.1.1:18183 10.1.1.2:7".to_owned(), None));
    assert_eq!(
        join("fe80::1,[fe80::2],[fe80::3]:7").0,
        "[fe80::1]:18183 [fe80::2]:18183 [fe80::3]:7"
    );
    assert_eq!(join("me:18183,me"), (String::new(), Some(1)));
    assert_eq!(join("me:9"), ("me:9".to_owned(), None));
    // Told so, a node that joins may found as well.
    let both = ["--join", "a", "--bootstrap-expect", "3", "--insecure"];
    assert_eq!(settings(&both, &[]).unwrap().bootstrap_expect, Some(3));
}

#[test]
fn a_value_that_is_none_is_refused_by_the_name_it_was_given_under() {
    let secret = ("STEMEDB_CLUSTER_SECRET", "0123456789abcdef");
    for (args, env, wanted) in [
        (
            &["--bind-addr", "localhost:1"][..],
            &[][..],
            "--bind-addr: \"localhost:1\" is not ip:port",
        ),
        (&[], &[("STEMEDB_GRPC_ADDR", "1")], "STEMEDB_GRPC_ADDR: \"1\" is not ip:port"),
        (&["--shards", "0"], &[], "--shards: \"0\" is not a number from 1 to 1024"),
        (
            &["--replication-factor", "x"],
            &[],
            "--replication-factor: \"x\" is not a number from 1 to 9",
        ),
        (&["--insecure", "yes"], &[], "--insecure: \"yes\" is not one of true, false, 1, 0"),
        (&["--join", "a:b"], &[secret], "--join: \"a:b\" is not host[:port]"),
        (&["--join", "a b"], &[secret], "--join: \"a b\" is not host[:port]"),
        (&["--node-name", " x"], &[], "--node-name: \" x\" is empty or has white space around it"),
        (
            &[],
            &[("STEMEDB_ROOT_API_KEY", "hunter2")],
            "STEMEDB_ROOT_API_KEY: a root key is steme_live_ and 48 lowercase hex digits",
        ),
        (
            &[],
            &[("STEMEDB_CLUSTER_SECRET", "short")],
            "STEMEDB_CLUSTER_SECRET: a cluster secret is 16 bytes or more, this one has 5",
        ),
        (
            &["--cluster-secret-file", "/s/short"],
            &[],
            "--cluster-secret-file: a cluster secret is 16 bytes or more, this one has 5",
        ),
        (
            &["--cluster-secret-file", "/s/none"],
            &[],
            "--cluster-secret-file: /s/none: no such file",
        ),
        (
            &["--cluster-secret-file", "/s/secret"],
            &[secret],
            "STEMEDB_CLUSTER_SECRET: give it or --cluster-secret-file, not both",
        ),
    ] {
        assert_eq!(refusal(args, env), (wanted.to_owned(), 2));
    }
}

#[test]
fn a_node_that_must_not_start_says_why() {
    let many = "more than one node needs a cluster secret";
    let open = "auth is off and 0.0.0.0:18180 is not a loopback address";
    for (args, wanted) in [
        (
            &["--unsafe-skip-signatures"][..],
            "STEMEDB_UNSAFE_SKIP_SIGNATURES=true needs STEMEDB_AUTH_ENABLED=false",
        ),
        (&["--auth-enabled", "false"], open),
        (&["--join", "a"], many),
        (&["--bootstrap-expect", "3"], many),
        (&["--wal-dir", "/d", "--db-dir", "/d"], "the log and the store need a folder each"),
    ] {
        let (line, code) = refusal(args, &[]);
        assert!(line.starts_with(wanted) && code == 1, "{line} {code}");
    }
    let local = ["--bind-addr", "127.0.0.1:1", "--gateway-addr", "127.0.0.1:2"];
    let off = ["--auth-enabled", "0", "--unsafe-skip-signatures"];
    assert!(settings(&[&local[..], &off[..]].concat(), &[]).is_ok());
    assert!(settings(&["--auth-enabled", "false", "--insecure"], &[]).is_ok());
    assert!(settings(&["--bootstrap-expect", "3", "--insecure"], &[]).is_ok());
    let kept = settings(&["--join", "a", "--cluster-secret-file", "/s/secret"], &[]).unwrap();
    assert_eq!(kept.cluster_secret.unwrap().as_slice(), b"a secret of 18 byt");
}

#[test]
fn a_file_with_an_unknown_key_or_bad_syntax_is_refused_with_its_name() {
    let refused = |text| effective(&inputs(&[], &[], Some(text))).unwrap_err();
    let line = |text| refused(text).line;
    assert_eq!(line("shard = 4"), "s.toml: there is no setting \"shard\"");
    assert_eq!(line("[node]\nzone = 'a'"), "s.toml: there is no setting \"node\"");
    assert_eq!(
        line("zone = 1.5"),
        "s.toml: zone must be a text, a number, a truth value or a list of texts"
    );
    assert!(line("zone = 'a'\nlog = ").starts_with("s.toml:2: "), "{}", line("zone = 'a'\nlog = "));
    assert_eq!(refused("shard = 4").code, 2);
    let good =
        "join = ['a', 'b:1']\ninsecure = true\nshards = 8\ncluster_secret_file = '/s/secret'";
    let got = check(&effective(&inputs(&[], &[], Some(good))).unwrap(), &Paper).unwrap();
    assert_eq!((got.join.len(), got.insecure, got.shards), (2, true, 8));
}

#[test]
fn config_show_masks_secrets_and_names_sources() {
    let key = format!("steme_live_{}", "0".repeat(48));
    let env = [("STEMEDB_ROOT_API_KEY", key.as_str()), ("STEMEDB_LOG", "warn")];
    let all = effective(&inputs(&["--zone", "z"], &env, Some("shards = 8"))).unwrap();
    let rows: Vec<_> =
        all.0.iter().map(|r| format!("{} = {} ({})", r.setting.flag, r.shown(), r.given)).collect();
    assert_eq!(
        rows,
        [
            "bind-addr = 0.0.0.0:18180 (default)",
            "gateway-addr = 0.0.0.0:18181 (default)",
            "grpc-addr = 0.0.0.0:18182 (default)",
            "gossip-addr = 0.0.0.0:18183 (default)",
            "advertise-host = - (default)",
            "node-name = - (default)",
            "wal-dir = /data/wal (default)",
            "db-dir = /data/db (default)",
            "disk-reserve-bytes = - (default)",
            "wal-segment-bytes = 16MiB (default)",
            "join = - (default)",
            "bootstrap-expect = - (default)",
            "shards = 8 (file s.toml)",
            "replication-factor = 3 (default)",
            "zone = z (flag)",
            "weight = 1 (default)",
            "auth-enabled = true (default)",
            "root-api-key = ******** (env STEMEDB_ROOT_API_KEY)",
            "root-api-key-file = - (default)",
            "cluster-secret = - (default)",
            "cluster-secret-file = - (default)",
            "cluster-secret-previous = - (default)",
            "cluster-secret-previous-file = - (default)",
            "insecure = false (default)",
            "unsafe-skip-signatures = false (default)",
            "worker-threads = - (default)",
            "block-cache-bytes = 64MiB (default)",
            "write-buffer-bytes = 64MiB (default)",
            "compaction-bytes-per-second = 128MiB (default)",
            "snapshot-bytes-per-second = 16MiB (default)",
            "live-log-bytes-max = 256MiB (default)",
            "scrub-period = 24h (default)",
            "replace-after = 5m (default)",
            "read-mode = quorum (default)",
            "rebalance-moves-max = 2 (default)",
            "drain-grace = 5s (default)",
            "log = warn (env STEMEDB_LOG)",
        ]
    );
}

#[test]
fn a_misspelled_name_is_found_and_what_kubernetes_adds_is_not() {
    let env = pairs(&[
        ("STEMEDB_SHARD", "4"),
        ("STEMEDB_READ_MOOD", "quorum"),
        ("STEMEDB_LOG", "info"),
        ("STEMEDB_URL", "http://h"),
        ("HOME", "/"),
        ("STEMEDB_SERVICE_HOST", "10.0.0.1"),
        ("STEMEDB_SERVICE_PORT_HTTP", "18180"),
        ("STEMEDB_GATEWAY_PORT", "tcp://10.0.0.1:18181"),
        ("STEMEDB_PORT_18180_TCP_ADDR", "10.0.0.1"),
    ]);
    assert_eq!(unknown_names(&env), ["STEMEDB_READ_MOOD", "STEMEDB_SHARD"]);
}

#[test]
fn a_secret_is_no_flag() {
    let command = SettingFlags::augment_args(Command::new("t"));
    let known: Vec<_> = command.get_arguments().map(|arg| arg.get_id().as_str()).collect();
    for secret in SETTINGS.iter().filter(|setting| setting.kind == Kind::Secret) {
        assert!(!known.contains(&secret.flag), "{}", secret.flag);
    }
    assert!(known.contains(&"root-api-key-file"));
}

#[test]
fn the_stores_budget_is_what_the_store_has_by_default_and_what_is_given() {
    let budget = settings(&[], &[]).unwrap().budget;
    let default = stemedb::Budget::default();
    assert_eq!(budget, default);
    let env = [("STEMEDB_COMPACTION_BYTES_PER_SECOND", "0")];
    let args = ["--block-cache-bytes", "1GiB", "--write-buffer-bytes", "2097152"];
    let budget = settings(&args, &env).unwrap().budget;
    let (cache, buffer) = (budget.block_cache_bytes, budget.write_buffer_bytes);
    assert_eq!((cache, buffer, budget.compaction_bytes_per_second), (1 << 30, 2 << 20, 0));
    for bad in ["64", "64MB", "MiB", "99999999999GiB"] {
        let (line, code) = refusal(&["--block-cache-bytes", bad], &[]);
        assert_eq!(code, 2, "{line}");
        assert!(line.contains("--block-cache-bytes") && line.contains(bad), "{line}");
    }
}

#[test]
fn the_bound_of_the_live_log_is_the_nodes_own_by_default_and_what_is_given() {
    let default = stemedb::NodeOptions::alone("/nowhere").live_log_bytes_max;
    assert_eq!(settings(&[], &[]).unwrap().live_log_bytes_max, default);
    let env = [("STEMEDB_LIVE_LOG_BYTES_MAX", "1GiB")];
    assert_eq!(settings(&[], &env).unwrap().live_log_bytes_max, 1 << 30);
}

#[test]
fn a_node_may_be_away_for_as_long_as_a_restart_takes() {
    let default = stemedb::NodeOptions::alone("/nowhere").replace_after;
    assert_eq!(settings(&[], &[]).unwrap().replace_after, default);
    let after = |text| settings(&[], &[("STEMEDB_REPLACE_AFTER", text)]).map(|s| s.replace_after);
    assert_eq!(after("90s").unwrap().as_secs(), 90);
    let refused = format!("{:?}", after("9s").unwrap_err());
    assert!(refused.contains("9s is less than 10s"), "{refused}");
}

#[test]
fn reads_ask_a_quorum_unless_the_lease_is_asked_for() {
    assert!(!settings(&[], &[]).unwrap().lease_reads);
    let mode = |text| settings(&[], &[("STEMEDB_READ_MODE", text)]).map(|s| s.lease_reads);
    assert!(mode("lease").unwrap() && !mode("quorum").unwrap());
    let refused = format!("{:?}", mode("local").unwrap_err());
    assert!(refused.contains("is not quorum or lease"), "{refused}");
}

#[test]
fn what_a_node_weighs_and_how_much_moves_at_once_is_the_nodes_own_by_default() {
    let default = stemedb::NodeOptions::alone("/nowhere");
    let own = settings(&[], &[]).unwrap();
    assert_eq!(own.weight, default.weight);
    assert_eq!(own.rebalance_moves_max, default.rebalance_moves_max);
    let given = settings(&["--weight", "100"], &[("STEMEDB_REBALANCE_MOVES_MAX", "64")]).unwrap();
    assert_eq!((given.weight, given.rebalance_moves_max), (100, 64));
    for (flag, bad) in [
        ("--weight", "0"),
        ("--weight", "101"),
        ("--rebalance-moves-max", "0"),
        ("--rebalance-moves-max", "65"),
        ("--weight", "heavy"),
    ] {
        let (line, code) = refusal(&[flag, bad], &[]);
        assert!(code == 2 && line.contains(flag), "{line}");
    }
}

#[test]
fn a_node_that_ends_serves_on_for_a_while_or_not_at_all() {
    let grace =
        |text| settings(&[], &[("STEMEDB_DRAIN_GRACE", text)]).map(|s| s.drain_grace.as_secs());
    assert_eq!(settings(&[], &[]).unwrap().drain_grace.as_secs(), 5);
    assert_eq!((grace("0s").unwrap(), grace("1m").unwrap()), (0, 60));
    let refused = format!("{:?}", grace("soon").unwrap_err());
    assert!(refused.contains("is not a time like"), "{refused}");
}

#[test]
fn the_page_of_settings_names_every_setting() {
    let page = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/settings.md");
    let page = std::fs::read_to_string(page).unwrap();
    for setting in SETTINGS {
        assert!(page.contains(&format!("`{}`", setting.env())), "{} is missing", setting.env());
        assert!(page.contains(setting.default.unwrap_or_default()), "{}'s default", setting.flag);
    }
}
