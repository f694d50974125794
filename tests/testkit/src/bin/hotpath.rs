//! The way of a write without sockets and threads: a client's JSON, the proposer, five acceptors with
//! their logs on disk, two learners, the answer's JSON. Prints how many writes it did; `--test hotpath`
//! counts the instructions of two runs of different length, so that what is done once does not count.

use bytes::Bytes;
use node::media::FileMedia;
use node::wal::{Options, Wal};
use node::wire::{OutcomeView, ProposeBody};
use paxos::acceptor::{Acceptor, Record};
use paxos::codec::{Frame, NodeName, Version};
use paxos::ids::{Members, NodeId, Role, Slot};
use paxos::learner::{Input as Told, Learner};
use paxos::machine::{Applied, Machine};
use paxos::message::{Learned, Message, Reply, Request, Value};
use paxos::proposer::{Effects, Input, Proposer, Settings};
use paxos::stamp::{Stamp, Terms};
use paxos::votes::Place;

/// Writes that wait together, as under some load.
const BATCH: usize = 16;
const ACCEPTORS: u8 = 5;
const LEARNERS: u8 = 2;

struct Voter {
    core: Acceptor,
    log: Wal<FileMedia>,
}

struct Reader {
    core: Learner,
    machine: Machine,
}

struct Path {
    leader: Proposer,
    voters: Vec<Voter>,
    readers: Vec<Reader>,
    _folder: tempfile::TempDir,
}

fn node(id: u8) -> NodeId {
    NodeId::new(id).expect("ids start at 1")
}

/// There and back through the encoding.
fn send(role: Role, id: u8, message: Message) -> Bytes {
    let from = NodeName { role, id: node(id) };
    let frame = Frame {
        version: Version::NEWEST,
        from,
        cluster: None,
        message,
    };
    frame.encode()
}

fn receive(frame: &Bytes) -> Message {
    let frame = Frame::decode(frame.clone());
    frame.expect("it was encoded here").message
}

impl Path {
    fn new() -> Path {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let members = Members::new(ACCEPTORS).expect("a number that can be");
        let voter = |id: u8| {
            let folder = folder.path().join(id.to_string());
            std::fs::create_dir(&folder).expect("a folder for the log");
            let disk = FileMedia::open(&folder).expect("the folder is there");
            let log = Wal::open(disk, Options::default(), |_, _| Ok(()));
            Voter {
                core: Acceptor::new(),
                log: log.expect("an empty folder"),
            }
        };
        let reader = |_| Reader {
            core: Learner::new(members, Slot::ZERO),
            machine: Machine::new(),
        };
        let mut path = Path {
            leader: Proposer::new(node(1), members, Settings::default(), 0),
            voters: (1..=ACCEPTORS).map(voter).collect(),
            readers: (1..=LEARNERS).map(reader).collect(),
            _folder: folder,
        };
        path.step(Input::ElectionTimeout);
        assert!(path.leader.is_leading(), "nobody competes");
        path
    }

    /// One step of the leader, and all that follows from it; the slot given out and the outcomes, if
    /// there are any.
    fn step(&mut self, input: Input) -> (Option<Slot>, Vec<Applied>) {
        let effects = self.leader.step(input);
        let effects = effects.persist(|_| Ok::<_, ()>(()));
        let Effects {
            acceptors,
            learners,
            assigned,
            ..
        } = effects.expect("nothing fails");
        let mut outcomes = Vec::new();
        for (to, request) in acceptors {
            let frame = send(Role::Proposer, 1, Message::Request(request));
            for id in (1..=ACCEPTORS).filter(|id| to.includes(node(*id))) {
                let Message::Request(request) = receive(&frame) else {
                    unreachable!("a request was sent")
                };
                let reply = self.vote(id, request);
                let reply = receive(&send(Role::Acceptor, id, Message::Reply(reply)));
                let Message::Reply(reply) = reply else {
                    unreachable!("a reply was sent")
                };
                let from = node(id);
                outcomes.extend(self.step(Input::Reply { from, reply }).1);
            }
        }
        for learn in learners {
            let frame = send(Role::Proposer, 1, Message::Learn(learn));
            for id in 1..=LEARNERS {
                let learned = self.learn(id, &frame);
                let learned = receive(&send(Role::Learner, id, Message::Learned(learned)));
                let Message::Learned(learned) = learned else {
                    unreachable!("an answer was sent")
                };
                if id == 1 {
                    outcomes.extend(learned.outcomes.into_iter().flatten());
                }
                self.step(Input::Learned(learned.applied));
            }
        }
        (assigned, outcomes)
    }

    fn vote(&mut self, id: u8, request: Request) -> Reply {
        let Voter { core, log } = &mut self.voters[usize::from(id - 1)];
        let mut places = Vec::new();
        let output = core.handle(request);
        let persisted = output.persist_proven(|records| {
            for record in records {
                let (file, offset) = log.append(&record.encode()).numbers();
                if let Record::Accepted { .. } = record {
                    places.push(Place { file, offset });
                }
            }
            log.sync().map(drop)
        });
        let (answer, proof) = persisted.expect("the disk works");
        core.written(proof, &places);
        answer.into_reply(&()).expect("the newest are in memory")
    }

    fn learn(&mut self, id: u8, frame: &Bytes) -> Learned {
        let Reader { core, machine } = &mut self.readers[usize::from(id - 1)];
        let Message::Learn(learn) = receive(frame) else {
            unreachable!("values were sent")
        };
        let first = learn.first;
        let delivered = core.step(Told::Learn(learn)).deliver.into_iter();
        let outcomes = delivered.map(|(slot, value)| machine.apply(slot, &value).ok());
        Learned {
            outcomes: outcomes.collect(),
            applied: core.delivered(),
            durable: Slot::ZERO,
            first,
        }
    }

    /// Requests in, answers out; how many were committed.
    fn writes(&mut self, requests: &[String]) -> usize {
        let values = requests.iter().map(|body| {
            let body: ProposeBody<'_> = serde_json::from_str(body).expect("a good request");
            body.to_value().expect("a good request")
        });
        let mut values: Vec<Value> = values.collect();
        // As a leader's first value: time begins.
        if self.leader.last() == Slot::ZERO {
            values[0] = Stamp::after(0, Terms::default()).put_on(&values[0]);
        }
        let (assigned, outcomes) = self.step(Input::Propose(values));
        assert!(assigned.is_some(), "it leads");
        let answers = outcomes.iter().map(|applied| {
            let answer = serde_json::to_vec(&OutcomeView::of(applied));
            answer.expect("an outcome is JSON")
        });
        let committed = b"\"COMMITTED\"";
        answers
            .filter(|answer| answer.windows(committed.len()).any(|w| w == committed))
            .count()
    }
}

fn main() {
    let batches = std::env::args().nth(1).and_then(|text| text.parse().ok());
    let batches: usize = batches.expect("usage: hotpath BATCHES");
    let data = "x".repeat(256);
    let mut path = Path::new();
    let mut committed = 0;
    for batch in 0..batches {
        let requests = (0..BATCH).map(|i| {
            let number = batch * BATCH + i;
            format!(
                "{{\"clientId\":\"client-{i}\",\"requestId\":\"{number}\",\"timestamp\":{number},\
                 \"operation\":\"WRITE\",\"resource\":\"key-{}\",\"data\":\"{data}\"}}",
                number % 1000
            )
        });
        committed += path.writes(&requests.collect::<Vec<_>>());
    }
    assert_eq!(committed, batches * BATCH, "every write is committed");
    println!("{committed} writes");
}
