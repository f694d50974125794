//! What a learner knows of the stores (`USE_CLUSTER_STORE`, `STORES`): it asks each of them now and
//! then how far it is, and shows how far behind that leaves it. Nothing waits for the answers: stores
//! fetch what they lack by themselves.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use api::env::Role;
use api::status::Status;
use futures::future::join_all;
use paxos::ids::{NodeId, Slot};

use super::Handle;
use crate::addresses::Addresses;
use crate::identity::Identity;
use crate::link::{Link, Links};
use crate::metrics::Metrics;

/// The pause between two rounds of questions.
const EVERY: Duration = Duration::from_secs(1);

/// A store, as a learner sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoreSeen {
    /// Its number.
    pub id: NodeId,
    /// The last slot that it said to have applied.
    pub applied: Slot,
    /// Whether it answered the last time.
    pub reachable: bool,
}

/// Asks without end. Call within a Tokio runtime.
pub(super) fn watch(
    addresses: &Addresses,
    identity: &Identity,
    learner: Handle,
    metrics: Arc<Metrics>,
) {
    let mut links = Links::new(addresses, identity, Role::Store);
    tokio::spawn(async move {
        loop {
            links.refresh();
            for gone in forget(&learner.shared.stores, &links) {
                // It may never have had a value.
                let _ = metrics.store_lag.remove_label_values(&[&gone.to_string()]);
            }
            let answers = join_all(links.iter().map(Link::status)).await;
            let committed = learner.committed();
            for (link, status) in links.iter().zip(answers) {
                let applied = match status {
                    Some(Status::Store(store)) => Some(Slot(store.applied_instance_id)),
                    _ => None,
                };
                let seen = note(&learner.shared.stores, link.node.id, applied);
                let lag = committed.0.saturating_sub(seen.applied.0);
                let store = link.node.id.to_string();
                metrics
                    .store_lag
                    .with_label_values(&[&store])
                    .set(lag as i64);
            }
            tokio::time::sleep(EVERY).await;
        }
    });
}

/// Forgets the stores that are not listed any more, and says which.
fn forget(stores: &RwLock<Vec<StoreSeen>>, links: &[Link]) -> Vec<NodeId> {
    let mut stores = stores.write().unwrap_or_else(PoisonError::into_inner);
    let gone = |store: &mut StoreSeen| links.iter().all(|link| link.node.id != store.id);
    stores.extract_if(.., gone).map(|store| store.id).collect()
}

/// What is known now. A store that does not answer has what it had.
fn note(stores: &RwLock<Vec<StoreSeen>>, id: NodeId, applied: Option<Slot>) -> StoreSeen {
    let mut stores = stores.write().unwrap_or_else(PoisonError::into_inner);
    let known = stores.iter().position(|store| store.id == id);
    let before = known.map_or(Slot::ZERO, |i| stores[i].applied);
    let seen = StoreSeen {
        id,
        applied: applied.unwrap_or(before),
        reachable: applied.is_some(),
    };
    match known {
        Some(i) => stores[i] = seen,
        None => stores.push(seen),
    }
    seen
}
