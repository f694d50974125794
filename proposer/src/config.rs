//! The one place for the node's environment: names, defaults, bounds and what is wrong with a value.
//! The operator writes the very same [`Config`] with [`Config::to_env`], so the two cannot drift.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{SocketAddr, SocketAddrV6};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::notify::Target;
use crate::paxos::ids::NodeId;
pub use crate::paxos::ids::Role;
use crate::paxos::stamp::{RETRY_MEMORY, RETRY_WINDOW_MS, Terms};
use crate::quota;
pub use access::{Access, host};

mod access;

/// Whose addresses a process of this role cannot work without.
pub(crate) const fn needs(role: Role, use_cluster_store: bool) -> &'static [Role] {
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
    /// `MEMBERS_DIR`: the folder whose files take the place of the lists; see [`crate::addresses`].
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

    /// What a leader of this configuration settles for all learners.
    pub fn terms(&self) -> Terms {
        Terms {
            retry_window_ms: u32::try_from(self.retry_window.as_millis()).unwrap_or(u32::MAX),
            retry_memory: self.retry_memory,
            quota: self.state_quota.unwrap_or_else(quota::default_quota),
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

struct Reader<L> {
    lookup: L,
    invalid: Vec<Invalid>,
}

impl<L: Fn(&str) -> Option<String>> Reader<L> {
    /// `None`: not set. `Some(None)`: set to something bad, which is noted.
    fn read<T>(
        &mut self,
        variable: &'static str,
        expected: &str,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Option<Option<T>> {
        let held = (self.lookup)(variable).filter(|held| !held.is_empty())?;
        let parsed = parse(held.trim());
        if parsed.is_none() {
            let expected = expected.to_owned();
            self.invalid.push(Invalid {
                variable,
                held: Some(held),
                expected,
            });
        }
        Some(parsed)
    }

    fn boolean(&mut self, variable: &'static str) -> Option<bool> {
        self.read(variable, "true or false", |v| {
            v.to_ascii_lowercase().parse().ok()
        })
        .unwrap_or(Some(false))
    }

    /// A list of addresses, as [`Reader::read`].
    fn list(&mut self, variable: &'static str) -> Option<Option<Vec<String>>> {
        let held = (self.lookup)(variable).filter(|held| !held.is_empty())?;
        match addresses(&held) {
            Ok(list) => Some(Some(list)),
            Err(wrong) => {
                self.invalid.push(Invalid {
                    variable,
                    held: Some(held),
                    expected: format!("{EXPECTED_LIST}; {wrong}"),
                });
                Some(None)
            }
        }
    }

    /// The list in a file of the folder, in place of one of `count` addresses. `None`: there is none.
    /// `Some(None)`: it is bad, which is noted.
    fn file(
        &mut self,
        dir: &Path,
        role: Role,
        count: Option<usize>,
    ) -> Option<Option<Vec<String>>> {
        let variable = role.list_variable();
        let (variable, held, expected) = match crate::addresses::read(dir, role) {
            Ok(text) => {
                let text = text?;
                let expected = match list(role, &text) {
                    Ok(list) if role != Role::Acceptor || count.is_none_or(|n| n == list.len()) => {
                        return Some(Some(list));
                    }
                    Ok(_) => {
                        "as many addresses as the variable has, as that number is fixed".to_owned()
                    }
                    Err(wrong) => format!("{EXPECTED_LIST}; {wrong}"),
                };
                (
                    variable,
                    text,
                    format!("{expected}, in the file of MEMBERS_DIR"),
                )
            }
            Err(error) => {
                let expected = format!("a folder whose files can be read; {variable}: {error}");
                ("MEMBERS_DIR", dir.display().to_string(), expected)
            }
        };
        self.invalid.push(Invalid {
            variable,
            held: Some(held),
            expected,
        });
        Some(None)
    }

    fn missing(&mut self, variable: &'static str, expected: &str) {
        self.invalid.push(Invalid {
            variable,
            held: None,
            expected: expected.to_owned(),
        });
    }
}

trait OrMissing<T> {
    fn or_missing<L: Fn(&str) -> Option<String>>(
        self,
        reader: &mut Reader<L>,
        variable: &'static str,
        expected: &str,
    ) -> Option<T>;
}

impl<T> OrMissing<T> for Option<Option<T>> {
    fn or_missing<L: Fn(&str) -> Option<String>>(
        self,
        reader: &mut Reader<L>,
        variable: &'static str,
        expected: &str,
    ) -> Option<T> {
        if self.is_none() {
            reader.missing(variable, expected);
        }
        self.flatten()
    }
}

fn millis(value: &str, min: u64) -> Option<Duration> {
    let max = if min < 20 { 60_000 } else { 600_000 };
    value
        .parse()
        .ok()
        .filter(|ms| (min..=max).contains(ms))
        .map(Duration::from_millis)
}

fn targets(list: &str) -> Option<Vec<Target>> {
    let parsed: Option<Vec<Target>> = list.split(',').map(|t| Target::parse(t.trim())).collect();
    parsed.filter(|targets| targets.len() <= 255)
}

/// What a list holds.
pub(crate) const EXPECTED_LIST: &str =
    "host:port,host:port,… (position k is node k; each once; at most 255)";

/// Reads the text of a list's file; a cluster may have no stores. An error says what is wrong with it.
pub(crate) fn list(role: Role, text: &str) -> Result<Vec<String>, String> {
    match text.trim() {
        "" if role == Role::Store => Ok(Vec::new()),
        "" => Err("it is empty".to_owned()),
        list => addresses(list),
    }
}

fn addresses(list: &str) -> Result<Vec<String>, String> {
    let list: Vec<String> = list
        .split(',')
        .map(|address| check_address(address.trim()))
        .collect::<Result<_, _>>()?;
    if list.len() > 255 {
        return Err(format!("it has {} addresses", list.len()));
    }
    let mut first = BTreeMap::new();
    for (index, address) in list.iter().enumerate() {
        if let Some(other) = first.insert(canonical(address), index) {
            let (one, two) = (other + 1, index + 1);
            return Err(format!("{address} stands at positions {one} and {two}"));
        }
    }
    Ok(list)
}

/// An address that can be connected to, as it stands.
fn check_address(address: &str) -> Result<String, String> {
    let wrong = |why: &str| Err(format!("{address:?} {why}"));
    let Some((host, port)) = address.rsplit_once(':') else {
        return wrong("has no port");
    };
    if !port.parse::<u16>().is_ok_and(|port| port != 0) {
        return wrong("has no port from 1 to 65535");
    }
    if host.starts_with('[') || host.ends_with(']') {
        return match address.parse::<SocketAddrV6>() {
            Ok(_) => Ok(address.to_owned()),
            Err(_) => wrong("holds no IPv6 address in its brackets"),
        };
    }
    if host.contains(':') && !host.contains('/') {
        return wrong("is not clear: an IPv6 address is written in brackets, as in [::1]:8080");
    }
    let odd = |c: char| c.is_whitespace() || ['/', ':', '[', ']', '@'].contains(&c);
    match host.is_empty() || host.contains(odd) {
        true => wrong("has no plain host"),
        false => Ok(address.to_owned()),
    }
}

/// One form for every way of writing an address.
fn canonical(address: &str) -> String {
    match address.parse::<SocketAddr>() {
        Ok(address) => address.to_string(),
        Err(_) => address.to_ascii_lowercase(),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn from(pairs: &[(&'static str, &str)]) -> Result<Config, Vec<Invalid>> {
        Config::from_env(|name| {
            pairs
                .iter()
                .find(|(key, _)| *key == name)
                .map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn every_field_survives_the_environment() {
        let config = Config {
            node_id: NodeId::new(2).unwrap(),
            role: Role::Learner,
            port: 9,
            debug: true,
            proposers: vec!["a:1".into(), "b:2".into()],
            acceptors: vec!["[::1]:3".into()],
            learners: vec!["c:4".into()],
            stores: vec!["d:5".into()],
            use_cluster_store: true,
            data_dir: "/elsewhere".into(),
            log_dir: "/logs".into(),
            heartbeat_interval: Duration::from_millis(7),
            election_timeout: Duration::from_millis(77),
            notify_clients: vec![Target::parse("e:6").unwrap(), Target::parse("f").unwrap()],
            retry_window: Duration::from_millis(1234),
            retry_memory: 1 << 20,
            state_quota: Some(77_777),
            members_dir: Some("/nowhere".into()),
            access: Access {
                listen: Some("127.0.0.1".parse().unwrap()),
                hosts: vec!["h.example".into()],
                origins: vec!["http://o.example".into()],
            },
        };
        let env: BTreeMap<_, _> = config.to_env().into_iter().collect();
        assert_eq!(Config::from_env(|name| env.get(name).cloned()), Ok(config));
    }

    #[test]
    fn only_plain_addresses_may_be_notified() {
        let env = |clients| {
            from(&[
                ("NODE_ID", "1"),
                ("ROLE", "acceptor"),
                ("ACCEPTORS", "a:1"),
                ("NOTIFY_CLIENTS", clients),
            ])
        };
        let clients = env(" a , B:81").unwrap().notify_clients;
        assert_eq!(
            clients.iter().map(Target::to_string).collect::<Vec<_>>(),
            ["a:80", "b:81"]
        );
        for bad in ["a,", "http://a", "a/x", "*"] {
            let invalid = env(bad).unwrap_err();
            assert_eq!(invalid[0].variable, "NOTIFY_CLIENTS", "{bad}");
        }
    }

    #[test]
    fn defaults_are_those_of_the_contract() {
        let own = ("ACCEPTORS", "a:1");
        let config = from(&[("NODE_ID", "1"), ("ROLE", "acceptor"), own]).unwrap();
        let mut expected = Config::new(Role::Acceptor, NodeId::new(1).unwrap());
        expected.acceptors = vec!["a:1".to_owned()];
        assert_eq!(config, expected);
        assert_eq!(config.port, 8080);
        assert_eq!(config.log_dir, PathBuf::from("/data/logs"));
    }

    #[test]
    fn all_bad_variables_are_named_at_once() {
        let invalid =
            from(&[("NODE_ID", "0"), ("ACCEPTORS", "x"), ("DEBUG", "maybe")]).unwrap_err();
        let named: Vec<_> = invalid.iter().map(|i| i.variable).collect();
        assert_eq!(
            named,
            ["NODE_ID", "DEBUG", "PROPOSERS", "ACCEPTORS", "LEARNERS"]
        );
        assert_eq!(
            invalid[0].to_string(),
            r#"NODE_ID="0" is invalid: expected a whole number from 1 to 255"#
        );
        assert!(
            invalid[2]
                .to_string()
                .starts_with("PROPOSERS is not set: expected host:port")
        );
    }

    #[test]
    fn addresses_are_host_and_port_and_stand_in_a_list_once() {
        let env = |list: &str| {
            let list = list.to_owned();
            Config::from_env(move |name| match name {
                "NODE_ID" => Some("1".to_owned()),
                "ROLE" => Some("acceptor".to_owned()),
                "ACCEPTORS" => Some(list.clone()),
                _ => None,
            })
        };
        for good in [
            "127.0.0.1:80",
            "[::1]:8080",
            "[fe80::1%2]:80",
            "a:1, b:1",
            "c-acceptor-1.c-acceptor.ns.svc:8080,c-acceptor-2.c-acceptor.ns.svc:8080",
            "a:1,a:2",
            "[::1]:1,[::2]:1",
        ] {
            assert!(env(good).is_ok(), "{good}");
        }
        for (bad, says) in [
            ("::1:8080", "in brackets"),
            ("fe80::1%lo:80", "in brackets"),
            ("a:1,2001:db8::7:80", "in brackets"),
            ("[::1:80", "no IPv6 address"),
            ("[a]:80", "no IPv6 address"),
            ("[127.0.0.1]:80", "no IPv6 address"),
            ("127.0.0.1", "no port"),
            ("a:0", "no port from 1"),
            ("a:99999", "no port from 1"),
            ("a:1,,b:1", "no port"),
            (":80", "no plain host"),
            ("a b:80", "no plain host"),
            ("http://h:80", "no plain host"),
            ("user@h:80", "no plain host"),
            ("a:1,b:1,a:1", "a:1 stands at positions 1 and 3"),
            ("Host:80,host:80", "host:80 stands at positions 1 and 2"),
            ("[::1]:80,[0:0:0:0:0:0:0:1]:80", "positions 1 and 2"),
            ("a:1, a:1", "positions 1 and 2"),
        ] {
            let invalid = env(bad).unwrap_err();
            assert_eq!(
                (invalid.len(), invalid[0].variable),
                (1, "ACCEPTORS"),
                "{bad}"
            );
            let text = invalid[0].to_string();
            assert!(text.contains(says), "{text}");
        }
    }

    #[test]
    fn proposers_and_acceptors_must_be_in_their_own_lists() {
        let lists = [
            ("PROPOSERS", "a:1,b:2"),
            ("ACCEPTORS", "a:1"),
            ("LEARNERS", "a:1"),
        ];
        let env = |id| [&[("NODE_ID", id)], &lists[..]].concat();
        assert!(from(&env("2")).is_ok());
        assert_eq!(from(&env("3")).unwrap_err()[0].variable, "PROPOSERS");
        let acceptor = [("NODE_ID", "2"), ("ROLE", "acceptor"), ("ACCEPTORS", "a:1")];
        assert_eq!(from(&acceptor).unwrap_err()[0].variable, "ACCEPTORS");
    }

    #[test]
    fn lists_in_files_take_the_place_of_those_that_are_set() {
        let dir = tempfile::tempdir().unwrap();
        let env = |more: &[(&'static str, &str)]| {
            let base = [
                ("NODE_ID", "2"),
                ("ROLE", "learner"),
                ("PROPOSERS", "a:1"),
                ("ACCEPTORS", "b:1,b:2,b:3"),
                ("MEMBERS_DIR", dir.path().to_str().unwrap()),
            ];
            from(&[more, &base[..]].concat())
        };
        let file = |name: &str, text: &str| fs::write(dir.path().join(name), text).unwrap();
        assert_eq!(env(&[]).unwrap().proposers, ["a:1"]);
        file("PROPOSERS", "c:1,c:2\n");
        file("STORES", "\n");
        let config = env(&[("USE_CLUSTER_STORE", "true")]).unwrap();
        assert_eq!(config.proposers, ["c:1", "c:2"]);
        assert!(config.stores.is_empty());
        file("STORES", "d:1");
        assert!(env(&[]).unwrap().use_cluster_store);
        // A proposer waits until it is named.
        let third = [("NODE_ID", "3"), ("ROLE", "proposer"), ("LEARNERS", "e:1")];
        assert!(env(&third).is_ok());
    }

    #[test]
    fn bad_files_are_named_as_the_variables_in_whose_place_they_are() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("ACCEPTORS"), "b:1,b:2").unwrap();
        fs::write(dir.path().join("PROPOSERS"), "").unwrap();
        fs::create_dir(dir.path().join("LEARNERS")).unwrap();
        let env = [
            ("NODE_ID", "1"),
            ("PROPOSERS", "a:1"),
            ("ACCEPTORS", "b:1,b:2,b:3"),
            ("LEARNERS", "e:1"),
            ("MEMBERS_DIR", dir.path().to_str().unwrap()),
        ];
        let invalid = from(&env).unwrap_err();
        let named: Vec<_> = invalid.iter().map(|i| i.variable).collect();
        assert_eq!(named, ["PROPOSERS", "ACCEPTORS", "MEMBERS_DIR"]);
        let fixed =
            r#"ACCEPTORS="b:1,b:2" is invalid: expected as many addresses as the variable has"#;
        assert!(invalid[1].to_string().starts_with(fixed), "{}", invalid[1]);
    }

    #[test]
    fn the_election_timeout_leaves_room_for_heartbeats() {
        let base = [("NODE_ID", "1"), ("ROLE", "acceptor"), ("ACCEPTORS", "a:1")];
        let env = |more: &[(&'static str, &'static str)]| [&base[..], more].concat();
        assert!(from(&env(&[("HEARTBEAT_INTERVAL_MS", "200")])).is_err());
        assert!(
            from(&env(&[
                ("HEARTBEAT_INTERVAL_MS", "200"),
                ("ELECTION_TIMEOUT_MS", "800")
            ]))
            .is_ok()
        );
        assert!(from(&env(&[("ELECTION_TIMEOUT_MS", "199")])).is_err());
    }
}
