//! What everything is called: functions of the cluster's name and the role.

use std::collections::BTreeMap;

use api::env::Role;
use paxos::ids::NodeId;

/// The API group.
pub const GROUP: &str = "clustersync.io";
/// Owns every field that the operator writes (server-side apply), and the controller of events.
pub const MANAGER: &str = "paxos-operator";
/// Owns the counters of a status that are written between two looks.
pub const COUNTERS_MANAGER: &str = "paxos-operator-counters";
/// The label that names the cluster.
pub const CLUSTER_LABEL: &str = "clustersync.io/cluster";
/// The label that names the role.
pub const ROLE_LABEL: &str = "clustersync.io/role";
/// Who made an object; the operator watches only what carries its own value.
pub const MANAGED_BY_LABEL: &str = "app.kubernetes.io/managed-by";
/// What tells the operator's own pods, as its chart labels them.
pub const OPERATOR_LABELS: [(&str, &str); 2] = [
    ("app.kubernetes.io/component", "operator"),
    ("app.kubernetes.io/part-of", "cluster-sync"),
];
/// Kubernetes writes a pod's ordinal here; ordinals start at 1, so this is the `NODE_ID`.
pub const POD_INDEX_LABEL: &str = "apps.kubernetes.io/pod-index";
/// A digest of what was applied last: a field that is no longer wanted shows as a difference.
pub const APPLIED_ANNOTATION: &str = "clustersync.io/applied";
/// The acceptor count with which a cluster began. On the acceptors' StatefulSet: it is there even when
/// the PaxosCluster's status was lost, as after a restore from a backup. And on the claims of their
/// volumes, which stay when the PaxosCluster is deleted.
pub const ACCEPTORS_ANNOTATION: &str = "clustersync.io/acceptors";
/// How many learners there are when the cluster is not stopped, on their StatefulSet.
pub const LEARNERS_ANNOTATION: &str = "clustersync.io/learners";
/// The storage class that a set's volumes have by an operator's default, on the set: the default of another
/// day is not theirs.
pub const CLASS_ANNOTATION: &str = "clustersync.io/default-class";
/// A digest of the labels and annotations of a set's claims, on the set.
pub const CLAIMS_ANNOTATION: &str = "clustersync.io/claims";
/// A digest of the template that a pod was made from, on the pod: what differs is restarted.
pub const TEMPLATE_ANNOTATION: &str = "clustersync.io/template";
/// What `kubectl rollout restart` writes into a StatefulSet's template.
pub const RESTARTED_ANNOTATION: &str = "kubectl.kubernetes.io/restartedAt";
/// On a PaxosCluster: while it is `true`, nothing is applied or restarted.
pub const PAUSED_ANNOTATION: &str = "clustersync.io/paused";
/// On a PaxosCluster: while it is `true`, no pod is restarted for a change, and all else continues.
pub const HOLD_ANNOTATION: &str = "clustersync.io/hold-rollout";
/// On what a cluster owns: which operator wrote it last, as `namespace/lease process`.
pub const OPERATOR_ANNOTATION: &str = "clustersync.io/operator";
/// On the ConfigMap of the lists: the last spec that made sense, to repair by while there is another.
pub const SPEC_ANNOTATION: &str = "clustersync.io/spec";
/// The port's name in Services and pods.
pub const HTTP_PORT: &str = "http";
/// The container's name in every pod.
pub const CONTAINER: &str = "node";
/// The volume with the node's state.
pub const DATA_VOLUME: &str = "data";

/// The volume with the lists of addresses, and where nodes find it.
pub const MEMBERS_VOLUME: &str = "members";
/// Its path.
pub const MEMBERS_DIR: &str = "/etc/cluster-sync";
/// A digest of the lists, on each pod: a change makes the kubelet look at what it mounts at once.
pub const MEMBERS_ANNOTATION: &str = "clustersync.io/members";

/// The longest name of a PaxosCluster. A StatefulSet's name may have 52 characters (its pods carry
/// it, a dash and a ten-digit revision in a label of 63), of which `-proposer` takes 9.
pub const CLUSTER_NAME_MAX: usize = 43;

/// The StatefulSet, the headless Service, the PodDisruptionBudget and the NetworkPolicy of a role.
pub fn role(cluster: &str, role: Role) -> String {
    format!("{cluster}-{role}")
}

/// The ConfigMap with the lists of addresses.
pub fn members(cluster: &str) -> String {
    format!("{cluster}-members")
}

/// The clients' Service of the learners. That of the proposers has the cluster's own name.
pub fn reader_service(cluster: &str) -> String {
    format!("{cluster}-reader")
}

/// The clients' Service of the stores.
pub fn store_service(cluster: &str) -> String {
    format!("{cluster}-store-reader")
}

/// A node's name as its peers reach it, without the domain of the Kubernetes cluster.
pub fn host(cluster: &str, namespace: &str, of: Role, node: NodeId) -> String {
    let service = role(cluster, of);
    format!("{service}-{node}.{service}.{namespace}.svc")
}

/// The PersistentVolumeClaim of a pod, as the StatefulSet's controller names it.
pub fn claim(cluster: &str, of: Role, node: NodeId) -> String {
    claim_of(&format!("{}-{node}", role(cluster, of)))
}

/// The same, by the pod's name.
pub fn claim_of(pod: &str) -> String {
    format!("{DATA_VOLUME}-{pod}")
}

/// What tells a role's pods from all others.
pub fn selector(cluster: &str, role: Role) -> BTreeMap<String, String> {
    labels_of([(CLUSTER_LABEL, cluster), (ROLE_LABEL, role.name())])
}

/// The same as text, as in a list's query.
pub fn selector_text(cluster: &str, role: Role) -> String {
    format!("{CLUSTER_LABEL}={cluster},{ROLE_LABEL}={role}")
}

/// The labels of an object; `role` is `None` for what belongs to no role.
pub fn labels(cluster: &str, role: Option<Role>) -> BTreeMap<String, String> {
    let mut labels = labels_of([
        ("app.kubernetes.io/name", "cluster-sync"),
        ("app.kubernetes.io/instance", cluster),
        ("app.kubernetes.io/part-of", "cluster-sync"),
        (MANAGED_BY_LABEL, MANAGER),
        (CLUSTER_LABEL, cluster),
    ]);
    if let Some(role) = role {
        let role = role.name();
        labels.extend(labels_of([
            ("app.kubernetes.io/component", role),
            (ROLE_LABEL, role),
        ]));
    }
    labels
}

/// The label selector for everything the operator made for a cluster.
pub fn made_for(cluster: &str) -> String {
    format!("{MANAGED_BY_LABEL}={MANAGER},{CLUSTER_LABEL}={cluster}")
}

/// The label selector for everything of a cluster, no matter who made it: volume claims have the labels
/// of [`selector`] from the StatefulSet's controller.
pub fn of_cluster(cluster: &str) -> String {
    format!("{CLUSTER_LABEL}={cluster}")
}

fn labels_of<const N: usize>(pairs: [(&str, &str); N]) -> BTreeMap<String, String> {
    pairs
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .into()
}
