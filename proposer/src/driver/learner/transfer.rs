//! What one learner has and another learner or a store lacks: entries of its log if that goes back
//! far enough, or else its snapshot first. A learner's log always reaches from its snapshot to what
//! it has applied, so the two leave no gap. A piece of a snapshot that is here is not asked for
//! again. A learner needs this when the acceptors have forgotten what comes next; a store lives on it.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use tracing::warn;

use super::{Ask, Handle};
use crate::driver::end_on_disk_error;
use crate::link::Link;
use crate::paxos::codec::{Entry, decode_entries};
use crate::paxos::ids::Slot;
use crate::snapshots::Snapshots;

/// Names the slot of a snapshot in an answer.
pub(crate) const SLOT_HEADER: &str = "x-snapshot-instance";
/// Names the length of the whole snapshot, bytes.
pub(crate) const LENGTH_HEADER: &str = "x-snapshot-length";
/// Names the last slot that a learner knows to be chosen.
pub(crate) const COMMITTED_HEADER: &str = "x-committed-instance";
/// How long a learner may take to send a piece of a snapshot.
const CHUNK_WITHIN: Duration = Duration::from_secs(10);
/// How long it may take to send entries, beyond the time it was asked to wait for them.
const ENTRIES_WITHIN: Duration = Duration::from_secs(3);
/// The pause after every learner was asked in vain.
const PAUSE: Duration = Duration::from_secs(1);

/// What another learner sends.
pub(in crate::driver) enum Piece {
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
            Err(why) => warn!(
                target: "important",
                learner = %link.node,
                why,
                "cannot catch up from it, asking the next learner"
            ),
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
        let (piece, _) = next_piece(link, snapshots, next, Duration::ZERO).await?;
        let (last, piece) = piece.ok_or("it has no more")?;
        next = last.next();
        learner.post(Ask::Received(piece)).await;
    }
    Ok(())
}

/// What a learner has from `next` on, if anything comes within `wait`, and the last slot that it
/// knows to be chosen.
pub(in crate::driver) async fn next_piece(
    link: &Link,
    snapshots: &Snapshots,
    next: Slot,
    wait: Duration,
) -> Result<(Option<(Slot, Piece)>, Slot), String> {
    let path = format!("/entries?from={next}&waitMs={}", wait.as_millis());
    let answer = link.get(&path, wait + ENTRIES_WITHIN).await;
    let answer = answer.map_err(|error| error.to_string())?;
    if answer.status() == StatusCode::GONE {
        let slot = fetch_snapshot(link, snapshots).await?;
        return match slot >= next {
            true => Ok((Some((slot, Piece::Snapshot(slot))), slot)),
            false => Err(format!("its snapshot is of instance {slot} only")),
        };
    }
    if answer.status() != StatusCode::OK {
        return Err(format!("it answered {}", answer.status()));
    }
    let committed = number(answer.headers(), COMMITTED_HEADER);
    let committed = Slot(committed.ok_or("it named no instance")?);
    let entries = decode_entries(answer.into_body()).map_err(|error| error.to_string())?;
    let mut expected = entries.iter().zip(next.0..);
    if !expected.all(|(entry, slot)| entry.slot.0 == slot) {
        return Err("its entries are not those asked for".to_owned());
    }
    let last = entries.last().map(|entry| entry.slot);
    let piece = last.map(|last| (last, Piece::Entries(entries)));
    Ok((piece, committed))
}

async fn fetch_snapshot(link: &Link, snapshots: &Snapshots) -> Result<Slot, String> {
    let (slot, ..) = ask(link, "/snapshot?offset=0").await?;
    loop {
        let offset = snapshots.received(slot);
        let piece = format!("/snapshot?instance={slot}&offset={offset}");
        let (_, bytes, length) = ask(link, &piece).await?;
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
        received.unwrap_or_else(|error| end_on_disk_error(&error));
    }
}

async fn ask(link: &Link, path: &str) -> Result<(Slot, Bytes, u64), String> {
    let answer = link.get(path, CHUNK_WITHIN).await;
    let answer = answer.map_err(|error| error.to_string())?;
    if answer.status() != StatusCode::OK {
        return Err(format!("it answered {}", answer.status()));
    }
    let slot = number(answer.headers(), SLOT_HEADER).ok_or("it named no instance")?;
    let length = number(answer.headers(), LENGTH_HEADER).ok_or("it named no length")?;
    Ok((Slot(slot), answer.into_body(), length))
}

fn number(headers: &HeaderMap, name: &str) -> Option<u64> {
    headers.get(name)?.to_str().ok()?.parse().ok()
}
