//! The operator's flags and variables, the one place for them.

use std::path::PathBuf;

use clap::{Parser, Subcommand};

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
    /// Print the CustomResourceDefinition of PaxosCluster as YAML.
    Crd,
    /// Print every object that a PaxosCluster becomes, as YAML, touching nothing.
    Render {
        /// The file with the PaxosCluster, YAML or JSON.
        #[arg(short, long)]
        file: PathBuf,
    },
}
