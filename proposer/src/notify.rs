//! Tells clients of their committed writes: `POST http://<clientId>/notification`, to those in
//! `NOTIFY_CLIENTS` alone. It is a convenience, not a promise: a notification is tried once, and is
//! lost when the learner that owes it is away or the client does not keep up. The log is the truth.
//!
//! A client names the address that is called, so: no address outside the list, no redirects, and an
//! address that is looked up once, so that no later answer of the DNS leads elsewhere.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use api::env::{Config, Role, Target};
use bytes::Bytes;
use http::Request;
use http::header::{CONTENT_TYPE, HOST};
use http_body_util::Full;
use paxos::codec::Entry;
use paxos::command::{Command, Operation};
use paxos::machine::Outcome;
use serde::Serialize;
use tokio::net::lookup_host;
use tokio::sync::mpsc;
use tracing::{debug, info, warn};

use crate::addresses::Addresses;
use crate::connect;
use crate::logs;
use crate::metrics::Metrics;

/// From looking the address up to the answer.
const WITHIN: Duration = Duration::from_secs(2);
/// Notifications that may wait for one client; further ones are dropped.
const QUEUE: usize = 256;

/// What a client is sent.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Notification<'a> {
    status: &'static str,
    instance_id: u64,
    resource: &'a str,
    /// The request's own.
    timestamp: u64,
}

/// Owes some of the notifications. Offering one never waits.
pub struct Notifier {
    clients: BTreeMap<Target, mpsc::Sender<Bytes>>,
    /// Of the learners, this one answers for the slots with this remainder.
    turn: u64,
    /// While learners come or go, some of them may not agree yet on who answers for what.
    addresses: Addresses,
    metrics: Arc<Metrics>,
}

impl Notifier {
    /// For the learner of this configuration; `None` when nobody is to be notified. Call within a Tokio
    /// runtime.
    pub fn start(
        config: &Config,
        addresses: &Addresses,
        metrics: &Arc<Metrics>,
    ) -> Option<Notifier> {
        if config.notify_clients.is_empty() {
            return None;
        }
        for outcome in ["sent", "failed", "dropped"] {
            metrics.notifications.with_label_values(&[outcome]);
        }
        let client = |target: &Target| {
            let (queue, notifications) = mpsc::channel(QUEUE);
            tokio::spawn(tell(target.clone(), notifications, metrics.clone()));
            (target.clone(), queue)
        };
        Some(Notifier {
            clients: config.notify_clients.iter().map(client).collect(),
            turn: config.node_id.index() as u64,
            addresses: addresses.clone(),
            metrics: metrics.clone(),
        })
    }

    /// Takes note of entries just applied.
    pub fn applied(&self, entries: &[Entry]) {
        let listed = self.addresses.now().of_role(Role::Learner).len() as u64;
        // In a list that it is not in, it answers for its own turn still.
        let learners = listed.max(self.turn + 1);
        let owes = |entry: &&Entry| entry.slot.0 % learners == self.turn;
        for entry in entries.iter().filter(owes) {
            if let Some((client, notification)) = self.notification(entry)
                && client.try_send(notification).is_err()
            {
                self.count("dropped");
            }
        }
    }

    /// What is to be sent about an entry, and to whom.
    fn notification(&self, entry: &Entry) -> Option<(&mpsc::Sender<Bytes>, Bytes)> {
        let first = entry.applied.slot == entry.slot;
        let committed = matches!(entry.applied.outcome, Outcome::Committed { .. });
        let command = Command::decode(&entry.value).ok()??;
        if !(first && committed) || command.operation == Operation::Read {
            return None;
        }
        let client = self.clients.get(&Target::parse(command.client_id)?)?;
        let notification = Notification {
            status: "COMMITTED",
            instance_id: entry.slot.0,
            resource: command.resource,
            timestamp: command.timestamp,
        };
        let notification = serde_json::to_vec(&notification).ok()?;
        Some((client, notification.into()))
    }

    fn count(&self, outcome: &str) {
        self.metrics
            .notifications
            .with_label_values(&[outcome])
            .inc();
    }
}

/// Tells one client, in the order of the log.
async fn tell(target: Target, mut notifications: mpsc::Receiver<Bytes>, metrics: Arc<Metrics>) {
    let mut pinned = None;
    let mut failing = false;
    while let Some(notification) = notifications.recv().await {
        let told = tokio::time::timeout(WITHIN, post(&target, &mut pinned, notification)).await;
        let outcome = match told.unwrap_or_else(|_| Err(format!("no answer within {WITHIN:?}"))) {
            Ok(()) => {
                if failing {
                    info!(client = %target, "takes notifications again");
                }
                failing = false;
                "sent"
            }
            Err(why) if failing => {
                debug!(client = %target, why, "not notified");
                "failed"
            }
            Err(why) => {
                // Why is for those who run the node: shown to any client that asks for the log, it
                // would be a way to find out what listens at those addresses.
                warn!(client = %target, "cannot be notified");
                warn!(target: logs::PRIVATE, client = %target, why, "cannot be notified");
                failing = true;
                "failed"
            }
        };
        metrics.notifications.with_label_values(&[outcome]).inc();
    }
}

async fn post(
    target: &Target,
    pinned: &mut Option<SocketAddr>,
    notification: Bytes,
) -> Result<(), String> {
    let address = match *pinned {
        Some(address) => address,
        None => {
            let found = lookup_host(target.address())
                .await
                .map_err(|e| e.to_string())?;
            *pinned.insert({ found }.next().ok_or("its name has no address")?)
        }
    };
    let request = Request::post("/notification")
        .header(HOST, target.address())
        .header(CONTENT_TYPE, "application/json")
        .body(Full::new(notification))
        .map_err(|e| e.to_string())?;
    // The head of the answer is all that counts; with it the connection ends.
    let answer = connect::head_only(address, request);
    let answer = answer.await.map_err(|e| e.to_string())?;
    match answer.status {
        status if status.is_success() => Ok(()),
        status if status.is_redirection() => Err(format!(
            "it answered {status}, and redirects are not followed"
        )),
        status => Err(format!("it answered {status}")),
    }
}

#[cfg(test)]
mod tests;
