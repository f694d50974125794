//! The operator's command line.

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use futures::FutureExt;
use kube::{Client, CustomResourceExt};
use operator::config::{Cli, Command, Run};
use operator::crd::PaxosCluster;
use operator::desired::to_document;
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
        Command::Render { file } => render(&file).map(|yaml| print!("{yaml}")),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("paxos-operator: {error}");
            ExitCode::FAILURE
        }
    }
}

fn render(file: &Path) -> Result<String, Failure> {
    let name = file.display();
    let text = std::fs::read_to_string(file).map_err(|error| format!("{name}: {error}"))?;
    let cluster: PaxosCluster =
        serde_saphyr::from_str(&text).map_err(|error| format!("{name}: {error}"))?;
    let objects = operator::render(&cluster).map_err(|invalid| format!("{name}: {invalid}"))?;
    Ok(objects.to_yaml())
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

    let mut terminate = signal(SignalKind::terminate())?;
    let shutdown = async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = tokio::signal::ctrl_c() => {}
        }
        tracing::info!("shutting down");
    };
    tracing::info!(version = env!("CARGO_PKG_VERSION"), listen = %options.listen, "started");
    let context = Arc::new(Context::new(client, Box::new(OverHttp), metrics));
    tokio::select! {
        () = reconcile::run(context, shutdown.boxed().shared()) => Ok(()),
        ended = probes => Ok(ended?),
    }
}
