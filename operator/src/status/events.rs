//! What is worth an event, for `kubectl describe`.

use k8s_openapi::api::core::v1::ObjectReference;
use kube::runtime::events::{Event, EventType};

use super::{
    AGREEMENT_VIOLATED, APPLY_FAILED, CONTRADICTION, DATA_LOST, DISK_REFUSED, NODE_HALTED,
    NOT_STARTED, PAUSED, ROLL_STUCK, STARTING, STOPPED, VOLUME_FULL, WRONG_ADDRESS,
};
use crate::crd::PaxosClusterStatus;
use crate::roll::Restart;

/// What happened between two statuses. Empty when only counters moved.
pub fn events(before: &PaxosClusterStatus, after: &PaxosClusterStatus) -> Vec<Event> {
    let mut events = Vec::new();
    let became = |kind: &str| {
        let is = after.condition(kind)?;
        let was = before.condition(kind).map(|was| (&was.status, &was.reason));
        (was != Some((&is.status, &is.reason))).then_some((was, is))
    };
    if let Some((_, stalled)) = became("Stalled") {
        events.push(event(EventType::Warning, &stalled.reason, &stalled.message));
    }
    if let Some((was, available)) = became("Available")
        && available.status != "True"
        && available.reason != STOPPED
        && was.is_some_and(|(status, _)| status == "True")
    {
        events.push(event(
            EventType::Warning,
            &available.reason,
            &available.message,
        ));
    }
    if let Some((_, degraded)) = became("Degraded")
        && [
            AGREEMENT_VIOLATED,
            CONTRADICTION,
            DATA_LOST,
            DISK_REFUSED,
            NODE_HALTED,
            NOT_STARTED,
            WRONG_ADDRESS,
            ROLL_STUCK,
            VOLUME_FULL,
        ]
        .contains(&degraded.reason.as_str())
    {
        events.push(event(
            EventType::Warning,
            &degraded.reason,
            &degraded.message,
        ));
    }
    match (before.is("Paused"), after.is("Paused")) {
        (false, true) => events.push(event(EventType::Normal, PAUSED, "nothing is applied")),
        (true, false) => events.push(event(EventType::Normal, "Resumed", "changes are applied")),
        _ => {}
    }
    match became("Ready") {
        Some((_, ready)) if ready.reason == STOPPED => {
            events.push(event(EventType::Normal, STOPPED, &ready.message));
        }
        Some((_, ready)) if ready.status == "True" => {
            events.push(event(EventType::Normal, "Ready", &ready.message));
        }
        Some((None, ready)) if ready.reason == STARTING => {
            events.push(event(
                EventType::Normal,
                STARTING,
                "nodes are being started",
            ));
        }
        // Stalled and Available have said it.
        Some((Some((was, _)), ready)) if was == "True" && events.is_empty() => {
            events.push(event(EventType::Warning, "NotReady", &ready.message));
        }
        Some((_, ready)) if ready.reason == APPLY_FAILED => {
            events.push(event(EventType::Warning, APPLY_FAILED, &ready.message));
        }
        _ => {}
    }
    if let Some(leader) = after.leader_id
        && before.leader_id != Some(leader)
    {
        let term = after.term.unwrap_or_default();
        let note = format!("proposer {leader} leads in term {term}");
        events.push(event(EventType::Normal, "LeaderElected", &note));
    }
    events
}

/// That a pod was restarted. `pod` sets the event apart from those of other pods.
pub fn restarted(restart: &Restart, pod: ObjectReference) -> Event {
    let note = format!("pod {}: {}", restart.pod, restart.why);
    Event {
        secondary: Some(pod),
        ..event(EventType::Normal, "Restarted", &note)
    }
}

/// That another operator looks after the same PaxosCluster.
pub fn other_operator(note: &str) -> Event {
    event(EventType::Warning, "OtherOperator", note)
}

fn event(type_: EventType, reason: &str, note: &str) -> Event {
    Event {
        type_,
        reason: reason.to_owned(),
        // Events may have 1 kB; a message quotes what the user wrote, which may be long.
        note: Some(note.chars().take(250).collect()),
        action: "Reconcile".to_owned(),
        secondary: None,
    }
}
