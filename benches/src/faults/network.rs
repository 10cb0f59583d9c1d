//! What lies between the nodes: nothing of ours, a forwarder, or namespaces.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use anyhow::{Result, bail};
use clap::ValueEnum;

use super::forwarder::Forwarder;
use super::namespaces::{End, Namespaces};
use crate::fleet::Launch;
use crate::stemedb::NodeAddresses;

/// What was asked for on the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Kind {
    /// Namespaces if this machine lets us, else the forwarder
    Auto,
    /// A network namespace and an address of its own for each node; takes root
    Namespaces,
    /// Loopback addresses, with a forwarder in user space between the nodes
    Forwarder,
}

/// What lies between the nodes.
pub(crate) enum Network {
    /// Loopback, which can't be cut.
    Plain,
    /// Loopback with wires of ours.
    Forwarder(Forwarder),
    /// A namespace for each node.
    Namespaces(Namespaces),
}

impl Network {
    /// The network asked for, for so many nodes. Why it is not namespaces is told on standard error.
    ///
    /// # Errors
    /// Namespaces were asked for and can't be had.
    pub(crate) fn new(kind: Kind, nodes: usize, seed: u64) -> Result<Self> {
        let forwarder = || Network::Forwarder(Forwarder::new(nodes, seed));
        match kind {
            Kind::Forwarder => Ok(forwarder()),
            Kind::Namespaces => Ok(Network::Namespaces(Namespaces::new()?)),
            Kind::Auto => Ok(Namespaces::new().map(Network::Namespaces).unwrap_or_else(|error| {
                eprintln!("no namespaces, so a forwarder on loopback: {error:#}");
                forwarder()
            })),
        }
    }

    /// What it is called in reports.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Network::Plain => "loopback",
            Network::Forwarder(_) => "forwarder",
            Network::Namespaces(_) => "namespaces",
        }
    }

    /// Where a node is, with these ports; a larger generation gives other addresses.
    pub(crate) fn addresses(&self, node: usize, generation: u8, ports: [u16; 4]) -> NodeAddresses {
        let last = 10 + (node % 10) as u8;
        let (bound, advertise): (IpAddr, IpAddr) = match self {
            Network::Plain => (Ipv4Addr::LOCALHOST.into(), Ipv4Addr::LOCALHOST.into()),
            Network::Forwarder(_) => {
                let address = |second| Ipv4Addr::new(127, second, generation, last).into();
                (address(1), address(2))
            }
            Network::Namespaces(spaces) => {
                let address = spaces.address_of(node, generation);
                (address, address)
            }
        };
        let [http, gateway, grpc, gossip] = ports.map(|port| SocketAddr::new(bound, port));
        NodeAddresses { http, gateway, grpc, gossip, advertise }
    }

    /// Puts a node there. It does not run.
    ///
    /// # Errors
    /// The operating system refused, or an address is taken.
    pub(crate) async fn place(&mut self, node: usize, at: &NodeAddresses) -> Result<()> {
        match self {
            Network::Plain => Ok(()),
            Network::Forwarder(forwarder) => forwarder.place(node, at).await,
            Network::Namespaces(spaces) => spaces.place(node, at.http.ip()),
        }
    }

    /// How to start a node's server where it belongs.
    ///
    /// # Errors
    /// There is no such program.
    pub(crate) fn launch(&self, node: usize, launch: Launch) -> Result<Launch> {
        match self {
            Network::Namespaces(spaces) => spaces.inside(node, launch),
            _ => Ok(launch),
        }
    }

    /// The process of a node, which has just begun.
    pub(crate) fn begun(&self, node: usize, process: u32) {
        if let Network::Forwarder(forwarder) = self {
            forwarder.belongs(node, Some(process));
        }
    }

    /// What the first sends does not reach the second any more.
    ///
    /// # Errors
    /// This network can't do that, or the operating system refused.
    pub(crate) fn cut(&mut self, from: End, to: End) -> Result<()> {
        match (self, from, to) {
            (Network::Namespaces(spaces), ..) => spaces.cut(from, to),
            (Network::Forwarder(forwarder), End::Node(from), End::Node(to)) => {
                forwarder.cut(from, to);
                Ok(())
            }
            _ => bail!("nothing here can be cut"),
        }
    }

    /// Every wire loses packets, and a forwarder's is slow as well.
    ///
    /// # Errors
    /// This network can't do that.
    pub(crate) fn worsen(&mut self, nodes: usize) -> Result<()> {
        match self {
            Network::Plain => bail!("it takes a forwarder or namespaces"),
            Network::Forwarder(forwarder) => {
                forwarder.worsen(nodes);
                Ok(())
            }
            Network::Namespaces(spaces) => spaces.lose(),
        }
    }

    /// Everybody reaches everybody.
    ///
    /// # Errors
    /// The operating system refused.
    pub(crate) fn heal(&mut self) -> Result<()> {
        match self {
            Network::Plain => Ok(()),
            Network::Forwarder(forwarder) => {
                forwarder.heal();
                Ok(())
            }
            Network::Namespaces(spaces) => spaces.heal(),
        }
    }

    /// How many packets met a wire that was not whole; unknown where the kernel does not say: of a cut.
    ///
    /// # Errors
    /// The kernel was to say and did not.
    pub(crate) fn met(&self) -> Result<Option<u64>> {
        match self {
            Network::Plain => Ok(None),
            Network::Forwarder(forwarder) => Ok(Some(forwarder.met())),
            Network::Namespaces(spaces) => Ok(Some(spaces.dropped()?)),
        }
    }
}
