//! Logs: JSON lines to stdout, to two bounded files, and to memory for `GET /logs`.
//!
//! | where | what |
//! |---|---|
//! | stdout | everything the filter lets through |
//! | `LOG_DIR/<role>-X_important.log`, [`Logs::important`] | INFO, WARN, ERROR |
//! | `LOG_DIR/<role>-X_all.log`, [`Logs::recent`] | everything, only with DEBUG=true |
//!
//! So INFO is for what an operator wants to see a year later (an election, a lost peer, a restart),
//! and DEBUG for everything that happens per request. The filter is `RUST_LOG` if set, else INFO,
//! with DEBUG=true DEBUG for this program.
//!
//! Nobody waits for a log: each sink has its own thread and bounded queue, and what does not fit is
//! counted in [`Logs::dropped`] and gone. A sink that fails or hangs stops no other and no node.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use api::env::Config;
use tracing::{Level, Metadata, Subscriber};
use tracing_subscriber::filter::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use rotate::RotatingFile;

mod rotate;
#[cfg(test)]
mod tests;

/// The target of lines that standard output and the files get, and `GET /logs/important` does not.
pub const PRIVATE: &str = "private";
/// How many entries each of the two memories holds, and bytes of them.
pub const ENTRIES: usize = 1000;
const NEWEST_BYTES: usize = 2 << 20;
/// A longer entry, in bytes of JSON, is dropped.
pub const MAX_ENTRY_BYTES: usize = 64 << 10;
/// Entries waiting for a sink.
const QUEUE: usize = 8192;
/// The environment's variable with the filter.
const FILTER: &str = "RUST_LOG";

/// Why logging cannot start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// `RUST_LOG` is set to something bad.
    #[error("RUST_LOG={held:?} is invalid: expected directives like info,node=debug ({reason})")]
    Filter {
        /// What it held.
        held: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Logging has started already.
    #[error("the process has a logger already")]
    Installed,
}

/// The newest entries, and the way to the sinks. Clones are the same.
#[derive(Clone)]
pub struct Logs(Arc<Shared>);

struct Shared {
    stdout: SyncSender<Message>,
    important: Channel,
    /// Only with DEBUG=true.
    all: Option<Channel>,
    dropped: AtomicU64,
}

/// A memory, and a file behind it.
struct Channel {
    newest: Mutex<Newest>,
    file: SyncSender<Message>,
}

#[derive(Default)]
struct Newest {
    lines: VecDeque<Arc<[u8]>>,
    bytes: usize,
}

enum Message {
    /// One entry with its line end.
    Line(Arc<[u8]>),
    /// Answer when everything before is written.
    Flush(SyncSender<()>),
}

/// Starts logging for the whole process.
pub fn init(config: &Config) -> Result<Logs, Error> {
    let filter = std::env::var(FILTER).ok();
    let (logs, subscriber) = build(config, filter.as_deref(), Box::new(io::stdout()))?;
    subscriber.try_init().map_err(|_| Error::Installed)?;
    Ok(logs)
}

/// Whether `RUST_LOG` is as it should be, for those who want to know before [`init`].
pub fn check_environment() -> Result<(), Error> {
    let held = std::env::var(FILTER).ok();
    match held.filter(|held| !held.is_empty()) {
        Some(held) => parse_filter(&held).map(drop),
        None => Ok(()),
    }
}

fn parse_filter(held: &str) -> Result<EnvFilter, Error> {
    EnvFilter::try_new(held).map_err(|error| Error::Filter {
        held: held.to_owned(),
        reason: error.to_string(),
    })
}

/// The logs of that node, and what feeds them.
fn build(
    config: &Config,
    filter: Option<&str>,
    stdout: Box<dyn Write + Send>,
) -> Result<(Logs, impl Subscriber + Send + Sync + use<>), Error> {
    let default = if config.debug {
        "info,node=debug"
    } else {
        "info"
    };
    let filter = filter
        .filter(|filter| !filter.is_empty())
        .unwrap_or(default);
    let filter = parse_filter(filter)?;
    let channel = |name: &str| {
        let file = format!("{}_{name}.log", config.name());
        Channel {
            newest: Mutex::default(),
            file: sink(RotatingFile::new(config.log_dir.join(file))),
        }
    };
    let logs = Logs(Arc::new(Shared {
        stdout: sink(stdout),
        important: channel("important"),
        all: config.debug.then(|| channel("all")),
        dropped: AtomicU64::new(0),
    }));
    let lines = tracing_subscriber::fmt::layer()
        .json()
        .flatten_event(true)
        .with_span_list(false)
        .with_writer(Lines(Arc::clone(&logs.0)));
    let subscriber = tracing_subscriber::registry().with(filter).with(lines);
    Ok((logs, subscriber))
}

impl Logs {
    /// The newest entries of all levels, at most `limit`, oldest first. Empty unless DEBUG=true.
    pub fn recent(&self, limit: usize) -> Vec<serde_json::Value> {
        let all = self.0.all.as_ref();
        all.map_or_else(Vec::new, |all| all.newest(limit))
    }

    /// The newest entries of INFO and above, at most `limit`, oldest first.
    pub fn important(&self, limit: usize) -> Vec<serde_json::Value> {
        self.0.important.newest(limit)
    }

    /// How many lines a sink has missed because its queue was full, or because they were longer
    /// than [`MAX_ENTRY_BYTES`].
    pub fn dropped(&self) -> u64 {
        self.0.dropped.load(Ordering::Relaxed)
    }

    /// Waits until everything logged so far is written, for each sink at most `patience`. For the
    /// last moment of a process.
    pub fn flush(&self, patience: Duration) {
        let files = std::iter::once(&self.0.important).chain(&self.0.all);
        let sinks = files.map(|channel| &channel.file).chain([&self.0.stdout]);
        for sink in sinks {
            let (done, wait) = mpsc::sync_channel(1);
            // A sink with a full queue is hanging, and not worth the wait.
            if sink.try_send(Message::Flush(done)).is_ok() {
                let _ = wait.recv_timeout(patience);
            }
        }
    }
}

impl Shared {
    fn take(&self, level: Level, private: bool, line: &[u8]) {
        if line.len() > MAX_ENTRY_BYTES {
            self.dropped.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let line: Arc<[u8]> = line.into();
        let send = |sink: &SyncSender<Message>| {
            if sink.try_send(Message::Line(Arc::clone(&line))).is_err() {
                self.dropped.fetch_add(1, Ordering::Relaxed);
            }
        };
        send(&self.stdout);
        let important = (level <= Level::INFO).then_some(&self.important);
        for channel in important.into_iter().chain(&self.all) {
            send(&channel.file);
            if !private {
                channel.remember(Arc::clone(&line));
            }
        }
    }
}

impl Channel {
    fn remember(&self, line: Arc<[u8]>) {
        let mut newest = self.newest.lock().unwrap_or_else(PoisonError::into_inner);
        newest.bytes += line.len();
        newest.lines.push_back(line);
        while newest.lines.len() > ENTRIES || newest.bytes > NEWEST_BYTES {
            let oldest = newest.lines.pop_front();
            newest.bytes -= oldest.map_or(0, |line| line.len());
        }
    }

    fn newest(&self, limit: usize) -> Vec<serde_json::Value> {
        let lines: Vec<Arc<[u8]>> = {
            let newest = self.newest.lock().unwrap_or_else(PoisonError::into_inner);
            let skip = newest.lines.len().saturating_sub(limit);
            newest.lines.iter().skip(skip).cloned().collect()
        };
        let entries = lines.iter().map(|line| serde_json::from_slice(line));
        entries.flatten().collect()
    }
}

/// A thread that writes what the queue brings.
fn sink(mut writer: impl Write + Send + 'static) -> SyncSender<Message> {
    let (sender, receiver) = mpsc::sync_channel(QUEUE);
    // Without a thread the receiver is gone: every line counts as dropped.
    let _ = std::thread::Builder::new()
        .name("log".to_owned())
        .spawn(move || write_all(&receiver, &mut writer));
    sender
}

/// Ends when the last sender is gone. A sink's error has nowhere to go: the next line tries again.
fn write_all(receiver: &Receiver<Message>, writer: &mut impl Write) {
    while let Ok(first) = receiver.recv() {
        for message in std::iter::once(first).chain(receiver.try_iter()) {
            match message {
                Message::Line(line) => {
                    let _ = writer.write_all(&line);
                }
                Message::Flush(done) => {
                    let _ = writer.flush();
                    let _ = done.send(());
                }
            }
        }
        let _ = writer.flush();
    }
}

/// What the JSON layer writes to.
struct Lines(Arc<Shared>);

/// What it writes one entry to.
struct Entry<'a> {
    shared: &'a Shared,
    level: Level,
    private: bool,
}

impl<'a> MakeWriter<'a> for Lines {
    type Writer = Entry<'a>;

    fn make_writer(&'a self) -> Entry<'a> {
        Entry {
            shared: &self.0,
            level: Level::INFO,
            private: false,
        }
    }

    fn make_writer_for(&'a self, metadata: &Metadata<'_>) -> Entry<'a> {
        Entry {
            shared: &self.0,
            level: *metadata.level(),
            private: metadata.target() == PRIVATE,
        }
    }
}

impl Write for Entry<'_> {
    /// The layer hands over an entry in one piece.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.shared.take(self.level, self.private, line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
