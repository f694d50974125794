//! The replicated state machine: what every learner computes from the same log.
//!
//! It holds the resources and, so that a retried request has its effect once, the outcome of each
//! recent request (the session table; Ongaro, "Consensus", section 6.3). Everything here follows
//! from the log alone: order, expiry and versions never depend on a clock or on hashing order.

use std::convert::Infallible;
use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;

use super::command::{Command, Operation, Undecodable};
use super::ids::Slot;
use super::in_memory::InMemory;
use super::message::Value;
use super::sessions::{Session, Sessions};

/// A resource as it stands.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Resource {
    /// JSON text.
    pub data: Bytes,
    /// 1 after the write that made it, one more with every committed write since.
    pub version: u64,
    /// The slot of the last write.
    pub slot: Slot,
    /// The client's `timestamp` of that write.
    pub timestamp: u64,
    /// The client of that write.
    pub client_id: Arc<str>,
}

/// What became of a slot's value.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Outcome {
    /// A no-op: nothing.
    Noop,
    /// It took effect; the resource has this version now.
    Committed {
        /// For DELETE the version that the removal would have had; 0 when there was nothing.
        version: u64,
    },
    /// `ifVersion` did not hold; the resource has this version.
    NotCommitted {
        /// 0 when there is no such resource.
        version: u64,
    },
    /// The `requestId` was used before with another body; nothing was done.
    Reused,
    /// What READ found.
    Read(Option<Resource>),
    /// A learner's answer, and in no log: it is applied, and what became of it is no longer known
    /// there.
    Untold,
    /// An answer, and in no log: READ is applied, and what it found did not fit the message. Learners
    /// are to be asked for it.
    Withheld,
}

/// What applying a slot gave.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Applied {
    /// The slot at which the request took effect: an earlier one for a retry.
    pub slot: Slot,
    /// What became of it there.
    pub outcome: Outcome,
}

impl Applied {
    /// Whether applying a value again gave what it gave before. What READ found is not kept.
    pub fn repeats(&self, before: &Applied) -> bool {
        let is_read = |applied: &Applied| matches!(applied.outcome, Outcome::Read(_));
        self == before || is_read(self) && is_read(before)
    }

    /// Without what READ found, as logs and memory keep it.
    pub fn bare(&self) -> Applied {
        let outcome = match &self.outcome {
            Outcome::Read(_) => Outcome::Read(None),
            other => other.clone(),
        };
        Applied { outcome, ..*self }
    }

    /// Bytes of it in a message, at most.
    pub fn size(&self) -> usize {
        const NUMBERS: usize = 41;
        match &self.outcome {
            Outcome::Read(Some(found)) => NUMBERS + found.client_id.len() + found.data.len(),
            _ => NUMBERS,
        }
    }
}

/// Where resources live: in memory at a learner, in a database at a store.
pub trait Resources {
    /// Why they cannot be had.
    type Error;
    /// The version of a resource; 0 when there is none.
    fn version(&self, name: &str) -> Result<u64, Self::Error>;
    /// The resource of that name.
    fn get(&self, name: &str) -> Result<Option<Resource>, Self::Error>;
    /// Sets it.
    fn put(&mut self, name: &str, resource: Resource) -> Result<(), Self::Error>;
    /// Removes it, if there is one.
    fn remove(&mut self, name: &str) -> Result<(), Self::Error>;
}

/// Why a value was not applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotApplied<E> {
    /// It says nothing that this version understands.
    Undecodable(Undecodable),
    /// The resources cannot be had. What they hold now is unknown.
    Resources(E),
}

/// All of the state but the resources: how far it goes, and the session table. Its size is bounded.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Ledger {
    applied: Slot,
    sessions: Sessions,
}

/// The whole state, in memory.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Machine {
    ledger: Ledger,
    resources: InMemory,
}

impl Ledger {
    /// An empty session table at a place in the log, to restore a state into.
    pub(crate) fn at(applied: Slot) -> Ledger {
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
        let command = Command::decode(value).map_err(NotApplied::Undecodable)?;
        self.applied = slot;
        let Some(command) = command else {
            return Ok(Applied {
                slot,
                outcome: Outcome::Noop,
            });
        };
        if command.operation == Operation::Read {
            let found = resources.get(command.resource);
            return Ok(Applied {
                slot,
                outcome: Outcome::Read(found.map_err(NotApplied::Resources)?),
            });
        }
        let key = command.key();
        if let Some(session) = self.sessions.get(key) {
            return Ok(match session.fingerprint == command.fingerprint() {
                true => session.applied(),
                false => Applied {
                    slot,
                    outcome: Outcome::Reused,
                },
            });
        }
        let (committed, version) =
            change(resources, slot, &command).map_err(NotApplied::Resources)?;
        let session = Session {
            fingerprint: command.fingerprint(),
            slot,
            committed,
            version,
        };
        let applied = session.applied();
        self.sessions.push(key, session);
        Ok(applied)
    }

    /// The last slot applied.
    pub fn applied(&self) -> Slot {
        self.applied
    }

    /// How many requests the session table holds.
    pub fn session_count(&self) -> usize {
        self.sessions.len()
    }

    /// What became of a request that was applied lately.
    pub fn outcome(&self, command: &Command<'_>) -> Option<Applied> {
        let session = self.sessions.get(command.key())?;
        (session.fingerprint == command.fingerprint()).then(|| session.applied())
    }

    /// The session table, oldest first; slots grow along it.
    pub(crate) fn sessions(&self) -> &Sessions {
        &self.sessions
    }

    /// Restores what is remembered of a request, the oldest first; `false` if it is there already.
    pub(crate) fn remember(&mut self, key: u128, session: Session) -> bool {
        let is_new = self.sessions.get(key).is_none();
        if is_new {
            self.sessions.push(key, session);
        }
        is_new
    }
}

/// Whether a request took effect, and the version to report.
fn change<R: Resources>(
    resources: &mut R,
    slot: Slot,
    command: &Command<'_>,
) -> Result<(bool, u64), R::Error> {
    let current = resources.version(command.resource)?;
    if command
        .if_version
        .is_some_and(|expected| expected != current)
    {
        return Ok((false, current));
    }
    if command.operation == Operation::Delete {
        resources.remove(command.resource)?;
        return Ok((true, if current > 0 { current + 1 } else { 0 }));
    }
    let version = current + 1;
    let resource = Resource {
        // A copy: a slice would keep the whole batch that it came with in memory.
        data: Bytes::copy_from_slice(command.data),
        version,
        slot,
        timestamp: command.timestamp,
        client_id: command.client_id.into(),
    };
    resources.put(command.resource, resource)?;
    Ok((true, version))
}

impl Machine {
    /// The state before the first slot.
    pub fn new() -> Machine {
        Machine::default()
    }

    pub(crate) fn from_parts(ledger: Ledger, resources: InMemory) -> Machine {
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

/// How much a page holds at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageLimits {
    /// Resources.
    pub count: usize,
    /// Bytes of names and data, one resource more or less.
    pub bytes: usize,
}

/// Resources one after the other, in the order of their names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// Everything up to this slot is in it, and nothing later.
    pub applied: Slot,
    /// The resources.
    pub resources: Vec<(Box<str>, Resource)>,
    /// Whether others follow.
    pub more: bool,
}

impl Page {
    /// Takes resources while their names have the prefix and there is room.
    pub fn fill<E>(
        applied: Slot,
        prefix: &str,
        limits: PageLimits,
        rows: impl Iterator<Item = Result<(Box<str>, Resource), E>>,
    ) -> Result<Page, E> {
        let mut page = Page {
            applied,
            resources: Vec::new(),
            more: false,
        };
        let mut left = limits.bytes;
        for row in rows {
            let (name, resource) = row?;
            if !name.starts_with(prefix) {
                break;
            }
            if page.resources.len() == limits.count || left == 0 {
                page.more = true;
                break;
            }
            left = left.saturating_sub(name.len() + resource.data.len());
            page.resources.push((name, resource));
        }
        Ok(page)
    }
}

/// Where names with this prefix begin, past `after`.
pub fn page_start<'a>(prefix: &'a str, after: Option<&'a str>) -> Bound<&'a str> {
    match after {
        Some(after) if after >= prefix => Bound::Excluded(after),
        _ => Bound::Included(prefix),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::paxos::sessions::SESSIONS;

    const WRITE: Command<'static> = Command {
        operation: Operation::Write,
        timestamp: 1,
        if_version: None,
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
            outcome: Outcome::NotCommitted { version },
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
