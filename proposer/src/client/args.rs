//! The command line.

use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use http::uri::Authority;

/// Without arguments this program is a node, configured by its environment: see the README.
#[derive(Parser)]
#[command(name = "proposer", version)]
pub(super) struct Cli {
    #[command(subcommand)]
    pub(super) program: Program,
}

#[derive(Subcommand)]
pub(super) enum Program {
    /// Use a cluster: write, read, follow, measure
    #[command(after_help = EXIT_CODES)]
    Client {
        #[command(flatten)]
        options: Options,
        #[command(subcommand)]
        task: Task,
    },
}

const EXIT_CODES: &str = "Exit codes:
  0  done
  1  not committed as version or instance differs; absent at a learner or store; no longer in its log
  2  the command or the request is wrong, or no address has a server of the role that is needed
  3  no server could do it within --timeout; it had no effect
  4  the outcome is unknown: it may have taken effect, or may do so later; send it again with
     the same --request-id, which has no second effect within the cluster's retry window";

#[derive(Args)]
pub(super) struct Options {
    /// Proposers, as host:port,host:port,…; any of them takes any request
    #[arg(
        long,
        global = true,
        env = "CLUSTER_SYNC_SERVERS",
        value_delimiter = ',',
        default_value = "localhost:8080"
    )]
    pub(super) servers: Vec<Server>,
    /// Learners or stores to read from and to follow
    #[arg(
        long,
        global = true,
        env = "CLUSTER_SYNC_LEARNERS",
        value_delimiter = ',',
        default_value = "localhost:8081"
    )]
    pub(super) learners: Vec<Server>,
    /// How long to keep trying, as 500ms, 10s or 2m
    #[arg(long, global = true, env = "CLUSTER_SYNC_TIMEOUT", default_value = "10s", value_parser = duration)]
    pub(super) timeout: Duration,
    /// For people, or one JSON document a line
    #[arg(
        long,
        global = true,
        env = "CLUSTER_SYNC_OUTPUT",
        value_enum,
        default_value = "text"
    )]
    pub(super) output: Output,
    /// The clientId of writes; cli- and the request's id if not given
    #[arg(long, global = true, env = "CLUSTER_SYNC_CLIENT_ID")]
    pub(super) client_id: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Output {
    Text,
    Json,
}

#[derive(Subcommand)]
pub(super) enum Task {
    /// Write a resource
    Put(Put),
    /// Print a resource's data
    Get(Get),
    /// Remove a resource
    Delete(Delete),
    /// Compare and set: write a resource if it has this version
    Cas(Cas),
    /// Print changes of resources as they happen
    Watch(Watch),
    /// Print the log of what was chosen, in order
    Log(Log),
    /// Print the state of every server
    Status,
    /// Measure writes in a closed loop
    Bench(Bench),
}

#[derive(Args)]
pub(super) struct Put {
    /// Its name
    pub(super) resource: String,
    #[command(flatten)]
    pub(super) data: Data,
    /// Only if it has this version; 0: only if it does not exist
    #[arg(long)]
    pub(super) if_version: Option<u64>,
    #[command(flatten)]
    pub(super) if_instance: IfInstance,
    #[command(flatten)]
    pub(super) request: Request,
}

#[derive(Args)]
pub(super) struct Cas {
    /// Its name
    pub(super) resource: String,
    /// The version that it must have; 0: it must not exist
    pub(super) version: u64,
    #[command(flatten)]
    pub(super) data: Data,
    #[command(flatten)]
    pub(super) if_instance: IfInstance,
    #[command(flatten)]
    pub(super) request: Request,
}

#[derive(Args)]
pub(super) struct Delete {
    /// Its name
    pub(super) resource: String,
    /// Only if it has this version
    #[arg(long)]
    pub(super) if_version: Option<u64>,
    #[command(flatten)]
    pub(super) if_instance: IfInstance,
    #[command(flatten)]
    pub(super) request: Request,
}

#[derive(Args)]
pub(super) struct Data {
    /// JSON, as '{"a":1}' or '"text"'; - reads it from standard input
    #[arg(allow_hyphen_values = true)]
    pub(super) data: String,
    /// Take the data as plain text, not as JSON
    #[arg(long)]
    pub(super) string: bool,
}

#[derive(Args)]
pub(super) struct IfInstance {
    /// Only if this instance last wrote it, which no later write has, also after a delete; 0: only if
    /// it does not exist
    #[arg(long)]
    pub(super) if_instance: Option<u64>,
}

#[derive(Args)]
pub(super) struct Request {
    /// Names the request: sent again under the same id it has no second effect [default: random]
    #[arg(long)]
    pub(super) request_id: Option<String>,
    /// Numbers the request in place of an id: it must grow from one request of this --client-id to the
    /// next, and sent again under the same number the request has no second effect, however late
    #[arg(long, conflicts_with = "request_id", value_parser = clap::value_parser!(u64).range(..=9_007_199_254_740_991))]
    pub(super) sequence: Option<u64>,
}

#[derive(Args)]
pub(super) struct Get {
    /// Its name
    pub(super) resource: String,
    /// linearizable sees every write acknowledged before; local answers at once
    #[arg(long, value_enum, default_value = "linearizable")]
    pub(super) consistency: Consistency,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Consistency {
    Linearizable,
    Local,
}

#[derive(Args)]
pub(super) struct Watch {
    /// Only resources whose names begin so
    #[arg(long, default_value = "")]
    pub(super) prefix: String,
    /// The first instance to look at [default: the next one]
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    pub(super) from: Option<u64>,
    /// End after this many changes
    #[arg(long)]
    pub(super) limit: Option<u64>,
}

#[derive(Args)]
pub(super) struct Log {
    /// The first instance
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    pub(super) from: u64,
    /// End at the last instance instead of waiting for more
    #[arg(long)]
    pub(super) no_follow: bool,
    /// End after this many entries
    #[arg(long)]
    pub(super) limit: Option<u64>,
}

#[derive(Clone, Copy, Args)]
pub(super) struct Bench {
    /// Connections; each sends its next write when the one before is answered
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..))]
    pub(super) connections: u16,
    /// For how long
    #[arg(long, default_value = "10s", value_parser = duration)]
    pub(super) duration: Duration,
    /// Bytes of data in a write
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(..=1_000_000))]
    pub(super) size: u32,
    /// Resources written, by turns: bench-0, bench-1, …
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..))]
    pub(super) resources: u32,
}

/// A server's address; the port is 8080 unless given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Server(pub(super) Authority);

impl std::str::FromStr for Server {
    type Err = String;

    fn from_str(text: &str) -> Result<Server, String> {
        if text.trim().starts_with("https://") {
            return Err("TLS is not supported: expected host:port".to_owned());
        }
        let plain = text.trim().trim_start_matches("http://");
        let plain = plain.trim_end_matches('/');
        let with_port = match plain.parse::<Authority>() {
            Ok(given) if given.port_u16().is_some() => plain.to_owned(),
            _ => format!("{plain}:8080"),
        };
        match with_port.parse::<Authority>() {
            Ok(address) if !address.host().is_empty() && !plain.contains('@') => {
                Ok(Server(address))
            }
            _ => Err("expected host:port".to_owned()),
        }
    }
}

impl std::fmt::Display for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

fn duration(text: &str) -> Result<Duration, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit());
    let (number, unit) = text.split_at(digits.unwrap_or(text.len()));
    let unit_ms = match unit {
        "ms" => 1,
        "s" | "" => 1000,
        "m" => 60_000,
        _ => 0,
    };
    let millis = number
        .parse::<u64>()
        .ok()
        .map(|n| n.saturating_mul(unit_ms));
    match millis {
        Some(millis @ 1..=86_400_000) => Ok(Duration::from_millis(millis)),
        _ => Err("expected a time from 1ms to 1440m, as 500ms, 10s or 2m".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }

    #[test]
    fn addresses_may_leave_out_the_port_and_the_scheme() {
        for (text, address) in [
            ("a:1", "a:1"),
            ("a", "a:8080"),
            ("http://a:1/", "a:1"),
            ("[::1]", "[::1]:8080"),
            ("[::1]:9", "[::1]:9"),
        ] {
            let server: Server = text.parse().unwrap();
            assert_eq!(server.to_string(), address);
        }
        for bad in ["", ":80", "a b", "a:x", "https://a", "u@a:1"] {
            assert!(bad.parse::<Server>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn times_have_a_unit() {
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(duration("10s"), Ok(Duration::from_secs(10)));
        assert_eq!(duration("2m"), Ok(Duration::from_secs(120)));
        assert_eq!(duration("3"), Ok(Duration::from_secs(3)));
        for bad in ["", "0s", "1h", "s", "-1s", "99999999m"] {
            assert!(duration(bad).is_err(), "{bad:?}");
        }
    }
}
