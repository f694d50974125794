//! How a cluster is, and what the conditions say of that.

use api::env::Role;
use api::status::{HaltReason, ProposerStatus};
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::jiff::SignedDuration;

use super::Before;
use super::conditions::{Conditions, Verdict};
use crate::causes;
use crate::cluster::{Cluster, Group};
use crate::crd::{MemberStatus, PaxosClusterStatus, QuorumStatus, RoleStatus};
use crate::growth;
use crate::names;
use crate::observe::{Observed, Refused, leader, set_of};
use crate::reasons::*;
use crate::roll::{self, Decision};
use crate::scale;

/// How long a cluster may take to be whole for the first time.
const START_WITHIN: SignedDuration = SignedDuration::from_mins(5);

/// What the conditions are decided from.
pub(super) struct Situation {
    counts: Vec<(Role, RoleStatus)>,
    /// Which roles have fewer ready nodes than they should; `None` when no role has.
    short: Option<String>,
    /// Why pods are not ready, as far as anybody knows.
    causes: Option<String>,
    /// Nodes that are missing although no restart explains it, while others are restarted.
    unexpected: Option<String>,
    /// Which roles have pods to start, replace or stop, and what is done or waited for; `None` when no
    /// role has.
    rolling: Option<String>,
    /// Why that does not advance; `None` when it does.
    stuck: Option<String>,
    available: Verdict,
    /// What does not mend itself: the reason and the nodes.
    broken: Option<(&'static str, String)>,
    /// Whether this cluster was never whole: nodes that are missing are still expected to come.
    pub(super) starting: bool,
    /// Whether that takes too long.
    late: bool,
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
    pub(super) fn new(
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
            let set = set_of(&cluster.name, role, sets);
            set.is_some_and(|set| has_all_pods(set) && replicas(set) == wanted)
                && !outdated.contains(&role)
        };
        let held = scale::plan(cluster, observed).held;
        let held = held.filter(|_| !cluster.stopped);
        let claims: Vec<String> = pods.iter().map(|pod| names::claim_of(&pod.name)).collect();
        let growing = growth::unfinished(&observed.claims, &claims);
        let missing = pods.iter().filter(|pod| !pod.is_ready());
        let whys = missing.filter_map(|pod| Some((pod.name.clone(), pod.why.clone()?)));
        let causes = causes::summary(whys);
        let unexpected = list(unexpected(before, &pods).into_iter());
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
        let latest = |of: fn(&ProposerStatus) -> u64| {
            let latest = answers.iter().map(of).max()?;
            i64::try_from(latest).ok()
        };
        let mut situation = Situation {
            short: list(short).map(|roles| format!("ready: {roles}")),
            rolling: list(rolling.into_iter().chain(growing).chain(held).chain(step)),
            causes,
            unexpected,
            stuck,
            available: availability(cluster, &counts, observed, leader),
            broken: broken(observed),
            counts,
            starting: false,
            late: false,
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
        let degraded = before.status.condition("Degraded");
        let never_whole = degraded.is_none_or(|was| {
            let before = [
                STARTING,
                NOT_STARTED,
                STOPPED,
                INVALID_SPEC,
                OTHER_COUNT,
                APPLY_FAILED,
            ];
            before.contains(&was.reason.as_str())
        });
        // What is broken will not be whole by waiting.
        let waits = situation.broken.is_none();
        situation.starting = never_whole && waits && !cluster.stopped && !situation.is_whole();
        // Another spec is another start.
        let same_spec = before.status.observed_generation == before.generation;
        situation.late = situation.starting
            && same_spec
            && degraded.is_some_and(|was| match was.reason.as_str() {
                NOT_STARTED => true,
                STARTING => {
                    let since = was.last_transition_time.0;
                    before.now.0.duration_since(since) >= START_WITHIN
                }
                _ => false,
            });
        if situation.starting && !situation.is_available() {
            let (_, _, message) = &situation.available;
            situation.available = ("False", STARTING, message.clone());
        }
        situation
    }

    pub(super) fn tell(
        &self,
        before: Before<'_>,
        ready: Verdict,
        progressing: Verdict,
    ) -> PaxosClusterStatus {
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

    /// The message, and why pods are not ready.
    fn with_causes(&self, message: &str) -> String {
        match &self.causes {
            Some(causes) => format!("{message}; {causes}"),
            None => message.to_owned(),
        }
    }

    /// Why the cluster does not commit, with what is broken and why pods are not ready.
    fn unavailable(&self) -> String {
        let (_, _, message) = &self.available;
        match &self.broken {
            Some((_, broken)) => self.with_causes(&format!("{message}; {broken}")),
            None => self.with_causes(message),
        }
    }

    fn not_started(&self) -> String {
        self.with_causes(self.short.as_ref().unwrap_or(&self.available.2))
    }

    pub(super) fn ready(&self) -> Verdict {
        match (&self.short, &self.rolling) {
            _ if self.stopped => self.available.clone(),
            _ if self.late => ("False", NOT_STARTED, self.not_started()),
            _ if self.starting => ("False", STARTING, self.not_started()),
            _ if !self.is_available() => {
                let (status, reason, _) = self.available;
                (status, reason, self.unavailable())
            }
            _ if let Some((reason, message)) = &self.broken => ("False", reason, message.clone()),
            _ if self.stuck.is_some() => self.roll_stuck("False"),
            (Some(short), _) => ("False", "NodesNotReady", self.with_causes(short)),
            (None, Some(rolling)) => ("False", ROLLING_OUT, rolling.clone()),
            (None, None) => {
                let message = "every node is ready and the cluster commits";
                ("True", "AllNodesReady", message.to_owned())
            }
        }
    }

    pub(super) fn progressing(&self) -> Verdict {
        match &self.rolling {
            Some(_) if self.stopped => ("True", STOPPING, "nodes are being stopped".to_owned()),
            None if self.stopped => ("False", STOPPED, self.available.2.clone()),
            _ if self.late => ("False", NOT_STARTED, self.not_started()),
            _ if self.starting => ("True", STARTING, "nodes are being started".to_owned()),
            _ if self.stuck.is_some() => self.roll_stuck("False"),
            Some(rolling) => ("True", ROLLING_OUT, rolling.clone()),
            None => ("False", "UpToDate", "every node is up to date".to_owned()),
        }
    }

    fn degraded(&self) -> Verdict {
        match (&self.short, &self.rolling) {
            _ if self.stopped => ("False", STOPPED, self.available.2.clone()),
            _ if self.late => ("True", NOT_STARTED, self.not_started()),
            _ if self.starting => ("False", STARTING, "nodes are being started".to_owned()),
            // Said first: it does not mend itself.
            _ if let Some((reason, message)) = &self.broken => ("True", reason, message.clone()),
            _ if !self.is_available() => {
                let (_, reason, _) = self.available;
                ("True", reason, self.unavailable())
            }
            _ if self.stuck.is_some() => self.roll_stuck("True"),
            (Some(short), None) => ("True", "NodesNotReady", self.with_causes(short)),
            // While pods are replaced, the one that is replaced is missing for a moment.
            (Some(_), Some(_)) if let Some(unexpected) = &self.unexpected => {
                ("True", "NodesNotReady", unexpected.clone())
            }
            _ => (
                "False",
                "AsDesired",
                "no node is missing unexpectedly".to_owned(),
            ),
        }
    }
}

/// The nodes that are missing although the restart of one explains it for one alone: those that had
/// run, but for the last one to be restarted, and those that take longer than a restart does.
fn unexpected(before: Before<'_>, pods: &[roll::Expected<'_>]) -> Vec<String> {
    let missing = || pods.iter().filter(|pod| !pod.is_ready());
    let restarted = missing().filter(|pod| pod.is_being_restarted());
    let restarted = restarted.max_by_key(|pod| pod.since.0).map(|pod| &pod.name);
    let had_run = |pod: &roll::Expected<'_>| {
        let mut members = before.status.members.iter();
        let member = members.find(|member| member.pod == pod.name);
        member.is_some_and(|member| member.incarnation.is_some())
    };
    let unexpected = missing()
        .filter(|pod| pod.is_overdue(before.now) || had_run(pod) && Some(&pod.name) != restarted);
    unexpected.map(|pod| pod.wanted_back()).collect()
}

/// What does not mend itself. That learners disagree is worst.
fn broken(observed: &Observed) -> Option<(&'static str, String)> {
    let halted = |is: fn(HaltReason) -> bool| {
        let those = observed.halted.iter().filter(move |(_, it)| is(it.reason));
        those.map(|(pod, it)| format!("pod {pod} has stopped: {}", it.why))
    };
    let disagreeing = halted(|reason| reason == HaltReason::Disagrees);
    let contradicted = halted(|reason| reason == HaltReason::Contradicted);
    let others =
        halted(|reason| !matches!(reason, HaltReason::Disagrees | HaltReason::Contradicted));
    // All proposers say the same.
    let behind = observed.behind.iter().take(1).map(|(_, why)| why.clone());
    let lost = observed.data_lost.iter().map(|(pod, why)| {
        let claim = names::claim_of(pod);
        format!("pod {pod} with PersistentVolumeClaim {claim} cannot catch up: {why}")
    });
    let refused = observed.refused.iter().map(|refused| {
        let Refused { pod, claim, why } = refused;
        format!("pod {pod} with PersistentVolumeClaim {claim} must not vote: {why}")
    });
    let full = no_room(observed).map(|(pod, why)| {
        let claim = names::claim_of(pod);
        format!("pod {pod} with PersistentVolumeClaim {claim} takes no new values: {why}")
    });
    let warnings = observed.answers.iter().flat_map(|(pod, answer)| {
        let warnings = answer.node().warnings.iter();
        warnings.map(move |warning| format!("pod {pod}: {warning}"))
    });
    let found = [
        (AGREEMENT_VIOLATED, list(disagreeing)),
        (CONTRADICTION, list(behind.chain(contradicted))),
        (DATA_LOST, list(lost)),
        (DISK_REFUSED, list(refused)),
        (VOLUME_FULL, list(full)),
        (NODE_HALTED, list(others)),
        (WRONG_ADDRESS, list(warnings)),
    ];
    found
        .into_iter()
        .find_map(|(reason, nodes)| Some((reason, nodes?)))
}

/// The acceptors that take no new values, and why.
fn no_room(observed: &Observed) -> impl Iterator<Item = (&String, &str)> {
    let answers = observed.answers.iter();
    answers.filter_map(|(pod, answer)| Some((pod, answer.no_room()?)))
}

/// Whether a write would be committed now.
fn availability(
    cluster: &Cluster,
    counts: &[(Role, RoleStatus)],
    observed: &Observed,
    leader: Option<i32>,
) -> Verdict {
    let answers = &observed.proposers;
    if cluster.stopped {
        let message = "spec.stopped is true: there are no pods, and all volumes are kept";
        return ("False", STOPPED, message.to_owned());
    }
    let ready = |role| count(counts, role).map_or(0, |count| count.ready);
    let (acceptors, quorum) = (ready(Role::Acceptor), cluster.members.quorum());
    if !cluster.members.is_quorum(acceptors as usize) {
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
        let message = "proposers are ready, but none answers the operator's GET /status, neither by \
                       address nor by name nor through the API server: does a NetworkPolicy or a mesh \
                       forbid it?";
        return ("Unknown", "NoAnswer", message.to_owned());
    }
    let full = no_room(observed).count();
    if !cluster
        .members
        .is_quorum((acceptors as usize).saturating_sub(full))
    {
        let message = format!(
            "{full} acceptors take no writes, deletes included, since their volumes are almost full: \
             enlarge them; reads are still served"
        );
        return ("False", VOLUME_FULL, message);
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
            .map(|told| told.node().incarnation.clone())
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

fn replicas(set: &StatefulSet) -> Option<i32> {
    set.spec.as_ref()?.replicas
}

/// Whether there are as many pods as its spec says.
fn has_all_pods(set: &StatefulSet) -> bool {
    let has = set.status.as_ref().map(|status| status.replicas);
    let stays = set.metadata.deletion_timestamp.is_none();
    stays && roll::is_seen(set) && has == Some(replicas(set).unwrap_or(1))
}
