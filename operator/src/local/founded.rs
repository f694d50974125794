//! With how many acceptors a cluster of folders was founded.

use api::env::Role;
use node::identity::acceptors_of;
use paxos::ids::NodeId;

use super::Node;

/// The folders of `local` are of a cluster with another number of acceptors.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the cluster in {folder} was founded with {founded} acceptors, and the file asks for {wanted}: \
     their number is fixed, as quorums of two sizes need not meet. Nothing was started. Set \
     spec.acceptor.replicas to {founded}, or start over with another --data-dir"
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
