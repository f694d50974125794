//! What the cluster's disks say: the learners' logs against each other, against the acceptors'
//! votes, and against what clients received.

use std::collections::BTreeMap;
use std::time::Duration;

use api::env::Role;
use node::link;
use node::wire::CommandView;
use paxos::codec::{Frame, NodeName, Version};
use paxos::ids::{ClusterId, NodeId, Slot};
use paxos::message::{Message, Reply, Request, Vote};
use serde::Deserialize;
use serde_json::Value as Json;

use super::client::Outcome;
use super::{Cluster, Name, http};

/// A line of `/log`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LogLine {
    /// The slot.
    pub instance_id: u64,
    /// What became of it.
    pub status: String,
    /// The version after it.
    pub version: Option<u64>,
    /// Where a repeated request took effect.
    pub duplicate_of: Option<u64>,
    /// What was chosen.
    #[serde(flatten)]
    pub command: Json,
}

/// What was seen so far. Looks further with each [`Audit::look`], since logs are trimmed behind it.
#[derive(Default)]
pub struct Audit {
    /// What is chosen, by slot, as the first learner showed it.
    pub chosen: BTreeMap<u64, LogLine>,
    /// Slots whose votes were compared with what the learners say.
    pub votes_compared: u64,
    /// Lines that a second learner showed as well.
    pub lines_compared: u64,
    /// Every contradiction.
    pub violations: Vec<String>,
    next_line: BTreeMap<Name, u64>,
    next_vote: u64,
}

impl Audit {
    /// Reads on in the log of every learner and in the votes of all acceptors. What does not answer
    /// is read next time.
    pub fn look(&mut self, cluster: &Cluster) {
        for learner in cluster.of_role(Role::Learner) {
            if self.read_log(cluster, learner).is_none() {
                continue;
            }
        }
        self.read_votes(cluster);
    }

    /// Compares what a client received with what is chosen.
    pub fn acknowledged(&mut self, client: &str, request: &str, key: &str, outcome: Outcome) {
        let (status, instance, version) = match outcome {
            Outcome::Committed { instance, version } => ("COMMITTED", instance, version),
            Outcome::NotCommitted { instance, version } => ("NOT_COMMITTED", instance, version),
            Outcome::Unknown => return,
        };
        let holds = self.chosen.get(&instance).is_some_and(|line| {
            line.status == status
                && line.version == Some(version)
                && line.command["clientId"] == client
                && line.command["requestId"] == request
                && line.command["resource"] == key
        });
        if !holds {
            let line = self.chosen.get(&instance);
            self.violations.push(format!(
                "lost: {client} was told {outcome:?} for {request} on {key}, the log has {line:?}"
            ));
        }
    }

    fn read_log(&mut self, cluster: &Cluster, learner: Name) -> Option<()> {
        let node = cluster.node(learner);
        let next = *self.next_line.entry(learner).or_insert(1);
        let url = |from| format!("{}/log?from={from}&follow=false", node.url());
        let mut answer = http::get(&url(next)).ok()?;
        let mut expected = next;
        if answer.status == 410 {
            // It took over a snapshot, and has no log before that.
            let detail = answer.json()["detail"].as_str()?.to_owned();
            let floor = detail
                .split(' ')
                .find_map(|word| word.parse::<u64>().ok())?;
            expected = floor + 1;
            answer = http::get(&url(expected)).ok()?;
        }
        if answer.status != 200 {
            return None;
        }
        for text in answer.text().lines() {
            let Ok(line) = serde_json::from_str::<LogLine>(text) else {
                self.violations
                    .push(format!("{learner:?} shows the line {text:?}"));
                break;
            };
            if line.instance_id != expected {
                self.violations.push(format!(
                    "{learner:?} shows {line:?} where {expected} belongs"
                ));
                break;
            }
            expected += 1;
            match self.chosen.get(&line.instance_id) {
                None => drop(self.chosen.insert(line.instance_id, line)),
                Some(known) if *known == line => self.lines_compared += 1,
                Some(known) => self.violations.push(format!(
                    "two values: {learner:?} shows {line:?}, another learner {known:?}"
                )),
            }
        }
        self.next_line.insert(learner, expected);
        Some(())
    }

    fn read_votes(&mut self, cluster: &Cluster) {
        let Some((&last, _)) = self.chosen.last_key_value() else {
            return;
        };
        let acceptors = cluster.of_role(Role::Acceptor);
        let from = self.next_vote.max(1);
        let answers: Vec<Vec<Vote>> = acceptors
            .iter()
            .filter_map(|acceptor| votes(cluster, *acceptor, from, last))
            .collect();
        if answers.len() <= acceptors.len() / 2 {
            return;
        }
        let mut by_slot: BTreeMap<u64, Vec<&Vote>> = BTreeMap::new();
        for vote in answers.iter().flatten() {
            by_slot.entry(vote.slot.0).or_default().push(vote);
        }
        for (slot, votes) in by_slot {
            let Some(line) = self.chosen.get(&slot) else {
                continue;
            };
            for (i, vote) in votes.iter().enumerate() {
                let differs =
                    |other: &&&Vote| other.ballot == vote.ballot && other.value != vote.value;
                if let Some(other) = votes[..i].iter().find(differs) {
                    self.violations
                        .push(format!("two values at one ballot: {vote:?}, {other:?}"));
                }
            }
            // A majority has voted for the chosen value, and no later ballot may carry another one.
            let highest = votes.iter().max_by_key(|vote| vote.ballot);
            let value = highest.map(|vote| serde_json::json!(CommandView::of(&vote.value)));
            if value.as_ref() != Some(&line.command) {
                self.violations.push(format!(
                    "two values: the learners show {line:?}, the acceptors' votes are {votes:?}"
                ));
            }
            self.votes_compared += 1;
        }
        self.next_vote = last + 1;
    }
}

/// An acceptor's votes from one slot to another, without those that it has forgotten.
fn votes(cluster: &Cluster, (role, id): Name, from: u64, to: u64) -> Option<Vec<Vote>> {
    let name = |role, id| {
        let id = NodeId::new(id)?;
        Some(NodeName { role, id })
    };
    let path = link::path(name(role, id)?);
    let url = format!("{}{path}", cluster.node((role, id)).url());
    let agent = http::agent(Duration::from_secs(10));
    let status = cluster.node((role, id)).status()?;
    let known = ClusterId::parse(status["cluster"].as_str()?);
    let mut from = Slot(from);
    let mut all = Vec::new();
    while from.0 <= to {
        let message = Message::Request(Request::Fetch { from, to: Slot(to) });
        let from_learner = name(Role::Learner, 1)?;
        let frame = Frame {
            // Nodes of the build before are audited, too.
            version: Version::OLDEST,
            from: from_learner,
            cluster: known,
            message,
        };
        let answer = http::post(&agent, &url, frame.encode().to_vec()).ok()?;
        match Frame::decode(answer.body.into()).ok()?.message {
            Message::Reply(Reply::Fetched { to, votes, .. }) => {
                all.extend(votes);
                from = to.next();
            }
            Message::Reply(Reply::Truncated { floor, .. }) => from = floor.next(),
            _ => return None,
        }
    }
    Some(all)
}
