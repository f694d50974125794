//! The entry point. Without arguments: the node, which reads the environment, binds the port and
//! runs. With arguments: its commands.

use std::process::ExitCode;
use std::time::Duration;

use proposer::config::Config;
use proposer::{client, logs, serve};
use tokio::signal::unix::{SignalKind, signal};
use tracing::error;

fn main() -> ExitCode {
    match std::env::args_os().len() {
        0 | 1 => node(),
        _ => client::main(),
    }
}

fn node() -> ExitCode {
    let config = match Config::from_env(|name| std::env::var(name).ok()) {
        Ok(config) => config,
        Err(invalid) => {
            for variable in invalid {
                eprintln!("{variable}");
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
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("cannot start the runtime: {error}");
            return ExitCode::FAILURE;
        }
    };
    let written = logs.clone();
    let ended = runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let shutdown = async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        };
        let listener = serve::bind(config.port)?;
        proposer::run(config, listener, logs, shutdown).await
    });
    // Threads that only wait for the next message end with the process.
    runtime.shutdown_background();
    let code = match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            error!(target: "important", %error, "cannot run");
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    };
    written.flush(Duration::from_millis(200));
    code
}
