//! The listening side: a socket and a router come in, HTTP/1.1 goes out. What a client may hold on
//! to is bounded here: connections, the bytes and the time of a request's head, unread answers.
//! `axum::serve` has none of these limits, and does not set TCP_NODELAY.

use std::future::Future;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use http::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use socket2::{Domain, SockRef, Socket, TcpKeepalive, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tower::Service;
use tracing::{debug, warn};

/// Request line and headers, in bytes; longer heads are answered 431.
const MAX_HEADER_BYTES: usize = 16 * 1024;
/// What hyper may buffer of one connection, in bytes; its own default is about 400 KiB.
const MAX_BUFFER_BYTES: usize = 64 * 1024;
/// Connections that the kernel holds ready for us.
const BACKLOG: i32 = 1024;
/// The pause after a failed accept, which is nearly always a lack of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// A client that takes nothing of an answer for this long, or whose host is gone, is cut.
const STALLED_AFTER: Duration = Duration::from_secs(30);
/// How long a connection without a request may still bring one after the shutdown signal.
const FIRST_REQUEST: Duration = Duration::from_millis(200);

/// The bounds of [`serve`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// How long a request's head may take, counted from the end of the one before: also how long a
    /// connection may be idle.
    pub header_read_timeout: Duration,
    /// Connections open at once; further ones wait in the backlog, unaccepted.
    pub max_connections: usize,
    /// How long requests in flight may take to finish after the shutdown signal.
    pub drain_timeout: Duration,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            header_read_timeout: Duration::from_secs(10),
            max_connections: 10_000,
            drain_timeout: Duration::from_secs(4),
        }
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
    if address.is_ipv6() {
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
    let slots = Arc::new(Semaphore::new(options.max_connections));
    // Dropping the sender is the signal to the connections.
    let (running, stopping) = watch::channel(());
    let mut connections = JoinSet::new();
    let serve_one = |stream, slot: OwnedSemaphorePermit| {
        let connection = connection(http.clone(), stream, app.clone(), stopping.clone());
        async move {
            connection.await;
            drop(slot);
        }
    };
    let mut shutdown = pin!(shutdown);

    let result = loop {
        tokio::select! {
            () = &mut shutdown => break Ok(()),
            Some(_) = connections.join_next() => {}
            accepted = accept(&listener, &slots) => match accepted {
                Ok((stream, slot)) => drop(connections.spawn(serve_one(stream, slot))),
                Err(error) => break Err(error),
            },
        }
    };

    // To those who have connected already, the end of the socket would look like a request lost.
    let listener = listener.into_std()?;
    while let Ok(slot) = Arc::clone(&slots).try_acquire_owned()
        && let Ok((stream, _)) = listener.accept()
    {
        if stream.set_nonblocking(true).is_ok()
            && let Ok(stream) = TcpStream::from_std(stream)
            && tune(&stream).is_ok()
        {
            connections.spawn(serve_one(stream, slot));
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

/// The next connection, once there is a slot for it.
async fn accept(
    listener: &TcpListener,
    slots: &Arc<Semaphore>,
) -> io::Result<(TcpStream, OwnedSemaphorePermit)> {
    let slot = Arc::clone(slots).acquire_owned().await;
    let slot = slot.map_err(io::Error::other)?;
    loop {
        match listener.accept().await {
            Ok((stream, _)) => match tune(&stream) {
                Ok(()) => return Ok((stream, slot)),
                Err(error) => debug!(%error, "the client was gone before it was served"),
            },
            // EINVAL: somebody shut the listening socket. A deaf process helps nobody.
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => return Err(error),
            Err(error) => {
                warn!(%error, "cannot accept connections, trying again");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

fn tune(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let socket = SockRef::from(stream);
    socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(STALLED_AFTER))?;
    socket.set_tcp_user_timeout(Some(STALLED_AFTER))
}

async fn connection(
    http: http1::Builder,
    stream: TcpStream,
    app: Router,
    mut stopping: watch::Receiver<()>,
) {
    let first_request = Notify::new();
    let used = AtomicBool::new(false);
    let service = service_fn(|request: Request<Incoming>| {
        if !used.swap(true, Ordering::Relaxed) {
            first_request.notify_one();
        }
        app.clone().call(request)
    });
    let mut connection = pin!(http.serve_connection(TokioIo::new(stream), service));
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

#[cfg(test)]
mod tests;
