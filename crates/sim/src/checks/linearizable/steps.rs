//! What may happen next, and what is not worth trying.
//!
//! A step lets one operation happen. Most need not be tried, and nothing is lost:
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
//! No write of unknown outcome is left out beforehand. A value that nobody names
//! may still be why a delete found something, or why a swap was refused. But
//! such writes are interchangeable, so all that counts is how many are left of
//! them, and a way that used fewer covers one that used more.

use super::configuration::{Configuration, Slots};
use super::history::{Held, Kind, NOTHING};
use super::search::{Class, GROUPS, Pending, Search};

impl Search<'_> {
    /// All that may happen next, and is not known to be of no use.
    pub(super) fn steps(
        &self,
        from: &Configuration,
        due: [Option<u32>; 2],
        now: u64,
    ) -> Vec<Configuration> {
        let known = self.pending.iter().filter_map(|step| self.take(from, *step, due, now));
        let mut met = [false; GROUPS];
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
        self.leave(from.held, to, now).filter(|to| !to.owing || self.may_pay(from.held, to))
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
            && self.expecting(from.held).any(|other| {
                other.kind == Kind::Swap(from.held, held) && other.next(from).is_some()
            })
        {
            return None; // The swap does as well here, and is of less use elsewhere.
        }
        to.owing = !self.look(&mut to);
        self.leave(from.held, to, now).filter(|to| !to.owing || self.may_pay(from.held, to))
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

    /// Whether anything could come next that looks at what the last step left, and for which it was
    /// necessary. A delete that finds something only needs it where there was nothing before.
    fn may_pay(&self, before: Held, way: &Configuration) -> bool {
        let known = |op: &Pending| match op.kind {
            Kind::Remove => before == NOTHING && !way.is_taken(op.slot),
            Kind::Swap(expect, _) => way.held == expect && !way.is_taken(op.slot),
            Kind::Is(_) | Kind::IsNot(_) | Kind::Write(_) => false,
        };
        self.pending.iter().any(known)
            || self.expecting(way.held).any(|class| class.next(way).is_some())
    }

    /// The classes of swaps that expect this.
    fn expecting(&self, held: Held) -> impl Iterator<Item = &Class> {
        let first = self.classes.partition_point(|class| class.kind < Kind::Swap(held, NOTHING));
        self.classes[first..].iter().take_while(move |class| class.kind.needs() == Some(held))
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
    pub(super) fn bury(&self, way: &mut Configuration, gone: Held) {
        self.expecting(gone)
            .flat_map(|class| class.members.clone())
            .for_each(|unknown| way.spend(unknown));
    }
}
