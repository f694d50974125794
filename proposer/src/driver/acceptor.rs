//! The acceptor's shell. What it does and when is decided by [`AcceptorRole`]; here are its threads, lock,
//! disk and sockets, its metrics and log lines. One thread runs the loop: it makes durable what the role
//! says, with one fdatasync for all that shares a write, and only then sends the answers. What needs no
//! write is answered on the thread that asks, however long that fdatasync takes: so a slow disk costs no
//! leader. The role's lock is never held while the disk is used.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use api::env::{Config, Role};
use paxos::acceptor::{self, Acceptor, Record, Room};
use paxos::ids::{Ballot, Members, NodeId, Slot};
use paxos::message::{Reply, Request};
use paxos::standing::{Member, Refusal};
use paxos::votes::{Answer, Unread};
use roles::acceptor::{
    AcceptorRole, Action, Busy, Event, Finished, Persisted, Standing, View as Shown, Write,
};
use tokio::runtime;
use tokio::sync::{Semaphore, oneshot};
use tracing::{debug, error, info};

use super::volume::Volume;
use super::{StartError, end_on_disk_error, folder, members, roll_call};
use crate::addresses::Addresses;
use crate::identity::Identity;
use crate::link::{Link, Links};
use crate::metrics::Metrics;
use crate::wal::{self, Wal};
use disk::Disk;
use log::{Log, ReadError, Records};

mod disk;
mod log;

/// Answers that are read from the log at once: each takes memory.
const READERS: usize = 4;

/// Who waits for an answer.
type Asker = oneshot::Sender<Answer>;

/// The running acceptor. Cheap to clone.
#[derive(Clone)]
pub struct Handle {
    shared: Arc<Shared>,
    records: Records,
    readers: Arc<Semaphore>,
    disk: Arc<Disk>,
    view: Arc<View>,
    metrics: Arc<Metrics>,
}

/// What the loop and those who ask have in common.
struct Shared {
    role: Mutex<AcceptorRole<Asker>>,
    /// Wakes the loop.
    work: Condvar,
}

impl Shared {
    fn role(&self) -> MutexGuard<'_, AcceptorRole<Asker>> {
        self.role.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes what waits for the loop. Nobody is woken while the lock is held.
    fn push(
        &self,
        push: impl FnOnce(&mut AcceptorRole<Asker>) -> Result<bool, Busy>,
    ) -> Result<(), Busy> {
        let is_to_be_woken = push(&mut self.role())?;
        if is_to_be_woken {
            self.work.notify_one();
        }
        Ok(())
    }
}

/// What the acceptor shows of itself, as of its last durable step.
#[derive(Default)]
struct View {
    promised: AtomicU64,
    committed: AtomicU64,
    last_voted: AtomicU64,
    floor: AtomicU64,
    log_bytes: AtomicU64,
    is_tight: AtomicBool,
    is_full: AtomicBool,
    votes: AtomicBool,
    refusal: OnceLock<Refusal>,
    /// Who has not witnessed this start, and how many acceptors its list names if another number.
    unmet: Mutex<Vec<(NodeId, Option<Members>)>>,
}

impl Handle {
    /// Asks the acceptor; the answer is durable.
    pub async fn ask(&self, request: Request) -> Result<Reply, Busy> {
        let at_once = self.shared.role().answer(&request);
        let answer = match at_once {
            Some(answer) => {
                self.metrics.acceptor_requests(&request).inc();
                answer
            }
            None => self.wait(request).await?,
        };
        let reply = self.reply(answer).await?;
        self.metrics.acceptor_reply(&reply);
        Ok(reply)
    }

    /// Has the loop answer, when its turn comes.
    async fn wait(&self, request: Request) -> Result<Answer, Busy> {
        let (asker, answered) = oneshot::channel();
        let requests = self.metrics.acceptor_requests(&request);
        self.metrics.queue.inc();
        let queued = self.shared.push(|role| role.enqueue(request, asker));
        if let Err(busy) = queued {
            self.metrics.queue.dec();
            self.metrics.rejected.inc();
            return Err(busy);
        }
        requests.inc();
        answered.await.map_err(|_| Busy)
    }

    /// The answer in full: what of it is in the log alone is read by a thread that may wait for the
    /// disk.
    async fn reply(&self, mut answer: Answer) -> Result<Reply, Busy> {
        while !answer.is_in_memory() {
            let Ok(permit) = self.readers.clone().acquire_owned().await else {
                return Err(Busy);
            };
            let (records, asked) = (self.records.clone(), answer.clone());
            let read = tokio::task::spawn_blocking(move || {
                let _permit = permit;
                asked.into_reply(&records)
            });
            match read.await {
                Ok(Ok(reply)) => return Ok(reply),
                // Forgotten in the meantime, and its file removed.
                Ok(Err(Unread::Log(wal::Error::Absent(_)))) => {
                    answer = self.shared.role().answer_again(answer);
                }
                Ok(Err(error)) => end_on_disk_error(&ReadError::from(error)),
                Err(_) => return Err(Busy),
            }
        }
        let in_memory = answer.into_reply(&());
        Ok(in_memory.unwrap_or_else(|error| end_on_disk_error(&ReadError::from(error))))
    }

    /// How long a sync of the log takes these days.
    pub fn sync_takes(&self) -> Duration {
        self.disk.takes()
    }

    /// Bytes of the log's files.
    pub fn log_bytes(&self) -> u64 {
        self.view.log_bytes.load(Ordering::Relaxed)
    }

    /// Why it takes no new votes for now, if so.
    pub fn no_room(&self) -> Option<&'static str> {
        if !self.view.is_tight.load(Ordering::Relaxed) {
            return None;
        }
        if self.view.is_full.load(Ordering::Relaxed) {
            return Some(
                "the volume is almost full: enlarge it, or see what else fills it. It resumes by \
                 itself when there is room",
            );
        }
        Some(
            "the log has its share of the volume, as learners are away that have not stored what it \
             holds: bring them back, or enlarge the volume. It resumes by itself then",
        )
    }

    /// Whether it takes part.
    pub fn votes(&self) -> bool {
        self.view.votes.load(Ordering::Relaxed)
    }

    /// Why it never will on this disk, if so.
    pub fn refusal(&self) -> Option<Refusal> {
        self.view.refusal.get().copied()
    }

    /// Who has not witnessed this start, and how many acceptors its list names if another number.
    pub fn unmet(&self) -> Vec<(NodeId, Option<Members>)> {
        let unmet = self.view.unmet.lock();
        unmet.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The highest ballot promised.
    pub fn promised(&self) -> Option<Ballot> {
        Ballot::from_number(self.view.promised.load(Ordering::Relaxed))
    }

    /// Every slot up to here is chosen, as far as this acceptor knows.
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
    let volume = Volume::of(config, metrics.clone());
    let (options, trimming) = (log::options(volume.seen()), log::trimming(volume.seen()));
    let core = Acceptor::new().with_trimming(trimming);
    let mut member = Member::new(config.node_id, members, identity.start(), core);
    let mut records = 0u64;
    let started = Instant::now();
    let wal = Wal::open(media, options, |position, bytes| {
        // A copy: the bytes are a slice of more than this record.
        let bytes = bytes::Bytes::copy_from_slice(bytes);
        let record = Record::decode(bytes).map_err(|error| error.to_string())?;
        member.replay(&record, log::place_of(position));
        records += 1;
        Ok(())
    })?;
    identity.check_log(member.cluster(), member.founders())?;
    info!(
        records,
        promised = member.acceptor().promised().number(),
        last_voted = member.acceptor().last_voted().0,
        bytes = wal.bytes(),
        millis = started.elapsed().as_millis() as u64,
        "acceptor's log replayed"
    );
    let role = AcceptorRole::new(member, config.election_timeout);
    let handle = Handle {
        shared: Arc::new(Shared {
            role: Mutex::new(role),
            work: Condvar::new(),
        }),
        records: Records(wal.reader()),
        readers: Arc::new(Semaphore::new(READERS)),
        disk: Arc::default(),
        view: Arc::default(),
        metrics: metrics.clone(),
    };
    let run = Run {
        log: Log {
            wal,
            volume,
            metrics: metrics.clone(),
        },
        identity: identity.clone(),
        others: Links::new(addresses, identity, Role::Acceptor),
        runtime: runtime::Handle::current(),
        handle: handle.clone(),
        metrics,
        started,
    };
    tokio::spawn(disk::watch(
        handle.disk.clone(),
        identity.name().to_string(),
    ));
    std::thread::Builder::new()
        .name("acceptor".into())
        .spawn(move || run.run())?;
    Ok(handle)
}

/// The loop's own. Nobody else changes what must be remembered.
struct Run {
    log: Log,
    identity: Identity,
    others: Links,
    runtime: runtime::Handle,
    handle: Handle,
    metrics: Arc<Metrics>,
    /// The role's time is since then.
    started: Instant,
}

impl Run {
    fn run(mut self) {
        let mut event = Event::Woken;
        loop {
            let action = self.next(event);
            event = self.act(action);
        }
    }

    /// What the role does next, when there is something to do.
    fn next(&self, mut event: Event<Asker>) -> Action<Asker> {
        let shared = &self.handle.shared;
        let mut role = shared.role();
        loop {
            let now = self.started.elapsed();
            let action = role.on(event, now);
            let Action::Rest { until } = action else {
                return action;
            };
            role = match until {
                Some(until) => {
                    let time = until.saturating_sub(now);
                    let rested = shared.work.wait_timeout(role, time);
                    rested.unwrap_or_else(PoisonError::into_inner).0
                }
                None => {
                    let woken = shared.work.wait(role);
                    woken.unwrap_or_else(PoisonError::into_inner)
                }
            };
            event = Event::Woken;
        }
    }

    /// Does it. The role's lock is free meanwhile.
    fn act(&mut self, action: Action<Asker>) -> Event<Asker> {
        match action {
            Action::Look { more } => {
                return Event::Looked {
                    room: self.log.room(more),
                    volume: acceptor::Volume {
                        log: self.log.wal.bytes(),
                        free: self.log.volume.seen().free,
                    },
                };
            }
            Action::Settle(doubt) => {
                let is_same = doubt.settle(&self.handle.records);
                let is_same =
                    is_same.unwrap_or_else(|error| end_on_disk_error(&ReadError::from(error)));
                return Event::Settled(is_same);
            }
            Action::Write(write) => return Event::Written(self.persist(write)),
            Action::Finish(finished) => self.finish(finished),
            Action::Show(shown) => self.show(shown),
            Action::Enlist { open, request } => self.enlist(&open, &request),
            Action::Rest { .. } => {}
        }
        Event::Woken
    }

    /// Makes a write durable with one fdatasync.
    fn persist(&mut self, write: Write<Asker>) -> Persisted<Asker> {
        self.metrics.queue.sub(write.requests() as i64);
        let (log, disk) = (&mut self.log, &self.handle.disk);
        let persisted = write.persist(|records| {
            disk.begins();
            let appended = log.append(records);
            disk.ends();
            appended
        });
        persisted.unwrap_or_else(|error| end_on_disk_error(&error))
    }

    fn finish(&mut self, finished: Finished<Asker>) {
        if let Some(trim) = finished.trim {
            let trimmed = self.log.trim(trim);
            trimmed.unwrap_or_else(|error| end_on_disk_error(&error));
        }
        for (asker, answer) in finished.answers {
            // It may have given up.
            let _ = asker.send(answer);
        }
        self.show(finished.view);
    }

    /// Asks other acceptors to witness this start.
    fn enlist(&mut self, open: &[NodeId], request: &Request) {
        self.others.refresh();
        let asked = |link: &&Link| open.contains(&link.node.id);
        for link in self.others.iter().filter(asked) {
            let (link, me, shared) = (
                link.clone(),
                self.identity.clone(),
                self.handle.shared.clone(),
            );
            let request = request.clone();
            self.runtime.spawn(async move {
                match roll_call::enlist(&link, &me, request).await {
                    Ok(reply) => {
                        let from = link.node.id;
                        // Full: it is asked again.
                        let _ = shared.push(|role| role.heard(from, reply));
                    }
                    Err(error) => debug!(acceptor = %link.node, %error, "is no witness yet"),
                }
            });
        }
    }

    /// Publishes how things stand.
    fn show(&self, shown: Shown) {
        let view = &self.handle.view;
        let set = |of: &AtomicU64, value| of.store(value, Ordering::Relaxed);
        set(&view.promised, shown.promised.number());
        set(&view.committed, shown.committed.0);
        set(&view.last_voted, shown.last_voted.0);
        set(&view.floor, shown.floor.0);
        set(&view.log_bytes, self.log.wal.bytes());
        let is_tight = shown.room != Room::Enough;
        let is_full = self.log.volume.is_filled_by_others(self.log.wal.bytes());
        view.is_tight.store(is_tight, Ordering::Relaxed);
        view.is_full.store(is_full, Ordering::Relaxed);
        let metrics = &self.metrics;
        metrics.committed_slot.set(shown.committed.0 as i64);
        metrics.last_slot.set(shown.last_voted.0 as i64);
        metrics.first_slot.set(shown.floor.next().0 as i64);
        let (held, index) = shown.memory;
        metrics.votes_held.set(held as i64);
        metrics.votes_index.set(index as i64);
        metrics.votes_kept.set(shown.kept as i64);
        let votes = matches!(shown.standing, Standing::Voting { .. });
        view.votes.store(votes, Ordering::Relaxed);
        if !votes {
            *view.unmet.lock().unwrap_or_else(PoisonError::into_inner) = shown.unmet;
        }
        if let Standing::Refused(refusal) = shown.standing {
            let _ = view.refusal.set(refusal);
        }
        if shown.has_changed {
            self.say(shown.standing);
        }
    }

    /// The standing is another.
    fn say(&self, standing: Standing) {
        let stands = match standing {
            Standing::Voting { cluster, founders } => {
                if let Err(error) = self.identity.witnessed(cluster, founders) {
                    end_on_disk_error(&error);
                }
                "voting"
            }
            Standing::Joining => "joining",
            Standing::Refused(refusal) => refusal.name(),
        };
        self.metrics.acceptor_stands(stands);
        match standing {
            Standing::Refused(refusal) => {
                error!(standing = stands, "does not vote: {refusal}");
            }
            _ => info!(standing = stands, "how this acceptor stands"),
        }
    }
}
