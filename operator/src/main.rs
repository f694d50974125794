//! The operator's command line.

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use futures::FutureExt;
use kube::{Client, CustomResourceExt};
use operator::config::{Cli, Command, Local, Run};
use operator::crd::PaxosCluster;
use operator::desired::{Desired, Objects, to_document};
use operator::local;
use operator::observe::OverHttp;
use operator::reconcile::{self, Context};
use operator::telemetry::{self, Metrics};
use tokio::signal::unix::{SignalKind, signal};

type Failure = Box<dyn std::error::Error>;

fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Run(options) => run(&options),
        Command::Crd => {
            print!("{}", to_document(&PaxosCluster::crd()));
            Ok(())
        }
        Command::Render { file } => render(&file).map(|objects| print!("{}", objects.to_yaml())),
        Command::Local(options) => local(&options),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("paxos-operator: {error}");
            ExitCode::FAILURE
        }
    }
}

fn render(file: &Path) -> Result<Objects<Desired>, Failure> {
    let name = file.display();
    let text = std::fs::read_to_string(file).map_err(|error| format!("{name}: {error}"))?;
    let cluster: PaxosCluster =
        serde_saphyr::from_str(&text).map_err(|error| format!("{name}: {error}"))?;
    Ok(operator::render(&cluster).map_err(|invalid| format!("{name}: {invalid}"))?)
}

#[tokio::main]
async fn local(options: &Local) -> Result<(), Failure> {
    let shutdown = shutdown()?;
    let objects = render(&options.file)?;
    let data_dir = std::path::absolute(&options.data_dir)?;
    let nodes = local::nodes(&objects, &data_dir, options.port_base)?;
    Ok(local::run(nodes, shutdown).await?)
}

/// Resolves at Ctrl-C or SIGTERM.
fn shutdown() -> std::io::Result<impl Future<Output = ()>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}

#[tokio::main]
async fn run(options: &Run) -> Result<(), Failure> {
    telemetry::start_logs(options.log_format);
    let metrics = Arc::new(Metrics::default());
    let listener = tokio::net::TcpListener::bind(options.listen)
        .await
        .map_err(|error| format!("--listen {}: {error}", options.listen))?;
    let probes = axum::serve(listener, telemetry::router(metrics.clone())).into_future();

    let mut config = kube::Config::infer().await?;
    // Failed reconciliations are tried again as a whole, with a delay that grows for each cluster.
    config.default_retry = false;
    config.connect_timeout = Some(Duration::from_secs(5));
    let client = Client::try_from(config)?;

    let ended = shutdown()?;
    let shutdown = async move {
        ended.await;
        tracing::info!("shutting down");
    };
    tracing::info!(version = env!("CARGO_PKG_VERSION"), listen = %options.listen, "started");
    let context = Arc::new(Context::new(client, Box::new(OverHttp), metrics));
    tokio::select! {
        () = reconcile::run(context, shutdown.boxed().shared()) => Ok(()),
        ended = probes => Ok(ended?),
    }
}
