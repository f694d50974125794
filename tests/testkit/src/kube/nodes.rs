//! Proposers that answer without existing.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use api::env::Role;
use api::status::{AcceptorStatus, LearnerStatus, NodeStatus, ProposerStatus, Status, StoreStatus};
use futures::FutureExt;
use futures::future::BoxFuture;
use operator::ask::{AskNode, Node};

/// What all proposers say. The one at an address that ends in k is proposer k.
#[derive(Clone, Default)]
pub struct Nodes(Arc<Mutex<Option<Says>>>);

#[derive(Clone, Copy)]
struct Says {
    leader: u8,
    term: u64,
    committed: u64,
    busy: bool,
    forgotten: u64,
    behind: u8,
}

impl Nodes {
    /// From now on, this is how things are.
    pub fn say(&self, leader: u8, term: u64, committed: u64) {
        *self.0.lock().expect("no panic inside") = Some(Says {
            leader,
            term,
            committed,
            busy: false,
            forgotten: 0,
            behind: 0,
        });
    }

    /// From now on, acceptors have forgotten up to here, and learner `behind` has nothing on disk.
    pub fn forget(&self, forgotten: u64, behind: u8) {
        if let Some(says) = self.0.lock().expect("no panic inside").as_mut() {
            (says.forgotten, says.behind) = (forgotten, behind);
        }
    }

    /// From now on, every answer takes its time and reports more committed than the one before.
    pub fn be_busy(&self) {
        if let Some(says) = self.0.lock().expect("no panic inside").as_mut() {
            says.busy = true;
        }
    }

    /// From now on, none answers; as at first.
    pub fn fall_silent(&self) {
        *self.0.lock().expect("no panic inside") = None;
    }
}

impl AskNode for Nodes {
    fn why_unready(&self, _: &Node) -> BoxFuture<'static, Option<String>> {
        std::future::ready(None).boxed()
    }

    fn ask(&self, node: &Node) -> BoxFuture<'static, Option<Status>> {
        let SocketAddr::V4(address) = node.address else {
            panic!("{node:?} has no address of these pods")
        };
        let node_id = address.ip().octets()[3];
        let role = node.pod.split('-').rev().nth(1).and_then(Role::parse);
        let role = role.expect("a pod is named after its role");
        let nodes = self.clone();
        async move {
            let says = {
                let mut says = nodes.0.lock().expect("no panic inside");
                if let Some(says) = says.as_mut().filter(|says| says.busy) {
                    says.committed += 1;
                }
                (*says)?
            };
            if says.busy {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            Some(says.status(role, node_id))
        }
        .boxed()
    }
}

impl Says {
    fn status(self, role: Role, node_id: u8) -> Status {
        let leader_id = Some(self.leader);
        let node = NodeStatus {
            node_id,
            role: role.name().into(),
            incarnation: format!("start-of-{node_id}"),
            ..NodeStatus::default()
        };
        match role {
            Role::Proposer => Status::Proposer(ProposerStatus {
                node,
                is_leader: node_id == self.leader,
                leader_id,
                term: self.term,
                committed_instance_id: self.committed,
                ..ProposerStatus::default()
            }),
            Role::Acceptor => Status::Acceptor(AcceptorStatus {
                node,
                leader_id,
                term: self.term,
                committed_instance_id: self.committed,
                trimmed_instance_id: self.forgotten,
                ..AcceptorStatus::default()
            }),
            Role::Learner => Status::Learner(LearnerStatus {
                node,
                leader_id,
                committed_instance_id: self.committed,
                durable_instance_id: match node_id == self.behind {
                    true => 0,
                    false => self.committed,
                },
                ..LearnerStatus::default()
            }),
            Role::Store => Status::Store(StoreStatus {
                node,
                committed_instance_id: self.committed,
                ..StoreStatus::default()
            }),
        }
    }
}
