//! Calls to servers: a request goes out, the answer or the reason for none comes back.

use std::borrow::Cow;
use std::time::Duration;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{Method, Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use serde::Deserialize;
use serde_json::Value as Json;

use super::args::Server;

/// A server that does not take a connection within this time is passed over.
const CONNECT_WITHIN: Duration = Duration::from_secs(1);
/// The longest answer read as a whole, in bytes.
const MAX_ANSWER_BYTES: usize = 64 << 20;

/// Connections, kept while they are of use.
#[derive(Clone)]
pub(super) struct Http {
    client: Client<HttpConnector, Full<Bytes>>,
}

/// An answer, whole.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) body: Bytes,
}

impl Answer {
    pub(super) fn new(status: StatusCode, body: Bytes) -> Answer {
        Answer { status, body }
    }

    /// The body; `null` when it is no JSON.
    pub(super) fn json(&self) -> Json {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }

    /// The body as text.
    pub(super) fn text(&self) -> Cow<'_, str> {
        String::from_utf8_lossy(&self.body)
    }

    /// The body as a `T`, or why it is not one.
    pub(super) fn parse<'a, T: Deserialize<'a>>(&'a self) -> Result<T, String> {
        let parsed = serde_json::from_slice(&self.body);
        parsed.map_err(|error| {
            let status = self.status;
            format!("it answered {status} with what is no answer of Cluster Sync ({error})")
        })
    }

    /// What the server says about an error.
    pub(super) fn detail(&self) -> String {
        match self.json()["detail"].as_str() {
            Some(detail) => detail.to_owned(),
            None => format!("it answered {}", self.status),
        }
    }
}

/// Why there is no answer.
#[derive(Debug)]
pub(super) struct NoAnswer {
    /// Whether the server may have got the request.
    pub(super) sent: bool,
    pub(super) why: String,
}

impl Http {
    pub(super) fn new() -> Http {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        connector.set_connect_timeout(Some(CONNECT_WITHIN));
        connector.set_keepalive(Some(Duration::from_secs(15)));
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            // Less than the servers' own limit, so that it is not they who close.
            .pool_idle_timeout(Duration::from_secs(5))
            .build(connector);
        Http { client }
    }

    /// The head of an answer, whose body is still to come.
    pub(super) async fn open(
        &self,
        method: Method,
        server: &Server,
        path: &str,
        body: Bytes,
    ) -> Result<Response<Incoming>, NoAnswer> {
        let unsendable = |error: http::Error| NoAnswer {
            sent: false,
            why: format!("{path}: {error}"),
        };
        let uri = Uri::builder()
            .scheme("http")
            .authority(server.0.clone())
            .path_and_query(path)
            .build()
            .map_err(unsendable)?;
        let request = Request::builder()
            .method(method)
            .uri(uri)
            .header(CONTENT_TYPE, "application/json")
            .body(Full::new(body))
            .map_err(unsendable)?;
        let sent = self.client.request(request).await;
        sent.map_err(|error| NoAnswer {
            sent: !error.is_connect(),
            why: reason(&error),
        })
    }

    /// The whole answer.
    pub(super) async fn call(
        &self,
        method: Method,
        server: &Server,
        path: &str,
        body: Bytes,
        within: Duration,
    ) -> Result<Answer, NoAnswer> {
        let call = async {
            let (head, body) = self.open(method, server, path, body).await?.into_parts();
            let body = Limited::new(body, MAX_ANSWER_BYTES).collect().await;
            let body = body.map_err(|error| NoAnswer {
                sent: true,
                why: innermost(&*error),
            })?;
            Ok(Answer::new(head.status, body.to_bytes()))
        };
        tokio::time::timeout(within, call)
            .await
            .unwrap_or_else(|_| {
                Err(NoAnswer {
                    sent: true,
                    why: format!("no answer within {within:?}"),
                })
            })
    }

    pub(super) async fn get(
        &self,
        server: &Server,
        path: &str,
        within: Duration,
    ) -> Result<Answer, NoAnswer> {
        self.call(Method::GET, server, path, Bytes::new(), within)
            .await
    }
}

/// In the words of what a person can do about it.
fn reason(error: &hyper_util::client::legacy::Error) -> String {
    let innermost = innermost(error);
    if error.is_connect() {
        return format!("cannot connect: {innermost}");
    }
    let source = std::error::Error::source(error);
    match source.and_then(|source| source.downcast_ref::<hyper::Error>()) {
        Some(http) if http.is_parse() => format!(
            "what listens there does not answer in HTTP/1.1, as this client does, without TLS: {innermost}"
        ),
        Some(http) if http.is_incomplete_message() => {
            "the connection ended before an answer: the server went away, or expects TLS".to_owned()
        }
        _ => innermost,
    }
}

fn innermost(error: &(dyn std::error::Error + 'static)) -> String {
    let mut root = error;
    while let Some(source) = root.source() {
        root = source;
    }
    root.to_string()
}
