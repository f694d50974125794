//! Stores, as far as learners need them: states that follow the learners', and that a learner takes over
//! when no other learner has what the acceptors have forgotten.

use node::media::SimMedia;
use node::snapshots::Snapshots;
use paxos::ids::{NodeId, Role, Slot};
use paxos::machine::Machine;
use roles::learner::{self, Told};

use super::Sim;
use super::node::{Disk, Process};
use super::transfer::lacks;

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
        let applied = replica.applied();
        let is_news = applied > self.stores[which].applied();
        if is_news && applied <= shelf.durable && !replica.role.is_mute() {
            self.stores[which] = replica.state().machine.clone();
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

    /// A store answers a learner: with its state, of one moment however many pieces it comes in.
    pub(super) fn store_tells(&mut self, at: usize, store: NodeId, ask: learner::Ask) -> Told {
        let learner::Ask::Piece { slot, offset } = ask else {
            panic!("a store keeps no log: {ask:?}");
        };
        let Process::Learner(replica) = &mut self.nodes[at].process else {
            return lacks();
        };
        if slot.is_none() {
            let state = &self.stores[store.index()];
            let sent = Snapshots::open(SimMedia::new()).expect("an empty folder");
            sent.write(&state.freeze()).expect("a healthy disk");
            let read = sent.read(state.applied(), 0, u64::MAX);
            let (bytes, _) = read.expect("a healthy disk").expect("it was written");
            replica.made = Some((state.applied(), bytes));
        }
        match &replica.made {
            Some((made, bytes)) if slot.is_none_or(|slot| slot == *made) => Told::Piece {
                slot: *made,
                bytes: bytes.slice((offset as usize).min(bytes.len())..),
                length: bytes.len() as u64,
            },
            _ => lacks(),
        }
    }
}
