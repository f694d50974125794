//! The connections of one lane: how many there may be, who waits for one, which are idle. A
//! connection is idle here only while no call uses it, so a call that is given up takes its
//! connection, whose state nobody knows, with it.

use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::task::JoinHandle;

use crate::connect;

pub(super) struct Pool {
    /// Calls that have a connection or wait for one.
    entered: Semaphore,
    /// Calls that have a connection.
    slots: Semaphore,
    idle: Mutex<Vec<Connection>>,
}

impl Pool {
    pub(super) fn new(connections: usize, max_waiting: usize) -> Pool {
        Pool {
            entered: Semaphore::new(connections + max_waiting),
            slots: Semaphore::new(connections),
            idle: Mutex::default(),
        }
    }

    /// The right to one connection, in the order of asking; `None` when too many wait.
    pub(super) async fn slot(&self) -> Option<Slot<'_>> {
        let entered = self.entered.try_acquire().ok()?;
        let slot = self.slots.acquire().await.ok()?;
        Some(Slot {
            pool: self,
            _permits: [entered, slot],
        })
    }

    /// Closes the idle connections.
    pub(super) fn forget_idle(&self) {
        self.with_idle(Vec::clear);
    }

    #[cfg(test)]
    pub(super) fn is_full(&self) -> bool {
        self.entered.available_permits() == 0
    }

    fn with_idle<T>(&self, act: impl FnOnce(&mut Vec<Connection>) -> T) -> T {
        act(&mut self.idle.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

pub(super) struct Slot<'a> {
    pool: &'a Pool,
    _permits: [SemaphorePermit<'a>; 2],
}

impl Slot<'_> {
    /// The connection used last, as far as it is not known to be closed.
    pub(super) fn idle(&self) -> Option<Connection> {
        self.pool.with_idle(|idle| {
            idle.retain(|connection| !connection.sender.is_closed());
            idle.pop()
        })
    }

    /// Keeps a connection whose last answer has been read to its end.
    pub(super) fn keep(&self, connection: Connection) {
        self.pool.with_idle(|idle| idle.push(connection));
    }
}

/// One HTTP/1.1 connection; dropping it closes the socket.
pub(super) struct Connection {
    sender: connect::Sender,
    driver: JoinHandle<()>,
}

impl Connection {
    pub(super) async fn open(address: &str) -> std::io::Result<Connection> {
        let (sender, connection) = connect::open(address).await?;
        // The sender learns how it ends.
        let driver = tokio::spawn(async { drop(connection.await) });
        Ok(Connection { sender, driver })
    }

    pub(super) async fn send(
        &mut self,
        request: Request<Full<Bytes>>,
    ) -> hyper::Result<Response<Incoming>> {
        self.sender.ready().await?;
        self.sender.send_request(request).await
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.driver.abort();
    }
}
