//! Damage that no checksum shows.

use std::fs;
use std::path::Path;

use bytes::Bytes;
use proposer::media::FileMedia;
use proposer::paxos::codec::{decode_entries, encode_entries};
use proposer::paxos::command::Command;
use proposer::paxos::ids::Slot;
use proposer::wal::{Options, Wal};

fn open(log: &Path, mut each: impl FnMut(&[u8])) -> Wal<FileMedia> {
    fs::create_dir_all(log).expect("a learner's log");
    let replay = |_, bytes: &Bytes| {
        each(bytes);
        Ok(())
    };
    Wal::open(
        FileMedia::open(log).expect("a learner's log"),
        Options::default(),
        replay,
    )
    .expect("a learner's log")
}

/// Writes a learner's log anew with another value in one slot. The outcome stays what it was, so that
/// nothing in the log itself is wrong.
///
/// # Panics
/// When the log cannot be read or written, or does not have that slot.
pub fn forge(log: &Path, slot: Slot) {
    let mut records = Vec::new();
    drop(open(log, |bytes| {
        records.push(Bytes::copy_from_slice(bytes))
    }));
    let anew = log.with_extension("anew");
    let mut wal = open(&anew, |_| panic!("it is new"));
    let mut altered = 0;
    for record in records {
        let mut entries = decode_entries(record).expect("a learner's log");
        for entry in entries.iter_mut().filter(|e| e.slot == slot) {
            let command = Command::decode(&entry.value)
                .expect("this version's")
                .expect("a write");
            entry.value = Command {
                data: b"\"forged\"",
                ..command
            }
            .encode();
            altered += 1;
        }
        wal.append(&encode_entries(&entries));
    }
    wal.sync().expect("a learner's log");
    drop(wal);
    assert_eq!(altered, 1);
    fs::remove_dir_all(log).expect("a learner's log");
    fs::rename(anew, log).expect("a learner's log");
}
