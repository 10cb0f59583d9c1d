//! What happened, as text and as one hash.
//!
//! Whoever runs the world tells the trace each event: when, who, what. The
//! trace folds the line into a hash, so that two runs can be compared without
//! keeping either; and it keeps the text where somebody wants to read it. A
//! seed is worth something only while it gives the same hash twice.
//!
//! The hash is the SHA-256 of the text as [`Trace::text`] would give it:
//! `sha256sum` over a trace written to a file says the same.

use std::fmt::{Display, Write};

use sha2::{Digest, Sha256};

/// The events of a run, in the order they were told.
#[derive(Clone, Debug, Default)]
pub struct Trace {
    hash: Sha256,
    lines: u64,
    /// The line being told; kept between lines for its capacity only.
    line: String,
    text: Option<String>,
}

impl Trace {
    /// A trace that remembers the hash and the count only, however long the run.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A trace that keeps its text as well.
    #[must_use]
    pub fn keeping() -> Self {
        Self { text: Some(String::new()), ..Self::default() }
    }

    /// One event: at which microsecond of the run, of whom, and what.
    pub fn line(&mut self, at_us: u64, who: &str, what: impl Display) {
        self.line.clear();
        // Writing into a string fails only where `what` itself refuses to be shown; what it has
        // shown until then is in the line, and the same in every run.
        let _ = write!(self.line, "{at_us:>12} {who} {what}");
        self.line.push('\n');
        self.hash.update(&self.line);
        self.lines += 1;
        if let Some(text) = &mut self.text {
            text.push_str(&self.line);
        }
    }

    /// How many events were told.
    #[must_use]
    pub fn lines(&self) -> u64 {
        self.lines
    }

    /// The hash of all events so far, as 64 lowercase hex digits.
    #[must_use]
    pub fn hash(&self) -> String {
        hex::encode(self.hash.clone().finalize())
    }

    /// The text, one event a line, if this trace keeps it.
    #[must_use]
    pub fn text(&self) -> Option<&str> {
        self.text.as_deref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tell(mut trace: Trace) -> Trace {
        trace.line(0, "n1", "starts");
        trace.line(1_250, "n2", format_args!("votes for {}", "n1"));
        trace.line(1_000_000, "world", 42);
        trace
    }

    #[test]
    fn the_text_reads_as_a_table() {
        let trace = tell(Trace::keeping());
        let expected =
            "           0 n1 starts\n        1250 n2 votes for n1\n     1000000 world 42\n";
        assert_eq!(trace.text(), Some(expected));
        assert_eq!(trace.lines(), 3);
        assert_eq!(trace.hash(), hex::encode(Sha256::digest(expected)), "as sha256sum says");
    }

    #[test]
    fn a_trace_that_keeps_nothing_hashes_the_same() {
        let trace = tell(Trace::new());
        assert_eq!((trace.text(), trace.lines()), (None, 3));
        assert_eq!(trace.hash(), tell(Trace::keeping()).hash());
        assert_eq!(
            Trace::new().hash(),
            "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
            "of nothing"
        );
    }

    #[test]
    fn when_who_what_and_their_order_all_count() {
        let hash = |lines: &[(u64, &str, &str)]| {
            let mut trace = Trace::new();
            lines.iter().for_each(|(at, who, what)| trace.line(*at, who, what));
            trace.hash()
        };
        let told = hash(&[(1, "n1", "a"), (1, "n2", "b")]);
        assert_eq!(told, hash(&[(1, "n1", "a"), (1, "n2", "b")]));
        assert_ne!(told, hash(&[(1, "n1", "a"), (2, "n2", "b")]));
        assert_ne!(told, hash(&[(1, "n1", "a"), (1, "n3", "b")]));
        assert_ne!(told, hash(&[(1, "n1", "a"), (1, "n2", "c")]));
        assert_ne!(told, hash(&[(1, "n2", "b"), (1, "n1", "a")]));
        assert_ne!(told, hash(&[(1, "n1", "a")]));
    }

    #[test]
    fn the_hash_may_be_asked_for_on_the_way() {
        let mut trace = tell(Trace::new());
        let on_the_way = trace.hash();
        assert_eq!(on_the_way, trace.hash(), "asking changes nothing");
        trace.line(2_000_000, "n1", "stops");
        assert_ne!(on_the_way, trace.hash());
    }
}
