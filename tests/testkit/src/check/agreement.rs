//! A slot is chosen once, and it is what somebody proposed.

use std::collections::BTreeMap;

use paxos::acceptor::Record;
use paxos::ids::{Ballot, Members, NodeId, Slot};
use paxos::message::Value;

/// Every vote and every proposal, by slot.
#[derive(Debug)]
pub struct Agreement {
    members: Members,
    slots: Vec<History>,
    chosen_up_to: Slot,
    /// How often clients proposed a request, less the times that they were told that it has no effect. A
    /// proposer may have it chosen in several slots; that it takes effect once is another rule.
    proposals: BTreeMap<Value, u64>,
    /// Requests that are chosen.
    taken: BTreeMap<Value, Slot>,
}

#[derive(Clone, Debug, Default)]
struct History {
    /// What the leaders proposed, once per ballot.
    sent: Vec<(Ballot, Value)>,
    /// Who voted, by ballot: bit k for acceptor k.
    votes: Vec<(Ballot, u32)>,
    /// The lowest ballot at which a quorum voted.
    chosen: Option<(Ballot, Value)>,
}

impl History {
    fn sent_at(&self, ballot: Ballot) -> Option<&Value> {
        self.sent
            .iter()
            .find(|(at, _)| *at == ballot)
            .map(|(_, value)| value)
    }
}

impl Agreement {
    /// Nothing is chosen.
    pub fn new(members: Members) -> Agreement {
        Agreement {
            members,
            slots: Vec::new(),
            chosen_up_to: Slot::ZERO,
            proposals: BTreeMap::new(),
            taken: BTreeMap::new(),
        }
    }

    /// What is chosen in a slot.
    pub fn chosen(&self, slot: Slot) -> Option<&Value> {
        let history = self.slots.get(usize::try_from(slot.0).ok()?)?;
        history.chosen.as_ref().map(|(_, value)| value)
    }

    /// Every slot up to here is chosen.
    pub fn chosen_up_to(&self) -> Slot {
        self.chosen_up_to
    }

    pub(super) fn proposed(&mut self, request: Value) {
        *self.proposals.entry(request).or_default() += 1;
    }

    pub(super) fn is_taken(&self, request: &Value) -> bool {
        self.taken.contains_key(request)
    }

    pub(super) fn without_effect(&mut self, request: &Value) {
        let left = self.proposals.get_mut(request);
        let left = left.expect("clients are told of what they proposed");
        *left -= 1;
        if *left == 0
            && let Some(slot) = self.taken.get(request)
        {
            panic!("{slot} holds {request:?}, which is said to have no effect");
        }
    }

    pub(super) fn accept_sent(&mut self, ballot: Ballot, first: Slot, values: &[Value]) {
        assert_ne!(first, Slot::ZERO, "slot 0 never holds a value");
        for (i, value) in values.iter().enumerate() {
            let history = self.history(first.plus(i as u64));
            match history.sent_at(ballot) {
                Some(sent) => assert_eq!(sent, value, "a ballot carries one value per slot"),
                None => history.sent.push((ballot, value.clone())),
            }
            if let Some((at, chosen)) = &history.chosen
                && *at < ballot
            {
                assert_eq!(
                    value, chosen,
                    "a ballot after the choice carries what is chosen"
                );
            }
        }
    }

    pub(super) fn durable(&mut self, acceptor: NodeId, record: &Record) {
        let Record::Accepted {
            ballot,
            first,
            values,
            ..
        } = record
        else {
            return;
        };
        for (i, value) in values.iter().enumerate() {
            self.voted(acceptor, *ballot, first.plus(i as u64), value);
        }
        while self.chosen(self.chosen_up_to.next()).is_some() {
            self.chosen_up_to = self.chosen_up_to.next();
        }
    }

    fn voted(&mut self, acceptor: NodeId, ballot: Ballot, slot: Slot, value: &Value) {
        let quorum = self.members.quorum() as u32;
        let history = self.history(slot);
        assert_eq!(
            history.sent_at(ballot),
            Some(value),
            "a vote is for what its ballot's owner sent"
        );
        let index = history
            .votes
            .iter()
            .position(|(at, _)| *at == ballot)
            .unwrap_or_else(|| {
                history.votes.push((ballot, 0));
                history.votes.len() - 1
            });
        let voters = &mut history.votes[index].1;
        *voters |= 1 << acceptor.number();
        if voters.count_ones() < quorum {
            return;
        }
        match &mut history.chosen {
            Some((at, chosen)) => {
                assert_eq!(chosen, value, "a slot is chosen once");
                *at = ballot.min(*at);
            }
            None => {
                for (at, sent) in &history.sent {
                    assert!(
                        *at < ballot || sent == value,
                        "a ballot after the choice carries what is chosen"
                    );
                }
                history.chosen = Some((ballot, value.clone()));
                self.taken(slot, value);
            }
        }
    }

    fn taken(&mut self, slot: Slot, value: &Value) {
        if value.is_noop() {
            return;
        }
        let request = super::request(value);
        let left = self.proposals.get(&request).copied();
        assert!(
            left.is_some_and(|left| left > 0),
            "{slot} holds {value:?}, which no client proposed or which is said to have no effect"
        );
        self.taken.entry(request).or_insert(slot);
    }

    fn history(&mut self, slot: Slot) -> &mut History {
        let index = slot.0 as usize;
        assert!(index < 1 << 24, "slots are given out in order");
        if index >= self.slots.len() {
            self.slots.resize_with(index + 1, History::default);
        }
        &mut self.slots[index]
    }
}
