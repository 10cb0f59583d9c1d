//! Everything a person can type.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use stemedb_types::BucketName;

use crate::endpoint::ClientArgs;
use crate::exit::Failure;
use crate::ingest::Format;
use crate::output::Output;
use crate::settings::SettingFlags;
use crate::{commands, dev, serve};

/// StemeDB: keys, values and claims, on one node or many.
#[derive(Debug, Parser)]
#[command(
    name = "stemedb",
    version,
    after_help = "Exit codes: 0 ok, 1 error, 2 usage, 3 not found, 4 unavailable, 5 conflict, 74 the disk failed.\nAn API key comes from STEMEDB_API_KEY, STEMEDB_ADMIN_KEY or --key-file, never from an argument."
)]
pub(crate) struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a node
    Serve(ServeArgs),
    /// Run three nodes on this machine, feed them reports and ask three questions
    Dev(DevArgs),
    /// Read and write keys
    #[command(subcommand)]
    Kv(KvCommand),
    /// Make statements
    Assert(AssertArgs),
    /// Ask what is claimed
    Query(QueryArgs),
    /// Turn reports of a CI run into statements
    Ingest(IngestArgs),
    /// Look at the cluster, and change who is in it
    #[command(subcommand)]
    Cluster(ClusterCommand),
    /// Make, list and revoke API keys
    #[command(subcommand)]
    Keys(KeysCommand),
    /// Show and check the settings of a node
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Look at the disks of a stopped node: exit code 0, or 1 if anything is wrong
    Check(CheckArgs),
    /// Go on with what this stopped node has, after the disks of a majority were lost
    Recover(RecoverArgs),
    /// Ask a node whether it is ready: exit code 0 or 4
    Healthcheck(HealthArgs),
}

/// A node's settings.
#[derive(Args, Debug)]
pub(crate) struct ServeArgs {
    #[command(flatten)]
    pub(crate) settings: SettingFlags,
    /// End when standard input does: how `dev` makes sure that no node outlives it.
    #[arg(long, hide = true)]
    pub(crate) until_stdin_ends: bool,
}

/// Three nodes on loopback.
#[derive(Args, Clone, Debug)]
pub(crate) struct DevArgs {
    /// Where the nodes keep their data, and the keys that were made
    #[arg(long, value_name = "DIR", default_value = "data/dev")]
    pub(crate) data_dir: PathBuf,
    /// Node i listens on this port + 10 i and the three after it
    #[arg(long, value_name = "PORT", default_value_t = 18180, value_parser = clap::value_parser!(u16).range(1024..=65_000))]
    pub(crate) port_base: u16,
    /// Reports to feed in
    #[arg(long, value_name = "DIR", default_value = "examples/reports")]
    pub(crate) reports: PathBuf,
    /// Test runs of this workspace; the newest is fed in if it is newer than the reports
    #[arg(long, value_name = "DIR", default_value = "target/nextest")]
    pub(crate) runs: PathBuf,
    /// End after the answers
    #[arg(long)]
    pub(crate) once: bool,
}

/// Where keys live.
#[derive(Args, Debug)]
pub(crate) struct BucketArgs {
    #[command(flatten)]
    pub(crate) client: ClientArgs,
    /// The bucket
    #[arg(short, long, default_value = "default", value_name = "NAME")]
    pub(crate) bucket: BucketName,
}

/// How new what is read must be.
#[derive(Args, Clone, Copy, Debug)]
pub(crate) struct ReadArgs {
    /// How new what is read must be: a session sees nothing older than --seen, a stale read asks any
    /// replica and says on stderr how old it may be
    #[arg(long, value_enum, default_value_t)]
    pub(crate) consistency: Consistency,
    /// The newest revision of the bucket that the session has seen
    #[arg(long, value_name = "REVISION", requires = "consistency")]
    pub(crate) seen: Option<u64>,
}

/// How new what is read must be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Consistency {
    /// The newest.
    #[default]
    Linearizable,
    /// Nothing older than was seen.
    Session,
    /// Whatever is at hand.
    Stale,
}

#[derive(Debug, Subcommand)]
pub(crate) enum KvCommand {
    /// Print a value
    Get {
        #[command(flatten)]
        target: BucketArgs,
        #[command(flatten)]
        reads: ReadArgs,
        /// The key
        key: OsString,
    },
    /// Give a key a value
    Put {
        #[command(flatten)]
        target: BucketArgs,
        /// The key
        key: OsString,
        /// The value; absent: --file, or standard input
        value: Option<OsString>,
        /// A file that holds the value
        #[arg(short, long, conflicts_with = "value")]
        file: Option<PathBuf>,
        /// Only if the key stands at this revision
        #[arg(long, value_name = "REVISION")]
        if_match: Option<u64>,
        /// Only if the key is not there
        #[arg(long, conflicts_with = "if_match")]
        if_absent: bool,
    },
    /// Take a key away
    Del {
        #[command(flatten)]
        target: BucketArgs,
        /// The key
        key: OsString,
        /// Only if the key stands at this revision
        #[arg(long, value_name = "REVISION")]
        if_match: Option<u64>,
    },
    /// List keys in order
    Scan {
        #[command(flatten)]
        target: BucketArgs,
        #[command(flatten)]
        reads: ReadArgs,
        /// Only keys that begin so
        #[arg(long)]
        prefix: Option<OsString>,
        /// Only keys from this one on
        #[arg(long)]
        start: Option<OsString>,
        /// Only keys before this one
        #[arg(long)]
        end: Option<OsString>,
        /// At most so many
        #[arg(long)]
        limit: Option<usize>,
        /// Without the values
        #[arg(long)]
        keys_only: bool,
        /// Last key first
        #[arg(long)]
        reverse: bool,
        /// The past, at this revision
        #[arg(long, value_name = "REVISION")]
        as_of: Option<u64>,
    },
}

/// One statement from options, or many from a file.
#[derive(Args, Debug)]
pub(crate) struct AssertArgs {
    #[command(flatten)]
    pub(crate) target: BucketArgs,
    /// A file with one statement or {"items": […]} as JSON; `-` is standard input
    #[arg(short, long, conflicts_with_all = ["subject", "predicate", "object"], required_unless_present = "subject")]
    pub(crate) file: Option<PathBuf>,
    /// What it is about
    #[arg(long, requires_all = ["predicate", "object"])]
    pub(crate) subject: Option<String>,
    /// What is said of it
    #[arg(long, requires = "subject")]
    pub(crate) predicate: Option<String>,
    /// The saying: JSON, or else taken as text
    #[arg(long, requires = "subject")]
    pub(crate) object: Option<String>,
    /// How sure, 0 to 1
    #[arg(long, requires = "subject")]
    pub(crate) confidence: Option<f64>,
    /// Since when it holds, RFC 3339
    #[arg(long, requires = "subject", value_name = "INSTANT")]
    pub(crate) valid_from: Option<String>,
    /// Until when it holds, RFC 3339
    #[arg(long, requires = "subject", value_name = "INSTANT")]
    pub(crate) valid_to: Option<String>,
    /// Where it comes from
    #[arg(long, requires = "subject", value_name = "URI")]
    pub(crate) source: Option<String>,
}

/// What to ask.
#[derive(Args, Debug)]
pub(crate) struct QueryArgs {
    #[command(flatten)]
    pub(crate) target: BucketArgs,
    /// The subject
    #[arg(long)]
    pub(crate) subject: Option<String>,
    /// How the subject begins
    #[arg(long, conflicts_with = "subject")]
    pub(crate) subject_prefix: Option<String>,
    /// The predicate
    #[arg(long)]
    pub(crate) predicate: Option<String>,
    /// How the predicate begins
    #[arg(long, conflicts_with = "predicate")]
    pub(crate) predicate_prefix: Option<String>,
    /// Only what this agent said
    #[arg(long)]
    pub(crate) agent: Option<String>,
    /// How claims are resolved: latest, or all
    #[arg(long, default_value = "latest")]
    pub(crate) lens: String,
    /// Among claims that hold at this instant, RFC 3339
    #[arg(long, value_name = "INSTANT")]
    pub(crate) valid_at: Option<String>,
    /// The past, at this revision
    #[arg(long, value_name = "REVISION")]
    pub(crate) as_of: Option<u64>,
    /// At most so many answers
    #[arg(long)]
    pub(crate) limit: Option<usize>,
}

/// Reports of one format.
#[derive(Args, Debug)]
pub(crate) struct IngestArgs {
    #[command(flatten)]
    pub(crate) target: BucketArgs,
    /// What the files are
    #[arg(value_enum)]
    pub(crate) format: Format,
    /// The files; a broken one is named and left out, the others go on
    #[arg(required = true)]
    pub(crate) files: Vec<PathBuf>,
    /// The commit that the reports are about [default: what git says]
    #[arg(long, value_name = "ID")]
    pub(crate) commit: Option<String>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ClusterCommand {
    /// The cluster at a glance
    Status(ClientArgs),
    /// Members and their addresses
    Members(ClientArgs),
    /// Which nodes hold which shard
    Layout(ClientArgs),
    /// What a change of members would move; without one, what is still to come. Nothing is changed
    Plan {
        #[command(flatten)]
        client: ClientArgs,
        /// A member to drain, by name or id; may be given again
        #[arg(long, value_name = "MEMBER")]
        drain: Vec<String>,
        /// A member to remove, by name or id; may be given again
        #[arg(long, value_name = "MEMBER")]
        remove: Vec<String>,
        /// A node that would join; may be given again
        #[arg(long, value_name = "NAME[,zone=ZONE][,weight=N]", value_parser = commands::operate::new_member)]
        add: Vec<stemedb_api::operate::NewMember>,
    },
    /// Follow what moves until nothing does
    Watch(ClientArgs),
    /// Have a member give away what it holds and leads, and wait for it; its process stays
    Drain {
        #[command(flatten)]
        client: ClientArgs,
        /// The member, by name or id
        member: String,
        /// Let it hold and lead again
        #[arg(long)]
        off: bool,
        /// Return once it is decided
        #[arg(long)]
        no_wait: bool,
    },
    /// Do without a member that holds nothing, or is silent and can be spared
    Remove {
        #[command(flatten)]
        client: ClientArgs,
        /// The member, by name or id
        member: String,
    },
    /// Let no shard begin to move; what moves ends, and damaged replicas are replaced all the same
    Pause(ClientArgs),
    /// Let shards move again
    Resume(ClientArgs),
}

#[derive(Debug, Subcommand)]
pub(crate) enum KeysCommand {
    /// Make an API key; it is shown once
    Create {
        #[command(flatten)]
        client: ClientArgs,
        /// What a person calls it; `project-<p>` names the project p
        label: String,
        /// root, admin, auditor, backup, write_agent or read_agent
        #[arg(long, default_value = "write_agent", value_parser = commands::keys::role)]
        role: stemedb_api::admin::Role,
        /// The project of the key, if the label does not name it
        #[arg(long, value_name = "NAME")]
        of: Option<String>,
        /// If the label is taken, print its record instead of failing
        #[arg(long)]
        if_absent: bool,
    },
    /// List keys
    List(ClientArgs),
    /// End a key
    Revoke {
        #[command(flatten)]
        client: ClientArgs,
        /// The key's hash, as `keys list` shows it
        hash: String,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// Print each effective value and who gave it
    Show {
        #[command(flatten)]
        settings: SettingFlags,
        /// Tables for people, JSON for programs
        #[arg(short, long, value_enum, default_value_t)]
        output: Output,
    },
    /// Say whether a node would start with these settings
    Check {
        #[command(flatten)]
        settings: SettingFlags,
        /// Only look for names in the environment that nobody reads
        #[arg(long)]
        env_only: bool,
    },
}

/// The directories of a node that does not run.
#[derive(Args, Debug)]
pub(crate) struct CheckArgs {
    /// The log's directory
    #[arg(long, value_name = "PATH", env = "STEMEDB_WAL_DIR")]
    pub(crate) wal_dir: PathBuf,
    /// The store's directory
    #[arg(long, value_name = "PATH", env = "STEMEDB_DB_DIR")]
    pub(crate) db_dir: PathBuf,
    /// Mend what can be mended without losing anything, and say what was given up
    #[arg(long)]
    pub(crate) repair: bool,
    /// Tables for people, JSON for programs
    #[arg(short, long, value_enum, default_value_t)]
    pub(crate) output: Output,
}

/// The directories of the node that goes on.
#[derive(Args, Debug)]
pub(crate) struct RecoverArgs {
    /// The log's directory
    #[arg(long, value_name = "PATH", env = "STEMEDB_WAL_DIR")]
    pub(crate) wal_dir: PathBuf,
    /// The store's directory
    #[arg(long, value_name = "PATH", env = "STEMEDB_DB_DIR")]
    pub(crate) db_dir: PathBuf,
    /// Do it: what only other nodes had is given up for good. Without it, only say what there is
    #[arg(long)]
    pub(crate) accept_data_loss: bool,
    /// Tables for people, JSON for programs
    #[arg(short, long, value_enum, default_value_t)]
    pub(crate) output: Output,
}

/// Which node to ask.
#[derive(Args, Debug)]
pub(crate) struct HealthArgs {
    /// The node's own HTTP API
    #[arg(long, default_value = "http://127.0.0.1:18180")]
    pub(crate) url: String,
}

/// Does what was typed.
pub(crate) fn run(cli: Cli) -> Result<(), Failure> {
    match cli.command {
        Command::Serve(args) => serve::run(args),
        Command::Config(command) => commands::config::run(command),
        Command::Check(args) => commands::check::run(&args),
        Command::Recover(args) => commands::recover::run(&args),
        other => {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.map_err(Failure::error)?.block_on(run_client(other))
        }
    }
}

async fn run_client(command: Command) -> Result<(), Failure> {
    match command {
        Command::Dev(args) => dev::run(args).await,
        Command::Kv(command) => commands::kv::run(command).await,
        Command::Assert(args) => commands::claims::assert(args).await,
        Command::Query(args) => commands::claims::query(args).await,
        Command::Ingest(args) => commands::ingest::run(args).await,
        Command::Cluster(command) => commands::cluster::run(command).await,
        Command::Keys(command) => commands::keys::run(command).await,
        Command::Healthcheck(args) => commands::health::run(args).await,
        // These need no runtime of this kind; `run` has taken them.
        Command::Serve(_) | Command::Config(_) | Command::Check(_) | Command::Recover(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn what_can_be_typed_is_taken_and_the_rest_ends_with_code_2() {
        let code = |line: &str| match Cli::try_parse_from(line.split_whitespace()) {
            Ok(_) => 0,
            Err(error) => error.exit_code(),
        };
        for good in [
            "stemedb serve --zone a --insecure --config f.toml",
            "stemedb dev --once --port-base 20000",
            "stemedb kv put k v --if-absent -b other",
            "stemedb kv get k --consistency stale",
            "stemedb kv get k --consistency session --seen 7",
            "stemedb kv scan --consistency session",
            "stemedb kv scan --prefix a --limit 3 -o json",
            "stemedb assert --subject s --predicate p --object 1",
            "stemedb assert --file -",
            "stemedb query --predicate result --lens all",
            "stemedb ingest junit a.xml b.xml --commit c0ffee",
            "stemedb cluster layout",
            "stemedb cluster plan",
            "stemedb cluster plan --drain a --drain b --remove c --add n4,zone=b,weight=2 -o json",
            "stemedb cluster watch",
            "stemedb cluster drain n1 --no-wait",
            "stemedb cluster drain n1 --off",
            "stemedb cluster remove 0123456789abcdef",
            "stemedb cluster pause",
            "stemedb cluster resume -o json",
            "stemedb keys create project-p --role read_agent --if-absent",
            "stemedb config check --env-only",
            "stemedb healthcheck",
            "stemedb check --wal-dir w --db-dir d --repair -o json",
            "stemedb --version",
        ] {
            assert_eq!(code(good), 0, "{good}");
        }
        for bad in [
            "stemedb",
            "stemedb nothing",
            "stemedb serve --shard 4",
            "stemedb serve --root-api-key k",
            "stemedb dev --port-base 80",
            "stemedb kv get",
            "stemedb kv get k --key steme_live_0",
            "stemedb kv put k v --if-absent --if-match 3",
            "stemedb kv get k -b UPPER",
            "stemedb kv get k --consistency strong",
            "stemedb kv get k --seen 7",
            "stemedb kv put k v --consistency stale",
            "stemedb assert --subject s",
            "stemedb assert",
            "stemedb ingest junit",
            "stemedb check --wal-dir w",
            "stemedb ingest csv a.csv",
            "stemedb keys create l --role king",
            "stemedb query -o yaml",
            "stemedb cluster drain",
            "stemedb cluster remove",
            "stemedb cluster plan --add n4,weight=0",
            "stemedb cluster pause now",
        ] {
            assert_eq!(code(bad), 2, "{bad}");
        }
    }
}
