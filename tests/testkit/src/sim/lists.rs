//! Nodes whose lists of acceptors have another length than the cluster: one of them or all, shorter and
//! longer. And what proposers and learners hear from the acceptors before they do anything, as the
//! driver has it.

use paxos::ids::{ClusterId, Members, NodeId, Role};
use paxos::message::{Message, Reply};
use paxos::roll_call::{Finding, RollCall};
use paxos::standing::Start;

use super::log::Log;
use super::node::{Disk, Process};
use super::{Event, Sim};

/// No list is longer.
const LONGEST: u64 = 7;

/// What a proposer or a learner keeps on its disk of itself and its cluster.
#[derive(Clone, Copy, Debug)]
pub(super) struct Belongs {
    start: Start,
    witnessed: bool,
    pub(super) cluster: Option<ClusterId>,
    pub(super) founders: Option<Members>,
}

impl Sim {
    /// How many acceptors a node's list names.
    pub(super) fn list(&self, at: usize) -> Members {
        Members::new(self.nodes[at].list).expect("a list is not empty")
    }

    /// Where one of them is.
    pub(super) fn listed_at(&self, at: usize, id: NodeId) -> Option<usize> {
        let there = id.number() <= self.config.acceptors.min(self.nodes[at].list);
        there.then(|| self.acceptor(id))
    }

    /// Whether a process ends at once, before it does anything: its own number is not on the list, or the
    /// disk says that the list has another length.
    pub(super) fn ends_at_start(&self, at: usize) -> bool {
        let (node, list) = (&self.nodes[at], self.list(at));
        match node.name.role {
            Role::Acceptor => !list.contains(node.name.id),
            _ => {
                let founders = node.belongs.and_then(|belongs| belongs.founders);
                founders.is_some_and(|founders| founders != list)
            }
        }
    }

    /// A proposer or a learner starts to ask the acceptors what it belongs to.
    pub(super) fn begin_roll_call(&mut self, at: usize) -> u64 {
        let run = self.rng.bits();
        let (list, node) = (self.list(at), &mut self.nodes[at]);
        let start = match node.belongs {
            Some(belongs) if belongs.witnessed => belongs.start.next(run),
            Some(belongs) => belongs.start,
            None => Start {
                incarnation: self.rng.bits(),
                count: 1,
                run,
            },
        };
        let (cluster, founders) = node
            .belongs
            .map_or((None, None), |it| (it.cluster, it.founders));
        node.belongs = Some(Belongs {
            start,
            witnessed: false,
            cluster,
            founders,
        });
        node.call = Some(RollCall::new(node.name, start, list, cluster, founders));
        start.run
    }

    /// Asks those that have not answered.
    pub(super) fn call_roll(&mut self, at: usize) {
        let Some(call) = &self.nodes[at].call else {
            return;
        };
        let open = |id: &NodeId| !call.has_answered(*id);
        let open: Vec<NodeId> = self.list(at).acceptors().filter(open).collect();
        let packet = self.said(at, Message::Request(call.question()));
        for id in open {
            if let Some(acceptor) = self.listed_at(at, id) {
                self.send(at, acceptor, &packet);
            }
        }
    }

    /// Takes an acceptor's answer.
    pub(super) fn called(&mut self, at: usize, from: NodeId, reply: &Reply) {
        let node = &mut self.nodes[at];
        let (Some(call), Some(belongs)) = (&mut node.call, &mut node.belongs) else {
            return;
        };
        match call.heard(from, reply) {
            Finding::Open => {}
            Finding::Member { cluster, founders } => {
                belongs.witnessed = true;
                belongs.cluster = Some(cluster);
                belongs.founders = founders.filter(|_| node.counts);
            }
            Finding::Refused(_) => {
                self.summary.refused_lists += 1;
                let down = self.rng.between(1, self.config.down);
                self.crash(at, down);
            }
        }
    }

    pub(super) fn may_lead(&self, at: usize) -> bool {
        let call = self.nodes[at].call.as_ref();
        call.is_some_and(RollCall::may_lead)
    }

    pub(super) fn may_learn(&self, at: usize) -> bool {
        let call = self.nodes[at].call.as_ref();
        call.is_some_and(RollCall::may_learn)
    }

    /// A process starts again with a list of another length, or all of them do, or with the right one.
    pub(super) fn other_list(&mut self, at: usize, down: u64) {
        let right = self.config.acceptors;
        let list = match self.rng.chance(300) {
            true => right,
            false => self.rng.between(1, LONGEST) as u8,
        };
        let all = self.rng.chance(300);
        let lost = self.nodes.iter().any(|node| node.lost);
        let founded = lost
            || self
                .acceptors_logs()
                .all(|log| log.roster().cluster.is_some());
        for node in 0..self.nodes.len() {
            let is_acceptor = self.nodes[node].name.role == Role::Acceptor;
            // Nothing stands on any disk yet: if all that it names have a list, it is the right one.
            let odd = |other: usize| other != node && self.nodes[other].list != right;
            let mut acceptors = self.of_role(Role::Acceptor);
            let may_found = is_acceptor && !founded && list != right;
            let may_found = may_found && (list == 1 || acceptors.any(odd));
            if (all || node == at) && !may_found && !self.nodes[node].lost {
                self.nodes[node].list = list;
                self.crash(node, down);
                if matches!(self.nodes[node].process, Process::Down) {
                    self.schedule(down, Event::Start(node));
                }
            }
        }
    }

    /// Everybody has the right list again.
    pub(super) fn right_lists(&mut self) {
        for at in 0..self.nodes.len() {
            if self.nodes[at].list != self.config.acceptors {
                self.nodes[at].list = self.config.acceptors;
                self.crash(at, 0);
            }
        }
    }

    fn acceptors_logs(&self) -> impl Iterator<Item = &Log> {
        self.nodes.iter().filter_map(|node| match &node.disk {
            Disk::Log(log) => Some(&**log),
            _ => None,
        })
    }
}
