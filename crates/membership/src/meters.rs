//! What gossip tells the scraper.
//!
//! A suspicion is counted when this node's picture first shows a member as suspect, whether it
//! missed our own probe or somebody told us. Suspicions of this node itself are not seen here;
//! the others count them.

use crate::members::{MemberState, Members};

const MEMBERS: &str = "stemedb_swim_members";
const SUSPICIONS: &str = "stemedb_swim_suspicions_total";
const REFUSED: &str = "stemedb_swim_packets_refused_total";

const STATES: [(MemberState, &str); 3] =
    [(MemberState::Alive, "alive"), (MemberState::Suspect, "suspect"), (MemberState::Down, "down")];

/// Registers the help texts with whatever recorder is installed.
pub(crate) fn describe() {
    metrics::describe_gauge!(MEMBERS, "Members known by gossip, this node included, by state.");
    metrics::describe_counter!(SUSPICIONS, "Times a member became suspect in this node's view.");
    metrics::describe_counter!(
        REFUSED,
        "Gossip packets that were not acted on, by reason; reason news: single items of news in a \
         later format, passed over."
    );
    metrics::counter!(SUSPICIONS).increment(0);
}

/// Shows a picture that follows another.
pub(crate) fn show(before: &Members, after: &Members) {
    for (state, label) in STATES {
        metrics::gauge!(MEMBERS, "state" => label).set(after.count(state) as f64);
    }
    metrics::counter!(SUSPICIONS).increment(after.new_suspicions(before) as u64);
}

/// Counts a packet, or an item of news, that was not acted on.
pub(crate) fn refused(reason: &'static str) {
    metrics::counter!(REFUSED, "reason" => reason).increment(1);
}
