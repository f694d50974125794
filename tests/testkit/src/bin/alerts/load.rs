//! Writes all the time, through every proposer; not as fast as it can, so that what is slow counts.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use serde_json::json;
use testkit::cluster::http;

/// Clients at once.
const WRITERS: u64 = 16;
/// Between two writes of one.
const PAUSE: Duration = Duration::from_millis(100);

pub(crate) struct Load {
    stop: Arc<AtomicBool>,
    committed: Arc<AtomicU64>,
    threads: Vec<JoinHandle<()>>,
}

impl Load {
    pub(crate) fn start(urls: Vec<String>) -> Load {
        let (stop, committed) = (Arc::new(AtomicBool::new(false)), Arc::default());
        let threads = (0..WRITERS).map(|writer| {
            let (urls, stop, committed) = (urls.clone(), stop.clone(), Arc::clone(&committed));
            thread::spawn(move || write(writer, &urls, &stop, &committed))
        });
        let threads = threads.collect();
        Load {
            stop,
            committed,
            threads,
        }
    }

    /// Ends, and says how many writes were committed.
    pub(crate) fn stop(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            thread.join().expect("a writer does not panic");
        }
        self.committed.load(Ordering::Relaxed)
    }
}

fn write(writer: u64, urls: &[String], stop: &AtomicBool, committed: &AtomicU64) {
    let agent = http::agent(Duration::from_secs(3));
    let mut number = writer;
    while !stop.load(Ordering::Relaxed) {
        let url = &urls[(number % urls.len() as u64) as usize];
        number += WRITERS;
        let request = json!({
            "clientId": format!("load-{writer}"), "requestId": number.to_string(),
            "timestamp": number, "operation": "WRITE",
            "resource": format!("load/{}", number % 100), "data": number,
        });
        let url = format!("{url}/propose?wait=true&timeoutMs=2000");
        let answer = http::post(&agent, &url, request.to_string().into_bytes());
        if answer.is_ok_and(|answer| answer.status == 200) {
            committed.fetch_add(1, Ordering::Relaxed);
        }
        thread::sleep(PAUSE);
    }
}
