//! The bounds at a real socket.

use std::net::{Ipv4Addr, SocketAddr};

use axum::Router;
use axum::routing::{get, post};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinHandle;

use super::*;
use crate::problem::{MAX_BODY_BYTES, Raw};
use crate::serve::{self, Options};

const HERE: Ipv4Addr = Ipv4Addr::LOCALHOST;
const ELSEWHERE: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);
const GET: &[u8] = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n";
/// Long for a test, short for a person.
const SOON: Duration = Duration::from_secs(20);

struct Server {
    address: SocketAddr,
    shown: Shown,
    task: JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn start(connections: usize, app: Router) -> Server {
    let limits = Limits {
        connections,
        bytes: 0,
        first_byte: Duration::from_secs(60),
    };
    start_with(limits, app)
}

fn start_with(limits: Limits, app: Router) -> Server {
    let shown = Shown::default();
    let listener = serve::bind(0).unwrap();
    let address = (HERE, listener.local_addr().unwrap().port()).into();
    let options = Options {
        bounds: Bounds::new(limits, shown.clone()),
        ..Options::default()
    };
    let task = tokio::spawn(async move {
        let served = serve::serve(listener, app, std::future::pending(), options);
        served.await.unwrap();
    });
    Server {
        address,
        shown,
        task,
    }
}

impl Server {
    async fn connect(&self, from: Ipv4Addr) -> TcpStream {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind((from, 0).into()).unwrap();
        socket.connect(self.address).await.unwrap()
    }

    async fn send(&self, from: Ipv4Addr, bytes: &[u8]) -> TcpStream {
        let mut stream = self.connect(from).await;
        stream.write_all(bytes).await.unwrap();
        stream
    }

    fn bytes(&self, kind: Kind) -> i64 {
        self.shown.buffered.with_label_values(&[kind.name()]).get()
    }

    async fn wait_for_bytes(&self, kind: Kind, bytes: i64) {
        let reached = async {
            while self.bytes(kind) != bytes {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let waited = timeout(SOON, reached).await;
        waited.unwrap_or_else(|_| panic!("{kind:?}: {} and not {bytes}", self.bytes(kind)));
    }

    fn cut(&self, why: &str) -> u64 {
        self.shown.cut.with_label_values(&[why]).get()
    }
}

/// The first line of an answer; empty when the connection was closed without one.
async fn status(stream: &mut TcpStream) -> String {
    let read = async {
        let mut line = Vec::new();
        while let Ok(byte) = stream.read_u8().await
            && byte != b'\r'
        {
            line.push(byte);
        }
        String::from_utf8(line).unwrap()
    };
    timeout(SOON, read).await.expect("an answer or the end")
}

fn app() -> Router {
    let hang = || async { std::future::pending::<&'static str>().await };
    Router::new()
        .route("/", get(async || "hello"))
        .route("/health", get(async || "healthy"))
        .route("/hang", get(hang))
        .route("/take", post(async |Raw(body): Raw| body.len().to_string()))
        .route("/large", get(large))
        .route("/stream", get(stream))
}

const LARGE: usize = 4 << 20;

async fn large() -> Response {
    use axum::response::IntoResponse;
    match reserve_answer(LARGE).await {
        Ok(()) => vec![b'x'; LARGE].into_response(),
        Err(Spent) => http::StatusCode::SERVICE_UNAVAILABLE.into_response(),
    }
}

async fn stream() -> Result<Body, http::StatusCode> {
    let place = Stream::start().map_err(|_| http::StatusCode::SERVICE_UNAVAILABLE)?;
    let pieces = futures::stream::unfold(place, |place| async move {
        let room = place.room(128 << 10).await;
        let piece = room.fill(vec![b'x'; 128 << 10].into());
        Some((Ok::<_, std::convert::Infallible>(piece), place))
    });
    Ok(Body::from_stream(pieces))
}

#[tokio::test]
async fn an_idle_connection_gives_way_to_a_new_one() {
    let server = start(1, app());
    let mut first = server.send(HERE, GET).await;
    assert_eq!(status(&mut first).await, "HTTP/1.1 200 OK");
    tokio::time::sleep(Duration::from_millis(80)).await;
    let mut second = server.send(HERE, GET).await;
    assert_eq!(status(&mut second).await, "HTTP/1.1 200 OK");
    let mut rest = Vec::new();
    let _ = timeout(SOON, first.read_to_end(&mut rest)).await.unwrap();
    assert_eq!(server.cut("idle"), 1);
}

#[tokio::test]
async fn silent_connections_keep_nobody_out() {
    let server = start(16, app());
    let mut silent = Vec::new();
    for _ in 0..200 {
        silent.push(server.connect(HERE).await);
    }
    tokio::time::sleep(Duration::from_millis(150)).await;
    for _ in 0..50 {
        let begun = Instant::now();
        let mut stream = server
            .send(HERE, b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n")
            .await;
        assert_eq!(status(&mut stream).await, "HTTP/1.1 200 OK");
        assert!(
            begun.elapsed() < Duration::from_secs(1),
            "{:?}",
            begun.elapsed()
        );
        silent.push(server.connect(HERE).await);
    }
    assert!(server.shown.connections.get() <= 18);
}

#[tokio::test]
async fn a_connection_that_says_nothing_is_closed() {
    let limits = Limits {
        first_byte: Duration::from_millis(50),
        ..Limits::default()
    };
    let server = start_with(limits, app());
    let mut silent = server.connect(HERE).await;
    let begun = Instant::now();
    assert_eq!(status(&mut silent).await, "");
    assert!(begun.elapsed() < SOON / 2, "{:?}", begun.elapsed());
    // One that has spoken may be idle for longer.
    let mut used = server.send(HERE, GET).await;
    assert_eq!(status(&mut used).await, "HTTP/1.1 200 OK");
    tokio::time::sleep(Duration::from_millis(150)).await;
    used.write_all(GET).await.unwrap();
    assert!(!status(&mut used).await.is_empty());
}

#[tokio::test]
async fn peers_and_probes_come_in_when_clients_have_taken_everything() {
    let server = start(8, app());
    let mut busy = Vec::new();
    for _ in 0..8 {
        busy.push(
            server
                .send(HERE, b"GET /hang HTTP/1.1\r\nhost: x\r\n\r\n")
                .await,
        );
    }
    tokio::time::sleep(Duration::from_millis(200)).await;
    let mut client = server.send(HERE, GET).await;
    assert_eq!(
        status(&mut client).await,
        "HTTP/1.1 503 Service Unavailable"
    );
    for _ in 0..20 {
        let mut probe = server
            .send(HERE, b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n")
            .await;
        assert_eq!(status(&mut probe).await, "HTTP/1.1 200 OK");
    }
    drop(busy);
    tokio::time::sleep(Duration::from_millis(200)).await;
    let mut client = server.send(HERE, GET).await;
    assert_eq!(status(&mut client).await, "HTTP/1.1 200 OK");
}

#[tokio::test]
async fn one_source_has_its_share_only_as_long_as_nobody_else_wants_in() {
    let server = start(8, app());
    let mut greedy = Vec::new();
    for _ in 0..8 {
        greedy.push(
            server
                .send(ELSEWHERE, b"GET /hang HTTP/1.1\r\nhost: x\r\n\r\n")
                .await,
        );
    }
    tokio::time::sleep(Duration::from_millis(200)).await;
    // More from there are too many; from here there is a place, and it stays one's own.
    let mut more = server.send(ELSEWHERE, GET).await;
    assert_eq!(status(&mut more).await, "HTTP/1.1 503 Service Unavailable");
    let mut other = server.send(HERE, GET).await;
    assert_eq!(status(&mut other).await, "HTTP/1.1 200 OK");
    assert_eq!(server.cut("share"), 1);
    for _ in 0..10 {
        let _ = server
            .send(ELSEWHERE, b"GET /hang HTTP/1.1\r\nhost: x\r\n\r\n")
            .await;
    }
    other.write_all(GET).await.unwrap();
    assert!(!status(&mut other).await.is_empty());
}

#[tokio::test]
async fn bodies_that_stop_give_way_to_those_that_come() {
    let server = start(1000, app());
    let head =
        format!("POST /take HTTP/1.1\r\nhost: x\r\ncontent-length: {MAX_BODY_BYTES}\r\n\r\n");
    let body = vec![b'x'; MAX_BODY_BYTES - 1];
    let mut stalled = Vec::new();
    for _ in 0..40 {
        let mut stream = server.send(ELSEWHERE, head.as_bytes()).await;
        let body = body.clone();
        stalled.push(tokio::spawn(async move {
            let _ = stream.write_all(&body).await;
            stream
        }));
    }
    tokio::time::sleep(Duration::from_millis(400)).await;
    for _ in 0..20 {
        let mut stream = server.send(HERE, head.as_bytes()).await;
        stream.write_all(&body).await.unwrap();
        stream.write_all(b"x").await.unwrap();
        assert_eq!(status(&mut stream).await, "HTTP/1.1 200 OK");
        assert!(server.bytes(Kind::Bodies) <= LEAST as i64);
    }
    assert!(server.cut("stalled") > 0);
    // Small ones need none of it.
    let mut small = server
        .send(
            HERE,
            b"POST /take HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\nok",
        )
        .await;
    assert_eq!(status(&mut small).await, "HTTP/1.1 200 OK");
}

#[tokio::test]
async fn a_body_of_unknown_length_is_counted_as_it_grows() {
    let server = start(8, app());
    let head = b"POST /take HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n";
    let mut stream = server.send(HERE, head).await;
    let chunk = [b"8000\r\n".as_slice(), &[b'x'; 0x8000], b"\r\n"].concat();
    stream.write_all(&chunk).await.unwrap();
    server
        .wait_for_bytes(Kind::Bodies, MAX_BODY_BYTES as i64)
        .await;
    stream.write_all(b"0\r\n\r\n").await.unwrap();
    assert_eq!(status(&mut stream).await, "HTTP/1.1 200 OK");
    server.wait_for_bytes(Kind::Bodies, 0).await;
}

#[tokio::test]
async fn answers_that_nobody_takes_are_bounded_and_make_room() {
    let server = start(1000, app());
    let mut unread = Vec::new();
    for _ in 0..40 {
        unread.push(
            server
                .send(ELSEWHERE, b"GET /large HTTP/1.1\r\nhost: x\r\n\r\n")
                .await,
        );
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(server.bytes(Kind::Answers) <= LEAST as i64);
    let mut reader = server
        .send(
            HERE,
            b"GET /large HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n",
        )
        .await;
    let mut whole = Vec::new();
    timeout(SOON, reader.read_to_end(&mut whole))
        .await
        .unwrap()
        .unwrap();
    assert!(whole.starts_with(b"HTTP/1.1 200"), "{:?}", &whole[..40]);
    assert!(whole.len() > LARGE);
    drop(unread);
    server.wait_for_bytes(Kind::Answers, 0).await;
}

#[tokio::test]
async fn one_source_has_an_eighth_of_the_streams_and_unread_ones_hold_up_nobody() {
    let server = start(3000, app());
    let request = b"GET /stream HTTP/1.1\r\nhost: x\r\n\r\n";
    let mut unread = Vec::new();
    for i in 0..STREAMS_OF_ONE + 20 {
        let mut stream = server.send(ELSEWHERE, request).await;
        let expected = match i < STREAMS_OF_ONE {
            true => "HTTP/1.1 200 OK",
            false => "HTTP/1.1 503 Service Unavailable",
        };
        assert_eq!(status(&mut stream).await, expected, "{i}");
        unread.push(stream);
    }
    assert!(server.bytes(Kind::Streams) <= LEAST as i64);
    let mut reader = server.send(HERE, request).await;
    let mut taken = 0;
    let mut buffer = vec![0; 64 << 10];
    while taken < 8 << 20 {
        let read = timeout(SOON, reader.read(&mut buffer))
            .await
            .unwrap()
            .unwrap();
        assert!(read > 0, "cut after {taken} bytes");
        taken += read;
    }
    drop((unread, reader));
    let again = async {
        loop {
            let mut stream = server.send(ELSEWHERE, request).await;
            if status(&mut stream).await == "HTTP/1.1 200 OK" {
                return;
            }
        }
    };
    timeout(SOON, again).await.expect("places are given back");
}

#[test]
fn figures_follow_the_memory_and_the_descriptors() {
    let default = Limits::of(512 << 20, usize::MAX);
    assert_eq!((default.connections, default.bytes), (4096, 128 << 20));
    assert_eq!(default.waiting_bytes(), 64 << 20);
    assert_eq!(Limits::of(512 << 20, 888).connections, 777);
    assert_eq!(Limits::of(64 << 30, usize::MAX).connections, 10_000);
    assert_eq!(Limits::of(0, 0).connections, 4);
    let v4 = "::ffff:10.0.0.1".parse().unwrap();
    assert_eq!(
        connection::source(v4),
        "10.0.0.1".parse::<IpAddr>().unwrap()
    );
    let [a, b]: [IpAddr; 2] = ["fd00::1:2:3:4", "fd00::9"].map(|text| text.parse().unwrap());
    assert_eq!(connection::source(a), connection::source(b));
    let local: IpAddr = "::1".parse().unwrap();
    assert_eq!(connection::source(local), local);
}
