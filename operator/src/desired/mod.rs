//! [`Cluster`] → the objects it is made of. Pure, and complete without Kubernetes.

pub(crate) mod config_map;
mod digest;
mod disruption_budget;
mod network_policy;
mod pod_monitor;
mod pod_template;
mod services;
pub(crate) mod stateful_set;

use std::collections::BTreeMap;
use std::marker::PhantomData;

use api::env::Role;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{ConfigMap, Service};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::cluster::{Cluster, Group};
use crate::crd::PaxosCluster;
use crate::invalid::Invalid;
use crate::names;
use crate::plan::Plan;

/// All objects of a cluster. The marker says whether they are wanted or known to be in the
/// API server; only [`crate::apply`] makes the one into the other.
#[derive(Clone, Debug)]
pub struct Objects<S> {
    /// One for each role.
    pub stateful_sets: Vec<StatefulSet>,
    /// A headless one for each role and two for clients.
    pub services: Vec<Service>,
    /// The lists of addresses.
    pub config_maps: Vec<ConfigMap>,
    /// One for each role.
    pub disruption_budgets: Vec<PodDisruptionBudget>,
    /// One for each role, if the spec asks for them.
    pub network_policies: Vec<NetworkPolicy>,
    /// One, if the spec asks for it.
    pub pod_monitors: Vec<PodMonitor>,
    pub(crate) state: PhantomData<S>,
}

/// What should be.
#[derive(Clone, Copy, Debug)]
pub enum Desired {}

/// What is, as the API server answered.
#[derive(Clone, Copy, Debug)]
pub enum Applied {}

pub(crate) use digest::without_addresses;
pub use pod_monitor::PodMonitor;
use pod_template::pod_template;

/// The objects of a cluster, in a fixed order.
pub fn desired(cluster: &Cluster, plan: &Plan) -> Objects<Desired> {
    let groups = &cluster.groups;
    Objects {
        stateful_sets: groups
            .iter()
            .map(|group| digest::with_digest(stateful_set::stateful_set(cluster, group, plan)))
            .map(|set| if cluster.stopped { stopped(set) } else { set })
            .collect(),
        services: groups
            .iter()
            .map(|group| services::headless(cluster, group.role))
            .chain(services::for_clients(cluster, plan))
            .collect(),
        config_maps: vec![config_map::members(cluster, plan)],
        disruption_budgets: groups
            .iter()
            .filter_map(|group| disruption_budget::disruption_budget(cluster, group, plan))
            .collect(),
        network_policies: (cluster.access.iter())
            .flat_map(|access| {
                let policy =
                    |group: &Group| network_policy::network_policy(cluster, access, group.role);
                groups.iter().map(policy)
            })
            .collect(),
        pod_monitors: (cluster.pod_monitor.iter())
            .map(|wanted| pod_monitor::pod_monitor(cluster, wanted))
            .collect(),
        state: PhantomData,
    }
}

/// The same without pods. All that they know stays.
fn stopped(mut set: StatefulSet) -> StatefulSet {
    if let Some(spec) = &mut set.spec {
        spec.replicas = Some(0);
        let retention = &mut spec.persistent_volume_claim_retention_policy;
        retention.get_or_insert_default().when_scaled = Some("Retain".to_owned());
    }
    set
}

/// The objects that a PaxosCluster becomes, touching nothing. Fails with the field that makes no sense.
pub fn render(object: &PaxosCluster) -> Result<Objects<Desired>, Invalid> {
    let cluster = read(object)?;
    Ok(desired(&cluster, &Plan::new(&cluster)))
}

/// Reads a spec, and sees whether its patches leave pods that can be. Fails with the field that makes no
/// sense.
pub fn read(object: &PaxosCluster) -> Result<Cluster, Invalid> {
    let cluster = Cluster::parse(object)?;
    for group in &cluster.groups {
        pod_template(&cluster, group)?;
    }
    Ok(cluster)
}

impl Objects<Desired> {
    /// Every object as one stream of YAML documents, in the order in which they are applied.
    pub fn to_yaml(&self) -> String {
        let Objects {
            stateful_sets,
            services,
            config_maps,
            disruption_budgets,
            network_policies,
            pod_monitors,
            state: PhantomData,
        } = self;
        let documents = (services.iter().map(to_document))
            .chain(config_maps.iter().map(to_document))
            .chain(disruption_budgets.iter().map(to_document))
            .chain(network_policies.iter().map(to_document))
            .chain(pod_monitors.iter().map(to_document))
            .chain(stateful_sets.iter().map(to_document));
        documents.collect::<Vec<_>>().join("---\n")
    }
}

/// YAML as `kubectl` prints it: two spaces, lists not indented, no folding.
pub fn to_document<T: serde::Serialize>(object: &T) -> String {
    let value = serde_json::to_value(object).expect("an object of ours is JSON");
    let options = serde_saphyr::ser_options! {
        indent_step: 2,
        compact_list_indent: true,
        prefer_block_scalars: true,
        folded_wrap_chars: usize::MAX,
    };
    let mut text = String::new();
    serde_saphyr::to_fmt_writer_with_options(&mut text, &value, options)
        .expect("writing JSON as YAML to a string cannot fail");
    text
}

fn metadata(cluster: &Cluster, name: String, role: Option<Role>) -> ObjectMeta {
    let mut labels = cluster.labels.clone();
    labels.extend(names::labels(&cluster.name, role));
    ObjectMeta {
        name: Some(name),
        namespace: Some(cluster.namespace.clone()),
        labels: Some(labels),
        annotations: Some(cluster.annotations.clone()).filter(|own| !own.is_empty()),
        owner_references: cluster.owner.clone().map(|owner| vec![owner]),
        ..Default::default()
    }
}

fn label_selector(
    cluster: &Cluster,
    role: Role,
) -> k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector {
    k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector {
        match_labels: Some(selector(cluster, role)),
        ..Default::default()
    }
}

fn selector(cluster: &Cluster, role: Role) -> BTreeMap<String, String> {
    names::selector(&cluster.name, role)
}
