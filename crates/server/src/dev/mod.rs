//! `stemedb dev`: a cluster to try, on this machine, with something worth asking in it.
//!
//! Three nodes, as three processes of this same binary, on loopback, with auth
//! on. Root key, cluster secret and project key are made on the first start
//! and kept in the data folder, so a second start finds the same cluster. Then
//! reports are fed in, and three questions are asked that a person would ask
//! of a project: which tests failed last and since when, which are slow, what
//! is the build made of. The `curl` lines printed ask the same.
//!
//! The nodes are in process groups of their own, so a Ctrl-C is heard here
//! only and they are stopped in order; should this process die without that,
//! the end of their standard input stops them. Whatever happens, nothing is
//! left running.
//!
//! | file | idea |
//! |---|---|
//! | `files` | keys and secrets of the data folder |
//! | `nodes` | three processes: started, watched, stopped |
//! | `reports` | which files to feed in |
//! | `questions` | from claims to three answers (pure) |

mod files;
mod nodes;
mod questions;
mod reports;
mod signals;

use std::path::Path;
use std::time::Duration;

use stemedb_api::admin::{CreateKey, IfExists, Role};
use stemedb_api::claims::QueryRow;
use stemedb_client::{ApiKey, Client, QueryOptions};
use stemedb_types::BucketName;
use stemedb_types::limits::PAGE_ROWS_MAX;

use self::files::DevFiles;
use self::nodes::Nodes;
use self::signals::Signals;
use crate::cli::DevArgs;
use crate::commands::{cluster, ingest};
use crate::endpoint::read_key;
use crate::exit::Failure;
use crate::output;

/// The project of the reports.
const PROJECT: &str = "dev";
/// The label of its key.
const LABEL: &str = "project-dev";
/// How long one try of a call may take.
const TIMEOUT: Duration = Duration::from_secs(15);

pub(crate) async fn run(args: DevArgs) -> Result<(), Failure> {
    let mut signals = Signals::listen().map_err(Failure::error)?;
    let files = DevFiles::open(&args.data_dir)?;
    let mut nodes = Nodes::start(&args, &files)?;
    let result = tokio::select! {
        result = show(&args, &files, &mut nodes) => result,
        () = signals.any() => Err(Failure::error("interrupted")),
    };
    let result = match result {
        Ok(()) if !args.once => {
            output::line("\nUp until Ctrl-C.")?;
            tokio::select! {
                failure = nodes.death() => Err(failure),
                () = signals.any() => Ok(()),
            }
        }
        other => other,
    };
    nodes.stop().await;
    result
}

/// Everything from the first probe to the last answer; a node that ends meanwhile ends it too.
async fn show(args: &DevArgs, files: &DevFiles, nodes: &mut Nodes) -> Result<(), Failure> {
    nodes.wait_ready().await?;
    let gateway = nodes.gateway();
    let work = async {
        let root = client(&gateway, read_key(&files.root_key)?)?;
        let project = client(&gateway, project_key(&root, files).await?)?;
        feed(args, &project).await?;
        output::line(&cluster::status_line(&root.cluster_status().await?))?;
        output::line(&format!("\n{}", cluster::members_table(&root.members().await?)))?;
        ask(&project).await?;
        tell_curl(&gateway, &files.project_key)
    };
    tokio::select! {
        result = work => result,
        failure = nodes.death() => Err(failure),
    }
}

fn client(gateway: &str, key: ApiKey) -> Result<Client, Failure> {
    Ok(Client::builder(gateway).key(key).timeout(TIMEOUT).build()?)
}

/// The project's key: the one in the data folder, or a new one that is put there.
async fn project_key(root: &Client, files: &DevFiles) -> Result<ApiKey, Failure> {
    if files.project_key.exists() {
        return read_key(&files.project_key);
    }
    let request = CreateKey {
        label: LABEL.to_owned(),
        role: Role::WriteAgent,
        project: Some(PROJECT.to_owned()),
        key: None,
        if_exists: Some(IfExists::Return),
    };
    let mut created = root.create_key(&request).await?;
    if created.key.is_none() {
        // There is one, but its file is gone, and nobody can be shown a key twice.
        root.revoke_key(&created.record.hash).await?;
        created = root.create_key(&request).await?;
    }
    let key = created.key.ok_or_else(|| Failure::error("the cluster made no project key"))?;
    files::write_secret(&files.project_key, &key.0)?;
    read_key(&files.project_key)
}

async fn feed(args: &DevArgs, project: &Client) -> Result<(), Failure> {
    let found = reports::find(&args.reports, &args.runs)?;
    if found.is_empty() {
        return output::line(&format!("no reports in {}", args.reports.display()));
    }
    let mut done = Vec::new();
    for (path, format) in &found {
        let report = ingest::Report { path, format: *format, commit: None };
        done.push(ingest::send_file(project, &bucket()?, &report).await?);
    }
    output::line(&format!("{}\n", ingest::table(&done)))
}

fn bucket() -> Result<BucketName, Failure> {
    "default".parse().map_err(Failure::error)
}

/// The three questions, as queries.
fn queries() -> [(&'static str, QueryOptions); 3] {
    let query = |predicate: &str, lens: &str| QueryOptions {
        predicate: Some(predicate.to_owned()),
        lens: Some(lens.to_owned()),
        page_rows: Some(PAGE_ROWS_MAX as u64),
        ..QueryOptions::default()
    };
    [
        ("Which tests failed last, and since when?", query("result", "all")),
        ("Which tests are the slowest?", query("duration_seconds", "latest")),
        ("Which packages, at which version?", query("version", "latest")),
    ]
}

async fn ask(project: &Client) -> Result<(), Failure> {
    let tables = [questions::failed_last, questions::slowest, questions::packages];
    for ((question, options), answer) in queries().into_iter().zip(tables) {
        let rows = all_rows(project, &options).await?;
        output::line(&format!("\n{question}\n\n{}", answer(&rows)))?;
    }
    Ok(())
}

async fn all_rows(project: &Client, options: &QueryOptions) -> Result<Vec<QueryRow>, Failure> {
    let (mut rows, mut cursor) = (Vec::new(), None);
    loop {
        let page = project.query_page(&bucket()?, options, cursor.as_deref()).await?;
        rows.extend(page.answers);
        cursor = page.cursor;
        if cursor.is_none() {
            return Ok(rows);
        }
    }
}

fn tell_curl(gateway: &str, key: &Path) -> Result<(), Failure> {
    output::line("\nThe same with curl:\n")?;
    for (_, options) in queries() {
        let path = options.path(&bucket()?, None);
        let key = key.display();
        output::line(&format!("curl -s -H \"X-API-Key: $(cat '{key}')\" '{gateway}{path}'"))?;
    }
    Ok(())
}
