//! What a learner asks acceptors for, and how each question ends.

use std::time::Duration;

use paxos::ids::{NodeId, Slot};
use paxos::learner::Input;
use paxos::message::{Message, Reply, Request};

use super::Sim;
use super::calls::{Heard, Patience};
use super::node::{Life, Process};

/// How long an answer to a fetch may take to begin, and to continue.
const FETCH: Duration = Duration::from_secs(2);

impl Sim {
    pub(super) fn fetch(&mut self, at: usize, acceptor: NodeId, request: Request) {
        let Request::Fetch { from, to } = request else {
            return;
        };
        self.numbers += 1;
        let (number, life) = (self.numbers, (at, self.nodes[at].life));
        self.fetches.insert((life, number), (from, to));
        let to = self.acceptor(acceptor);
        let patience = Patience {
            within: FETCH.as_millis() as u64,
            late_after: None,
            hears_progress: false,
        };
        self.call(at, to, number, Message::Request(request), patience);
    }

    pub(super) fn learner_heard(&mut self, at: usize, by: usize, call: u64, heard: Heard) {
        let life: Life = (at, self.nodes[at].life);
        let Some((first, last)) = self.fetches.remove(&(life, call)) else {
            return;
        };
        let from = self.nodes[by].name.id;
        let is_in_doubt = match &self.nodes[at].process {
            Process::Learner(replica) => replica.is_in_doubt(),
            _ => false,
        };
        let input = match heard {
            Heard::Answer(Some(Message::Reply(reply)))
                if !is_in_doubt && answers(&reply, first, last) =>
            {
                Input::Reply { from, reply }
            }
            _ => Input::Failed { from, first },
        };
        self.step_learner(at, input);
    }
}

/// Whether a reply is one to a fetch of these slots.
fn answers(reply: &Reply, first: Slot, last: Slot) -> bool {
    match reply {
        Reply::Fetched { from, to, .. } => *from == first && *to <= last,
        Reply::Truncated { from, .. } => *from == first,
        _ => false,
    }
}
