//! What every role answers: health, readiness, status, logs and metrics. The roles' own routes are
//! in the modules below.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use api::env::Config;
use api::status::NodeStatus;
use axum::extract::{MatchedPath, Request, State};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use bytes::Bytes;
use http::{HeaderValue, StatusCode, header};
use paxos::codec::{self, Frame, NodeName, Version};
use paxos::message::Message;
use serde::{Deserialize, Serialize};
use std::time::Duration;
use utoipa::IntoParams;

use crate::addresses::Addresses;
use crate::bounds::{self, Kind, Spent};
use crate::identity::Identity;
use crate::logs::Logs;
use crate::metrics::Metrics;
use crate::problem::{BodyLimits, Params, Problem, finish, no_memory};
use crate::survey::Survey;
use crate::wire::answers::{Health, LogsView, Ready};
use door::{Caller, Door};

pub mod acceptor;
pub mod door;
pub mod learner;
mod openapi;
pub mod proposer;
mod resources;
mod snapshots;
pub mod store;
mod watch;

/// About what the largest answers of these kinds take while they are made.
const LOGS_BYTES: usize = 2 << 20;
const METRICS_BYTES: usize = 256 << 10;

/// What the routes of every role share.
#[derive(Clone)]
pub struct Node {
    /// Who this is, and on which disk.
    pub identity: Identity,
    /// Since when.
    pub started: Instant,
    /// `DEBUG`.
    pub debug: bool,
    /// The newest log entries.
    pub logs: Logs,
    /// The metrics.
    pub metrics: Arc<Metrics>,
    /// Who may knock.
    pub door: Door,
    /// Set when the process is shutting down: answers then ask clients to connect elsewhere.
    pub ending: Arc<AtomicBool>,
    /// Who answers at the addresses of other nodes.
    pub survey: Survey,
}

impl Node {
    /// Who this is.
    pub fn name(&self) -> NodeName {
        self.identity.name()
    }

    /// For this configuration, started now.
    pub fn new(
        config: &Config,
        addresses: &Addresses,
        identity: Identity,
        logs: Logs,
        metrics: Arc<Metrics>,
    ) -> Node {
        Node {
            identity,
            door: Door::new(&config.access, addresses),
            started: Instant::now(),
            debug: config.debug,
            logs,
            metrics,
            ending: Arc::default(),
            survey: Survey::default(),
        }
    }
}

/// What a role adds to the common routes.
pub trait RoleState: Send + Sync + 'static {
    /// The part that every role has.
    fn node(&self) -> &Node;
    /// What `/status` says.
    type Status: Serialize;
    /// The state now, with what every role says.
    fn status(&self, node: NodeStatus) -> Self::Status;
    /// Why it cannot serve now, if it cannot.
    fn not_ready(&self) -> Option<String>;
}

/// The common routes and `routes`, with limits, errors and metrics around them.
pub fn router<S: RoleState>(routes: Router<Arc<S>>, state: S) -> Router {
    let routes = routes
        .route("/status", get(status::<S>))
        .route("/health", get(health::<S>))
        .route("/ready", get(ready::<S>))
        .route("/logs", get(logs::<S>))
        .route("/logs/important", get(important_logs::<S>))
        .route("/metrics", get(metrics::<S>))
        .route("/openapi.json", get(openapi::<S>));
    let state = Arc::new(state);
    finish(routes)
        .layer(middleware::from_fn_with_state(state.clone(), measure::<S>))
        .with_state(state)
}

/// What it is, and how far it has come
#[utoipa::path(
    get,
    path = "/status",
    responses((status = 200, description = "The state now", body = ref("#/components/schemas/Status")))
)]
pub(crate) async fn status<S: RoleState>(State(state): State<Arc<S>>) -> Json<S::Status> {
    let node = state.node();
    Json(state.status(NodeStatus {
        node_id: node.name().id.number(),
        role: node.name().role.name().into(),
        version: env!("CARGO_PKG_VERSION").into(),
        uptime: node.started.elapsed().as_secs(),
        cluster: node.identity.cluster().map(|cluster| cluster.to_string()),
        incarnation: format!("{:016x}", node.identity.start().incarnation),
        starts: node.identity.start().count,
        acceptors: node.identity.founders().map(|founders| founders.count()),
        warnings: node.survey.warnings(),
        ready: state.not_ready().is_none(),
    }))
}

/// Whether the process works: liveness
#[utoipa::path(
    get,
    path = "/health",
    responses((status = 200, description = "It does", body = Health))
)]
pub(crate) async fn health<S: RoleState>(State(state): State<Arc<S>>) -> Json<Health> {
    let node = state.node();
    Json(Health {
        status: "healthy",
        node_id: node.name().id.number(),
        role: node.name().role.name(),
        uptime: node.started.elapsed().as_secs(),
    })
}

/// Whether it can serve: readiness
#[utoipa::path(
    get,
    path = "/ready",
    responses(
        (status = 200, description = "It can", body = Ready),
        (status = 503, description = "It cannot now; the detail says why")
    )
)]
pub(crate) async fn ready<S: RoleState>(
    State(state): State<Arc<S>>,
) -> Result<Json<Ready>, Problem> {
    match state.not_ready() {
        None => Ok(Json(Ready {
            status: "ready",
            warnings: state.node().survey.warnings(),
        })),
        Some(mut why) => {
            for warning in state.node().survey.warnings() {
                if !why.contains(&warning) {
                    why = format!("{why}; {warning}");
                }
            }
            Err(Problem::unavailable(why, Duration::from_secs(1)))
        }
    }
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct LogsQuery {
    /// How many entries
    #[serde(default = "default_limit")]
    #[param(minimum = 1, maximum = 1000, default = 100)]
    limit: usize,
}

fn default_limit() -> usize {
    100
}

impl LogsQuery {
    fn limit(&self) -> Result<usize, Problem> {
        match self.limit {
            1..=1000 => Ok(self.limit),
            _ => Err(Problem::bad_request("limit", "must be from 1 to 1000")),
        }
    }
}

/// The newest log entries
#[utoipa::path(
    get,
    path = "/logs",
    params(LogsQuery),
    responses(
        (status = 200, description = "Newest last", body = LogsView),
        (status = 403, description = "Only with DEBUG=true")
    )
)]
pub(crate) async fn logs<S: RoleState>(
    State(state): State<Arc<S>>,
    Params(query): Params<LogsQuery>,
) -> Result<Json<LogsView>, Problem> {
    let limit = query.limit()?;
    if !state.node().debug {
        return Err(Problem::forbidden(
            "detailed logs are off: start the node with DEBUG=true",
        ));
    }
    reserve(LOGS_BYTES).await?;
    Ok(Json(LogsView {
        logs: state.node().logs.recent(limit),
    }))
}

/// The newest important log entries
#[utoipa::path(
    get,
    path = "/logs/important",
    params(LogsQuery),
    responses((status = 200, description = "Newest last", body = LogsView))
)]
pub(crate) async fn important_logs<S: RoleState>(
    State(state): State<Arc<S>>,
    Params(query): Params<LogsQuery>,
) -> Result<Json<LogsView>, Problem> {
    let limit = query.limit()?;
    reserve(LOGS_BYTES).await?;
    Ok(Json(LogsView {
        logs: state.node().logs.important(limit),
    }))
}

/// Metrics, as Prometheus reads them
#[utoipa::path(
    get,
    path = "/metrics",
    responses(
        (
            status = 200,
            description = "The text exposition format",
            body = String,
            content_type = "text/plain"
        ),
        (status = 503, description = "They cannot be read now")
    )
)]
pub(crate) async fn metrics<S: RoleState>(State(state): State<Arc<S>>) -> Response {
    let content_type = [(
        header::CONTENT_TYPE,
        "text/plain; version=0.0.4; charset=utf-8",
    )];
    if let Err(spent) = reserve(METRICS_BYTES).await {
        return spent.into_response();
    }
    let metrics = state.node().metrics.clone();
    match tokio::task::spawn_blocking(move || metrics.text()).await {
        Ok(text) => (content_type, text).into_response(),
        Err(error) => {
            let why = format!("the metrics cannot be read: {error}");
            Problem::unavailable(why, Duration::from_secs(1)).into_response()
        }
    }
}

/// This document
#[utoipa::path(
    get,
    path = "/openapi.json",
    responses((status = 200, description = "OpenAPI 3.1", body = serde_json::Value))
)]
pub(crate) async fn openapi<S: RoleState>(State(state): State<Arc<S>>) -> Json<serde_json::Value> {
    Json(openapi::document(state.node().name().role))
}

async fn measure<S: RoleState>(
    State(state): State<Arc<S>>,
    request: Request,
    next: Next,
) -> Response {
    let started = Instant::now();
    let method = request.method().clone();
    // The route's pattern, not the path: labels must have few values.
    let route = request.extensions().get::<MatchedPath>().cloned();
    let of_a_node = request.uri().path().starts_with("/paxos/");
    let (mut response, caller) = match state.node().door.admit(&request) {
        Ok(caller) => (next.run(request).await, caller),
        Err(refusal) => (*refusal, Caller::Client),
    };
    if !response
        .headers()
        .contains_key(header::X_CONTENT_TYPE_OPTIONS)
    {
        door::mark(response.headers_mut(), caller);
    }
    if state.node().ending.load(Ordering::Relaxed) {
        // Closed by agreement, not between a client's request and its answer.
        let close = HeaderValue::from_static("close");
        response.headers_mut().insert(header::CONNECTION, close);
    }
    let route = route
        .as_ref()
        .map_or("unknown", |route| template(route.as_str()));
    if of_a_node {
        crate::link::show_version(response.headers_mut());
    }
    let method = match method.as_str() {
        known @ ("GET" | "HEAD" | "POST") => known,
        _ => "other",
    };
    state
        .node()
        .metrics
        .http
        .with_label_values(&[method, route, response.status().as_str()])
        .observe(started.elapsed().as_secs_f64());
    response
}

/// The route's pattern, the same at every node: the cluster's own paths name the node.
fn template(route: &str) -> &str {
    let own = route.strip_prefix("/paxos/");
    match own.map(|own| own.splitn(3, '/').nth(2)) {
        None => route,
        Some(None) => "/paxos/{role}/{id}",
        Some(Some("entries")) => "/paxos/{role}/{id}/entries",
        Some(Some("snapshot")) => "/paxos/{role}/{id}/snapshot",
        Some(Some("digests")) => "/paxos/{role}/{id}/digests",
        Some(Some(_)) => "/paxos/{role}/{id}/other",
    }
}

/// Bounds of the cluster's own messages.
pub(crate) fn frame_limits() -> axum::Extension<BodyLimits> {
    let max_bytes = crate::link::MAX_FRAME_BYTES;
    BodyLimits {
        max_bytes,
        read_timeout: Duration::from_secs(10),
        kind: Kind::Frames,
    }
    .layer()
}

impl Node {
    /// The frame in a body, and whether it is sure to be of this cluster: while this node knows none, it
    /// may be of any. Code that looks at it later must not ask again, as the node may have joined one
    /// meanwhile.
    pub(crate) fn decode(&self, body: Bytes) -> Result<(Frame, bool), Problem> {
        let frame = Frame::decode(body).map_err(|error| {
            // 400 has its sender try another version.
            let status = match error {
                codec::Error::Damaged => StatusCode::UNPROCESSABLE_ENTITY,
                _ => StatusCode::BAD_REQUEST,
            };
            Problem::new(
                status,
                format!("{error}: this path is for the cluster's nodes"),
            )
        })?;
        let (mine, theirs) = (self.identity.cluster(), frame.cluster);
        if let (Some(_), Some(theirs)) = (mine, theirs.filter(|_| theirs != mine)) {
            self.survey.note_foreign(frame.from, theirs);
        }
        self.identity.check(&frame).map_err(|error| {
            let detail = format!("{} sent a message: {error}", frame.from);
            Problem::new(StatusCode::CONFLICT, detail)
        })?;
        Ok((frame, mine.is_some()))
    }

    /// The answer to what may be of another cluster.
    pub(crate) fn knows_no_cluster(&self) -> Problem {
        Problem::unavailable(
            "this node does not know its cluster yet",
            Duration::from_secs(1),
        )
    }

    /// A message as an answer, in the version of its question.
    pub(crate) fn answer(&self, version: Version, message: Message) -> Response {
        let content_type: HeaderValue = crate::link::CONTENT_TYPE;
        let frame = self.identity.frame_in(version, message);
        ([(header::CONTENT_TYPE, content_type)], frame).into_response()
    }
}

/// Takes the memory for an answer of about that size before it is made.
pub(crate) async fn reserve(bytes: usize) -> Result<(), Problem> {
    let reserved = bounds::reserve_answer(bytes).await;
    reserved.map_err(|Spent| no_memory())
}

/// JSON of about `bytes`. A buffer that grows by doubling would take up to three times as much.
pub(crate) fn render(bytes: usize, body: &impl Serialize) -> Vec<u8> {
    let mut rendered = Vec::with_capacity(bytes);
    // Numbers, texts and JSON that was parsed before: nothing in it can fail.
    match serde_json::to_writer(&mut rendered, body) {
        Ok(()) => rendered,
        Err(_) => Vec::new(),
    }
}

/// An answer in JSON that was rendered already.
pub(crate) fn json_bytes(status: StatusCode, body: Vec<u8>) -> Response {
    (status, [(header::CONTENT_TYPE, "application/json")], body).into_response()
}
