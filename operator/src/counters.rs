//! How far a cluster is, told between two looks at it: without a read of the API server, and with a write
//! only where the numbers have moved.

use std::time::Duration;

use futures::future::join_all;
use kube::api::{Api, Patch, PatchParams};
use kube::{Resource, ResourceExt};
use serde_json::json;
use tokio::time::Instant;

use crate::apply::in_short;
use crate::ask::Answer;
use crate::context::{Context, Guarded};
use crate::crd::PaxosCluster;
use crate::names;

/// Counters are no older than this, and alone are written no more often: a busy log moves all the time.
pub(crate) const COUNTERS_INTERVAL: Duration = Duration::from_secs(10);

/// Asks a cluster's proposers how far they are, and writes it if it is news. Only the two counters are
/// written, under a manager of their own: whatever else the status says stays as it is.
pub(crate) async fn refresh(context: &Context, object: &Guarded) {
    let (proposers, written, left) = context.remember(object, |memory| {
        let left = memory
            .left_until
            .is_some_and(|until| Instant::now() < until);
        (memory.proposers.clone(), memory.written.clone(), left)
    });
    let fresh = |at: Instant| at.elapsed() < COUNTERS_INTERVAL / 2;
    if left || proposers.is_empty() || written.as_ref().is_some_and(|written| fresh(written.at)) {
        return;
    }
    let answers = join_all(proposers.iter().map(|node| context.nodes.ask(node))).await;
    let latest = |of: fn(&Answer) -> i64| answers.iter().flatten().map(of).max();
    let known = match (&written, &object.0) {
        (Some(written), _) if written.over == object.resource_version() => Some(&written.status),
        (_, Ok(object)) => object.status.as_ref(),
        _ => None,
    };
    let (Some(known), Some(term), Some(committed)) = (
        known,
        latest(|answer| answer.term),
        latest(|answer| answer.committed_instance_id),
    ) else {
        return;
    };
    if (known.term, known.committed_instance) == (Some(term), Some(committed)) {
        return;
    }
    let patch = json!({
        "apiVersion": PaxosCluster::api_version(&()),
        "kind": PaxosCluster::kind(&()),
        // Only this very object, not one made since under the same name.
        "metadata": { "uid": object.uid() },
        "status": { "term": term, "committedInstance": committed },
    });
    let namespace = object.namespace().unwrap_or_default();
    let api: Api<Guarded> = Api::namespaced(context.client.clone(), &namespace);
    let params = PatchParams::apply(names::COUNTERS_MANAGER).force();
    let name = object.name_any();
    match api
        .patch_status(&name, &params, &Patch::Apply(&patch))
        .await
    {
        Ok(_) => {
            context.metrics.wrote("paxosclusters/status", "apply");
            context.remember(object, |memory| {
                if let Some(written) = &mut memory.written {
                    written.status.term = Some(term);
                    written.status.committed_instance = Some(committed);
                    written.at = Instant::now();
                }
            });
        }
        // The next look tells it.
        Err(error) => tracing::debug!(namespace, name, error = in_short(&error), "no counters"),
    }
}
