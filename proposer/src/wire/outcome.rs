//! What a client learns about its request.

use std::borrow::Cow;

use paxos::machine::{Applied, Outcome};
use serde::Serialize;
use serde_json::value::RawValue;
use utoipa::ToSchema;

use super::raw;

/// The answer to one request of `POST /propose`.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Outcome)]
#[serde(rename_all = "camelCase")]
pub struct OutcomeView<'a> {
    /// `accepted`, `COMMITTED`, `NOT_COMMITTED`, `NOT_READ` or `UNKNOWN`; `NO_LEADER`, `NOT_PROPOSED`,
    /// `NO_ROOM`, `CONFLICT`, `TOO_OLD`, `FULL` or `QUOTA` for a request that was not executed.
    pub status: &'static str,
    /// Where.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub instance_id: Option<u64>,
    /// The resource's version.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<u64>,
    /// With `NOT_COMMITTED` the instance that last wrote the resource, 0 if there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resource_instance_id: Option<u64>,
    /// What READ found; `null` for nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = serde_json::Value, required = false)]
    pub data: Option<Option<&'a RawValue>>,
    /// What to do, where that is not plain.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = String, required = false)]
    pub detail: Option<Cow<'static, str>>,
}

/// What a client should do about an unknown outcome.
pub const UNKNOWN_DETAIL: &str =
    "the outcome was not known in time: send the same request again, it takes effect at most once";

/// What a client should do about a READ whose answer would have been too large.
pub const NOT_READ_DETAIL: &str = "READ was done, and what it found is too much to keep beside what \
     other READs found: send it again with fewer others, or get the resource from a learner, \
     GET /resource/{id}";

/// What a client should do about a reused `requestId`.
pub const REUSED_DETAIL: &str =
    "requestId or sequence was used before with another body: use a new one for a new request";

/// What a client should do when the acceptors' volumes are full.
pub const NO_ROOM_DETAIL: &str =
    "the acceptors have no room for it, and the request has no effect: send it alone to learn why";

/// What a client should do when there is no leader.
pub const NO_LEADER_DETAIL: &str =
    "no leader is known, and the request has no effect: send it again after Retry-After seconds";

/// What a client should do when the leader has no place for its request.
pub const NOT_PROPOSED_DETAIL: &str = "the leader did not take it in time: it cannot be reached, or what came before it still waits for \
     acceptors to vote or for a learner to apply it. The request has no effect: see /status of the nodes, \
     and send it again after Retry-After seconds";

/// What a client should do when there is no memory to remember its request.
pub const FULL_DETAIL: &str = "the memory for requests that may be sent again is full of requests younger than the retry window, \
     and this one was not executed: send it again later, slow down, or send sequence, for which \
     one client needs 400 kB at most";

/// The status of a request that was not executed.
pub(super) fn refused_as(outcome: &Outcome) -> &'static str {
    match outcome {
        Outcome::OldSequence { .. } | Outcome::OldTimestamp { .. } => "TOO_OLD",
        Outcome::Full => "FULL",
        Outcome::Quota { .. } => "QUOTA",
        _ => "CONFLICT",
    }
}

/// What its client should do, if a request was not executed.
pub fn refusal(outcome: &Outcome) -> Option<Cow<'static, str>> {
    Some(match outcome {
        Outcome::Reused => REUSED_DETAIL.into(),
        Outcome::OldSequence { from } => format!(
            "sequence: this client's requests below {from} may have been executed before, and what \
             became of them is no longer known; this one was not executed now: a new request has a \
             sequence from {from} on"
        )
        .into(),
        Outcome::OldTimestamp { above } => format!(
            "timestamp: this client's requests up to timestamp {above} are no longer remembered, and this \
             one may have been executed before; it was not executed now: a new request has a higher \
             timestamp, or a sequence"
        )
        .into(),
        Outcome::Full => FULL_DETAIL.into(),
        Outcome::Quota { used, limit } => format!(
            "names and data take {used} bytes of a quota of {limit}, and this request would make them \
             more; it was not executed: delete resources or raise the quota, then send it again"
        )
        .into(),
        _ => return None,
    })
}

impl<'a> OutcomeView<'a> {
    /// With nothing but a status.
    pub fn bare(status: &'static str, detail: Option<&'static str>) -> OutcomeView<'a> {
        OutcomeView {
            status,
            instance_id: None,
            version: None,
            resource_instance_id: None,
            data: None,
            detail: detail.map(Cow::Borrowed),
        }
    }

    /// What applying a request gave.
    pub fn of(applied: &'a Applied) -> OutcomeView<'a> {
        let view = OutcomeView {
            instance_id: Some(applied.slot.0),
            ..OutcomeView::bare("COMMITTED", None)
        };
        match &applied.outcome {
            Outcome::Committed { version } => OutcomeView {
                version: Some(*version),
                ..view
            },
            Outcome::NotCommitted { version, instance } => OutcomeView {
                status: "NOT_COMMITTED",
                version: Some(*version),
                resource_instance_id: instance.map(|instance| instance.0),
                ..view
            },
            Outcome::Read(None) => OutcomeView {
                version: Some(0),
                data: Some(None),
                ..view
            },
            Outcome::Read(Some(found)) => OutcomeView {
                version: Some(found.version),
                data: Some(raw(&found.data)),
                ..view
            },
            Outcome::Noop => view,
            Outcome::Untold | Outcome::Withheld => OutcomeView {
                status: "UNKNOWN",
                detail: Some(UNKNOWN_DETAIL.into()),
                ..view
            },
            refused => OutcomeView {
                status: refused_as(refused),
                detail: refusal(refused),
                ..view
            },
        }
    }
}
