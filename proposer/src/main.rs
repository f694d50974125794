//! The entry point. Without arguments: the node, which reads the environment, binds the port and
//! runs. With arguments: its commands.

use std::process::ExitCode;
use std::time::Duration;

use api::env::Config;
use node::driver::StartError;
use node::media::FileMedia;
use node::{client, logs, serve};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::signal::unix::{SignalKind, signal};
use tracing::{error, info};

fn main() -> ExitCode {
    match std::env::args_os().len() {
        0 | 1 => node(),
        _ => client::main(),
    }
}

/// Signals that end other programs unless they say otherwise: a closed terminal, `systemctl reload`,
/// somebody who expects log files to be opened again. There is nothing to do: a node reads its lists by
/// itself, and its log files keep their size.
fn ignore_hangups() -> std::io::Result<()> {
    for (kind, name) in [
        (SignalKind::hangup(), "SIGHUP"),
        (SignalKind::user_defined1(), "SIGUSR1"),
        (SignalKind::user_defined2(), "SIGUSR2"),
    ] {
        let mut signals = signal(kind)?;
        tokio::spawn(async move {
            while signals.recv().await.is_some() {
                info!(signal = name, "a signal that means nothing to a node");
            }
        });
    }
    Ok(())
}

/// Half of the cores serve HTTP. The role's own thread, its log's and the kernel's network need the
/// rest: with a worker for each core they wake each other more than they work (docs/benchmarks.md).
fn runtime() -> std::io::Result<Runtime> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder.worker_threads((cores / 2).max(1));
    builder.enable_all().build()
}

fn node() -> ExitCode {
    let config = Config::from_env(|name| std::env::var(name).ok());
    let config = match (config, logs::check_environment()) {
        (Ok(config), Ok(())) => config,
        (config, filter) => {
            for variable in config.err().into_iter().flatten() {
                eprintln!("{variable}");
            }
            if let Err(filter) = filter {
                eprintln!("{filter}");
            }
            return ExitCode::from(2);
        }
    };
    let logs = match logs::init(&config) {
        Ok(logs) => logs,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::FAILURE;
        }
    };
    let runtime = match runtime() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("cannot start the runtime: {error}");
            return ExitCode::FAILURE;
        }
    };
    let written = logs.clone();
    let ended = runtime.block_on(async {
        let failed = |error: std::io::Error| vec![format!("cannot wait for signals: {error}")];
        let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
        let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
        let shutdown = async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        };
        ignore_hangups().map_err(failed)?;
        let listener = prepare(&config)?;
        let ended = node::run(config, listener, logs, shutdown).await;
        ended.map_err(|error| vec![error.to_string()])
    });
    // Threads that only wait for the next message end with the process.
    runtime.shutdown_background();
    let code = match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(errors) => {
            for error in errors {
                error!(error, "cannot run");
                eprintln!("{error}");
            }
            ExitCode::FAILURE
        }
    };
    written.flush(Duration::from_millis(200));
    code
}

/// The socket of the node. Port and data folder are both looked at before the node starts, so that
/// the person who sets it up hears of all that is wrong at once.
fn prepare(config: &Config) -> Result<TcpListener, Vec<String>> {
    let listener = serve::bind_at(config.access.listen, config.port);
    let folder = FileMedia::open(&config.data_dir).map(drop);
    let folder = folder.map_err(|source| StartError::Folder {
        path: config.data_dir.clone(),
        source,
    });
    match (listener, folder) {
        (Ok(listener), Ok(())) => Ok(listener),
        (listener, folder) => {
            let listener = listener.err().map(|error| error.to_string());
            let folder = folder.err().map(|error| error.to_string());
            Err(listener.into_iter().chain(folder).collect())
        }
    }
}
