//! What is reported about a cluster: its status, events, and logs of what failed.

use kube::api::{Api, ApiResource, DynamicObject};
use kube::runtime::events::Event;
use kube::{Resource, ResourceExt};
use tokio::time::Instant;

use super::{Error, TIME_LIMIT, now};
use crate::context::{Context, Written};
use crate::counters::COUNTERS_INTERVAL;
use crate::crd::{Guarded, PaxosCluster, PaxosClusterStatus};
use crate::names;
use crate::status::{self, Before};

/// The status that there is.
pub(super) async fn current_status(
    object: &Guarded,
    context: &Context,
) -> Result<PaxosClusterStatus, Error> {
    if let Some(status) = context.known_status(object) {
        return Ok(status);
    }
    // The guard keeps the metadata only; the status itself may well parse.
    let namespace = object.namespace().unwrap_or_default();
    let resource = ApiResource::erase::<PaxosCluster>(&());
    let api: Api<DynamicObject> =
        Api::namespaced_with(context.client.clone(), &namespace, &resource);
    let object = api.get(&object.name_any()).await.map_err(Error::Status)?;
    let status = object.data.get("status").cloned().unwrap_or_default();
    Ok(serde_json::from_value(status).unwrap_or_default())
}

/// Writes the status if it says anything new, and the events that tell of it.
pub(super) async fn report(
    object: &Guarded,
    context: &Context,
    current: &PaxosClusterStatus,
    status: PaxosClusterStatus,
) -> Result<PaxosClusterStatus, Error> {
    if *current == status {
        return Ok(status);
    }
    let last = context.remember(object, |memory| memory.written.as_ref().map(|w| w.at));
    if status::same_but_for_counters(current, &status)
        && last.is_some_and(|last| last.elapsed() < COUNTERS_INTERVAL)
    {
        return Ok(current.clone());
    }

    context
        .write_status(object, names::MANAGER, &status)
        .await
        .map_err(Error::Status)?;
    context.remember(object, |memory| {
        memory.written = Some(Written {
            at: Instant::now(),
            over: object.resource_version(),
            status: status.clone(),
        });
    });
    for event in status::events(current, &status) {
        publish(object, context, event).await;
    }
    Ok(status)
}

/// Events are a courtesy: one that is lost changes nothing.
pub(super) async fn publish(object: &Guarded, context: &Context, event: Event) {
    let published = context
        .recorder
        .publish(&event, &object.object_ref(&()))
        .await;
    match published {
        Ok(()) => context.metrics.wrote("events", "create"),
        Err(error) => tracing::warn!(%error, reason = event.reason, "an event was lost"),
    }
}

/// Logs and counts a failure, and puts it into the status when somebody must act on it, or when
/// there is no status yet: without one, tools take the cluster for ready.
pub(super) async fn tell(object: &Guarded, context: &Context, error: &Error) {
    let (namespace, cluster) = (object.namespace().unwrap_or_default(), object.name_any());
    if error.is_the_end() {
        tracing::info!(
            namespace,
            cluster,
            "its namespace is being deleted, and the cluster with it"
        );
        return;
    }
    tracing::warn!(namespace, cluster, %error, "reconcile failed and is tried again");
    context.metrics.failed(error.reason());
    if let Some(call) = error.call() {
        context.metrics.call_failed(call);
    }
    let telling = async {
        let current = current_status(object, context).await?;
        if !error.needs_help() && !current.conditions.is_empty() {
            return Ok(());
        }
        let now = now();
        let before = Before {
            status: &current,
            generation: object.meta().generation,
            now: &now,
        };
        let status = status::failed(before, &error.to_string());
        report(object, context, &current, status).await.map(drop)
    };
    match tokio::time::timeout(TIME_LIMIT, telling).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => {
            tracing::warn!(namespace, cluster, %error, "the failure was not reported")
        }
        Err(_) => tracing::warn!(namespace, cluster, "the failure was not reported in time"),
    }
}
