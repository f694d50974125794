//! Why a node is not there or not ready, in words that need nothing else to be looked up. Pure.
//!
//! Kubernetes spreads it over the pod's conditions, its containers' states, and the events of the
//! StatefulSet and of the claim; the node itself says the rest.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{
    ContainerState, ContainerStateTerminated, ContainerStateWaiting, ContainerStatus, Event,
    PersistentVolumeClaim, Pod,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use serde_json::Value;

use crate::names;
use crate::pods::condition;

/// A pod that should have ended so long ago is on a Kubernetes node that does not answer.
const OVERDUE: SignedDuration = SignedDuration::from_secs(60);
/// A crash that is longer ago explains nothing any more.
const LATELY: SignedDuration = SignedDuration::from_mins(10);
/// The longest text that is taken over from a crash or an event, in characters.
const QUOTE_MAX: usize = 400;
/// How many different causes are reported at once.
const CAUSES_MAX: usize = 4;
/// States of a container that say nothing about why it does not advance.
const ON_ITS_WAY: [&str; 2] = ["ContainerCreating", "PodInitializing"];

/// What others say of a cluster's pods, by the names of the objects that it is about.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Hearsay {
    /// Warnings about StatefulSets, pods and claims, from their events.
    pub warnings: BTreeMap<String, String>,
    /// Why nodes that run are not ready, in their own words, by their pods.
    pub unready: BTreeMap<String, String>,
}

/// An object whose events may say why a pod is not there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// `StatefulSet`, `Pod` or `PersistentVolumeClaim`.
    pub kind: &'static str,
    /// Its name.
    pub name: String,
    /// This very object.
    pub uid: String,
}

/// Whose events to read: none while every pod is there and its container runs.
pub fn to_ask(sets: &[StatefulSet], pods: &[Pod], claims: &[PersistentVolumeClaim]) -> Vec<Asked> {
    let asked = |kind, metadata: &k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta| {
        Some(Asked {
            kind,
            name: metadata.name.clone()?,
            uid: metadata.uid.clone()?,
        })
    };
    let short = |set: &&StatefulSet| {
        let wanted = set
            .spec
            .as_ref()
            .and_then(|spec| spec.replicas)
            .unwrap_or(1);
        set.status.as_ref().map_or(0, |status| status.replicas) < wanted
    };
    let stands = |pod: &&Pod| {
        let waiting = node(pod).and_then(|node| waiting(node.state.as_ref()));
        let on_its_way = waiting.is_some_and(|waiting| {
            ON_ITS_WAY.contains(&waiting.reason.as_deref().unwrap_or_default())
        });
        on_its_way && pod.metadata.deletion_timestamp.is_none()
    };
    let pending = |claim: &&PersistentVolumeClaim| {
        let phase = claim
            .status
            .as_ref()
            .and_then(|status| status.phase.as_deref());
        phase == Some("Pending")
    };
    // One of each kind and role tells what the others would.
    let sets = sets
        .iter()
        .filter(short)
        .filter_map(|set| asked("StatefulSet", &set.metadata));
    let pods = pods
        .iter()
        .filter(stands)
        .filter_map(|pod| asked("Pod", &pod.metadata));
    let claims = claims.iter().filter(pending);
    let claims = claims.filter_map(|claim| asked("PersistentVolumeClaim", &claim.metadata));
    sets.chain(pods.take(2)).chain(claims.take(2)).collect()
}

/// The warning that the events of one object end with; `None` when what came last is no warning.
pub fn last_warning(events: &[Event]) -> Option<String> {
    let last = events.iter().max_by_key(|event| seen(event))?;
    let warns = last.type_.as_deref() == Some("Warning");
    let message = last.message.as_deref().filter(|_| warns)?;
    let reason = last.reason.as_deref().unwrap_or("Warning");
    Some(format!("{reason}: {}", quoted(message)))
}

fn seen(event: &Event) -> Option<Timestamp> {
    let series = event
        .series
        .as_ref()
        .and_then(|series| series.last_observed_time.as_ref());
    let fine = series.or(event.event_time.as_ref()).map(|time| time.0);
    let coarse = event.last_timestamp.as_ref().map(|time| time.0);
    let created = event
        .metadata
        .creation_timestamp
        .as_ref()
        .map(|time| time.0);
    fine.max(coarse).or(created)
}

/// Why a pod that should be ready is not. `set` is that of its role; `None` when nothing more is known
/// than that it is not ready.
pub fn why(name: &str, set: &str, pod: Option<&Pod>, told: &Hearsay, now: &Time) -> Option<String> {
    let Some(pod) = pod else {
        return told.warnings.get(set).cloned();
    };
    if let Some(deadline) = &pod.metadata.deletion_timestamp {
        let overdue = now.0.duration_since(deadline.0) >= OVERDUE;
        return overdue.then(|| unconfirmed(pod));
    }
    if !knows(pod, set) {
        let role = names::ROLE_LABEL;
        return Some(format!(
            "its label {role} was changed, so that StatefulSet {set} lets it go: set it back, or delete the pod"
        ));
    }
    let claim = names::claim_of(name);
    let status = pod.status.as_ref();
    unscheduled(pod)
        .map(|why| match told.warnings.get(&claim) {
            Some(warning) => format!("{why} (PersistentVolumeClaim {claim}: {warning})"),
            None => why,
        })
        .or_else(|| {
            // `Evicted`, `NodeLost` and the like.
            let reason = status?.reason.as_deref()?;
            let message = status?.message.as_deref().unwrap_or_default();
            Some(format!("{reason}: {}", quoted(message)))
        })
        .or_else(|| containers(pod).find_map(stopped))
        .or_else(|| told.warnings.get(name).cloned())
        .or_else(|| unreachable(pod))
        .or_else(|| containers(pod).find_map(|container| ended_before(container, now)))
        .or_else(|| told.unready.get(name).cloned())
        .or_else(|| {
            let waiting = containers(pod).find_map(|it| waiting(it.state.as_ref()))?;
            waiting.reason.clone()
        })
}

/// Whether the set of its role still takes the pod for its own.
fn knows(pod: &Pod, set: &str) -> bool {
    let labels = pod.metadata.labels.as_ref();
    let role = labels.and_then(|labels| labels.get(names::ROLE_LABEL));
    role.is_some_and(|role| set.ends_with(&format!("-{role}")))
}

fn unconfirmed(pod: &Pod) -> String {
    let spec = pod.spec.as_ref();
    let node = spec
        .and_then(|spec| spec.node_name.as_deref())
        .unwrap_or("its node");
    format!(
        "it should have ended, and Kubernetes node {node} does not confirm that: if that node is lost \
         for good, taint it with node.kubernetes.io/out-of-service=nodeshutdown:NoExecute"
    )
}

/// The Kubernetes node does not answer.
fn unreachable(pod: &Pod) -> Option<String> {
    let spec = pod.spec.as_ref()?;
    let node = spec.node_name.as_deref()?;
    let tainted = condition(pod, "DisruptionTarget").filter(|it| it.status == "True");
    if let Some(message) = tainted.and_then(|it| it.message.as_deref()) {
        return Some(quoted(message));
    }
    let ready = condition(pod, "Ready")?;
    // The node's controller says no more than that it has not heard of it.
    let unknown = ["NodeNotReady", "NodeStatusUnknown", "NodeLost"];
    let unknown = ready
        .reason
        .as_deref()
        .is_some_and(|reason| unknown.contains(&reason));
    unknown.then(|| format!("Kubernetes node {node} does not answer"))
}

fn unscheduled(pod: &Pod) -> Option<String> {
    let scheduled = condition(pod, "PodScheduled").filter(|it| it.status == "False")?;
    let message = scheduled.message.as_deref()?;
    Some(format!("it finds no Kubernetes node: {}", quoted(message)))
}

/// The node's container first; sidecars and init containers may hold it up as well.
fn containers(pod: &Pod) -> impl Iterator<Item = &ContainerStatus> {
    let status = pod.status.as_ref();
    let main = status.and_then(|status| status.container_statuses.as_deref());
    let init = status.and_then(|status| status.init_container_statuses.as_deref());
    let main = main.unwrap_or_default().iter();
    let init = init.unwrap_or_default().iter();
    let others = main
        .clone()
        .chain(init)
        .filter(|it| it.name != names::CONTAINER);
    main.filter(|it| it.name == names::CONTAINER).chain(others)
}

fn node(pod: &Pod) -> Option<&ContainerStatus> {
    containers(pod).next()
}

fn waiting(state: Option<&ContainerState>) -> Option<&ContainerStateWaiting> {
    state?.waiting.as_ref()
}

/// Why a container does not run.
fn stopped(container: &ContainerStatus) -> Option<String> {
    let last = container
        .last_state
        .as_ref()
        .and_then(|state| state.terminated.as_ref());
    let state = container.state.as_ref()?;
    if let Some(ended) = state
        .terminated
        .as_ref()
        .filter(|ended| ended.exit_code != 0)
    {
        return Some(end(container, ended));
    }
    let waiting = state.waiting.as_ref()?;
    let reason = waiting.reason.as_deref()?;
    if ON_ITS_WAY.contains(&reason) {
        return None;
    }
    if ["ErrImagePull", "ImagePullBackOff"].contains(&reason) {
        // The kubelet says the one and the other in turn, about the same.
        let message = waiting.message.as_deref().unwrap_or_default();
        let cause = message
            .split_once("ErrImagePull: ")
            .map_or(message, |(_, cause)| cause);
        let image = &container.image;
        if cause.is_empty() {
            return Some("ImagePullBackOff".to_owned());
        }
        return Some(format!(
            "ImagePullBackOff: image {image:?}: {}",
            quoted(cause)
        ));
    }
    match (reason, last) {
        // Its own message is how long the kubelet waits, which changes all the time.
        ("CrashLoopBackOff", Some(last)) => Some(end(container, last)),
        _ => Some(match waiting.message.as_deref() {
            Some(message) if reason != "CrashLoopBackOff" => {
                format!("{reason}: {}", quoted(message))
            }
            _ => reason.to_owned(),
        }),
    }
}

/// Why a container that runs, and whose pod is not ready, ended the last time, if that was lately: it
/// may be about to do so again.
fn ended_before(container: &ContainerStatus, now: &Time) -> Option<String> {
    let last = container.last_state.as_ref()?.terminated.as_ref()?;
    let lately = |at: &Time| now.0.duration_since(at.0) < LATELY;
    let lately = last.finished_at.as_ref().is_none_or(lately);
    (last.exit_code != 0 && lately).then(|| end(container, last))
}

fn end(container: &ContainerStatus, ended: &ContainerStateTerminated) -> String {
    let name = match container.name.as_str() {
        names::CONTAINER => "it".to_owned(),
        other => format!("container {other}"),
    };
    let code = ended.exit_code;
    if ended.reason.as_deref() == Some("OOMKilled") {
        return format!("{name} was killed for want of memory (OOMKilled): raise its memory limit");
    }
    let said = ended.message.as_deref().and_then(last_words);
    match said {
        Some(said) => format!("{name} ended with exit code {code}: {said}"),
        None => {
            let reason = ended.reason.as_deref().unwrap_or("Error");
            format!("{name} ended with exit code {code} ({reason})")
        }
    }
}

/// What a program's output ends with, without the time, which would make it another text each time.
fn last_words(output: &str) -> Option<String> {
    let line = output
        .lines()
        .map(str::trim)
        .rfind(|line| !line.is_empty())?;
    if let Ok(Value::Object(fields)) = serde_json::from_str::<Value>(line) {
        let text = |field: &str| fields.get(field).and_then(Value::as_str);
        let message = text("message")?;
        return Some(quoted(&match text("error") {
            Some(error) => format!("{message}: {error}"),
            None => message.to_owned(),
        }));
    }
    let line = match line.split_once(' ') {
        Some((time, rest)) if time.parse::<Timestamp>().is_ok() => rest.trim_start(),
        _ => line,
    };
    Some(quoted(line))
}

fn quoted(text: &str) -> String {
    let text = text.trim();
    match text.char_indices().nth(QUOTE_MAX) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// Pods and why they are not ready as one text: those with the same cause together. `None` when nothing
/// is known of any.
pub fn summary(causes: impl Iterator<Item = (String, String)>) -> Option<String> {
    let mut by_cause: Vec<(String, Vec<String>)> = Vec::new();
    for (pod, why) in causes {
        match by_cause.iter_mut().find(|(known, _)| *known == why) {
            Some((_, pods)) => pods.push(pod),
            None => by_cause.push((why, vec![pod])),
        }
    }
    let more: usize = by_cause
        .iter()
        .skip(CAUSES_MAX)
        .map(|(_, pods)| pods.len())
        .sum();
    let told = by_cause.iter().take(CAUSES_MAX).map(|(why, pods)| {
        let pod = if pods.len() == 1 { "pod" } else { "pods" };
        format!("{pod} {}: {why}", pods.join(", "))
    });
    let more = (more > 0).then(|| format!("and {more} more"));
    let told: Vec<String> = told.chain(more).collect();
    (!told.is_empty()).then(|| told.join("; "))
}

#[cfg(test)]
mod tests;
