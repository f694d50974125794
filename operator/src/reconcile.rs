//! The pipeline, and what drives it: every change to a PaxosCluster or to what it owns, and time.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::StreamExt;
use futures::stream::select_all;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{ConfigMap, ObjectReference, Pod, Service};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::{Eviction, PodDisruptionBudget};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{
    DeleteOptions, ObjectMeta, Preconditions, Status, Time,
};
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, ApiResource, DynamicObject, ListParams, Patch, PatchParams, PostParams};
use kube::core::DeserializeGuard;
use kube::runtime::controller::{self, Action, Controller};
use kube::runtime::events::{Event, Recorder};
use kube::runtime::reflector::ObjectRef;
use kube::runtime::watcher;
use kube::{Client, CustomResourceExt, Resource, ResourceExt};
use serde_json::json;
use tokio::time::{Instant, timeout};

use crate::cluster::{Cluster, Invalid};
use crate::crd::{PaxosCluster, PaxosClusterStatus};
use crate::lease::{Election, Lost};
use crate::observe::{NodeStatus, observe};
use crate::roll::{self, Decision, Restart};
use crate::scale::Plan;
use crate::status::{self, Before};
use crate::telemetry::{Metrics, Phase};
use crate::{apply, desired, names};

/// What is watched: a PaxosCluster, or one that does not parse, so that one bad object does not hide
/// all others.
pub type Guarded = DeserializeGuard<PaxosCluster>;

/// A reconciliation that takes longer is given up and tried again: API calls have no time limit.
const TIME_LIMIT: Duration = Duration::from_secs(30);
/// How many objects a start reads at once of each kind: what it takes while it does is not given back.
const PAGE: u32 = 50;
/// How many clusters are reconciled at once.
const CONCURRENCY: u16 = 10;
/// How often to look for the CustomResourceDefinition when it is missing.
const CRD_WAIT: Duration = Duration::from_secs(2);
/// When to look again at a cluster at rest: leaders and counters change without an event.
const RESYNC: Duration = Duration::from_secs(30);
/// When to look again at a cluster that is not ready.
const RESYNC_UNREADY: Duration = Duration::from_secs(5);
/// When to look again at a cluster that rolls, should no event come first.
const RESYNC_ROLLING: Duration = Duration::from_secs(2);
/// Counters alone are written this often and no more: a busy log moves all the time.
const COUNTERS_INTERVAL: Duration = Duration::from_secs(10);
/// The first and the last delay before a failed reconciliation is tried again; it doubles in between.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(60));
/// Shorter than the idle timeout of common load balancers in front of API servers.
const WATCH_TIMEOUT_S: u32 = 200;

/// What an operator is told at its start.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// The namespaces to look after; none: all.
    pub namespaces: Vec<String>,
    /// Where the operator runs, for the clusters' NetworkPolicies; `None`: not known.
    pub own_namespace: Option<String>,
    /// The image of a spec that names none; `None`: the one released together with the operator.
    pub default_image: Option<String>,
}

/// What every reconciliation shares.
pub struct Context {
    client: Client,
    nodes: Box<dyn NodeStatus>,
    recorder: Recorder,
    metrics: Arc<Metrics>,
    options: Options,
    memory: Mutex<HashMap<ObjectRef<Guarded>, Memory>>,
}

/// What is remembered of a cluster between reconciliations. Losing it costs a write or a delay.
#[derive(Clone, Debug, Default)]
struct Memory {
    failures: u32,
    written: Option<Written>,
}

/// The last status written, so that a cache that lags behind causes no second write.
#[derive(Clone, Debug)]
struct Written {
    at: Instant,
    /// The version that the cache had then: as long as it has it still, it does not know the write.
    over: Option<String>,
    status: PaxosClusterStatus,
}

/// Why a reconciliation failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The cluster's objects could not be read.
    #[error("observe: {}", apply::in_short(.0))]
    Observe(#[source] kube::Error),
    /// They could not be written.
    #[error(transparent)]
    Apply(apply::Error),
    /// A pod could not be evicted.
    #[error("evict pod {pod}: {}", apply::in_short(.source))]
    Evict {
        /// Which.
        pod: String,
        /// What the API server said.
        source: kube::Error,
    },
    /// The status could not be written.
    #[error("status: {}", apply::in_short(.0))]
    Status(#[source] kube::Error),
    /// It took too long.
    #[error("gave up after {} s", TIME_LIMIT.as_secs())]
    TooSlow,
}

impl Error {
    /// For metrics: one of a fixed set.
    pub fn reason(&self) -> &'static str {
        match self {
            Error::Observe(_) => "observe",
            Error::Apply(apply::Error::NotOurs { .. }) => "not_ours",
            Error::Apply(apply::Error::NotGrown { .. }) => "not_grown",
            Error::Apply(apply::Error::NotDefined { .. }) => "not_defined",
            Error::Apply(apply::Error::Api { .. }) => "apply",
            Error::Evict { .. } => "evict",
            Error::Status(_) => "status",
            Error::TooSlow => "too_slow",
        }
    }

    /// The call to the API server that failed, if that is it.
    fn call(&self) -> Option<&kube::Error> {
        match self {
            Error::Observe(source)
            | Error::Apply(
                apply::Error::Api { source, .. } | apply::Error::NotGrown { source, .. },
            )
            | Error::Evict { source, .. }
            | Error::Status(source) => Some(source),
            Error::Apply(apply::Error::NotOurs { .. } | apply::Error::NotDefined { .. })
            | Error::TooSlow => None,
        }
    }

    /// Whether somebody must do something about it, so that it belongs in the status. Everything else
    /// passes by itself.
    fn needs_help(&self) -> bool {
        match self {
            Error::Apply(
                apply::Error::NotOurs { .. }
                | apply::Error::NotDefined { .. }
                | apply::Error::NotGrown { .. },
            ) => true,
            Error::Apply(apply::Error::Api { source, .. }) | Error::Observe(source) => {
                matches!(source, kube::Error::Api(status) if status.is_forbidden() || status.is_invalid())
            }
            Error::Evict { .. } | Error::Status(_) | Error::TooSlow => false,
        }
    }
}

impl Context {
    /// A context whose writes go through `client`.
    pub fn new(
        client: Client,
        nodes: Box<dyn NodeStatus>,
        metrics: Arc<Metrics>,
        options: Options,
    ) -> Context {
        let recorder = Recorder::new(client.clone(), names::MANAGER.into());
        Context {
            client,
            nodes,
            recorder,
            metrics,
            options,
            memory: Mutex::default(),
        }
    }

    /// In each namespace to look after, or once in all.
    fn everywhere<K>(&self) -> Vec<Api<K>>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
    {
        match self.options.namespaces.as_slice() {
            [] => vec![Api::all(self.client.clone())],
            some => some
                .iter()
                .map(|namespace| Api::namespaced(self.client.clone(), namespace))
                .collect(),
        }
    }

    fn memory(&self) -> MutexGuard<'_, HashMap<ObjectRef<Guarded>, Memory>> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The life of an operator: waits for the CustomResourceDefinition, then until it may work, and works
/// until `shutdown` is done.
pub async fn operate(
    context: Arc<Context>,
    election: Option<Election>,
    shutdown: impl Future<Output = ()> + Clone + Send + Sync + Unpin + 'static,
) -> Result<(), Lost> {
    let turn = async {
        wait_for_crd(&context).await;
        match election {
            Some(election) => {
                context.metrics.reached(Phase::Standby);
                Some(election.win().await)
            }
            None => None,
        }
    };
    let held = tokio::select! {
        held = turn => held,
        () = shutdown.clone() => return Ok(()),
    };
    let work = run(context.clone(), shutdown);
    match held {
        Some(held) => held.during(work).await,
        None => {
            work.await;
            Ok(())
        }
    }
}

/// Waits until the API server lists PaxosClusters: without the CustomResourceDefinition it does not,
/// nor without permission.
async fn wait_for_crd(context: &Context) {
    let mut told = None;
    let one = ListParams::default().limit(1);
    for clusters in context.everywhere::<PaxosCluster>() {
        loop {
            let problem = match timeout(TIME_LIMIT, clusters.list_metadata(&one)).await {
                Ok(Ok(_)) => break,
                Ok(Err(kube::Error::Api(status))) if status.code == 404 => {
                    format!("no CustomResourceDefinition {}", PaxosCluster::crd_name())
                }
                Ok(Err(error)) => apply::in_short(&error),
                Err(_) => "no answer in time".to_owned(),
            };
            if told.as_ref() != Some(&problem) {
                tracing::warn!(problem, "waiting until PaxosClusters can be listed");
                told = Some(problem);
            }
            tokio::time::sleep(CRD_WAIT).await;
        }
    }
}

/// Reconciles until `shutdown` is done; reconciliations under way are finished.
pub async fn run(
    context: Arc<Context>,
    shutdown: impl Future<Output = ()> + Clone + Send + Sync + 'static,
) {
    context.metrics.reached(Phase::Listing);
    let config = watcher::Config::default()
        .timeout(WATCH_TIMEOUT_S)
        .page_size(PAGE);
    let ours = config
        .clone()
        .labels(&format!("{}={}", names::MANAGED_BY_LABEL, names::MANAGER));
    let clusters = context.everywhere::<Guarded>();
    let concurrency = (CONCURRENCY / clusters.len() as u16).max(1);
    let controllers: Vec<_> = clusters
        .into_iter()
        .zip(context.everywhere::<StatefulSet>())
        .zip(context.everywhere::<Service>())
        .zip(context.everywhere::<ConfigMap>())
        .zip(context.everywhere::<PodDisruptionBudget>())
        .zip(context.everywhere::<NetworkPolicy>())
        .map(
            |(((((clusters, sets), services), config_maps), budgets), policies)| {
                // Of what it owns, a controller reads the metadata only and keeps nothing.
                Controller::new(clusters, config.clone())
                    .owns(sets, ours.clone())
                    .owns(services, ours.clone())
                    .owns(config_maps, ours.clone())
                    .owns(budgets, ours.clone())
                    .owns(policies, ours.clone())
                    .with_config(controller::Config::default().concurrency(concurrency))
                    .graceful_shutdown_on(shutdown.clone())
            },
        )
        .collect();
    let stores: Vec<_> = controllers.iter().map(Controller::store).collect();
    context.metrics.show_clusters(stores.clone());
    let sync = async {
        for store in stores {
            if store.wait_until_ready().await.is_err() {
                return;
            }
        }
        context.metrics.reached(Phase::Working);
    };
    let reconciling = controllers
        .into_iter()
        .map(|controller| controller.run(reconcile, on_error, context.clone()).boxed());
    let reconciling = select_all(reconciling).for_each(|outcome| {
        note(&context, outcome);
        std::future::ready(())
    });
    futures::join!(sync, reconciling);
}

type Outcome = Result<(ObjectRef<Guarded>, Action), controller::Error<Error, watcher::Error>>;

fn note(context: &Context, outcome: Outcome) {
    match outcome {
        // Logged where it failed.
        Ok(_) | Err(controller::Error::ReconcilerFailed(..)) => {}
        Err(controller::Error::ObjectNotFound(gone)) => {
            context.memory().retain(|known, _| {
                (&known.name, &known.namespace) != (&gone.name, &gone.namespace)
            });
        }
        Err(controller::Error::QueueError(error)) => {
            context.metrics.watch_failed();
            tracing::warn!(%error, "a watch failed and is started again");
        }
        Err(controller::Error::RunnerError(error)) => tracing::error!(%error, "controller"),
    }
}

/// Makes one cluster what its spec says, tells how it is, and says when to look again.
pub async fn reconcile(object: Arc<Guarded>, context: Arc<Context>) -> Result<Action, Error> {
    if object.meta().deletion_timestamp.is_some() {
        // What it owns goes with it: there is nothing to do and nothing to wait for.
        return Ok(Action::await_change());
    }
    let started = Instant::now();
    let outcome = tokio::time::timeout(TIME_LIMIT, pipeline(&object, &context))
        .await
        .unwrap_or(Err(Error::TooSlow));
    let result = match &outcome {
        Ok(status) if status.is("Stalled") => "invalid",
        Ok(_) => "ok",
        Err(_) => "error",
    };
    context.metrics.reconciled(result, started.elapsed());
    match outcome {
        Ok(status) => {
            context
                .memory()
                .entry(ObjectRef::from_obj(&object))
                .or_default()
                .failures = 0;
            Ok(when_to_look_again(&status))
        }
        Err(error) => {
            tell(&object, &context, &error).await;
            Err(error)
        }
    }
}

async fn pipeline(object: &Guarded, context: &Context) -> Result<PaxosClusterStatus, Error> {
    let now = now();
    let current = current_status(object, context).await?;
    let before = Before {
        status: &current,
        generation: object.meta().generation,
        now: &now,
    };
    let refuse = |invalid: Invalid| status::invalid(before, &invalid);

    let parsed = match &object.0 {
        Ok(object) => Cluster::parse(&completed(object, &current, &context.options)),
        Err(garbage) => Err(Invalid::new("spec", garbage.error.clone())),
    };
    let cluster = match parsed {
        Ok(cluster) => Cluster {
            operator_namespace: context.options.own_namespace.clone(),
            ..cluster
        },
        Err(invalid) => return report(object, context, &current, refuse(invalid)).await,
    };
    let observed = observe(&context.client, &*context.nodes, &cluster)
        .await
        .map_err(Error::Observe)?;
    if let Err(invalid) = observed.check(&cluster) {
        return report(object, context, &current, refuse(invalid)).await;
    }
    if cluster.paused {
        let status = status::paused(before, &cluster, &observed);
        return report(object, context, &current, status).await;
    }
    let desired = desired::desired(&cluster, &Plan::of(&cluster, &observed));
    let applied = apply::apply(
        &context.client,
        &context.metrics,
        &cluster,
        desired,
        &observed,
    )
    .await;
    let status = match applied.map_err(Error::Apply) {
        Ok(applied) => {
            let decision = roll::decide(before, &cluster, &observed, &applied.stateful_sets);
            let decision = roll(object, context, &cluster, decision).await?;
            status::status(before, &cluster, &observed, &applied, &decision)
        }
        Err(error) => {
            if error.needs_help() {
                let status = status::refused(before, &cluster, &observed, &error.to_string());
                report(object, context, &current, status).await?;
            }
            return Err(error);
        }
    };
    report(object, context, &current, status).await
}

/// Kubernetes keeps seconds: what is finer would come back as something else.
fn now() -> Time {
    let now = Timestamp::now().as_second();
    Time(Timestamp::from_second(now).expect("the clock shows a time that can be written"))
}

/// Restarts the pod that is next, and tells which and why.
async fn roll(
    object: &Guarded,
    context: &Context,
    cluster: &Cluster,
    decision: Decision,
) -> Result<Decision, Error> {
    let Decision::Restart(restart) = &decision else {
        return Ok(decision);
    };
    let Restart { pod, uid, why } = restart;
    // `Api::evict` of kube 5.0 names the options so that the API server does not see them.
    let eviction = Eviction {
        metadata: ObjectMeta {
            name: Some(pod.clone()),
            ..Default::default()
        },
        delete_options: Some(DeleteOptions {
            preconditions: Some(Preconditions {
                uid: Some(uid.clone()),
                resource_version: None,
            }),
            ..Default::default()
        }),
    };
    let api: Api<Pod> = Api::namespaced(context.client.clone(), &cluster.namespace);
    let params = PostParams::default();
    let evicted: kube::Result<Status> = api
        .create_subresource("eviction", pod, &params, &eviction)
        .await;
    match evicted {
        Ok(_) => {}
        Err(kube::Error::Api(refusal)) => {
            // Its budget forbids it, it has gone by itself, or whatever it is: the status tells.
            let message = format!("pod {pod} may not be evicted now: {}", refusal.message);
            return Ok(Decision::Wait(message));
        }
        Err(source) => {
            let pod = pod.clone();
            return Err(Error::Evict { pod, source });
        }
    }
    context.metrics.wrote("pods/eviction", "create");
    let name = &cluster.name;
    tracing::info!(
        namespace = cluster.namespace,
        cluster = name,
        pod,
        why,
        "restarted"
    );
    let secondary = ObjectReference {
        api_version: Some("v1".to_owned()),
        kind: Some("Pod".to_owned()),
        namespace: Some(cluster.namespace.clone()),
        name: Some(pod.clone()),
        uid: Some(uid.clone()),
        ..Default::default()
    };
    publish(object, context, status::restarted(restart, secondary)).await;
    Ok(decision)
}

/// The status as last written by us or as the watch has it, whichever is newer.
async fn current_status(object: &Guarded, context: &Context) -> Result<PaxosClusterStatus, Error> {
    let written = context
        .memory()
        .get(&ObjectRef::from_obj(object))
        .and_then(|m| m.written.clone());
    match (written, &object.0) {
        (Some(written), _) if written.over == object.resource_version() => Ok(written.status),
        (_, Ok(object)) => Ok(object.status.clone().unwrap_or_default()),
        (_, Err(garbage)) => {
            // The guard keeps the metadata only; the status itself may well parse.
            let namespace = garbage.metadata.namespace.as_deref().unwrap_or_default();
            let resource = ApiResource::erase::<PaxosCluster>(&());
            let api: Api<DynamicObject> =
                Api::namespaced_with(context.client.clone(), namespace, &resource);
            let object = api.get(&object.name_any()).await.map_err(Error::Status)?;
            let status = object.data.get("status").cloned().unwrap_or_default();
            Ok(serde_json::from_value(status).unwrap_or_default())
        }
    }
}

/// The object with the status that it has now and the image that it has by default.
fn completed(
    object: &PaxosCluster,
    status: &PaxosClusterStatus,
    options: &Options,
) -> PaxosCluster {
    let mut object = object.clone();
    object.status = Some(status.clone());
    object.spec.image = object.spec.image.or_else(|| options.default_image.clone());
    object
}

/// Writes the status if it says anything new, and the events that tell of it.
async fn report(
    object: &Guarded,
    context: &Context,
    current: &PaxosClusterStatus,
    status: PaxosClusterStatus,
) -> Result<PaxosClusterStatus, Error> {
    let key = ObjectRef::from_obj(object);
    if *current == status {
        return Ok(status);
    }
    let last = context
        .memory()
        .get(&key)
        .and_then(|memory| memory.written.as_ref().map(|w| w.at));
    if status::same_but_for_counters(current, &status)
        && last.is_some_and(|last| last.elapsed() < COUNTERS_INTERVAL)
    {
        return Ok(current.clone());
    }

    let patch = json!({
        "apiVersion": PaxosCluster::api_version(&()),
        "kind": PaxosCluster::kind(&()),
        // Only this very object, not one made since under the same name.
        "metadata": { "uid": object.uid() },
        "status": &status,
    });
    let namespace = object.namespace().unwrap_or_default();
    let api: Api<Guarded> = Api::namespaced(context.client.clone(), &namespace);
    let params = PatchParams::apply(names::MANAGER).force();
    api.patch_status(&object.name_any(), &params, &Patch::Apply(&patch))
        .await
        .map_err(Error::Status)?;
    context.metrics.wrote("paxosclusters/status", "apply");
    context.memory().entry(key).or_default().written = Some(Written {
        at: Instant::now(),
        over: object.resource_version(),
        status: status.clone(),
    });
    for event in status::events(current, &status) {
        publish(object, context, event).await;
    }
    Ok(status)
}

/// Events are a courtesy: one that is lost changes nothing.
async fn publish(object: &Guarded, context: &Context, event: Event) {
    let published = context
        .recorder
        .publish(&event, &object.object_ref(&()))
        .await;
    match published {
        Ok(()) => context.metrics.wrote("events", "create"),
        Err(error) => tracing::warn!(%error, reason = event.reason, "an event was lost"),
    }
}

/// Logs and counts a failure, and puts it into the status when somebody must act on it, or when
/// there is no status yet: without one, tools take the cluster for ready.
async fn tell(object: &Guarded, context: &Context, error: &Error) {
    let (namespace, cluster) = (object.namespace().unwrap_or_default(), object.name_any());
    tracing::warn!(namespace, cluster, %error, "reconcile failed and is tried again");
    context.metrics.failed(error.reason());
    if let Some(call) = error.call() {
        context.metrics.call_failed(call);
    }
    let telling = async {
        let current = current_status(object, context).await?;
        if !error.needs_help() && !current.conditions.is_empty() {
            return Ok(());
        }
        let now = now();
        let before = Before {
            status: &current,
            generation: object.meta().generation,
            now: &now,
        };
        let status = status::failed(before, &error.to_string());
        report(object, context, &current, status).await.map(drop)
    };
    match tokio::time::timeout(TIME_LIMIT, telling).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => {
            tracing::warn!(namespace, cluster, %error, "the failure was not reported")
        }
        Err(_) => tracing::warn!(namespace, cluster, "the failure was not reported in time"),
    }
}

fn when_to_look_again(status: &PaxosClusterStatus) -> Action {
    if status.is_by_volumes() {
        // Volumes may be deleted, and they are not watched.
        Action::requeue(RESYNC)
    } else if status.is("Stalled") {
        // Nothing changes until the spec does, and that is an event.
        Action::await_change()
    } else if status.is("Ready") || status.is_stopped() {
        Action::requeue(RESYNC)
    } else if status.rolls() {
        Action::requeue(RESYNC_ROLLING)
    } else {
        Action::requeue(RESYNC_UNREADY)
    }
}

fn on_error(object: Arc<Guarded>, _: &Error, context: Arc<Context>) -> Action {
    let mut memory = context.memory();
    let failures = &mut memory
        .entry(ObjectRef::from_obj(&object))
        .or_default()
        .failures;
    let delay = BACKOFF
        .0
        .saturating_mul(1 << (*failures).min(16))
        .min(BACKOFF.1);
    *failures += 1;
    Action::requeue(delay)
}
