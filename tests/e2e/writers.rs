//! Clients that write one value after the other and remember what was committed.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
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
    committed: Arc<Mutex<Vec<Committed>>>,
    failed: Arc<Mutex<Vec<String>>>,
    stop: Arc<AtomicBool>,
    clients: Vec<JoinHandle<()>>,
}

/// What the writers did.
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
        namespace: &str,
        service: &str,
        run: &str,
        count: usize,
    ) -> Writers {
        let committed = Arc::new(Mutex::default());
        let failed = Arc::new(Mutex::default());
        let stop = Arc::new(AtomicBool::new(false));
        let clients = (1..=count)
            .map(|number| {
                let (client, namespace) = (client.clone(), namespace.to_owned());
                let target = format!("services/{service}:http");
                let name = format!("{run}-{number}");
                let (committed, failed, stop) = (Arc::clone(&committed), Arc::clone(&failed), Arc::clone(&stop));
                tokio::spawn(async move {
                    let mut sequence = 0_u64;
                    while !stop.load(Ordering::Relaxed) {
                        sequence += 1;
                        let (resource, data) = (format!("{name}/{sequence}"), json!({ "by": name, "n": sequence }));
                        let proposal = json!({
                            "clientId": name, "requestId": sequence.to_string(), "timestamp": sequence,
                            "operation": "WRITE", "resource": resource, "data": data,
                        });
                        loop {
                            let path = "/propose?wait=true&timeoutMs=2000";
                            let answer = request(&client, &namespace, &target, path, Some(&proposal)).await;
                            match answer {
                                Ok(answer) if answer.json()["status"] == "COMMITTED" => break,
                                Ok(answer) => push(&failed, format!("{} {}", answer.status, answer.body)),
                                Err(error) => push(&failed, error),
                            }
                            tokio::time::sleep(Duration::from_millis(20)).await;
                        }
                        push(&committed, Committed { resource, data, at: Instant::now() });
                    }
                })
            })
            .collect();
        Writers {
            committed,
            failed,
            stop,
            clients,
        }
    }

    /// How many writes were committed so far.
    pub(crate) fn count(&self) -> usize {
        self.committed.lock().expect("no writer panics").len()
    }

    /// Lets every client finish the write that it is at.
    pub(crate) async fn finish(self) -> Written {
        self.stop.store(true, Ordering::Relaxed);
        for client in self.clients {
            client.await.expect("no writer panics");
        }
        let take =
            |list: &Mutex<Vec<_>>| std::mem::take(&mut *list.lock().expect("no writer panics"));
        let failed = std::mem::take(&mut *self.failed.lock().expect("no writer panics"));
        Written {
            committed: take(&self.committed),
            failed,
        }
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

fn push<T>(list: &Mutex<Vec<T>>, item: T) {
    list.lock().expect("no writer panics").push(item);
}
