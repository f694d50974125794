//! The one place that connects to somebody else's HTTP server, and the one exchange on a connection that
//! nobody keeps. [`crate::peers`] keeps connections; the command-line client has its own.

use std::io;

use bytes::Bytes;
use futures::future::{Fuse, FutureExt};
use http::header::HOST;
use http::{Request, Response};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpStream, ToSocketAddrs};

/// Sends requests on a connection.
pub type Sender = http1::SendRequest<Full<Bytes>>;
/// The connection itself: it moves only while it is polled, and is closed when it is dropped.
pub type Connection = http1::Connection<TokioIo<TcpStream>, Full<Bytes>>;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The path or the name cannot stand in a request.
    #[error("cannot be asked: {0}")]
    Request(#[from] http::Error),
    /// The name does not resolve, or nothing listens there.
    #[error("cannot connect: {0}")]
    Connect(#[source] io::Error),
    /// The connection broke, or what came is not HTTP.
    #[error("the connection broke: {0}")]
    Broken(#[from] hyper::Error),
    /// The answer broke off, or has more bytes than it may have.
    #[error("the answer cannot be read: {0}")]
    Body(Box<dyn std::error::Error + Send + Sync>),
}

/// Opens a TCP connection. The name is resolved each time: a pod that comes back has another address.
pub async fn stream(address: impl ToSocketAddrs) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Opens an HTTP/1.1 connection.
pub async fn open(address: impl ToSocketAddrs) -> io::Result<(Sender, Connection)> {
    let stream = TokioIo::new(stream(address).await?);
    http1::handshake(stream).await.map_err(io::Error::other)
}

/// One request on a connection of its own, and the head of its answer. The body comes only while the
/// connection is polled, so it is given back.
async fn head(
    address: impl ToSocketAddrs,
    request: Request<Full<Bytes>>,
) -> Result<(Response<Incoming>, Fuse<Connection>), Error> {
    let (mut sender, connection) = open(address).await.map_err(Error::Connect)?;
    // It may end before what it brought is read.
    let mut connection = connection.fuse();
    let mut answer = std::pin::pin!(sender.send_request(request));
    let answer = tokio::select! {
        answer = answer.as_mut() => answer,
        // It may have answered before it closed.
        _ = &mut connection => answer.await,
    };
    Ok((answer?, connection))
}

/// The same without the body, which is not read.
pub async fn head_only(
    address: impl ToSocketAddrs,
    request: Request<Full<Bytes>>,
) -> Result<http::response::Parts, Error> {
    let (answer, _) = head(address, request).await?;
    Ok(answer.into_parts().0)
}

/// The whole answer, with at most so many bytes of body.
pub async fn exchange(
    address: impl ToSocketAddrs,
    request: Request<Full<Bytes>>,
    max_bytes: usize,
) -> Result<Response<Bytes>, Error> {
    let (answer, mut connection) = head(address, request).await?;
    let (parts, body) = answer.into_parts();
    let mut body = std::pin::pin!(Limited::new(body, max_bytes).collect());
    let body = tokio::select! {
        body = body.as_mut() => body,
        _ = &mut connection => body.await,
    };
    let body = body.map_err(Error::Body)?.to_bytes();
    Ok(Response::from_parts(parts, body))
}

/// Gets what is at a path of a server that is called by this name.
pub async fn get(
    address: impl ToSocketAddrs,
    host: &str,
    path: &str,
    max_bytes: usize,
) -> Result<Response<Bytes>, Error> {
    let request = Request::get(path).header(HOST, host);
    exchange(address, request.body(Full::default())?, max_bytes).await
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    /// A server that reads one request, answers these bytes and closes.
    async fn answers(bytes: &'static str) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0; 1024];
            let _ = stream.read(&mut request).await.unwrap();
            stream.write_all(bytes.as_bytes()).await.unwrap();
        });
        address
    }

    async fn get(address: &str, max_bytes: usize) -> Result<Response<Bytes>, Error> {
        super::get(address, address, "/status", max_bytes).await
    }

    #[tokio::test]
    async fn an_answer_is_read_to_its_end_also_from_a_server_that_closes_at_once() {
        for bytes in [
            "HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\ndone",
            "HTTP/1.1 200 OK\r\nconnection: close\r\n\r\ndone",
        ] {
            let answer = get(&answers(bytes).await, 4).await.unwrap();
            assert_eq!(
                (answer.status().as_u16(), &answer.body()[..]),
                (200, &b"done"[..])
            );
        }
    }

    #[tokio::test]
    async fn what_is_no_answer_says_why() {
        let long = "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n12345";
        let error = get(&answers(long).await, 4).await.unwrap_err();
        assert!(matches!(error, Error::Body(_)), "{error}");
        let cut = "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n123";
        let error = get(&answers(cut).await, 9).await.unwrap_err();
        assert!(matches!(error, Error::Body(_)), "{error}");
        let error = get(&answers("SSH-2.0-OpenSSH_9.2\r\n").await, 9)
            .await
            .unwrap_err();
        assert!(matches!(error, Error::Broken(_)), "{error}");
        let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = nobody.local_addr().unwrap().to_string();
        drop(nobody);
        let error = get(&address, 9).await.unwrap_err();
        assert!(matches!(error, Error::Connect(_)), "{error}");
    }
}
