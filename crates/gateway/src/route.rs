//! The table: path and method → operation.
//!
//! A path is taken as it came, escapes and all. It names a [`Place`] (what the
//! contract writes as a template) and at most two raw parts; the method then
//! names the [`Operation`]. `HEAD` goes wherever `GET` goes.

use http::Method;
use stemedb::Need;

/// A path template.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// One key.
    Key,
    /// One bucket.
    Bucket,
    /// Where statements are made.
    Assert,
    /// Where claims are asked for.
    Query,
    /// One assertion.
    Assertion,
    /// All API keys.
    ApiKeys,
    /// One API key.
    ApiKey,
    /// How the node is, for people.
    Health,
    /// Whether the process answers.
    Alive,
    /// Whether the node can serve.
    Ready,
    /// Whether the start is done.
    Started,
    /// What is counted.
    Metrics,
    /// This API, described.
    OpenApi,
    /// Every bound.
    Limits,
    /// The cluster at a glance.
    Status,
    /// The members.
    Members,
    /// Which nodes hold which shard.
    Layout,
    /// What a change of members would move.
    LayoutPlan,
    /// Where a member is drained.
    MemberDrain,
    /// Where a member is removed.
    MemberRemove,
    /// Where what moves is paused.
    RebalancePause,
    /// Where it is resumed.
    RebalanceResume,
}

/// What a request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Give a key a value.
    PutKey,
    /// Read a key.
    GetKey,
    /// Take a key away.
    DeleteKey,
    /// Read a page of keys.
    Scan,
    /// Make statements.
    Assert,
    /// Read a page of claims.
    Query,
    /// Read one assertion.
    GetAssertion,
    /// Make an API key.
    CreateApiKey,
    /// List API keys.
    ListApiKeys,
    /// Read one API key's record.
    GetApiKey,
    /// End an API key.
    RevokeApiKey,
    /// How the node is, for people.
    Health,
    /// Whether the process answers.
    Alive,
    /// Whether the node can serve.
    Ready,
    /// Whether the start is done.
    Started,
    /// What is counted.
    Metrics,
    /// This API, described.
    OpenApi,
    /// Every bound.
    Limits,
    /// The cluster at a glance.
    Status,
    /// The members.
    Members,
    /// Which nodes hold which shard.
    Layout,
    /// What a change of members would move.
    PlanLayout,
    /// Have a member hold nothing, or let it again.
    DrainMember,
    /// Do without a member.
    RemoveMember,
    /// Let nothing begin to move.
    PauseRebalance,
    /// Let shards move again.
    ResumeRebalance,
}

/// Who may ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Everyone.
    Open,
    /// Keys that may do this.
    Needs(Need),
}

/// One line of the table.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// What is asked for.
    pub operation: Operation,
    /// By which method.
    pub method: &'static str,
    /// Where.
    pub place: Place,
    /// By whom.
    pub access: Access,
}

const fn row(operation: Operation, method: &'static str, place: Place, access: Access) -> Row {
    Row { operation, method, place, access }
}

const READ: Access = Access::Needs(Need::Read);
const WRITE: Access = Access::Needs(Need::Write);
const INSPECT: Access = Access::Needs(Need::Inspect);
const ADMINISTER: Access = Access::Needs(Need::Administer);

/// Every operation.
pub const TABLE: &[Row] = &[
    row(Operation::GetKey, "GET", Place::Key, READ),
    row(Operation::PutKey, "PUT", Place::Key, WRITE),
    row(Operation::DeleteKey, "DELETE", Place::Key, WRITE),
    row(Operation::Scan, "GET", Place::Bucket, READ),
    row(Operation::Assert, "POST", Place::Assert, WRITE),
    row(Operation::Query, "GET", Place::Query, READ),
    row(Operation::GetAssertion, "GET", Place::Assertion, READ),
    row(Operation::CreateApiKey, "POST", Place::ApiKeys, ADMINISTER),
    row(Operation::ListApiKeys, "GET", Place::ApiKeys, INSPECT),
    row(Operation::GetApiKey, "GET", Place::ApiKey, INSPECT),
    row(Operation::RevokeApiKey, "DELETE", Place::ApiKey, ADMINISTER),
    row(Operation::Status, "GET", Place::Status, Access::Open),
    row(Operation::Members, "GET", Place::Members, INSPECT),
    row(Operation::Layout, "GET", Place::Layout, INSPECT),
    row(Operation::PlanLayout, "POST", Place::LayoutPlan, INSPECT),
    row(Operation::DrainMember, "POST", Place::MemberDrain, ADMINISTER),
    row(Operation::RemoveMember, "POST", Place::MemberRemove, ADMINISTER),
    row(Operation::PauseRebalance, "POST", Place::RebalancePause, ADMINISTER),
    row(Operation::ResumeRebalance, "POST", Place::RebalanceResume, ADMINISTER),
    row(Operation::Health, "GET", Place::Health, Access::Open),
    row(Operation::Alive, "GET", Place::Alive, Access::Open),
    row(Operation::Ready, "GET", Place::Ready, Access::Open),
    row(Operation::Started, "GET", Place::Started, Access::Open),
    row(Operation::Limits, "GET", Place::Limits, Access::Open),
    row(Operation::Metrics, "GET", Place::Metrics, Access::Open),
    row(Operation::OpenApi, "GET", Place::OpenApi, Access::Open),
];

impl Place {
    /// Every template, in the order of the variants.
    pub const ALL: [Place; 22] = [
        Place::Key,
        Place::Bucket,
        Place::Assert,
        Place::Query,
        Place::Assertion,
        Place::ApiKeys,
        Place::ApiKey,
        Place::Health,
        Place::Alive,
        Place::Ready,
        Place::Started,
        Place::Metrics,
        Place::OpenApi,
        Place::Limits,
        Place::Status,
        Place::Members,
        Place::Layout,
        Place::LayoutPlan,
        Place::MemberDrain,
        Place::MemberRemove,
        Place::RebalancePause,
        Place::RebalanceResume,
    ];

    /// The path with its parts in braces: the metric label and the path in OpenAPI.
    pub fn template(self) -> &'static str {
        match self {
            Place::Key => "/v1/kv/{bucket}/{key}",
            Place::Bucket => "/v1/kv/{bucket}",
            Place::Assert => "/v1/assert",
            Place::Query => "/v1/query",
            Place::Assertion => "/v1/assertions/{id}",
            Place::ApiKeys => "/v1/admin/api-keys",
            Place::ApiKey => "/v1/admin/api-keys/{hash}",
            Place::Health => "/v1/health",
            Place::Alive => "/livez",
            Place::Ready => "/readyz",
            Place::Started => "/startupz",
            Place::Metrics => "/metrics",
            Place::OpenApi => "/openapi.json",
            Place::Limits => "/v1/limits",
            Place::Status => "/v1/cluster/status",
            Place::Members => "/v1/cluster/members",
            Place::Layout => "/v1/cluster/layout",
            Place::LayoutPlan => "/v1/cluster/layout/plan",
            Place::MemberDrain => "/v1/cluster/members/{id}/drain",
            Place::MemberRemove => "/v1/cluster/members/{id}/remove",
            Place::RebalancePause => "/v1/cluster/rebalance/pause",
            Place::RebalanceResume => "/v1/cluster/rebalance/resume",
        }
    }

    /// The lines of the table that begin here.
    pub fn rows(self) -> impl Iterator<Item = &'static Row> {
        TABLE.iter().filter(move |row| row.place == self)
    }

    /// What this method means here; `None` if nothing.
    pub fn row(self, method: &Method) -> Option<&'static Row> {
        let name = if method == Method::HEAD { "GET" } else { method.as_str() };
        self.rows().find(|row| row.method == name)
    }

    /// The value of `Allow`.
    pub fn allow(self) -> String {
        let mut methods: Vec<&str> = Vec::new();
        for row in self.rows() {
            methods.push(row.method);
            if row.method == "GET" {
                methods.push("HEAD");
            }
        }
        methods.join(", ")
    }
}

/// A place and the raw parts of the path that led there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target<'p> {
    /// Where.
    pub place: Place,
    /// The bucket as written; empty at places without one.
    pub bucket: &'p str,
    /// The key, id, name or hash as written; empty at places without one.
    pub rest: &'p str,
}

/// Where a raw path leads; `None`: nowhere.
pub fn find(path: &str) -> Option<Target<'_>> {
    if let Some(rest) = path.strip_prefix(stemedb_api::path::KV) {
        return Some(match rest.split_once('/') {
            Some((bucket, key)) => Target { place: Place::Key, bucket, rest: key },
            None => Target { place: Place::Bucket, bucket: rest, rest: "" },
        });
    }
    for place in [Place::Assertion, Place::ApiKey, Place::MemberDrain, Place::MemberRemove] {
        let (parent, end) = place.template().split_once('{')?;
        let (_, end) = end.split_once('}')?;
        let rest = path.strip_prefix(parent).and_then(|rest| rest.strip_suffix(end));
        if let Some(rest) = rest.filter(|rest| !rest.is_empty() && !rest.contains('/')) {
            return Some(Target { place, bucket: "", rest });
        }
    }
    let place = Place::ALL.into_iter().find(|place| place.template() == path)?;
    Some(Target { place, bucket: "", rest: "" })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_key_is_everything_behind_its_bucket_and_nothing_is_normalised() {
        let table = [
            ("/v1/kv/b/k", "b", "k"),
            ("/v1/kv/b/a/../c", "b", "a/../c"),
            ("/v1/kv/b//", "b", "/"),
            ("/v1/kv/b/", "b", ""),
            ("/v1/kv//k", "", "k"),
            ("/v1/kv/b/%2F%2e", "b", "%2F%2e"),
            ("/v1/kv/../x", "..", "x"),
        ];
        for (path, bucket, rest) in table {
            assert_eq!(find(path), Some(Target { place: Place::Key, bucket, rest }), "{path}");
        }
        let scanned = Target { place: Place::Bucket, bucket: "b%2Fk", rest: "" };
        assert_eq!(find("/v1/kv/b%2Fk"), Some(scanned));
    }

    #[test]
    fn every_template_leads_to_its_place_and_templates_are_not_paths() {
        for place in Place::ALL {
            let path = place.template().replace(['{', '}'], "");
            assert_eq!(find(&path).map(|t| t.place), Some(place), "{path}");
        }
        for nowhere in ["", "/", "/v1", "/v1/kv", "/v1/query/", "/v1/assertions/", "/V1/query"] {
            assert_eq!(find(nowhere), None, "{nowhere}");
        }
        assert_eq!(find("/v1/admin/api-keys/x/rotate"), None);
        let drained = find("/v1/cluster/members/h:18182/drain").map(|t| (t.place, t.rest));
        assert_eq!(drained, Some((Place::MemberDrain, "h:18182")));
        for nowhere in ["/v1/cluster/members//drain", "/v1/cluster/members/a/b/drain"] {
            assert_eq!(find(nowhere), None, "{nowhere}");
        }
    }

    #[test]
    fn head_goes_where_get_goes_and_allow_says_so() {
        assert_eq!(Place::Key.allow(), "GET, HEAD, PUT, DELETE");
        assert_eq!(Place::Assert.allow(), "POST");
        let head = Place::Key.row(&Method::HEAD).map(|row| row.operation);
        assert_eq!(head, Some(Operation::GetKey));
        assert!(Place::Assert.row(&Method::HEAD).is_none());
        assert!(Place::Key.row(&Method::PATCH).is_none());
    }

    #[test]
    fn the_order_of_all_is_the_order_of_the_variants() {
        for (n, place) in Place::ALL.into_iter().enumerate() {
            assert_eq!(place as usize, n);
        }
    }

    proptest! {
        #[test]
        fn no_path_makes_it_panic(path in "(/v1/kv|/v1/assertions|/)?[/a-z{}%.]{0,20}") {
            let _ = find(&path);
        }
    }
}
