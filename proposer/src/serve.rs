//! The listening side: a socket and a router come in, HTTP/1.1 goes out. What a client may hold on
//! to is bounded here: connections, the bytes and the time of a request's head, unread answers.
//! `axum::serve` has none of these limits, and does not set TCP_NODELAY.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use axum::response::{IntoResponse, Response};
use http::header::CONNECTION;
use http::{HeaderValue, Request};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use socket2::{Domain, SockRef, Socket, TcpKeepalive, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tower::Service;
use tracing::{debug, warn};

use crate::bounds::{self, Bounds, Connection, Limits, Shown, descriptors};
use crate::problem::Problem;
use watched::Watched;

mod watched;

/// Request line and headers, in bytes; longer heads are answered 431.
const MAX_HEADER_BYTES: usize = 16 * 1024;
/// What hyper may buffer of one connection, in bytes; its own default is about 400 KiB.
const MAX_BUFFER_BYTES: usize = 64 * 1024;
/// Connections that the kernel holds ready for us.
const BACKLOG: i32 = 1024;
/// What the kernel takes of an answer beyond what the client's window takes.
const NOT_SENT_BYTES: u32 = 128 << 10;
/// Connections that are given up at once when descriptors are short.
const SHED: usize = 16;
/// The pause after a failed accept, which is nearly always a lack of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// A client that takes nothing of an answer for this long, or whose host is gone, is cut.
const STALLED_AFTER: Duration = Duration::from_secs(30);
/// How long a connection without a request may still bring one after the shutdown signal.
const FIRST_REQUEST: Duration = Duration::from_millis(200);

/// The bounds of [`serve`].
#[derive(Clone)]
pub struct Options {
    /// How long a request's head may take, counted from the end of the one before: also how long a
    /// connection may be idle.
    pub header_read_timeout: Duration,
    /// How many connections, and how much memory they may take.
    pub bounds: Arc<Bounds>,
    /// How long requests in flight may take to finish after the shutdown signal.
    pub drain_timeout: Duration,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            header_read_timeout: Duration::from_secs(10),
            bounds: Bounds::new(Limits::default(), Shown::default()),
            drain_timeout: Duration::from_secs(4),
        }
    }
}

/// Listens on that address of this machine, or on all as [`bind`] does.
pub fn bind_at(listen: Option<IpAddr>, port: u16) -> io::Result<TcpListener> {
    match listen {
        Some(address) => self::listen((address, port).into()),
        None => bind(port),
    }
}

/// Listens on all addresses, IPv6 and IPv4 on one socket where the host has IPv6, else IPv4 alone.
/// Port 0 takes a free port. Must be called within a Tokio runtime.
pub fn bind(port: u16) -> io::Result<TcpListener> {
    let dual = listen((Ipv6Addr::UNSPECIFIED, port).into());
    match dual {
        Err(error) if error.kind() != io::ErrorKind::AddrInUse => {
            debug!(%error, "no IPv6 here, listening on IPv4 alone");
            listen((Ipv4Addr::UNSPECIFIED, port).into())
        }
        settled => settled,
    }
}

/// An error names the address, and what to do where that is known.
fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    try_listen(address).map_err(|error| {
        let advice = match error.kind() {
            io::ErrorKind::AddrInUse => {
                ": another process listens there; stop it, or choose another port"
            }
            io::ErrorKind::PermissionDenied => {
                ": this user may not; choose a port from 1024 on, or grant CAP_NET_BIND_SERVICE"
            }
            _ => "",
        };
        io::Error::new(
            error.kind(),
            format!("cannot listen on {address}: {error}{advice}"),
        )
    })
}

fn try_listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    if address.ip() == Ipv6Addr::UNSPECIFIED {
        socket.set_only_v6(false)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// Serves `app` until `shutdown` resolves: then nobody can connect any more, requests in flight and
/// the first ones of fresh connections finish within [`Options::drain_timeout`], and what is left is
/// cut before this returns.
///
/// A lack of file descriptors and the like only delays accepting; an error means that the socket
/// no longer listens.
pub async fn serve(
    listener: TcpListener,
    app: Router,
    shutdown: impl Future<Output = ()>,
    options: Options,
) -> io::Result<()> {
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(options.header_read_timeout)
        .max_header_size(MAX_HEADER_BYTES)
        .max_buf_size(MAX_BUFFER_BYTES);
    // `pipeline_flush` stays off: it holds an answer back while anything is left to parse, and so
    // loses the 400 or 431 to a bad head, and waits for the rest of a half-sent next request.
    // Turns the routes into services once, not once per request.
    let app = app.with_state(());
    // Dropping the sender is the signal to the connections.
    let (running, stopping) = watch::channel(());
    let mut connections = JoinSet::new();
    let bounds = options.bounds;
    let serve_one = |connections: &mut JoinSet<()>, stream: TcpStream, place: Arc<Connection>| {
        let first_byte = bounds.limits().first_byte;
        let served = connection(
            http.clone(),
            stream,
            place.clone(),
            first_byte,
            app.clone(),
            stopping.clone(),
        );
        let task = connections.spawn(place.clone().scope(served));
        place.is_served_by(task);
    };
    let mut shutdown = pin!(shutdown);

    let result = loop {
        tokio::select! {
            () = &mut shutdown => break Ok(()),
            Some(_) = connections.join_next() => {}
            accepted = accept(&listener, &bounds) => match accepted {
                Ok((stream, place)) => serve_one(&mut connections, stream, place),
                Err(error) => break Err(error),
            },
        }
    };

    // To those who have connected already, the end of the socket would look like a request lost.
    let listener = listener.into_std()?;
    while let Ok((stream, from)) = listener.accept() {
        if let Some(place) = bounds.admit(from.ip())
            && stream.set_nonblocking(true).is_ok()
            && let Ok(stream) = TcpStream::from_std(stream)
            && tune(&stream).is_ok()
        {
            serve_one(&mut connections, stream, place);
        }
    }
    drop(listener);
    drop(running);
    let drained = async { while connections.join_next().await.is_some() {} };
    if timeout(options.drain_timeout, drained).await.is_err() {
        warn!(
            connections = connections.len(),
            "requests did not finish in time after the shutdown signal, cutting them"
        );
    }
    connections.shutdown().await;
    result
}

/// The next connection that finds a place. Those that find none are closed: in the backlog they would
/// hold up peers and probes.
async fn accept(
    listener: &TcpListener,
    bounds: &Arc<Bounds>,
) -> io::Result<(TcpStream, Arc<Connection>)> {
    loop {
        if descriptors::are_wanted() {
            bounds.shed(SHED);
            tokio::time::sleep(ACCEPT_PAUSE).await;
        }
        match listener.accept().await {
            Ok((stream, from)) => match tune(&stream) {
                Ok(()) => {
                    if let Some(place) = bounds.admit(from.ip()) {
                        return Ok((stream, place));
                    }
                }
                Err(error) => debug!(%error, "the client was gone before it was served"),
            },
            // EINVAL: somebody shut the listening socket. A deaf process helps nobody.
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => return Err(error),
            Err(error) => {
                bounds.shed(SHED);
                if bounds.may_say() {
                    warn!(%error, "cannot accept connections, trying again");
                }
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

fn tune(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let socket = SockRef::from(stream);
    // What a client does not take stays here, where it is counted, and not in the kernel.
    socket.set_tcp_notsent_lowat(NOT_SENT_BYTES)?;
    socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(STALLED_AFTER))?;
    socket.set_tcp_user_timeout(Some(STALLED_AFTER))
}

async fn connection(
    http: http1::Builder,
    stream: TcpStream,
    place: Arc<Connection>,
    first_byte: Duration,
    app: Router,
    mut stopping: watch::Receiver<()>,
) {
    // Looked at and left there: what serves it reads it again.
    let mut first = [0];
    let spoke = tokio::select! {
        spoke = timeout(first_byte, stream.peek(&mut first)) => spoke,
        _ = stopping.changed() => timeout(FIRST_REQUEST, stream.peek(&mut first)).await,
    };
    if spoke.is_err() {
        return debug!("a connection was silent");
    }
    let first_request = Notify::new();
    let used = AtomicBool::new(false);
    let (place, watched) = (&*place, Watched::new(stream, place.clone()));
    let service = service_fn(|request: Request<Incoming>| {
        if !used.swap(true, Ordering::Relaxed) {
            first_request.notify_one();
        }
        let stays = place.asks(request.uri().path());
        let answer = stays.then(|| app.clone().call(request));
        async move {
            let answer = match answer {
                Some(answer) => answer.await?,
                None => turned_away(),
            };
            place.is_answered();
            Ok::<_, Infallible>(bounds::answered(answer))
        }
    });
    let mut connection = pin!(http.serve_connection(TokioIo::new(watched), service));
    let serve = async {
        tokio::select! {
            result = connection.as_mut() => return result,
            _ = stopping.changed() => {}
        }
        // The first request of a fresh connection may be on its way; hyper would not read it.
        tokio::select! {
            result = connection.as_mut() => return result,
            _ = timeout(FIRST_REQUEST, first_request.notified()) => {}
        }
        connection.as_mut().graceful_shutdown();
        connection.await
    };
    let result = serve.await;
    if let Err(error) = result {
        debug!(%error, "a connection ended early");
    }
}

/// For a client whose connection had a place only if it were a peer's or a probe's.
fn turned_away() -> Response {
    let detail = "too many clients are connected: send it again, or to another node";
    let mut answer = Problem::unavailable(detail, Duration::from_secs(1)).into_response();
    let close = HeaderValue::from_static("close");
    answer.headers_mut().insert(CONNECTION, close);
    answer
}

#[cfg(test)]
mod tests;
