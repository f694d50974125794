//! `proposer client`: reads and writes from a shell or a script, follows changes, measures. What it
//! sends again carries the same request id, so that it takes effect at most once.

mod args;
mod bench;
mod exit;
mod follow;
mod http;
mod print;
mod propose;
mod read;
mod sse;
mod status;
mod troubles;
mod who;

use std::process::ExitCode;
use std::time::Instant;

use args::{Cli, Options, Program, Task};
use clap::{CommandFactory, FromArgMatches};
use exit::{Failure, Verdict};
use http::Http;
use print::Printer;

/// What every task shares.
struct Context {
    options: Options,
    http: Http,
    printer: Printer,
}

impl Context {
    /// When the task's time is over, if it began now.
    fn deadline(&self) -> Instant {
        Instant::now() + self.options.timeout
    }
}

/// Runs the command that the process' arguments name.
pub fn main() -> ExitCode {
    let matches = without_empty_variables(Cli::command()).get_matches();
    let cli = Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    let Program::Client { options, task } = cli.program;
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("cannot start the runtime: {error}");
            return ExitCode::FAILURE;
        }
    };
    let context = Context {
        printer: Printer::new(options.output),
        http: Http::new(),
        options,
    };
    let code = match runtime.block_on(run(&context, task)) {
        Ok(verdict) => verdict.code(),
        Err(failure) => {
            if failure != Failure::NobodyReads {
                eprintln!("{failure}");
            }
            failure.code()
        }
    };
    runtime.shutdown_background();
    code
}

/// The same command, for which a variable of the environment that is set but empty counts as unset, as it
/// does for a node.
pub fn without_empty_variables(command: clap::Command) -> clap::Command {
    let is_empty = |argument: &clap::Arg| {
        let variable = argument.get_env().and_then(std::env::var_os);
        variable.is_some_and(|held| held.to_string_lossy().trim().is_empty())
    };
    command
        .mut_args(|argument| match is_empty(&argument) {
            true => argument.env(None),
            false => argument,
        })
        .mut_subcommands(without_empty_variables)
}

async fn run(context: &Context, task: Task) -> Result<Verdict, Failure> {
    match task {
        Task::Put(put) => propose::put(context, put).await,
        Task::Delete(delete) => propose::delete(context, delete).await,
        Task::Cas(cas) => propose::cas(context, cas).await,
        Task::Get(get) => read::get(context, &get).await,
        Task::Watch(watch) => follow::watch(context, &watch).await,
        Task::Log(log) => follow::log(context, &log).await,
        Task::Status => status::status(context).await,
        Task::Bench(bench) => bench::bench(context, &bench).await,
    }
}
