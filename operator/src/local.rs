//! Runs a PaxosCluster on this machine, without Kubernetes: one `proposer` process for each pod of
//! the very StatefulSets that the operator would apply, with their environment; addresses of pods
//! become ports of 127.0.0.1, volumes become folders.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write as _;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use api::env::{Access, Config, Role};
use futures::future::join_all;
use k8s_openapi::api::apps::v1::StatefulSet;
use tokio::sync::watch;
use tokio::time::sleep;

use self::console::{Console, ask};
use self::folder::Claim;
use crate::desired::{Desired, Objects};
use crate::names;
pub use founded::{OtherCount, check_folders};

mod console;
mod folder;
mod founded;
mod keep;
mod ports;
mod process;

pub use folder::{Holder, Leftover, Leftovers};
pub use ports::{AllTaken, Taken};

/// How long a process may take to end after SIGTERM. A node needs 5 seconds at most.
const GRACE: Duration = Duration::from_secs(8);
/// How often the table is drawn.
const REFRESH: Duration = Duration::from_secs(1);
/// What is added to `--port-base` for the last node that a PaxosCluster may have, store 255. The room
/// is there whatever the cluster has now, so that it can grow where it is.
const PORT_SPAN: u16 = 555;
/// The highest `--port-base`.
pub const PORT_BASE_MAX: u16 = u16::MAX - PORT_SPAN;

/// Why a cluster cannot run here.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The node's program.
    #[error(
        "cannot find the program `proposer` beside {0} or in PATH: build it with `cargo build -p \
         proposer`"
    )]
    NoProgram(PathBuf),
    /// The data folder is of a cluster with another number of acceptors.
    #[error(transparent)]
    OtherCount(#[from] founded::OtherCount),
    /// A port past the last one.
    #[error(
        "--port-base {0} leaves no room: role and node are added to it, up to {PORT_SPAN} for store 255, \
         so it must be from 1 to {PORT_BASE_MAX}"
    )]
    PortBase(u16),
    /// Too many nodes, so that their ports collide.
    #[error(
        "{0} and {1} would both listen on port {2}: there are 100 ports for each role but stores here, \
         so ask for at most 100 proposers, acceptors and learners"
    )]
    SamePort(String, String, u16),
    /// Ports that other programs use.
    #[error("{0}: stop what uses it, or choose another --port-base")]
    PortsInUse(AllTaken),
    /// Another run.
    #[error("the folder {0:?} is in use by {1}: stop it first, or choose another --data-dir")]
    FolderTaken(PathBuf, Holder),
    /// A run that was killed, whose nodes keep running.
    #[error("the folder {0:?} is in use by nodes that an earlier run left behind, {1}")]
    Leftovers(PathBuf, Leftovers),
    /// Nothing to run.
    #[error("spec.stopped is true, so there is nothing to run: remove it")]
    Stopped,
    /// A rendered object that is not as it should be: a mistake of ours.
    #[error("the rendered {0} cannot be run: {1}")]
    Object(String, String),
    /// The disk or the operating system.
    #[error("cannot {0}: {1}")]
    Io(String, #[source] std::io::Error),
}

/// One process to be: a pod's node with this machine's addresses and folders.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// The pod's name.
    pub pod: String,
    /// Its configuration.
    pub config: Config,
}

/// The processes that the rendered objects become. `data_dir` holds a folder for each pod.
pub fn nodes(
    objects: &Objects<Desired>,
    data_dir: &Path,
    port_base: u16,
) -> Result<Vec<Node>, Error> {
    if port_base == 0 || port_base > PORT_BASE_MAX {
        return Err(Error::PortBase(port_base));
    }
    let mut nodes = Vec::new();
    for set in &objects.stateful_sets {
        nodes.extend(pods(set, data_dir, port_base)?);
    }
    let mut pods: BTreeMap<u16, &str> = BTreeMap::new();
    for Node { pod, config } in &nodes {
        if let Some(other) = pods.insert(config.port, pod) {
            return Err(Error::SamePort(other.to_owned(), pod.clone(), config.port));
        }
    }
    if nodes.is_empty() {
        return Err(Error::Stopped);
    }
    Ok(nodes)
}

fn pods(set: &StatefulSet, data_dir: &Path, port_base: u16) -> Result<Vec<Node>, Error> {
    let name = set.metadata.name.clone().unwrap_or_default();
    let wrong = |what: &str| Error::Object(name.clone(), what.to_owned());
    let spec = set.spec.as_ref().ok_or_else(|| wrong("it has no spec"))?;
    let pod = spec
        .template
        .spec
        .as_ref()
        .ok_or_else(|| wrong("it has no pod"))?;
    let container = pod.containers.iter().find(|c| c.name == names::CONTAINER);
    let container = container.ok_or_else(|| wrong("it has no container of the node's"))?;
    let env: BTreeMap<&str, &str> = container
        .env
        .iter()
        .flatten()
        .filter_map(|variable| Some((variable.name.as_str(), variable.value.as_deref()?)))
        .collect();
    let first = spec
        .ordinals
        .as_ref()
        .and_then(|ordinals| ordinals.start)
        .unwrap_or(0);
    (first..first + spec.replicas.unwrap_or(1))
        .map(|ordinal| {
            // What the downward API gives a pod: its index.
            let id = ordinal.to_string();
            let config = Config::from_env(|name| match name {
                "NODE_ID" => Some(id.clone()),
                // Here the number of nodes does not change, and there is no such mount.
                "MEMBERS_DIR" => None,
                other => env.get(other).map(|value| (*value).to_owned()),
            });
            let config = config.map_err(|invalid| {
                let invalid: Vec<String> = invalid.iter().map(ToString::to_string).collect();
                wrong(&invalid.join("; "))
            })?;
            let pod = format!("{name}-{ordinal}");
            let folder = data_dir.join(&pod);
            Ok(Node {
                config: here(config, folder, port_base),
                pod,
            })
        })
        .collect()
}

/// The same configuration on this machine.
fn here(config: Config, data_dir: PathBuf, port_base: u16) -> Config {
    let local = |role: Role, addresses: &[String]| -> Vec<String> {
        (1..=addresses.len() as u16)
            .map(|id| format!("127.0.0.1:{}", port(port_base, role, id)))
            .collect()
    };
    Config {
        port: port(port_base, config.role, config.node_id.number().into()),
        proposers: local(Role::Proposer, &config.proposers),
        acceptors: local(Role::Acceptor, &config.acceptors),
        learners: local(Role::Learner, &config.learners),
        stores: local(Role::Store, &config.stores),
        log_dir: data_dir.join("logs"),
        data_dir,
        // There is no authentication: other machines must not reach it.
        access: Access {
            listen: Some(Ipv4Addr::LOCALHOST.into()),
            ..config.access
        },
        ..config
    }
}

fn port(base: u16, role: Role, id: u16) -> u16 {
    let offset = match role {
        Role::Proposer => 0,
        Role::Acceptor => 100,
        Role::Learner => 200,
        Role::Store => 300,
    };
    base + offset + id
}

/// Runs the nodes, whose folders lie in `data_dir`, until `shutdown` resolves, then stops them all. What
/// dies is started again. Nodes that an earlier run left behind are ended first with `take_over`, and
/// else a reason not to start.
pub async fn run(
    nodes: Vec<Node>,
    data_dir: &Path,
    take_over: bool,
    shutdown: impl Future<Output = ()>,
) -> Result<(), Error> {
    let program = program()?;
    let console = Console::new();
    founded::check_folders(&nodes)?;
    let claim = Claim::take(data_dir)?;
    let leftovers = claim.leftovers()?;
    if !leftovers.is_empty() {
        if !take_over {
            let folder = data_dir.to_owned();
            return Err(Error::Leftovers(folder, Leftovers(leftovers)));
        }
        for leftover in &leftovers {
            println!("ending {leftover}, which an earlier run left behind");
        }
        claim.end(&leftovers, GRACE).await?;
    }
    ports::all_free(&nodes)?;
    for node in &nodes {
        let dir = &node.config.data_dir;
        std::fs::create_dir_all(dir)
            .map_err(|error| Error::Io(format!("make the folder {}", dir.display()), error))?;
    }
    scrape_config(&nodes)?;
    let (stop, stopping) = watch::channel(false);
    let (restarted, mut restarts) = watch::channel(());
    let keepers = nodes.iter().map(|node| {
        tokio::spawn(keep::keep(
            program.clone(),
            node.clone(),
            stopping.clone(),
            restarted.clone(),
            console.clone(),
        ))
    });
    let keepers: Vec<_> = keepers.collect();
    let mut shown = String::new();
    tokio::pin!(shutdown);
    loop {
        let states = join_all(nodes.iter().map(ask)).await;
        console.show(&nodes, &states, &mut shown);
        tokio::select! {
            () = &mut shutdown => break,
            () = sleep(REFRESH) => {}
            _ = restarts.changed() => {}
        }
    }
    println!("stopping {} processes", nodes.len());
    stop.send_replace(true);
    for keeper in keepers {
        // A keeper that panicked has dropped its child, which kills it.
        let _ = keeper.await;
    }
    println!("stopped");
    drop(claim);
    Ok(())
}

/// Writes a configuration with which Prometheus scrapes the nodes, beside their folders, and says so.
/// Its targets have the labels that they would have in Kubernetes.
fn scrape_config(nodes: &[Node]) -> Result<(), Error> {
    let data_dir = nodes.first().and_then(|node| node.config.data_dir.parent());
    let Some(data_dir) = data_dir else {
        return Ok(());
    };
    let mut text = String::from(
        "# Written by `paxos-operator local`. Rules go to rules/, such as those of the chart.\n\
         global:\n  scrape_interval: 2s\n  evaluation_interval: 2s\n\
         rule_files: [rules/*.yaml]\n\
         scrape_configs:\n  - job_name: paxos\n    static_configs:\n",
    );
    for Node { pod, config } in nodes {
        let suffix = format!("-{}-{}", config.role, config.node_id);
        let cluster = pod.strip_suffix(&suffix).unwrap_or(pod);
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "      - targets: [\"127.0.0.1:{}\"]\n        \
             labels: {{ namespace: local, paxos_cluster: {cluster}, pod: {pod} }}",
            config.port
        );
    }
    let path = data_dir.join("prometheus.yml");
    let written = folder::own_file().truncate(true).open(&path);
    written
        .and_then(|mut file| file.write_all(text.as_bytes()))
        .map_err(|error| Error::Io(format!("write {}", path.display()), error))?;
    println!("prometheus --config.file={} scrapes it", path.display());
    Ok(())
}

/// The node's program: beside this one, or in PATH.
fn program() -> Result<PathBuf, Error> {
    let me = std::env::current_exe()
        .map_err(|error| Error::Io("tell where this program is".to_owned(), error))?;
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = me
        .parent()
        .map(Path::to_owned)
        .into_iter()
        .chain(std::env::split_paths(&path));
    let found = folders
        .map(|folder| folder.join("proposer"))
        .find(|file| file.is_file());
    found.ok_or(Error::NoProgram(me))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Vec<Node> {
        let yaml = include_str!("../../crds/samples/small.yaml");
        let cluster = serde_saphyr::from_str(yaml).unwrap();
        nodes(&crate::render(&cluster).unwrap(), Path::new("/d"), 8000).unwrap()
    }

    #[test]
    fn there_is_one_process_for_each_pod() {
        let nodes = sample();
        let ports: Vec<u16> = nodes.iter().map(|node| node.config.port).collect();
        assert_eq!(ports, [8001, 8002, 8003, 8101, 8102, 8103, 8201, 8202]);
        assert!(nodes.iter().any(|node| node.pod.ends_with("-acceptor-3")));
    }

    #[test]
    fn addresses_and_folders_are_this_machines() {
        let nodes = sample();
        let config = &nodes[1].config;
        assert_eq!(config.role, Role::Proposer);
        assert_eq!(
            config.acceptors,
            ["127.0.0.1:8101", "127.0.0.1:8102", "127.0.0.1:8103"]
        );
        assert_eq!(config.data_dir, Path::new("/d").join(&nodes[1].pod));
        assert_eq!(config.log_dir, config.data_dir.join("logs"));
        for node in &nodes {
            let env = node.config.to_env();
            assert!(env.contains(&("LISTEN", "127.0.0.1".to_owned())), "{env:?}");
        }
    }

    #[test]
    fn a_port_base_without_room_is_refused() {
        let yaml = include_str!("../../crds/samples/small.yaml");
        let objects = crate::render(&serde_saphyr::from_str(yaml).unwrap()).unwrap();
        for base in [0, PORT_BASE_MAX + 1, 64_999, u16::MAX] {
            let said = nodes(&objects, Path::new("/d"), base).unwrap_err();
            assert!(said.to_string().contains("from 1 to 64980"), "{said}");
        }
        for base in [1, PORT_BASE_MAX] {
            nodes(&objects, Path::new("/d"), base).unwrap();
        }
    }

    fn rendered(spec: &str) -> Objects<Desired> {
        let text = format!(
            "apiVersion: clustersync.io/v1alpha1\nkind: PaxosCluster\nmetadata: {{name: a}}\nspec: {spec}"
        );
        crate::render(&crate::manifest::parse(&text).unwrap()).unwrap()
    }

    #[test]
    fn the_highest_base_has_room_for_the_last_store() {
        let objects = rendered("{store: {enabled: true, replicas: 255}}");
        let nodes = nodes(&objects, Path::new("/d"), PORT_BASE_MAX).unwrap();
        let highest = nodes.iter().map(|node| node.config.port).max();
        assert_eq!(highest, Some(u16::MAX));
    }

    #[test]
    fn roles_that_are_too_large_for_their_ports_are_refused() {
        for (spec, expected) in [
            (
                "{proposer: {replicas: 101}}",
                "a-proposer-101 and a-acceptor-1",
            ),
            (
                "{learner: {replicas: 101}, store: {enabled: true}}",
                "port 8301",
            ),
        ] {
            let said = nodes(&rendered(spec), Path::new("/d"), 8000).unwrap_err();
            assert!(said.to_string().contains(expected), "{said}");
        }
        let most = "{proposer: {replicas: 100}, learner: {replicas: 255}}";
        nodes(&rendered(most), Path::new("/d"), 8000).unwrap();
    }

    #[test]
    fn a_stopped_cluster_has_nothing_to_run() {
        let said = nodes(&rendered("{stopped: true}"), Path::new("/d"), 8000);
        assert!(matches!(said, Err(Error::Stopped)));
    }
}
