//! What goes wrong when: drawn from a seed, and nothing else; pure.
//!
//! A schedule is data, so that it can be printed, shortened and run again.

use std::fmt;

use stemedb_wal::planted::Bug;

use crate::draw::Draw;

/// Something that goes wrong. Nodes are named by their place, 0 and on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// A process dies; with `power`, what its log had not synced may be lost.
    Crash {
        /// Which node.
        node: usize,
        /// Whether the power goes with it.
        power: bool,
        /// How long it stays down.
        down_ms: u64,
    },
    /// The power goes in the middle of a change to the log's disk.
    CrashInWrite {
        /// Which node.
        node: usize,
        /// How many changes still pass.
        changes: u64,
        /// How long it stays down.
        down_ms: u64,
    },
    /// The power goes everywhere.
    PowerCut {
        /// How long.
        down_ms: u64,
    },
    /// A process stands still.
    Pause {
        /// Which node.
        node: usize,
        /// How long.
        for_ms: u64,
    },
    /// Nobody reaches a node, and it reaches nobody.
    Isolate {
        /// Which node.
        node: usize,
        /// How long.
        for_ms: u64,
    },
    /// Two nodes don't reach each other.
    CutPair {
        /// One.
        one: usize,
        /// The other.
        other: usize,
        /// How long.
        for_ms: u64,
    },
    /// One node doesn't reach another, which reaches it.
    CutOneWay {
        /// Who is not heard.
        from: usize,
        /// Who does not hear.
        to: usize,
        /// How long.
        for_ms: u64,
    },
    /// Two halves that both reach one node, and not each other.
    Bridge {
        /// The node between.
        node: usize,
        /// How long.
        for_ms: u64,
    },
    /// The network loses, repeats and delays.
    Storm {
        /// Of a thousand messages, so many are lost.
        loss_per_mille: u64,
        /// And so many come twice.
        twice_per_mille: u64,
        /// The most a message takes.
        delay_us: u64,
        /// How long.
        for_ms: u64,
    },
    /// A log's disk is slow.
    SlowDisk {
        /// Which node.
        node: usize,
        /// The most a sync takes.
        sync_us: u64,
        /// How long.
        for_ms: u64,
    },
    /// A log's sync fails.
    FailSync {
        /// Which node.
        node: usize,
        /// How many syncs still pass.
        after: u64,
    },
    /// A bit of a log turns while its node is down.
    FlipBit {
        /// Which node.
        node: usize,
        /// Says where.
        place: u64,
    },
    /// A node loses both its disks.
    Wipe {
        /// Which node.
        node: usize,
        /// How long it stays down.
        down_ms: u64,
    },
    /// A node's clock jumps.
    ClockJump {
        /// Which node.
        node: usize,
        /// How far.
        by_ms: i64,
    },
    /// A leader is asked to hand over.
    HandOver {
        /// Of which group.
        group: usize,
    },
    /// A node joins, or one that joined leaves.
    JoinOrLeave,
    /// A leader dies; the moment another leads, those who elected it lose power, and it stands alone.
    Coup {
        /// Of which group.
        group: usize,
        /// The most a sync takes meanwhile: votes and entries must not become durable together.
        sync_us: u64,
        /// How long the old leader stays down, and the new one alone.
        for_ms: u64,
    },
    /// One replica falls behind; then it is cut off no more, and those who know more lose power. One
    /// of them comes back at once, maybe with a bit of its newest records turned.
    Relay {
        /// Of which group.
        group: usize,
        /// How long it falls behind.
        behind_ms: u64,
        /// Says whether a bit turns, and where.
        place: u64,
        /// How long the others stay down.
        down_ms: u64,
    },
    /// The leader of the meta group stands alone while a node joins or leaves: there will be two who
    /// believe to know the layout.
    Rival {
        /// How long.
        for_ms: u64,
    },
    /// A sector of a log can't be read any more.
    BadSector {
        /// Which node.
        node: usize,
        /// Says where.
        place: u64,
    },
    /// Nodes believe that a leader is gone, whether it is or not, and one of them stands for election.
    Rumour {
        /// Of which group.
        group: usize,
        /// How long they believe it.
        for_ms: u64,
    },
}

impl Fault {
    /// Its kind, for the report.
    pub fn kind(&self) -> &'static str {
        match self {
            Fault::Crash { power: false, .. } => "process dies",
            Fault::Crash { power: true, .. } => "power goes",
            Fault::CrashInWrite { .. } => "power goes within a write",
            Fault::PowerCut { .. } => "power goes everywhere",
            Fault::Pause { .. } => "process paused",
            Fault::Isolate { .. } => "node isolated",
            Fault::CutPair { .. } => "pair cut apart",
            Fault::CutOneWay { .. } => "cut one way",
            Fault::Bridge { .. } => "bridge",
            Fault::Storm { .. } => "storm",
            Fault::SlowDisk { .. } => "slow disk",
            Fault::FailSync { .. } => "sync fails",
            Fault::FlipBit { .. } => "bit flips",
            Fault::Wipe { .. } => "disks wiped",
            Fault::ClockJump { .. } => "clock jumps",
            Fault::HandOver { .. } => "leader hands over",
            Fault::JoinOrLeave => "node joins or leaves",
            Fault::Coup { .. } => "leader dies, its successor's voters lose power",
            Fault::Relay { .. } => "those who know more lose power",
            Fault::Rival { .. } => "meta leader alone, a node joins or leaves",
            Fault::BadSector { .. } => "sector can't be read",
            Fault::Rumour { .. } => "leader believed to be gone",
        }
    }
}

/// A fault and when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// In ms since the beginning.
    pub at_ms: u64,
    /// What.
    pub fault: Fault,
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:>6} ms {:?}", self.at_ms, self.fault)
    }
}

/// A whole run, before it is run.
#[derive(Clone, Debug)]
pub struct Schedule {
    /// What everything else is drawn from.
    pub seed: u64,
    /// How many nodes begin.
    pub nodes: usize,
    /// How many shards there are.
    pub shards: u16,
    /// How many clients ask.
    pub clients: u32,
    /// How long things go wrong.
    pub chaos_ms: u64,
    /// What goes wrong, in order.
    pub events: Vec<Event>,
    /// How clients read.
    pub reads: Reads,
    /// Whether clients name their writes, and ask again where they heard nothing. No seed says so.
    pub named: bool,
}

/// How clients read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Reads {
    /// At the leader, by a quorum.
    #[default]
    Led,
    /// At any replica, which asks the leader.
    Anywhere,
    /// At the leader, by its lease; readers stand still at times between leave and look.
    Leased,
}

impl Reads {
    /// How clients must read for a mistake to be met.
    pub fn that_meet(bug: Bug) -> Self {
        match bug {
            Bug::ReadUnapplied => Self::Anywhere,
            _ => Self::Led,
        }
    }
}

impl Schedule {
    /// The schedule of a seed.
    pub fn of(seed: u64) -> Self {
        let mut draw = Draw::new(seed);
        let nodes = [3, 3, 3, 4, 5, 5, 6, 7][draw.below(8) as usize];
        let shards = draw.range(1..=2) as u16;
        let clients = draw.range(2..=4) as u32;
        let chaos_ms = draw.range(1_500..=6_000);
        // A run has its own mood: few kinds of faults often, rather than all of them seldom.
        let kinds: Vec<u64> = (0..draw.range(2..=6)).map(|_| draw.below(KINDS)).collect();
        let between_ms = draw.range(80..=800);
        let mut events = Vec::new();
        let mut at_ms = 500;
        while at_ms < chaos_ms {
            let kind = *draw.pick(&kinds);
            events.push(Event { at_ms, fault: fault(kind, nodes, &mut draw) });
            at_ms += 1 + draw.below(2 * between_ms);
        }
        spread_rumours(seed, chaos_ms, &mut events);
        let reads = Reads::default();
        Self { seed, nodes, shards, clients, chaos_ms, events, reads, named: false }
    }

    /// The same, read in another way: the faults are the same, and what comes of them is not.
    pub fn read(self, reads: Reads) -> Self {
        Self { reads, ..self }
    }
}

/// Adds false evidence (and true, where the leader is cut off anyway) to the runs of some seeds. From a
/// stream of its own, so that all else of a seed is what it was before there were rumours.
fn spread_rumours(seed: u64, chaos_ms: u64, events: &mut Vec<Event>) {
    let mut draw = Draw::new(seed ^ RUMOURS);
    if !draw.one_in(3) {
        return;
    }
    let between_ms = draw.range(50..=600);
    let mut at_ms = 500 + draw.below(between_ms);
    while at_ms < chaos_ms {
        let fault = Fault::Rumour { group: draw.below(3) as usize, for_ms: draw.range(5..=400) };
        events.push(Event { at_ms, fault });
        at_ms += 1 + draw.below(2 * between_ms);
    }
    events.sort_by_key(|event| event.at_ms);
}

/// Makes the stream of a seed's rumours another than that of all else.
const RUMOURS: u64 = 0x7275_6d6f_7572;

const KINDS: u64 = 22;

fn fault(kind: u64, nodes: usize, draw: &mut Draw) -> Fault {
    let node = draw.below(nodes as u64) as usize;
    let other = (node + 1 + draw.below(nodes as u64 - 1) as usize) % nodes;
    let for_ms = draw.range(50..=2_000);
    let down_ms = draw.range(1..=1_500);
    match kind {
        0 => Fault::Crash { node, power: false, down_ms },
        1 => Fault::Crash { node, power: true, down_ms },
        2 => Fault::CrashInWrite { node, changes: draw.below(60), down_ms },
        3 => Fault::PowerCut { down_ms },
        4 => Fault::Pause { node, for_ms },
        5 => Fault::Isolate { node, for_ms },
        6 => Fault::CutPair { one: node, other, for_ms },
        7 => Fault::CutOneWay { from: node, to: other, for_ms },
        8 => Fault::Bridge { node, for_ms },
        9 => Fault::Storm {
            loss_per_mille: draw.below(300),
            twice_per_mille: draw.below(200),
            delay_us: draw.range(1_000..=400_000),
            for_ms,
        },
        10 => Fault::SlowDisk { node, sync_us: draw.range(5_000..=500_000), for_ms },
        11 => Fault::FailSync { node, after: draw.below(100) },
        12 => Fault::FlipBit { node, place: draw.word() },
        13 => Fault::Wipe { node, down_ms },
        14 => Fault::ClockJump { node, by_ms: draw.below(20_000) as i64 - 10_000 },
        15 => Fault::HandOver { group: draw.below(3) as usize },
        // Twice as often as others: moves are where stores lose data.
        16 | 21 => Fault::JoinOrLeave,
        17 => Fault::Coup {
            group: draw.below(3) as usize,
            sync_us: draw.range(20_000..=150_000),
            for_ms: draw.range(1_200..=2_500),
        },
        18 => Fault::Relay {
            group: draw.below(3) as usize,
            behind_ms: draw.range(100..=1_000),
            place: draw.word(),
            down_ms: draw.range(1_200..=2_500),
        },
        19 => Fault::BadSector { node, place: draw.word() },
        _ => Fault::Rival { for_ms: draw.range(1_500..=4_000) },
    }
}
