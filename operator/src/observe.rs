//! Every read: a cluster's objects as the API server has them, and what its nodes say.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use api::env::{DEFAULT_PORT, Role};
use api::status::{AcceptorStatus, Halt, LearnerStatus, ProposerStatus, Status};
use futures::future::join_all;
use futures::try_join;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{ConfigMap, Event, PersistentVolumeClaim, Pod, Service};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube::api::{Api, ListParams};
use kube::core::Status as ApiStatus;
use kube::{Client, Resource};
use serde::de::DeserializeOwned;

use crate::ask::{AskNode, Node};
use crate::causes::{self, Hearsay};
use crate::cluster::{Cluster, Group};
use crate::desired::PodMonitor;
use crate::invalid::Invalid;
use crate::pods::is_ready;
use crate::{founded, names, quantity};

/// As many events of one object are read. The same event again is counted, and makes no other.
const EVENTS: u32 = 100;

/// What exists of a cluster.
#[derive(Clone, Debug, Default)]
pub struct Observed {
    /// All that carry the cluster's label, no matter who owns them.
    pub stateful_sets: Vec<StatefulSet>,
    /// Likewise.
    pub services: Vec<Service>,
    /// Likewise.
    pub disruption_budgets: Vec<PodDisruptionBudget>,
    /// Likewise.
    pub config_maps: Vec<ConfigMap>,
    /// Likewise.
    pub network_policies: Vec<NetworkPolicy>,
    /// Likewise; none where that kind is not defined.
    pub pod_monitors: Vec<PodMonitor>,
    /// Likewise.
    pub pods: Vec<Pod>,
    /// The claims of the nodes' volumes, those of nodes that are gone included.
    pub claims: Vec<PersistentVolumeClaim>,
    /// Those proposers that answered.
    pub proposers: Vec<ProposerStatus>,
    /// Those acceptors that answered.
    pub acceptors: Vec<AcceptorStatus>,
    /// Those learners that answered, asked after the acceptors.
    pub learners: Vec<LearnerStatus>,
    /// Acceptors that must not vote with the disk they have.
    pub refused: Vec<Refused>,
    /// Why learners and stores have stopped for good, by their pods.
    pub halted: BTreeMap<String, Halt>,
    /// Why no proposer may lead, by the pods of those that say so.
    pub behind: BTreeMap<String, String>,
    /// What learners need and no node has, by their pods.
    pub data_lost: BTreeMap<String, String>,
    /// What each node said that answered, by its pod.
    pub answers: BTreeMap<String, Status>,
    /// Why pods are not there or not ready, by those who know.
    pub hearsay: Hearsay,
}

/// An acceptor that must not vote with the disk it has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// Its pod.
    pub pod: String,
    /// The PersistentVolumeClaim that the pod uses.
    pub claim: String,
    /// Why, in the acceptor's words.
    pub why: String,
}

/// Reads everything that belongs to a cluster, then asks its nodes.
pub async fn observe(
    client: &Client,
    nodes: &dyn AskNode,
    cluster: &Cluster,
) -> kube::Result<Observed> {
    let made_for = names::made_for(&cluster.name);
    let of_cluster = names::of_cluster(&cluster.name);
    let (
        stateful_sets,
        services,
        config_maps,
        disruption_budgets,
        network_policies,
        pod_monitors,
        claims,
        pods,
    ) = try_join!(
        list::<StatefulSet>(client, cluster, &made_for),
        list::<Service>(client, cluster, &made_for),
        list::<ConfigMap>(client, cluster, &made_for),
        list::<PodDisruptionBudget>(client, cluster, &made_for),
        list::<NetworkPolicy>(client, cluster, &made_for),
        pod_monitors(client, cluster, &made_for),
        list::<PersistentVolumeClaim>(client, cluster, &of_cluster),
        list::<Pod>(client, cluster, &made_for),
    )?;
    // Learners last: what the acceptors forget after they were asked is not asked of a learner.
    let (learners, others): (Vec<_>, Vec<_>) =
        pods.iter().partition(|pod| plays(pod, Role::Learner));
    let mut answers = BTreeMap::new();
    for asked in [others, learners] {
        let asked = asked.into_iter().map(|pod| async move {
            let node = node(cluster, pod)?;
            let answer = nodes.ask(&node).await?;
            Some((node.pod, answer))
        });
        answers.extend(join_all(asked).await.into_iter().flatten());
    }
    let mut proposers = Vec::new();
    let mut acceptors = Vec::new();
    let mut learners = Vec::new();
    for answer in answers.values() {
        match answer {
            Status::Proposer(proposer) => proposers.push(proposer.clone()),
            Status::Acceptor(acceptor) => acceptors.push(acceptor.clone()),
            Status::Learner(learner) => learners.push(learner.clone()),
            Status::Store(_) => {}
        }
    }
    let refused = answers.iter().filter_map(|(pod, answer)| {
        Some(Refused {
            claim: names::claim_of(pod),
            pod: pod.clone(),
            why: answer.refusal()?.to_owned(),
        })
    });
    let refused = refused.collect();
    let said = |what: fn(&Status) -> Option<&str>| -> BTreeMap<String, String> {
        let said =
            |(pod, answer): (&String, &Status)| Some((pod.clone(), what(answer)?.to_owned()));
        answers.iter().filter_map(said).collect()
    };
    let halted = answers.iter();
    let halted = halted.filter_map(|(pod, answer)| Some((pod.clone(), answer.halt()?)));
    let halted = halted.collect();
    let behind = said(Status::behind);
    let data_lost = said(Status::data_lost);
    let asked = causes::to_ask(&stateful_sets, &pods, &claims);
    let warnings = warnings(client, cluster, &asked);
    let unready = pods.iter().filter_map(|pod| node(cluster, pod));
    let unready = unready.filter(|node| !node.ready).map(|node| async move {
        let why = nodes.why_unready(&node).await?;
        Some((node.pod, why))
    });
    let (warnings, unready) = futures::join!(warnings, join_all(unready));
    let hearsay = Hearsay {
        warnings,
        unready: unready.into_iter().flatten().collect(),
    };
    Ok(Observed {
        hearsay,
        stateful_sets,
        services,
        config_maps,
        disruption_budgets,
        network_policies,
        pod_monitors,
        claims,
        proposers,
        acceptors,
        learners,
        pods,
        refused,
        halted,
        behind,
        data_lost,
        answers,
    })
}

impl Observed {
    /// The cluster with the storage classes that it has. Where the spec names none, it is that of the set
    /// that there is, if it came from an operator's default; or else the operator's default of now.
    pub(crate) fn with_classes(&self, mut cluster: Cluster, default: &Option<String>) -> Cluster {
        for group in &mut cluster.groups {
            if group.storage_class_name.is_some() {
                continue;
            }
            let set = set_of(&cluster.name, group.role, &self.stateful_sets);
            let made_with = |set: &StatefulSet| {
                let annotations = set.metadata.annotations.as_ref();
                let class = annotations.and_then(|all| all.get(names::CLASS_ANNOTATION));
                class.cloned()
            };
            group.default_class = match set {
                Some(set) => made_with(set),
                None => default.clone(),
            };
            group.storage_class_name = group.default_class.clone();
        }
        cluster
    }

    /// Checks what cannot change against what the cluster was made with: the PaxosCluster's status may
    /// have been lost, as after a restore from a backup, and its own rules see no defaults.
    pub fn check(&self, cluster: &Cluster) -> Result<(), Invalid> {
        for group in &cluster.groups {
            let Some(set) = set_of(&cluster.name, group.role, &self.stateful_sets) else {
                continue;
            };
            let annotations = set.metadata.annotations.as_ref();
            let made_with = annotations.and_then(|all| all.get(names::ACCEPTORS_ANNOTATION));
            if let Some(count) = made_with
                && *count != cluster.members.count().to_string()
            {
                return Err(Invalid::acceptors(count, cluster.members.count()));
            }
            if let Some(claim) = claim_template(set) {
                check_storage(group, claim)?;
            }
        }
        let made = set_of(&cluster.name, Role::Acceptor, &self.stateful_sets).is_some();
        founded::check_claims(cluster, &self.claims, made)
    }
}

/// The set of a role's pods, if it is among these.
pub(crate) fn set_of<'a>(
    cluster: &str,
    role: Role,
    sets: &'a [StatefulSet],
) -> Option<&'a StatefulSet> {
    let name = names::role(cluster, role);
    sets.iter()
        .find(|set| set.metadata.name.as_ref() == Some(&name))
}

/// The template of the claims that a set makes.
pub(crate) fn claim_template(set: &StatefulSet) -> Option<&PersistentVolumeClaim> {
    let templates = set.spec.as_ref()?.volume_claim_templates.as_ref()?;
    templates
        .iter()
        .find(|claim| claim.metadata.name.as_deref() == Some(names::DATA_VOLUME))
}

/// The size that a claim asks for.
pub(crate) fn requested(claim: &PersistentVolumeClaim) -> Option<&Quantity> {
    let resources = claim.spec.as_ref()?.resources.as_ref()?;
    resources.requests.as_ref()?.get("storage")
}

fn check_storage(group: &Group, made_with: &PersistentVolumeClaim) -> Result<(), Invalid> {
    let refuse = |field: &str, problem: String| {
        let field = format!("spec.{}.storage.{field}", group.role);
        Err(Invalid::new(field, problem))
    };
    let Some(spec) = &made_with.spec else {
        return Ok(());
    };
    let named = |class: &Option<String>| match class {
        Some(class) => format!("{class:?}"),
        None => "the default class".to_owned(),
    };
    if spec.storage_class_name != group.storage_class_name {
        let (is, was) = (&group.storage_class_name, &spec.storage_class_name);
        let (is, was) = (named(is), named(was));
        let problem = format!("is {is}, but the volumes were made with {was}: set it back");
        return refuse("storageClassName", problem);
    }
    let was = spec.access_modes.as_deref().unwrap_or_default();
    if was != group.access_modes {
        let (is, was) = (group.access_modes.join(", "), was.join(", "));
        let problem = format!("is {is}, but the volumes were made with {was}: set it back");
        return refuse("accessModes", problem);
    }
    let size = &group.storage_size.0;
    match requested(made_with) {
        Some(was) if quantity::nanos(size) < quantity::nanos(&was.0) => {
            let was = &was.0;
            let problem = format!("is {size}, but volumes cannot shrink: set it to {was} or more");
            refuse("size", problem)
        }
        _ => Ok(()),
    }
}

/// The warnings that the events of these end with. What cannot be read is not known: it explains a state
/// and decides nothing.
async fn warnings(
    client: &Client,
    cluster: &Cluster,
    asked: &[causes::Asked],
) -> BTreeMap<String, String> {
    let api: Api<Event> = Api::namespaced(client.clone(), &cluster.namespace);
    let warning = |asked: &causes::Asked| {
        let causes::Asked { kind, name, uid } = asked.clone();
        let api = api.clone();
        async move {
            let about = format!(
                "involvedObject.kind={kind},involvedObject.name={name},involvedObject.uid={uid}"
            );
            let params = ListParams::default().fields(&about).limit(EVENTS);
            match api.list(&params).await {
                Ok(events) => Some((name, causes::last_warning(&events.items)?)),
                Err(error) => {
                    tracing::debug!(kind, name, %error, "its events cannot be read");
                    None
                }
            }
        }
    };
    join_all(asked.iter().map(warning))
        .await
        .into_iter()
        .flatten()
        .collect()
}

/// Somebody else's kind: it need not be defined, nor readable by who does not ask for one.
async fn pod_monitors(
    client: &Client,
    cluster: &Cluster,
    selector: &str,
) -> kube::Result<Vec<PodMonitor>> {
    let asked = cluster.pod_monitor.is_some();
    match list(client, cluster, selector).await {
        Err(kube::Error::Api(status))
            if is_undefined(&status) || status.is_forbidden() && !asked =>
        {
            Ok(Vec::new())
        }
        listed => listed,
    }
}

/// Whether an answer says that there is no such kind: it is not one of the API server's own, but a plain
/// "404 page not found", for which the client has a separate reason.
pub(crate) fn is_undefined(status: &ApiStatus) -> bool {
    status.code == 404
}

async fn list<K>(client: &Client, cluster: &Cluster, selector: &str) -> kube::Result<Vec<K>>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + Clone
        + DeserializeOwned
        + std::fmt::Debug,
{
    let api: Api<K> = Api::namespaced(client.clone(), &cluster.namespace);
    Ok(api
        .list(&ListParams::default().labels(selector))
        .await?
        .items)
}

pub(crate) fn plays(pod: &Pod, role: Role) -> bool {
    let labels = pod.metadata.labels.as_ref();
    labels.and_then(|labels| labels.get(names::ROLE_LABEL)) == Some(&role.to_string())
}

/// Where the node of a pod is, once it has an address.
pub(crate) fn node(cluster: &Cluster, pod: &Pod) -> Option<Node> {
    let ip: IpAddr = pod.status.as_ref()?.pod_ip.as_ref()?.parse().ok()?;
    let name = pod.metadata.name.clone()?;
    let (set, _) = name.rsplit_once('-')?;
    Some(Node {
        host: format!("{name}.{set}.{}.svc:{DEFAULT_PORT}", cluster.namespace),
        namespace: cluster.namespace.clone(),
        address: SocketAddr::new(ip, DEFAULT_PORT),
        ready: is_ready(pod),
        pod: name,
    })
}

/// Who leads in the latest term of which anybody knows: by its own word, or else by the others'.
pub(crate) fn leader(answers: &[ProposerStatus]) -> Option<i32> {
    let latest = |a: &&ProposerStatus| a.term;
    let leads = answers.iter().filter(|answer| answer.is_leader);
    let id = match leads.max_by_key(latest) {
        Some(leader) => Some(leader.node.node_id),
        None => {
            let followers = answers.iter().filter(|answer| answer.leader_id.is_some());
            followers.max_by_key(latest)?.leader_id
        }
    };
    id.filter(|id| *id > 0).map(i32::from)
}
