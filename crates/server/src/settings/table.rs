//! The table of settings, and the flags made of it.

use std::collections::BTreeMap;

use clap::{Arg, ArgMatches, Args, Command, FromArgMatches};

/// One setting.
#[derive(Debug)]
pub(crate) struct Setting {
    /// The flag without its dashes; `STEMEDB_<FLAG>` and `<flag>` with underscores follow from it.
    pub(crate) flag: &'static str,
    /// What its text must be.
    pub(crate) kind: Kind,
    /// Its text where nobody gives one.
    pub(crate) default: Option<&'static str>,
    /// One line for people.
    pub(crate) help: &'static str,
}

/// What a setting's text must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// `ip:port` to bind.
    Address,
    /// Any text that is not empty.
    Text,
    /// A file or folder.
    Path,
    /// A comma list of `host` or `host:port`.
    Peers,
    /// A whole number in a range.
    Number(u32, u32),
    /// A number of bytes in a range: plain, or with `KiB`, `MiB` or `GiB` behind it.
    Bytes(u64, u64),
    /// A whole number of seconds, or with `s`, `m`, `h` or `d` behind it; `0` is never.
    Period,
    /// `true`, `false`, `1`, `0`.
    Switch,
    /// Never a flag, never shown.
    Secret,
}

const fn setting(
    flag: &'static str,
    kind: Kind,
    default: Option<&'static str>,
    help: &'static str,
) -> Setting {
    Setting { flag, kind, default, help }
}

/// Every setting of a node, in the order of `config show`.
pub(crate) const SETTINGS: &[Setting] = &[
    setting(
        "bind-addr",
        Kind::Address,
        Some("0.0.0.0:18180"),
        "Where the node's own HTTP API listens",
    ),
    setting("gateway-addr", Kind::Address, Some("0.0.0.0:18181"), "Where the gateway listens"),
    setting("grpc-addr", Kind::Address, Some("0.0.0.0:18182"), "Where peers are listened to"),
    setting(
        "gossip-addr",
        Kind::Address,
        Some("0.0.0.0:18183"),
        "Where gossip is listened to (UDP)",
    ),
    setting(
        "advertise-host",
        Kind::Text,
        None,
        "What peers and clients dial [default: the bind host, else the first address that is not loopback]",
    ),
    setting(
        "node-name",
        Kind::Text,
        None,
        "The node's name [default: the advertised host, and the gRPC port if it is not 18182]",
    ),
    setting("wal-dir", Kind::Path, Some("/data/wal"), "The log's folder, on its own volume"),
    setting("db-dir", Kind::Path, Some("/data/db"), "The store's folder, on its own volume"),
    setting(
        "disk-reserve-bytes",
        Kind::Bytes(1 << 20, 1 << 50),
        None,
        "Kept free on each volume: below it writes are refused [default: a twentieth of the volume, at most 1GiB; never less than the node needs]",
    ),
    setting(
        "wal-segment-bytes",
        Kind::Bytes(4 << 10, 1 << 30),
        Some("16MiB"),
        "Size of one file of the log",
    ),
    setting(
        "join",
        Kind::Peers,
        None,
        "Peers' gossip addresses, host[:port], by comma; a DNS name stands for all its addresses",
    ),
    setting(
        "bootstrap-expect",
        Kind::Number(1, 1000),
        None,
        "How many nodes found a new cluster together [default: 1 = alone; a node that joins others only ever joins]",
    ),
    setting("shards", Kind::Number(1, 1024), Some("4"), "Shards of a new cluster"),
    setting("replication-factor", Kind::Number(1, 9), Some("3"), "Replicas of each shard"),
    setting("zone", Kind::Text, None, "The failure domain of this node"),
    setting(
        "weight",
        Kind::Number(1, 100),
        Some("1"),
        "How much of the data this node should hold, relative to the others",
    ),
    setting("auth-enabled", Kind::Switch, Some("true"), "Whether callers need API keys"),
    setting("root-api-key", Kind::Secret, None, "A root key to know from the start"),
    setting("root-api-key-file", Kind::Path, None, "A file that holds it"),
    setting(
        "cluster-secret",
        Kind::Secret,
        None,
        "What members know each other by, 16 bytes or more",
    ),
    setting("cluster-secret-file", Kind::Path, None, "A file that holds it"),
    setting(
        "cluster-secret-previous",
        Kind::Secret,
        None,
        "The secret before, still valid during a rotation",
    ),
    setting("cluster-secret-previous-file", Kind::Path, None, "A file that holds it"),
    setting(
        "insecure",
        Kind::Switch,
        Some("false"),
        "Allow open doors: no auth beyond loopback, no cluster secret",
    ),
    setting(
        "unsafe-skip-signatures",
        Kind::Switch,
        Some("false"),
        "Take statements without checking signatures; never with auth on",
    ),
    setting(
        "worker-threads",
        Kind::Number(1, 64),
        None,
        "Threads that run the node [default: 1 on two cores or fewer, else half of the cores]",
    ),
    setting(
        "block-cache-bytes",
        Kind::Bytes(1 << 20, 1 << 40),
        Some("64MiB"),
        "Memory for blocks of the store, with indexes and filters",
    ),
    setting(
        "write-buffer-bytes",
        Kind::Bytes(1 << 20, 1 << 32),
        Some("64MiB"),
        "Memory for writes the store has not flushed; up to three of these are held",
    ),
    setting(
        "compaction-bytes-per-second",
        Kind::Bytes(0, 1 << 40),
        Some("128MiB"),
        "What flushes and compactions may write in a second; 0: as fast as the disk",
    ),
    setting(
        "snapshot-bytes-per-second",
        Kind::Bytes(0, 1 << 40),
        Some("16MiB"),
        "Bytes of snapshots this node sends to its peers in a second, at most; 0: no limit",
    ),
    setting(
        "live-log-bytes-max",
        Kind::Bytes(64 << 10, 1 << 34),
        Some("256MiB"),
        "Log that a restart would have to replay: beyond it the store is flushed and the log cut",
    ),
    setting(
        "scrub-period",
        Kind::Period,
        Some("24h"),
        "Within this time everything on disk is read once and checked; 0: never",
    ),
    setting(
        "replace-after",
        Kind::Period,
        Some("5m"),
        "How long a node may be away until another takes its place, if one can",
    ),
    setting(
        "read-mode",
        Kind::Text,
        Some("quorum"),
        "What a leader reads by: quorum, or lease (faster, and right only while clocks drift apart by less than a tenth)",
    ),
    setting(
        "rebalance-moves-max",
        Kind::Number(1, 64),
        Some("2"),
        "Shards that change their replicas at once, while this node leads the meta group",
    ),
    setting(
        "drain-grace",
        Kind::Period,
        Some("5s"),
        "How long a node that was asked to end serves on once others lead what it led; 0s: not at all",
    ),
    setting(
        "log",
        Kind::Text,
        Some("info"),
        "What is logged to stderr: error, warn, info, or target=level by comma",
    ),
];

/// The flag that names the TOML file; not a setting itself.
pub(crate) const CONFIG_FLAG: &str = "config";

impl Setting {
    /// Its name in the environment.
    pub(crate) fn env(&self) -> String {
        format!("STEMEDB_{}", self.flag.replace('-', "_").to_uppercase())
    }

    /// Its key in the TOML file.
    pub(crate) fn key(&self) -> String {
        self.flag.replace('-', "_")
    }
}

/// What was given as flags, by flag, and the TOML file to read.
#[derive(Clone, Debug, Default)]
pub(crate) struct SettingFlags {
    /// Texts by flag.
    pub(crate) given: BTreeMap<&'static str, String>,
    /// `--config`, or `STEMEDB_CONFIG`.
    pub(crate) config: Option<String>,
}

impl FromArgMatches for SettingFlags {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let flags = SETTINGS.iter().filter(|setting| setting.kind != Kind::Secret);
        let text = |flag| matches.get_one::<String>(flag).cloned();
        let given = flags.filter_map(|setting| Some((setting.flag, text(setting.flag)?))).collect();
        Ok(Self { given, config: text(CONFIG_FLAG) })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

impl Args for SettingFlags {
    fn augment_args(command: Command) -> Command {
        let config = Arg::new(CONFIG_FLAG)
            .long(CONFIG_FLAG)
            .value_name("FILE")
            .help("A TOML file of settings [env: STEMEDB_CONFIG]");
        SETTINGS
            .iter()
            .filter(|s| s.kind != Kind::Secret)
            .map(flag)
            .fold(command.arg(config), Command::arg)
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

fn flag(setting: &'static Setting) -> Arg {
    let default = setting.default.map(|text| format!("default: {text}, ")).unwrap_or_default();
    let flag = Arg::new(setting.flag).long(setting.flag).help(format!(
        "{} [{default}env: {}]",
        setting.help,
        setting.env()
    ));
    match setting.kind {
        // `--insecure` alone says yes, as people expect of a switch.
        Kind::Switch => flag.value_name("BOOL").num_args(0..=1).default_missing_value("true"),
        Kind::Address => flag.value_name("IP:PORT"),
        Kind::Path => flag.value_name("PATH"),
        Kind::Peers => flag.value_name("HOST[:PORT],…"),
        Kind::Number(..) => flag.value_name("N"),
        Kind::Bytes(..) => flag.value_name("BYTES"),
        Kind::Period => flag.value_name("TIME"),
        Kind::Text | Kind::Secret => flag.value_name("TEXT"),
    }
}
