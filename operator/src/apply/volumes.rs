//! Volumes grow, and their claims get other labels, while their pods run. A StatefulSet's claim template
//! cannot change, so each claim is changed, and then the set is recreated around its running pods. Each
//! step is decided by what there is, so that the operator that follows a crash continues where it happened.

use std::collections::BTreeMap;

use api::env::Role;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use kube::ResourceExt;
use kube::api::{Api, DeleteParams, Patch, PatchParams};
use kube::core::Status;
use paxos::ids::NodeId;
use serde_json::json;

use super::{Error, Writer, merging};
use crate::cluster::{Cluster, Group};
use crate::desired::stateful_set::claim_digest;
use crate::observe::{Observed, claim_template, requested};
use crate::{founded, names, quantity};

/// What stands where a set is to be applied.
enum Place {
    /// Nothing, or a set that can be changed into the one that is wanted.
    Ready,
    /// Nothing any more: what stood there could not be changed.
    Cleared,
    /// A set on its way out.
    Leaving(Box<StatefulSet>),
}

impl Writer<'_> {
    pub(super) async fn apply_sets(
        &self,
        wanted: Vec<StatefulSet>,
        observed: &Observed,
    ) -> Result<Vec<StatefulSet>, Error> {
        let api: Api<StatefulSet> = Api::namespaced(self.client.clone(), &self.cluster.namespace);
        let names: Vec<String> = wanted.iter().map(StatefulSet::name_any).collect();
        let mut applied = Vec::with_capacity(wanted.len());
        // One for each role, in the same order.
        for (set, group) in wanted.into_iter().zip(&self.cluster.groups) {
            let live = observed.stateful_sets.iter();
            let live = { live }.find(|live| live.name_any() == set.name_any());
            applied.push(match self.make_room(&api, group, live, observed).await {
                Ok(Place::Ready) => self.apply_one(&api, set, live).await,
                Ok(Place::Cleared) => self.apply_one(&api, set, None).await,
                Ok(Place::Leaving(set)) => Ok(*set),
                Err(error) => Err(error),
            });
        }
        self.prune(&api, &names, &observed.stateful_sets).await?;
        applied.into_iter().collect()
    }

    /// Grows the volumes of a role, and takes away a set that would make smaller ones.
    async fn make_room(
        &self,
        api: &Api<StatefulSet>,
        group: &Group,
        live: Option<&StatefulSet>,
        observed: &Observed,
    ) -> Result<Place, Error> {
        let theirs = live.is_some_and(|live| self.stranger(live).is_some());
        if theirs {
            return Ok(Place::Ready);
        }
        self.grow(group, &observed.claims).await?;
        self.label(group, &observed.claims).await?;
        if group.role == Role::Acceptor {
            self.mark(&observed.claims).await?;
        }
        let Some(live) = live else {
            return Ok(Place::Ready);
        };
        if live.metadata.deletion_timestamp.is_some() {
            return Ok(Place::Leaving(Box::new(live.clone())));
        }
        let written = live.annotations().get(names::CLAIMS_ANNOTATION);
        let same_labels = written.cloned() == claim_digest(self.cluster);
        if same_labels && !claim_template(live).is_some_and(|claim| is_smaller(claim, group)) {
            return Ok(Place::Ready);
        }
        tracing::info!(
            namespace = self.cluster.namespace,
            cluster = self.cluster.name,
            name = live.name_any(),
            "the template of the volumes' claims has changed: the set is recreated, its pods stay"
        );
        let leaving = self.delete(api, live, &DeleteParams::orphan()).await?;
        Ok(leaving.map_or(Place::Cleared, |set| Place::Leaving(Box::new(set))))
    }

    /// Writes on the acceptors' claims how many acceptors there are, so that a PaxosCluster which is
    /// deleted and made again finds it there.
    async fn mark(&self, claims: &[PersistentVolumeClaim]) -> Result<(), Error> {
        let api: Api<PersistentVolumeClaim> =
            Api::namespaced(self.client.clone(), &self.cluster.namespace);
        let count = self.cluster.members.count();
        let unmarked = |claim: &&PersistentVolumeClaim| {
            let ours = founded::acceptor(self.cluster, claim);
            ours.is_some_and(|id| self.cluster.members.contains(id))
                && founded::founders(claim).is_none()
                && claim.metadata.deletion_timestamp.is_none()
        };
        for claim in claims.iter().filter(unmarked) {
            let name = claim.name_any();
            let params = merging();
            let mark = json!({ "metadata": {
                // Only this very claim, not one made since under the same name.
                "uid": claim.uid(),
                "annotations": { names::ACCEPTORS_ANNOTATION: count.to_string() },
            } });
            let marked = api
                .patch_metadata(&name, &params, &Patch::Merge(&mark))
                .await;
            self.wrote(marked)
                .map_err(|source| not_patched(name, source))?;
        }
        Ok(())
    }

    /// Gives the claims of the role's nodes the labels and annotations that the spec names, and takes away
    /// those that it named before.
    async fn label(&self, group: &Group, claims: &[PersistentVolumeClaim]) -> Result<(), Error> {
        let api: Api<PersistentVolumeClaim> =
            Api::namespaced(self.client.clone(), &self.cluster.namespace);
        let Cluster { labels, .. } = self.cluster;
        let digest = claim_digest(self.cluster);
        let mut annotations = self.cluster.annotations.clone();
        annotations.extend(digest.map(|digest| (names::APPLIED_ANNOTATION.to_owned(), digest)));
        let names = self.claims(group);
        let other = |claim: &&PersistentVolumeClaim| {
            let covered = |wanted: &Strings, live: &Strings| {
                wanted
                    .iter()
                    .all(|(key, value)| live.get(key) == Some(value))
            };
            // What is no longer wanted shows by the digest of what was.
            let applied =
                [claim.annotations(), &annotations].map(|of| of.get(names::APPLIED_ANNOTATION));
            let as_wanted = applied[0] == applied[1]
                && covered(labels, claim.labels())
                && covered(&annotations, claim.annotations());
            names.contains(&claim.name_any())
                && claim.metadata.deletion_timestamp.is_none()
                && !as_wanted
        };
        for claim in claims.iter().filter(other) {
            let name = claim.name_any();
            let patch = json!({
                "apiVersion": "v1",
                "kind": "PersistentVolumeClaim",
                // Only this very claim, not one made since under the same name.
                "metadata": { "uid": claim.uid(), "labels": labels, "annotations": &annotations },
            });
            let params = PatchParams::apply(names::MANAGER).force();
            let labelled = api.patch(&name, &params, &Patch::Apply(&patch)).await;
            self.wrote(labelled)
                .map_err(|source| not_patched(name, source))?;
        }
        Ok(())
    }

    /// Counts a change of a claim. One that is gone, or is another one now, is seen the next time.
    fn wrote<T>(&self, outcome: kube::Result<T>) -> kube::Result<()> {
        match outcome {
            Ok(_) => self.metrics.wrote("persistentvolumeclaims", "patch"),
            Err(kube::Error::Api(status)) if is_gone(&status) => {}
            Err(source) => return Err(source),
        }
        Ok(())
    }

    /// The names of the claims of a role's nodes.
    fn claims(&self, group: &Group) -> Vec<String> {
        NodeId::first(group.replicas)
            .map(|node| names::claim(&self.cluster.name, group.role, node))
            .collect()
    }

    /// Asks for the wanted size in every claim of the role's nodes that asks for less: first only on
    /// trial, so that a class that cannot grow leaves all as they were.
    async fn grow(&self, group: &Group, claims: &[PersistentVolumeClaim]) -> Result<(), Error> {
        let names = self.claims(group);
        let small = |claim: &&PersistentVolumeClaim| {
            is_smaller(claim, group)
                && claim.metadata.deletion_timestamp.is_none()
                && names.contains(&claim.name_any())
        };
        let claims: Vec<_> = claims.iter().filter(small).collect();
        for on_trial in [true, false] {
            for claim in &claims {
                self.ask_for_more(group, claim, on_trial).await?;
            }
        }
        Ok(())
    }

    async fn ask_for_more(
        &self,
        group: &Group,
        claim: &PersistentVolumeClaim,
        on_trial: bool,
    ) -> Result<(), Error> {
        let api: Api<PersistentVolumeClaim> =
            Api::namespaced(self.client.clone(), &self.cluster.namespace);
        let (name, size) = (claim.name_any(), &group.storage_size.0);
        let params = PatchParams {
            dry_run: on_trial,
            ..merging()
        };
        let more = json!({
            // Only this very claim, not one made since under the same name.
            "metadata": { "uid": claim.uid() },
            "spec": { "resources": { "requests": { "storage": size } } },
        });
        match api.patch(&name, &params, &Patch::Merge(&more)).await {
            Ok(_) if on_trial => Ok(()),
            Ok(_) => {
                self.metrics.wrote("persistentvolumeclaims", "patch");
                let namespace = &self.cluster.namespace;
                tracing::info!(namespace, name, size, "asked for a larger volume");
                Ok(())
            }
            // The user who deleted it wants none, and a pod that wants one gets one of the right size.
            Err(kube::Error::Api(status)) if is_gone(&status) => Ok(()),
            Err(source) => {
                let refused = matches!(&source, kube::Error::Api(status)
                    if status.is_forbidden() || status.is_invalid());
                Err(match refused && on_trial {
                    true => Error::NotGrown {
                        claim: name,
                        size: size.clone(),
                        role: group.role,
                        source,
                    },
                    false => not_patched(name, source),
                })
            }
        }
    }
}

fn not_patched(name: String, source: kube::Error) -> Error {
    Error::Api {
        verb: "patch",
        kind: super::kind::<PersistentVolumeClaim>(),
        name,
        source,
    }
}

/// Whether the object that was meant is not there any more, or another one is under its name: that one's
/// uid cannot change.
fn is_gone(status: &Status) -> bool {
    let causes = status.details.iter().flat_map(|details| &details.causes);
    let mut fields = causes.map(|cause| cause.field.as_str());
    status.is_not_found() || status.is_conflict() || fields.any(|field| field == "metadata.uid")
}

type Strings = BTreeMap<String, String>;

fn is_smaller(claim: &PersistentVolumeClaim, group: &Group) -> bool {
    requested(claim)
        .is_some_and(|size| quantity::nanos(&size.0) < quantity::nanos(&group.storage_size.0))
}
