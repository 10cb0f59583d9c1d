//! From return to return with all ways that are left.
//!
//! When an operation returns, its answer must be explained: each configuration
//! either has it explained already, or lets it happen now, or lets others that
//! are under way happen first. A configuration that cannot is gone. If none is
//! left, no order explains the answers; if one is left at the end, one does.
//!
//! What is not tried, and why nothing is lost:
//!
//! - **A look that sees what it should sees it at once.** It changes nothing,
//!   and has one thing less to wait for.
//! - **Nothing happens before something that returns needs it.** Until then it
//!   may as well happen later; after a write of unknown outcome, any time later.
//! - **A write is not tried only to be written over.** It could have happened
//!   right before the one that wrote over it, unseen, together with the looks
//!   that needed it. So whenever something is written over, all writes under way
//!   become settled. Hence a write that is not itself the one to be explained
//!   must be looked at by the next step: until then its configuration is *owing*.
//!   The same holds for unknown outcomes, which can also wait or never happen.
//! - **Of interchangeable operations the one that returns first goes first.** In
//!   any order where another goes first, the two can trade places.
//! - **A value that nobody will write again is not written over while somebody
//!   still needs it.** Nobody could explain that answer later.
//!
//! Unknown outcomes: none is left out beforehand. A value that nobody names may
//! still be why a delete found something, or why a swap was refused. But such
//! writes are interchangeable, so all that counts is how many are left of them,
//! and a way that used fewer covers one that used more.

use std::collections::VecDeque;
use std::ops::Range;

use super::PENDING_MAX;
use super::configuration::{Alike, Configuration, Frontier, Slots};
use super::history::{Event, Held, History, Kind, NOTHING};

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

    pub(super) fn spend(&mut self, work: u64) -> Result<(), Exhausted> {
        self.left = self.left.checked_sub(work).ok_or(Exhausted)?;
        Ok(())
    }
}

/// Whether some order explains all answers.
pub(super) fn linearizable(history: &History, work: Work) -> Result<bool, Exhausted> {
    let mut search = Search::new(history, work)?;
    for (place, event) in &history.events {
        match event {
            Event::Called(op) => search.called(*op)?,
            Event::Returned(op) => search.returned(*op, *place)?,
        }
        if search.frontier.is_empty() {
            return Ok(false);
        }
    }
    Ok(true)
}

/// An operation under way, of known outcome.
#[derive(Clone, Copy, Debug)]
struct Pending {
    op: usize,
    kind: Kind,
    slot: u32,
    returned: u64,
}

/// Operations of unknown outcome that do the same, hence interchangeable.
#[derive(Debug)]
struct Class {
    kind: Kind,
    /// Where they stand among all of unknown outcome, in the order of their calls.
    members: Range<usize>,
    /// How many of them have been called.
    called: usize,
    /// Which other classes have become like this one, if any.
    alike: Option<usize>,
}

impl Class {
    /// One that may still happen.
    fn next(&self, way: &Configuration) -> Option<usize> {
        self.members.clone().take(self.called).find(|unknown| !way.is_spent(*unknown))
    }
}

struct Search<'a> {
    history: &'a History,
    frontier: Frontier,
    pending: Vec<Pending>,
    classes: Vec<Class>,
    /// The class of each operation of unknown outcome.
    class_of: Vec<usize>,
    /// Those that write a value that nobody tells from others any more: whatever the key holds, and
    /// where it holds nothing.
    alike: [Alike; 2],
    work: Work,
}

impl<'a> Search<'a> {
    fn new(history: &'a History, mut work: Work) -> Result<Self, Exhausted> {
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
        let alike = [Alike::new(unknown.len()), Alike::new(unknown.len())];
        frontier.insert(Configuration::new(unknown.len()), &alike, &mut work)?;
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
                && met.insert(way.clone(), &self.alike, &mut self.work)?
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
                arrived.insert(way, &self.alike, &mut self.work)?;
            }
        }
        self.frontier = arrived;
        self.pending.swap_remove(at);
        Ok(())
    }

    /// Sees which classes have become alike.
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

    /// All that may happen next, and is not known to be of no use.
    fn steps(&self, from: &Configuration, due: [Option<u32>; 2], now: u64) -> Vec<Configuration> {
        let known = self.pending.iter().filter_map(|step| self.take(from, *step, due, now));
        let mut met = [false; 2];
        let unknown = self.classes.iter().filter(|class| {
            // Of those that are alike, one.
            let first = class.alike.is_none_or(|group| !met[group]);
            let may = first && class.next(from).is_some();
            class.alike.filter(|_| may).into_iter().for_each(|group| met[group] = true);
            may
        });
        let unknown = unknown.filter_map(|class| self.spend(from, class, now));
        known.chain(unknown).collect()
    }

    /// An operation of known outcome happens.
    fn take(
        &self,
        from: &Configuration,
        step: Pending,
        due: [Option<u32>; 2],
        now: u64,
    ) -> Option<Configuration> {
        if step.kind.looks() || from.is_taken(step.slot) || self.waits(from, step) {
            return None;
        }
        let mut to = from.clone();
        to.take(step.slot);
        self.happen(&mut to, step.kind, now)?;
        let seen = self.look(&mut to);
        let writes = matches!(step.kind, Kind::Write(_));
        to.owing = writes && !seen && !due.contains(&Some(step.slot));
        self.leave(from.held, to, now)
    }

    /// One of this class, of unknown outcome, happens.
    fn spend(&self, from: &Configuration, class: &Class, now: u64) -> Option<Configuration> {
        let may = match class.kind {
            Kind::Write(_) => !from.owing,
            kind => kind.needs() == Some(from.held),
        };
        let one = class.next(from).filter(|_| may)?;
        let mut to = from.clone();
        to.spend(one);
        self.happen(&mut to, class.kind, now)?;
        if to.held == from.held && to.settled == from.settled {
            return None; // As good as never.
        }
        if let Kind::Write(held) = class.kind
            && to.settled == from.settled
            && self.classes.iter().any(|other| {
                other.kind == Kind::Swap(from.held, held) && other.next(from).is_some()
            })
        {
            return None; // The swap does as well here, and is of less use elsewhere.
        }
        to.owing = !self.look(&mut to);
        self.leave(from.held, to, now)
    }

    /// It happens, if it may now.
    fn happen(&self, to: &mut Configuration, kind: Kind, now: u64) -> Option<()> {
        to.held = match kind {
            Kind::Write(held) if !to.owing => {
                self.settle_unseen(to, now, |_| true);
                held
            }
            Kind::Remove if to.held != NOTHING => {
                // It does not see what it removes, only that there is something.
                self.settle_unseen(to, now, |unseen| unseen != NOTHING);
                NOTHING
            }
            Kind::Swap(expect, held) if to.held == expect => held,
            _ => return None,
        };
        Some(())
    }

    /// Settles the writes that could happen now without anybody knowing, if they leave what passes.
    ///
    /// One that somebody needs brings its looks with it, provided that all are under way: the write,
    /// then all of them, then on as before. If a swap needs it, or a look to come, it must be taken.
    fn settle_unseen(&self, to: &mut Configuration, now: u64, passes: impl Fn(Held) -> bool) {
        for write in &self.pending {
            let Kind::Write(held) = write.kind else { continue };
            if !passes(held) || to.is_taken(write.slot) {
                continue;
            }
            if self.history.once(held) {
                let needing = self.pending.iter().filter(|op| op.kind.needs() == Some(held));
                if self.history.needed_until(held) > now
                    || needing.clone().any(|op| !op.kind.looks())
                {
                    continue;
                }
                needing.for_each(|look| to.settle(look.slot));
            }
            to.settle(write.slot);
        }
    }

    /// All looks under way see what the key holds; whether one was glad of it.
    fn look(&self, to: &mut Configuration) -> bool {
        let before = to.settled;
        let looks = self.pending.iter().filter(|look| look.kind.sees(to.held));
        let slots = looks.fold(0, |slots: Slots, look| slots | 1 << look.slot);
        to.settled |= slots;
        to.settled != before
    }

    /// Whether another that does the same and returns earlier should go first.
    fn waits(&self, from: &Configuration, step: Pending) -> bool {
        self.pending.iter().any(|other| {
            other.kind == step.kind
                && other.returned < step.returned
                && !from.is_taken(other.slot)
                && from.is_settled(other.slot) == from.is_settled(step.slot)
        })
    }

    /// The key holds something else than before; none if somebody still needs what is gone for good.
    fn leave(&self, held: Held, mut to: Configuration, now: u64) -> Option<Configuration> {
        if to.held == held || !self.history.once(held) {
            return Some(to);
        }
        let mut needing = self.pending.iter().filter(|op| op.kind.needs() == Some(held));
        if self.history.needed_until(held) > now || needing.any(|op| !to.answered(op.slot)) {
            return None;
        }
        self.bury(&mut to, held);
        Some(to)
    }

    /// The key never holds this again: what of unknown outcome could have happened to it is as good
    /// as spent. It would only tell ways apart that are not.
    fn bury(&self, way: &mut Configuration, gone: Held) {
        let expecting = self.classes.iter().filter(|class| class.kind.needs() == Some(gone));
        expecting.flat_map(|class| class.members.clone()).for_each(|unknown| way.spend(unknown));
    }
}
