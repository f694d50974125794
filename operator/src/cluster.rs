//! `PaxosCluster` → [`Cluster`], or which field is wrong and what to do. Everything after this step
//! takes a `Cluster` and has nothing left to check.

use std::collections::BTreeMap;
use std::time::Duration;

use api::env::Target;
use api::env::{DEFAULT_ELECTION_TIMEOUT, DEFAULT_HEARTBEAT_INTERVAL, Role};
use k8s_openapi::api::core::v1::{
    Affinity, EnvVar, LocalObjectReference, PodSecurityContext, ResourceRequirements,
    SecurityContext, Toleration, TopologySpreadConstraint,
};
use k8s_openapi::api::networking::v1::NetworkPolicyPeer;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::{Resource, ResourceExt};
use paxos::ids::{Members, NodeId};
use serde_json::Value;

use crate::crd::{
    DEFAULT_ACCEPTORS, DEFAULT_LEARNERS, Keep, NetworkPolicySpec, PaxosCluster, PodMonitorSpec,
    Resources, RoleSpec, ServicesSpec, Storage,
};
use crate::fields::{
    Budget, check_contexts, extra, extra_labels, millis, parse_budget, parse_clients, parse_domain,
    parse_hosts, parse_name, parse_quota, parse_services, parse_window, positive, quantities,
    reconcile_defaults,
};
use crate::invalid::Invalid;
use crate::{names, strict};

/// The image of a spec that names none: the one released together with this operator.
pub const DEFAULT_IMAGE: &str = concat!(
    "ghcr.io/clustersync/cluster-sync:",
    env!("CARGO_PKG_VERSION")
);

const DEFAULT_STORAGE: &str = "5Gi";
const DEFAULT_REQUESTS: [(&str, &str); 2] = [("cpu", "50m"), ("memory", "64Mi")];
/// No CPU limit: a throttled leader misses its heartbeats and loses leadership.
const DEFAULT_LIMITS: [(&str, &str); 1] = [("memory", "512Mi")];

/// A PaxosCluster that makes sense.
#[derive(Clone, Debug, PartialEq)]
pub struct Cluster {
    /// Its name; short enough for all that is named after it.
    pub name: String,
    /// Where it and all its objects live.
    pub namespace: String,
    /// The PaxosCluster, as owner of its objects; `None` when it is not in a cluster yet.
    pub owner: Option<OwnerReference>,
    /// The nodes' image.
    pub image: String,
    /// When to pull it; `None`: Kubernetes decides.
    pub image_pull_policy: Option<String>,
    /// Credentials for its registry.
    pub image_pull_secrets: Vec<LocalObjectReference>,
    /// Detailed logs.
    pub debug: bool,
    /// Between the leader's heartbeats.
    pub heartbeat_interval: Duration,
    /// Without heartbeat, before an election.
    pub election_timeout: Duration,
    /// Who may be notified of committed writes.
    pub notify_clients: Vec<Target>,
    /// Names by which clients call the nodes, beside their own.
    pub hosts: Vec<String>,
    /// For how long requests are remembered.
    pub retry_window: Duration,
    /// What resources may take, in bytes; `None`: by the memory limit of the proposers, which is that of
    /// the learners.
    pub quota: Option<u64>,
    /// Nothing is to be applied or restarted.
    pub paused: bool,
    /// No pod is to be restarted for a change.
    pub held: bool,
    /// Labels of all that is made, beside the operator's.
    pub labels: BTreeMap<String, String>,
    /// Annotations of all that is made, beside the operator's.
    pub annotations: BTreeMap<String, String>,
    /// The pods'; `None`: the default.
    pub pod_security_context: Option<PodSecurityContext>,
    /// The nodes' containers'; `None`: the default.
    pub security_context: Option<SecurityContext>,
    /// The domain of absolute names, without dots around it; `None`: names are not absolute.
    pub domain: Option<String>,
    /// What the Services look like.
    pub services: ServicesSpec,
    /// The spec as JSON, to be kept with the cluster; `None`: it is not.
    pub spec: Option<String>,
    /// There are to be no pods.
    pub stopped: bool,
    /// Who may reach the nodes; `None`: everybody.
    pub access: Option<Access>,
    /// How Prometheus is to scrape the nodes; `None`: the cluster says nothing about it.
    pub pod_monitor: Option<PodMonitorSpec>,
    /// Where the operator runs; `None`: not known.
    pub operator_namespace: Option<String>,
    /// The acceptors.
    pub members: Members,
    /// The roles it has, in the order of [`Role::ALL`].
    pub groups: Vec<Group>,
}

/// Who may reach the nodes beside each other and the operator.
#[derive(Clone, Debug, PartialEq)]
pub struct Access {
    /// Proposers, learners and stores.
    pub clients: Vec<NetworkPolicyPeer>,
    /// All of them.
    pub metrics: Vec<NetworkPolicyPeer>,
    /// Whom nodes may reach beside each other, the DNS and the notified clients; `None`: everybody.
    pub egress: Option<Vec<NetworkPolicyPeer>>,
}

/// The nodes of one role.
#[derive(Clone, Debug, PartialEq)]
pub struct Group {
    /// The role.
    pub role: Role,
    /// How many, at least 1.
    pub replicas: u8,
    /// CPU and memory, with defaults filled in.
    pub resources: ResourceRequirements,
    /// The volume's size.
    pub storage_size: Quantity,
    /// The volume's class; `None`: the Kubernetes cluster's default.
    pub storage_class_name: Option<String>,
    /// The same, if it is an operator's default.
    pub default_class: Option<String>,
    /// The volume's access modes, not empty.
    pub access_modes: Vec<String>,
    /// What becomes of volumes when the set of pods is deleted.
    pub when_deleted: Keep,
    /// What becomes of the volumes of pods that are no longer wanted.
    pub when_scaled: Keep,
    /// As in a pod's spec.
    pub node_selector: BTreeMap<String, String>,
    /// As in a pod's spec.
    pub tolerations: Vec<Toleration>,
    /// `None`: the default.
    pub affinity: Option<Affinity>,
    /// `None`: the default.
    pub topology_spread_constraints: Option<Vec<TopologySpreadConstraint>>,
    /// As in a pod's spec.
    pub priority_class_name: Option<String>,
    /// As in a pod's spec; `None`: the namespace's default account.
    pub service_account_name: Option<String>,
    /// Labels beside the operator's.
    pub pod_labels: BTreeMap<String, String>,
    /// Annotations beside the operator's.
    pub pod_annotations: BTreeMap<String, String>,
    /// Variables beside the operator's.
    pub extra_env: Vec<EnvVar>,
    /// How many may be evicted at once; `None`: there is no budget.
    pub budget: Option<Budget>,
    /// A patch over the pods' template.
    pub pod_template: Option<Value>,
}

impl Cluster {
    /// Checks the spec but for patches of the pods' templates, which [`read`](crate::desired::read) does,
    /// and the acceptor count against the one in the status.
    pub(crate) fn parse(object: &PaxosCluster) -> Result<Cluster, Invalid> {
        let spec = &object.spec;
        let name = parse_name(object.metadata.name.as_deref().unwrap_or_default())?;
        let heartbeat_interval = millis(
            "spec.heartbeatIntervalMs",
            spec.heartbeat_interval_ms,
            DEFAULT_HEARTBEAT_INTERVAL,
            5..=60_000,
        )?;
        let election_timeout = millis(
            "spec.electionTimeoutMs",
            spec.election_timeout_ms,
            DEFAULT_ELECTION_TIMEOUT,
            20..=600_000,
        )?;
        if election_timeout < 4 * heartbeat_interval {
            return Err(Invalid::new(
                "spec.electionTimeoutMs",
                format!(
                    "is {}, must be at least 4 times heartbeatIntervalMs, which is {}",
                    election_timeout.as_millis(),
                    heartbeat_interval.as_millis()
                ),
            ));
        }
        if let Some(policy) = &spec.image_pull_policy
            && !["Always", "IfNotPresent", "Never"].contains(&policy.as_str())
        {
            return Err(Invalid::new(
                "spec.imagePullPolicy",
                format!("is {policy:?}, must be Always, IfNotPresent or Never"),
            ));
        }
        if spec
            .image
            .as_deref()
            .is_some_and(|image| image.trim().is_empty())
        {
            return Err(Invalid::new(
                "spec.image",
                "is empty: name an image or leave it out",
            ));
        }

        let mut groups = vec![
            Group::parse(Role::Proposer, &spec.proposer, 5)?,
            Group::parse(Role::Acceptor, &spec.acceptor, DEFAULT_ACCEPTORS)?,
            Group::parse(Role::Learner, &spec.learner, DEFAULT_LEARNERS)?,
        ];
        if spec.store.enabled {
            groups.push(Group::parse(Role::Store, &spec.store.role, 3)?);
        }
        let acceptors = groups[1].replicas;
        let members = Members::new(acceptors)
            .ok_or_else(|| Invalid::new("spec.acceptor.replicas", "must be at least 1"))?;
        if let Some(pinned) = object.status.as_ref().and_then(|status| status.acceptors)
            && pinned != i32::from(acceptors)
        {
            return Err(Invalid::acceptors(pinned, acceptors));
        }

        let (pod_security_context, security_context) = check_contexts(
            "spec",
            spec.pod_security_context.as_ref(),
            spec.security_context.as_ref(),
        )?;
        let reserved = names::labels(&name, Some(Role::Learner));
        Ok(Cluster {
            name,
            namespace: object
                .metadata
                .namespace
                .clone()
                .unwrap_or_else(|| "default".to_owned()),
            owner: object
                .controller_owner_ref(&())
                .map(|owner| OwnerReference {
                    block_owner_deletion: Some(true),
                    ..owner
                }),
            image: spec
                .image
                .clone()
                .unwrap_or_else(|| DEFAULT_IMAGE.to_owned()),
            image_pull_policy: spec.image_pull_policy.clone(),
            image_pull_secrets: spec.image_pull_secrets.clone(),
            debug: spec.debug.unwrap_or(false),
            heartbeat_interval,
            election_timeout,
            notify_clients: parse_clients(&spec.notify_clients)?,
            hosts: parse_hosts(&spec.hosts)?,
            retry_window: parse_window(spec.retry_window.as_deref())?,
            quota: parse_quota(
                spec.quota.as_ref(),
                memory(&groups, Role::Proposer),
                memory(&groups, Role::Learner),
            )?,
            paused: is_set(object, names::PAUSED_ANNOTATION),
            held: is_set(object, names::HOLD_ANNOTATION),
            labels: extra_labels("spec.labels", &spec.labels, &reserved)?,
            annotations: extra("spec.annotations", &spec.annotations, &BTreeMap::new())?,
            pod_security_context,
            security_context,
            domain: parse_domain(spec.cluster_domain.as_deref())?,
            services: parse_services(&spec.services)?,
            spec: None,
            stopped: spec.stopped,
            access: Access::parse(&spec.network_policy)?,
            pod_monitor: Some(spec.pod_monitor.clone()).filter(|monitor| monitor.enabled),
            operator_namespace: None,
            members,
            groups,
        })
    }

    /// A role's nodes; `None` when the cluster has none of that role.
    pub fn group(&self, role: Role) -> Option<&Group> {
        self.groups.iter().find(|group| group.role == role)
    }

    /// The addresses of a role's nodes, by id.
    pub fn addresses(&self, role: Role, port: u16) -> Vec<String> {
        let replicas = self.group(role).map_or(0, |group| group.replicas);
        NodeId::first(replicas)
            .map(|node| self.address(role, node, port))
            .collect()
    }

    /// A node's `host:port` as its peers reach it.
    pub fn address(&self, role: Role, node: NodeId, port: u16) -> String {
        let host = names::host(&self.name, &self.namespace, role, node);
        match &self.domain {
            // The dot at the end: nothing is to be added to it.
            Some(domain) => format!("{host}.{domain}.:{port}"),
            None => format!("{host}:{port}"),
        }
    }
}

fn memory(groups: &[Group], role: Role) -> Option<&Quantity> {
    let group = groups.iter().find(|group| group.role == role)?;
    group.resources.limits.as_ref()?.get("memory")
}

fn is_set(object: &PaxosCluster, annotation: &str) -> bool {
    let value = object.annotations().get(annotation);
    value.map(String::as_str) == Some("true")
}

impl Access {
    fn parse(spec: &NetworkPolicySpec) -> Result<Option<Access>, Invalid> {
        let peers = |field: &str, given: &[Value]| {
            let peers = given.iter().enumerate().map(|(at, peer)| {
                let field = format!("spec.networkPolicy.{field}[{at}]");
                strict::parse(&field, peer, "a peer of a NetworkPolicy")
            });
            peers.collect::<Result<Vec<_>, _>>()
        };
        let egress = peers("egress", &spec.egress)?;
        let access = Access {
            clients: peers("clients", &spec.clients)?,
            metrics: peers("metrics", &spec.metrics)?,
            egress: Some(egress).filter(|_| spec.restrict_egress),
        };
        Ok(spec.enabled.then_some(access))
    }
}

impl Group {
    fn parse(role: Role, spec: &RoleSpec, default_replicas: u8) -> Result<Group, Invalid> {
        let field = |name: &str| format!("spec.{role}.{name}");
        let replicas = match spec.replicas {
            None => default_replicas,
            Some(replicas) => u8::try_from(replicas)
                .ok()
                .filter(|n| *n > 0)
                .ok_or_else(|| {
                    Invalid::new(
                        field("replicas"),
                        format!("is {replicas}, must be from 1 to 255"),
                    )
                })?,
        };
        let Resources { requests, limits } = spec.resources.clone().unwrap_or_default();
        let requests = quantities(&field("resources.requests"), requests, &DEFAULT_REQUESTS)?;
        let limits = quantities(&field("resources.limits"), limits, &DEFAULT_LIMITS)?;
        let (requests, limits) = reconcile_defaults(
            &field("resources"),
            spec.resources.as_ref(),
            requests,
            limits,
        )?;
        let Storage {
            size,
            storage_class_name,
            access_modes,
            retention,
        } = spec.storage.clone().unwrap_or_default();
        let retention = retention.unwrap_or_default();
        let size = size.unwrap_or_else(|| IntOrString::String(DEFAULT_STORAGE.to_owned()));
        let access_modes = if access_modes.is_empty() {
            vec!["ReadWriteOnce".to_owned()]
        } else {
            access_modes
        };
        Ok(Group {
            role,
            replicas,
            resources: ResourceRequirements {
                requests: Some(requests),
                limits: Some(limits),
                ..Default::default()
            },
            storage_size: positive(&field("storage.size"), &size)?,
            storage_class_name,
            default_class: None,
            access_modes,
            when_deleted: retention.when_deleted.unwrap_or_default(),
            when_scaled: retention.when_scaled.unwrap_or_default(),
            node_selector: spec.node_selector.clone(),
            tolerations: spec.tolerations.clone(),
            affinity: spec.affinity.clone(),
            topology_spread_constraints: spec.topology_spread_constraints.clone(),
            priority_class_name: spec.priority_class_name.clone(),
            service_account_name: spec.service_account_name.clone(),
            pod_labels: spec.pod_labels.clone(),
            pod_annotations: spec.pod_annotations.clone(),
            extra_env: spec.extra_env.clone(),
            budget: parse_budget(&field("disruptionBudget"), spec.disruption_budget.as_ref())?,
            pod_template: spec.pod_template.clone(),
        })
    }
}

#[cfg(test)]
mod tests;
