//! The store of a simulated node, and what a crash leaves of it.
//!
//! Most seeds run on `engine::MapStore`: it costs little, and it is the same twice. Some run again
//! on RocksDB, in a folder in memory: its threads are its own, so such a run gives no hash worth
//! comparing, but every promise must hold on it as well. There a crash goes back to what was
//! flushed (`engine::crash_copy`); now and then to an older flush would be allowed too, and is what
//! the crash tests of `crates/raft` do.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use stemedb_engine::crash_copy::crash_copy;
use stemedb_engine::{Budget, MapStore, RocksStore, Store};

use crate::draw::Draw;

/// Which store runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Kind {
    /// The map: the same seed gives the same run.
    #[default]
    Map,
    /// RocksDB.
    Rocks,
}

/// Small: rows are few, and a node in a simulation must cost little.
const BUDGET: Budget = Budget {
    block_cache_bytes: 1 << 20,
    write_buffer_bytes: 256 << 10,
    compaction_bytes_per_second: 0,
};

/// A node's store.
pub struct Rows(Inner);

enum Inner {
    Map(Arc<MapStore>),
    Rocks {
        dir: PathBuf,
        /// None: nobody has opened it since the last crash.
        open: Option<Arc<RocksStore>>,
        crashes: u64,
    },
}

impl Rows {
    /// An empty store; `folder` is this node's, and may be empty or not there.
    pub fn new(kind: Kind, folder: &Path) -> Result<Self, String> {
        Ok(Self(match kind {
            Kind::Map => {
                std::fs::create_dir_all(folder).map_err(|cause| cause.to_string())?;
                Inner::Map(Arc::new(MapStore::new(folder)))
            }
            Kind::Rocks => Inner::Rocks { dir: folder.join("0"), open: None, crashes: 0 },
        }))
    }

    /// The store, opened if it is not open. An error: it can't be, and why.
    pub fn store(&mut self) -> Result<Arc<dyn Store>, String> {
        match &mut self.0 {
            Inner::Map(map) => Ok(map.clone()),
            Inner::Rocks { dir, open, .. } => {
                let store = match open.take() {
                    Some(store) => store,
                    None => {
                        Arc::new(RocksStore::open(dir, BUDGET).map_err(|error| error.to_string())?)
                    }
                };
                Ok(open.insert(store).clone())
            }
        }
    }

    /// Goes back to what a crash leaves. Whoever still has the store of before has one that nobody
    /// looks at any more. An error: the copy could not be made, which is no fault of the store's.
    pub fn crash(&mut self, draw: &mut Draw) -> Result<(), String> {
        match &mut self.0 {
            Inner::Map(map) => *map = Arc::new(map.after_crash(&mut |bound| draw.below(bound))),
            Inner::Rocks { open: None, .. } => {}
            Inner::Rocks { dir, open, crashes } => {
                *crashes += 1;
                let after = dir.with_file_name(crashes.to_string());
                crash_copy(dir, &after).map_err(|cause| cause.to_string())?;
                (*dir, *open) = (after, None);
            }
        }
        Ok(())
    }
}
