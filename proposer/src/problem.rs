//! What a client sent in comes in, a value or an RFC 9457 problem goes out. Handlers take their
//! input through [`Body`], [`Raw`], [`Params`] and [`PathParams`] alone, so every refusal looks the
//! same and says what to do; [`finish`] gives unknown paths and wrong methods the same form.

use std::collections::BTreeMap;
use std::error::Error;
use std::time::Duration;

use axum::body::HttpBody;
use axum::extract::rejection::PathRejection;
use axum::extract::{DefaultBodyLimit, FromRequest, FromRequestParts, Path, Query, Request};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Router};
use bytes::Bytes;
use http::header::{CONTENT_TYPE, EXPECT, HeaderValue, RETRY_AFTER};
use http::request::Parts;
use http::{Method, StatusCode, Uri};
use http_body_util::BodyExt;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::bounds::{Kind, Reading, SMALL};
pub(crate) use names::Named;

mod names;

/// The largest body taken unless a route says otherwise with [`BodyLimits::layer`]: 1 MiB.
pub const MAX_BODY_BYTES: usize = 1024 * 1024;
/// How long a body may take to arrive unless a route says otherwise.
pub const BODY_READ_TIMEOUT: Duration = Duration::from_secs(10);
/// How much of a body that is too large is read and thrown away, as a multiple of the limit. Many
/// clients read no answer before they have sent everything.
const DISCARD_FACTOR: usize = 8;

/// An error answer: `application/problem+json` with `title`, `status` and `detail`, and now and then
/// numbers, and a reason in one word, that programs need.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    status: StatusCode,
    detail: String,
    retry_after: Option<Duration>,
    reason: Option<&'static str>,
    numbers: BTreeMap<&'static str, u64>,
}

impl Problem {
    /// Any other status. `detail` tells the client what to do.
    pub fn new(status: StatusCode, detail: impl Into<String>) -> Problem {
        Problem {
            status,
            detail: detail.into(),
            retry_after: None,
            reason: None,
            numbers: BTreeMap::new(),
        }
    }

    /// The same, with a number under its own name.
    #[must_use]
    pub fn with(mut self, name: &'static str, number: u64) -> Problem {
        self.numbers.insert(name, number);
        self
    }

    /// The same, with a word by which programs tell it from others of its status.
    #[must_use]
    pub fn because(self, reason: &'static str) -> Problem {
        Problem {
            reason: Some(reason),
            ..self
        }
    }

    /// 400: what is wrong with the field or parameter of that name.
    pub fn bad_request(field: &str, detail: impl AsRef<str>) -> Problem {
        let detail = format!("{field}: {}", detail.as_ref());
        Problem::new(StatusCode::BAD_REQUEST, detail)
    }

    /// 403
    pub fn forbidden(detail: impl Into<String>) -> Problem {
        Problem::new(StatusCode::FORBIDDEN, detail)
    }

    /// 404
    pub fn not_found(detail: impl Into<String>) -> Problem {
        Problem::new(StatusCode::NOT_FOUND, detail)
    }

    /// 409
    pub fn conflict(detail: impl Into<String>) -> Problem {
        Problem::new(StatusCode::CONFLICT, detail)
    }

    /// 410: it was there, and is no longer kept.
    pub fn gone(detail: impl Into<String>) -> Problem {
        Problem::new(StatusCode::GONE, detail)
    }

    /// 413: the body is over `limit` bytes.
    pub fn too_large(limit: usize) -> Problem {
        Problem::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            format!("the body is over {limit} bytes: send less at once"),
        )
    }

    /// 503, with `Retry-After` rounded up to whole seconds.
    pub fn unavailable(detail: impl Into<String>, retry_after: Duration) -> Problem {
        Problem {
            retry_after: Some(retry_after),
            ..Problem::new(StatusCode::SERVICE_UNAVAILABLE, detail)
        }
    }

    /// 504
    pub fn timed_out(detail: impl Into<String>) -> Problem {
        Problem::new(StatusCode::GATEWAY_TIMEOUT, detail)
    }

    /// The answer's status.
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// What the client reads.
    pub fn detail(&self) -> &str {
        &self.detail
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let numbers = self.numbers.iter();
        let wire = api::problem::Problem {
            title: self.status.canonical_reason().unwrap_or("Error").into(),
            status: self.status.as_u16(),
            detail: self.detail.as_str().into(),
            reason: self.reason.map(Into::into),
            numbers: numbers.map(|(name, n)| ((*name).into(), *n)).collect(),
        };
        // Strings and numbers: there is nothing in it that could fail.
        let body = serde_json::to_vec(&wire).unwrap_or_default();
        let mut response = (self.status, body).into_response();
        response.headers_mut().insert(
            CONTENT_TYPE,
            HeaderValue::from_static("application/problem+json"),
        );
        if let Some(after) = self.retry_after {
            let seconds = after.as_secs() + u64::from(after.subsec_nanos() > 0);
            let seconds = HeaderValue::from(seconds.max(1));
            response.headers_mut().insert(RETRY_AFTER, seconds);
        }
        response
    }
}

/// Gives a router its answers to unknown paths (404) and wrong methods (405 with `Allow`), and the
/// body limit to extractors of axum's own. Comes last: routes added later do not have them.
pub fn finish<S: Clone + Send + Sync + 'static>(router: Router<S>) -> Router<S> {
    router
        .fallback(unknown_path)
        .method_not_allowed_fallback(wrong_method)
        .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
}

async fn unknown_path(uri: Uri) -> Problem {
    let path = uri.path();
    Problem::not_found(format!(
        "there is nothing at {path}: see the table of paths in the README"
    ))
}

async fn wrong_method(method: Method, uri: Uri) -> Problem {
    let path = uri.path();
    // axum adds the `Allow` header, as RFC 9110 wants it with a 405.
    Problem::new(
        StatusCode::METHOD_NOT_ALLOWED,
        format!("{path} does not take {method}: use a method named in the Allow header"),
    )
}

/// The bounds of the bodies of a route, for [`Raw`] and [`Body`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BodyLimits {
    /// The largest body, in bytes.
    pub max_bytes: usize,
    /// How long the whole body may take to arrive.
    pub read_timeout: Duration,
    /// Which part of the memory it takes.
    pub kind: Kind,
}

impl Default for BodyLimits {
    fn default() -> BodyLimits {
        BodyLimits {
            max_bytes: MAX_BODY_BYTES,
            read_timeout: BODY_READ_TIMEOUT,
            kind: Kind::Bodies,
        }
    }
}

impl BodyLimits {
    /// A layer that puts these bounds on the routes below it, in place of the defaults.
    pub fn layer(self) -> Extension<BodyLimits> {
        Extension(self)
    }
}

/// A body as it came, whatever its content type says. Over the limit: 413, late: 408.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Raw(pub Bytes);

impl<S: Sync> FromRequest<S> for Raw {
    type Rejection = Problem;

    async fn from_request(request: Request, _: &S) -> Result<Raw, Problem> {
        let limits = request.extensions().get().copied();
        let limits: BodyLimits = limits.unwrap_or_default();
        match tokio::time::timeout(limits.read_timeout, read(request, limits)).await {
            Ok(read) => read.map(Raw),
            Err(_) => Err(Problem::new(
                StatusCode::REQUEST_TIMEOUT,
                format!(
                    "the body did not arrive within {:?}: send it without pauses",
                    limits.read_timeout
                ),
            )),
        }
    }
}

async fn read(request: Request, limits: BodyLimits) -> Result<Bytes, Problem> {
    let max_bytes = limits.max_bytes;
    // A client that expects 100-continue has sent nothing yet and waits for this very answer.
    let waits = request.headers().contains_key(EXPECT);
    let body = request.into_body();
    if body.size_hint().lower() > max_bytes as u64 {
        if !waits {
            discard(body, max_bytes.saturating_mul(DISCARD_FACTOR)).await;
        }
        return Err(Problem::too_large(max_bytes));
    }
    let mut reading = Reading::start(limits.kind);
    match collect(body, max_bytes, &mut reading).await {
        Ok(whole) => {
            reading.end();
            Ok(whole)
        }
        Err(NotRead::TooLarge) => Err(Problem::too_large(max_bytes)),
        Err(NotRead::Broken(why)) => Err(Problem::new(
            StatusCode::BAD_REQUEST,
            format!("the body broke off: {why}"),
        )),
        Err(NotRead::Spent(body)) => {
            if !waits {
                discard(body, max_bytes).await;
            }
            Err(no_memory())
        }
    }
}

/// What to say when the memory for requests or answers is spent.
pub(crate) fn no_memory() -> Problem {
    Problem::unavailable(
        "this node has no memory left for requests and answers as large as this one: send it again, \
         or to another node",
        Duration::from_secs(1),
    )
}

/// Why a body was not read.
enum NotRead {
    TooLarge,
    Broken(String),
    /// There is no memory for it; the rest of it.
    Spent(axum::body::Body),
}

/// Reads a body into memory that was taken before: all of what it says that it has, or, where it says
/// nothing, as much as it may have, once it has more than a little.
async fn collect(
    mut body: axum::body::Body,
    max_bytes: usize,
    reading: &mut Reading,
) -> Result<Bytes, NotRead> {
    let declared = body.size_hint().exact().map(|size| size as usize);
    let mut taken = false;
    if let Some(size) = declared.filter(|size| *size > SMALL) {
        if reading.take(size).await.is_err() {
            return Err(NotRead::Spent(body));
        }
        taken = true;
    }
    let mut whole: Vec<u8> = Vec::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| NotRead::Broken(root(&error).to_string()))?;
        let Ok(data) = frame.into_data() else {
            continue;
        };
        if whole.is_empty() && declared == Some(data.len()) {
            // Nearly always it comes in one piece.
            return Ok(data);
        }
        let size = whole.len() + data.len();
        if size > max_bytes {
            return Err(NotRead::TooLarge);
        }
        if !taken && size > SMALL {
            if reading.take(max_bytes).await.is_err() {
                return Err(NotRead::Spent(body));
            }
            taken = true;
        }
        if whole.is_empty() {
            whole.reserve_exact(declared.unwrap_or(size));
        }
        whole.extend_from_slice(&data);
    }
    Ok(whole.into())
}

async fn discard(mut body: axum::body::Body, up_to: usize) {
    let mut left = up_to;
    while let Some(Ok(frame)) = body.frame().await {
        match left.checked_sub(frame.data_ref().map_or(0, Bytes::len)) {
            Some(rest) => left = rest,
            None => return,
        }
    }
}

/// A JSON body, whatever its content type says. What does not parse is answered 400 with the path
/// of the field, as in `data[3].resource: invalid type: …`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Body<T>(pub T);

impl<T: DeserializeOwned, S: Sync> FromRequest<S> for Body<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Body<T>, Problem> {
        let Raw(bytes) = Raw::from_request(request, state).await?;
        // The plain parser is the fast one; only an error is worth a second pass for its place.
        match serde_json::from_slice(&bytes) {
            Ok(Named(value)) => Ok(Body(value)),
            Err(error) => Err(explain::<T>(&bytes, &error)),
        }
    }
}

/// Why a body is no `T`, with the place. Only an error is worth this second pass.
pub(crate) fn explain<'a, T: Deserialize<'a>>(
    bytes: &'a [u8],
    error: &serde_json::Error,
) -> Problem {
    let detail = if bytes.is_empty() {
        "the body is empty: send a JSON document".to_owned()
    } else {
        let mut json = serde_json::Deserializer::from_slice(bytes);
        let placed = serde_path_to_error::deserialize::<_, Named<T>>(&mut json);
        match placed.err() {
            Some(placed) if error.is_data() => placed.to_string(),
            // Where a text or a number breaks off there may be a field to name.
            Some(placed) if placed.path().iter().any(is_field) => {
                format!("{}: the body is not JSON: {error}", placed.path())
            }
            _ if error.is_data() => error.to_string(),
            _ => format!("the body is not JSON: {error}"),
        }
    };
    Problem::new(StatusCode::BAD_REQUEST, detail)
}

fn is_field(segment: &serde_path_to_error::Segment) -> bool {
    matches!(segment, serde_path_to_error::Segment::Map { .. })
}

/// The parameters of a query; 400 names the one that does not parse.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Params<T>(pub T);

impl<T: DeserializeOwned, S: Sync> FromRequestParts<S> for Params<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Params<T>, Problem> {
        match Query::try_from_uri(&parts.uri) {
            Ok(Query(Named(params))) => Ok(Params(params)),
            Err(rejection) => {
                let text = root(&rejection).to_string();
                // Where the name itself is wrong, both the reader and the path to it name it.
                let (name, rest) = text.split_once(": ").unwrap_or_default();
                let said_twice = !name.is_empty() && rest.starts_with(&format!("{name}: "));
                let text = if said_twice { rest } else { &text };
                Err(Problem::bad_request("query", text))
            }
        }
    }
}

/// The `{segments}` of a path; 400 names the one that does not parse.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathParams<T>(pub T);

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for PathParams<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<PathParams<T>, Problem> {
        match Path::from_request_parts(parts, state).await {
            Ok(Path(params)) => Ok(PathParams(params)),
            Err(PathRejection::FailedToDeserializePathParams(error)) => {
                Err(Problem::bad_request("path", error.kind().to_string()))
            }
            Err(other) => Err(Problem::bad_request("path", other.body_text())),
        }
    }
}

/// The innermost cause: what the wrappers of axum and hyper say beside it helps no client.
fn root<'a>(error: &'a (dyn Error + 'static)) -> &'a (dyn Error + 'static) {
    let mut root = error;
    while let Some(source) = root.source() {
        root = source;
    }
    root
}

#[cfg(test)]
mod tests;
