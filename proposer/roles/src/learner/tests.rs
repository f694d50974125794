use super::*;
use bytes::Bytes;
use paxos::codec;
use paxos::command::{Command, Operation};
use paxos::ids::{Ballot, Role};
use paxos::machine::Outcome;
use paxos::message::{Learned, Value, Vote};
use paxos::recent::Bounds;
use paxos::verify::Verdict;

const HOLD: Duration = Duration::from_millis(200);
const SYNC: Duration = Duration::from_millis(100);

/// A disk in memory.
struct Disk {
    state: State,
    records: Vec<Vec<Entry>>,
    /// Records before this one are trimmed.
    trimmed: usize,
    syncs: usize,
    fails: bool,
    room: bool,
    may_learn: bool,
    snapshots: Vec<Slot>,
    /// Another node's snapshot, and how much of it is here.
    incoming: Option<(Machine, u64)>,
    learners: u8,
    stores: u8,
}

impl World for Disk {
    type Position = usize;
    type Asker = u32;
    type Error = &'static str;

    fn state(&self) -> impl Deref<Target = State> {
        &self.state
    }

    fn state_mut(&mut self) -> impl DerefMut<Target = State> {
        &mut self.state
    }

    fn applied(&mut self, _entries: &[Entry]) {}

    fn may_learn(&self) -> bool {
        self.may_learn
    }

    fn has_room(&mut self, _bytes: u64) -> bool {
        self.room
    }

    fn has_room_for(&self, _bytes: u64) -> bool {
        self.room
    }

    fn append(&mut self, record: &[u8]) -> usize {
        let record = codec::decode_entries(Bytes::copy_from_slice(record));
        self.records.push(record.unwrap());
        self.records.len() - 1
    }

    fn sync(&mut self) -> Result<(), &'static str> {
        self.syncs += 1;
        match self.fails {
            true => Err("the disk failed"),
            false => Ok(()),
        }
    }

    fn read(&self, position: usize) -> Result<Vec<Entry>, &'static str> {
        assert!(position >= self.trimmed, "it was trimmed");
        Ok(self.records[position].clone())
    }

    fn trim_before(&mut self, position: usize) -> Result<(), &'static str> {
        self.trimmed = position;
        Ok(())
    }

    fn trim_all(&mut self) -> Result<(), &'static str> {
        self.trimmed = self.records.len();
        Ok(())
    }

    fn snapshots(&self) -> Result<Vec<Slot>, &'static str> {
        Ok(self.snapshots.clone())
    }

    fn received(&self, _slot: Slot) -> u64 {
        self.incoming.as_ref().map_or(0, |(_, received)| *received)
    }

    fn install(&mut self, slot: Slot) -> Result<Option<Machine>, &'static str> {
        let received = self.incoming.take();
        Ok(received
            .map(|(machine, _)| machine)
            .filter(|it| it.applied() == slot))
    }

    fn discard_received(&mut self) -> Result<(), &'static str> {
        self.incoming = None;
        Ok(())
    }

    fn learners(&self) -> Vec<NodeName> {
        (2..2 + self.learners).map(learner).collect()
    }

    fn stores(&self) -> Vec<NodeName> {
        (1..1 + self.stores).map(store).collect()
    }
}

fn name(role: Role, number: u8) -> NodeName {
    let id = NodeId::new(number).unwrap();
    NodeName { role, id }
}

fn learner(number: u8) -> NodeName {
    name(Role::Learner, number)
}

fn store(number: u8) -> NodeName {
    name(Role::Store, number)
}

fn acceptor(number: u8) -> NodeId {
    NodeId::new(number).unwrap()
}

fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// A write of this text.
fn write(text: &str) -> Value {
    let command = Command {
        operation: Operation::Write,
        timestamp: 1,
        if_version: None,
        if_instance: None,
        sequence: None,
        client_id: "alice",
        request_id: None,
        resource: "colour",
        data: text.as_bytes(),
    };
    command.encode()
}

fn unreadable() -> Value {
    Value(vec![0xff; 9].into())
}

/// Writes of their slots' numbers, up to a slot.
fn machine(upto: u64) -> Machine {
    let mut machine = Machine::new();
    for slot in 1..=upto {
        machine
            .apply(Slot(slot), &write(&slot.to_string()))
            .unwrap();
    }
    machine
}

fn entries(first: u64, last: u64) -> Vec<Entry> {
    let mut machine = machine(first - 1);
    let entry = |slot: u64| {
        let value = write(&slot.to_string());
        let applied = machine.apply(Slot(slot), &value).unwrap();
        Entry {
            slot: Slot(slot),
            value,
            applied,
        }
    };
    (first..=last).map(entry).collect()
}

fn told_entries(first: u64, last: u64, previous: Option<u64>) -> Told {
    Told::Entries {
        entries: entries(first, last),
        committed: Slot(last),
        previous,
    }
}

/// A loop of a learner with three acceptors, and all that it asked for.
struct Bench {
    role: LearnerRole<Disk>,
    now: Duration,
    actions: Vec<Action<u32>>,
}

impl Bench {
    fn new() -> Bench {
        Bench::with(Settings {
            sampling: None,
            ..Settings::default()
        })
    }

    fn with(settings: Settings) -> Bench {
        let (state, log) = Replay::on(Machine::new(), Bounds::default()).end();
        let disk = Disk {
            state,
            records: Vec::new(),
            trimmed: 0,
            syncs: 0,
            fails: false,
            room: true,
            may_learn: true,
            snapshots: Vec::new(),
            incoming: None,
            learners: 2,
            stores: 1,
        };
        let members = Members::new(3).unwrap();
        let core = Learner::new(members, Slot::ZERO);
        Bench {
            role: LearnerRole::new(disk, settings, members, core, log, 0, Duration::ZERO),
            now: Duration::ZERO,
            actions: Vec::new(),
        }
    }

    fn on(&mut self, event: Event<u32>) -> &mut Bench {
        self.actions.extend(self.role.on(event, self.now).unwrap());
        self.actions.extend(self.role.settle(self.now).unwrap());
        self
    }

    fn pass(&mut self, time: Duration) -> &mut Bench {
        self.now += time;
        self.on(Event::Tick { dice: 0 })
    }

    fn tell(&mut self, asker: u32, first: u64, values: &[Value], committed: u64) -> &mut Bench {
        self.on(Event::Told {
            learn: Learn {
                first: Slot(first),
                values: values.iter().cloned().collect(),
                committed: Slot(committed),
            },
            from: name(Role::Proposer, 1),
            asker,
        })
    }

    /// Tells the writes of their numbers.
    fn tell_numbers(&mut self, first: u64, last: u64) -> &mut Bench {
        let values: Vec<Value> = (first..=last)
            .map(|slot| write(&slot.to_string()))
            .collect();
        self.tell(0, first, &values, last)
    }

    fn answers(&mut self) -> Vec<(u32, Learned)> {
        let answer = |action: &mut Action<u32>| matches!(action, Action::Answer { .. });
        let answers = self.actions.extract_if(.., answer);
        let answers = answers.filter_map(|action| match action {
            Action::Answer { asker, learned } => Some((asker, learned)),
            _ => None,
        });
        answers.collect()
    }

    /// The questions to acceptors since the last look.
    fn questions(&mut self) -> Vec<(u64, NodeId, Request)> {
        let question = |action: &mut Action<u32>| matches!(action, Action::AskAcceptor { .. });
        let questions = self.actions.extract_if(.., question);
        let questions = questions.filter_map(|action| match action {
            Action::AskAcceptor {
                number,
                acceptor,
                request,
                ..
            } => Some((number, acceptor, request)),
            _ => None,
        });
        questions.collect()
    }

    /// The one question to another node since the last look, if there is one.
    fn asks(&mut self) -> Option<(u64, NodeName, Ask)> {
        let ask = |action: &mut Action<u32>| matches!(action, Action::AskNode { .. });
        let asks: Vec<_> = self.actions.extract_if(.., ask).collect();
        assert!(asks.len() <= 1, "one at a time: {asks:?}");
        match asks.into_iter().next()? {
            Action::AskNode { number, node, ask } => Some((number, node, ask)),
            _ => None,
        }
    }

    /// What was lost, as it was said last.
    fn lost(&mut self) -> Option<Option<Lost>> {
        let lost = |action: &mut Action<u32>| matches!(action, Action::Lost(_));
        match self.actions.extract_if(.., lost).last()? {
            Action::Lost(lost) => Some(lost),
            _ => None,
        }
    }

    fn reply(&mut self, question: &(u64, NodeId, Request), reply: Reply) -> &mut Bench {
        let number = question.0;
        self.on(Event::Answered { number, reply })
    }

    /// The acceptors have forgotten up to slot 5 what comes next here.
    fn forget(&mut self) -> &mut Bench {
        let next = self.role.applied().next();
        self.tell(9, next.0, &[], 9);
        self.pass(millis(50)).pass(millis(50));
        let asked = self.questions();
        assert_eq!(asked.len(), 2, "a quorum is asked");
        for question in &asked {
            let reply = Reply::Truncated {
                from: next,
                floor: Slot(5),
            };
            self.reply(question, reply);
        }
        // The third one was asked when the first had forgotten.
        self.questions();
        self
    }

    fn fetched(&mut self, question: &(u64, NodeId, Request), votes: &[(u64, Value)]) -> &mut Bench {
        let Request::Fetch { from, to } = question.2 else {
            panic!("it is a fetch");
        };
        let vote = |(slot, value): &(u64, Value)| Vote {
            slot: Slot(*slot),
            ballot: Ballot::new(1, acceptor(1)).unwrap(),
            value: value.clone(),
        };
        let votes = votes.iter().map(vote).collect();
        self.reply(question, Reply::Fetched { from, to, votes })
    }
}

fn has_outcomes(learned: &Learned) -> Vec<bool> {
    learned.outcomes.iter().map(Option::is_some).collect()
}

#[test]
fn what_is_told_in_order_is_applied_and_answered_at_once() {
    let mut bench = Bench::new();
    bench.tell(7, 1, &[write("a"), write("b")], 2);
    let answers = bench.answers();
    let [(7, learned)] = &answers[..] else {
        panic!("{answers:?}");
    };
    assert_eq!((learned.first, learned.applied), (Slot(1), Slot(2)));
    assert_eq!(learned.durable, Slot::ZERO, "nothing is synced yet");
    let outcome = |at: usize| learned.outcomes[at].as_ref().map(|it| it.outcome.clone());
    assert_eq!(outcome(1), Some(Outcome::Committed { version: 2 }));
    assert_eq!(bench.role.world.records.len(), 1);
}

#[test]
fn an_answer_waits_for_a_gap_to_close_and_not_for_long() {
    let mut bench = Bench::new();
    bench.tell(1, 2, &[write("b")], 2);
    assert_eq!(bench.answers(), []);
    bench.tell(2, 1, &[write("a")], 2);
    let both: Vec<u32> = bench.answers().iter().map(|(asker, _)| *asker).collect();
    assert_eq!(both, [1, 2], "the gap has closed");

    bench.tell(3, 9, &[write("i")], 9);
    bench.pass(HOLD - millis(1));
    assert_eq!(bench.answers(), []);
    bench.pass(millis(1));
    let (asker, learned) = bench.answers().remove(0);
    assert_eq!((asker, has_outcomes(&learned)), (3, vec![false]));
}

#[test]
fn one_whose_cluster_is_not_confirmed_takes_and_answers_nothing() {
    let mut bench = Bench::new();
    bench.role.world.may_learn = false;
    bench.tell_numbers(1, 3).pass(HOLD);
    assert_eq!(
        (bench.role.applied(), bench.answers()),
        (Slot::ZERO, vec![])
    );
}

#[test]
fn the_log_is_synced_a_little_later_or_when_enough_waits() {
    let mut bench = Bench::new();
    bench.tell_numbers(1, 3).pass(SYNC - millis(1));
    assert_eq!(
        (bench.role.world.syncs, bench.role.durable()),
        (0, Slot::ZERO)
    );
    bench.pass(millis(1));
    assert_eq!((bench.role.world.syncs, bench.role.durable()), (1, Slot(3)));
    bench.pass(SYNC);
    assert_eq!(bench.role.world.syncs, 1, "there is nothing to sync");

    let mut bench = Bench::with(Settings {
        sync_bytes: 100,
        ..Settings::default()
    });
    assert!(bench.role.is_quick(99));
    assert!(!bench.role.is_quick(100), "it would wait for the disk");
    bench.tell(0, 1, &[write(&"x".repeat(100))], 1);
    assert_eq!((bench.role.world.syncs, bench.role.durable()), (1, Slot(1)));
}

#[test]
fn a_disk_that_fails_ends_the_loop() {
    let mut bench = Bench::new();
    bench.tell_numbers(1, 1);
    bench.role.world.fails = true;
    let settled = bench.role.settle(bench.now + SYNC);
    assert_eq!(settled.err(), Some("the disk failed"));
    assert_eq!(bench.role.durable(), Slot::ZERO);
}

#[test]
fn a_snapshot_is_written_when_the_log_has_grown_and_the_log_kept_from_the_older_of_two_on() {
    let mut bench = Bench::with(Settings {
        sync_bytes: 1,
        snapshot_every_bytes: 200,
        sampling: None,
        ..Settings::default()
    });
    let snapshots = |bench: &mut Bench| {
        let is = |action: &mut Action<u32>| matches!(action, Action::WriteSnapshot(_));
        let slots = bench.actions.extract_if(.., is).map(|action| match action {
            Action::WriteSnapshot(copy) => copy.applied().0,
            _ => 0,
        });
        slots.collect::<Vec<u64>>()
    };
    for slot in 1..=20 {
        bench.tell_numbers(slot, slot);
    }
    let first = snapshots(&mut bench);
    assert_eq!(first.len(), 1, "one at a time: {first:?}");
    bench.role.world.snapshots = vec![Slot(first[0])];
    bench.on(Event::SnapshotWritten { bytes: 10 });
    assert_eq!(bench.role.world.trimmed, 0, "that one could be damaged");
    bench.tell_numbers(21, 21);
    let second = snapshots(&mut bench);
    assert_eq!(second, [21]);
    bench.role.world.snapshots = vec![Slot(first[0]), Slot(21)];
    // Twice its size is far off.
    bench.on(Event::SnapshotWritten { bytes: 1 << 20 });
    assert_eq!(bench.role.first_in_log(), Slot(first[0] + 1));
    assert_eq!(bench.role.world.trimmed as u64, first[0]);
    for slot in 22..=60 {
        bench.tell_numbers(slot, slot);
    }
    assert_eq!(snapshots(&mut bench), [0; 0], "a large state, less often");
    let mut failed = Bench::with(bench.role.settings.clone());
    for slot in 1..=9 {
        failed.tell_numbers(slot, slot);
    }
    assert_eq!(snapshots(&mut failed).len(), 1);
    failed.on(Event::SnapshotFailed);
    for slot in 10..=20 {
        failed.tell_numbers(slot, slot);
    }
    assert_eq!(snapshots(&mut failed).len(), 1, "it is tried again");
}

#[test]
fn while_the_volume_is_almost_full_nothing_is_taken_and_every_question_still_ends() {
    let mut bench = Bench::new();
    bench.tell(0, 1, &[], 4);
    bench.pass(millis(50)).pass(millis(50));
    let asked = bench.questions();
    assert_eq!(asked.len(), 2);
    bench.role.world.room = false;
    for question in &asked {
        bench.fetched(question, &[(1, write("a"))]);
    }
    bench.tell(1, 1, &[write("a")], 4);
    assert_eq!(bench.role.applied(), Slot::ZERO);
    bench.role.world.room = true;
    for _ in 0..40 {
        bench.pass(millis(50));
    }
    assert!(!bench.questions().is_empty(), "they are asked again");
}

#[test]
fn an_answer_to_other_slots_than_were_asked_for_is_none() {
    let mut bench = Bench::new();
    bench.tell(0, 1, &[], 1);
    bench.pass(millis(50)).pass(millis(50));
    let asked = bench.questions();
    let [one, other] = &asked[..] else {
        panic!("{asked:?}");
    };
    bench.fetched(one, &[(1, write("a"))]);
    let beyond = Reply::Fetched {
        from: Slot(1),
        to: Slot(2),
        votes: Vec::new(),
    };
    bench.reply(other, beyond);
    let third = bench.questions().remove(0);
    assert_eq!(third.1, acceptor(3), "another one is asked in its place");
    bench.fetched(&third, &[(1, write("a"))]);
    assert_eq!(bench.role.applied(), Slot(1));
}

#[test]
fn another_value_than_was_applied_makes_it_ask_and_take_nothing_until_a_quorum_has_answered() {
    let mut bench = Bench::new();
    bench.tell_numbers(1, 2);
    bench.answers();
    bench.tell(5, 2, &[write("something else"), write("3")], 3);
    let told = bench.answers();
    assert_eq!(told[0].0, 5, "answered at once");
    assert_eq!(has_outcomes(&told[0].1), [false, false]);
    let asked = bench.questions();
    assert_eq!(asked.len(), 3, "every acceptor");
    bench.tell(6, 3, &[write("3")], 3);
    assert_eq!(has_outcomes(&bench.answers()[0].1), [false]);
    let recalled = bench.role.recall(&[Slot(1)]).unwrap();
    assert_eq!(recalled.outcomes, [None], "what it has may be wrong");

    bench.fetched(&asked[0], &[(2, write("2"))]);
    assert!(bench.role.is_in_doubt(), "one is no quorum");
    bench.fetched(&asked[1], &[]);
    assert!(!bench.role.is_in_doubt());
    let refused = bench.actions.iter().any(|action| {
        let Action::Judged {
            verdict, told_by, ..
        } = action
        else {
            return false;
        };
        (*verdict, *told_by) == (Verdict::Same, Some(name(Role::Proposer, 1)))
    });
    assert!(refused);
    bench.tell_numbers(3, 3);
    assert_eq!(bench.role.applied(), Slot(3));
}

#[test]
fn one_that_is_contradicted_stops_for_good_and_tells_nobody_what_came_of_anything() {
    for (has_other, votes) in [(true, vec![(2, write("x"))]), (false, Vec::new())] {
        let mut bench = Bench::new();
        bench.tell_numbers(1, 2);
        bench.tell(5, 2, &[write("x")], 2);
        for question in &bench.questions()[..2] {
            bench.fetched(question, &votes);
        }
        let slot = Slot(2);
        let halt = Halt::Contradicted { slot, has_other };
        assert_eq!(bench.role.halted(), Some(halt));
        bench.answers();
        bench.on(Event::Outvoted).tell_numbers(1, 3);
        assert_eq!(bench.role.halted(), Some(halt), "the first reason stays");
        assert_eq!(bench.role.applied(), Slot(2));
        assert_eq!(has_outcomes(&bench.answers()[0].1), [false; 3]);
    }
}

#[test]
fn what_is_in_the_log_alone_is_compared_as_well() {
    let mut bench = Bench::new();
    bench.tell_numbers(1, 3);
    bench.role.world.state.digests = paxos::digests::Digests::after(Slot(3));
    bench.tell_numbers(1, 3);
    assert!(!bench.role.is_in_doubt());
    bench.tell(1, 2, &[write("x")], 3);
    assert!(bench.role.is_in_doubt());
}

#[test]
fn a_doubt_is_put_again_until_it_is_settled_or_somebody_has_forgotten() {
    let mut bench = Bench::new();
    bench.tell_numbers(1, 2).tell(5, 2, &[write("x")], 2);
    let first = bench.questions();
    bench.pass(millis(999));
    assert_eq!(bench.questions(), []);
    bench.pass(millis(1));
    let again = bench.questions();
    assert_eq!(again.len(), 3);
    assert!(again.iter().all(|it| first.iter().all(|f| f.0 != it.0)));
    let gone = Reply::Truncated {
        from: Slot(2),
        floor: Slot(2),
    };
    bench.reply(&again[0], gone);
    assert!(bench.role.is_in_doubt());
    bench.pass(millis(1000));
    assert!(!bench.role.is_in_doubt());
    assert_eq!(bench.role.halted(), None);
}

#[test]
fn samples_are_of_the_newest_slot_and_then_of_those_remembered() {
    let mut bench = Bench::with(Settings::default());
    bench.tell_numbers(1, 9);
    let asked = |bench: &mut Bench| {
        let slots = bench
            .questions()
            .into_iter()
            .map(|(.., request)| match request {
                Request::Fetch { from, to } if from == to => from.0,
                other => panic!("{other:?}"),
            });
        slots.collect::<Vec<u64>>()
    };
    bench.pass(millis(999));
    assert_eq!(asked(&mut bench), [0; 0]);
    bench.pass(millis(1));
    assert_eq!(asked(&mut bench), [9; 3]);
    // Nobody answers: a sample can wait.
    bench.pass(millis(1000));
    assert!(!bench.role.is_in_doubt());
    bench.now += millis(100);
    bench.on(Event::Tick { dice: 9 + 4 });
    assert_eq!(asked(&mut bench), [5; 3], "any that is known");
    bench.pass(millis(1000));
    bench.role.world.may_learn = false;
    bench.pass(millis(20_000));
    assert_eq!(
        asked(&mut bench),
        [0; 0],
        "a list of another length proves nothing"
    );
}

#[test]
fn a_value_that_cannot_be_read_counts_only_if_a_quorum_of_acceptors_has_it() {
    let mut bench = Bench::new();
    bench.tell(0, 1, &[write("a"), unreadable(), write("c")], 3);
    let unread = Notice::Unread(Slot(2));
    let said = |action: &Action<u32>| matches!(action, Action::Say(notice) if *notice == unread);
    assert!(bench.actions.iter().any(said));
    assert_eq!((bench.role.applied(), bench.role.halted()), (Slot(1), None));

    bench.tell(0, 1, &[], 3);
    bench.pass(millis(50)).pass(millis(50));
    for question in &bench.questions() {
        bench.fetched(question, &[(2, unreadable()), (3, write("c"))]);
    }
    let halted = bench.role.halted();
    assert!(matches!(
        halted,
        Some(Halt::Undecodable { slot: Slot(2), .. })
    ));
    bench.pass(SYNC);
    assert_eq!(
        bench.role.durable(),
        Slot(1),
        "what was not applied is on no disk"
    );
}

#[test]
fn what_acceptors_have_forgotten_is_asked_of_one_learner_after_the_other() {
    let mut bench = Bench::new();
    bench.forget();
    let (number, node, ask) = bench.asks().unwrap();
    let from = Slot(1);
    assert_eq!((node, ask), (learner(2), Ask::Entries { from }));
    let nothing = Told::Entries {
        entries: Vec::new(),
        committed: Slot(9),
        previous: None,
    };
    let told = nothing.clone();
    bench.on(Event::NodeTold { number, told });
    let (next, node, _) = bench.asks().unwrap();
    assert_eq!(node, learner(3));
    let told = told_entries(1, 5, None);
    bench.on(Event::NodeTold { number, told });
    assert_eq!(bench.role.applied(), Slot::ZERO, "that question is over");
    let told = told_entries(1, 3, None);
    let number = next;
    bench.on(Event::NodeTold { number, told });
    let (number, node, ask) = bench.asks().unwrap();
    let from = Slot(4);
    assert_eq!((node, ask), (learner(3), Ask::Entries { from }));
    let told = told_entries(4, 6, None);
    bench.on(Event::NodeTold { number, told });
    assert_eq!(bench.asks(), None, "the acceptors have the rest");
    assert_eq!((bench.role.applied(), bench.lost()), (Slot(6), Some(None)));

    // Another one is asked first the next time.
    let mut bench = Bench::new();
    bench.role.catch_ups = 1;
    bench.forget();
    assert_eq!(bench.asks().unwrap().1, learner(3));
}

#[test]
fn entries_are_taken_only_if_they_follow_what_is_here() {
    for (told, lacks) in [
        (told_entries(2, 5, None), false),
        (told_entries(1, 5, None), false),
        (told_entries(3, 5, Some(1)), false),
        (told_entries(3, 2, None), true),
    ] {
        let mut bench = Bench::new();
        bench.tell_numbers(1, 2).forget();
        let (number, ..) = bench.asks().unwrap();
        bench.on(Event::NodeTold { number, told });
        assert_eq!(bench.role.applied(), Slot(2));
        let said = bench.actions.iter().any(|action| {
            let Action::Say(Notice::NotFrom { node, lacks: l, .. }) = action else {
                return false;
            };
            (*node, *l) == (learner(2), lacks)
        });
        assert!(said);
        assert_eq!(bench.asks().unwrap().1, learner(3));
    }
}

#[test]
fn a_snapshot_comes_in_pieces_and_what_is_here_of_it_is_not_asked_for_again() {
    let mut bench = Bench::new();
    bench.tell_numbers(1, 2).forget();
    bench.role.world.incoming = Some((machine(8), 10));
    let piece = |slot, offset| Ask::Piece { slot, offset };
    let (number, _, ask) = bench.asks().unwrap();
    assert_eq!(ask, Ask::Entries { from: Slot(3) });
    let told = Told::Gone;
    bench.on(Event::NodeTold { number, told });
    let (number, _, ask) = bench.asks().unwrap();
    assert_eq!(ask, piece(None, 0));
    let told = |bytes: &'static [u8]| Told::Piece {
        slot: Slot(8),
        bytes: bytes.into(),
        length: 14,
    };
    bench.on(Event::NodeTold {
        number,
        told: told(b"0123456789"),
    });
    let (number, _, ask) = bench.asks().unwrap();
    assert_eq!(ask, piece(Some(Slot(8)), 10));
    assert_eq!(bench.role.receiving(), Some(Slot(8)));
    bench.on(Event::NodeTold {
        number,
        told: told(b"0123"),
    });
    assert_eq!(bench.asks(), None, "it is written first");
    let written = bench.actions.iter().any(|action| {
        let Action::Receive { slot, offset, .. } = action else {
            return false;
        };
        (*slot, *offset) == (Slot(8), 10)
    });
    assert!(written);
    bench.role.world.incoming = Some((machine(8), 14));
    bench.on(Event::Received { number });
    let (number, _, ask) = bench.asks().unwrap();
    assert_eq!(ask, piece(Some(Slot(8)), 14));
    bench.on(Event::NodeTold {
        number,
        told: told(b""),
    });
    assert_eq!(
        (bench.role.applied(), bench.role.durable()),
        (Slot(8), Slot(8))
    );
    assert_eq!(bench.role.core().delivered(), Slot(8));
    assert_eq!(bench.role.first_in_log(), Slot(9), "the log has a gap");
    assert_eq!(bench.role.world.trimmed, 1);
    assert_eq!((bench.asks(), bench.role.receiving()), (None, None));
    bench.tell_numbers(9, 9);
    assert_eq!(bench.role.applied(), Slot(9));
}

#[test]
fn a_store_is_asked_last_and_for_its_state_alone() {
    let mut bench = Bench::new();
    bench.forget();
    for _ in 0..2 {
        let (number, ..) = bench.asks().unwrap();
        let why = "it is down".to_owned();
        bench.on(Event::Failed { number, why });
    }
    let (number, node, ask) = bench.asks().unwrap();
    let piece = Ask::Piece {
        slot: None,
        offset: 0,
    };
    assert_eq!((node, ask), (store(1), piece));
    let why = "it answered 404".to_owned();
    let told = Told::Lacks { why };
    bench.on(Event::NodeTold { number, told });
    let lost = bench.lost().flatten().unwrap();
    assert!(!lost.is_certain(), "the learners may have it");
    assert_eq!(lost.silent, [learner(2), learner(3)]);
    assert_eq!((lost.first, lost.last), (Slot(1), Slot(5)));
    assert_eq!(lost.without, [store(1)]);
    let text = lost.to_string();
    assert!(
        text.contains("learner-2, learner-3. Bring it back"),
        "{text}"
    );
}

#[test]
fn what_nobody_has_is_said_to_be_lost_and_asked_for_again_later() {
    let mut bench = Bench::new();
    (bench.role.world.learners, bench.role.world.stores) = (0, 0);
    bench.forget();
    let lost = bench.lost().flatten().unwrap();
    assert!(lost.is_certain());
    bench.role.world.learners = 1;
    bench.forget();
    assert_eq!(bench.asks(), None, "not at once");
    bench.pass(millis(1000));
    bench.forget();
    assert_eq!(bench.asks().unwrap().1, learner(2));
}

#[test]
fn a_snapshot_without_room_for_it_is_given_up_whole() {
    let mut bench = Bench::new();
    bench.forget();
    let (number, ..) = bench.asks().unwrap();
    let told = Told::Gone;
    bench.on(Event::NodeTold { number, told });
    let told = Told::Piece {
        slot: Slot(8),
        bytes: Bytes::from_static(b"0123"),
        length: 100,
    };
    for _ in 0..2 {
        bench.role.world.incoming = Some((machine(8), 40));
        bench.role.world.room = false;
        let (number, ..) = bench.asks().unwrap();
        let told = told.clone();
        bench.on(Event::NodeTold { number, told });
    }
    assert!(bench.role.world.incoming.is_none());
    let needed = bench.actions.iter().find_map(|action| match action {
        Action::Say(Notice::NoRoomFor { bytes, .. }) => Some(*bytes),
        _ => None,
    });
    assert_eq!(needed, Some(60));
    assert_eq!((bench.asks(), bench.lost()), (None, Some(None)));
}

#[test]
fn entries_that_come_while_a_doubt_is_open_are_asked_for_again_soon() {
    let mut bench = Bench::new();
    bench.tell_numbers(1, 2).forget();
    let (number, ..) = bench.asks().unwrap();
    bench.tell(1, 2, &[write("x")], 2);
    let asked = bench.questions();
    let told = told_entries(3, 5, None);
    bench.on(Event::NodeTold { number, told });
    assert_eq!((bench.role.applied(), bench.asks()), (Slot(2), None));
    for question in &asked[..2] {
        bench.fetched(question, &[(2, write("2"))]);
    }
    bench.pass(millis(1000)).forget();
    let (number, ..) = bench.asks().unwrap();
    let told = told_entries(3, 5, None);
    bench.on(Event::NodeTold { number, told });
    assert_eq!(bench.role.applied(), Slot(5));
}

#[test]
fn one_whose_snapshot_is_damaged_or_gone_halfway_may_still_have_what_is_missing() {
    for is_damaged in [true, false] {
        let mut bench = Bench::new();
        (bench.role.world.learners, bench.role.world.stores) = (0, 1);
        bench.forget();
        for received in [0, 4] {
            let (number, ..) = bench.asks().unwrap();
            bench.role.world.incoming = (received == 0).then(|| (Machine::new(), 4));
            let gone = Told::Lacks {
                why: "it answered 404".to_owned(),
            };
            let piece = Told::Piece {
                slot: Slot(8),
                bytes: Bytes::new(),
                length: 4,
            };
            let told = match is_damaged || received == 0 {
                true => piece,
                false => gone,
            };
            bench.on(Event::NodeTold { number, told });
        }
        let lost = bench.lost().flatten().unwrap();
        assert_eq!((lost.silent, lost.without), (vec![store(1)], vec![]));
    }
}

#[test]
fn a_start_applies_the_log_again_and_notices_what_is_not_as_it_was() {
    let record = |entries: &[Entry]| codec::encode_entries(entries);
    let mut replay = Replay::on(machine(2), Bounds::default());
    replay.record(10, &record(&entries(1, 4))).unwrap();
    replay.record(11, &record(&entries(5, 6))).unwrap();
    let (state, log) = replay.end();
    assert_eq!(state.machine.applied(), Slot(6));
    assert_eq!(state.machine.digest(), machine(6).digest());
    assert_eq!(state.checksum(Slot(3)), Some(write("3").checksum()));
    assert_eq!(state.checksum(Slot(2)), None, "the snapshot's");
    assert_eq!(log.first(), Some(Slot(1)));

    let mut replay = Replay::on(machine(2), Bounds::default());
    let error = replay.record(10, &record(&entries(4, 4))).unwrap_err();
    assert!(error.contains("4 where 3 should be"), "{error}");
    let mut other = entries(1, 1);
    other[0].applied.outcome = Outcome::Committed { version: 3 };
    let mut replay = Replay::on(Machine::new(), Bounds::default());
    let error = replay.record(10, &record(&other)).unwrap_err();
    assert!(error.contains("when it was applied"), "{error}");

    // A snapshot of another node's that is beyond the log: what is before the gap serves nobody.
    let mut replay = Replay::on(machine(8), Bounds::default());
    replay.record(10, &record(&entries(1, 4))).unwrap();
    assert_eq!(replay.end().1.first(), None);
    let mut replay = Replay::on(machine(8), Bounds::default());
    replay.record(10, &record(&entries(1, 4))).unwrap();
    replay.record(11, &record(&entries(9, 9))).unwrap();
    assert_eq!(replay.end().1.first(), Some(Slot(9)));
}
