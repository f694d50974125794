//! Which cluster a proposer, learner or store is of, and whether its list of acceptors fits: it shows
//! its disk to every acceptor ([`Request::Enlist`]) and draws its conclusions here.
//!
//! A quorum of the acceptors names the cluster and says with how many it was founded. Quorums by
//! another number need not meet the cluster's, so a node whose list has another length ends. Until it
//! knows, a proposer does not lead and a learner does not ask acceptors for votes.

use std::collections::{BTreeMap, BTreeSet};

use super::ids::{ClusterId, Members, NodeId, NodeName};
use super::message::{Reply, Request};
use super::standing::{Refusal, Start};

/// What the acceptors have said so far.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RollCall {
    node: NodeName,
    start: Start,
    list: Members,
    cluster: Option<ClusterId>,
    founders: Option<Members>,
    answers: BTreeMap<NodeId, Answer>,
    /// Acceptors of a cluster with another number of them, while this node's is not known.
    strangers: BTreeSet<NodeId>,
    settled: bool,
}

/// An acceptor of a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Answer {
    cluster: ClusterId,
    /// `None`: its build does not tell.
    founders: Option<Members>,
}

/// What follows from an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Finding {
    /// Nothing yet.
    Open,
    /// A quorum has seen this start: the disk is of this cluster, to be written down.
    Member {
        /// Which.
        cluster: ClusterId,
        /// How many acceptors founded it; `None` when they are of builds that do not tell.
        founders: Option<Members>,
    },
    /// This disk or this list must not be used: the process ends.
    Refused(Refusal),
}

impl RollCall {
    /// At a start: what the disk says of its cluster, and how long the list of acceptors is.
    pub fn new(
        node: NodeName,
        start: Start,
        list: Members,
        cluster: Option<ClusterId>,
        founders: Option<Members>,
    ) -> RollCall {
        RollCall {
            node,
            start,
            list,
            cluster,
            founders,
            answers: BTreeMap::new(),
            strangers: BTreeSet::new(),
            settled: false,
        }
    }

    /// What to ask the acceptors.
    pub fn question(&self) -> Request {
        Request::Enlist {
            node: self.node,
            start: self.start,
            cluster: self.cluster,
            acceptors: Some(self.list),
        }
    }

    /// Whether that acceptor has nothing more to say.
    pub fn has_answered(&self, acceptor: NodeId) -> bool {
        let answer = self.answers.get(&acceptor);
        answer.is_some_and(|answer| answer.founders.is_some())
    }

    /// Whether the list is known to fit the cluster: a proposer may lead.
    pub fn may_lead(&self) -> bool {
        self.cluster.is_some() && self.founders == Some(self.list)
    }

    /// Whether acceptors may be asked for votes. A quorum whose builds do not tell how many founded the
    /// cluster is taken at its word: learners are upgraded before acceptors.
    pub fn may_learn(&self) -> bool {
        self.may_lead() || self.settled
    }

    /// Takes an acceptor's answer.
    pub fn heard(&mut self, from: NodeId, reply: &Reply) -> Finding {
        let answer = match *reply {
            Reply::Witnessed {
                start,
                cluster: Some(cluster),
                acceptors,
                ..
            } if start == self.start => match acceptors {
                Some(founded) if founded != self.list => return self.other_count(from, founded),
                founders => Answer { cluster, founders },
            },
            Reply::Refused { start, refusal } if start == self.start => match refusal {
                Refusal::OtherCluster { cluster } => Answer {
                    cluster,
                    founders: Some(self.list),
                },
                Refusal::OtherCount { founded, .. } => return self.other_count(from, founded),
                // It has founded nothing: its list may be the wrong one.
                Refusal::OtherList { .. } => return Finding::Open,
                refusal => return Finding::Refused(refusal),
            },
            _ => return Finding::Open,
        };
        self.strangers.remove(&from);
        self.answers.insert(from, answer);
        self.settle(answer.cluster)
    }

    /// While this node's cluster is not known, a single acceptor may be of another one: then its address
    /// is wrong, and not the whole list. The others must be able to make a quorum.
    fn other_count(&mut self, from: NodeId, founded: Members) -> Finding {
        let listed = self.list;
        self.answers.remove(&from);
        self.strangers.insert(from);
        let enough = listed.is_quorum_without(self.strangers.len());
        match self.cluster.is_some() || !enough {
            true => Finding::Refused(Refusal::OtherCount { founded, listed }),
            false => Finding::Open,
        }
    }

    /// Acts on the answer that completes a quorum, and on those after it that tell more.
    fn settle(&mut self, cluster: ClusterId) -> Finding {
        let of_it = |answer: &&Answer| answer.cluster == cluster;
        let answers = || self.answers.values().filter(of_it);
        if !self.list.is_quorum(answers().count()) {
            return Finding::Open;
        }
        if self.cluster.is_some_and(|mine| mine != cluster) {
            return Finding::Refused(Refusal::OtherCluster { cluster });
        }
        let founders = answers().find_map(|answer| answer.founders);
        let founders = self.founders.or(founders);
        let news = !self.settled || founders != self.founders;
        (self.cluster, self.founders, self.settled) = (Some(cluster), founders, true);
        match news {
            true => Finding::Member { cluster, founders },
            false => Finding::Open,
        }
    }
}

#[cfg(test)]
mod tests;
