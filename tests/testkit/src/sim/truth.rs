//! False words to learners; and the world in which all acceptors were set back in time at once, which must
//! be noticed.

use paxos::ids::{Role, Slot};
use paxos::message::{Learn, Message, Value};

use super::Sim;
use super::heal::{SETTLE, WRITE};
use super::node::{Asker, Disk, Process};

impl Sim {
    /// Somebody who is no leader tells a learner another value for a slot that it has applied, or one
    /// that cannot be read for any slot.
    pub(super) fn say_something_else(&mut self, at: usize) {
        let Process::Learner(replica) = &self.nodes[at].process else {
            return;
        };
        let applied = replica.applied();
        if applied == Slot::ZERO || replica.role.halted().is_some() {
            return;
        }
        // What is not applied yet cannot be compared, but it can be read, or not.
        let is_unreadable = self.rng.chance(300);
        let last = if is_unreadable {
            applied.0 + 2
        } else {
            applied.0
        };
        let first = Slot(self.rng.between(1, last));
        if is_unreadable {
            self.unreadable.insert(first);
        }
        let value = match self.rng.chance(500) {
            _ if is_unreadable => Value(vec![0xff; self.rng.between(1, 40) as usize].into()),
            true => Value::NOOP,
            false => self.clients.fresh(8),
        };
        let learn = Learn {
            first,
            values: [value].into(),
            committed: applied,
        };
        // At once: a learner that has lost its disk by the time this arrives believes what nobody voted
        // for, until messages bear their sender's identity.
        let packet = self.said(0, Message::Learn(learn));
        if !self.asleep(at) {
            let life = (0, self.nodes[0].life);
            self.receive(Asker { life, call: 0 }, at, packet);
        }
    }

    /// A copy of every acceptor's disk, all of one moment.
    pub(super) fn copy_all_disks(&mut self) {
        for at in self.of_role(Role::Acceptor) {
            if let Disk::Log(log) = &self.nodes[at].disk {
                self.nodes[at].early = Some(log.copy());
            }
        }
    }

    /// Everything ends, and all acceptors start again from those copies; `false`, and nothing has
    /// happened, if they hold all that any learner has.
    pub(super) fn set_all_back(&mut self) -> bool {
        let acceptors: Vec<usize> = self.of_role(Role::Acceptor).collect();
        let copies: Vec<_> = acceptors
            .iter()
            .filter_map(|at| self.nodes[*at].early.clone())
            .collect();
        let known = copies.iter().map(|copy| copy.last_vote()).max();
        let founded = copies.iter().all(|copy| copy.is_founded());
        let learners = self.of_role(Role::Learner);
        let durable = learners.filter_map(|at| match &self.nodes[at].disk {
            Disk::Shelf(shelf) => Some(shelf.durable),
            _ => None,
        });
        let most = durable.max().unwrap_or_default();
        if copies.len() < acceptors.len() || !founded || known.is_none_or(|known| known >= most) {
            return false;
        }
        for at in 0..self.nodes.len() {
            self.crash(at, 1);
        }
        self.end_connections();
        self.check.set_back();
        self.is_set_back = true;
        for (at, copy) in acceptors.into_iter().zip(copies) {
            self.nodes[at].lost = false;
            if let Disk::Log(log) = &mut self.nodes[at].disk {
                log.restore(&copy);
            }
        }
        self.summary.set_back += 1;
        true
    }

    /// The end of that world: nobody leads for long, and somebody says why.
    pub(super) fn notice(&mut self) {
        self.mend();
        self.pass(SETTLE);
        let answered = self.check.answers();
        for leader in self.leaders() {
            let fresh = self.fresh();
            self.submit(leader, fresh, WRITE);
        }
        self.pass(WRITE);
        assert!(
            self.summary.noticed > 0,
            "that all acceptors were set back is noticed"
        );
        assert_eq!(
            self.check.answers(),
            answered,
            "nothing is acknowledged once it is noticed"
        );
    }
}
