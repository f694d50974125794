//! Which pod is restarted next, so that all get the template that they should have. Pure:
//! [`crate::reconcile`] evicts the pod, and the StatefulSet's controller recreates it.
//!
//! One pod of the cluster is away at a time: learners, stores, acceptors, the proposers that follow,
//! and at last the one that leads, which hands over when it is asked to stop. An acceptor whose disk is
//! refused is away for good and holds up nobody.

use api::env::Role;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{ContainerState, Pod, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use k8s_openapi::jiff::SignedDuration;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::before::Before;
use crate::causes;
use crate::cluster::Cluster;
use crate::compare::{covers, to_json};
use crate::desired::without_addresses;
use crate::growth;
use crate::names;
use crate::observe::{Observed, set_of};
use crate::pods::{condition, is_ready};
use crate::{observe, reasons};

/// Learners first: they show whether the new template works at all, and two do not vote.
const ORDER: [Role; 4] = [Role::Learner, Role::Store, Role::Acceptor, Role::Proposer];
/// A pod that has not been ready for so long is down, and is replaced whatever else is away. Less may
/// be an election.
const DOWN_AFTER: SignedDuration = SignedDuration::from_secs(30);
/// How long a pod may take to come back: the kubelet gives it five minutes to start. Whatever else a
/// roll waits for may take as long.
pub(crate) const BACK_WITHIN: SignedDuration = SignedDuration::from_mins(6);

/// What to do now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Every pod has its template.
    Done,
    /// This pod is next.
    Restart(Restart),
    /// Not now, for this reason.
    Wait(String),
    /// Not until somebody helps, for this reason.
    Stuck(String),
}

/// A pod to restart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Restart {
    /// Its name.
    pub pod: String,
    /// This very pod, and not the one that comes after it.
    pub uid: String,
    /// What changes, such as `image a:1 -> a:2, resources`.
    pub why: String,
    /// Whether it is down anyway, so that the restart can only help.
    pub mends: bool,
}

/// What a roll waits for, and since when the operator has seen that.
#[derive(Clone, Debug, Default)]
pub struct Waiting(Option<(String, Instant)>);

impl Waiting {
    /// The roll advanced: what is waited for next has all its time.
    pub(crate) fn is_over(&mut self) {
        self.0 = None;
    }

    /// The decision, or that the roll does not resume by itself: it has waited for the same for too long.
    pub(crate) fn for_too_long(&mut self, decision: Decision, now: Instant) -> Decision {
        let Decision::Wait(why) = decision else {
            return decision;
        };
        let since = match &self.0 {
            Some((was, since)) if *was == why => *since,
            _ => now,
        };
        self.0 = Some((why.clone(), since));
        if now.duration_since(since) < BACK_WITHIN.unsigned_abs() {
            return Decision::Wait(why);
        }
        Decision::Stuck(why)
    }
}

/// What to do now. `sets` are as the API server answered after they were applied.
pub fn decide(
    before: Before<'_>,
    cluster: &Cluster,
    observed: &Observed,
    sets: &[StatefulSet],
) -> Decision {
    let now = before.now;
    let leader = observe::leader(&observed.proposers);
    let pods = expected(before, cluster, observed, sets, leader);
    let away: Vec<_> = pods.iter().filter(|pod| pod.is_waited_for()).collect();
    let outdated: Vec<_> = pods.iter().filter(|pod| pod.outdated.is_some()).collect();
    let wait = || match away.iter().find(|pod| pod.is_lost(now)) {
        Some(lost) => Some(Decision::Stuck(lost.wanted_back())),
        None => Some(Decision::Wait(away.first()?.wanted_back())),
    };
    let Some(next) = outdated.first() else {
        // The last one that was restarted is still to come back.
        let rolled = before.status.condition("Progressing");
        let rolled = rolled.is_some_and(|was| reasons::ROLL.contains(&was.reason.as_str()));
        return wait().filter(|_| rolled).unwrap_or(Decision::Done);
    };
    // Its pods would come back with the template before this one.
    if let Some(set) = sets.iter().find(|set| !is_seen(set)) {
        let name = set.metadata.name.as_deref().unwrap_or_default();
        return Decision::Wait(format!("StatefulSet {name} has not seen its new spec yet"));
    }
    // A bad image must be fixable: a node that is already down, or the only one away, loses nothing.
    if let Some(down) = outdated.iter().find(|pod| pod.is_down(now)) {
        return down.restart();
    }
    if let [only] = away[..]
        && only.outdated.is_some()
        && only.is_there()
    {
        return only.restart();
    }
    if let Some(wait) = wait() {
        return wait;
    }
    if next.role == Role::Proposer && leader.is_none() {
        return Decision::Wait(match observed.proposers.is_empty() {
            true => "no proposer answers the operator, which cannot tell who leads: does a \
                     NetworkPolicy or a mesh forbid it?"
                .to_owned(),
            false => "no proposer leads".to_owned(),
        });
    }
    next.restart()
}

/// Which roles have pods that are to be restarted, in the order of [`Role::ALL`].
pub(crate) fn outdated_roles(pods: &[Expected<'_>]) -> Vec<Role> {
    let outdated = |role: &Role| {
        let mut pods = pods.iter();
        pods.any(|pod| pod.role == *role && pod.outdated.is_some())
    };
    Role::ALL.into_iter().filter(outdated).collect()
}

/// A pod that there should be.
pub(crate) struct Expected<'a> {
    pub(crate) role: Role,
    pub(crate) id: i32,
    pub(crate) name: String,
    pub(crate) pod: Option<&'a Pod>,
    /// Why its node has stopped for good; Kubernetes hears of that some seconds later.
    halted: Option<&'a str>,
    /// Whether it is an acceptor that must not vote with the disk it has.
    refused: bool,
    /// Why it is not there or not ready, as far as anybody knows.
    pub(crate) why: Option<String>,
    /// Since when it is ready or is not.
    pub(crate) since: Time,
    /// What a restart would change; `None` when nothing.
    outdated: Option<String>,
}

/// All of them, in the order in which they are restarted.
pub(crate) fn expected<'a>(
    before: Before<'_>,
    cluster: &Cluster,
    observed: &'a Observed,
    sets: &[StatefulSet],
    leader: Option<i32>,
) -> Vec<Expected<'a>> {
    let mut pods = Vec::new();
    for group in ORDER.into_iter().filter_map(|role| cluster.group(role)) {
        let role = group.role;
        let set_name = names::role(&cluster.name, role);
        let set = set_of(&cluster.name, role, sets);
        let template = set.and_then(|set| Some(&set.spec.as_ref()?.template));
        let expected = |id: i32| {
            let name = format!("{set_name}-{id}");
            let mut of_cluster = observed.pods.iter();
            let pod = of_cluster.find(|pod| pod.metadata.name.as_ref() == Some(&name));
            let halted = observed.halted.get(&name).map(|halted| &*halted.why);
            let outdated = pod.and_then(|pod| outdated(pod, template?));
            let claim = names::claim_of(&name);
            let grows = growth::waits_for_restart(&observed.claims, &claim, made(pod), before.now);
            Expected {
                role,
                id,
                since: since(before, &name, pod, halted.is_some()),
                outdated: outdated.or(grows),
                halted,
                refused: observed.refused.iter().any(|refused| refused.pod == name),
                why: causes::why(&name, &set_name, pod, &observed.hearsay, before.now),
                name,
                pod,
            }
        };
        let leads = |id: &i32| role == Role::Proposer && Some(*id) == leader;
        let replicas = if cluster.stopped { 0 } else { group.replicas };
        let ids = 1..=i32::from(replicas);
        let (last, first): (Vec<i32>, Vec<i32>) = ids.partition(leads);
        pods.extend(first.into_iter().chain(last).map(expected));
    }
    pods
}

impl Expected<'_> {
    pub(crate) fn is_ready(&self) -> bool {
        self.halted.is_none() && self.pod.is_some_and(is_ready)
    }

    /// Whether others wait until it is back. One that must not vote holds no vote that could be missed.
    fn is_waited_for(&self) -> bool {
        let voteless = self.refused && self.is_there() && self.outdated.is_none();
        !self.is_ready() && !voteless
    }

    /// Whether it exists, and is not on its way out.
    fn is_there(&self) -> bool {
        self.pod
            .is_some_and(|pod| pod.metadata.deletion_timestamp.is_none())
    }

    fn is_down(&self, now: &Time) -> bool {
        let not_running = |pod| !matches!(state(pod), Some(state) if state.running.is_some());
        self.is_there()
            && !self.is_ready()
            && (self.halted.is_some()
                || self.pod.is_some_and(not_running)
                || self.is_away_for(DOWN_AFTER, now))
    }

    /// Whether it has been away for too long to be waited for.
    fn is_lost(&self, now: &Time) -> bool {
        self.halted.is_some() || self.is_overdue(now)
    }

    fn is_away_for(&self, limit: SignedDuration, now: &Time) -> bool {
        now.0.duration_since(self.since.0) >= limit
    }

    /// Whether it counts as missing although pods are being restarted: it has been away for longer than
    /// a restart takes.
    pub(crate) fn is_overdue(&self, now: &Time) -> bool {
        !self.is_ready() && self.is_away_for(BACK_WITHIN, now)
    }

    /// Whether it may be away because it is just being restarted: it comes back as it should be. One
    /// that is not made for a known reason does not.
    pub(crate) fn is_being_restarted(&self) -> bool {
        let comes_back = match self.pod {
            None => self.why.is_none(),
            Some(_) => !self.is_there() || self.outdated.is_none(),
        };
        !self.is_ready() && !self.refused && comes_back
    }

    fn restart(&self) -> Decision {
        let uid = self.pod.and_then(|pod| pod.metadata.uid.clone());
        Decision::Restart(Restart {
            pod: self.name.clone(),
            uid: uid.unwrap_or_default(),
            why: self.outdated.clone().unwrap_or_default(),
            mends: !self.is_ready(),
        })
    }

    /// Why it is waited for.
    pub(crate) fn wanted_back(&self) -> String {
        let state = match self.halted {
            _ if self.pod.is_none() => "is not there",
            _ if !self.is_there() => "is shutting down",
            Some(_) => "has stopped",
            None => "is not ready",
        };
        // A node that has stopped for good knows best why.
        let halted = self.halted.filter(|_| self.is_there());
        match halted.or(self.why.as_deref()) {
            Some(why) => format!("pod {} {state}: {why}", self.name),
            None => format!("pod {} {state}", self.name),
        }
    }
}

fn made(pod: Option<&Pod>) -> Option<&Time> {
    pod?.metadata.creation_timestamp.as_ref()
}

/// Since when a pod is ready or is not, by the operator's own clock: a kubelet's may be another. Where
/// nothing is known of it yet, Kubernetes is believed, but for times to come.
fn since(before: Before<'_>, name: &str, pod: Option<&Pod>, halted: bool) -> Time {
    let ready = !halted && pod.is_some_and(is_ready);
    let mut members = before.status.members.iter();
    match members.find(|member| member.pod == name) {
        Some(member) if member.ready == ready => {
            // One that was recreated meanwhile has its own time to come back.
            let there = pod.filter(|pod| !ready && pod.metadata.deletion_timestamp.is_none());
            let made = made(there).map(|made| made.min(before.now));
            made.map_or(&member.since, |made| made.max(&member.since))
                .clone()
        }
        Some(_) => before.now.clone(),
        None => {
            let there = pod.filter(|pod| pod.metadata.deletion_timestamp.is_none());
            let told = there.and_then(|pod| {
                let ready = condition(pod, "Ready");
                let ready = ready.and_then(|ready| ready.last_transition_time.as_ref());
                ready.or(pod.metadata.creation_timestamp.as_ref())
            });
            told.map_or(before.now, |told| told.min(before.now)).clone()
        }
    }
}

/// The state of the node's container.
fn state(pod: &Pod) -> Option<&ContainerState> {
    let containers = pod.status.as_ref()?.container_statuses.as_ref()?;
    let node = containers
        .iter()
        .find(|container| container.name == names::CONTAINER)?;
    node.state.as_ref()
}

/// Whether the StatefulSet's controller knows the spec that there is.
pub(crate) fn is_seen(set: &StatefulSet) -> bool {
    let seen = set.status.as_ref().and_then(|s| s.observed_generation);
    seen >= set.metadata.generation
}

/// What a restart would change about a pod; `None` when nothing. A pod of an operator that wrote no
/// digest is as good as new when its spec says what the template says.
fn outdated(pod: &Pod, template: &PodTemplateSpec) -> Option<String> {
    fn annotation<'a>(of: Option<&'a ObjectMeta>, key: &str) -> Option<&'a String> {
        of?.annotations.as_ref()?.get(key)
    }
    let of_pod = |key| annotation(Some(&pod.metadata), key);
    let wanted = |key| annotation(template.metadata.as_ref(), key);
    let asked = wanted(names::RESTARTED_ANNOTATION);
    if asked.is_some() && asked != of_pod(names::RESTARTED_ANNOTATION) {
        return Some("it was asked for".to_owned());
    }
    // The same digest tells it without a look at every field, which costs most of a reconciliation.
    let digest = of_pod(names::TEMPLATE_ANNOTATION);
    if digest.is_some() && digest == wanted(names::TEMPLATE_ANNOTATION) {
        return None;
    }
    let mut changes = differences(
        &to_json(&pod.spec),
        &without_addresses(template)["spec"].take(),
    );
    if digest.is_none() && changes.is_empty() {
        return None;
    }
    if changes.is_empty() {
        changes.push("its template".to_owned());
    }
    Some(changes.join(", "))
}

/// The fields of a pod's spec that are not as wanted. A pod has more than its template says.
fn differences(live: &Value, wanted: &Value) -> Vec<String> {
    let node = |spec: &Value| {
        let mut containers = spec["containers"].as_array().into_iter().flatten();
        let node = containers.find(|container| container["name"] == names::CONTAINER);
        node.cloned().unwrap_or_default()
    };
    let (node_live, node_wanted) = (node(live), node(wanted));
    let mut changes = Vec::new();
    if node_live["image"] != node_wanted["image"] {
        let image = |node: &Value| node["image"].as_str().unwrap_or("none").to_owned();
        changes.push(format!(
            "image {} -> {}",
            image(&node_live),
            image(&node_wanted)
        ));
    }
    let variables = |node: &Value| node["env"].as_array().cloned().unwrap_or_default();
    for variable in variables(&node_wanted) {
        let same = |live: &Value| covers(live, &variable, "");
        if !variables(&node_live).iter().any(same) {
            changes.push(format!("env {}", variable["name"].as_str().unwrap_or("?")));
        }
    }
    let told = ["image", "env", "containers"];
    for (live, wanted) in [(&node_live, &node_wanted), (live, wanted)] {
        for (field, wanted) in wanted.as_object().into_iter().flatten() {
            if !told.contains(&field.as_str()) && !has(live, wanted, field) {
                changes.push(field.clone());
            }
        }
    }
    changes
}

/// Whether a pod has in a field what is wanted. Admission adds tolerations to every pod, and a
/// StatefulSet adds volumes.
fn has(live: &Value, wanted: &Value, field: &str) -> bool {
    let list = |of: &Value| of.as_array().cloned().unwrap_or_default();
    if ["tolerations", "volumes"].contains(&field) {
        let live = list(&live[field]);
        return (list(wanted).iter())
            .all(|wanted| live.iter().any(|live| covers(live, wanted, "")));
    }
    covers(live, &json!({ field: wanted }), "")
}

#[cfg(test)]
mod tests;
