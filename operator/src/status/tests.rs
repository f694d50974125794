use std::collections::BTreeMap;
use std::marker::PhantomData;

use api::env::Role;
use api::status::{AcceptorStatus, Halt, HaltReason, NodeStatus, ProposerStatus, Status};
use k8s_openapi::api::apps::v1::{StatefulSet, StatefulSetStatus};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use serde_json::json;

use super::*;
use crate::crd::PaxosCluster;
use crate::desired::desired;
use crate::observe::leader;
use crate::observe::{Refused, set_of};
use crate::plan::Plan;
use crate::roll;

struct World {
    cluster: Cluster,
    ready: Vec<(Role, i32)>,
    roll: Decision,
    answers: Vec<ProposerStatus>,
    refused: Vec<Refused>,
    halted: BTreeMap<String, Halt>,
    behind: BTreeMap<String, String>,
    data_lost: BTreeMap<String, String>,
    said: BTreeMap<String, Status>,
    /// Whether the sets' controllers have fewer pods than there should be, as while some are replaced.
    lacks_pods: bool,
    status: PaxosClusterStatus,
    now: i64,
}

fn leads(node_id: u8, term: u64, committed: u64) -> ProposerStatus {
    ProposerStatus {
        is_leader: true,
        committed_instance_id: committed,
        ..follows(node_id, Some(node_id), term)
    }
}

fn follows(node_id: u8, leader: Option<u8>, term: u64) -> ProposerStatus {
    ProposerStatus {
        node: NodeStatus {
            node_id,
            ..NodeStatus::default()
        },
        leader_id: leader,
        term,
        ..ProposerStatus::default()
    }
}

/// A ready pod of a set, of the template that the set has.
fn ready_pod(set: &StatefulSet, k: i32) -> Pod {
    let template = set.spec.clone().unwrap().template;
    let ready = json!({
        "type": "Ready", "status": "True", "lastTransitionTime": "1970-01-01T00:00:00Z",
    });
    let pod = json!({
        "metadata": {
            "name": format!("{}-{k}", set.metadata.name.as_deref().unwrap()),
            "annotations": template.metadata.unwrap().annotations,
        },
        "spec": template.spec,
        "status": { "conditions": [ready] },
    });
    serde_json::from_value(pod).unwrap()
}

impl World {
    /// 5 proposers, 5 acceptors and 2 learners, of which none is ready.
    fn new() -> World {
        let object: PaxosCluster =
            serde_saphyr::from_str("{metadata: {name: ledger}, spec: {}}").unwrap();
        World {
            cluster: Cluster::parse(&object).unwrap(),
            ready: Vec::new(),
            roll: Decision::Done,
            answers: Vec::new(),
            refused: Vec::new(),
            halted: BTreeMap::new(),
            behind: BTreeMap::new(),
            data_lost: BTreeMap::new(),
            said: BTreeMap::new(),
            lacks_pods: false,
            status: PaxosClusterStatus::default(),
            now: 0,
        }
    }

    fn whole() -> World {
        let mut world = World::new();
        world.ready = vec![(Role::Proposer, 5), (Role::Acceptor, 5), (Role::Learner, 2)];
        world.answers = vec![leads(2, 7, 41)];
        world.look();
        world
    }

    fn with(mut self, role: Role, ready: i32) -> World {
        self.ready.retain(|(r, _)| *r != role);
        self.ready.push((role, ready));
        self
    }

    fn status_at(&self, now: &Time) -> PaxosClusterStatus {
        let wanted = desired(&self.cluster, &Plan::new(&self.cluster));
        let pods = self.ready.iter().flat_map(|(role, ready)| {
            let set = set_of(&self.cluster.name, *role, &wanted.stateful_sets).unwrap();
            (1..=*ready).map(move |k| ready_pod(set, k))
        });
        let pods = pods.collect();
        let sets = wanted.stateful_sets.into_iter().zip(&self.cluster.groups);
        let sets = sets.map(|(mut set, group)| {
            let replicas = i32::from(group.replicas);
            set.metadata.generation = Some(1);
            set.status = Some(StatefulSetStatus {
                replicas: replicas - i32::from(self.lacks_pods),
                observed_generation: Some(1),
                ..Default::default()
            });
            set
        });
        let applied = Objects {
            stateful_sets: sets.collect(),
            services: wanted.services,
            config_maps: wanted.config_maps,
            disruption_budgets: wanted.disruption_budgets,
            network_policies: wanted.network_policies,
            pod_monitors: wanted.pod_monitors,
            state: PhantomData,
        };
        let observed = Observed {
            pods,
            proposers: self.answers.clone(),
            refused: self.refused.clone(),
            halted: self.halted.clone(),
            behind: self.behind.clone(),
            data_lost: self.data_lost.clone(),
            answers: self.said.clone(),
            ..Default::default()
        };
        let before = Before {
            status: &self.status,
            generation: Some(3),
            now,
        };
        status(before, &self.cluster, &observed, &applied, &self.roll)
    }

    /// One more second passes, and the operator looks; what it tells, and the events.
    fn look(&mut self) -> Vec<String> {
        self.now += 1;
        let now = Time(Timestamp::from_second(self.now).unwrap());
        let status = self.status_at(&now);
        let told = events(&self.status, &status)
            .into_iter()
            .map(|event| event.reason);
        let told = told.collect();
        self.status = status;
        told
    }

    /// Reasons of the four conditions, with `+` for True, `-` for False and `?` for Unknown.
    fn says(&self) -> [String; 4] {
        ["Ready", "Available", "Progressing", "Degraded"].map(|kind| {
            let condition = self.status.condition(kind).expect(kind);
            let sign = match condition.status.as_str() {
                "True" => '+',
                "False" => '-',
                _ => '?',
            };
            format!("{sign}{}", condition.reason)
        })
    }
}

#[test]
fn a_new_cluster_starts_and_is_neither_ready_nor_degraded() {
    let mut world = World::new();
    assert_eq!(world.look(), ["Starting"]);
    assert_eq!(
        world.says(),
        ["-Starting", "-Starting", "+Starting", "-Starting"]
    );
    assert_eq!(world.status.observed_generation, Some(3));
    assert_eq!(world.status.acceptors, Some(5));
    assert_eq!(world.status.acceptor.as_ref().unwrap().summary, "0/5");
    assert_eq!(world.status.store, None);
}

#[test]
fn ready_means_every_node_and_a_leader() {
    let mut world = World::whole();
    assert_eq!(
        world.says(),
        ["+AllNodesReady", "+Committing", "-UpToDate", "-AsDesired"]
    );
    assert_eq!(world.status.leader_id, Some(2));
    assert_eq!(world.status.term, Some(7));
    assert_eq!(world.status.committed_instance, Some(41));

    world.answers = vec![follows(1, None, 7)];
    assert_eq!(world.look(), ["NoLeader"]);
    assert_eq!(
        world.says(),
        ["-NoLeader", "-NoLeader", "-UpToDate", "+NoLeader"]
    );
    assert_eq!(world.status.leader_id, None);
}

#[test]
fn a_lost_node_degrades_and_a_lost_quorum_makes_unavailable() {
    let mut world = World::whole().with(Role::Acceptor, 3);
    assert_eq!(world.look(), ["NotReady"]);
    assert_eq!(
        world.says(),
        [
            "-NodesNotReady",
            "+Committing",
            "-UpToDate",
            "+NodesNotReady"
        ]
    );
    assert_eq!(
        world.status.condition("Ready").unwrap().message,
        "ready: 3/5 acceptors"
    );

    let mut world = world.with(Role::Acceptor, 2);
    assert_eq!(world.look(), ["QuorumLost"]);
    assert_eq!(
        world.says(),
        ["-QuorumLost", "-QuorumLost", "-UpToDate", "+QuorumLost"]
    );
    let message = &world.status.condition("Available").unwrap().message;
    assert_eq!(message, "2 of 5 acceptors are ready, 3 are needed");

    let mut world = world.with(Role::Acceptor, 5);
    assert_eq!(world.look(), ["Ready"]);
}

#[test]
fn an_acceptor_that_must_not_vote_is_named_with_its_claim() {
    let refused = Refused {
        pod: "ledger-acceptor-2".into(),
        claim: "data-ledger-acceptor-2".into(),
        why: "the cluster has run with another disk".into(),
    };
    let mut world = World::whole().with(Role::Acceptor, 4);
    world.refused = vec![refused.clone()];
    assert_eq!(world.look(), ["DiskRefused"]);
    assert_eq!(
        world.says(),
        ["-DiskRefused", "+Committing", "-UpToDate", "+DiskRefused"]
    );
    assert_eq!(
        world.status.condition("Degraded").unwrap().message,
        "pod ledger-acceptor-2 with PersistentVolumeClaim data-ledger-acceptor-2 must not vote: \
         the cluster has run with another disk"
    );
    assert_eq!(world.look(), [""; 0]);
    // Neither a lost quorum nor a cluster that never was whole hides it.
    let mut world = world.with(Role::Acceptor, 2);
    world.look();
    assert_eq!(world.says()[3], "+DiskRefused");
    let mut world = World::new().with(Role::Acceptor, 4);
    world.refused = vec![refused];
    world.look();
    assert_eq!(world.says()[3], "+DiskRefused");
}

#[test]
fn an_address_at_which_another_node_answers_is_told_with_the_pod_that_found_it() {
    let mut world = World::whole();
    let warning = "h:1 is listed as learner-1, and another node answers there, learner-2";
    let answer = ProposerStatus {
        node: NodeStatus {
            warnings: vec![warning.to_owned()],
            ..NodeStatus::default()
        },
        ..ProposerStatus::default()
    };
    let answer = Status::Proposer(answer);
    world.said.insert("ledger-proposer-2".to_owned(), answer);
    assert_eq!(world.look(), ["WrongAddress"]);
    assert_eq!(
        world.says(),
        ["-WrongAddress", "+Committing", "-UpToDate", "+WrongAddress"]
    );
    let message = &world.status.condition("Degraded").unwrap().message;
    assert_eq!(*message, format!("pod ledger-proposer-2: {warning}"));
    assert_eq!(world.look(), [""; 0]);
    world.said.clear();
    world.look();
    assert_eq!(world.says()[0], "+AllNodesReady");
}

#[test]
fn a_dead_cluster_is_never_shown_as_fine_even_while_it_rolls() {
    let mut world = World::whole().with(Role::Learner, 0);
    world.roll = Decision::Wait("pod ledger-proposer-1 is not ready".into());
    world.look();
    assert_eq!(
        world.says(),
        ["-NoLearner", "-NoLearner", "+RollingOut", "+NoLearner"]
    );
}

#[test]
fn a_pod_that_is_missing_while_it_is_replaced_does_not_degrade() {
    let mut world = World::whole().with(Role::Proposer, 4);
    world.roll = Decision::Wait("pod ledger-proposer-1 is not ready".into());
    world.look();
    assert_eq!(
        world.says(),
        ["-NodesNotReady", "+Committing", "+RollingOut", "-AsDesired"]
    );
}

#[test]
fn a_roll_that_is_stuck_degrades_and_is_told_once() {
    let mut world = World::whole().with(Role::Proposer, 4);
    world.roll = Decision::Wait("pod ledger-proposer-1 is not ready".into());
    world.look();
    assert_eq!(
        world.status.condition("Progressing").unwrap().message,
        "pod ledger-proposer-1 is not ready"
    );
    assert!(world.status.rolls());
    world.roll = Decision::Stuck("pod ledger-proposer-1 is not ready".into());
    assert_eq!(world.look(), ["RollStuck"]);
    assert_eq!(
        world.says(),
        ["-RollStuck", "+Committing", "-RollStuck", "+RollStuck"]
    );
    assert_eq!(world.look(), [""; 0]);
    world.roll = Decision::Done;
    assert_eq!(world.with(Role::Proposer, 5).look(), ["Ready"]);
}

#[test]
fn silent_proposers_make_it_unknown_and_keep_the_last_counters() {
    let mut world = World::whole();
    world.answers.clear();
    world.look();
    assert_eq!(
        world.says(),
        ["?NoAnswer", "?NoAnswer", "-UpToDate", "+NoAnswer"]
    );
    assert_eq!(world.status.committed_instance, Some(41));
}

#[test]
fn the_latest_term_names_the_leader() {
    assert_eq!(
        leader(&[leads(1, 3, 0), leads(4, 5, 0), follows(2, Some(1), 3)]),
        Some(4)
    );
    assert_eq!(
        leader(&[follows(2, Some(1), 3), follows(3, Some(4), 5)]),
        Some(4)
    );
    assert_eq!(leader(&[follows(2, Some(0), 9), follows(3, None, 9)]), None);
    assert_eq!(leader(&[]), None);
}

#[test]
fn a_condition_keeps_its_time_until_its_status_changes() {
    let mut world = World::whole();
    let since = |world: &World| {
        world
            .status
            .condition("Ready")
            .unwrap()
            .last_transition_time
            .0
    };
    let first = since(&world);
    let status = world.status.clone();
    assert_eq!(world.look(), [""; 0]);
    assert_eq!(
        world.status, status,
        "a look at a cluster at rest says nothing new"
    );
    let mut world = world.with(Role::Learner, 1);
    world.look();
    assert!(since(&world) > first);
}

#[test]
fn an_invalid_spec_stalls_and_leaves_what_runs_as_it_was() {
    let mut world = World::whole();
    let now = Time(Timestamp::UNIX_EPOCH);
    let refused = |status| {
        let before = Before {
            status,
            generation: Some(4),
            now: &now,
        };
        invalid(before, &Invalid::new("spec.learner.replicas", "is 0"))
    };
    let status = refused(&world.status);
    assert!(status.is("Stalled") && status.is("Available") && !status.is("Ready"));
    assert_eq!(status.observed_generation, Some(4));
    assert_eq!(
        status.condition("Ready").unwrap().message,
        "spec.learner.replicas: is 0"
    );
    let told: Vec<_> = events(&world.status, &status)
        .into_iter()
        .map(|e| e.reason)
        .collect();
    assert_eq!(told, [INVALID_SPEC]);
    assert_eq!(refused(&status), status);

    world.status = status;
    world.look();
    assert_eq!(
        world.says(),
        ["+AllNodesReady", "+Committing", "-UpToDate", "-AsDesired"]
    );
    assert!(world.status.condition("Stalled").is_none());
}

#[test]
fn a_cluster_that_never_was_is_unknown_when_its_spec_is_invalid() {
    let now = Time(Timestamp::UNIX_EPOCH);
    let none = PaxosClusterStatus::default();
    let before = Before {
        status: &none,
        generation: Some(1),
        now: &now,
    };
    let status = invalid(before, &Invalid::new("metadata.name", "is long"));
    assert_eq!(status.condition("Available").unwrap().status, "Unknown");

    let mut world = World::new();
    world.status = status;
    world.look();
    assert_eq!(
        world.says(),
        ["-Starting", "-Starting", "+Starting", "-Starting"]
    );
}

#[test]
fn a_message_that_quotes_much_still_fits_an_event() {
    let none = PaxosClusterStatus::default();
    let now = Time(Timestamp::UNIX_EPOCH);
    let before = Before {
        status: &none,
        generation: None,
        now: &now,
    };
    let status = invalid(before, &Invalid::new("spec.image", "ä".repeat(2000)));
    let event = events(&none, &status).remove(0);
    assert!(event.note.unwrap().len() <= 1024);
}

fn halted(pod: &str, reason: HaltReason, why: &str) -> BTreeMap<String, Halt> {
    let why = why.to_owned();
    BTreeMap::from([(pod.to_owned(), Halt { reason, why })])
}

#[test]
fn learners_that_differ_are_told_before_anything_else() {
    let mut world = World::whole();
    let undecodable = HaltReason::Undecodable;
    world.halted = halted(
        "ledger-learner-2",
        undecodable,
        "instance 7: it cannot be decoded",
    );
    assert_eq!(world.look(), ["NodeHalted"]);
    assert_eq!(world.status.learner.as_ref().unwrap().summary, "1/2");
    let quorum = world.status.quorum.as_ref().unwrap();
    assert!(!quorum.safe_to_disrupt, "one learner is left to read from");
    assert_eq!(
        world.says(),
        ["-NodeHalted", "+Committing", "-UpToDate", "+NodeHalted"]
    );
    world.refused = vec![Refused {
        pod: "ledger-acceptor-1".to_owned(),
        claim: "data-ledger-acceptor-1".to_owned(),
        why: "it is empty".to_owned(),
    }];
    let disagrees = HaltReason::Disagrees;
    world.halted = halted("ledger-learner-2", disagrees, "learner 1 differs");
    assert_eq!(world.look(), ["AgreementViolated"]);
    let degraded = world.status.condition("Degraded").unwrap();
    assert!(
        degraded
            .message
            .starts_with("pod ledger-learner-2 has stopped: learner 1 differs")
    );
    world.halted.clear();
    assert_eq!(world.look(), ["DiskRefused"]);
    world.refused.clear();
    assert_eq!(world.look(), ["Ready"]);
    // A newer node may have a reason that this operator does not know; its words decide nothing.
    world.halted = halted(
        "ledger-learner-2",
        HaltReason::Unknown,
        "agreement is violated",
    );
    assert_eq!(world.look(), ["NodeHalted"]);
}

#[test]
fn acceptors_that_were_set_back_are_told_with_who_noticed_and_what_to_do() {
    let says = |pod: &str, why: &str| BTreeMap::from([(pod.to_owned(), why.to_owned())]);
    let mut world = World::whole();
    world.behind = says(
        "ledger-proposer-3",
        "learner-1 has applied instance 10, and a quorum of acceptors knows of none after 5",
    );
    assert_eq!(world.look(), ["Contradiction"]);
    let degraded = world.status.condition("Degraded").unwrap();
    assert_eq!(
        (&*degraded.status, &*degraded.reason),
        ("True", "Contradiction")
    );
    assert!(
        degraded
            .message
            .starts_with("learner-1 has applied instance 10")
    );
    // A learner that has stopped for it says the same from its side.
    world.behind.clear();
    let why = "a quorum of acceptors has no vote in instance 10";
    world.halted = halted("ledger-learner-1", HaltReason::Contradicted, why);
    assert_eq!(world.look(), [""; 0], "the reason is the same");
    let degraded = world.status.condition("Degraded").unwrap();
    assert_eq!(&*degraded.reason, "Contradiction");
    assert!(degraded.message.contains("has no vote in instance 10"));
    world.halted.clear();
    assert_eq!(world.look(), ["Ready"]);
}

#[test]
fn what_no_node_has_any_more_is_told_with_the_claims_that_may_give_it_back() {
    let mut world = World::whole().with(Role::Learner, 0);
    let why = "instances 1 to 32810 are forgotten by the acceptors, and no node has them";
    let pods = ["ledger-learner-1", "ledger-learner-2"];
    world.data_lost = pods.map(|pod| (pod.to_owned(), why.to_owned())).into();
    world.look();
    let degraded = world.status.condition("Degraded").unwrap();
    assert_eq!((&*degraded.status, &*degraded.reason), ("True", "DataLost"));
    for text in [why, "data-ledger-learner-1", "data-ledger-learner-2"] {
        assert!(degraded.message.contains(text), "{}", degraded.message);
    }
    world.data_lost.clear();
    world = world.with(Role::Learner, 2);
    assert_eq!(world.look(), ["Ready"]);
}

#[test]
fn no_pod_is_free_to_go_while_one_is_restarted() {
    let mut world = World::whole();
    let safe = |world: &World| world.status.quorum.as_ref().unwrap().safe_to_disrupt;
    assert!(safe(&world));
    world.roll = Decision::Restart(roll::Restart {
        mends: false,
        pod: "ledger-acceptor-1".to_owned(),
        uid: String::new(),
        why: "resources".to_owned(),
    });
    world.look();
    assert!(!safe(&world));
}

#[test]
fn a_start_that_takes_too_long_is_told_and_another_spec_begins_anew() {
    let mut world = World::new().with(Role::Proposer, 5);
    world.look();
    world.now += 298;
    world.look();
    assert_eq!(world.says()[3], "-Starting");
    let before_it_was_late = world.status.clone();
    world.now += 1;
    assert_eq!(world.look(), ["NotStarted"]);
    assert_eq!(
        world.says(),
        ["-NotStarted", "-Starting", "-NotStarted", "+NotStarted"]
    );
    // No pod has come by it: there is no reason to look more often.
    assert!(same_nodes(&world.status, &before_it_was_late));
    let another = PaxosClusterStatus {
        observed_generation: Some(9),
        ..world.status.clone()
    };
    assert!(!same_nodes(&world.status, &another));
    world.now += 1000;
    assert_eq!(world.look(), [""; 0]);
    // Somebody corrects it.
    world.status.observed_generation = Some(2);
    world.look();
    assert_eq!(world.says()[3], "-Starting");
    let mut world = world.with(Role::Acceptor, 5).with(Role::Learner, 2);
    world.answers = vec![leads(2, 7, 41)];
    world.look();
    assert_eq!(world.says()[0], "+AllNodesReady");
}

/// A roll in which these pods are away; what `Degraded` says.
fn degraded_in_a_roll(away: &[(Role, i32)]) -> String {
    let mut world = World::whole();
    for pod in ["acceptor-4", "acceptor-5", "learner-2"] {
        let name = format!("ledger-{pod}");
        let answer = AcceptorStatus {
            node: NodeStatus {
                incarnation: "start".to_owned(),
                ..NodeStatus::default()
            },
            ..AcceptorStatus::default()
        };
        world.said.insert(name, Status::Acceptor(answer));
    }
    world.look();
    world.roll = Decision::Wait("pod ledger-learner-2 is not ready".to_owned());
    world.lacks_pods = true;
    for (role, ready) in away {
        world = world.with(*role, *ready);
    }
    world.look();
    world.says()[3].clone()
}

#[test]
fn a_roll_explains_one_missing_node_and_no_second_one() {
    assert_eq!(degraded_in_a_roll(&[(Role::Learner, 1)]), "-AsDesired");
    let two = [(Role::Learner, 1), (Role::Acceptor, 4)];
    assert_eq!(degraded_in_a_roll(&two), "+NodesNotReady");
}

#[test]
fn volumes_that_are_almost_full_are_told_with_their_claims() {
    let mut world = World::whole();
    let full = |world: &mut World, acceptor: u8| {
        let why = AcceptorStatus {
            no_room: Some("its volume is almost full".into()),
            ..AcceptorStatus::default()
        };
        let pod = format!("ledger-acceptor-{acceptor}");
        world.said.insert(pod, Status::Acceptor(why));
    };
    full(&mut world, 2);
    world.look();
    assert_eq!(
        world.says(),
        ["-VolumeFull", "+Committing", "-UpToDate", "+VolumeFull"]
    );
    let told = &world.status.condition("Ready").unwrap().message;
    assert!(told.contains("data-ledger-acceptor-2"), "{told}");
    for acceptor in [3, 4] {
        full(&mut world, acceptor);
    }
    world.look();
    assert_eq!(world.says()[1], "-VolumeFull", "a quorum has no room");
}

#[test]
fn a_cluster_that_is_resumed_has_all_its_time_to_start() {
    let mut world = World::whole();
    world.now += 900_000;
    world.cluster.stopped = true;
    world = world
        .with(Role::Proposer, 0)
        .with(Role::Acceptor, 0)
        .with(Role::Learner, 0);
    world.look();
    assert_eq!(world.says()[3], "-Stopped");
    world.now += 900_000;
    world.cluster.stopped = false;
    for _ in 0..3 {
        world.look();
        assert_eq!(world.says()[3], "-Starting");
    }
    world.now += 300;
    world.look();
    assert_eq!(world.says()[3], "+NotStarted");
}
