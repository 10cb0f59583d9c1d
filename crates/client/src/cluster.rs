//! The cluster, and how a node is.

use reqwest::Method;
use stemedb_api::cluster::{Layout, MemberList, Status};
use stemedb_api::health::{Health, Limits, Readiness};
use stemedb_api::operate::{MemberChange, Paused, Plan, PlanRequest};

use crate::query::segment;
use crate::retry::Kind;
use crate::send::{Ask, read_json};
use crate::{Client, Error};

/// To say twice what is to be is to say it once, so a command is sent again like a question. (Not a
/// removal: by the second time another node may be called so.)
fn command(path: &str) -> Ask {
    Ask::new(Kind::Read, Method::POST, path)
}

/// The path of a member.
fn of_member(member: &str) -> Result<String, Error> {
    if member.is_empty() {
        return Err(Error::Invalid("a member has an id or a name".to_owned()));
    }
    Ok(format!("/v1/cluster/members/{}", segment(member)))
}

impl Client {
    /// The cluster at a glance; with each member for keys that may inspect it.
    pub async fn cluster_status(&self) -> Result<Status, Error> {
        self.send_json(Ask::get("/v1/cluster/status")).await
    }

    /// Every member and its addresses.
    pub async fn members(&self) -> Result<MemberList, Error> {
        self.send_json(Ask::get("/v1/cluster/members")).await
    }

    /// Which nodes hold which shard.
    pub async fn layout(&self) -> Result<Layout, Error> {
        self.send_json(Ask::get("/v1/cluster/layout")).await
    }

    /// What a change of members would move; nothing is changed.
    pub async fn plan_layout(&self, change: &PlanRequest) -> Result<Plan, Error> {
        let ask = Ask::new(Kind::Read, Method::POST, "/v1/cluster/layout/plan");
        self.send_json(ask.json(change)?).await
    }

    /// Has a member, by id or name, hold and lead nothing where the others suffice; or, without
    /// `on`, lets it again. Returns once that is decided: [`Client::cluster_status`] says how far it is.
    pub async fn drain_member(&self, member: &str, on: bool) -> Result<MemberChange, Error> {
        let off = if on { "" } else { "?off=1" };
        self.send_json(command(&format!("{}/drain{off}", of_member(member)?))).await
    }

    /// Does without a member, by id or name, for good. Refused unless it holds nothing, or is silent
    /// and can be spared.
    pub async fn remove_member(&self, member: &str) -> Result<MemberChange, Error> {
        let path = format!("{}/remove", of_member(member)?);
        self.send_json(Ask::new(Kind::Admin, Method::POST, path)).await
    }

    /// Lets no shard begin to move, or, without `on`, lets them again.
    pub async fn pause_rebalance(&self, on: bool) -> Result<Paused, Error> {
        let word = if on { "pause" } else { "resume" };
        self.send_json(command(&format!("/v1/cluster/rebalance/{word}"))).await
    }

    /// The limits of the API.
    pub async fn limits(&self) -> Result<Limits, Error> {
        self.send_json(Ask::get("/v1/limits")).await
    }

    /// Whether the node can serve, and if not, why not. Asked once: a node that does not answer is
    /// [`Error::Unavailable`].
    pub async fn readyz(&self) -> Result<Readiness, Error> {
        read_json(&self.probe("/readyz").await?)
    }

    /// Who answers, and how it is. Asked once.
    pub async fn health(&self) -> Result<Health, Error> {
        read_json(&self.probe("/v1/health").await?)
    }
}
