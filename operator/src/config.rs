//! The operator's flags, the one place for them.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

/// Turns PaxosCluster objects into running Multi-Paxos clusters.
#[derive(Clone, Debug, Parser)]
#[command(name = "paxos-operator", version)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What the operator can do.
#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// Run the controller against the Kubernetes cluster of this pod, or else of the kubeconfig.
    Run(Run),
    /// Print the CustomResourceDefinition of PaxosCluster as YAML.
    Crd,
    /// Print every object that a PaxosCluster becomes, as YAML, touching nothing.
    Render {
        /// The file with the PaxosCluster, YAML or JSON.
        #[arg(short, long)]
        file: PathBuf,
    },
    /// Run a PaxosCluster on this machine, without Kubernetes, until Ctrl-C.
    Local(Local),
    /// Write to a cluster and read it back, as any client would: `helm test` runs this.
    Check(Check),
}

/// Which cluster to try.
#[derive(Clone, Debug, Args)]
pub struct Check {
    /// Where to propose, such as `http://small.default.svc:8080`.
    #[arg(long)]
    pub proposers: String,

    /// Where to read, such as `http://small-reader.default.svc:8080`.
    #[arg(long)]
    pub readers: String,

    /// How long the cluster may take to start, in seconds.
    #[arg(long, default_value_t = 240)]
    pub timeout_s: u64,
}

/// How to run a cluster on this machine.
#[derive(Clone, Debug, Args)]
pub struct Local {
    /// The file with the PaxosCluster, YAML or JSON.
    #[arg(short, long)]
    pub file: PathBuf,

    /// Where each node gets a folder for its data. What lies there is used again.
    #[arg(long, default_value = ".data")]
    pub data_dir: PathBuf,

    /// Proposer 1 listens on 127.0.0.1 at this port + 1, acceptor 1 at + 101, learner 1 at + 201,
    /// store 1 at + 301.
    #[arg(long, default_value_t = 8000)]
    pub port_base: u16,

    /// End the nodes that an earlier run left behind in the data folder when it was killed, then start.
    /// A run that is still active is never ended.
    #[arg(long)]
    pub take_over: bool,
}

/// How to run the controller.
#[derive(Clone, Debug, Args)]
pub struct Run {
    /// Where to serve /healthz, /readyz and /metrics [default: port 8080 of every address, IPv6 or IPv4].
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub listen: Option<SocketAddr>,

    /// How to write logs to stdout; RUST_LOG says which (default: info).
    #[arg(long, value_enum, default_value_t = LogFormat::Json)]
    pub log_format: LogFormat,

    /// Of several operators, let the one that holds a Lease work and the others stand by.
    #[arg(long, env = "LEADER_ELECT")]
    pub leader_elect: bool,

    /// The Lease's name.
    #[arg(long, env = "LEASE_NAME", default_value = "paxos-operator")]
    pub lease_name: String,

    /// The Lease's namespace [default: the operator's own].
    #[arg(long, env = "LEASE_NAMESPACE")]
    pub lease_namespace: Option<String>,

    /// How long a Lease that is not renewed is still its holder's, in seconds.
    #[arg(long, env = "LEASE_DURATION_S", default_value_t = 15, value_parser = clap::value_parser!(u32).range(3..=3600))]
    pub lease_duration_s: u32,

    /// When a holder that cannot renew it stops, in seconds: well before others may take it.
    #[arg(long, env = "LEASE_RENEW_DEADLINE_S", default_value_t = 10, value_parser = clap::value_parser!(u32).range(2..=3600))]
    pub lease_renew_deadline_s: u32,

    /// How often the others look whether it is free, and how soon a renewal that failed is tried again, in
    /// seconds.
    #[arg(long, env = "LEASE_RETRY_PERIOD_S", default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=3600))]
    pub lease_retry_period_s: u32,

    /// How many PaxosClusters may have their pods restarted at the same time; 0: all.
    #[arg(long, env = "MAX_ROLLOUTS", default_value_t = 1)]
    pub max_rollouts: usize,

    /// What every PaxosCluster has whose spec says nothing about it, as JSON with fields of a spec:
    /// imagePullSecrets, storageClassName, tolerations, nodeSelector, podSecurityContext, securityContext,
    /// labels, annotations.
    #[arg(long, env = "CLUSTER_DEFAULTS", value_name = "JSON")]
    pub cluster_defaults: Option<String>,

    /// Look after the PaxosClusters of these namespaces only, separated by commas [default: all].
    #[arg(long, env = "WATCH_NAMESPACES", value_delimiter = ',')]
    pub watch_namespaces: Vec<String>,

    /// The image of every PaxosCluster whose spec names none, for a mirror of the registry.
    #[arg(long, env = "DEFAULT_IMAGE", default_value = crate::cluster::DEFAULT_IMAGE)]
    pub default_image: String,
}

/// How logs look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// One JSON object a line.
    Json,
    /// For people.
    Text,
}
