//! How many pods of a role may be evicted at once.

use api::env::Role;
use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::{label_selector, metadata};
use crate::cluster::{Cluster, Group};
use crate::fields::Budget;
use crate::names;
use crate::plan::Plan;

/// Acceptors keep a quorum, the other roles keep one node. Where that would forbid every eviction (a
/// role of one, two acceptors, acceptors that must not vote) it allows one: a drain that can never finish
/// helps nobody.
pub(super) fn disruption_budget(
    cluster: &Cluster,
    group: &Group,
    plan: &Plan,
) -> Option<PodDisruptionBudget> {
    let unavailable = match group.budget.as_ref()? {
        Budget::AtMost(number) => number.clone(),
        Budget::Spare => {
            let (spare, voteless) = match group.role {
                Role::Acceptor => (cluster.members.tolerates() as i32, i32::from(plan.voteless)),
                Role::Proposer | Role::Learner | Role::Store => (i32::from(group.replicas) - 1, 0),
            };
            IntOrString::Int(spare.max(voteless + 1))
        }
    };
    let name = names::role(&cluster.name, group.role);
    Some(PodDisruptionBudget {
        metadata: metadata(cluster, name, Some(group.role)),
        spec: Some(PodDisruptionBudgetSpec {
            max_unavailable: Some(unavailable),
            selector: Some(label_selector(cluster, group.role)),
            // A pod that is not ready serves no quorum; keeping it would only block the drain.
            unhealthy_pod_eviction_policy: Some("AlwaysAllow".to_owned()),
            ..Default::default()
        }),
        ..Default::default()
    })
}
