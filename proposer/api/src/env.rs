//! The one place for the node's environment: names, defaults, bounds and what is wrong with a value.
//! The operator writes the very same [`Config`] with [`Config::to_env`], so the two cannot drift.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use paxos::ids::NodeId;
use paxos::stamp::{RETRY_MEMORY, RETRY_WINDOW_MS};

pub use access::{Access, host};
pub use lists::{EXPECTED_LIST, list, read};
pub use paxos::ids::Role;
use reader::{OrMissing, Reader, millis, targets};
pub use target::Target;

mod access;
mod lists;
mod reader;
mod target;

/// Whose addresses a process of this role cannot work without.
pub const fn needs(role: Role, use_cluster_store: bool) -> &'static [Role] {
    match (role, use_cluster_store) {
        (Role::Proposer, _) => &[Role::Proposer, Role::Acceptor, Role::Learner],
        (Role::Acceptor, _) => &[Role::Acceptor],
        (Role::Learner, false) => &[Role::Acceptor, Role::Proposer],
        (Role::Learner, true) => &[Role::Acceptor, Role::Proposer, Role::Store],
        (Role::Store, _) => &[Role::Acceptor, Role::Learner, Role::Proposer],
    }
}

/// A node's whole configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// `NODE_ID`
    pub node_id: NodeId,
    /// `ROLE`
    pub role: Role,
    /// `PORT`
    pub port: u16,
    /// `DEBUG`
    pub debug: bool,
    /// `PROPOSERS`: `host:port` of proposer 1, 2, …
    pub proposers: Vec<String>,
    /// `ACCEPTORS`
    pub acceptors: Vec<String>,
    /// `LEARNERS`
    pub learners: Vec<String>,
    /// `STORES`
    pub stores: Vec<String>,
    /// `USE_CLUSTER_STORE`
    pub use_cluster_store: bool,
    /// `DATA_DIR`
    pub data_dir: PathBuf,
    /// `LOG_DIR`
    pub log_dir: PathBuf,
    /// `HEARTBEAT_INTERVAL_MS`
    pub heartbeat_interval: Duration,
    /// `ELECTION_TIMEOUT_MS`
    pub election_timeout: Duration,
    /// `NOTIFY_CLIENTS`
    pub notify_clients: Vec<Target>,
    /// `RETRY_WINDOW_MS`
    pub retry_window: Duration,
    /// `RETRY_MEMORY_BYTES`
    pub retry_memory: u64,
    /// `STATE_QUOTA_BYTES`; `None`: by the memory that there is.
    pub state_quota: Option<u64>,
    /// `MEMBERS_DIR`: the folder whose files take the place of the lists; each is read again when it changes.
    pub members_dir: Option<PathBuf>,
    /// `LISTEN`, `ALLOWED_HOSTS`, `ALLOWED_ORIGINS`
    pub access: Access,
}

/// One bad variable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invalid {
    /// Its name.
    pub variable: &'static str,
    /// What it held; `None` when it was not set.
    pub held: Option<String>,
    /// What it may hold.
    pub expected: String,
}

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.held {
            Some(held) => write!(
                f,
                "{}={held:?} is invalid: expected {}",
                self.variable, self.expected
            ),
            None => write!(
                f,
                "{} is not set: expected {}",
                self.variable, self.expected
            ),
        }
    }
}

/// The default of `PORT`.
pub const DEFAULT_PORT: u16 = 8080;
/// The default of `DATA_DIR`.
pub const DEFAULT_DATA_DIR: &str = "/data";
/// The default of `HEARTBEAT_INTERVAL_MS`.
pub const DEFAULT_HEARTBEAT_INTERVAL: Duration = Duration::from_millis(50);
/// The default of `ELECTION_TIMEOUT_MS`.
pub const DEFAULT_ELECTION_TIMEOUT: Duration = Duration::from_millis(400);
/// The default of `RETRY_WINDOW_MS`.
pub const DEFAULT_RETRY_WINDOW: Duration = Duration::from_secs(60);
/// The default of `RETRY_MEMORY_BYTES`.
pub const DEFAULT_RETRY_MEMORY: u64 = 128 << 20;
/// The least of `RETRY_MEMORY_BYTES`.
const MIN_RETRY_MEMORY: u64 = 64 << 10;
/// The least of `STATE_QUOTA_BYTES`.
pub const MIN_STATE_QUOTA: u64 = 64 << 10;
/// Resources may take one part in this many of a learner's memory. As much again goes to requests that
/// are remembered, the rest to messages, snapshots and the allocator.
pub const QUOTA_SHARE: u64 = 4;

/// The quota that fits a learner with so much memory, in bytes.
pub fn quota_for(memory: u64) -> u64 {
    (memory / QUOTA_SHARE).max(MIN_STATE_QUOTA)
}

impl Config {
    /// A configuration with every default, for the role and node given.
    pub fn new(role: Role, node_id: NodeId) -> Config {
        Config {
            node_id,
            role,
            port: DEFAULT_PORT,
            debug: false,
            proposers: Vec::new(),
            acceptors: Vec::new(),
            learners: Vec::new(),
            stores: Vec::new(),
            use_cluster_store: false,
            data_dir: PathBuf::from(DEFAULT_DATA_DIR),
            log_dir: PathBuf::from(DEFAULT_DATA_DIR).join("logs"),
            heartbeat_interval: DEFAULT_HEARTBEAT_INTERVAL,
            election_timeout: DEFAULT_ELECTION_TIMEOUT,
            notify_clients: Vec::new(),
            retry_window: DEFAULT_RETRY_WINDOW,
            retry_memory: DEFAULT_RETRY_MEMORY,
            state_quota: None,
            members_dir: None,
            access: Access::default(),
        }
    }

    /// Reads the variables through `lookup`; an empty variable counts as unset. The lists are those in
    /// the files of `MEMBERS_DIR`, where there are any. On failure returns every bad variable, not
    /// only the first.
    pub fn from_env(lookup: impl Fn(&str) -> Option<String>) -> Result<Config, Vec<Invalid>> {
        let mut reader = Reader {
            lookup,
            invalid: Vec::new(),
        };
        let node_id = reader
            .read("NODE_ID", "a whole number from 1 to 255", |v| {
                v.parse().ok().and_then(NodeId::new)
            })
            .or_missing(&mut reader, "NODE_ID", "a whole number from 1 to 255");
        let role = reader
            .read("ROLE", "proposer, acceptor, learner or store", Role::parse)
            .unwrap_or(Some(Role::Proposer));
        let port = reader
            .read("PORT", "a port from 1 to 65535", |v| {
                v.parse().ok().filter(|p| *p != 0)
            })
            .unwrap_or(Some(DEFAULT_PORT));
        let debug = reader.boolean("DEBUG");
        let use_cluster_store = reader.boolean("USE_CLUSTER_STORE");
        let data_dir = reader
            .read("DATA_DIR", "a folder's path", |v| Some(PathBuf::from(v)))
            .unwrap_or(Some(PathBuf::from(DEFAULT_DATA_DIR)));
        let log_dir = reader.read("LOG_DIR", "a folder's path", |v| Some(PathBuf::from(v)));
        let log_dir = log_dir.unwrap_or(data_dir.as_ref().map(|dir| dir.join("logs")));
        let heartbeat = reader
            .read(
                "HEARTBEAT_INTERVAL_MS",
                "milliseconds from 5 to 60000",
                |v| millis(v, 5),
            )
            .unwrap_or(Some(DEFAULT_HEARTBEAT_INTERVAL));
        let timeout_expected =
            "milliseconds from 20 to 600000, at least 4 times HEARTBEAT_INTERVAL_MS";
        let election_timeout = reader
            .read("ELECTION_TIMEOUT_MS", timeout_expected, |v| {
                let timeout = millis(v, 20)?;
                heartbeat
                    .is_none_or(|heartbeat| timeout >= 4 * heartbeat)
                    .then_some(timeout)
            })
            .unwrap_or(Some(DEFAULT_ELECTION_TIMEOUT));
        if let (Some(heartbeat), None) = (heartbeat, (reader.lookup)("ELECTION_TIMEOUT_MS"))
            && DEFAULT_ELECTION_TIMEOUT < 4 * heartbeat
        {
            reader.missing("ELECTION_TIMEOUT_MS", timeout_expected);
        }

        let notify_clients = reader
            .read(
                "NOTIFY_CLIENTS",
                "host[:port],host[:port],… (the clients that may be notified; at most 255)",
                targets,
            )
            .unwrap_or(Some(Vec::new()));

        let retry_window = reader
            .read(
                "RETRY_WINDOW_MS",
                "milliseconds from 1000 to 3600000",
                |v| {
                    let number = v.parse().ok().filter(|n| RETRY_WINDOW_MS.contains(n));
                    number.map(Duration::from_millis)
                },
            )
            .unwrap_or(Some(DEFAULT_RETRY_WINDOW));
        let retry_memory = reader
            .read(
                "RETRY_MEMORY_BYTES",
                "bytes from 65536 to 1099511627776",
                |v| {
                    let least = MIN_RETRY_MEMORY;
                    v.parse()
                        .ok()
                        .filter(|n| (least..=*RETRY_MEMORY.end()).contains(n))
                },
            )
            .unwrap_or(Some(DEFAULT_RETRY_MEMORY));
        let state_quota = reader
            .read("STATE_QUOTA_BYTES", "bytes, 65536 or more", |v| {
                v.parse().ok().filter(|n| *n >= MIN_STATE_QUOTA)
            })
            .map_or(Some(None), |quota| quota.map(Some));

        let members_dir = reader
            .read("MEMBERS_DIR", "a folder's path", |v| Some(PathBuf::from(v)))
            .flatten();
        let access = Access::read(&mut reader);
        let needed = role.map_or(&[][..], |role| needs(role, use_cluster_store == Some(true)));
        let mut lists: BTreeMap<Role, Vec<String>> = BTreeMap::new();
        let mut in_files = Vec::new();
        for list in Role::ALL {
            let variable = list.list_variable();
            let set = reader.list(variable);
            let count = set.iter().flatten().map(Vec::len).next();
            let file = members_dir.as_ref();
            let file = file.and_then(|dir| reader.file(dir, list, count));
            if file.is_some() {
                in_files.push(list);
            }
            match file.or(set) {
                Some(addresses) => drop(lists.insert(list, addresses.unwrap_or_default())),
                None if needed.contains(&list) => reader.missing(variable, EXPECTED_LIST),
                None => {}
            }
        }
        let mut take = |role| lists.remove(&role).unwrap_or_default();
        let (proposers, acceptors) = (take(Role::Proposer), take(Role::Acceptor));
        let (learners, stores) = (take(Role::Learner), take(Role::Store));
        let use_cluster_store = use_cluster_store
            .map(|used| used || in_files.contains(&Role::Store) && !stores.is_empty());
        // A proposer may start before the file names it, and waits until it does. Not so an acceptor,
        // as their number is fixed.
        let own = role.filter(|role| match role {
            Role::Proposer => !in_files.contains(role),
            Role::Acceptor => true,
            Role::Learner | Role::Store => false,
        });
        let own_list = match own {
            Some(Role::Proposer) => &proposers[..],
            Some(Role::Acceptor) => &acceptors[..],
            _ => &[],
        };
        if let (Some(role), Some(node)) = (own, node_id)
            && !own_list.is_empty()
            && node.index() >= own_list.len()
        {
            reader.invalid.push(Invalid {
                variable: role.list_variable(),
                held: Some(own_list.join(",")),
                expected: format!("at least {node} addresses, as NODE_ID is {node}"),
            });
        }

        match (
            node_id,
            role,
            port,
            debug,
            use_cluster_store,
            data_dir,
            log_dir,
            heartbeat,
            election_timeout,
            notify_clients,
            (retry_window, retry_memory, state_quota),
        ) {
            (
                Some(node_id),
                Some(role),
                Some(port),
                Some(debug),
                Some(use_cluster_store),
                Some(data_dir),
                Some(log_dir),
                Some(heartbeat_interval),
                Some(election_timeout),
                Some(notify_clients),
                (Some(retry_window), Some(retry_memory), Some(state_quota)),
            ) if reader.invalid.is_empty() => Ok(Config {
                node_id,
                role,
                port,
                debug,
                proposers,
                acceptors,
                learners,
                stores,
                use_cluster_store,
                data_dir,
                log_dir,
                heartbeat_interval,
                election_timeout,
                notify_clients,
                retry_window,
                retry_memory,
                state_quota,
                members_dir,
                access,
            }),
            _ => Err(reader.invalid),
        }
    }

    /// The variables from which [`Config::from_env`] reads back this very value, in a fixed order.
    /// Lists that are empty are left out.
    pub fn to_env(&self) -> Vec<(&'static str, String)> {
        let mut env = vec![
            ("NODE_ID", self.node_id.to_string()),
            ("ROLE", self.role.name().to_owned()),
            ("PORT", self.port.to_string()),
            ("DEBUG", self.debug.to_string()),
        ];
        for role in Role::ALL {
            if !self.addresses(role).is_empty() {
                env.push((role.list_variable(), self.addresses(role).join(",")));
            }
        }
        env.extend([
            ("USE_CLUSTER_STORE", self.use_cluster_store.to_string()),
            ("DATA_DIR", self.data_dir.display().to_string()),
            ("LOG_DIR", self.log_dir.display().to_string()),
            (
                "HEARTBEAT_INTERVAL_MS",
                self.heartbeat_interval.as_millis().to_string(),
            ),
            (
                "ELECTION_TIMEOUT_MS",
                self.election_timeout.as_millis().to_string(),
            ),
        ]);
        if !self.notify_clients.is_empty() {
            let clients: Vec<_> = self.notify_clients.iter().map(Target::to_string).collect();
            env.push(("NOTIFY_CLIENTS", clients.join(",")));
        }
        if self.retry_window != DEFAULT_RETRY_WINDOW {
            let millis = self.retry_window.as_millis();
            env.push(("RETRY_WINDOW_MS", millis.to_string()));
        }
        if self.retry_memory != DEFAULT_RETRY_MEMORY {
            env.push(("RETRY_MEMORY_BYTES", self.retry_memory.to_string()));
        }
        if let Some(quota) = self.state_quota {
            env.push(("STATE_QUOTA_BYTES", quota.to_string()));
        }
        if let Some(dir) = &self.members_dir {
            env.push(("MEMBERS_DIR", dir.display().to_string()));
        }
        env.extend(self.access.to_env());
        env
    }

    /// The addresses of a role's nodes.
    pub fn addresses(&self, role: Role) -> &[String] {
        match role {
            Role::Proposer => &self.proposers,
            Role::Acceptor => &self.acceptors,
            Role::Learner => &self.learners,
            Role::Store => &self.stores,
        }
    }

    /// `role-id`, as in log file names and traces.
    pub fn name(&self) -> String {
        format!("{}-{}", self.role, self.node_id)
    }
}

#[cfg(test)]
mod tests;
