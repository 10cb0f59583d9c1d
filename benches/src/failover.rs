//! From the death of a leader to the next acknowledged write.
//!
//! Puts come on a schedule, half of them to one bucket, half to all others, through all gateways by
//! turns; a put that fails is sent again through the next gateway. In each round the node that
//! leads the bucket's shard gets a SIGKILL, or with `--silent-cut` every packet from and to it
//! vanishes. What is measured is the time from there to the first acknowledgement of a put to that
//! bucket that was *begun* afterwards: answers still on their way from the dead count nothing.
//! Puts are many enough that waiting for the next one to be due adds little, and what it adds is
//! in the figure. Then the node comes back, the cluster is healthy again, and the next round begins.
//!
//! With `--with-etcd` a cluster of etcd runs beside, and the two take turns, under the same load by
//! the same generator. Nobody calls the one whose turn it is not.

use std::cell::{Cell, RefCell};
use std::path::Path;
use std::process::ExitCode;
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::json;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use crate::cli::{FailoverArgs, Output, System};
use crate::compare::NODES;
use crate::faults::{End, Kind, Network, Site};
use crate::load::{Session, Store, Workload};
use crate::report::built;
use crate::stemedb::bucket_of;
use crate::tally::median;
use crate::{etcd, place, stemedb, table};

/// Buckets, so that all shards are at work.
const BUCKETS: u64 = 16;
/// Keys that are written.
const KEYS: u64 = 4_000;
/// Size of a value.
const VALUE_BYTES: usize = 256;
/// Load before the leader dies.
const WARM_UP: Duration = Duration::from_secs(2);
/// Load after the first acknowledgement.
const COOL_DOWN: Duration = Duration::from_secs(1);
/// One try of a put.
const TRY_LIMIT: Duration = Duration::from_secs(1);
/// Between two tries of a put.
const TRY_PAUSE: Duration = Duration::from_millis(5);
/// All tries of a put.
const PUT_LIMIT: Duration = Duration::from_secs(10);
/// Puts that wait at most; more are not sent, and counted as failed.
const WAITING_MAX: usize = 4_096;
/// How long the shard may be without a leader until the round is given up.
const FAILOVER_LIMIT: Duration = Duration::from_secs(60);
/// Between two looks at what was acknowledged.
const LOOK: Duration = Duration::from_millis(5);
/// The targets: median and worst after a SIGKILL, worst after a silent cut.
const KILL_TARGETS_MS: (f64, f64) = (100.0, 500.0);
const CUT_TARGET_MS: f64 = 2_500.0;

/// One put of the schedule.
#[derive(Clone, Copy, Debug)]
struct Put {
    /// To the shard that is measured.
    measured: bool,
    begun: Instant,
    acknowledged: Option<Instant>,
}

/// One round.
struct Round {
    system: System,
    leader: usize,
    failover_ms: f64,
    puts: usize,
    failed: usize,
    longest_put_ms: f64,
}

/// Sessions with each node, taken while they are used.
struct Doors<S: Store> {
    store: S,
    idle: Vec<RefCell<Vec<S::Session>>>,
    /// Keys of the shard that is measured, and the others.
    keys: [Vec<String>; 2],
}

/// Measures all rounds and prints them.
///
/// # Errors
/// A cluster did not start, did not elect a leader, or did not come back.
pub(crate) async fn run(arguments: &FailoverArgs) -> Result<ExitCode> {
    let scratch = place::scratch(&arguments.servers.data_dir)?;
    let network = match arguments.silent_cut {
        true => Network::new(Kind::Namespaces, NODES, arguments.seed)
            .context("undecided: a silent cut takes network namespaces")?,
        false => Network::Plain,
    };
    let folder = scratch.path().join("stemedb");
    let mut site = Site::new(&arguments.servers, network, NODES, NODES, folder).await?;
    site.found().await?;
    let key = site.project_key().await?;
    let gateways = (0..NODES).map(|node| site.gateway(node)).collect();
    let doors = Rc::new(Doors::new(stemedb::Store::spread(gateways, key.clone(), BUCKETS)));
    let bucket = measured_bucket();
    site.led(&key, &bucket).await?;
    let mut peer = match arguments.with_etcd {
        true => Some(Peer::start(arguments, scratch.path()).await?),
        false => None,
    };

    let mut all = Vec::new();
    for number in 1..=arguments.rounds {
        let round = round(arguments, &mut site, &key, &bucket, &doors).await;
        all.push(told(number, round.with_context(|| format!("stemedb, round {number}"))?));
        if let Some(peer) = &mut peer {
            let round = peer.round(arguments).await;
            all.push(told(number, round.with_context(|| format!("etcd, round {number}"))?));
        }
    }
    site.stop().await?;
    if let Some(peer) = peer {
        peer.cluster.fleet.stop().await?;
    }
    print(arguments, &all);
    let held = held(arguments.silent_cut, of_ours(&all));
    Ok(if arguments.check && !held { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn told(number: u32, round: Round) -> Round {
    eprintln!("round {number}: {} {:.1} ms", round.system, round.failover_ms);
    round
}

/// The bucket of the first key; which one does not matter.
fn measured_bucket() -> String {
    bucket_of(&Workload::key(0), BUCKETS)
}

async fn round(
    arguments: &FailoverArgs,
    site: &mut Site,
    key: &http::HeaderValue,
    bucket: &str,
    doors: &Rc<Doors<stemedb::Store>>,
) -> Result<Round> {
    let load = Load::begin(arguments, doors.clone());
    sleep(WARM_UP).await;
    let leader = site.led(key, bucket).await?;
    let at = Instant::now();
    if arguments.silent_cut {
        cut_off(site, leader)?;
    } else {
        site.kill(leader).await?;
    }
    let first = load.first_since(Instant::now()).await?;
    let puts = load.end().await;
    if arguments.silent_cut {
        site.network().heal()?;
    } else {
        site.start(leader)?;
    }
    site.ready().await?;
    site.whole().await?;
    Ok(Round::new(System::Stemedb, leader, first - at, &puts))
}

/// Nobody hears the node, and it hears nobody.
fn cut_off(site: &mut Site, node: usize) -> Result<()> {
    let others = (0..NODES).filter(|&other| other != node).map(End::Node);
    for other in others.chain([End::Clients]) {
        site.network().cut(End::Node(node), other)?;
        site.network().cut(other, End::Node(node))?;
    }
    Ok(())
}

/// etcd beside.
struct Peer {
    cluster: etcd::Cluster,
    doors: Rc<Doors<etcd::Store>>,
}

impl Peer {
    async fn start(arguments: &FailoverArgs, dir: &Path) -> Result<Self> {
        let cluster = etcd::start(&arguments.servers, NODES, &dir.join("etcd")).await?;
        let doors = Rc::new(Doors::new(cluster.store().await?));
        Ok(Peer { cluster, doors })
    }

    async fn round(&mut self, arguments: &FailoverArgs) -> Result<Round> {
        let load = Load::begin(arguments, self.doors.clone());
        sleep(WARM_UP).await;
        let leader = self.cluster.leader().await?;
        let at = Instant::now();
        self.cluster.fleet.kill(leader).await?;
        let first = load.first_since(Instant::now()).await?;
        let puts = load.end().await;
        self.cluster.fleet.start_again(leader)?;
        self.cluster.healthy().await?;
        Ok(Round::new(System::Etcd, leader, first - at, &puts))
    }
}

impl<S: Store> Doors<S> {
    fn new(store: S) -> Self {
        let bucket = measured_bucket();
        let keys = (0..KEYS).map(Workload::key);
        let (measured, others) = keys.partition(|key| bucket_of(key, BUCKETS) == bucket);
        let idle = (0..NODES).map(|_| RefCell::default()).collect();
        Doors { store, idle, keys: [measured, others] }
    }

    /// One try through one node. Its session is used again only if it did not fail.
    async fn put_through(&self, node: usize, key: &str, value: bytes::Bytes) -> Result<()> {
        let kept = self.idle[node].borrow_mut().pop();
        let mut session = match kept {
            Some(session) => session,
            None => self.store.session(node).await?,
        };
        session.put(key, value).await?;
        self.idle[node].borrow_mut().push(session);
        Ok(())
    }

    /// Tries all nodes by turns until one acknowledges; the time of that.
    async fn put(&self, first: usize, key: &str, value: bytes::Bytes) -> Option<Instant> {
        let deadline = Instant::now() + PUT_LIMIT;
        for node in (0..NODES).cycle().skip(first % NODES) {
            let tried = timeout(TRY_LIMIT, self.put_through(node, key, value.clone())).await;
            if matches!(tried, Ok(Ok(()))) {
                return Some(Instant::now());
            }
            if Instant::now() >= deadline {
                return None;
            }
            sleep(TRY_PAUSE).await;
        }
        None
    }
}

/// Puts on a schedule, in the background.
struct Load {
    puts: Rc<RefCell<Vec<Put>>>,
    over: Rc<Cell<bool>>,
    tasks: JoinSet<()>,
}

impl Load {
    fn begin<S: Store + 'static>(arguments: &FailoverArgs, doors: Rc<Doors<S>>) -> Self {
        let (puts, over): (Rc<RefCell<Vec<Put>>>, Rc<Cell<bool>>) = Default::default();
        let mut tasks = JoinSet::new();
        tasks.spawn_local(generate(
            arguments.rate,
            arguments.seed,
            doors,
            puts.clone(),
            over.clone(),
        ));
        Load { puts, over, tasks }
    }

    /// Waits for the first acknowledgement of a measured put begun after this moment.
    async fn first_since(&self, moment: Instant) -> Result<Instant> {
        loop {
            if let Some(first) = first_since(&self.puts.borrow(), moment) {
                return Ok(first);
            }
            ensure!(moment.elapsed() < FAILOVER_LIMIT, "nothing within {FAILOVER_LIMIT:?}");
            sleep(LOOK).await;
        }
    }

    /// A little more load, then all puts that were sent.
    async fn end(mut self) -> Vec<Put> {
        sleep(COOL_DOWN).await;
        self.over.set(true);
        while self.tasks.join_next().await.is_some() {}
        self.puts.take()
    }
}

async fn generate<S: Store + 'static>(
    rate: u32,
    seed: u64,
    doors: Rc<Doors<S>>,
    puts: Rc<RefCell<Vec<Put>>>,
    over: Rc<Cell<bool>>,
) {
    let workload = Workload { keys: KEYS, value_bytes: VALUE_BYTES, seed };
    let (begun, mut chance) = (Instant::now(), workload.chance(0));
    let mut waiting = JoinSet::new();
    for turn in 0.. {
        sleep_until(begun + Duration::from_secs_f64(turn as f64 / f64::from(rate))).await;
        if over.get() {
            break;
        }
        while waiting.try_join_next().is_some() {}
        let measured = turn % 2 == 0;
        let keys = &doors.keys[usize::from(!measured)];
        let key = keys[turn / 2 % keys.len()].clone();
        let value = workload.value(turn as u64, &mut chance);
        puts.borrow_mut().push(Put { measured, begun: Instant::now(), acknowledged: None });
        if waiting.len() < WAITING_MAX {
            let (doors, puts) = (doors.clone(), puts.clone());
            waiting.spawn_local(async move {
                // Neither of the two kinds of keys prefers a gateway.
                let acknowledged = doors.put(turn / 2, &key, value).await;
                puts.borrow_mut()[turn].acknowledged = acknowledged;
            });
        }
    }
    while waiting.join_next().await.is_some() {}
}

/// The first acknowledgement of a measured put begun at or after this moment.
fn first_since(puts: &[Put], moment: Instant) -> Option<Instant> {
    let since = puts.iter().filter(|put| put.measured && put.begun >= moment);
    since.filter_map(|put| put.acknowledged).min()
}

impl Round {
    fn new(system: System, leader: usize, failover: Duration, puts: &[Put]) -> Self {
        let acknowledged = puts.iter().filter_map(|put| Some(put.acknowledged? - put.begun));
        let longest = acknowledged.max().unwrap_or_default();
        let ms = |time: Duration| time.as_secs_f64() * 1e3;
        Round {
            system,
            leader,
            failover_ms: ms(failover),
            puts: puts.len(),
            failed: puts.iter().filter(|put| put.acknowledged.is_none()).count(),
            longest_put_ms: ms(longest),
        }
    }
}

fn print(arguments: &FailoverArgs, all: &[Round]) {
    let of = |system: System| -> Vec<f64> {
        let rounds = all.iter().filter(|round| round.system == system);
        rounds.map(|round| round.failover_ms).collect()
    };
    let worst = |system: System| of(system).into_iter().fold(0.0, f64::max);
    let fault = if arguments.silent_cut { "silent cut" } else { "SIGKILL" };
    if arguments.servers.output == Output::Json {
        let round = |r: &Round| {
            json!({
                "system": r.system.to_string(), "leader": r.leader, "failover_ms": r.failover_ms,
                "puts": r.puts, "failed": r.failed, "longest_put_ms": r.longest_put_ms,
            })
        };
        let system = |s: System| json!({ "median_ms": median(&of(s)), "worst_ms": worst(s) });
        let rounds = all.iter().map(round).collect::<Vec<_>>();
        let (ours, theirs) = (system(System::Stemedb), system(System::Etcd));
        let figures = json!({
            "built": built(), "fault": fault, "rate": arguments.rate, "rounds": rounds,
            "stemedb": ours, "etcd": arguments.with_etcd.then_some(theirs),
        });
        println!("{figures:#}");
        return;
    }
    let headers = ["system", "leader", "failover ms", "puts", "failed", "longest put ms"];
    let rows: Vec<_> = all.iter().map(Round::row).collect();
    println!("{}", table::markdown(&headers, &rows, 1));
    for system in [System::Stemedb, System::Etcd] {
        let figures = of(system);
        if !figures.is_empty() {
            let (median, worst) = (median(&figures), worst(system));
            let rounds = figures.len();
            println!("{system}: median {median:.1} ms, worst {worst:.1} ms of {rounds} ({fault})");
        }
    }
    println!("{}", target(arguments.silent_cut, of_ours(all)));
    println!("{} puts/s on a schedule, half to the shard that is measured", arguments.rate);
    print!("{}", built());
}

/// Median and worst of ours.
fn of_ours(all: &[Round]) -> (f64, f64) {
    let ours = all.iter().filter(|round| round.system == System::Stemedb);
    let figures: Vec<f64> = ours.map(|round| round.failover_ms).collect();
    (median(&figures), figures.into_iter().fold(0.0, f64::max))
}

/// Whether the targets were held.
fn held(silent_cut: bool, (median_ms, worst_ms): (f64, f64)) -> bool {
    let (median_max, worst_max) = KILL_TARGETS_MS;
    match silent_cut {
        true => worst_ms <= CUT_TARGET_MS,
        false => median_ms <= median_max && worst_ms <= worst_max,
    }
}

fn target(silent_cut: bool, figures: (f64, f64)) -> String {
    let verdict = if held(silent_cut, figures) { "held" } else { "NOT HELD" };
    let (median_max, worst_max) = KILL_TARGETS_MS;
    match silent_cut {
        true => format!("target: worst at most {CUT_TARGET_MS} ms: {verdict}"),
        false => {
            format!(
                "target: median at most {median_max} ms, worst at most {worst_max} ms: {verdict}"
            )
        }
    }
}

impl Round {
    fn row(&self) -> Vec<String> {
        vec![
            self.system.to_string(),
            self.leader.to_string(),
            format!("{:.1}", self.failover_ms),
            self.puts.to_string(),
            self.failed.to_string(),
            format!("{:.1}", self.longest_put_ms),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn only_a_measured_put_begun_after_the_kill_counts() {
        let kill = Instant::now() + 100 * MS;
        let put = |measured, begun: i32, acknowledged: Option<u32>| {
            let begun = kill + 100 * MS - MS * u32::try_from(100 - begun).unwrap();
            let acknowledged = acknowledged.map(|ms| kill + MS * ms);
            Put { measured, begun, acknowledged }
        };
        let puts = [
            // Begun before: the dead one may have answered it.
            put(true, -1, Some(1)),
            put(false, 5, Some(9)),
            put(true, 6, None),
            put(true, 10, Some(60)),
            put(true, 20, Some(50)),
        ];
        assert_eq!(first_since(&puts, kill), Some(kill + 50 * MS));
        assert_eq!(first_since(&puts[..3], kill), None);
        let round = Round::new(System::Etcd, 1, 50 * MS, &puts);
        assert_eq!((round.puts, round.failed, round.longest_put_ms), (5, 1, 50.0));
    }

    #[test]
    fn a_target_is_held_only_if_both_its_parts_are() {
        assert!(target(false, (100.0, 500.0)).ends_with(": held"));
        assert!(target(false, (101.0, 500.0)).ends_with(": NOT HELD"));
        assert!(target(false, (100.0, 501.0)).ends_with(": NOT HELD"));
        assert!(target(true, (9_999.0, 2_500.0)).ends_with(": held"));
        assert!(target(true, (0.0, 2_501.0)).ends_with(": NOT HELD"));
    }

    #[test]
    fn both_kinds_of_keys_are_many() {
        let measured = measured_bucket();
        let mine = (0..KEYS).filter(|&k| bucket_of(&Workload::key(k), BUCKETS) == measured);
        let share = mine.count() as u64;
        assert!((KEYS / BUCKETS / 2..KEYS / BUCKETS * 2).contains(&share), "{share} of {KEYS}");
    }
}
