//! Shows the disk of a proposer, learner or store to the acceptors: they know which cluster it must
//! belong to, and whether a newer copy of it has been in use.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::sleep;
use tracing::{debug, info};

use super::{StartError, end_on_disk_error, end_on_wrong_disk, members};
use crate::addresses::Addresses;
use crate::config::{Config, Role};
use crate::identity::Identity;
use crate::link::{Link, Links};
use crate::paxos::ids::{ClusterId, Members, NodeId};
use crate::paxos::message::{Message, Reply, Request};
use crate::paxos::standing::Refusal;
use crate::peers::{Breakers, Lane};

const TIMEOUT: Duration = Duration::from_secs(1);
/// The pause between two calls while the cluster is not known, and after that.
const PAUSE: Duration = Duration::from_millis(100);
const LONG_PAUSE: Duration = Duration::from_secs(2);

/// Asks every acceptor until each has answered. A quorum of them names the cluster; if the disk
/// belongs to another one, or an acceptor knows a newer copy, the process ends. Call within a Tokio
/// runtime.
pub(crate) fn start(
    config: &Config,
    addresses: &Addresses,
    identity: &Identity,
) -> Result<(), StartError> {
    let members = members(config)?;
    let mut links = Links::new(addresses, identity, Role::Acceptor);
    let identity = identity.clone();
    tokio::spawn(async move {
        let mut answers = BTreeMap::new();
        while answers.len() < links.len() {
            links.refresh();
            for link in links.iter() {
                if !answers.contains_key(&link.node.id)
                    && let Some(cluster) = ask(link, &identity).await
                {
                    answers.insert(link.node.id, cluster);
                    settle(&identity, members, &answers);
                }
            }
            let known = identity.cluster().is_some();
            sleep(if known { LONG_PAUSE } else { PAUSE }).await;
        }
    });
    Ok(())
}

/// The cluster that an acceptor votes in, once it knows this start.
async fn ask(link: &Link, identity: &Identity) -> Option<ClusterId> {
    let request = Request::Enlist {
        node: identity.name(),
        start: identity.start(),
        cluster: identity.cluster(),
    };
    let frame = identity.frame(Message::Request(request));
    let answer = link.ask(Lane::Control, frame, TIMEOUT, Breakers::Ignore);
    match answer.await {
        Ok(Message::Reply(Reply::Witnessed { cluster, .. })) => cluster,
        Ok(Message::Reply(Reply::Refused { refusal, .. })) => match refusal {
            Refusal::OtherCluster { cluster } => Some(cluster),
            refusal => end_on_wrong_disk(&refusal.to_string()),
        },
        Ok(_) => None,
        Err(error) => {
            debug!(acceptor = %link.node, %error, "has not seen this start yet");
            None
        }
    }
}

/// Acts on the answer that completes a quorum.
fn settle(identity: &Identity, members: Members, answers: &BTreeMap<NodeId, ClusterId>) {
    let votes = |cluster| answers.values().filter(|other| **other == cluster).count();
    let mut named = answers.values().copied();
    let Some(cluster) = named.find(|cluster| votes(*cluster) == members.quorum()) else {
        return;
    };
    match identity.cluster() {
        Some(mine) if mine != cluster => {
            let refusal = Refusal::OtherCluster { cluster };
            end_on_wrong_disk(&format!("{refusal}. This one is of cluster {mine}"));
        }
        known => {
            if known.is_none() {
                info!(target: "important", %cluster, "joins the cluster");
            }
            if let Err(error) = identity.witnessed(cluster) {
                end_on_disk_error(&error);
            }
        }
    }
}
