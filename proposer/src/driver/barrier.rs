//! Linearizable reads away from the leader: before a read is answered, the leader names the slot
//! that must be applied first, having confirmed with a quorum, after the read arrived, that it
//! still leads (Ongaro, "Consensus", section 6.4). No clocks, no leases.

use std::time::Duration;

use api::env::Role;
use paxos::ids::{NodeId, Slot};
use paxos::message::Message;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{sleep, timeout};

use crate::addresses::Addresses;
use crate::identity::Identity;
use crate::link::Links;
use crate::peers::{Breakers, Lane};

/// How long one proposer may take to answer.
const ASK_TIMEOUT: Duration = Duration::from_millis(500);
/// The pause when no proposer leads.
const PAUSE: Duration = Duration::from_millis(20);
/// How long a node tries to reach what a leader named before it asks for something newer.
const LEVEL_WITHIN: Duration = Duration::from_secs(5);
/// Reads that may wait.
const QUEUE: usize = 16_384;

/// Makes reads wait for what was written before them. Cheap to clone.
#[derive(Clone)]
pub struct Barrier {
    queue: mpsc::Sender<oneshot::Sender<Slot>>,
    applied: watch::Receiver<Slot>,
}

/// No leader confirmed the read, or what it must see did not arrive, in time.
#[derive(Debug)]
pub struct TooLate;

impl Barrier {
    /// Starts the asking, for a node that has applied what `applied` says. `leader` guesses who
    /// leads; a wrong guess costs time only. Call within a Tokio runtime.
    pub fn start(
        addresses: &Addresses,
        identity: &Identity,
        applied: watch::Receiver<Slot>,
        leader: impl Fn() -> Option<NodeId> + Send + 'static,
    ) -> Barrier {
        let (queue, mut reads) = mpsc::channel::<oneshot::Sender<Slot>>(QUEUE);
        let me = identity.clone();
        let mut links = Links::new(addresses, identity, Role::Proposer);
        tokio::spawn(async move {
            let mut waiting = Vec::new();
            let mut last = None;
            while let Some(first) = reads.recv().await {
                waiting.push(first);
                // All that arrived before the question is asked share its answer; what arrives
                // later must wait for the next one.
                while let Ok(next) = reads.try_recv() {
                    waiting.push(next);
                }
                loop {
                    waiting.retain(|read| !read.is_closed());
                    if waiting.is_empty() {
                        break;
                    }
                    links.refresh();
                    let likely = leader().or(last);
                    if let Some((slot, leader)) = ask(&links, &me, likely).await {
                        last = Some(leader);
                        for read in waiting.drain(..) {
                            let _ = read.send(slot);
                        }
                        break;
                    }
                    sleep(PAUSE).await;
                }
            }
        });
        Barrier { queue, applied }
    }

    /// Returns when everything acknowledged before the call is applied here.
    pub async fn wait(&self, within: Duration) -> Result<(), TooLate> {
        let applied = async {
            let (read, readable) = oneshot::channel();
            self.queue.try_send(read).map_err(|_| TooLate)?;
            let slot = readable.await.map_err(|_| TooLate)?;
            let mut applied = self.applied.clone();
            applied
                .wait_for(|applied| *applied >= slot)
                .await
                .map_err(|_| TooLate)?;
            Ok(())
        };
        timeout(within, applied).await.unwrap_or(Err(TooLate))
    }
}

impl Barrier {
    /// Calls `level` once everything is applied here that was acknowledged when this was called, or
    /// later. A node that has that is level with its cluster, whatever single nodes told it.
    pub fn when_level(&self, level: impl FnOnce() + Send + 'static) {
        let barrier = self.clone();
        tokio::spawn(async move {
            while barrier.wait(LEVEL_WITHIN).await.is_err() {
                sleep(PAUSE).await;
            }
            level();
        });
    }
}

/// Asks the likely leader, then the others.
async fn ask(links: &Links, me: &Identity, leader: Option<NodeId>) -> Option<(Slot, NodeId)> {
    let frame = me.frame(Message::ReadIndex);
    let likely = links.iter().filter(|link| Some(link.node.id) == leader);
    let others = links.iter().filter(|link| Some(link.node.id) != leader);
    for link in likely.chain(others) {
        let answer = link
            .ask(Lane::Control, frame.clone(), ASK_TIMEOUT, Breakers::Ignore)
            .await;
        if let Ok(Message::Readable(Some(slot))) = answer {
            return Some((slot, link.node.id));
        }
    }
    None
}
