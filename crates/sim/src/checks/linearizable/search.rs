//! From return to return with all ways that are left.
//!
//! When an operation returns, its answer must be explained: each configuration
//! either has it explained already, or lets it happen now, or lets others that
//! are under way happen first. A configuration that cannot is gone. If none is
//! left, no order explains the answers; if one is left at the end, one does.
//!
//! What may happen next, and what is not worth trying, is in `steps`.

use std::collections::VecDeque;
use std::ops::Range;

use super::PENDING_MAX;
use super::configuration::{Alike, Configuration, Frontier, Slots};
use super::history::{Event, History, Kind, NOTHING};

/// How many groups of classes there are of which it does not matter which one happens.
pub(super) const GROUPS: usize = 2;

/// The work or the slots did not suffice.
#[derive(Debug)]
pub(super) struct Exhausted;

/// What may still be spent.
#[derive(Debug)]
pub(super) struct Work {
    left: u64,
}

impl Work {
    pub(super) fn new(work_max: u64) -> Self {
        Self { left: work_max }
    }

    /// A part of it for one purpose; what is left of the part stays here.
    pub(super) fn part<T>(&mut self, work_max: u64, purpose: impl FnOnce(&mut Self) -> T) -> T {
        let mut part = Self { left: work_max.min(self.left) };
        self.left -= part.left;
        let result = purpose(&mut part);
        self.left += part.left;
        result
    }

    pub(super) fn spend(&mut self, work: u64) -> Result<(), Exhausted> {
        let left = self.left.checked_sub(work);
        self.left = left.unwrap_or(0);
        left.map(|_| ()).ok_or(Exhausted)
    }
}

/// Where no way is left, if no order explains all answers: what was told before that has an order.
pub(super) fn dead_end(history: &History, work: &mut Work) -> Result<Option<u64>, Exhausted> {
    let mut search = Search::new(history, work)?;
    for (place, event) in &history.events {
        match event {
            Event::Called(op) => search.called(*op)?,
            Event::Returned(op) => search.returned(*op, *place)?,
        }
        if search.frontier.is_empty() {
            return Ok(Some(*place));
        }
    }
    Ok(None)
}

/// An operation under way, of known outcome.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pending {
    op: usize,
    pub(super) kind: Kind,
    pub(super) slot: u32,
    pub(super) returned: u64,
}

/// Operations of unknown outcome that do the same, hence interchangeable.
#[derive(Debug)]
pub(super) struct Class {
    pub(super) kind: Kind,
    /// Where they stand among all of unknown outcome, in the order of their calls.
    pub(super) members: Range<usize>,
    /// How many of them have been called.
    called: usize,
    /// The group that it has joined, if any.
    pub(super) alike: Option<usize>,
}

impl Class {
    /// One that may still happen.
    pub(super) fn next(&self, way: &Configuration) -> Option<usize> {
        self.members.clone().take(self.called).find(|unknown| !way.is_spent(*unknown))
    }
}

pub(super) struct Search<'a> {
    pub(super) history: &'a History,
    frontier: Frontier,
    pub(super) pending: Vec<Pending>,
    /// In the order of their kinds.
    pub(super) classes: Vec<Class>,
    /// The class of each operation of unknown outcome.
    class_of: Vec<usize>,
    /// The groups of those whose value nobody tells from others any more: that write it whatever the
    /// key holds, and that swap nothing for it.
    alike: [Alike; GROUPS],
    work: &'a mut Work,
}

impl<'a> Search<'a> {
    fn new(history: &'a History, work: &'a mut Work) -> Result<Self, Exhausted> {
        let mut unknown: Vec<(Kind, usize)> = (0..)
            .zip(&history.ops)
            .filter(|(_, op)| op.returned.is_none())
            .map(|(n, op)| (op.kind, n))
            .collect();
        unknown.sort_unstable();
        let mut classes: Vec<Class> = vec![];
        let mut class_of = vec![0; history.ops.len()];
        for (n, (kind, op)) in unknown.iter().enumerate() {
            match classes.last_mut() {
                Some(class) if class.kind == *kind => class.members.end += 1,
                _ => classes.push(Class { kind: *kind, members: n..n + 1, called: 0, alike: None }),
            }
            class_of[*op] = classes.len() - 1;
        }
        let mut frontier = Frontier::default();
        let alike = [(); GROUPS].map(|()| Alike::new(unknown.len()));
        frontier.insert(Configuration::new(unknown.len()), &alike, work)?;
        Ok(Self { history, frontier, pending: vec![], classes, class_of, alike, work })
    }

    fn called(&mut self, op: usize) -> Result<(), Exhausted> {
        let (kind, returned) = (self.history.ops[op].kind, self.history.ops[op].returned);
        let Some(returned) = returned else {
            self.classes[self.class_of[op]].called += 1;
            return Ok(());
        };
        let busy = self.pending.iter().fold(0, |busy: Slots, pending| busy | 1 << pending.slot);
        let slot = busy.trailing_ones();
        if slot as usize >= PENDING_MAX {
            return Err(Exhausted);
        }
        self.pending.push(Pending { op, kind, slot, returned });
        self.frontier.holding(|held| kind.sees(held)).for_each(|c| c.settle(slot));
        Ok(())
    }

    /// Lets happen what must have happened for this one to return.
    fn returned(&mut self, op: usize, now: u64) -> Result<(), Exhausted> {
        let Some(at) = self.pending.iter().position(|pending| pending.op == op) else {
            return Ok(());
        };
        let target = self.pending[at];
        // Whose last moment it is to happen in earnest: that of a write that returns, or of the one
        // write of what was seen, because it was seen by now.
        let last = self.pending.iter().find(|op| match op.kind {
            Kind::Write(held) => {
                op.op == target.op || (target.kind == Kind::Is(held) && self.history.once(held))
            }
            _ => false,
        });
        let due = last.map(|write| write.slot);
        // What it alone could have left, and did not by now, will never be.
        let gone = target.kind.leaves().filter(|held| self.history.once(*held));
        self.forget_names(now);
        let mut arrived = Frontier::default();
        let mut met = Frontier::default();
        let mut ways: VecDeque<_> =
            std::mem::take(&mut self.frontier).into_configurations().collect();
        while let Some(mut way) = ways.pop_front() {
            let answered = way.answered(target.slot);
            let last = due.filter(|slot| way.is_settled(*slot));
            if (!answered || last.is_some() || way.owing)
                && met.insert(way.clone(), &self.alike, self.work)?
            {
                self.work.spend((self.pending.len() + self.classes.len()) as u64)?;
                ways.extend(self.steps(&way, [Some(target.slot), due], now));
            }
            if answered && !way.owing {
                last.into_iter().for_each(|slot| way.take(slot));
                way.forget(target.slot);
                if let Some(gone) = gone.filter(|gone| *gone != way.held) {
                    self.bury(&mut way, gone);
                }
                arrived.insert(way, &self.alike, self.work)?;
            }
        }
        self.frontier = arrived;
        self.pending.swap_remove(at);
        Ok(())
    }

    /// Joins the classes whose values nobody tells from others from now on.
    fn forget_names(&mut self, now: u64) {
        for class in self.classes.iter_mut().filter(|class| class.alike.is_none()) {
            let (group, held) = match class.kind {
                Kind::Write(held) => (0, held),
                Kind::Swap(NOTHING, held) => (1, held),
                _ => continue,
            };
            if self.history.told_until(held) < now {
                class.alike = Some(group);
                class.members.clone().for_each(|unknown| self.alike[group].add(unknown));
            }
        }
    }
}
