//! `PaxosCluster` → [`Cluster`], or which field is wrong and what to do. Everything after this step
//! takes a `Cluster` and has nothing left to check.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::core::v1::{
    Affinity, EnvVar, LocalObjectReference, ResourceRequirements, Toleration,
    TopologySpreadConstraint,
};
use k8s_openapi::api::networking::v1::NetworkPolicyPeer;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::{Resource, ResourceExt};
use proposer::config::{
    DEFAULT_ELECTION_TIMEOUT, DEFAULT_HEARTBEAT_INTERVAL, DEFAULT_RETRY_WINDOW, MIN_STATE_QUOTA,
    Role,
};
use proposer::notify::Target;
use proposer::paxos::ids::{Members, NodeId};
use proposer::paxos::stamp::RETRY_WINDOW_MS;
use proposer::quota;
use serde_json::Value;

use crate::crd::{
    DEFAULT_ACCEPTORS, DEFAULT_LEARNERS, Keep, NetworkPolicySpec, PaxosCluster, PodMonitorSpec,
    Resources, RoleSpec, Storage,
};
use crate::{desired, names, quantity, strict};

/// The image of a spec that names none: the one released together with this operator.
pub const DEFAULT_IMAGE: &str = concat!(
    "ghcr.io/clustersync/cluster-sync:",
    env!("CARGO_PKG_VERSION")
);

/// As many as a learner takes.
const CLIENTS_MAX: usize = 255;
/// As many as a node takes.
const HOSTS_MAX: usize = 255;
const DEFAULT_STORAGE: &str = "5Gi";
const DEFAULT_REQUESTS: [(&str, &str); 2] = [("cpu", "50m"), ("memory", "64Mi")];
/// No CPU limit: a throttled leader misses its heartbeats and loses its office.
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
    /// Who may be told of committed writes.
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
    /// A patch over the pods' template.
    pub pod_template: Option<Value>,
}

/// A field that no retry can make right.
///
/// One that contradicts volumes is the exception: it may become right when they are deleted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {problem}")]
pub struct Invalid {
    /// Its path, such as `spec.acceptor.replicas`.
    pub field: String,
    /// What it held and what it may hold.
    pub problem: String,
    /// It is about what volumes hold.
    pub volumes: bool,
}

impl Invalid {
    pub(crate) fn new(field: impl Into<String>, problem: impl Into<String>) -> Invalid {
        Invalid {
            field: field.into(),
            problem: problem.into(),
            volumes: false,
        }
    }

    /// The refusal of an acceptor count other than the one that volumes were made for.
    pub(crate) fn volumes(founded: u8, wanted: u8, claims: &str) -> Invalid {
        let problem = format!(
            "is {wanted}, but the cluster was founded with {founded} acceptors, whose volumes are \
             there: their number cannot change, since the quorums of two sizes need not meet. Set it \
             to {founded}; or, to begin anew without what was stored, delete the \
             PersistentVolumeClaims of every role, those of the acceptors are {claims}"
        );
        Invalid {
            volumes: true,
            ..Invalid::new("spec.acceptor.replicas", problem)
        }
    }

    /// The refusal of an acceptor count other than the one the cluster began with.
    pub(crate) fn acceptors(pinned: impl std::fmt::Display, wanted: u8) -> Invalid {
        Invalid::new(
            "spec.acceptor.replicas",
            format!(
                "is {wanted}, but the cluster was created with {pinned} acceptors and their number \
                 cannot change, since the quorums of two sizes need not meet: set it to {pinned}"
            ),
        )
    }
}

impl Cluster {
    /// Checks the whole spec, and the acceptor count against the one in the status.
    pub fn parse(object: &PaxosCluster) -> Result<Cluster, Invalid> {
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

        let cluster = Cluster {
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
            quota: parse_quota(spec.quota.as_ref(), &groups)?,
            paused: object
                .annotations()
                .get(names::PAUSED_ANNOTATION)
                .map(String::as_str)
                == Some("true"),
            stopped: spec.stopped,
            access: Access::parse(&spec.network_policy)?,
            pod_monitor: Some(spec.pod_monitor.clone()).filter(|monitor| monitor.enabled),
            operator_namespace: None,
            members,
            groups,
        };
        for group in &cluster.groups {
            desired::pod_template(&cluster, group)?;
        }
        Ok(cluster)
    }

    /// A role's nodes; `None` when the cluster has none of that role.
    pub fn group(&self, role: Role) -> Option<&Group> {
        self.groups.iter().find(|group| group.role == role)
    }

    /// The addresses of a role's nodes, by id.
    pub fn addresses(&self, role: Role, port: u16) -> Vec<String> {
        let replicas = self.group(role).map_or(0, |group| group.replicas);
        NodeId::first(replicas)
            .map(|node| names::address(&self.name, &self.namespace, role, node, port))
            .collect()
    }
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
        let access = Access {
            clients: peers("clients", &spec.clients)?,
            metrics: peers("metrics", &spec.metrics)?,
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
        let (requests, limits) = reconcile_defaults(&field("resources"), spec, requests, limits)?;
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
            pod_template: spec.pod_template.clone(),
        })
    }
}

/// A Service's name is a DNS label that begins with a letter, so the cluster's must be one too.
fn parse_name(name: &str) -> Result<String, Invalid> {
    let good = name.len() <= names::CLUSTER_NAME_MAX
        && name.starts_with(|c: char| c.is_ascii_lowercase())
        && !name.ends_with('-')
        && name
            .chars()
            .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-');
    if good {
        return Ok(name.to_owned());
    }
    Err(Invalid::new(
        "metadata.name",
        format!(
            "is {name:?}, must be at most {} lower-case letters, digits and dashes, and begin with \
             a letter, since pods and Services are named after it",
            names::CLUSTER_NAME_MAX
        ),
    ))
}

fn parse_clients(clients: &[String]) -> Result<Vec<Target>, Invalid> {
    if clients.len() > CLIENTS_MAX {
        let problem = format!(
            "has {} clients, must have at most {CLIENTS_MAX}",
            clients.len()
        );
        return Err(Invalid::new("spec.notifyClients", problem));
    }
    let parse = |(i, client): (usize, &String)| {
        Target::parse(client).ok_or_else(|| {
            Invalid::new(
                format!("spec.notifyClients[{i}]"),
                format!(
                    "is {client:?}, must be a plain host or host:port, such as orders.shop:8080"
                ),
            )
        })
    };
    clients.iter().enumerate().map(parse).collect()
}

fn parse_hosts(hosts: &[String]) -> Result<Vec<String>, Invalid> {
    if hosts.len() > HOSTS_MAX {
        let problem = format!("has {} names, must have at most {HOSTS_MAX}", hosts.len());
        return Err(Invalid::new("spec.hosts", problem));
    }
    let parse = |(i, name): (usize, &String)| {
        proposer::config::host(name).ok_or_else(|| {
            let problem =
                format!("is {name:?}, must be a name without a port, such as paxos.example.com");
            Invalid::new(format!("spec.hosts[{i}]"), problem)
        })
    };
    hosts.iter().enumerate().map(parse).collect()
}

fn parse_window(given: Option<&str>) -> Result<Duration, Invalid> {
    let Some(given) = given else {
        return Ok(DEFAULT_RETRY_WINDOW);
    };
    let digits = given.find(|c: char| !c.is_ascii_digit());
    let (number, unit) = given.split_at(digits.unwrap_or(given.len()));
    let unit_ms = match unit {
        "ms" => 1,
        "s" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => 0,
    };
    let number: Option<u64> = number.parse().ok();
    match number.and_then(|number| number.checked_mul(unit_ms)) {
        Some(ms) if RETRY_WINDOW_MS.contains(&ms) => Ok(Duration::from_millis(ms)),
        _ => Err(Invalid::new(
            "spec.retryWindow",
            format!("is {given:?}, must be a time from 1s to 1h such as 60s"),
        )),
    }
}

/// As given, or what fits the learners' memory where a proposer cannot tell it from its own.
fn parse_quota(given: Option<&IntOrString>, groups: &[Group]) -> Result<Option<u64>, Invalid> {
    let bytes = |quantity: &Quantity| {
        let nanos = quantity::nanos(&quantity.0)?;
        u64::try_from(nanos / 1_000_000_000).ok()
    };
    let Some(given) = given else {
        let limit = |role| {
            let group = groups.iter().find(|group| group.role == role)?;
            bytes(group.resources.limits.as_ref()?.get("memory")?)
        };
        let (own, learners) = (limit(Role::Proposer), limit(Role::Learner));
        return Ok(learners.filter(|_| own != learners).map(quota::quota_for));
    };
    let quantity = positive("spec.quota", given)?;
    match bytes(&quantity) {
        Some(bytes) if bytes >= MIN_STATE_QUOTA => Ok(Some(bytes)),
        _ => Err(Invalid::new(
            "spec.quota",
            format!("is {:?}, must be 64Ki or more, such as 256Mi", quantity.0),
        )),
    }
}

fn millis(
    field: &str,
    given: Option<i32>,
    default: Duration,
    range: std::ops::RangeInclusive<u64>,
) -> Result<Duration, Invalid> {
    let Some(given) = given else {
        return Ok(default);
    };
    match u64::try_from(given) {
        Ok(ms) if range.contains(&ms) => Ok(Duration::from_millis(ms)),
        _ => Err(Invalid::new(
            field,
            format!(
                "is {given}, must be from {} to {} milliseconds",
                range.start(),
                range.end()
            ),
        )),
    }
}

type Quantities = BTreeMap<String, Quantity>;

fn quantities(
    field: &str,
    given: BTreeMap<String, IntOrString>,
    defaults: &[(&str, &str)],
) -> Result<Quantities, Invalid> {
    let mut quantities: Quantities = defaults
        .iter()
        .map(|(name, amount)| ((*name).to_owned(), Quantity((*amount).to_owned())))
        .collect();
    for (name, amount) in given {
        let amount = positive(&format!("{field}.{name}"), &amount)?;
        quantities.insert(name, amount);
    }
    Ok(quantities)
}

fn positive(field: &str, amount: &IntOrString) -> Result<Quantity, Invalid> {
    let text = match amount {
        IntOrString::Int(number) => number.to_string(),
        IntOrString::String(text) => text.clone(),
    };
    match quantity::nanos(&text) {
        Some(nanos) if nanos > 0 => Ok(Quantity(text)),
        _ => Err(Invalid::new(
            field,
            format!("is {text:?}, must be a quantity above 0 such as 100m or 2Gi"),
        )),
    }
}

/// A request above its limit is refused by Kubernetes. A default gives way to what was written; two
/// written amounts that contradict each other are the user's to correct.
fn reconcile_defaults(
    field: &str,
    spec: &RoleSpec,
    mut requests: Quantities,
    mut limits: Quantities,
) -> Result<(Quantities, Quantities), Invalid> {
    let Some(written) = &spec.resources else {
        return Ok((requests, limits));
    };
    let names: Vec<String> = limits.keys().cloned().collect();
    for name in names {
        let Some(request) = requests.get(&name).cloned() else {
            continue;
        };
        let limit = limits[&name].clone();
        if quantity::nanos(&request.0) <= quantity::nanos(&limit.0) {
            continue;
        }
        match (
            written.requests.contains_key(&name),
            written.limits.contains_key(&name),
        ) {
            (true, true) => {
                return Err(Invalid::new(
                    format!("{field}.requests.{name}"),
                    format!("is {}, above the limit of {}", request.0, limit.0),
                ));
            }
            (true, false) => drop(limits.insert(name, request)),
            _ => drop(requests.insert(name, limit)),
        }
    }
    Ok((requests, limits))
}

#[cfg(test)]
mod tests;
