//! What drives the pipeline: every change to a PaxosCluster or to what it owns, and time.
//!
//! Each namespace that is looked after is on its own: one that is gone, or that the operator may not
//! read, holds up no other.

use std::sync::Arc;
use std::time::Duration;

use futures::future::{join_all, select_all};
use futures::{FutureExt, StreamExt, stream};
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{ConfigMap, Service};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::api::{Api, ListParams};
use kube::runtime::controller::{self, Action, Controller};
use kube::runtime::reflector::{ObjectRef, Store};
use kube::runtime::utils::Backoff;
use kube::runtime::watcher;
use kube::{Client, CustomResourceExt, Resource};
use tokio::time::{Instant, sleep, timeout};

use crate::context::{Context, Key};
use crate::counters::{self, COUNTERS_INTERVAL};
use crate::crd::Guarded;
use crate::crd::PaxosCluster;
use crate::lease::{Election, Lost};
use crate::reconcile::{Error, TIME_LIMIT, on_error, reconcile};
use crate::telemetry::Phase;
use crate::{apply, names};

/// How many objects a start reads at once of each kind: what it takes while it does is not given back.
const PAGE: u32 = 50;
/// How many clusters are reconciled at once.
const CONCURRENCY: u16 = 10;
/// How soon to look again for a namespace that cannot be read, and at last.
const AGAIN: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(30));
/// Shorter than the idle timeout of common load balancers in front of API servers.
const WATCH_TIMEOUT_S: u32 = 200;

/// How many watches a controller has: of PaxosClusters, and of the five kinds that it watches of what
/// they own.
const WATCHES: u32 = 6;
/// The first and the last pause after a watch has failed.
const PAUSE: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));
/// After so long without a failure, the next one is the first.
const CALM: Duration = Duration::from_secs(60);

/// A namespace that is looked after, or all at once.
struct Place {
    /// `None`: all.
    namespace: Option<String>,
    /// Its own connection: an API server limits the streams in one, and each watch takes one.
    client: Client,
    context: Arc<Context>,
}

/// The life of an operator: waits until PaxosClusters can be listed somewhere, then until it may work,
/// and works until `shutdown` is done.
pub async fn operate(
    context: Arc<Context>,
    election: Option<Election>,
    shutdown: impl Future<Output = ()> + Clone + Send + Sync + Unpin + 'static,
) -> Result<(), Lost> {
    let turn = async {
        let places = places(&context);
        for place in &places {
            context.metrics.readable(place.name(), false);
        }
        select_all(places.iter().map(|place| place.readable().boxed())).await;
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

/// Reconciles until `shutdown` is done; reconciliations under way are finished.
pub async fn run(
    context: Arc<Context>,
    shutdown: impl Future<Output = ()> + Clone + Send + Sync + Unpin + 'static,
) {
    context.metrics.reached(Phase::Listing);
    let places = places(&context);
    let concurrency = (CONCURRENCY / places.len() as u16).max(1);
    let served = places
        .iter()
        .map(|place| place.serve(concurrency, shutdown.clone()));
    join_all(served).await;
}

fn places(context: &Arc<Context>) -> Vec<Place> {
    let namespaces = match &context.options.namespaces[..] {
        [] => vec![None],
        some => some.iter().cloned().map(Some).collect(),
    };
    let place = |(at, namespace)| Place {
        namespace,
        client: context.watching(at),
        context: context.clone(),
    };
    namespaces.into_iter().enumerate().map(place).collect()
}

impl Place {
    fn api<K>(&self) -> Api<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
    {
        match &self.namespace {
            None => Api::all(self.client.clone()),
            Some(namespace) => Api::namespaced(self.client.clone(), namespace),
        }
    }

    fn name(&self) -> &str {
        self.namespace.as_deref().unwrap_or("all")
    }

    /// Waits until the API server lists PaxosClusters here: without the CustomResourceDefinition it does
    /// not, nor without permission.
    async fn readable(&self) {
        let mut told = None;
        while let Err(problem) = self.list().await {
            if told.as_ref() != Some(&problem) {
                let namespace = self.name();
                tracing::warn!(
                    namespace,
                    problem,
                    "waiting until PaxosClusters can be listed"
                );
                told = Some(problem);
            }
            // While others are served, this one has time.
            let again = match self.context.metrics.phase() {
                Phase::Working => AGAIN.1,
                _ => AGAIN.0,
            };
            sleep(again).await;
        }
    }

    /// Why the API server does not list PaxosClusters here, if it does not.
    async fn list(&self) -> Result<(), String> {
        let clusters = self.api::<PaxosCluster>();
        let one = ListParams::default().limit(1);
        match timeout(TIME_LIMIT, clusters.list_metadata(&one)).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(kube::Error::Api(status))) if status.code == 404 => {
                let name = PaxosCluster::crd_name();
                Err(format!("no CustomResourceDefinition {name}"))
            }
            Ok(Err(error)) => Err(apply::in_short(&error)),
            Err(_) => Err("no answer in time".to_owned()),
        }
    }

    /// Reconciles what is here, again and again as the namespace comes and goes.
    async fn serve(
        &self,
        concurrency: u16,
        shutdown: impl Future<Output = ()> + Clone + Send + Sync + Unpin + 'static,
    ) {
        let Place { context, .. } = self;
        let mut again = AGAIN.0;
        loop {
            tokio::select! {
                () = self.readable() => {}
                () = shutdown.clone() => return,
            }
            self.context.metrics.readable(self.name(), true);
            let since = Instant::now();
            let controller = self.controller(concurrency, shutdown.clone());
            let store = controller.store();
            self.context
                .metrics
                .show_clusters(self.name(), store.clone());
            let listed = async {
                if store.wait_until_ready().await.is_ok() {
                    self.context.metrics.reached(Phase::Working);
                }
            };
            let reconciling = async {
                let mut outcomes = controller.run(reconcile, on_error, context.clone()).boxed();
                let mut told = String::new();
                while let Some(outcome) = outcomes.next().await {
                    // Of another kind that cannot be watched, each reconciliation tells.
                    if !self.note(outcome, &mut told) && self.list().await.is_err() {
                        return true;
                    }
                }
                false
            };
            let lost = tokio::select! {
                lost = reconciling => lost,
                // These never end before the other does.
                () = listed.then(|()| std::future::pending()) => false,
                () = self.between(&store) => false,
            };
            if !lost {
                return;
            }
            self.context.metrics.readable(self.name(), false);
            self.context.metrics.hide_clusters(self.name());
            context.keep_only(self.namespace.as_deref(), &[]);
            again = match since.elapsed() < 2 * AGAIN.1 {
                true => (again * 2).min(AGAIN.1),
                false => AGAIN.0,
            };
            tokio::select! {
                () = sleep(again) => {}
                () = shutdown.clone() => return,
            }
        }
    }

    /// What is done between two looks: clusters that are gone are forgotten, and of the others the
    /// proposers are asked how far they are.
    async fn between(&self, store: &Store<Guarded>) {
        let context = &*self.context;
        loop {
            sleep(COUNTERS_INTERVAL).await;
            if store.wait_until_ready().now_or_never().is_none() {
                continue;
            }
            let objects = store.state();
            let there: Vec<Key> = objects.iter().map(|object| Key::of(&**object)).collect();
            context.keep_only(self.namespace.as_deref(), &there);
            stream::iter(objects)
                .for_each_concurrent(usize::from(CONCURRENCY), |object| async move {
                    counters::refresh(context, &object).await;
                })
                .await;
        }
    }

    fn controller(
        &self,
        concurrency: u16,
        shutdown: impl Future<Output = ()> + Send + Sync + 'static,
    ) -> Controller<Guarded> {
        let config = watcher::Config::default()
            .timeout(WATCH_TIMEOUT_S)
            .page_size(PAGE);
        let ours =
            config
                .clone()
                .labels(&format!("{}={}", names::MANAGED_BY_LABEL, names::MANAGER));
        // Of what it owns, a controller reads the metadata only and keeps nothing.
        Controller::new(self.api::<Guarded>(), config)
            .owns(self.api::<StatefulSet>(), ours.clone())
            .owns(self.api::<Service>(), ours.clone())
            .owns(self.api::<ConfigMap>(), ours.clone())
            .owns(self.api::<PodDisruptionBudget>(), ours.clone())
            .owns(self.api::<NetworkPolicy>(), ours)
            .with_config(controller::Config::default().concurrency(concurrency))
            .trigger_backoff(Pauses::default())
            .graceful_shutdown_on(shutdown)
    }

    /// Logs what went wrong, once while it stays the same; whether the namespace can still be read.
    fn note(&self, outcome: Outcome, told: &mut String) -> bool {
        match outcome {
            Ok(_) => told.clear(),
            // Logged where it failed.
            Err(controller::Error::ReconcilerFailed(..)) => {}
            Err(controller::Error::ObjectNotFound(gone)) => {
                // Whatever is there under that name is another one.
                tracing::debug!(%gone, "is gone");
            }
            Err(controller::Error::QueueError(error)) => {
                self.context.metrics.watch_failed();
                let text = error.to_string();
                if *told != text {
                    let namespace = self.name();
                    tracing::warn!(namespace, %error, "a watch failed and is started again");
                    *told = text;
                }
                return !is_refused(&error);
            }
            Err(controller::Error::RunnerError(error)) => tracing::error!(%error, "controller"),
        }
        true
    }
}

/// How long all watches of a controller pause when one of them has failed. They share the pause, and a
/// connection that dies fails all of them: it grows with each round of as many failures as there are
/// watches, and not with each failure.
#[derive(Default)]
struct Pauses {
    failures: u32,
    last: Option<Instant>,
}

impl Pauses {
    fn after_a_failure(&mut self, now: Instant) -> Duration {
        let calm = |last: Instant| now.duration_since(last) >= CALM;
        if self.last.replace(now).is_none_or(calm) {
            self.failures = 0;
        }
        let round = self.failures / WATCHES;
        self.failures = self.failures.saturating_add(1);
        PAUSE.0.saturating_mul(1 << round.min(16)).min(PAUSE.1)
    }
}

impl Iterator for Pauses {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        Some(self.after_a_failure(Instant::now()))
    }
}

impl Backoff for Pauses {
    /// One watch that works says nothing of another that does not: only time does.
    fn reset(&mut self) {}
}

type Outcome = Result<(ObjectRef<Guarded>, Action), controller::Error<Error, watcher::Error>>;

/// Whether the API server does not let the operator see something, or does not know it: as long as that
/// is so, no watch comes about.
fn is_refused(error: &watcher::Error) -> bool {
    match error {
        watcher::Error::InitialListFailed(kube::Error::Api(status))
        | watcher::Error::WatchStartFailed(kube::Error::Api(status))
        | watcher::Error::WatchError(status) => [403, 404].contains(&status.code),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_that_dies_with_all_its_watches_costs_a_moment() {
        let mut pauses = Pauses::default();
        let mut now = Instant::now();
        let mut round = |pauses: &mut Pauses| -> Duration {
            let mut whole = Duration::ZERO;
            for _ in 0..WATCHES {
                let pause = pauses.after_a_failure(now);
                now += pause;
                whole += pause;
            }
            whole
        };
        assert!(round(&mut pauses) < Duration::from_secs(2));
        for _ in 0..10 {
            round(&mut pauses);
        }
        assert_eq!(round(&mut pauses), WATCHES * PAUSE.1);
        assert_eq!(pauses.after_a_failure(now + CALM), PAUSE.0);
    }
}
