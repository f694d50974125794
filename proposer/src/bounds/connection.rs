//! One client's connection, as the bounds see it: where it comes from, what it does, and whether it
//! gets on with it.

use std::net::{IpAddr, Ipv6Addr};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use tokio::task::AbortHandle;

use super::budget::Share;
use super::{Bounds, Kind, Waits};

/// It has brought a request.
const ASKED: u8 = 1;
/// A request is being worked on: from its head to the head of its answer.
const WORKING: u8 = 2;
/// A body is being read.
const READING: u8 = 4;
/// An answer without an end is being sent.
const STREAMING: u8 = 8;
/// It speaks as peers and probes do.
const NEEDED: u8 = 16;

/// While others want the memory: how fast a body must come and an answer be taken, in bytes a second,
/// and how long a pause may be.
const LEAST_RATE: u64 = 64 << 10;
const READ_PAUSE: Duration = Duration::from_millis(250);
const WRITE_PAUSE: Duration = Duration::from_secs(1);
/// A connection that has just been opened may yet speak.
const GRACE: Duration = Duration::from_millis(100);
/// One between two requests that was used a moment ago will be used again.
const USED: Duration = Duration::from_millis(50);

/// An open connection.
pub struct Connection {
    pub(super) id: u64,
    pub(super) source: IpAddr,
    pub(super) bounds: Arc<Bounds>,
    pub(super) waits: Arc<Waits>,
    /// Taken when the others were: for peers and probes alone.
    pub(super) on_trial: bool,
    opened: Instant,
    flags: AtomicU8,
    /// Bytes read and written so far, and milliseconds after `opened` when the last were.
    moved: AtomicU64,
    moved_at: AtomicU64,
    /// The same when the body or the answer began that is under way.
    began: AtomicU64,
    began_at: AtomicU64,
    /// What of each budget it holds.
    held: [AtomicUsize; Kind::ALL.len()],
    /// What of it is on its way to the client.
    unsent: AtomicUsize,
    /// What serves it, once it has begun, and whether that is to end.
    task: OnceLock<AbortHandle>,
    ends: AtomicBool,
    holds: Mutex<Holds>,
}

/// What the request under way has taken.
#[derive(Default)]
pub(super) struct Holds {
    /// A frame that is being worked on.
    pub(super) frame: Option<Held>,
    /// For the answer that is being made.
    pub(super) answer: Option<Held>,
}

/// A share that a connection holds.
pub(super) struct Held {
    connection: Arc<Connection>,
    kind: Kind,
    share: Share,
    /// Whether it is of bytes on their way to the client.
    sent: bool,
}

impl Held {
    pub(super) fn new(connection: &Arc<Connection>, kind: Kind, share: Share) -> Held {
        connection.held[kind as usize].fetch_add(share.bytes(), Ordering::Relaxed);
        Held {
            connection: connection.clone(),
            kind,
            share,
            sent: false,
        }
    }

    /// It now has this many bytes, which go to the client.
    pub(super) fn send(&mut self, bytes: usize) {
        self.resize(bytes);
        self.sent = true;
        self.connection.unsent.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(super) fn connection(&self) -> &Connection {
        &self.connection
    }

    fn resize(&mut self, bytes: usize) {
        let held = &self.connection.held[self.kind as usize];
        held.fetch_add(bytes, Ordering::Relaxed);
        held.fetch_sub(self.share.bytes(), Ordering::Relaxed);
        self.share.resize(bytes);
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let bytes = self.share.bytes();
        self.connection.held[self.kind as usize].fetch_sub(bytes, Ordering::Relaxed);
        if self.sent {
            self.connection.unsent.fetch_sub(bytes, Ordering::Relaxed);
        }
    }
}

/// How little would be lost if a connection were cut: the lower, the less.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Loss {
    /// It never asked for anything.
    Silent,
    /// It is between two requests.
    Idle,
    /// It does not get on with its body or its answer.
    Stalled,
    /// A peer's or a probe's, between two requests.
    IdlePeer,
    /// It has just been opened.
    Fresh,
    /// It is served.
    Served,
}

impl Connection {
    pub(super) fn new(
        id: u64,
        source: IpAddr,
        bounds: Arc<Bounds>,
        waits: Arc<Waits>,
        on_trial: bool,
    ) -> Connection {
        Connection {
            id,
            source,
            bounds,
            waits,
            on_trial,
            opened: Instant::now(),
            flags: AtomicU8::new(0),
            moved: AtomicU64::new(0),
            moved_at: AtomicU64::new(0),
            began: AtomicU64::new(0),
            began_at: AtomicU64::new(0),
            held: Default::default(),
            unsent: AtomicUsize::new(0),
            task: OnceLock::new(),
            ends: AtomicBool::new(false),
            holds: Mutex::default(),
        }
    }

    /// Names the task that runs [`Connection::scope`]: with it the connection ends.
    pub(crate) fn is_served_by(&self, task: AbortHandle) {
        let task = self.task.get_or_init(|| task);
        if self.ends.load(Ordering::SeqCst) {
            task.abort();
        }
    }

    /// Cuts it. Its task may not have begun.
    pub(super) fn end(&self) {
        self.ends.store(true, Ordering::SeqCst);
        if let Some(task) = self.task.get() {
            task.abort();
        }
    }

    fn now(&self) -> u64 {
        u64::try_from(self.opened.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn set(&self, flag: u8, on: bool) {
        match on {
            true => self.flags.fetch_or(flag, Ordering::Relaxed),
            false => self.flags.fetch_and(!flag, Ordering::Relaxed),
        };
    }

    /// Whether any of these is so.
    fn is(&self, flag: u8) -> bool {
        self.flags.load(Ordering::Relaxed) & flag != 0
    }

    /// Some bytes were read or written.
    pub(crate) fn moves(&self, bytes: usize) {
        self.moved.fetch_add(bytes as u64, Ordering::Relaxed);
        self.moved_at.store(self.now(), Ordering::Relaxed);
    }

    /// A body or an answer begins now.
    pub(super) fn begins(&self) {
        let moved = self.moved.load(Ordering::Relaxed);
        self.began.store(moved, Ordering::Relaxed);
        self.began_at.store(self.now(), Ordering::Relaxed);
    }

    /// A request has come. Whether it may stay.
    pub(crate) fn asks(&self, path: &str) -> bool {
        let needed = is_needed(path);
        let mut flags = ASKED | WORKING;
        if needed {
            flags |= NEEDED;
        }
        self.flags.fetch_or(flags, Ordering::Relaxed);
        needed || !self.on_trial || self.flags.load(Ordering::Relaxed) & NEEDED != 0
    }

    /// Its answer has a head.
    pub(crate) fn is_answered(&self) {
        self.set(WORKING, false);
    }

    pub(super) fn reads(&self, on: bool) {
        if on {
            self.begins();
        }
        self.set(READING, on);
    }

    pub(super) fn streams(&self, on: bool) {
        self.set(STREAMING, on);
    }

    pub(super) fn holds(&self) -> MutexGuard<'_, Holds> {
        self.holds.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn holds_of(&self, kind: Kind) -> usize {
        self.held[kind as usize].load(Ordering::Relaxed)
    }

    /// By how much it is too slow with what is under way; `None` if it is not.
    pub(super) fn is_behind(&self) -> Option<Duration> {
        let pause = match (self.is(READING), self.unsent.load(Ordering::Relaxed)) {
            (true, _) => READ_PAUSE,
            // It waits for us.
            (false, 0) => return None,
            (false, _) => WRITE_PAUSE,
        };
        let moved = self.moved.load(Ordering::Relaxed) - self.began.load(Ordering::Relaxed);
        let took = self.now() - self.began_at.load(Ordering::Relaxed).min(self.now());
        let may_take = pause + Duration::from_millis(moved * 1000 / LEAST_RATE);
        let slow = Duration::from_millis(took).checked_sub(may_take);
        // Nor does a fast start help a client that stops.
        let since = self.is_idle_for().min(Duration::from_millis(took));
        slow.max(since.checked_sub(pause))
    }

    /// How long since it last moved a byte.
    pub(super) fn is_idle_for(&self) -> Duration {
        let moved_at = self.moved_at.load(Ordering::Relaxed);
        Duration::from_millis(self.now().saturating_sub(moved_at))
    }

    /// What cutting it would cost, and for how long it has been so.
    pub(super) fn loss(&self) -> (Loss, Duration) {
        if !self.is(ASKED) {
            // A client that drips a head byte by byte counts as silent.
            let open = self.opened.elapsed();
            return match open >= GRACE {
                true => (Loss::Silent, open),
                false => (Loss::Fresh, open),
            };
        }
        let idle = self.is_idle_for();
        if let Some(by) = self.is_behind() {
            return (Loss::Stalled, by);
        }
        let busy = WORKING | READING | STREAMING;
        if self.is(busy) || self.unsent.load(Ordering::Relaxed) > 0 {
            return (Loss::Served, idle);
        }
        let loss = match self.is(NEEDED) {
            true => Loss::IdlePeer,
            false => Loss::Idle,
        };
        match idle >= USED {
            true => (loss, idle),
            false => (Loss::Served, idle),
        }
    }
}

/// Whether the cluster needs an answer at this path: its own traffic, and what watches over nodes.
fn is_needed(path: &str) -> bool {
    path.starts_with("/paxos/")
        || matches!(
            path,
            "/health" | "/ready" | "/metrics" | "/leader-heartbeat" | "/status"
        )
}

/// One source, whichever form its address comes in. A host may pick any address of its IPv6 network.
pub(super) fn source(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) if v6 != Ipv6Addr::LOCALHOST => {
            IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & (u128::MAX << 64)))
        }
        address => address,
    }
}
