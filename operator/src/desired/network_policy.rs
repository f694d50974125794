//! Who may reach the nodes: each other, the operator, and whom the spec names. Where nodes may go is
//! only said if the spec asks for it: they need names resolved, and clients that asked to be notified.

use std::collections::BTreeSet;

use api::env::Target;
use api::env::{DEFAULT_PORT, Role};
use k8s_openapi::api::networking::v1::{
    NetworkPolicy, NetworkPolicyEgressRule, NetworkPolicyIngressRule, NetworkPolicyPeer,
    NetworkPolicyPort, NetworkPolicySpec,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::{label_selector, metadata};
use crate::cluster::{Access, Cluster};
use crate::names;

const DNS_PORT: u16 = 53;

/// One port serves all, so a client that may read metrics may do everything that a node's role answers.
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
            policy_types: Some(match access.egress {
                Some(_) => vec!["Ingress".to_owned(), "Egress".to_owned()],
                None => vec!["Ingress".to_owned()],
            }),
            egress: access
                .egress
                .as_ref()
                .map(|also| egress(cluster, role, also)),
            ingress: Some(vec![NetworkPolicyIngressRule {
                from: Some(from),
                ports: Some(vec![port("TCP", DEFAULT_PORT)]),
            }]),
        }),
    }
}

/// To each other, to the DNS wherever it is, to the ports of notified clients (a policy knows no
/// names), and to whom the spec names.
fn egress(
    cluster: &Cluster,
    role: Role,
    also: &[NetworkPolicyPeer],
) -> Vec<NetworkPolicyEgressRule> {
    let mut rules = vec![
        NetworkPolicyEgressRule {
            to: Some(vec![own_nodes(cluster)]),
            ports: Some(vec![port("TCP", DEFAULT_PORT)]),
        },
        NetworkPolicyEgressRule {
            to: None,
            ports: Some(vec![port("UDP", DNS_PORT), port("TCP", DNS_PORT)]),
        },
    ];
    let clients: BTreeSet<u16> = cluster.notify_clients.iter().map(Target::port).collect();
    if role == Role::Learner && !clients.is_empty() {
        rules.push(NetworkPolicyEgressRule {
            to: None,
            ports: Some(
                clients
                    .into_iter()
                    .map(|number| port("TCP", number))
                    .collect(),
            ),
        });
    }
    if !also.is_empty() {
        rules.push(NetworkPolicyEgressRule {
            to: Some(also.to_vec()),
            ports: None,
        });
    }
    rules
}

fn port(protocol: &str, number: u16) -> NetworkPolicyPort {
    NetworkPolicyPort {
        port: Some(IntOrString::Int(i32::from(number))),
        protocol: Some(protocol.to_owned()),
        ..Default::default()
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
