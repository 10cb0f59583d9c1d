//! Clients that write down what they ask and hear.
//!
//! Each has a gateway it likes, moves on to the next when that fails it, and does one operation at
//! a time, at a bounded pace. Half of what it does goes to registers that all clients share: get,
//! put, and a put on condition of what the register held when the client last looked (`If-Match`
//! with that ETag). The other half writes keys that are written once, to be looked for at the end.
//! No client sends anything twice, and none gives an `Idempotency-Key`: what a retry would hide
//! is to be seen.
//!
//! 503 means *not applied*, here as in the contract: if such a write is seen later, the history is
//! not linearizable. 504, a lost connection and silence mean *unknown*.
//!
//! Registers are given up for new ones every few seconds, so that no history of one grows long.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use anyhow::Result;
use bytes::Bytes;
use http::header::{ETAG, IF_MATCH, IF_NONE_MATCH};
use http::{HeaderValue, Method, Request};
use http_body_util::Full;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use stemedb_sim::checks::linearizable::{Action, Outcome};
use tokio::time::{Instant, sleep, timeout};

use super::record::Record;
use crate::http::{Answer, Connection};

/// Clients of one run.
pub(crate) const CLIENTS: usize = 10;
/// Buckets they write to, so that several shards are at work.
pub(crate) const BUCKETS: usize = 4;
/// Registers at a time.
const REGISTERS: usize = 12;
/// After this time other registers are used.
const REGISTERS_LIVE: Duration = Duration::from_secs(8);
/// How long a client waits for an answer, the connection included, where wires are quick.
pub(crate) const ANSWER_LIMIT: Duration = Duration::from_millis(1_500);
/// Between two operations of a client at least so much, and at most twice as much.
const PACE_MS: u64 = 8;

/// What all clients of a run share.
pub(crate) struct Office {
    /// What they write down.
    pub(crate) record: RefCell<Record>,
    /// The gateways as they are now; an address may change while they work.
    pub(crate) gateways: RefCell<Vec<SocketAddr>>,
    /// They end when they see this.
    pub(crate) over: Cell<bool>,
    /// The key they show.
    pub(crate) key: HeaderValue,
    /// How long they wait for an answer, the connection included.
    answer_limit: Duration,
    begun: Instant,
}

/// What became of one request.
pub(crate) enum Heard {
    /// An answer that tells something.
    Answer(Answer),
    /// Certainly nothing was done.
    NotApplied,
    /// Nobody knows.
    Unknown,
}

/// A register as a client last saw it: what it held, and under which ETag.
type Seen = Option<(u64, HeaderValue)>;

struct Client {
    number: usize,
    office: Rc<Office>,
    chance: SmallRng,
    gateway: usize,
    connection: Option<(SocketAddr, Connection)>,
    seen: BTreeMap<String, Seen>,
    inserts: u64,
}

impl Office {
    /// Nothing written yet.
    pub(crate) fn new(gateways: Vec<SocketAddr>, key: HeaderValue, answer_limit: Duration) -> Self {
        Office {
            record: RefCell::default(),
            gateways: RefCell::new(gateways),
            over: Cell::new(false),
            key,
            answer_limit,
            begun: Instant::now(),
        }
    }
}

/// The bucket of this number.
pub(crate) fn bucket(number: usize) -> String {
    format!("faults-{}", number % BUCKETS)
}

/// The value under a key that is written once.
pub(crate) fn inserted_value(key: &str) -> String {
    format!("the one value of {key}")
}

/// One client, until the office says it is over.
pub(crate) async fn work(number: usize, office: Rc<Office>, seed: u64) {
    let chance = SmallRng::seed_from_u64(seed ^ (number as u64 + 1).rotate_left(40));
    let (connection, seen) = (None, BTreeMap::new());
    let mut client = Client {
        number,
        office: office.clone(),
        chance,
        gateway: number,
        connection,
        seen,
        inserts: 0,
    };
    let now = || office.begun.elapsed();
    office.record.borrow_mut().success(number, now());
    while !office.over.get() {
        let succeeded = if client.chance.random_bool(0.5) {
            client.insert().await
        } else {
            client.use_register().await
        };
        if succeeded {
            office.record.borrow_mut().success(number, now());
        }
        let pace = client.chance.random_range(PACE_MS..=2 * PACE_MS);
        sleep(Duration::from_millis(pace)).await;
    }
    // A client that heard nothing to the end had its gap until now.
    office.record.borrow_mut().success(number, now());
}

impl Client {
    async fn insert(&mut self) -> bool {
        let key = format!("c{:02}-{:07}", self.number, self.inserts);
        self.inserts += 1;
        let bucket = bucket(self.chance.random_range(0..BUCKETS));
        let value = inserted_value(&key);
        let heard = self.ask(Method::PUT, &bucket, &key, None, value.into()).await;
        let mut record = self.office.record.borrow_mut();
        match heard {
            Heard::Answer(answer) if answer.status.is_success() => {
                record.inserted(&bucket, key);
                return true;
            }
            Heard::Answer(answer) => {
                record.wrong(|| format!("insert of {key}: {}", answer.status));
                record.not_inserted(false);
            }
            Heard::NotApplied => record.not_inserted(true),
            Heard::Unknown => record.not_inserted(false),
        }
        false
    }

    async fn use_register(&mut self) -> bool {
        let life = self.office.begun.elapsed().as_secs() / REGISTERS_LIVE.as_secs();
        let number = self.chance.random_range(0..REGISTERS);
        let (bucket, key) = (bucket(number), format!("register-{life}-{number}"));
        let seen = self.seen.get(&key).cloned();
        match (self.chance.random_range(0..10), seen) {
            (0..3, _) => self.put(&bucket, &key).await,
            (3..6, Some(seen)) => self.swap(&bucket, &key, seen).await,
            _ => self.get(&bucket, &key).await,
        }
    }

    async fn get(&mut self, bucket: &str, key: &str) -> bool {
        let begun = self.office.record.borrow_mut().begin(self.number, bucket, key, Action::Get);
        let heard = self.ask(Method::GET, bucket, key, None, Bytes::new()).await;
        let mut record = self.office.record.borrow_mut();
        let Some(seen) = found(&heard) else {
            if let Heard::Answer(answer) = heard {
                record.wrong(|| format!("get of {key}: {answer:?}"));
            }
            record.forget(begun);
            return false;
        };
        record.end(begun, Outcome::Found(seen.as_ref().map(|(value, _)| *value)));
        self.seen.insert(key.to_owned(), seen);
        true
    }

    async fn put(&mut self, bucket: &str, key: &str) -> bool {
        self.write(bucket, key, None, |value| Action::Put { value }).await
    }

    async fn swap(&mut self, bucket: &str, key: &str, seen: Seen) -> bool {
        let expect = seen.as_ref().map(|(value, _)| *value);
        let condition = match seen {
            Some((_, etag)) => (IF_MATCH, etag),
            None => (IF_NONE_MATCH, HeaderValue::from_static("*")),
        };
        let action = |value| Action::Swap { expect, value };
        self.write(bucket, key, Some(condition), action).await
    }

    async fn write(
        &mut self,
        bucket: &str,
        key: &str,
        condition: Option<(http::HeaderName, HeaderValue)>,
        action: impl FnOnce(u64) -> Action,
    ) -> bool {
        let (value, begun) = {
            let mut record = self.office.record.borrow_mut();
            let value = record.fresh_value();
            (value, record.begin(self.number, bucket, key, action(value)))
        };
        let conditional = condition.is_some();
        let body = value.to_string().into();
        let heard = self.ask(Method::PUT, bucket, key, condition, body).await;
        let mut record = self.office.record.borrow_mut();
        match heard {
            Heard::Answer(answer) if answer.status.is_success() => {
                record.end(begun, Outcome::Done);
                match answer.headers.get(ETAG) {
                    Some(etag) => {
                        self.seen.insert(key.to_owned(), Some((value, etag.clone())));
                    }
                    None => record.wrong(|| format!("a put of {key} without an ETag")),
                }
                true
            }
            Heard::Answer(answer) if conditional && answer.status.as_u16() == 412 => {
                record.end(begun, Outcome::Refused);
                self.seen.remove(key);
                true
            }
            Heard::Answer(answer) => {
                record.wrong(|| format!("put of {key}: {answer:?}"));
                record.end(begun, Outcome::Unknown);
                false
            }
            Heard::NotApplied => {
                record.forget(begun);
                false
            }
            Heard::Unknown => {
                record.end(begun, Outcome::Unknown);
                false
            }
        }
    }

    /// One request; after a failure the next one goes to another gateway.
    async fn ask(
        &mut self,
        method: Method,
        bucket: &str,
        key: &str,
        condition: Option<(http::HeaderName, HeaderValue)>,
        body: Bytes,
    ) -> Heard {
        let gateway = {
            let gateways = self.office.gateways.borrow();
            gateways[self.gateway % gateways.len()]
        };
        let mut request = Request::builder()
            .method(method)
            .uri(format!("/v1/kv/{bucket}/{key}"))
            .header("x-api-key", &self.office.key);
        if let Some((name, value)) = condition {
            request = request.header(name, value);
        }
        let Ok(request) = request.body(Full::new(body)) else { return Heard::NotApplied };
        let kept = self.connection.take().filter(|(at, c)| *at == gateway && !c.is_closed());
        let (kept, limit) = (kept.map(|(_, c)| c), self.office.answer_limit);
        let (heard, connection) = ask(gateway, kept, request, limit).await;
        self.connection = connection.map(|connection| (gateway, connection));
        if !matches!(heard, Heard::Answer(_)) {
            self.gateway += 1;
            self.connection = None;
        }
        heard
    }
}

/// Sends a request over a connection, or over a new one; gives the connection back if it can be
/// used again.
pub(crate) async fn ask(
    gateway: SocketAddr,
    kept: Option<Connection>,
    request: Request<Full<Bytes>>,
    limit: Duration,
) -> (Heard, Option<Connection>) {
    let deadline = Instant::now() + limit;
    let mut connection = match kept {
        Some(connection) => connection,
        None => match timeout(limit, Connection::open(gateway)).await {
            Ok(Ok(connection)) => connection,
            _ => return (Heard::NotApplied, None),
        },
    };
    match tokio::time::timeout_at(deadline, connection.send(request)).await {
        Ok(Ok(answer)) => (heard(answer), Some(connection)),
        _ => (Heard::Unknown, None),
    }
}

fn heard(answer: Answer) -> Heard {
    match answer.status.as_u16() {
        503 => Heard::NotApplied,
        502 | 504 => Heard::Unknown,
        _ => Heard::Answer(answer),
    }
}

/// What a get found; nothing if it was not answered.
pub(crate) fn found(heard: &Heard) -> Option<Seen> {
    let Heard::Answer(answer) = heard else { return None };
    match answer.status.as_u16() {
        404 => Some(None),
        200 => {
            let value = std::str::from_utf8(&answer.body).ok()?.parse().ok()?;
            Some(Some((value, answer.headers.get(ETAG)?.clone())))
        }
        _ => None,
    }
}

/// A get of a register from one gateway, for the end of a run.
///
/// # Errors
/// The request can't be written.
pub(crate) async fn look(
    office: &Office,
    gateway: SocketAddr,
    place: &(String, String),
) -> Result<Heard> {
    let (bucket, key) = place;
    let request = Request::get(format!("/v1/kv/{bucket}/{key}")).header("x-api-key", &office.key);
    Ok(ask(gateway, None, request.body(Full::default())?, office.answer_limit).await.0)
}

#[cfg(test)]
#[path = "clients_tests.rs"]
mod tests;
