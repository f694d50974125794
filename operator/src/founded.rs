//! With how many acceptors a cluster was founded, by what is left of it: the claims of its acceptors'
//! volumes, which stay when the PaxosCluster is deleted, and the folders of `local`. Pure but for
//! [`check_folders`], which reads them.
//!
//! A cluster that is made again with another number would have quorums that need not meet those of its
//! past. Its acceptors refuse that themselves; here it is noticed before anything is touched.

use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use kube::ResourceExt;
use proposer::config::Role;
use proposer::identity::acceptors_of;
use proposer::paxos::ids::NodeId;

use crate::cluster::Cluster;
use crate::invalid::Invalid;
use crate::local::Node;
use crate::names;

/// Refuses another number of acceptors than the volumes were made for. `made` says whether the
/// acceptors' set is there, whose own annotation then says it for volumes without one.
pub(crate) fn check_claims(
    cluster: &Cluster,
    claims: &[PersistentVolumeClaim],
    made: bool,
) -> Result<(), Invalid> {
    let wanted = cluster.members.count();
    let stays = |claim: &&PersistentVolumeClaim| claim.metadata.deletion_timestamp.is_none();
    let claims: Vec<(NodeId, &PersistentVolumeClaim)> = claims
        .iter()
        .filter(stays)
        .filter_map(|claim| Some((acceptor(cluster, claim)?, claim)))
        .collect();
    let other = claims.iter().find_map(|(_, claim)| {
        let founded = founders(claim)?;
        (founded != wanted).then_some(founded)
    });
    // Made before claims were annotated: that there are more of them says that there were more acceptors.
    let more = || {
        let ids = claims.iter().map(|(id, _)| id.number());
        ids.max().filter(|most| *most > wanted && !made)
    };
    let Some(founded) = other.or_else(more) else {
        return Ok(());
    };
    let mut names: Vec<String> = claims.iter().map(|(_, claim)| claim.name_any()).collect();
    names.sort_by_key(|name| (name.len(), name.clone()));
    Err(Invalid::volumes(founded, wanted, &names.join(", ")))
}

/// What a claim says.
pub(crate) fn founders(claim: &PersistentVolumeClaim) -> Option<u8> {
    let count = claim.annotations().get(names::ACCEPTORS_ANNOTATION)?;
    count.parse().ok().filter(|count| *count > 0)
}

/// Which acceptor of the cluster a claim belongs to.
pub(crate) fn acceptor(cluster: &Cluster, claim: &PersistentVolumeClaim) -> Option<NodeId> {
    let prefix = format!(
        "{}-{}-",
        names::DATA_VOLUME,
        names::role(&cluster.name, Role::Acceptor)
    );
    let name = claim.metadata.name.as_deref()?;
    let id = name
        .strip_prefix(&prefix)?
        .parse()
        .ok()
        .and_then(NodeId::new)?;
    (names::claim(&cluster.name, Role::Acceptor, id) == name).then_some(id)
}

/// The folders of `local` are of a cluster with another number of acceptors.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the cluster in {folder} was founded with {founded} acceptors, and the file asks for {wanted}: \
     their number is fixed, as quorums of two sizes need not meet. Nothing was started. Set \
     spec.acceptor.replicas to {founded}, or begin anew with another --data-dir"
)]
pub struct OtherCount {
    folder: String,
    founded: u8,
    wanted: u8,
}

/// Refuses another number of acceptors than the folders of a cluster beside each other say.
pub fn check_folders(nodes: &[Node]) -> Result<(), OtherCount> {
    let acceptors = || {
        let all = nodes.iter();
        all.filter(|node| node.config.role == Role::Acceptor)
    };
    let Some(Node { pod, config }) = acceptors().next() else {
        return Ok(());
    };
    let prefix = pod.strip_suffix(&config.node_id.to_string());
    let (Some(prefix), Some(folder)) = (prefix, config.data_dir.parent()) else {
        return Ok(());
    };
    let wanted = acceptors().count() as u8;
    let founded: Vec<(u8, Option<u8>)> = NodeId::first(u8::MAX)
        .filter_map(|id| {
            let (_, founders) = acceptors_of(&folder.join(format!("{prefix}{id}")))?;
            Some((id.number(), founders.map(|founders| founders.count())))
        })
        .collect();
    let other = founded
        .iter()
        .find_map(|(_, founders)| founders.filter(|of| *of != wanted));
    // Of a build that did not write it down: there were as many as there are folders, at least.
    let more = || {
        founded
            .iter()
            .map(|(id, _)| *id)
            .max()
            .filter(|most| *most > wanted)
    };
    match other.or_else(more) {
        Some(founded) => Err(OtherCount {
            folder: folder.display().to_string(),
            founded,
            wanted,
        }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests;
