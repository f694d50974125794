//! Proposers that answer without existing.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use operator::ask::{Answer, Node, NodeStatus};

/// What all proposers say. The one at an address that ends in k is proposer k.
#[derive(Clone, Default)]
pub struct Nodes(Arc<Mutex<Option<Says>>>);

#[derive(Clone, Copy)]
struct Says {
    leader: i32,
    term: i64,
    committed: i64,
    busy: bool,
    forgotten: i64,
    behind: i32,
}

impl Nodes {
    /// From now on, this is how things are.
    pub fn say(&self, leader: i32, term: i64, committed: i64) {
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
    pub fn forget(&self, forgotten: i64, behind: i32) {
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

impl NodeStatus for Nodes {
    fn why_unready(&self, _: &Node) -> BoxFuture<'static, Option<String>> {
        std::future::ready(None).boxed()
    }

    fn ask(&self, node: &Node) -> BoxFuture<'static, Option<Answer>> {
        let SocketAddr::V4(address) = node.address else {
            panic!("{node:?} has no address of these pods")
        };
        let node_id = i32::from(address.ip().octets()[3]);
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
            Some(Answer {
                node_id,
                is_leader: node_id == says.leader,
                leader_id: Some(says.leader),
                term: says.term,
                committed_instance_id: says.committed,
                trimmed_instance_id: Some(says.forgotten),
                durable_instance_id: Some(if node_id == says.behind {
                    0
                } else {
                    says.committed
                }),
                incarnation: Some(format!("start-of-{node_id}")),
                ..Answer::default()
            })
        }
        .boxed()
    }
}
