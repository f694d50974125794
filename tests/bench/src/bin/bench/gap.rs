//! How long nobody gets a write through when the leader is killed.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

use super::client::{Connection, Protocol};
use super::system::Work;

const WRITERS: usize = 8;
/// How long one try may take before the next server is asked.
const TRY: Duration = Duration::from_millis(250);
const PAUSE: Duration = Duration::from_millis(5);
const BEFORE: Duration = Duration::from_millis(1500);
const AFTER: Duration = Duration::from_secs(6);

/// The longest time between two acknowledged writes while `kill` was run, in seconds. The writers know
/// all servers and go to the next one when a try fails.
pub(crate) fn longest(
    servers: &[SocketAddr],
    protocol: Protocol,
    work: Arc<dyn Work>,
    kill: impl FnOnce() + Send,
) -> f64 {
    let servers = servers.to_vec();
    let acknowledged = Arc::new(Mutex::new(Vec::new()));
    let told = acknowledged.clone();
    thread::scope(|scope| {
        scope.spawn(move || {
            super::load::runtime().block_on(async move {
                let until = Instant::now() + BEFORE + AFTER;
                let writers: Vec<_> = (0..WRITERS)
                    .map(|at| {
                        let (servers, work, told) = (servers.clone(), work.clone(), told.clone());
                        tokio::spawn(write(servers, at, protocol, work, told, until))
                    })
                    .collect();
                for writer in writers {
                    writer.await.expect("the writer works");
                }
            });
        });
        thread::sleep(BEFORE);
        kill();
    });
    let mut times = acknowledged.lock().expect("no panic inside").clone();
    times.sort();
    let gaps = times.windows(2).map(|pair| pair[1] - pair[0]);
    gaps.max().unwrap_or(BEFORE + AFTER).as_secs_f64()
}

async fn write(
    servers: Vec<SocketAddr>,
    mut at: usize,
    protocol: Protocol,
    work: Arc<dyn Work>,
    told: Arc<Mutex<Vec<Instant>>>,
    until: Instant,
) {
    let mut open: Option<Connection> = None;
    while Instant::now() < until {
        let call = work.call();
        let tried = timeout(TRY, async {
            let connection = match &mut open {
                Some(connection) => connection,
                none => {
                    let server = servers[at % servers.len()];
                    none.insert(Connection::open(server, protocol).await?)
                }
            };
            connection.call(&call).await
        });
        match tried.await {
            Ok(Ok(answer)) if work.check(&answer).is_ok() => {
                told.lock().expect("no panic inside").push(Instant::now());
            }
            _ => {
                open = None;
                at += 1;
                sleep(PAUSE).await;
            }
        }
    }
}
