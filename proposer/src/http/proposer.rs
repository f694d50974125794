//! The proposer's routes: clients' requests, heartbeats and the cluster's own.

use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use api::status::{NodeStatus, ProposerStatus};
use axum::body::Body as HttpBody;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use bytes::Bytes;
use futures::stream;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, StatusCode};
use paxos::ids::{Ballot, NodeId, NodeName};
use paxos::message::{Forwarded, Message, Value};
use paxos::outcome::{Applied, Outcome};
use paxos::recent::ANSWER_BYTES;
use roles::proposer::{answer_forwarded, forwarded_within};
use serde::Deserialize;
use tracing::warn;
use utoipa::{IntoParams, OpenApi, ToSchema};

use super::{Node, RoleState, frame_limits, json_bytes, router};
use crate::driver::proposer;
use crate::driver::proposer::{Answer, Answers, FoundRoom, Handle};
use crate::link;
use crate::problem::{Body, Named, Params, Problem, Raw, explain};
use crate::wire::admit::admit;
use crate::wire::answers::{Acknowledged, LeaderStatus};
use crate::wire::{
    BadField, HeartbeatBody, NO_LEADER_DETAIL, NO_ROOM_DETAIL, NOT_PROPOSED_DETAIL,
    NOT_READ_DETAIL, OutcomeView, ProposeBody, UNKNOWN_DETAIL, refusal,
};

/// Requests in one batch.
pub(crate) const MAX_BATCH: usize = 1024;
/// The pause between two lines about forwarded values that are refused.
const SAY_EVERY: Duration = Duration::from_secs(10);
/// The bounds of `timeoutMs`.
const TIMEOUT_MS: std::ops::RangeInclusive<u64> = 1..=60_000;

/// What a proposer answers.
#[derive(OpenApi)]
#[openapi(
    paths(propose, propose_batch, leader_status, leader_heartbeat),
    components(schemas(ProposerStatus))
)]
pub(crate) struct Api;

struct Proposer {
    node: Node,
    handle: Handle,
    /// When it was said last that forwarded values are refused.
    said: Mutex<Option<Instant>>,
}

impl Proposer {
    /// Whether it is time to say again that values are refused.
    fn says_again(&self) -> bool {
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        let again = said.is_none_or(|said| said.elapsed() >= SAY_EVERY);
        if again {
            *said = Some(Instant::now());
        }
        again
    }
}

/// All of the proposer's routes.
pub fn routes(node: Node, handle: Handle) -> Router {
    let path = link::path(node.name());
    let own = Router::new()
        .route(&path, post(message))
        .layer(frame_limits());
    let clients = Router::new()
        .route("/propose", post(propose))
        .route("/propose/batch", post(propose_batch))
        .route("/leader-status", get(leader_status))
        .route("/leader-heartbeat", post(leader_heartbeat));
    let said = Mutex::default();
    let state = Proposer { node, handle, said };
    router(clients.merge(own), state)
}

impl RoleState for Proposer {
    fn node(&self) -> &Node {
        &self.node
    }

    type Status = ProposerStatus;

    fn status(&self, node: NodeStatus) -> ProposerStatus {
        let view = self.handle.view();
        let leader = view.leader.and_then(Ballot::node);
        ProposerStatus {
            node,
            is_leader: leader == Some(self.node.name().id),
            leader_id: leader.map(NodeId::number),
            term: view.leader.map_or(0, Ballot::counter),
            last_instance_id: view.last.0,
            committed_instance_id: view.committed.0,
            proposal_counter: view.counter,
            behind: view
                .behind
                .filter(|_| leader.is_none())
                .map(|found| proposer::explain(&found)),
            state: if self.handle.is_leaving() {
                "leaving".into()
            } else {
                view.phase.into()
            },
        }
    }

    fn not_ready(&self) -> Option<String> {
        if self.handle.is_leaving() {
            return Some("this proposer is shutting down".to_owned());
        }
        if !self.handle.is_listed() {
            return Some("PROPOSERS does not name this proposer".to_owned());
        }
        let view = self.handle.view();
        if view.leader.is_some() {
            return None;
        }
        if let Some(found) = view.behind {
            return Some(proposer::explain(&found));
        }
        let (identity, survey) = (&self.node.identity, &self.node.survey);
        let what = match (identity.cluster(), identity.founders()) {
            (None, _) => "a quorum of acceptors has not said yet which cluster this is",
            (_, None) => {
                "the acceptors have not said yet how many founded the cluster, which those of an \
                 earlier version cannot: upgrade them first"
            }
            _ => "no leader is known",
        };
        let why = survey.why_no_quorum(self.handle.acceptors());
        Some(format!("{what}: {why}"))
    }
}

#[derive(Deserialize, IntoParams)]
#[serde(rename_all = "camelCase")]
#[into_params(parameter_in = Query)]
struct ProposeQuery {
    /// Answer when the outcome is known, not when the request has its place in the log
    #[serde(default)]
    wait: bool,
    /// How long to wait for that
    #[serde(default = "default_timeout")]
    #[param(minimum = 1, maximum = 60000, default = 5000)]
    timeout_ms: u64,
}

fn default_timeout() -> u64 {
    5000
}

impl ProposeQuery {
    fn within(&self) -> Result<Duration, Problem> {
        match TIMEOUT_MS.contains(&self.timeout_ms) {
            true => Ok(Duration::from_millis(self.timeout_ms)),
            false => Err(Problem::bad_request("timeoutMs", "must be from 1 to 60000")),
        }
    }
}

fn busy() -> Problem {
    Problem::unavailable(
        "too many requests wait already, and this one has no effect: send it again",
        Duration::from_secs(1),
    )
}

fn not_proposed() -> Problem {
    Problem::unavailable(NOT_PROPOSED_DETAIL, Duration::from_secs(1))
}

fn no_leader() -> Problem {
    Problem::unavailable(NO_LEADER_DETAIL, Duration::from_secs(1))
}

fn no_room(why: &str) -> Problem {
    let detail = format!("no room for writes, and this one has no effect: {why}. Reads continue");
    Problem::unavailable(detail, Duration::from_secs(5))
}

/// The answer to a request that was not executed; `None` for one that was.
fn not_executed(applied: &Applied) -> Option<Problem> {
    let detail = refusal(&applied.outcome)?;
    Some(match applied.outcome {
        Outcome::Full => Problem::unavailable(detail, Duration::from_secs(5)).because("full"),
        Outcome::Quota { used, limit } => Problem::unavailable(detail, Duration::from_secs(10))
            .because("quota")
            .with("used", used)
            .with("limit", limit),
        Outcome::OldSequence { from } => {
            Problem::conflict(detail).because("old").with("from", from)
        }
        Outcome::OldTimestamp { above } => Problem::conflict(detail)
            .because("old")
            .with("above", above),
        _ => Problem::conflict(detail).because("reused"),
    })
}

/// Write, remove or read a resource at a place in the log
#[utoipa::path(
    post,
    path = "/propose",
    params(ProposeQuery),
    request_body = ProposeBody<'_>,
    responses(
        (status = 200, description = "The outcome, with wait=true", body = OutcomeView<'_>),
        (status = 202, description = "It has its place in the log", body = OutcomeView<'_>),
        (status = 409, description = "requestId or sequence was used before with another body, or the request may be older than what is remembered of its client: it was not executed"),
        (status = 503, description = "No leader is known or none takes it in time, too busy, no memory to remember it, or over the quota, or the acceptors' volumes are full: it was not executed; or too much is being read"),
        (status = 504, description = "The outcome is not known in time: send it again", body = OutcomeView<'_>)
    )
)]
async fn propose(
    State(state): State<Arc<Proposer>>,
    Params(query): Params<ProposeQuery>,
    Raw(body): Raw,
) -> Result<Response, Problem> {
    let within = query.within()?;
    if state.handle.is_full() {
        return Err(busy());
    }
    let value = parse(&body)?;
    // The connection's buffer: free again for its next request, if nobody holds on to it.
    drop(body);
    let answers = state
        .handle
        .submit(vec![value], query.wait, false, within)
        .await;
    let Answers { mut list, room } = answers.map_err(|_| busy())?;
    match list.pop() {
        Some(Answer::Assigned(slot)) => {
            let accepted = accepted(slot.0);
            Ok(render(StatusCode::ACCEPTED, &accepted))
        }
        Some(Answer::Done(applied)) => match not_executed(&applied) {
            Some(problem) => Err(problem),
            None => {
                let view = OutcomeView::of(&applied);
                Ok(render_found(StatusCode::OK, &view, room))
            }
        },
        Some(Answer::NoLeader) => Err(no_leader()),
        Some(Answer::NotProposed) => Err(not_proposed()),
        Some(Answer::NotRead) => Err(Problem::unavailable(
            NOT_READ_DETAIL,
            Duration::from_secs(1),
        )),
        Some(Answer::NoRoom(why)) => Err(no_room(&why)),
        Some(Answer::Unknown) | None => {
            let unknown = OutcomeView::bare("UNKNOWN", Some(UNKNOWN_DETAIL));
            Ok(render(StatusCode::GATEWAY_TIMEOUT, &unknown))
        }
    }
}

/// The same for many requests: one answer each, in order
#[utoipa::path(
    post,
    path = "/propose/batch",
    params(ProposeQuery),
    request_body = Batch<'_>,
    responses(
        (status = 200, description = "The outcomes, with wait=true, or of none", body = Vec<OutcomeView<'_>>),
        (status = 202, description = "All have their places in the log, or the answer says which have not", body = Vec<OutcomeView<'_>>),
        (status = 503, description = "No leader is known or none takes it in time, too busy, no memory to remember them, or over the quota, or the acceptors' volumes are full: none was executed"),
        (status = 504, description = "No outcome is known in time: send it again", body = Vec<OutcomeView<'_>>)
    )
)]
async fn propose_batch(
    State(state): State<Arc<Proposer>>,
    Params(query): Params<ProposeQuery>,
    Raw(body): Raw,
) -> Result<Response, Problem> {
    let within = query.within()?;
    // What is refused anyway costs no more than reading it.
    if state.handle.is_full() {
        return Err(busy());
    }
    let values = parse_batch(&body)?;
    drop(body);
    if values.is_empty() {
        return Ok(Json(Vec::<()>::new()).into_response());
    }
    let answers = state.handle.submit(values, query.wait, false, within).await;
    let Answers {
        list: answers,
        room,
    } = answers.map_err(|_| busy())?;
    if answers.iter().all(|answer| *answer == Answer::NoLeader) {
        return Err(no_leader());
    }
    if answers.iter().all(|answer| *answer == Answer::NotProposed) {
        return Err(not_proposed());
    }
    if let Some(Answer::NoRoom(why)) = answers.first()
        && answers
            .iter()
            .all(|answer| matches!(answer, Answer::NoRoom(_)))
    {
        return Err(no_room(why));
    }
    // Those that only look at the status must not take it for done.
    let unavailable = |answer: &Answer| match answer {
        Answer::Done(applied) => not_executed(applied)
            .filter(|problem| problem.status() == StatusCode::SERVICE_UNAVAILABLE),
        _ => None,
    };
    if let Some(problem) = answers.first().and_then(unavailable)
        && answers.iter().all(|answer| unavailable(answer).is_some())
    {
        return Err(problem);
    }
    let views: Vec<OutcomeView<'_>> = answers
        .iter()
        .map(|answer| match answer {
            Answer::Assigned(slot) => accepted(slot.0),
            Answer::Done(applied) => OutcomeView::of(applied),
            Answer::NotRead => OutcomeView::bare("NOT_READ", Some(NOT_READ_DETAIL)),
            Answer::Unknown => OutcomeView::bare("UNKNOWN", Some(UNKNOWN_DETAIL)),
            Answer::NoLeader => OutcomeView::bare("NO_LEADER", Some(NO_LEADER_DETAIL)),
            Answer::NotProposed => OutcomeView::bare("NOT_PROPOSED", Some(NOT_PROPOSED_DETAIL)),
            Answer::NoRoom(_) => OutcomeView::bare("NO_ROOM", Some(NO_ROOM_DETAIL)),
        })
        .collect();
    let unknown = answers
        .iter()
        .all(|answer| matches!(answer, Answer::Unknown));
    let status = match (query.wait, unknown) {
        (_, true) => StatusCode::GATEWAY_TIMEOUT,
        (true, false) => StatusCode::OK,
        (false, false) => StatusCode::ACCEPTED,
    };
    Ok(render_found(status, &views, room))
}

fn accepted<'a>(instance: u64) -> OutcomeView<'a> {
    OutcomeView {
        instance_id: Some(instance),
        ..OutcomeView::bare("accepted", None)
    }
}

fn render<T: serde::Serialize + ?Sized>(status: StatusCode, body: &T) -> Response {
    // Numbers, fixed texts and JSON that was parsed before: nothing in it can fail.
    json_bytes(status, serde_json::to_vec(body).unwrap_or_default())
}

/// The same, of what READs found: it takes its room until the client has it.
fn render_found<T: serde::Serialize + ?Sized>(
    status: StatusCode,
    body: &T,
    room: FoundRoom,
) -> Response {
    const CHUNK: usize = 64 << 10;
    if room.bytes() < CHUNK {
        return render(status, body);
    }
    let json = Bytes::from(serde_json::to_vec(body).unwrap_or_default());
    let length = HeaderValue::from(json.len());
    let chunks = stream::unfold((json, room), |(mut json, room)| async move {
        let next = json.split_to(CHUNK.min(json.len()));
        (!next.is_empty()).then_some((Ok::<_, Infallible>(next), (json, room)))
    });
    let headers = [
        (CONTENT_TYPE, HeaderValue::from_static("application/json")),
        (CONTENT_LENGTH, length),
    ];
    (status, headers, HttpBody::from_stream(chunks)).into_response()
}

/// The value that a request's body says. Only an error is worth a second pass, for its place.
fn parse(body: &Bytes) -> Result<Value, Problem> {
    if body.trim_ascii_start().first() == Some(&b'[') {
        let detail = "the body must be one request, an object: send a list to /propose/batch";
        return Err(Problem::new(StatusCode::BAD_REQUEST, detail));
    }
    let Named(request): Named<ProposeBody<'_>> =
        serde_json::from_slice(body).map_err(|error| explain::<ProposeBody<'_>>(body, &error))?;
    request
        .to_value()
        .map_err(|bad| Problem::bad_request(bad.field, bad.expected))
}

/// Requests that are sent together.
#[derive(Deserialize, ToSchema)]
struct Batch<'a>(#[serde(borrow)] Vec<ProposeBody<'a>>);

fn parse_batch(body: &Bytes) -> Result<Vec<Value>, Problem> {
    let Named(Batch(requests)) =
        serde_json::from_slice(body).map_err(|error| explain::<Batch<'_>>(body, &error))?;
    if requests.len() > MAX_BATCH {
        let detail = format!(
            "has {} requests, and may have {MAX_BATCH}: split it",
            requests.len()
        );
        return Err(Problem::bad_request("batch", detail));
    }
    let values = requests.iter().enumerate().map(|(i, request)| {
        request
            .to_value()
            .map_err(|bad| Problem::bad_request(&format!("[{i}].{}", bad.field), bad.expected))
    });
    values.collect()
}

/// The leader's own view
#[utoipa::path(
    get,
    path = "/leader-status",
    responses(
        (status = 200, description = "This proposer leads", body = LeaderStatus),
        (status = 403, description = "Another one does, or none")
    )
)]
async fn leader_status(State(state): State<Arc<Proposer>>) -> Result<Json<LeaderStatus>, Problem> {
    let view = state.handle.view();
    let Some(ballot) = view
        .leader
        .filter(|b| b.node() == Some(state.node.name().id))
    else {
        let detail = match view.leader.and_then(Ballot::node) {
            Some(leader) => format!("proposer {leader} leads, not this one: ask it"),
            None => "this proposer does not lead, and knows no leader".to_owned(),
        };
        return Err(Problem::forbidden(detail));
    };
    Ok(Json(LeaderStatus {
        leader_id: state.node.name().id.number(),
        term: ballot.counter(),
        proposal_number: ballot.number(),
        last_instance_id: view.last.0,
        committed_instance_id: view.committed.0,
        uptime: state.node.started.elapsed().as_secs(),
    }))
}

/// A leader's sign of life; one of an older term is ignored
#[utoipa::path(
    post,
    path = "/leader-heartbeat",
    request_body = HeartbeatBody,
    responses((status = 200, description = "Heard", body = Acknowledged))
)]
async fn leader_heartbeat(
    State(state): State<Arc<Proposer>>,
    Body(body): Body<HeartbeatBody>,
) -> Result<Json<Acknowledged>, Problem> {
    let heartbeat = body
        .to_heartbeat()
        .map_err(|bad| Problem::bad_request(bad.field, bad.expected))?;
    let leader = heartbeat.ballot.node();
    if !leader.is_some_and(|leader| state.handle.knows(leader)) {
        let detail = "must be the number of a proposer in PROPOSERS";
        return Err(Problem::bad_request("leaderId", detail));
    }
    let view = state.handle.view();
    let current = view.leader;
    let most = current.map_or(0, Ballot::counter).max(view.counter);
    let absurd = heartbeat.ballot.counter() > most.saturating_add(Ballot::MAX_JUMP);
    state.handle.heartbeat(heartbeat);
    let ignored = absurd || current.is_some_and(|leader| heartbeat.ballot < leader);
    let known = current.map_or(0, Ballot::counter);
    Ok(Json(Acknowledged {
        status: "acknowledged",
        ignored,
        node_id: state.node.name().id.number(),
        term: if ignored { known } else { known.max(body.term) },
    }))
}

async fn message(
    State(state): State<Arc<Proposer>>,
    headers: HeaderMap,
    Raw(body): Raw,
) -> Result<Response, Problem> {
    let (frame, is_ours) = state.node.decode(body)?;
    if !is_ours {
        return Err(state.node.knows_no_cluster());
    }
    let version = frame.version;
    let reply = match frame.message {
        Message::Forward { wait_ms, values } => {
            let mut forwarded = forward(&state, frame.from, wait_ms, &values).await;
            if let Forwarded::Outcomes { outcomes } = &mut forwarded {
                link::fit_outcomes(&headers, outcomes);
            }
            Message::Forwarded(forwarded)
        }
        Message::TakeOver => match state.handle.take_over().await {
            Ok(()) => Message::Done,
            Err(why) => return Err(Problem::unavailable(why, Duration::from_secs(1))),
        },
        Message::ReadIndex => Message::Readable(state.handle.read_index().await),
        _ => {
            return Err(Problem::bad_request(
                "message",
                "is not one that a proposer takes",
            ));
        }
    };
    Ok(state.node.answer(version, reply))
}

/// The values that a client may propose among those that a node forwards, and for each of all whether
/// it is one. A value that learners cannot apply would stop all of them permanently.
fn admitted(state: &Proposer, from: NodeName, values: &[Value]) -> (Vec<Value>, Vec<bool>) {
    let mut refused = None;
    let mut is_good = |value: &Value| match admit(value) {
        Ok(()) => true,
        Err(bad) => {
            refused = Some(bad);
            false
        }
    };
    let good: Vec<bool> = values.iter().map(&mut is_good).collect();
    if let Some(BadField { field, expected }) = refused
        && state.says_again()
    {
        warn!(
            from = %from,
            field,
            expected,
            "values that it forwards are refused: it runs a newer version, or is no node of ours"
        );
    }
    let values = values.iter().zip(&good).filter(|(_, good)| **good);
    (values.map(|(value, _)| value.clone()).collect(), good)
}

async fn forward(state: &Proposer, from: NodeName, wait_ms: u32, values: &[Value]) -> Forwarded {
    let (values, is_good) = admitted(state, from, values);
    let all_good = is_good.iter().all(|good| *good);
    // Slots cannot be reported without those of the others.
    let wait = wait_ms > 0 || !all_good;
    let within = forwarded_within(wait_ms);
    match state.handle.submit(values, wait, true, within).await {
        Ok(answers) => answer_forwarded(answers.list, &is_good, ANSWER_BYTES),
        Err(_) => Forwarded::Busy,
    }
}
