//! Every kind of problem: its status, title and whether the same request may be sent again.

use std::fmt;

macro_rules! slugs {
    ($($(#[$doc:meta])* $variant:ident = $name:literal, $status:literal, $title:literal;)*) => {
        /// A kind of problem, as the last part of a problem's `type`. Programs branch on this and
        /// never on a title or detail.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Slug {
            $($(#[$doc])* $variant,)*
        }

        impl Slug {
            /// Every slug, in the order of the contract's table.
            pub const ALL: &'static [Slug] = &[$(Slug::$variant,)*];

            /// The slug as it is written.
            pub fn as_str(self) -> &'static str {
                match self { $(Slug::$variant => $name,)* }
            }

            /// The HTTP status it comes with. Two slugs have further ones: `too-large` also 414
            /// and 431, `quota-exceeded` also 507.
            pub fn status(self) -> u16 {
                match self { $(Slug::$variant => $status,)* }
            }

            /// The same few words for every occurrence.
            pub fn title(self) -> &'static str {
                match self { $(Slug::$variant => $title,)* }
            }
        }
    };
}

slugs! {
    /// The request can't be understood.
    Malformed = "malformed", 400, "The request can't be understood";
    /// There is no such thing, or no such route.
    NotFound = "not-found", 404, "There is no such thing";
    /// The route takes other methods; `Allow` lists them.
    MethodNotAllowed = "method-not-allowed", 405, "This route takes other methods";
    /// The body, the path or the headers are over a limit.
    TooLarge = "too-large", 413, "The request is over a limit";
    /// A body of a type that this route does not read.
    UnsupportedMediaType = "unsupported-media-type", 415, "This route reads another content type";
    /// A fault of the server's own.
    Internal = "internal", 500, "A fault of the server";
    /// No key, or one that is not known.
    Unauthenticated = "unauthenticated", 401, "An API key is needed";
    /// The key may not do this.
    Forbidden = "forbidden", 403, "This key may not do that";
    /// Another node serves this; `StemeDB-Owner` says which.
    NotOwner = "not-owner", 421, "Another node serves this bucket";
    /// It stands already.
    AlreadyExists = "already-exists", 409, "It exists already";
    /// The history asked for is gone, or not there yet.
    Compacted = "compacted", 410, "That revision can't be read";
    /// A condition of the request did not hold; nothing changed.
    PreconditionFailed = "precondition-failed", 412, "A condition did not hold";
    /// This idempotency key came before, with another body.
    IdempotencyMismatch = "idempotency-mismatch", 422, "This idempotency key had another body";
    /// A statement that is not one; nothing of the call was stored.
    InvalidStatement = "invalid-statement", 422, "A statement can't be taken";
    /// A signature that is not the agent's; nothing of the call was stored.
    InvalidSignature = "invalid-signature", 422, "A signature does not hold";
    /// An agent that is not registered; nothing of the call was stored.
    UnknownAgent = "unknown-agent", 422, "This agent is not registered";
    /// A transaction over more than one bucket.
    CrossBucketTransaction = "cross-bucket-transaction", 422, "A transaction keeps to one bucket";
    /// Too many requests; again after `Retry-After`.
    RateLimited = "rate-limited", 429, "Too many requests";
    /// A quota is used up: the month's calls (429) or the storage (507).
    QuotaExceeded = "quota-exceeded", 429, "A quota is used up";
    /// The disk is full; reads and deletes go on.
    DiskFull = "disk-full", 507, "The disk is full";
    /// The node is not ready to serve yet. Not applied.
    Starting = "starting", 503, "This node is not ready";
    /// No leader, or no majority behind it. Not applied.
    NoQuorum = "no-quorum", 503, "No quorum of replicas answers";
    /// A queue is full. Not applied.
    Overloaded = "overloaded", 503, "Too much is waiting already";
    /// The shard is on its way to other nodes. Not applied.
    Moving = "moving", 503, "The shard is moving";
    /// The node is going down. Not applied.
    Draining = "draining", 503, "This node is draining";
    /// The write may or may not have happened.
    OutcomeUnknown = "outcome-unknown", 504, "The write may or may not have been applied";
}

impl Slug {
    /// The slug of this name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|slug| slug.as_str() == name)
    }

    /// Whether the same request, sent again a little later, can succeed and can't do harm. (A
    /// problem of one occurrence may know better: a doubtful write that is safe to repeat.)
    pub fn retryable(self) -> bool {
        matches!(
            self,
            Slug::NotOwner
                | Slug::RateLimited
                | Slug::Starting
                | Slug::NoQuorum
                | Slug::Overloaded
                | Slug::Moving
                | Slug::Draining
        )
    }
}

impl fmt::Display for Slug {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_the_contract_s() {
        let table = |statuses: &[u16]| {
            let listed = Slug::ALL.iter().filter(|slug| statuses.contains(&slug.status()));
            listed.map(|slug| slug.as_str()).collect::<Vec<_>>().join(", ")
        };
        assert_eq!(
            table(&[400, 404, 405, 413, 414, 415, 431, 500]),
            "malformed, not-found, method-not-allowed, too-large, unsupported-media-type, internal"
        );
        assert_eq!(table(&[401, 403, 421]), "unauthenticated, forbidden, not-owner");
        assert_eq!(table(&[409, 410, 412]), "already-exists, compacted, precondition-failed");
        assert_eq!(
            table(&[422]),
            "idempotency-mismatch, invalid-statement, invalid-signature, unknown-agent, \
             cross-bucket-transaction"
        );
        assert_eq!(table(&[429, 507]), "rate-limited, quota-exceeded, disk-full");
        assert_eq!(
            table(&[503, 504]),
            "starting, no-quorum, overloaded, moving, draining, outcome-unknown"
        );
    }

    #[test]
    fn a_slug_reads_back_what_it_prints_and_503_always_means_again() {
        for slug in Slug::ALL {
            assert_eq!(Slug::parse(slug.as_str()), Some(*slug));
            assert!(slug.status() != 503 || slug.retryable(), "{slug}");
        }
        assert_eq!(Slug::parse("Malformed"), None);
    }
}
