//! How many pods of a role may be evicted at once.

use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use proposer::config::Role;

use super::{label_selector, metadata};
use crate::cluster::{Cluster, Group};
use crate::names;

/// Acceptors keep a quorum, the other roles keep one node. Where that would forbid every eviction (a
/// role of one, two acceptors) it allows one: a drain that can never finish helps nobody.
pub(super) fn disruption_budget(cluster: &Cluster, group: &Group) -> PodDisruptionBudget {
    let spare = match group.role {
        Role::Acceptor => cluster.members.tolerates() as i32,
        Role::Proposer | Role::Learner | Role::Store => i32::from(group.replicas) - 1,
    };
    PodDisruptionBudget {
        metadata: metadata(
            cluster,
            names::role(&cluster.name, group.role),
            Some(group.role),
        ),
        spec: Some(PodDisruptionBudgetSpec {
            max_unavailable: Some(IntOrString::Int(spare.max(1))),
            selector: Some(label_selector(cluster, group.role)),
            // A pod that is not ready serves no quorum; keeping it would only block the drain.
            unhealthy_pod_eviction_policy: Some("AlwaysAllow".to_owned()),
            ..Default::default()
        }),
        ..Default::default()
    }
}
