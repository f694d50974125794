//! What has the Prometheus operator scrape the nodes. Its own definition may be absent.

use api::env::Role;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::CustomResource;
use serde::{Deserialize, Serialize};

use super::metadata;
use crate::cluster::Cluster;
use crate::crd::PodMonitorSpec;
use crate::names;

/// The part of a PodMonitor that is written here.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "monitoring.coreos.com",
    version = "v1",
    kind = "PodMonitor",
    namespaced,
    schema = "disabled"
)]
#[serde(rename_all = "camelCase")]
pub struct Scrape {
    selector: LabelSelector,
    pod_metrics_endpoints: Vec<Endpoint>,
}

/// Whatever others make of one that is ours must stay readable.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
struct Endpoint {
    port: String,
    path: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    interval: Option<String>,
    relabelings: Vec<Relabeling>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Relabeling {
    source_labels: Vec<String>,
    target_label: String,
}

pub(super) fn pod_monitor(cluster: &Cluster, wanted: &PodMonitorSpec) -> PodMonitor {
    let mut metadata = metadata(cluster, cluster.name.clone(), None);
    let labels = metadata.labels.get_or_insert_default();
    for (key, value) in &wanted.labels {
        labels.entry(key.clone()).or_insert_with(|| value.clone());
    }
    let mut nodes = names::selector(&cluster.name, Role::Learner);
    nodes.remove(names::ROLE_LABEL);
    PodMonitor {
        metadata,
        spec: Scrape {
            selector: LabelSelector {
                match_labels: Some(nodes),
                ..Default::default()
            },
            pod_metrics_endpoints: vec![Endpoint {
                port: names::HTTP_PORT.to_owned(),
                path: "/metrics".to_owned(),
                interval: wanted.interval.clone(),
                // As the chart's PodMonitor does; `cluster` is taken for the Kubernetes cluster.
                relabelings: vec![Relabeling {
                    source_labels: vec![
                        "__meta_kubernetes_pod_label_clustersync_io_cluster".to_owned(),
                    ],
                    target_label: "paxos_cluster".to_owned(),
                }],
            }],
        },
    }
}
