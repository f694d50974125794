//! Clients that write one value after the other and remember what was committed.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::task::JoinHandle;

use super::kubernetes::request;

/// A write that was answered with COMMITTED.
#[derive(Clone, Debug)]
pub(crate) struct Committed {
    pub(crate) resource: String,
    pub(crate) data: Value,
    pub(crate) at: Instant,
}

/// Clients at work. Each sends a write again, under the same requestId, until it is committed.
pub(crate) struct Writers {
    log: Arc<Log>,
    clients: Vec<JoinHandle<()>>,
}

#[derive(Default)]
struct Log {
    written: Mutex<Written>,
    stop: AtomicBool,
}

/// What the writers did.
#[derive(Debug, Default)]
pub(crate) struct Written {
    /// In the order of their answers.
    pub(crate) committed: Vec<Committed>,
    /// Why attempts were made again.
    pub(crate) failed: Vec<String>,
}

impl Writers {
    /// Starts `count` clients of a Service. `run` tells the resources of one call from another's.
    pub(crate) fn start(
        client: &kube::Client,
        namespace: &'static str,
        service: &str,
        run: &str,
        count: usize,
    ) -> Writers {
        let log = Arc::<Log>::default();
        let start = |number| {
            let (client, log) = (client.clone(), Arc::clone(&log));
            let target = format!("services/{service}:http");
            let name = format!("{run}-{number}");
            tokio::spawn(async move { write(&client, namespace, &target, &name, &log).await })
        };
        let clients = (1..=count).map(start).collect();
        Writers { log, clients }
    }

    /// How many writes were committed so far.
    pub(crate) fn count(&self) -> usize {
        self.log.written().committed.len()
    }

    /// Lets every client finish the write that it is at.
    pub(crate) async fn finish(self) -> Written {
        self.log.stop.store(true, Ordering::Relaxed);
        for client in self.clients {
            client.await.expect("no writer panics");
        }
        std::mem::take(&mut *self.log.written())
    }
}

impl Log {
    fn written(&self) -> MutexGuard<'_, Written> {
        self.written.lock().expect("no writer panics")
    }
}

async fn write(client: &kube::Client, namespace: &str, target: &str, name: &str, log: &Log) {
    for sequence in 1.. {
        if log.stop.load(Ordering::Relaxed) {
            break;
        }
        let resource = format!("{name}/{sequence}");
        let data = json!({ "by": name, "n": sequence });
        let proposal = json!({
            "clientId": name,
            "requestId": sequence.to_string(),
            "timestamp": sequence,
            "operation": "WRITE",
            "resource": resource,
            "data": data,
        });
        loop {
            let path = "/propose?wait=true&timeoutMs=2000";
            let why = match request(client, namespace, target, path, Some(&proposal)).await {
                Ok(answer) if answer.json()["status"] == "COMMITTED" => break,
                Ok(answer) => format!("{} {}", answer.status, answer.body),
                Err(error) => error,
            };
            log.written().failed.push(why);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let at = Instant::now();
        let committed = Committed { resource, data, at };
        log.written().committed.push(committed);
    }
}

impl Written {
    /// The longest time between two commits that follow each other.
    pub(crate) fn longest_gap(&self) -> Duration {
        let times = self
            .committed
            .windows(2)
            .map(|pair| pair[1].at.duration_since(pair[0].at));
        times.max().unwrap_or_default()
    }
}
