//! The lists of addresses that running nodes follow.

use k8s_openapi::api::core::v1::ConfigMap;
use proposer::config::{DEFAULT_PORT, Role};
use proposer::paxos::ids::NodeId;

use super::metadata;
use crate::cluster::Cluster;
use crate::names;
use crate::scale::Plan;

/// A file for each list, called as the variable in whose place it is.
pub(super) fn members(cluster: &Cluster, plan: &Plan) -> ConfigMap {
    let list = |role: Role| {
        let address =
            |node| names::address(&cluster.name, &cluster.namespace, role, node, DEFAULT_PORT);
        let addresses: Vec<String> = NodeId::first(plan.listed(role)).map(address).collect();
        (role.list_variable().to_owned(), addresses.join(","))
    };
    ConfigMap {
        metadata: metadata(cluster, names::members(&cluster.name), None),
        data: Some(Role::ALL.map(list).into()),
        ..Default::default()
    }
}
