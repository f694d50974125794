use std::collections::BTreeSet;

use paxos::command::{Command, Operation};
use paxos::ids::{Ballot, Members, NodeId, NodeName, Role, Slot};
use paxos::machine::{Applied, Outcome};
use paxos::message::{Forwarded, Heartbeat, Learned, Message, Reply, Request, Value};
use paxos::proposer::{Proposer, Settings as Limits};
use paxos::stamp::Terms;

use super::*;

const TICK: Duration = Duration::from_millis(50);
const TERMS: Terms = Terms {
    retry_window_ms: 60_000,
    retry_memory: 1 << 20,
    quota: u64::MAX,
};

/// Every claim, and whether the next one fails.
#[derive(Default)]
struct Disk {
    claims: Vec<u64>,
    fails: bool,
}

impl Claims for Disk {
    type Error = &'static str;

    fn claim(&mut self, saved: Saved) -> Result<(), &'static str> {
        if self.fails {
            return Err("no");
        }
        self.claims.push(saved.counter);
        Ok(())
    }
}

fn id(number: u8) -> NodeId {
    NodeId::new(number).unwrap()
}

fn ballot(round: u64, owner: u8) -> Ballot {
    Ballot::from_number(round << 8 | u64::from(owner)).unwrap()
}

fn value(name: &str, bytes: usize) -> Value {
    let data = vec![b'1'; bytes];
    let command = Command {
        operation: Operation::Write,
        timestamp: 1,
        if_version: None,
        if_instance: None,
        sequence: None,
        client_id: "c",
        request_id: Some(name),
        resource: "red",
        data: &data,
    };
    command.encode()
}

/// Proposer 1 of three, with one acceptor and two learners.
struct World {
    role: ProposerRole<Disk>,
    now: Duration,
}

impl World {
    fn new() -> World {
        let me = NodeName {
            role: Role::Proposer,
            id: id(1),
        };
        let members = Members::new(1).unwrap();
        let settings = Settings {
            me,
            members,
            limits: Limits::default(),
            heartbeat_interval: TICK,
            election_timeout: 8 * TICK,
            terms: TERMS,
            open: Settings::OPEN,
        };
        let core = Proposer::new(me.id, members, Limits::default(), 0);
        let peers = Peers {
            acceptors: vec![id(1)],
            learners: vec![id(1), id(2)],
            proposers: vec![id(2), id(3)],
            stores: Vec::new(),
            is_listed: true,
            may_lead: true,
        };
        let (disk, found) = (Disk::default(), Arc::default());
        World {
            role: ProposerRole::new(settings, core, disk, found, peers, Duration::ZERO),
            now: Duration::ZERO,
        }
    }

    fn try_on(&mut self, event: Event) -> Result<Vec<Action>, &'static str> {
        let mut actions = Vec::new();
        self.role.on(event, self.now, &mut actions)?;
        self.role.flush(self.now, &mut actions)?;
        Ok(actions)
    }

    fn on(&mut self, event: Event) -> Vec<Action> {
        self.try_on(event).unwrap()
    }

    fn tick(&mut self) -> Vec<Action> {
        self.now += TICK;
        self.on(Event::Tick)
    }

    /// Answers every question to the acceptor, until there is none.
    fn vote(&mut self, actions: Vec<Action>) -> Vec<Action> {
        let mut all = Vec::new();
        let mut open = actions;
        while !open.is_empty() {
            let mut next = Vec::new();
            for action in &open {
                if let Action::Ask { calls, request, .. } = action {
                    let answer = Some(Message::Reply(vote(request)));
                    next.extend(self.on(Event::Answered(calls[0].id, answer)));
                }
            }
            all.append(&mut open);
            open = next;
        }
        all
    }

    /// Has it elected; its first heartbeats.
    fn lead(&mut self) -> Vec<Call> {
        let actions = self.on(Event::ElectionTimeout);
        let actions = self.vote(actions);
        assert!(self.role.core().is_leading());
        heartbeats(&actions)
    }

    fn follow(&mut self, leader: Ballot) -> Vec<Action> {
        self.on(Event::Heartbeat(Heartbeat {
            ballot: leader,
            last: Slot::ZERO,
            committed: Slot::ZERO,
        }))
    }

    fn submit(&mut self, job: u64, values: Vec<Value>) -> Vec<Action> {
        self.on(Event::Submit(NewJob {
            id: job,
            values,
            wait: true,
            forwarded: false,
            deadline: self.now + Duration::from_secs(2),
        }))
    }
}

fn vote(request: &Request) -> Reply {
    match request.clone() {
        Request::Probe => Reply::Probed {
            promised: Ballot::default(),
            leader_alive: false,
            committed: Slot::ZERO,
        },
        Request::Prepare { ballot, from, .. } => Reply::Promise {
            ballot,
            from,
            votes: Vec::new(),
            committed: Slot::ZERO,
            rest: None,
        },
        Request::Accept {
            ballot,
            first,
            values,
            ..
        } => Reply::Accepted {
            ballot,
            first,
            count: values.len() as u64,
        },
        Request::Renew { ballot, round, .. } => Reply::Renewed { ballot, round },
        other => panic!("{other:?}"),
    }
}

fn answers(actions: &[Action]) -> Vec<(u64, Vec<Answer>)> {
    let answered = actions.iter().filter_map(|action| match action {
        Action::Answer { job, answers, .. } => Some((*job, answers.clone())),
        _ => None,
    });
    answered.collect()
}

fn forwards(actions: &[Action]) -> Vec<(Call, Vec<Value>)> {
    let sent = actions.iter().filter_map(|action| match action {
        Action::Forward { call, values, .. } => Some((*call, values.to_vec())),
        _ => None,
    });
    sent.collect()
}

fn take_overs(actions: &[Action]) -> Vec<Call> {
    let asked = actions.iter().filter_map(|action| match action {
        Action::TakeOver(call) => Some(*call),
        _ => None,
    });
    asked.collect()
}

fn heartbeats(actions: &[Action]) -> Vec<Call> {
    let sent = actions.iter().filter_map(|action| match action {
        Action::Heartbeat(call, _) => Some(*call),
        _ => None,
    });
    sent.collect()
}

#[test]
fn nothing_is_done_when_a_claim_cannot_be_written() {
    let mut world = World::new();
    let probe = world.on(Event::ElectionTimeout);
    let [Action::Ask { calls, request, .. }, ..] = &probe[..] else {
        panic!("{probe:?}");
    };
    let answer = Event::Answered(calls[0].id, Some(Message::Reply(vote(request))));
    world.role.disk.fails = true;
    assert_eq!(world.try_on(answer).unwrap_err(), "no");

    let mut world = World::new();
    world.lead();
    assert_eq!(world.role.disk.claims, [1], "else it is written, once");
}

#[test]
fn a_write_is_answered_with_the_outcome_that_a_learner_tells() {
    let mut world = World::new();
    world.lead();
    let actions = world.submit(7, vec![value("a", 3)]);
    let actions = world.vote(actions);
    assert!(answers(&actions).is_empty(), "chosen is not applied");
    let told = actions.iter().find_map(|action| match action {
        Action::Tell { calls, learn } if !learn.values.is_empty() => Some((calls[0], learn.first)),
        _ => None,
    });
    let (call, first) = told.expect("learners are told");
    let applied = Applied {
        slot: first,
        outcome: Outcome::Committed { version: 1 },
    };
    let learned = Learned {
        applied: first,
        durable: Slot::ZERO,
        first,
        outcomes: vec![Some(applied.clone())],
    };
    let actions = world.on(Event::Answered(call.id, Some(Message::Learned(learned))));
    assert_eq!(answers(&actions), [(7, vec![Answer::Done(applied)])]);
    assert!(world.role.is_idle());
}

#[test]
fn what_no_leader_had_is_without_effect_and_what_one_may_have_is_unknown() {
    let mut world = World::new();
    world.submit(1, vec![value("a", 3)]);
    world.now += Duration::from_secs(2);
    let actions = world.tick();
    assert_eq!(answers(&actions), [(1, vec![Answer::NoLeader])]);

    world.follow(ballot(4, 2));
    let sent = world.submit(2, vec![value("b", 3)]);
    assert_eq!(forwards(&sent).len(), 1);
    world.now += Duration::from_secs(2);
    let actions = world.tick();
    assert_eq!(answers(&actions), [(2, vec![Answer::Unknown])]);
}

#[test]
fn requests_that_a_dead_leader_had_go_to_the_next_one_in_their_order() {
    let mut world = World::new();
    world.follow(ballot(4, 2));
    let mut sent = world.submit(1, vec![value("a", 3)]);
    sent.extend(world.submit(2, vec![value("b", 3)]));
    let sent = forwards(&sent);
    assert!(sent.iter().all(|(call, _)| call.to == id(2)), "{sent:?}");

    let actions = world.follow(ballot(5, 3));
    let aborted = actions.iter().filter_map(|action| match action {
        Action::Abort(call) => Some(*call),
        _ => None,
    });
    let aborted: BTreeSet<CallId> = aborted.collect();
    assert_eq!(aborted, sent.iter().map(|(call, _)| call.id).collect());
    let again = forwards(&actions);
    assert_eq!(again.len(), 1, "{again:?}");
    assert_eq!(again[0].0.to, id(3));
    assert_eq!(again[0].1, [value("a", 3), value("b", 3)]);

    // The late answer of the first is nobody's any more.
    let late = Forwarded::NoRoom { why: "full".into() };
    let late = Event::Answered(sent[0].0.id, Some(Message::Forwarded(late)));
    assert!(answers(&world.on(late)).is_empty());
    // Two leaders may have proposed them, so that the second has no room does not settle it.
    let no_room = Forwarded::NoRoom { why: "full".into() };
    let no_room = Event::Answered(again[0].0.id, Some(Message::Forwarded(no_room)));
    let actions = world.on(no_room);
    let unknown = vec![Answer::Unknown];
    assert_eq!(answers(&actions), [(1, unknown.clone()), (2, unknown)]);
}

#[test]
fn a_message_to_the_leader_is_bounded_in_bytes_and_so_are_those_under_way() {
    let mut world = World::new();
    let values: Vec<Value> = (0..9).map(|i| value(&i.to_string(), 400 << 10)).collect();
    world.submit(1, values);
    let actions = world.follow(ballot(4, 2));
    let sent = forwards(&actions);
    assert_eq!(sent.len(), 4, "four at once");
    for (_, values) in &sent {
        let bytes: usize = values.iter().map(Value::len).sum();
        assert!(bytes <= 1 << 20, "{bytes} bytes");
        assert_eq!(values.len(), 2);
    }
}

#[test]
fn a_leader_that_answers_no_is_asked_again_after_a_pause() {
    let mut world = World::new();
    world.follow(ballot(4, 2));
    let sent = forwards(&world.submit(1, vec![value("a", 3)]));
    let busy = Event::Answered(sent[0].0.id, Some(Message::Forwarded(Forwarded::Busy)));
    assert!(forwards(&world.on(busy)).is_empty());
    let again = forwards(&world.tick());
    assert_eq!(again.len(), 1, "{again:?}");
}

/// Simulator, seed 8: it would be due again at once, and the thread would do nothing else.
#[test]
fn a_proposer_that_may_not_stand_lets_a_succession_pass() {
    let mut world = World::new();
    world.follow(ballot(4, 2));
    world.now += 3 * TICK;
    world.on(Event::LeaderGone(ballot(4, 2)));
    assert_eq!(world.role.succeeds_at(), Some(world.now));
    let peers = Peers {
        may_lead: false,
        ..world.role.peers.clone()
    };
    world.role.set_peers(peers);
    let actions = world.on(Event::ElectionTimeout);
    assert!(
        matches!(actions[..], [Action::RestartElectionTimer]),
        "{actions:?}"
    );
    assert_eq!(world.role.succeeds_at(), None);
}

#[test]
fn proposers_succeed_a_dead_leader_one_after_the_other() {
    let mut world = World::new();
    world.follow(ballot(4, 3));
    world.on(Event::LeaderGone(ballot(4, 3)));
    assert_eq!(world.role.succeeds_at(), None, "it was heard just now");
    world.now += 3 * TICK;
    world.on(Event::LeaderGone(ballot(3, 3)));
    assert_eq!(world.role.succeeds_at(), None, "an earlier ballot");
    world.on(Event::LeaderGone(ballot(4, 3)));
    assert_eq!(world.role.succeeds_at(), Some(world.now), "it is the first");
    world.follow(ballot(4, 3));
    assert_eq!(world.role.succeeds_at(), None, "the leader is there");
}

#[test]
fn a_leader_that_leaves_asks_one_follower_after_the_other_and_may_go_then() {
    let mut world = World::new();
    for call in world.lead() {
        world.on(Event::Answered(call.id, None));
    }
    let actions = world.on(Event::Leave);
    assert!(!world.role.core().is_leading());
    let asked = take_overs(&actions);
    assert_eq!(
        asked.iter().map(|call| call.to).collect::<Vec<_>>(),
        [id(2)]
    );
    let actions = world.on(Event::Failed(asked[0].id, Failure::Refused));
    let asked = take_overs(&actions);
    assert_eq!(
        asked.iter().map(|call| call.to).collect::<Vec<_>>(),
        [id(3)]
    );
    let actions = world.on(Event::Failed(asked[0].id, Failure::Refused));
    assert!(take_overs(&actions).is_empty(), "nobody is left");
    let actions = world.tick();
    assert!(
        actions.iter().any(|a| matches!(a, Action::MayLeave)),
        "{actions:?}"
    );
}

#[test]
fn a_leader_that_reaches_no_learner_is_replaced_by_a_proposer_that_does() {
    let mut world = World::new();
    for call in world.lead() {
        world.on(Event::Answered(call.id, None));
    }
    let mut look = None;
    for _ in 0..40 {
        for action in world.tick() {
            match action {
                Action::Heartbeat(call, _) => drop(world.on(Event::Answered(call.id, None))),
                Action::LookForLearner(call) => look = Some(call),
                Action::Ask { calls, request, .. } => {
                    let answer = Some(Message::Reply(vote(&request)));
                    world.on(Event::Answered(calls[0].id, answer));
                }
                _ => {}
            }
        }
    }
    let look = look.expect("no learner has answered for two seconds");
    let actions = world.on(Event::Failed(look.id, Failure::TimedOut));
    let asked = take_overs(&actions);
    assert_eq!(asked.len(), 1);
    let actions = world.on(Event::Answered(asked[0].id, None));
    let replaced = Note::ReplacedBy(id(2));
    assert!(
        actions
            .iter()
            .any(|action| matches!(action, Action::Note(note) if *note == replaced)),
        "{actions:?}"
    );
}

#[test]
fn a_proposer_that_reaches_no_learner_declines_to_take_over() {
    let mut world = World::new();
    world.follow(ballot(4, 2));
    let actions = world.on(Event::TakeOver(9));
    let [Action::LookForLearner(call)] = actions[..] else {
        panic!("{actions:?}");
    };
    let actions = world.on(Event::Failed(call.id, Failure::TimedOut));
    let declines = |action: &Action| {
        matches!(
            action,
            Action::TakesOver {
                id: 9,
                willing: false
            }
        )
    };
    assert!(actions.iter().any(declines), "{actions:?}");
    assert_eq!(world.role.core().phase(), "following");
}

#[test]
fn one_heartbeat_at_a_time_goes_to_each_proposer_and_then_the_newest() {
    let mut world = World::new();
    let first = world.lead();
    assert_eq!(first.len(), 2);
    assert!(heartbeats(&world.tick()).is_empty());
    let next = heartbeats(&world.on(Event::Failed(first[0].id, Failure::TimedOut)));
    assert_eq!(next.len(), 1);
    assert_eq!(next[0].to, first[0].to);
}
