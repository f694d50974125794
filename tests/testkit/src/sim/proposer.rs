//! A proposer's process: the role that ships, its disk, and who waits for what it says.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use paxos::ids::{NodeId, NodeName, Role};
use paxos::message::{Forwarded, Message, Value};
use paxos::proposer::Proposer;
use roles::proposer::{
    Action, Answer, Call, Event as Happened, Failure, Found, NewJob, Note, Peers, ProposerRole,
    Saved, Settings, answer_forwarded, forwarded_within,
};

use super::calls::{Heard, Patience, millis};
use super::disk::{BadWrite, Claims};
use super::node::{Asker, Disk, Process};
use super::{ELECTION, Event, HEARTBEAT, Packet, Sim, Timer};

/// Clients send no more to one proposer before it has answered some of it: jobs, and bytes of their values.
const JOBS: usize = 40;
const JOB_BYTES: usize = 1 << 20;
/// Of a thousand events of a proposer, those with which others come together.
const MORE_COMES: u32 = 200;
/// A process that is asked to leave ends then, whether it has handed over or not.
const LEAVE_WITHIN: u64 = 2_500;

/// A proposer's process.
pub(super) struct Desk {
    pub(super) role: ProposerRole<Shared>,
    /// Who waits for a job's answers, and for an answer to having asked it to take over.
    jobs: BTreeMap<u64, Waiter>,
    take_overs: BTreeMap<u64, Asker>,
    /// The succession for which a timer runs.
    succession: Option<Duration>,
}

/// Who waits for what became of values.
enum Waiter {
    /// Clients.
    Clients(Vec<Value>),
    /// Another proposer, which forwarded them.
    Peer(Asker),
}

impl Waiter {
    fn bytes(&self) -> usize {
        match self {
            Waiter::Clients(values) => values.iter().map(Value::len).sum(),
            Waiter::Peer(_) => 0,
        }
    }
}

/// A proposer's disk, which outlives the process.
pub(super) struct Shared(pub(super) Rc<RefCell<Claims>>);

impl roles::proposer::Claims for Shared {
    type Error = BadWrite;

    fn claim(&mut self, saved: Saved) -> Result<(), BadWrite> {
        self.0.borrow_mut().write(saved.counter)
    }
}

impl fmt::Debug for Desk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.role.core().fmt(f)
    }
}

impl Sim {
    /// A proposer starts.
    pub(super) fn new_desk(&self, at: usize, run: u64, claims: &Rc<RefCell<Claims>>) -> Desk {
        let members = self.list(at);
        let me = self.nodes[at].name;
        let claimed = claims.borrow().last();
        let core = Proposer::new(me.id, members, self.config.settings, claimed);
        let settings = Settings {
            me,
            members,
            limits: self.config.settings,
            heartbeat_interval: Duration::from_millis(HEARTBEAT),
            election_timeout: Duration::from_millis(ELECTION),
            terms: self.config.terms,
            open: (self.config.open_slots, Settings::OPEN.1),
        };
        let disk = Shared(claims.clone());
        let found = Arc::new(Found::default());
        let role = ProposerRole::new(
            settings,
            core.with_run(run),
            disk,
            found,
            self.peers(at),
            self.clock(at),
        );
        Desk {
            role,
            jobs: BTreeMap::new(),
            take_overs: BTreeMap::new(),
            succession: None,
        }
    }

    /// What its lists of addresses say.
    fn peers(&self, at: usize) -> Peers {
        let me = self.nodes[at].name;
        let listed = |role, count| {
            let all = NodeId::first(count).map(move |id| NodeName { role, id });
            all.filter(|node| !self.unlisted.contains(node))
        };
        let proposers = listed(Role::Proposer, self.config.proposers);
        let stores = listed(Role::Store, self.config.stores);
        Peers {
            acceptors: self.list(at).acceptors().collect(),
            learners: NodeId::first(self.config.learners).collect(),
            proposers: proposers.filter(|it| *it != me).map(|it| it.id).collect(),
            stores: stores.map(|store| store.id).collect(),
            is_listed: !self.unlisted.contains(&me),
            may_lead: self.may_lead(at),
        }
    }

    pub(super) fn tick_proposer(&mut self, at: usize) {
        let peers = self.peers(at);
        if let Process::Proposer(desk) = &mut self.nodes[at].process {
            desk.role.set_peers(peers);
        }
        if self.rng.chance(self.config.unanswered) {
            self.call_one_late(at);
        }
        self.on_proposer(at, Happened::Tick);
    }

    /// Something happens to a proposer, and it does what follows.
    pub(super) fn on_proposer(&mut self, at: usize, happened: Happened) {
        let now = self.clock(at);
        // More may have come together with it.
        let flushes = !self.rng.chance(MORE_COMES);
        self.run_proposer(at, |role, actions| {
            role.on(happened, now, actions)?;
            match flushes {
                true => role.flush(now, actions),
                false => Ok(()),
            }
        });
        if !flushes {
            let of = (at, self.nodes[at].life);
            let timer = Timer::Flush;
            self.schedule(0, Event::Timer { of, timer });
        }
    }

    /// All that came together has happened.
    pub(super) fn flush_proposer(&mut self, at: usize) {
        let now = self.clock(at);
        self.run_proposer(at, |role, actions| role.flush(now, actions));
    }

    fn run_proposer(
        &mut self,
        at: usize,
        run: impl FnOnce(&mut ProposerRole<Shared>, &mut Vec<Action>) -> Result<(), BadWrite>,
    ) {
        let node = &mut self.nodes[at];
        let Process::Proposer(desk) = &mut node.process else {
            return;
        };
        desk.role.disk().0.borrow_mut().bad = node.bad_write.take();
        let mut actions = Vec::new();
        let done = run(&mut desk.role, &mut actions);
        node.bad_write = desk.role.disk().0.borrow_mut().bad.take();
        self.check.committed(desk.role.core().committed());
        if done.is_err() {
            let down = self.rng.between(1, self.config.down);
            return self.crash(at, down);
        }
        let life = node.life;
        for action in actions {
            self.perform(at, action);
            // A process that has ended does nothing more.
            if !self.lives((at, life)) {
                return;
            }
        }
        self.start_succession(at);
    }

    /// It wants to stand for election before its timer says so.
    fn start_succession(&mut self, at: usize) {
        let now = self.clock(at);
        let Process::Proposer(desk) = &mut self.nodes[at].process else {
            return;
        };
        let due = desk.role.succeeds_at();
        if due != desk.succession {
            desk.succession = due;
            if let Some(due) = due {
                let of = (at, self.nodes[at].life);
                let timer = Timer::Succession;
                self.schedule(millis(due.saturating_sub(now)), Event::Timer { of, timer });
            }
        }
    }

    pub(super) fn succession_due(&mut self, at: usize) {
        let now = self.clock(at);
        if let Process::Proposer(desk) = &mut self.nodes[at].process {
            desk.succession = None;
            match desk.role.succeeds_at() {
                Some(due) if due <= now => self.on_proposer(at, Happened::ElectionTimeout),
                // Its clock is slow, or it was put off.
                _ => self.start_succession(at),
            }
        }
    }

    fn perform(&mut self, at: usize, action: Action) {
        match action {
            Action::Ask {
                calls,
                request,
                hears_progress,
                ..
            } => {
                let life = (self.nodes[at].name.id, self.nodes[at].life);
                if let Disk::Claims(claims) = &self.nodes[at].disk {
                    let claim = claims.borrow().last();
                    self.check.requested(life, claim, &request);
                }
                self.check.asks_by(self.list(at));
                for call in calls {
                    let to = self.acceptor(call.to);
                    let message = Message::Request(request.clone());
                    self.place(at, to, call, hears_progress, message);
                }
            }
            Action::Tell { calls, learn } => {
                self.check.told(&learn);
                for call in calls {
                    let to = self.learner(call.to);
                    self.place(at, to, call, false, Message::Learn(learn.clone()));
                }
            }
            Action::Heartbeat(call, heartbeat) => {
                self.check.announced(&heartbeat);
                let to = self.proposer_at(call.to);
                let packet = Packet::Heartbeat(heartbeat);
                self.call_with(at, to, call.id, packet, patience(call, false));
            }
            Action::Forward {
                call,
                wait_ms,
                values,
            } => {
                self.summary.forwarded += values.len() as u64;
                let to = self.proposer_at(call.to);
                let message = Message::Forward { wait_ms, values };
                self.place(at, to, call, false, message);
            }
            Action::Abort(call) => {
                let life = (at, self.nodes[at].life);
                self.calls.abort(life, call);
            }
            Action::Recall(call, slots) => {
                self.summary.withheld += slots.len() as u64;
                let to = self.learner(call.to);
                self.place(at, to, call, false, Message::Recall(slots));
            }
            Action::TakeOver(call) => {
                let to = self.proposer_at(call.to);
                self.place(at, to, call, false, Message::TakeOver);
            }
            Action::LookForLearner(call) => {
                let reaches = self.reaches_a_learner(at);
                let of = Asker {
                    life: (at, self.nodes[at].life),
                    call: call.id,
                };
                let delay = match reaches {
                    true => self.rng.between(2, 10),
                    false => millis(call.within),
                };
                self.schedule(delay, Event::Looked { of, reaches });
            }
            Action::AskStore(store) => {
                let delay = self.rng.between(2, 10);
                let of = (at, self.nodes[at].life);
                self.schedule(delay, Event::StoreAnswers { of, store });
            }
            Action::SeeWhetherGone(leader, ballot) => {
                let to = self.proposer_at(leader);
                let is_down = matches!(self.nodes[to].process, Process::Down);
                if is_down && self.network.connects(at, to) {
                    let of = (at, self.nodes[at].life);
                    let delay = self.rng.between(1, 5);
                    self.schedule(delay, Event::LeaderGone { of, ballot });
                }
            }
            Action::RestartElectionTimer => self.start_election_timer(at),
            Action::Answer { job, answers, .. } => self.job_answered(at, job, answers),
            Action::Readable { id, slot } => {
                if let Some(slot) = slot {
                    self.check.readable(id, slot);
                }
            }
            Action::TakesOver { id, willing } => {
                let Process::Proposer(desk) = &mut self.nodes[at].process else {
                    return;
                };
                if let Some(asker) = desk.take_overs.remove(&id) {
                    let packet = match willing {
                        true => self.said(at, Message::Done),
                        false => Packet::Refused,
                    };
                    self.answer(at, asker, packet);
                }
            }
            Action::Save { .. } => {}
            Action::MayLeave => {
                let down = self.rng.between(1, self.config.down);
                self.crash(at, down);
            }
            Action::Note(note) => self.noted(&note),
        }
    }

    fn noted(&mut self, note: &Note) {
        match note {
            Note::Contradicted(behind) => {
                assert!(
                    self.is_set_back,
                    "promises tell of all that any learner has: {behind:?}"
                );
                self.summary.noticed += 1;
            }
            Note::HandsOver(_) | Note::ReplacedBy(_) => self.summary.handed_over += 1,
            Note::AskedToSucceed => self.summary.succeeded += 1,
            _ => {}
        }
    }

    fn place(&mut self, at: usize, to: usize, call: Call, hears_progress: bool, message: Message) {
        let patience = patience(call, hears_progress);
        self.call(at, to, call.id, message, patience);
    }

    /// What a proposer hears of one of its calls.
    pub(super) fn proposer_heard(&mut self, at: usize, call: u64, heard: Heard) {
        let happened = match heard {
            Heard::Answer(answer) => Happened::Answered(call, answer),
            Heard::Failed(why) => Happened::Failed(call, why),
            Heard::Late => Happened::Late(call),
            Heard::Progress => Happened::Progress(call),
        };
        self.on_proposer(at, happened);
    }

    /// Whether any learner answers a proposer is known.
    pub(super) fn looked(&mut self, of: Asker, reaches: bool) {
        let happened = match reaches {
            true => Happened::Answered(of.call, None),
            false => Happened::Failed(of.call, Failure::TimedOut),
        };
        self.on_proposer(of.life.0, happened);
    }

    /// A store says how far it is.
    pub(super) fn store_answers(&mut self, at: usize, store: NodeId) {
        let durable = self.stored().get(store.index()).copied();
        if let Some(durable) = durable {
            self.on_proposer(at, Happened::Stored { store, durable });
        }
    }

    /// A message reaches a proposer.
    pub(super) fn hear_as_proposer(&mut self, from: Asker, at: usize, message: Message) {
        self.numbers += 1;
        let id = self.numbers;
        let now = self.clock(at);
        let Process::Proposer(desk) = &mut self.nodes[at].process else {
            return;
        };
        match message {
            Message::TakeOver => {
                desk.take_overs.insert(id, from);
                self.on_proposer(at, Happened::TakeOver(id));
            }
            Message::Forward { wait_ms, values } => {
                desk.jobs.insert(id, Waiter::Peer(from));
                let job = NewJob {
                    id,
                    values: values.to_vec(),
                    wait: wait_ms > 0,
                    forwarded: true,
                    deadline: now + forwarded_within(wait_ms),
                };
                self.on_proposer(at, Happened::Submit(job));
            }
            _ => self.refuse(from),
        }
    }

    /// Whether clients send more to a proposer.
    pub(super) fn takes_more(&self, at: usize) -> bool {
        let Process::Proposer(desk) = &self.nodes[at].process else {
            return false;
        };
        let bytes: usize = desk.jobs.values().map(Waiter::bytes).sum();
        !self.asleep(at) && desk.jobs.len() < JOBS && bytes < JOB_BYTES
    }

    /// Clients' values for a proposer, which has so many milliseconds; the number of the job.
    pub(super) fn submit(&mut self, at: usize, values: Vec<Value>, within: u64) -> Option<u64> {
        let (now, wait) = (self.clock(at), !self.rng.chance(100));
        let Process::Proposer(desk) = &mut self.nodes[at].process else {
            return None;
        };
        self.numbers += 1;
        let id = self.numbers;
        desk.jobs.insert(id, Waiter::Clients(values.clone()));
        values.iter().for_each(|value| self.check.proposed(value));
        let job = NewJob {
            id,
            values,
            wait,
            forwarded: false,
            deadline: now + Duration::from_millis(within),
        };
        self.on_proposer(at, Happened::Submit(job));
        Some(id)
    }

    fn job_answered(&mut self, at: usize, job: u64, answers: Vec<Answer>) {
        let Process::Proposer(desk) = &mut self.nodes[at].process else {
            return;
        };
        match desk.jobs.remove(&job) {
            Some(Waiter::Clients(values)) => {
                assert_eq!(values.len(), answers.len(), "each value has its answer");
                for (value, answer) in values.iter().zip(&answers) {
                    self.client_hears(value, answer);
                }
                if self.healed {
                    self.answered_jobs.insert(job, answers);
                }
            }
            Some(Waiter::Peer(asker)) => {
                let is_good = vec![true; answers.len()];
                let most = self.config.outcome_bytes.0;
                let forwarded: Forwarded = answer_forwarded(answers, &is_good, most);
                let packet = self.said(at, Message::Forwarded(forwarded));
                self.answer(at, asker, packet);
            }
            None => panic!("a job is answered once"),
        }
    }

    fn client_hears(&mut self, value: &Value, answer: &Answer) {
        match answer {
            Answer::Done(applied) => {
                self.check.client_told(value, applied);
                self.summary.told += 1;
            }
            Answer::NoLeader | Answer::NotProposed | Answer::NoRoom(_) => {
                self.check.without_effect(value);
                self.summary.without_effect += 1;
            }
            Answer::Unknown | Answer::NotRead => self.summary.untold += 1,
            Answer::Assigned(_) => {}
        }
    }

    /// One of its calls is said to be late, though it need not be.
    fn call_one_late(&mut self, at: usize) {
        let life = (at, self.nodes[at].life);
        let open = self.calls.open_of(life);
        if let Some(call) = self.rng.pick(&open) {
            self.on_proposer(at, Happened::Late(call));
        }
    }

    /// The process is asked to leave, and ends when it has handed over, or soon.
    pub(super) fn leave(&mut self, at: usize) {
        if self.asleep(at) || self.proposer(at).is_none() {
            return;
        }
        let of = (at, self.nodes[at].life);
        let timer = Timer::Leave;
        self.schedule(LEAVE_WITHIN, Event::Timer { of, timer });
        self.on_proposer(at, Happened::Leave);
    }

    /// Whether a learner would answer this proposer.
    fn reaches_a_learner(&self, at: usize) -> bool {
        let mut learners = self.of_role(Role::Learner);
        learners.any(|learner| {
            let runs = !matches!(self.nodes[learner].process, Process::Down);
            runs && !self.asleep(learner) && self.network.connects(at, learner)
        })
    }

    /// Where a proposer is: of two that use one identity either may have the address.
    fn proposer_at(&mut self, id: NodeId) -> usize {
        let twin = usize::from(self.config.proposers);
        let has_twin = self.config.twin && id.index() == 0 && !self.nodes[twin].gone;
        match has_twin && self.rng.chance(500) {
            true => twin,
            false => id.index(),
        }
    }

    pub(super) fn learner(&self, id: NodeId) -> usize {
        let first = self.of_role(Role::Learner).next().unwrap_or_default();
        first + id.index()
    }
}

fn patience(call: Call, hears_progress: bool) -> Patience {
    Patience {
        within: millis(call.within),
        late_after: call.late_after.map(millis),
        hears_progress,
    }
}
