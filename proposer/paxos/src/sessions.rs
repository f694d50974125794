//! The session table: what became of requests, so that one that is sent again has its effect once
//! (Ongaro, "Consensus", section 6.3).
//!
//! A request is remembered for the retry window, in log time ([`Stamp`]), whatever other clients do:
//! nothing but time pushes it out. The memory for it is bounded all the same, so a request for which
//! there is no room is not executed. One client may take `SHARE` times what it leaves free (Choudhury
//! and Hahne, "Dynamic Queue Length Thresholds", 1998): one that floods the table leaves a fifth of it
//! to the others, and two leave a ninth. What is forgotten leaves a trace with its client, which
//! distinguishes an old request from a new one (`clients.rs`).
//!
//! In a log without a stamp, as written by the first release, the last [`SESSIONS`] requests are
//! remembered and nothing else is.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use super::command::{Command, Operation};
use super::digest::Digest;
use super::ids::Slot;
use super::outcome::{Applied, Outcome, Resource};
use super::stamp::{STAMP_EVERY_MS, Stamp, Terms};

mod clients;
mod index;
mod queue;
mod request;
mod restore;

use clients::{Client, Clients, IN_FLIGHT, List, Rows, Sequenced};
use queue::{Entries, Queue};
pub use request::{Done, Session};
use request::{NO_CLIENT, REQUEST_BYTES};
pub use restore::{ClientRow, RequestRow, SequencedRow, TimeRow};

/// How many requests are remembered in a log without a stamp. Another number is another
/// [`FORMAT`](super::audit::FORMAT) of the audit.
pub const SESSIONS: usize = 1 << 17;
/// READs whose data is larger are remembered without it, and read again when they are sent again.
pub const READ_KEPT_BYTES: usize = 4096;

/// What is charged for a client, a client's window, and an outcome in it: a little more than they take.
const CLIENT_BYTES: u64 = 128;
const WINDOW_BYTES: u64 = 96;
const OUTCOME_BYTES: u64 = 96;
/// Requests, idle clients and outcomes that one request may clear away: more than it adds.
const CLEARED_AT_ONCE: usize = 2;
/// The same while there is more than the memory is for, as after its bound was lowered.
const CLEARED_AT_ONCE_OVER: usize = 64;
/// How many times what is free one client may take.
const SHARE: u64 = 4;
/// Idle clients may take one part in this many of the memory.
const IDLE_SHARE: u64 = 4;

/// Log time, and what the last leader to stamp it settled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Time {
    /// Milliseconds that leaders have stamped, in all.
    pub now_ms: u64,
    /// What holds since the last stamp.
    pub terms: Terms,
}

/// What the table says of a request.
#[derive(Debug)]
pub(crate) enum Known {
    /// It was executed before, or may have been: this is the answer.
    Answered(Applied),
    /// A READ that was executed before: it is read again, and not remembered again.
    ReadAgain,
    /// It was not executed before.
    New(Place),
    /// The same, and there is no room to remember it.
    NoRoom,
}

/// Where a new request will be remembered.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    key: u128,
    hash: u64,
    fingerprint: u64,
    client_key: u128,
    client: Option<u32>,
}

/// What changed since it was last taken, for code that keeps the table on disk by rows.
#[derive(Clone, Debug, Default)]
pub struct Journal {
    /// Requests and outcomes that are gone, by their slots.
    pub forgotten: Vec<Slot>,
    /// Clients that were added, changed or taken away.
    pub clients: BTreeSet<u128>,
}

/// Requests by their keys, and their clients.
#[derive(Clone, Debug, Default)]
pub struct Sessions {
    queue: Queue,
    /// How many of the first in the queue are of a log without a stamp.
    early: usize,
    /// From which number in the queue on requests are of which log time.
    marks: VecDeque<(u64, u64)>,
    clients: Clients,
    /// How many outcomes there are in all windows.
    sequenced: usize,
    /// `None` before the first stamp.
    time: Option<Time>,
    /// The sum of the digests of all parts.
    digest: u128,
    journal: Option<Box<Journal>>,
}

/// A copy that shares what has not changed since, to be written to disk.
#[derive(Clone, Debug)]
pub struct Copy {
    entries: Entries,
    early: usize,
    marks: VecDeque<(u64, u64)>,
    clients: Rows,
    clients_count: usize,
    sequenced: usize,
    time: Option<Time>,
}

impl Sessions {
    /// How many requests are remembered one by one.
    pub(crate) fn len(&self) -> usize {
        self.queue.entries().len() + self.sequenced
    }

    /// How many clients are known.
    pub(crate) fn clients(&self) -> usize {
        self.clients.len()
    }

    /// What all of it is charged.
    pub(crate) fn bytes(&self) -> u64 {
        self.active_bytes() + self.clients.idle_bytes()
    }

    /// The same without what can be forgotten at any time.
    fn active_bytes(&self) -> u64 {
        self.early as u64 * REQUEST_BYTES + self.clients.active_bytes()
    }

    /// Log time, once there is a stamp.
    pub fn time(&self) -> Option<Time> {
        self.time
    }

    /// Of what they are, not of how they came about.
    pub(crate) fn digest(&self) -> u128 {
        let Some(Time { now_ms, terms }) = self.time else {
            return self.digest;
        };
        let mut time = Digest::new(7);
        time.number(now_ms);
        time.number(terms.retry_window_ms.into());
        time.number(terms.retry_memory);
        time.number(terms.quota);
        self.digest.wrapping_add(time.finish())
    }

    /// A leader's stamp: time passes.
    pub(crate) fn pass(&mut self, stamp: &Stamp) {
        let now_ms = match self.time {
            Some(time) => time.now_ms.saturating_add(stamp.elapsed_ms.into()),
            None => {
                // All that there is counts from now on.
                self.marks.push_back((self.queue.entries().first(), 0));
                stamp.elapsed_ms.into()
            }
        };
        self.time = Some(Time {
            now_ms,
            terms: stamp.terms,
        });
    }

    /// Forgets some of what is old. Every request does so, that no single one has to do it all.
    pub(crate) fn clear(&mut self) {
        let Some(Time { now_ms, terms }) = self.time else {
            return;
        };
        let is_old = |at: u64| {
            // A request may be so much younger than the time at which it stands.
            let window = u64::from(terms.retry_window_ms) + STAMP_EVERY_MS;
            now_ms.saturating_sub(at) > window
        };
        let at_once = match self.bytes() > terms.retry_memory {
            true => CLEARED_AT_ONCE_OVER,
            false => CLEARED_AT_ONCE,
        };
        for _ in 0..at_once {
            let oldest = self
                .marks
                .front()
                .filter(|_| self.queue.entries().len() > 0);
            if !oldest.is_some_and(|(_, at)| is_old(*at)) {
                break;
            }
            self.forget_oldest();
        }
        for _ in 0..at_once {
            let Some(id) = self.clients.rows().first(List::Active) else {
                break;
            };
            let client = self.clients.at(id);
            if client.live > 0 || !is_old(client.used_at) {
                break;
            }
            self.rest(id);
        }
        for _ in 0..at_once {
            if self.clients.idle_bytes() <= terms.retry_memory / IDLE_SHARE {
                break;
            }
            self.forget_idle();
        }
    }

    /// Whether a request was executed before.
    pub(crate) fn find(&self, slot: Slot, command: &Command<'_>) -> Known {
        let key = command.key();
        let hash = self.queue.hash(key);
        let fingerprint = command.fingerprint();
        let answer = |outcome| Known::Answered(Applied { slot, outcome });
        let repeat =
            |known: u64, at: Slot, done: &Done| match (known == fingerprint, done.applied(at)) {
                (false, _) => answer(Outcome::Reused),
                (true, Some(applied)) => Known::Answered(applied),
                (true, None) => Known::ReadAgain,
            };
        let is_queued = command.sequence.is_none() || self.early > 0;
        if is_queued && let Some(session) = self.queue.get(hash, key) {
            return repeat(session.fingerprint, session.slot, &session.done);
        }
        let mut place = Place {
            key,
            hash,
            fingerprint,
            client_key: 0,
            client: None,
        };
        let Some(time) = self.time else {
            return Known::New(place);
        };
        place.client_key = command.client_key();
        place.client = self.clients.find(place.client_key);
        let client = place.client.map(|id| self.clients.at(id));
        if let Some(sequence) = command.sequence {
            let window = client.and_then(|client| client.window.as_ref());
            if let Some(window) = window {
                if sequence < window.from {
                    return answer(Outcome::OldSequence { from: window.from });
                }
                if let Some(known) = window.find(sequence) {
                    return repeat(known.fingerprint, known.slot, &known.done);
                }
            }
        } else if command.operation != Operation::Read
            && let Some(above) = client.and_then(|c| c.may_have_sent(key, command.timestamp))
        {
            return answer(Outcome::OldTimestamp { above });
        }
        match self.has_room(time, client, command) {
            true => Known::New(place),
            false => Known::NoRoom,
        }
    }

    /// What became of a request that is remembered.
    pub(crate) fn outcome(&self, command: &Command<'_>) -> Option<Applied> {
        let key = command.key();
        let session = self.queue.get(self.queue.hash(key), key);
        let (fingerprint, slot, done) = match (session, command.sequence) {
            (Some(session), _) => (session.fingerprint, session.slot, &session.done),
            (None, None) => return None,
            (None, Some(sequence)) => {
                let client = self.clients.find(command.client_key())?;
                let window = self.clients.at(client).window.as_ref()?;
                let known = window.find(sequence)?;
                (known.fingerprint, known.slot, &known.done)
            }
        };
        let applied = (fingerprint == command.fingerprint()).then(|| done.applied(slot));
        applied.flatten()
    }

    fn has_room(&self, time: Time, client: Option<&Client>, command: &Command<'_>) -> bool {
        let cost = match (command.sequence, client.and_then(|c| c.window.as_ref())) {
            (None, _) => REQUEST_BYTES,
            (Some(_), None) => WINDOW_BYTES + OUTCOME_BYTES,
            // The new one takes the place of the lowest.
            (Some(_), Some(window)) if window.outcomes.len() as u64 >= IN_FLIGHT => 0,
            (Some(_), Some(_)) => OUTCOME_BYTES,
        };
        self.has_bytes(time, client, cost)
    }

    /// Whether a client may take so much more. One that is new, or has been idle, counts whole.
    fn has_bytes(&self, time: Time, client: Option<&Client>, cost: u64) -> bool {
        let own = client.map_or(CLIENT_BYTES, |client| client.bytes);
        let is_counted = client.is_some_and(|client| client.list == List::Active);
        let needed = if is_counted { cost } else { own + cost };
        let free = time.terms.retry_memory.saturating_sub(self.active_bytes());
        needed == 0 || needed <= free && own + cost <= SHARE.saturating_mul(free)
    }

    /// What is kept of what a READ found.
    pub(crate) fn keep_read(&self, place: &Place, found: &Option<Resource>) -> Done {
        let Some(resource) = found else {
            return Done::Found(None);
        };
        let done = Done::Found(Some(Arc::new(resource.clone())));
        let client = place.client.map(|id| self.clients.at(id));
        let cost = REQUEST_BYTES.max(WINDOW_BYTES + OUTCOME_BYTES) + done.bytes();
        let fits = resource.data.len() <= READ_KEPT_BYTES
            && self
                .time
                .is_some_and(|time| self.has_bytes(time, client, cost));
        if fits { done } else { Done::FoundMuch }
    }

    /// Remembers a new request that was executed in this slot.
    pub(crate) fn remember(&mut self, slot: Slot, place: Place, command: &Command<'_>, done: Done) {
        let session = Session::new(place.key, place.fingerprint, slot, done);
        let Some(time) = self.time else {
            if self.queue.entries().len() == SESSIONS {
                self.forget_oldest();
            }
            return self.push(place.hash, session, 0, 0);
        };
        let id = place.client.unwrap_or_else(|| {
            let mut client = Client::new(place.client_key);
            client.bytes = CLIENT_BYTES;
            self.digest = self.digest.wrapping_add(client.digest());
            self.clients.add(client, List::Active)
        });
        let added = match command.sequence {
            Some(_) => 0,
            None => session.bytes(),
        };
        self.note_client(place.client_key);
        self.change_in(id, List::Active, |client| {
            (client.used, client.used_at) = (slot, time.now_ms);
            client.bytes += added;
            if command.sequence.is_none() {
                client.live += 1;
                if !session.done.is_read() {
                    client.saw(command.timestamp, time.terms.retry_window_ms.into());
                }
            }
        });
        match command.sequence {
            None => {
                let session = Session {
                    timestamp: command.timestamp,
                    client: id,
                    ..session
                };
                self.push(place.hash, session, place.client_key, time.now_ms);
            }
            Some(sequence) => {
                let outcome = Sequenced {
                    sequence,
                    fingerprint: place.fingerprint,
                    slot,
                    at: time.now_ms,
                    done: session.done,
                };
                self.add_outcome(id, outcome, time);
            }
        }
        while self.bytes() > time.terms.retry_memory && self.forget_idle() {}
    }

    fn push(&mut self, hash: u64, session: Session, client: u128, at: u64) {
        self.digest = self.digest.wrapping_add(session.digest(client, at));
        if self.time.is_some() && self.marks.back().is_none_or(|(_, last)| *last != at) {
            self.marks.push_back((self.queue.entries().next(), at));
            self.tidy_marks();
        }
        if session.client == NO_CLIENT {
            self.early += 1;
        }
        self.queue.push(hash, session);
    }

    /// The first mark is that of the first in the queue.
    fn tidy_marks(&mut self) {
        let first = self.queue.entries().first();
        while self
            .marks
            .get(1)
            .is_some_and(|(number, _)| *number <= first)
        {
            self.marks.pop_front();
        }
    }

    fn forget_oldest(&mut self) {
        let at = self.marks.front().map_or(0, |(_, at)| *at);
        let Some(gone) = self.queue.pop() else { return };
        self.tidy_marks();
        self.note_forgotten(gone.slot);
        if gone.client == NO_CLIENT {
            self.early -= 1;
            self.digest = self.digest.wrapping_sub(gone.digest(0, 0));
            return;
        }
        let key = self.clients.at(gone.client).key;
        self.digest = self.digest.wrapping_sub(gone.digest(key, at));
        self.note_client(key);
        self.change(gone.client, |client| {
            client.live -= 1;
            client.bytes -= gone.bytes();
            if !gone.done.is_read() {
                client.forget(gone.key(), gone.timestamp);
            }
        });
    }

    /// Adds an outcome to a client's window, and takes away what is too old or too far below it.
    fn add_outcome(&mut self, id: u32, outcome: Sequenced, time: Time) {
        let key = self.clients.at(id).key;
        let old = u64::from(time.terms.retry_window_ms) + STAMP_EVERY_MS;
        let mut sum = outcome.digest(key);
        let mut gone = Vec::new();
        self.change(id, |client| {
            if client.window.is_none() {
                client.bytes += WINDOW_BYTES;
            }
            client.bytes += OUTCOME_BYTES + outcome.done.bytes();
            let window = Arc::make_mut(client.window.get_or_insert_default());
            window.add(outcome);
            let highest = window.outcomes.back().map_or(0, |last| last.sequence);
            let least = (highest + 1).saturating_sub(IN_FLIGHT);
            while let Some(lowest) = window.outcomes.front()
                && (lowest.sequence < least || time.now_ms.saturating_sub(lowest.at) > old)
            {
                gone.extend(window.pop());
            }
            window.from = window.from.max(least);
            client.bytes -= gone.iter().map(outcome_bytes).sum::<u64>();
        });
        self.sequenced += 1;
        self.sequenced -= gone.len();
        for outcome in gone {
            sum = sum.wrapping_sub(outcome.digest(key));
            self.note_forgotten(outcome.slot);
        }
        self.digest = self.digest.wrapping_add(sum);
    }

    /// A client has been idle for so long that all its requests are forgotten. What tells its old
    /// requests from new ones stays, if anything does.
    fn rest(&mut self, id: u32) {
        let key = self.clients.at(id).key;
        self.note_client(key);
        let mut gone = VecDeque::new();
        self.change(id, |client| {
            if let Some(window) = &mut client.window {
                let window = Arc::make_mut(window);
                if let Some(last) = window.outcomes.back() {
                    window.from = window.from.max(last.sequence + 1);
                }
                gone = std::mem::take(&mut window.outcomes);
                client.bytes -= gone.iter().map(outcome_bytes).sum::<u64>();
            }
        });
        self.sequenced -= gone.len();
        for outcome in gone {
            self.digest = self.digest.wrapping_sub(outcome.digest(key));
            self.note_forgotten(outcome.slot);
        }
        let client = self.clients.at(id);
        match (&client.window, client.forgotten) {
            (Some(_), _) => self.change_in(id, List::IdleWithSequence, |_| {}),
            (None, Some(_)) => self.change_in(id, List::Idle, |_| {}),
            (None, None) => self.remove(id),
        }
    }

    /// Forgets the client that has been idle for longest; `false` if none is.
    fn forget_idle(&mut self) -> bool {
        let idle = [List::Idle, List::IdleWithSequence];
        let Some(id) = idle
            .into_iter()
            .find_map(|list| self.clients.rows().first(list))
        else {
            return false;
        };
        self.remove(id);
        true
    }

    fn remove(&mut self, id: u32) {
        let gone = self.clients.remove(id);
        self.digest = self.digest.wrapping_sub(gone.digest());
        self.note_client(gone.key);
    }

    /// Changes a client, which stays where it is.
    fn change(&mut self, id: u32, change: impl FnOnce(&mut Client)) {
        let (before, after) = self.clients.change(id, |client| {
            let before = client.digest();
            change(client);
            (before, client.digest())
        });
        self.digest = self.digest.wrapping_add(after).wrapping_sub(before);
    }

    /// Changes a client and moves it to the end of a list.
    fn change_in(&mut self, id: u32, list: List, change: impl FnOnce(&mut Client)) {
        let before = self.clients.at(id).digest();
        self.clients.move_to(id, list);
        let after = self.clients.change(id, |client| {
            change(client);
            client.digest()
        });
        self.digest = self.digest.wrapping_add(after).wrapping_sub(before);
    }

    fn note_client(&mut self, key: u128) {
        if let Some(journal) = &mut self.journal {
            journal.clients.insert(key);
        }
    }

    fn note_forgotten(&mut self, slot: Slot) {
        if let Some(journal) = &mut self.journal {
            journal.forgotten.push(slot);
        }
    }
}

fn outcome_bytes(outcome: &Sequenced) -> u64 {
    OUTCOME_BYTES + outcome.done.bytes()
}

impl PartialEq for Sessions {
    fn eq(&self, other: &Sessions) -> bool {
        let (mine, others) = (self.copy(), other.copy());
        self.time == other.time
            && self.early == other.early
            && mine.early().eq(others.early())
            && mine.clients().eq(others.clients())
            && mine.requests().eq(others.requests())
            && mine.sequenced().eq(others.sequenced())
    }
}

impl Eq for Sessions {}

#[cfg(test)]
mod tests;
