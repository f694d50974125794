//! The server as a `tower` service: HTTP in, HTTP out.

use std::convert::Infallible;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt, stream};
use http::{Method, Request, Response};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use kube::client::Body;
use serde_json::{Value, json};

use super::route::Route;
use super::store::{Answer, Apply, Refusal, Store, UID_IS_IMMUTABLE, key, refuse};
use super::{ApiServer, Call, Fault, Line, State};

/// Answers requests of the Kubernetes API.
#[derive(Clone)]
pub struct Service {
    pub(super) server: ApiServer,
    pub(super) line: Line,
}

/// What an answer is made of.
pub type Chunks = BoxStream<'static, Result<Frame<Bytes>, Infallible>>;
/// An answer.
pub type Reply = Response<StreamBody<Chunks>>;
/// Why there is no answer.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

impl tower::Service<Request<Body>> for Service {
    type Response = Reply;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Reply, BoxError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let Service { server, line } = self.clone();
        async move {
            if line.is_cut() {
                return std::future::pending().await;
            }
            let (head, body) = request.into_parts();
            let body = body.collect().await?.to_bytes();
            server.answer(&head, &body)
        }
        .boxed()
    }
}

/// What a call is answered with.
enum Content {
    One(Value),
    Stream(BoxStream<'static, Value>),
}

impl ApiServer {
    fn answer(&self, head: &http::request::Parts, body: &[u8]) -> Result<Reply, BoxError> {
        let route = Route::parse(&head.uri).ok_or_else(|| format!("no API path: {}", head.uri))?;
        let verb = verb(&head.method, &route);
        let mut state = self.state();
        if state.writes_left == Some(0) {
            return Err("connection refused: cut off".into());
        }
        state.store.collect_garbage();
        let closed = |namespace: &String| state.closed.contains(namespace);
        let forbidden = route.namespace.as_ref().is_some_and(closed);
        let fault = match forbidden {
            true => Some(Fault::Refuse(403)),
            false => state.next_fault(verb, &route.resource()),
        };
        let exists = |state: &State| {
            let (namespace, name) = (route.namespace.as_deref(), route.name.as_deref());
            state
                .store
                .get(
                    &route.plural,
                    namespace.unwrap_or_default(),
                    name.unwrap_or_default(),
                )
                .is_some()
        };
        let existed = exists(&state);
        if let Some(with) = state.no_creations.clone()
            && !existed
            && ["create", "patch"].contains(&verb)
        {
            return Ok(forbidden_for(with));
        }
        let outcome = match fault {
            Some(Fault::Reset) => Err(BoxError::from("connection reset by fault")),
            Some(Fault::Refuse(code)) => Ok(refuse(code, reason(code), "refused by fault")),
            Some(Fault::LoseAnswer(code)) => {
                let _ = state.perform(verb, &route, head, body);
                Ok(refuse(code, reason(code), "answer lost by fault"))
            }
            None => Ok(state.perform(verb, &route, head, body)),
        };
        let created = verb == "patch" && !existed && exists(&state);
        let call = Call {
            verb: verb.to_owned(),
            group: route.group.clone(),
            resource: route.resource(),
            namespace: route.namespace.clone(),
            name: route.name.clone().unwrap_or_default(),
            created,
        };
        let written = usize::from(call.is_write());
        state.writes_left = state.writes_left.map(|left| left.saturating_sub(written));
        state.calls.push(call);
        outcome.map(|outcome| reply(outcome, metadata_only(head)))
    }
}

impl State {
    fn next_fault(&mut self, verb: &str, resource: &str) -> Option<Fault> {
        let planned = self.faults.iter_mut().position(|fault| {
            let matches = fault.verb == verb && fault.resource == resource;
            let now = matches && fault.after == 0;
            fault.after = fault.after.saturating_sub(usize::from(matches && !now));
            now
        })?;
        Some(self.faults.remove(planned).fault)
    }

    fn perform(
        &mut self,
        verb: &str,
        route: &Route,
        head: &http::request::Parts,
        body: &[u8],
    ) -> Answer<Content> {
        let namespace = route.namespace.as_deref().unwrap_or_default();
        let name = route.name.as_deref().unwrap_or_default();
        let parsed = || match serde_json::from_slice::<Value>(body) {
            Ok(body) => Ok(body),
            Err(error) => refuse(400, "BadRequest", error.to_string()),
        };
        let status = route.subresource.is_some();
        match verb {
            "watch" => Ok(Content::Stream(self.store.watch(route))),
            "list" => Ok(Content::One(self.store.list(route))),
            "get" => match self.store.get(&route.plural, namespace, name) {
                Some(object) => Ok(Content::One(object.clone())),
                None => refuse(
                    404,
                    "NotFound",
                    format!("{} \"{name}\" not found", route.plural),
                ),
            },
            "create" if route.subresource.as_deref() == Some("eviction") => self
                .store
                .evict(namespace, name, &parsed()?)
                .map(Content::One),
            "create" => self.store.create(parsed()?).map(Content::One),
            "update" => {
                let key = key(&route.plural, namespace, name);
                self.store.replace(key, parsed()?).map(Content::One)
            }
            "delete" => {
                let how = parsed()?;
                let uid = how["preconditions"]["uid"].as_str();
                let key = key(&route.plural, namespace, name);
                if how["propagationPolicy"] == "Orphan" {
                    return self.store.orphan(key, uid).map(Content::One);
                }
                self.store.delete(key, uid)?;
                Ok(Content::One(
                    json!({ "kind": "Status", "apiVersion": "v1", "status": "Success" }),
                ))
            }
            "patch" => match content_type(head) {
                "application/merge-patch+json" => {
                    let key = key(&route.plural, namespace, name);
                    let on_trial = route.parameter("dryRun") == Some("All");
                    let merge = if on_trial {
                        Store::try_merge
                    } else {
                        Store::merge
                    };
                    merge(&mut self.store, key, &parsed()?, status).map(Content::One)
                }
                "application/apply-patch+yaml" => {
                    let Some(manager) = route.parameter("fieldManager") else {
                        return refuse(400, "BadRequest", "fieldManager is required");
                    };
                    let force = route.parameter("force") == Some("true");
                    let how = Apply {
                        manager,
                        force,
                        status,
                    };
                    let key = key(&route.plural, namespace, name);
                    let (object, _) = self.store.apply(key, parsed()?, &how)?;
                    Ok(Content::One(object))
                }
                other => refuse(415, "UnsupportedMediaType", other),
            },
            other => refuse(405, "MethodNotAllowed", other),
        }
    }
}

fn verb(method: &Method, route: &Route) -> &'static str {
    match *method {
        Method::GET if route.parameter("watch") == Some("true") => "watch",
        Method::GET if route.name.is_some() => "get",
        Method::GET => "list",
        Method::POST => "create",
        Method::PATCH => "patch",
        Method::DELETE => "delete",
        _ => "update",
    }
}

fn content_type(head: &http::request::Parts) -> &str {
    let value = head.headers.get(http::header::CONTENT_TYPE);
    value
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default()
}

/// Whether only the metadata of objects is asked for.
fn metadata_only(head: &http::request::Parts) -> bool {
    let accept = head.headers.get(http::header::ACCEPT);
    accept
        .and_then(|value| value.to_str().ok())
        .is_some_and(|v| v.contains("as=PartialObject"))
}

fn reason(code: u16) -> &'static str {
    match code {
        403 => "Forbidden",
        // What the client makes of the plain text of an unknown path.
        404 => "Failed to parse error data",
        409 => "Conflict",
        422 => "Invalid",
        429 => "TooManyRequests",
        _ => "InternalError",
    }
}

fn reply(outcome: Answer<Content>, metadata_only: bool) -> Reply {
    let shape = move |object| {
        if metadata_only {
            only_metadata(object)
        } else {
            object
        }
    };
    let (code, chunks): (u16, BoxStream<'static, Value>) = match outcome {
        Ok(Content::One(mut value)) => {
            if let Some(items) = value["items"].as_array_mut() {
                items.iter_mut().for_each(|item| *item = shape(item.take()));
            } else {
                value = shape(value);
            }
            (200, stream::iter([value]).boxed())
        }
        Ok(Content::Stream(events)) => {
            let shaped = events.map(move |mut event| {
                if ["ADDED", "MODIFIED", "DELETED"]
                    .iter()
                    .any(|kind| event["type"] == *kind)
                {
                    event["object"] = shape(event["object"].take());
                }
                event
            });
            (200, shaped.boxed())
        }
        Err(Refusal {
            code,
            reason,
            message,
        }) => {
            let causes = match message.as_str() {
                UID_IS_IMMUTABLE => json!([{ "field": "metadata.uid" }]),
                _ => json!([]),
            };
            let status = json!({
                "kind": "Status",
                "apiVersion": "v1",
                "status": "Failure",
                "code": code,
                "reason": reason,
                "message": message,
                "details": { "causes": causes },
            });
            (code, stream::iter([status]).boxed())
        }
    };
    let chunks = chunks.map(|value| Ok(Frame::data(Bytes::from(format!("{value}\n")))));
    Response::builder()
        .status(code)
        .header(http::header::CONTENT_TYPE, "application/json")
        .body(StreamBody::new(chunks.boxed()))
        .expect("a status code of ours")
}

/// A refusal that says more than why.
fn forbidden_for(with: Value) -> Reply {
    let mut status = json!({
        "kind": "Status",
        "apiVersion": "v1",
        "status": "Failure",
        "code": 403,
        "reason": "Forbidden",
        "message": "unable to create new content in namespace shop because it is being terminated",
    });
    super::fields::merge(&mut status, &with);
    let body = Bytes::from(status.to_string());
    let chunks = stream::iter([Ok(Frame::data(body))]);
    Response::builder()
        .status(403)
        .header(http::header::CONTENT_TYPE, "application/json")
        .body(StreamBody::new(chunks.boxed()))
        .expect("a status code of ours")
}

fn only_metadata(object: Value) -> Value {
    json!({
        "apiVersion": "meta.k8s.io/v1",
        "kind": "PartialObjectMetadata",
        "metadata": object["metadata"],
    })
}
