//! Every write to a cluster's objects: server-side apply under one field manager, and only where
//! something differs. `Objects<Desired>` → `Objects<Applied>`.

mod volumes;

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::marker::PhantomData;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use api::env::Role;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::api::{Api, DeleteParams, Patch, PatchParams, Preconditions};
use kube::{Client, Resource, ResourceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::json;
use tokio::time::Instant;

use crate::cluster::Cluster;
use crate::compare::{covers, digest, to_json};
use crate::desired::{Applied, Desired, Objects};
use crate::names;
use crate::observe::{Observed, is_undefined};
use crate::telemetry::Metrics;

/// Why not everything could be written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The API server did not do it.
    #[error("{verb} {kind} {name}: {}", in_short(.source))]
    Api {
        /// `apply`, `patch`, `get` or `delete`.
        verb: &'static str,
        /// The object's kind.
        kind: String,
        /// The object's name.
        name: String,
        /// What the API server said.
        source: kube::Error,
    },
    /// A volume cannot grow. No volume of its role was touched.
    #[error(
        "PersistentVolumeClaim {claim} cannot grow to {size}: {}: set allowVolumeExpansion in its \
         StorageClass, or spec.{role}.storage.size back to what it was",
        in_short(.source)
    )]
    NotGrown {
        /// The claim's name.
        claim: String,
        /// The size that was asked for.
        size: String,
        /// The role of its node.
        role: Role,
        /// What the API server said.
        source: kube::Error,
    },
    /// Nothing of that kind can be made here.
    #[error(
        "{kind} {name} cannot be made, its kind is not defined here: install the Prometheus operator, or \
         set spec.podMonitor.enabled to false"
    )]
    NotDefined {
        /// The object's kind.
        kind: String,
        /// The object's name.
        name: String,
    },
    /// An object of that name belongs to someone else.
    #[error(
        "{kind} {name} exists and belongs to {owner}, not to this PaxosCluster: delete it, or give the \
         PaxosCluster another name"
    )]
    NotOurs {
        /// The object's kind.
        kind: String,
        /// The object's name.
        name: String,
        /// Whose it is.
        owner: String,
    },
    /// Another operator writes these objects, and others than this one.
    #[error("operator {identity} writes other objects for this PaxosCluster")]
    Rival {
        /// The other operator.
        identity: String,
    },
}

/// What was written last to a cluster's objects, to distinguish what others make of it from what we
/// still have to do.
#[derive(Debug, Default)]
pub struct Writes {
    last: BTreeMap<String, Write>,
    /// When another operator wrote over what this one had written.
    overwritten: Vec<Instant>,
    /// Whether this look at all objects has seen that already: it counts once.
    seen_overwritten: bool,
    /// For which lists a pod was asked in vain to look at them, by its uid.
    not_nudged: BTreeMap<String, String>,
}

#[derive(Debug)]
struct Write {
    digest: String,
    /// What the API server had made of it.
    became: String,
    /// Whether that was not all that was written: admission may change what it gets.
    changed: bool,
}

/// This many times within [`OVERWRITTEN_WITHIN`] mean that another operator is at work.
const OVERWRITTEN: usize = 3;
const OVERWRITTEN_WITHIN: Duration = Duration::from_secs(600);

/// What the API server said, without the debug output that kube adds.
pub fn in_short(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) if !status.message.is_empty() => status.message.clone(),
        other => other.to_string(),
    }
}

/// Makes the API server have what is desired, and no more: what the cluster owned and no longer wants
/// is deleted. Services come first, so that a pod's name resolves when it starts. An object that
/// fails holds up no other; the first failure is returned.
pub async fn apply(
    client: &Client,
    metrics: &Metrics,
    cluster: &Cluster,
    operator: &str,
    writes: &Mutex<Writes>,
    desired: Objects<Desired>,
    observed: &Observed,
) -> Result<Objects<Applied>, Error> {
    let Objects {
        stateful_sets,
        services,
        config_maps,
        disruption_budgets,
        network_policies,
        pod_monitors,
        state: PhantomData,
    } = desired;
    let writer = Writer {
        client,
        metrics,
        cluster,
        operator,
        writes,
    };
    writer.writes().seen_overwritten = false;
    let services = writer.apply_all(services, &observed.services).await;
    // Before the sets: see `crate::scale`.
    let config_maps = writer.apply_all(config_maps, &observed.config_maps).await;
    if let Ok(config_maps) = &config_maps {
        writer.nudge(config_maps, &observed.pods).await;
    }
    let disruption_budgets = writer
        .apply_all(disruption_budgets, &observed.disruption_budgets)
        .await;
    let network_policies = writer
        .apply_all(network_policies, &observed.network_policies)
        .await;
    let stateful_sets = writer.apply_sets(stateful_sets, observed).await;
    // Last, and of somebody else's kind: without that definition all else is there.
    let pod_monitors = writer
        .apply_all(pod_monitors, &observed.pod_monitors)
        .await
        .map_err(|error| match error {
            Error::Api {
                kind,
                name,
                source: kube::Error::Api(status),
                ..
            } if is_undefined(&status) => Error::NotDefined { kind, name },
            other => other,
        });
    Ok(Objects {
        stateful_sets: stateful_sets?,
        services: services?,
        config_maps: config_maps?,
        disruption_budgets: disruption_budgets?,
        network_policies: network_policies?,
        pod_monitors: pod_monitors?,
        state: PhantomData,
    })
}

struct Writer<'a> {
    client: &'a Client,
    metrics: &'a Metrics,
    cluster: &'a Cluster,
    /// Who this operator is.
    operator: &'a str,
    writes: &'a Mutex<Writes>,
}

/// The kinds of which a cluster is made.
trait Child:
    Resource<DynamicType = (), Scope = NamespaceResourceScope>
    + Clone
    + Debug
    + Serialize
    + DeserializeOwned
{
}

impl<K> Child for K where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + Clone
        + Debug
        + Serialize
        + DeserializeOwned
{
}

impl Writer<'_> {
    async fn apply_all<K: Child>(&self, wanted: Vec<K>, live: &[K]) -> Result<Vec<K>, Error> {
        let api: Api<K> = Api::namespaced(self.client.clone(), &self.cluster.namespace);
        let names: Vec<String> = wanted.iter().map(K::name_any).collect();
        let mut applied = Vec::with_capacity(wanted.len());
        for object in wanted {
            let found = live
                .iter()
                .find(|live| live.name_any() == object.name_any());
            applied.push(self.apply_one(&api, object, found).await);
        }
        self.prune(&api, &names, live).await?;
        applied.into_iter().collect()
    }

    /// Deletes what this cluster owns and no longer wants.
    async fn prune<K: Child>(
        &self,
        api: &Api<K>,
        wanted: &[String],
        live: &[K],
    ) -> Result<(), Error> {
        for object in live {
            let unwanted = !wanted.contains(&object.name_any());
            // What another of that name left behind as well.
            let ours = self.stranger(object).is_none();
            if unwanted && ours && object.meta().deletion_timestamp.is_none() {
                self.delete(api, object, &DeleteParams::background())
                    .await?;
            }
        }
        Ok(())
    }

    async fn apply_one<K: Child>(
        &self,
        api: &Api<K>,
        mut object: K,
        live: Option<&K>,
    ) -> Result<K, Error> {
        let name = object.name_any();
        let failed = |verb, source| Error::Api {
            verb,
            kind: kind::<K>(),
            name: name.clone(),
            source,
        };
        // Without our label, or not there at all. Applying would take over whatever it is.
        let stranger = match live {
            Some(live) => self.stranger(live),
            None => api
                .get_metadata_opt(&name)
                .await
                .map_err(|e| failed("get", e))?
                .and_then(|there| self.stranger(&there)),
        };
        if let Some(owner) = stranger {
            return Err(Error::NotOurs {
                kind: kind::<K>(),
                name,
                owner,
            });
        }

        let digest = digest(&to_json(&object));
        let applied = names::APPLIED_ANNOTATION.to_owned();
        object.annotations_mut().insert(applied, digest.clone());
        if let Some(live) = live {
            if let Some(identity) = self.rival(live, &digest) {
                return Err(Error::Rival { identity });
            }
            if covers(&to_json(live), &to_json(&object), "") || self.was_changed(live, &digest) {
                return Ok(live.clone());
            }
        }
        let wanted = object.clone();
        // Not part of what is compared: two operators that want the same do not write at all.
        let operator = names::OPERATOR_ANNOTATION.to_owned();
        object
            .annotations_mut()
            .insert(operator, self.operator.to_owned());
        // Kubernetes defaulted it for RollingUpdate and refuses it beside OnDelete; applying leaves it.
        let strategy = "/spec/updateStrategy/rollingUpdate";
        if live.is_some_and(|live| to_json(live).pointer(strategy).is_some()) {
            let on_delete = json!({ "type": "OnDelete", "rollingUpdate": null });
            let patch = json!({ "spec": { "updateStrategy": on_delete } });
            let params = merging();
            api.patch(&name, &params, &Patch::Merge(&patch))
                .await
                .map_err(|error| failed("patch", error))?;
            self.metrics.wrote(&K::plural(&()), "patch");
        }
        let params = PatchParams::apply(names::MANAGER).force();
        let applied = api
            .patch(&name, &params, &Patch::Apply(&object))
            .await
            .map_err(|error| failed("apply", error))?;
        self.metrics.wrote(&K::plural(&()), "apply");
        let write = Write {
            became: version(&applied),
            changed: !covers(&to_json(&applied), &to_json(&wanted), ""),
            digest,
        };
        self.writes().last.insert(place(&applied), write);
        tracing::info!(
            namespace = self.cluster.namespace,
            cluster = self.cluster.name,
            kind = kind::<K>(),
            name,
            "applied"
        );
        Ok(applied)
    }

    /// The other operator that writes the same object, if this one is to leave it: what this one wrote
    /// last, and what is wanted still, was written over with something else. A person does not write our
    /// digest.
    fn rival<K: Child>(&self, live: &K, wanted: &str) -> Option<String> {
        let annotations = live.annotations();
        let digest = annotations.get(names::APPLIED_ANNOTATION);
        let writer = annotations.get(names::OPERATOR_ANNOTATION);
        let mut writes = self.writes();
        let last = writes.last.get(&place(live))?;
        if last.digest != wanted || digest.is_none_or(|digest| *digest == last.digest) {
            return None;
        }
        let writer = writer
            .cloned()
            .unwrap_or_else(|| "of an earlier release".to_owned());
        let now = Instant::now();
        if !std::mem::replace(&mut writes.seen_overwritten, true) {
            writes.overwritten.push(now);
        }
        let recent = |at: &Instant| now.duration_since(*at) < OVERWRITTEN_WITHIN;
        writes.overwritten.retain(recent);
        // One of the two continues. Which one does not matter, if both agree.
        let stays = writer.as_str() > self.operator && writer.contains('/');
        let leaves = writes.overwritten.len() >= OVERWRITTEN && !stays && writer != self.operator;
        leaves.then_some(writer)
    }

    /// Whether this is what admission made of what we wrote: writing it again would change nothing.
    fn was_changed<K: Child>(&self, live: &K, digest: &str) -> bool {
        let writes = self.writes();
        let last = writes.last.get(&place(live));
        last.is_some_and(|last| {
            last.changed && last.digest == digest && last.became == version(live)
        })
    }

    fn writes(&self) -> MutexGuard<'_, Writes> {
        self.writes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has the kubelets look at what they mount: by themselves they do so once a minute, and ten seconds
    /// after a new pod came to them before its volume was bound. A courtesy, so one that fails is left to
    /// the next time.
    async fn nudge(&self, config_maps: &[ConfigMap], pods: &[Pod]) {
        let data = config_maps.iter().map(|map| &map.data);
        let digest = digest(&json!(data.collect::<Vec<_>>()));
        let api: Api<Pod> = Api::namespaced(self.client.clone(), &self.cluster.namespace);
        for pod in pods.iter().filter(|pod| has_kubelet(pod)) {
            let name = pod.name_any();
            if pod.annotations().get(names::MEMBERS_ANNOTATION) == Some(&digest) {
                continue;
            }
            let patch = json!({ "metadata": {
                // Only this very pod, not one made since under the same name.
                "uid": pod.uid(),
                "annotations": { names::MEMBERS_ANNOTATION: &digest },
            }});
            let params = merging();
            // Through the status: that needs no permission to change what a pod runs.
            let nudged = api
                .patch_status(&name, &params, &Patch::Merge(&patch))
                .await;
            let uid = pod.uid().unwrap_or_default();
            match nudged {
                Ok(_) => self.metrics.wrote("pods/status", "patch"),
                Err(error) => {
                    let told = self.writes().not_nudged.insert(uid, digest.clone());
                    // Once for each pod and list: a policy may forbid it for good.
                    if told.as_ref() != Some(&digest) {
                        tracing::warn!(
                            namespace = self.cluster.namespace,
                            cluster = self.cluster.name,
                            pod = name,
                            error = in_short(&error),
                            "its lists are brought up to date a little later"
                        );
                    }
                }
            }
        }
    }

    /// Returns the object if it is there still, on its way out.
    async fn delete<K: Child>(
        &self,
        api: &Api<K>,
        object: &K,
        how: &DeleteParams,
    ) -> Result<Option<K>, Error> {
        let name = object.name_any();
        // Only the very object that was looked at, not one made since under the same name.
        let this_one = Preconditions {
            uid: object.uid(),
            resource_version: None,
        };
        match api
            .delete(&name, &how.clone().preconditions(this_one))
            .await
        {
            Ok(gone) => {
                self.metrics.wrote(&K::plural(&()), "delete");
                Ok(gone.left())
            }
            Err(kube::Error::Api(status)) if status.is_not_found() || status.is_conflict() => {
                Ok(None)
            }
            Err(source) => Err(Error::Api {
                verb: "delete",
                kind: kind::<K>(),
                name,
                source,
            }),
        }
    }

    /// Whose an object is that must not be taken over; `None` when it is this cluster's, or was that of a
    /// PaxosCluster of the same name which was deleted and left it behind.
    fn stranger<K: Resource>(&self, object: &K) -> Option<String> {
        if let Some(owner) = controller(object) {
            let ours = self.cluster.owner.as_ref();
            let ours = ours.is_some_and(|ours| ours.uid == owner.uid);
            return (!ours).then(|| format!("{} {}", owner.kind, owner.name));
        }
        let has = |key: &str, value: &str| object.labels().get(key).is_some_and(|it| it == value);
        let orphan = has(names::MANAGED_BY_LABEL, names::MANAGER)
            && has(names::CLUSTER_LABEL, &self.cluster.name)
            && object.annotations().contains_key(names::APPLIED_ANNOTATION);
        (!orphan).then(|| "somebody else".to_owned())
    }
}

fn controller<K: Resource>(object: &K) -> Option<&OwnerReference> {
    let owners = object.owner_references().iter();
    { owners }.find(|owner| owner.controller == Some(true))
}

fn place<K: Resource<DynamicType = ()>>(object: &K) -> String {
    format!("{}/{}", kind::<K>(), object.name_any())
}

/// Changes whenever somebody changes what is wanted of an object, and not with its status where the
/// kind tells the two apart.
fn version<K: Resource>(object: &K) -> String {
    let meta = object.meta();
    let version = match meta.generation {
        Some(generation) => generation.to_string(),
        None => meta.resource_version.clone().unwrap_or_default(),
    };
    // What no generation counts.
    let rest = digest(&json!([
        meta.labels,
        meta.annotations,
        meta.owner_references
    ]));
    format!(
        "{}/{version}/{rest}",
        meta.uid.as_deref().unwrap_or_default()
    )
}

/// How a merge patch is sent: as this operator's.
fn merging() -> PatchParams {
    PatchParams {
        field_manager: Some(names::MANAGER.to_owned()),
        ..PatchParams::default()
    }
}

fn has_kubelet(pod: &Pod) -> bool {
    let node = pod.spec.as_ref().and_then(|spec| spec.node_name.as_ref());
    node.is_some() && pod.metadata.deletion_timestamp.is_none()
}

fn kind<K: Resource<DynamicType = ()>>() -> String {
    K::kind(&()).into_owned()
}
