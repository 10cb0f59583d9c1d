//! What can be asked for on the command line.

use std::fmt;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::faults::{Asked, Kind};
use crate::versions::VersionsArgs;

/// Measures StemeDB beside etcd on this machine.
#[derive(Debug, Parser)]
#[command(name = "stemedb-benches", version)]
pub(crate) struct Cli {
    /// Which measurement.
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// The measurements.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Put and linearizable get on three nodes of each system, in a closed loop
    Compare(CompareArgs),
    /// Small records made durable by few and by many writers: our log, raft-engine, RocksDB
    Wal(WalArgs),
    /// What puts write to the disk and leave there, beside etcd; memory and restart time
    Writes(WritesArgs),
    /// How long a node takes to replay a long log after a SIGKILL
    Replay(ReplayArgs),
    /// Latency of puts on a schedule before and while a snapshot is sent to a node
    Snapshot(SnapshotArgs),
    /// CPU and memory of three nodes nobody talks to, and memory of one alone
    Idle(IdleArgs),
    /// Real processes killed, paused, cut off, wiped: is anything acknowledged lost?
    Faults(FaultsArgs),
    /// From the SIGKILL of a shard's leader to its next acknowledged write, beside etcd
    Failover(FailoverArgs),
    /// All nodes restarted one by one behind one address, under load
    Rolling(RollingArgs),
    /// Latency of puts on a schedule while a fourth and a fifth node join
    Grow(GrowArgs),
    /// How long a node with empty disks takes to full redundancy
    Wiped(WipedArgs),
    /// Two of three, then all, come back with empty disks: what is said, and what `recover` brings back
    Lost(LostArgs),
    /// Old versions of keys, kept in our rows and by RocksDB's user-defined timestamps
    Versions(VersionsArgs),
}

/// A database that can be measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum System {
    /// Ours, over HTTP/1.1.
    Stemedb,
    /// etcd, over its own gRPC.
    Etcd,
}

impl fmt::Display for System {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            System::Stemedb => "stemedb",
            System::Etcd => "etcd",
        })
    }
}

/// How the figures are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    /// For a person.
    Table,
    /// For a program.
    Json,
}

/// Which servers are started, where, and how the result is printed.
#[derive(Clone, Debug, Args)]
pub(crate) struct Servers {
    /// The binary of StemeDB
    #[arg(long, value_name = "FILE", default_value = "target/release/stemedb")]
    pub(crate) stemedb_binary: PathBuf,
    /// The binary of etcd
    #[arg(long, value_name = "FILE", default_value = "etcd")]
    pub(crate) etcd_binary: PathBuf,
    /// A further setting for every StemeDB node, NAME=VALUE; may be repeated
    #[arg(long, value_name = "NAME=VALUE", value_parser = parse_setting)]
    pub(crate) stemedb_env: Vec<(String, String)>,
    /// Where the servers' data lies while they run; should be on a real disk
    #[arg(long, value_name = "DIR", default_value = "target/benches-data")]
    pub(crate) data_dir: PathBuf,
    /// How the figures are printed
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    pub(crate) output: Output,
}

/// The options of `compare`.
#[derive(Clone, Debug, Args)]
pub(crate) struct CompareArgs {
    /// How long each cell is measured, in seconds, after the warm-up
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub(crate) seconds: u64,
    /// Numbers of clients, one row each
    #[arg(long, value_delimiter = ',', default_value = "1,64,256",
          value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(crate) clients: Vec<u32>,
    /// Size of a value
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u32).range(0..=1_048_576))]
    pub(crate) value_bytes: u32,
    /// How many keys there are, all of them written before anything is measured
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u64).range(1..=100_000_000))]
    pub(crate) keys: u64,
    /// Measure this system alone
    #[arg(long, value_enum)]
    pub(crate) only: Option<System>,
    /// How often each system is started and measured, in alternating order
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub(crate) rounds: u32,
    /// Seed of the random keys and values
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
    /// End with status 1 if an operation failed or the floor against etcd was not held, or not
    /// measured
    #[arg(long)]
    pub(crate) check: bool,
    /// Which servers.
    #[command(flatten)]
    pub(crate) servers: Servers,
}

/// The options of `wal`.
#[derive(Clone, Debug, Args)]
pub(crate) struct WalArgs {
    /// How long each cell is measured in each round, in milliseconds, after a warm-up of 500
    #[arg(long, default_value_t = 2000, value_parser = clap::value_parser!(u64).range(10..=3_600_000))]
    pub(crate) milliseconds: u64,
    /// How often each cell is measured; the logs take turns
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(crate) rounds: u32,
    /// Numbers of writers
    #[arg(long, value_delimiter = ',', default_value = "1,16,64,256",
          value_parser = clap::value_parser!(u64).range(1..=4096))]
    pub(crate) writers: Vec<u64>,
    /// Size of a record
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u32).range(8..=1_048_576))]
    pub(crate) record_bytes: u32,
    /// Seed of the records
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
    /// End with status 1 if a target was not held
    #[arg(long)]
    pub(crate) check: bool,
    /// Where the logs lie; should be on a real disk
    #[arg(long, value_name = "DIR", default_value = "target/benches-data")]
    pub(crate) data_dir: PathBuf,
    /// How the figures are printed
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    pub(crate) output: Output,
}

/// The options of `writes`.
#[derive(Clone, Debug, Args)]
pub(crate) struct WritesArgs {
    /// How many puts, each of a key of its own
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u64).range(1..=100_000_000))]
    pub(crate) puts: u64,
    /// Size of a value
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u32).range(0..=1_048_576))]
    pub(crate) value_bytes: u32,
    /// Measure this system alone
    #[arg(long, value_enum)]
    pub(crate) only: Option<System>,
    /// Seed of the random values
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
    /// Which servers.
    #[command(flatten)]
    pub(crate) servers: Servers,
}

/// The options of `replay`.
#[derive(Clone, Debug, Args)]
pub(crate) struct ReplayArgs {
    /// How long the log is when the node is killed, MiB
    #[arg(long, default_value_t = 1024, value_parser = clap::value_parser!(u64).range(1..=3500))]
    pub(crate) log_mib: u64,
    /// Size of a value
    #[arg(long, default_value_t = 1024, value_parser = clap::value_parser!(u32).range(8..=1_048_576))]
    pub(crate) value_bytes: u32,
    /// Seed of the random values
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
    /// Which servers.
    #[command(flatten)]
    pub(crate) servers: Servers,
}

/// The options of `snapshot`.
#[derive(Clone, Debug, Args)]
pub(crate) struct SnapshotArgs {
    /// How much is written into the shard, MiB of values
    #[arg(long, default_value_t = 1024, value_parser = clap::value_parser!(u64).range(1..=100_000))]
    pub(crate) shard_mib: u64,
    /// Size of a value
    #[arg(long, default_value_t = 1024, value_parser = clap::value_parser!(u32).range(8..=1_048_576))]
    pub(crate) value_bytes: u32,
    /// Puts in a second while it is measured
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(crate) rate: u32,
    /// How long it is measured before the snapshot, in seconds
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub(crate) seconds: u64,
    /// How often all of it is done
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub(crate) runs: u32,
    /// Seed of the random values
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
    /// Which servers.
    #[command(flatten)]
    pub(crate) servers: Servers,
}

/// The options of `idle`.
#[derive(Clone, Debug, Args)]
pub(crate) struct IdleArgs {
    /// How long the idle cluster is watched, in seconds
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub(crate) seconds: u64,
    /// How long servers are left alone after their start before they are looked at, in seconds
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u64).range(0..=600))]
    pub(crate) settle: u64,
    /// Which system
    #[arg(long, value_enum, default_value_t = System::Stemedb)]
    pub(crate) system: System,
    /// End with status 1 if the target was not held
    #[arg(long)]
    pub(crate) check: bool,
    /// Which servers.
    #[command(flatten)]
    pub(crate) servers: Servers,
}

/// The options of `faults`.
#[derive(Clone, Debug, Args)]
pub(crate) struct FaultsArgs {
    /// Which fault, or `all`; several by comma
    #[arg(long = "fault", value_name = "NAME", value_delimiter = ',', required = true)]
    pub(crate) faults: Vec<Asked>,
    /// How long rounds of each fault follow each other, in seconds
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u64).range(3..=86_400))]
    pub(crate) seconds: u64,
    /// Seed of the rounds and of what clients do
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
    /// What lies between the nodes; `lossy` takes the forwarder unless namespaces are asked for by name
    #[arg(long, value_enum, default_value_t = Kind::Auto)]
    pub(crate) network: Kind,
    /// Which servers.
    #[command(flatten)]
    pub(crate) servers: Servers,
}

/// The options of `failover`.
#[derive(Clone, Debug, Args)]
pub(crate) struct FailoverArgs {
    /// How often the leader is killed
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(crate) rounds: u32,
    /// Puts in a second, half of them to the shard that is measured
    #[arg(long, default_value_t = 400, value_parser = clap::value_parser!(u32).range(2..=10_000))]
    pub(crate) rate: u32,
    /// The same with etcd, by turns
    #[arg(long, conflicts_with = "silent_cut")]
    pub(crate) with_etcd: bool,
    /// Packets from and to the leader vanish, in place of SIGKILL; takes root
    #[arg(long)]
    pub(crate) silent_cut: bool,
    /// Seed of the random values
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
    /// End with status 1 if the target was not held
    #[arg(long)]
    pub(crate) check: bool,
    /// Which servers.
    #[command(flatten)]
    pub(crate) servers: Servers,
}

/// The options of `rolling`.
#[derive(Clone, Debug, Args)]
pub(crate) struct RollingArgs {
    /// Calls in a second, half of them puts and half gets
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(crate) rate: u32,
    /// How often all nodes are restarted
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub(crate) runs: u32,
    /// Seed of the random values
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
    /// End with status 1 if the target was not held
    #[arg(long)]
    pub(crate) check: bool,
    /// Which servers.
    #[command(flatten)]
    pub(crate) servers: Servers,
}

/// How much a cluster holds before it is measured.
#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct FillArgs {
    /// How much is written before, GiB of values; a part of one will do
    #[arg(long, default_value_t = 1.0, value_parser = parse_gib)]
    pub(crate) gib: f64,
    /// Size of a value
    #[arg(long, default_value_t = 1024, value_parser = clap::value_parser!(u32).range(8..=1_048_576))]
    pub(crate) value_bytes: u32,
    /// Shards of the cluster
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub(crate) shards: u32,
    /// Seed of the random values
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
}

/// The options of `grow`.
#[derive(Clone, Debug, Args)]
pub(crate) struct GrowArgs {
    /// What is there before.
    #[command(flatten)]
    pub(crate) fill: FillArgs,
    /// Puts in a second while it is measured
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(crate) rate: u32,
    /// How long it is measured before each node joins, in seconds
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub(crate) seconds: u64,
    /// How often all of it is done
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub(crate) runs: u32,
    /// End with status 1 if the target was not held
    #[arg(long)]
    pub(crate) check: bool,
    /// Which servers.
    #[command(flatten)]
    pub(crate) servers: Servers,
}

/// The options of `wiped`.
#[derive(Clone, Debug, Args)]
pub(crate) struct WipedArgs {
    /// What is there before.
    #[command(flatten)]
    pub(crate) fill: FillArgs,
    /// How often a node is wiped
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub(crate) runs: u32,
    /// End with status 1 if the target was not held
    #[arg(long)]
    pub(crate) check: bool,
    /// Which servers.
    #[command(flatten)]
    pub(crate) servers: Servers,
}

/// The options of `lost`.
#[derive(Clone, Debug, Args)]
pub(crate) struct LostArgs {
    /// What is there before.
    #[command(flatten)]
    pub(crate) fill: FillArgs,
    /// Which servers.
    #[command(flatten)]
    pub(crate) servers: Servers,
}

fn parse_gib(text: &str) -> Result<f64, String> {
    let gib: f64 = text.parse().map_err(|_| "must be a number".to_owned())?;
    if !(0.001..=1024.0).contains(&gib) {
        return Err("must be between 0.001 and 1024".to_owned());
    }
    Ok(gib)
}

fn parse_setting(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("must be NAME=VALUE")?;
    if !name.starts_with("STEMEDB_") {
        return Err("the name must start with STEMEDB_".to_owned());
    }
    Ok((name.to_owned(), value.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn compare_without_options_measures_what_the_floor_is_about() {
        let cli = Cli::parse_from(["stemedb-benches", "compare"]);
        let Command::Compare(arguments) = cli.command else { panic!("{cli:?}") };
        assert_eq!((arguments.clients, arguments.value_bytes), (vec![1, 64, 256], 256));
        assert_eq!((arguments.only, arguments.rounds, arguments.check), (None, 2, false));
    }

    #[test]
    fn options_out_of_bounds_are_refused() {
        // Intent: each would divide by zero, never end, or start nothing.
        for options in [
            ["--clients", "0"],
            ["--clients", ""],
            ["--seconds", "0"],
            ["--keys", "0"],
            ["--rounds", "0"],
            ["--stemedb-env", "PATH=/tmp"],
            ["--stemedb-env", "STEMEDB_SHARDS"],
        ] {
            let line = [&["stemedb-benches", "compare"], &options[..]].concat();
            assert!(Cli::try_parse_from(line).is_err(), "{options:?}");
        }
    }
}
