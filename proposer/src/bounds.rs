//! What one process may hold of memory, connections and descriptors, no matter who asks. Each bound is
//! the process's own, in bytes where bytes matter, and derived from what the system gives it.
//!
//! A quarter of the memory is for what comes in and goes out: clients' bodies, peers' frames, answers
//! and streams have a part each, so that none of them starves another. A part is taken before the
//! memory is, and given back when the memory is free again: a body's when it is read, an answer's when
//! the client has taken it. Where a part is spent, a client that makes no progress with what it holds
//! is cut, and the next one waits for a moment, or is told to come back.
//!
//! A request finds its connection in a task-local variable, as it is served by the connection's task.
//! Outside of one, as in unit tests of routes, nothing is counted.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use hyper::body::Body as _;
use prometheus::{IntCounterVec, IntGauge, IntGaugeVec, Opts};
use tokio::time::timeout;
use tracing::{debug, warn};

mod answer;
pub mod budget;
mod connection;
pub mod descriptors;
pub mod memory;
mod table;
#[cfg(test)]
mod tests;

use answer::{CountedBody, counted};
use budget::{Budget, Share};
pub use connection::Connection;
use connection::Held;
use table::{Place, Table};

/// What of the memory is for requests and answers: one part in this many.
const PART: u64 = 4;
/// The largest frame must fit, and some more of anything.
const LEAST: usize = 16 << 20;
/// What a connection without a request takes, with the system's part of it.
const CONNECTION_BYTES: u64 = 16 << 10;
/// The most connections, and the least.
const CONNECTIONS: std::ops::RangeInclusive<usize> = 4..=10_000;
/// Bodies and answers up to this size are not counted: the connection's own buffers hold as much.
pub const SMALL: usize = 16 << 10;
/// How long to wait for a part that is spent.
const PATIENCE: Duration = Duration::from_secs(2);
/// How often to look for those who do not get on, meanwhile.
const LOOK_AGAIN: Duration = Duration::from_millis(25);
/// Streams of one learner, and of one source.
const STREAMS: usize = 1024;
const STREAMS_OF_ONE: usize = STREAMS / 8;
/// How often the log says that connections are cut.
const SAY_AGAIN: Duration = Duration::from_secs(10);

/// The parts of the memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Clients' requests while they are read.
    Bodies = 0,
    /// Messages of other nodes, until they are answered.
    Frames = 1,
    /// Answers that are not taken yet.
    Answers = 2,
    /// Of `/log` and `/watch`, the same.
    Streams = 3,
}

impl Kind {
    /// All of them, in order.
    pub const ALL: [Kind; 4] = [Kind::Bodies, Kind::Frames, Kind::Answers, Kind::Streams];

    /// As in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Bodies => "bodies",
            Kind::Frames => "frames",
            Kind::Answers => "answers",
            Kind::Streams => "streams",
        }
    }
}

/// What [`Bounds`] shows.
#[derive(Clone, Debug)]
pub struct Shown {
    /// Open connections.
    pub connections: IntGauge,
    /// Those that were cut or turned away, by why.
    pub cut: IntCounterVec,
    /// Bytes by their kind.
    pub buffered: IntGaugeVec,
}

/// Why a connection is cut.
pub const CUT: [&str; 6] = ["silent", "idle", "stalled", "idle_peer", "share", "full"];

impl Default for Shown {
    /// For nobody to see.
    fn default() -> Shown {
        let opts = |name: &str| Opts::new(name, name);
        Shown {
            connections: IntGauge::new("connections", "connections").expect("a good name"),
            cut: IntCounterVec::new(opts("cut"), &["why"]).expect("a good name"),
            buffered: IntGaugeVec::new(opts("buffered"), &["kind"]).expect("a good name"),
        }
    }
}

/// The figures of [`Bounds`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Connections open at once; a few more for peers and probes.
    pub connections: usize,
    /// Bytes for requests and answers together.
    pub bytes: usize,
    /// How long a new connection may be silent.
    pub first_byte: Duration,
}

impl Default for Limits {
    /// For a process of the default size.
    fn default() -> Limits {
        Limits::of(memory::DEFAULT_LIMIT, usize::MAX)
    }
}

impl Limits {
    /// For that much memory, and that many descriptors for connections.
    pub fn of(memory: u64, descriptors: usize) -> Limits {
        let by_memory = usize::try_from(memory / 8 / CONNECTION_BYTES).unwrap_or(usize::MAX);
        // Some descriptors stay for the reserve.
        let by_descriptors = descriptors - descriptors / 8;
        let connections = by_memory.min(by_descriptors);
        Limits {
            connections: connections.clamp(*CONNECTIONS.start(), *CONNECTIONS.end()),
            bytes: usize::try_from(memory / PART).unwrap_or(usize::MAX),
            first_byte: Duration::from_secs(2),
        }
    }

    /// For this process, in a cluster of `nodes` nodes. Raises its limit of descriptors.
    pub fn of_this_process(nodes: usize) -> Limits {
        let descriptors = descriptors::raise_limit();
        Limits::of(
            memory::limit(),
            descriptors::for_connections(descriptors, nodes),
        )
    }

    /// Bytes of clients' requests that may wait for their outcome.
    pub fn waiting_bytes(&self) -> usize {
        (self.bytes / 2).clamp(LEAST, 64 << 20)
    }
}

/// The bounds of a process. One value each.
pub struct Bounds {
    limits: Limits,
    budgets: [Budget; Kind::ALL.len()],
    shown: Shown,
    table: Mutex<Table>,
    streams: Mutex<HashMap<IpAddr, usize>>,
    next: AtomicU64,
    /// Milliseconds after the start: when it was last looked for the stalled, and said that some were
    /// cut.
    started: Instant,
    looked_at: AtomicU64,
    said_at: AtomicU64,
}

tokio::task_local! {
    /// Whose request is being served.
    static CURRENT: Arc<Connection>;
}

/// No memory is left for this.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spent;

impl Bounds {
    /// With nothing taken yet.
    pub fn new(limits: Limits, shown: Shown) -> Arc<Bounds> {
        let part = (limits.bytes / Kind::ALL.len()).max(LEAST);
        let budget = |kind: Kind| {
            let shown = shown.buffered.with_label_values(&[kind.name()]);
            Budget::new(part, shown)
        };
        Arc::new(Bounds {
            limits,
            budgets: Kind::ALL.map(budget),
            shown,
            table: Mutex::default(),
            streams: Mutex::default(),
            next: AtomicU64::new(0),
            started: Instant::now(),
            looked_at: AtomicU64::new(0),
            said_at: AtomicU64::new(0),
        })
    }

    /// Their figures.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    fn budget(&self, kind: Kind) -> &Budget {
        &self.budgets[kind as usize]
    }

    /// A place for a new connection; `None`: it must be closed at once.
    pub(crate) fn admit(self: &Arc<Bounds>, address: IpAddr) -> Option<Arc<Connection>> {
        let source = connection::source(address);
        let most = self.limits.connections;
        let reserve = (most / 8).max(2);
        let mut table = self.table();
        let (place, gone) = table.place(source, most, reserve);
        let on_trial = match place {
            Place::Free => false,
            Place::Reserved => true,
            Place::None => {
                drop(table);
                self.count("full", 1);
                return None;
            }
        };
        let waits = table.waits(source);
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let connection = Arc::new(Connection::new(id, source, self.clone(), waits, on_trial));
        table.add(&connection);
        drop(table);
        self.shown.connections.inc();
        self.cut(gone);
        Some(connection)
    }

    /// A connection has ended.
    pub(crate) fn ended(&self, connection: &Connection) {
        if self.table().remove(connection.id).is_some() {
            self.shown.connections.dec();
        }
    }

    /// Cuts some connections that nobody would miss, for their descriptors.
    pub(crate) fn shed(&self, count: usize) {
        let gone = self.table().shed(count);
        self.cut(gone);
    }

    fn cut(&self, gone: Vec<(connection::Loss, Arc<Connection>)>) {
        use connection::Loss;
        for (loss, connection) in gone {
            self.shown.connections.dec();
            let why = match loss {
                Loss::Silent | Loss::Fresh => "silent",
                Loss::Idle => "idle",
                Loss::Stalled => "stalled",
                Loss::IdlePeer => "idle_peer",
                Loss::Served => "share",
            };
            debug!(source = %connection.source, why, "a connection is cut for others");
            connection.end();
            self.count(why, 1);
        }
    }

    fn count(&self, why: &str, count: u64) {
        self.shown.cut.with_label_values(&[why]).inc_by(count);
        if self.may_say() {
            warn!(
                why,
                connections = self.table().len(),
                "connections are cut or turned away, as there are too many: paxos_connections_cut_total counts them"
            );
        }
    }

    /// Whether the log may speak of this again.
    pub(crate) fn may_say(&self) -> bool {
        self.passed(&self.said_at, SAY_AGAIN)
    }

    /// Whether so much time has passed since this was last true.
    fn passed(&self, at: &AtomicU64, pause: Duration) -> bool {
        // From 1 on, as 0 is never.
        let now = self.started.elapsed().as_millis() as u64 + 1;
        let last = at.load(Ordering::Relaxed);
        let due = last == 0 || now >= last + pause.as_millis() as u64;
        due && at
            .compare_exchange(last, now, Ordering::Relaxed, Ordering::Relaxed)
            .is_ok()
    }

    /// Waits for a part of the memory.
    async fn take(&self, kind: Kind, bytes: usize, patience: Duration) -> Result<Share, Spent> {
        let budget = self.budget(kind);
        if let Some(share) = budget.try_take(bytes) {
            return Ok(share);
        }
        let waiting = async {
            let mut taken = std::pin::pin!(budget.take(bytes));
            loop {
                self.cut_stalled(kind);
                if let Ok(share) = timeout(LOOK_AGAIN, &mut taken).await {
                    return share;
                }
            }
        };
        timeout(patience, waiting).await.map_err(|_| Spent)
    }

    /// Cuts those who hold some of that part and do not get on: the slowest first, up to a quarter of
    /// it at once.
    fn cut_stalled(&self, kind: Kind) {
        if !self.passed(&self.looked_at, LOOK_AGAIN / 2) {
            return;
        }
        let gone: Vec<_> = {
            let mut table = self.table();
            let mut slow: Vec<_> = table
                .all()
                .filter_map(|connection| {
                    let held = connection.holds_of(kind);
                    let behind = (held > 0).then(|| connection.is_behind()).flatten()?;
                    Some((behind, held, connection.id))
                })
                .collect();
            slow.sort_unstable_by(|a, b| b.cmp(a));
            let mut wanted = self.budget(kind).capacity() / 4;
            let enough = |(_, held, _): &(Duration, usize, u64)| {
                let more = wanted > 0;
                wanted = wanted.saturating_sub(*held);
                more
            };
            let chosen = slow.into_iter().take_while(enough);
            let chosen: Vec<_> = chosen.map(|(_, _, id)| id).collect();
            let gone = chosen.into_iter().filter_map(|id| table.remove(id));
            gone.map(|connection| (connection::Loss::Stalled, connection))
                .collect()
        };
        self.cut(gone);
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Connection {
    /// Runs what serves it, so that requests find it.
    pub(crate) async fn scope(self: Arc<Connection>, serve: impl Future<Output = ()>) {
        let open = Open(self);
        CURRENT.scope(open.0.clone(), serve).await;
    }
}

/// Ends with the connection, however that ends.
struct Open(Arc<Connection>);

impl Drop for Open {
    fn drop(&mut self) {
        // What it holds for a request names the connection itself.
        let left = std::mem::take(&mut *self.0.holds());
        drop(left);
        self.0.bounds.ended(&self.0);
    }
}

/// The connection whose request is being served.
fn current() -> Option<Arc<Connection>> {
    CURRENT.try_with(Arc::clone).ok()
}

/// What of the source waits from which the request comes that is being served.
pub(crate) fn waits() -> Option<Arc<Waits>> {
    CURRENT.try_with(|connection| connection.waits.clone()).ok()
}

/// Requests of one source that wait for their outcome.
#[derive(Debug, Default)]
pub struct Waits {
    requests: AtomicUsize,
    bytes: AtomicUsize,
}

impl Waits {
    /// Adds some, and returns what there is then.
    pub(crate) fn add(&self, requests: usize, bytes: usize) -> (usize, usize) {
        let add = |counter: &AtomicUsize, more| counter.fetch_add(more, Ordering::Relaxed) + more;
        (add(&self.requests, requests), add(&self.bytes, bytes))
    }

    pub(crate) fn sub(&self, requests: usize, bytes: usize) {
        self.requests.fetch_sub(requests, Ordering::Relaxed);
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// A body that is being read.
pub(crate) struct Reading {
    connection: Option<Arc<Connection>>,
    kind: Kind,
    held: Option<Held>,
}

impl Reading {
    /// Begins.
    pub(crate) fn start(kind: Kind) -> Reading {
        let connection = current();
        if let Some(connection) = &connection {
            connection.reads(true);
        }
        Reading {
            connection,
            kind,
            held: None,
        }
    }

    /// Takes the memory for a body of that size. Waits a little if there is none.
    pub(crate) async fn take(&mut self, bytes: usize) -> Result<(), Spent> {
        let Some(connection) = &self.connection else {
            return Ok(());
        };
        // It waits for us now, and holds nothing.
        connection.reads(false);
        let share = connection.bounds.take(self.kind, bytes, PATIENCE).await;
        connection.reads(true);
        self.held = Some(Held::new(connection, self.kind, share?));
        Ok(())
    }

    /// The body is here. A client's is parsed now, and counts elsewhere then; a frame counts until it
    /// is answered.
    pub(crate) fn end(mut self) {
        let held = self.held.take();
        if let (Some(connection), Kind::Frames) = (&self.connection, self.kind) {
            connection.holds().frame = held;
        }
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        if let Some(connection) = &self.connection {
            connection.reads(false);
        }
    }
}

/// Takes memory for an answer of about that size, before it is made. Waits a little if there is none.
pub(crate) async fn reserve_answer(bytes: usize) -> Result<(), Spent> {
    let Some(connection) = current() else {
        return Ok(());
    };
    if bytes <= SMALL || connection.holds().answer.is_some() {
        return Ok(());
    }
    let share = connection
        .bounds
        .take(Kind::Answers, bytes, PATIENCE)
        .await?;
    connection.holds().answer = Some(Held::new(&connection, Kind::Answers, share));
    Ok(())
}

/// The request has its answer: what it held is free again, and a large answer counts until the client
/// has taken it.
pub(crate) fn answered(response: Response) -> Response {
    let Ok(held) = CURRENT.try_with(|connection| {
        let mut holds = connection.holds();
        holds.frame = None;
        holds.answer.take()
    }) else {
        return response;
    };
    let size = response.body().size_hint().exact().unwrap_or(0);
    if size <= SMALL as u64 {
        return response;
    }
    let Some(connection) = current() else {
        return response;
    };
    connection.begins();
    response.map(|body| Body::new(CountedBody::new(body, connection, held)))
}

/// A place among the answers without an end.
pub(crate) struct Stream(Option<Arc<Connection>>);

/// Why there is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NoStream {
    /// All are taken.
    All(usize),
    /// This source has as many as one may have.
    Source(usize),
}

impl Stream {
    /// A place for the request that is being served.
    pub(crate) fn start() -> Result<Stream, NoStream> {
        let Some(connection) = current() else {
            return Ok(Stream(None));
        };
        let mut streams = connection.bounds.streams();
        if streams.values().sum::<usize>() >= STREAMS {
            return Err(NoStream::All(STREAMS));
        }
        let mine = streams.entry(connection.source).or_default();
        if *mine >= STREAMS_OF_ONE {
            return Err(NoStream::Source(STREAMS_OF_ONE));
        }
        *mine += 1;
        drop(streams);
        connection.streams(true);
        Ok(Stream(Some(connection)))
    }

    /// Waits until there is memory for a piece of about that size. Clients that do not take what they
    /// have been sent are cut meanwhile.
    pub(crate) async fn room(&self, bytes: usize) -> Piece {
        let Some(connection) = &self.0 else {
            return Piece(None);
        };
        let bounds = &connection.bounds;
        loop {
            if let Ok(share) = bounds.take(Kind::Streams, bytes, PATIENCE).await {
                return Piece(Some(Held::new(connection, Kind::Streams, share)));
            }
        }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        let Some(connection) = &self.0 else { return };
        connection.streams(false);
        let mut streams = connection.bounds.streams();
        if let Some(mine) = streams.get_mut(&connection.source) {
            *mine -= 1;
            if *mine == 0 {
                streams.remove(&connection.source);
            }
        }
    }
}

impl Bounds {
    fn streams(&self) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
        self.streams.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Memory for a piece of a stream.
pub(crate) struct Piece(Option<Held>);

impl Piece {
    /// The piece, which counts until the client has taken it.
    pub(crate) fn fill(self, bytes: Bytes) -> Bytes {
        let Some(held) = self.0 else { return bytes };
        held.connection().begins();
        counted(bytes, held)
    }
}
