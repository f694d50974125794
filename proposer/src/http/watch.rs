//! `GET /watch`: changes of resources as Server-Sent Events, read from the log at the pace of the
//! client. An event's id is its instance, so a client that connects again resumes where it was; an
//! id without an event now and then keeps that place fresh while nothing of interest happens.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures::stream;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderMap};
use paxos::codec::Entry;
use paxos::ids::Slot;
use serde::Deserialize;
use tokio::time::{Instant, sleep_until};
use utoipa::IntoParams;

use super::learner::{Learner, no_entries, rendered_size, slot};
use crate::bounds::Stream;
use crate::problem::{Params, Problem};
use crate::wire::{ChangeView, write_line};

/// The header in which a browser says what it saw last.
const LAST_EVENT_ID: &str = "last-event-id";
/// The longest silence: proxies cut connections that are silent for longer than 30 to 60 seconds.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct WatchQuery {
    /// Only resources whose names begin so
    #[serde(default)]
    prefix: String,
    /// The first instance to look at; else what comes next
    #[param(minimum = 1, maximum = 18446744069414584319usize)]
    from: Option<u64>,
}

/// Where to begin: after the last event seen, else at `from`, else at what comes next.
fn start(query: &WatchQuery, headers: &HeaderMap, applied: Slot) -> Result<Slot, Problem> {
    let Some(last) = headers.get(LAST_EVENT_ID) else {
        return match query.from {
            Some(from) => slot("from", from),
            None => Ok(applied.next()),
        };
    };
    let last = last.to_str().ok().and_then(|last| last.parse::<u64>().ok());
    let last = last.ok_or_else(|| {
        Problem::bad_request(
            "Last-Event-ID",
            "must be the id of an event, which is the number of an instance",
        )
    })?;
    slot("Last-Event-ID", last.saturating_add(1))
}

/// Changes of resources as Server-Sent Events
///
/// `event` is put or delete, `id` the instance, and `data` a Change.
#[utoipa::path(
    get,
    path = "/watch",
    params(
        WatchQuery,
        ("Last-Event-ID" = Option<u64>, Header, description = "Continue after this event, whatever from says")
    ),
    responses(
        (status = 200, description = "Events, and ids alone as signs of life", body = String, content_type = "text/event-stream"),
        (status = 410, description = "The log no longer goes back that far; floor says how far"),
        (status = 503, description = "Too many follow this learner, or it has too much to do")
    )
)]
pub(super) async fn watch(
    State(state): State<Arc<Learner>>,
    Params(query): Params<WatchQuery>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let mut applied = state.handle.applied();
    let from = start(&query, &headers, *applied.borrow_and_update())?;
    let permit = state.stream()?;
    // Before the stream starts an error can still be reported.
    state.handle.entries(from, 1).await.map_err(no_entries)?;
    let watcher = Watcher {
        state,
        permit,
        prefix: query.prefix,
        next: from,
        last_sent: None,
    };
    let events = stream::unfold(watcher, |mut watcher| async move {
        let events = watcher.events().await?;
        Some((Ok::<_, Infallible>(events), watcher))
    });
    let headers = [
        (CONTENT_TYPE, "text/event-stream"),
        (CACHE_CONTROL, "no-store"),
    ];
    Ok((headers, Body::from_stream(events)).into_response())
}

struct Watcher {
    state: Arc<Learner>,
    permit: Stream,
    prefix: String,
    next: Slot,
    /// When the client heard of us; `None` before the first time.
    last_sent: Option<Instant>,
}

impl Watcher {
    /// The next events, or a sign of life; `None` when there will be no more: the process ends, or
    /// the client was so slow that the log no longer has what it lacks.
    async fn events(&mut self) -> Option<Bytes> {
        let mut applied = self.state.handle.applied();
        let mut ending = self.state.ending.clone();
        loop {
            let silent_until = self.last_sent.map(|last_sent| last_sent + KEEP_ALIVE);
            if silent_until.is_none_or(|until| until <= Instant::now()) {
                return Some(self.sent(format!(":\nid: {}\n\n", self.next.previous()).into()));
            }
            let piece = self.state.piece(&self.permit, self.next).await;
            let (room, entries) = piece.ok()?;
            if let Some(last) = entries.last() {
                self.next = last.slot.next();
                let events = render(&entries, &self.prefix);
                if !events.is_empty() {
                    return Some(self.sent(room.fill(events.into())));
                }
                continue;
            }
            drop(room);
            let next = self.next;
            tokio::select! {
                more = applied.wait_for(|applied| *applied >= next) => drop(more.ok()?),
                _ = ending.wait_for(|ending| *ending) => return None,
                () = sleep_until(silent_until.unwrap_or_else(Instant::now)) => {}
            }
        }
    }

    fn sent(&mut self, events: Bytes) -> Bytes {
        self.last_sent = Some(Instant::now());
        events
    }
}

/// The changes among these entries.
fn render(entries: &[Entry], prefix: &str) -> Vec<u8> {
    // Events of others are left out, and often all of them.
    let mut events = Vec::new();
    for entry in entries {
        let Some(change) = ChangeView::of(entry).filter(|c| c.resource.starts_with(prefix)) else {
            continue;
        };
        let head = format!(
            "id: {}\nevent: {}\ndata: ",
            entry.slot,
            match change.data {
                Some(_) => "put",
                None => "delete",
            }
        );
        events.reserve(head.len() + rendered_size(std::slice::from_ref(entry)));
        events.extend_from_slice(head.as_bytes());
        write_line(&mut events, &change);
        events.push(b'\n');
    }
    events
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    fn at(last_event_id: Option<&'static str>, from: Option<u64>) -> Result<Slot, Problem> {
        let prefix = String::new();
        let mut headers = HeaderMap::new();
        if let Some(id) = last_event_id {
            headers.insert(LAST_EVENT_ID, HeaderValue::from_static(id));
        }
        start(&WatchQuery { prefix, from }, &headers, Slot(9))
    }

    #[test]
    fn a_watch_begins_after_what_was_seen_else_where_asked_else_now() {
        assert_eq!(at(Some("4"), Some(2)), Ok(Slot(5)));
        assert_eq!(at(Some("0"), None), Ok(Slot(1)));
        assert_eq!(at(None, Some(2)), Ok(Slot(2)));
        assert_eq!(at(None, None), Ok(Slot(10)));
        for (last, from, field) in [
            (Some("x"), None, "Last-Event-ID"),
            (Some("18446744073709551615"), None, "Last-Event-ID"),
            (None, Some(0), "from"),
        ] {
            let problem = at(last, from).unwrap_err();
            assert!(problem.detail().starts_with(field), "{problem:?}");
        }
    }
}
