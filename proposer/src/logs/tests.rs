use std::path::Path;

use api::env::Role;
use paxos::ids::NodeId;
use tracing::subscriber::with_default;
use tracing::{debug, error, info, trace, warn};

use super::*;

const PATIENCE: Duration = Duration::from_secs(60);

fn config(dir: &Path, debug: bool) -> Config {
    let mut config = Config::new(Role::Learner, NodeId::new(2).unwrap());
    config.log_dir = dir.join("logs");
    config.debug = debug;
    config
}

fn speak() {
    trace!("trace");
    debug!(slot = 7, "debug");
    info!(leader = %"proposer-1", "info");
    warn!("warn");
    error!("error");
}

fn messages(entries: &[serde_json::Value]) -> Vec<&str> {
    entries
        .iter()
        .map(|entry| entry["message"].as_str().unwrap())
        .collect()
}

fn lines(path: &Path) -> Vec<serde_json::Value> {
    let text = std::fs::read_to_string(path).unwrap();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

/// What was written, for a test to look at.
#[derive(Clone, Default)]
struct Captured(Arc<Mutex<Vec<u8>>>);

impl Write for Captured {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn private_lines_are_for_who_runs_the_node() {
    let dir = tempfile::tempdir().unwrap();
    let stdout = Captured::default();
    let config = config(dir.path(), true);
    let (logs, subscriber) = build(&config, None, Box::new(stdout.clone())).unwrap();
    with_default(subscriber, || {
        warn!(target: PRIVATE, why = "it refused", "secret");
        warn!("known");
    });
    logs.flush(PATIENCE);
    assert_eq!(messages(&logs.important(ENTRIES)), ["known"]);
    assert_eq!(messages(&logs.recent(ENTRIES)), ["known"]);
    let file = lines(&dir.path().join("logs/learner-2_important.log"));
    assert_eq!(messages(&file), ["secret", "known"]);
    let printed = String::from_utf8(stdout.0.lock().unwrap().clone()).unwrap();
    assert!(printed.contains("it refused"), "{printed}");
}

#[test]
fn the_memories_are_bounded_in_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let (logs, subscriber) = build(&config(dir.path(), false), None, Box::new(io::sink())).unwrap();
    let long = "x".repeat(MAX_ENTRY_BYTES - 1000);
    with_default(subscriber, || {
        for i in 0..200 {
            info!(i, long, "entry");
        }
    });
    let kept = logs.important(ENTRIES);
    assert!(
        (25..=NEWEST_BYTES / long.len()).contains(&kept.len()),
        "{}",
        kept.len()
    );
    assert_eq!(kept.last().unwrap()["i"], 199);
}

#[test]
fn info_and_above_is_important_and_debug_goes_to_all_only() {
    let dir = tempfile::tempdir().unwrap();
    let stdout = Captured::default();
    let (logs, subscriber) =
        build(&config(dir.path(), true), None, Box::new(stdout.clone())).unwrap();
    with_default(subscriber, speak);
    logs.flush(PATIENCE);
    let all = ["debug", "info", "warn", "error"];
    assert_eq!(messages(&logs.recent(ENTRIES)), all);
    assert_eq!(messages(&logs.important(ENTRIES)), all[1..]);
    assert_eq!(messages(&logs.recent(2)), all[2..]);
    let file = |name| lines(&dir.path().join("logs").join(name));
    assert_eq!(messages(&file("learner-2_all.log")), all);
    assert_eq!(messages(&file("learner-2_important.log")), all[1..]);
    assert_eq!(
        stdout
            .0
            .lock()
            .unwrap()
            .split(|byte| *byte == b'\n')
            .count(),
        4 + 1
    );
    assert_eq!(logs.recent(4)[0]["slot"], 7);
    assert_eq!(logs.recent(4)[1]["leader"], "proposer-1");
    assert_eq!(logs.recent(4)[1]["level"], "INFO");
    assert_eq!(logs.dropped(), 0);
}

#[test]
fn without_debug_there_is_no_file_or_memory_of_everything() {
    let dir = tempfile::tempdir().unwrap();
    let (logs, subscriber) =
        build(&config(dir.path(), false), Some(""), Box::new(io::sink())).unwrap();
    with_default(subscriber, speak);
    logs.flush(PATIENCE);
    assert!(logs.recent(ENTRIES).is_empty());
    assert_eq!(
        messages(&logs.important(ENTRIES)),
        ["info", "warn", "error"]
    );
    let files = std::fs::read_dir(dir.path().join("logs")).unwrap();
    let names: Vec<_> = files.map(|file| file.unwrap().file_name()).collect();
    assert_eq!(names, ["learner-2_important.log"]);
}

#[test]
fn memory_holds_the_newest_thousand_and_no_giant() {
    let dir = tempfile::tempdir().unwrap();
    let (logs, subscriber) = build(&config(dir.path(), true), None, Box::new(io::sink())).unwrap();
    with_default(subscriber, || {
        for number in 0..ENTRIES + 5 {
            info!(number, "entry");
        }
        info!("{}", "x".repeat(MAX_ENTRY_BYTES));
    });
    let entries = logs.recent(usize::MAX);
    assert_eq!(entries.len(), ENTRIES);
    assert_eq!(entries[0]["number"], 5);
    assert_eq!(entries[ENTRIES - 1]["number"], ENTRIES + 4);
    assert_eq!(logs.dropped(), 1);
}

/// Hangs until its sender is dropped.
struct Hanging(Receiver<()>);

impl Write for Hanging {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let _ = self.0.recv();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_sink_that_hangs_stops_neither_the_node_nor_the_other_sinks() {
    let dir = tempfile::tempdir().unwrap();
    let (release, hang) = mpsc::channel();
    let (logs, subscriber) =
        build(&config(dir.path(), false), None, Box::new(Hanging(hang))).unwrap();
    with_default(subscriber, || {
        for number in 0..QUEUE + 100 {
            info!(number, "entry");
            if number % 1000 == 0 {
                // Gives the file time, while stdout hangs.
                let (done, wait) = mpsc::sync_channel(1);
                logs.0.important.file.send(Message::Flush(done)).unwrap();
                wait.recv().unwrap();
            }
        }
    });
    assert!((98..=100).contains(&logs.dropped()), "{}", logs.dropped());
    logs.flush(Duration::ZERO);
    let (done, wait) = mpsc::sync_channel(1);
    logs.0.important.file.send(Message::Flush(done)).unwrap();
    wait.recv().unwrap();
    let written = lines(&dir.path().join("logs/learner-2_important.log"));
    assert_eq!(written.len(), QUEUE + 100);
    drop(release);
}

#[test]
fn a_log_folder_that_cannot_be_made_stops_nothing() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("logs"), "a file where the folder belongs").unwrap();
    let stdout = Captured::default();
    let (logs, subscriber) =
        build(&config(dir.path(), true), None, Box::new(stdout.clone())).unwrap();
    with_default(subscriber, speak);
    logs.flush(PATIENCE);
    assert_eq!(
        messages(&logs.important(ENTRIES)),
        ["info", "warn", "error"]
    );
    assert!(!stdout.0.lock().unwrap().is_empty());
}

#[test]
fn a_bad_filter_is_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let built = build(
        &config(dir.path(), false),
        Some("info,node=loud"),
        Box::new(io::sink()),
    );
    let refused = built.err().unwrap().to_string();
    assert!(refused.starts_with("RUST_LOG=\"info,node=loud\" is invalid"));
}
