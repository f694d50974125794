//! Stores, as far as learners need them: states that follow the learners', and that a learner takes over
//! when no other learner has what the acceptors have forgotten.

use node::media::SimMedia;
use node::snapshots::Snapshots;
use paxos::ids::{Role, Slot};
use paxos::machine::Machine;

use super::Sim;
use super::node::{Disk, Process};

/// Of a thousand ticks of a learner, those at which a store takes what it has.
const FOLLOWS: u32 = 300;

impl Sim {
    /// A store takes over what a learner has applied and on disk.
    pub(super) fn feed_a_store(&mut self, at: usize) {
        if self.stores.is_empty() || !self.rng.chance(FOLLOWS) {
            return;
        }
        let which = self.rng.below(self.stores.len() as u64) as usize;
        let node = &self.nodes[at];
        let (Process::Learner(replica), Disk::Shelf(shelf)) = (&node.process, &node.disk) else {
            return;
        };
        let applied = replica.machine.applied();
        let is_news = applied > self.stores[which].applied();
        if is_news && applied <= shelf.durable && !replica.is_mute() {
            self.stores[which] = replica.machine.clone();
            self.check.store_durable(which, applied);
        }
    }

    /// How far each store is.
    pub(super) fn stored(&self) -> Vec<Slot> {
        self.stores.iter().map(Machine::applied).collect()
    }

    /// All learners lose their disks at once, if a store has all that any of them ever had there.
    pub(super) fn lose_learners(&mut self) {
        let most = self.check.learners_durable();
        if most == Slot::ZERO || self.stored().iter().all(|applied| *applied < most) {
            return;
        }
        for at in self.of_role(Role::Learner) {
            self.crash(at, self.config.down);
            if let Disk::Shelf(shelf) = &mut self.nodes[at].disk {
                shelf.wipe();
            }
            self.nodes[at].belongs = None;
        }
        self.summary.learners_lost += 1;
    }

    /// No learner has what is missing here: a store's state, if it is further.
    pub(super) fn take_over_a_store(&mut self, at: usize) {
        let Process::Learner(replica) = &self.nodes[at].process else {
            return;
        };
        let mine = replica.core.delivered();
        let furthest = self.stores.iter().max_by_key(|store| store.applied());
        let Some(store) = furthest.filter(|store| store.applied() > mine) else {
            return;
        };
        let slot = store.applied();
        let sent = Snapshots::open(SimMedia::new()).expect("an empty folder");
        sent.write(&store.freeze()).expect("a healthy disk");
        let read = sent.read(slot, 0, u64::MAX).expect("a healthy disk");
        let (bytes, _) = read.expect("it was written");
        if self
            .on_shelf(at, |replica, _| replica.receive(slot, 0, &bytes))
            .is_some()
        {
            self.install(at, slot);
            self.summary.from_stores += 1;
        }
    }
}
