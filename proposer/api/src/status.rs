//! `GET /status`: what a node says of itself. Its names are written as in the contract, with
//! underscores; all other JSON of this product has camelCase names.
//!
//! A field without a default is one that some reader decides by: a node that left it out would be taken for
//! one that does not answer, so it stays for good.

use std::borrow::Cow;

use paxos::ids::Role;
use paxos::standing::Refusal;
use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize};

/// What any node says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Status {
    /// A proposer.
    Proposer(ProposerStatus),
    /// An acceptor.
    Acceptor(AcceptorStatus),
    /// A learner.
    Learner(LearnerStatus),
    /// A store.
    Store(StoreStatus),
}

impl Status {
    /// What nodes of every role say.
    pub fn node(&self) -> &NodeStatus {
        match self {
            Status::Proposer(of) => &of.node,
            Status::Acceptor(of) => &of.node,
            Status::Learner(of) => &of.node,
            Status::Store(of) => &of.node,
        }
    }

    /// Its role.
    pub fn role(&self) -> Role {
        match self {
            Status::Proposer(_) => Role::Proposer,
            Status::Acceptor(_) => Role::Acceptor,
            Status::Learner(_) => Role::Learner,
            Status::Store(_) => Role::Store,
        }
    }

    /// Whether it leads.
    pub fn is_leader(&self) -> bool {
        matches!(self, Status::Proposer(of) if of.is_leader)
    }

    /// The leader that it knows.
    pub fn leader_id(&self) -> Option<u8> {
        match self {
            Status::Proposer(of) => of.leader_id,
            Status::Acceptor(of) => of.leader_id,
            Status::Learner(of) => of.leader_id,
            Status::Store(of) => of.leader_id,
        }
    }

    /// The term of the leader that it knows, or of its highest promise.
    pub fn term(&self) -> Option<u64> {
        match self {
            Status::Proposer(of) => Some(of.term),
            Status::Acceptor(of) => Some(of.term),
            Status::Learner(_) | Status::Store(_) => None,
        }
    }

    /// The last instance that it has.
    pub fn last_instance_id(&self) -> u64 {
        match self {
            Status::Proposer(of) => of.last_instance_id,
            Status::Acceptor(of) => of.last_instance_id,
            Status::Learner(of) => of.last_instance_id,
            Status::Store(of) => of.last_instance_id,
        }
    }

    /// Every instance up to here is chosen.
    pub fn committed_instance_id(&self) -> u64 {
        match self {
            Status::Proposer(of) => of.committed_instance_id,
            Status::Acceptor(of) => of.committed_instance_id,
            Status::Learner(of) => of.committed_instance_id,
            Status::Store(of) => of.committed_instance_id,
        }
    }

    /// What it is doing, in a word.
    pub fn state(&self) -> &str {
        match self {
            Status::Proposer(of) => &of.state,
            Status::Acceptor(of) => &of.state,
            Status::Learner(of) => &of.state,
            Status::Store(of) => &of.state,
        }
    }

    /// Why it has stopped applying for good.
    pub fn halt(&self) -> Option<Halt> {
        let (why, reason) = match self {
            Status::Learner(of) => (&of.halted, of.halt_reason),
            Status::Store(of) => (&of.halted, of.halt_reason),
            Status::Proposer(_) | Status::Acceptor(_) => return None,
        };
        Some(Halt {
            reason: reason.unwrap_or(HaltReason::Unknown),
            why: why.clone()?,
        })
    }

    /// Why no proposer may lead.
    pub fn behind(&self) -> Option<&str> {
        match self {
            Status::Proposer(of) => of.behind.as_deref(),
            _ => None,
        }
    }

    /// What a learner needs and no node has.
    pub fn data_lost(&self) -> Option<&str> {
        match self {
            Status::Learner(of) => of.data_lost.as_deref(),
            _ => None,
        }
    }

    /// Why an acceptor must not vote.
    pub fn refusal(&self) -> Option<&str> {
        match self {
            Status::Acceptor(of) => of.refusal.as_deref(),
            _ => None,
        }
    }

    /// Why an acceptor takes no new values.
    pub fn no_room(&self) -> Option<&str> {
        match self {
            Status::Acceptor(of) => of.no_room.as_deref(),
            _ => None,
        }
    }
}

impl<'de> Deserialize<'de> for Status {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Status, D::Error> {
        let said = serde_json::Value::deserialize(deserializer)?;
        let role = said.get("role").and_then(serde_json::Value::as_str);
        let status = match role.and_then(Role::parse) {
            Some(Role::Proposer) => serde_json::from_value(said).map(Status::Proposer),
            Some(Role::Acceptor) => serde_json::from_value(said).map(Status::Acceptor),
            Some(Role::Learner) => serde_json::from_value(said).map(Status::Learner),
            Some(Role::Store) => serde_json::from_value(said).map(Status::Store),
            None => return Err(D::Error::custom("this version does not know the role")),
        };
        status.map_err(D::Error::custom)
    }
}

/// What every role says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct NodeStatus {
    /// `NODE_ID`
    pub node_id: u8,
    /// `ROLE`
    pub role: Cow<'static, str>,
    /// Of the program.
    #[serde(default)]
    pub version: Cow<'static, str>,
    /// Seconds since the start.
    #[serde(default)]
    pub uptime: u64,
    /// The cluster that its volume belongs to, once it knows.
    pub cluster: Option<String>,
    /// With how many acceptors that cluster was founded, once it knows.
    pub acceptors: Option<u8>,
    /// What somebody should see to, such as an address at which another node answers.
    #[serde(default)]
    pub warnings: Vec<String>,
    /// Names this node's disk: made with it, and the same after every restart.
    pub incarnation: String,
    /// Starts on this volume.
    #[serde(default)]
    pub starts: u64,
    /// Whether it can serve.
    pub ready: bool,
}

/// `GET /status` of a proposer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema), schema(as = Status))]
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
    #[serde(default)]
    pub proposal_counter: u64,
    /// Why no proposer may lead: a learner or a store has applied more than the acceptors know.
    pub behind: Option<String>,
    /// `following`, `preparing`, `leading`, `leaving` and the like.
    pub state: Cow<'static, str>,
}

/// `GET /status` of an acceptor.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema), schema(as = Status))]
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
    #[serde(default)]
    pub proposal_counter: u64,
    /// The highest promise, a proposal number.
    #[serde(default)]
    pub highest_promised: u64,
    /// The last instance that it voted in.
    pub last_instance_id: u64,
    /// Every instance up to here is chosen.
    pub committed_instance_id: u64,
    /// Every instance up to here is learned everywhere, and forgotten here.
    pub trimmed_instance_id: u64,
    /// `voting`, `joining`, or why it does not vote.
    pub state: Cow<'static, str>,
    /// Why it does not vote, in words.
    pub refusal: Option<String>,
    /// The kind of that: `amnesia`, `older-copy`, `other-cluster`, `not-a-member` or `other-count`.
    pub refusal_reason: Option<RefusalReason>,
    /// Size of its log.
    #[serde(default)]
    pub log_bytes: u64,
    /// How long a sync of its log takes, in milliseconds.
    #[serde(default)]
    pub disk_sync_ms: u64,
    /// Why it takes no new votes for want of space, in words.
    pub no_room: Option<Cow<'static, str>>,
}

/// `GET /status` of a learner.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema), schema(as = Status))]
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
    #[serde(default)]
    pub resources: u64,
    /// How many requests are remembered.
    #[serde(default)]
    pub sessions: u64,
    /// The stores that follow.
    #[serde(default)]
    pub stores: Vec<StoreState>,
    /// `learning`, `catching-up`, `data-lost` or `halted`.
    pub state: Cow<'static, str>,
    /// Why it no longer applies.
    pub halted: Option<String>,
    /// The kind of that: `undecodable`, `disagrees` or `contradicted`.
    pub halt_reason: Option<HaltReason>,
    /// Which instances no node has that this learner needs, and what to do.
    pub data_lost: Option<String>,
}

/// A store as a learner sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
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
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema), schema(as = Status))]
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
    #[serde(default)]
    pub sessions: u64,
    /// `following`, `catching-up` or `halted`.
    pub state: Cow<'static, str>,
    /// Why it no longer applies.
    pub halted: Option<String>,
    /// The kind of that: `undecodable` or `contradicted`.
    pub halt_reason: Option<HaltReason>,
}

/// Why a learner or a store has stopped applying for good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Halt {
    /// The kind of reason.
    pub reason: HaltReason,
    /// What happened and what to do.
    pub why: String,
}

/// The kind of reason for which a learner or a store has stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum HaltReason {
    /// A value that this version cannot decode.
    Undecodable,
    /// Other learners have applied something else.
    Disagrees,
    /// Acceptors, or every learner that a store could follow, have something else.
    Contradicted,
    /// One that only a newer version knows.
    #[serde(other)]
    Unknown,
}

impl HaltReason {
    /// As in `/status`.
    pub const fn name(self) -> &'static str {
        match self {
            HaltReason::Undecodable => "undecodable",
            HaltReason::Disagrees => "disagrees",
            HaltReason::Contradicted => "contradicted",
            HaltReason::Unknown => "unknown",
        }
    }
}

/// The kind of reason for which an acceptor must not vote; see [`Refusal`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum RefusalReason {
    /// Its disk was wiped or exchanged.
    Amnesia,
    /// Its disk is an older copy.
    OlderCopy,
    /// Its disk is of another cluster.
    OtherCluster,
    /// The cluster has no acceptor of its number.
    NotAMember,
    /// Its list has another length than the founders' had.
    OtherCount,
    /// One that only a newer version knows.
    #[serde(other)]
    Unknown,
}

impl From<Refusal> for RefusalReason {
    fn from(refusal: Refusal) -> RefusalReason {
        match refusal {
            Refusal::OtherDisk { .. } => RefusalReason::Amnesia,
            Refusal::OlderCopy { .. } => RefusalReason::OlderCopy,
            Refusal::OtherCluster { .. } => RefusalReason::OtherCluster,
            Refusal::NotAMember => RefusalReason::NotAMember,
            // While nothing is founded `unmet` reports it, and it is never held against the disk.
            Refusal::OtherCount { .. } | Refusal::OtherList { .. } => RefusalReason::OtherCount,
        }
    }
}

#[cfg(test)]
mod tests;
