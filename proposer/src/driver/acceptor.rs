//! The acceptor's loop: takes what waits, lets the core answer, makes all of it durable with one
//! fdatasync, and only then sends the answers. What needs no write and tells nothing that is not durable
//! is answered where it came in, however long that fdatasync takes: so a slow disk costs no leader. The
//! core's lock is never held while the disk is used.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use api::env::{Config, Role};
use paxos::acceptor::{self, Acceptor, Record, Room};
use paxos::ids::{Ballot, Members, NodeId, Slot};
use paxos::message::{Reply, Request};
use paxos::output::Output;
use paxos::standing::{Member, Refusal};
use paxos::votes::{Answer, Unread};
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

/// Requests that may wait, and bytes of their values; further ones are refused, and their senders send
/// them again.
const QUEUE: usize = 4096;
const QUEUE_BYTES: usize = 48 << 20;
/// Requests that share one fdatasync at most, and bytes of their values, one request more or less.
const GROUP: usize = 1024;
const GROUP_BYTES: usize = 8 << 20;
/// Answers that are read from the log at once: each takes memory.
const READERS: usize = 4;

enum Ask {
    Request {
        request: Request,
        answer: oneshot::Sender<Answer>,
    },
    /// Another acceptor's answer to [`Request::Enlist`].
    Heard { from: NodeId, reply: Reply },
}

/// How often the other acceptors are asked to witness this start, until it votes and after that.
const ENLIST_INTERVAL: Duration = Duration::from_millis(100);
const LATE_ENLIST_INTERVAL: Duration = Duration::from_secs(2);

/// The running acceptor. Cheap to clone.
#[derive(Clone)]
pub struct Handle {
    queue: SyncSender<Ask>,
    queued_bytes: Arc<AtomicUsize>,
    core: Arc<Mutex<Member>>,
    records: Records,
    readers: Arc<Semaphore>,
    disk: Arc<Disk>,
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
    log_bytes: AtomicU64,
    is_tight: AtomicBool,
    is_full: AtomicBool,
    votes: AtomicBool,
    refusal: OnceLock<Refusal>,
    /// Who has not witnessed this start, and how many acceptors its list names if another number.
    unmet: Mutex<Vec<(NodeId, Option<Members>)>>,
}

/// Too many requests wait.
#[derive(Debug)]
pub struct Busy;

impl Handle {
    /// Asks the acceptor; the answer is durable.
    pub async fn ask(&self, request: Request) -> Result<Reply, Busy> {
        let at_once = self.core().answer(&request);
        let answer = match at_once {
            Some(answer) => {
                self.metrics.acceptor_request(&request);
                answer
            }
            None => self.queue(request).await?,
        };
        let reply = self.reply(answer).await?;
        self.metrics.acceptor_reply(&reply);
        Ok(reply)
    }

    /// Has the loop answer, when its turn comes.
    async fn queue(&self, request: Request) -> Result<Answer, Busy> {
        let (answer, answered) = oneshot::channel();
        let bytes = size_of(&request);
        let waiting = self.queued_bytes.fetch_add(bytes, Ordering::Relaxed);
        self.metrics.queue.inc();
        // One that is larger than all that may wait still has its turn.
        let has_room = waiting == 0 || waiting + bytes <= QUEUE_BYTES;
        let ask = Ask::Request { request, answer };
        let sent = has_room && self.queue.try_send(ask).is_ok();
        if !sent {
            self.queued_bytes.fetch_sub(bytes, Ordering::Relaxed);
            self.metrics.queue.dec();
            self.metrics.rejected.inc();
            return Err(Busy);
        }
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
                    if let Answer::Votes(reading) = &answer {
                        let again = self.core().answer_again(reading);
                        answer = again;
                    }
                }
                Ok(Err(error)) => end_on_disk_error(&ReadError::from(error)),
                Err(_) => return Err(Busy),
            }
        }
        let in_memory = answer.into_reply(&());
        Ok(in_memory.unwrap_or_else(|error| end_on_disk_error(&ReadError::from(error))))
    }

    fn core(&self) -> MutexGuard<'_, Member> {
        self.core.lock().unwrap_or_else(PoisonError::into_inner)
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

/// Bytes of the values in a request.
fn size_of(request: &Request) -> usize {
    match request {
        Request::Accept { values, .. } => values.iter().map(|value| 64 + value.len()).sum(),
        _ => 0,
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
    let (queue, requests) = sync_channel(QUEUE);
    let handle = Handle {
        queue,
        queued_bytes: Arc::default(),
        core: Arc::new(Mutex::new(member)),
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
        stood: "",
        room: Room::Enough,
    };
    tokio::spawn(disk::watch(
        handle.disk.clone(),
        identity.name().to_string(),
    ));
    let tick = config.election_timeout / 2;
    std::thread::Builder::new()
        .name("acceptor".into())
        .spawn(move || run.run(&requests, tick))?;
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
    /// How it stood when that was last said.
    stood: &'static str,
    room: Room,
}

type Group = Vec<(Output<Record, Answer>, oneshot::Sender<Answer>)>;

impl Run {
    fn run(mut self, requests: &Receiver<Ask>, tick: Duration) {
        let begun = self.handle.core().begin();
        self.persist(begun);
        self.look_at_volume(0);
        self.show();
        let (mut next_tick, mut next_enlist) = (Instant::now() + tick, Instant::now());
        loop {
            let now = Instant::now();
            if now >= next_tick {
                self.handle.core().tick();
                self.tidy();
                self.look_at_volume(0);
                self.show();
                next_tick = Instant::now() + tick;
            }
            if now >= next_enlist {
                self.enlist();
                let interval = match self.handle.core().votes() {
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
            let (mut group, mut bytes) = (Vec::new(), 0);
            let mut next = Some(first);
            for _ in 0..GROUP {
                match next {
                    Some(Ask::Request { request, answer }) => {
                        bytes += size_of(&request);
                        let output = self.handle(request, bytes);
                        group.push((output, answer));
                    }
                    Some(Ask::Heard { from, reply }) => {
                        // Records go to the log in the order in which they came to be.
                        self.answer(&mut group);
                        bytes = 0;
                        let heard = self.handle.core().heard(from, &reply);
                        self.persist(heard);
                        self.show();
                    }
                    None => break,
                }
                next = match bytes < GROUP_BYTES {
                    true => requests.try_recv().ok(),
                    false => None,
                };
            }
            self.answer(&mut group);
        }
    }

    /// Lets the core answer a request, one of a group of `group_bytes` bytes.
    fn handle(&mut self, request: Request, group_bytes: usize) -> Output<Record, Answer> {
        self.metrics.queue.dec();
        self.metrics.acceptor_request(&request);
        let bytes = size_of(&request);
        self.handle.queued_bytes.fetch_sub(bytes, Ordering::Relaxed);
        if bytes > 0 {
            self.look_at_volume(group_bytes as u64);
        }
        let mut core = self.handle.core();
        let Some(doubt) = core.doubt(&request) else {
            return core.handle(request);
        };
        drop(core);
        let is_same = doubt.settle(&self.handle.records);
        let is_same = is_same.unwrap_or_else(|error| end_on_disk_error(&ReadError::from(error)));
        self.handle.core().handle_settled(request, Some(is_same))
    }

    /// Makes a group of answers durable with one fdatasync, and sends them.
    fn answer(&mut self, group: &mut Group) {
        if group.is_empty() {
            return;
        }
        let (outputs, answers): (Vec<_>, Vec<_>) = group.drain(..).unzip();
        let replies = self.persist(Output::group(outputs));
        for (answer, reply) in answers.into_iter().zip(replies) {
            // The asker may have given up.
            let _ = answer.send(reply);
        }
        self.show();
    }

    /// Forgets what leaders that were answered at once have said to be needed no more.
    fn tidy(&mut self) {
        let tidied = self.handle.core().tidy();
        self.persist(tidied);
    }

    /// The core's lock is free while the disk works.
    fn persist<E>(&mut self, output: Output<Record, E>) -> E {
        let (mut places, mut trims) = (Vec::new(), false);
        let (log, disk) = (&mut self.log, &self.handle.disk);
        let persisted = output.persist_proven(|records| {
            trims = records
                .iter()
                .any(|record| matches!(record, Record::Trimmed { .. }));
            disk.begins();
            let appended = log.append(records, &mut places);
            disk.ends();
            appended
        });
        let (effects, proof) = persisted.unwrap_or_else(|error| end_on_disk_error(&error));
        let needed = {
            let mut core = self.handle.core();
            core.written(proof, &places);
            trims.then(|| core.acceptor().oldest_place())
        };
        if let Some(needed) = needed {
            let trimmed = self.log.trim_before(needed);
            trimmed.unwrap_or_else(|error| end_on_disk_error(&error));
        }
        effects
    }

    /// Tells the core whether `more` bytes may be written.
    fn look_at_volume(&mut self, more: u64) {
        let room = self.log.room(more);
        if room != self.room {
            self.room = room;
            let volume = acceptor::Volume {
                log: self.log.wal.bytes(),
                free: self.log.volume.seen().free,
            };
            self.handle.core().set_room(room, volume);
        }
    }

    /// Asks other acceptors to witness this start.
    fn enlist(&mut self) {
        self.others.refresh();
        let Some((open, request)) = self.handle.core().enlist() else {
            return;
        };
        let asked = |link: &&Link| open.contains(&link.node.id);
        for link in self.others.iter().filter(asked) {
            let (link, me, queue) = (
                link.clone(),
                self.identity.clone(),
                self.handle.queue.clone(),
            );
            let request = request.clone();
            self.runtime.spawn(async move {
                match roll_call::enlist(&link, &me, request).await {
                    Ok(reply) => {
                        let from = link.node.id;
                        // Full: it is asked again.
                        let _ = queue.try_send(Ask::Heard { from, reply });
                    }
                    Err(error) => debug!(acceptor = %link.node, %error, "is no witness yet"),
                }
            });
        }
    }

    /// Publishes how things stand, all of it durable.
    fn show(&mut self) {
        let view = &self.handle.view;
        let core = self.handle.core();
        let acceptor = core.acceptor();
        let set = |of: &AtomicU64, value| of.store(value, Ordering::Relaxed);
        set(&view.promised, acceptor.promised().number());
        set(&view.committed, acceptor.committed().0);
        set(&view.last_voted, acceptor.last_voted().0);
        set(&view.floor, acceptor.floor().0);
        set(&view.log_bytes, self.log.wal.bytes());
        let is_tight = acceptor.room().0 != Room::Enough;
        let is_full = self.log.volume.is_filled_by_others(self.log.wal.bytes());
        view.is_tight.store(is_tight, Ordering::Relaxed);
        view.is_full.store(is_full, Ordering::Relaxed);
        let metrics = &self.metrics;
        metrics.committed_slot.set(acceptor.committed().0 as i64);
        metrics.last_slot.set(acceptor.last_voted().0 as i64);
        metrics.first_slot.set(acceptor.floor().next().0 as i64);
        let (held, index) = acceptor.memory();
        metrics.votes_held.set(held as i64);
        metrics.votes_index.set(index as i64);
        metrics.votes_kept.set(acceptor.voted_bytes() as i64);
        view.votes.store(core.votes(), Ordering::Relaxed);
        if !core.votes() {
            let unmet = core.unmet().map(|id| (id, core.list_of(id)));
            *view.unmet.lock().unwrap_or_else(PoisonError::into_inner) = unmet.collect();
        }
        let (votes, refusal, cluster) = (core.votes(), core.refusal(), core.cluster());
        let founders = core.founders();
        drop(core);
        let stands = match refusal {
            Some(refusal) => {
                let _ = view.refusal.set(refusal);
                refusal.name()
            }
            None if votes => "voting",
            None => "joining",
        };
        if stands != std::mem::replace(&mut self.stood, stands) {
            if let Some(cluster) = cluster.filter(|_| votes)
                && let Err(error) = self.identity.witnessed(cluster, founders)
            {
                end_on_disk_error(&error);
            }
            self.metrics.acceptor_stands(stands);
            match refusal {
                Some(refusal) => {
                    error!(standing = stands, "does not vote: {refusal}");
                }
                None => info!(standing = stands, "how this acceptor stands"),
            }
        }
    }
}
