//! Who may reach the nodes: each other, the operator, and whom the spec names. Nothing is said of where
//! nodes may go: they need names resolved, and clients that asked to be notified.

use k8s_openapi::api::networking::v1::{
    NetworkPolicy, NetworkPolicyIngressRule, NetworkPolicyPeer, NetworkPolicyPort,
    NetworkPolicySpec,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use proposer::config::{DEFAULT_PORT, Role};

use super::{label_selector, metadata};
use crate::cluster::{Access, Cluster};
use crate::names;

/// One port serves all, so whoever may read metrics may do everything that a node's role answers.
pub(super) fn network_policy(cluster: &Cluster, access: &Access, role: Role) -> NetworkPolicy {
    let mut from = vec![own_nodes(cluster), operator(cluster)];
    from.extend(access.metrics.iter().cloned());
    // Acceptors answer proposers and no client.
    if role != Role::Acceptor {
        from.extend(access.clients.iter().cloned());
    }
    NetworkPolicy {
        metadata: metadata(cluster, names::role(&cluster.name, role), Some(role)),
        spec: Some(NetworkPolicySpec {
            pod_selector: Some(label_selector(cluster, role)),
            policy_types: Some(vec!["Ingress".to_owned()]),
            ingress: Some(vec![NetworkPolicyIngressRule {
                from: Some(from),
                ports: Some(vec![NetworkPolicyPort {
                    port: Some(IntOrString::Int(i32::from(DEFAULT_PORT))),
                    protocol: Some("TCP".to_owned()),
                    ..Default::default()
                }]),
            }]),
            ..Default::default()
        }),
    }
}

fn own_nodes(cluster: &Cluster) -> NetworkPolicyPeer {
    let labels = [(names::CLUSTER_LABEL.to_owned(), cluster.name.clone())];
    NetworkPolicyPeer {
        pod_selector: Some(with_labels(labels)),
        ..Default::default()
    }
}

/// It asks nodes how they are.
fn operator(cluster: &Cluster) -> NetworkPolicyPeer {
    let namespace = cluster.operator_namespace.iter();
    let namespace = namespace.map(|name| ("kubernetes.io/metadata.name".to_owned(), name.clone()));
    NetworkPolicyPeer {
        namespace_selector: Some(with_labels(namespace)),
        pod_selector: Some(with_labels(
            names::OPERATOR_LABELS.map(|(key, value)| (key.to_owned(), value.to_owned())),
        )),
        ..Default::default()
    }
}

fn with_labels(labels: impl IntoIterator<Item = (String, String)>) -> LabelSelector {
    let labels: std::collections::BTreeMap<_, _> = labels.into_iter().collect();
    LabelSelector {
        match_labels: Some(labels).filter(|labels| !labels.is_empty()),
        ..Default::default()
    }
}
