//! The acceptor's loop: takes what waits, lets the core answer, makes all of it durable with one
//! fdatasync, and only then sends the answers.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use tokio::runtime;
use tokio::sync::oneshot;
use tracing::{debug, error, info};

use super::{StartError, end_on_disk_error, folder, members};
use crate::addresses::Addresses;
use crate::config::{Config, Role};
use crate::identity::Identity;
use crate::link::Links;
use crate::media::FileMedia;
use crate::metrics::Metrics;
use crate::paxos::acceptor::{Acceptor, Record};
use crate::paxos::ids::{Ballot, NodeId, Slot};
use crate::paxos::message::{Message, Reply, Request};
use crate::paxos::output::Output;
use crate::paxos::standing::{Member, Refusal};
use crate::peers::{Breakers, Lane};
use crate::wal::{self, Position, Wal};

/// Requests that may wait; further ones are refused, and their senders send them again.
const QUEUE: usize = 4096;
/// Requests that share one fdatasync at most.
const GROUP: usize = 1024;

enum Ask {
    Request {
        request: Request,
        answer: oneshot::Sender<Reply>,
    },
    /// Another acceptor's answer to [`Request::Enlist`].
    Heard { from: NodeId, reply: Reply },
}

/// How often the other acceptors are asked to witness this start, until it votes and after that.
const ENLIST_INTERVAL: Duration = Duration::from_millis(100);
const LATE_ENLIST_INTERVAL: Duration = Duration::from_secs(2);
const ENLIST_TIMEOUT: Duration = Duration::from_secs(1);

/// The running acceptor. Cheap to clone.
#[derive(Clone)]
pub struct Handle {
    queue: SyncSender<Ask>,
    view: Arc<View>,
    metrics: Arc<Metrics>,
}

/// What the acceptor shows of itself, as of its last durable step.
#[derive(Default)]
struct View {
    promised: AtomicU64,
    committed: AtomicU64,
    last_voted: AtomicU64,
    floor: AtomicU64,
    votes: AtomicBool,
    refusal: OnceLock<Refusal>,
}

/// Too many requests wait.
#[derive(Debug)]
pub struct Busy;

impl Handle {
    /// Asks the acceptor; the answer is durable.
    pub async fn ask(&self, request: Request) -> Result<Reply, Busy> {
        let (answer, answered) = oneshot::channel();
        self.metrics.queue.inc();
        match self.queue.try_send(Ask::Request { request, answer }) {
            Ok(()) => answered.await.map_err(|_| Busy),
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {
                self.metrics.queue.dec();
                self.metrics.rejected.inc();
                Err(Busy)
            }
        }
    }

    /// Whether it takes part.
    pub fn votes(&self) -> bool {
        self.view.votes.load(Ordering::Relaxed)
    }

    /// Why it never will on this disk, if so.
    pub fn refusal(&self) -> Option<Refusal> {
        self.view.refusal.get().copied()
    }

    /// The highest ballot promised.
    pub fn promised(&self) -> Option<Ballot> {
        Ballot::from_number(self.view.promised.load(Ordering::Relaxed))
    }

    /// Every slot up to here is chosen, as far as this acceptor was told.
    pub fn committed(&self) -> Slot {
        Slot(self.view.committed.load(Ordering::Relaxed))
    }

    /// The last slot voted in.
    pub fn last_voted(&self) -> Slot {
        Slot(self.view.last_voted.load(Ordering::Relaxed))
    }

    /// Votes up to here are forgotten.
    pub fn floor(&self) -> Slot {
        Slot(self.view.floor.load(Ordering::Relaxed))
    }
}

/// Opens the acceptor's log, replays it and starts the loop. Call within a Tokio runtime.
pub fn start(
    config: &Config,
    addresses: &Addresses,
    identity: &Identity,
    metrics: Arc<Metrics>,
) -> Result<Handle, StartError> {
    let members = members(config)?;
    let media = folder(config, "wal")?;
    let mut member = Member::new(config.node_id, members, identity.start(), Acceptor::new());
    let mut records = 0u64;
    let mut positions = Positions::default();
    let started = Instant::now();
    let wal = Wal::open(media, wal::Options::default(), |position, bytes| {
        // A copy: the bytes are a slice of the whole segment.
        let bytes = bytes::Bytes::copy_from_slice(bytes);
        let record = Record::decode(bytes).map_err(|error| error.to_string())?;
        member.remember(&record);
        positions.note(position, &record);
        records += 1;
        Ok(())
    })?;
    identity.check_log(member.cluster())?;
    info!(
        target: "important",
        records,
        promised = member.acceptor().promised().number(),
        last_voted = member.acceptor().last_voted().0,
        millis = started.elapsed().as_millis() as u64,
        "acceptor's log replayed"
    );
    let (queue, requests) = sync_channel(QUEUE);
    let handle = Handle {
        queue,
        view: Arc::default(),
        metrics: metrics.clone(),
    };
    let run = Run {
        member,
        log: Log {
            wal,
            positions,
            metrics: metrics.clone(),
        },
        identity: identity.clone(),
        others: Links::new(addresses, identity, Role::Acceptor),
        runtime: runtime::Handle::current(),
        handle: handle.clone(),
        metrics,
        stood: "",
    };
    let tick = config.election_timeout / 2;
    std::thread::Builder::new()
        .name("acceptor".into())
        .spawn(move || run.run(&requests, tick))?;
    Ok(handle)
}

struct Run {
    member: Member,
    log: Log,
    identity: Identity,
    others: Links,
    runtime: runtime::Handle,
    /// Its own, for the answers of other acceptors.
    handle: Handle,
    metrics: Arc<Metrics>,
    /// How it stood when that was last said.
    stood: &'static str,
}

impl Run {
    fn run(mut self, requests: &Receiver<Ask>, tick: Duration) {
        let begun = self.member.begin();
        self.persist(begun);
        self.show();
        let (mut next_tick, mut next_enlist) = (Instant::now() + tick, Instant::now());
        loop {
            let now = Instant::now();
            if now >= next_tick {
                self.member.tick();
                next_tick = now + tick;
            }
            if now >= next_enlist {
                self.enlist();
                let interval = match self.member.votes() {
                    true => LATE_ENLIST_INTERVAL,
                    false => ENLIST_INTERVAL,
                };
                next_enlist = now + interval;
            }
            let wait = next_tick.min(next_enlist).saturating_duration_since(now);
            let first = match requests.recv_timeout(wait) {
                Ok(ask) => ask,
                Err(RecvTimeoutError::Timeout) => continue,
                Err(RecvTimeoutError::Disconnected) => return,
            };
            let mut group = Vec::new();
            for ask in std::iter::once(first).chain(requests.try_iter().take(GROUP - 1)) {
                match ask {
                    Ask::Request { request, answer } => {
                        self.metrics.queue.dec();
                        self.metrics.acceptor_request(&request);
                        group.push((self.member.handle(request), answer));
                    }
                    Ask::Heard { from, reply } => {
                        // Records go to the log in the order in which they came to be.
                        self.answer(&mut group);
                        let heard = self.member.heard(from, &reply);
                        self.persist(heard);
                        self.show();
                    }
                }
            }
            self.answer(&mut group);
        }
    }

    /// Makes a group of answers durable with one fdatasync, and sends them.
    fn answer(&mut self, group: &mut Vec<(Output<Record, Reply>, oneshot::Sender<Reply>)>) {
        let (outputs, answers): (Vec<_>, Vec<_>) = group.drain(..).unzip();
        let replies = self.persist(Output::group(outputs));
        self.show();
        for (answer, reply) in answers.into_iter().zip(replies) {
            self.metrics.acceptor_reply(&reply);
            // The asker may have given up.
            let _ = answer.send(reply);
        }
    }

    fn persist<E>(&mut self, output: Output<Record, E>) -> E {
        output
            .persist(|records| self.log.append(records))
            .unwrap_or_else(|error| end_on_disk_error(&error))
    }

    /// Asks other acceptors to witness this start.
    fn enlist(&mut self) {
        self.others.refresh();
        let Some((open, request)) = self.member.enlist() else {
            return;
        };
        let frame = self.identity.frame(Message::Request(request));
        for link in self
            .others
            .iter()
            .filter(|link| open.contains(&link.node.id))
        {
            let (link, frame, queue) = (link.clone(), frame.clone(), self.handle.queue.clone());
            self.runtime.spawn(async move {
                match link
                    .ask(Lane::Control, frame, ENLIST_TIMEOUT, Breakers::Ignore)
                    .await
                {
                    Ok(Message::Reply(reply)) => {
                        let from = link.node.id;
                        // Full: it is asked again.
                        let _ = queue.try_send(Ask::Heard { from, reply });
                    }
                    Ok(_) => {}
                    Err(error) => debug!(acceptor = %link.node, %error, "is no witness yet"),
                }
            });
        }
    }

    /// Publishes how things stand, all of it durable.
    fn show(&mut self) {
        let view = &self.handle.view;
        let acceptor = self.member.acceptor();
        let set = |of: &AtomicU64, value| of.store(value, Ordering::Relaxed);
        set(&view.promised, acceptor.promised().number());
        set(&view.committed, acceptor.committed().0);
        set(&view.last_voted, acceptor.last_voted().0);
        set(&view.floor, acceptor.floor().0);
        let metrics = &self.metrics;
        metrics.committed_slot.set(acceptor.committed().0 as i64);
        metrics.last_slot.set(acceptor.last_voted().0 as i64);
        metrics.first_slot.set(acceptor.floor().next().0 as i64);
        view.votes.store(self.member.votes(), Ordering::Relaxed);
        let stands = match self.member.refusal() {
            Some(refusal) => {
                let _ = view.refusal.set(refusal);
                refusal.name()
            }
            None if self.member.votes() => "voting",
            None => "joining",
        };
        if stands != std::mem::replace(&mut self.stood, stands) {
            if let Some(cluster) = self.member.cluster().filter(|_| self.member.votes())
                && let Err(error) = self.identity.witnessed(cluster)
            {
                end_on_disk_error(&error);
            }
            self.metrics.acceptor_stands(stands);
            match self.member.refusal() {
                Some(refusal) => {
                    error!(target: "important", standing = stands, "does not vote: {refusal}");
                }
                None => info!(target: "important", standing = stands, "how this acceptor stands"),
            }
        }
    }
}

/// The log, and where in it votes lie that may be forgotten one day.
struct Log {
    wal: Wal<FileMedia>,
    positions: Positions,
    metrics: Arc<Metrics>,
}

impl Log {
    /// Makes records durable with one fdatasync, then removes what a trim among them gives up.
    fn append(&mut self, records: &[Record]) -> Result<(), wal::Error> {
        for record in records {
            let position = self.wal.append(&record.encode());
            self.positions.note(position, record);
        }
        let started = Instant::now();
        let written = self.wal.sync()?;
        self.metrics.wal_synced(started.elapsed(), written.bytes);
        let floors = records.iter().filter_map(|record| match record {
            Record::Trimmed { floor, .. } => Some(*floor),
            _ => None,
        });
        if let Some(floor) = floors.max() {
            let needed = self.positions.first_above(floor);
            self.wal
                .trim_before(needed.unwrap_or(self.wal.position_end()))?;
        }
        self.metrics.wal_size.set(self.wal.bytes() as i64);
        Ok(())
    }
}

/// Where each record of votes lies, and the last slot it votes in; oldest first.
#[derive(Default)]
struct Positions(VecDeque<(Position, Slot)>);

impl Positions {
    fn note(&mut self, position: Position, record: &Record) {
        if let Record::Accepted { first, values, .. } = record {
            let last = first.plus(values.len() as u64).previous();
            self.0.push_back((position, last));
        }
    }

    /// The oldest record with a vote above `floor`; those before it are dropped from here.
    fn first_above(&mut self, floor: Slot) -> Option<Position> {
        while self.0.front().is_some_and(|(_, last)| *last <= floor) {
            self.0.pop_front();
        }
        self.0.front().map(|(position, _)| *position)
    }
}
