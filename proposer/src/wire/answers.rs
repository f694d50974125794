//! Answers about the node itself, and those of the protocol's readable form.

use serde::Serialize;
use utoipa::ToSchema;

use super::{CommandView, EntryView};

/// What every role says in `GET /status`.
#[derive(Debug, Serialize, ToSchema)]
pub struct NodeStatus {
    /// `NODE_ID`
    pub node_id: u8,
    /// `ROLE`
    pub role: &'static str,
    /// Of the program.
    pub version: &'static str,
    /// Seconds since the start.
    pub uptime: u64,
    /// The cluster that its volume belongs to, once it knows.
    pub cluster: Option<String>,
    /// With how many acceptors that cluster was founded, once it knows.
    pub acceptors: Option<u8>,
    /// What somebody should see to, such as an address at which another node answers.
    pub warnings: Vec<String>,
    /// Names this node's disk: made with it, and the same after every restart.
    pub incarnation: String,
    /// Starts on this volume.
    pub starts: u64,
    /// Whether it can serve.
    pub ready: bool,
}

/// `GET /status` of a proposer.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Status)]
pub struct ProposerStatus {
    /// What every role says.
    #[serde(flatten)]
    pub node: NodeStatus,
    /// Whether this one leads.
    pub is_leader: bool,
    /// The leader that it knows.
    pub leader_id: Option<u8>,
    /// The leader's term; 0 without one.
    pub term: u64,
    /// The last instance given out or heard of.
    pub last_instance_id: u64,
    /// Every instance up to here is chosen.
    pub committed_instance_id: u64,
    /// The counter of its own newest proposal number.
    pub proposal_counter: u64,
    /// Why no proposer may lead: a learner or a store has applied more than the acceptors know.
    pub behind: Option<String>,
    /// `following`, `preparing`, `leading`, `leaving` and the like.
    pub state: &'static str,
}

/// `GET /status` of an acceptor.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Status)]
pub struct AcceptorStatus {
    /// What every role says.
    #[serde(flatten)]
    pub node: NodeStatus,
    /// Never.
    pub is_leader: bool,
    /// The proposer of the highest promise.
    pub leader_id: Option<u8>,
    /// The counter of the highest promise.
    pub term: u64,
    /// The same.
    pub proposal_counter: u64,
    /// The highest promise, a proposal number.
    pub highest_promised: u64,
    /// The last instance that it voted in.
    pub last_instance_id: u64,
    /// Every instance up to here is chosen.
    pub committed_instance_id: u64,
    /// Every instance up to here is learned everywhere, and forgotten here.
    pub trimmed_instance_id: u64,
    /// `voting`, `joining`, or why it does not vote.
    pub state: &'static str,
    /// Why it does not vote, in words.
    pub refusal: Option<String>,
    /// Size of its log.
    pub log_bytes: u64,
    /// How long a sync of its log takes, in milliseconds.
    pub disk_sync_ms: u64,
    /// Why it takes no new votes for want of space, in words.
    pub no_room: Option<&'static str>,
}

/// `GET /status` of a learner.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Status)]
pub struct LearnerStatus {
    /// What every role says.
    #[serde(flatten)]
    pub node: NodeStatus,
    /// Never.
    pub is_leader: bool,
    /// The proposer that told last what is chosen.
    pub leader_id: Option<u8>,
    /// As `applied_instance_id`.
    pub last_instance_id: u64,
    /// Every instance up to here is chosen.
    pub committed_instance_id: u64,
    /// Every instance up to here is applied.
    pub applied_instance_id: u64,
    /// Every instance up to here is on this node's disk.
    pub durable_instance_id: u64,
    /// How many resources there are.
    pub resources: usize,
    /// How many requests are remembered.
    pub sessions: usize,
    /// The stores that follow.
    pub stores: Vec<StoreState>,
    /// `learning`, `catching-up`, `data-lost` or `halted`.
    pub state: &'static str,
    /// Why it no longer applies.
    pub halted: Option<String>,
    /// The kind of that: `undecodable`, `disagrees` or `contradicted`.
    pub halt_reason: Option<&'static str>,
    /// Which instances no node has that this learner needs, and what to do.
    pub data_lost: Option<String>,
}

/// A store as a learner sees it.
#[derive(Debug, Serialize, ToSchema)]
pub struct StoreState {
    /// Its number.
    pub node_id: u8,
    /// Every instance up to here is applied there.
    pub applied_instance_id: u64,
    /// Instances that it is behind.
    pub lag: u64,
    /// Whether it answers.
    pub reachable: bool,
}

/// `GET /status` of a store.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Status)]
pub struct StoreStatus {
    /// What every role says.
    #[serde(flatten)]
    pub node: NodeStatus,
    /// Never.
    pub is_leader: bool,
    /// Stores know no leader.
    pub leader_id: Option<u8>,
    /// As `applied_instance_id`.
    pub last_instance_id: u64,
    /// Every instance up to here is chosen.
    pub committed_instance_id: u64,
    /// Every instance up to here is applied.
    pub applied_instance_id: u64,
    /// Every instance up to here is on this node's disk.
    pub durable_instance_id: u64,
    /// The learner that it follows now.
    pub follows_learner: Option<u64>,
    /// How many resources there are.
    pub resources: Option<u64>,
    /// How many requests are remembered.
    pub sessions: u64,
    /// `following`, `catching-up` or `halted`.
    pub state: &'static str,
    /// Why it no longer applies.
    pub halted: Option<String>,
    /// The kind of that: `undecodable` or `contradicted`.
    pub halt_reason: Option<&'static str>,
}

/// The answer to `POST /learn`.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Learned<'a> {
    /// `learned` or `pending`.
    pub status: &'static str,
    /// The instance asked for.
    pub instance_id: u64,
    /// What is chosen there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub entry: Option<EntryView<'a>>,
}

/// `GET /instances`
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Instances)]
pub struct InstancesView<'a> {
    /// In order.
    pub instances: Vec<EntryView<'a>>,
    /// The `from` of the next page.
    pub next: u64,
}

/// `GET /health`
#[derive(Debug, Serialize, ToSchema)]
pub struct Health {
    /// `healthy`
    pub status: &'static str,
    /// `NODE_ID`
    pub node_id: u8,
    /// `ROLE`
    pub role: &'static str,
    /// Seconds since the start.
    pub uptime: u64,
}

/// `GET /ready`
#[derive(Debug, Serialize, ToSchema)]
pub struct Ready {
    /// `ready`
    pub status: &'static str,
    /// What somebody should see to all the same.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

/// `GET /logs` and `GET /logs/important`
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = LogEntries)]
pub struct LogsView {
    /// The newest entries, each an object.
    pub logs: Vec<serde_json::Value>,
}

/// `GET /leader-status`
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct LeaderStatus {
    /// This proposer.
    pub leader_id: u8,
    /// Its term.
    pub term: u64,
    /// term × 256 + leaderId
    pub proposal_number: u64,
    /// The last instance given out.
    pub last_instance_id: u64,
    /// Every instance up to here is chosen.
    pub committed_instance_id: u64,
    /// Seconds since the start of the process.
    pub uptime: u64,
}

/// The answer to `POST /leader-heartbeat`.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Acknowledged {
    /// `acknowledged`
    pub status: &'static str,
    /// Whether its term was older than the one known here.
    pub ignored: bool,
    /// The proposer that answers.
    pub node_id: u8,
    /// The newest term that it knows.
    pub term: u64,
}

/// The answer to `POST /prepare`.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Prepared<'a> {
    /// `PROMISE` or `NOT_PROMISE`.
    pub r#type: &'static str,
    /// Whether it promised.
    pub accepted: bool,
    /// The proposal number of its vote in this instance; -1 without one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub highest_accepted: Option<i64>,
    /// What it voted for.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(inline)]
    pub accepted_value: Option<AcceptedValue<'a>>,
    /// The higher number that it has promised.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub highest_promised: Option<u64>,
}

/// A vote's value.
#[derive(Debug, Serialize, ToSchema)]
pub struct AcceptedValue<'a> {
    /// To read.
    #[serde(flatten)]
    pub command: CommandView<'a>,
    /// To the byte, in base64: to be proposed again as it is.
    pub encoded: String,
}

/// The answer to `POST /accept`.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Accepted {
    /// `ACCEPTED` or `NOT_ACCEPTED`.
    pub r#type: &'static str,
    /// Whether it voted.
    pub accepted: bool,
    /// Where it voted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub instance_id: Option<u64>,
    /// At which proposal number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub proposal_number: Option<u64>,
    /// The higher number that it has promised.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub highest_promised: Option<u64>,
}
