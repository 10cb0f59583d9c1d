//! What came of a run: held, violated, or nothing proved.
//!
//! A run that did too little, whose fault was not installed, or after which the cluster did not
//! come back proves nothing, and must not look as if it did. A violation counts whatever else
//! went wrong: a cluster that lost a write and then did not come back has lost a write.

use std::fmt;
use std::time::Duration;

use serde_json::{Value, json};
use stemedb_sim::checks::linearizable::Verdict;

use super::fault::Fault;
use super::record::Counts;
use crate::table;

/// With fewer acknowledged writes a run proves nothing.
pub(crate) const ACKNOWLEDGED_MIN: u64 = 200;
/// Lost writes shown by name.
const LOST_SHOWN_MAX: usize = 5;

/// What one run found.
#[derive(Debug)]
pub(crate) struct Findings {
    /// What went wrong.
    pub(crate) fault: Fault,
    /// How often it did.
    pub(crate) rounds: u32,
    /// How long clients were at work.
    pub(crate) took: Duration,
    /// What lay between the nodes.
    pub(crate) network: &'static str,
    /// How the operations ended.
    pub(crate) counts: Counts,
    /// How often a node said what its own store holds of a bucket, at the end.
    pub(crate) own_stores: u64,
    /// Acknowledged writes that were not found, and where.
    pub(crate) lost: Vec<String>,
    /// Whether the registers behaved as such; nothing, if there was nothing to judge.
    pub(crate) verdict: Option<Verdict>,
    /// The longest time without a success of each client.
    pub(crate) gaps: Vec<Duration>,
    /// The first answer that no server may give.
    pub(crate) wrong: Option<String>,
    /// Why the run proves nothing, if that is known.
    pub(crate) trouble: Option<String>,
}

/// What is to be made of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Judgement {
    /// All that must hold did.
    Held,
    /// Something did not.
    Violated(String),
    /// Nothing was proved.
    Undecided(String),
}

impl Findings {
    /// A run that did not come about.
    pub(crate) fn none(fault: Fault, network: &'static str, trouble: String) -> Self {
        Findings {
            fault,
            rounds: 0,
            took: Duration::ZERO,
            network,
            counts: Counts::default(),
            own_stores: 0,
            lost: Vec::new(),
            verdict: None,
            gaps: Vec::new(),
            wrong: None,
            trouble: Some(trouble),
        }
    }

    /// What is to be made of it.
    pub(crate) fn judge(&self) -> Judgement {
        if !self.lost.is_empty() {
            let shown = self.lost.iter().take(LOST_SHOWN_MAX).cloned().collect::<Vec<_>>();
            let count = self.lost.len();
            return Judgement::Violated(format!("{count} lost, as {}", shown.join(", ")));
        }
        if let Some(Verdict::Violated(violation)) = &self.verdict {
            return Judgement::Violated(violation.to_string());
        }
        if let Some(wrong) = &self.wrong {
            return Judgement::Violated(format!("a wrong answer: {wrong}"));
        }
        if let Some(trouble) = &self.trouble {
            return Judgement::Undecided(trouble.clone());
        }
        if self.rounds == 0 {
            return Judgement::Undecided("the fault was never there".to_owned());
        }
        let acknowledged = self.counts.acknowledged;
        if acknowledged < ACKNOWLEDGED_MIN {
            return Judgement::Undecided(format!("only {acknowledged} writes were acknowledged"));
        }
        match &self.verdict {
            Some(Verdict::Linearizable) => Judgement::Held,
            Some(Verdict::Undecided { key }) => {
                Judgement::Undecided(format!("register {key} takes too long to judge"))
            }
            _ => Judgement::Undecided("the registers were not judged".to_owned()),
        }
    }

    fn longest_gap_ms(&self) -> u128 {
        self.gaps.iter().max().map_or(0, Duration::as_millis)
    }

    /// The longest gap of each client in ms, the longest first.
    fn gaps_ms(&self) -> String {
        let mut gaps: Vec<u128> = self.gaps.iter().map(Duration::as_millis).collect();
        gaps.sort_unstable_by(|a, b| b.cmp(a));
        gaps.iter().map(u128::to_string).collect::<Vec<_>>().join(", ")
    }

    fn linearizable(&self) -> &'static str {
        match &self.verdict {
            Some(Verdict::Linearizable) => "yes",
            Some(Verdict::Violated(_)) => "NO",
            Some(Verdict::Undecided { .. }) => "undecided",
            None => "-",
        }
    }

    fn row(&self) -> Vec<String> {
        let Counts { acknowledged, reads, refused, unknown, not_applied } = self.counts;
        vec![
            self.fault.to_string(),
            self.judge().word().to_owned(),
            self.network.to_owned(),
            self.linearizable().to_owned(),
            self.rounds.to_string(),
            acknowledged.to_string(),
            self.lost.len().to_string(),
            reads.to_string(),
            refused.to_string(),
            unknown.to_string(),
            not_applied.to_string(),
            self.longest_gap_ms().to_string(),
        ]
    }

    /// For a program.
    pub(crate) fn json(&self) -> Value {
        let judgement = self.judge();
        let Counts { acknowledged, reads, refused, unknown, not_applied } = self.counts;
        json!({
            "fault": self.fault.to_string(),
            "judgement": judgement.word(),
            "reason": judgement.reason(),
            "network": self.network,
            "linearizable": self.linearizable(),
            "rounds": self.rounds,
            "seconds": self.took.as_secs_f64(),
            "acknowledged": acknowledged,
            "own_stores": self.own_stores,
            "lost": self.lost,
            "reads": reads,
            "refused": refused,
            "unknown": unknown,
            "not_applied": not_applied,
            "longest_gap_ms": self.longest_gap_ms(),
            "gaps_ms": self.gaps.iter().map(Duration::as_millis).collect::<Vec<_>>(),
        })
    }
}

impl Judgement {
    /// In one word.
    pub(crate) fn word(&self) -> &'static str {
        match self {
            Judgement::Held => "held",
            Judgement::Violated(_) => "VIOLATED",
            Judgement::Undecided(_) => "undecided",
        }
    }

    fn reason(&self) -> Option<&str> {
        match self {
            Judgement::Held => None,
            Judgement::Violated(why) | Judgement::Undecided(why) => Some(why),
        }
    }
}

impl fmt::Display for Judgement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.reason() {
            Some(reason) => write!(f, "{}: {reason}", self.word()),
            None => f.write_str(self.word()),
        }
    }
}

/// One run in one line, for whoever waits for the others.
pub(crate) fn line(findings: &Findings) -> String {
    let Findings { fault, rounds, counts, lost, .. } = findings;
    let Counts { acknowledged, reads, unknown, .. } = *counts;
    let (judgement, lost, gaps) = (findings.judge(), lost.len(), findings.gaps_ms());
    format!(
        "{fault}: {judgement}; {rounds} rounds, {acknowledged} acknowledged, {lost} lost, \
         {reads} reads, {unknown} unknown; longest gaps of the clients: {gaps} ms"
    )
}

/// All runs as a table, below it the longest gap of every client, and why those that did not hold did not.
pub(crate) fn text(all: &[Findings]) -> String {
    let headers = [
        "fault",
        "judgement",
        "network",
        "linearizable",
        "rounds",
        "acknowledged",
        "lost",
        "reads",
        "refused",
        "unknown",
        "not applied",
        "longest gap ms",
    ];
    let rows: Vec<Vec<String>> = all.iter().map(Findings::row).collect();
    let mut text = table::markdown(&headers, &rows, 4);
    text.push_str("\nlongest time without a success of each client, ms:\n");
    for findings in all {
        text.push_str(&format!("{}: {}\n", findings.fault, findings.gaps_ms()));
    }
    for findings in all {
        let judgement = findings.judge();
        if judgement != Judgement::Held {
            text.push_str(&format!("\n{}: {judgement}\n", findings.fault));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> Findings {
        let counts = Counts { acknowledged: ACKNOWLEDGED_MIN, ..Counts::default() };
        Findings {
            rounds: 1,
            counts,
            verdict: Some(Verdict::Linearizable),
            gaps: vec![Duration::from_millis(3), Duration::from_millis(70)],
            trouble: None,
            ..Findings::none(Fault::KillAll, "forwarder", String::new())
        }
    }

    #[test]
    fn a_run_holds_only_if_everything_was_there_to_hold() {
        assert_eq!(good().judge(), Judgement::Held);
        let few = Counts { acknowledged: ACKNOWLEDGED_MIN - 1, ..Counts::default() };
        let trouble = |what: &str| Some(what.to_owned());
        for (findings, reason) in [
            (Findings { rounds: 0, ..good() }, "the fault was never there"),
            (Findings { counts: few, ..good() }, "only 199 writes were acknowledged"),
            (Findings { verdict: None, ..good() }, "the registers were not judged"),
            (
                Findings { verdict: Some(Verdict::Undecided { key: 3 }), ..good() },
                "register 3 takes too long to judge",
            ),
            (Findings { trouble: trouble("did not heal"), ..good() }, "did not heal"),
        ] {
            assert_eq!(findings.judge(), Judgement::Undecided(reason.to_owned()));
        }
    }

    #[test]
    fn what_is_violated_is_so_even_where_the_run_went_wrong() {
        let trouble = Some("did not heal".to_owned());
        let lost = Findings { lost: vec!["k at node 1".to_owned()], trouble, ..good() };
        assert_eq!(lost.judge(), Judgement::Violated("1 lost, as k at node 1".to_owned()));
        let wrong = Findings { wrong: Some("418".to_owned()), rounds: 0, ..good() };
        assert_eq!(wrong.judge(), Judgement::Violated("a wrong answer: 418".to_owned()));
        assert_eq!(
            (lost.json()["judgement"].as_str(), lost.row()[6].as_str()),
            (Some("VIOLATED"), "1")
        );
    }

    #[test]
    fn the_table_has_a_line_for_each_and_says_why_below() {
        let text = text(&[good(), Findings { rounds: 0, ..good() }]);
        let lines: Vec<&str> = text.lines().collect();
        assert!(
            lines[2].starts_with("| kill-all | held | forwarder | yes | 1 | 200 | 0 |"),
            "{text}"
        );
        assert!(lines[2].ends_with("| 70 |"), "{text}");
        assert!(lines.contains(&"kill-all: 70, 3"), "{text}");
        let told = line(&good());
        assert!(told.starts_with("kill-all: held; 1 rounds, 200 acknowledged, 0 lost,"), "{told}");
        assert!(told.ends_with(": 70, 3 ms"), "{told}");
        assert_eq!(lines.last(), Some(&"kill-all: undecided: the fault was never there"));
    }
}
