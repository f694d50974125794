//! What one node asks another for, over HTTP: entries of its log, and pieces of its snapshot. A learner
//! needs this when the acceptors have forgotten what comes next, and its loop says whom to ask for what; a
//! store lives on it, and asks a learner for entries if its log goes back far enough, or else for its
//! snapshot first.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use paxos::codec::{Entry, decode_entries};
use paxos::ids::Slot;
use roles::learner::{Ask, Told};

use crate::driver::end_on_disk_error;
use crate::driver::volume::Probe;
use crate::link::Link;
use crate::snapshots::Snapshots;

/// Names the slot of a snapshot in an answer.
pub(crate) const SLOT_HEADER: &str = "x-snapshot-instance";
/// Names the length of the whole snapshot, bytes.
pub(crate) const LENGTH_HEADER: &str = "x-snapshot-length";
/// Names the last slot that a learner knows to be chosen.
pub(crate) const COMMITTED_HEADER: &str = "x-committed-instance";
/// Holds a checksum of the value before the first one sent.
pub(crate) const PREVIOUS_HEADER: &str = "x-previous-value";
/// How long a learner may take to send a piece of a snapshot.
const CHUNK_WITHIN: Duration = Duration::from_secs(10);
/// How long it may take to send entries, beyond the time it was asked to wait for them.
const ENTRIES_WITHIN: Duration = Duration::from_secs(3);

/// Where a store puts snapshots of learners together.
#[derive(Clone)]
pub(in crate::driver) struct Incoming {
    pub snapshots: Snapshots,
    pub volume: Probe,
    /// How many times its length a snapshot needs until it is installed.
    pub times: u64,
}

/// What a learner sends to a store.
pub(in crate::driver) enum Piece {
    /// Chosen values from the other's log, in order.
    Entries(Vec<Entry>),
    /// A snapshot of this slot, complete and on disk here.
    Snapshot(Slot),
}

/// What a learner tells a store of what comes next.
pub(in crate::driver) struct Next {
    /// It, if there is anything.
    pub piece: Option<Piece>,
    /// The last slot that the learner knows to be chosen.
    pub committed: Slot,
    /// A checksum of the value before it at that learner, if it knows.
    previous: Option<u64>,
}

impl Next {
    /// Whether that learner has another value in the slot before than this checksum is of.
    pub(in crate::driver) fn differs_from(&self, mine: Option<u64>) -> bool {
        let known = self.previous.zip(mine);
        known.is_some_and(|(theirs, mine)| theirs != mine)
    }
}

/// What a learner has from `next` on, if anything comes within `wait`.
pub(in crate::driver) async fn next_piece(
    link: &Link,
    incoming: &Incoming,
    next: Slot,
    wait: Duration,
) -> Result<Next, String> {
    match ask(link, Ask::Entries { from: next }, wait).await? {
        Told::Entries {
            entries,
            committed,
            previous,
        } => {
            let mut expected = entries.iter().zip(next.0..);
            if !expected.all(|(entry, slot)| entry.slot.0 == slot) {
                return Err("its entries are not those asked for".to_owned());
            }
            Ok(Next {
                piece: (!entries.is_empty()).then_some(Piece::Entries(entries)),
                committed,
                previous,
            })
        }
        Told::Gone => {
            let slot = snapshot_from(link, incoming, next).await?;
            Ok(Next {
                piece: Some(Piece::Snapshot(slot)),
                committed: slot,
                previous: None,
            })
        }
        Told::Piece { .. } => Err("it answered another question".to_owned()),
        Told::Lacks { why } => Err(why),
    }
}

/// A node's state, if it goes as far as `next`.
async fn snapshot_from(link: &Link, incoming: &Incoming, next: Slot) -> Result<Slot, String> {
    let (newest, ..) = piece(link, None, 0).await?;
    match newest < next {
        true => Err(format!("its snapshot is of instance {newest} only")),
        false => fetch_snapshot(link, incoming, newest).await,
    }
}

async fn fetch_snapshot(link: &Link, incoming: &Incoming, slot: Slot) -> Result<Slot, String> {
    let snapshots = &incoming.snapshots;
    loop {
        let offset = snapshots.received(slot);
        let (_, bytes, length) = piece(link, Some(slot), offset).await?;
        if bytes.is_empty() {
            return match offset == length {
                true => Ok(slot),
                false => Err("it sent nothing of what is left".to_owned()),
            };
        }
        // All of it, before its first piece is written: half of one serves nobody, and this node's log
        // needs the room.
        let needed = length.saturating_mul(incoming.times) - offset.min(length);
        if !incoming.volume.has_room_for(needed) {
            let all = snapshots.discard_incoming();
            all.unwrap_or_else(|error| end_on_disk_error(&error));
            return Err(format!(
                "this node's volume has no room for the snapshot of {}, {needed} bytes: enlarge it, \
                 or see what else fills it",
                link.node
            ));
        }
        let (keeper, written) = (snapshots.clone(), bytes);
        let write = move || keeper.receive(slot, offset, &written);
        let received = tokio::task::spawn_blocking(write).await;
        let received = received.map_err(|error| error.to_string())?;
        received.unwrap_or_else(|error| end_on_disk_error(&error));
    }
}

async fn piece(link: &Link, slot: Option<Slot>, offset: u64) -> Result<(Slot, Bytes, u64), String> {
    match ask(link, Ask::Piece { slot, offset }, Duration::ZERO).await? {
        Told::Piece {
            slot,
            bytes,
            length,
        } => Ok((slot, bytes, length)),
        Told::Lacks { why } => Err(why),
        Told::Entries { .. } | Told::Gone => Err("it answered another question".to_owned()),
    }
}

/// Asks another node, which may wait for so long until it has entries. Why there is no answer of use, if
/// there is none.
pub(in crate::driver) async fn ask(link: &Link, ask: Ask, wait: Duration) -> Result<Told, String> {
    let (path, within) = match ask {
        Ask::Entries { from } => {
            let path = format!("/entries?from={from}&waitMs={}", wait.as_millis());
            (path, wait + ENTRIES_WITHIN)
        }
        Ask::Piece { slot: None, offset } => (format!("/snapshot?offset={offset}"), CHUNK_WITHIN),
        Ask::Piece {
            slot: Some(slot),
            offset,
        } => (
            format!("/snapshot?instance={slot}&offset={offset}"),
            CHUNK_WITHIN,
        ),
    };
    let answer = link.get(&path, within).await;
    let answer = answer.map_err(|error| error.to_string())?;
    let answered = || format!("it answered {}", answer.status());
    match (ask, answer.status()) {
        (_, StatusCode::OK) => {}
        (Ask::Entries { .. }, StatusCode::GONE) => return Ok(Told::Gone),
        (Ask::Piece { .. }, StatusCode::NOT_FOUND) => return Ok(Told::Lacks { why: answered() }),
        _ => return Err(answered()),
    }
    let headers = answer.headers();
    let slot = |name| number(headers, name).ok_or("it named no instance");
    match ask {
        Ask::Entries { .. } => {
            let committed = Slot(slot(COMMITTED_HEADER)?);
            let previous = number(headers, PREVIOUS_HEADER);
            let entries = decode_entries(answer.into_body()).map_err(|error| error.to_string())?;
            Ok(Told::Entries {
                entries,
                committed,
                previous,
            })
        }
        Ask::Piece { .. } => {
            let slot = Slot(slot(SLOT_HEADER)?);
            let length = number(headers, LENGTH_HEADER).ok_or("it named no length")?;
            let bytes = answer.into_body();
            Ok(Told::Piece {
                slot,
                bytes,
                length,
            })
        }
    }
}

fn number(headers: &HeaderMap, name: &str) -> Option<u64> {
    headers.get(name)?.to_str().ok()?.parse().ok()
}
