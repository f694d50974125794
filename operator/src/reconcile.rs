//! The pipeline, once through for one cluster. [`crate::controller`] says when.

mod error;
mod report;

use std::sync::Arc;
use std::time::Duration;

use api::env::Role;
use k8s_openapi::api::core::v1::{ConfigMap, ObjectReference, Pod};
use k8s_openapi::api::policy::v1::Eviction;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{
    DeleteOptions, ObjectMeta, Preconditions, Status, Time,
};
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, PostParams};
use kube::runtime::controller::Action;
use kube::{Resource, ResourceExt};
use tokio::time::Instant;

use crate::cluster::Cluster;
use crate::context::{Context, Key};
use crate::crd::Guarded;
use crate::crd::{PaxosCluster, PaxosClusterSpec, PaxosClusterStatus};
use crate::invalid::Invalid;
use crate::observe::{self, Observed, observe};
use crate::roll::{self, Decision, Restart};
use crate::scale;
use crate::status::{self, Before};
use crate::{apply, desired, names};

pub use error::Error;
use report::{current_status, publish, report, tell};

/// A reconciliation that takes longer is given up and tried again: API calls have no time limit.
pub(crate) const TIME_LIMIT: Duration = Duration::from_secs(30);
/// When to look again at a cluster at rest: leaders change without an event.
const RESYNC: Duration = Duration::from_secs(30);
/// When to look again at a cluster that is not ready, at first and at last.
const RESYNC_UNREADY: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(60));
/// For how long nothing may change about it before it is looked at less often.
const STILL: Duration = Duration::from_secs(120);
/// When to look again at a cluster that rolls, should no event come first.
const RESYNC_ROLLING: Duration = Duration::from_secs(2);
/// How long a cluster is left alone once another operator was seen to write to it.
const LEFT_ALONE: Duration = Duration::from_secs(600);
/// The first and the last delay before a failed reconciliation is tried again; it doubles in between.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(60));

/// Makes one cluster what its spec says, tells how it is, and says when to look again.
pub async fn reconcile(object: Arc<Guarded>, context: Arc<Context>) -> Result<Action, Error> {
    if object.meta().deletion_timestamp.is_some() {
        // What it owns goes with it: there is nothing to do and nothing to wait for.
        return Ok(Action::await_change());
    }
    let now = Instant::now();
    let left_until = context.remember(&object, |memory| memory.left_until);
    if let Some(left_until) = left_until.filter(|until| now < *until) {
        return Ok(Action::requeue(left_until - now));
    }
    let outcome = tokio::time::timeout(TIME_LIMIT, pipeline(&object, &context))
        .await
        .unwrap_or(Err(Error::TooSlow));
    let result = match &outcome {
        Ok((status, _)) if status.is("Stalled") => "invalid",
        Ok(_) => "ok",
        Err(_) => "error",
    };
    context.metrics.reconciled(result, now.elapsed());
    match outcome {
        Ok((status, look)) => Ok(context.remember(&object, |memory| {
            memory.failures = 0;
            let still = match memory.still.take() {
                Some((was, since)) if status::same_nodes(&was, &status) => (was, since),
                _ => (status, Instant::now()),
            };
            let for_long = still.1.elapsed();
            memory.still = Some(still);
            look.again(for_long)
        })),
        Err(Error::Apply(apply::Error::Rival { identity })) => {
            leave(&object, &context, &identity).await;
            Ok(Action::requeue(LEFT_ALONE))
        }
        Err(error) => {
            tell(&object, &context, &error).await;
            Err(error)
        }
    }
}

/// When to look at a cluster again, should no event come first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Look {
    /// It is as it should be.
    AtRest,
    /// It is not ready.
    Unready,
    /// Its pods are restarted.
    Rolling,
    /// Nothing changes until the spec does.
    Never,
}

impl Look {
    fn at(status: &PaxosClusterStatus) -> Look {
        if status.is("Ready") || status.is_stopped() {
            Look::AtRest
        } else if status.rolls() {
            Look::Rolling
        } else {
            Look::Unready
        }
    }

    /// `still`: for how long nothing has changed about it. Pods that come wake the operator by
    /// themselves; what does not come is not asked for all the time.
    fn again(self, still: Duration) -> Action {
        match self {
            Look::AtRest => Action::requeue(RESYNC),
            Look::Rolling if still < STILL => Action::requeue(RESYNC_ROLLING),
            Look::Unready | Look::Rolling => {
                let (first, last) = RESYNC_UNREADY;
                let quiet = still.saturating_sub(STILL) / 2;
                Action::requeue(quiet.clamp(first, last))
            }
            Look::Never => Action::await_change(),
        }
    }
}

async fn pipeline(
    object: &Guarded,
    context: &Context,
) -> Result<(PaxosClusterStatus, Look), Error> {
    let now = now();
    let current = current_status(object, context).await?;
    let before = Before {
        status: &current,
        generation: object.meta().generation,
        now: &now,
    };
    let (cluster, observed, invalid) = match valid(object, context, &current).await? {
        Valid::Yes(cluster, observed) => (*cluster, *observed, None),
        Valid::LastTime(cluster, observed, invalid) => (*cluster, *observed, Some(invalid)),
        Valid::Never {
            invalid,
            contradicts,
        } => {
            // What it contradicts may go, and is not watched.
            let look = match contradicts {
                true => Look::AtRest,
                false => Look::Never,
            };
            let status = status::invalid(before, &invalid);
            return Ok((report(object, context, &current, status).await?, look));
        }
    };
    let proposers = observed.pods.iter();
    let proposers = proposers.filter(|pod| observe::plays(pod, Role::Proposer));
    let proposers = proposers.filter_map(|pod| observe::node(&cluster, pod));
    let proposers = proposers.filter(|node| node.ready).collect();
    context.remember(object, |memory| memory.proposers = proposers);
    if cluster.paused {
        context.rollouts().give_back(&Key::of(object));
        let status = status::paused(before, &cluster, &observed);
        let status = report(object, context, &current, status).await?;
        let look = Look::at(&status);
        return Ok((status, look));
    }
    let desired = desired::desired(&cluster, &scale::plan(&cluster, &observed));
    let writes = context.remember(object, |memory| memory.writes.clone());
    let operator = &context.options.identity;
    let applied = apply::apply(
        &context.client,
        &context.metrics,
        &cluster,
        operator,
        &writes,
        desired,
        &observed,
    )
    .await;
    let status = match applied.map_err(Error::Apply) {
        Ok(applied) => {
            let decision = roll::decide(before, &cluster, &observed, &applied.stateful_sets);
            let decision = roll(object, context, &cluster, decision).await?;
            match &invalid {
                None => status::status(before, &cluster, &observed, &applied, &decision),
                Some(invalid) => {
                    status::kept_up(before, &cluster, &observed, &applied, &decision, invalid)
                }
            }
        }
        Err(error) => {
            if error.needs_help() {
                let status = status::refused(before, &cluster, &observed, &error.to_string());
                report(object, context, &current, status).await?;
            }
            return Err(error);
        }
    };
    let status = report(object, context, &current, status).await?;
    let look = match Look::at(&status) {
        // Nothing wakes the operator when what it repairs by an older spec goes.
        Look::Unready if invalid.is_some() => Look::AtRest,
        look => look,
    };
    Ok((status, look))
}

/// What to make of a PaxosCluster.
enum Valid {
    /// What it says.
    Yes(Box<Cluster>, Box<Observed>),
    /// What it said before, since now it makes no sense: what runs is kept up.
    LastTime(Box<Cluster>, Box<Observed>, Invalid),
    /// Nothing: it never made sense, or contradicts what there is.
    Never { invalid: Invalid, contradicts: bool },
}

async fn valid(
    object: &Guarded,
    context: &Context,
    current: &PaxosClusterStatus,
) -> Result<Valid, Error> {
    let look = async |cluster: Cluster| {
        let observed = observe(&context.client, &*context.nodes, &cluster).await;
        let observed = observed.map_err(Error::Observe)?;
        let cluster = observed.with_classes(cluster, &context.options.defaults.storage_class_name);
        let checked = observed.check(&cluster);
        Ok::<_, Error>(checked.map(|()| (Box::new(cluster), Box::new(observed))))
    };
    let parsed = match &object.0 {
        Ok(valid) => parse(object, &valid.spec, current, context),
        Err(garbage) => Err(Invalid::new("spec", garbage.error.clone())),
    };
    let (invalid, contradicts) = match parsed {
        Ok(cluster) => match look(cluster).await? {
            Ok((cluster, observed)) => {
                if let Ok(valid) = &object.0 {
                    context.remember(object, |memory| memory.valid = Some(valid.spec.clone()));
                }
                return Ok(Valid::Yes(cluster, observed));
            }
            Err(invalid) => (invalid, true),
        },
        Err(invalid) => (invalid, false),
    };
    let never = |invalid| Valid::Never {
        invalid,
        contradicts,
    };
    if invalid.volumes {
        return Ok(never(invalid));
    }
    let Some(spec) = last_valid(object, context).await? else {
        return Ok(never(invalid));
    };
    match parse(object, &spec, current, context) {
        Ok(cluster) => Ok(match look(cluster).await? {
            Ok((cluster, observed)) => Valid::LastTime(cluster, observed, invalid),
            Err(_) => never(invalid),
        }),
        Err(_) => Ok(never(invalid)),
    }
}

/// What a spec of this object makes, with the operator's defaults.
fn parse(
    object: &Guarded,
    spec: &PaxosClusterSpec,
    current: &PaxosClusterStatus,
    context: &Context,
) -> Result<Cluster, Invalid> {
    let object = PaxosCluster {
        metadata: object.meta().clone(),
        spec: spec.clone(),
        status: Some(current.clone()),
    };
    Ok(Cluster {
        operator_namespace: context.options.own_namespace.clone(),
        spec: serde_json::to_string(spec).ok(),
        ..desired::read(&context.options.defaults.complete(object))?
    })
}

/// The last spec that made sense: remembered, or else as it stands with the lists.
async fn last_valid(
    object: &Guarded,
    context: &Context,
) -> Result<Option<PaxosClusterSpec>, Error> {
    if let Some(spec) = context.remember(object, |memory| memory.valid.clone()) {
        return Ok(Some(spec));
    }
    let namespace = object.namespace().unwrap_or_default();
    let maps: Api<ConfigMap> = Api::namespaced(context.client.clone(), &namespace);
    let map = maps
        .get_metadata_opt(&names::members(&object.name_any()))
        .await
        .map_err(Error::Observe)?;
    let spec = map.as_ref().and_then(|map| {
        let ours = map
            .owner_references()
            .iter()
            .any(|owner| Some(&owner.uid) == object.uid().as_ref());
        map.annotations()
            .get(names::SPEC_ANNOTATION)
            .filter(|_| ours)
    });
    Ok(spec.and_then(|spec| serde_json::from_str(spec).ok()))
}

/// Leaves a cluster to another operator that writes other objects for it: two would restart its pods
/// again and again.
async fn leave(object: &Guarded, context: &Context, other: &str) {
    let (namespace, cluster) = (object.namespace().unwrap_or_default(), object.name_any());
    let ours = &context.options.identity;
    let note = format!(
        "operator {other} writes other objects for this PaxosCluster: operator {ours} leaves it alone for \
         ten minutes. Uninstall one of them, or give each its own namespaces (watchNamespaces)"
    );
    tracing::warn!(
        namespace,
        cluster,
        other,
        "another operator looks after this PaxosCluster too"
    );
    context.metrics.failed("rival");
    context.rollouts().give_back(&Key::of(object));
    context.remember(object, |memory| {
        memory.left_until = Some(Instant::now() + LEFT_ALONE);
        memory.writes = Arc::default();
    });
    publish(object, context, status::other_operator(&note)).await;
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
    let key = Key::of(object);
    let now = Instant::now();
    let decision = context.remember(object, |memory| memory.waiting.for_too_long(decision, now));
    let decision = match decision {
        Decision::Restart(restart) if !restart.mends => {
            let Restart { pod, why, .. } = &restart;
            let turn = match cluster.held {
                true => Err(format!(
                    "pod {pod} is not restarted ({why}) while annotation {} is true",
                    names::HOLD_ANNOTATION
                )),
                false => context.rollouts().take(&key, now).map_err(|first| {
                    let Key {
                        name, namespace, ..
                    } = first;
                    format!(
                        "PaxosCluster {name} in namespace {namespace} is brought up to date first"
                    )
                }),
            };
            match turn {
                Ok(()) => Decision::Restart(restart),
                Err(why) => Decision::Wait(why),
            }
        }
        other => other,
    };
    if cluster.held || matches!(decision, Decision::Done | Decision::Stuck(_)) {
        context.rollouts().give_back(&key);
    }
    if decision == Decision::Done {
        context.remember(object, |memory| memory.waiting.is_over());
    }
    let Decision::Restart(restart) = &decision else {
        return Ok(decision);
    };
    let Restart { pod, uid, why, .. } = restart;
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
            let refused = Decision::Wait(message);
            let refused =
                context.remember(object, |memory| memory.waiting.for_too_long(refused, now));
            if matches!(refused, Decision::Stuck(_)) {
                context.rollouts().give_back(&key);
            }
            return Ok(refused);
        }
        Err(source) => {
            let pod = pod.clone();
            return Err(Error::Evict { pod, source });
        }
    }
    context.metrics.wrote("pods/eviction", "create");
    context.rollouts().went_on(&key, now);
    context.remember(object, |memory| memory.waiting.is_over());
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

pub(crate) fn on_error(object: Arc<Guarded>, _: &Error, context: Arc<Context>) -> Action {
    let failures = context.remember(&object, |memory| {
        memory.failures += 1;
        memory.failures - 1
    });
    let delay = BACKOFF.0.saturating_mul(1 << failures.min(16));
    Action::requeue(delay.min(BACKOFF.1))
}
