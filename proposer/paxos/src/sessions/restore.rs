//! The table by rows, as it lies on disk: written from a copy, and put together again.

use std::sync::Arc;

use super::clients::{Client, List, Sequenced, Window};
use super::{
    CLIENT_BYTES, Copy, Done, Journal, NO_CLIENT, SESSIONS, Session, Sessions, Time, WINDOW_BYTES,
    outcome_bytes,
};
use crate::ids::Slot;

/// Log time.
pub type TimeRow = Time;

/// A client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientRow {
    /// A hash of its id.
    pub key: u128,
    /// Where its last request was executed.
    pub used: Slot,
    /// When, in log time.
    pub used_at: u64,
    /// The highest timestamp among its forgotten requests.
    pub forgotten: Option<u64>,
    /// The one of them that was executed last, by a part of its key; 0 without one.
    pub last: u64,
    /// The highest timestamp of all, if it has sent any request without a sequence.
    pub highest: Option<u64>,
    /// Whether its timestamps have been seen to grow.
    pub grows: bool,
    /// Whether a request that was certainly new had a timestamp far below another one's.
    pub erratic: bool,
    /// Whether all its requests are forgotten.
    pub is_idle: bool,
    /// Below which sequence everything may have been executed.
    pub from: Option<u64>,
}

/// A request in the queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestRow {
    /// A hash of what names it.
    pub key: u128,
    /// What tells another body under the same name.
    pub fingerprint: u64,
    /// Where it was executed.
    pub slot: Slot,
    /// The client's timestamp.
    pub timestamp: u64,
    /// When it was executed, in log time.
    pub at: u64,
    /// Its client's key.
    pub client: u128,
    /// What became of it.
    pub done: Done,
}

/// An outcome in a client's window.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SequencedRow {
    /// Its client's key.
    pub client: u128,
    /// Its place in the client's order.
    pub sequence: u64,
    /// What tells another body under the same sequence.
    pub fingerprint: u64,
    /// Where it was executed.
    pub slot: Slot,
    /// When, in log time.
    pub at: u64,
    /// What became of it.
    pub done: Done,
}

impl ClientRow {
    fn of(client: &Client) -> ClientRow {
        ClientRow {
            key: client.key,
            used: client.used,
            used_at: client.used_at,
            forgotten: client.forgotten,
            last: client.last,
            highest: client.highest,
            grows: client.grows,
            erratic: client.erratic,
            is_idle: client.list != List::Active,
            from: client.window.as_ref().map(|window| window.from),
        }
    }

    fn list(&self) -> List {
        match (self.is_idle, self.from) {
            (false, _) => List::Active,
            (true, None) => List::Idle,
            (true, Some(_)) => List::IdleWithSequence,
        }
    }
}

impl Copy {
    /// Log time, once there is a stamp.
    pub fn time(&self) -> Option<Time> {
        self.time
    }

    /// How many clients, requests with a client, and outcomes in windows.
    pub fn counts(&self) -> [u64; 3] {
        let requests = self.entries.len() - self.early;
        [self.clients_count, requests, self.sequenced].map(|count| count as u64)
    }

    /// How many of [`Copy::early`].
    pub fn early_count(&self) -> usize {
        self.early
    }

    /// Requests of a log without a stamp, oldest first.
    pub fn early(&self) -> impl Iterator<Item = &Session> {
        self.entries.iter_from(0).take(self.early)
    }

    /// The others, oldest first.
    pub fn requests(&self) -> impl Iterator<Item = RequestRow> {
        self.requests_from(0)
    }

    fn requests_from(&self, place: u64) -> impl Iterator<Item = RequestRow> {
        let first = self.entries.first() + place;
        let mut marks = self.marks.iter().peekable();
        let mut at = 0;
        let numbered = (first..).zip(self.entries.iter_from(place));
        numbered.filter_map(move |(number, session)| {
            while let Some((_, passed)) = marks.next_if(|(from, _)| *from <= number) {
                at = *passed;
            }
            (session.client != NO_CLIENT).then(|| RequestRow {
                key: session.key(),
                fingerprint: session.fingerprint,
                slot: session.slot,
                timestamp: session.timestamp,
                at,
                client: self.clients.at(session.client).key,
                done: session.done.clone(),
            })
        })
    }

    /// In each list those that are idle for longest first.
    pub fn clients(&self) -> impl Iterator<Item = ClientRow> {
        let all = List::ALL.into_iter();
        all.flat_map(|list| self.clients.iter(list).map(ClientRow::of))
    }

    /// The outcomes of each client in the order of their sequences.
    pub fn sequenced(&self) -> impl Iterator<Item = SequencedRow> {
        let all = List::ALL.into_iter();
        let clients = all.flat_map(|list| self.clients.iter(list));
        clients.flat_map(|client| {
            let outcomes = client.window.iter().flat_map(|window| &window.outcomes);
            outcomes.map(|outcome| row(client.key, outcome))
        })
    }
}

fn row(client: u128, outcome: &Sequenced) -> SequencedRow {
    SequencedRow {
        client,
        sequence: outcome.sequence,
        fingerprint: outcome.fingerprint,
        slot: outcome.slot,
        at: outcome.at,
        done: outcome.done.clone(),
    }
}

/// Why a row cannot be.
type Misplaced = &'static str;

impl Sessions {
    /// A copy to be written.
    pub fn copy(&self) -> Copy {
        Copy {
            entries: self.queue.entries().clone(),
            early: self.early,
            marks: self.marks.clone(),
            clients: self.clients.rows().clone(),
            clients_count: self.clients.len(),
            sequenced: self.sequenced,
            time: self.time,
        }
    }

    /// Restores a request of a log without a stamp, the oldest first.
    pub fn restore_early(&mut self, session: Session) -> Result<(), Misplaced> {
        let hash = self.queue.hash(session.key());
        if self.queue.get(hash, session.key()).is_some() {
            return Err("a request is there twice");
        }
        if self.time.is_none() && self.queue.entries().len() == SESSIONS {
            self.forget_oldest();
        }
        self.push(hash, session, 0, 0);
        Ok(())
    }

    /// Restores log time, before whatever has one.
    pub fn restore_time(&mut self, time: TimeRow) {
        self.time = Some(time);
    }

    /// Restores a client, before its requests; of those that are idle, and of the others, in the order
    /// in which they were used.
    pub fn restore_client(&mut self, row: ClientRow) -> Result<(), Misplaced> {
        if self.time.is_none() || self.clients.find(row.key).is_some() {
            return Err("a client is there twice, or without a time");
        }
        let mut client = Client::new(row.key);
        client.used = row.used;
        client.used_at = row.used_at;
        client.forgotten = row.forgotten;
        client.last = row.last;
        client.highest = row.highest;
        client.grows = row.grows;
        client.erratic = row.erratic;
        client.bytes = CLIENT_BYTES;
        client.window = row.from.map(|from| {
            client.bytes += WINDOW_BYTES;
            Arc::new(Window::starting_at(from))
        });
        client.list = row.list();
        self.digest = self.digest.wrapping_add(client.digest());
        self.clients.add(client, row.list());
        Ok(())
    }

    /// Restores a request, the oldest first.
    pub fn restore_request(&mut self, row: RequestRow) -> Result<(), Misplaced> {
        let hash = self.queue.hash(row.key);
        if self.queue.get(hash, row.key).is_some() {
            return Err("a request is there twice");
        }
        let id = self.clients.find(row.client).ok_or(NO_SUCH_CLIENT)?;
        let session = Session {
            timestamp: row.timestamp,
            client: id,
            ..Session::new(row.key, row.fingerprint, row.slot, row.done)
        };
        self.change(id, |client| {
            client.live += 1;
            client.bytes += session.bytes();
        });
        self.push(hash, session, row.client, row.at);
        Ok(())
    }

    /// Restores an outcome of a client's window.
    pub fn restore_sequenced(&mut self, row: SequencedRow) -> Result<(), Misplaced> {
        let id = self.clients.find(row.client).ok_or(NO_SUCH_CLIENT)?;
        let window = self.clients.at(id).window.as_ref();
        if window.is_none_or(|window| window.find(row.sequence).is_some()) {
            return Err("an outcome is there twice, or in no window");
        }
        let outcome = Sequenced {
            sequence: row.sequence,
            fingerprint: row.fingerprint,
            slot: row.slot,
            at: row.at,
            done: row.done,
        };
        self.digest = self.digest.wrapping_add(outcome.digest(row.client));
        self.sequenced += 1;
        self.change(id, |client| {
            client.bytes += outcome_bytes(&outcome);
            if let Some(window) = &mut client.window {
                Arc::make_mut(window).add(outcome);
            }
        });
        Ok(())
    }

    // --- for code that keeps the rows one by one ---

    /// From now on changes are noted.
    pub fn keep_journal(&mut self) {
        self.journal = Some(Box::default());
    }

    /// What has changed since the last time; everything that is gone.
    pub fn take_journal(&mut self) -> Journal {
        self.journal
            .as_deref_mut()
            .map(std::mem::take)
            .unwrap_or_default()
    }

    /// A client as it stands.
    pub fn client(&self, key: u128) -> Option<ClientRow> {
        let id = self.clients.find(key)?;
        Some(ClientRow::of(self.clients.at(id)))
    }

    /// The outcomes of a client from slots after this one.
    pub fn sequenced_since(&self, client: u128, since: Slot) -> Vec<SequencedRow> {
        let Some(id) = self.clients.find(client) else {
            return Vec::new();
        };
        let window = self.clients.at(id).window.iter();
        let outcomes = window.flat_map(|window| &window.outcomes);
        let new = outcomes.filter(|outcome| outcome.slot > since);
        new.map(|outcome| row(client, outcome)).collect()
    }

    /// Requests from slots after this one, of a log without a stamp and others.
    pub fn since(&self, slot: Slot) -> (Vec<Session>, Vec<RequestRow>) {
        let entries = self.queue.entries();
        let new = entries.iter_from(0).rev();
        let new = new.take_while(|session| session.slot > slot).count();
        let copy = self.copy();
        let first = entries.len() - new;
        let early = entries.iter_from(first as u64);
        let early = early.filter(|session| session.client == NO_CLIENT).cloned();
        (early.collect(), copy.requests_from(first as u64).collect())
    }
}

const NO_SUCH_CLIENT: Misplaced = "a request of a client that is not there";
