//! Random messages, records, entries and commands, and ways to damage bytes.

use bytes::Bytes;
use paxos::acceptor::Record;
use paxos::codec::{Entry, Frame, Version};
use paxos::command::{Command, MAX_SEQUENCE, Operation};
use paxos::ids::{Ballot, ClusterId, Members, NodeId, NodeName, Role, Slot};
use paxos::machine::{Applied, Outcome, Resource};
use paxos::message::{
    Forwarded, Learn, Learned, Message, Recalled, Reply, Request, Value, Values, Vote,
};
use paxos::standing::{Refusal, Roster, Start};
use proptest::collection::{btree_map, vec};
use proptest::prelude::*;
use proptest::sample::{Index, select};

/// Small numbers, numbers at the limits, and any.
fn number() -> impl Strategy<Value = u64> {
    let limits = [
        0,
        1,
        255,
        256,
        1 << 20,
        u32::MAX as u64,
        1 << 32,
        1 << 56,
        u64::MAX,
    ];
    prop_oneof![0..20_u64, select(limits.to_vec()), any::<u64>()]
}

fn slot() -> impl Strategy<Value = Slot> {
    number().prop_map(|number| Slot(number.min(u64::MAX - (1 << 32))))
}

fn ballot() -> impl Strategy<Value = Ballot> {
    (1..1_u64 << 56, node_id()).prop_map(|(round, id)| Ballot::new(round, id).unwrap())
}

fn promise() -> impl Strategy<Value = Ballot> {
    prop_oneof![Just(Ballot::NONE), ballot()]
}

fn node_id() -> impl Strategy<Value = NodeId> {
    (1..=255_u8).prop_map(|id| NodeId::new(id).unwrap())
}

fn node_name() -> impl Strategy<Value = NodeName> {
    (select(Role::ALL.to_vec()), node_id()).prop_map(|(role, id)| NodeName { role, id })
}

fn cluster() -> impl Strategy<Value = Option<ClusterId>> {
    number().prop_map(ClusterId::new)
}

fn start() -> impl Strategy<Value = Start> {
    (number(), number(), number()).prop_map(|(incarnation, count, run)| Start {
        incarnation,
        count,
        run,
    })
}

fn text(most: usize) -> impl Strategy<Value = String> {
    prop_oneof![
        vec(any::<char>(), 1..=most / 4).prop_map(|chars| chars.into_iter().collect()),
        "[a-z/]{1,12}",
    ]
}

/// A client's command, as the value that says it.
pub fn command() -> impl Strategy<Value = Value> {
    let operations = [Operation::Write, Operation::Delete, Operation::Read];
    let texts = (text(256), prop::option::of(text(256)), text(1024));
    let rest = (
        number(),
        vec(prop::option::of(number()), 3),
        vec(any::<u8>(), 0..40),
    );
    (select(operations.to_vec()), texts, rest).prop_map(
        |(operation, (client_id, request_id, resource), (timestamp, numbers, data))| {
            Command {
                operation,
                timestamp,
                if_version: numbers[0],
                if_instance: numbers[1],
                sequence: numbers[2].map(|number| number.min(MAX_SEQUENCE)),
                client_id: &client_id,
                request_id: request_id.as_deref(),
                resource: &resource,
                data: &data,
            }
            .encode()
        },
    )
}

/// What a slot may hold: a command, a no-op, or what no version of this program has written.
pub fn value() -> BoxedStrategy<Value> {
    prop_oneof![
        Just(Value::NOOP),
        command(),
        vec(any::<u8>(), 0..40).prop_map(|bytes| Value(bytes.into())),
    ]
    .boxed()
}

fn values() -> impl Strategy<Value = Values> {
    vec(value(), 0..4).prop_map(Values::from)
}

fn votes() -> impl Strategy<Value = Vec<Vote>> {
    let vote = (slot(), ballot(), value()).prop_map(|(slot, ballot, value)| Vote {
        slot,
        ballot,
        value,
    });
    vec(vote, 0..4)
}

fn outcome() -> BoxedStrategy<Outcome> {
    let resource = (
        vec(any::<u8>(), 0..20),
        number(),
        slot(),
        number(),
        text(256),
    );
    let resource = resource.prop_map(|(data, version, slot, timestamp, client_id)| Resource {
        data: data.into(),
        version,
        slot,
        timestamp,
        client_id: client_id.into(),
    });
    prop_oneof![
        Just(Outcome::Noop),
        number().prop_map(|version| Outcome::Committed { version }),
        (number(), prop::option::of(slot()))
            .prop_map(|(version, instance)| { Outcome::NotCommitted { version, instance } }),
        number().prop_map(|from| Outcome::OldSequence { from }),
        number().prop_map(|above| Outcome::OldTimestamp { above }),
        Just(Outcome::Full),
        (number(), number()).prop_map(|(used, limit)| Outcome::Quota { used, limit }),
        Just(Outcome::Reused),
        Just(Outcome::Untold),
        Just(Outcome::Withheld),
        prop::option::of(resource).prop_map(Outcome::Read),
    ]
    .boxed()
}

fn applied() -> impl Strategy<Value = Applied> {
    (slot(), outcome()).prop_map(|(slot, outcome)| Applied { slot, outcome })
}

fn outcomes() -> impl Strategy<Value = Vec<Option<Applied>>> {
    vec(prop::option::of(applied()), 0..4)
}

fn request() -> BoxedStrategy<Request> {
    prop_oneof![
        Just(Request::Probe),
        (ballot(), number(), slot()).prop_map(|(ballot, run, from)| Request::Prepare {
            ballot,
            run,
            from
        }),
        (ballot(), slot(), values(), slot()).prop_map(|(ballot, first, values, committed)| {
            Request::Accept {
                ballot,
                first,
                values,
                committed,
            }
        }),
        (ballot(), number(), slot(), slot()).prop_map(|(ballot, round, committed, trim)| {
            Request::Renew {
                ballot,
                round,
                committed,
                trim,
            }
        }),
        (slot(), slot()).prop_map(|(from, to)| Request::Fetch { from, to }),
        (node_name(), start(), cluster(), members()).prop_map(
            |(node, start, cluster, acceptors)| Request::Enlist {
                node,
                start,
                cluster,
                acceptors,
            }
        ),
    ]
    .boxed()
}

fn a_count() -> impl Strategy<Value = Members> {
    (1..=u8::MAX).prop_map(|count| Members::new(count).expect("it is not 0"))
}

fn members() -> impl Strategy<Value = Option<Members>> {
    prop::option::of(a_count())
}

fn refusal() -> impl Strategy<Value = Refusal> {
    prop_oneof![
        start().prop_map(|known| Refusal::OtherDisk { known }),
        start().prop_map(|known| Refusal::OlderCopy { known }),
        cluster().prop_filter_map("a cluster has a number", |cluster| {
            cluster.map(|cluster| Refusal::OtherCluster { cluster })
        }),
        Just(Refusal::NotAMember),
        (a_count(), a_count())
            .prop_map(|(founded, listed)| Refusal::OtherCount { founded, listed }),
        (a_count(), a_count()).prop_map(|(witness, listed)| Refusal::OtherList { witness, listed }),
    ]
}

fn reply() -> BoxedStrategy<Reply> {
    let rest = prop::option::of(slot().prop_map(|slot| slot.max(Slot(1))));
    prop_oneof![
        (promise(), slot(), any::<bool>()).prop_map(|(promised, committed, leader_alive)| {
            Reply::Probed {
                promised,
                committed,
                leader_alive,
            }
        }),
        (ballot(), slot(), votes(), rest, slot()).prop_map(
            |(ballot, from, votes, rest, committed)| Reply::Promise {
                ballot,
                from,
                votes,
                rest,
                committed,
            }
        ),
        (ballot(), slot(), number()).prop_map(|(ballot, first, count)| Reply::Accepted {
            ballot,
            first,
            count
        }),
        (ballot(), number()).prop_map(|(ballot, round)| Reply::Renewed { ballot, round }),
        (ballot(), promise()).prop_map(|(ballot, promised)| Reply::Nack { ballot, promised }),
        (slot(), slot()).prop_map(|(from, floor)| Reply::Truncated { from, floor }),
        (slot(), slot(), votes()).prop_map(|(from, to, votes)| Reply::Fetched { from, to, votes }),
        Just(Reply::NotVoting),
        (ballot(), slot(), any::<[u64; 3]>()).prop_map(|(ballot, first, [_, log, free])| {
            Reply::NoRoom {
                ballot,
                first,
                log,
                free,
            }
        }),
        (ballot(), slot(), any::<[u64; 3]>()).prop_map(|(ballot, first, [count, log, free])| {
            Reply::AcceptedTight {
                ballot,
                first,
                count,
                log,
                free,
            }
        }),
        (start(), start(), cluster(), members()).prop_map(
            |(start, witness, cluster, acceptors)| Reply::Witnessed {
                start,
                witness,
                cluster,
                acceptors,
            }
        ),
        (start(), refusal()).prop_map(|(start, refusal)| Reply::Refused { start, refusal }),
    ]
    .boxed()
}

fn forwarded() -> impl Strategy<Value = Forwarded> {
    prop_oneof![
        Just(Forwarded::NotLeader),
        Just(Forwarded::Busy),
        slot().prop_map(|first| Forwarded::Assigned { first }),
        outcomes().prop_map(|outcomes| Forwarded::Outcomes { outcomes }),
    ]
}

/// Any message.
pub fn message() -> BoxedStrategy<Message> {
    prop_oneof![
        4 => request().prop_map(Message::Request),
        4 => reply().prop_map(Message::Reply),
        2 => (slot(), values(), slot()).prop_map(|(first, values, committed)| {
            Message::Learn(Learn { first, values, committed })
        }),
        1 => (slot(), slot(), slot(), outcomes()).prop_map(
            |(applied, durable, first, outcomes)| {
                Message::Learned(Learned { applied, durable, first, outcomes })
            }
        ),
        1 => vec(slot(), 0..5).prop_map(Message::Recall),
        1 => (slot(), outcomes()).prop_map(|(applied, outcomes)| {
            Message::Recalled(Recalled { applied, outcomes })
        }),
        1 => (any::<u32>(), values()).prop_map(|(wait_ms, values)| {
            Message::Forward { wait_ms, values }
        }),
        1 => forwarded().prop_map(Message::Forwarded),
        1 => prop::option::of(slot()).prop_map(Message::Readable),
        1 => select(vec![Message::TakeOver, Message::ReadIndex, Message::Done]),
    ]
    .boxed()
}

/// Any message and its way.
pub fn frame() -> impl Strategy<Value = Frame> {
    (
        select(Version::ALL.to_vec()),
        node_name(),
        cluster(),
        message(),
    )
        .prop_map(|(version, from, cluster, message)| Frame {
            version,
            from,
            cluster,
            message,
        })
}

/// Anything that an acceptor keeps.
pub fn record() -> BoxedStrategy<Record> {
    prop_oneof![
        (ballot(), number()).prop_map(|(ballot, run)| Record::Promised { ballot, run }),
        (ballot(), slot(), values(), slot()).prop_map(|(ballot, first, values, committed)| {
            Record::Accepted {
                ballot,
                first,
                values,
                committed,
            }
        }),
        (promise(), number(), slot(), slot()).prop_map(|(promised, run, floor, committed)| {
            Record::Trimmed {
                promised,
                run,
                floor,
                committed,
            }
        }),
        (cluster(), members(), btree_map(node_name(), start(), 0..5)).prop_map(
            |(cluster, founders, starts)| {
                Record::Known(Roster {
                    cluster,
                    founders,
                    starts,
                })
            }
        ),
    ]
    .boxed()
}

/// What a learner keeps; of a READ, not its answer, and of an answer nothing.
pub fn entries() -> impl Strategy<Value = Vec<Entry>> {
    let entry = (slot(), value(), applied()).prop_map(|(slot, value, applied)| {
        let mut applied = applied.bare();
        if matches!(applied.outcome, Outcome::Untold | Outcome::Withheld) {
            applied.outcome = Outcome::Reused;
        }
        Entry {
            slot,
            value,
            applied,
        }
    });
    vec(entry, 0..5)
}

/// One change of bytes.
#[derive(Clone, Debug)]
enum Edit {
    Flip(Index, u8),
    Set(Index, u8),
    /// A number of four bytes, as lengths and counts are.
    Number(Index, u32),
    Insert(Index, Vec<u8>),
    Cut(Index),
    Repeat(Index, Index),
}

fn edit() -> BoxedStrategy<Edit> {
    let numbers = [0, 1, 255, 0xffff, 1 << 24, i32::MAX as u32, u32::MAX];
    prop_oneof![
        (any::<Index>(), 0..8_u8).prop_map(|(at, bit)| Edit::Flip(at, bit)),
        (any::<Index>(), any::<u8>()).prop_map(|(at, byte)| Edit::Set(at, byte)),
        (
            any::<Index>(),
            prop_oneof![select(numbers.to_vec()), any::<u32>()]
        )
            .prop_map(|(at, number)| Edit::Number(at, number)),
        (any::<Index>(), vec(any::<u8>(), 1..9)).prop_map(|(at, new)| Edit::Insert(at, new)),
        any::<Index>().prop_map(Edit::Cut),
        (any::<Index>(), any::<Index>()).prop_map(|(from, to)| Edit::Repeat(from, to)),
    ]
    .boxed()
}

/// Damaged frames, of which half have a checksum that is right: what is behind it must stand damage, too.
pub fn damaged_frames() -> impl Strategy<Value = Vec<u8>> {
    let frames = damaged(frame().prop_map(|frame| frame.encode()));
    (frames, any::<bool>()).prop_map(|(mut bytes, mend)| {
        if mend && bytes.len() > 6 && bytes[1] == Version::V3.number() {
            let checksum = crc32c::crc32c(&bytes[6..]);
            bytes[2..6].copy_from_slice(&checksum.to_le_bytes());
        }
        bytes
    })
}

/// Good bytes, damaged in a few places, or any bytes at all.
pub fn damaged(good: impl Strategy<Value = Bytes>) -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        4 => (good, vec(edit(), 1..4)).prop_map(|(good, edits)| {
            let mut bytes = good.to_vec();
            edits.iter().for_each(|edit| apply(&mut bytes, edit));
            bytes
        }),
        1 => vec(any::<u8>(), 0..200),
    ]
}

fn apply(bytes: &mut Vec<u8>, edit: &Edit) {
    let length = bytes.len();
    if length == 0 {
        return;
    }
    match edit {
        Edit::Flip(at, bit) => bytes[at.index(length)] ^= 1 << bit,
        Edit::Set(at, byte) => bytes[at.index(length)] = *byte,
        Edit::Number(at, number) => {
            let at = at.index(length);
            let new = number.to_le_bytes();
            let fits = new.len().min(length - at);
            bytes[at..at + fits].copy_from_slice(&new[..fits]);
        }
        Edit::Insert(at, new) => {
            let at = at.index(length);
            bytes.splice(at..at, new.iter().copied());
        }
        Edit::Cut(at) => bytes.truncate(at.index(length)),
        Edit::Repeat(from, to) => {
            let (a, b) = (from.index(length), to.index(length));
            let again = bytes[a.min(b)..=a.max(b)].to_vec();
            bytes.extend(again);
        }
    }
}
