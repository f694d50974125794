//! The pods of a role. Their environment is [`Config::to_env`], so it is what the node reads.

use std::collections::BTreeMap;

use api::env::{Access, Config, DEFAULT_DATA_DIR, DEFAULT_PORT, DEFAULT_RETRY_WINDOW, Role};
use k8s_openapi::api::apps::v1::{
    StatefulSet, StatefulSetOrdinals, StatefulSetPersistentVolumeClaimRetentionPolicy,
    StatefulSetSpec, StatefulSetUpdateStrategy,
};
use k8s_openapi::api::core::v1::{
    Affinity, Capabilities, ConfigMapVolumeSource, Container, ContainerPort, EnvVar, EnvVarSource,
    HTTPGetAction, ObjectFieldSelector, PersistentVolumeClaim, PersistentVolumeClaimSpec,
    PodAffinityTerm, PodAntiAffinity, PodSecurityContext, PodSpec, PodTemplateSpec, Probe,
    SeccompProfile, SecurityContext, TopologySpreadConstraint, Volume, VolumeMount,
    VolumeResourceRequirements, WeightedPodAffinityTerm,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use paxos::ids::NodeId;
use serde_json::json;

use super::{label_selector, metadata, pod_template};
use crate::cluster::{Cluster, Group};
use crate::compare::digest;
use crate::names;
use crate::plan::Plan;

/// The node's binary in the image.
const COMMAND: &str = "/usr/local/bin/proposer";
/// The image's user, by number so that the kubelet can see that it is not root.
const USER: i64 = 65532;
/// A leader hands over and in-flight requests finish within 5 s; the rest is for a slow disk.
const TERMINATION_GRACE_S: i64 = 30;

pub(super) fn stateful_set(cluster: &Cluster, group: &Group, plan: &Plan) -> StatefulSet {
    let role = group.role;
    let name = names::role(&cluster.name, role);
    let mut metadata = metadata(cluster, name.clone(), Some(role));
    let count = match role {
        Role::Acceptor => Some((names::ACCEPTORS_ANNOTATION, cluster.members.count())),
        Role::Learner => Some((names::LEARNERS_ANNOTATION, plan.replicas(role))),
        Role::Proposer | Role::Store => None,
    };
    let count = count.map(|(key, count)| (key, count.to_string()));
    let class = group.default_class.clone();
    let class = class.map(|class| (names::CLASS_ANNOTATION, class));
    let claims = claim_digest(cluster).map(|digest| (names::CLAIMS_ANNOTATION, digest));
    for (key, value) in count.into_iter().chain(class).chain(claims) {
        let annotations = metadata.annotations.get_or_insert_default();
        annotations.insert(key.to_owned(), value);
    }
    StatefulSet {
        metadata,
        spec: Some(StatefulSetSpec {
            replicas: Some(i32::from(plan.replicas(role))),
            service_name: Some(name),
            selector: label_selector(cluster, role),
            // Pod c-acceptor-1 is acceptor 1: position k of an address list is node k.
            ordinals: Some(StatefulSetOrdinals { start: Some(1) }),
            // A node that waits for its predecessor could wait forever when a quorum is down.
            pod_management_policy: Some("Parallel".to_owned()),
            // The roles depend on each other: `crate::roll` says which pod is next.
            update_strategy: Some(StatefulSetUpdateStrategy {
                type_: Some("OnDelete".to_owned()),
                ..Default::default()
            }),
            persistent_volume_claim_retention_policy: Some(
                StatefulSetPersistentVolumeClaimRetentionPolicy {
                    when_deleted: Some(format!("{:?}", group.when_deleted)),
                    when_scaled: Some(format!("{:?}", group.when_scaled)),
                },
            ),
            revision_history_limit: Some(3),
            template: pod_template(cluster, group).expect("checked when the spec was parsed"),
            volume_claim_templates: Some(vec![claim(cluster, group)]),
            ..Default::default()
        }),
        ..Default::default()
    }
}

/// The pods as they are before the spec changes them.
pub(super) fn own_template(cluster: &Cluster, group: &Group) -> PodTemplateSpec {
    PodTemplateSpec {
        metadata: Some(ObjectMeta {
            labels: Some(names::labels(&cluster.name, Some(group.role))),
            ..Default::default()
        }),
        spec: Some(pod(cluster, group)),
    }
}

fn pod(cluster: &Cluster, group: &Group) -> PodSpec {
    let role = group.role;
    PodSpec {
        containers: vec![container(cluster, group)],
        volumes: Some(vec![Volume {
            name: names::MEMBERS_VOLUME.to_owned(),
            config_map: Some(ConfigMapVolumeSource {
                name: names::members(&cluster.name),
                // Without it nodes start with the lists of their environment.
                optional: Some(true),
                ..Default::default()
            }),
            ..Default::default()
        }]),
        image_pull_secrets: some_unless_empty(cluster.image_pull_secrets.clone()),
        service_account_name: group.service_account_name.clone(),
        automount_service_account_token: Some(false),
        // The variables of unrelated Services must not reach a node's environment.
        enable_service_links: Some(false),
        termination_grace_period_seconds: Some(TERMINATION_GRACE_S),
        security_context: Some(cluster.pod_security_context.clone().unwrap_or_else(|| {
            PodSecurityContext {
                run_as_non_root: Some(true),
                run_as_user: Some(USER),
                run_as_group: Some(USER),
                fs_group: Some(USER),
                fs_group_change_policy: Some("OnRootMismatch".to_owned()),
                seccomp_profile: Some(SeccompProfile {
                    type_: "RuntimeDefault".to_owned(),
                    ..Default::default()
                }),
                ..Default::default()
            }
        })),
        node_selector: Some(group.node_selector.clone()).filter(|labels| !labels.is_empty()),
        tolerations: some_unless_empty(group.tolerations.clone()),
        affinity: Some(
            group
                .affinity
                .clone()
                .unwrap_or_else(|| apart_from_each_other(cluster, role)),
        ),
        topology_spread_constraints: some_unless_empty(
            group
                .topology_spread_constraints
                .clone()
                .unwrap_or_else(|| vec![even_over_zones(cluster, role)]),
        ),
        priority_class_name: group.priority_class_name.clone(),
        ..Default::default()
    }
}

fn container(cluster: &Cluster, group: &Group) -> Container {
    Container {
        name: names::CONTAINER.to_owned(),
        image: Some(cluster.image.clone()),
        image_pull_policy: cluster.image_pull_policy.clone(),
        command: Some(vec![COMMAND.to_owned()]),
        env: Some(environment(cluster, group.role)),
        ports: Some(vec![ContainerPort {
            name: Some(names::HTTP_PORT.to_owned()),
            container_port: i32::from(DEFAULT_PORT),
            protocol: Some("TCP".to_owned()),
            ..Default::default()
        }]),
        // Replaying a long log takes its time: 5 minutes before the kubelet gives up.
        startup_probe: Some(Probe {
            failure_threshold: Some(300),
            ..probe("/health", 1)
        }),
        liveness_probe: Some(Probe {
            failure_threshold: Some(3),
            ..probe("/health", 10)
        }),
        // One that hangs is out within 4 s, and the status tells within 5.
        readiness_probe: Some(Probe {
            failure_threshold: Some(3),
            timeout_seconds: Some(1),
            ..probe("/ready", 1)
        }),
        resources: Some(group.resources.clone()),
        volume_mounts: Some(vec![
            VolumeMount {
                name: names::DATA_VOLUME.to_owned(),
                mount_path: DEFAULT_DATA_DIR.to_owned(),
                ..Default::default()
            },
            VolumeMount {
                name: names::MEMBERS_VOLUME.to_owned(),
                mount_path: names::MEMBERS_DIR.to_owned(),
                read_only: Some(true),
                ..Default::default()
            },
        ]),
        security_context: Some(cluster.security_context.clone().unwrap_or_else(|| {
            SecurityContext {
                allow_privilege_escalation: Some(false),
                read_only_root_filesystem: Some(true),
                capabilities: Some(Capabilities {
                    drop: Some(vec!["ALL".to_owned()]),
                    ..Default::default()
                }),
                ..Default::default()
            }
        })),
        // What a node says at its end shows in the pod's status, and from there in the cluster's.
        termination_message_policy: Some("FallbackToLogsOnError".to_owned()),
        ..Default::default()
    }
}

/// One list for all pods of a role: `NODE_ID` is the pod's ordinal, the rest is the same for each.
fn environment(cluster: &Cluster, role: Role) -> Vec<EnvVar> {
    let any_node = NodeId::first(1).next().expect("there is a node 1");
    let mut config = Config {
        debug: cluster.debug,
        // Nobody else acts on it.
        use_cluster_store: matches!(role, Role::Learner | Role::Store)
            && cluster.group(Role::Store).is_some(),
        heartbeat_interval: cluster.heartbeat_interval,
        election_timeout: cluster.election_timeout,
        // All learners together tell each client once.
        notify_clients: match role {
            Role::Learner => cluster.notify_clients.clone(),
            _ => Vec::new(),
        },
        // Whichever proposer leads tells all learners.
        retry_window: match role {
            Role::Proposer => cluster.retry_window,
            _ => DEFAULT_RETRY_WINDOW,
        },
        state_quota: cluster.quota.filter(|_| role == Role::Proposer),
        members_dir: Some(names::MEMBERS_DIR.into()),
        access: Access {
            hosts: cluster.hosts.clone(),
            ..Access::default()
        },
        ..Config::new(role, any_node)
    };
    for peers in peers(role) {
        let addresses = cluster.addresses(*peers, DEFAULT_PORT);
        match peers {
            Role::Proposer => config.proposers = addresses,
            Role::Acceptor => config.acceptors = addresses,
            Role::Learner => config.learners = addresses,
            Role::Store => config.stores = addresses,
        }
    }
    config
        .to_env()
        .into_iter()
        .map(|(name, value)| match name {
            "NODE_ID" => EnvVar {
                name: name.to_owned(),
                value_from: Some(EnvVarSource {
                    field_ref: Some(ObjectFieldSelector {
                        api_version: Some("v1".to_owned()),
                        field_path: format!("metadata.labels['{}']", names::POD_INDEX_LABEL),
                    }),
                    ..Default::default()
                }),
                ..Default::default()
            },
            _ => EnvVar {
                name: name.to_owned(),
                value: Some(value),
                ..Default::default()
            },
        })
        .collect()
}

/// Whose addresses a role is given: those it talks to and no more. All show their disks to the
/// acceptors. Another list restarts nobody: pods read it from the ConfigMap as well.
fn peers(role: Role) -> &'static [Role] {
    match role {
        Role::Proposer => &[Role::Proposer, Role::Acceptor, Role::Learner],
        Role::Acceptor => &[Role::Acceptor],
        // The other learners: one that is too far behind takes over their snapshot.
        Role::Learner => &[Role::Proposer, Role::Acceptor, Role::Learner, Role::Store],
        Role::Store => &[Role::Proposer, Role::Acceptor, Role::Learner],
    }
}

fn probe(path: &str, period_s: i32) -> Probe {
    Probe {
        http_get: Some(HTTPGetAction {
            path: Some(path.to_owned()),
            port: IntOrString::String(names::HTTP_PORT.to_owned()),
            ..Default::default()
        }),
        period_seconds: Some(period_s),
        timeout_seconds: Some(2),
        ..Default::default()
    }
}

/// Distinguishes the labels and annotations of claims from others; `None` where there are none.
pub(crate) fn claim_digest(cluster: &Cluster) -> Option<String> {
    let Cluster {
        labels,
        annotations,
        ..
    } = cluster;
    let none = labels.is_empty() && annotations.is_empty();
    (!none).then(|| digest(&json!([labels, annotations])))
}

fn claim(cluster: &Cluster, group: &Group) -> PersistentVolumeClaim {
    let unless_empty = |own: &Strings| Some(own.clone()).filter(|own| !own.is_empty());
    PersistentVolumeClaim {
        metadata: ObjectMeta {
            name: Some(names::DATA_VOLUME.to_owned()),
            labels: unless_empty(&cluster.labels),
            annotations: unless_empty(&cluster.annotations),
            ..Default::default()
        },
        spec: Some(PersistentVolumeClaimSpec {
            access_modes: Some(group.access_modes.clone()),
            storage_class_name: group.storage_class_name.clone(),
            resources: Some(VolumeResourceRequirements {
                requests: Some([("storage".to_owned(), group.storage_size.clone())].into()),
                ..Default::default()
            }),
            ..Default::default()
        }),
        ..Default::default()
    }
}

/// One lost host should cost a role one node. Preferred, not required: a small Kubernetes cluster
/// must still be able to run all of them.
fn apart_from_each_other(cluster: &Cluster, role: Role) -> Affinity {
    Affinity {
        pod_anti_affinity: Some(PodAntiAffinity {
            preferred_during_scheduling_ignored_during_execution: Some(vec![
                WeightedPodAffinityTerm {
                    weight: 100,
                    pod_affinity_term: PodAffinityTerm {
                        label_selector: Some(label_selector(cluster, role)),
                        topology_key: "kubernetes.io/hostname".to_owned(),
                        ..Default::default()
                    },
                },
            ]),
            ..Default::default()
        }),
        ..Default::default()
    }
}

fn even_over_zones(cluster: &Cluster, role: Role) -> TopologySpreadConstraint {
    TopologySpreadConstraint {
        max_skew: 1,
        topology_key: "topology.kubernetes.io/zone".to_owned(),
        when_unsatisfiable: "ScheduleAnyway".to_owned(),
        label_selector: Some(label_selector(cluster, role)),
        ..Default::default()
    }
}

type Strings = BTreeMap<String, String>;

fn some_unless_empty<T>(list: Vec<T>) -> Option<Vec<T>> {
    Some(list).filter(|list| !list.is_empty())
}
