//! What users write and read: `PaxosCluster`. Its field docs are what `kubectl explain` shows.

// `KubeSchema` repeats each struct inside a function.
#![allow(unreachable_pub)]

mod status;

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    Affinity, EnvVar, LocalObjectReference, Toleration, TopologySpreadConstraint,
};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::core::DeserializeGuard;
use kube::{CustomResource, KubeSchema};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use serde_json::json;

pub use status::{CONDITIONS, MemberStatus, PaxosClusterStatus, QuorumStatus, RoleStatus};

/// The acceptor count of a spec that says nothing, here for the CEL rule as for [`crate::cluster`].
pub const DEFAULT_ACCEPTORS: u8 = 5;

/// The learner count of a spec that says nothing, here for the schema as for [`crate::cluster`].
pub const DEFAULT_LEARNERS: u8 = 2;

/// A Multi-Paxos cluster: a totally ordered log and key-value store, replicated over proposers
/// (take requests, elect a leader), acceptors (vote, durably), learners (serve what was chosen) and,
/// if asked for, stores (keep the data on other disks).
#[derive(CustomResource, KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "clustersync.io",
    version = "v1alpha1",
    kind = "PaxosCluster",
    plural = "paxosclusters",
    shortname = "paxos",
    shortname = "pxs",
    namespaced,
    status = "PaxosClusterStatus",
    // One role alone can be scaled this way: the one that serves more readers with more nodes.
    scale(
        spec_replicas_path = ".spec.learner.replicas",
        status_replicas_path = ".status.learner.ready",
        label_selector_path = ".status.selector"
    ),
    derive = "Default",
    derive = "PartialEq",
    doc = "A Multi-Paxos cluster: a totally ordered, replicated log and key-value store.",
    validation = Rule::new("self.metadata.name.size() <= 43 && self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')")
        .message("metadata.name must be at most 43 lower-case letters, digits and dashes, and begin with a letter: pods and Services are named after it"),
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].status",
        description = "Every node is ready and the cluster commits"
    ),
    printcolumn(
        name = "Leader",
        type_ = "integer",
        json_path = ".status.leaderId",
        description = "The proposer that leads"
    ),
    printcolumn(
        name = "Committed",
        type_ = "integer",
        json_path = ".status.committedInstance",
        description = "The last instance of the log known to be chosen"
    ),
    printcolumn(
        name = "Proposers",
        type_ = "string",
        json_path = ".status.proposer.summary",
        description = "Ready proposers of all"
    ),
    printcolumn(
        name = "Acceptors",
        type_ = "string",
        json_path = ".status.acceptor.summary",
        description = "Ready acceptors of all"
    ),
    printcolumn(
        name = "Learners",
        type_ = "string",
        json_path = ".status.learner.summary",
        description = "Ready learners of all"
    ),
    printcolumn(
        name = "Stores",
        type_ = "string",
        json_path = ".status.store.summary",
        description = "Ready stores of all",
        priority = 1
    ),
    printcolumn(
        name = "Tolerates",
        type_ = "integer",
        json_path = ".status.quorum.tolerates",
        description = "How many more acceptors may fail now"
    ),
    printcolumn(
        name = "Disruptable",
        type_ = "boolean",
        json_path = ".status.quorum.safeToDisrupt",
        description = "Whether any one pod may be lost now without a stop of writes or reads"
    ),
    printcolumn(
        name = "Message",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].message",
        description = "Why it is ready or not",
        priority = 1
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[x_kube(validation = Rule::new("(has(self.acceptor) && has(self.acceptor.replicas) ? self.acceptor.replicas : 5) == (has(oldSelf.acceptor) && has(oldSelf.acceptor.replicas) ? oldSelf.acceptor.replicas : 5)")
    .message("acceptor.replicas cannot change after creation: the quorums of two sizes need not meet")
    .field_path(".acceptor"))]
#[x_kube(validation = Rule::new("(has(self.electionTimeoutMs) ? self.electionTimeoutMs : 400) >= 4 * (has(self.heartbeatIntervalMs) ? self.heartbeatIntervalMs : 50)")
    .message("electionTimeoutMs (default 400) must be at least 4 times heartbeatIntervalMs (default 50)"))]
#[serde(rename_all = "camelCase")]
pub struct PaxosClusterSpec {
    /// The image of every node. Default: the image released together with the operator.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,

    /// When to pull the image: Always, IfNotPresent or Never. Default: Kubernetes decides by the tag.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "image_pull_policy")]
    pub image_pull_policy: Option<String>,

    /// Secrets of this namespace with credentials for the image's registry.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub image_pull_secrets: Vec<LocalObjectReference>,

    /// Whether nodes log in detail and answer `GET /logs`. Default: false.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub debug: Option<bool>,

    /// How often the leader tells the other proposers that it lives, in milliseconds. Default: 50.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 5, max = 60_000))]
    pub heartbeat_interval_ms: Option<i32>,

    /// How long a proposer waits without a heartbeat before it runs for leader, in milliseconds; the
    /// wait is randomised between this and twice this. At least 4 times heartbeatIntervalMs. Default: 400.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 20, max = 600_000))]
    pub election_timeout_ms: Option<i32>,

    /// Clients that are told of their committed writes, as host or host:port: a POST to /notification at
    /// the address that a request names as its clientId. No other address is ever called. Default: none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 255))]
    pub notify_clients: Vec<String>,

    /// Names by which clients call the nodes, beside those of the cluster's own Services and pods: such as
    /// the name of an Ingress or of a load balancer, without a port. A request with another name in its
    /// Host header is answered 421; IP addresses and names without dots always pass. Default: none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 255))]
    pub hosts: Vec<String>,

    /// For how long a request is remembered, so that it has no second effect when it is sent again, such
    /// as 60s or 10m; from 1s to 1h, in time with traffic. Default: 60s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = "^[0-9]+(ms|s|m|h)$"))]
    pub retry_window: Option<String>,

    /// What names and data of all resources may take, such as 256Mi, with 128 bytes for each; writes that
    /// would make it more are refused, deletes are not. Default: a quarter of the learners' memory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quota: Option<IntOrString>,

    /// Labels of everything that is made for the cluster, pods and volume claims included, beside the
    /// operator's. Other labels restart the pods, one after the other.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,

    /// Annotations of everything that is made for the cluster, likewise.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,

    /// The pods' security context, as in a pod's spec, in place of the default (user, group and fsGroup
    /// 65532). It is taken whole: {} leaves all to the platform, as OpenShift wants it. A null inside of it
    /// gets lost with kubectl apply, and not with server-side apply.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "object")]
    pub pod_security_context: Option<serde_json::Value>,

    /// The security context of the nodes' containers, as in a container's spec, in place of the default (no
    /// privileges, a read-only root file system). It is taken whole.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "object")]
    pub security_context: Option<serde_json::Value>,

    /// The domain of the Kubernetes cluster, such as cluster.local. With it nodes find each other by
    /// absolute names, which takes one question to the DNS each in place of several. Default: not used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 200))]
    pub cluster_domain: Option<String>,

    /// What the Services look like.
    #[serde(default, skip_serializing_if = "ServicesSpec::is_default")]
    pub services: ServicesSpec,

    /// Scale every role to zero and keep the volumes. Without it, the same cluster runs again.
    /// Default: false.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub stopped: bool,

    /// Proposers take clients' requests, elect a leader among themselves and run Paxos. Default: 5.
    #[serde(default, skip_serializing_if = "RoleSpec::is_default")]
    pub proposer: RoleSpec,

    /// Acceptors vote and keep their votes on disk; a majority of them must be up for writes. Their
    /// number is fixed at creation; odd numbers tolerate as many failures as the even number above. Default: 5.
    #[serde(default, skip_serializing_if = "RoleSpec::is_default")]
    pub acceptor: RoleSpec,

    /// Learners apply what was chosen, in order, and serve reads. At least one must be up. Default: 2.
    #[serde(default, skip_serializing_if = "RoleSpec::is_default")]
    #[schemars(transform = default_learners)]
    pub learner: RoleSpec,

    /// Who may reach the nodes over the network.
    #[serde(default, skip_serializing_if = "NetworkPolicySpec::is_default")]
    pub network_policy: NetworkPolicySpec,

    /// A PodMonitor of this cluster's nodes, for the Prometheus operator. Not needed where the chart's
    /// own (monitoring.podMonitor) looks at every cluster.
    #[serde(default, skip_serializing_if = "PodMonitorSpec::is_default")]
    pub pod_monitor: PodMonitorSpec,

    /// Stores keep a copy of the data on disks of their own. Off unless enabled. Default: 3 when enabled.
    #[serde(default, skip_serializing_if = "StoreSpec::is_default")]
    pub store: StoreSpec,
}

/// The pods of one role.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RoleSpec {
    /// How many nodes play this role, 1 to 255.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 255))]
    pub replicas: Option<i32>,

    /// CPU and memory of each node. What is not given has a default; there is no CPU limit by default,
    /// since a throttled leader misses its heartbeats.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<Resources>,

    /// The volume with each node's state. After creation its size can grow; the rest cannot change.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub storage: Option<Storage>,

    /// Labels that a Kubernetes node must have to run this role.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub node_selector: BTreeMap<String, String>,

    /// Taints that this role tolerates, as in a pod's spec.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "objects")]
    pub tolerations: Vec<Toleration>,

    /// Affinity as in a pod's spec, in place of the default: nodes of one role prefer different hosts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "object")]
    pub affinity: Option<Affinity>,

    /// Spread constraints as in a pod's spec, in place of the default: even over zones where possible.
    /// An empty list means none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "objects")]
    pub topology_spread_constraints: Option<Vec<TopologySpreadConstraint>>,

    /// The pods' priority class.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority_class_name: Option<String>,

    /// The pods' service account; its token is not mounted. Default: that of the namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_account_name: Option<String>,

    /// Labels of the pods beside the operator's.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub pod_labels: BTreeMap<String, String>,

    /// Annotations of the pods beside the operator's.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub pod_annotations: BTreeMap<String, String>,

    /// Environment variables of the node's container beside the operator's, as in a pod's spec.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "objects")]
    pub extra_env: Vec<EnvVar>,

    /// How many of these pods a drain of Kubernetes nodes may take away at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disruption_budget: Option<DisruptionBudget>,

    /// A JSON merge patch over the pods' template (metadata and spec), in which lists of named items,
    /// such as containers and volumes, merge by name. The node's container is called node. What the
    /// operator relies on cannot change. A null in it, which takes a field away, gets lost with kubectl
    /// apply: use server-side apply.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "object")]
    pub pod_template: Option<serde_json::Value>,
}

/// The PodDisruptionBudget of a role.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DisruptionBudget {
    /// Whether there is one. Switch it off where budgets are made by somebody else: a pod with two is never
    /// evicted. Default: true.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enabled: Option<bool>,

    /// How many may be away at once, such as 1 or 25%. Default: acceptors keep their quorum, the other roles
    /// one node; where that would forbid every eviction, one may go.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_unavailable: Option<IntOrString>,
}

/// What the Services look like.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServicesSpec {
    /// SingleStack, PreferDualStack or RequireDualStack. Default: the Kubernetes cluster's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "ip_family_policy")]
    pub ip_family_policy: Option<String>,

    /// IPv4, IPv6 or both, the first one first. Default: the Kubernetes cluster's.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "ip_families")]
    pub ip_families: Vec<String>,

    /// Annotations of the clients' Services beside those of everything.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

/// Who may reach the nodes over the network. All is answered on one port, so a peer that may reach
/// a node for one purpose may for any.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NetworkPolicySpec {
    /// Whether only the cluster's own nodes, the operator and those named here may reach the nodes.
    /// Default: false, since the operator cannot know the clients and would cut them off.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub enabled: bool,

    /// Who may reach proposers, learners and stores, as from in a NetworkPolicy; everybody is
    /// namespaceSelector: {}. Default: nobody.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "objects")]
    pub clients: Vec<serde_json::Value>,

    /// Who may reach every node, as from in a NetworkPolicy, such as readers of metrics. Default: nobody.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "objects")]
    pub metrics: Vec<serde_json::Value>,

    /// Whether nodes may reach each other, the DNS, the ports of notifyClients and what egress names, and
    /// nothing else. For namespaces that deny all egress by default. Default: false.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub restrict_egress: bool,

    /// Whom nodes may reach besides, as to in a NetworkPolicy. Default: nobody.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "objects")]
    pub egress: Vec<serde_json::Value>,
}

/// How the Prometheus operator finds the nodes.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodMonitorSpec {
    /// Whether there is one. Needs the Prometheus operator's definitions. Default: false.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub enabled: bool,

    /// Labels by which a Prometheus selects it, such as release: kube-prometheus-stack.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,

    /// How often nodes are scraped, such as 15s. Default: as that Prometheus does by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = "^([0-9]+(ms|s|m|h))+$"))]
    pub interval: Option<String>,
}

/// The stores: a role that may be absent.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StoreSpec {
    /// Whether the cluster has stores. Switching them off keeps their volumes. Default: false.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub enabled: bool,

    #[allow(missing_docs)]
    #[serde(flatten)]
    pub role: RoleSpec,
}

/// CPU and memory of a container.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Resources {
    /// What the scheduler sets aside, such as cpu: 100m and memory: 128Mi.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub requests: BTreeMap<String, IntOrString>,

    /// What a node may never exceed.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub limits: BTreeMap<String, IntOrString>,
}

/// A node's volume. That it is not smaller than the volumes there are is no rule here: a size to which
/// they could not grow must go back.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[x_kube(validation = Rule::new("has(self.storageClassName) == has(oldSelf.storageClassName) && (!has(self.storageClassName) || self.storageClassName == oldSelf.storageClassName)")
    .message("storage.storageClassName cannot change after creation"))]
#[x_kube(validation = Rule::new("(has(self.accessModes) ? self.accessModes : ['ReadWriteOnce']) == (has(oldSelf.accessModes) ? oldSelf.accessModes : ['ReadWriteOnce'])")
    .message("storage.accessModes cannot change after creation (default ReadWriteOnce)"))]
#[serde(rename_all = "camelCase")]
pub struct Storage {
    /// The volume's size, such as 10Gi. It can grow at any time, where the class allows expansion, and
    /// nodes keep running meanwhile. Default: 5Gi.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<IntOrString>,

    /// The volume's storage class. Default: the Kubernetes cluster's default class.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub storage_class_name: Option<String>,

    /// How the volume may be mounted. Default: ReadWriteOnce.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 4))]
    pub access_modes: Vec<String>,

    /// What becomes of volumes that are no longer used. Default: they stay.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retention: Option<Retention>,
}

/// What becomes of volumes that are no longer used.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Retention {
    /// When the PaxosCluster is deleted, or the stores switched off: Retain or Delete. With Delete, the
    /// claims belong to the set of pods: a restore that brings them back before it loses them again.
    /// Default: Retain.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "keep")]
    pub when_deleted: Option<Keep>,

    /// When there are fewer replicas: Retain or Delete, of the volumes of those that are gone. Default: Retain.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "keep")]
    pub when_scaled: Option<Keep>,
}

/// Whether a volume stays.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Keep {
    /// It stays, for a node of the same name to find again.
    #[default]
    Retain,
    /// It goes, and what it holds.
    Delete,
}

impl RoleSpec {
    fn is_default(&self) -> bool {
        *self == RoleSpec::default()
    }
}

impl ServicesSpec {
    fn is_default(&self) -> bool {
        *self == ServicesSpec::default()
    }
}

impl PodMonitorSpec {
    fn is_default(&self) -> bool {
        *self == PodMonitorSpec::default()
    }
}

impl NetworkPolicySpec {
    fn is_default(&self) -> bool {
        *self == NetworkPolicySpec::default()
    }
}

impl StoreSpec {
    fn is_default(&self) -> bool {
        *self == StoreSpec::default()
    }
}

/// The API server writes this default into every PaxosCluster: what scales the learners finds a number
/// where it looks for one.
fn default_learners(schema: &mut Schema) {
    schema.insert("default".to_owned(), json!({}));
    if let Some(replicas) = schema.pointer_mut("/properties/replicas") {
        replicas["default"] = json!(DEFAULT_LEARNERS);
    }
}

fn image_pull_policy(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "string", "nullable": true, "enum": ["Always", "IfNotPresent", "Never"] })
}

fn ip_family_policy(_: &mut SchemaGenerator) -> Schema {
    let policies = ["SingleStack", "PreferDualStack", "RequireDualStack"];
    json_schema!({ "type": "string", "nullable": true, "enum": policies })
}

fn ip_families(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "maxItems": 2,
        "items": { "type": "string", "enum": ["IPv4", "IPv6"] },
    })
}

fn keep(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "string", "nullable": true, "enum": ["Retain", "Delete"] })
}

/// Kubernetes' own types, unchecked here: their full schemas would make up most of the CRD. What
/// does not parse as one is reported in the status.
fn object(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "object", "nullable": true, "x-kubernetes-preserve-unknown-fields": true })
}

fn objects(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "nullable": true,
        "items": { "type": "object", "x-kubernetes-preserve-unknown-fields": true },
    })
}

/// What is watched: a PaxosCluster, or one that does not parse, so that one bad object does not hide
/// all others.
pub type Guarded = DeserializeGuard<PaxosCluster>;
