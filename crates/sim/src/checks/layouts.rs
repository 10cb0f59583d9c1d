//! The layout that any two nodes act on at one epoch is the same bytes.

use std::collections::BTreeMap;

use stemedb_types::Layout;

/// Every layout that a replica of the meta group was seen to hold, by epoch.
#[derive(Debug, Default)]
pub struct Layouts {
    seen: BTreeMap<u64, ([u8; 32], Layout)>,
}

impl Layouts {
    /// A replica holds a layout. An error: another holds a different one under the same epoch.
    pub fn see(&mut self, layout: &Layout) -> Result<(), String> {
        let fingerprint = layout.fingerprint();
        let (first, _) =
            self.seen.entry(layout.epoch).or_insert_with(|| (fingerprint, layout.clone()));
        if *first == fingerprint {
            return Ok(());
        }
        Err(format!("two layouts have epoch {}", layout.epoch))
    }

    /// The newest epoch that anybody holds.
    pub fn newest(&self) -> u64 {
        self.seen.keys().next_back().copied().unwrap_or(0)
    }

    /// The layout of that epoch, if there is one.
    pub fn last(&self) -> Option<&Layout> {
        self.seen.values().next_back().map(|(_, layout)| layout)
    }
}

#[cfg(test)]
mod tests {
    use stemedb_types::{NodeId, Replica, ReplicaId};

    use super::*;

    #[test]
    fn an_epoch_has_one_layout() {
        let empty = Layout { epoch: 1, ..Layout::default() };
        let other =
            Layout { meta: vec![Replica { node: NodeId(1), id: ReplicaId(1) }], ..empty.clone() };
        let mut layouts = Layouts::default();
        assert_eq!(layouts.see(&empty), Ok(()));
        assert_eq!(layouts.see(&Layout { epoch: 2, ..other.clone() }), Ok(()));
        assert_eq!(layouts.see(&empty), Ok(()));
        assert!(layouts.see(&other).is_err());
        assert_eq!(layouts.newest(), 2);
    }
}
