//! A queue with a fast lane, counted in bytes; pure.
//!
//! Whatever is urgent leaves before whatever is not; within a lane, first in
//! is first out. Urgent traffic is small and rare by nature (votes,
//! heartbeats), so the normal lane is not protected from starving.

use std::collections::VecDeque;

use crate::message::Lane;

/// Two queues that are emptied as one.
#[derive(Debug)]
pub(crate) struct Lanes<T> {
    urgent: VecDeque<(usize, T)>,
    normal: VecDeque<(usize, T)>,
    bytes: usize,
}

impl<T> Lanes<T> {
    /// Nothing queued.
    pub(crate) fn new() -> Self {
        Self { urgent: VecDeque::new(), normal: VecDeque::new(), bytes: 0 }
    }

    /// Puts an item of `bytes` at the end of its lane.
    pub(crate) fn push(&mut self, lane: Lane, bytes: usize, item: T) {
        self.bytes += bytes;
        match lane {
            Lane::Urgent => self.urgent.push_back((bytes, item)),
            Lane::Normal => self.normal.push_back((bytes, item)),
        }
    }

    /// The next item to leave, with its bytes.
    pub(crate) fn pop(&mut self) -> Option<(usize, T)> {
        let (bytes, item) = self.urgent.pop_front().or_else(|| self.normal.pop_front())?;
        self.bytes -= bytes;
        Some((bytes, item))
    }

    /// Sum of what is queued.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether nothing is queued.
    pub(crate) fn is_empty(&self) -> bool {
        self.urgent.is_empty() && self.normal.is_empty()
    }

    /// Forgets everything.
    pub(crate) fn clear(&mut self) {
        *self = Self::new();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_urgent_leave_first_and_each_lane_keeps_its_order() {
        let mut lanes = Lanes::new();
        for (lane, item) in
            [(Lane::Normal, 1), (Lane::Normal, 2), (Lane::Urgent, 3), (Lane::Urgent, 4)]
        {
            lanes.push(lane, 10, item);
        }
        assert_eq!(lanes.bytes(), 40);
        let left: Vec<i32> = std::iter::from_fn(|| lanes.pop()).map(|(_, item)| item).collect();
        assert_eq!(left, [3, 4, 1, 2]);
        assert_eq!((lanes.bytes(), lanes.is_empty()), (0, true));
    }
}
