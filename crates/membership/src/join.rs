//! Whom to knock at, and when.
//!
//! A target is what a person wrote in the join list: `host`, `host:port`, an IPv4 or IPv6
//! address. A name stands for every A and AAAA record behind it and is resolved again in every
//! round, because that is how pods come and go behind a headless Service.
//!
//! Rounds come quickly while the node is alone, and slowly for ever after: nodes that all
//! started together saw only part of the DNS answer, and two halves that never met have nobody
//! who could introduce them but this list. The node's own address in the list costs one packet.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::str::FromStr;
use std::time::{Duration, Instant};

use tokio::task::JoinSet;

/// The gossip port that a target without a port means.
pub const GOSSIP_PORT: u16 = 18183;

/// How many addresses of one name are knocked at in a round; more records than nodes of the
/// largest cluster we size for are cut off.
const ADDRESSES_PER_NAME_MAX: usize = 256;

/// How long one look-up may hold up the next round.
const LOOKUP_MAX: Duration = Duration::from_secs(5);

/// A round comes up to this share of its interval late, so that nodes started together drift apart.
const JITTER_PERCENT_MAX: u32 = 20;

/// One entry of the join list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JoinTarget {
    /// A name or an address without brackets.
    pub host: String,
    /// The UDP port.
    pub port: u16,
}

/// A join target that is neither `host` nor `host:port`. Nothing was taken from it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no join target: wanted host, host:port, [ipv6] or [ipv6]:port")]
pub struct JoinTargetError {
    /// What was given.
    pub text: String,
}

impl FromStr for JoinTarget {
    type Err = JoinTargetError;

    fn from_str(text: &str) -> Result<Self, JoinTargetError> {
        parse(text.trim()).ok_or_else(|| JoinTargetError { text: text.to_owned() })
    }
}

impl fmt::Display for JoinTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.parse::<Ipv6Addr>() {
            Ok(address) => write!(f, "[{address}]:{}", self.port),
            Err(_) => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

fn parse(text: &str) -> Option<JoinTarget> {
    // A bare IPv6 address is full of colons; only brackets can give it a port.
    if text.parse::<Ipv6Addr>().is_ok() {
        return Some(JoinTarget { host: text.to_owned(), port: GOSSIP_PORT });
    }
    if let Some(rest) = text.strip_prefix('[') {
        let (host, after) = rest.split_once(']')?;
        host.parse::<Ipv6Addr>().ok()?;
        let port = if after.is_empty() { GOSSIP_PORT } else { port(after.strip_prefix(':')?)? };
        return Some(JoinTarget { host: host.to_owned(), port });
    }
    let (host, port) = match text.split_once(':') {
        Some((host, digits)) => (host, port(digits)?),
        None => (text, GOSSIP_PORT),
    };
    let named = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    let is_host = !host.is_empty() && host.bytes().all(named);
    is_host.then(|| JoinTarget { host: host.to_owned(), port })
}

fn port(digits: &str) -> Option<u16> {
    let number: u16 = digits.parse().ok()?;
    (number != 0 && digits.bytes().all(|byte| byte.is_ascii_digit())).then_some(number)
}

/// The address to write on a packet that leaves through a socket bound to `local`: a dual-stack
/// socket reaches IPv4 in its mapped form, an IPv4 socket reaches no IPv6 at all.
pub(crate) fn reachable(local: SocketAddr, target: SocketAddr) -> Option<SocketAddr> {
    match (local.ip(), target.ip()) {
        (IpAddr::V6(_), IpAddr::V4(v4)) => {
            Some(SocketAddr::new(v4.to_ipv6_mapped().into(), target.port()))
        }
        (IpAddr::V4(_), IpAddr::V6(v6)) => {
            v6.to_ipv4_mapped().map(|v4| SocketAddr::new(v4.into(), target.port()))
        }
        _ => Some(target),
    }
}

/// How often rounds come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Pace {
    /// While no other member is alive.
    pub alone: Duration,
    /// For ever after.
    pub joined: Duration,
}

impl Pace {
    /// When the round after the one of `last` is due; at once when there was none.
    /// `jitter` is any random number.
    pub(crate) fn next(
        &self,
        last: Option<Instant>,
        now: Instant,
        alone: bool,
        jitter: u32,
    ) -> Instant {
        let Some(last) = last else { return now };
        let interval = if alone { self.alone } else { self.joined };
        last + interval + interval * (jitter % (JITTER_PERCENT_MAX + 1)) / 100
    }
}

/// The look-ups of one round, one task for each target so that a slow name holds up nobody else.
/// Dropping it ends them.
#[derive(Debug, Default)]
pub(crate) struct Lookups {
    running: JoinSet<Vec<SocketAddr>>,
}

impl Lookups {
    /// Starts one look-up per target, unless the last round is still under way: there are never
    /// more than `targets.len()` at once.
    pub(crate) fn start(&mut self, targets: &[JoinTarget]) {
        if self.running.is_empty() {
            for target in targets {
                self.running.spawn(addresses(target.clone()));
            }
        }
    }

    /// The addresses of the next target that is done; pends for ever when none is under way.
    pub(crate) async fn next(&mut self) -> Vec<SocketAddr> {
        match self.running.join_next().await {
            Some(done) => done.unwrap_or_default(),
            None => std::future::pending().await,
        }
    }
}

/// Every address behind a target; none when the name can't be resolved now (tried again next round).
async fn addresses(target: JoinTarget) -> Vec<SocketAddr> {
    let lookup = tokio::net::lookup_host((target.host.as_str(), target.port));
    match tokio::time::timeout(LOOKUP_MAX, lookup).await {
        Ok(Ok(found)) => found.take(ADDRESSES_PER_NAME_MAX).collect(),
        Ok(Err(error)) => {
            tracing::debug!(%target, %error, "join target does not resolve");
            Vec::new()
        }
        Err(_) => {
            tracing::debug!(%target, "join target took too long to resolve");
            Vec::new()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_a_host_with_or_without_a_port() {
        let table = [
            ("stemedb-0.stemedb", "stemedb-0.stemedb", 18183),
            (" db:7 ", "db", 7),
            ("10.0.0.1", "10.0.0.1", 18183),
            ("10.0.0.1:9", "10.0.0.1", 9),
            ("::1", "::1", 18183),
            ("[::1]", "::1", 18183),
            ("[::1]:9", "::1", 9),
        ];
        for (text, host, port) in table {
            let target = JoinTarget { host: host.to_owned(), port };
            assert_eq!(text.parse(), Ok(target.clone()), "{text}");
            assert_eq!(target.to_string().parse(), Ok(target), "{text}");
        }
    }

    #[test]
    fn anything_else_is_refused_by_name() {
        let bad = [
            "", ":1", "a:", "a:0", "a:65536", "a:+1", "a:b", "a b", "[::1", "[a]:1", "[::1]x",
            "a/b",
        ];
        for text in bad {
            let refused = JoinTargetError { text: text.to_owned() };
            assert_eq!(text.parse::<JoinTarget>(), Err(refused));
        }
    }

    #[test]
    fn a_dual_stack_socket_reaches_both_families_and_an_ipv4_one_its_own() {
        let at = |text: &str| text.parse::<SocketAddr>().unwrap();
        let table = [
            ("0.0.0.0:1", "10.0.0.1:2", Some("10.0.0.1:2")),
            ("0.0.0.0:1", "[::ffff:10.0.0.1]:2", Some("10.0.0.1:2")),
            ("0.0.0.0:1", "[fd00::1]:2", None),
            ("[::]:1", "10.0.0.1:2", Some("[::ffff:10.0.0.1]:2")),
            ("[::]:1", "[fd00::1]:2", Some("[fd00::1]:2")),
        ];
        for (local, target, wanted) in table {
            assert_eq!(reachable(at(local), at(target)), wanted.map(at), "{local} to {target}");
        }
    }

    #[test]
    fn rounds_start_at_once_and_slow_down_when_somebody_is_there() {
        let pace = Pace { alone: Duration::from_secs(1), joined: Duration::from_secs(30) };
        let now = Instant::now();
        let after = |ms| now + Duration::from_millis(ms);
        assert_eq!(pace.next(None, now, true, 9), now);
        assert_eq!(pace.next(Some(now), now, true, 0), after(1000));
        assert_eq!(pace.next(Some(now), now, true, 20), after(1200));
        assert_eq!(pace.next(Some(now), now, false, 20), after(36_000));
    }
}
