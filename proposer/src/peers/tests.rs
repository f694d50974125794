use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::AtomicUsize;

use axum::Router;
use axum::extract::State as Shared;
use axum::routing::{get, post};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, oneshot};
use tokio::task::JoinHandle;

use super::*;
use crate::serve::{self, serve};

const SOON: Duration = Duration::from_secs(20);

/// Nothing a test does should wait that long: pauses that must not end within a test.
const FOREVER: Duration = Duration::from_secs(3600);

#[derive(Clone, Default)]
struct World {
    entered: Arc<Notify>,
    running: Arc<AtomicUsize>,
}

struct Running(Arc<AtomicUsize>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

async fn stuck(Shared(world): Shared<World>) -> &'static str {
    world.running.fetch_add(1, Ordering::SeqCst);
    let _running = Running(world.running);
    world.entered.notify_one();
    std::future::pending().await
}

struct Server {
    address: SocketAddr,
    world: World,
    stop: oneshot::Sender<()>,
    done: JoinHandle<io::Result<()>>,
}

impl Server {
    async fn start(port: u16) -> Server {
        let world = World::default();
        let unavailable = async || StatusCode::SERVICE_UNAVAILABLE;
        let app = Router::new()
            .route("/echo", post(async |body: Bytes| body))
            .route("/stuck", post(stuck))
            .route("/fail", post(async || StatusCode::INTERNAL_SERVER_ERROR))
            .route("/unavailable", post(unavailable))
            .route(
                "/host",
                get(async |head: http::HeaderMap| head[HOST].to_str().unwrap().to_owned()),
            )
            .with_state(world.clone());
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port))
            .await
            .unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel();
        let shutdown = async { drop(stopped.await) };
        let options = serve::Options {
            drain_timeout: Duration::ZERO,
            ..serve::Options::default()
        };
        Server {
            address,
            world,
            stop,
            done: tokio::spawn(serve(listener, app, shutdown, options)),
        }
    }

    async fn stop(self) {
        drop(self.stop);
        self.done.await.unwrap().unwrap();
    }

    fn peer(&self, options: PeerOptions) -> Peer {
        Peer::new("acceptor-1", self.address.to_string(), options)
    }
}

/// Options under which nothing but what the test does changes back-off or breaker.
fn patient() -> PeerOptions {
    PeerOptions {
        backoff_base: Duration::ZERO,
        breaker: Policy {
            failures_to_open: 2,
            open_for: FOREVER,
            open_for_max: FOREVER,
            ..Policy::default()
        },
        ..PeerOptions::default()
    }
}

fn to(path: &'static str, body: impl Into<Bytes>) -> Request<Bytes> {
    let plain = HeaderValue::from_static("text/plain");
    super::post(PathAndQuery::from_static(path), plain, body.into())
}

async fn call(peer: &Peer, lane: Lane, path: &'static str) -> Result<Bytes, CallError> {
    let request = to(path, "ping");
    let response = peer.call(lane, request, SOON, Breakers::Respect).await?;
    Ok(response.into_body())
}

/// A port on which nothing listens.
async fn free_port() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    listener.local_addr().unwrap()
}

#[tokio::test]
async fn calls_share_kept_connections_one_per_lane() {
    let server = Server::start(0).await;
    let peer = server.peer(patient());
    for _ in 0..5 {
        assert_eq!(call(&peer, Lane::Control, "/echo").await.unwrap(), "ping");
        assert_eq!(
            call(&peer.clone(), Lane::Bulk, "/echo").await.unwrap(),
            "ping"
        );
    }
    let stats = peer.stats();
    assert_eq!((stats.connections, stats.answered), (2, 10));
    assert!(stats.round_trips > Duration::ZERO);
    assert_eq!((stats.failed, stats.refused), (0, 0));
}

#[tokio::test]
async fn names_are_resolved_and_sent_as_the_host() {
    let server = Server::start(0).await;
    let address = format!("localhost:{}", server.address.port());
    let peer = Peer::new("a", address.clone(), patient());
    let mut request = Request::new(Bytes::new());
    *request.uri_mut() = Uri::from_static("/host");
    let answer = peer
        .call(Lane::Bulk, request, SOON, Breakers::Respect)
        .await;
    assert_eq!(answer.unwrap().into_body(), address);
}

#[tokio::test]
async fn a_server_that_restarts_between_calls_is_not_noticed() {
    let server = Server::start(0).await;
    let (peer, port) = (server.peer(patient()), server.address.port());
    call(&peer, Lane::Bulk, "/echo").await.unwrap();
    server.stop().await;
    let _server = Server::start(port).await;
    assert_eq!(call(&peer, Lane::Bulk, "/echo").await.unwrap(), "ping");
    assert_eq!(peer.stats().connections, 2);
    assert_eq!(peer.stats().failed, 0);
}

/// Reads one request and its body "ping"; the bytes after it are not read.
async fn read_request(stream: &mut TcpStream) {
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\nping") {
        request.push(stream.read_u8().await.unwrap());
    }
}

const PONG: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\npong";

#[tokio::test]
async fn a_kept_connection_that_closes_under_a_request_costs_one_more_connection_only() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = tokio::spawn(async move {
        let (mut first, _) = listener.accept().await.unwrap();
        read_request(&mut first).await;
        first.write_all(PONG).await.unwrap();
        // The second request arrives, and the connection closes without an answer.
        read_request(&mut first).await;
        drop(first);
        let (mut second, _) = listener.accept().await.unwrap();
        read_request(&mut second).await;
        second.write_all(PONG).await.unwrap();
        // A fresh connection that closes so is a failure, not a reason to continue.
        read_request(&mut second).await;
        drop(second);
        let (mut third, _) = listener.accept().await.unwrap();
        read_request(&mut third).await;
    });
    let peer = Peer::new("a", address.to_string(), patient());
    assert_eq!(call(&peer, Lane::Control, "/").await.unwrap(), "pong");
    assert_eq!(call(&peer, Lane::Control, "/").await.unwrap(), "pong");
    let error = call(&peer, Lane::Control, "/").await.unwrap_err();
    assert!(matches!(error, CallError::Broken(_)), "{error}");
    server.await.unwrap();
    assert_eq!(peer.stats().connections, 3);
}

#[tokio::test]
async fn stuck_bulk_calls_neither_delay_control_nor_gather_without_bound() {
    let server = Server::start(0).await;
    let options = PeerOptions {
        bulk_connections: 1,
        max_waiting: 1,
        ..patient()
    };
    let peer = server.peer(options);
    let (first, second) = (peer.clone(), peer.clone());
    let stuck = tokio::spawn(async move { call(&first, Lane::Bulk, "/stuck").await });
    server.world.entered.notified().await;
    let waiting = tokio::spawn(async move { call(&second, Lane::Bulk, "/echo").await });
    while !peer.0.bulk.is_full() {
        tokio::task::yield_now().await;
    }
    let third = call(&peer, Lane::Bulk, "/echo").await;
    assert!(matches!(third, Err(CallError::Busy)), "{third:?}");
    assert_eq!(call(&peer, Lane::Control, "/echo").await.unwrap(), "ping");
    stuck.abort();
    assert_eq!(waiting.await.unwrap().unwrap(), "ping");
}

#[tokio::test]
async fn a_call_that_waits_in_vain_does_not_count_against_the_peer() {
    let server = Server::start(0).await;
    let peer = server.peer(PeerOptions {
        bulk_connections: 1,
        ..patient()
    });
    let first = peer.clone();
    let stuck = tokio::spawn(async move { call(&first, Lane::Bulk, "/stuck").await });
    server.world.entered.notified().await;
    let short = Duration::from_millis(5);
    for _ in 0..3 {
        let waits = peer.call(Lane::Bulk, to("/echo", "x"), short, Breakers::Respect);
        assert!(matches!(waits.await, Err(CallError::Busy)));
    }
    assert!(peer.is_healthy());
    stuck.abort();
}

#[tokio::test]
async fn a_cancelled_call_takes_its_connection_with_it() {
    let server = Server::start(0).await;
    let peer = server.peer(patient());
    call(&peer, Lane::Bulk, "/echo").await.unwrap();
    let caller = peer.clone();
    let cancelled = tokio::spawn(async move { call(&caller, Lane::Bulk, "/stuck").await });
    server.world.entered.notified().await;
    cancelled.abort();
    // The server sees the connection close and drops the handler.
    while server.world.running.load(Ordering::SeqCst) > 0 {
        tokio::task::yield_now().await;
    }
    assert_eq!(call(&peer, Lane::Bulk, "/echo").await.unwrap(), "ping");
    let stats = peer.stats();
    assert_eq!((stats.connections, stats.answered, stats.failed), (2, 2, 0));
}

#[tokio::test]
async fn an_answer_that_does_not_come_in_time_is_a_failure_and_its_connection_is_not_used_again() {
    let server = Server::start(0).await;
    let peer = server.peer(patient());
    let short = Duration::from_millis(20);
    let late = peer.call(Lane::Control, to("/stuck", "x"), short, Breakers::Respect);
    assert!(matches!(late.await, Err(CallError::TimedOut)));
    assert!(!peer.is_healthy());
    assert_eq!(call(&peer, Lane::Control, "/echo").await.unwrap(), "ping");
    assert!(peer.is_healthy());
    assert_eq!(peer.stats().connections, 2);
}

#[tokio::test]
async fn an_answer_over_the_limit_is_refused() {
    let server = Server::start(0).await;
    let peer = server.peer(PeerOptions {
        max_response_bytes: 10,
        ..patient()
    });
    let send = async |length: usize| {
        let request = to("/echo", vec![b'x'; length]);
        peer.call(Lane::Bulk, request, SOON, Breakers::Respect)
            .await
    };
    assert_eq!(send(10).await.unwrap().into_body().len(), 10);
    let over = send(11).await;
    assert!(matches!(over, Err(CallError::TooLarge)), "{over:?}");
    assert_eq!(send(10).await.unwrap().into_body().len(), 10);
}

#[tokio::test]
async fn after_a_failure_to_connect_calls_fail_at_once() {
    let peer = Peer::new(
        "a",
        free_port().await.to_string(),
        PeerOptions {
            backoff_base: FOREVER,
            backoff_cap: FOREVER,
            ..PeerOptions::default()
        },
    );
    let first = call(&peer, Lane::Bulk, "/echo").await;
    assert!(matches!(first, Err(CallError::Connect(_))), "{first:?}");
    for lane in [Lane::Bulk, Lane::Control] {
        let second = call(&peer, lane, "/echo").await;
        assert!(matches!(second, Err(CallError::BackingOff)), "{second:?}");
    }
    // A heartbeat of the peer ends the pause.
    peer.heard();
    let third = call(&peer, Lane::Bulk, "/echo").await;
    assert!(matches!(third, Err(CallError::Connect(_))), "{third:?}");
    assert_eq!((peer.stats().failed, peer.stats().refused), (2, 2));
}

#[tokio::test]
async fn server_errors_open_the_breaker_and_a_heartbeat_closes_it() {
    let server = Server::start(0).await;
    let peer = server.peer(patient());
    for _ in 0..2 {
        call(&peer, Lane::Bulk, "/fail").await.unwrap();
    }
    for lane in [Lane::Bulk, Lane::Control] {
        let refused = call(&peer, lane, "/echo").await;
        assert!(
            matches!(refused, Err(CallError::BreakerOpen)),
            "{refused:?}"
        );
    }
    assert_eq!(peer.stats().breaker, State::Open);
    assert_eq!(peer.stats().breaker_opened, 1);
    peer.heard();
    assert_eq!(call(&peer, Lane::Bulk, "/echo").await.unwrap(), "ping");
    assert_eq!(peer.stats().breaker, State::Closed);
}

#[tokio::test]
async fn not_now_and_not_found_do_not_open_the_breaker() {
    let server = Server::start(0).await;
    let peer = server.peer(patient());
    for path in ["/unavailable", "/nowhere", "/unavailable", "/unavailable"] {
        call(&peer, Lane::Bulk, path).await.unwrap();
    }
    assert!(peer.is_healthy());
}

#[tokio::test]
async fn the_guard_goes_past_the_breakers_when_a_quorum_hangs_on_it() {
    let server = Server::start(0).await;
    let peers = [
        server.peer(patient()),
        server.peer(patient()),
        server.peer(patient()),
    ];
    assert_eq!(guard(&peers, 2), Breakers::Respect);
    for peer in &peers[..2] {
        for _ in 0..2 {
            call(peer, Lane::Bulk, "/fail").await.unwrap();
        }
    }
    assert_eq!(guard(&peers, 1), Breakers::Respect);
    assert_eq!(guard(&peers, 2), Breakers::Ignore);
    for _ in 0..3 {
        let forced = peers[0].call(Lane::Bulk, to("/echo", "x"), SOON, Breakers::Ignore);
        assert_eq!(forced.await.unwrap().into_body(), "x");
    }
    assert!(peers[0].is_healthy(), "its answers count as probes");
    assert_eq!(guard(&peers, 2), Breakers::Respect);
}

#[tokio::test]
async fn refused_tells_a_dead_process_from_a_live_one() {
    let server = Server::start(0).await;
    let peer = server.peer(patient());
    assert!(!peer.refused().await);
    server.stop().await;
    assert!(peer.refused().await);
    assert!(
        !Peer::new("a", "no port, so no address", patient())
            .refused()
            .await
    );
}

#[tokio::test]
async fn concurrent_calls_use_no_more_connections_than_allowed() {
    let server = Server::start(0).await;
    let peer = server.peer(patient());
    let calls = (0..100).map(|_| call(&peer, Lane::Bulk, "/echo"));
    for answer in futures::future::join_all(calls).await {
        assert_eq!(answer.unwrap(), "ping");
    }
    assert!(peer.stats().connections <= 4, "{:?}", peer.stats());
}
