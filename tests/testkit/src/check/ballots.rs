//! A ballot is claimed, then promised by a quorum, then used by one process.

use std::collections::BTreeMap;

use paxos::acceptor::Record;
use paxos::ids::{Ballot, Members, NodeId};
use paxos::message::Request;

/// One run of a proposer's process: its id, and how often it was started before.
pub type Life = (NodeId, u32);

/// Every ballot ever used.
#[derive(Debug)]
pub struct Ballots {
    members: Members,
    used: BTreeMap<Ballot, Use>,
}

#[derive(Debug, Default)]
struct Use {
    /// Bit k: acceptor k has this promise, or a vote at it, on disk.
    promised: u32,
    leader: Option<Life>,
}

impl Ballots {
    /// No ballot is used.
    pub fn new(members: Members) -> Ballots {
        Ballots {
            members,
            used: BTreeMap::new(),
        }
    }

    pub(super) fn durable(&mut self, acceptor: NodeId, record: &Record) {
        let ballot = match record {
            Record::Promised { ballot, .. } | Record::Accepted { ballot, .. } => ballot,
            // Repeats a promise that is known.
            Record::Trimmed { .. } | Record::Known(_) => return,
        };
        self.used.entry(*ballot).or_default().promised |= 1 << acceptor.number();
    }

    pub(super) fn requested(&mut self, by: Life, claim: u64, request: &Request) {
        let (Request::Prepare { ballot, .. }
        | Request::Accept { ballot, .. }
        | Request::Renew { ballot, .. }) = request
        else {
            return;
        };
        assert_eq!(ballot.node(), Some(by.0), "a proposer uses its own ballots");
        assert!(
            ballot.counter() <= claim,
            "a claim is on disk before it is used"
        );
        if matches!(request, Request::Prepare { .. }) {
            return;
        }
        let used = self.used.entry(*ballot).or_default();
        match used.leader {
            Some(leader) => assert_eq!(leader, by, "two processes never lead at one ballot"),
            None => {
                let promises = used.promised.count_ones() as usize;
                assert!(
                    promises >= self.members.quorum(),
                    "a leader has a quorum's promises"
                );
                used.leader = Some(by);
            }
        }
    }
}
