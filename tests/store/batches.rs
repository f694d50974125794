//! Many writes in little time.

use std::thread;
use std::time::{Duration, Instant};

use api::env::Role;
use serde_json::{Value as Json, json};
use testkit::cluster::{Cluster, http};

const AT_ONCE: u64 = 4;

/// Writes `count` values of `bytes` to `keys` resources in turn, each until it is committed.
///
/// # Panics
/// When that does not end.
pub fn write_batches(cluster: &Cluster, name: &str, count: u64, keys: u64, bytes: usize) {
    let urls = cluster.urls(Role::Proposer);
    let batch = (400_000 / (bytes as u64 + 150)).clamp(1, 1_000);
    let starts: Vec<u64> = (0..count).step_by(batch as usize).collect();
    thread::scope(|scope| {
        for writer in 0..AT_ONCE {
            let (urls, starts) = (&urls, &starts);
            scope.spawn(move || {
                let agent = http::agent(Duration::from_secs(70));
                for start in starts
                    .iter()
                    .skip(writer as usize)
                    .step_by(AT_ONCE as usize)
                {
                    let requests = (*start..count.min(start + batch)).map(|n| {
                        let data = format!("{n}-{}", "x".repeat(bytes.saturating_sub(8)));
                        json!({"clientId": name, "timestamp": n, "requestId": format!("{n}"),
                            "operation": "WRITE", "resource": format!("key-{}", n % keys),
                            "data": data})
                    });
                    commit(&agent, urls, requests.collect());
                }
            });
        }
    });
}

fn commit(agent: &ureq::Agent, urls: &[String], mut requests: Vec<Json>) {
    let deadline = Instant::now() + Duration::from_secs(60);
    for url in urls.iter().cycle() {
        let body = serde_json::to_vec(&requests).unwrap();
        let url = format!("{url}/propose/batch?wait=true&timeoutMs=20000");
        if let Ok(answer) = http::post(agent, &url, body)
            && answer.status == 200
        {
            let answers = answer.json();
            let mut answers = answers.as_array().unwrap().iter();
            requests.retain(|_| answers.next().unwrap()["status"] != "COMMITTED");
        }
        if requests.is_empty() {
            return;
        }
        assert!(Instant::now() < deadline, "{} are left", requests.len());
        thread::sleep(Duration::from_millis(10));
    }
}
