//! How pods are found: by peers through a headless Service of each role, by clients through
//! one for those that take their requests, and one for each role that serves reads.

use api::env::{DEFAULT_PORT, Role};
use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::{metadata, selector};
use crate::cluster::Cluster;
use crate::names;
use crate::plan::Plan;

/// Peers must find each other before they are ready, or none ever would be.
pub(super) fn headless(cluster: &Cluster, role: Role) -> Service {
    let mut service = service(cluster, names::role(&cluster.name, role), role);
    if let Some(spec) = &mut service.spec {
        spec.cluster_ip = Some("None".to_owned());
        spec.publish_not_ready_addresses = Some(true);
    }
    service
}

/// Where clients propose, and where they read.
pub(super) fn for_clients(cluster: &Cluster, plan: &Plan) -> Vec<Service> {
    let mut proposers = service(cluster, cluster.name.clone(), Role::Proposer);
    if let Some(spec) = &mut proposers.spec {
        // Without a leader no proposer is ready: clients get its answer, which says so, and not none.
        spec.publish_not_ready_addresses = Some(true).filter(|_| plan.answers_unready);
    }
    let readers = service(cluster, names::reader_service(&cluster.name), Role::Learner);
    let mut services = vec![proposers, readers];
    if cluster.group(Role::Store).is_some() {
        let name = names::store_service(&cluster.name);
        services.push(service(cluster, name, Role::Store));
    }
    for service in services
        .iter_mut()
        .filter(|_| !cluster.services.annotations.is_empty())
    {
        let annotations = service.metadata.annotations.get_or_insert_default();
        annotations.extend(cluster.services.annotations.clone());
    }
    services
}

fn service(cluster: &Cluster, name: String, role: Role) -> Service {
    Service {
        metadata: metadata(cluster, name, Some(role)),
        spec: Some(ServiceSpec {
            selector: Some(selector(cluster, role)),
            ip_family_policy: cluster.services.ip_family_policy.clone(),
            ip_families: Some(cluster.services.ip_families.clone()).filter(|of| !of.is_empty()),
            ports: Some(vec![ServicePort {
                name: Some(names::HTTP_PORT.to_owned()),
                port: i32::from(DEFAULT_PORT),
                protocol: Some("TCP".to_owned()),
                target_port: Some(IntOrString::String(names::HTTP_PORT.to_owned())),
                ..Default::default()
            }]),
            ..Default::default()
        }),
        ..Default::default()
    }
}
