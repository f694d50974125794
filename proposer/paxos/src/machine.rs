//! The replicated state machine: what every learner computes from the same log.
//!
//! It holds the resources and, so that a retried request has its effect once, the outcome of each
//! recent request (the session table; Ongaro, "Consensus", section 6.3). Everything here follows
//! from the log alone: order, expiry and versions never depend on a clock or on hashing order.

use std::convert::Infallible;

use bytes::Bytes;

use super::command::{Command, Operation, Undecodable};
use super::ids::Slot;
use super::in_memory::InMemory;
use super::outcome::resource_bytes;
pub use super::outcome::{Applied, Current, Outcome, Resource};
pub use super::resources::{Page, PageLimits, Resources, page_start};
use super::sessions::{Done, Known, Place, Sessions};
use super::stamp::Terms;
use super::value::Value;

/// Why a value was not applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotApplied<E> {
    /// It says nothing that this version understands.
    Undecodable(Undecodable),
    /// The resources are not available. What they hold now is unknown.
    Resources(E),
}

/// All of the state but the resources: how far it goes, how much the resources take, and the session
/// table. Its size is bounded.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ledger {
    applied: Slot,
    state_bytes: u64,
    sessions: Sessions,
}

/// The whole state, in memory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Machine {
    ledger: Ledger,
    resources: InMemory,
}

impl Ledger {
    /// An empty session table at a place in the log, to restore a state into.
    pub fn at(applied: Slot) -> Ledger {
        Ledger {
            applied,
            ..Ledger::default()
        }
    }

    /// Applies the value of the next slot. An undecodable one changes nothing: this version must
    /// stop there, since others may understand it.
    ///
    /// # Panics
    /// When `slot` is not the next one: applying out of order would make replicas differ.
    pub fn apply<R: Resources>(
        &mut self,
        resources: &mut R,
        slot: Slot,
        value: &Value,
    ) -> Result<Applied, NotApplied<R::Error>> {
        assert_eq!(slot, self.applied.next(), "slots are applied in order");
        let decoded = Command::decode_with_stamp(value).map_err(NotApplied::Undecodable)?;
        self.applied = slot;
        if let Some(stamp) = decoded.0 {
            self.sessions.pass(&stamp);
        }
        let outcome = match decoded.1 {
            None => Outcome::Noop,
            Some(command) => {
                self.sessions.clear();
                let executed = self.execute(resources, slot, &command);
                return executed.map_err(NotApplied::Resources);
            }
        };
        Ok(Applied { slot, outcome })
    }

    /// Executes a request unless it was executed before.
    fn execute<R: Resources>(
        &mut self,
        resources: &mut R,
        slot: Slot,
        command: &Command<'_>,
    ) -> Result<Applied, R::Error> {
        let is_read = command.operation == Operation::Read;
        // One that has no name is read each time that it is sent; in a log without a stamp every one is.
        let has_name = command.request_id.is_some() || command.sequence.is_some();
        let is_remembered = !is_read || has_name && self.sessions.time().is_some();
        let applied = |outcome| Applied { slot, outcome };
        if !is_remembered {
            return Ok(applied(Outcome::Read(resources.get(command.resource)?)));
        }
        let place = match self.sessions.find(slot, command) {
            Known::Answered(before) => return Ok(before),
            Known::NoRoom => return Ok(applied(Outcome::Full)),
            Known::ReadAgain => {
                return Ok(applied(Outcome::Read(resources.get(command.resource)?)));
            }
            Known::New(place) => place,
        };
        if is_read {
            let found = resources.get(command.resource)?;
            let done = self.sessions.keep_read(&place, &found);
            self.sessions.remember(slot, place, command, done);
            return Ok(applied(Outcome::Read(found)));
        }
        self.write(resources, slot, command, place)
    }

    /// Writes or removes a resource, if its conditions hold and the quota leaves room.
    fn write<R: Resources>(
        &mut self,
        resources: &mut R,
        slot: Slot,
        command: &Command<'_>,
        place: Place,
    ) -> Result<Applied, R::Error> {
        let current = resources.current(command.resource)?;
        let (version, instance, bytes) =
            current.map_or((0, Slot::ZERO, 0), |c| (c.version, c.slot, c.bytes));
        let is_newer = command.if_version.is_some_and(|v| v != version);
        let is_another = command.if_instance.is_some_and(|i| i != instance.0);
        let time = self.sessions.time();
        let done = if is_newer || is_another {
            match time {
                Some(_) => Done::NotCommitted { version, instance },
                None => Done::NotCommittedEarly { version },
            }
        } else if command.operation == Operation::Delete {
            resources.remove(command.resource)?;
            self.state_bytes -= bytes;
            Done::Committed {
                version: if version > 0 { version + 1 } else { 0 },
            }
        } else {
            let lengths = (command.resource.len(), command.data.len());
            let grown = resource_bytes(lengths.0, lengths.1, command.client_id.len());
            let used = self.state_bytes;
            let limit = time.map_or(u64::MAX, |time| time.terms.quota);
            if grown > bytes && used - bytes + grown > limit {
                let outcome = Outcome::Quota { used, limit };
                return Ok(Applied { slot, outcome });
            }
            self.state_bytes = used - bytes + grown;
            let resource = Resource {
                // A copy: a slice would keep the whole batch that it came with in memory.
                data: Bytes::copy_from_slice(command.data),
                version: version + 1,
                slot,
                timestamp: command.timestamp,
                client_id: command.client_id.into(),
            };
            resources.put(command.resource, resource)?;
            Done::Committed {
                version: version + 1,
            }
        };
        let outcome = match done {
            Done::Committed { version } => Outcome::Committed { version },
            Done::NotCommitted { .. } => Outcome::NotCommitted {
                version,
                instance: Some(instance),
            },
            _ => Outcome::NotCommitted {
                version,
                instance: None,
            },
        };
        self.sessions.remember(slot, place, command, done);
        Ok(Applied { slot, outcome })
    }

    /// The last slot applied.
    pub fn applied(&self) -> Slot {
        self.applied
    }

    /// How many requests the session table holds.
    pub fn session_count(&self) -> usize {
        self.sessions.len()
    }

    /// How many clients it knows.
    pub fn client_count(&self) -> usize {
        self.sessions.clients()
    }

    /// What the session table is charged.
    pub fn session_bytes(&self) -> u64 {
        self.sessions.bytes()
    }

    /// What names and data of all resources take, as the quota counts it.
    pub fn state_bytes(&self) -> u64 {
        self.state_bytes
    }

    /// What the last leader to stamp the log settled; `None` in a log without a stamp.
    pub fn terms(&self) -> Option<Terms> {
        self.sessions.time().map(|time| time.terms)
    }

    /// Log time, in milliseconds since the first stamp.
    pub fn time_ms(&self) -> u64 {
        self.sessions.time().map_or(0, |time| time.now_ms)
    }

    /// What became of a request that was applied lately.
    pub fn outcome(&self, command: &Command<'_>) -> Option<Applied> {
        self.sessions.outcome(command)
    }

    /// What is remembered of clients and their requests.
    pub fn sessions(&self) -> &Sessions {
        &self.sessions
    }

    /// The same, for code that restores it from disk.
    pub fn sessions_mut(&mut self) -> &mut Sessions {
        &mut self.sessions
    }

    /// Counts a resource that is restored.
    pub fn restored(&mut self, bytes: u64) {
        self.state_bytes += bytes;
    }
}

impl Machine {
    /// The state before the first slot.
    pub fn new() -> Machine {
        Machine::default()
    }

    /// A copy that shares what has not changed since, to be written to disk.
    pub fn freeze(&self) -> Frozen {
        Frozen {
            applied: self.applied(),
            resources: self.resources.clone(),
            sessions: self.ledger.sessions.copy(),
        }
    }

    /// Put together again from disk.
    pub fn from_parts(ledger: Ledger, resources: InMemory) -> Machine {
        Machine { ledger, resources }
    }

    /// [`Ledger::apply`] on the resources in memory.
    pub fn apply(&mut self, slot: Slot, value: &Value) -> Result<Applied, Undecodable> {
        let applied = self.ledger.apply(&mut self.resources, slot, value);
        applied.map_err(|error| match error {
            NotApplied::Undecodable(undecodable) => undecodable,
            NotApplied::Resources(never) => match never {},
        })
    }

    /// All but the resources.
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// The last slot applied.
    pub fn applied(&self) -> Slot {
        self.ledger.applied()
    }

    /// A digest of the state: of what it is, not of how it came about. Where two are equal the states
    /// are, but for accidents.
    pub fn digest(&self) -> u128 {
        self.ledger
            .sessions
            .digest()
            .wrapping_add(self.resources.digest())
    }

    /// A resource by name.
    pub fn resource(&self, name: &str) -> Option<Resource> {
        self.resources.find(name)
    }

    /// All resources in the order of their names.
    pub fn resources(&self) -> impl Iterator<Item = (&str, Resource)> {
        self.resources.iter()
    }

    /// A page of resources, from the first one with this prefix after `after` on.
    pub fn page(&self, prefix: &str, after: Option<&str>, limits: PageLimits) -> Page {
        let rows = self.resources.from(page_start(prefix, after));
        let rows = rows.map(|(name, resource)| Ok((name.into(), resource)));
        let page: Result<Page, Infallible> = Page::fill(self.applied(), prefix, limits, rows);
        match page {
            Ok(page) => page,
            Err(never) => match never {},
        }
    }

    /// How many resources there are.
    pub fn resource_count(&self) -> usize {
        self.resources.len()
    }

    /// How many requests the session table holds.
    pub fn session_count(&self) -> usize {
        self.ledger.session_count()
    }

    /// What became of a request that was applied lately.
    pub fn outcome(&self, command: &Command<'_>) -> Option<Applied> {
        self.ledger.outcome(command)
    }
}

/// A state that no longer changes, and only can be written to disk.
#[derive(Clone, Debug)]
pub struct Frozen {
    pub(super) applied: Slot,
    pub(super) resources: InMemory,
    pub(super) sessions: super::sessions::Copy,
}

impl Frozen {
    /// The last slot applied.
    pub fn applied(&self) -> Slot {
        self.applied
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sessions::SESSIONS;

    const WRITE: Command<'static> = Command {
        operation: Operation::Write,
        timestamp: 1,
        if_version: None,
        if_instance: None,
        sequence: None,
        client_id: "alice",
        request_id: None,
        resource: "colour",
        data: b"1",
    };

    fn apply(machine: &mut Machine, command: Command<'_>) -> Applied {
        machine
            .apply(machine.applied().next(), &command.encode())
            .unwrap()
    }

    fn committed(slot: u64, version: u64) -> Applied {
        Applied {
            slot: Slot(slot),
            outcome: Outcome::Committed { version },
        }
    }

    #[test]
    fn versions_grow_by_one_and_start_anew_after_a_delete() {
        let mut machine = Machine::new();
        let write = |timestamp| Command { timestamp, ..WRITE };
        assert_eq!(apply(&mut machine, write(1)), committed(1, 1));
        assert_eq!(apply(&mut machine, write(2)), committed(2, 2));
        let delete = Command {
            operation: Operation::Delete,
            data: b"",
            timestamp: 3,
            ..WRITE
        };
        assert_eq!(apply(&mut machine, delete), committed(3, 3));
        assert_eq!(machine.resource("colour"), None);
        assert_eq!(
            apply(
                &mut machine,
                Command {
                    timestamp: 4,
                    ..delete
                }
            ),
            committed(4, 0)
        );
        assert_eq!(apply(&mut machine, write(5)), committed(5, 1));
    }

    #[test]
    fn if_version_compares_and_sets() {
        let mut machine = Machine::new();
        let cas = |timestamp, version| Command {
            timestamp,
            if_version: Some(version),
            ..WRITE
        };
        let refused = |slot, version| Applied {
            slot: Slot(slot),
            outcome: Outcome::NotCommitted {
                version,
                instance: None,
            },
        };
        assert_eq!(apply(&mut machine, cas(1, 1)), refused(1, 0));
        assert_eq!(apply(&mut machine, cas(2, 0)), committed(2, 1));
        assert_eq!(apply(&mut machine, cas(3, 0)), refused(3, 1));
        assert_eq!(apply(&mut machine, cas(4, 1)), committed(4, 2));
        // The retry of a refused request is refused again, though it would succeed now.
        assert_eq!(apply(&mut machine, cas(1, 1)), refused(1, 0));
    }

    #[test]
    fn a_retry_gets_the_first_outcome_and_has_no_second_effect() {
        let mut machine = Machine::new();
        let first = Command {
            request_id: Some("a"),
            ..WRITE
        };
        assert_eq!(apply(&mut machine, first), committed(1, 1));
        assert_eq!(
            apply(
                &mut machine,
                Command {
                    data: b"2",
                    timestamp: 2,
                    ..WRITE
                }
            ),
            committed(2, 2)
        );
        assert_eq!(apply(&mut machine, first), committed(1, 1));
        assert_eq!(machine.resource("colour").unwrap().data, "2");
        let reused = apply(
            &mut machine,
            Command {
                data: b"3",
                ..first
            },
        );
        assert_eq!(
            reused,
            Applied {
                slot: Slot(4),
                outcome: Outcome::Reused
            }
        );
        assert_eq!(machine.resource("colour").unwrap().data, "2");
        assert_eq!(machine.outcome(&first), Some(committed(1, 1)));
    }

    #[test]
    fn the_session_table_forgets_by_log_order_alone() {
        let mut machine = Machine::new();
        let request = |timestamp| Command { timestamp, ..WRITE };
        for timestamp in 0..=SESSIONS as u64 {
            apply(&mut machine, request(timestamp));
        }
        assert_eq!(machine.session_count(), SESSIONS);
        assert_eq!(machine.outcome(&request(0)), None);
        assert_eq!(machine.outcome(&request(1)), Some(committed(2, 2)));
    }

    #[test]
    fn the_digest_is_the_states_and_not_its_historys() {
        let write = |resource, timestamp| Command {
            timestamp,
            resource,
            ..WRITE
        };
        let (mut one, mut other) = (InMemory::new(), InMemory::new());
        let resource = |data: &'static [u8]| Resource {
            data: data.into(),
            version: 1,
            slot: Slot(1),
            timestamp: 1,
            client_id: "alice".into(),
        };
        let Ok(()) = one.put("a", resource(b"1"));
        let Ok(()) = one.put("b", resource(b"2"));
        assert_ne!(one.digest(), other.digest());
        let Ok(()) = other.put("b", resource(b"3"));
        let Ok(()) = other.put("c", resource(b"3"));
        let Ok(()) = other.put("b", resource(b"2"));
        let Ok(()) = other.put("a", resource(b"1"));
        assert_ne!(one.digest(), other.digest());
        let Ok(()) = other.remove("c");
        assert_eq!((&one, one.digest()), (&other, other.digest()));

        let mut machine = Machine::new();
        apply(&mut machine, write("a", 1));
        let before = machine.digest();
        apply(&mut machine, write("a", 2));
        assert_ne!(machine.digest(), before);
    }

    #[test]
    fn reads_see_what_stands_before_them_in_the_log() {
        let mut machine = Machine::new();
        let read = Command {
            operation: Operation::Read,
            data: b"",
            ..WRITE
        };
        assert_eq!(apply(&mut machine, read).outcome, Outcome::Read(None));
        apply(&mut machine, WRITE);
        let Outcome::Read(Some(found)) = apply(&mut machine, read).outcome else {
            panic!()
        };
        assert_eq!((found.version, found.slot), (1, Slot(2)));
    }

    #[test]
    fn resources_are_listed_by_prefix_and_page() {
        let mut machine = Machine::new();
        for (timestamp, resource) in ["a/1", "a/2", "b/1", "a/3"].into_iter().enumerate() {
            apply(
                &mut machine,
                Command {
                    timestamp: timestamp as u64,
                    resource,
                    ..WRITE
                },
            );
        }
        let limits = PageLimits {
            count: 3,
            bytes: 1000,
        };
        let names = |prefix, after| -> Vec<String> {
            let page = machine.page(prefix, after, limits);
            let names = page.resources.into_iter().map(|(name, _)| name.into());
            names.collect()
        };
        assert_eq!(names("", None), ["a/1", "a/2", "a/3"]);
        assert!(machine.page("", None, limits).more);
        assert_eq!(names("", Some("a/2")), ["a/3", "b/1"]);
        assert!(!machine.page("", Some("a/2"), limits).more);
        assert!(!machine.page("a/", None, limits).more);
        assert_eq!(names("a/", Some("a/1")), ["a/2", "a/3"]);
        assert_eq!(names("b", Some("a/1")), ["b/1"]);
        assert_eq!(names("c", None), [""; 0]);
        let small = PageLimits { bytes: 5, ..limits };
        assert_eq!(machine.page("", None, small).resources.len(), 2);
    }
}
