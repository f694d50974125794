//! Calls to one peer: a request and a deadline go in, the whole answer or a reason comes out. Keeps
//! a few HTTP/1.1 connections open, backs off from a peer that cannot be reached, and has a circuit
//! breaker on top. Every call must be idempotent: one that went out on a kept connection which the
//! peer had closed is sent once more on a fresh one.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HOST, HeaderValue};
use http::uri::PathAndQuery;
use http::{Method, Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::Incoming;
use tokio::time::timeout_at;
use tracing::{info, warn};

use crate::breaker::{self, Breaker, Pass, Policy, State};
use crate::connect;
use crate::metrics::{PeerMetrics, Reason};
use backoff::Backoff;
use pool::{Connection, Pool, Slot};

mod backoff;
mod pool;

/// Which of a peer's connections a call takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lane {
    /// Heartbeats and prepares: their own connection, so they never wait behind bulk.
    Control,
    /// Everything else.
    Bulk,
}

/// Whether a call heeds the peer's circuit breaker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Breakers {
    /// As always but for the case below.
    Respect,
    /// When a quorum hangs on it, see [`guard`]: past the breaker, and with the shortest back-off.
    Ignore,
}

/// What a round of calls to `peers` that needs `quorum` answers must do about the breakers.
pub fn guard<'a>(peers: impl IntoIterator<Item = &'a Peer>, quorum: usize) -> Breakers {
    if breaker::must_ignore(peers.into_iter().map(Peer::is_healthy), quorum) {
        Breakers::Ignore
    } else {
        Breakers::Respect
    }
}

/// A `POST` for [`Peer::call`], which adds the `Host`.
pub fn post(path: PathAndQuery, content_type: HeaderValue, body: Bytes) -> Request<Bytes> {
    let mut request = Request::new(body);
    *request.method_mut() = Method::POST;
    *request.uri_mut() = Uri::from(path);
    request.headers_mut().insert(CONTENT_TYPE, content_type);
    request
}

/// However slowly an answer comes, it has come by then.
const ANSWER_WITHIN: Duration = Duration::from_secs(60);

/// The bounds of a [`Peer`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PeerOptions {
    /// Connections of [`Lane::Bulk`], which is also how many of its calls are in flight at once.
    pub bulk_connections: usize,
    /// Calls that may wait for a connection, per lane.
    pub max_waiting: usize,
    /// How long resolving the name and connecting may take; a call's own deadline may cut it short.
    pub connect_timeout: Duration,
    /// The longest pause after the first failure to connect; it doubles with each further one.
    pub backoff_base: Duration,
    /// The longest pause of all.
    pub backoff_cap: Duration,
    /// The largest answer taken, in bytes.
    pub max_response_bytes: usize,
    /// The circuit breaker's figures.
    pub breaker: Policy,
}

impl Default for PeerOptions {
    fn default() -> PeerOptions {
        PeerOptions {
            bulk_connections: 4,
            max_waiting: 256,
            connect_timeout: Duration::from_secs(1),
            backoff_base: Duration::from_millis(50),
            backoff_cap: Duration::from_secs(2),
            max_response_bytes: 8 * 1024 * 1024,
            breaker: Policy::default(),
        }
    }
}

/// Why a call has no answer. The peer surely did not get the request with `Busy`, `BreakerOpen`,
/// `BackingOff` and `Connect`; with the others it may have acted on it.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// Too many calls wait for a connection of this lane, or none came free in time.
    #[error("all connections to the peer are in use")]
    Busy,
    /// The circuit breaker lets no call through.
    #[error("the peer failed too often, its circuit breaker is open")]
    BreakerOpen,
    /// Connecting failed a moment ago.
    #[error("the peer could not be reached a moment ago")]
    BackingOff,
    /// The name does not resolve, or nothing listens there.
    #[error("cannot connect to the peer: {0}")]
    Connect(#[source] io::Error),
    /// The deadline passed.
    #[error("the peer did not answer in time")]
    TimedOut,
    /// The connection broke, or what came is not HTTP.
    #[error("the connection to the peer broke: {0}")]
    Broken(#[source] hyper::Error),
    /// The answer is over [`PeerOptions::max_response_bytes`].
    #[error("the peer's answer is too large")]
    TooLarge,
}

impl CallError {
    fn reason(&self) -> Reason {
        match self {
            CallError::Connect(_) => Reason::Connect,
            CallError::TimedOut => Reason::Timeout,
            CallError::Broken(_) | CallError::TooLarge => Reason::Broken,
            CallError::BackingOff => Reason::Backoff,
            CallError::BreakerOpen => Reason::Breaker,
            CallError::Busy => Reason::Busy,
        }
    }
}

/// What a peer's calls came to since the start, for metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stats {
    /// Calls that got an answer, whatever its status.
    pub answered: u64,
    /// The time from sending to the end of the answer, summed over those.
    pub round_trips: Duration,
    /// Calls that were tried and got no answer.
    pub failed: u64,
    /// Calls refused here: busy, backing off, breaker open.
    pub refused: u64,
    /// Connections opened.
    pub connections: u64,
    /// How often the breaker opened.
    pub breaker_opened: u64,
    /// The breaker now.
    pub breaker: State,
}

/// One peer. Cloning it is cheap, and the clones share everything.
#[derive(Clone)]
pub struct Peer(Arc<Inner>);

struct Inner {
    name: String,
    address: String,
    host: HeaderValue,
    options: PeerOptions,
    control: Pool,
    bulk: Pool,
    health: Mutex<Health>,
    /// The start of the time that breaker and back-off know.
    start: Instant,
    counts: Counts,
    metrics: PeerMetrics,
}

struct Health {
    breaker: Breaker,
    backoff: Backoff,
}

#[derive(Default)]
struct Counts {
    answered: AtomicU64,
    round_trip_micros: AtomicU64,
    failed: AtomicU64,
    refused: AtomicU64,
    connections: AtomicU64,
    breaker_opened: AtomicU64,
}

fn add(counter: &AtomicU64, more: u64) {
    counter.fetch_add(more, Ordering::Relaxed);
}

impl Peer {
    /// A peer known as `name` in logs and metrics, at `host:port`. Connects when first called.
    pub fn new(name: impl Into<String>, address: impl Into<String>, options: PeerOptions) -> Peer {
        let (name, address) = (name.into(), address.into());
        Peer(Arc::new(Inner {
            metrics: PeerMetrics::new(&name),
            name,
            // An address that is no header value resolves to nothing either.
            host: HeaderValue::from_str(&address).unwrap_or(HeaderValue::from_static("")),
            address,
            options,
            control: Pool::new(1, options.max_waiting),
            bulk: Pool::new(options.bulk_connections, options.max_waiting),
            health: Mutex::new(Health {
                breaker: Breaker::new(options.breaker),
                backoff: Backoff::new(options.backoff_base, options.backoff_cap),
            }),
            start: Instant::now(),
            counts: Counts::default(),
        }))
    }

    /// The peer's name.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// Its `host:port`.
    pub fn address(&self) -> &str {
        &self.0.address
    }

    /// Sends an idempotent request whose URI is a path, and returns the whole answer. It begins
    /// within `timeout`, waiting and connecting included, and continues without a longer pause: a
    /// large answer over a slow link has the time that it needs. May be dropped at any time.
    pub async fn call(
        &self,
        lane: Lane,
        request: Request<Bytes>,
        timeout: Duration,
        breakers: Breakers,
    ) -> Result<Response<Bytes>, CallError> {
        self.call_hearing(lane, request, timeout, breakers, || ())
            .await
    }

    /// The same, saying each time that some of the answer has come.
    pub async fn call_hearing(
        &self,
        lane: Lane,
        request: Request<Bytes>,
        timeout: Duration,
        breakers: Breakers,
        heard: impl FnMut(),
    ) -> Result<Response<Bytes>, CallError> {
        let inner = &*self.0;
        let result = inner.call(lane, request, timeout, breakers, heard).await;
        if let Err(why) = &result {
            inner.metrics.failed(why.reason());
        }
        match &result {
            Ok(_) => add(&inner.counts.answered, 1),
            Err(CallError::Busy | CallError::BreakerOpen | CallError::BackingOff) => {
                add(&inner.counts.refused, 1);
            }
            Err(_) => add(&inner.counts.failed, 1),
        }
        result
    }

    /// The peer was heard from by other means, such as a heartbeat: it is there, so the breaker
    /// closes and the back-off ends.
    pub fn heard(&self) {
        self.0.health().backoff.succeeded();
        self.0.with_breaker(|breaker| breaker.close_early());
    }

    /// The breaker is closed and the last call did not fail.
    pub fn is_healthy(&self) -> bool {
        self.0.health().breaker.is_healthy()
    }

    /// Whether nothing listens there right now: true only if connecting is refused, so false for a
    /// host that does not answer at all.
    pub async fn refused(&self) -> bool {
        let connect = connect::stream(&*self.0.address);
        let connected = tokio::time::timeout(self.0.options.connect_timeout, connect).await;
        matches!(connected, Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused)
    }

    /// What the calls came to so far.
    pub fn stats(&self) -> Stats {
        let inner = &*self.0;
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Stats {
            answered: read(&inner.counts.answered),
            round_trips: Duration::from_micros(read(&inner.counts.round_trip_micros)),
            failed: read(&inner.counts.failed),
            refused: read(&inner.counts.refused),
            connections: read(&inner.counts.connections),
            breaker_opened: read(&inner.counts.breaker_opened),
            breaker: inner.health().breaker.state(inner.now()),
        }
    }
}

impl Inner {
    async fn call(
        &self,
        lane: Lane,
        request: Request<Bytes>,
        timeout: Duration,
        breakers: Breakers,
        heard: impl FnMut(),
    ) -> Result<Response<Bytes>, CallError> {
        let deadline = tokio::time::Instant::now() + timeout;
        if breakers == Breakers::Respect && self.health().breaker.state(self.now()) == State::Open {
            return Err(CallError::BreakerOpen);
        }
        let pool = match lane {
            Lane::Control => &self.control,
            Lane::Bulk => &self.bulk,
        };
        // To wait in vain for one's own kind says nothing about the peer.
        let slot = timeout_at(deadline, pool.slot()).await;
        let slot = slot.ok().flatten().ok_or(CallError::Busy)?;
        let admitted = self.admit(deadline, breakers)?;

        let started = Instant::now();
        let exchange = self.exchange(&slot, request, deadline, breakers);
        let result = match timeout_at(deadline, exchange).await {
            Ok(Ok((connection, response))) => {
                self.read(&slot, connection, response, timeout, heard).await
            }
            Ok(Err(error)) => Err(error),
            Err(_) => Err(CallError::TimedOut),
        };
        match &result {
            Ok(answer) => {
                let took = started.elapsed();
                self.metrics.answered(took);
                let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
                add(&self.counts.round_trip_micros, micros);
                admitted.answered(answer.status());
            }
            Err(CallError::TimedOut) => {
                // If the peer's host is gone, the kept connections would each cost a timeout too.
                self.control.forget_idle();
                self.bulk.forget_idle();
                admitted.failed();
            }
            Err(CallError::Connect(_) | CallError::Broken(_)) => admitted.failed(),
            Err(_) => {}
        }
        result
    }

    fn admit(
        &self,
        deadline: tokio::time::Instant,
        breakers: Breakers,
    ) -> Result<Admitted<'_>, CallError> {
        let left = deadline.saturating_duration_since(tokio::time::Instant::now());
        let breaker = &mut self.health().breaker;
        let pass = match (breaker.admit(self.now(), left), breakers) {
            (Some(pass), _) => pass,
            (None, Breakers::Ignore) => breaker.force(),
            (None, Breakers::Respect) => return Err(CallError::BreakerOpen),
        };
        Ok(Admitted {
            inner: self,
            pass: Some(pass),
        })
    }

    async fn exchange(
        &self,
        slot: &Slot<'_>,
        request: Request<Bytes>,
        deadline: tokio::time::Instant,
        breakers: Breakers,
    ) -> Result<(Connection, Response<Incoming>), CallError> {
        let mut request = request.map(Full::new);
        request.headers_mut().insert(HOST, self.host.clone());
        if let Some(mut kept) = slot.idle() {
            // It may have been closed at the other end in the meantime: then once more, below.
            if let Ok(response) = kept.send(request.clone()).await {
                return Ok((kept, response));
            }
        }
        let mut fresh = self.connect(deadline, breakers).await?;
        let response = fresh.send(request).await.map_err(CallError::Broken)?;
        Ok((fresh, response))
    }

    async fn read(
        &self,
        slot: &Slot<'_>,
        connection: Connection,
        response: Response<Incoming>,
        pause: Duration,
        mut heard: impl FnMut(),
    ) -> Result<Response<Bytes>, CallError> {
        let (head, body) = response.into_parts();
        let mut body = Limited::new(body, self.options.max_response_bytes);
        let end = tokio::time::Instant::now() + pause.max(ANSWER_WITHIN);
        let mut parts: Vec<Bytes> = Vec::new();
        loop {
            let next = end.min(tokio::time::Instant::now() + pause);
            match timeout_at(next, body.frame()).await {
                Ok(Some(Ok(frame))) => parts.extend(frame.into_data()),
                Ok(None) => break,
                Ok(Some(Err(error))) => {
                    return Err(match error.downcast::<hyper::Error>() {
                        Ok(error) => CallError::Broken(*error),
                        Err(error) => {
                            debug_assert!(error.is::<LengthLimitError>(), "no other error is left");
                            CallError::TooLarge
                        }
                    });
                }
                Err(_) => return Err(CallError::TimedOut),
            }
            heard();
        }
        slot.keep(connection);
        let whole = match &mut parts[..] {
            [one] => std::mem::take(one),
            parts => parts.concat().into(),
        };
        Ok(Response::from_parts(head, whole))
    }

    async fn connect(
        &self,
        deadline: tokio::time::Instant,
        breakers: Breakers,
    ) -> Result<Connection, CallError> {
        let backoff = self.health().backoff;
        let allowed = match breakers {
            Breakers::Respect => backoff.allows(self.now()),
            Breakers::Ignore => backoff.allows_urgent(self.now()),
        };
        if !allowed {
            return Err(CallError::BackingOff);
        }
        let deadline = deadline.min(tokio::time::Instant::now() + self.options.connect_timeout);
        let opened = timeout_at(deadline, Connection::open(&self.address)).await;
        match opened.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
            Ok(connection) => {
                add(&self.counts.connections, 1);
                self.health().backoff.succeeded();
                Ok(connection)
            }
            Err(error) => {
                let now = self.now();
                let jitter = rand::random_range(0.0..=1.0);
                self.health().backoff.failed(now, jitter);
                Err(CallError::Connect(error))
            }
        }
    }

    /// Changes the breaker, and says so if its state changed.
    fn with_breaker(&self, change: impl FnOnce(&mut Breaker)) {
        let now = self.now();
        let (before, after) = {
            let breaker = &mut self.health().breaker;
            let before = breaker.state(now);
            change(breaker);
            (before, breaker.state(now))
        };
        if before == after {
            return;
        }
        let is_open = |state| i64::from(state != State::Closed);
        self.metrics
            .breaker_open
            .add(is_open(after) - is_open(before));
        match after {
            State::Open => {
                add(&self.counts.breaker_opened, 1);
                warn!(peer = self.name, "circuit breaker opened");
            }
            State::HalfOpen => {}
            State::Closed => info!(peer = self.name, "circuit breaker closed"),
        }
    }

    fn health(&self) -> MutexGuard<'_, Health> {
        self.health.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> Duration {
        self.start.elapsed()
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        // It is open no longer towards anybody.
        if self.health().breaker.state(self.now()) != State::Closed {
            self.metrics.breaker_open.dec();
        }
    }
}

/// A call that the breaker let through; dropped with the call, it gives its place back.
struct Admitted<'a> {
    inner: &'a Inner,
    pass: Option<Pass>,
}

impl Admitted<'_> {
    fn answered(mut self, status: StatusCode) {
        // 503 is a peer's "not now": it lives, and it does not serve.
        if status == StatusCode::SERVICE_UNAVAILABLE {
            return;
        }
        if status.is_server_error() {
            return self.failed();
        }
        if let Some(pass) = self.pass.take() {
            self.inner.with_breaker(|breaker| breaker.succeeded(pass));
        }
    }

    fn failed(mut self) {
        if let Some(pass) = self.pass.take() {
            let now = self.inner.now();
            let jitter = rand::random_range(-1.0..=1.0);
            self.inner
                .with_breaker(|breaker| breaker.failed(pass, now, jitter));
        }
    }
}

impl Drop for Admitted<'_> {
    fn drop(&mut self) {
        if let Some(pass) = self.pass.take() {
            self.inner.health().breaker.dropped(pass);
        }
    }
}

#[cfg(test)]
mod tests;
