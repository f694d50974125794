//! Elections: probe, claim, prepare, and what a new leader takes over.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::mem;

use super::{Claim, Effects, Leading, Phase, Probed, Promise, Proposer, To};
use crate::ids::{Ballot, Members, NodeId, Slot};
use crate::message::{Request, Value, Vote};

/// How many election timeouts a candidate waits for promises, asking again at each: acceptors' disks may
/// take longer than one over a promise, and giving up would waste it.
pub(super) const PREPARE_TIMEOUTS: u32 = 10;

impl Proposer {
    pub(super) fn probe(&mut self, even_if_led: bool, effects: &mut Effects) {
        effects.leader_changed = self.leader().is_some();
        effects.restart_election_timer = true;
        effects.acceptors.push((To::All, Request::Probe));
        self.phase = Phase::Probing {
            even_if_led,
            probed: BTreeMap::new(),
        };
    }

    pub(super) fn probed(
        &mut self,
        from: NodeId,
        answer: Probed,
        claims: &mut Vec<Claim>,
        effects: &mut Effects,
    ) {
        let members = self.members;
        let Phase::Probing {
            even_if_led,
            probed,
        } = &mut self.phase
        else {
            return;
        };
        probed.insert(from, answer);
        let willing = probed
            .values()
            .filter(|p| *even_if_led || !p.leader_alive)
            .count();
        if !members.is_quorum(willing) {
            return;
        }
        let promised = probed.values().map(|p| p.promised);
        let Some(counter) = next_round(self.counter, promised, members) else {
            return;
        };
        let counter = counter.saturating_add(std::mem::take(&mut self.skip));
        let Some(ballot) = Ballot::new(counter, self.me) else {
            return;
        };
        self.counter = counter;
        claims.push(Claim { counter });
        let (run, from) = (self.run, self.committed.next());
        effects.restart_election_timer = true;
        effects
            .acceptors
            .push((To::All, Request::Prepare { ballot, run, from }));
        self.phase = Phase::Preparing {
            ballot,
            from,
            promises: BTreeMap::new(),
            failed: BTreeSet::new(),
            timeouts: 0,
        };
    }

    /// Asks those again whose promises are not complete; `false` when that is not the phase, or enough.
    pub(super) fn prepare_longer(&mut self, effects: &mut Effects) -> bool {
        let Phase::Preparing {
            ballot,
            from,
            promises,
            timeouts,
            ..
        } = &mut self.phase
        else {
            return false;
        };
        *timeouts += 1;
        if *timeouts > PREPARE_TIMEOUTS {
            return false;
        }
        effects.restart_election_timer = true;
        for acceptor in self.members.acceptors() {
            let next = match promises.get(&acceptor) {
                None => Some(*from),
                Some(promise) => promise.rest,
            };
            effects.acceptors.extend(next.map(|from| {
                let (ballot, run) = (*ballot, self.run);
                (To::One(acceptor), Request::Prepare { ballot, run, from })
            }));
        }
        true
    }

    pub(super) fn promised(
        &mut self,
        acceptor: NodeId,
        promised: Ballot,
        start: Slot,
        part: Promise,
        effects: &mut Effects,
    ) {
        let members = self.members;
        let Phase::Preparing {
            ballot,
            from,
            promises,
            ..
        } = &mut self.phase
        else {
            return;
        };
        if promised != *ballot {
            return;
        }
        // Parts count only in order, so that a duplicate or a late one cannot leave a hole.
        match promises.get_mut(&acceptor) {
            None if start == *from => drop(promises.insert(acceptor, part.clone())),
            Some(known) if known.rest == Some(start) => {
                known.votes.extend(part.votes);
                known.committed = known.committed.max(part.committed);
                known.rest = part.rest;
            }
            _ => return,
        }
        // Much to hear, or a slow link, is no reason to begin again from the start.
        effects.restart_election_timer = true;
        if let Some(rest) = part.rest {
            let more = Request::Prepare {
                ballot: *ballot,
                run: self.run,
                from: rest,
            };
            effects.acceptors.push((To::One(acceptor), more));
        }
        let whole = promises.values().filter(|promise| promise.rest.is_none());
        if members.is_quorum(whole.count()) {
            let (ballot, promises) = (*ballot, mem::take(promises));
            self.lead(ballot, promises, effects);
        }
    }

    pub(super) fn lead(
        &mut self,
        ballot: Ballot,
        promises: BTreeMap<NodeId, Promise>,
        effects: &mut Effects,
    ) {
        let complete = || promises.values().filter(|promise| promise.rest.is_none());
        let told = complete()
            .map(|promise| promise.committed)
            .max()
            .unwrap_or_default();
        self.committed = self.committed.max(told);
        // The rule of Paxos: in each slot, the value of the highest ballot in the quorum.
        let mut highest: BTreeMap<Slot, &Vote> = BTreeMap::new();
        for vote in complete().flat_map(|promise| &promise.votes) {
            let best = highest.entry(vote.slot).or_insert(vote);
            if vote.ballot > best.ballot {
                *best = vote;
            }
        }
        let first = self.committed.next();
        let recovered = highest
            .last_key_value()
            .map_or(first, |(slot, _)| slot.next().max(first));
        if self.is_behind(recovered.previous(), effects) {
            return self.follow(None, effects);
        }
        // Where no acceptor of the quorum has voted, nothing was and nothing will be chosen below
        // this ballot: a no-op closes the hole.
        let unsent = (first.0..recovered.0)
            .map(|slot| {
                highest
                    .get(&Slot(slot))
                    .map_or(Value::NOOP, |vote| vote.value.clone())
            })
            .collect::<VecDeque<Value>>();
        self.phase = Phase::Leading(Box::new(Leading {
            open_bytes: unsent.iter().map(Value::len).sum(),
            ballot,
            recovered,
            next: recovered,
            unsent,
            order: self.members.acceptors().collect(),
            in_flight: BTreeMap::new(),
            late: Vec::new(),
            late_size: (0, 0),
            late_open: BTreeSet::new(),
            chosen: BTreeMap::new(),
            applied: self.committed,
            chosen_bytes: BTreeMap::new(),
            no_room: BTreeMap::new(),
            round: 0,
            round_to_all: true,
            ticks: 0,
            confirmed: (0, 0),
            renewed: complete_ids(&promises)
                .map(|acceptor| (acceptor, 0))
                .collect(),
            reads: VecDeque::new(),
        }));
        effects.leader_changed = true;
        self.send_batches(effects);
        self.announce(effects);
    }
}

/// A round above `used` and above as many of the promises as can be, which a quorum still takes.
/// `None` if there is none yet: one acceptor with an absurd promise must not lead the round out of
/// the others' reach.
pub(super) fn next_round(
    used: u64,
    promised: impl Iterator<Item = Ballot>,
    members: Members,
) -> Option<u64> {
    let mut rounds: Vec<u64> = promised.map(Ballot::counter).collect();
    rounds.sort_unstable_by(|a, b| b.cmp(a));
    let taken = |next: &u64| {
        let takes = |round: &&u64| **round < *next && *next - **round <= Ballot::MAX_JUMP;
        members.is_quorum(rounds.iter().filter(takes).count())
    };
    let mut above = rounds
        .iter()
        .map(|round| used.max(*round).saturating_add(1));
    above.find(taken)
}

pub(super) fn complete_ids(promises: &BTreeMap<NodeId, Promise>) -> impl Iterator<Item = NodeId> {
    promises
        .iter()
        .filter(|(_, promise)| promise.rest.is_none())
        .map(|(acceptor, _)| *acceptor)
}
