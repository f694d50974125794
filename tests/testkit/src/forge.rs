//! Damage that no checksum shows, and messages whose sender is not who it says.

use std::fs;
use std::path::Path;
use std::time::Duration;

use api::env::Role;
use bytes::Bytes;
use node::link;
use node::media::FileMedia;
use node::wal::{Options, Wal};
use paxos::codec::{Frame, NodeName, Version, decode_entries, encode_entries};
use paxos::command::{Command, Operation};
use paxos::ids::{ClusterId, NodeId, Slot};
use paxos::message::{Message, Value};

use crate::cluster::{Cluster, Name, http};

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

/// Rewrites a learner's log with another value in one slot. The outcome stays what it was, so that
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

/// The name of a node, as messages say it.
///
/// # Panics
/// For number 0.
pub fn name((role, id): Name) -> NodeName {
    let id = NodeId::new(id).expect("ids start at 1");
    NodeName { role, id }
}

/// Sends a node a message that says that it is from `by`, a node of its cluster. What it answered.
///
/// # Panics
/// When there is no answer.
pub fn send(cluster: &Cluster, to: Name, by: Name, message: Message) -> http::Answer {
    let status = cluster.node(to).status().expect("a node that answers");
    let frame = Frame {
        version: Version::NEWEST,
        from: name(by),
        cluster: status["cluster"].as_str().and_then(ClusterId::parse),
        message,
    };
    let url = format!("{}{}", cluster.node(to).url(), link::path(name(to)));
    let agent = http::agent(Duration::from_secs(10));
    http::post(&agent, &url, frame.encode().to_vec()).expect("an answer")
}

/// The leader, as the sender of what it never said.
pub fn leader(cluster: &Cluster) -> Name {
    let leader = cluster.leader().map_or(1, |(_, id)| id);
    (Role::Proposer, leader)
}

/// A client's write, as a value.
pub fn write(resource: &str, data: &str) -> Value {
    let command = Command {
        operation: Operation::Write,
        timestamp: 7,
        if_version: None,
        if_instance: None,
        sequence: None,
        client_id: "mallory",
        request_id: Some(resource),
        resource,
        data: data.as_bytes(),
    };
    command.encode()
}
