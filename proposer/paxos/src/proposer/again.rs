//! What is sent again, to whom and when; and what those get that were not asked first. A request is
//! repeated when it has failed, never because time has passed.

use std::collections::BTreeSet;
use std::mem;

use super::reads::confirmed_round;
use super::replication::{accept, bytes_of};
use super::{Effects, Leading, Phase, Proposer, Settings, To};
use crate::ids::{Ballot, NodeId, Slot};
use crate::message::{Reply, Request, Values};

/// The longest pause, in ticks, before an acceptor that failed is asked for the same vote again.
const LONGEST_PAUSE: u64 = 16;
/// How many batches' worth of chosen values may wait for acceptors that are still busy with earlier
/// ones. What is older is left out: those acceptors have a hole there, as if they had been away.
const LATE_BATCHES: usize = 4;

/// What a request was, for [`Input::Failed`](super::Input::Failed).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Sent {
    /// A [`Request::Prepare`].
    Prepare {
        /// At this ballot.
        ballot: Ballot,
        /// For the votes from this slot on.
        from: Slot,
    },
    /// A [`Request::Accept`].
    Accept {
        /// At this ballot.
        ballot: Ballot,
        /// For the batch that begins here.
        first: Slot,
    },
    /// Another one.
    Other,
}

impl Sent {
    /// What that request was.
    pub fn of(request: &Request) -> Sent {
        match *request {
            Request::Prepare { ballot, from, .. } => Sent::Prepare { ballot, from },
            Request::Accept { ballot, first, .. } => Sent::Accept { ballot, first },
            _ => Sent::Other,
        }
    }

    /// Whether that reply gives what was asked for. One that does not ends the request all the same.
    pub fn is_answered_by(self, reply: &Reply) -> bool {
        match (self, reply) {
            (
                Sent::Prepare { ballot, from },
                Reply::Promise {
                    ballot: b, from: f, ..
                },
            ) => (ballot, from) == (*b, *f),
            (
                Sent::Accept { ballot, first },
                Reply::Accepted {
                    ballot: b,
                    first: f,
                    ..
                }
                | Reply::AcceptedTight {
                    ballot: b,
                    first: f,
                    ..
                },
            ) => (ballot, first) == (*b, *f),
            (Sent::Other, reply) => matches!(reply, Reply::Probed { .. } | Reply::Renewed { .. }),
            _ => false,
        }
    }
}

/// A chosen batch that some acceptors were not asked to vote for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Late {
    pub(super) first: Slot,
    pub(super) values: Values,
    pub(super) to: BTreeSet<NodeId>,
}

/// How often an acceptor was asked in vain, and the tick at which it is asked again; `None` once it
/// has been.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Failure {
    pub(super) count: u32,
    pub(super) again_at: Option<u64>,
}

impl Proposer {
    /// Sends what is chosen to those who were not asked to vote for it, so that it outlives as many
    /// disks as it can. One that has not answered for the last of it is sent more when it has,
    /// unless this is the `end`.
    pub(super) fn send_late(&mut self, end: bool, effects: &mut Effects) {
        let committed = self.committed;
        let settings = self.settings;
        let Phase::Leading(leading) = &mut self.phase else {
            return;
        };
        leading.late_size = (0, 0);
        if leading.late.is_empty() {
            return;
        }
        let mut late = mem::take(&mut leading.late);
        late.sort_unstable_by_key(|late| late.first);
        let busy: BTreeSet<NodeId> = match end {
            true => BTreeSet::new(),
            false => leading.late_open.iter().map(|(id, _)| *id).collect(),
        };
        let mut ready = Vec::new();
        for entry in late {
            let (waits, goes): (BTreeSet<_>, _) = entry.to.iter().partition(|a| busy.contains(a));
            if !waits.is_empty() {
                let (first, values) = (entry.first, entry.values.clone());
                let to = waits;
                leading.late.push(Late { first, values, to });
            }
            if !goes.is_empty() {
                ready.push(Late { to: goes, ..entry });
            }
        }
        leading.forget_late(&settings);
        let mut rest = ready.into_iter().peekable();
        while let Some(Late { first, values, to }) = rest.next() {
            let mut values = values.to_vec();
            let mut bytes = bytes_of(&values);
            while let Some(next) = rest.next_if(|next| {
                bytes += bytes_of(&next.values);
                next.first == first.plus(values.len() as u64)
                    && next.to == to
                    && values.len() + next.values.len() <= settings.batch_values
                    && bytes <= settings.batch_bytes
            }) {
                values.extend_from_slice(&next.values);
            }
            leading.late_open.extend(to.iter().map(|id| (*id, first)));
            let accept = accept(leading.ballot, first, values.into(), committed);
            effects.acceptors.push((To::Others(to), accept));
        }
    }

    /// A request to an acceptor is over without its answer. It is asked again after a pause that
    /// grows, and others at once in its place.
    pub(super) fn failed(&mut self, acceptor: NodeId, sent: Sent, effects: &mut Effects) {
        match (&mut self.phase, sent) {
            (
                Phase::Preparing {
                    ballot,
                    promises,
                    failed,
                    ..
                },
                Sent::Prepare {
                    ballot: asked,
                    from,
                },
            ) if *ballot == asked => {
                // The first part is asked for again with the next probe.
                let next = promises.get(&acceptor).and_then(|promise| promise.rest);
                if next == Some(from) {
                    failed.insert(acceptor);
                }
            }
            (
                Phase::Leading(leading),
                Sent::Accept {
                    ballot: asked,
                    first,
                },
            ) => {
                if leading.ballot != asked {
                    return;
                }
                let now = leading.ticks;
                if let Some(batch) = leading.in_flight.get_mut(&first)
                    && batch.asked.contains(&acceptor)
                    && !batch.votes.contains(&acceptor)
                {
                    let failure = batch.failed.entry(acceptor).or_default();
                    let pause = (1 << failure.count.min(8)).min(LONGEST_PAUSE);
                    failure.count += 1;
                    failure.again_at = Some(now + pause);
                }
                leading.late_open.remove(&(acceptor, first));
                self.unanswered(acceptor, effects);
            }
            (Phase::Leading(_), Sent::Other) => self.unanswered(acceptor, effects),
            _ => {}
        }
    }

    /// Asks others instead of that acceptor, and from now on before it.
    pub(super) fn unanswered(&mut self, acceptor: NodeId, effects: &mut Effects) {
        let committed = self.committed;
        let Phase::Leading(leading) = &mut self.phase else {
            return;
        };
        leading.ask_last(acceptor);
        for (first, batch) in &mut leading.in_flight {
            if !batch.asked.contains(&acceptor)
                || batch.votes.contains(&acceptor)
                || !batch.replaced.insert(acceptor)
            {
                continue;
            }
            let mut others = leading.order.iter().filter(|a| !batch.asked.contains(a));
            if let Some(other) = others.next().copied() {
                batch.asked.insert(other);
                let accept = accept(leading.ballot, *first, batch.values.clone(), committed);
                effects.acceptors.push((To::One(other), accept));
            }
        }
        // Once a round: it may answer this one the same way.
        let open = confirmed_round(&leading.renewed, self.members) < leading.round;
        if open && !leading.round_to_all {
            self.renew(To::All, effects);
        }
    }

    /// Asks for the next parts of promises that were asked for in vain.
    pub(super) fn prepare_again(&mut self, effects: &mut Effects) {
        let run = self.run;
        let Phase::Preparing {
            ballot,
            promises,
            failed,
            ..
        } = &mut self.phase
        else {
            return;
        };
        for acceptor in mem::take(failed) {
            if let Some(from) = promises.get(&acceptor).and_then(|promise| promise.rest) {
                let ballot = *ballot;
                let more = Request::Prepare { ballot, run, from };
                effects.acceptors.push((To::One(acceptor), more));
            }
        }
    }

    /// Time alone repeats nothing: what is under way fills the link, and a second copy would fill it
    /// again. Those that have failed are asked again, each after its pause.
    pub(super) fn ask_failed_again(&mut self, effects: &mut Effects) {
        let committed = self.committed;
        let Phase::Leading(leading) = &mut self.phase else {
            return;
        };
        let now = leading.ticks;
        for (first, batch) in &mut leading.in_flight {
            for (acceptor, failure) in &mut batch.failed {
                let due = failure.again_at.is_some_and(|at| at <= now);
                if due && !batch.votes.contains(acceptor) {
                    failure.again_at = None;
                    let accept = accept(leading.ballot, *first, batch.values.clone(), committed);
                    effects.acceptors.push((To::One(*acceptor), accept));
                }
            }
        }
    }
}

impl Leading {
    /// Leaves out what waits for acceptors that are too slow to take it.
    pub(super) fn forget_late(&mut self, settings: &Settings) {
        let (mut values, mut bytes) = (0, 0);
        let fits = |late: &&Late| {
            values += late.values.len();
            bytes += bytes_of(&late.values);
            values <= LATE_BATCHES * settings.batch_values
                && bytes <= LATE_BATCHES * settings.batch_bytes
        };
        let newest = self.late.iter().rev().take_while(fits).count();
        self.late.drain(..self.late.len() - newest);
    }

    pub(super) fn ask_last(&mut self, acceptor: NodeId) {
        if let Some(place) = self.order.iter().position(|a| *a == acceptor) {
            self.order[place..].rotate_left(1);
        }
    }
}
