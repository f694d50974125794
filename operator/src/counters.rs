//! How far a cluster is, told between two looks at it: without a read of the API server, and with a write
//! only where the numbers have moved.

use std::time::Duration;

use api::status::Status;
use futures::future::join_all;
use kube::ResourceExt;
use serde_json::json;
use tokio::time::Instant;

use crate::apply::in_short;
use crate::context::Context;
use crate::crd::Guarded;
use crate::names;

/// Counters are no older than this, and alone are written no more often: a busy log moves all the time.
pub(crate) const COUNTERS_INTERVAL: Duration = Duration::from_secs(10);

/// Asks a cluster's proposers how far they are, and writes it if it is news. Only the two counters are
/// written, under a manager of their own: whatever else the status says stays as it is.
pub(crate) async fn refresh(context: &Context, object: &Guarded) {
    let (proposers, written_at, left) = context.remember(object, |memory| {
        let left = memory
            .left_until
            .is_some_and(|until| Instant::now() < until);
        let written_at = memory.written.as_ref().map(|written| written.at);
        (memory.proposers.clone(), written_at, left)
    });
    let fresh = |at: Instant| at.elapsed() < COUNTERS_INTERVAL / 2;
    if left || proposers.is_empty() || written_at.is_some_and(fresh) {
        return;
    }
    let answers = join_all(proposers.iter().map(|node| context.nodes.ask(node))).await;
    let latest = |of: fn(&Status) -> u64| {
        let latest = answers.iter().flatten().map(of).max()?;
        i64::try_from(latest).ok()
    };
    let (Some(known), Some(term), Some(committed)) = (
        context.known_status(object),
        latest(|said| said.term().unwrap_or(0)),
        latest(Status::committed_instance_id),
    ) else {
        return;
    };
    if (known.term, known.committed_instance) == (Some(term), Some(committed)) {
        return;
    }
    let counters = json!({ "term": term, "committedInstance": committed });
    match context
        .write_status(object, names::COUNTERS_MANAGER, counters)
        .await
    {
        Ok(()) => context.remember(object, |memory| {
            if let Some(written) = &mut memory.written {
                written.status.term = Some(term);
                written.status.committed_instance = Some(committed);
                written.at = Instant::now();
            }
        }),
        // The next look tells it.
        Err(error) => {
            let name = object.name_any();
            tracing::debug!(name, error = in_short(&error), "no counters");
        }
    }
}
