//! The Cluster Sync node: one program that plays a proposer, an acceptor, a learner or a store.
//!
//! The protocol, the crate [`paxos`], decides and is pure; [`driver`] runs it, one thread per role;
//! [`wal`], [`state_file`], [`snapshots`] and [`database`] are its doors to the disk, [`peers`] and
//! [`link`] those to other nodes; [`http`] is what clients see, and [`wire`] the JSON they speak;
//! [`client`] is the client's side of all this, a command of the same program.

pub mod addresses;
pub mod bounds;
pub mod breaker;
pub mod client;
pub mod connect;
pub mod database;
pub mod driver;
pub mod http;
pub mod identity;
pub mod json_file;
pub mod link;
pub mod logs;
pub mod media;
pub mod metrics;
pub mod notify;
pub mod peers;
pub mod problem;
pub mod quota;
pub mod serve;
pub mod snapshots;
pub mod state_file;
pub mod survey;
pub mod wal;
pub mod wire;

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use api::env::{Config, Role};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tracing::info;

use addresses::Addresses;
use bounds::{Bounds, Limits};
use driver::StartError;
use driver::barrier::Barrier;
use http::Node;
use identity::Identity;
use logs::Logs;
use metrics::Metrics;

/// How long a proposer that is shutting down may take to hand over and to settle what waits; with
/// what follows, the process ends within 5 seconds.
const LEAVE: Duration = Duration::from_millis(2500);
/// How long a node keeps serving after that, each answer closing its connection.
const LINGER: Duration = Duration::from_millis(500);
/// How long requests in flight may take after that.
const DRAIN: Duration = Duration::from_millis(1500);

/// Runs a node on a bound socket until `shutdown` resolves, and returns when what was under way is
/// finished or its time is over.
pub async fn run(
    config: Config,
    listener: TcpListener,
    logs: Logs,
    shutdown: impl Future<Output = ()>,
) -> Result<(), StartError> {
    let metrics = Metrics::new(&config).map_err(std::io::Error::other)?;
    let metrics = Arc::new(metrics);
    let nodes = Role::ALL.map(|role| config.addresses(role).len());
    let limits = Limits::of_this_process(nodes.iter().sum());
    let bounds = Bounds::new(limits, metrics.bounds.clone());
    let identity = Identity::open(&config).map_err(StartError::from)?;
    let start = identity.start();
    info!(
        cluster = identity.cluster().map(|cluster| cluster.to_string()),
        incarnation = format!("{:016x}", start.incarnation),
        start = start.count,
        "{} starts",
        config.name()
    );
    let addresses = Addresses::start(&config)?;
    let node = Node::new(&config, &addresses, identity.clone(), logs, metrics.clone());
    let (about_to_end, survey) = (node.ending.clone(), node.survey.clone());
    let (end, ending) = watch::channel(false);
    let mut proposer = None;
    let watch = |needy: Box<dyn Fn() -> bool + Send>| {
        survey.start(&config, &addresses, &identity, needy);
    };
    let app = match config.role {
        Role::Proposer => {
            let waiting = bounds.limits().waiting_bytes();
            let handle = driver::proposer::start(&config, &addresses, &identity, metrics, waiting)?;
            proposer = Some(handle.clone());
            let shown = handle.clone();
            watch(Box::new(move || shown.view().leader.is_none()));
            http::proposer::routes(node, handle)
        }
        Role::Acceptor => {
            let handle = driver::acceptor::start(&config, &addresses, &identity, metrics)?;
            let shown = handle.clone();
            watch(Box::new(move || !shown.votes()));
            http::acceptor::routes(node, handle)
        }
        Role::Learner => {
            let handle = driver::learner::start(&config, &addresses, &identity, metrics)?;
            let shown = handle.clone();
            watch(Box::new(move || !shown.is_caught_up()));
            let (applied, leader) = (handle.applied(), handle.clone());
            let barrier = Barrier::start(&addresses, &identity, applied, move || leader.leader());
            let level = handle.clone();
            barrier.when_level(move || level.caught_up());
            http::learner::routes(node, handle, barrier, ending)
        }
        Role::Store => {
            let handle = driver::store::start(&config, &addresses, &identity, metrics)?;
            let shown = handle.clone();
            watch(Box::new(move || !shown.is_caught_up()));
            let barrier = Barrier::start(&addresses, &identity, handle.applied(), || None);
            let level = handle.clone();
            barrier.when_level(move || level.caught_up());
            http::store::routes(node, handle, barrier)
        }
    };
    if config.role != Role::Acceptor {
        driver::roll_call::start(&config, &addresses, &identity)?;
    }
    info!(port = config.port, "{} serves", config.name());
    let shutdown = async move {
        shutdown.await;
        info!("ending");
        about_to_end.store(true, Ordering::Relaxed);
        if let Some(proposer) = proposer {
            // Still serving: requests are forwarded to the next leader meanwhile.
            let _ = tokio::time::timeout(LEAVE, proposer.leave()).await;
        }
        end.send_replace(true);
        tokio::time::sleep(LINGER).await;
    };
    let options = serve::Options {
        drain_timeout: DRAIN,
        bounds,
        ..serve::Options::default()
    };
    serve::serve(listener, app, shutdown, options).await?;
    Ok(())
}
