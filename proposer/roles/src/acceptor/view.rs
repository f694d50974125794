//! What an acceptor shows of itself, as of its last durable step.

use paxos::acceptor::Room;
use paxos::ids::{Ballot, ClusterId, Members, NodeId, Slot};
use paxos::standing::{Member, Refusal};

/// How things stand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct View {
    /// The highest ballot promised.
    pub promised: Ballot,
    /// Every slot up to here is chosen, as far as it knows.
    pub committed: Slot,
    /// The last slot voted in.
    pub last_voted: Slot,
    /// Votes up to here are forgotten.
    pub floor: Slot,
    /// Whether it takes votes.
    pub room: Room,
    /// Bytes of memory that values take, and the index of those in the log.
    pub memory: (usize, usize),
    /// About how many bytes of votes it has not forgotten.
    pub kept: u64,
    /// Whether it takes part.
    pub standing: Standing,
    /// That is new, to be said and written down.
    pub has_changed: bool,
    /// While it does not vote: who has not witnessed this start, and how many acceptors its list names if
    /// another number.
    pub unmet: Vec<(NodeId, Option<Members>)>,
}

/// Whether an acceptor takes part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Not yet: others have to witness its start.
    Joining,
    /// It does.
    Voting {
        /// In this cluster.
        cluster: ClusterId,
        /// Which was founded by so many acceptors.
        founders: Option<Members>,
    },
    /// It never will on this disk.
    Refused(Refusal),
}

impl Standing {
    fn of(member: &Member) -> Standing {
        match (member.refusal(), member.cluster()) {
            (Some(refusal), _) => Standing::Refused(refusal),
            (None, Some(cluster)) if member.votes() => Standing::Voting {
                cluster,
                founders: member.founders(),
            },
            _ => Standing::Joining,
        }
    }
}

impl View {
    pub(super) fn of(member: &Member, shown: Option<Standing>) -> View {
        let acceptor = member.acceptor();
        let standing = Standing::of(member);
        let unmet = match standing {
            Standing::Voting { .. } => Vec::new(),
            _ => member.unmet().map(|id| (id, member.list_of(id))).collect(),
        };
        View {
            promised: acceptor.promised(),
            committed: acceptor.committed(),
            last_voted: acceptor.last_voted(),
            floor: acceptor.floor(),
            room: acceptor.room().0,
            memory: acceptor.memory(),
            kept: acceptor.voted_bytes(),
            standing,
            has_changed: shown != Some(standing),
            unmet,
        }
    }
}
