//! What requests do to the state: each its effect once, on its conditions, within the quota.

use std::collections::{BTreeMap, BTreeSet};

use paxos::codec::Entry;
use paxos::command::{Command, Operation};
use paxos::ids::Slot;
use paxos::machine::{Applied, Outcome};
use paxos::message::Value;
use paxos::sessions::READ_KEPT_BYTES;
use paxos::stamp::{STAMP_EVERY_MS, Terms};

/// A memory for requests in which all that is sent here has room.
const ENOUGH_MEMORY: u64 = 1 << 20;
/// So many sequences of a client may be under way; what is further below the highest is old.
const SEQUENCES: u64 = 4096;
/// What each resource counts beside its texts.
const RESOURCE_BYTES: u64 = 128;

/// The state as it must be, kept in the plain way.
#[derive(Debug)]
pub struct Effects {
    terms: Terms,
    /// Log time, once a stamp was applied.
    now: Option<u64>,
    /// What became of each request where it was last executed, and when.
    executed: BTreeMap<Value, (Applied, Option<u64>)>,
    /// READs that found more than is kept: each retry within the retry window reads again, whatever it finds.
    found_much: BTreeSet<Value>,
    /// The highest sequence that was executed or refused, by client.
    highest: BTreeMap<String, u64>,
    /// Version, last write and bytes, by name.
    resources: BTreeMap<String, (u64, Slot, u64)>,
}

impl Effects {
    /// Nothing has happened.
    pub fn new(terms: Terms) -> Effects {
        Effects {
            terms,
            now: None,
            executed: BTreeMap::new(),
            found_much: BTreeSet::new(),
            highest: BTreeMap::new(),
            resources: BTreeMap::new(),
        }
    }

    /// The next slot is applied for the first time.
    pub(super) fn applied(&mut self, entry: &Entry) {
        let (slot, applied) = (entry.slot, &entry.applied);
        let decoded = Command::decode_with_stamp(&entry.value);
        let (stamp, command) = decoded.expect("clients and leaders say what can be read");
        if let Some(stamp) = stamp {
            let elapsed = u64::from(stamp.elapsed_ms);
            self.now = Some(self.now.map_or(elapsed, |now| now + elapsed));
        }
        let Some(command) = command else {
            return assert_eq!(applied.outcome, Outcome::Noop);
        };
        let request = command.encode();
        let known = self.executed.get(&request);
        let age = known.map(|(_, at)| self.now.zip(*at).map_or(0, |(now, at)| now - at));
        let window = u64::from(self.terms.retry_window_ms);
        let is_recent = age.is_some_and(|age| age <= window);
        // A READ that is read again is remembered from the first time on, and perhaps longer: it is
        // forgotten when the next one comes. One with a sequence is never new again.
        let lasts = |age| command.sequence.is_some() || age <= window + STAMP_EVERY_MS;
        let first = known.map(|(_, at)| *at);
        let first = first.filter(|_| age.is_some_and(lasts));
        if applied.slot != slot {
            let (before, _) = known.expect("only what was executed is answered again");
            return assert_eq!(applied, before, "a retry gets the first outcome");
        }
        if let Some(sequence) = command.sequence {
            let highest = self.highest.entry(command.client_id.to_owned());
            let highest = highest.or_default();
            *highest = sequence.max(*highest);
        }
        match &applied.outcome {
            Outcome::Committed { .. } | Outcome::NotCommitted { .. } => {
                assert!(
                    !is_recent,
                    "{slot}: a request has its effect once within the retry window"
                );
                assert!(
                    known.is_none() || command.sequence.is_none(),
                    "{slot}: a request with a sequence never has a second effect"
                );
                self.change(slot, &command, &applied.outcome);
            }
            Outcome::Read(found) => {
                let has_name = command.request_id.is_some() || command.sequence.is_some();
                if !is_recent {
                    self.found_much.remove(&request);
                }
                let was_kept = known.is_some_and(|(_, at)| at.is_some())
                    && !self.found_much.contains(&request)
                    && self.terms.retry_memory >= ENOUGH_MEMORY;
                assert!(
                    !(has_name && is_recent && was_kept),
                    "{slot}: a read with a name gets its first answer"
                );
                if found
                    .as_ref()
                    .is_some_and(|found| found.data.len() > READ_KEPT_BYTES)
                {
                    self.found_much.insert(request.clone());
                }
                let current = self.resources.get(command.resource);
                let found = found.as_ref().map(|found| (found.version, found.slot));
                let expected = current.map(|(version, slot, _)| (*version, *slot));
                assert_eq!(found, expected, "{slot}: a read sees the state");
            }
            Outcome::OldSequence { .. } | Outcome::OldTimestamp { .. } => {
                let highest = self.highest.get(command.client_id).copied();
                let is_far_below =
                    command
                        .sequence
                        .zip(highest)
                        .is_some_and(|(sequence, highest)| {
                            highest - sequence.min(highest) >= SEQUENCES
                        });
                assert!(
                    !is_recent || is_far_below,
                    "{slot}: what is recent is remembered: {request:?} is {applied:?}, was {known:?}, at {:?}",
                    self.now
                );
                return;
            }
            Outcome::Full => {
                assert!(
                    !is_recent,
                    "{slot}: what is recent is remembered: {request:?} is full, was {known:?}, at {:?}",
                    self.now
                );
                let memory = self.terms.retry_memory;
                assert!(memory < ENOUGH_MEMORY, "{slot}: there is room");
                return;
            }
            Outcome::Quota { .. } => {
                assert!(
                    self.is_over_quota(&command),
                    "{slot}: the quota leaves room"
                );
                return;
            }
            Outcome::Noop | Outcome::Reused | Outcome::Untold | Outcome::Withheld => {
                panic!(
                    "{slot}: {:?} of a request with a name of its own",
                    applied.outcome
                )
            }
        }
        let at = match applied.outcome {
            Outcome::Read(_) => first.unwrap_or(self.now),
            _ => self.now,
        };
        self.executed.insert(request, (applied.clone(), at));
    }

    fn change(&mut self, slot: Slot, command: &Command<'_>, outcome: &Outcome) {
        let current = self.resources.get(command.resource).copied();
        let (version, last, _) = current.unwrap_or((0, Slot::ZERO, 0));
        let holds = command
            .if_version
            .is_none_or(|expected| expected == version)
            && command
                .if_instance
                .is_none_or(|expected| expected == last.0);
        let new = match (holds, command.operation, current) {
            (false, ..) => {
                let instance = self.now.map(|_| last);
                let expected = Outcome::NotCommitted { version, instance };
                return assert_eq!(outcome, &expected, "{slot}: a condition does not hold");
            }
            (true, Operation::Delete, None) => 0,
            (true, ..) => version + 1,
        };
        let expected = Outcome::Committed { version: new };
        assert_eq!(outcome, &expected, "{slot}: what was refused has no effect");
        assert!(!self.is_over_quota(command), "{slot}: the quota is kept");
        if command.operation == Operation::Delete {
            self.resources.remove(command.resource);
        } else {
            let row = (new, slot, bytes(command));
            self.resources.insert(command.resource.to_owned(), row);
        }
    }

    fn is_over_quota(&self, command: &Command<'_>) -> bool {
        let is_write = command.operation == Operation::Write;
        let before = self.resources.get(command.resource).map_or(0, |row| row.2);
        let all: u64 = self.resources.values().map(|row| row.2).sum();
        let grown = bytes(command);
        self.now.is_some() && is_write && grown > before && all - before + grown > self.terms.quota
    }
}

fn bytes(command: &Command<'_>) -> u64 {
    let texts = command.resource.len() + command.data.len() + command.client_id.len();
    RESOURCE_BYTES + texts as u64
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use bytes::Bytes;
    use paxos::machine::Resource;
    use paxos::stamp::Stamp;

    use super::*;

    const READ: Command<'static> = Command {
        operation: Operation::Read,
        timestamp: 1,
        if_version: None,
        if_instance: None,
        sequence: Some(1),
        client_id: "reader",
        request_id: None,
        resource: "blue",
        data: b"",
    };

    fn terms() -> Terms {
        Terms {
            retry_window_ms: 60_000,
            retry_memory: ENOUGH_MEMORY,
            quota: u64::MAX,
        }
    }

    fn entry(slot: u64, value: Value, outcome: Outcome) -> Entry {
        let slot = Slot(slot);
        let applied = Applied { slot, outcome };
        Entry {
            slot,
            value,
            applied,
        }
    }

    fn write(effects: &mut Effects, slot: u64, version: u64, data: &[u8]) {
        let write = Command {
            operation: Operation::Write,
            client_id: "writer",
            sequence: Some(slot),
            data,
            ..READ
        };
        effects.applied(&entry(slot, write.encode(), Outcome::Committed { version }));
    }

    fn read(effects: &mut Effects, slot: u64, at: u64, version: u64, bytes: usize) {
        let found = Resource {
            data: vec![b'1'; bytes].into(),
            version,
            slot: Slot(at),
            timestamp: 1,
            client_id: "writer".into(),
        };
        let outcome = Outcome::Read(Some(found));
        effects.applied(&entry(slot, READ.encode(), outcome));
    }

    fn with_time() -> Effects {
        let mut effects = Effects::new(terms());
        let noop = Stamp::after(1, terms()).put_on(&Value(Bytes::new()));
        effects.applied(&entry(1, noop, Outcome::Noop));
        effects
    }

    /// Simulator, seed 438901.
    #[test]
    fn a_read_that_found_too_much_may_read_again_at_each_retry() {
        let mut effects = with_time();
        write(&mut effects, 2, 1, &vec![b'1'; READ_KEPT_BYTES + 1]);
        read(&mut effects, 3, 2, 1, READ_KEPT_BYTES + 1);
        write(&mut effects, 4, 2, b"1");
        read(&mut effects, 5, 4, 2, 1);
        write(&mut effects, 6, 3, b"1");
        read(&mut effects, 7, 6, 3, 1);
    }

    #[test]
    fn a_read_that_found_little_may_not() {
        let mut effects = with_time();
        write(&mut effects, 2, 1, b"1");
        read(&mut effects, 3, 2, 1, 1);
        write(&mut effects, 4, 2, b"1");
        let again = AssertUnwindSafe(|| read(&mut effects, 5, 4, 2, 1));
        assert!(catch_unwind(again).is_err());
    }

    fn old_after(highest: u64) -> Effects {
        let mut effects = with_time();
        write(&mut effects, 2, 1, b"1");
        write(&mut effects, 3, 2, b"1");
        let far = Command {
            operation: Operation::Write,
            client_id: "writer",
            sequence: Some(highest),
            data: b"1",
            ..READ
        };
        effects.applied(&entry(4, far.encode(), Outcome::Committed { version: 3 }));
        let again = Command {
            sequence: Some(2),
            ..far
        };
        effects.applied(&entry(5, again.encode(), Outcome::OldSequence { from: 3 }));
        effects
    }

    #[test]
    fn a_sequence_far_below_the_highest_of_its_client_may_be_old_however_recent_it_is() {
        old_after(2 + SEQUENCES);
        let near = AssertUnwindSafe(|| old_after(1 + SEQUENCES));
        assert!(catch_unwind(near).is_err());
    }

    /// Simulator, seed 706682.
    #[test]
    fn a_read_that_is_read_again_is_remembered_from_the_first_time_on() {
        let mut effects = with_time();
        write(&mut effects, 2, 1, &vec![b'1'; READ_KEPT_BYTES + 1]);
        read(&mut effects, 3, 2, 1, READ_KEPT_BYTES + 1);
        // Seven stamps are 35 seconds of the window's 60.
        let later = |effects: &mut Effects, slots: std::ops::Range<u64>| {
            for slot in slots {
                let noop = Stamp::after(5_000, terms()).put_on(&Value(Bytes::new()));
                effects.applied(&entry(slot, noop, Outcome::Noop));
            }
        };
        later(&mut effects, 4..11);
        read(&mut effects, 11, 2, 1, READ_KEPT_BYTES + 1);
        later(&mut effects, 12..19);
        effects.applied(&entry(19, READ.encode(), Outcome::OldSequence { from: 2 }));
    }
}
