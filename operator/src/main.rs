//! The operator's command line.

use std::path::Path;
use std::process::ExitCode;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use api::env::DEFAULT_PORT;
use clap::{CommandFactory, FromArgMatches};
use futures::FutureExt;
use kube::CustomResourceExt;
use operator::ask::OverHttp;
use operator::config::{Check, Cli, Command, Local, Run};
use operator::context::{Context, Options};
use operator::crd::PaxosCluster;
use operator::defaults::Defaults;
use operator::desired::{Desired, Objects, to_document};
use operator::lease::{Election, Times};
use operator::telemetry::{self, Metrics};
use operator::{client, controller, local, manifest};
use tokio::signal::unix::{SignalKind, signal};

type Failure = Box<dyn std::error::Error>;

fn main() -> ExitCode {
    let matches = node::client::without_empty_variables(Cli::command()).get_matches();
    let cli = Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    let outcome = match cli.command {
        Command::Run(options) => run(&options),
        Command::Crd => {
            print!("{}", to_document(&PaxosCluster::crd()));
            Ok(())
        }
        Command::Render { file } => render(&file).map(|objects| print!("{}", objects.to_yaml())),
        Command::Local(options) => local(&options),
        Command::Check(options) => check(&options),
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
    let cluster = manifest::parse(&text).map_err(|error| format!("{name}: {error}"))?;
    Ok(operator::render(&cluster).map_err(|invalid| format!("{name}: {invalid}"))?)
}

#[tokio::main]
async fn check(options: &Check) -> Result<(), Failure> {
    let done = operator::check::check(options);
    println!("{}", done.await.map_err(|error| -> Failure { error })?);
    Ok(())
}

#[tokio::main]
async fn local(options: &Local) -> Result<(), Failure> {
    let shutdown = shutdown()?;
    let objects = render(&options.file)?;
    let data_dir = std::path::absolute(&options.data_dir)?;
    let nodes = local::nodes(&objects, &data_dir, options.port_base)?;
    Ok(local::run(nodes, &data_dir, options.take_over, shutdown).await?)
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

// Few threads: the work is waiting, and each thread's heap keeps its own peak.
#[tokio::main(worker_threads = 2)]
async fn run(options: &Run) -> Result<(), Failure> {
    telemetry::start_logs(options.log_format);
    let metrics = Arc::new(Metrics::default());
    let listener = match options.listen {
        Some(address) => tokio::net::TcpListener::bind(address)
            .await
            .map_err(|error| format!("--listen {address}: {error}"))?,
        None => node::serve::bind(DEFAULT_PORT)
            .map_err(|error| format!("{error}: --listen chooses another address"))?,
    };
    let listen = listener.local_addr()?;
    let probes = axum::serve(listener, telemetry::router(metrics.clone())).into_future();

    let config = kube::Config::infer().await?;
    let lease_namespace = options.lease_namespace.as_ref();
    let lease_namespace = lease_namespace.unwrap_or(&config.default_namespace);
    let election = options
        .leader_elect
        .then(|| election(options, lease_namespace, &config));
    let election = election.transpose()?;
    let defaults = match &options.cluster_defaults {
        Some(json) => Defaults::parse(json)?,
        None => Defaults::default(),
    };
    let client = client::connect(&config, &metrics)?;
    let namespaces = options.watch_namespaces.clone();
    let watching = (0..namespaces.len().max(1)).map(|_| client::connect(&config, &metrics));
    let watching = watching.collect::<kube::Result<_>>()?;
    let context = Context::new(
        client.clone(),
        Box::new(OverHttp::new(client)),
        metrics,
        Options {
            namespaces,
            own_namespace: Some(config.default_namespace.clone()),
            defaults: Defaults {
                image: Some(options.default_image.clone()),
                ..defaults
            },
            // With the process: two that share a lease's name may both run, such as without an election.
            identity: format!("{lease_namespace}/{} {}", options.lease_name, process()),
            rollouts: options.max_rollouts,
        },
    );
    let context = Arc::new(context.watching_through(watching));

    let ended = shutdown()?;
    let shutdown = async move {
        ended.await;
        tracing::info!("shutting down");
    };
    tracing::info!(version = env!("CARGO_PKG_VERSION"), %listen, "started");
    tokio::select! {
        ended = controller::operate(context, election, shutdown.boxed().shared()) => Ok(ended?),
        ended = probes => Ok(ended?),
    }
}

fn election(options: &Run, namespace: &str, config: &kube::Config) -> Result<Election, Failure> {
    let seconds = |seconds: u32| Duration::from_secs(u64::from(seconds));
    let times = Times {
        duration: seconds(options.lease_duration_s),
        give_up: seconds(options.lease_renew_deadline_s),
        retry: seconds(options.lease_retry_period_s),
    };
    if let Some(problem) = times.problem() {
        return Err(problem.into());
    }
    let client = client::connect_for_lease(config)?;
    let election = Election::new(client, namespace, &options.lease_name, &process());
    Ok(election.with_times(times))
}

/// Names this process. The host's name is the pod's; a process that was restarted there is another one.
fn process() -> String {
    static NAME: LazyLock<String> = LazyLock::new(|| {
        let host = std::env::var("HOSTNAME").unwrap_or_default();
        let began = k8s_openapi::jiff::Timestamp::now().as_nanosecond();
        format!("{host}_{}_{began:x}", std::process::id())
    });
    NAME.clone()
}
