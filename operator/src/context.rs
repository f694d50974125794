//! What reconciliations share, and what is remembered of each cluster between two of them. Losing what
//! is remembered costs a write or a delay.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kube::api::{Api, Patch, PatchParams};
use kube::runtime::events::Recorder;
use kube::{Client, Resource, ResourceExt};
use serde::Serialize;
use serde_json::json;
use tokio::time::Instant;

use crate::apply::Writes;
use crate::ask::{AskNode, Node};
use crate::crd::{Guarded, PaxosCluster, PaxosClusterSpec, PaxosClusterStatus};
use crate::defaults::Defaults;
use crate::names;
use crate::roll::Waiting;
use crate::rollouts::Rollouts;
use crate::telemetry::Metrics;

/// What an operator is given at its start.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// The namespaces to look after; none: all.
    pub namespaces: Vec<String>,
    /// Where the operator runs, for the clusters' NetworkPolicies; `None`: not known.
    pub own_namespace: Option<String>,
    /// What a cluster has whose spec says nothing.
    pub defaults: Defaults,
    /// Tells this process from others, of the same operator too: `namespace/lease process`.
    pub identity: String,
    /// How many clusters may have their pods restarted at once; 0: all.
    pub rollouts: usize,
}

/// What every reconciliation shares.
pub struct Context {
    pub(crate) client: Client,
    pub(crate) nodes: Box<dyn AskNode>,
    pub(crate) recorder: Recorder,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) options: Options,
    rollouts: Mutex<Rollouts<Key>>,
    watching: Vec<Client>,
    memory: Mutex<HashMap<Key, Memory>>,
}

/// A PaxosCluster, and not one that was made since under the same name.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    pub(crate) namespace: String,
    pub(crate) name: String,
    uid: String,
}

/// What is remembered of a cluster.
#[derive(Clone, Debug, Default)]
pub(crate) struct Memory {
    pub(crate) failures: u32,
    pub(crate) written: Option<Written>,
    /// The last spec that made sense.
    pub(crate) valid: Option<PaxosClusterSpec>,
    /// What was written to its objects.
    pub(crate) writes: Arc<Mutex<Writes>>,
    /// What its roll waits for.
    pub(crate) waiting: Waiting,
    /// Since when nothing has changed about its nodes and its spec.
    pub(crate) still: Option<(PaxosClusterStatus, Instant)>,
    /// Its proposers, to ask them between two looks.
    pub(crate) proposers: Vec<Node>,
    /// Until when it is left to another operator.
    pub(crate) left_until: Option<Instant>,
}

/// The last status written, so that a cache that lags behind causes no second write.
#[derive(Clone, Debug)]
pub(crate) struct Written {
    pub(crate) at: Instant,
    /// The version that the cache had then: while it still has that, it does not know the write.
    pub(crate) over: Option<String>,
    pub(crate) status: PaxosClusterStatus,
}

impl Key {
    pub(crate) fn of<K: Resource>(object: &K) -> Key {
        Key {
            namespace: object.namespace().unwrap_or_default(),
            name: object.name_any(),
            uid: object.uid().unwrap_or_default(),
        }
    }
}

impl Context {
    /// A context whose calls go through `client`.
    pub fn new(
        client: Client,
        nodes: Box<dyn AskNode>,
        metrics: Arc<Metrics>,
        options: Options,
    ) -> Context {
        Context {
            recorder: Recorder::new(client.clone(), names::MANAGER.into()),
            rollouts: Mutex::new(Rollouts::new(options.rollouts)),
            client,
            nodes,
            metrics,
            options,
            watching: Vec::new(),
            memory: Mutex::default(),
        }
    }

    /// Watches through separate clients, one for each namespace: a connection carries a limited number
    /// of watches.
    #[must_use]
    pub fn watching_through(self, watching: Vec<Client>) -> Context {
        Context { watching, ..self }
    }

    /// The client through which the namespace at that place is watched.
    pub(crate) fn watching(&self, at: usize) -> Client {
        self.watching.get(at).unwrap_or(&self.client).clone()
    }

    fn memory(&self) -> MutexGuard<'_, HashMap<Key, Memory>> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The status as last written by us or as the watch has it, whichever is newer; `None` where the
    /// object does not parse.
    pub(crate) fn known_status(&self, object: &Guarded) -> Option<PaxosClusterStatus> {
        let written = self.remember(object, |memory| memory.written.clone());
        match (written, &object.0) {
            (Some(written), _) if written.over == object.resource_version() => Some(written.status),
            (_, Ok(object)) => Some(object.status.clone().unwrap_or_default()),
            (_, Err(_)) => None,
        }
    }

    /// Writes a status, or the part of it that is this manager's.
    pub(crate) async fn write_status(
        &self,
        object: &Guarded,
        manager: &str,
        status: impl Serialize,
    ) -> kube::Result<()> {
        let patch = json!({
            "apiVersion": PaxosCluster::api_version(&()),
            "kind": PaxosCluster::kind(&()),
            // Only this very object, not one made since under the same name.
            "metadata": { "uid": object.uid() },
            "status": status,
        });
        let namespace = object.namespace().unwrap_or_default();
        let api: Api<Guarded> = Api::namespaced(self.client.clone(), &namespace);
        let params = PatchParams::apply(manager).force();
        api.patch_status(&object.name_any(), &params, &Patch::Apply(&patch))
            .await?;
        self.metrics.wrote("paxosclusters/status", "apply");
        Ok(())
    }

    /// Changes what is remembered of a cluster.
    pub(crate) fn remember<T>(&self, object: &Guarded, change: impl FnOnce(&mut Memory) -> T) -> T {
        change(self.memory().entry(Key::of(object)).or_default())
    }

    /// Forgets the clusters of a namespace, or of all, that are not among these.
    pub(crate) fn keep_only(&self, namespace: Option<&str>, there: &[Key]) {
        let gone = |key: &Key| {
            namespace.is_none_or(|namespace| key.namespace == namespace) && !there.contains(key)
        };
        self.memory().retain(|key, _| !gone(key));
        self.rollouts().retain(|key| !gone(key));
    }

    pub(crate) fn rollouts(&self) -> MutexGuard<'_, Rollouts<Key>> {
        self.rollouts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
