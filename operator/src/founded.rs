//! With how many acceptors a cluster was founded, by the claims of its acceptors' volumes, which stay when
//! the PaxosCluster is deleted. Pure.
//!
//! A cluster that is made again with another number would have quorums that need not meet those of its
//! past. Its acceptors refuse that themselves; here it is noticed before anything is touched.

use api::env::Role;
use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use kube::ResourceExt;
use paxos::ids::NodeId;

use crate::cluster::Cluster;
use crate::invalid::Invalid;
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

#[cfg(test)]
mod tests;
