//! What users are told: `PaxosClusterStatus`, by the rules of kstatus, and the events that tell of a
//! change. Pure.

mod events;

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use proposer::config::Role;
use proposer::driver::halt::CONTRADICTED;
use proposer::driver::learner::AGREEMENT_IS_VIOLATED;

use crate::cluster::{Cluster, Group, Invalid};
use crate::crd::{MemberStatus, PaxosClusterStatus, QuorumStatus, RoleStatus};
use crate::desired::{Applied, Objects};
use crate::names;
use crate::observe::{Answer, Observed, Refused};
use crate::roll::{self, Decision};
use crate::scale::Plan;

pub use events::{events, restarted};

/// What a status is written from besides what was observed.
#[derive(Clone, Copy, Debug)]
pub struct Before<'a> {
    /// The status that there is.
    pub status: &'a PaxosClusterStatus,
    /// The PaxosCluster's `metadata.generation`.
    pub generation: Option<i64>,
    /// When a condition that changes does so.
    pub now: &'a Time,
}

/// The status of a cluster whose objects are as desired.
pub fn status(
    before: Before<'_>,
    cluster: &Cluster,
    observed: &Observed,
    applied: &Objects<Applied>,
    roll: &Decision,
) -> PaxosClusterStatus {
    let situation = Situation::new(before, cluster, observed, &applied.stateful_sets, roll);
    situation.tell(before, situation.ready(), situation.progressing())
}

/// The status of a cluster some of whose objects were refused. What runs is told as it is.
pub fn refused(
    before: Before<'_>,
    cluster: &Cluster,
    observed: &Observed,
    message: &str,
) -> PaxosClusterStatus {
    let sets = &observed.stateful_sets;
    let situation = Situation::new(before, cluster, observed, sets, &Decision::Done);
    let verdict = ("False", APPLY_FAILED, message.to_owned());
    situation.tell(before, verdict.clone(), verdict)
}

/// The status of a cluster to which nothing is done for now. It speaks of the spec that was applied
/// last, so that tools see that a newer one waits.
pub fn paused(before: Before<'_>, cluster: &Cluster, observed: &Observed) -> PaxosClusterStatus {
    let before = Before {
        generation: before.status.observed_generation,
        ..before
    };
    let sets = &observed.stateful_sets;
    let situation = Situation::new(before, cluster, observed, sets, &Decision::Done);
    let why = format!(
        "nothing is applied or restarted while annotation {} is true",
        names::PAUSED_ANNOTATION
    );
    let ready = match situation.starting {
        true => ("False", PAUSED, why.clone()),
        false => situation.ready(),
    };
    let mut status = situation.tell(before, ready, ("False", PAUSED, why.clone()));
    let mut conditions = Conditions::new(before);
    conditions.set("Paused", ("True", PAUSED, why));
    status.conditions.extend(conditions.list);
    status
}

/// What a condition says: status, reason, message.
type Verdict = (&'static str, &'static str, String);

/// What the conditions are decided from.
struct Situation {
    counts: Vec<(Role, RoleStatus)>,
    /// Which roles have fewer ready nodes than they should; `None` when no role has.
    short: Option<String>,
    /// Which roles have pods to start, replace or stop, and what is done or waited for; `None` when no
    /// role has.
    rolling: Option<String>,
    /// Why that does not go on; `None` when it does.
    stuck: Option<String>,
    available: Verdict,
    /// What does not mend itself: the reason and the nodes.
    broken: Option<(&'static str, String)>,
    /// Whether this cluster was never whole: nodes that are missing are still expected to come.
    starting: bool,
    stopped: bool,
    acceptors: u8,
    /// Of the learners' pods.
    selector: String,
    quorum: i32,
    /// Whether a pod that counts as ready is restarted now.
    restarts: bool,
    members: Vec<MemberStatus>,
    leader: Option<i32>,
    term: Option<i64>,
    committed: Option<i64>,
}

impl Situation {
    fn new(
        before: Before<'_>,
        cluster: &Cluster,
        observed: &Observed,
        sets: &[StatefulSet],
        roll: &Decision,
    ) -> Situation {
        let pods = roll::expected(before, cluster, observed, sets, None);
        let count = |group: &Group| {
            let replicas = match cluster.stopped {
                true => 0,
                false => i32::from(group.replicas),
            };
            let ready = pods.iter().filter(|pod| pod.role == group.role);
            let ready = ready.filter(|pod| pod.is_ready()).count() as i32;
            let summary = format!("{ready}/{replicas}");
            (
                group.role,
                RoleStatus {
                    replicas,
                    ready,
                    summary,
                },
            )
        };
        let counts: Vec<_> = cluster.groups.iter().map(count).collect();
        let short = counts
            .iter()
            .filter(|(_, count)| count.ready < count.replicas);
        let short = short.map(|(role, count)| format!("{} {role}s", count.summary));
        let outdated = roll::outdated_roles(&pods);
        let done = |role| {
            let wanted = cluster.group(role).map(|group| group.replicas);
            let wanted = wanted.map(|wanted| {
                if cluster.stopped {
                    0
                } else {
                    i32::from(wanted)
                }
            });
            let set = set_of(cluster, role, sets);
            set.is_some_and(|set| has_all_pods(set) && replicas(set) == wanted)
                && !outdated.contains(&role)
        };
        let held = Plan::of(cluster, observed).held;
        let held = held.filter(|_| !cluster.stopped);
        let rolling = counts.iter().filter(|(role, _)| !done(*role));
        let rolling = list(rolling.map(|(role, _)| format!("{role}s")))
            .map(|roles| format!("being brought up to date: {roles}"));
        let step = match roll {
            Decision::Done | Decision::Stuck(_) => None,
            Decision::Restart(next) => Some(format!("restarting pod {}: {}", next.pod, next.why)),
            Decision::Wait(why) => Some(why.clone()),
        };
        let stuck = match roll {
            Decision::Stuck(why) => Some(format!("{why}; no other pod is restarted until it is")),
            _ => None,
        };
        let answers = &observed.proposers;
        let leader = leader(answers);
        let latest = |of: fn(&Answer) -> i64| answers.iter().map(of).max();
        let mut situation = Situation {
            short: list(short).map(|roles| format!("ready: {roles}")),
            rolling: list(rolling.into_iter().chain(held).chain(step)),
            stuck,
            available: availability(cluster, &counts, answers, leader),
            broken: broken(observed),
            counts,
            starting: false,
            stopped: cluster.stopped,
            acceptors: cluster.members.count(),
            selector: names::selector_text(&cluster.name, Role::Learner),
            quorum: cluster.members.quorum() as i32,
            restarts: matches!(roll, Decision::Restart(_)),
            members: pods
                .iter()
                .map(|pod| member(before, observed, pod))
                .collect(),
            leader,
            term: latest(|answer| answer.term).or(before.status.term),
            committed: latest(|answer| answer.committed_instance_id)
                .or(before.status.committed_instance),
        };
        let never_whole = before.status.condition("Degraded").is_none_or(|was| {
            let before = [STARTING, STOPPED, INVALID_SPEC, OTHER_COUNT, APPLY_FAILED];
            before.contains(&was.reason.as_str())
        });
        // What is broken will not be whole by waiting.
        let waits = situation.broken.is_none();
        situation.starting = never_whole && waits && !cluster.stopped && !situation.is_whole();
        situation
    }

    fn tell(&self, before: Before<'_>, ready: Verdict, progressing: Verdict) -> PaxosClusterStatus {
        let mut conditions = Conditions::new(before);
        conditions.set("Ready", ready);
        conditions.set("Available", self.available.clone());
        conditions.set("Progressing", progressing);
        conditions.set("Degraded", self.degraded());
        PaxosClusterStatus {
            observed_generation: before.generation,
            acceptors: Some(i32::from(self.acceptors)),
            proposer: self.count(Role::Proposer),
            acceptor: self.count(Role::Acceptor),
            learner: self.count(Role::Learner),
            store: self.count(Role::Store),
            selector: Some(self.selector.clone()),
            quorum: Some(self.quorum()),
            members: self.members.clone(),
            leader_id: self.leader,
            term: self.term,
            committed_instance: self.committed,
            conditions: conditions.list,
        }
    }

    fn count(&self, role: Role) -> Option<RoleStatus> {
        count(&self.counts, role).cloned()
    }

    fn quorum(&self) -> QuorumStatus {
        let ready = |role| count(&self.counts, role).map_or(0, |count| count.ready);
        let healthy = ready(Role::Acceptor);
        let tolerates = (healthy - self.quorum).max(0);
        let spare = [Role::Proposer, Role::Learner].map(ready);
        QuorumStatus {
            size: self.quorum,
            healthy,
            tolerates,
            safe_to_disrupt: self.is_available()
                && !self.restarts
                && tolerates > 0
                && spare.iter().all(|ready| *ready > 1),
        }
    }

    fn roll_stuck(&self, status: &'static str) -> Verdict {
        (status, ROLL_STUCK, self.stuck.clone().unwrap_or_default())
    }

    fn is_available(&self) -> bool {
        self.available.0 == "True"
    }

    fn is_whole(&self) -> bool {
        let settled = self.rolling.is_none() && self.stuck.is_none();
        self.short.is_none() && settled && self.is_available()
    }

    fn ready(&self) -> Verdict {
        match (&self.short, &self.rolling) {
            _ if self.stopped => self.available.clone(),
            _ if self.starting => {
                let message = self.short.as_ref().unwrap_or(&self.available.2);
                ("False", STARTING, message.clone())
            }
            _ if !self.is_available() => self.available.clone(),
            _ if let Some((reason, message)) = &self.broken => ("False", reason, message.clone()),
            _ if self.stuck.is_some() => self.roll_stuck("False"),
            (Some(short), _) => ("False", "NodesNotReady", short.clone()),
            (None, Some(rolling)) => ("False", ROLLING_OUT, rolling.clone()),
            (None, None) => {
                let message = "every node is ready and the cluster commits";
                ("True", "AllNodesReady", message.to_owned())
            }
        }
    }

    fn progressing(&self) -> Verdict {
        match &self.rolling {
            Some(_) if self.stopped => ("True", STOPPING, "nodes are being stopped".to_owned()),
            None if self.stopped => ("False", STOPPED, self.available.2.clone()),
            _ if self.starting => ("True", STARTING, "nodes are being started".to_owned()),
            _ if self.stuck.is_some() => self.roll_stuck("False"),
            Some(rolling) => ("True", ROLLING_OUT, rolling.clone()),
            None => ("False", "UpToDate", "every node is up to date".to_owned()),
        }
    }

    fn degraded(&self) -> Verdict {
        match (&self.short, &self.rolling) {
            _ if self.stopped => ("False", STOPPED, self.available.2.clone()),
            _ if self.starting => ("False", STARTING, "nodes are being started".to_owned()),
            // Said first: it does not mend itself.
            _ if let Some((reason, message)) = &self.broken => ("True", reason, message.clone()),
            _ if !self.is_available() => {
                let (_, reason, message) = &self.available;
                ("True", reason, message.clone())
            }
            _ if self.stuck.is_some() => self.roll_stuck("True"),
            // While pods are replaced, some are missing for a moment.
            (Some(short), None) => ("True", "NodesNotReady", short.clone()),
            _ => (
                "False",
                "AsDesired",
                "no node is missing unexpectedly".to_owned(),
            ),
        }
    }
}

/// The status of a spec that makes no sense. What runs goes on as it was; nothing will change until
/// the spec does.
pub fn invalid(before: Before<'_>, invalid: &Invalid) -> PaxosClusterStatus {
    let message = invalid.to_string();
    let reason = match invalid.volumes {
        true => OTHER_COUNT,
        false => INVALID_SPEC,
    };
    let mut conditions = Conditions::new(before);
    conditions.set("Ready", ("False", reason, message.clone()));
    conditions.keep(
        "Available",
        ("Unknown", reason, "nothing was started".to_owned()),
    );
    conditions.set("Progressing", ("False", reason, message.clone()));
    conditions.keep(
        "Degraded",
        ("False", reason, "nothing was started".to_owned()),
    );
    conditions.set("Stalled", ("True", reason, message));
    PaxosClusterStatus {
        observed_generation: before.generation,
        conditions: conditions.list,
        ..before.status.clone()
    }
}

/// The status of a cluster whose objects could not be read or written. It is tried again.
pub fn failed(before: Before<'_>, message: &str) -> PaxosClusterStatus {
    let mut conditions = Conditions::new(before);
    conditions.set("Ready", ("False", APPLY_FAILED, message.to_owned()));
    conditions.keep(
        "Available",
        ("Unknown", APPLY_FAILED, "not looked at yet".to_owned()),
    );
    conditions.set("Progressing", ("False", APPLY_FAILED, message.to_owned()));
    conditions.keep(
        "Degraded",
        ("False", APPLY_FAILED, "not looked at yet".to_owned()),
    );
    PaxosClusterStatus {
        observed_generation: before.generation,
        conditions: conditions.list,
        ..before.status.clone()
    }
}

/// Whether two statuses differ in what was measured only: that may be written later.
pub fn same_but_for_counters(a: &PaxosClusterStatus, b: &PaxosClusterStatus) -> bool {
    let without = |status: &PaxosClusterStatus| PaxosClusterStatus {
        committed_instance: None,
        term: None,
        leader_id: None,
        ..status.clone()
    };
    without(a) == without(b)
}

/// The reason of every condition of a spec that makes no sense.
pub const INVALID_SPEC: &str = "InvalidSpec";
/// The reason of every condition of a spec with another number of acceptors than the volumes were made
/// for.
pub const OTHER_COUNT: &str = "OtherAcceptorCount";
/// The reason when the API server refused an object.
pub const APPLY_FAILED: &str = "ApplyFailed";
/// The reason when an acceptor must not vote with the disk it has.
pub const DISK_REFUSED: &str = "DiskRefused";
/// The reason when a node finds another one, or one of another cluster, where it looks for its own.
pub const WRONG_ADDRESS: &str = "WrongAddress";
/// The reason when a learner has applied something else than the others.
pub const AGREEMENT_VIOLATED: &str = "AgreementViolated";
/// The reason when a node has applied what the acceptors do not have.
pub const CONTRADICTION: &str = "Contradiction";
/// The reason when no node has what a learner needs.
pub const DATA_LOST: &str = "DataLost";
/// The reason when a learner or a store has stopped for good.
pub const NODE_HALTED: &str = "NodeHalted";
/// The reason while pods are started, replaced or stopped one after the other.
pub const ROLLING_OUT: &str = "RollingOut";
/// The reason when that does not go on.
pub const ROLL_STUCK: &str = "RollStuck";
/// Both.
pub(crate) const ROLL: [&str; 2] = [ROLLING_OUT, ROLL_STUCK];
/// The reason while an annotation says that nothing is to be done.
pub const PAUSED: &str = "Paused";
/// The reason while pods end since there are to be none.
pub const STOPPING: &str = "Stopping";
/// The reason when there are to be no pods.
pub const STOPPED: &str = "Stopped";
/// The reason until everything was ready once.
pub const STARTING: &str = "Starting";

impl PaxosClusterStatus {
    /// The condition of that type.
    pub fn condition(&self, type_: &str) -> Option<&Condition> {
        self.conditions
            .iter()
            .find(|condition| condition.type_ == type_)
    }

    /// Whether pods are being replaced.
    pub fn rolls(&self) -> bool {
        let progressing = self.condition("Progressing");
        progressing.is_some_and(|it| it.reason == ROLLING_OUT)
    }

    /// Whether there are to be no pods, and none is left.
    pub fn is_stopped(&self) -> bool {
        let progressing = self.condition("Progressing");
        progressing.is_some_and(|it| it.reason == STOPPED)
    }

    /// Whether volumes stand against the spec.
    pub fn is_by_volumes(&self) -> bool {
        let stalled = self.condition("Stalled");
        stalled.is_some_and(|it| it.reason == OTHER_COUNT)
    }

    /// Whether that condition is `True`.
    pub fn is(&self, type_: &str) -> bool {
        self.condition(type_)
            .is_some_and(|condition| condition.status == "True")
    }
}

/// What does not mend itself. That learners disagree is worst.
fn broken(observed: &Observed) -> Option<(&'static str, String)> {
    let halted = |(pod, why): (&String, &String)| format!("pod {pod} has stopped: {why}");
    let (disagreeing, halting): (Vec<_>, Vec<_>) =
        (observed.halted.iter()).partition(|(_, why)| why.starts_with(AGREEMENT_IS_VIOLATED));
    let (contradicted, halting): (Vec<_>, Vec<_>) =
        (halting.into_iter()).partition(|(_, why)| why.starts_with(CONTRADICTED));
    // All proposers say the same.
    let behind = observed.behind.iter().take(1).map(|(_, why)| why.clone());
    let lost = observed.data_lost.iter().map(|(pod, why)| {
        let volume = names::DATA_VOLUME;
        format!("pod {pod} with PersistentVolumeClaim {volume}-{pod} cannot catch up: {why}")
    });
    let refused = observed.refused.iter().map(|refused| {
        let Refused { pod, claim, why } = refused;
        format!("pod {pod} with PersistentVolumeClaim {claim} must not vote: {why}")
    });
    let warnings = observed.answers.iter().flat_map(|(pod, answer)| {
        let warnings = answer.warnings.iter();
        warnings.map(move |warning| format!("pod {pod}: {warning}"))
    });
    let found = [
        (
            AGREEMENT_VIOLATED,
            list(disagreeing.into_iter().map(halted)),
        ),
        (
            CONTRADICTION,
            list(behind.chain(contradicted.into_iter().map(halted))),
        ),
        (DATA_LOST, list(lost)),
        (DISK_REFUSED, list(refused)),
        (NODE_HALTED, list(halting.into_iter().map(halted))),
        (WRONG_ADDRESS, list(warnings)),
    ];
    found
        .into_iter()
        .find_map(|(reason, nodes)| Some((reason, nodes?)))
}

/// Whether a write would be committed now.
fn availability(
    cluster: &Cluster,
    counts: &[(Role, RoleStatus)],
    answers: &[Answer],
    leader: Option<i32>,
) -> Verdict {
    if cluster.stopped {
        let message = "spec.stopped is true: there are no pods, and all volumes are kept";
        return ("False", STOPPED, message.to_owned());
    }
    let ready = |role| count(counts, role).map_or(0, |count| count.ready);
    let (acceptors, quorum) = (ready(Role::Acceptor), cluster.members.quorum());
    if (acceptors as usize) < quorum {
        let all = cluster.members.count();
        let message = format!("{acceptors} of {all} acceptors are ready, {quorum} are needed");
        return ("False", "QuorumLost", message);
    }
    for (role, reason) in [(Role::Proposer, "NoProposer"), (Role::Learner, "NoLearner")] {
        if ready(role) == 0 {
            return (
                "False",
                reason,
                format!("no {role} is ready, one is needed"),
            );
        }
    }
    if answers.is_empty() {
        let message = "proposers are ready, but none answers the operator's GET /status: does a \
                       NetworkPolicy forbid it?";
        return ("Unknown", "NoAnswer", message.to_owned());
    }
    match leader {
        Some(_) => (
            "True",
            "Committing",
            "a leader and a quorum of acceptors are up".to_owned(),
        ),
        None => ("False", "NoLeader", "no proposer leads".to_owned()),
    }
}

fn count(counts: &[(Role, RoleStatus)], of: Role) -> Option<&RoleStatus> {
    counts
        .iter()
        .find(|(role, _)| *role == of)
        .map(|(_, count)| count)
}

fn member(before: Before<'_>, observed: &Observed, node: &roll::Expected<'_>) -> MemberStatus {
    let spec = node.pod.and_then(|pod| pod.spec.as_ref());
    let containers = spec.map(|spec| &spec.containers[..]).unwrap_or_default();
    let mut containers = containers.iter();
    let container = containers.find(|container| container.name == names::CONTAINER);
    let image = container.and_then(|container| container.image.as_deref());
    let told = observed.answers.get(&node.name);
    let mut known = before.status.members.iter();
    let known = known.find(|member| member.pod == node.name);
    MemberStatus {
        role: node.role.name().to_owned(),
        id: node.id,
        pod: node.name.clone(),
        ready: node.is_ready(),
        since: node.since.clone(),
        version: image.map(|image| version(image).to_owned()),
        // One that does not answer just now is not news.
        incarnation: told
            .and_then(|told| told.incarnation.clone())
            .or_else(|| known?.incarnation.clone()),
    }
}

/// The digest or the tag of an image.
fn version(image: &str) -> &str {
    if let Some((_, digest)) = image.split_once('@') {
        return digest;
    }
    let name = image.rsplit('/').next().unwrap_or(image);
    name.split_once(':').map_or("latest", |(_, tag)| tag)
}

fn list(items: impl Iterator<Item = String>) -> Option<String> {
    let list = items.collect::<Vec<_>>().join(", ");
    (!list.is_empty()).then_some(list)
}

/// Who leads in the latest term of which anybody knows: by its own word, or else by the others'.
pub(crate) fn leader(answers: &[Answer]) -> Option<i32> {
    let node = |id: i32| (1..=255).contains(&id).then_some(id);
    let latest = |a: &&Answer| a.term;
    match answers
        .iter()
        .filter(|answer| answer.is_leader)
        .max_by_key(latest)
    {
        Some(leader) => node(leader.node_id),
        None => {
            answers
                .iter()
                .filter(|answer| answer.leader_id.is_some_and(|id| node(id).is_some()))
                .max_by_key(latest)?
                .leader_id
        }
    }
}

fn set_of<'a>(cluster: &Cluster, role: Role, sets: &'a [StatefulSet]) -> Option<&'a StatefulSet> {
    let name = names::role(&cluster.name, role);
    sets.iter()
        .find(|set| set.metadata.name.as_ref() == Some(&name))
}

fn replicas(set: &StatefulSet) -> Option<i32> {
    set.spec.as_ref()?.replicas
}

/// Whether there are as many pods as its spec says.
fn has_all_pods(set: &StatefulSet) -> bool {
    let has = set.status.as_ref().map(|status| status.replicas);
    let stays = set.metadata.deletion_timestamp.is_none();
    stays && roll::is_seen(set) && has == Some(replicas(set).unwrap_or(1))
}

struct Conditions<'a> {
    before: Before<'a>,
    list: Vec<Condition>,
}

impl<'a> Conditions<'a> {
    fn new(before: Before<'a>) -> Conditions<'a> {
        Conditions {
            before,
            list: Vec::new(),
        }
    }

    fn set(&mut self, type_: &str, (status, reason, message): Verdict) {
        let since = match self.before.status.condition(type_) {
            Some(was) if was.status == status => was.last_transition_time.clone(),
            _ => self.before.now.clone(),
        };
        self.list.push(Condition {
            type_: type_.to_owned(),
            status: status.to_owned(),
            reason: reason.to_owned(),
            message,
            observed_generation: self.before.generation,
            last_transition_time: since,
        });
    }

    /// As it was, or else what is given.
    fn keep(&mut self, type_: &str, otherwise: Verdict) {
        match self.before.status.condition(type_) {
            Some(was) => self.list.push(was.clone()),
            None => self.set(type_, otherwise),
        }
    }
}

#[cfg(test)]
mod tests;
