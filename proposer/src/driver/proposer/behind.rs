//! Nodes that have more than this proposer knows, and what learners and stores keep.

use std::time::Duration;

use api::env::Role;
use api::status::Status;
use paxos::ids::{NodeId, NodeName, Slot};
use paxos::kept::kept;
use paxos::proposer::{Behind, Input};
use tokio::time::Instant;
use tracing::{error, warn};

use super::learners::Progress;
use super::{Event, Run};
use crate::link::Link;

/// The pause between two rounds of questions to the stores.
const STORES_EVERY: Duration = Duration::from_secs(1);

impl Run {
    /// A learner or a store has applied so much: usually what this leader has given out, or less.
    pub(super) fn has_applied(&mut self, role: Role, id: NodeId, upto: Slot) {
        if self.core.is_news(upto) {
            let by = NodeName { role, id };
            self.step(Input::Applied { by, upto });
        }
    }

    /// This proposer does not lead, or not any more, as somebody has more than it knows of.
    pub(super) fn note_behind(&mut self, behind: Behind) {
        let Behind {
            node,
            applied,
            known,
            is_proved,
        } = behind;
        let (applied, known) = (applied.0, known.0);
        if !is_proved {
            self.metrics.step_downs.inc();
            return warn!(
                node = %node,
                applied,
                given_out = known,
                "a node has applied more than this leader has given out: stepping down"
            );
        }
        self.metrics.contradicted.set(1);
        // At each election; said once.
        if self.behind.replace(behind) != Some(behind) {
            error!(
                node = %node,
                applied,
                known,
                "{}", explain(&behind)
            );
        }
    }

    /// See [`kept`].
    pub(super) fn kept(&self) -> Option<Slot> {
        let durable = |of: &Progress| of.durable;
        let (learners, stores) = (self.progress.values(), self.stored.values());
        kept(
            self.learners.len(),
            learners.map(durable),
            stores.map(durable),
        )
    }

    /// Asks the stores now and then, and forgets nodes that have left.
    pub(super) fn watch_stores(&mut self, now: Instant) {
        self.stores.refresh();
        let listed = |links: &[Link], id: NodeId| links.iter().any(|link| link.node.id == id);
        let stores = &self.stores;
        self.stored.retain(|id, _| listed(stores, *id));
        let gone = self.core.ahead().map(|(node, _)| node).find(|node| {
            let links = match node.role {
                Role::Store => &self.stores,
                _ => &self.learners,
            };
            !listed(links, node.id)
        });
        if let Some(gone) = gone {
            self.step(Input::Gone(gone));
        }
        if self
            .stores_asked
            .is_some_and(|asked| now - asked < STORES_EVERY)
        {
            return;
        }
        self.stores_asked = Some(now);
        if !self.core.is_leading() {
            self.stored.clear();
        }
        // One that leads asks for what they keep; one that must not, whether they are still ahead.
        if self.core.is_leading() || self.behind.is_some() {
            for link in self.stores.iter().cloned() {
                let events = self.events.clone();
                tokio::spawn(async move {
                    if let Some(Status::Store(store)) = link.status().await {
                        let durable = Slot(store.durable_instance_id);
                        let _ = events.send(Event::Stored(link.node.id, durable));
                    }
                });
            }
        }
    }

    /// A store has answered.
    pub(super) fn stored(&mut self, from: NodeId, durable: Slot) {
        let progress = Progress {
            applied: durable,
            durable,
            at: Instant::now(),
        };
        self.stored.insert(from, progress);
        self.has_applied(Role::Store, from, durable);
    }
}

/// What it means that a node is ahead, and what to do.
pub(crate) fn explain(behind: &Behind) -> String {
    let Behind {
        node,
        applied,
        known,
        ..
    } = behind;
    format!(
        "{node} has applied instance {applied}, and a quorum of acceptors knows of none after {known}: \
         acceptors have lost votes, as disks do that were set back in time. No proposer leads, so that \
         nothing is given out twice. Give the acceptors their newest disks back; if {node} is wrong, \
         give it an empty volume"
    )
}
