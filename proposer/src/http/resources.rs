//! Reads of resources, at a learner and at a store.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use http::header::{ETAG, HeaderMap, IF_NONE_MATCH};
use http::{HeaderValue, StatusCode};
use paxos::command::MAX_RESOURCE_CHARS;
use paxos::machine::{Page, PageLimits, Resource};
use serde::Deserialize;
use utoipa::{IntoParams, ToSchema};

use super::{RoleState, json_bytes, render, reserve};
use crate::driver::barrier::Barrier;
use crate::problem::{Params, PathParams, Problem};
use crate::wire::{PageView, ResourceView};

/// How long a linearizable read may wait for a leader and for what it must see.
const READ_WITHIN: Duration = Duration::from_secs(5);
/// The largest `limit` of a page.
const MAX_LIMIT: usize = 1000;
/// A page ends after about this many bytes, whatever its `limit`: each resource may have 1 MiB.
const PAGE_BYTES: usize = 4 << 20;
/// With a last resource of the largest size.
const LARGEST_PAGE: usize = PAGE_BYTES + (1 << 20);
/// What the fields of a resource take in JSON, beside its data and its name.
const FIELDS_BYTES: usize = 256;

/// A role that resources can be read from.
pub(super) trait Reads: RoleState {
    /// What a linearizable read waits for.
    fn barrier(&self) -> &Barrier;
    /// Why it no longer applies, if so.
    fn halted(&self) -> Option<String>;
    /// Why it cannot say what is acknowledged, though a leader answers.
    fn doubt(&self) -> Option<String> {
        None
    }
    /// Whether it has been level with its cluster since its start: until then what it does not have
    /// may well be there.
    fn is_level(&self) -> bool;
    /// Whether it knows that it lacks something, or has nothing at all.
    fn is_behind(&self) -> bool;
    /// A resource by name.
    fn resource(&self, name: String) -> impl Future<Output = Option<Resource>> + Send;
    /// A page of resources.
    fn page(&self, query: PageQuery) -> impl Future<Output = Page> + Send;
}

/// The routes, for any such role.
pub(super) fn routes<S: Reads>() -> Router<Arc<S>> {
    Router::new()
        .route("/resource/{*id}", get(resource::<S>))
        .route("/resources", get(resources::<S>))
}

#[derive(Clone, Copy, Default, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum Consistency {
    #[default]
    Linearizable,
    Local,
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct ResourceQuery {
    /// linearizable sees every write acknowledged before; local answers at once
    #[serde(default)]
    #[param(inline)]
    consistency: Consistency,
}

async fn ready_to_read<S: Reads>(state: &S, consistency: Consistency) -> Result<(), Problem> {
    if let Some(why) = state.halted() {
        let role = state.node().name().role;
        let detail = format!("this {role} has stopped applying: {why}; ask another one");
        return Err(Problem::unavailable(detail, Duration::from_secs(30)));
    }
    match consistency {
        Consistency::Local => Ok(()),
        Consistency::Linearizable if let Some(why) = state.doubt() => {
            let detail = format!("{why}; read what this node has with consistency=local");
            Err(Problem::unavailable(detail, Duration::from_secs(1)))
        }
        Consistency::Linearizable => state.barrier().wait(READ_WITHIN).await.map_err(|_| {
            Problem::unavailable(
                "no leader confirmed the read in time: try again, or read what this node has \
                 with consistency=local",
                Duration::from_secs(1),
            )
        }),
    }
}

/// What a node has not may be there all the same while it is catching up.
fn not_level<S: Reads>(state: &S) -> Problem {
    let role = state.node().name().role;
    let why = state.not_ready();
    let why = why.unwrap_or_else(|| "it is catching up".to_owned());
    let detail = format!("this {role} does not know what there is: {why}; ask another one");
    Problem::unavailable(detail, Duration::from_secs(1))
}

/// A resource as it stands
#[utoipa::path(
    get,
    path = "/resource/{id}",
    params(
        ("id" = String, Path, description = "Its name, which may have slashes", min_length = 1),
        ResourceQuery,
        ("If-None-Match" = Option<String>, Header, description = "An ETag: 304 if it is still right")
    ),
    responses(
        (
            status = 200,
            description = "The resource",
            body = ResourceView<'_>,
            headers(("ETag" = String, description = "The instance that last wrote it, which never repeats"))
        ),
        (status = 304, description = "It is still as If-None-Match says"),
        (status = 404, description = "There is none"),
        (status = 503, description = "No leader confirmed the read in time, or this node has stopped applying")
    )
)]
pub(super) async fn resource<S: Reads>(
    State(state): State<Arc<S>>,
    PathParams(name): PathParams<String>,
    Params(query): Params<ResourceQuery>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    ready_to_read(&*state, query.consistency).await?;
    let found = state.resource(name.clone()).await;
    let found = found.ok_or_else(|| match state.is_level() {
        true => Problem::not_found(format!("there is no resource {name:?}")),
        false => not_level(&*state),
    })?;
    // Not the version, which begins again after a removal.
    let etag = format!("\"{}\"", found.slot);
    let etag = HeaderValue::from_str(&etag).unwrap_or(HeaderValue::from_static("\"\""));
    if headers.get(IF_NONE_MATCH) == Some(&etag) {
        return Ok((StatusCode::NOT_MODIFIED, [(ETAG, etag)]).into_response());
    }
    let size = found.data.len() + name.len() + FIELDS_BYTES;
    reserve(size).await?;
    let body = render(size, &ResourceView::of(&name, &found));
    let mut response = json_bytes(StatusCode::OK, body);
    response.headers_mut().insert(ETAG, etag);
    Ok(response)
}

/// Which resources.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct PageQuery {
    /// Only names that begin so
    #[serde(default)]
    #[param(max_length = 1024)]
    pub(super) prefix: String,
    /// Only names after this one: the `next` of the page before
    #[param(max_length = 1024)]
    pub(super) after: Option<String>,
    /// How many
    #[serde(default = "hundred")]
    #[param(minimum = 1, maximum = 1000, default = 100)]
    limit: usize,
    /// linearizable sees every write acknowledged before; local answers at once
    #[serde(default)]
    #[param(inline)]
    consistency: Consistency,
}

fn hundred() -> usize {
    100
}

impl PageQuery {
    /// How much of it.
    pub(super) fn limits(&self) -> PageLimits {
        PageLimits {
            count: self.limit,
            bytes: PAGE_BYTES,
        }
    }

    fn check(&self) -> Result<(), Problem> {
        if !(1..=MAX_LIMIT).contains(&self.limit) {
            return Err(Problem::bad_request("limit", "must be from 1 to 1000"));
        }
        let texts = [
            ("prefix", Some(&self.prefix)),
            ("after", self.after.as_ref()),
        ];
        for (field, text) in texts {
            if text.is_some_and(|text| text.chars().count() > MAX_RESOURCE_CHARS) {
                let detail = "must have at most 1024 characters, as the names of resources";
                return Err(Problem::bad_request(field, detail));
            }
        }
        Ok(())
    }
}

/// A page of resources, in the order of their names
#[utoipa::path(
    get,
    path = "/resources",
    params(PageQuery),
    responses(
        (status = 200, description = "Some resources", body = PageView<'_>),
        (status = 503, description = "No leader confirmed the read in time, or this node has stopped applying")
    )
)]
pub(super) async fn resources<S: Reads>(
    State(state): State<Arc<S>>,
    Params(query): Params<PageQuery>,
) -> Result<Response, Problem> {
    query.check()?;
    ready_to_read(&*state, query.consistency).await?;
    reserve(LARGEST_PAGE).await?;
    if !state.is_level() && state.is_behind() {
        return Err(not_level(&*state));
    }
    let page = state.page(query).await;
    let size = page.resources.iter();
    let size = size.map(|(name, resource)| resource.data.len() + name.len() + FIELDS_BYTES);
    let body = render(size.sum(), &PageView::of(&page));
    Ok(json_bytes(StatusCode::OK, body))
}
