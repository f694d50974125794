use std::collections::BTreeMap;

use crate::command::{Command, Operation};
use crate::ids::Slot;
use crate::machine::Machine;
use crate::message::Value;
use crate::outcome::{Applied, Outcome};
use crate::sessions::{
    CLIENT_BYTES, IN_FLIGHT, READ_KEPT_BYTES, REQUEST_BYTES, SESSIONS, Session, Sessions,
};
use crate::snapshot::Reader;
use crate::stamp::{STAMP_EVERY_MS, Stamp, Terms};

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
const WINDOW_MS: u64 = 10_000;

/// A machine and the terms of its leader.
struct World {
    machine: Machine,
    terms: Terms,
    elapsed: u64,
}

impl World {
    fn new() -> World {
        World {
            machine: Machine::new(),
            terms: Terms {
                retry_window_ms: WINDOW_MS as u32,
                ..Terms::default()
            },
            elapsed: 0,
        }
    }

    fn with_memory(bytes: u64) -> World {
        let mut world = World::new();
        world.terms.retry_memory = bytes;
        world
    }

    fn value(&mut self, value: &Value) -> Applied {
        // The first of all begins the time; a later one has what passed before it.
        let value = match self.machine.applied() == Slot::ZERO || self.elapsed > 0 {
            true => Stamp::after(self.elapsed, self.terms).put_on(value),
            false => value.clone(),
        };
        self.elapsed = 0;
        self.machine
            .apply(self.machine.applied().next(), &value)
            .unwrap()
    }

    fn apply(&mut self, command: Command<'_>) -> Applied {
        self.value(&command.encode())
    }

    fn named(&mut self, client_id: &str, request_id: &str) -> Applied {
        self.apply(Command {
            client_id,
            request_id: Some(request_id),
            ..WRITE
        })
    }

    fn numbered(&mut self, client_id: &str, sequence: u64) -> Applied {
        self.apply(Command {
            client_id,
            sequence: Some(sequence),
            ..WRITE
        })
    }

    /// Time passes, in stamps as leaders make them.
    fn pass(&mut self, ms: u64) {
        for _ in 0..ms / 5000 {
            self.elapsed = 5000;
            self.value(&Value::NOOP);
        }
        self.elapsed = ms % 5000;
        self.value(&Value::NOOP);
    }

    /// Longer than anything is remembered, and then some requests of somebody else, each of which
    /// clears something away.
    fn outlast(&mut self) {
        self.pass(WINDOW_MS + STAMP_EVERY_MS + 1);
        for i in 0..50 {
            self.numbered("clearer", self.machine.applied().0 + i);
        }
    }

    fn restored(&self) -> Machine {
        let mut reader = Reader::default();
        let mut resources = crate::in_memory::InMemory::new();
        let mut parts = Vec::new();
        let Ok::<(), ()>(()) = self.machine.write_snapshot(|part| {
            parts.push(part);
            Ok(())
        }) else {
            unreachable!("nothing fails")
        };
        for part in parts {
            reader.part(part, &mut resources).unwrap();
        }
        Machine::from_parts(reader.finish().unwrap(), resources)
    }
}

fn at(applied: &Applied) -> u64 {
    assert!(
        matches!(applied.outcome, Outcome::Committed { .. }),
        "{applied:?}"
    );
    applied.slot.0
}

#[test]
fn a_flood_of_others_pushes_nothing_out() {
    let mut world = World::new();
    let first = world.named("alice", "once");
    for i in 0..SESSIONS as u64 + 10_000 {
        let sequence = (i % 2 == 0).then_some(i);
        world.apply(Command {
            client_id: "flood",
            timestamp: i,
            sequence,
            ..WRITE
        });
    }
    assert_eq!(world.named("alice", "once"), first);
    world.pass(WINDOW_MS);
    assert_eq!(world.named("alice", "once"), first);
}

#[test]
fn a_client_whose_timestamps_grow_is_told_that_an_old_request_may_be_one() {
    let mut world = World::new();
    let request = |timestamp| Command { timestamp, ..WRITE };
    world.apply(request(10));
    world.apply(request(20));
    world.outlast();
    for timestamp in [1, 10, 20] {
        let answer = world.apply(request(timestamp));
        assert_eq!(answer.outcome, Outcome::OldTimestamp { above: 20 });
    }
    let slot = world.machine.applied().0 + 1;
    assert_eq!(at(&world.apply(request(21))), slot);
    assert_eq!(world.machine.resource("colour").unwrap().timestamp, 21);
}

#[test]
fn timestamps_that_say_nothing_keep_nobody_out() {
    let mut world = World::new();
    // Always the same one.
    for id in ["a", "b"] {
        world.named("constant", id);
    }
    // A clock that goes back by more than the window.
    for timestamp in [100_000, 100_001, 5] {
        let answer = world.apply(Command { timestamp, ..WRITE });
        assert_eq!(at(&answer), world.machine.applied().0);
    }
    world.outlast();
    let again = world.named("constant", "a");
    assert_eq!(at(&again), world.machine.applied().0);
    let again = world.apply(Command {
        timestamp: 6,
        ..WRITE
    });
    assert_eq!(at(&again), world.machine.applied().0);
}

#[test]
fn a_request_that_came_alone_is_known_however_late_it_comes_again() {
    let mut world = World::new();
    world.named("once", "1");
    world.outlast();
    world.outlast();
    world.machine = world.restored();
    for _ in 0..2 {
        let again = world.named("once", "1").outcome;
        assert!(matches!(again, Outcome::OldTimestamp { .. }), "{again:?}");
    }
    let other = world.named("once", "2");
    assert_eq!(at(&other), world.machine.applied().0);
}

#[test]
fn sequences_are_exact_within_their_window_and_old_below_it() {
    let mut world = World::new();
    let first = world.numbered("alice", 7);
    assert_eq!(world.numbered("alice", 7), first);
    let other = world.apply(Command {
        sequence: Some(7),
        data: b"2",
        ..WRITE
    });
    assert_eq!(other.outcome, Outcome::Reused);
    let with_id = world.apply(Command {
        sequence: Some(7),
        request_id: Some("x"),
        ..WRITE
    });
    assert_eq!(with_id.outcome, Outcome::Reused);
    // One that was under way and comes late is new.
    let late = world.numbered("alice", 5);
    assert_eq!(at(&late), world.machine.applied().0);
    let highest = 7 + IN_FLIGHT;
    world.numbered("alice", highest);
    for old in [5, 6, 7] {
        let answer = world.numbered("alice", old);
        assert_eq!(answer.outcome, Outcome::OldSequence { from: 8 });
    }
    let gap = world.numbered("alice", 8);
    assert_eq!(at(&gap), world.machine.applied().0);
    world.outlast();
    for old in [8, 9, highest] {
        let answer = world.numbered("alice", old);
        assert_eq!(answer.outcome, Outcome::OldSequence { from: highest + 1 });
    }
    let next = world.numbered("alice", highest + 1);
    assert_eq!(at(&next), world.machine.applied().0);
}

#[test]
fn a_client_with_sequences_costs_the_same_however_much_it_writes() {
    let mut world = World::new();
    for sequence in 0..3 * IN_FLIGHT {
        world.numbered("alice", sequence);
    }
    assert_eq!(world.machine.session_count(), IN_FLIGHT as usize);
    let bytes = world.machine.ledger().session_bytes();
    for sequence in 3 * IN_FLIGHT..5 * IN_FLIGHT {
        world.numbered("alice", sequence);
    }
    assert_eq!(world.machine.ledger().session_bytes(), bytes);
}

#[test]
fn who_floods_the_memory_waits_and_the_others_do_not() {
    let memory = 2000 * REQUEST_BYTES;
    let mut world = World::with_memory(memory);
    let mut taken = 0;
    for i in 0..5000_u64 {
        match world.named("flood", &i.to_string()).outcome {
            Outcome::Committed { .. } => taken = i + 1,
            Outcome::Full => {}
            other => panic!("{other:?}"),
        }
    }
    assert!((1500..1700).contains(&taken), "four fifths: {taken}");
    let version = world.machine.resource("colour").unwrap().version;
    assert_eq!(version, taken, "what was refused had no effect");
    for i in 0..20_u64 {
        let other = world.named(&format!("other-{i}"), "1");
        assert_eq!(at(&other), world.machine.applied().0);
    }
    // What is remembered stays so, and what was refused is new later.
    assert_eq!(at(&world.named("flood", "0")), 1);
    world.outlast();
    let refused = world.named("flood", "4999");
    assert_eq!(at(&refused), world.machine.applied().0);
    assert!(world.machine.ledger().session_bytes() <= memory);
}

#[test]
fn no_load_makes_it_larger_than_its_memory() {
    let memory = 1000 * REQUEST_BYTES;
    let mut world = World::with_memory(memory);
    for round in 0..20_u64 {
        for i in 0..300_u64 {
            let client = format!("{round}-{i}");
            match i % 3 {
                0 => world.named(&client, "1"),
                1 => world.numbered(&client, i),
                _ => world.apply(Command {
                    client_id: &client,
                    operation: Operation::Read,
                    request_id: Some("r"),
                    ..WRITE
                }),
            };
            assert!(world.machine.ledger().session_bytes() <= memory);
        }
        world.pass(WINDOW_MS / 2);
    }
}

#[test]
fn idle_clients_give_way_before_new_work_waits() {
    let memory = 400 * CLIENT_BYTES;
    let mut world = World::with_memory(memory);
    world.numbered("numbered", 1);
    for i in 0..60 {
        for timestamp in [1, 2] {
            world.apply(Command {
                client_id: &format!("old-{i}"),
                timestamp,
                ..WRITE
            });
        }
    }
    world.outlast();
    world.outlast();
    let idle = world.machine.ledger().client_count();
    assert!(idle > 60, "{idle}");
    for i in 0..170_u64 {
        let answer = world.named(&format!("new-{i}"), "1");
        assert_eq!(at(&answer), world.machine.applied().0, "{i}");
    }
    let known = |world: &mut World, client_id: &str| {
        let answer = world.apply(Command {
            client_id,
            timestamp: 1,
            ..WRITE
        });
        matches!(answer.outcome, Outcome::OldTimestamp { .. })
    };
    assert!(!known(&mut world, "old-0"), "the longest idle goes first");
    let old = world.numbered("numbered", 1).outcome;
    assert_eq!(old, Outcome::OldSequence { from: 2 }, "it goes last");
}

#[test]
fn a_read_with_a_name_gets_its_first_answer_again_and_shares_names_with_writes() {
    let mut world = World::new();
    let read = Command {
        operation: Operation::Read,
        request_id: Some("r"),
        data: b"",
        ..WRITE
    };
    world.named("alice", "w");
    let first = world.apply(read);
    world.named("alice", "w2");
    assert_eq!(world.apply(read), first);
    let as_write = world.named("alice", "r");
    assert_eq!(as_write.outcome, Outcome::Reused);
    let as_read = world.apply(Command {
        request_id: Some("w"),
        ..read
    });
    assert_eq!(as_read.outcome, Outcome::Reused);
    // Without a name every one is a new one.
    let nameless = Command {
        request_id: None,
        ..read
    };
    let before = world.apply(nameless);
    world.named("alice", "w3");
    assert_ne!(world.apply(nameless).outcome, before.outcome);
}

#[test]
fn a_large_read_is_read_again() {
    let mut world = World::new();
    let data = vec![b'1'; READ_KEPT_BYTES + 1];
    world.apply(Command {
        data: &data,
        ..WRITE
    });
    let read = Command {
        operation: Operation::Read,
        request_id: Some("r"),
        data: b"",
        ..WRITE
    };
    world.apply(read);
    let bytes = world.machine.ledger().session_bytes();
    assert!(bytes < 1000, "its data is not kept: {bytes}");
    world.named("alice", "w");
    let Outcome::Read(Some(found)) = world.apply(read).outcome else {
        panic!("it is read")
    };
    assert_eq!(found.version, 2);
    assert_eq!(
        world.machine.ledger().session_bytes(),
        bytes + REQUEST_BYTES
    );
}

#[test]
fn what_a_log_without_stamps_remembers_counts_from_the_first_stamp_on() {
    let mut machine = Machine::new();
    let request = |i: u64| Command {
        timestamp: i,
        ..WRITE
    };
    let numbered = Command {
        sequence: Some(3),
        ..WRITE
    };
    let apply = |machine: &mut Machine, value: &Value| {
        machine.apply(machine.applied().next(), value).unwrap()
    };
    let first = apply(&mut machine, &request(1).encode());
    let third = apply(&mut machine, &numbered.encode());
    let terms = Terms {
        retry_window_ms: WINDOW_MS as u32,
        ..Terms::default()
    };
    apply(
        &mut machine,
        &Stamp::after(0, terms).put_on(&request(2).encode()),
    );
    assert_eq!(apply(&mut machine, &request(1).encode()), first);
    assert_eq!(apply(&mut machine, &numbered.encode()), third);
    for _ in 0..3 {
        let stamp = Stamp::after(5000, terms);
        apply(&mut machine, &stamp.put_on(&Value::NOOP));
    }
    for i in 3..6 {
        apply(&mut machine, &request(i).encode());
    }
    let again = apply(&mut machine, &request(1).encode());
    assert_eq!(again.slot, machine.applied(), "it is forgotten");
}

/// Digests are compared with those of the first release while leaders are of that release.
#[test]
fn the_digest_of_a_log_without_stamps_is_pinned() {
    let mut machine = Machine::new();
    for i in 1..=3_u64 {
        let command = Command {
            timestamp: i,
            if_version: (i == 3).then_some(9),
            ..WRITE
        };
        machine.apply(Slot(i), &command.encode()).unwrap();
    }
    assert_eq!(format!("{:032x}", machine.digest()), PINNED);
}

const PINNED: &str = "77d3fc8fc861705f06eede9d046dd402";

#[test]
fn a_log_without_stamps_forgets_the_oldest_by_count_alone() {
    let done = super::Done::Committed { version: 1 };
    let session = |slot: u64| Session::new(slot.into(), slot * 7, Slot(slot), done.clone());
    let mut long = Sessions::default();
    for slot in 0..SESSIONS as u64 + 10 {
        long.restore_early(session(slot)).unwrap();
    }
    let mut short = Sessions::default();
    for slot in 10..SESSIONS as u64 + 10 {
        assert_ne!(long.len(), short.len());
        short.restore_early(session(slot)).unwrap();
    }
    assert_eq!((&long, long.digest()), (&short, short.digest()));
}

#[test]
fn a_smaller_memory_is_soon_kept_to() {
    let mut world = World::with_memory(1 << 20);
    for i in 0..6000 {
        world.named("alice", &i.to_string());
    }
    let less = 100_000;
    world.terms.retry_memory = less;
    world.outlast();
    let mut tries = 0;
    while world.named("bob", "1").outcome == Outcome::Full {
        tries += 1;
    }
    assert!(tries < 100, "{tries} requests were refused");
    assert!(world.machine.ledger().session_bytes() <= less);
}

/// Numbers without rhyme, the same each time.
struct Chance(u64);

impl Chance {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (self.0 >> 33) % bound
    }
}

/// Against books kept the plain way: nothing takes effect twice that must not, whatever is restored
/// from a snapshot in between is the same, and both continue alike.
#[test]
fn random_clients_are_served_as_plain_books_say() {
    for seed in 0..30 {
        let mut chance = Chance(seed);
        let memory = [20_000, 60_000, 1 << 30][seed as usize % 3];
        let mut world = World::with_memory(memory);
        let (mut now, mut clock) = (0, 100);
        // By name of the request: where and when it was executed.
        let mut books: BTreeMap<(u64, u64), (Applied, u64)> = BTreeMap::new();
        let mut sent: Vec<(u64, u64, u64)> = Vec::new();
        let mut version = 0;
        for step in 0..3000_u64 {
            if chance.below(20) == 0 {
                let ms = chance.below(2000);
                (now, clock) = (now + ms, clock + ms);
                world.elapsed = ms;
            }
            let (client, number, timestamp) = match chance.below(3) {
                0 if !sent.is_empty() => sent[chance.below(sent.len() as u64) as usize],
                _ => {
                    let client = chance.below(6);
                    clock += 1;
                    (client, step, clock)
                }
            };
            sent.push((client, number, timestamp));
            let (name, id) = (format!("client-{client}"), number.to_string());
            let is_numbered = client % 2 == 0;
            let command = Command {
                client_id: &name,
                timestamp,
                sequence: is_numbered.then_some(number),
                request_id: (!is_numbered).then_some(&*id),
                ..WRITE
            };
            let applied = world.apply(command);
            let slot = world.machine.applied();
            let known = books.get(&(client, number));
            match (&applied.outcome, known) {
                (Outcome::Committed { .. }, Some((first, _))) if applied.slot != slot => {
                    assert_eq!(&applied, first);
                }
                (Outcome::Committed { .. }, Some((_, at))) => {
                    // Where memory is short, a client may have been forgotten whole.
                    let may_be = now - at > WINDOW_MS && !is_numbered && memory < 1 << 30;
                    assert!(may_be, "{name} {number} has a second effect");
                    version += 1;
                    books.insert((client, number), (applied.clone(), now));
                }
                (Outcome::Committed { version: new }, None) => {
                    version += 1;
                    assert_eq!((*new, applied.slot), (version, slot));
                    books.insert((client, number), (applied.clone(), now));
                }
                (Outcome::OldSequence { .. } | Outcome::OldTimestamp { .. }, Some((_, at))) => {
                    assert!(now - at > WINDOW_MS, "{name} {number} is remembered");
                }
                (Outcome::OldSequence { .. } | Outcome::OldTimestamp { .. }, None) => {
                    let older = sent.iter().any(|(c, n, _)| *c == client && *n != number);
                    assert!(older, "{name} {number} is its first");
                }
                (Outcome::Full, None) => assert!(memory < 1 << 30),
                (Outcome::Full, Some((_, at))) => assert!(now - at > WINDOW_MS),
                other => panic!("{other:?}"),
            }
            let found = world.machine.resource("colour").map_or(0, |r| r.version);
            assert_eq!(found, version);
            assert!(world.machine.ledger().session_bytes() <= memory);
            if step % 500 == 499 {
                let restored = world.restored();
                assert_eq!(restored, world.machine);
                assert_eq!(restored.digest(), world.machine.digest());
                assert_eq!(
                    restored.ledger().session_bytes(),
                    world.machine.ledger().session_bytes()
                );
                if chance.below(2) == 0 {
                    world.machine = restored;
                }
            }
        }
        assert!(books.len() > 100);
    }
}
