//! The acceptor's loop: takes what waits, lets the core answer, makes all of it durable with one
//! fdatasync, and only then sends the answers.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;
use tracing::info;

use super::{StartError, end_on_disk_error};
use crate::config::Config;
use crate::media::FileMedia;
use crate::metrics::Metrics;
use crate::paxos::acceptor::{Acceptor, Record};
use crate::paxos::ids::{Ballot, Slot};
use crate::paxos::message::{Reply, Request};
use crate::paxos::output::Output;
use crate::wal::{self, Position, Wal};

/// Requests that may wait; further ones are refused, and their senders send them again.
const QUEUE: usize = 4096;
/// Requests that share one fdatasync at most.
const GROUP: usize = 1024;

struct Ask {
    request: Request,
    answer: oneshot::Sender<Reply>,
}

/// The running acceptor. Cheap to clone.
#[derive(Clone)]
pub struct Handle {
    queue: SyncSender<Ask>,
    view: Arc<View>,
}

/// What the acceptor shows of itself, as of its last durable step.
#[derive(Default)]
struct View {
    promised: AtomicU64,
    committed: AtomicU64,
    last_voted: AtomicU64,
    floor: AtomicU64,
}

/// Too many requests wait.
#[derive(Debug)]
pub struct Busy;

impl Handle {
    /// Asks the acceptor; the answer is durable.
    pub async fn ask(&self, request: Request) -> Result<Reply, Busy> {
        let (answer, answered) = oneshot::channel();
        match self.queue.try_send(Ask { request, answer }) {
            Ok(()) => answered.await.map_err(|_| Busy),
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => Err(Busy),
        }
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

/// Opens the acceptor's log, replays it and starts the loop.
pub fn start(config: &Config, metrics: Arc<Metrics>) -> Result<Handle, StartError> {
    let path = config.data_dir.join("wal");
    let media = FileMedia::open(&path).map_err(|source| StartError::Folder { path, source })?;
    let mut acceptor = Acceptor::new();
    let mut records = 0u64;
    let mut positions = Positions::default();
    let started = Instant::now();
    let wal = Wal::open(media, wal::Options::default(), |position, bytes| {
        // A copy: the bytes are a slice of the whole segment.
        let bytes = bytes::Bytes::copy_from_slice(bytes);
        let record = Record::decode(bytes).map_err(|error| error.to_string())?;
        acceptor.remember(&record);
        positions.note(position, &record);
        records += 1;
        Ok(())
    })?;
    info!(
        target: "important",
        records,
        promised = acceptor.promised().number(),
        last_voted = acceptor.last_voted().0,
        millis = started.elapsed().as_millis() as u64,
        "acceptor's log replayed"
    );
    let view = Arc::new(View::default());
    show(&view, &acceptor);
    let (queue, requests) = sync_channel(QUEUE);
    let tick = config.election_timeout / 2;
    let run = {
        let view = view.clone();
        move || {
            run(
                acceptor,
                Log {
                    wal,
                    positions,
                    metrics: metrics.clone(),
                },
                &requests,
                tick,
                &view,
                &metrics,
            )
        }
    };
    std::thread::Builder::new()
        .name("acceptor".into())
        .spawn(run)?;
    Ok(Handle { queue, view })
}

fn run(
    mut acceptor: Acceptor,
    mut log: Log,
    requests: &Receiver<Ask>,
    tick: Duration,
    view: &View,
    metrics: &Metrics,
) {
    let mut next_tick = Instant::now() + tick;
    loop {
        let wait = next_tick.saturating_duration_since(Instant::now());
        let first = match requests.recv_timeout(wait) {
            Ok(ask) => Some(ask),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => return,
        };
        if Instant::now() >= next_tick {
            acceptor.tick();
            next_tick = Instant::now() + tick;
        }
        let Some(first) = first else { continue };

        let mut answers = Vec::new();
        let mut outputs = Vec::new();
        for ask in std::iter::once(first).chain(requests.try_iter().take(GROUP - 1)) {
            metrics.acceptor_request(&ask.request);
            outputs.push(acceptor.handle(ask.request));
            answers.push(ask.answer);
        }
        let replies = Output::group(outputs)
            .persist(|records| log.append(records))
            .unwrap_or_else(|error| end_on_disk_error(&error));
        show(view, &acceptor);
        for (answer, reply) in answers.into_iter().zip(replies) {
            metrics.acceptor_reply(&reply);
            // The asker may have given up.
            let _ = answer.send(reply);
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

fn show(view: &View, acceptor: &Acceptor) {
    view.promised
        .store(acceptor.promised().number(), Ordering::Relaxed);
    view.committed
        .store(acceptor.committed().0, Ordering::Relaxed);
    view.last_voted
        .store(acceptor.last_voted().0, Ordering::Relaxed);
    view.floor.store(acceptor.floor().0, Ordering::Relaxed);
}
