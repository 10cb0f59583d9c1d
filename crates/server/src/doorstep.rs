//! What the doors show while the node behind them still starts.
//!
//! A start reads the whole log before there is a node. Whoever probes meanwhile
//! is answered: alive, not ready, not started yet; anything else is told to come
//! again. Once the node is there everything goes to it.

use std::sync::{Arc, OnceLock};

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, ready};
use stemedb::meta::{ApiKey, Project};
use stemedb::{
    AdminAnswer, AdminCall, Admission, Answered, Call, Change, ClusterStatus, Credential, Error,
    Front, Need, Node, Preview, Progress, Readiness, Startup, Unavailable,
};
use stemedb_types::{Layout, NodeId, ProjectName};

/// A node to be. Cheap to clone, clones are the same.
#[derive(Clone)]
pub(crate) struct Doorstep {
    name: String,
    node: Arc<OnceLock<Node>>,
}

fn starting<T>() -> Result<T, Error> {
    Err(Error::unavailable(Unavailable::Starting))
}

impl Doorstep {
    /// In front of a node of this name.
    pub(crate) fn new(name: &str) -> Self {
        Self { name: name.to_owned(), node: Arc::default() }
    }

    /// Here it is.
    pub(crate) fn fill(&self, node: Node) {
        // Only ever done once, by whoever started it.
        let _ = self.node.set(node);
    }
}

impl Front for Doorstep {
    fn admit(
        &self,
        credential: Option<Credential>,
        project: Option<ProjectName>,
        need: Need,
    ) -> BoxFuture<'_, Result<Admission, Error>> {
        match self.node.get() {
            Some(node) => node.admit(credential, project, need),
            None => ready(starting()).boxed(),
        }
    }

    fn call(&self, call: Call) -> BoxFuture<'_, Result<Answered, Error>> {
        match self.node.get() {
            Some(node) => Front::call(node, call),
            None => ready(starting()).boxed(),
        }
    }

    fn admin(
        &self,
        admission: Admission,
        call: AdminCall,
    ) -> BoxFuture<'_, Result<AdminAnswer, Error>> {
        match self.node.get() {
            Some(node) => node.admin(admission, call),
            None => ready(starting()).boxed(),
        }
    }

    fn keys(&self) -> Vec<(ApiKey, Option<Project>)> {
        self.node.get().map(Front::keys).unwrap_or_default()
    }

    fn status(&self) -> ClusterStatus {
        self.node.get().map(Front::status).unwrap_or_else(|| ClusterStatus {
            cluster: None,
            node: NodeId(0),
            node_name: self.name.clone(),
            layout: Layout::default(),
            members: Vec::new(),
            shards_leaderless: 0,
            shards_under_replicated: 0,
            shards_moving: 0,
            quarantined: Vec::new(),
        })
    }

    fn progress(&self) -> BoxFuture<'_, Result<Progress, Error>> {
        match self.node.get() {
            Some(node) => node.progress(),
            None => ready(starting()).boxed(),
        }
    }

    fn preview(&self, change: Change) -> BoxFuture<'_, Result<Preview, Error>> {
        match self.node.get() {
            Some(node) => node.preview(change),
            None => ready(starting()).boxed(),
        }
    }

    fn readiness(&self) -> Readiness {
        self.node.get().map(Front::readiness).unwrap_or_else(|| Readiness {
            ready: false,
            reasons: vec!["starting: the log and the store are being opened".to_owned()],
        })
    }

    fn startup(&self) -> Startup {
        let unknown = Startup { done: false, replayed_entries: 0, total_entries: 0 };
        self.node.get().map(Front::startup).unwrap_or(unknown)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;
    use stemedb::NodeOptions;

    #[tokio::test]
    async fn before_the_node_everything_is_starting_and_behind_it_all_is_the_node_s() {
        let doorstep = Doorstep::new("node-7");
        assert_eq!(doorstep.status().node_name, "node-7");
        assert!(!doorstep.readiness().ready && !doorstep.startup().done);
        let refused = doorstep.admit(None, None, Need::Inspect).await.unwrap_err();
        assert_eq!(refused, Error::unavailable(Unavailable::Starting));

        let dir = tempfile::tempdir().unwrap();
        let node = Node::start(NodeOptions::alone(dir.path())).await.unwrap();
        node.wait_ready(Duration::from_secs(30)).await.unwrap();
        doorstep.fill(node.clone());
        assert_eq!(doorstep.status().node_name, "alone");
        assert!(doorstep.readiness().ready && doorstep.startup().done);
        assert!(doorstep.admit(None, None, Need::Inspect).await.is_ok());
        node.shutdown().await;
    }
}
