//! One address in front of all nodes, as a Kubernetes Service is one.
//!
//! A new connection goes to the next node that was ready when it was last asked (`/readyz`, once a
//! second, as a kubelet asks); what stands, stays with its node whatever that says. So a node that
//! ends is given new connections for up to a second more, and those it has it must end itself.

use std::cell::{Cell, RefCell};
use std::net::{Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

use anyhow::Result;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{interval, timeout};

use crate::http::get;

/// Between two questions to a node.
const PROBE_PERIOD: Duration = Duration::from_secs(1);
/// How long a node may take to answer.
const PROBE_LIMIT: Duration = Duration::from_secs(1);

/// A node behind the address.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Backend {
    /// Where connections go.
    pub(crate) target: SocketAddr,
    /// Where it says whether it is ready.
    pub(crate) probe: SocketAddr,
}

/// The address, and the tasks behind it; dropped, they end.
pub(crate) struct Balancer {
    /// Where clients connect.
    pub(crate) address: SocketAddr,
    _tasks: JoinSet<()>,
}

struct Choice {
    targets: Vec<SocketAddr>,
    ready: RefCell<Vec<bool>>,
    next: Cell<usize>,
}

impl Balancer {
    /// An address on loopback in front of these. Each counts as not ready until it has said so.
    ///
    /// # Errors
    /// There is no free port.
    pub(crate) async fn start(backends: &[Backend]) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let choice = Rc::new(Choice {
            targets: backends.iter().map(|backend| backend.target).collect(),
            ready: RefCell::new(vec![false; backends.len()]),
            next: Cell::new(0),
        });
        let mut tasks = JoinSet::new();
        for (number, backend) in backends.iter().enumerate() {
            tasks.spawn_local(ask(choice.clone(), number, backend.probe));
        }
        tasks.spawn_local(accept(choice, listener));
        Ok(Balancer { address, _tasks: tasks })
    }
}

impl Choice {
    /// The next of those that are ready.
    fn next(&self) -> Option<SocketAddr> {
        let (ready, count) = (self.ready.borrow(), self.targets.len());
        let from = self.next.get();
        let mut turns = (from..from + count).map(|number| number % count);
        let chosen = turns.find(|&number| ready[number])?;
        self.next.set(chosen + 1);
        self.targets.get(chosen).copied()
    }
}

async fn ask(choice: Rc<Choice>, number: usize, probe: SocketAddr) {
    let mut turns = interval(PROBE_PERIOD);
    loop {
        turns.tick().await;
        let answer = timeout(PROBE_LIMIT, get(probe, "/readyz")).await;
        let ready = matches!(answer, Ok(Ok(answer)) if answer.status.is_success());
        choice.ready.borrow_mut()[number] = ready;
    }
}

async fn accept(choice: Rc<Choice>, listener: TcpListener) {
    let mut connections = JoinSet::new();
    while let Ok((near, _)) = listener.accept().await {
        while connections.try_join_next().is_some() {}
        // Nobody there: the client's connection is closed at once.
        let Some(target) = choice.next() else { continue };
        connections.spawn_local(pass_on(near, target));
    }
}

async fn pass_on(mut near: TcpStream, target: SocketAddr) {
    let Ok(mut far) = TcpStream::connect(target).await else { return };
    if near.set_nodelay(true).is_ok() && far.set_nodelay(true).is_ok() {
        // However it ends, both ends see it.
        let _ = copy_bidirectional(&mut near, &mut far).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn choice(ready: &[bool]) -> Choice {
        let targets = (1..=ready.len() as u16).map(|port| ([127, 0, 0, 1], port).into());
        let ready = RefCell::new(ready.to_vec());
        Choice { targets: targets.collect(), ready, next: Cell::new(0) }
    }

    #[test]
    fn connections_go_to_those_that_are_ready_by_turns() {
        let all = choice(&[true, true, true]);
        let ports = |choice: &Choice, count: usize| -> Vec<u16> {
            (0..count).filter_map(|_| choice.next()).map(|target| target.port()).collect()
        };
        assert_eq!(ports(&all, 4), [1, 2, 3, 1]);
        all.ready.borrow_mut()[1] = false;
        assert_eq!(ports(&all, 4), [3, 1, 3, 1]);
        assert_eq!(ports(&choice(&[false, false]), 3), Vec::<u16>::new());
    }
}
