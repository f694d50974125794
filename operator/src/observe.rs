//! Every read: a cluster's objects as the API server has them, and what its nodes say.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use futures::future::{BoxFuture, join_all};
use futures::{FutureExt, try_join};
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::rt::TokioIo;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{ConfigMap, PersistentVolumeClaim, Pod, PodCondition, Service};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube::api::{Api, ListParams};
use kube::core::Status;
use kube::{Client, Resource};
use proposer::config::{DEFAULT_PORT, Role};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::cluster::{Cluster, Group, Invalid};
use crate::desired::PodMonitor;
use crate::{founded, names, quantity};

/// A node that takes longer than this is taken for one that does not answer.
const ANSWER_TIMEOUT: Duration = Duration::from_millis(500);
/// A `/status` is a few hundred bytes; more than this is not one.
const ANSWER_MAX_BYTES: usize = 64 * 1024;

/// What exists of a cluster.
#[derive(Clone, Debug, Default)]
pub struct Observed {
    /// Whatever carries the cluster's label, whoever owns it.
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
    pub proposers: Vec<Answer>,
    /// Those acceptors that answered.
    pub acceptors: Vec<Answer>,
    /// Those learners that answered, asked after the acceptors.
    pub learners: Vec<Answer>,
    /// Acceptors that must not vote with the disk they have.
    pub refused: Vec<Refused>,
    /// Why learners and stores have stopped for good, by their pods.
    pub halted: BTreeMap<String, String>,
    /// Why no proposer may lead, by the pods of those that say so.
    pub behind: BTreeMap<String, String>,
    /// What learners need and no node has, by their pods.
    pub data_lost: BTreeMap<String, String>,
    /// What each node said that answered, by its pod.
    pub answers: BTreeMap<String, Answer>,
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

/// The part of a node's `GET /status` that the operator reads.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Answer {
    /// Who answers.
    pub node_id: i32,
    /// Whether it leads.
    pub is_leader: bool,
    /// Who leads, as far as it knows.
    pub leader_id: Option<i32>,
    /// The highest term it has seen a leader in.
    pub term: i64,
    /// The last instance that it knows to be chosen.
    pub committed_instance_id: i64,
    /// An acceptor's: why it must not vote.
    pub refusal: Option<String>,
    /// A learner's or a store's: why it has stopped for good.
    pub halted: Option<String>,
    /// A proposer's: why none of them may lead.
    pub behind: Option<String>,
    /// A learner's: what it needs and no node has.
    pub data_lost: Option<String>,
    /// An acceptor's: up to here it has forgotten what was chosen.
    pub trimmed_instance_id: Option<i64>,
    /// A learner's: up to here it has on disk what was chosen.
    pub durable_instance_id: Option<i64>,
    /// Names its start on its volume.
    pub incarnation: Option<String>,
    /// What somebody should see to, such as an address at which another node answers.
    pub warnings: Vec<String>,
}

/// How to ask a node how it is.
pub trait NodeStatus: Send + Sync {
    /// `None` when it does not answer, or not in time, or not with a status.
    fn ask(&self, node: SocketAddr) -> BoxFuture<'static, Option<Answer>>;
}

/// Asks over HTTP, on a connection of its own.
#[derive(Clone, Copy, Debug)]
pub struct OverHttp;

impl NodeStatus for OverHttp {
    fn ask(&self, node: SocketAddr) -> BoxFuture<'static, Option<Answer>> {
        async move {
            match tokio::time::timeout(ANSWER_TIMEOUT, get_status(node)).await {
                Ok(Ok(answer)) => Some(answer),
                Ok(Err(error)) => {
                    tracing::debug!(%node, %error, "the node did not answer");
                    None
                }
                Err(_) => {
                    tracing::debug!(%node, "the node did not answer in time");
                    None
                }
            }
        }
        .boxed()
    }
}

type Failure = Box<dyn std::error::Error + Send + Sync>;

async fn get_status(node: SocketAddr) -> Result<Answer, Failure> {
    let stream = tokio::net::TcpStream::connect(node).await?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let request = http::Request::get("/status")
        .header(http::header::HOST, node.to_string())
        .body(Empty::<hyper::body::Bytes>::new())?;
    let exchange = async {
        let response = sender.send_request(request).await?;
        if !response.status().is_success() {
            return Err(Failure::from(response.status().to_string()));
        }
        let body = Limited::new(response.into_body(), ANSWER_MAX_BYTES)
            .collect()
            .await?;
        Ok(serde_json::from_slice(&body.to_bytes())?)
    };
    // The connection only moves while it is polled; it never ends before the exchange does, unless broken.
    tokio::pin!(exchange);
    tokio::select! {
        answer = &mut exchange => answer,
        broken = connection => match broken {
            Ok(()) => exchange.await,
            Err(error) => Err(error.into()),
        },
    }
}

/// Reads everything that belongs to a cluster, then asks its nodes.
pub async fn observe(
    client: &Client,
    nodes: &dyn NodeStatus,
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
            let answer = nodes.ask(address(pod)?).await?;
            Some((pod.metadata.name.clone()?, answer))
        });
        answers.extend(join_all(asked).await.into_iter().flatten());
    }
    let answer = |pod: &Pod| answers.get(pod.metadata.name.as_ref()?).cloned();
    let of = |role| {
        let pods = pods.iter().filter(move |pod| plays(pod, role));
        pods.filter_map(answer).collect()
    };
    let acceptors = pods.iter().filter(|pod| plays(pod, Role::Acceptor));
    let refused = acceptors.filter_map(|pod| refused(pod, answer(pod)?));
    let refused = refused.collect();
    let said = |what: fn(&Answer) -> Option<String>| -> BTreeMap<String, String> {
        let said = |(pod, answer): (&String, &Answer)| Some((pod.clone(), what(answer)?));
        answers.iter().filter_map(said).collect()
    };
    let halted = said(|answer| answer.halted.clone());
    let behind = said(|answer| answer.behind.clone());
    let data_lost = said(|answer| answer.data_lost.clone());
    Ok(Observed {
        stateful_sets,
        services,
        config_maps,
        disruption_budgets,
        network_policies,
        pod_monitors,
        claims,
        proposers: of(Role::Proposer),
        acceptors: of(Role::Acceptor),
        learners: of(Role::Learner),
        pods,
        refused,
        halted,
        behind,
        data_lost,
        answers,
    })
}

impl Observed {
    /// Checks what cannot change against what the cluster was made with: the PaxosCluster's status may
    /// have been lost, as after a restore from a backup, and its own rules see no defaults.
    pub fn check(&self, cluster: &Cluster) -> Result<(), Invalid> {
        for group in &cluster.groups {
            let name = names::role(&cluster.name, group.role);
            let set = self
                .stateful_sets
                .iter()
                .find(|set| set.metadata.name.as_ref() == Some(&name));
            let Some(set) = set else {
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
        let acceptors = Some(names::role(&cluster.name, Role::Acceptor));
        let mut sets = self.stateful_sets.iter();
        let made = sets.any(|set| set.metadata.name == acceptors);
        founded::check_claims(cluster, &self.claims, made)
    }
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

/// Whether an answer says that there is no such kind: it is none of the API server's own, but a plain
/// "404 page not found", for which the client has a reason of its own.
pub(crate) fn is_undefined(status: &Status) -> bool {
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

/// Whether a pod serves: it is ready, and not on its way out.
pub(crate) fn is_ready(pod: &Pod) -> bool {
    let ready = condition(pod, "Ready").is_some_and(|condition| condition.status == "True");
    ready && pod.metadata.deletion_timestamp.is_none()
}

pub(crate) fn condition<'a>(pod: &'a Pod, type_: &str) -> Option<&'a PodCondition> {
    let conditions = pod.status.as_ref()?.conditions.as_ref()?;
    conditions.iter().find(|condition| condition.type_ == type_)
}

fn refused(pod: &Pod, answer: Answer) -> Option<Refused> {
    let pod = pod.metadata.name.clone()?;
    Some(Refused {
        claim: format!("{}-{pod}", names::DATA_VOLUME),
        pod,
        why: answer.refusal?,
    })
}

fn address(pod: &Pod) -> Option<SocketAddr> {
    let ip: IpAddr = pod.status.as_ref()?.pod_ip.as_ref()?.parse().ok()?;
    Some(SocketAddr::new(ip, DEFAULT_PORT))
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    async fn node_that_says(response: &'static str) -> SocketAddr {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0; 1024];
            let _ = stream.read(&mut request).await.unwrap();
            stream.write_all(response.as_bytes()).await.unwrap();
        });
        address
    }

    #[tokio::test]
    async fn a_status_is_read_and_what_is_none_is_no_answer() {
        let node = node_that_says(
            "HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n\
             {\"node_id\":2,\"role\":\"proposer\",\"is_leader\":true,\"leader_id\":2,\"term\":7,\
             \"committed_instance_id\":41,\"uptime\":1.5}",
        );
        let answer = Answer {
            node_id: 2,
            is_leader: true,
            leader_id: Some(2),
            term: 7,
            committed_instance_id: 41,
            ..Answer::default()
        };
        assert_eq!(OverHttp.ask(node.await).await, Some(answer));
        let node = node_that_says("HTTP/1.1 503 Unavailable\r\ncontent-length: 2\r\n\r\n{}").await;
        assert_eq!(OverHttp.ask(node).await, None);
        let node = node_that_says("HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nnope").await;
        assert_eq!(OverHttp.ask(node).await, None);
        let node = node_that_says("garbage\r\n\r\n").await;
        assert_eq!(OverHttp.ask(node).await, None);
    }
}
