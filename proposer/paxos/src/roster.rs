//! What an acceptor knows of the nodes' disks: each one's last start, and why it refuses one.

use std::collections::BTreeMap;
use std::fmt;

use super::ids::{ClusterId, Members, NodeId, NodeName, Role};

/// One start of one node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Start {
    /// A random number as old as what is on the disk: a wiped one has another.
    pub incarnation: u64,
    /// How many starts of this disk have been witnessed, and this one.
    pub count: u64,
    /// A random number of this start: an older copy of the disk counts the same starts again.
    pub run: u64,
}

impl Start {
    /// The start after one that was witnessed.
    #[must_use]
    pub fn next(self, run: u64) -> Start {
        Start {
            incarnation: self.incarnation,
            count: self.count.saturating_add(1),
            run,
        }
    }

    /// Whether it is `known` or a later start from the same disk.
    pub(super) fn follows(&self, known: &Start) -> bool {
        self.incarnation == known.incarnation && (self == known || self.count > known.count)
    }
}

/// Why a witness refuses a start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Refusal {
    /// The acceptor had another disk before: what it promised and voted is not on this one.
    OtherDisk {
        /// That disk's last start.
        known: Start,
    },
    /// A later start from this disk is known: it is an older copy, or two processes use it.
    OlderCopy {
        /// The later start.
        known: Start,
    },
    /// The disk belongs to another cluster than the witness.
    OtherCluster {
        /// The witness's.
        cluster: ClusterId,
    },
    /// The cluster was founded without an acceptor of this number.
    NotAMember,
    /// The cluster was founded with another number of acceptors than the node's list names.
    OtherCount {
        /// How many the cluster has, for good.
        founded: Members,
        /// How many the list names.
        listed: Members,
    },
    /// Nothing is founded yet, and the witness's list has another length. Not for good: one of the two
    /// lists will be mended.
    OtherList {
        /// How many the witness's list names.
        witness: Members,
        /// How many the node's list names.
        listed: Members,
    },
}

impl Refusal {
    /// Every [`Refusal::name`] of one that is for good.
    pub const NAMES: [&'static str; 5] = [
        "amnesia",
        "older-copy",
        "other-cluster",
        "not-a-member",
        "other-count",
    ];

    /// In a word, for metrics and conditions.
    pub const fn name(self) -> &'static str {
        match self {
            Refusal::OtherDisk { .. } => Refusal::NAMES[0],
            Refusal::OlderCopy { .. } => Refusal::NAMES[1],
            Refusal::OtherCluster { .. } => Refusal::NAMES[2],
            Refusal::NotAMember => Refusal::NAMES[3],
            Refusal::OtherCount { .. } => Refusal::NAMES[4],
            Refusal::OtherList { .. } => "other-list",
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refusal::OtherDisk { known } => write!(
                f,
                "the cluster has run with another disk of this node (incarnation {:016x}): what it \
                 voted is not on this one, so it must not vote. Give it that disk back; the others \
                 work without it",
                known.incarnation
            ),
            Refusal::OlderCopy { known } => write!(
                f,
                "the disk is an older copy of this node's, or another process uses it: start {} of \
                 it is known. Give it the newest copy, and stop the other process",
                known.count
            ),
            Refusal::OtherCluster { cluster } => write!(
                f,
                "the disk belongs to another cluster than that of its peers, {cluster}. Give it \
                 the disk of this cluster"
            ),
            Refusal::NotAMember => f.write_str(
                "the cluster was founded without an acceptor of this number, and the number of \
                 acceptors is fixed",
            ),
            Refusal::OtherCount { founded, listed } => write!(
                f,
                "the cluster was founded with {founded} acceptors, and ACCEPTORS names {listed}: \
                 their number is fixed, as quorums of two sizes need not meet. Set ACCEPTORS \
                 (spec.acceptor.replicas) to the {founded} it was founded with, in their order, at \
                 every node"
            ),
            Refusal::OtherList { witness, listed } => write!(
                f,
                "its ACCEPTORS names {witness}, and this node's names {listed}: a cluster is \
                 founded when all lists have one length. Set the right one at every node"
            ),
        }
    }
}

/// What an acceptor knows of the cluster and its nodes; on its disk.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Roster {
    /// The cluster it votes in; `None` before its founding.
    pub cluster: Option<ClusterId>,
    /// How many acceptors founded the cluster. `None` before that, and on disks of builds that did not
    /// write it down.
    pub founders: Option<Members>,
    /// The latest start known of each node.
    pub starts: BTreeMap<NodeName, Start>,
}

impl Roster {
    /// How many acceptors founded the cluster, if it is founded. A disk that does not say it outright
    /// names each of them but its own: none joins before it has met all, and nobody is added later. One
    /// that names this acceptor is another's, and does not name that one.
    pub fn founders(&self, me: NodeId) -> Option<Members> {
        self.cluster?;
        let has = |id: NodeId| self.starts.contains_key(&acceptor(id));
        let named = || NodeId::first(u8::MAX).take_while(|id| *id == me || has(*id));
        let count = || u8::try_from(named().count()).ok().and_then(Members::new);
        let told = || if has(me) { None } else { count() };
        self.founders.or_else(told)
    }
}

pub(super) fn acceptor(id: NodeId) -> NodeName {
    NodeName {
        role: Role::Acceptor,
        id,
    }
}
