//! What is left after the disks of most nodes, or of all, are lost at once.
//!
//! Three nodes are filled. Two get a SIGKILL at once, their directories are emptied, and they are
//! started under the same names. Nobody may found or replace anything now: each node is asked what it
//! says of its readiness until all say `quorum-lost`. Then what a person would do: the survivor is ended,
//! `stemedb recover` makes it the only voter, it is started again, the blank nodes join by themselves, and
//! every key that was acknowledged is read through every gateway. Last, all three lose their disks at
//! once: nobody is left who knows of anything, and all that the nodes say from their start until they are
//! ready is told, not judged.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::json;
use tokio::time::{Instant, sleep};

use crate::cli::{LostArgs, Output};
use crate::compare::NODES;
use crate::faults::{Said, Site};
use crate::load::{Session as _, Store as _, Workload};
use crate::report::built;
use crate::{grow, place, stemedb, table};

/// The node whose disks stay.
const SURVIVOR: usize = 0;
/// How long nodes may take to say what is the matter.
const SAY_LIMIT: Duration = Duration::from_secs(60);
/// Between two looks at what they say.
const LOOK: Duration = Duration::from_millis(25);
/// The status of a node that is ready.
const READY: u16 = 200;
/// How all nodes call it.
const QUORUM_LOST: &str = "quorum-lost";

/// What came of it.
struct Figures {
    two_lost: Vec<Said>,
    recovered: Duration,
    whole: Duration,
    keys: u64,
    missing: u64,
    all_lost: Vec<Vec<Heard>>,
}

/// What a node said, and for how long it had run when it said so first.
struct Heard {
    after: Duration,
    said: Said,
}

/// Goes through both losses on one cluster and prints what came of them; a failure if a key is missing.
///
/// # Errors
/// A node did not start, did not say that the quorum is lost, or `recover` failed.
pub(crate) async fn run(arguments: &LostArgs) -> Result<ExitCode> {
    let scratch = place::scratch(&arguments.servers.data_dir)?;
    let dir = scratch.path().to_owned();
    let (mut site, store, workload) =
        grow::filled(&arguments.fill, &arguments.servers, NODES, dir).await?;

    let others: Vec<usize> = (0..NODES).filter(|&node| node != SURVIVOR).collect();
    lose(&mut site, &others).await?;
    let two_lost = said_by_all(&site).await?;
    eprintln!("  all say {QUORUM_LOST}");
    let begun = Instant::now();
    site.terminate(SURVIVOR).await?;
    let told = site.recover(SURVIVOR).await.context("stemedb recover")?;
    eprintln!("{told}");
    site.start(SURVIVOR)?;
    site.answering(SURVIVOR).await?;
    let recovered = begun.elapsed();
    site.ready().await?;
    site.whole().await?;
    let whole = begun.elapsed();
    let missing = missing(&store, workload).await?;

    let everyone: Vec<usize> = (0..NODES).collect();
    lose(&mut site, &everyone).await?;
    let all_lost = said_until_ready(&site).await?;
    site.ready().await?;
    site.stop().await?;
    let figures = Figures { two_lost, recovered, whole, keys: workload.keys, missing, all_lost };
    print(arguments, &figures);
    Ok(if figures.missing == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// These nodes end at once and come back under their names with empty disks.
async fn lose(site: &mut Site, nodes: &[usize]) -> Result<()> {
    site.kill_all(nodes).await?;
    nodes.iter().try_for_each(|&node| site.wipe(node))?;
    nodes.iter().try_for_each(|&node| site.start(node))
}

/// What each node says once all have said that the quorum is lost.
async fn said_by_all(site: &Site) -> Result<Vec<Said>> {
    let deadline = Instant::now() + SAY_LIMIT;
    loop {
        let mut all = Vec::new();
        for node in 0..NODES {
            // One that has just begun does not listen yet.
            all.push(site.said(node).await.unwrap_or_default());
        }
        if all.iter().all(|said| said.text.contains(QUORUM_LOST)) {
            return Ok(all);
        }
        ensure!(Instant::now() < deadline, "after {SAY_LIMIT:?} they say {all:?}");
        sleep(LOOK).await;
    }
}

/// All that each node says from its start until all are ready, each answer once.
async fn said_until_ready(site: &Site) -> Result<Vec<Vec<Heard>>> {
    let (begun, mut all) = (Instant::now(), Vec::new());
    all.resize_with(NODES, Vec::new);
    loop {
        let mut ready = 0;
        for (node, heard) in all.iter_mut().enumerate() {
            // One that has just begun does not listen yet.
            let Ok(said) = site.said(node).await else { continue };
            ready += usize::from(said.status == READY);
            if heard.iter().all(|known: &Heard| known.said != said) {
                heard.push(Heard { after: begun.elapsed(), said });
            }
        }
        if ready == NODES {
            return Ok(all);
        }
        ensure!(begun.elapsed() < SAY_LIMIT, "not all are ready after {SAY_LIMIT:?}");
        sleep(LOOK).await;
    }
}

/// How many keys some gateway does not give back as they were written.
async fn missing(store: &stemedb::Store, workload: Workload) -> Result<u64> {
    let mut missing = 0;
    for gateway in 0..NODES {
        let mut session = store.session(gateway).await?;
        for index in 0..workload.keys {
            let read = session.get(&Workload::key(index)).await;
            if let Err(error) = read.and_then(|value| workload.check(index, &value)) {
                eprintln!("  key {index} through gateway {gateway}: {error:#}");
                missing += 1;
            }
        }
    }
    Ok(missing)
}

fn print(arguments: &LostArgs, figures: &Figures) {
    let Figures { two_lost, recovered, whole, keys, missing, all_lost } = figures;
    if arguments.servers.output == Output::Json {
        let said = |said: &Said| json!({ "status": said.status, "text": said.text });
        let heard = |heard: &Heard| json!({ "after_s": heard.after.as_secs_f64(), "said": said(&heard.said) });
        let all = |all: &Vec<Heard>| all.iter().map(heard).collect::<Vec<_>>();
        let figures = json!({
            "built": built(), "two_lost": two_lost.iter().map(said).collect::<Vec<_>>(),
            "recovered_s": recovered.as_secs_f64(), "whole_s": whole.as_secs_f64(),
            "keys": keys, "missing": missing,
            "all_lost": all_lost.iter().map(all).collect::<Vec<_>>(),
        });
        println!("{figures:#}");
        return;
    }
    let headers = ["lost", "node", "status", "readiness", "first said after s"];
    let row = |lost: &str, node: usize, said: &Said, after: String| {
        vec![lost.to_owned(), node.to_string(), said.status.to_string(), said.text.clone(), after]
    };
    let two = two_lost.iter().enumerate();
    let two = two.map(|(node, said)| row("two of three", node, said, String::new()));
    let all = all_lost.iter().enumerate().flat_map(|(node, heard)| {
        let after = |heard: &Heard| format!("{:.2}", heard.after.as_secs_f64());
        heard.iter().map(move |heard| row("all three", node, &heard.said, after(heard)))
    });
    println!("{}", table::markdown(&headers, &two.chain(all).collect::<Vec<_>>(), 4));
    let seconds = (recovered.as_secs_f64(), whole.as_secs_f64());
    println!(
        "recovered: answers after {:.1} s, three whole nodes after {:.1} s",
        seconds.0, seconds.1
    );
    println!("{keys} keys acknowledged, read through each gateway: {missing} missing");
    print!("{}", built());
}
