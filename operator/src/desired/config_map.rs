//! The lists of addresses that running nodes follow.

use api::env::{DEFAULT_PORT, Role};
use k8s_openapi::api::core::v1::ConfigMap;
use paxos::ids::NodeId;

use super::metadata;
use crate::cluster::Cluster;
use crate::names;
use crate::plan::Plan;

/// A file for each list, called as the variable in whose place it is.
pub(super) fn members(cluster: &Cluster, plan: &Plan) -> ConfigMap {
    let list = |role: Role| {
        let address = |node| cluster.address(role, node, DEFAULT_PORT);
        let addresses: Vec<String> = NodeId::first(plan.listed(role)).map(address).collect();
        (role.list_variable().to_owned(), addresses.join(","))
    };
    let mut metadata = metadata(cluster, names::members(&cluster.name), None);
    if let Some(spec) = &cluster.spec {
        let annotations = metadata.annotations.get_or_insert_default();
        annotations.insert(names::SPEC_ANNOTATION.to_owned(), spec.clone());
    }
    ConfigMap {
        metadata,
        data: Some(Role::ALL.map(list).into()),
        ..Default::default()
    }
}

/// How many nodes of a role the list names that is there.
pub(crate) fn listed(config_maps: &[ConfigMap], cluster: &Cluster, role: Role) -> u8 {
    let name = names::members(&cluster.name);
    let mut maps = config_maps.iter();
    let map = maps.find(|map| map.metadata.name.as_ref() == Some(&name));
    let list = map.and_then(|map| map.data.as_ref()?.get(role.list_variable()));
    let listed = list.map_or(0, |list| {
        list.split(',').filter(|it| !it.is_empty()).count()
    });
    u8::try_from(listed).unwrap_or(u8::MAX)
}
