//! The cluster, and how a node is.

use stemedb_api::cluster::{Layout, MemberList, Status};
use stemedb_api::health::{Health, Limits, Readiness};

use crate::send::{Ask, read_json};
use crate::{Client, Error};

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
