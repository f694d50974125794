//! A whole cluster of real processes: started, killed, stopped and started again, used
//! by clients that keep a history, and looked into afterwards.

mod audit;
pub mod binary;
pub mod client;
mod clock;
mod contents;
pub mod http;
mod network;
mod node;
mod place;
pub mod ports;
mod volume;
pub mod workload;

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::Path;
use std::time::{Duration, Instant};
use std::{env, fs, process, thread};

use ::api::env::{Config, DEFAULT_PORT, Role};
use paxos::ids::NodeId;
use tempfile::TempDir;

pub use audit::{Audit, LogLine};
pub use clock::Clock;
pub use contents::LEVEL_WITHIN;
pub use network::Network;
pub use node::Node;
pub use place::{Place, enter_namespaces};
pub use volume::Volume;

/// How long a cluster may take to elect a leader, and a node to be ready again.
pub const READY_WITHIN: Duration = Duration::from_secs(30);
/// What the folders' names begin with, before the process id.
const FOLDER: &str = "cluster-";
/// The file that marks a folder that is to stay.
const KEPT: &str = "KEPT";
const POLL: Duration = Duration::from_millis(10);

/// A node by role and number.
pub type Name = (Role, u8);

/// Processes, their folders and their addresses. All of them end with this value.
pub struct Cluster {
    // In this order: a volume in use cannot be unmounted.
    nodes: BTreeMap<Name, Node>,
    volumes: BTreeMap<Name, Volume>,
    clocks: BTreeMap<Name, Clock>,
    network: Option<Network>,
    /// Where the nodes' folders are.
    pub folder: TempDir,
}

impl Cluster {
    /// A cluster of this many proposers, acceptors and learners on loopback, ready to serve.
    pub fn start(proposers: u8, acceptors: u8, learners: u8) -> Cluster {
        let mut cluster = Cluster::prepare(proposers, acceptors, learners);
        cluster.start_all();
        cluster
    }

    /// The same, with no process started yet.
    pub fn prepare(proposers: u8, acceptors: u8, learners: u8) -> Cluster {
        Cluster::prepare_in(&Place::default(), [proposers, acceptors, learners, 0])
    }

    /// The same with `counts` nodes of each role, in the order of [`Role::ALL`], and each node with
    /// what the place gives it.
    ///
    /// # Panics
    /// When the machine does not have that after all.
    pub fn prepare_in(place: &Place, counts: [u8; Role::ALL.len()]) -> Cluster {
        let prefix = format!("{FOLDER}{}-", process::id());
        let folder = TempDir::with_prefix(prefix).expect("a temporary folder");
        let names = Role::ALL.into_iter().zip(counts);
        let names = names.flat_map(|(role, count)| (1..=count).map(move |id| (role, id)));
        let names: Vec<Name> = names.collect();
        let network = place.network.then(|| Network::start(&names));
        let network = network.transpose().expect("networks for the nodes");
        let hosts: BTreeMap<Name, (String, u16)> = match network {
            Some(_) => {
                let host = |name: &Name| (*name, (network::address(*name), DEFAULT_PORT));
                names.iter().map(host).collect()
            }
            None => {
                let ports = ports::block(names.len() as u16)..;
                let hosts = ports.map(|port| (Ipv4Addr::LOCALHOST.to_string(), port));
                names.iter().copied().zip(hosts).collect()
            }
        };
        let addresses = |role| -> Vec<String> {
            let of_role = hosts.iter().filter(|((r, _), _)| *r == role);
            of_role
                .map(|(_, (host, port))| format!("{host}:{port}"))
                .collect()
        };
        let mut cluster = Cluster {
            nodes: BTreeMap::new(),
            volumes: BTreeMap::new(),
            clocks: BTreeMap::new(),
            network,
            folder,
        };
        for (name, (host, port)) in &hosts {
            let (role, id) = *name;
            let data_dir = cluster.folder.path().join(format!("{role}-{id}"));
            if let Some(bytes) = place.volume {
                let volume = Volume::mount(&data_dir, bytes).expect("a volume for the node");
                cluster.volumes.insert(*name, volume);
            }
            let stores = addresses(Role::Store);
            let config = Config {
                port: *port,
                proposers: addresses(Role::Proposer),
                acceptors: addresses(Role::Acceptor),
                learners: addresses(Role::Learner),
                // As the operator has it: nobody else acts on it.
                use_cluster_store: matches!(role, Role::Learner | Role::Store)
                    && !stores.is_empty(),
                stores,
                log_dir: data_dir.join("logs"),
                data_dir,
                ..Config::new(role, NodeId::new(id).expect("ids start at 1"))
            };
            let mut node = match cluster.network {
                Some(_) => Node::in_namespace(config, network::namespace(*name), host.clone()),
                None => Node::new(config),
            };
            if let Some(library) = &place.clock {
                let clock = Clock::give(&mut node, library);
                cluster.clocks.insert(*name, clock);
            }
            cluster.nodes.insert(*name, node);
        }
        cluster
    }

    /// Leaves the nodes' folders, or the images of their disks, where they are, and says where.
    pub fn keep(&mut self) -> &Path {
        self.folder.disable_cleanup(true);
        // Without the mark it goes with the next leftovers.
        let _ = fs::write(self.folder.path().join(KEPT), "");
        self.folder.path()
    }

    /// Removes the folders of programs that were killed.
    pub fn remove_leftovers() {
        for entry in fs::read_dir(env::temp_dir())
            .into_iter()
            .flatten()
            .flatten()
        {
            let name = entry.file_name();
            let owner = name.to_str().and_then(|name| name.strip_prefix(FOLDER));
            let owner = owner.and_then(|rest| rest.split_once('-'));
            let runs = |pid: &str| Path::new("/proc").join(pid).exists();
            if owner.is_some_and(|(pid, _)| !runs(pid)) && !entry.path().join(KEPT).exists() {
                // Somebody else's, perhaps.
                let _ = fs::remove_dir_all(entry.path());
            }
        }
    }

    /// Starts every node and waits until all are ready.
    pub fn start_all(&mut self) {
        for node in self.nodes.values_mut() {
            node.start();
        }
        self.wait_until_ready();
    }

    /// The nodes' networks, if they have their own.
    pub fn network(&mut self) -> Option<&mut Network> {
        self.network.as_mut()
    }

    /// A node's volume, if it has its own.
    pub fn volume(&self, name: Name) -> Option<&Volume> {
        self.volumes.get(&name)
    }

    /// A node's clock, if it has its own.
    pub fn clock(&self, name: Name) -> Option<&Clock> {
        self.clocks.get(&name)
    }

    /// Adds one more store, which learns from this cluster's learners, on loopback, and starts it.
    pub fn add_store(&mut self) -> Name {
        let store = self.add(Role::Store);
        self.node_mut(store).start();
        store
    }

    /// Adds one more node of that role, which knows those that there are, and does not start it.
    pub fn add(&mut self, role: Role) -> Name {
        let id = self.of_role(role).len() as u8 + 1;
        let name = (role, id);
        let data_dir = self.folder.path().join(format!("{role}-{id}"));
        let node = Node::new(Config {
            port: ports::block(1),
            use_cluster_store: role == Role::Store,
            log_dir: data_dir.join("logs"),
            data_dir,
            ..Config::new(role, NodeId::new(id).expect("ids start at 1"))
        });
        self.nodes.insert(name, node);
        let lists = [Role::Proposer, Role::Acceptor, Role::Learner].map(|role| self.hosts(role));
        let config = &mut self.node_mut(name).config;
        [config.proposers, config.acceptors, config.learners] = lists;
        name
    }

    /// The addresses of a role, in order.
    pub fn hosts(&self, role: Role) -> Vec<String> {
        let hosts = self.urls(role).into_iter();
        hosts
            .map(|url| url.trim_start_matches("http://").to_owned())
            .collect()
    }

    /// Ends the last node of a role as Kubernetes does, and forgets it; its folder stays.
    ///
    /// # Panics
    /// When it does not end well.
    pub fn remove_last(&mut self, role: Role) -> Name {
        let last = self.of_role(role).pop().expect("a node to remove");
        let node = self.node_mut(last);
        node.signal(rustix::process::Signal::TERM);
        let ended = node.wait(READY_WITHIN);
        assert!(ended.success(), "{last:?}: {ended}");
        self.nodes.remove(&last);
        last
    }

    /// Every node's name.
    pub fn names(&self) -> Vec<Name> {
        self.nodes.keys().copied().collect()
    }

    /// The names of a role.
    pub fn of_role(&self, role: Role) -> Vec<Name> {
        let names = self.nodes.keys().copied();
        names.filter(|(r, _)| *r == role).collect()
    }

    /// A node.
    pub fn node(&self, name: Name) -> &Node {
        &self.nodes[&name]
    }

    /// A node, to change its process.
    pub fn node_mut(&mut self, name: Name) -> &mut Node {
        self.nodes
            .get_mut(&name)
            .expect("the cluster has this node")
    }

    /// The base URLs of a role, in order.
    pub fn urls(&self, role: Role) -> Vec<String> {
        let names = self.of_role(role).into_iter();
        names.map(|name| self.node(name).url()).collect()
    }

    /// kill -9 of some nodes at once.
    pub fn kill(&mut self, names: &[Name]) {
        for name in names {
            self.node(*name).signal(rustix::process::Signal::KILL);
        }
        for name in names {
            self.node_mut(*name).wait(READY_WITHIN);
        }
    }

    /// Starts nodes that do not run.
    pub fn restart(&mut self, names: &[Name]) {
        for name in names {
            self.node_mut(*name).start();
        }
    }

    /// The proposer that says that it leads, with the highest term if several do.
    pub fn leader(&self) -> Option<Name> {
        let proposers = self.of_role(Role::Proposer).into_iter();
        let leading = proposers.filter_map(|name| {
            let status = self.node(name).status()?;
            let leads = status["is_leader"] == true;
            leads.then(|| (status["term"].as_u64().unwrap_or(0), name))
        });
        leading.max().map(|(_, name)| name)
    }

    /// Waits for a leader.
    pub fn wait_for_leader(&self) -> Name {
        self.wait_for("a proposer leads", READY_WITHIN, || self.leader())
    }

    /// Waits until every node says that it is ready.
    pub fn wait_until_ready(&self) {
        self.wait_until_ready_but(&[]);
    }

    /// The same of all nodes but some.
    pub fn wait_until_ready_but(&self, but: &[Name]) {
        self.wait_for("all nodes are ready", READY_WITHIN, || {
            let mut waited_for = self.nodes.iter().filter(|(name, _)| !but.contains(name));
            waited_for.all(|(_, node)| node.is_ready()).then_some(())
        });
    }

    /// Waits until all learners have applied the same, and returns up to where.
    pub fn wait_until_learners_agree(&self, at_least: u64) -> u64 {
        let learners = self.of_role(Role::Learner);
        self.wait_for("all learners have applied the same", READY_WITHIN, || {
            let applied = learners
                .iter()
                .map(|name| self.node(*name).number("applied_instance_id"));
            let applied: Vec<u64> = applied.collect::<Option<_>>()?;
            let first = *applied.first()?;
            (first >= at_least && applied.iter().all(|a| *a == first)).then_some(first)
        })
    }

    /// Asks again and again until there is an answer.
    ///
    /// # Panics
    /// When there is none in time; the message has the end of every node's output.
    pub fn wait_for<T>(
        &self,
        what: &str,
        within: Duration,
        mut condition: impl FnMut() -> Option<T>,
    ) -> T {
        let deadline = Instant::now() + within;
        loop {
            if let Some(answer) = condition() {
                return answer;
            }
            assert!(
                Instant::now() < deadline,
                "not within {within:?}: {what}\n{}",
                self.tails()
            );
            thread::sleep(POLL);
        }
    }

    /// The end of every node's output.
    pub fn tails(&self) -> String {
        let tail = |(_, node): (&Name, &Node)| {
            let status = node
                .status()
                .map_or("does not answer".into(), |s| s.to_string());
            format!("--- {}: {status}\n{}\n", node.config.name(), node.tail())
        };
        self.nodes.iter().map(tail).collect()
    }
}
