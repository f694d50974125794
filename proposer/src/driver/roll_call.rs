//! Shows the disk of a proposer, learner or store to the acceptors: they know which cluster it must
//! belong to, with how many acceptors that was founded, and whether a newer copy of the disk has been
//! in use. What follows from their answers is decided in [`paxos::roll_call`].

use std::time::Duration;

use api::env::{Config, Role};
use http::StatusCode;
use paxos::message::{Message, Reply, Request};
use paxos::roll_call::{Finding, RollCall};
use paxos::standing::Refusal;
use tokio::time::sleep;
use tracing::{debug, info};

use super::{StartError, end_on_disk_error, end_on_wrong_disk, members};
use crate::addresses::Addresses;
use crate::identity::Identity;
use crate::link::{Error, Link, Links};
use crate::peers::{Breakers, Lane};

const TIMEOUT: Duration = Duration::from_secs(1);
/// The pause between two calls until a quorum has answered, and after that.
const PAUSE: Duration = Duration::from_millis(100);
const LONG_PAUSE: Duration = Duration::from_secs(2);

/// Asks every acceptor until each has answered. A quorum of them names the cluster; if the disk
/// belongs to another one, the list has another length, or an acceptor knows a newer copy, the process
/// ends. Call within a Tokio runtime.
pub(crate) fn start(
    config: &Config,
    addresses: &Addresses,
    identity: &Identity,
) -> Result<(), StartError> {
    let mut call = RollCall::new(
        identity.name(),
        identity.start(),
        members(config)?,
        identity.cluster(),
        identity.founders(),
    );
    let mut links = Links::new(addresses, identity, Role::Acceptor);
    let identity = identity.clone();
    tokio::spawn(async move {
        loop {
            links.refresh();
            let open = |link: &&Link| !call.has_answered(link.node.id);
            let open: Vec<Link> = links.iter().filter(open).cloned().collect();
            if open.is_empty() {
                return;
            }
            for link in open {
                match enlist(&link, &identity, call.question()).await {
                    Ok(reply) => act(&identity, call.heard(link.node.id, &reply)),
                    Err(error) => {
                        debug!(acceptor = %link.node, %error, "has not seen this start yet");
                    }
                }
            }
            sleep(if call.may_learn() { LONG_PAUSE } else { PAUSE }).await;
        }
    });
    Ok(())
}

/// Asks an acceptor to witness a start. One of an earlier build does not know a question with the length
/// of the list, and is asked without.
pub(crate) async fn enlist(
    link: &Link,
    identity: &Identity,
    request: Request,
) -> Result<Reply, Error> {
    let ask = |request| {
        let frame = identity.frame(Message::Request(request));
        link.ask(Lane::Control, frame, TIMEOUT, Breakers::Ignore)
    };
    let mut answer = ask(request.clone()).await;
    if let (
        Err(Error::Status(StatusCode::BAD_REQUEST)),
        Request::Enlist {
            node,
            start,
            cluster,
            ..
        },
    ) = (&answer, request)
    {
        answer = ask(Request::Enlist {
            node,
            start,
            cluster,
            acceptors: None,
        })
        .await;
    }
    match answer? {
        Message::Reply(reply) => Ok(reply),
        _ => Err(Error::NoReply),
    }
}

fn act(identity: &Identity, finding: Finding) {
    match finding {
        Finding::Open => {}
        Finding::Member { cluster, founders } => {
            if identity.cluster().is_none() {
                let acceptors = founders.map(|founders| founders.count());
                info!(%cluster, acceptors, "joins the cluster");
            }
            if let Err(error) = identity.witnessed(cluster, founders) {
                end_on_disk_error(&error);
            }
        }
        Finding::Refused(refusal) => {
            let mine = match (refusal, identity.cluster()) {
                (Refusal::OtherCluster { .. }, Some(mine)) => {
                    format!(". This one is of cluster {mine}")
                }
                _ => String::new(),
            };
            end_on_wrong_disk(&format!("{refusal}{mine}"));
        }
    }
}
