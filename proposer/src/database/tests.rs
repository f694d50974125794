use paxos::command::{Command, Operation};
use paxos::machine::{Applied, Machine, Outcome};
use paxos::sessions::SESSIONS;
use paxos::stamp::{Stamp, Terms};

use super::*;
use crate::media::SimMedia;
use tempfile::TempDir;

const ALL: PageLimits = PageLimits {
    count: usize::MAX,
    bytes: usize::MAX,
};

/// What a learner makes of some writes, deletes and retries.
fn learner(from: u64, count: u64, machine: &mut Machine) -> Vec<Entry> {
    let entry = |i: u64| {
        let resource = format!("key-{}", i % 7);
        let (operation, data) = match i % 5 {
            4 => (Operation::Delete, &b""[..]),
            _ => (Operation::Write, &b"\"data\""[..]),
        };
        let value = Command {
            operation,
            timestamp: i - u64::from(i % 11 == 10),
            if_version: (i % 3 == 2).then_some(1),
            if_instance: None,
            sequence: None,
            client_id: "alice",
            request_id: None,
            resource: &resource,
            data,
        }
        .encode();
        let slot = machine.applied().next();
        let applied = machine.apply(slot, &value).unwrap();
        Entry {
            slot,
            value,
            applied,
        }
    };
    (from..from + count).map(entry).collect()
}

fn open(folder: &TempDir) -> (Database, Ledger) {
    Database::open(&folder.path().join("store")).unwrap()
}

fn assert_same(database: &Database, ledger: &Ledger, machine: &Machine) {
    assert_eq!(ledger, machine.ledger());
    let page = database.page("", None, ALL).unwrap();
    assert_eq!(page, machine.page("", None, ALL));
    assert_eq!(
        database.resource_count().unwrap(),
        machine.resource_count() as u64
    );
    for (name, resource) in machine.resources() {
        assert_eq!(database.resource(name).unwrap(), Some(resource));
    }
    assert_eq!(database.resource("absent").unwrap(), None);
}

#[test]
fn entries_make_the_same_state_as_at_a_learner_and_it_is_there_after_a_restart() {
    let folder = TempDir::new().unwrap();
    let mut machine = Machine::new();
    for round in 0..4 {
        let (database, mut ledger) = open(&folder);
        assert_same(&database, &ledger, &machine);
        let entries = learner(round * 50, 50, &mut machine);
        for batch in entries.chunks(17) {
            database.apply(&mut ledger, batch).unwrap();
        }
        assert_same(&database, &ledger, &machine);
    }
}

#[test]
fn the_session_table_on_disk_forgets_what_the_ledger_forgets() {
    let folder = TempDir::new().unwrap();
    let mut machine = Machine::new();
    let (database, mut ledger) = open(&folder);
    let count = SESSIONS as u64 * 5 / 4;
    for batch in learner(0, count, &mut machine).chunks(10_000) {
        database.apply(&mut ledger, batch).unwrap();
    }
    assert_eq!(ledger.session_count(), SESSIONS);
    drop(database);
    let (database, ledger) = open(&folder);
    assert_same(&database, &ledger, &machine);
}

#[test]
fn an_outcome_other_than_the_learners_changes_nothing() {
    let folder = TempDir::new().unwrap();
    let mut machine = Machine::new();
    let mut entries = learner(0, 3, &mut machine);
    entries[2].applied = Applied {
        slot: Slot(3),
        outcome: Outcome::Committed { version: 9 },
    };
    let (database, mut ledger) = open(&folder);
    let applied = database.apply(&mut ledger, &entries);
    assert!(matches!(applied, Err(ApplyError::Halt(_))), "{applied:?}");
    drop(database);
    let (database, ledger) = open(&folder);
    assert_same(&database, &ledger, &Machine::new());
}

#[test]
fn a_snapshot_takes_the_place_of_everything_and_a_damaged_one_of_nothing() {
    let folder = TempDir::new().unwrap();
    let (database, mut ledger) = open(&folder);
    let mut old = Machine::new();
    database
        .apply(&mut ledger, &learner(0, 10, &mut old))
        .unwrap();

    let mut machine = Machine::new();
    learner(100, 3000, &mut machine);
    let from = Snapshots::open(SimMedia::new()).unwrap();
    from.write(&machine.freeze()).unwrap();
    let slot = machine.applied();
    let (bytes, _) = from.read(slot, 0, u64::MAX).unwrap().unwrap();
    let incoming = Snapshots::open(SimMedia::new()).unwrap();

    let mut flipped = bytes.to_vec();
    let last = flipped.len() - 30;
    flipped[last] ^= 1;
    incoming.receive(slot, 0, &flipped).unwrap();
    let installed = database.install(&incoming, slot);
    assert!(matches!(installed, Err(UnpackError::Snapshot(_))));
    assert_same(&database, &ledger, &old);

    incoming.receive(slot, 0, &bytes).unwrap();
    let mut ledger = database.install(&incoming, slot).unwrap();
    assert_same(&database, &ledger, &machine);
    let entries = learner(5000, 40, &mut machine);
    database.apply(&mut ledger, &entries).unwrap();
    drop(database);
    let (database, ledger) = open(&folder);
    assert_same(&database, &ledger, &machine);
}

#[test]
fn damage_is_an_error_and_never_an_empty_store() {
    let folder = TempDir::new().unwrap();
    let (database, mut ledger) = open(&folder);
    let mut machine = Machine::new();
    database
        .apply(&mut ledger, &learner(0, 50, &mut machine))
        .unwrap();
    drop(database);
    let path = folder.path().join("store").join(FILE);
    let good = fs::read(&path).unwrap();
    let refused = |bytes: &[u8]| {
        fs::write(&path, bytes).unwrap();
        Database::open(&folder.path().join("store")).err()
    };
    assert!(matches!(refused(b""), Some(Error::Damaged { .. })));
    assert!(refused(b"rubbish").is_some());
    assert!(refused(&good[..good.len() / 2]).is_some());
    let mut flipped = good.clone();
    for at in 0..good.len() - 6 {
        if &good[at..at + 6] == b"\"data\"" {
            flipped[at] ^= 1;
        }
    }
    assert_ne!(flipped, good);
    assert!(matches!(refused(&flipped), Some(Error::Damaged { .. })));
    assert!(refused(&good).is_none());
}

#[test]
fn a_database_has_one_process() {
    let folder = TempDir::new().unwrap();
    let _first = open(&folder);
    let second = Database::open(&folder.path().join("store"));
    assert!(matches!(second.err(), Some(Error::Folder { .. })));
}

#[test]
fn a_stores_state_travels_as_a_snapshot_that_learners_and_stores_can_install() {
    for count in [0, 1, 3000] {
        let (from, to) = (TempDir::new().unwrap(), TempDir::new().unwrap());
        let (database, mut ledger) = open(&from);
        let mut machine = Machine::new();
        let entries = learner(0, count, &mut machine);
        database.apply(&mut ledger, &entries).unwrap();

        let snapshots = Snapshots::open(SimMedia::new()).unwrap();
        let written = snapshots.write_parts(|part| database.write_snapshot(part));
        let (slot, bytes) = written.unwrap();
        assert_eq!(slot, machine.applied());
        let (piece, length) = snapshots.read(slot, 0, u64::MAX).unwrap().unwrap();
        assert_eq!((piece.len() as u64, length), (bytes, bytes));
        assert_eq!(snapshots.load_newest().unwrap(), Some(machine.clone()));

        let incoming = Snapshots::open(SimMedia::new()).unwrap();
        incoming.receive(slot, 0, &piece).unwrap();
        let (other, _) = open(&to);
        let ledger = other.install(&incoming, slot).unwrap();
        assert_same(&other, &ledger, &machine);
    }
}

#[test]
fn the_last_value_is_known_until_a_snapshot_takes_its_place() {
    let folder = TempDir::new().unwrap();
    let mut machine = Machine::new();
    let (database, mut ledger) = open(&folder);
    assert_eq!(database.last_value().unwrap(), None);
    for _ in 0..2 {
        let entries = learner(machine.applied().0, 9, &mut machine);
        database.apply(&mut ledger, &entries).unwrap();
        let last = entries.last().map(|entry| entry.value.checksum());
        assert_eq!(database.last_value().unwrap(), last);
    }
    drop(database);
    let (database, _) = open(&folder);
    assert!(database.last_value().unwrap().is_some());

    let snapshots = Snapshots::open(SimMedia::new()).unwrap();
    snapshots.write(&machine.freeze()).unwrap();
    let slot = machine.applied();
    let (bytes, _) = snapshots.read(slot, 0, u64::MAX).unwrap().unwrap();
    snapshots.receive(slot, 0, &bytes).unwrap();
    database.install(&snapshots, slot).unwrap();
    assert_eq!(database.last_value().unwrap(), None);
}

/// What a learner makes of requests of every kind while time passes.
fn timed(from: u64, count: u64, machine: &mut Machine) -> Vec<Entry> {
    let terms = Terms {
        retry_window_ms: 1000,
        retry_memory: 16 << 10,
        quota: 3000,
    };
    let entry = |i: u64| {
        let (client, resource) = (format!("client-{}", i % 9), format!("key-{}", i % 13));
        let id = (i - i % 4).to_string();
        let operation = match i % 7 {
            5 => Operation::Delete,
            6 => Operation::Read,
            _ => Operation::Write,
        };
        let data = vec![b'1'; (i % 5 * 100) as usize];
        let value = Command {
            operation,
            timestamp: i - u64::from(i % 11 == 10),
            if_version: (i % 3 == 2 && operation != Operation::Read).then_some(1),
            if_instance: None,
            sequence: i.is_multiple_of(2).then_some(if i.is_multiple_of(50) {
                1
            } else {
                i - i % 6
            }),
            client_id: &client,
            request_id: i.is_multiple_of(3).then_some(&id),
            resource: &resource,
            data: if operation == Operation::Write {
                &data
            } else {
                b""
            },
        }
        .encode();
        let value = match i % 10 {
            0 => Stamp::after(i % 4 * 50, terms).put_on(&value),
            _ => value,
        };
        let slot = machine.applied().next();
        let applied = machine.apply(slot, &value).unwrap();
        Entry {
            slot,
            value,
            applied,
        }
    };
    (from..from + count).map(entry).collect()
}

#[test]
fn what_is_remembered_by_time_is_the_same_on_disk_at_every_commit() {
    let folder = TempDir::new().unwrap();
    let mut machine = Machine::new();
    // A log that begins without a stamp.
    let mut entries = learner(0, 40, &mut machine);
    entries.extend(timed(40, 3000, &mut machine));
    let mut plain = Machine::new();
    let mut done = 0;
    for (i, batch) in entries.chunks(37).enumerate() {
        let (database, mut ledger) = open(&folder);
        assert_same(&database, &ledger, &plain);
        database.apply(&mut ledger, batch).unwrap();
        for entry in batch {
            plain.apply(entry.slot, &entry.value).unwrap();
        }
        assert_same(&database, &ledger, &plain);
        assert_eq!(ledger.state_bytes(), plain.ledger().state_bytes());
        assert_eq!(ledger.session_bytes(), plain.ledger().session_bytes());
        done += usize::from(i > 0);
    }
    assert!(done > 50);
    let outcomes: Vec<&Outcome> = entries.iter().map(|e| &e.applied.outcome).collect();
    let has = |kind: fn(&Outcome) -> bool| outcomes.iter().any(|outcome| kind(outcome));
    assert!(has(|o| matches!(o, Outcome::Full)));
    assert!(has(|o| matches!(o, Outcome::Quota { .. })));
    assert!(has(|o| matches!(o, Outcome::OldSequence { .. })));
}

#[test]
fn a_snapshot_with_time_takes_the_place_of_everything_and_the_store_goes_on_from_it() {
    let folder = TempDir::new().unwrap();
    let mut machine = Machine::new();
    timed(0, 1500, &mut machine);
    let from = Snapshots::open(SimMedia::new()).unwrap();
    let to = Snapshots::open(SimMedia::new()).unwrap();
    from.write(&machine.freeze()).unwrap();
    let slot = machine.applied();
    let (bytes, _) = from.read(slot, 0, u64::MAX).unwrap().unwrap();
    to.receive(slot, 0, &bytes).unwrap();
    let (database, mut ledger) = open(&folder);
    let mut other = Machine::new();
    database
        .apply(&mut ledger, &timed(7, 300, &mut other))
        .unwrap();
    let Ok(mut ledger) = database.install(&to, slot) else {
        panic!("it is whole")
    };
    assert_same(&database, &ledger, &machine);
    for round in 0..20 {
        let entries = timed(1500 + round * 50, 50, &mut machine);
        database.apply(&mut ledger, &entries).unwrap();
    }
    drop(database);
    let (database, ledger) = open(&folder);
    assert_same(&database, &ledger, &machine);
}
