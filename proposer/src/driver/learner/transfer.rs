//! Catches up from another learner, when the acceptors have forgotten what is missing here: from its
//! log if that goes back far enough, or else from its snapshot first. A learner's log always reaches
//! from its snapshot to what it has applied, so the two leave no gap. A piece of a snapshot that is
//! here is not asked for again.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use tracing::debug;

use super::{Ask, Handle};
use crate::link::{Link, path};
use crate::paxos::codec::{Entry, decode_entries};
use crate::paxos::ids::Slot;
use crate::peers::{Breakers, Lane};
use crate::snapshots::Snapshots;

/// Names the slot of a snapshot in an answer.
pub(crate) const SLOT_HEADER: &str = "x-snapshot-instance";
/// Names the length of the whole snapshot, bytes.
pub(crate) const LENGTH_HEADER: &str = "x-snapshot-length";
const TIMEOUT: Duration = Duration::from_secs(10);

/// The pause after every learner was asked in vain.
const PAUSE: Duration = Duration::from_secs(1);

/// What the loop gets from another learner.
pub(super) enum Piece {
    /// Chosen values from the other's log, in order.
    Entries(Vec<Entry>),
    /// A snapshot of this slot, complete and on disk here.
    Snapshot(Slot),
}

/// Hands over what comes after `delivered`, from one of these learners, until `floor` is passed.
pub(super) async fn catch_up(
    links: &[Link],
    snapshots: &Snapshots,
    delivered: Slot,
    floor: Slot,
    learner: &Handle,
) {
    for link in links {
        match catch_up_from(link, snapshots, delivered, floor, learner).await {
            Ok(()) => return,
            Err(why) => debug!(learner = %link.node, why, "cannot catch up from it"),
        }
    }
    tokio::time::sleep(PAUSE).await;
}

async fn catch_up_from(
    link: &Link,
    snapshots: &Snapshots,
    delivered: Slot,
    floor: Slot,
    learner: &Handle,
) -> Result<(), String> {
    let mut next = delivered.next();
    while next <= floor {
        let path = format!("{}/entries?from={next}", path(link.node));
        let answer = call(link, path).await?;
        if answer.status() == StatusCode::GONE {
            let slot = fetch_snapshot(link, snapshots).await?;
            if slot < next {
                return Err(format!("its snapshot is of instance {slot} only"));
            }
            learner.post(Ask::Received(Piece::Snapshot(slot))).await;
            return Ok(());
        }
        if answer.status() != StatusCode::OK {
            return Err(format!("it answered {}", answer.status()));
        }
        let entries = decode_entries(answer.into_body()).map_err(|error| error.to_string())?;
        let in_order = entries
            .iter()
            .zip(next.0..)
            .all(|(entry, slot)| entry.slot.0 == slot);
        let Some(last) = entries.last().filter(|_| in_order) else {
            return Err("it has no more".to_owned());
        };
        next = last.slot.next();
        learner.post(Ask::Received(Piece::Entries(entries))).await;
    }
    Ok(())
}

async fn fetch_snapshot(link: &Link, snapshots: &Snapshots) -> Result<Slot, String> {
    let path = path(link.node);
    let (slot, ..) = ask(link, format!("{path}/snapshot?offset=0")).await?;
    loop {
        let offset = snapshots.received(slot);
        let piece = format!("{path}/snapshot?instance={slot}&offset={offset}");
        let (_, bytes, length) = ask(link, piece).await?;
        if bytes.is_empty() {
            return match offset == length {
                true => Ok(slot),
                false => Err("it sent nothing of what is left".to_owned()),
            };
        }
        let (keeper, written) = (snapshots.clone(), bytes);
        let write = move || keeper.receive(slot, offset, &written);
        let received = tokio::task::spawn_blocking(write).await;
        let received = received.map_err(|error| error.to_string())?;
        received.map_err(|error| error.to_string())?;
    }
}

async fn call(link: &Link, path: String) -> Result<Response<Bytes>, String> {
    let request = Request::get(path).body(Bytes::new());
    let request = request.map_err(|error| error.to_string())?;
    let answer = link
        .peer
        .call(Lane::Bulk, request, TIMEOUT, Breakers::Ignore);
    answer.await.map_err(|error| error.to_string())
}

async fn ask(link: &Link, path: String) -> Result<(Slot, Bytes, u64), String> {
    let answer = call(link, path).await?;
    if answer.status() != StatusCode::OK {
        return Err(format!("it answered {}", answer.status()));
    }
    let number = |headers: &HeaderMap, name| headers.get(name)?.to_str().ok()?.parse::<u64>().ok();
    let headers = answer.headers();
    let slot = number(headers, SLOT_HEADER).ok_or("it named no instance")?;
    let length = number(headers, LENGTH_HEADER).ok_or("it named no length")?;
    Ok((Slot(slot), answer.into_body(), length))
}
