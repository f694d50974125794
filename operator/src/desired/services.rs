//! How pods are found: by peers through a headless Service of each role, by clients through two more.

use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use proposer::config::{DEFAULT_PORT, Role};

use super::{metadata, selector};
use crate::cluster::Cluster;
use crate::names;

/// Peers must find each other before they are ready, or none ever would be.
pub(super) fn headless(cluster: &Cluster, role: Role) -> Service {
    let mut service = service(cluster, names::role(&cluster.name, role), role);
    if let Some(spec) = &mut service.spec {
        spec.cluster_ip = Some("None".to_owned());
        spec.publish_not_ready_addresses = Some(true);
    }
    service
}

/// Where clients propose.
pub(super) fn proposers(cluster: &Cluster) -> Service {
    service(cluster, cluster.name.clone(), Role::Proposer)
}

/// Where clients read.
pub(super) fn readers(cluster: &Cluster) -> Service {
    service(cluster, names::reader_service(&cluster.name), Role::Learner)
}

fn service(cluster: &Cluster, name: String, role: Role) -> Service {
    Service {
        metadata: metadata(cluster, name, Some(role)),
        spec: Some(ServiceSpec {
            selector: Some(selector(cluster, role)),
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
