use std::collections::BTreeMap;

use api::status::{Halt, HaltReason, NodeStatus, ProposerStatus};
use k8s_openapi::jiff::Timestamp;
use serde_json::json;

use super::*;
use crate::crd::{PaxosCluster, PaxosClusterStatus};
use crate::desired::desired;
use crate::observe::Refused;
use crate::plan::Plan;

/// A cluster at minute 100, all of whose pods have been ready since minute 0.
struct World {
    cluster: Cluster,
    sets: Vec<StatefulSet>,
    pods: Vec<Pod>,
    leader: Option<i32>,
    answers: bool,
    halted: BTreeMap<String, Halt>,
    refused: Vec<&'static str>,
    status: PaxosClusterStatus,
}

fn cluster(spec: &str) -> Cluster {
    let object: PaxosCluster =
        serde_saphyr::from_str(&format!("{{metadata: {{name: ledger}}, spec: {spec}}}")).unwrap();
    Cluster::parse(&object).unwrap()
}

fn refused(pod: &str) -> Refused {
    Refused {
        pod: pod.to_owned(),
        claim: names::claim_of(pod),
        why: "its disk was changed".to_owned(),
    }
}

fn minute(minute: i64) -> Value {
    json!(Timestamp::from_second(60 * minute).unwrap().to_string())
}

/// Small enough to name every pod: two of each role that does not vote, and three that do.
const SPEC: &str = "proposer: {replicas: 2}, acceptor: {replicas: 3}, learner: {replicas: 2}, \
                    store: {enabled: true, replicas: 1}";

impl World {
    fn new() -> World {
        let mut world = World {
            cluster: cluster(&format!("{{{SPEC}}}")),
            sets: Vec::new(),
            pods: Vec::new(),
            leader: Some(1),
            answers: true,
            halted: BTreeMap::new(),
            refused: Vec::new(),
            status: PaxosClusterStatus::default(),
        };
        world.want(&format!("{{{SPEC}}}"));
        let names = world.sets.iter().flat_map(|set| {
            let name = set.metadata.name.clone().unwrap();
            (1..=set.spec.as_ref().unwrap().replicas.unwrap()).map(move |k| format!("{name}-{k}"))
        });
        for name in names.collect::<Vec<_>>() {
            world.make(&name, true, 0);
        }
        world
    }

    /// Its objects are as this spec says, and their controllers know.
    fn want(&mut self, spec: &str) {
        self.cluster = cluster(spec);
        self.sets = desired(&self.cluster, &Plan::new(&self.cluster)).stateful_sets;
        for set in &mut self.sets {
            set.metadata.generation = Some(7);
            set.status.get_or_insert_default().observed_generation = Some(7);
        }
    }

    fn image(mut self, image: &str) -> World {
        self.want(&format!("{{image: {image}, {SPEC}}}"));
        self
    }

    fn set(&self, of_pod: &str) -> &StatefulSet {
        let of_pod = of_pod.rsplit_once('-').unwrap().0;
        let mut sets = self.sets.iter();
        sets.find(|set| set.metadata.name.as_deref() == Some(of_pod))
            .unwrap()
    }

    /// The pod is recreated from the template that there is.
    fn make(&mut self, name: &str, ready: bool, minute_of: i64) {
        let template = self.set(name).spec.clone().unwrap().template;
        let metadata = template.metadata.unwrap();
        let state = if ready { "running" } else { "waiting" };
        let pod = json!({
            "metadata": {
                "name": name,
                "uid": format!("{name}@{minute_of}"),
                "labels": metadata.labels,
                "annotations": metadata.annotations,
            },
            "spec": template.spec,
            "status": {
                "conditions": [{
                    "type": "Ready",
                    "status": if ready { "True" } else { "False" },
                    "lastTransitionTime": minute(minute_of),
                }],
                "containerStatuses": [{
                    "name": "node", "image": "", "imageID": "", "ready": ready, "restartCount": 0,
                    "state": { state: {} },
                }],
            },
        });
        self.pods
            .retain(|pod| pod.metadata.name.as_deref() != Some(name));
        self.pods.push(serde_json::from_value(pod).unwrap());
    }

    fn pod(&mut self, name: &str) -> &mut Pod {
        let mut pods = self.pods.iter_mut();
        pods.find(|pod| pod.metadata.name.as_deref() == Some(name))
            .unwrap()
    }

    /// It runs, but has not been ready since then.
    fn unready(mut self, name: &str, seconds_ago: i64) -> World {
        let status = self.pod(name).status.as_mut().unwrap();
        let ready = &mut status.conditions.as_mut().unwrap()[0];
        ready.status = "False".into();
        let since = Timestamp::from_second(6000 - seconds_ago).unwrap();
        ready.last_transition_time = Some(Time(since));
        self
    }

    /// Its container does not run.
    fn down(mut self, name: &str) -> World {
        let status = self.pod(name).status.as_mut().unwrap();
        let state = status.container_statuses.as_mut().unwrap()[0]
            .state
            .as_mut();
        state.unwrap().running = None;
        self.unready(name, 0)
    }

    fn gone(mut self, name: &str) -> World {
        self.pods
            .retain(|pod| pod.metadata.name.as_deref() != Some(name));
        self
    }

    fn leaves(mut self, name: &str) -> World {
        let now = Time(Timestamp::from_second(6000).unwrap());
        self.pod(name).metadata.deletion_timestamp = Some(now);
        self
    }

    fn decide(&self) -> Decision {
        let leader = self.leader.map(|id| u8::try_from(id).unwrap());
        let answer = |node_id| ProposerStatus {
            node: NodeStatus {
                node_id,
                ..NodeStatus::default()
            },
            is_leader: leader == Some(node_id),
            leader_id: leader,
            term: 1,
            ..ProposerStatus::default()
        };
        let observed = Observed {
            pods: self.pods.clone(),
            halted: self.halted.clone(),
            refused: self.refused.iter().map(|pod| refused(pod)).collect(),
            proposers: if self.answers {
                vec![answer(1), answer(2)]
            } else {
                Vec::new()
            },
            ..Default::default()
        };
        let now = Time(Timestamp::from_second(6000).unwrap());
        let before = Before {
            status: &self.status,
            generation: Some(1),
            now: &now,
        };
        decide(before, &self.cluster, &observed, &self.sets)
    }

    /// The pod that is restarted.
    fn next(&self) -> String {
        match self.decide() {
            Decision::Restart(next) => next.pod,
            other => panic!("{other:?}"),
        }
    }

    fn waits(&self) -> String {
        match self.decide() {
            Decision::Wait(why) => why,
            other => panic!("{other:?}"),
        }
    }

    fn why(&self) -> String {
        match self.decide() {
            Decision::Restart(next) => next.why,
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_cluster_whose_pods_have_their_template_is_done() {
    assert_eq!(World::new().decide(), Decision::Done);
    // One that is away for another reason is not this module's business.
    assert_eq!(
        World::new().unready("ledger-learner-1", 900).decide(),
        Decision::Done
    );
}

#[test]
fn learners_and_stores_go_first_then_acceptors_then_followers_and_the_leader_last() {
    let mut world = World::new().image("b");
    let mut order = Vec::new();
    while world.decide() != Decision::Done {
        let next = world.next();
        world.make(&next, true, 100);
        order.push(next);
    }
    let expected = [
        "learner-1",
        "learner-2",
        "store-1",
        "acceptor-1",
        "acceptor-2",
        "acceptor-3",
        "proposer-2",
        "proposer-1",
    ];
    assert_eq!(order, expected.map(|pod| format!("ledger-{pod}")));
}

#[test]
fn a_leader_that_changes_meanwhile_is_still_the_last() {
    let mut world = World::new().image("b");
    for _ in 0..6 {
        let next = world.next();
        world.make(&next, true, 100);
    }
    world.leader = Some(2);
    assert_eq!(world.next(), "ledger-proposer-1");
}

#[test]
fn the_very_pod_that_was_looked_at_is_restarted_and_no_later_one() {
    let Decision::Restart(next) = World::new().image("b").decide() else {
        panic!("there is something to restart")
    };
    assert_eq!(next.uid, "ledger-learner-1@0");
}

#[test]
fn nothing_is_restarted_while_any_pod_of_the_cluster_is_away() {
    for away in [
        "ledger-learner-2",
        "ledger-acceptor-3",
        "ledger-proposer-1",
        "ledger-store-1",
    ] {
        let mut world = World::new().image("b");
        world.make(away, false, 100);
        assert_eq!(world.waits(), format!("pod {away} is not ready"));
        let world = World::new().image("b").gone(away);
        assert_eq!(world.waits(), format!("pod {away} is not there"));
        let world = World::new().image("b").leaves(away);
        assert_eq!(world.waits(), format!("pod {away} is shutting down"));
    }
}

#[test]
fn a_pod_is_back_when_it_is_ready_with_the_new_template() {
    let mut world = World::new().image("b");
    // Made from the old template after all: it is outdated as before.
    assert_eq!(world.next(), "ledger-learner-1");
    world.make("ledger-learner-1", false, 100);
    assert_eq!(world.waits(), "pod ledger-learner-1 is not ready");
    world.make("ledger-learner-1", true, 100);
    assert_eq!(world.next(), "ledger-learner-2");
}

#[test]
fn nothing_is_restarted_before_the_sets_controller_has_seen_the_new_spec() {
    let mut world = World::new().image("b").down("ledger-learner-1");
    world.sets[1].metadata.generation = Some(8);
    assert_eq!(
        world.waits(),
        "StatefulSet ledger-acceptor has not seen its new spec yet"
    );
    world.sets[1].metadata.generation = Some(7);
    assert_eq!(world.next(), "ledger-learner-1");
}

#[test]
fn pods_that_are_down_are_replaced_first_and_all_at_once() {
    let world = World::new().image("b").down("ledger-acceptor-2");
    assert_eq!(world.next(), "ledger-acceptor-2");
    // A bad image everywhere, and then a good one: nobody gets ready before the others are replaced.
    let mut world = World::new();
    world.pods.clear();
    let world = ["proposer-1", "proposer-2", "acceptor-1", "acceptor-2"];
    let pods = world.map(|pod| format!("ledger-{pod}"));
    let mut world = World::new();
    for pod in &pods {
        world = world.down(pod);
    }
    let mut world = world.image("b");
    let mut order = Vec::new();
    for _ in &pods {
        let next = world.next();
        world.make(&next, false, 100);
        order.push(next);
    }
    order.sort();
    let mut expected = pods.to_vec();
    expected.sort();
    assert_eq!(order, expected);
    assert!(world.waits().ends_with("is not ready"));
}

#[test]
fn a_pod_that_runs_but_is_not_ready_is_replaced_first_when_no_other_is_away() {
    let world = World::new().image("b").unready("ledger-acceptor-2", 5);
    assert_eq!(world.next(), "ledger-acceptor-2");
    // With others it may be an election: replacing all of them would make it worse.
    let world = world.unready("ledger-acceptor-3", 5);
    assert_eq!(world.waits(), "pod ledger-acceptor-2 is not ready");
    let world = world.unready("ledger-acceptor-3", 40);
    assert_eq!(world.next(), "ledger-acceptor-3");
}

#[test]
fn a_pod_on_its_way_out_is_not_restarted_again() {
    let world = World::new()
        .image("b")
        .down("ledger-acceptor-2")
        .leaves("ledger-acceptor-2");
    assert_eq!(world.waits(), "pod ledger-acceptor-2 is shutting down");
}

#[test]
fn a_pod_that_does_not_come_back_stops_the_roll_and_says_why() {
    let mut world = World::new().image("b");
    world.make("ledger-learner-1", false, 95);
    assert!(matches!(world.decide(), Decision::Wait(_)));
    world.make("ledger-learner-1", false, 94);
    let status = world.pod("ledger-learner-1").status.as_mut().unwrap();
    status.container_statuses = serde_json::from_value(json!([{
        "name": "node", "image": "", "imageID": "", "ready": false, "restartCount": 0,
        "state": { "waiting": { "reason": "ImagePullBackOff" } },
    }]))
    .unwrap();
    let why = "pod ledger-learner-1 is not ready: ImagePullBackOff";
    assert_eq!(world.decide(), Decision::Stuck(why.into()));
    // Another image mends it.
    assert_eq!(world.image("c").next(), "ledger-learner-1");
}

#[test]
fn a_pod_that_is_not_made_at_all_stops_the_roll_too() {
    let mut world = World::new().image("b").gone("ledger-learner-1");
    let missed_since = |minute_of: i64| -> PaxosClusterStatus {
        serde_json::from_value(json!({ "members": [{
            "role": "learner", "id": 1, "pod": "ledger-learner-1", "ready": false,
            "since": minute(minute_of),
        }]}))
        .unwrap()
    };
    world.status = missed_since(95);
    assert_eq!(world.waits(), "pod ledger-learner-1 is not there");
    world.status = missed_since(94);
    let why = "pod ledger-learner-1 is not there";
    assert_eq!(world.decide(), Decision::Stuck(why.into()));
}

#[test]
fn a_cluster_that_is_stopped_has_nothing_to_restart() {
    let mut world = World::new().image("b");
    world.want(&format!("{{image: c, stopped: true, {SPEC}}}"));
    assert_eq!(world.decide(), Decision::Done);
}

#[test]
fn the_roll_is_not_over_before_the_last_pod_is_back() {
    let mut world = World::new().image("b");
    world.status.conditions = serde_json::from_value(json!([{
        "type": "Progressing", "status": "True", "reason": "RollingOut", "message": "",
        "lastTransitionTime": minute(99),
    }]))
    .unwrap();
    for pod in world.pods.clone() {
        world.make(&pod.metadata.name.unwrap(), true, 99);
    }
    world.make("ledger-proposer-1", false, 100);
    assert_eq!(world.waits(), "pod ledger-proposer-1 is not ready");
    world.make("ledger-proposer-1", true, 100);
    assert_eq!(world.decide(), Decision::Done);
}

#[test]
fn proposers_wait_for_a_leader_and_for_somebody_who_says_who_it_is() {
    let mut world = World::new().image("b");
    world.leader = None;
    for _ in 0..6 {
        let next = world.next();
        world.make(&next, true, 100);
    }
    assert_eq!(world.waits(), "no proposer leads");
    world.answers = false;
    assert!(
        world
            .waits()
            .starts_with("no proposer answers the operator")
    );
    world.answers = true;
    world.leader = Some(1);
    assert_eq!(world.next(), "ledger-proposer-2");
}

#[test]
fn an_acceptor_whose_disk_is_refused_holds_up_nobody() {
    let mut world = World::new().image("b").unready("ledger-acceptor-2", 900);
    world.refused.push("ledger-acceptor-2");
    let mut order = Vec::new();
    while let Decision::Restart(next) = world.decide() {
        let back = next.pod != "ledger-acceptor-2";
        assert_eq!(next.mends, !back, "{next:?}");
        world.make(&next.pod, back, 100);
        order.push(next.pod);
    }
    assert_eq!(world.decide(), Decision::Done);
    assert_eq!(order.len(), 8, "{order:?}");
    // Nor does the drain of a Kubernetes node: of three acceptors one may go although one is away.
    let allowed = |voteless| {
        let mut plan = Plan::new(&world.cluster);
        plan.voteless = voteless;
        let budgets = desired(&world.cluster, &plan).disruption_budgets;
        let mut budgets = budgets.into_iter();
        let acceptors = budgets.find(|it| it.metadata.name.as_deref() == Some("ledger-acceptor"));
        to_json(&acceptors.unwrap())["spec"]["maxUnavailable"].take()
    };
    assert_eq!((allowed(0), allowed(1)), (json!(1), json!(2)));
}

#[test]
fn what_is_waited_for_too_long_is_stuck_and_another_reason_has_its_own_time() {
    let start = Instant::now();
    let later = |seconds| start + std::time::Duration::from_secs(seconds);
    let mut waiting = Waiting::default();
    let mut at =
        |seconds, why: &str| waiting.for_too_long(Decision::Wait(why.into()), later(seconds));
    assert_eq!(at(0, "a"), Decision::Wait("a".into()));
    assert_eq!(at(359, "a"), Decision::Wait("a".into()));
    assert_eq!(at(360, "b"), Decision::Wait("b".into()));
    assert_eq!(at(700, "b"), Decision::Wait("b".into()));
    assert_eq!(at(720, "b"), Decision::Stuck("b".into()));
    waiting.is_over();
    let again = waiting.for_too_long(Decision::Wait("b".into()), later(740));
    assert_eq!(again, Decision::Wait("b".into()));
}

#[test]
fn a_kubelet_with_another_clock_makes_no_pod_down_and_none_up() {
    let known = |pod: &str, ready: bool, minute_of: i64| -> PaxosClusterStatus {
        serde_json::from_value(json!({ "members": [{
            "role": "acceptor", "id": 2, "pod": pod, "ready": ready, "since": minute(minute_of),
        }]}))
        .unwrap()
    };
    let world = |status: PaxosClusterStatus, seconds_ago| {
        let mut world = World::new()
            .image("b")
            .unready("ledger-acceptor-2", seconds_ago)
            .unready("ledger-acceptor-3", 5);
        world.status = status;
        world
    };
    // A clock that is 40 s behind: the operator has seen it ready until now.
    let behind = world(known("ledger-acceptor-2", true, 0), 40);
    assert_eq!(behind.waits(), "pod ledger-acceptor-2 is not ready");
    // One that is ahead: the operator has seen it down for a minute.
    let ahead = world(known("ledger-acceptor-2", false, 99), -600);
    assert_eq!(ahead.next(), "ledger-acceptor-2");
}

#[test]
fn another_number_of_nodes_restarts_nobody() {
    let mut world = World::new();
    let more = "proposer: {replicas: 3}, acceptor: {replicas: 3}, learner: {replicas: 4}";
    world.want(&format!("{{{more}}}"));
    for pod in ["proposer-3", "learner-3", "learner-4"] {
        world.make(&format!("ledger-{pod}"), true, 100);
    }
    assert_eq!(world.decide(), Decision::Done);
}

#[test]
fn only_the_roles_whose_template_changed_are_restarted() {
    let mut world = World::new();
    let spec = "proposer: {replicas: 2}, acceptor: {replicas: 3, priorityClassName: high}, \
                learner: {replicas: 2}, store: {enabled: true, replicas: 1}";
    world.want(&format!("{{{spec}}}"));
    for k in 1..=3 {
        assert_eq!(world.why(), "priorityClassName");
        let next = world.next();
        assert_eq!(next, format!("ledger-acceptor-{k}"));
        world.make(&next, true, 100);
    }
    assert_eq!(world.decide(), Decision::Done);
}

#[test]
fn a_pod_without_a_digest_is_outdated_only_if_its_spec_differs() {
    let mut world = World::new();
    for pod in &mut world.pods {
        pod.metadata.annotations = None;
        // As admission and the StatefulSet's controller leave it.
        let spec = pod.spec.as_mut().unwrap();
        let added = json!({ "key": "node.kubernetes.io/not-ready", "operator": "Exists" });
        spec.tolerations = Some(vec![serde_json::from_value(added).unwrap()]);
        let data = json!({ "name": "data", "persistentVolumeClaim": { "claimName": "data-x" } });
        (spec.volumes.get_or_insert_default()).push(serde_json::from_value(data).unwrap());
        spec.hostname = pod.metadata.name.clone();
        // Its list of addresses is that of another scale.
        let env = spec.containers[0].env.as_mut().unwrap();
        for variable in env {
            let name = variable.name.as_str();
            if Role::ALL.iter().any(|role| role.list_variable() == name) {
                variable.value = Some("elsewhere:8080".into());
            }
        }
    }
    assert_eq!(world.decide(), Decision::Done);
    let world = world.image("b");
    assert_eq!(world.next(), "ledger-learner-1");
}

#[test]
fn kubectl_rollout_restart_rolls_in_the_same_order() {
    let mut world = World::new();
    let template = &mut world.sets[1].spec.as_mut().unwrap().template;
    let annotations = template.metadata.as_mut().unwrap().annotations.as_mut();
    annotations
        .unwrap()
        .insert(names::RESTARTED_ANNOTATION.into(), "now".into());
    assert_eq!(world.next(), "ledger-acceptor-1");
    assert_eq!(world.why(), "it was asked for");
    for k in 1..=3 {
        world.make(&format!("ledger-acceptor-{k}"), true, 100);
    }
    assert_eq!(world.decide(), Decision::Done);
}

#[test]
fn a_restart_names_what_it_changes() {
    let mut world = World::new();
    world.want(&format!("{{image: 'a:1', {SPEC}}}"));
    for pod in world.pods.clone() {
        world.make(&pod.metadata.name.unwrap(), true, 0);
    }
    let spec = "image: 'a:2', debug: true, proposer: {replicas: 2}, acceptor: {replicas: 3}, \
                learner: {replicas: 2, resources: {limits: {memory: 1Gi}}, \
                tolerations: [{operator: Exists}]}, store: {enabled: true, replicas: 1}";
    world.want(&format!("{{{spec}}}"));
    assert_eq!(
        world.why(),
        "image a:1 -> a:2, env DEBUG, resources, tolerations"
    );
    // What is only left out shows as a change all the same.
    for pod in world.pods.clone() {
        world.make(&pod.metadata.name.unwrap(), true, 100);
    }
    world.want(&format!("{{image: 'a:2', debug: true, {SPEC}}}"));
    assert_eq!(world.why(), "resources");
}

#[test]
fn a_node_that_has_stopped_holds_a_roll_up_unless_it_is_its_own_turn() {
    let halted = |pod: &str| {
        let why = "instance 7: it cannot be decoded".to_owned();
        let reason = HaltReason::Undecodable;
        BTreeMap::from([(pod.to_owned(), Halt { reason, why })])
    };
    let mut world = World::new().image("a:2");
    world.make("ledger-learner-1", true, 90);
    world.halted = halted("ledger-learner-1");
    let stuck = "pod ledger-learner-1 has stopped: instance 7: it cannot be decoded";
    assert_eq!(world.decide(), Decision::Stuck(stuck.to_owned()));
    // Its new image may mend it.
    world.halted = halted("ledger-learner-2");
    assert_eq!(world.next(), "ledger-learner-2");
}
