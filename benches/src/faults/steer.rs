//! One fault on one cluster: clients at work, round after round, then the reckoning.
//!
//! Whatever ends the rounds, the network is made whole and the clients are stopped; then the
//! cluster must be ready again and take a write in every bucket, and everything acknowledged is
//! looked for through every node. What goes wrong on the way is kept as the reason why the run
//! proves nothing, unless it proves that something was violated.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{HeaderValue, Request};
use http_body_util::Full;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use serde_json::Value;
use stemedb_sim::checks::linearizable::{Action, Outcome};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use super::clients::{self, BUCKETS, CLIENTS, Heard, Office};
use super::fault::{FOUNDING, Fault, NODES_MAX, Step, round};
use super::namespaces::End;
use super::network::{Kind, Network};
use super::outcome::Findings;
use super::site::Site;
use crate::cli::FaultsArgs;
use crate::http::{Answer, call};

/// Between two rounds at least so long, and at most twice as long.
const CALM_MS: u64 = 500;
/// So many writes must be acknowledged before the first round.
const WARM_WRITES: u64 = 20;
/// How long that may take, and how long the first write after the last round.
const PROGRESS_LIMIT: Duration = Duration::from_secs(60);
/// Between two looks at what another task does.
const LOOK: Duration = Duration::from_millis(20);
/// Between two tries at the end.
const AGAIN: Duration = Duration::from_millis(300);
/// How long clients wait where every packet is late and some come late twice: less than the server's own
/// deadline of 10 s.
const PATIENT_LIMIT: Duration = Duration::from_secs(8);
/// How long an answer at the end may take.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);
/// How long replicas may take to have everything that is acknowledged.
const REPLICAS_LIMIT: Duration = Duration::from_secs(30);
/// Asked of a node's own API, this is answered from the replica there and by nobody else; then the answer
/// says so.
const STALE: &str = "&consistency=stale";
const CONSISTENCY: &str = "stemedb-consistency";
/// The log is cut early, so that whoever was away is brought up by a snapshot.
const LIVE_LOG: (&str, &str) = ("STEMEDB_LIVE_LOG_BYTES_MAX", "4MiB");

/// Runs one fault with data below `dir`.
pub(crate) async fn run(arguments: &FaultsArgs, fault: Fault, dir: PathBuf) -> Findings {
    let (mut site, key) = match prepare(arguments, fault, dir).await {
        Ok(ready) => ready,
        Err((network, error)) => return Findings::none(fault, network, format!("{error:#}")),
    };
    let network = site.network().name();
    let answer_limit = if fault == Fault::Lossy { PATIENT_LIMIT } else { clients::ANSWER_LIMIT };
    let office = Rc::new(Office::new(gateways(&site), key, answer_limit));
    let mut working = JoinSet::new();
    for number in 0..CLIENTS {
        working.spawn_local(clients::work(number, office.clone(), arguments.seed));
    }
    let begun = Instant::now();
    let (rounds, mut trouble) = rounds(arguments, fault, &mut site, &office).await;
    let healed = heal(&mut site, &office).await;
    let took = begun.elapsed();
    office.over.set(true);
    while let Some(ended) = working.join_next().await {
        if let Err(error) = ended {
            trouble.get_or_insert_with(|| format!("a client: {error}"));
        }
    }
    let (mut lost, mut own_stores) = (Vec::new(), 0);
    let looked = match healed {
        Ok(()) => look_everywhere(&site, &office, &mut lost, &mut own_stores)
            .await
            .context("the look at the end"),
        Err(error) => Err(error.context("did not heal")),
    };
    let stopped = site.stop().await;
    for error in looked.err().into_iter().chain(stopped.err()) {
        trouble.get_or_insert_with(|| format!("{error:#}"));
    }
    let record = office.record.borrow();
    Findings {
        fault,
        rounds,
        took,
        network,
        counts: record.counts(),
        own_stores,
        lost,
        verdict: Some(record.verdict()),
        gaps: record.gaps(),
        wrong: record.first_wrong().map(str::to_owned),
        trouble,
    }
}

/// A running cluster, and a key of a project.
async fn prepare(
    arguments: &FaultsArgs,
    fault: Fault,
    dir: PathBuf,
) -> Result<(Site, HeaderValue), (&'static str, anyhow::Error)> {
    // Only a forwarder is slow as well; whoever names namespaces gets real packets lost instead.
    let kind = match arguments.network {
        Kind::Auto if fault == Fault::Lossy => Kind::Forwarder,
        kind => kind,
    };
    let network = Network::new(kind, NODES_MAX, arguments.seed).map_err(|e| ("none", e))?;
    let name = network.name();
    let prepared = async {
        let mut servers = arguments.servers.clone();
        servers.stemedb_env.insert(0, (LIVE_LOG.0.to_owned(), LIVE_LOG.1.to_owned()));
        let nodes = if fault == Fault::GrowShrink { NODES_MAX } else { FOUNDING };
        let mut site = Site::new(&servers, network, nodes, FOUNDING, dir).await?;
        if fault == Fault::ClockJump {
            site.with_clocks()?;
        }
        site.found().await?;
        let key = site.project_key().await?;
        anyhow::Ok((site, key))
    };
    prepared.await.map_err(|error| (name, error))
}

/// Rounds until the time is over. How many there were, and what ended them before.
async fn rounds(
    arguments: &FaultsArgs,
    fault: Fault,
    site: &mut Site,
    office: &Office,
) -> (u32, Option<String>) {
    let mut chance = SmallRng::seed_from_u64(arguments.seed);
    let time = Duration::from_secs(arguments.seconds);
    let hold_ms_max = arguments.seconds.saturating_mul(1000) / 3;
    let mut done = 0;
    let all = async {
        progress(office, WARM_WRITES).await.context("before the first round")?;
        let begun = Instant::now();
        while begun.elapsed() < time {
            let bucket = clients::bucket(chance.random_range(0..BUCKETS));
            let leader = site.led(&office.key, &bucket).await?;
            // Only the nodes that are always there are meant by the rounds.
            let leader = if leader < FOUNDING { leader } else { 0 };
            let steps = round(fault, leader, hold_ms_max, &mut chance);
            eprintln!("  {:5.1} s: {steps:?}", begun.elapsed().as_secs_f64());
            let met = site.network().met()?;
            for step in steps {
                take(site, office, step).await.with_context(|| format!("{step:?}"))?;
            }
            // It serves again, or the next round would strike what is down already.
            progress(office, WARM_WRITES).await.context("after a round")?;
            let met_none = met.is_some() && met == site.network().met()?;
            // The kernel counts what it loses, but not what it sends nowhere.
            let counted = match site.network() {
                Network::Namespaces(_) => fault == Fault::Lossy,
                _ => fault.needs_wires(),
            };
            ensure!(!(counted && met_none), "no packet met the fault");
            done += 1;
            let calm = chance.random_range(CALM_MS..=2 * CALM_MS);
            sleep(Duration::from_millis(calm)).await;
        }
        anyhow::Ok(())
    };
    let outcome = all.await;
    (done, outcome.err().map(|error| format!("{error:#}")))
}

async fn take(site: &mut Site, office: &Office, step: Step) -> Result<()> {
    match step {
        Step::Kill(node) => site.kill(node).await?,
        Step::KillAll => site.kill_all(&(0..FOUNDING).collect::<Vec<_>>()).await?,
        Step::Terminate(node) => site.terminate(node).await?,
        Step::Start(node) => site.start(node)?,
        Step::Pause(node) => site.pause(node, true)?,
        Step::Resume(node) => site.pause(node, false)?,
        Step::Wipe(node) => site.wipe(node)?,
        Step::Move(node) => site.relocate(node).await?,
        Step::Cut(from, to) => site.network().cut(End::Node(from), End::Node(to))?,
        Step::Worsen => site.network().worsen(NODES_MAX)?,
        Step::Heal => site.network().heal()?,
        Step::Clock(node, seconds) => site.set_clock(node, seconds).await?,
        Step::Drain(node) => site.drain(node).await?,
        Step::Remove(node) => site.remove(node).await?,
        Step::Wait(ms) => sleep(Duration::from_millis(ms)).await,
        Step::Ready => site.ready().await?,
        Step::Whole => site.whole().await?,
    }
    *office.gateways.borrow_mut() = gateways(site);
    Ok(())
}

/// The gateways clients know: those of the nodes that found the cluster, running or not, and of
/// those that joined and run.
fn gateways(site: &Site) -> Vec<SocketAddr> {
    let joined = site.running().into_iter().filter(|&node| node >= FOUNDING);
    (0..FOUNDING).chain(joined).map(|node| site.gateway(node)).collect()
}

/// Waits until so many more writes are acknowledged.
async fn progress(office: &Office, writes: u64) -> Result<()> {
    let acknowledged = || office.record.borrow().counts().acknowledged;
    let (wanted, deadline) = (acknowledged() + writes, Instant::now() + PROGRESS_LIMIT);
    while acknowledged() < wanted {
        ensure!(Instant::now() < deadline, "no {writes} writes in {PROGRESS_LIMIT:?}");
        sleep(LOOK).await;
    }
    Ok(())
}

/// Takes back whatever still holds the cluster up, and waits until it serves in every bucket.
async fn heal(site: &mut Site, office: &Office) -> Result<()> {
    site.network().heal()?;
    for node in site.running() {
        site.pause(node, false)?;
    }
    for node in 0..FOUNDING {
        if !site.running().contains(&node) {
            site.start(node)?;
        }
    }
    site.ready().await?;
    for number in 0..BUCKETS {
        site.led(&office.key, &clients::bucket(number)).await?;
    }
    progress(office, WARM_WRITES).await
}

/// Reads every register and every key that was written once: through every node, which may ask others,
/// and then what is written once in each node's own store as well. `own_stores` is counted for each bucket
/// that a node looked up in its own.
async fn look_everywhere(
    site: &Site,
    office: &Office,
    lost: &mut Vec<String>,
    own_stores: &mut u64,
) -> Result<()> {
    let (registers, buckets) = {
        let record = office.record.borrow();
        let registers: Vec<_> = record.registers().cloned().collect();
        let buckets: Vec<String> = record.buckets().cloned().collect();
        (registers, buckets)
    };
    for node in site.running() {
        for place in &registers {
            read_register(office, site.gateway(node), CLIENTS + node, place).await?;
        }
        for bucket in &buckets {
            let found = scan(office, site.gateway(node), bucket, "").await?;
            let Some(found) = found else { bail!("node {node} does not scan {bucket}") };
            let missing = office.record.borrow().lost(bucket, &found);
            lost.extend(missing.into_iter().map(|key| format!("{bucket}/{key} at node {node}")));
        }
    }
    for bucket in &buckets {
        let mut holders = 0;
        for node in site.running() {
            let Some(missing) = missing_replica(office, site.own(node), bucket).await? else {
                continue;
            };
            holders += 1;
            let named = |key| format!("{bucket}/{key} in the store of {node}");
            lost.extend(missing.into_iter().map(named));
        }
        // As many as there are replicas of each shard: with three nodes, that is all of them.
        ensure!(
            holders >= FOUNDING,
            "only {holders} nodes show what their stores hold of {bucket}"
        );
        *own_stores += holders as u64;
    }
    Ok(())
}

async fn read_register(
    office: &Office,
    gateway: SocketAddr,
    client: usize,
    place: &(String, String),
) -> Result<()> {
    let deadline = Instant::now() + PROGRESS_LIMIT;
    loop {
        let begun = office.record.borrow_mut().begin(client, &place.0, &place.1, Action::Get);
        let heard = clients::look(office, gateway, place).await?;
        if let Some(seen) = clients::found(&heard) {
            let outcome = Outcome::Found(seen.map(|(value, _)| value));
            office.record.borrow_mut().end(begun, outcome);
            return Ok(());
        }
        office.record.borrow_mut().forget(begun);
        if let Heard::Answer(answer) = heard {
            bail!("{gateway} answered a get of {}: {answer:?}", place.1);
        }
        ensure!(Instant::now() < deadline, "{gateway} does not answer a get of {}", place.1);
        sleep(AGAIN).await;
    }
}

/// What is missing in a node's own store, once it had time to catch up; nothing, if the node holds no
/// replica. A node that does not know how old its replica is answers with what its leader confirms, or not
/// at all: then it is asked again.
async fn missing_replica(
    office: &Office,
    own: SocketAddr,
    bucket: &str,
) -> Result<Option<Vec<String>>> {
    let deadline = Instant::now() + REPLICAS_LIMIT;
    loop {
        let found = scan(office, own, bucket, STALE).await?;
        let missing = found.map(|found| office.record.borrow().lost(bucket, &found));
        if missing.as_ref().is_some_and(Vec::is_empty) || Instant::now() >= deadline {
            return Ok(missing);
        }
        sleep(AGAIN).await;
    }
}

/// The keys of a bucket that hold what was written under them; nothing, if the node refuses, or was to look
/// in its own store and some page does not say that it did.
async fn scan(
    office: &Office,
    door: SocketAddr,
    bucket: &str,
    more: &str,
) -> Result<Option<BTreeSet<String>>> {
    let (mut found, mut cursor) = (BTreeSet::new(), String::new());
    loop {
        let path = format!("/v1/kv/{bucket}?prefix=c&limit=1000{more}{cursor}");
        let Some(answer) = page(office, door, &path).await? else { return Ok(None) };
        if more == STALE && answer.header(CONSISTENCY) != Some("stale") {
            return Ok(None);
        }
        let body: Value = serde_json::from_slice(&answer.body)?;
        for row in body["kvs"].as_array().context("a scan without rows")? {
            let key = row["key_text"].as_str().context("a row without a key")?;
            let value = STANDARD.decode(row["value"].as_str().context("a row without a value")?)?;
            if value == clients::inserted_value(key).as_bytes() {
                found.insert(key.to_owned());
            }
        }
        match body["cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return Ok(Some(found)),
        }
    }
}

/// One page; a node that is busy is asked again, one that refuses gives nothing.
async fn page(office: &Office, door: SocketAddr, path: &str) -> Result<Option<Answer>> {
    let deadline = Instant::now() + PROGRESS_LIMIT;
    loop {
        let request = Request::get(path).header("x-api-key", &office.key);
        let answer = call(door, request.body(Full::<Bytes>::default())?, ANSWER_LIMIT).await;
        match answer {
            Ok(answer) if answer.status.is_success() => return Ok(Some(answer)),
            Ok(answer) if answer.status.is_client_error() => return Ok(None),
            _ => {}
        }
        ensure!(Instant::now() < deadline, "{door} does not answer {path}");
        sleep(AGAIN).await;
    }
}
