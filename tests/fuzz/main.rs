//! Every decoder on good bytes, damaged bytes and any bytes: no panic, no more memory than the input
//! accounts for, and what was encoded comes back. `make fuzz` runs many times as many cases.

mod bodies;
mod messages;
mod roles;

use std::collections::BTreeMap;

use api::env::Config;
use bytes::Bytes;
use messages::{command, damaged, damaged_frames, entries, frame, record, value};
use node::json_file::{self, Loaded};
use node::media::{Media, MediaFile, SimMedia};
use node::snapshots::Snapshots;
use node::state_file::{State, StateFile};
use node::wal::{self, Wal};
use node::wire::{HeartbeatBody, ProposeBody};
use paxos::acceptor::Record;
use paxos::codec::{Frame, decode_entries, encode_entries};
use paxos::command::Command;
use paxos::ids::{NodeId, Slot};
use paxos::in_memory::InMemory;
use paxos::machine::Machine;
use paxos::message::Value;
use paxos::snapshot::Reader;
use peak_alloc::PeakAlloc;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use testkit::fuzz::Fuzz;

#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

/// Cases of one round.
const CASES: u32 = 512;

/// What decoding may take: some bytes for each of the input, and a little that other threads of
/// the test may take meanwhile. What grows most is an outcome that is not known: one byte of input.
fn allowed(input: usize) -> usize {
    (64 << 10) + 128 * input
}

/// What a decoder makes of bytes, having taken no more memory than they account for.
fn decode<T>(bytes: Vec<u8>, decoder: impl Fn(Bytes) -> T) -> Result<T, TestCaseError> {
    let (length, bytes) = (bytes.len(), Bytes::from(bytes));
    let before = MEMORY.current_usage();
    MEMORY.reset_peak_usage();
    let decoded = decoder(bytes);
    let taken = MEMORY.peak_usage().saturating_sub(before);
    prop_assert!(
        taken <= allowed(length),
        "{taken} bytes of memory for {length}"
    );
    Ok(decoded)
}

#[test]
fn frames_come_back_and_damaged_ones_do_no_harm() {
    let fuzz = Fuzz::begin("frames_come_back_and_damaged_ones_do_no_harm");
    fuzz.check(CASES, &frame(), |frame| {
        let decoded = decode(frame.encode().to_vec(), Frame::decode)?;
        prop_assert_eq!(decoded, Ok(frame));
        Ok(())
    });
    fuzz.check(CASES, &damaged_frames(), |bytes| {
        if let Ok(frame) = decode(bytes, Frame::decode)? {
            // What is taken means one thing only.
            prop_assert_eq!(Frame::decode(frame.encode()), Ok(frame));
        }
        Ok(())
    });
}

#[test]
fn an_acceptors_records_come_back_and_damaged_ones_do_no_harm() {
    let fuzz = Fuzz::begin("an_acceptors_records_come_back_and_damaged_ones_do_no_harm");
    fuzz.check(CASES, &record(), |record| {
        let decoded = decode(record.encode().to_vec(), Record::decode)?;
        prop_assert_eq!(decoded, Ok(record));
        Ok(())
    });
    let bytes = damaged(record().prop_map(|record| record.encode()));
    fuzz.check(CASES, &bytes, |bytes| {
        if let Ok(record) = decode(bytes, Record::decode)? {
            prop_assert_eq!(Record::decode(record.encode()), Ok(record));
        }
        Ok(())
    });
}

#[test]
fn a_learners_records_come_back_and_damaged_ones_do_no_harm() {
    let fuzz = Fuzz::begin("a_learners_records_come_back_and_damaged_ones_do_no_harm");
    fuzz.check(CASES, &entries(), |entries| {
        let decoded = decode(encode_entries(&entries).to_vec(), decode_entries)?;
        prop_assert_eq!(decoded, Ok(entries));
        Ok(())
    });
    let bytes = damaged(entries().prop_map(|entries| encode_entries(&entries)));
    fuzz.check(CASES, &bytes, |bytes| {
        decode(bytes, decode_entries)?.ok();
        Ok(())
    });
}

#[test]
fn commands_come_back_and_no_value_stops_the_state_machine() {
    let fuzz = Fuzz::begin("commands_come_back_and_no_value_stops_the_state_machine");
    fuzz.check(CASES, &command(), |value| {
        let command = Command::decode(&value);
        let again = command.ok().flatten().map(|command| command.encode());
        prop_assert_eq!(again.as_ref(), Some(&value));
        Ok(())
    });
    let bytes = damaged(command().prop_map(|value| value.0));
    fuzz.check(CASES, &vec(bytes, 1..6), |values| {
        let mut machine = Machine::new();
        for bytes in values {
            let value = Value(bytes.into());
            let applied = machine.apply(machine.applied().next(), &value);
            prop_assert_eq!(applied.is_ok(), Command::decode(&value).is_ok());
        }
        Ok(())
    });
}

/// The state after some commands.
fn machine() -> impl Strategy<Value = Machine> {
    vec(value(), 0..8).prop_map(|values| {
        let mut machine = Machine::new();
        for value in values {
            // Those that are no commands change nothing.
            let _ = machine.apply(machine.applied().next(), &value);
        }
        machine
    })
}

fn parts(machine: &Machine) -> Vec<Bytes> {
    let mut parts = Vec::new();
    let written: Result<(), std::convert::Infallible> = machine.write_snapshot(|part| {
        parts.push(part);
        Ok(())
    });
    let Ok(()) = written;
    parts
}

#[test]
fn snapshots_come_back_and_damaged_parts_do_no_harm() {
    let fuzz = Fuzz::begin("snapshots_come_back_and_damaged_parts_do_no_harm");
    let read = |parts: &[Bytes]| {
        let (mut reader, mut resources) = (Reader::default(), InMemory::new());
        for part in parts {
            reader.part(part.clone(), &mut resources).ok()?;
        }
        Some((reader.finish().ok()?, resources))
    };
    fuzz.check(CASES, &machine(), |machine| {
        let (ledger, resources) = read(&parts(&machine)).unwrap();
        prop_assert_eq!(&ledger, machine.ledger());
        let names = resources.iter();
        prop_assert!(names.eq(machine.resources()));
        Ok(())
    });
    let damaged_part = (machine(), any::<Index>()).prop_flat_map(|(machine, which)| {
        let parts = parts(&machine);
        let which = which.index(parts.len());
        let part = damaged(Just(parts[which].clone()));
        (Just(parts), Just(which), part)
    });
    fuzz.check(CASES, &damaged_part, |(mut parts, which, part)| {
        let length = part.len() + parts.iter().map(Bytes::len).sum::<usize>();
        parts[which] = part.into();
        let joined = vec![0; length];
        decode(joined, |_| read(&parts))?;
        Ok(())
    });
}

/// A file's bytes through some damage.
fn damage(media: &SimMedia, name: &str, bytes: &[u8]) {
    let file = media.open(name).unwrap();
    file.truncate(0).unwrap();
    file.write_at(bytes, 0).unwrap();
    file.sync_data().unwrap();
}

fn bytes_of(media: &SimMedia, name: &str) -> Bytes {
    media.open(name).unwrap().read_all().unwrap().into()
}

#[test]
fn a_damaged_snapshot_file_is_refused_or_whole() {
    let fuzz = Fuzz::begin("a_damaged_snapshot_file_is_refused_or_whole");
    let file = |machine: &Machine| {
        let media = SimMedia::new();
        let snapshots = Snapshots::open(media.clone()).unwrap();
        snapshots.write(&machine.freeze()).unwrap();
        let name = media.list().unwrap().remove(0);
        (media, name)
    };
    let inputs = machine().prop_flat_map(move |machine| {
        let (media, name) = file(&machine);
        (Just(machine), damaged(Just(bytes_of(&media, &name))))
    });
    fuzz.check(CASES, &inputs, |(machine, bytes)| {
        let (media, name) = file(&machine);
        damage(&media, &name, &bytes);
        // Checksums find it, unless nothing was changed.
        if let Ok(read) = Snapshots::open(media).unwrap().load_newest() {
            prop_assert_eq!(read, Some(machine));
        }
        // The same bytes, sent by another learner.
        let snapshots = Snapshots::open(SimMedia::new()).unwrap();
        snapshots.receive(Slot(7), 0, &bytes).unwrap();
        snapshots.install(Slot(7)).ok();
        Ok(())
    });
}

#[test]
fn a_damaged_log_is_refused_or_loses_no_more_than_its_end() {
    let fuzz = Fuzz::begin("a_damaged_log_is_refused_or_loses_no_more_than_its_end");
    let written = |frames: &[Vec<Vec<u8>>]| {
        let media = SimMedia::new();
        let options = wal::Options::default();
        let mut wal = Wal::open(media.clone(), options, |_, _| Ok(())).unwrap();
        for frame in frames {
            for record in frame {
                wal.append(record);
            }
            wal.sync().unwrap();
        }
        drop(wal);
        let name = media.list().unwrap().remove(0);
        (media, name)
    };
    let frames = vec(vec(vec(any::<u8>(), 0..300), 1..4), 1..5);
    let inputs = frames.prop_flat_map(move |frames| {
        let (media, name) = written(&frames);
        (Just(frames), damaged(Just(bytes_of(&media, &name))))
    });
    fuzz.check(CASES, &inputs, |(frames, bytes)| {
        let (media, name) = written(&frames);
        damage(&media, &name, &bytes);
        let mut read = Vec::new();
        let opened = Wal::open(media, wal::Options::default(), |_, record| {
            read.push(record.to_vec());
            Ok(())
        });
        if opened.is_ok() {
            let all: Vec<_> = frames.concat();
            prop_assert!(all.starts_with(&read), "records that were never written");
        }
        Ok(())
    });
}

/// Text that is nearly JSON.
fn json() -> impl Strategy<Value = Vec<u8>> {
    let field = r#""(format|crc32c|proposal_counter|last_instance_id|current_leader|current_term|[a-z]{1,3})":(null|true|-?[0-9]{1,20}|[0-9]\.[0-9]|\[\]|\{\}|"[a-z]{0,3}")"#;
    let object = vec(field, 0..7).prop_map(|fields| format!("{{{}}}", fields.join(",")));
    damaged(object.prop_map(Bytes::from))
}

#[test]
fn a_damaged_state_file_is_set_aside_or_refused() {
    let fuzz = Fuzz::begin("a_damaged_state_file_is_set_aside_or_refused");
    let id = NodeId::new(1).unwrap();
    let good = any::<(u32, u32, u16)>().prop_map(move |(counter, last, term)| {
        let (root, checkpoints) = (SimMedia::new(), SimMedia::new());
        let (mut file, ..) = StateFile::open_on(root.clone(), checkpoints, id).unwrap();
        let state = State {
            proposal_counter: counter.into(),
            last_instance_id: last.into(),
            current_term: term.into(),
            ..State::default()
        };
        file.save(&state).unwrap();
        bytes_of(&root, "proposer_1_state.json")
    });
    let inputs = prop_oneof![damaged(good), json()];
    fuzz.check(CASES, &inputs, |bytes| {
        let (root, checkpoints) = (SimMedia::new(), SimMedia::new());
        let name = "proposer_1_state.json";
        root.create(name).unwrap();
        damage(&root, name, &bytes);
        let opened = StateFile::open_on(root.clone(), checkpoints, id);
        let kept = root
            .list()
            .unwrap()
            .into_iter()
            .any(|file| file.starts_with(name) && bytes_of(&root, &file) == bytes);
        prop_assert!(kept, "what was there is there");
        if let Ok((_, state, opened)) = opened {
            let fresh = state == State::default() && opened.knows_every_claim();
            let loaded = matches!(
                json_file::load(&root, name, u64::MAX, |_| Some(())),
                Ok(Loaded::Read(()))
            );
            prop_assert!(loaded || !fresh, "damaged is never empty");
        }
        Ok(())
    });
}

#[test]
fn nothing_that_clients_send_as_json_does_harm() {
    let fuzz = Fuzz::begin("nothing_that_clients_send_as_json_does_harm");
    fuzz.check(CASES, &bodies::propose(), |bytes| {
        let (length, body) = (bytes.len(), Bytes::from(bytes));
        let good = decode(vec![0; length], |_| {
            let body: Option<ProposeBody<'_>> = serde_json::from_slice(&body).ok();
            body.and_then(|body| body.to_value().ok())
        })?;
        if let Some(value) = good {
            prop_assert!(matches!(Command::decode(&value), Ok(Some(_))));
        }
        Ok(())
    });
    fuzz.check(CASES, &bodies::heartbeat(), |bytes| {
        let body: Option<HeartbeatBody> = serde_json::from_slice(&bytes).ok();
        body.and_then(|body| body.to_heartbeat().ok());
        Ok(())
    });
}

#[test]
fn no_environment_stops_the_reader_and_a_good_one_comes_back() {
    let fuzz = Fuzz::begin("no_environment_stops_the_reader_and_a_good_one_comes_back");
    let variables = [
        "NODE_ID",
        "ROLE",
        "PORT",
        "DEBUG",
        "ACCEPTORS",
        "PROPOSERS",
        "LEARNERS",
        "STORES",
        "USE_CLUSTER_STORE",
        "DATA_DIR",
        "LOG_DIR",
        "NOTIFY_CLIENTS",
        "HEARTBEAT_INTERVAL_MS",
        "ELECTION_TIMEOUT_MS",
    ];
    let text = prop_oneof![
        4 => "[1-9][0-9]{0,4}",
        1 => "-?[0-9]{1,22}",
        4 => "(proposer|acceptor|learner|store|true|false|/[a-z]{1,4})",
        4 => "[a-z0-9.]{1,8}:[1-9][0-9]{0,4}(,[a-z]{1,4}:[0-9]{1,6}){0,2}",
        1 => ".{0,12}",
    ];
    let environment = vec((select(variables.to_vec()), text), 4..16)
        .prop_map(|pairs| pairs.into_iter().collect::<BTreeMap<_, _>>());
    fuzz.check(CASES, &environment, |environment| {
        match Config::from_env(|variable| environment.get(variable).cloned()) {
            Ok(config) => {
                let env: BTreeMap<_, _> = config.to_env().into_iter().collect();
                let again = Config::from_env(|variable| env.get(variable).cloned());
                prop_assert_eq!(again.ok(), Some(config));
            }
            Err(invalid) => {
                prop_assert!(!invalid.is_empty());
                for bad in invalid {
                    prop_assert!(variables.contains(&bad.variable), "{}", bad.variable);
                }
            }
        }
        Ok(())
    });
}
