//! Answers about the node itself, and those of the protocol's readable form.

use serde::Serialize;
use utoipa::ToSchema;

use super::{CommandView, EntryView};

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
