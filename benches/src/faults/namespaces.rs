//! A machine for each node, as far as the network goes.
//!
//! Every node runs in a network namespace of its own, with an address of its own; the driver and its
//! clients stay where they are and have one more. All cables meet at a bridge, in a namespace of its
//! own too: where others filter what bridges of this machine forward (as Docker does), it is none of
//! theirs. A direction is cut by telling the sender that the
//! receiver's address is at a hardware address nobody has: packets leave and arrive nowhere,
//! silently, as with a pulled cable, and connections that stand feel it as well. No packet filter
//! is needed, only `ip` and the right to use it. Loss takes `nft`: every node drops a part of the packets
//! that come in from other nodes, and counts them. (A filter on the way out would be an error that the
//! sender sees.) Nothing is late but what is sent again.
//!
//! Names and the addresses' third byte come from the driver's process id, so that two runs do not
//! meet. Everything is taken down when this is dropped; after a SIGKILL of the driver,
//! `ip netns del` and `ip link del` of what begins with `sb<pid>` must be done by hand.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

use crate::fleet::Launch;

/// Nobody has this hardware address.
const NOBODY: &str = "02:00:00:00:00:de";
/// The node's end of its cable.
const DEVICE: &str = "eth0";
/// The packet filter's table in a node's namespace, and its count of dropped packets.
const TABLE: &str = "loss";
/// Of a hundred packets so many are lost.
const LOSS_PERCENT: u32 = 20;
/// The bridge, in its own namespace.
const BRIDGE: &str = "br0";

/// Who sends or receives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// A node.
    Node(usize),
    /// The driver and its clients.
    Clients,
}

/// The bridge and what hangs on it. The tag is the name of the clients' end of their cable too.
pub(crate) struct Namespaces {
    tag: String,
    subnet: u8,
    addresses: BTreeMap<usize, IpAddr>,
    /// Who sends to which address in vain.
    cut: Vec<(End, IpAddr)>,
    /// Nodes that drop packets.
    lossy: Vec<usize>,
    /// Packets dropped by filters that are gone.
    dropped: u64,
}

impl Namespaces {
    /// A bridge with nothing on it.
    ///
    /// # Errors
    /// There is no `ip`, or not the right to use it, or the kernel can't.
    pub(crate) fn new() -> Result<Self> {
        let id = std::process::id();
        let (tag, subnet) = (format!("sb{id}"), (id % 200) as u8);
        let (hub, cable) = (hub(&tag), tag.clone());
        ip(&["netns", "add", &hub])?;
        // From here on there is something to take down.
        let made = Namespaces {
            tag,
            subnet,
            addresses: BTreeMap::new(),
            cut: Vec::new(),
            lossy: Vec::new(),
            dropped: 0,
        };
        ip(&["-n", &hub, "link", "add", BRIDGE, "type", "bridge"])?;
        ip(&["-n", &hub, "link", "set", BRIDGE, "up"])?;
        ip(&["link", "add", &cable, "type", "veth", "peer", "clients", "netns", &hub])?;
        ip(&["-n", &hub, "link", "set", "clients", "master", BRIDGE, "up"])?;
        ip(&["addr", "add", &format!("{}/24", made.address(1)), "dev", &cable])?;
        ip(&["link", "set", &cable, "up"])?;
        Ok(made)
    }

    /// An address that this node may have; a larger generation gives another.
    pub(crate) fn address_of(&self, node: usize, generation: u8) -> IpAddr {
        // Twelve generations of ten nodes fit below 254.
        self.address(10 + (node % 10) as u8 + 20 * (generation % 12))
    }

    /// Gives a node this address, and a namespace if it has none; the address it had is gone.
    ///
    /// # Errors
    /// The operating system refused.
    pub(crate) fn place(&mut self, node: usize, address: IpAddr) -> Result<()> {
        let (space, hub) = (self.name(node), hub(&self.tag));
        if self.addresses.insert(node, address).is_none() {
            let cable = format!("node{node}");
            ip(&["netns", "add", &space])?;
            let peer = ["type", "veth", "peer", DEVICE, "netns", &space];
            ip(&[&["-n", &hub, "link", "add", &cable][..], &peer].concat())?;
            ip(&["-n", &hub, "link", "set", &cable, "master", BRIDGE, "up"])?;
            ip(&["-n", &space, "link", "set", "lo", "up"])?;
            ip(&["-n", &space, "link", "set", DEVICE, "up"])?;
        } else {
            ip(&["-n", &space, "addr", "flush", "dev", DEVICE])?;
        }
        ip(&["-n", &space, "addr", "add", &format!("{address}/24"), "dev", DEVICE])
    }

    /// The same server, in the namespace of that node. The process id stays the server's own.
    ///
    /// # Errors
    /// There is no such program.
    pub(crate) fn inside(&self, node: usize, mut launch: Launch) -> Result<Launch> {
        let program = launch.program.canonicalize();
        let program = program.with_context(|| format!("find {}", launch.program.display()))?;
        let program = program.to_str().context("the program's path is not text")?.to_owned();
        let wrapped = ["netns".to_owned(), "exec".to_owned(), self.name(node), program];
        launch.arguments.splice(0..0, wrapped);
        launch.program = PathBuf::from("ip");
        Ok(launch)
    }

    /// What the first sends does not reach the second any more.
    ///
    /// # Errors
    /// The operating system refused, or it is not so afterwards.
    pub(crate) fn cut(&mut self, from: End, to: End) -> Result<()> {
        let target = self.end(to)?;
        let text = target.to_string();
        let device = self.device(from);
        self.ip_of(from, &["neigh", "replace", &text, "lladdr", NOBODY, "dev", &device])?;
        self.cut.push((from, target));
        let shown = self.ip_of(from, &["neigh", "show", &text, "dev", &device])?;
        ensure!(shown.contains(NOBODY), "{from:?} still reaches {text}: {shown}");
        Ok(())
    }

    /// A part of the packets between nodes is lost. Clients' wires are whole.
    ///
    /// # Errors
    /// There is no `nft`, or it refused.
    pub(crate) fn lose(&mut self) -> Result<()> {
        let nodes = self.addresses.values().map(IpAddr::to_string).collect::<Vec<_>>().join(", ");
        let rules = format!(
            "add table ip {TABLE}; add counter ip {TABLE} {TABLE}; \
             add chain ip {TABLE} in {{ type filter hook input priority 0; }}; \
             add rule ip {TABLE} in iifname {DEVICE} ip saddr {{ {nodes} }} \
             numgen random mod 100 < {LOSS_PERCENT} counter name {TABLE} drop"
        );
        for node in self.addresses.keys().copied().collect::<Vec<_>>() {
            self.nft(node, &[&rules])?;
            self.lossy.push(node);
        }
        Ok(())
    }

    /// How many packets were dropped by filters.
    ///
    /// # Errors
    /// `nft` does not say.
    pub(crate) fn dropped(&self) -> Result<u64> {
        let each = self.lossy.iter().map(|&node| self.dropped_by(node));
        Ok(self.dropped + each.sum::<Result<u64>>()?)
    }

    fn dropped_by(&self, node: usize) -> Result<u64> {
        let shown = self.nft(node, &["list", "counter", "ip", TABLE, TABLE])?;
        let mut words = shown.split_whitespace().skip_while(|word| *word != "packets");
        let count = words.nth(1).with_context(|| format!("no count in {shown}"))?;
        Ok(count.parse()?)
    }

    /// Everybody reaches everybody.
    ///
    /// # Errors
    /// The operating system refused.
    pub(crate) fn heal(&mut self) -> Result<()> {
        for (from, target) in std::mem::take(&mut self.cut) {
            let device = self.device(from);
            self.ip_of(from, &["neigh", "del", &target.to_string(), "dev", &device])?;
        }
        while let Some(&node) = self.lossy.last() {
            let dropped = self.dropped_by(node)?;
            self.nft(node, &["delete", "table", "ip", TABLE])?;
            self.lossy.pop();
            self.dropped += dropped;
        }
        Ok(())
    }

    fn nft(&self, node: usize, arguments: &[&str]) -> Result<String> {
        let space = self.name(node);
        output(&[&["netns", "exec", &space, "nft"], arguments].concat())
    }

    fn address(&self, last: u8) -> IpAddr {
        Ipv4Addr::new(10, 213, self.subnet, last).into()
    }

    fn name(&self, node: usize) -> String {
        format!("{}n{node}", self.tag)
    }

    fn end(&self, end: End) -> Result<IpAddr> {
        match end {
            End::Clients => Ok(self.address(1)),
            End::Node(node) => self.addresses.get(&node).copied().context("it has no address"),
        }
    }

    fn device(&self, end: End) -> String {
        match end {
            End::Clients => self.tag.clone(),
            End::Node(_) => DEVICE.to_owned(),
        }
    }

    fn ip_of(&self, end: End, arguments: &[&str]) -> Result<String> {
        match end {
            End::Clients => output(arguments),
            End::Node(node) => {
                let space = self.name(node);
                output(&[&["-n", &space], arguments].concat())
            }
        }
    }
}

impl Drop for Namespaces {
    fn drop(&mut self) {
        if let Err(error) = ip(&["link", "del", &self.tag]) {
            eprintln!("left behind: {error:#}");
        }
        for space in self.addresses.keys().map(|&node| self.name(node)).chain([hub(&self.tag)]) {
            if let Err(error) = ip(&["netns", "del", &space]) {
                eprintln!("left behind: {error:#}");
            }
        }
    }
}

fn hub(tag: &str) -> String {
    format!("{tag}hub")
}

fn ip(arguments: &[&str]) -> Result<()> {
    output(arguments).map(drop)
}

fn output(arguments: &[&str]) -> Result<String> {
    let line = || format!("ip {}", arguments.join(" "));
    let output = Command::new("ip").args(arguments).stdin(Stdio::null()).output();
    let output = output.with_context(line)?;
    if !output.status.success() {
        bail!("{}: {}", line(), String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
