//! The operator's command line.

use std::process::ExitCode;

use clap::Parser;
use kube::CustomResourceExt;
use operator::config::{Cli, Command};
use operator::crd::PaxosCluster;
use operator::desired::to_document;

fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
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

fn render(file: &std::path::Path) -> Result<String, String> {
    let name = file.display();
    let text = std::fs::read_to_string(file).map_err(|error| format!("{name}: {error}"))?;
    let cluster: PaxosCluster =
        serde_saphyr::from_str(&text).map_err(|error| format!("{name}: {error}"))?;
    let objects = operator::render(&cluster).map_err(|invalid| format!("{name}: {invalid}"))?;
    Ok(objects.to_yaml())
}
