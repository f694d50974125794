//! Every message that a core can make, at its largest, is smaller than what the other side takes.

use std::convert::Infallible;

use paxos::acceptor::{Acceptor, Record};
use paxos::codec::{Entry, Frame, NodeName, Version, encode_entries};
use paxos::command::{Command, Operation};
use paxos::ids::{Ballot, ClusterId, Members, NodeId, Role, Slot};
use paxos::learner::records;
use paxos::machine::{Applied, Machine};
use paxos::message::{Learned, Message, Recalled, Reply, Request, Value, Values, Vote};
use paxos::output::Output;
use paxos::proposer::{Effects, Input, Proposer, Settings};
use paxos::recall::Recalls;
use paxos::recent::{ANSWER_BYTES, RECALLED_BYTES, first, fit};
use paxos::stamp::{Stamp, Terms};
use paxos::telling::Telling;
use paxos::votes::Place;
use proptest::prelude::*;

use super::MAX_FRAME_BYTES;
use crate::problem::MAX_BODY_BYTES;

/// A client's value has at most the bytes of its request, a head and a stamp.
const LARGEST: usize = MAX_BODY_BYTES + 256;
/// What one case holds at most: an acceptor has all of it in memory.
const CASE_BYTES: usize = 24 << 20;

fn node(id: u8) -> NodeId {
    NodeId::new(id).expect("not 0")
}

fn keep<R, E>(output: Output<R, E>) -> E {
    let kept = output.persist(|_| Ok::<_, Infallible>(()));
    kept.unwrap_or_else(|never| match never {})
}

/// The message's bytes as they are sent, which the other side takes and reads.
fn fits(message: Message) {
    let frame = Frame {
        version: Version::NEWEST,
        from: NodeName {
            role: Role::Proposer,
            id: node(255),
        },
        cluster: ClusterId::new(u64::MAX),
        message,
    };
    let bytes = frame.encode();
    assert!(
        bytes.len() <= MAX_FRAME_BYTES,
        "{} bytes in a frame",
        bytes.len()
    );
    assert_eq!(Frame::decode(bytes), Ok(frame));
}

/// Values of all sizes: many small ones, some about as large as a batch, and the largest.
fn values() -> impl Strategy<Value = Vec<Value>> {
    let size = prop_oneof![
        6 => 0..200_usize,
        2 => 900..2_000_usize,
        2 => 200_000..600_000_usize,
        1 => (MAX_BODY_BYTES - 300)..=LARGEST,
        1 => Just(LARGEST),
    ];
    let few = prop::collection::vec(size, 1..80);
    let many = (0..64_usize, 1_000..3_000_usize).prop_map(|(size, count)| vec![size; count]);
    prop_oneof![3 => few, 1 => many].prop_map(|sizes| {
        let mut left = CASE_BYTES;
        let fitting = sizes.into_iter().take_while(|size| {
            let fits = *size <= left;
            left -= (*size).min(left);
            fits
        });
        fitting.map(|size| Value(vec![7; size].into())).collect()
    })
}

/// A leader of one acceptor that found these votes, and what it sends at once.
fn leader(found: Vec<Vote>) -> (Proposer, Effects) {
    let members = Members::new(1).expect("one");
    let mut proposer = Proposer::new(node(1), members, Settings::default(), 0);
    keep(proposer.step(Input::ElectionTimeout));
    let from = node(1);
    let probed = Reply::Probed {
        promised: Ballot::NONE,
        committed: Slot::ZERO,
        leader_alive: false,
    };
    let asked = keep(proposer.step(Input::Reply {
        from,
        reply: probed,
    }));
    let prepare = asked
        .acceptors
        .iter()
        .find_map(|(_, request)| match request {
            Request::Prepare { ballot, from, .. } => Some((*ballot, *from)),
            _ => None,
        });
    let (ballot, first) = prepare.expect("a candidate asks for promises");
    let promise = Reply::Promise {
        ballot,
        from: first,
        votes: found,
        rest: None,
        committed: Slot::ZERO,
    };
    let effects = keep(proposer.step(Input::Reply {
        from,
        reply: promise,
    }));
    assert!(proposer.is_leading());
    (proposer, effects)
}

/// All that a leader sends, once every message to the acceptor is answered, or every second one at the
/// end only; the accepted values.
fn run(proposer: &mut Proposer, effects: Effects, late: bool) -> Vec<(Ballot, Slot, Values)> {
    let mut telling = Telling::default();
    // The second one never answers, so that all it is to be told waits.
    telling.set_learners([node(1), node(2)]);
    let (mut open, mut held, mut accepted) = (vec![effects], Vec::new(), Vec::new());
    loop {
        let Some(effects) = open.pop() else {
            // What was held back makes many batches chosen at once.
            let Some(reply) = held.pop() else { break };
            let from = node(1);
            open.push(keep(proposer.step(Input::Reply { from, reply })));
            continue;
        };
        for (_, request) in effects.acceptors {
            fits(Message::Request(request.clone()));
            if let Request::Accept {
                ballot,
                first,
                values,
                ..
            } = request
            {
                let count = values.len() as u64;
                accepted.push((ballot, first, values));
                let reply = Reply::Accepted {
                    ballot,
                    first,
                    count,
                };
                if late && held.len() < 3 {
                    held.insert(0, reply);
                } else {
                    let from = node(1);
                    open.push(keep(proposer.step(Input::Reply { from, reply })));
                }
            }
        }
        for learn in effects.learners {
            let mut tells = telling.tell(learn);
            while let Some(tell) = tells.pop() {
                let (first, count) = (tell.learn.first, tell.learn.values.len());
                fits(Message::Learn(tell.learn.clone()));
                let applied = first.plus(count as u64).previous();
                open.push(keep(proposer.step(Input::Learned(applied))));
                if tell.to.contains(&node(1)) && count > 0 {
                    tells.extend(telling.answered(node(1), first, count, applied));
                }
            }
        }
    }
    for failed in 0..3 {
        telling.failed(node(2), Slot(1 + failed), 1);
        for tell in (0..40).flat_map(|_| telling.tick()) {
            fits(Message::Learn(tell.learn));
        }
    }
    accepted
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn what_a_leader_sends_fits_a_frame(values in values(), late: bool) {
        let (mut proposer, mut effects) = leader(Vec::new());
        let count = values.len();
        let proposed = keep(proposer.step(Input::Propose(values)));
        effects.acceptors.extend(proposed.acceptors);
        effects.learners.extend(proposed.learners);
        let accepted = run(&mut proposer, effects, late);
        let sent: usize = accepted.iter().map(|(_, _, values)| values.len()).sum();
        prop_assert_eq!(sent, count, "each value is sent once");
    }

    #[test]
    fn what_a_new_leader_sends_again_fits_a_frame(values in values(), late: bool) {
        let ballot = Ballot::new(1, node(2)).expect("a ballot");
        let vote = |(at, value): (u64, Value)| Vote { slot: Slot(1 + 2 * at), ballot, value };
        let found: Vec<Vote> = (0..).zip(values).map(vote).collect();
        let last = found.last().map(|vote| vote.slot);
        let (mut proposer, effects) = leader(found);
        let accepted = run(&mut proposer, effects, late);
        let ends = accepted.iter().map(|(_, first, of)| first.plus(of.len() as u64).previous());
        prop_assert_eq!(ends.max(), last, "with no-ops between them");
    }

    #[test]
    fn what_an_acceptor_answers_fits_a_frame(values in values(), from in 1..50_u64) {
        let mut acceptor = Acceptor::new();
        let ballot = Ballot::new(1, node(1)).expect("a ballot");
        let count = values.len() as u64;
        for (at, some) in values.chunks(1024).enumerate() {
            // No batch is larger, but for one value; where the log has them does not matter here.
            for (i, value) in some.iter().enumerate() {
                let accept = Request::Accept {
                    ballot,
                    first: Slot((1024 * at + i) as u64 + 1),
                    values: [value.clone()].into(),
                    committed: Slot::ZERO,
                };
                let mut places = Vec::new();
                let written = acceptor.handle(accept).persist_proven(|records| {
                    let is_vote = |record: &&Record| matches!(record, Record::Accepted { .. });
                    places = records.iter().filter(is_vote).map(|_| Place { file: 0, offset: 0 }).collect();
                    Ok::<_, Infallible>(())
                });
                let (answer, proof) = written.unwrap_or_else(|never| match never {});
                acceptor.written(proof, &places);
                fits(Message::Reply(answer.into_reply(&()).expect("in memory")));
            }
        }
        let higher = Ballot::new(2, node(1)).expect("a ballot");
        let (mut told, mut next) = (0, Some(Slot(1)));
        while let Some(from) = next {
            let prepare = Request::Prepare { ballot: higher, run: 1, from };
            let reply = keep(acceptor.handle(prepare)).into_reply(&()).expect("in memory");
            let Reply::Promise { votes, rest, .. } = &reply else {
                panic!("a promise: {reply:?}");
            };
            told += votes.len() as u64;
            next = *rest;
            fits(Message::Reply(reply));
        }
        prop_assert_eq!(told, count);
        let fetch = Request::Fetch { from: Slot(from), to: Slot(1 << 60) };
        fits(Message::Reply(keep(acceptor.handle(fetch)).into_reply(&()).expect("in memory")));
    }

    #[test]
    fn what_a_learner_answers_fits_a_frame(values in values()) {
        let mut machine = Machine::default();
        let mut outcomes: Vec<Applied> = Vec::new();
        let mut delivered = Vec::new();
        let name = "n".repeat(1000);
        for value in values {
            let data = vec![b'1'; value.len().min(MAX_BODY_BYTES)];
            let command = |operation, sequence| Command {
                operation,
                timestamp: u64::MAX,
                if_version: None,
                if_instance: None,
                sequence,
                client_id: "c",
                request_id: None,
                resource: &name,
                data: if operation == Operation::Read { b"" } else { &data },
            };
            for (operation, count) in [(Operation::Write, 1), (Operation::Read, 3)] {
                for _ in 0..count {
                    let slot = machine.applied().next();
                    let is_write = operation == Operation::Write;
                    let encoded = command(operation, is_write.then_some(slot.0)).encode();
                    let encoded = match slot.0 {
                        1 => Stamp::after(0, Terms { quota: u64::MAX, ..Terms::default() }).put_on(&encoded),
                        _ => encoded,
                    };
                    let applied = machine.apply(slot, &encoded).expect("a command");
                    outcomes.push(applied);
                    delivered.push((slot, encoded));
                }
            }
        }
        // In the order of their slots, and each as often as a leader may ask for it.
        let all = || outcomes.iter().cloned().map(Some).cycle();
        for count in [outcomes.len(), 1024, 4096] {
            fits(Message::Learned(Learned {
                applied: Slot(1 << 60),
                durable: Slot(1 << 60),
                first: Slot(1),
                outcomes: fit(ANSWER_BYTES, all().take(count)),
            }));
        }
        fits(Message::Recalled(Recalled {
            applied: Slot(1 << 60),
            outcomes: first(RECALLED_BYTES, all().take(64)),
        }));
        // A record of its log is what it tells another learner at least.
        let mut next = 0;
        for record in records(delivered, 1 << 20) {
            let entry = |(at, (slot, value)): (usize, &(Slot, Value))| Entry {
                slot: *slot,
                value: value.clone(),
                applied: outcomes[next + at].clone().bare(),
            };
            let entries: Vec<Entry> = record.iter().enumerate().map(entry).collect();
            next += entries.len();
            prop_assert!(encode_entries(&entries).len() <= MAX_FRAME_BYTES);
        }
    }
}

#[test]
fn what_a_proposer_asks_learners_for_fits_a_frame_however_much_it_wants() {
    let mut recalls = Recalls::default();
    (0..100_000).for_each(|slot| recalls.want(Slot(slot), ()));
    for learner in 1..=255 {
        let slots = recalls.question(node(learner)).expect("there is more");
        fits(Message::Recall(slots));
    }
}
