//! What one learner has and another learner or a store lacks: entries of its log if that goes back
//! far enough, or else its snapshot first. A learner's log always reaches from its snapshot to what
//! it has applied, so the two leave no gap. A piece of a snapshot that is here is not asked for
//! again. A learner needs this when the acceptors have forgotten what comes next; a store lives on it.

use std::fmt;
use std::time::Duration;

use api::env::Role;
use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use paxos::codec::{Entry, NodeName, decode_entries};
use paxos::ids::Slot;
use tracing::{error, warn};

use super::{Ask, Handle};
use crate::driver::end_on_disk_error;
use crate::driver::volume::Probe;
use crate::link::{Error as LinkError, Link};
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
/// How long what came may take to be applied here.
const TAKEN_WITHIN: Duration = Duration::from_secs(30);
/// The pause where there was no room for what a node has.
const NO_ROOM_PAUSE: Duration = Duration::from_secs(10);
/// The pause after every learner was asked in vain.
const PAUSE: Duration = Duration::from_secs(1);

/// Where snapshots of other nodes are put together.
#[derive(Clone)]
pub(in crate::driver) struct Incoming {
    pub snapshots: Snapshots,
    pub volume: Probe,
    /// How many times its length a snapshot needs until it is installed.
    pub times: u64,
}

/// What another learner sends.
pub(in crate::driver) enum Piece {
    /// Chosen values from the other's log, in order.
    Entries(Vec<Entry>),
    /// A snapshot of this slot, complete and on disk here.
    Snapshot(Slot),
}

/// What a learner needs, has been forgotten by the acceptors, and does not get.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lost {
    /// The first instance that it lacks.
    pub first: Slot,
    /// The last one that the acceptors have forgotten.
    pub last: Slot,
    /// Who answered and does not have it either.
    pub without: Vec<NodeName>,
    /// Who could not be asked, and may have it.
    pub silent: Vec<NodeName>,
}

impl Lost {
    /// Whether everybody who could have it was asked.
    pub fn is_certain(&self) -> bool {
        self.silent.is_empty()
    }
}

impl fmt::Display for Lost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |nodes: &[NodeName]| {
            let names: Vec<String> = nodes.iter().map(NodeName::to_string).collect();
            names.join(", ")
        };
        let Lost { first, last, .. } = self;
        write!(
            f,
            "instances {first} to {last} are forgotten by the acceptors, and "
        )?;
        match (self.without.is_empty(), self.silent.is_empty()) {
            (_, false) => {
                let silent = list(&self.silent);
                write!(
                    f,
                    "who may still have them does not answer: {silent}. Bring it back"
                )
            }
            (true, true) => f.write_str(
                "there is no other learner and no store to get them from. Give this learner its \
                 old volume back",
            ),
            (false, true) => write!(
                f,
                "no node has them: not this learner, nor {}. Give one of them its old volume back",
                list(&self.without)
            ),
        }
    }
}

/// Why nothing, or no more, was had from a node.
enum Failed {
    /// It does not have it.
    Lacks(String),
    /// It could not be asked, or what it sent was no use.
    Silent(String),
    /// It has it, and there is no room for it here.
    NoRoom(String),
}

impl From<LinkError> for Failed {
    fn from(error: LinkError) -> Failed {
        Failed::Silent(error.to_string())
    }
}

/// Hands over what comes after what the learner has, from one of these nodes after the other, until
/// `floor` is passed.
pub(super) async fn catch_up(links: &[Link], incoming: &Incoming, floor: Slot, learner: &Handle) {
    let applied = || *learner.applied().borrow();
    let first = applied().next();
    let (mut without, mut silent) = (Vec::new(), Vec::new());
    for link in links {
        match catch_up_from(link, incoming, floor, learner).await {
            Ok(()) => return learner.note_lost(None),
            Err(Failed::Lacks(why)) => {
                warn!(
                    node = %link.node,
                    why,
                    "it does not have what is missing here, asking the next one"
                );
                without.push(link.node);
            }
            Err(Failed::Silent(why)) => {
                warn!(
                    node = %link.node,
                    why,
                    "cannot catch up from it, asking the next one"
                );
                silent.push(link.node);
            }
            // Nor is there for what another one has.
            Err(Failed::NoRoom(why)) => {
                error!(node = %link.node, "cannot catch up: {why}");
                learner.note_lost(None);
                return tokio::time::sleep(NO_ROOM_PAUSE).await;
            }
        }
    }
    let lost = Lost {
        first: applied().next(),
        last: floor,
        without,
        silent,
    };
    // While anything comes, more may.
    let lost = (lost.first == first && first <= floor).then_some(lost);
    if let Some(lost) = lost
        .as_ref()
        .filter(|lost| learner.lost().as_ref() != Some(lost))
    {
        error!("cannot catch up: {lost}");
    }
    learner.note_lost(lost);
    tokio::time::sleep(PAUSE).await;
}

async fn catch_up_from(
    link: &Link,
    incoming: &Incoming,
    floor: Slot,
    learner: &Handle,
) -> Result<(), Failed> {
    let mut applied = learner.applied();
    loop {
        let next = applied.borrow_and_update().next();
        if next > floor {
            return Ok(());
        }
        let (last, piece) = match link.node.role {
            // It keeps no log, and any state beyond what is here will do.
            Role::Store => snapshot_from(link, incoming, next).await?,
            _ => {
                let told = piece_from(link, incoming, next, Duration::ZERO).await?;
                let mine = learner.state().checksum(next.previous());
                if told.differs_from(mine) {
                    let why = "it has another value in the last instance applied here";
                    return Err(Failed::Silent(why.to_owned()));
                }
                let nothing = || Failed::Lacks("it has no more".to_owned());
                told.piece.ok_or_else(nothing)?
            }
        };
        learner.post(Ask::Received(link.node, piece)).await;
        let taken = applied.wait_for(|applied| *applied >= last);
        if tokio::time::timeout(TAKEN_WITHIN, taken).await.is_err() {
            return Err(Failed::Silent("what it sent was not taken".to_owned()));
        }
    }
}

/// What a learner tells of what comes next.
pub(in crate::driver) struct Told {
    /// It, if there is anything, and its last slot.
    pub piece: Option<(Slot, Piece)>,
    /// The last slot that the learner knows to be chosen.
    pub committed: Slot,
    /// A checksum of the value before it at that learner, if it knows.
    previous: Option<u64>,
}

impl Told {
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
) -> Result<Told, String> {
    let told = piece_from(link, incoming, next, wait).await;
    told.map_err(|(Failed::Lacks(why) | Failed::Silent(why) | Failed::NoRoom(why))| why)
}

async fn piece_from(
    link: &Link,
    incoming: &Incoming,
    next: Slot,
    wait: Duration,
) -> Result<Told, Failed> {
    let path = format!("/entries?from={next}&waitMs={}", wait.as_millis());
    let answer = link.get(&path, wait + ENTRIES_WITHIN).await?;
    if answer.status() == StatusCode::GONE {
        let (slot, piece) = snapshot_from(link, incoming, next).await?;
        return Ok(Told {
            piece: Some((slot, piece)),
            committed: slot,
            previous: None,
        });
    }
    if answer.status() != StatusCode::OK {
        return Err(Failed::Silent(format!("it answered {}", answer.status())));
    }
    let silent = |why: &str| Failed::Silent(why.to_owned());
    let committed = number(answer.headers(), COMMITTED_HEADER);
    let committed = Slot(committed.ok_or_else(|| silent("it named no instance"))?);
    let previous = number(answer.headers(), PREVIOUS_HEADER);
    let entries = decode_entries(answer.into_body()).map_err(|error| silent(&error.to_string()))?;
    let mut expected = entries.iter().zip(next.0..);
    if !expected.all(|(entry, slot)| entry.slot.0 == slot) {
        return Err(silent("its entries are not those asked for"));
    }
    let last = entries.last().map(|entry| entry.slot);
    Ok(Told {
        piece: last.map(|last| (last, Piece::Entries(entries))),
        committed,
        previous,
    })
}

/// A node's state, if it goes as far as `next`.
async fn snapshot_from(
    link: &Link,
    incoming: &Incoming,
    next: Slot,
) -> Result<(Slot, Piece), Failed> {
    let (newest, ..) = ask(link, "/snapshot?offset=0").await?;
    if newest < next {
        let why = format!("its snapshot is of instance {newest} only");
        return Err(Failed::Lacks(why));
    }
    let slot = fetch_snapshot(link, incoming, newest).await?;
    Ok((slot, Piece::Snapshot(slot)))
}

async fn fetch_snapshot(link: &Link, incoming: &Incoming, slot: Slot) -> Result<Slot, Failed> {
    let snapshots = &incoming.snapshots;
    loop {
        let offset = snapshots.received(slot);
        let piece = format!("/snapshot?instance={slot}&offset={offset}");
        let (_, bytes, length) = ask(link, &piece).await?;
        if bytes.is_empty() {
            return match offset == length {
                true => Ok(slot),
                false => Err(Failed::Silent("it sent nothing of what is left".to_owned())),
            };
        }
        // All of it, before its first piece is written: half of one serves nobody, and this node's log
        // needs the room.
        let needed = length.saturating_mul(incoming.times) - offset.min(length);
        if !incoming.volume.has_room_for(needed) {
            let all = snapshots.discard_incoming();
            all.unwrap_or_else(|error| end_on_disk_error(&error));
            return Err(Failed::NoRoom(format!(
                "this node's volume has no room for the snapshot of {}, {needed} bytes: enlarge it, \
                 or see what else fills it",
                link.node
            )));
        }
        let (keeper, written) = (snapshots.clone(), bytes);
        let write = move || keeper.receive(slot, offset, &written);
        let received = tokio::task::spawn_blocking(write).await;
        let received = received.map_err(|error| Failed::Silent(error.to_string()))?;
        received.unwrap_or_else(|error| end_on_disk_error(&error));
    }
}

async fn ask(link: &Link, path: &str) -> Result<(Slot, Bytes, u64), Failed> {
    let answer = link.get(path, CHUNK_WITHIN).await?;
    let answered = || format!("it answered {}", answer.status());
    match answer.status() {
        StatusCode::OK => {}
        StatusCode::NOT_FOUND => return Err(Failed::Lacks(answered())),
        _ => return Err(Failed::Silent(answered())),
    }
    let silent = |why: &str| Failed::Silent(why.to_owned());
    let slot = number(answer.headers(), SLOT_HEADER);
    let slot = slot.ok_or_else(|| silent("it named no instance"))?;
    let length = number(answer.headers(), LENGTH_HEADER);
    let length = length.ok_or_else(|| silent("it named no length"))?;
    Ok((Slot(slot), answer.into_body(), length))
}

fn number(headers: &HeaderMap, name: &str) -> Option<u64> {
    headers.get(name)?.to_str().ok()?.parse().ok()
}
