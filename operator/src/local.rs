//! Runs a PaxosCluster on this machine, without Kubernetes: one `proposer` process for each pod of
//! the very StatefulSets that the operator would apply, with their environment; addresses of pods
//! become ports of 127.0.0.1, volumes become folders.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{IsTerminal, Write as _};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use futures::future::join_all;
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::apps::v1::StatefulSet;
use proposer::config::{Config, Role};
use rustix::process::{Pid, Signal, kill_process};
use serde::Deserialize;
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use crate::desired::{Desired, Objects};
use crate::names;

/// The pause before a process that died is started again: doubled with each death, back to the
/// least when it has run for [`STEADY`].
const RESTART_MIN: Duration = Duration::from_millis(500);
const RESTART_MAX: Duration = Duration::from_secs(30);
const STEADY: Duration = Duration::from_secs(10);
/// How long a process may take to end after SIGTERM. A node needs 5 seconds at most.
const GRACE: Duration = Duration::from_secs(8);
/// How often the table is drawn, and how long a node may take to say how it stands.
const REFRESH: Duration = Duration::from_secs(1);
const STATUS_TIMEOUT: Duration = Duration::from_millis(500);

/// Why a cluster cannot run here.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The node's program.
    #[error(
        "cannot find the program `proposer` beside {0} or in PATH: build it with `cargo build -p \
         proposer`"
    )]
    NoProgram(PathBuf),
    /// A port past the last one.
    #[error("--port-base {0} leaves no room: role and node are added to it, so 65000 is the most")]
    PortBase(u16),
    /// A port that another program uses.
    #[error("port {0} is in use: stop what uses it, or choose another --port-base")]
    PortInUse(u16),
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
    if port_base == 0 || port_base > 65_000 - 555 {
        return Err(Error::PortBase(port_base));
    }
    let mut nodes = Vec::new();
    for set in &objects.stateful_sets {
        nodes.extend(pods(set, data_dir, port_base)?);
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

/// Runs the nodes until `shutdown` resolves, then stops them all. What dies is started again.
pub async fn run(nodes: Vec<Node>, shutdown: impl Future<Output = ()>) -> Result<(), Error> {
    let program = program()?;
    for node in &nodes {
        let address = ("127.0.0.1", node.config.port);
        if std::net::TcpListener::bind(address).is_err() {
            return Err(Error::PortInUse(node.config.port));
        }
        let dir = &node.config.data_dir;
        std::fs::create_dir_all(dir)
            .map_err(|error| Error::Io(format!("make the folder {}", dir.display()), error))?;
    }
    scrape_config(&nodes)?;
    let (stop, stopping) = watch::channel(false);
    let (restarted, mut restarts) = watch::channel(());
    let keepers = nodes.iter().map(|node| {
        let (program, node) = (program.clone(), node.clone());
        tokio::spawn(keep(program, node, stopping.clone(), restarted.clone()))
    });
    let keepers: Vec<_> = keepers.collect();
    let table = std::io::stdout().is_terminal();
    let mut shown = String::new();
    tokio::pin!(shutdown);
    loop {
        let states = join_all(nodes.iter().map(ask)).await;
        show(&nodes, &states, table, &mut shown);
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
    Ok(())
}

/// Writes a configuration with which Prometheus scrapes the nodes, beside their folders, and says so.
/// Its targets have the labels that they would have in Kubernetes.
fn scrape_config(nodes: &[Node]) -> Result<(), Error> {
    let folder = nodes.first().and_then(|node| node.config.data_dir.parent());
    let Some(folder) = folder else { return Ok(()) };
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
    let path = folder.join("prometheus.yml");
    std::fs::write(&path, text)
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

/// Keeps one node running.
async fn keep(
    program: PathBuf,
    node: Node,
    mut stopping: watch::Receiver<bool>,
    restarted: watch::Sender<()>,
) {
    let mut pause = RESTART_MIN;
    loop {
        let started = Instant::now();
        match spawn(&program, &node) {
            Ok(mut child) => {
                tokio::select! {
                    ended = child.wait() => {
                        let how = ended.map_or_else(|error| error.to_string(), |s| s.to_string());
                        println!("{} ended ({how}), starting it again", node.pod);
                    }
                    () = stopped(&mut stopping) => {
                        end(&node, child).await;
                        return;
                    }
                }
            }
            Err(error) => println!("{} cannot start: {error}", node.pod),
        }
        if started.elapsed() >= STEADY {
            pause = RESTART_MIN;
        }
        tokio::select! {
            () = sleep(pause) => {}
            () = stopped(&mut stopping) => return,
        }
        pause = (2 * pause).min(RESTART_MAX);
        restarted.send_replace(());
    }
}

async fn stopped(stopping: &mut watch::Receiver<bool>) {
    // An error means that nobody is left who could want the nodes to run.
    let _ = stopping.wait_for(|stop| *stop).await;
}

/// Starts a node; `pid` in its folder says which process it is.
fn spawn(program: &Path, node: &Node) -> std::io::Result<Child> {
    // Standard output repeats the log files, which lie beside the data.
    let errors = std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(node.config.data_dir.join("stderr.log"))?;
    let child = Command::new(program)
        .env_clear()
        .envs(std::env::vars_os().filter(|(name, _)| name == "RUST_LOG" || name == "PATH"))
        .envs(node.config.to_env())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(errors)
        // Ctrl-C in a terminal reaches the whole group: the nodes are ended by us, in order.
        .process_group(0)
        .kill_on_drop(true)
        .spawn()?;
    if let Some(id) = child.id() {
        std::fs::write(node.config.data_dir.join("pid"), format!("{id}\n"))?;
    }
    Ok(child)
}

async fn end(node: &Node, mut child: Child) {
    let pid = child
        .id()
        .and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
    if let Some(pid) = pid
        && kill_process(pid, Signal::TERM).is_ok()
        && let Ok(ended) = timeout(GRACE, child.wait()).await
    {
        match ended {
            Ok(status) if !status.success() => println!("{} ended: {status}", node.pod),
            Ok(_) => {}
            Err(error) => println!("{}: {error}", node.pod),
        }
        return;
    }
    println!("{} did not end in time and is killed", node.pod);
    let _ = child.kill().await;
}

/// What a node says of itself in `/status`.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
struct Status {
    #[serde(default)]
    ready: bool,
    #[serde(default)]
    is_leader: bool,
    #[serde(default)]
    term: u64,
    #[serde(default)]
    committed_instance_id: u64,
}

async fn ask(node: &Node) -> Option<Status> {
    let asked = async {
        let stream = TcpStream::connect(("127.0.0.1", node.config.port))
            .await
            .ok()?;
        let io = TokioIo::new(stream);
        let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await.ok()?;
        tokio::spawn(connection);
        let request = http::Request::get("/status").header("host", "localhost");
        let request = request.body(Empty::<bytes::Bytes>::new()).ok()?;
        let answer = sender.send_request(request).await.ok()?;
        let body = answer.into_body().collect().await.ok()?.to_bytes();
        serde_json::from_slice(&body).ok()
    };
    timeout(STATUS_TIMEOUT, asked).await.ok().flatten()
}

/// The table on a terminal; elsewhere a line for what changed.
fn show(nodes: &[Node], states: &[Option<Status>], table: bool, shown: &mut String) {
    let leader = nodes.iter().zip(states).find_map(|(node, state)| {
        state
            .as_ref()
            .filter(|state| state.is_leader)
            .map(|state| (node, state))
    });
    let ready = states.iter().flatten().filter(|state| state.ready).count();
    let mut text = String::new();
    // Writing to a string cannot fail.
    let _ = match leader {
        Some((node, state)) => write!(
            text,
            "{ready}/{} ready, {} leads in term {}",
            nodes.len(),
            node.pod,
            state.term
        ),
        None => write!(text, "{ready}/{} ready, no leader", nodes.len()),
    };
    if !table {
        if *shown != text {
            println!("{text}");
            *shown = text;
        }
        return;
    }
    let mut drawn = String::from("\x1b[2J\x1b[H");
    let _ = writeln!(drawn, "{text}   (Ctrl-C stops)\n");
    let _ = writeln!(
        drawn,
        "{:<10} {:>3} {:>6}  {:<9} {:<7} {:>12}",
        "ROLE", "ID", "PORT", "HEALTH", "LEADER", "COMMITTED"
    );
    for (node, state) in nodes.iter().zip(states) {
        let health = match state {
            None => "down",
            Some(state) if state.ready => "ready",
            Some(_) => "not ready",
        };
        let state = state.clone().unwrap_or_default();
        let _ = writeln!(
            drawn,
            "{:<10} {:>3} {:>6}  {:<9} {:<7} {:>12}",
            node.config.role.name(),
            node.config.node_id.number(),
            node.config.port,
            health,
            if state.is_leader { "leads" } else { "" },
            state.committed_instance_id
        );
    }
    print!("{drawn}");
    let _ = std::io::stdout().flush();
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
    }

    #[test]
    fn a_port_base_without_room_is_refused() {
        let yaml = include_str!("../../crds/samples/small.yaml");
        let objects = crate::render(&serde_saphyr::from_str(yaml).unwrap()).unwrap();
        assert!(matches!(
            nodes(&objects, Path::new("/d"), 65_000),
            Err(Error::PortBase(65_000))
        ));
    }
}
