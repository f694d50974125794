//! What the systems are asked to do, in their own words.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;

use super::client::{Call, protobuf};

/// Who is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum System {
    /// This project's cluster.
    Ours,
    /// etcd through its HTTP gateway.
    EtcdHttp,
    /// etcd through gRPC.
    EtcdGrpc,
    /// A server with this project's HTTP stack that does nothing.
    Noop,
}

/// Requests, one after the other, and what a good answer is.
pub(crate) trait Work: Send + Sync {
    /// The next request.
    fn call(&self) -> Call;
    /// Whether an answer with a good status acknowledges what was asked; else what it says.
    fn check(&self, answer: &Bytes) -> Result<(), String>;
    /// How many operations one request carries.
    fn operations(&self) -> u64 {
        1
    }
}

/// Writes of values under unique keys.
pub(crate) struct Writes {
    system: System,
    value: String,
    batch: u64,
    next: AtomicU64,
    /// Names the clients of this run, which take turns, and how many requests they have sent.
    run: u64,
    turns: AtomicU64,
    /// How many different keys there are; 0: each is new.
    keys: u64,
}

impl Writes {
    /// `size` in bytes, `batch` values in a request. Keys begin with the number `first`.
    pub(crate) fn new(system: System, size: usize, batch: u64, first: u64) -> Writes {
        // Letters, so that JSON needs no escapes and compression, if any, finds little.
        let letters =
            (0..size as u64).map(|i| b'a' + (i.wrapping_mul(2654435761) >> 13) as u8 % 26);
        Writes {
            system,
            value: letters.map(char::from).collect(),
            batch,
            next: AtomicU64::new(first),
            run: SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .map_or(0, |now| now.as_nanos() as u64),
            turns: AtomicU64::new(0),
            keys: 0,
        }
    }

    /// The same over this many keys, again and again.
    pub(crate) fn over(self, keys: u64) -> Writes {
        Writes { keys, ..self }
    }

    /// A request of the next client, or a list of them.
    fn ours(&self) -> Vec<String> {
        let turn = self.turns.fetch_add(1, Ordering::Relaxed);
        let sequence = turn / CLIENTS * self.batch;
        let requests = (0..self.batch).map(|i| self.one(turn % CLIENTS, sequence + i));
        requests.collect()
    }

    fn one(&self, client: u64, sequence: u64) -> String {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let value = &self.value;
        format!(
            "{{\"clientId\":\"bench-{:x}-{client}\",\"sequence\":{sequence},\"timestamp\":{number},\
             \"operation\":\"WRITE\",\"resource\":\"{}\",\"data\":\"{value}\"}}",
            self.run,
            key(match self.keys {
                0 => number,
                keys => number % keys,
            })
        )
    }
}

/// This many clients take turns: each has few requests under way, whatever the number of connections.
const CLIENTS: u64 = 256;

fn key(number: u64) -> String {
    format!("key-{number:010}")
}

impl Work for Writes {
    fn call(&self) -> Call {
        match self.system {
            System::Ours | System::Noop if self.batch == 1 => Call {
                path: "/propose?wait=true".to_owned(),
                body: Some(self.ours().concat().into()),
            },
            System::Ours | System::Noop => Call {
                path: "/propose/batch?wait=true".to_owned(),
                body: Some(format!("[{}]", self.ours().join(",")).into()),
            },
            System::EtcdHttp => {
                let key = key(self.next.fetch_add(1, Ordering::Relaxed));
                let (key, value) = (STANDARD.encode(key), STANDARD.encode(&self.value));
                Call {
                    path: "/v3/kv/put".to_owned(),
                    body: Some(format!("{{\"key\":\"{key}\",\"value\":\"{value}\"}}").into()),
                }
            }
            System::EtcdGrpc => {
                let key = key(self.next.fetch_add(1, Ordering::Relaxed));
                Call {
                    path: "/etcdserverpb.KV/Put".to_owned(),
                    body: Some(protobuf(&[key.as_bytes(), self.value.as_bytes()])),
                }
            }
        }
    }

    fn check(&self, answer: &Bytes) -> Result<(), String> {
        let committed = match self.system {
            System::Ours | System::Noop => {
                let status = b"\"status\":\"COMMITTED\"";
                answer.windows(status.len()).filter(|w| w == status).count() as u64
            }
            // It has no other good answer.
            System::EtcdHttp | System::EtcdGrpc => self.batch,
        };
        match committed == self.batch {
            true => Ok(()),
            false => Err(String::from_utf8_lossy(answer).into_owned()),
        }
    }

    fn operations(&self) -> u64 {
        self.batch
    }
}

/// Linearizable reads of keys that [`Writes`] wrote.
pub(crate) struct Reads {
    system: System,
    size: usize,
    first: u64,
    keys: u64,
    next: AtomicU64,
}

impl Reads {
    /// Of `keys` keys from the number `first` on, whose values have `size` bytes.
    pub(crate) fn new(system: System, size: usize, first: u64, keys: u64) -> Reads {
        Reads {
            system,
            size,
            first,
            keys,
            next: AtomicU64::new(0),
        }
    }
}

impl Work for Reads {
    fn call(&self) -> Call {
        // Far from each other.
        let turn = self.next.fetch_add(1, Ordering::Relaxed).wrapping_mul(7919);
        let key = key(self.first + turn % self.keys);
        let (path, body) = match self.system {
            System::Ours | System::Noop => (format!("/resource/{key}"), None),
            System::EtcdHttp => {
                let body = format!("{{\"key\":\"{}\"}}", STANDARD.encode(key));
                ("/v3/kv/range".to_owned(), Some(body.into()))
            }
            System::EtcdGrpc => {
                let body = protobuf(&[key.as_bytes()]);
                ("/etcdserverpb.KV/Range".to_owned(), Some(body))
            }
        };
        Call { path, body }
    }

    fn check(&self, answer: &Bytes) -> Result<(), String> {
        match answer.len() >= self.size {
            true => Ok(()),
            false => Err(String::from_utf8_lossy(answer).into_owned()),
        }
    }
}
