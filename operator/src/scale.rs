//! How many nodes each role has while it is scaled, and how many the lists of addresses name. Pure.
//!
//! A list names a node before its pod is made and until its pod is gone. So on the way up the list goes
//! first, and all know a new proposer before it can lead; on the way down the StatefulSet does, and a
//! leader that leaves hands over to those that it has listed, while nobody asks for long where nobody
//! is.
//!
//! Learners leave one at a time, and only when one that stays has on disk all that the acceptors have
//! forgotten: that was on the disks of a majority of the learners, which may be those that leave.

use api::env::Role;
use k8s_openapi::api::core::v1::Pod;
use paxos::ids::NodeId;

use crate::cluster::Cluster;
use crate::desired::config_map;
use crate::names;
use crate::observe::{Observed, plays, set_of};
use crate::plan::Plan;
use crate::pods::is_ready;

/// The numbers for what there is.
pub fn plan(cluster: &Cluster, observed: &Observed) -> Plan {
    let mut plan = Plan::new(cluster);
    if let Some(live) = surplus(cluster, observed) {
        plan.held = keep(cluster, observed, live);
        let next = if plan.held.is_some() { live } else { live - 1 };
        plan.replicas.insert(Role::Learner, next);
    }
    for role in Role::ALL {
        // Their number is fixed, whatever pods there may be.
        if role != Role::Acceptor {
            let listed = last_pod(cluster, role, &observed.pods).max(plan.replicas(role));
            plan.listed.insert(role, listed);
        }
    }
    plan.voteless = u8::try_from(observed.refused.len()).unwrap_or(u8::MAX);
    let mut pods = observed.pods.iter();
    let serves = pods.any(|pod| plays(pod, Role::Proposer) && is_ready(pod));
    plan.answers_unready = !serves && !observed.proposers.is_empty();
    plan
}

/// How many learners there are, if that is more than there should be.
fn surplus(cluster: &Cluster, observed: &Observed) -> Option<u8> {
    let wanted = cluster.group(Role::Learner)?.replicas;
    let live = learners(cluster, observed);
    (live > wanted).then_some(live)
}

/// How many learners there are by what is written down, even if somebody deleted the set or scaled it by
/// hand: all are still there that were not taken away by [`Plan`].
fn learners(cluster: &Cluster, observed: &Observed) -> u8 {
    let Some(set) = set_of(&cluster.name, Role::Learner, &observed.stateful_sets) else {
        // The list is never shorter than the set was.
        let listed = config_map::listed(&observed.config_maps, cluster, Role::Learner);
        return listed.max(last_pod(cluster, Role::Learner, &observed.pods));
    };
    // A stopped cluster resumes as the one that was stopped.
    let annotations = set.metadata.annotations.as_ref();
    let written = annotations.and_then(|all| all.get(names::LEARNERS_ANNOTATION));
    let written = written.and_then(|count| count.parse().ok()).unwrap_or(0);
    let replicas = set.spec.as_ref().and_then(|spec| spec.replicas);
    let replicas = replicas.and_then(|count| u8::try_from(count).ok());
    replicas.unwrap_or(0).max(written)
}

/// Why none of the `live` learners can leave now.
fn keep(cluster: &Cluster, observed: &Observed, live: u8) -> Option<String> {
    let last = last_pod(cluster, Role::Learner, &observed.pods);
    if last > live {
        let set = names::role(&cluster.name, Role::Learner);
        return Some(format!("pod {set}-{last} is shutting down"));
    }
    let acceptors = &observed.acceptors;
    if !cluster.members.is_quorum(acceptors.len()) {
        return Some("a learner may leave when a quorum of acceptors answers".to_owned());
    }
    let floors = acceptors
        .iter()
        .map(|acceptor| acceptor.trimmed_instance_id);
    let floor = floors.max().unwrap_or(0);
    let wanted = cluster
        .group(Role::Learner)
        .map_or(0, |group| group.replicas);
    let mut staying = observed.learners.iter();
    let has_all = staying.any(|learner| {
        let stays = (1..=wanted).contains(&learner.node.node_id);
        stays && learner.durable_instance_id >= floor
    });
    (!has_all).then(|| {
        format!(
            "a learner may leave when one of learners 1 to {wanted} has instance {floor} on disk, \
             up to which the acceptors have forgotten"
        )
    })
}

/// The number of a role's last pod, 0 if there is none.
fn last_pod(cluster: &Cluster, role: Role, pods: &[Pod]) -> u8 {
    let set = names::role(&cluster.name, role);
    let number = |pod: &Pod| {
        let name = pod.metadata.name.as_deref()?;
        let number = name.strip_prefix(&set)?.strip_prefix('-')?;
        number.parse().ok().and_then(NodeId::new)
    };
    let last = pods.iter().filter_map(number).max();
    last.map_or(0, NodeId::number)
}

#[cfg(test)]
mod tests {
    use api::status::{AcceptorStatus, LearnerStatus, NodeStatus};
    use serde_json::json;

    use super::*;
    use crate::desired;

    fn cluster(learners: u8) -> Cluster {
        let spec = json!({
            "metadata": { "name": "ledger", "namespace": "shop" },
            "spec": {
                "proposer": { "replicas": 3 },
                "acceptor": { "replicas": 3 },
                "learner": { "replicas": learners },
            },
        });
        Cluster::parse(&serde_json::from_value(spec).unwrap()).unwrap()
    }

    fn pod(name: &str) -> Pod {
        serde_json::from_value(json!({ "metadata": { "name": name } })).unwrap()
    }

    /// Three learners with pods, of which two acceptors have forgotten up to instance 50.
    fn three_learners(durable: [Option<u64>; 3]) -> Observed {
        let set = json!({ "metadata": { "name": "ledger-learner" }, "spec": {
            "replicas": 3, "selector": {}, "template": {},
        }});
        let learners = (1..).zip(durable).filter_map(|(node_id, durable)| {
            Some(LearnerStatus {
                node: NodeStatus {
                    node_id,
                    ..NodeStatus::default()
                },
                durable_instance_id: durable?,
                ..LearnerStatus::default()
            })
        });
        let acceptors = [40, 50].map(|trimmed_instance_id| AcceptorStatus {
            trimmed_instance_id,
            ..AcceptorStatus::default()
        });
        Observed {
            stateful_sets: vec![serde_json::from_value(set).unwrap()],
            pods: (1..=3)
                .map(|k| pod(&format!("ledger-learner-{k}")))
                .collect(),
            learners: learners.collect(),
            acceptors: acceptors.into(),
            ..Observed::default()
        }
    }

    fn learners(wanted: u8, observed: &Observed) -> (u8, u8) {
        let plan = super::plan(&cluster(wanted), observed);
        (plan.replicas(Role::Learner), plan.listed(Role::Learner))
    }

    #[test]
    fn lists_name_nodes_before_they_come_and_until_they_are_gone() {
        let mut observed = Observed {
            pods: ["ledger-proposer-5", "ledger-proposer-x", "other-proposer-9"]
                .map(pod)
                .into(),
            ..Observed::default()
        };
        let plan = super::plan(&cluster(2), &observed);
        assert_eq!(
            (plan.replicas(Role::Proposer), plan.listed(Role::Proposer)),
            (3, 5)
        );
        assert_eq!(
            (plan.replicas(Role::Store), plan.listed(Role::Store)),
            (0, 0)
        );
        observed.pods = vec![pod("ledger-store-2"), pod("ledger-acceptor-9")];
        let plan = super::plan(&cluster(2), &observed);
        assert_eq!(plan.listed(Role::Proposer), 3);
        assert_eq!(
            (plan.replicas(Role::Store), plan.listed(Role::Store)),
            (0, 2)
        );
        assert_eq!(plan.listed(Role::Acceptor), 3, "their number is fixed");
    }

    #[test]
    fn learners_leave_one_at_a_time() {
        let mut observed = three_learners([Some(50), Some(90), Some(90)]);
        assert_eq!(learners(1, &observed), (2, 3));
        // The set is smaller, and the pod not gone yet.
        set_has(&mut observed, 2, 2);
        assert_eq!(learners(1, &observed), (2, 3));
        observed.pods.pop();
        assert_eq!(learners(1, &observed), (1, 2));
        assert_eq!(learners(4, &observed), (4, 4), "up, all at once");
    }

    fn set_has(observed: &mut Observed, replicas: i32, written: u8) {
        let set = &mut observed.stateful_sets[0];
        set.spec.as_mut().unwrap().replicas = Some(replicas);
        let written = (names::LEARNERS_ANNOTATION.to_owned(), written.to_string());
        set.metadata.annotations = Some([written].into());
    }

    #[test]
    fn without_their_set_learners_still_leave_one_at_a_time() {
        let mut observed = three_learners([Some(49), Some(90), Some(90)]);
        observed.stateful_sets.clear();
        assert_eq!(learners(1, &observed), (3, 3), "by their pods");
        observed.pods.clear();
        observed.config_maps = desired::desired(&cluster(3), &Plan::new(&cluster(3))).config_maps;
        assert_eq!(learners(1, &observed), (3, 3), "by the list");
        observed.learners[0].durable_instance_id = 50;
        assert_eq!(learners(1, &observed), (2, 2));
        assert_eq!(learners(3, &observed), (3, 3), "none leaves");
    }

    #[test]
    fn learners_of_a_set_that_was_scaled_by_hand_come_back_before_they_leave() {
        let mut observed = three_learners([Some(49), Some(90), Some(90)]);
        set_has(&mut observed, 1, 3);
        assert_eq!(learners(1, &observed), (3, 3));
    }

    #[test]
    fn learners_that_a_stopped_cluster_had_come_back_before_they_leave() {
        let mut observed = three_learners([None; 3]);
        observed.acceptors.clear();
        observed.pods.clear();
        set_has(&mut observed, 0, 1);
        assert_eq!(learners(1, &observed), (1, 1), "it never had more");
        set_has(&mut observed, 0, 3);
        assert_eq!(learners(1, &observed), (3, 3));
    }

    #[test]
    fn a_learner_that_alone_has_what_is_forgotten_stays() {
        for durable in [[Some(49), Some(90), Some(90)], [None, Some(90), Some(90)]] {
            let observed = three_learners(durable);
            assert_eq!(learners(1, &observed), (3, 3));
            let held = plan(&cluster(1), &observed).held.unwrap();
            assert!(held.contains("learners 1 to 1 has instance 50"), "{held}");
            // Two may stay: one of them has it.
            assert_eq!(learners(2, &observed), (2, 3));
        }
        let mut observed = three_learners([Some(90); 3]);
        observed.acceptors.pop();
        assert_eq!(learners(1, &observed), (3, 3), "one acceptor is no quorum");
    }
}
