use std::net::Ipv4Addr;
use std::sync::atomic::AtomicUsize;

use axum::routing::{get, post};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{Notify, oneshot};
use tokio::task::JoinHandle;

use super::*;

/// A server on a free port of loopback.
struct Server {
    address: SocketAddr,
    stop: oneshot::Sender<()>,
    done: JoinHandle<io::Result<()>>,
}

async fn start(app: Router, options: Options) -> Server {
    let listener = bind(0).unwrap();
    let address = (Ipv4Addr::LOCALHOST, listener.local_addr().unwrap().port()).into();
    let (stop, stopped) = oneshot::channel();
    let shutdown = async { drop(stopped.await) };
    let done = tokio::spawn(serve(listener, app, shutdown, options));
    Server {
        address,
        stop,
        done,
    }
}

impl Server {
    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    async fn stop(self) {
        drop(self.stop);
        self.done.await.unwrap().unwrap();
    }
}

fn hello() -> Router {
    Router::new().route("/", get(async || "hello"))
}

/// What the server sends until it closes; a reset counts as closing.
async fn rest(mut stream: TcpStream) -> String {
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    String::from_utf8(answer).unwrap()
}

/// Reads until `end` has come.
async fn read_until(stream: &mut TcpStream, end: &str) -> String {
    let mut answer = Vec::new();
    while !answer.ends_with(end.as_bytes()) {
        answer.push(stream.read_u8().await.unwrap());
    }
    String::from_utf8(answer).unwrap()
}

const GET: &[u8] = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n";

#[tokio::test]
async fn a_connection_serves_many_requests_and_both_address_families_reach_it() {
    let server = start(hello(), Options::default()).await;
    let mut stream = server.connect().await;
    for _ in 0..3 {
        stream.write_all(GET).await.unwrap();
        assert!(
            read_until(&mut stream, "hello")
                .await
                .starts_with("HTTP/1.1 200")
        );
    }
    // Where the machine has IPv6 the same socket must answer there too.
    if TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).await.is_ok() {
        let address = (Ipv6Addr::LOCALHOST, server.address.port());
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(GET).await.unwrap();
        read_until(&mut stream, "hello").await;
    }
    server.stop().await;
}

#[tokio::test]
async fn pipelined_requests_are_answered_and_do_not_wait_for_the_rest_of_the_next() {
    let server = start(hello(), Options::default()).await;
    let mut stream = server.connect().await;
    let half = &GET[..9];
    stream
        .write_all(&[&GET.repeat(3), half].concat())
        .await
        .unwrap();
    for _ in 0..3 {
        read_until(&mut stream, "hello").await;
    }
}

#[tokio::test]
async fn a_client_that_trickles_its_head_is_cut() {
    let options = Options {
        header_read_timeout: Duration::from_millis(100),
        ..Options::default()
    };
    let server = start(hello(), options).await;
    let mut stream = server.connect().await;
    // One byte at a time keeps the connection busy, and must not keep it alive.
    let mut endless = b"GET / HTTP/1.1\r\nx: "
        .iter()
        .chain(std::iter::repeat(&b'x'));
    while stream.write_all(&[*endless.next().unwrap()]).await.is_ok() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    // A silent one is cut as well.
    assert_eq!(rest(server.connect().await).await, "");
}

#[tokio::test]
async fn a_head_over_16_kib_is_refused() {
    let server = start(hello(), Options::default()).await;
    let mut stream = server.connect().await;
    // Not one byte more: bytes left unread would reset the connection, and the answer with it.
    let head = format!("{:x<MAX_HEADER_BYTES$}", "GET / HTTP/1.1\r\nx: ");
    stream.write_all(head.as_bytes()).await.unwrap();
    let answer = rest(stream).await;
    assert!(answer.starts_with("HTTP/1.1 431"), "{answer:?}");
}

#[tokio::test]
async fn shutdown_lets_a_request_in_flight_finish_and_takes_no_more() {
    let (entered, leave) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (enter, left) = (Arc::clone(&entered), Arc::clone(&leave));
    let slow = get(async move || {
        enter.notify_one();
        left.notified().await;
        "finished"
    });
    let server = start(Router::new().route("/", slow), Options::default()).await;
    let (mut busy, silent) = (server.connect().await, server.connect().await);
    busy.write_all(GET).await.unwrap();
    entered.notified().await;

    drop(server.stop);
    // The silent connection ends though the busy one is still open, and nothing new gets in.
    assert_eq!(rest(silent).await, "");
    assert!(TcpStream::connect(server.address).await.is_err());
    assert!(!server.done.is_finished());
    leave.notify_one();
    assert!(rest(busy).await.ends_with("finished"));
    server.done.await.unwrap().unwrap();
}

#[tokio::test]
async fn shutdown_serves_who_has_connected_before_it() {
    let server = start(hello(), Options::default()).await;
    let mut fresh = server.connect().await;
    let mut stopping = std::pin::pin!(server.stop());
    // Long enough for the server to see both, and shorter than it waits for a first request.
    let soon = tokio::time::sleep(Duration::from_millis(20));
    tokio::select! {
        () = &mut stopping => panic!("it ended with a connection that has had no request"),
        () = soon => {}
    }
    fresh.write_all(GET).await.unwrap();
    let (answer, ()) = tokio::join!(rest(fresh), stopping);
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer:?}");
}

#[tokio::test]
async fn shutdown_serves_who_waits_to_be_accepted() {
    let listener = bind(0).unwrap();
    let port = listener.local_addr().unwrap().port();
    let mut clients = Vec::new();
    for _ in 0..20 {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))
            .await
            .unwrap();
        stream.write_all(GET).await.unwrap();
        clients.push(stream);
    }
    let now = std::future::ready(());
    serve(listener, hello(), now, Options::default())
        .await
        .unwrap();
    for client in clients {
        let answer = rest(client).await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer:?}");
    }
}

#[tokio::test]
async fn shutdown_cuts_what_does_not_finish_in_time() {
    let running = Arc::new(AtomicUsize::new(0));
    struct Running(Arc<AtomicUsize>);
    impl Drop for Running {
        fn drop(&mut self) {
            self.0.fetch_sub(1, Ordering::SeqCst);
        }
    }
    let (entered, count) = (Arc::new(Notify::new()), Arc::clone(&running));
    let enter = Arc::clone(&entered);
    let stuck = get(async move || {
        count.fetch_add(1, Ordering::SeqCst);
        let _running = Running(count);
        enter.notify_one();
        std::future::pending::<&'static str>().await
    });
    let options = Options {
        drain_timeout: Duration::from_millis(50),
        ..Options::default()
    };
    let server = start(Router::new().route("/", stuck), options).await;
    let mut stream = server.connect().await;
    stream.write_all(GET).await.unwrap();
    entered.notified().await;
    server.stop().await;
    assert_eq!(running.load(Ordering::SeqCst), 0, "the handler still runs");
    assert_eq!(rest(stream).await, "");
}

#[tokio::test]
async fn a_listening_socket_that_is_shut_ends_the_server_with_an_error() {
    let listener = bind(0).unwrap();
    let duplicate = SockRef::from(&listener).try_clone().unwrap();
    let server = tokio::spawn(serve(
        listener,
        hello(),
        std::future::pending(),
        Options::default(),
    ));
    duplicate.shutdown(std::net::Shutdown::Both).unwrap();
    let error = server.await.unwrap().unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
}

#[tokio::test]
async fn a_port_in_use_is_an_error() {
    let first = bind(0).unwrap();
    let error = bind(first.local_addr().unwrap().port()).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
}

#[tokio::test]
async fn rubbish_ends_its_own_connection_only() {
    let app = crate::problem::finish(hello().route("/echo", post(async |body: String| body)));
    let server = start(app, Options::default()).await;
    let rubbish: [&[u8]; 8] = [
        b"\x16\x03\x01\x02\x00\x01\x00",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"CONNECT example.org:443 HTTP/1.1\r\nhost: x\r\n\r\n",
        b"OPTIONS * HTTP/1.1\r\nhost: x\r\n\r\n",
        b"GET  /%ff/../\x00 HTTP/1.1\r\n\r\n",
        b"POST /echo HTTP/1.1\r\ncontent-length: 99999999999999999999\r\n\r\n",
        b"POST /echo HTTP/1.1\r\ntransfer-encoding: chunked\r\ncontent-length: 3\r\n\r\nzz\r\n",
        b"POST /echo HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\nffffffffffffffff1\r\n",
    ];
    for bytes in rubbish {
        let mut stream = server.connect().await;
        stream.write_all(bytes).await.unwrap();
        stream.shutdown().await.unwrap();
        let answer = rest(stream).await;
        assert!(
            answer.is_empty() || answer.starts_with("HTTP/1.1 4"),
            "{answer}"
        );
    }
    let mut stream = server.connect().await;
    stream.write_all(GET).await.unwrap();
    read_until(&mut stream, "hello").await;
}

#[tokio::test]
async fn a_client_that_sends_too_much_still_reads_why() {
    let echo = post(async |crate::problem::Raw(body): crate::problem::Raw| body);
    let app = crate::problem::finish(Router::new().route("/", echo));
    let server = start(app, Options::default()).await;
    let length = 2 * crate::problem::MAX_BODY_BYTES;
    let head = format!("POST / HTTP/1.1\r\nhost: x\r\ncontent-length: {length}\r\n");

    // Everything is sent before a byte is read: no reset may come in between.
    let mut eager = server.connect().await;
    let whole = [
        head.as_bytes(),
        b"connection: close\r\n\r\n",
        &vec![b'x'; length],
    ]
    .concat();
    eager.write_all(&whole).await.unwrap();
    let answer = rest(eager).await;
    assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
    assert!(answer.contains("application/problem+json"), "{answer}");

    // A client that asks first is told before it sends anything.
    let mut polite = server.connect().await;
    let asking = format!("{head}expect: 100-continue\r\n\r\n");
    polite.write_all(asking.as_bytes()).await.unwrap();
    assert!(rest(polite).await.starts_with("HTTP/1.1 413"));
}
