//! The acceptor's routes: the readable form of one instance, and the cluster's own.

use std::sync::Arc;
use std::time::Duration;

use api::status::{AcceptorStatus, NodeStatus, RefusalReason};
use axum::Json;
use axum::Router;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use paxos::command::Command;
use paxos::ids::{Ballot, Members, NodeId, NodeName, Role, Slot};
use paxos::message::{Message, Reply, Request, Value, Values};
use serde::Deserialize;
use serde_json::value::RawValue;
use utoipa::{OpenApi, ToSchema};

use super::{Node, RoleState, frame_limits, router};
use crate::driver::acceptor::Handle;
use crate::link;
use crate::problem::{Body, Named, Problem, Raw, explain};
use crate::wire::admit::admit;
use crate::wire::answers::{Accepted, AcceptedValue, Prepared};
use crate::wire::number::whole;
use crate::wire::{CommandView, ProposeBody};

/// What an acceptor answers.
#[derive(OpenApi)]
#[openapi(paths(prepare, accept), components(schemas(AcceptorStatus)))]
pub(crate) struct Api;

struct Acceptor {
    node: Node,
    handle: Handle,
}

/// All of the acceptor's routes.
pub fn routes(node: Node, handle: Handle) -> Router {
    let path = link::path(node.name());
    let own = Router::new()
        .route(&path, post(message))
        .layer(frame_limits());
    let readable = Router::new()
        .route("/prepare", post(prepare))
        .route("/accept", post(accept));
    router(readable.merge(own), Acceptor { node, handle })
}

impl RoleState for Acceptor {
    fn node(&self) -> &Node {
        &self.node
    }

    type Status = AcceptorStatus;

    fn status(&self, node: NodeStatus) -> AcceptorStatus {
        let promised = self.handle.promised();
        AcceptorStatus {
            node,
            is_leader: false,
            leader_id: promised.and_then(Ballot::node).map(NodeId::number),
            term: promised.map_or(0, Ballot::counter),
            proposal_counter: promised.map_or(0, Ballot::counter),
            highest_promised: promised.map_or(0, Ballot::number),
            last_instance_id: self.handle.last_voted().0,
            committed_instance_id: self.handle.committed().0,
            trimmed_instance_id: self.handle.floor().0,
            state: match self.handle.refusal() {
                Some(refusal) => refusal.name().into(),
                None if self.handle.votes() => "voting".into(),
                None => "joining".into(),
            },
            refusal: self.handle.refusal().map(|refusal| refusal.to_string()),
            refusal_reason: self.handle.refusal().map(RefusalReason::from),
            log_bytes: self.handle.log_bytes(),
            disk_sync_ms: self.handle.sync_takes().as_millis() as u64,
            no_room: self.handle.no_room().map(Into::into),
        }
    }

    fn not_ready(&self) -> Option<String> {
        match self.handle.refusal() {
            Some(refusal) => Some(refusal.to_string()),
            None if self.handle.votes() => self.founded_anew(),
            None => Some(self.waits()),
        }
    }
}

impl Acceptor {
    /// For whom it waits before it votes.
    fn waits(&self) -> String {
        let missing = |(id, list): (NodeId, Option<Members>)| {
            let node = NodeName {
                role: Role::Acceptor,
                id,
            };
            let list = list.map(|list| {
                format!("{node}, whose ACCEPTORS names {list} and not as many as this node's")
            });
            let trouble = || self.node.survey.trouble(node);
            list.or_else(trouble).unwrap_or_else(|| node.to_string())
        };
        let unmet: Vec<String> = self.handle.unmet().into_iter().map(missing).collect();
        let whom = match self.node.identity.cluster() {
            Some(_) => "a quorum of acceptors has to see its disk before it votes",
            None => {
                "all acceptors of a new cluster have to see each other's disks before it begins"
            }
        };
        format!("{whom}; still missing: {}", unmet.join("; "))
    }

    /// Nodes have disks of another cluster, and in this acceptor's own nobody has ever been elected.
    fn founded_anew(&self) -> Option<String> {
        let foreign = self.node.survey.foreign()?;
        let is_unused = self.handle.promised().is_none();
        is_unused
            .then(|| format!("its cluster was founded again and has done nothing yet: {foreign}"))
    }
}

/// The answer of an acceptor that does not take part.
fn not_voting(state: &Acceptor) -> Problem {
    let why = state.not_ready();
    let why = why.unwrap_or_else(|| "it has just begun to vote: send it again".to_owned());
    Problem::unavailable(
        format!("this acceptor does not vote: {why}"),
        Duration::from_secs(1),
    )
}

/// The answer of an acceptor whose volume has no room for a vote.
fn no_room(state: &Acceptor) -> Problem {
    let why = state.handle.no_room();
    let why = why.unwrap_or("there was no room on its volume: send it again");
    Problem::unavailable(
        format!("this acceptor takes no new votes: {why}"),
        Duration::from_secs(5),
    )
}

fn busy() -> Problem {
    Problem::unavailable(
        "too many requests wait for the disk: send it again",
        Duration::from_secs(1),
    )
}

async fn message(State(state): State<Arc<Acceptor>>, Raw(body): Raw) -> Result<Response, Problem> {
    // A copy of the right size: votes are slices of it and stay, and the body that it came in may be
    // a small part of a large buffer.
    let body = Bytes::copy_from_slice(&body);
    let (frame, is_ours) = state.node.decode(body)?;
    let version = frame.version;
    let Message::Request(request) = frame.message else {
        return Err(Problem::bad_request(
            "message",
            "is not one that an acceptor takes",
        ));
    };
    // Without a cluster it votes for nobody. What waited until it has one may be another cluster's.
    if !is_ours && !matches!(request, Request::Enlist { .. }) {
        return Ok(state.node.answer(version, Message::Reply(Reply::NotVoting)));
    }
    let reply = state.handle.ask(request).await.map_err(|_| busy())?;
    Ok(state.node.answer(version, Message::Reply(reply)))
}

#[derive(Deserialize, ToSchema)]
#[schema(as = Prepare)]
#[serde(rename_all = "camelCase")]
struct PrepareBody {
    /// counter × 256 + proposerId, and at most 2^32 rounds above what is promised here
    #[serde(deserialize_with = "whole")]
    #[schema(minimum = 257, maximum = 18446744073709551615usize)]
    proposal_number: u64,
    /// The instance
    #[serde(deserialize_with = "whole")]
    #[schema(minimum = 0, maximum = 18446744069414584319usize)]
    instance_id: u64,
    /// The proposer that asks: proposalNumber modulo 256
    #[serde(deserialize_with = "whole")]
    #[schema(minimum = 1, maximum = 255)]
    proposer_id: u8,
}

#[derive(Deserialize, ToSchema)]
#[schema(as = Accept)]
#[serde(rename_all = "camelCase")]
struct AcceptBody {
    /// counter × 256 + proposerId, and at most 2^32 rounds above what is promised here
    #[serde(deserialize_with = "whole")]
    #[schema(minimum = 257, maximum = 18446744073709551615usize)]
    proposal_number: u64,
    /// The instance
    #[serde(deserialize_with = "whole")]
    #[schema(minimum = 1, maximum = 18446744069414584319usize)]
    instance_id: u64,
    /// The proposer that asks: proposalNumber modulo 256
    #[serde(deserialize_with = "whole")]
    #[schema(minimum = 1, maximum = 255)]
    proposer_id: u8,
    /// A request as for `POST /propose`, or null for the no-op. What promises told in acceptedValue goes
    /// back as it came; its `encoded` alone is enough
    #[schema(value_type = Option<ProposeBody<'static>>, required = true)]
    value: Box<RawValue>,
}

/// The ballot and the slot that a readable request names.
fn parse(
    state: &Acceptor,
    number: u64,
    instance: u64,
    proposer: u8,
) -> Result<(Ballot, Slot), Problem> {
    let ballot = Ballot::from_number(number).ok_or_else(|| {
        Problem::bad_request(
            "proposalNumber",
            "must be counter * 256 + proposerId, both at least 1",
        )
    })?;
    if ballot.node() != NodeId::new(proposer) {
        return Err(Problem::bad_request(
            "proposerId",
            "must be proposalNumber modulo 256: a proposal number belongs to one proposer",
        ));
    }
    if ballot.is_poison_after(state.handle.promised().unwrap_or_default()) {
        return Err(Problem::bad_request(
            "proposalNumber",
            "is more than 2^32 rounds above what is promised: take the next round",
        ));
    }
    if instance > u64::MAX - (1 << 32) {
        return Err(Problem::bad_request(
            "instanceId",
            "is past the end of the log",
        ));
    }
    Ok((ballot, Slot(instance)))
}

/// Ask for a promise, phase 1: one instance, readable
///
/// One promise covers every instance, so this deposes a leader of a lower ballot, as any prepare
/// does; it shows the vote of the instance asked for.
#[utoipa::path(
    post,
    path = "/prepare",
    request_body = PrepareBody,
    responses(
        (status = 200, description = "A promise, or the higher one", body = Prepared<'_>),
        (status = 410, description = "The instance is chosen and forgotten here"),
        (status = 503, description = "Too many requests wait for the disk, or it does not vote")
    )
)]
async fn prepare(
    State(state): State<Arc<Acceptor>>,
    Body(body): Body<PrepareBody>,
) -> Result<Response, Problem> {
    let (ballot, slot) = parse(
        &state,
        body.proposal_number,
        body.instance_id,
        body.proposer_id,
    )?;
    if slot != Slot::ZERO && slot <= state.handle.floor() {
        return Err(Problem::gone(format!(
            "instance {slot} is chosen, and this acceptor has forgotten what: ask a learner"
        )));
    }
    let request = Request::Prepare {
        ballot,
        run: 0,
        from: slot,
    };
    let reply = state.handle.ask(request).await.map_err(|_| busy())?;
    let prepared = match &reply {
        Reply::Promise { votes, .. } => {
            let vote = votes.iter().find(|vote| vote.slot == slot);
            Prepared {
                r#type: "PROMISE",
                accepted: true,
                highest_accepted: Some(vote.map_or(-1, |vote| vote.ballot.number() as i64)),
                accepted_value: vote.and_then(|vote| accepted_value(&vote.value)),
                highest_promised: None,
            }
        }
        Reply::NotVoting => return Err(not_voting(&state)),
        reply => Prepared {
            r#type: "NOT_PROMISE",
            accepted: false,
            highest_accepted: None,
            accepted_value: None,
            highest_promised: Some(promised(reply)),
        },
    };
    Ok(Json(prepared).into_response())
}

/// Ask for a vote, phase 2: one instance, readable
#[utoipa::path(
    post,
    path = "/accept",
    request_body = AcceptBody,
    responses(
        (status = 200, description = "A vote, or the higher promise", body = Accepted),
        (status = 409, description = "The instance is chosen, or voted in, and the value is not one told in acceptedValue"),
        (status = 503, description = "Too many requests wait for the disk, or it does not vote")
    )
)]
async fn accept(
    State(state): State<Arc<Acceptor>>,
    Body(body): Body<AcceptBody>,
) -> Result<Json<Accepted>, Problem> {
    let (ballot, slot) = parse(
        &state,
        body.proposal_number,
        body.instance_id,
        body.proposer_id,
    )?;
    if slot == Slot::ZERO {
        return Err(Problem::bad_request(
            "instanceId",
            "0 stands for the election and holds no value: values start at 1",
        ));
    }
    let value = parse_value(&body.value)?;
    if slot <= state.handle.committed() {
        return Err(Problem::conflict(format!(
            "instance {slot} is chosen: GET /instance/{slot} of a learner says what"
        )));
    }
    let voted = vote_in(&state, slot).await?;
    let value = match value {
        Proposed::Told(value) | Proposed::New(value) if voted.as_ref() == Some(&value) => value,
        Proposed::New(value) if voted.is_none() => value,
        // Its limits are a client's: no stamp, as time passes by the leader's word alone.
        Proposed::Told(value) => match admit(&value) {
            Ok(()) => value,
            Err(_) => {
                return Err(Problem::conflict(format!(
                    "value.encoded is of a leader's vote that this acceptor does not have: only a leader \
                     brings it here. Ask those that told it, or wait until instance {slot} is learned"
                )));
            }
        },
        Proposed::New(_) => {
            return Err(Problem::conflict(format!(
                "this acceptor has voted in instance {slot}: propose the acceptedValue of the \
                 promise with the highest highestAccepted, with its encoded unchanged"
            )));
        }
    };
    let values: Values = [value].into();
    let request = Request::Accept {
        ballot,
        first: slot,
        values,
        committed: Slot::ZERO,
    };
    let reply = state.handle.ask(request).await.map_err(|_| busy())?;
    Ok(Json(match &reply {
        Reply::Accepted { .. } | Reply::AcceptedTight { .. } => Accepted {
            r#type: "ACCEPTED",
            accepted: true,
            instance_id: Some(slot.0),
            proposal_number: Some(ballot.number()),
            highest_promised: None,
        },
        Reply::NotVoting => return Err(not_voting(&state)),
        Reply::NoRoom { .. } => return Err(no_room(&state)),
        reply => Accepted {
            r#type: "NOT_ACCEPTED",
            accepted: false,
            instance_id: None,
            proposal_number: None,
            highest_promised: Some(promised(reply)),
        },
    }))
}

/// The promise for which it refused.
fn promised(reply: &Reply) -> u64 {
    match reply {
        Reply::Nack { promised, .. } => promised.number(),
        _ => 0,
    }
}

/// What this acceptor has voted for in a slot.
async fn vote_in(state: &Acceptor, slot: Slot) -> Result<Option<Value>, Problem> {
    if slot > state.handle.last_voted() {
        return Ok(None);
    }
    let request = Request::Fetch {
        from: slot,
        to: slot,
    };
    match state.handle.ask(request).await.map_err(|_| busy())? {
        Reply::Fetched { votes, .. } => Ok(votes.into_iter().next().map(|vote| vote.value)),
        Reply::NotVoting => Err(not_voting(state)),
        _ => Err(busy()),
    }
}

/// A value that somebody proposes in the readable form.
enum Proposed {
    /// One that a promise told, to the byte: JSON shows neither a leader's stamp nor how the data was
    /// spelt, and another value in a slot where one is chosen would be a second one.
    Told(Value),
    /// One of the proposer's own.
    New(Value),
}

/// A request as for `/propose`, what an acceptor told as its vote, or `null` for the no-op.
fn parse_value(json: &RawValue) -> Result<Proposed, Problem> {
    #[derive(Deserialize)]
    struct Told {
        encoded: Option<String>,
    }
    let text = json.get();
    if text == "null" {
        return Ok(Proposed::New(Value::NOOP));
    }
    if let Ok(Told {
        encoded: Some(encoded),
    }) = serde_json::from_str(text)
    {
        let bytes = BASE64.decode(encoded).ok();
        let value = bytes.map(|bytes| Value(bytes.into()));
        let is_readable = |value: &Value| Command::decode(value).is_ok();
        let value = value.filter(is_readable).map(Proposed::Told);
        return value.ok_or_else(|| {
            Problem::bad_request(
                "value.encoded",
                "must be as an acceptor told it in acceptedValue",
            )
        });
    }
    let body: Named<ProposeBody<'_>> = serde_json::from_str(text).map_err(|error| {
        let problem = explain::<ProposeBody<'_>>(text.as_bytes(), &error);
        Problem::bad_request("value", problem.detail())
    })?;
    let value = body.0.to_value().map(Proposed::New);
    value.map_err(|bad| Problem::bad_request(&format!("value.{}", bad.field), bad.expected))
}

fn accepted_value(value: &Value) -> Option<AcceptedValue<'_>> {
    (!value.is_noop()).then(|| AcceptedValue {
        command: CommandView::of(value),
        encoded: BASE64.encode(&value.0),
    })
}
