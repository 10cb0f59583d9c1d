//! openraft's own storage suite, on our stores: a real WAL and a real RocksDB in a fresh folder
//! for each of its cases.

use std::sync::Arc;

use openraft::StorageError;
use openraft::testing::log::{StoreBuilder, Suite};
use stemedb_engine::{Budget, Group as EngineGroup, RocksStore, Store};
use stemedb_types::{GroupId, ReplicaId};
use stemedb_wal::{Options, Wal};
use tempfile::TempDir;

use crate::applier::{Applied, Applier};
use crate::damage::Damages;
use crate::log_store::LogStore;
use crate::space::Space;
use crate::types::Config;

struct Fresh;

fn open() -> std::io::Result<(TempDir, LogStore, Applier)> {
    let dir = tempfile::tempdir()?;
    // Small segments, so that the suite's purges really give segments back.
    let options = Options { segment_bytes: 64 << 10, ..Options::default() };
    let (wal, _) = Wal::open(&dir.path().join("wal"), options).map_err(std::io::Error::other)?;
    let budget =
        Budget { block_cache_bytes: 1 << 20, write_buffer_bytes: 1 << 20, ..Budget::default() };
    let store: Arc<dyn Store> = Arc::new(RocksStore::open(&dir.path().join("db"), budget)?);
    let group = EngineGroup::open(store, GroupId(1))?;
    let damages = Damages::default();
    let applier = Applier::open(Applied::open(group)?, damages.clone())?;
    Ok((dir, LogStore::new(wal, ReplicaId(7), Space::default(), damages), applier))
}

impl StoreBuilder<Config, LogStore, Applier, TempDir> for Fresh {
    async fn build(&self) -> Result<(TempDir, LogStore, Applier), StorageError<Config>> {
        open().map_err(|error| {
            StorageError::from_io_error(
                openraft::ErrorSubject::Store,
                openraft::ErrorVerb::Read,
                error,
            )
        })
    }
}

#[tokio::test]
async fn our_log_store_and_state_machine_pass_the_suite_of_openraft() {
    let passed = Suite::test_all(Fresh).await;
    passed.expect("every case of the suite");
}
