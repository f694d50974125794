//! One connection to a server, over HTTP/1.1 or gRPC, with the same library for both: what a client
//! costs is then the same everywhere.

use std::net::SocketAddr;

use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderMap, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;

/// Why there is no good answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// No connection.
    #[error("connect: {0}")]
    Connect(#[from] std::io::Error),
    /// It broke.
    #[error("{0}")]
    Broken(#[from] hyper::Error),
    /// An answer, but none that acknowledges.
    #[error("{0}: {1}")]
    Refused(StatusCode, String),
}

/// How a server is spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protocol {
    /// HTTP/1.1 and JSON, kept alive.
    Http,
    /// gRPC: HTTP/2 with protobuf; one request at a time on a connection.
    Grpc,
}

enum Sender {
    Http(http1::SendRequest<Full<Bytes>>),
    Grpc(http2::SendRequest<Full<Bytes>>),
}

/// An open connection.
pub(crate) struct Connection {
    sender: Sender,
    address: SocketAddr,
}

/// A request that may be sent to any of a system's servers.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    /// `GET` without a body, `POST` with one.
    pub(crate) path: String,
    /// JSON, or a protobuf message.
    pub(crate) body: Option<Bytes>,
}

impl Connection {
    pub(crate) async fn open(address: SocketAddr, protocol: Protocol) -> Result<Self, Failure> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let io = TokioIo::new(stream);
        let sender = match protocol {
            Protocol::Http => {
                let (sender, connection) = http1::handshake(io).await?;
                tokio::spawn(connection);
                Sender::Http(sender)
            }
            Protocol::Grpc => {
                let (sender, connection) = http2::handshake(TokioExecutor::new(), io).await?;
                tokio::spawn(connection);
                Sender::Grpc(sender)
            }
        };
        Ok(Connection { sender, address })
    }

    /// Sends a request and returns the body of a good answer.
    pub(crate) async fn call(&mut self, call: &Call) -> Result<Bytes, Failure> {
        let request = self.request(call);
        let answer = match &mut self.sender {
            Sender::Http(sender) => {
                sender.ready().await?;
                sender.send_request(request).await?
            }
            Sender::Grpc(sender) => {
                sender.ready().await?;
                sender.send_request(request).await?
            }
        };
        let (head, body) = answer.into_parts();
        let body = body.collect().await?;
        let good = match self.sender {
            Sender::Http(_) => head.status == StatusCode::OK,
            Sender::Grpc(_) => {
                let is_ok = |headers: &HeaderMap| {
                    headers.get("grpc-status").is_some_and(|code| code == "0")
                };
                is_ok(&head.headers) || body.trailers().is_some_and(is_ok)
            }
        };
        let bytes = body.to_bytes();
        match good {
            true => Ok(bytes),
            false => {
                let text = String::from_utf8_lossy(&bytes).into_owned();
                Err(Failure::Refused(head.status, text))
            }
        }
    }

    fn request(&self, call: &Call) -> Request<Full<Bytes>> {
        let Call { path, body } = call;
        let request = match (&self.sender, body) {
            (Sender::Http(_), None) => Request::get(path),
            (Sender::Http(_), Some(_)) => {
                Request::post(path).header("content-type", "application/json")
            }
            (Sender::Grpc(_), _) => Request::post(format!("http://{}{path}", self.address))
                .header("content-type", "application/grpc")
                .header("te", "trailers"),
        };
        let request = match self.sender {
            Sender::Http(_) => request.header("host", self.address.to_string()),
            Sender::Grpc(_) => request,
        };
        let body = match (&self.sender, body) {
            (_, None) => Bytes::new(),
            (Sender::Http(_), Some(body)) => body.clone(),
            (Sender::Grpc(_), Some(message)) => {
                let mut framed = BytesMut::with_capacity(message.len() + 5);
                framed.put_u8(0);
                framed.put_u32(message.len() as u32);
                framed.extend_from_slice(message);
                framed.freeze()
            }
        };
        request.body(Full::new(body)).expect("a good request")
    }
}

/// A protobuf message of fields of bytes, numbered from 1.
pub(crate) fn protobuf(fields: &[&[u8]]) -> Bytes {
    let mut message = BytesMut::new();
    for (i, field) in fields.iter().enumerate() {
        message.put_u8(((i + 1) << 3 | 2) as u8);
        let mut length = field.len();
        while length >= 0x80 {
            message.put_u8(length as u8 | 0x80);
            length >>= 7;
        }
        message.put_u8(length as u8);
        message.extend_from_slice(field);
    }
    message.freeze()
}
