use super::*;
use crate::command::Operation;
use crate::message::Value;

const BOUNDS: Bounds = Bounds {
    entries: 100,
    bytes: 10_000,
    found_bytes: 3_000,
};

/// A machine, and what it remembers.
struct World {
    machine: Machine,
    recent: Recent,
    log: Vec<Entry>,
    /// What each READ found when it was applied.
    found: Vec<Applied>,
}

fn world(bounds: Bounds) -> World {
    World {
        machine: Machine::new(),
        recent: Recent::new(bounds),
        log: Vec::new(),
        found: Vec::new(),
    }
}

fn command<'a>(operation: Operation, resource: &'a str, data: &'a [u8]) -> Command<'a> {
    Command {
        operation,
        timestamp: 0,
        if_version: None,
        if_instance: None,
        sequence: None,
        client_id: "c",
        request_id: None,
        resource,
        data,
    }
}

impl World {
    fn apply(&mut self, command: Command<'_>) -> Slot {
        let slot = self.machine.applied().next();
        let timestamp = slot.0;
        self.apply_value(
            slot,
            Command {
                timestamp,
                ..command
            }
            .encode(),
        )
    }

    fn apply_value(&mut self, slot: Slot, value: Value) -> Slot {
        let applied = self.machine.apply(slot, &value).unwrap();
        let entry = Entry {
            slot,
            value,
            applied: applied.clone(),
        };
        self.recent.push(entry.clone());
        self.log.push(Entry {
            applied: applied.bare(),
            ..entry
        });
        self.found.push(applied);
        slot
    }

    fn write(&mut self, resource: &str, bytes: usize) -> Slot {
        self.apply(command(Operation::Write, resource, &vec![b'1'; bytes]))
    }

    fn read(&mut self, resource: &str) -> Slot {
        self.apply(command(Operation::Read, resource, b""))
    }

    /// What is reported of a slot, as the log has its entry.
    fn told(&self, slot: Slot) -> Applied {
        let entry = &self.log[slot.0 as usize - 1];
        self.recent.outcome(entry, &self.machine)
    }

    fn tells_what_was(&self, slot: Slot) -> bool {
        self.told(slot) == self.found[slot.0 as usize - 1]
    }

    fn is_untold(&self, slot: Slot) -> bool {
        self.told(slot).outcome == Outcome::Untold
    }
}

#[test]
fn a_resource_that_many_reads_found_is_kept_once() {
    let mut world = world(BOUNDS);
    world.write("a", 2_000);
    for _ in 0..50 {
        world.read("a");
    }
    assert_eq!(world.recent.found.resources.len(), 1);
    assert!(world.recent.found.bytes < 3_000);
    // The first and the last READ get what they found, also when it is replaced later.
    world.write("a", 10);
    for slot in 2..=51 {
        assert!(world.tells_what_was(Slot(slot)));
    }
}

#[test]
fn a_copy_of_what_is_remembered_holds_no_data_of_reads() {
    let mut world = world(BOUNDS);
    world.write("a", 2_000);
    let read = world.read("a");
    let entry = world.recent.entry(read).unwrap();
    assert_eq!(entry.applied.outcome, Outcome::Read(None));
    let entries = world.recent.entries(read, world.machine.applied(), 1);
    assert_eq!(entries.unwrap()[0].applied.outcome, Outcome::Read(None));
}

#[test]
fn what_was_replaced_and_is_too_much_to_keep_is_untold_and_nothing_else_is() {
    let mut world = world(BOUNDS);
    let mut reads = Vec::new();
    for _ in 0..5 {
        world.write("a", 1_000);
        reads.push(world.read("a"));
    }
    let untold: Vec<bool> = reads.iter().map(|read| world.is_untold(*read)).collect();
    assert_eq!(untold, [true, true, true, false, false]);
    for read in &reads[3..] {
        assert!(world.tells_what_was(*read));
    }
    assert!(world.recent.found.bytes <= BOUNDS.found_bytes);
}

#[test]
fn a_read_from_before_memory_is_told_if_nobody_has_written_since() {
    let mut world = world(Bounds {
        entries: 4,
        ..BOUNDS
    });
    world.write("kept", 10);
    world.write("replaced", 10);
    world.write("removed", 10);
    let kept = world.read("kept");
    let replaced = world.read("replaced");
    let removed = world.read("removed");
    let absent = world.read("absent");
    world.write("replaced", 20);
    world.apply(command(Operation::Delete, "removed", b""));
    for _ in 0..10 {
        world.read("kept");
    }
    assert!(world.recent.entry(kept).is_none());
    assert!(world.tells_what_was(kept));
    for read in [replaced, removed, absent] {
        assert!(world.is_untold(read), "{read}");
    }
}

#[test]
fn a_read_of_nothing_is_told_while_memory_reaches() {
    let mut world = world(BOUNDS);
    let read = world.read("a");
    world.write("a", 10);
    assert!(world.tells_what_was(read));
    assert_eq!(world.told(read).outcome, Outcome::Read(None));
}

#[test]
fn every_other_outcome_is_told_from_the_log() {
    let mut world = world(Bounds {
        entries: 1,
        bytes: 1,
        found_bytes: 0,
    });
    let named = |data, if_version| Command {
        request_id: Some("id"),
        if_version,
        ..command(Operation::Write, "a", data)
    };
    world.apply(named(b"1", None));
    world.apply(named(b"2", None));
    world.apply(Command {
        if_version: Some(7),
        ..command(Operation::Write, "a", b"3")
    });
    world.apply_value(Slot(4), Value::NOOP);
    for _ in 0..5 {
        world.write("b", 100);
    }
    assert!(world.recent.entry(Slot(4)).is_none());
    assert_eq!(world.told(Slot(2)).outcome, Outcome::Reused);
    assert_eq!(
        world.told(Slot(3)).outcome,
        Outcome::NotCommitted {
            version: 1,
            instance: None
        }
    );
    for slot in 1..=4 {
        assert!(world.tells_what_was(Slot(slot)));
    }
}

#[test]
fn entries_end_by_bytes_and_one_at_least_is_there() {
    let mut world = world(BOUNDS);
    for bytes in [100, 4_000, 100, 100] {
        world.write("a", bytes);
    }
    let applied = world.machine.applied();
    let entries = |from, bytes| world.recent.entries(Slot(from), applied, bytes);
    let slots = |from, bytes| {
        let entries = entries(from, bytes).unwrap();
        entries.iter().map(|entry| entry.slot.0).collect::<Vec<_>>()
    };
    assert_eq!(slots(1, 0), [1]);
    assert_eq!(slots(1, 300), [1, 2]);
    assert_eq!(slots(2, 1), [2]);
    assert_eq!(slots(2, 1 << 20), [2, 3, 4]);
    assert_eq!(slots(5, 1), [] as [u64; 0]);
    for _ in 0..5 {
        world.write("a", 4_000);
    }
    assert_eq!(
        world.recent.entries(Slot(1), world.machine.applied(), 1),
        None
    );
}

fn read_of(slot: u64, bytes: usize) -> Option<Applied> {
    let resource = Resource {
        data: vec![b'1'; bytes].into(),
        version: 1,
        slot: Slot(1),
        timestamp: 0,
        client_id: "c".into(),
    };
    Some(Applied {
        slot: Slot(slot),
        outcome: Outcome::Read(Some(resource)),
    })
}

#[test]
fn an_answer_withholds_what_does_not_fit_and_nothing_else() {
    let committed = Some(Applied {
        slot: Slot(9),
        outcome: Outcome::Committed { version: 1 },
    });
    let all = [
        read_of(1, 500),
        read_of(2, 600),
        committed.clone(),
        read_of(4, 10),
        None,
    ];
    let answer = fit(800, all.iter().cloned());
    let withheld = Some(Applied {
        slot: Slot(2),
        outcome: Outcome::Withheld,
    });
    let [first, _, _, fourth, _] = all.clone();
    assert_eq!(answer, [first, withheld, committed, fourth, None]);
    assert_eq!(fit(1 << 20, all.iter().cloned()), all);
    let size = |outcome: &Option<Applied>| outcome.as_ref().map_or(1, Applied::size);
    assert!(answer.iter().map(size).sum::<usize>() <= 800);
    // Not even numbers fit without end.
    let many = std::iter::repeat_n(all[2].clone(), 1_000);
    assert!(fit(800, many).len() < 20);
}

#[test]
fn what_is_recalled_comes_in_parts_of_one_outcome_at_least() {
    let all = [read_of(1, 500), read_of(2, 600), None, read_of(3, 5_000)];
    let first = |bytes, skip| first(bytes, all.iter().skip(skip).cloned());
    assert_eq!(first(600, 0), all[..1]);
    assert_eq!(first(1_300, 0), all[..3]);
    assert_eq!(first(600, 3), all[3..]);
    assert_eq!(first(1 << 20, 0), all);
}
