use std::convert::Infallible;
use std::rc::Rc;

use paxos::acceptor::{Acceptor, TrimPolicy};
use paxos::ids::{Ballot, ClusterId, Members, NodeName, Role, Slot};
use paxos::message::Value;
use paxos::standing::{Roster, Start};
use paxos::votes::{self, Place};

use super::*;

const ELECTION: Duration = Duration::from_millis(400);
const TICK: Duration = Duration::from_millis(200);
/// Processes are started at any time.
const BEGIN: Duration = Duration::from_millis(12_345);

/// What a disk holds, and what the loop did to it and to others.
struct World {
    role: AcceptorRole<u32>,
    now: Duration,
    room: Room,
    log: Log,
    /// The records of each write that had any.
    writes: Vec<Vec<Record>>,
    answers: Vec<(u32, Reply)>,
    /// Where the log's files were removed, and after how many writes.
    trims: Vec<(Option<Place>, usize)>,
    looks: Vec<u64>,
    settled: usize,
    enlisted: Vec<(Duration, usize)>,
    stood: Vec<Standing>,
}

#[derive(Default)]
struct Log(Vec<(Place, Record)>);

impl votes::Log for Log {
    type Error = Infallible;

    fn read(&self, place: Place, take: &mut dyn FnMut(&Record) -> bool) -> Result<(), Infallible> {
        let records = self.0.iter().skip_while(|(at, _)| *at < place);
        let _last = records.take_while(|(_, record)| take(record)).count();
        Ok(())
    }
}

fn id(id: u8) -> NodeId {
    NodeId::new(id).unwrap()
}

fn start(of: u8) -> Start {
    Start {
        incarnation: of.into(),
        count: 1,
        run: 100 + u64::from(of),
    }
}

fn members(count: u8) -> Members {
    Members::new(count).unwrap()
}

/// Acceptor 1 of so many.
fn member(acceptors: u8, acceptor: Acceptor) -> Member {
    Member::new(id(1), members(acceptors), start(1), acceptor)
}

fn node(role: Role, number: u8) -> NodeName {
    NodeName {
        role,
        id: id(number),
    }
}

fn enlist(role: Role, number: u8) -> Request {
    Request::Enlist {
        node: node(role, number),
        start: start(number),
        cluster: None,
        acceptors: Some(members(3)),
    }
}

fn witnessed(by: u8, cluster: Option<ClusterId>) -> Reply {
    Reply::Witnessed {
        start: start(1),
        witness: start(by),
        cluster,
        acceptors: Some(members(3)),
    }
}

fn ballot() -> Ballot {
    Ballot::new(1, id(1)).unwrap()
}

fn accept(slot: u64, value: &str) -> Request {
    Request::Accept {
        ballot: ballot(),
        first: Slot(slot),
        values: [Value(value.to_owned().into())].into(),
        committed: Slot(slot - 1),
    }
}

fn renew(trim: u64) -> Request {
    Request::Renew {
        ballot: ballot(),
        round: 1,
        committed: Slot(trim),
        trim: Slot(trim),
    }
}

fn accepted(slot: u64) -> Reply {
    Reply::Accepted {
        ballot: ballot(),
        first: Slot(slot),
        count: 1,
    }
}

impl World {
    fn new(member: Member) -> World {
        World {
            role: AcceptorRole::new(member, ELECTION),
            now: BEGIN,
            room: Room::Enough,
            log: Log::default(),
            writes: Vec::new(),
            answers: Vec::new(),
            trims: Vec::new(),
            looks: Vec::new(),
            settled: 0,
            enlisted: Vec::new(),
            stood: Vec::new(),
        }
    }

    /// The only acceptor of its cluster, which has begun.
    fn alone() -> World {
        let mut world = World::new(member(1, Acceptor::new()));
        world.run();
        world.writes.clear();
        world.looks.clear();
        world
    }

    /// One of three whose cluster was founded before, and whose start nobody has witnessed.
    fn returned() -> World {
        let mut member = member(3, Acceptor::new());
        let others = [2, 3].map(|other| (node(Role::Acceptor, other), start(other)));
        let known = Record::Known(Roster {
            cluster: ClusterId::new(1),
            founders: Some(members(3)),
            starts: others.into(),
        });
        member.replay(&known, Place { file: 0, offset: 0 });
        let mut world = World::new(member);
        world.run();
        world
    }

    fn with(mut self, bounds: Bounds) -> World {
        self.role = self.role.with_bounds(bounds);
        self
    }

    fn ask(&mut self, asker: u32, request: Request) {
        if let Some(answer) = self.role.answer(&request) {
            let reply = answer.into_reply(&self.log).unwrap();
            self.answers.push((asker, reply));
        } else {
            self.role.enqueue(request, asker).unwrap();
        }
    }

    /// Until the loop rests.
    fn run(&mut self) -> Option<Duration> {
        let mut event = Event::Woken;
        loop {
            match self.step(event) {
                Ok(Action::Write(write)) => event = self.persist(write),
                Ok(Action::Rest { until }) => return until,
                Ok(action) => panic!("{action:?}"),
                Err(next) => event = next,
            }
        }
    }

    /// Until the loop writes.
    fn run_to_write(&mut self) -> Write<u32> {
        let mut event = Event::Woken;
        loop {
            match self.step(event) {
                Ok(Action::Write(write)) => return write,
                Ok(action) => panic!("no write: {action:?}"),
                Err(next) => event = next,
            }
        }
    }

    /// Does what the loop says, unless it is a write or a rest.
    fn step(&mut self, event: Event<u32>) -> Result<Action<u32>, Event<u32>> {
        match self.role.on(event, self.now) {
            Action::Look { more } => {
                self.looks.push(more);
                Err(Event::Looked {
                    room: self.room,
                    volume: Volume::default(),
                })
            }
            Action::Settle(doubt) => {
                self.settled += 1;
                Err(Event::Settled(doubt.settle(&self.log).unwrap()))
            }
            Action::Finish(finished) => {
                let trim = finished.trim.map(|trim| (trim.before, self.writes.len()));
                self.trims.extend(trim);
                for (asker, answer) in finished.answers {
                    let reply = answer.into_reply(&self.log).unwrap();
                    self.answers.push((asker, reply));
                }
                Err(self.show(&finished.view))
            }
            Action::Show(view) => Err(self.show(&view)),
            Action::Enlist { open, .. } => {
                self.enlisted.push((self.now - BEGIN, open.len()));
                Err(Event::Woken)
            }
            action => Ok(action),
        }
    }

    fn show(&mut self, view: &View) -> Event<u32> {
        if view.has_changed {
            self.stood.push(view.standing);
        }
        Event::Woken
    }

    fn persist(&mut self, write: Write<u32>) -> Event<u32> {
        let file = self.writes.len() as u64;
        let persisted = write.persist(|records| {
            let placed = records.iter().zip(0..);
            let placed = placed.map(|(record, offset)| (Place { file, offset }, record.clone()));
            let placed: Vec<_> = placed.collect();
            let votes = placed
                .iter()
                .filter(|(_, record)| matches!(record, Record::Accepted { .. }));
            let places = votes.map(|(place, _)| *place).collect();
            self.log.0.extend(placed);
            self.writes.push(records.to_vec());
            Ok::<_, Infallible>(places)
        });
        Event::Written(persisted.unwrap_or_else(|never| match never {}))
    }

    /// Lets so much time pass, all of it at rest.
    fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some(until) = self.run().filter(|until| *until <= end) {
            assert!(until > self.now, "it rests");
            self.now = until;
        }
        self.now = end;
    }

    fn written(&self) -> Vec<usize> {
        self.writes.iter().map(Vec::len).collect()
    }
}

#[test]
fn requests_that_wait_share_a_write_and_are_answered_in_order() {
    let mut world = World::alone();
    for slot in 1..=4 {
        world.ask(slot as u32, accept(slot, "a"));
    }
    world.run();
    assert_eq!(world.written(), [4]);
    let answers = (1..=4).map(|slot| (slot as u32, accepted(slot)));
    assert_eq!(world.answers, answers.collect::<Vec<_>>());
}

#[test]
fn a_group_ends_at_its_number_of_requests_and_at_its_bytes() {
    let value = "x".repeat(100);
    let most = Bounds::default();
    for (bounds, written) in [
        (most, [5].as_slice()),
        (Bounds { group: 2, ..most }, &[2, 2, 1]),
        // One request more or less: 164 are too few.
        (
            Bounds {
                group_bytes: 165,
                ..most
            },
            &[2, 2, 1],
        ),
        (
            Bounds {
                group_bytes: 164,
                ..most
            },
            &[1; 5],
        ),
        (
            Bounds {
                group: 0,
                group_bytes: 0,
                ..most
            },
            &[1; 5],
        ),
    ] {
        let mut world = World::alone().with(bounds);
        for slot in 1..=5 {
            world.ask(slot as u32, accept(slot, &value));
        }
        world.run();
        assert_eq!(world.written(), written, "{bounds:?}");
        assert_eq!(world.answers.len(), 5);
    }
}

#[test]
fn the_volume_is_looked_at_for_each_request_with_what_its_group_has() {
    let mut world = World::alone();
    for slot in 1..=2 {
        world.ask(1, accept(slot, "four"));
    }
    world.run();
    assert_eq!(world.looks, [68, 136]);
    world.room = Room::Reserve;
    world.ask(2, accept(3, "four"));
    world.run();
    let last = world.answers.last().unwrap();
    assert!(matches!(last, (2, Reply::NoRoom { .. })), "{last:?}");
    world.looks.clear();
    world.pass(TICK);
    assert_eq!(world.looks, [0], "and at each tick");
}

#[test]
fn what_is_heard_of_the_standing_is_written_by_itself_in_its_turn() {
    let mut world = World::returned();
    world.ask(1, accept(1, "too early"));
    let heard = world.role.heard(id(2), witnessed(2, ClusterId::new(1)));
    assert_eq!(heard, Ok(false), "it was woken for the request");
    world.ask(2, accept(2, "in time"));
    world.run();
    assert_eq!(
        world.answers,
        [(1, Reply::NotVoting), (2, accepted(2))],
        "it votes after it has heard so, and for what came later"
    );

    // Each of these records takes the place of the one before.
    let mut world = World::new(member(3, Acceptor::new()));
    world.run();
    world.writes.clear();
    world.ask(1, enlist(Role::Acceptor, 2));
    world.role.heard(id(3), witnessed(3, None)).unwrap();
    world.ask(2, enlist(Role::Learner, 1));
    world.ask(3, enlist(Role::Learner, 2));
    world.run();
    assert_eq!(world.written(), [1, 1, 2]);
    let starts = |record: &Record| match record {
        Record::Known(roster) => roster.starts.len(),
        other => panic!("{other:?}"),
    };
    let starts: Vec<usize> = world.writes.iter().flatten().map(starts).collect();
    assert_eq!(starts, [1, 2, 3, 4]);
}

#[test]
fn one_write_is_under_way_at_a_time_and_what_needs_none_is_answered_meanwhile() {
    let mut world = World::alone();
    world.ask(1, accept(1, "a"));
    world.run();
    world.ask(2, accept(2, "b"));
    let write = world.run_to_write();
    world.ask(3, renew(0));
    assert_eq!(world.answers.len(), 2, "the leader's renewal is answered");
    let woken = world.role.enqueue(accept(3, "c"), 4);
    assert_eq!(
        woken,
        Ok(false),
        "nobody wakes a loop that waits for its disk"
    );
    // Not even when a tick is due.
    world.now += 2 * TICK;
    assert_eq!(world.run(), None);
    assert_eq!(world.written(), [1]);

    let event = world.persist(write);
    assert!(matches!(
        world.role.on(event, world.now),
        Action::Finish(Finished { answers, .. }) if answers.len() == 1
    ));
    world.looks.clear();
    world.run();
    assert_eq!(world.looks, [0, 65], "the tick, and the next group");
    assert_eq!(world.written(), [1, 1, 1]);
}

#[test]
fn a_write_that_fails_releases_no_answer() {
    let mut role = AcceptorRole::new(member(1, Acceptor::new()), ELECTION);
    let asker = Rc::new(());
    role.enqueue(accept(1, "a"), asker.clone()).unwrap();
    let mut event = Event::Woken;
    let write = loop {
        event = match role.on(event, BEGIN) {
            Action::Look { .. } => Event::Looked {
                room: Room::Enough,
                volume: Volume::default(),
            },
            Action::Write(write) if write.requests() == 0 => {
                Event::Written(write.persist(|_| Ok::<_, ()>(Vec::new())).unwrap())
            }
            Action::Write(write) => break write,
            _ => Event::Woken,
        }
    };
    assert!(write.has_records());
    assert_eq!(write.persist(|_| Err("the disk")).unwrap_err(), "the disk");
    assert_eq!(Rc::strong_count(&asker), 1, "its asker hears nothing");
    let probed = role.answer(&Request::Probe).unwrap().into_reply(&());
    assert!(
        matches!(probed, Ok(Reply::Probed { promised, .. }) if promised == Ballot::NONE),
        "nothing of it is told: {probed:?}"
    );
    for later in [TICK, 10 * TICK] {
        let action = role.on(Event::Woken, BEGIN + later);
        assert!(
            matches!(action, Action::Rest { until: None }),
            "and nothing follows: {action:?}"
        );
    }
}

#[test]
fn the_log_is_trimmed_when_the_record_that_allows_it_is_durable() {
    let trimming = TrimPolicy {
        tail: 1,
        stride: 1,
        ..TrimPolicy::default()
    };
    let acceptor = Acceptor::new().with_trimming(trimming);
    let mut world = World::new(member(1, acceptor));
    world.run();
    for slot in 1..=3 {
        world.ask(1, accept(slot, "a"));
        world.run();
    }
    world.ask(2, renew(3));
    assert_eq!(world.answers.len(), 4, "at once");
    world.run();
    assert_eq!(world.trims, [], "that is left to the next tick");
    world.now += TICK;
    let write = world.run_to_write();
    assert_eq!(world.trims, []);
    let before = world.writes.len();
    let event = world.persist(write);
    let trims = |record: &Record| matches!(record, Record::Trimmed { floor: Slot(2), .. });
    assert!(world.writes[before].iter().any(trims));
    assert!(world.step(event).is_err());
    let third = world
        .log
        .0
        .iter()
        .find(|(_, record)| matches!(record, Record::Accepted { first: Slot(3), .. }));
    let needed = third.map(|(place, _)| *place);
    assert_eq!(world.trims, [(needed, before + 1)]);
    world.ask(3, accept(4, "a"));
    world.run();
    assert_eq!(world.trims.len(), 1, "other records allow nothing");
}

#[test]
fn others_are_asked_often_until_it_votes_and_rarely_after_that() {
    let mut world = World::returned();
    world.pass(Duration::from_millis(250));
    let millis = |world: &World| {
        let asked = world.enlisted.iter();
        asked.map(|(at, _)| at.as_millis()).collect::<Vec<_>>()
    };
    assert_eq!(millis(&world), [0, 100, 200]);
    assert!(world.enlisted.iter().all(|(_, open)| *open == 2));
    let heard = world.role.heard(id(2), witnessed(2, ClusterId::new(1)));
    assert_eq!(heard, Ok(true));
    world.pass(Duration::from_secs(5));
    assert_eq!(millis(&world), [0, 100, 200, 300, 2300, 4300]);
    assert_eq!(world.enlisted.last().unwrap().1, 1, "the one that is left");
    world
        .role
        .heard(id(3), witnessed(3, ClusterId::new(1)))
        .unwrap();
    world.pass(Duration::from_secs(5));
    assert_eq!(world.enlisted.len(), 6, "nobody is left");
}

#[test]
fn a_change_of_standing_is_told_once() {
    let mut world = World::returned();
    world.pass(Duration::from_secs(1));
    assert_eq!(world.stood, [Standing::Joining]);
    world
        .role
        .heard(id(2), witnessed(2, ClusterId::new(1)))
        .unwrap();
    world.pass(Duration::from_secs(1));
    let voting = Standing::Voting {
        cluster: ClusterId::new(1).unwrap(),
        founders: Some(members(3)),
    };
    assert_eq!(world.stood, [Standing::Joining, voting]);
}

#[test]
fn ticks_come_at_half_an_election_timeout() {
    let mut world = World::alone();
    world.ask(1, accept(1, "a"));
    world.run();
    let is_led = |world: &mut World| {
        let probed = world.role.answer(&Request::Probe).unwrap();
        match probed.into_reply(&()) {
            Ok(Reply::Probed { leader_alive, .. }) => leader_alive,
            other => panic!("{other:?}"),
        }
    };
    world.pass(ELECTION - Duration::from_millis(1));
    assert!(is_led(&mut world));
    world.pass(Duration::from_millis(2));
    assert!(!is_led(&mut world));
}

#[test]
fn a_queue_has_bounds_of_number_and_bytes() {
    let bounds = Bounds {
        queue: 3,
        queue_bytes: 200,
        ..Bounds::default()
    };
    let mut world = World::alone().with(bounds);
    assert_eq!(world.role.enqueue(accept(1, "a"), 1), Ok(true));
    assert_eq!(world.role.enqueue(accept(2, "a"), 1), Ok(false), "woken");
    let large = "x".repeat(100);
    assert_eq!(world.role.enqueue(accept(3, &large), 1), Err(Busy));
    assert_eq!(world.role.heard(id(2), Reply::NotVoting), Ok(false));
    assert_eq!(world.role.heard(id(2), Reply::NotVoting), Err(Busy));
    assert_eq!(world.role.enqueue(renew(0), 1), Err(Busy));
    world.run();
    assert_eq!(world.answers.len(), 2);
    // One that is larger than the queue has its turn all the same, and gives its bytes back.
    for slot in 3..=4 {
        let larger = "x".repeat(1000);
        assert_eq!(world.role.enqueue(accept(slot, &larger), 1), Ok(true));
        assert_eq!(world.role.enqueue(accept(slot, &larger), 1), Err(Busy));
        world.run();
    }
    assert_eq!(world.answers.len(), 4);
}

#[test]
fn a_vote_that_only_the_log_knows_is_compared_with_it() {
    let acceptor = Acceptor::new().with_held_bytes(0);
    let mut world = World::new(member(1, acceptor));
    world.run();
    world.ask(1, accept(1, "a"));
    world.run();
    assert_eq!(world.settled, 0);
    world.ask(2, accept(1, "a"));
    world.ask(3, accept(1, "b"));
    world.run();
    assert_eq!(world.settled, 2);
    assert_eq!(world.answers[1], (2, accepted(1)));
    let (asker, reply) = &world.answers[2];
    assert!(
        matches!((asker, reply), (3, Reply::Nack { .. })),
        "{reply:?}"
    );
}
