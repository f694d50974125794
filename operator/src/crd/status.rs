//! What users read: the status.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Every type of condition that a status may have.
pub const CONDITIONS: [&str; 6] = [
    "Ready",
    "Available",
    "Progressing",
    "Degraded",
    "Stalled",
    "Paused",
];

/// What the operator last saw. Written only when it changes.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PaxosClusterStatus {
    /// The metadata.generation that this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,

    /// The acceptor count with which the cluster was created; it cannot change.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub acceptors: Option<i32>,

    /// How many proposers are ready.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proposer: Option<RoleStatus>,

    /// How many acceptors are ready.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub acceptor: Option<RoleStatus>,

    /// How many learners are ready.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub learner: Option<RoleStatus>,

    /// How many stores are ready; absent when the cluster has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub store: Option<RoleStatus>,

    /// The label selector of the learners' pods, for kubectl scale and autoscalers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<String>,
    /// How far the acceptors are from losing their quorum.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quorum: Option<QuorumStatus>,

    /// Every node that there should be, by role and number.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub members: Vec<MemberStatus>,

    /// The proposer that leads; absent when none is known to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leader_id: Option<i32>,

    /// The term of the last leader seen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub term: Option<i64>,

    /// The last instance of the log that a proposer reported as chosen. It may lag some seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub committed_instance: Option<i64>,

    /// Ready: every node is ready and the cluster commits. Available: it commits. Progressing: nodes
    /// are being started, replaced or stopped. Degraded: fewer nodes are ready than there should be.
    /// Stalled (only when true): nothing will happen until the spec is corrected. Paused (only when
    /// true): nothing is applied or restarted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = kube::core::ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
}

/// How many nodes of a role are ready.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RoleStatus {
    /// How many there should be.
    pub replicas: i32,
    /// How many are ready.
    pub ready: i32,
    /// Both, as in 4/5.
    pub summary: String,
}

/// How far the acceptors are from losing their quorum.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct QuorumStatus {
    /// How many acceptors writes need.
    pub size: i32,
    /// How many are ready.
    pub healthy: i32,
    /// How many more may fail now.
    pub tolerates: i32,
    /// Whether any one pod of any role may be lost now without a stop of writes or reads, as by a drain.
    pub safe_to_disrupt: bool,
}

/// A node that there should be.
#[derive(JsonSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MemberStatus {
    /// proposer, acceptor, learner or store.
    pub role: String,
    /// Its number within the role.
    pub id: i32,
    /// Its pod.
    pub pod: String,
    /// Whether it is ready, and not shutting down.
    pub ready: bool,
    /// Since when it has been that or has not.
    pub since: Time,
    /// The tag or digest of its image; absent without a pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Names its disk, as it last told: the same after every restart, another on a new volume.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub incarnation: Option<String>,
}
