//! Every write to a cluster's objects: server-side apply under one field manager, and only where
//! something differs. `Objects<Desired>` → `Objects<Applied>`.

mod volumes;

use std::fmt::Debug;
use std::marker::PhantomData;

use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use kube::api::{Api, DeleteParams, Patch, PatchParams, Preconditions};
use kube::{Client, Resource, ResourceExt};
use proposer::config::Role;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::cluster::Cluster;
use crate::desired::{Applied, Desired, Objects};
use crate::observe::{Observed, is_undefined};
use crate::telemetry::Metrics;
use crate::{names, quantity};

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
        "{kind} {name} exists and does not belong to this PaxosCluster: delete it, or give the \
         PaxosCluster another name"
    )]
    NotOurs {
        /// The object's kind.
        kind: String,
        /// The object's name.
        name: String,
    },
}

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
    };
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
            if unwanted && self.owns(object) && object.meta().deletion_timestamp.is_none() {
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
        let ours = match live {
            Some(live) => self.owns(live),
            // Without our label, or not there at all. Applying would take over whatever it is.
            None => match api
                .get_metadata_opt(&name)
                .await
                .map_err(|e| failed("get", e))?
            {
                Some(stranger) => self.owns(&stranger),
                None => true,
            },
        };
        if !ours {
            return Err(Error::NotOurs {
                kind: kind::<K>(),
                name,
            });
        }

        let digest = digest(&to_json(&object));
        object
            .annotations_mut()
            .insert(names::APPLIED_ANNOTATION.to_owned(), digest);
        if let Some(live) = live
            && covers(&to_json(live), &to_json(&object), "")
        {
            return Ok(live.clone());
        }
        // Kubernetes defaulted it for RollingUpdate and refuses it beside OnDelete; applying leaves it.
        let strategy = "/spec/updateStrategy/rollingUpdate";
        if live.is_some_and(|live| to_json(live).pointer(strategy).is_some()) {
            let on_delete = json!({ "type": "OnDelete", "rollingUpdate": null });
            let patch = json!({ "spec": { "updateStrategy": on_delete } });
            let params = PatchParams {
                field_manager: Some(names::MANAGER.to_owned()),
                ..Default::default()
            };
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
        tracing::info!(
            namespace = self.cluster.namespace,
            cluster = self.cluster.name,
            kind = kind::<K>(),
            name,
            "applied"
        );
        Ok(applied)
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
            let params = PatchParams {
                field_manager: Some(names::MANAGER.to_owned()),
                ..Default::default()
            };
            match api
                .patch_metadata(&name, &params, &Patch::Merge(&patch))
                .await
            {
                Ok(_) => self.metrics.wrote("pods", "patch"),
                Err(error) => tracing::warn!(
                    namespace = self.cluster.namespace,
                    cluster = self.cluster.name,
                    pod = name,
                    error = in_short(&error),
                    "its lists are brought up to date a little later"
                ),
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

    fn owns<K: Resource>(&self, object: &K) -> bool {
        let controller = object
            .owner_references()
            .iter()
            .find(|owner| owner.controller == Some(true));
        match (controller, &self.cluster.owner) {
            (Some(controller), Some(owner)) => controller.uid == owner.uid,
            _ => false,
        }
    }
}

fn has_kubelet(pod: &Pod) -> bool {
    let node = pod.spec.as_ref().and_then(|spec| spec.node_name.as_ref());
    node.is_some() && pod.metadata.deletion_timestamp.is_none()
}

fn kind<K: Resource<DynamicType = ()>>() -> String {
    K::kind(&()).into_owned()
}

pub(crate) fn to_json<K: Serialize>(object: &K) -> Value {
    serde_json::to_value(object).expect("an object of the API server is JSON")
}

/// FNV-1a, so that it is the same in every release: another digest is another write.
pub(crate) fn digest(object: &Value) -> String {
    let hash = object
        .to_string()
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
    format!("{hash:016x}")
}

/// Lists that the API server merges by key: others may add to them, and applying would not remove what
/// they added.
const MERGED: [&str; 8] = [
    "containers",
    "env",
    "imagePullSecrets",
    "ownerReferences",
    "ports",
    "topologySpreadConstraints",
    "volumeMounts",
    "volumes",
];

/// Whether `live` has everything that is `wanted`. What it has beyond that was defaulted by the API
/// server or written by others. `key` is the field that holds the two.
pub(crate) fn covers(live: &Value, wanted: &Value, key: &str) -> bool {
    match (live, wanted) {
        (Value::Object(live), Value::Object(wanted)) => {
            wanted.iter().all(|(field, wanted)| match live.get(field) {
                Some(live) if ["requests", "limits"].contains(&key) => same_quantity(live, wanted),
                Some(live) => covers(live, wanted, field),
                None => is_empty(wanted),
            })
        }
        (Value::Array(live), Value::Array(wanted)) if MERGED.contains(&key) => wanted
            .iter()
            .all(|wanted| live.iter().any(|live| covers(live, wanted, ""))),
        (Value::Array(live), Value::Array(wanted)) => {
            live.len() == wanted.len()
                && live
                    .iter()
                    .zip(wanted)
                    .all(|(live, wanted)| covers(live, wanted, ""))
        }
        _ => live == wanted,
    }
}

fn same_quantity(live: &Value, wanted: &Value) -> bool {
    let nanos = |amount: &Value| quantity::nanos(amount.as_str()?);
    live == wanted || nanos(live).is_some() && nanos(live) == nanos(wanted)
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Object(fields) => fields.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::String(text) => text.is_empty(),
        Value::Bool(_) | Value::Number(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_and_rewritten_quantities_are_no_difference() {
        let wanted = json!({"spec": {"replicas": 3, "affinity": {}, "template": {"containers": [
            {"name": "node", "env": [{"name": "A", "value": "1"}],
             "resources": {"requests": {"cpu": "1000m", "memory": "1.5Gi"}}},
        ]}}});
        let live = json!({"spec": {"replicas": 3, "podManagementPolicy": "Parallel",
            "template": {"containers": [
                {"name": "sidecar"},
                {"name": "node", "imagePullPolicy": "Always",
                 "env": [{"name": "B", "value": "2"}, {"name": "A", "value": "1"}],
                 "resources": {"requests": {"cpu": "1", "memory": "1536Mi"}}},
            ]}}, "status": {"replicas": 3}});
        assert!(covers(&live, &wanted, ""));
    }

    #[test]
    fn a_changed_missing_or_added_value_is_a_difference() {
        let wanted =
            json!({"a": false, "command": ["x"], "env": [{"name": "A", "value": "1000m"}]});
        let without = |field: &str| {
            let mut live = wanted.clone();
            live.as_object_mut().unwrap().remove(field);
            live
        };
        assert!(covers(&wanted, &wanted, ""));
        assert!(!covers(&without("a"), &wanted, ""));
        assert!(!covers(&without("command"), &wanted, ""));
        let with = |field: &str, value: Value| {
            let mut live = wanted.clone();
            live[field] = value;
            live
        };
        assert!(!covers(&with("command", json!(["x", "y"])), &wanted, ""));
        assert!(!covers(&with("a", json!(true)), &wanted, ""));
        // Equal as quantities, but a variable is not a quantity.
        assert!(!covers(
            &with("env", json!([{"name": "A", "value": "1"}])),
            &wanted,
            ""
        ));
    }

    #[test]
    fn digests_are_those_of_the_published_function() {
        assert_eq!(
            digest(&json!("")),
            format!("{:016x}", {
                // FNV-1a of two quotation marks.
                let step = |hash: u64| (hash ^ 0x22).wrapping_mul(0x0100_0000_01b3);
                step(step(0xcbf2_9ce4_8422_2325))
            })
        );
        assert_ne!(digest(&json!({"a": 1})), digest(&json!({"a": 2})));
    }
}
