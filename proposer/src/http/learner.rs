//! The learner's routes: reads, the log, and the cluster's own.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use api::status::{LearnerStatus, NodeStatus, StoreState};
use axum::body::Body as HttpBody;
use axum::extract::State;
use axum::middleware;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use bytes::Bytes;
use futures::stream;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue, StatusCode};
use paxos::codec::{Entry, encode_entries};
use paxos::ids::{NodeId, Slot};
use paxos::machine::{Page, Resource};
use paxos::message::Message;
use serde::Deserialize;
use tokio::sync::watch::Receiver;
use utoipa::{IntoParams, OpenApi, ToSchema};

use super::resources::{self, PageQuery, Reads};
use super::snapshots::{self, SnapshotQuery};
use super::{
    Node, RoleState, frame_limits, json_bytes, render as render_json, reserve, router, watch,
};
use crate::bounds::{NoStream, Piece, Stream};
use crate::driver::barrier::Barrier;
use crate::driver::learner::audit::Digests;
use crate::driver::learner::transfer::{COMMITTED_HEADER, PREVIOUS_HEADER};
use crate::driver::learner::{Busy, Handle, Lost, NoEntries, STREAM_CHUNK_BYTES};
use crate::link;
use crate::problem::{Body, Params, PathParams, Problem, Raw};
use crate::wire::answers::{InstancesView, Learned};
use crate::wire::number::whole;
use crate::wire::{ChangeView, EntryView, write_line};

/// Bytes of entries in an answer to a client that is no stream.
const CHUNK_BYTES: usize = 256 << 10;
/// Bytes of entries in an answer to a learner or store: the larger, the fewer commits a store that
/// was away needs to catch up.
const PIECE_BYTES: usize = 1 << 20;
/// A page of the log ends after about this many bytes, whatever its `limit`.
const PAGE_BYTES: usize = 4 << 20;
/// What such an answer goes beyond its size by, at most: the last entry.
const LARGEST_ENTRY: usize = 1 << 20;
/// Memory for a piece of a stream, unless an entry of it is larger.
const STREAM_BYTES: usize = 2 * STREAM_CHUNK_BYTES;
/// What the fields of an entry take in JSON, beside its value.
const FIELDS_BYTES: usize = 512;

/// What a learner answers.
#[derive(OpenApi)]
#[openapi(
    paths(
        learn,
        instance,
        instances,
        log,
        watch::watch,
        resources::resource,
        resources::resources
    ),
    components(schemas(LearnerStatus, ChangeView))
)]
pub(crate) struct Api;

pub(super) struct Learner {
    node: Node,
    pub(super) handle: Handle,
    barrier: Barrier,
    /// Becomes true when the process is shutting down: streams end then, too.
    pub(super) ending: Receiver<bool>,
}

impl Learner {
    /// A place among the streams, to be kept as long as one lasts.
    pub(super) fn stream(&self) -> Result<Stream, Problem> {
        Stream::start().map_err(|full| {
            let detail = match full {
                NoStream::All(most) => format!("{most} clients follow this learner"),
                NoStream::Source(most) => {
                    format!("{most} clients at your address follow this learner, as many as may")
                }
            };
            Problem::unavailable(detail + ": ask another one", Duration::from_secs(5))
        })
    }

    /// The entries that a stream sends next, with the memory for them and their JSON. What they take
    /// is known when they are here: where it is more, they are dropped and read again when there is
    /// room, so that streams of large entries do not all hold some at once.
    pub(super) async fn piece(
        &self,
        stream: &Stream,
        from: Slot,
    ) -> Result<(Piece, Vec<Entry>), NoEntries> {
        let mut bytes = STREAM_BYTES;
        loop {
            let room = stream.room(bytes).await;
            let entries = self.handle.entries(from, STREAM_CHUNK_BYTES).await?;
            let needed = 2 * rendered_size(&entries);
            if needed <= bytes {
                return Ok((room, entries));
            }
            bytes = needed;
        }
    }
}

/// About what entries take as JSON.
pub(super) fn rendered_size(entries: &[Entry]) -> usize {
    let sizes = entries.iter();
    sizes.map(|entry| entry.value.len() + FIELDS_BYTES).sum()
}

/// All of the learner's routes.
pub fn routes(node: Node, handle: Handle, barrier: Barrier, ending: Receiver<bool>) -> Router {
    let path = link::path(node.name());
    let named = middleware::map_response_with_state(node.clone(), snapshots::name_cluster);
    let own = Router::new()
        .route(&format!("{path}/snapshot"), get(snapshot))
        .route(&format!("{path}/entries"), get(entries))
        .route(&format!("{path}/digests"), get(digests))
        .layer(named)
        .route(&path, post(message))
        .layer(frame_limits());
    let clients = Router::new()
        .route("/learn", post(learn))
        .route("/instance/{id}", get(instance))
        .route("/instances", get(instances))
        .route("/log", get(log))
        .route("/watch", get(watch::watch))
        .merge(resources::routes());
    router(
        clients.merge(own),
        Learner {
            node,
            handle,
            barrier,
            ending,
        },
    )
}

impl RoleState for Learner {
    fn node(&self) -> &Node {
        &self.node
    }

    type Status = LearnerStatus;

    fn status(&self, node: NodeStatus) -> LearnerStatus {
        let applied = *self.handle.applied().borrow();
        let halt = self.handle.halt();
        let lost = self.handle.lost().filter(Lost::is_certain);
        let (resources, sessions) = {
            let state = self.handle.state();
            (
                state.machine.resource_count(),
                state.machine.session_count(),
            )
        };
        let committed = self.handle.committed();
        let stores = self.handle.stores().into_iter().map(|store| StoreState {
            node_id: store.id.number(),
            applied_instance_id: store.applied.0,
            lag: committed.0.saturating_sub(store.applied.0),
            reachable: store.reachable,
        });
        LearnerStatus {
            node,
            is_leader: false,
            leader_id: self.handle.leader().map(NodeId::number),
            last_instance_id: applied.0,
            committed_instance_id: committed.0,
            applied_instance_id: applied.0,
            durable_instance_id: self.handle.durable().0,
            resources: resources as u64,
            sessions: sessions as u64,
            stores: stores.collect(),
            state: match (&halt, &lost, self.handle.is_caught_up()) {
                (Some(_), _, _) => "halted".into(),
                (None, Some(_), _) => "data-lost".into(),
                (None, None, true) => "learning".into(),
                (None, None, false) => "catching-up".into(),
            },
            halt_reason: halt.as_ref().map(|halt| halt.reason),
            halted: halt.map(|halt| halt.why),
            data_lost: lost.map(|lost| lost.to_string()),
        }
    }

    fn not_ready(&self) -> Option<String> {
        if let Some(why) = self.handle.halted() {
            return Some(format!("applying has stopped: {why}"));
        }
        if let Some(lost) = self.handle.lost() {
            return Some(format!("cannot catch up: {lost}"));
        }
        if !self.handle.is_caught_up() && !self.node.identity.may_learn() {
            let why =
                "a quorum of acceptors has not said yet which cluster this is: see their state";
            return Some(why.to_owned());
        }
        let level = self.handle.is_caught_up();
        (!level).then(|| "still catching up with the leader".to_owned())
    }
}

pub(super) fn no_entries(why: NoEntries) -> Problem {
    match why {
        NoEntries::Busy => busy(Busy),
        NoEntries::Trimmed { floor } => Problem::gone(format!(
            "the log goes back to instance {floor} only: read the resources as they stand, and \
             follow the log from there on"
        ))
        .with("floor", floor.0),
    }
}

fn busy(_: Busy) -> Problem {
    Problem::unavailable(
        "this learner has too much to do: try again",
        Duration::from_secs(1),
    )
}

async fn message(
    State(state): State<Arc<Learner>>,
    headers: HeaderMap,
    Raw(body): Raw,
) -> Result<Response, Problem> {
    let (frame, is_ours) = state.node.decode(body)?;
    let version = frame.version;
    let learn = match frame.message {
        Message::Learn(learn) => learn,
        Message::Recall(slots) => {
            let recalled = state.handle.recall(slots).await.map_err(busy)?;
            return Ok(state.node.answer(version, Message::Recalled(recalled)));
        }
        _ => {
            return Err(Problem::bad_request(
                "message",
                "is not one that a learner takes",
            ));
        }
    };
    // What is applied here is of one cluster only.
    if !is_ours {
        return Err(state.node.knows_no_cluster());
    }
    let mut learned = state.handle.learn(frame.from, learn).await.map_err(busy)?;
    link::fit_outcomes(&headers, &mut learned.outcomes);
    Ok(state.node.answer(version, Message::Learned(learned)))
}

/// A piece of a snapshot, for another learner.
async fn snapshot(
    State(state): State<Arc<Learner>>,
    Params(query): Params<SnapshotQuery>,
) -> Result<Response, Problem> {
    query
        .answer(move |slot, offset| state.handle.snapshot(slot, offset))
        .await
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct EntriesQuery {
    from: u64,
    #[serde(default)]
    wait_ms: u64,
}

/// A piece of the log, for another learner or a store; waits for it a little if asked to.
async fn entries(
    State(state): State<Arc<Learner>>,
    Params(query): Params<EntriesQuery>,
) -> Result<Response, Problem> {
    let from = slot("from", query.from)?;
    let mut applied = state.handle.applied();
    let mut ending = state.ending.clone();
    tokio::select! {
        // In time or not, what is there is the answer.
        _ = applied.wait_for(|applied| *applied >= from) => {}
        _ = ending.wait_for(|ending| *ending) => {}
        () = tokio::time::sleep(Duration::from_millis(query.wait_ms.min(5000))) => {}
    }
    // The entries and their encoding.
    reserve(2 * (PIECE_BYTES + LARGEST_ENTRY)).await?;
    let committed = state.handle.committed().to_string();
    let entries = state
        .handle
        .entries(from, PIECE_BYTES)
        .await
        .map_err(no_entries)?;
    let mut response = ([(COMMITTED_HEADER, committed)], encode_entries(&entries)).into_response();
    // Who asks has what is before it, and compares.
    let previous = state.handle.state().checksum(from.previous());
    if let Some(previous) = previous {
        let headers = response.headers_mut();
        headers.insert(PREVIOUS_HEADER, previous.into());
    }
    Ok(response)
}

#[derive(Deserialize)]
struct DigestsQuery {
    from: u64,
}

/// What this learner had applied at some instances, for another learner to compare.
async fn digests(
    State(state): State<Arc<Learner>>,
    Params(query): Params<DigestsQuery>,
) -> Json<Digests> {
    Json(Digests::of(&state.handle.checkpoints(Slot(query.from))))
}

#[derive(Deserialize, ToSchema)]
#[schema(as = Learn)]
#[serde(rename_all = "camelCase")]
struct LearnBody {
    /// The instance
    #[serde(deserialize_with = "whole")]
    #[schema(minimum = 1, maximum = 18446744069414584319usize)]
    instance_id: u64,
}

/// Ask whether an instance is learned
///
/// The readable form. It never changes what this learner knows: only acceptors say what is chosen,
/// and this learner asks them itself. So the answer tells whether the instance is learned yet.
#[utoipa::path(
    post,
    path = "/learn",
    request_body = LearnBody,
    responses(
        (status = 200, description = "It is", body = Learned<'_>),
        (status = 202, description = "Not yet", body = Learned<'_>),
        (status = 404, description = "It is not learned here"),
        (status = 410, description = "The log no longer goes back that far"),
        (status = 503, description = "This learner has too much to do")
    )
)]
async fn learn(
    State(state): State<Arc<Learner>>,
    Body(body): Body<LearnBody>,
) -> Result<Response, Problem> {
    let slot = slot("instanceId", body.instance_id)?;
    if slot > *state.handle.applied().borrow() {
        let pending = Learned {
            status: "pending",
            instance_id: slot.0,
            entry: None,
        };
        return Ok((StatusCode::ACCEPTED, Json(pending)).into_response());
    }
    let entries = state.handle.entries(slot, 1).await.map_err(no_entries)?;
    let entry = entries
        .first()
        .filter(|entry| entry.slot == slot)
        .ok_or_else(|| absent(slot))?;
    Ok(Json(Learned {
        status: "learned",
        instance_id: slot.0,
        entry: Some(EntryView::of(entry)),
    })
    .into_response())
}

pub(super) fn slot(field: &str, number: u64) -> Result<Slot, Problem> {
    match number {
        0 => Err(Problem::bad_request(
            field,
            "must be at least 1: 0 stands for the election",
        )),
        number if number > u64::MAX - (1 << 32) => {
            Err(Problem::bad_request(field, "is past the end of the log"))
        }
        number => Ok(Slot(number)),
    }
}

fn absent(slot: Slot) -> Problem {
    Problem::not_found(format!("instance {slot} is not learned here (yet)"))
}

/// What is chosen in an instance
#[utoipa::path(
    get,
    path = "/instance/{id}",
    params(("id" = u64, Path, minimum = 1, maximum = 18446744069414584319usize)),
    responses(
        (status = 200, description = "An entry of the log", body = EntryView<'_>),
        (status = 404, description = "It is not learned here (yet)"),
        (status = 410, description = "The log no longer goes back that far"),
        (status = 503, description = "This learner has too much to do")
    )
)]
async fn instance(
    State(state): State<Arc<Learner>>,
    PathParams(id): PathParams<u64>,
) -> Result<Response, Problem> {
    let slot = slot("id", id)?;
    let entries = state.handle.entries(slot, 1).await.map_err(no_entries)?;
    let entry = entries
        .first()
        .filter(|entry| entry.slot == slot)
        .ok_or_else(|| absent(slot))?;
    Ok(Json(EntryView::of(entry)).into_response())
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct InstancesQuery {
    /// The first instance
    #[serde(default = "first")]
    #[param(minimum = 1, maximum = 18446744069414584319usize, default = 1)]
    from: u64,
    /// How many
    #[serde(default = "hundred")]
    #[param(minimum = 1, maximum = 1000, default = 100)]
    limit: usize,
}

fn first() -> u64 {
    1
}

fn hundred() -> usize {
    100
}

/// A page of the log
#[utoipa::path(
    get,
    path = "/instances",
    params(InstancesQuery),
    responses(
        (status = 200, description = "Entries in order, as far as there are any", body = InstancesView<'_>),
        (status = 410, description = "The log no longer goes back that far"),
        (status = 503, description = "This learner has too much to do")
    )
)]
async fn instances(
    State(state): State<Arc<Learner>>,
    Params(query): Params<InstancesQuery>,
) -> Result<Response, Problem> {
    let from = slot("from", query.from)?;
    if !(1..=1000).contains(&query.limit) {
        return Err(Problem::bad_request("limit", "must be from 1 to 1000"));
    }
    // The entries and their JSON.
    reserve(2 * (PAGE_BYTES + LARGEST_ENTRY)).await?;
    let mut entries: Vec<Entry> = Vec::new();
    let mut bytes = 0;
    while entries.len() < query.limit && bytes < PAGE_BYTES {
        let next = from.plus(entries.len() as u64);
        let more = state
            .handle
            .entries(next, CHUNK_BYTES)
            .await
            .map_err(no_entries)?;
        if more.is_empty() {
            break;
        }
        bytes += more.iter().map(|entry| entry.value.len()).sum::<usize>();
        entries.extend(more);
    }
    entries.truncate(query.limit);
    let views: Vec<EntryView<'_>> = entries.iter().map(EntryView::of).collect();
    let next = from.0 + views.len() as u64;
    let view = InstancesView {
        instances: views,
        next,
    };
    Ok(json_bytes(
        StatusCode::OK,
        render_json(rendered_size(&entries), &view),
    ))
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct LogQuery {
    /// The first instance
    #[serde(default = "first")]
    #[param(minimum = 1, maximum = 18446744069414584319usize, default = 1)]
    from: u64,
    /// Continue as more is chosen; false: end at the last entry
    #[serde(default = "yes")]
    #[param(default = true)]
    follow: bool,
}

fn yes() -> bool {
    true
}

/// The log from an instance on, one JSON object a line
///
/// Each line is an Entry. The reader sets the pace: the next chunk is read
/// when the one before it is sent.
#[utoipa::path(
    get,
    path = "/log",
    params(LogQuery),
    responses(
        (status = 200, description = "Entries, each an object on a line", body = String, content_type = "application/x-ndjson"),
        (status = 410, description = "The log no longer goes back that far; floor says how far"),
        (status = 503, description = "Too many follow this learner, or it has too much to do")
    )
)]
async fn log(
    State(state): State<Arc<Learner>>,
    Params(query): Params<LogQuery>,
) -> Result<Response, Problem> {
    let from = slot("from", query.from)?;
    let permit = state.stream()?;
    // Before the stream starts an error can still be reported.
    state.handle.entries(from, 1).await.map_err(no_entries)?;
    let start = (state, permit, from);
    let lines = stream::unfold(start, move |(state, permit, next)| async move {
        let mut applied = state.handle.applied();
        loop {
            let (room, entries) = state.piece(&permit, next).await.ok()?;
            if let Some(last) = entries.last() {
                let next = last.slot.next();
                let lines = Ok::<_, Infallible>(room.fill(render(&entries)));
                return Some((lines, (state, permit, next)));
            }
            drop(room);
            if !query.follow {
                return None;
            }
            let mut ending = state.ending.clone();
            tokio::select! {
                more = applied.wait_for(|applied| *applied >= next) => drop(more.ok()?),
                _ = ending.wait_for(|ending| *ending) => return None,
            }
        }
    });
    let content_type = HeaderValue::from_static("application/x-ndjson");
    Ok(([(CONTENT_TYPE, content_type)], HttpBody::from_stream(lines)).into_response())
}

fn render(entries: &[Entry]) -> Bytes {
    let mut lines = Vec::with_capacity(rendered_size(entries));
    for entry in entries {
        write_line(&mut lines, &EntryView::of(entry));
    }
    lines.into()
}

impl Reads for Learner {
    fn barrier(&self) -> &Barrier {
        &self.barrier
    }

    fn halted(&self) -> Option<String> {
        self.handle.halted()
    }

    fn is_level(&self) -> bool {
        self.handle.is_caught_up()
    }

    fn is_behind(&self) -> bool {
        let applied = *self.handle.applied().borrow();
        applied == Slot::ZERO || applied < self.handle.committed()
    }

    async fn resource(&self, name: String) -> Option<Resource> {
        self.handle.state().machine.resource(&name)
    }

    async fn page(&self, query: PageQuery) -> Page {
        let (limits, after) = (query.limits(), query.after.as_deref());
        self.handle
            .state()
            .machine
            .page(&query.prefix, after, limits)
    }
}
