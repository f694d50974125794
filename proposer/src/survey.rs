//! Who answers at the addresses that this node is given. Each node asks those that it works with who they
//! are: often until it knows, and while it cannot serve, else now and then. What it finds is for people:
//! the reason in `/ready`, warnings, the operator's conditions. Nothing is decided by it.
//!
//! Also kept here: which nodes have sent messages of another cluster.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use api::env::{self, Config, Role};
use api::status::Status;
use futures::stream::{self, StreamExt};
use paxos::ids::{ClusterId, Members, NodeId, NodeName};
use tokio::time::{Instant, sleep, timeout};
use tracing::{info, warn};

use crate::addresses::Addresses;
use crate::connect;
use crate::identity::Identity;

/// The pause between two rounds.
const EVERY: Duration = Duration::from_secs(1);
/// How long what was found as it should be counts for.
const GOOD_FOR: Duration = Duration::from_secs(30);
/// How long a node may take to answer.
const WITHIN: Duration = Duration::from_secs(1);
/// Nodes asked at once.
const AT_ONCE: usize = 8;
/// A `/status` is a few hundred bytes; more than this is not one.
const MAX_BYTES: usize = 64 << 10;
/// How long a message of another cluster is remembered.
const FOREIGN_FOR: Duration = Duration::from_secs(30);

/// What is known. Cheap to clone.
#[derive(Clone, Default)]
pub struct Survey(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    me: Option<Identity>,
    seen: BTreeMap<NodeName, Seen>,
    foreign: BTreeMap<NodeName, (ClusterId, Instant)>,
}

/// A listed node.
struct Seen {
    address: String,
    found: Found,
    at: Instant,
    /// It was found so before, too: then it is no passing matter.
    again: bool,
}

/// Who answers where a node is listed.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Found {
    /// The node itself.
    Itself(Box<Status>),
    /// Another one.
    Stranger(String),
    /// Something that is no node.
    NoNode(String),
    /// Nobody.
    Nobody(String),
}

impl Survey {
    /// Asks without end. `needy` says that this node cannot serve now, so that all is asked often. Call
    /// within a Tokio runtime.
    pub(crate) fn start(
        &self,
        config: &Config,
        addresses: &Addresses,
        identity: &Identity,
        needy: impl Fn() -> bool + Send + 'static,
    ) {
        self.state().me = Some(identity.clone());
        let roles = env::needs(config.role, config.use_cluster_store);
        let (survey, addresses) = (self.clone(), addresses.clone());
        tokio::spawn(async move {
            loop {
                let listed = listed(&addresses, roles, survey.me());
                survey.forget_all_but(&listed);
                let needy = needy();
                let due = listed
                    .into_iter()
                    .filter(|(node, address)| survey.is_due(*node, address, needy));
                let asked = due.map(|(node, address)| async move {
                    let found = ask(node, &address).await;
                    (node, address, found)
                });
                let mut answers = stream::iter(asked).buffer_unordered(AT_ONCE);
                while let Some((node, address, found)) = answers.next().await {
                    survey.note(node, address, found);
                }
                sleep(EVERY).await;
            }
        });
    }

    /// What somebody should see to: addresses at which another node answers, and nodes of other
    /// clusters.
    pub fn warnings(&self) -> Vec<String> {
        let state = self.state();
        let mine = state.me.as_ref().and_then(Identity::cluster);
        let listed = state.seen.iter().filter(|(_, seen)| seen.again);
        let listed = listed.filter_map(|(node, seen)| match &seen.found {
            Found::Stranger(_) | Found::NoNode(_) => Some(seen.describe(*node, mine)),
            Found::Itself(status) if is_foreign(status, mine) => Some(seen.describe(*node, mine)),
            _ => None,
        });
        listed.chain(self.foreigners(&state)).collect()
    }

    /// Nodes that have sent messages of other clusters lately, if any have.
    pub fn foreign(&self) -> Option<String> {
        self.foreigners(&self.state())
    }

    /// How one node is doing, in words; `None` when nothing is wrong with it, or it was not asked yet.
    pub fn trouble(&self, node: NodeName) -> Option<String> {
        let state = self.state();
        let mine = state.me.as_ref().and_then(Identity::cluster);
        let seen = state.seen.get(&node)?;
        (!seen.is_well(mine)).then(|| seen.describe(node, mine))
    }

    /// Why there may be no leader: which acceptors do not vote, and why.
    pub fn why_no_quorum(&self, members: Members) -> String {
        let state = self.state();
        let mine = state.me.as_ref().and_then(Identity::cluster);
        let seen = |id: NodeId| {
            let node = acceptor(id);
            (node, state.seen.get(&node))
        };
        let (mut well, mut open, mut ill) = (0, 0, Vec::new());
        for (node, seen) in members.acceptors().map(seen) {
            match seen {
                None => open += 1,
                Some(seen) if seen.is_well(mine) => well += 1,
                Some(seen) => ill.push(seen.describe(node, mine)),
            }
        }
        let (all, quorum) = (members.count(), members.quorum());
        if ill.is_empty() {
            return match open {
                0 => format!("all {all} acceptors vote: an election is under way"),
                _ => "the acceptors have just been asked how they are".to_owned(),
            };
        }
        let enough = match members.is_quorum(well) {
            true => "an election is under way",
            false => "that is too few",
        };
        let ill = ill.join("; ");
        format!("{well} of {all} acceptors vote, {quorum} are needed: {enough}. {ill}")
    }

    /// A message of another cluster has come.
    pub(crate) fn note_foreign(&self, from: NodeName, cluster: ClusterId) {
        let before = {
            let foreign = &mut self.state().foreign;
            foreign.insert(from, (cluster, Instant::now()))
        };
        if before.is_none_or(|(before, _)| before != cluster) {
            warn!(
                node = %from,
                cluster = %cluster,
                "a node of another cluster sends messages to this one: it has the wrong disk, or this \
                 node has"
            );
        }
    }

    fn foreigners(&self, state: &State) -> Option<String> {
        let mine = state.me.as_ref().and_then(Identity::cluster)?;
        let fresh = |at: &Instant| at.elapsed() < FOREIGN_FOR;
        let nodes = state.foreign.iter().filter(|(_, (_, at))| fresh(at));
        let nodes = nodes.filter(|(_, (cluster, _))| *cluster != mine);
        let nodes: Vec<String> = nodes
            .map(|(node, (cluster, _))| format!("{node} of cluster {cluster}"))
            .collect();
        (!nodes.is_empty()).then(|| {
            let nodes = nodes.join(", ");
            format!(
                "this node's disk is of cluster {mine}, and others are not: {nodes}. Were volumes lost \
                 or exchanged? Give each node the volume that it had"
            )
        })
    }

    fn me(&self) -> Option<NodeName> {
        self.state().me.as_ref().map(Identity::name)
    }

    fn forget_all_but(&self, listed: &[(NodeName, String)]) {
        let stays = |node: &NodeName, seen: &mut Seen| {
            let mut listed = listed.iter();
            listed.any(|(other, address)| other == node && *address == seen.address)
        };
        self.state().seen.retain(stays);
    }

    fn is_due(&self, node: NodeName, address: &str, needy: bool) -> bool {
        let state = self.state();
        let mine = state.me.as_ref().and_then(Identity::cluster);
        let known = state.seen.get(&node);
        known.is_none_or(|seen| {
            let good = seen.address == address && seen.is_well(mine);
            !good || needy || seen.at.elapsed() >= GOOD_FOR
        })
    }

    fn note(&self, node: NodeName, address: String, found: Found) {
        let mut state = self.state();
        let mine = state.me.as_ref().and_then(Identity::cluster);
        let before = state.seen.remove(&node);
        let same = |seen: &Seen| seen.found.is_like(&found);
        let again = before.as_ref().is_some_and(same);
        let said = before.is_some_and(|seen| seen.again && again);
        let seen = Seen {
            address,
            found,
            at: Instant::now(),
            again,
        };
        let (text, stands) = (seen.describe(node, mine), again && !said);
        let (wrong, well) = (seen.is_wrong(mine), seen.is_well(mine));
        state.seen.insert(node, seen);
        drop(state);
        if stands && wrong {
            warn!(node = %node, "{text}");
        } else if stands && !well {
            info!(node = %node, "{text}");
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Found {
    /// Whether it is the same finding, though counters may have moved.
    fn is_like(&self, other: &Found) -> bool {
        match (self, other) {
            (Found::Nobody(_), Found::Nobody(_)) => true,
            (one, other) => one == other,
        }
    }
}

impl Seen {
    fn is_well(&self, mine: Option<ClusterId>) -> bool {
        match &self.found {
            Found::Itself(status) => {
                let votes = status.role() != Role::Acceptor || status.state() == "voting";
                votes && status.refusal().is_none() && !is_foreign(status, mine)
            }
            _ => false,
        }
    }

    /// Whether somebody must mend it: a node that is down comes back by itself.
    fn is_wrong(&self, mine: Option<ClusterId>) -> bool {
        match &self.found {
            Found::Itself(status) => status.refusal().is_some() || is_foreign(status, mine),
            Found::Stranger(_) | Found::NoNode(_) => true,
            Found::Nobody(_) => false,
        }
    }

    fn describe(&self, node: NodeName, mine: Option<ClusterId>) -> String {
        let Seen { address, found, .. } = self;
        let list = node.role.list_variable();
        match found {
            Found::Stranger(other) => format!(
                "{address} is listed as {node}, and another node answers there, {other}: {list} is not \
                 in the right order, or names a wrong address"
            ),
            Found::NoNode(what) => format!(
                "{address} is listed as {node}, and no node answers there ({what}): {list} names a \
                 wrong address"
            ),
            Found::Nobody(why) => format!("{node} at {address} cannot be reached ({why})"),
            Found::Itself(status) if is_foreign(status, mine) => {
                let theirs = status.node().cluster.as_deref().unwrap_or_default();
                let mine = mine.map_or_else(String::new, |mine| mine.to_string());
                format!(
                    "{node} at {address} is of cluster {theirs}, and this node's disk of {mine}: were \
                     volumes lost or exchanged? Give each node the volume that it had"
                )
            }
            Found::Itself(status) => match status.refusal() {
                Some(why) => format!("{node} does not vote: {why}"),
                None => format!("{node} is {}", status.state()),
            },
        }
    }
}

impl fmt::Debug for Survey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Survey")
    }
}

fn is_foreign(status: &Status, mine: Option<ClusterId>) -> bool {
    let theirs = status.node().cluster.as_deref();
    let theirs = theirs.and_then(ClusterId::parse);
    matches!((theirs, mine), (Some(theirs), Some(mine)) if theirs != mine)
}

fn acceptor(id: NodeId) -> NodeName {
    NodeName {
        role: Role::Acceptor,
        id,
    }
}

/// Every node of these roles but this one.
fn listed(addresses: &Addresses, roles: &[Role], me: Option<NodeName>) -> Vec<(NodeName, String)> {
    let lists = addresses.now();
    let of_role = |role: Role| {
        let list = lists.of_role(role).iter().enumerate();
        let node = move |(index, address): (usize, &String)| {
            let id = NodeId::at(index)?;
            Some((NodeName { role, id }, address.clone()))
        };
        list.filter_map(node).collect::<Vec<_>>()
    };
    let all = roles.iter().flat_map(|role| of_role(*role));
    all.filter(|(node, _)| Some(*node) != me).collect()
}

async fn ask(node: NodeName, address: &str) -> Found {
    let asked = connect::get(address, address, "/status", MAX_BYTES);
    let answer = match timeout(WITHIN, asked).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(connect::Error::Connect(error))) => return Found::Nobody(error.to_string()),
        Ok(Err(connect::Error::Broken(error))) => return Found::Nobody(error.to_string()),
        Ok(Err(connect::Error::Body(error))) => return Found::NoNode(error.to_string()),
        Ok(Err(connect::Error::Request(error))) => return Found::NoNode(error.to_string()),
        Err(_) => return Found::Nobody(format!("no answer within {} s", WITHIN.as_secs())),
    };
    let Ok(status) = serde_json::from_slice::<Status>(answer.body()) else {
        return Found::NoNode(format!("GET /status gives {}", answer.status()));
    };
    let (role, id) = (status.role(), status.node().node_id);
    match role == node.role && id == node.id.number() {
        true => Found::Itself(Box::new(status)),
        false => Found::Stranger(format!("{role}-{id}")),
    }
}

#[cfg(test)]
mod tests;
