//! Whether a learner has what the acceptors have, as its driver asks them; and the world in which all
//! acceptors were set back in time at once, which must be noticed.

use paxos::ids::{NodeId, Role, Slot};
use paxos::message::{Learn, Message, Reply, Value};
use paxos::verify::{Verdict, Verify};

use super::Sim;
use super::heal::{SETTLE, WRITE};
use super::node::{Asker, Disk, Process};

/// A question to the acceptors, and whether somebody has said something else.
#[derive(Debug)]
pub(super) struct Doubt {
    pub(super) verify: Verify,
    pub(super) told: bool,
}

impl Sim {
    /// Whether a learner may take this message: what it says of slots applied is what was applied.
    pub(super) fn is_told_the_same(&mut self, at: usize, learn: &Learn) -> bool {
        let Process::Learner(replica) = &self.nodes[at].process else {
            return false;
        };
        if replica.halted || replica.is_in_doubt() {
            return false;
        }
        let compared = replica.digests.compare(learn);
        let mine = |slot| replica.digests.of(slot);
        let other = compared.other.and_then(|slot| Some((slot, mine(slot)?)));
        let older = || replica.older_differs(learn, compared.unknown?);
        let Some((slot, mine)) = other.or_else(older) else {
            let (known, id) = (replica.digests.known(), self.nodes[at].name.id);
            for (slot, value) in (learn.first.0..).map(Slot).zip(learn.values.iter()) {
                let is_known = known.is_some_and(|(first, last)| first <= slot && slot <= last);
                assert!(
                    !is_known || self.check.applied_value(id, slot) == Some(value),
                    "a learner notices that it is told another value for {slot}"
                );
            }
            return true;
        };
        self.ask_acceptors(at, slot, mine, true);
        false
    }

    fn ask_acceptors(&mut self, at: usize, slot: Slot, mine: u64, told: bool) {
        let members = self.list(at);
        self.check.asks_by(members);
        let verify = Verify::new(members, slot, mine);
        let packet = self.said(at, Message::Request(verify.request()));
        if let Process::Learner(replica) = &mut self.nodes[at].process {
            replica.doubt = Some(Doubt { verify, told });
        }
        self.send_all(at, Role::Acceptor, &packet);
    }

    /// An acceptor answers a learner.
    pub(super) fn heard_vote(&mut self, at: usize, from: NodeId, reply: &Reply) {
        let Process::Learner(replica) = &mut self.nodes[at].process else {
            return;
        };
        let Some(doubt) = &mut replica.doubt else {
            return;
        };
        let Some(verdict) = doubt.verify.answer(from, reply) else {
            return;
        };
        self.judge(at, verdict);
    }

    fn judge(&mut self, at: usize, verdict: Verdict) {
        let Process::Learner(replica) = &mut self.nodes[at].process else {
            return;
        };
        let Some(doubt) = replica.doubt.take() else {
            return;
        };
        let (slot, told) = (doubt.verify.slot(), doubt.told);
        match verdict {
            Verdict::Same => self.summary.words_refused += u64::from(told),
            Verdict::Forgotten => {}
            Verdict::Other(_) | Verdict::NoVote => {
                assert!(
                    self.is_set_back,
                    "acceptors have what a learner has applied: {verdict:?} in {slot}"
                );
                replica.halted = true;
                self.summary.noticed += 1;
            }
        }
    }

    /// Asks again, or takes a sample: the newest slot or any that is remembered.
    pub(super) fn sample(&mut self, at: usize) {
        let Process::Learner(replica) = &self.nodes[at].process else {
            return;
        };
        if replica.halted {
            return;
        }
        if let Some(Doubt { verify, told: true }) = &replica.doubt {
            if let Some(verdict) = verify.give_up() {
                return self.judge(at, verdict);
            }
            let packet = self.said(at, Message::Request(verify.request()));
            return self.send_all(at, Role::Acceptor, &packet);
        }
        let Some((first, last)) = replica.digests.known() else {
            return;
        };
        if !self.config.samples || !self.may_learn(at) {
            return;
        }
        let slot = match self.rng.chance(500) {
            true => last,
            false => Slot(self.rng.between(first.0, last.0)),
        };
        if let Some(mine) = replica.digests.of(slot) {
            self.ask_acceptors(at, slot, mine, false);
        }
    }

    /// Somebody who is no leader tells a learner another value for a slot that it has applied, or one
    /// that cannot be read for any slot.
    pub(super) fn say_something_else(&mut self, at: usize) {
        let Process::Learner(replica) = &self.nodes[at].process else {
            return;
        };
        let applied = replica.core.delivered();
        if applied == Slot::ZERO || replica.halted {
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
