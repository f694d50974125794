//! The names and numbers of the protocol. Each has a type of its own, so that the compiler refuses
//! a slot where a ballot is meant.

use std::fmt;

/// A node's number within its role, 1 to 255; pod `c-acceptor-3` is acceptor 3.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(u8);

impl NodeId {
    /// `None` for 0, which names no node.
    pub const fn new(id: u8) -> Option<NodeId> {
        if id == 0 { None } else { Some(NodeId(id)) }
    }

    /// The number, 1 to 255.
    pub const fn number(self) -> u8 {
        self.0
    }

    /// Position in a list of addresses: node 1 is at index 0.
    pub const fn index(self) -> usize {
        self.0 as usize - 1
    }

    /// The node at an index of a list of addresses; `None` past 254.
    pub fn at(index: usize) -> Option<NodeId> {
        u8::try_from(index + 1).ok().map(NodeId)
    }

    /// Nodes 1 to `count`, in order.
    pub fn first(count: u8) -> impl DoubleEndedIterator<Item = NodeId> + Clone {
        (1..=count).map(NodeId)
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What a process plays.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// Takes clients' requests, elects a leader, runs Paxos.
    Proposer,
    /// Votes, durably.
    Acceptor,
    /// Learns what was chosen, in order, and serves reads.
    Learner,
    /// Keeps the materialised data on disks of its own.
    Store,
}

impl Role {
    /// Every role, in the order in which the documents name them.
    pub const ALL: [Role; 4] = [Role::Proposer, Role::Acceptor, Role::Learner, Role::Store];

    /// As in `ROLE`, object names and labels.
    pub const fn name(self) -> &'static str {
        match self {
            Role::Proposer => "proposer",
            Role::Acceptor => "acceptor",
            Role::Learner => "learner",
            Role::Store => "store",
        }
    }

    /// The variable that lists this role's addresses.
    pub const fn list_variable(self) -> &'static str {
        match self {
            Role::Proposer => "PROPOSERS",
            Role::Acceptor => "ACCEPTORS",
            Role::Learner => "LEARNERS",
            Role::Store => "STORES",
        }
    }

    /// The role of that name.
    pub fn parse(name: &str) -> Option<Role> {
        Role::ALL.into_iter().find(|role| role.name() == name)
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A node of any role.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeName {
    /// Its role.
    pub role: Role,
    /// Its number within the role.
    pub id: NodeId,
}

impl fmt::Display for NodeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.role, self.id)
    }
}

/// Which cluster: a random number as old as the cluster. As text, 16 hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClusterId(u64);

impl ClusterId {
    /// `None` for 0, which names no cluster.
    pub const fn new(number: u64) -> Option<ClusterId> {
        if number == 0 {
            None
        } else {
            Some(ClusterId(number))
        }
    }

    /// From 16 hexadecimal digits.
    pub fn parse(text: &str) -> Option<ClusterId> {
        u64::from_str_radix(text, 16).ok().and_then(ClusterId::new)
    }

    /// The number.
    pub const fn number(self) -> u64 {
        self.0
    }
}

impl fmt::Display for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// A ballot, `proposalNumber` on the wire: counter × 256 + the proposer's id. Two proposers never
/// share one, and a proposer never uses one twice (Lamport, "Paxos Made Simple", 2.4).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ballot(u64);

impl Ballot {
    /// Below every ballot a proposer can own: "nothing promised yet".
    pub const NONE: Ballot = Ballot(0);

    /// How far a single message may raise a promise: 2^32 rounds. A larger jump is no proposer of
    /// ours, and following it would bring the counter near its end.
    pub const MAX_JUMP: u64 = 1 << 32;

    /// The ballot that `node` owns in round `counter`; `None` when the counter does not fit 56 bits.
    pub const fn new(counter: u64, node: NodeId) -> Option<Ballot> {
        if counter == 0 || counter >> 56 != 0 {
            None
        } else {
            Some(Ballot(counter << 8 | node.0 as u64))
        }
    }

    /// From `proposalNumber`; `None` unless it names a round and a node.
    pub const fn from_number(number: u64) -> Option<Ballot> {
        if number >> 8 == 0 || number & 0xff == 0 {
            None
        } else {
            Some(Ballot(number))
        }
    }

    /// `proposalNumber`; 0 for [`Ballot::NONE`].
    pub const fn number(self) -> u64 {
        self.0
    }

    /// The round, which is also the leader's term.
    pub const fn counter(self) -> u64 {
        self.0 >> 8
    }

    /// Who owns it; `None` for [`Ballot::NONE`].
    pub const fn node(self) -> Option<NodeId> {
        NodeId::new((self.0 & 0xff) as u8)
    }

    /// Whether following this ballot from `promised` is a jump no proposer of ours makes.
    pub const fn is_poison_after(self, promised: Ballot) -> bool {
        self.counter() > promised.counter().saturating_add(Ballot::MAX_JUMP)
    }
}

impl fmt::Display for Ballot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.counter(), self.0 & 0xff)
    }
}

/// A place in the log, `instanceId` on the wire. Slot 0 stands for the election of the leader and
/// never holds a value; clients' values start at 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slot(pub u64);

impl Slot {
    /// The election's slot; as a watermark, "nothing yet".
    pub const ZERO: Slot = Slot(0);

    /// The slot after this one.
    #[must_use]
    pub const fn next(self) -> Slot {
        Slot(self.0 + 1)
    }

    /// The slot `n` places later.
    #[must_use]
    pub const fn plus(self, n: u64) -> Slot {
        Slot(self.0 + n)
    }

    /// The slot before this one; slot 0 stays 0.
    #[must_use]
    pub const fn previous(self) -> Slot {
        Slot(self.0.saturating_sub(1))
    }
}

impl fmt::Display for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// How many acceptors there are. Fixed for a cluster's life: the quorums of two sizes need not
/// meet, so changing it would have to go through the log. What a quorum is: [`super::quorum`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Members(u8);

impl Members {
    /// `None` for 0.
    pub const fn new(acceptors: u8) -> Option<Members> {
        if acceptors == 0 {
            None
        } else {
            Some(Members(acceptors))
        }
    }

    /// How many acceptors there are.
    pub const fn count(self) -> u8 {
        self.0
    }

    /// The acceptors' ids, in order.
    pub fn acceptors(self) -> impl DoubleEndedIterator<Item = NodeId> + Clone {
        NodeId::first(self.0)
    }

    /// Whether this acceptor is one of them.
    pub const fn contains(self, acceptor: NodeId) -> bool {
        acceptor.0 <= self.0
    }
}

impl fmt::Display for Members {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ballots_order_by_round_and_then_by_node() {
        let ballot = |round, node| Ballot::new(round, NodeId::new(node).unwrap()).unwrap();
        assert!(ballot(1, 255) < ballot(2, 1));
        assert!(ballot(2, 1) < ballot(2, 2));
        assert!(Ballot::NONE < ballot(1, 1));
        assert_eq!(ballot(3, 7).number(), 3 * 256 + 7);
        assert_eq!(Ballot::from_number(3 * 256), None);
        assert_eq!(Ballot::new(1 << 56, NodeId::new(1).unwrap()), None);
    }
}
