//! Linearizable reads without the log: a quorum proves that nobody leads in this leader's place (Ongaro,
//! "Consensus", section 6.4).

use std::collections::BTreeMap;

use super::{Effects, Phase, Proposer, To};
use crate::ids::{Ballot, Members, NodeId};
use crate::message::Request;

impl Proposer {
    pub(super) fn read(&mut self, read: u64, effects: &mut Effects) {
        let Phase::Leading(leading) = &mut self.phase else {
            effects.unreadable.push(read);
            return;
        };
        // Only a round that starts after the read arrived proves anything about it. Reads that
        // arrive while a round is under way share the next one.
        let idle = confirmed_round(&leading.renewed, self.members) >= leading.round;
        leading.reads.push_back((read, leading.round + 1));
        if idle {
            let to = self.renewers();
            self.renew(to, effects);
        }
    }

    /// Who is asked to confirm this leader for reads.
    pub(super) fn renewers(&self) -> To {
        match &self.phase {
            Phase::Leading(leading) => To::Quorum(leading.first(self.first_asked())),
            _ => To::All,
        }
    }

    pub(super) fn renewed(
        &mut self,
        from: NodeId,
        ballot: Ballot,
        round: u64,
        effects: &mut Effects,
    ) {
        let Phase::Leading(leading) = &mut self.phase else {
            return;
        };
        if ballot != leading.ballot || round > leading.round {
            return;
        }
        let newest = leading.renewed.entry(from).or_default();
        *newest = round.max(*newest);
        self.release_reads(effects);
    }

    pub(super) fn release_reads(&mut self, effects: &mut Effects) {
        let Phase::Leading(leading) = &mut self.phase else {
            return;
        };
        if self.committed.next() < leading.recovered {
            return;
        }
        let confirmed = confirmed_round(&leading.renewed, self.members);
        while let Some((read, round)) = leading.reads.front()
            && *round <= confirmed
        {
            effects.readable.push((*read, self.committed));
            leading.reads.pop_front();
        }
        let idle = confirmed >= leading.round;
        if idle && !leading.reads.is_empty() {
            let to = self.renewers();
            self.renew(to, effects);
        }
    }

    /// Starts a new round of proof that a quorum still follows this leader.
    pub(super) fn renew(&mut self, to: To, effects: &mut Effects) {
        let Phase::Leading(leading) = &mut self.phase else {
            return;
        };
        leading.round += 1;
        leading.round_to_all = to == To::All;
        let (ballot, round) = (leading.ballot, leading.round);
        let renew = Request::Renew {
            ballot,
            round,
            committed: self.committed,
            trim: self.trim,
        };
        effects.acceptors.push((to, renew));
    }
}

/// The newest round that a quorum has answered.
pub(super) fn confirmed_round(renewed: &BTreeMap<NodeId, u64>, members: Members) -> u64 {
    members.reached(renewed.values().copied()).unwrap_or(0)
}
