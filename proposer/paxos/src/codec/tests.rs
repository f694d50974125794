use super::*;
use crate::ids::{Ballot, Members, NodeId, Role, Slot};
use crate::message::{Forwarded, Learn, Learned, Recalled, Reply, Request, Value, Values, Vote};
use crate::outcome::{Applied, Outcome, Resource};
use crate::roster::{Refusal, Start};

fn ballot_of(counter: u64) -> Ballot {
    Ballot::new(counter, NodeId::new(7).unwrap()).unwrap()
}

fn text(value: &'static str) -> Value {
    Value(Bytes::from_static(value.as_bytes()))
}

fn messages() -> Vec<Message> {
    let values: Values = [text("a"), Value::NOOP, text("ccc")].into();
    let ballot = ballot_of(3);
    let (slot, committed) = (Slot(9), Slot(8));
    let votes = vec![Vote {
        slot,
        ballot,
        value: text("v"),
    }];
    let resource = Resource {
        data: Bytes::from_static(b"1"),
        version: 4,
        slot,
        timestamp: 5,
        client_id: "é".into(),
    };
    let outcomes: Vec<_> = [
        Outcome::Noop,
        Outcome::Committed { version: 1 },
        Outcome::NotCommitted {
            version: 2,
            instance: None,
        },
        Outcome::NotCommitted {
            version: 2,
            instance: Some(Slot(9)),
        },
        Outcome::OldSequence { from: 7 },
        Outcome::OldTimestamp { above: 8 },
        Outcome::Full,
        Outcome::Quota { used: 3, limit: 4 },
        Outcome::Reused,
        Outcome::Read(None),
        Outcome::Read(Some(resource)),
        Outcome::Untold,
        Outcome::Withheld,
    ]
    .into_iter()
    .map(|outcome| Some(Applied { slot, outcome }))
    .chain([None])
    .collect();
    vec![
        Message::Request(Request::Probe),
        Message::Request(Request::Prepare {
            ballot,
            run: 3,
            from: slot,
        }),
        Message::Request(Request::Enlist {
            node: node(Role::Learner, 2),
            start: start(1),
            cluster: None,
            acceptors: None,
        }),
        Message::Request(Request::Enlist {
            node: node(Role::Acceptor, 2),
            start: start(1),
            cluster: ClusterId::new(9),
            acceptors: Members::new(5),
        }),
        Message::Reply(Reply::NotVoting),
        Message::Reply(Reply::AcceptedTight {
            ballot: Ballot::from_number(257).unwrap(),
            first: Slot(9),
            count: 3,
            log: 1 << 30,
            free: 7,
        }),
        Message::Reply(Reply::NoRoom {
            ballot: Ballot::from_number(257).unwrap(),
            first: Slot(9),
            log: 1 << 30,
            free: 7,
        }),
        Message::Forwarded(Forwarded::NoRoom {
            why: "acceptor-2 is full".to_owned(),
        }),
        Message::Reply(Reply::Witnessed {
            start: start(1),
            witness: start(4),
            cluster: ClusterId::new(9),
            acceptors: None,
        }),
        Message::Reply(Reply::Witnessed {
            start: start(1),
            witness: start(4),
            cluster: None,
            acceptors: Members::new(255),
        }),
        refused(Refusal::OtherCount {
            founded: Members::new(5).unwrap(),
            listed: Members::new(3).unwrap(),
        }),
        refused(Refusal::OtherList {
            witness: Members::new(1).unwrap(),
            listed: Members::new(4).unwrap(),
        }),
        refused(Refusal::OtherDisk { known: start(2) }),
        refused(Refusal::OlderCopy { known: start(3) }),
        refused(Refusal::OtherCluster {
            cluster: ClusterId::new(5).unwrap(),
        }),
        refused(Refusal::NotAMember),
        Message::Request(Request::Accept {
            ballot,
            first: slot,
            values: values.clone(),
            committed,
        }),
        Message::Request(Request::Renew {
            ballot,
            round: 6,
            committed,
            trim: Slot(2),
        }),
        Message::Request(Request::Fetch {
            from: slot,
            to: Slot(10),
        }),
        Message::Reply(Reply::Probed {
            promised: Ballot::NONE,
            committed,
            leader_alive: true,
        }),
        Message::Reply(Reply::Promise {
            ballot,
            from: slot,
            votes: votes.clone(),
            rest: None,
            committed,
        }),
        Message::Reply(Reply::Promise {
            ballot,
            from: slot,
            votes: vec![],
            rest: Some(Slot(12)),
            committed,
        }),
        Message::Reply(Reply::Accepted {
            ballot,
            first: slot,
            count: 3,
        }),
        Message::Reply(Reply::Renewed { ballot, round: 6 }),
        Message::Reply(Reply::Nack {
            ballot,
            promised: ballot_of(4),
        }),
        Message::Reply(Reply::Fetched {
            from: slot,
            to: slot,
            votes,
        }),
        Message::Reply(Reply::Truncated {
            from: slot,
            floor: Slot(11),
        }),
        Message::Learn(Learn {
            first: slot,
            values: values.clone(),
            committed,
        }),
        Message::Learned(Learned {
            applied: slot,
            durable: committed,
            first: slot,
            outcomes: outcomes.clone(),
        }),
        Message::Recall(vec![slot, Slot(1)]),
        Message::Recalled(Recalled {
            applied: slot,
            outcomes: outcomes.clone(),
        }),
        Message::Forward { wait_ms: 5, values },
        Message::Forwarded(Forwarded::NotLeader),
        Message::Forwarded(Forwarded::Busy),
        Message::Forwarded(Forwarded::Assigned { first: slot }),
        Message::Forwarded(Forwarded::Outcomes { outcomes }),
        Message::TakeOver,
        Message::ReadIndex,
        Message::Readable(None),
        Message::Readable(Some(slot)),
        Message::Done,
    ]
}

fn node(role: Role, id: u8) -> NodeName {
    let id = NodeId::new(id).unwrap();
    NodeName { role, id }
}

fn start(incarnation: u64) -> Start {
    Start {
        incarnation,
        count: 6,
        run: 7,
    }
}

fn refused(refusal: Refusal) -> Message {
    Message::Reply(Reply::Refused {
        start: start(1),
        refusal,
    })
}

fn frame(message: Message) -> Frame {
    Frame {
        version: Version::NEWEST,
        from: NodeName {
            role: Role::Proposer,
            id: NodeId::new(1).unwrap(),
        },
        cluster: ClusterId::new(77),
        message,
    }
}

/// Every message in every version.
fn frames() -> impl Iterator<Item = Frame> {
    let in_all = |message: Message| {
        let frame = frame(message);
        Version::ALL.map(|version| Frame {
            version,
            ..frame.clone()
        })
    };
    messages().into_iter().flat_map(in_all)
}

#[test]
fn every_message_survives_its_bytes() {
    for frame in frames() {
        assert_eq!(Frame::decode(frame.encode()), Ok(frame));
    }
}

#[test]
fn every_cut_and_every_appended_byte_is_refused() {
    for frame in frames() {
        let bytes = frame.encode();
        for length in 0..bytes.len() {
            assert!(Frame::decode(bytes.slice(..length)).is_err());
        }
        let longer = [&bytes[..], &[0]].concat();
        assert!(Frame::decode(longer.into()).is_err());
    }
}

#[test]
fn a_version_that_this_build_does_not_read_is_refused_by_name() {
    for version in [0, 1, 4, 9, 255] {
        let mut bytes = frame(Message::Done).encode().to_vec();
        bytes[1] = version;
        assert_eq!(Frame::decode(bytes.into()), Err(Error::Version(version)));
    }
}

/// `frames-v2.hex` holds what the last build of version 2 alone wrote for [`messages`], in order.
#[test]
fn the_version_before_is_read_and_written_to_the_byte() {
    let recorded = include_str!("frames-v2.hex").lines().map(|line| {
        let digits = line.as_bytes().chunks(2);
        let bytes = digits.map(|two| u8::from_str_radix(std::str::from_utf8(two).unwrap(), 16));
        bytes.collect::<std::result::Result<Vec<u8>, _>>().unwrap()
    });
    let ours: Vec<Frame> = frames().filter(|f| f.version == Version::V2).collect();
    assert_eq!(recorded.clone().count(), ours.len());
    for (theirs, ours) in recorded.zip(ours) {
        assert_eq!(ours.encode(), theirs, "{ours:?}");
        assert_eq!(Frame::decode(theirs.into()), Ok(ours));
    }
}

#[test]
fn a_frame_is_put_into_the_version_that_its_peer_reads() {
    for newest in frames().filter(|f| f.version == Version::NEWEST) {
        for version in Version::ALL {
            let translated = Frame::translate(&newest.encode(), version);
            let frame = Frame {
                version,
                ..newest.clone()
            };
            assert_eq!(Frame::decode(translated.unwrap()), Ok(frame));
        }
    }
}

#[test]
fn what_a_peer_shows_says_what_to_write_to_it() {
    assert_eq!(Version::ALL.map(Version::number), [2, 3]);
    assert_eq!(
        [1, 2, 3, 4, 255].map(Version::shown).map(Version::number),
        [2, 2, 3, 3, 3]
    );
}

#[test]
fn no_flipped_bit_goes_by_unnoticed() {
    for message in messages() {
        let bytes = frame(message).encode();
        for bit in 16..bytes.len() * 8 {
            let mut damaged = bytes.to_vec();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Frame::decode(damaged.into()), Err(Error::Damaged), "{bit}");
        }
    }
}

/// No damaged frame may panic or reserve memory by a forged count.
#[test]
fn flipped_bits_never_panic() {
    for frame in frames() {
        let bytes = frame.encode();
        for bit in 0..bytes.len() * 8 {
            let mut damaged = bytes.to_vec();
            damaged[bit / 8] ^= 1 << (bit % 8);
            let _ = Frame::decode(damaged.into());
        }
    }
}

#[test]
fn records_and_entries_survive_their_bytes() {
    let (ballot, first) = (ballot_of(3), Slot(9));
    let values: Values = [text("a"), Value::NOOP].into();
    for record in [
        Record::Promised { ballot, run: 4 },
        Record::Trimmed {
            promised: ballot,
            run: 4,
            floor: Slot(2),
            committed: Slot(3),
        },
        Record::Known(Roster {
            cluster: ClusterId::new(8),
            founders: Members::new(4),
            starts: [].into(),
        }),
        Record::Known(Roster {
            cluster: ClusterId::new(8),
            founders: None,
            starts: [
                (node(Role::Acceptor, 1), start(1)),
                (node(Role::Store, 3), start(2)),
            ]
            .into(),
        }),
        Record::Accepted {
            ballot,
            first,
            values,
            committed: Slot(8),
        },
    ] {
        let bytes = record.encode();
        assert_eq!(Record::decode(bytes.clone()), Ok(record));
        assert!(Record::decode(bytes.slice(..bytes.len() - 1)).is_err());
    }
    let entries = vec![
        Entry {
            slot: Slot(1),
            value: text("a"),
            applied: Applied {
                slot: Slot(1),
                outcome: Outcome::Committed { version: 1 },
            },
        },
        Entry {
            slot: Slot(2),
            value: Value::NOOP,
            applied: Applied {
                slot: Slot(2),
                outcome: Outcome::Noop,
            },
        },
    ];
    assert_eq!(decode_entries(encode_entries(&entries)), Ok(entries));
}

#[test]
fn what_earlier_builds_wrote_and_say_keeps_its_bytes() {
    let mut known = vec![6];
    known.extend(8u64.to_le_bytes());
    known.extend(1u32.to_le_bytes());
    known.extend([2, 1]);
    (1..=3u64).for_each(|number| known.extend(number.to_le_bytes()));
    let starts = [(
        node(Role::Acceptor, 1),
        Start {
            incarnation: 1,
            count: 2,
            run: 3,
        },
    )];
    let roster = Roster {
        cluster: ClusterId::new(8),
        founders: None,
        starts: starts.into(),
    };
    assert_eq!(
        Record::decode(known.clone().into()),
        Ok(Record::Known(roster.clone()))
    );
    assert_eq!(Record::Known(roster).encode(), known);
    let kind = |message: Message| {
        let frame = Frame {
            version: Version::V2,
            from: node(Role::Acceptor, 1),
            cluster: None,
            message,
        };
        frame.encode()[12]
    };
    let enlist = |acceptors| {
        Message::Request(Request::Enlist {
            node: node(Role::Acceptor, 1),
            start: start(1),
            cluster: None,
            acceptors,
        })
    };
    assert_eq!((kind(enlist(None)), kind(enlist(Members::new(3)))), (6, 7));
    let witnessed = |acceptors| {
        Message::Reply(Reply::Witnessed {
            start: start(1),
            witness: start(1),
            cluster: None,
            acceptors,
        })
    };
    assert_eq!(
        (kind(witnessed(None)), kind(witnessed(Members::new(3)))),
        (29, 53)
    );
}
