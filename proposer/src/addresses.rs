//! Where every node is, by role: the lists of the environment or, with `MEMBERS_DIR`, those of the
//! files there, which are read again and again. So nodes come and go while the others run.
//!
//! A file is called as the variable in whose place it is, and holds what that would. One that is
//! gone or holds something bad changes nothing: the last good list stays. A node that its own list no
//! longer names keeps serving, but a proposer hands leadership over and does not stand again:
//! those that follow the list would not take it for a leader.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use api::env::{self, Config, Role};
use paxos::ids::NodeName;
use tokio::sync::watch;
use tracing::{error, info, warn};

/// How often the files are read.
const EVERY: Duration = Duration::from_secs(1);

/// The addresses of every role's nodes; position k is node k.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lists(BTreeMap<Role, Vec<String>>);

impl Lists {
    /// As the node starts with them. Stores that are not to be used are left out.
    fn of(config: &Config) -> Lists {
        let used = |role: &Role| *role != Role::Store || config.use_cluster_store;
        let roles = Role::ALL.into_iter().filter(used);
        Lists(
            roles
                .map(|role| (role, config.addresses(role).to_vec()))
                .collect(),
        )
    }

    /// The addresses of a role's nodes.
    pub fn of_role(&self, role: Role) -> &[String] {
        self.0.get(&role).map_or(&[], Vec::as_slice)
    }

    /// Whether a node is listed.
    pub fn name(&self, node: NodeName) -> bool {
        node.id.index() < self.of_role(node.role).len()
    }
}

/// The lists as they are now. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Addresses(watch::Receiver<Lists>);

impl Addresses {
    /// Starts to read the files, on a separate thread, if the configuration names their folder.
    pub fn start(config: &Config) -> io::Result<Addresses> {
        let (lists, addresses) = watch::channel(Lists::of(config));
        if let Some(dir) = &config.members_dir {
            let mut files = Files::new(config, dir.clone());
            let follow = move || {
                while !lists.is_closed() {
                    let changed = files.read(&lists.borrow());
                    if let Some(changed) = changed {
                        lists.send_replace(changed);
                    }
                    thread::sleep(EVERY);
                }
            };
            thread::Builder::new()
                .name("addresses".to_owned())
                .spawn(follow)?;
        }
        Ok(Addresses(addresses))
    }

    /// The lists now. Held for a moment only: a change waits for it.
    pub fn now(&self) -> watch::Ref<'_, Lists> {
        self.0.borrow()
    }

    /// The lists now, if they have changed since the last call.
    pub(crate) fn changed(&mut self) -> Option<Lists> {
        // An error: they never change.
        let changed = self.0.has_changed().unwrap_or(false);
        changed.then(|| self.0.borrow_and_update().clone())
    }
}

/// The files, and what was in them the last time, so that each change is looked at once.
struct Files {
    me: NodeName,
    dir: PathBuf,
    acceptors: usize,
    seen: BTreeMap<Role, Result<Option<String>, ErrorKind>>,
}

impl Files {
    fn new(config: &Config, dir: PathBuf) -> Files {
        Files {
            me: NodeName {
                role: config.role,
                id: config.node_id,
            },
            dir,
            acceptors: config.acceptors.len(),
            seen: Role::ALL.map(|role| (role, Ok(None))).into(),
        }
    }

    /// The lists that there are now, if any has changed.
    fn read(&mut self, lists: &Lists) -> Option<Lists> {
        let mut changed = lists.clone();
        for role in Role::ALL {
            let found = env::read(&self.dir, role).map_err(|error| error.kind());
            if self.seen.get(&role) == Some(&found) {
                continue;
            }
            match self.list(role, &found) {
                Ok(list) => drop(changed.0.insert(role, list)),
                Err(why) => error!(
                    file = %self.dir.join(role.list_variable()).display(),
                    "{why}: the last list stays"
                ),
            }
            self.seen.insert(role, found);
        }
        if changed == *lists {
            return None;
        }
        for role in Role::ALL {
            let (before, now) = (lists.of_role(role).len(), changed.of_role(role).len());
            if lists.of_role(role) != changed.of_role(role) {
                info!(
                    list = role.list_variable(),
                    before, now, "addresses changed"
                );
            }
        }
        match (lists.name(self.me), changed.name(self.me)) {
            (true, false) => warn!("the list names this node no longer"),
            (false, true) => info!("the list names this node"),
            _ => {}
        }
        Some(changed)
    }

    fn list(
        &self,
        role: Role,
        found: &Result<Option<String>, ErrorKind>,
    ) -> Result<Vec<String>, String> {
        let text = match found {
            Ok(Some(text)) => text,
            Ok(None) => return Err("it is gone".to_owned()),
            Err(error) => return Err(format!("it cannot be read ({error})")),
        };
        let list = env::list(role, text).map_err(|wrong| {
            let expected = env::EXPECTED_LIST;
            format!("it holds {text:?}, not {expected}; {wrong}")
        })?;
        if role == Role::Acceptor && list.len() != self.acceptors {
            return Err(format!(
                "it names {} acceptors, and the cluster has {}: their number cannot change",
                list.len(),
                self.acceptors
            ));
        }
        Ok(list)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;
    use crate::identity::Identity;
    use crate::link::{Link, Links};
    use paxos::ids::NodeId;

    fn config(role: Role, id: u8, dir: &Path) -> Config {
        Config {
            proposers: list(&["p:1", "p:2", "p:3"]),
            acceptors: list(&["a:1", "a:2", "a:3"]),
            learners: list(&["l:1"]),
            data_dir: dir.join("data"),
            members_dir: Some(dir.to_owned()),
            ..Config::new(role, NodeId::new(id).unwrap())
        }
    }

    fn list(addresses: &[&str]) -> Vec<String> {
        addresses
            .iter()
            .map(|address| (*address).to_owned())
            .collect()
    }

    #[test]
    fn what_is_no_list_or_is_gone_leaves_the_last_one() {
        let dir = tempfile::tempdir().unwrap();
        let config = config(Role::Proposer, 3, dir.path());
        let lists = Lists::of(&config);
        let mut files = Files::new(&config, dir.path().to_owned());
        assert_eq!(files.read(&lists), None, "without files nothing changes");
        let file = dir.path().join("PROPOSERS");
        fs::write(&file, " p:1,p:2,p:3,p:4\n").unwrap();
        let grown = files.read(&lists).unwrap();
        assert_eq!(grown.of_role(Role::Proposer), ["p:1", "p:2", "p:3", "p:4"]);
        assert_eq!(grown.of_role(Role::Learner), ["l:1"]);
        for bad in ["", "p:1,", "p", "http://p:1", "\0"] {
            fs::write(&file, bad).unwrap();
            assert_eq!(files.read(&grown), None, "{bad:?}");
        }
        fs::write(&file, [0xff]).unwrap();
        assert_eq!(files.read(&grown), None);
        fs::remove_file(&file).unwrap();
        assert_eq!(files.read(&grown), None);
        fs::write(&file, "p:1,p:2").unwrap();
        let shrunk = files.read(&grown).unwrap();
        assert!(grown.name(files.me) && !shrunk.name(files.me));
    }

    #[test]
    fn acceptors_may_move_and_their_number_may_not_change() {
        let dir = tempfile::tempdir().unwrap();
        let config = config(Role::Acceptor, 1, dir.path());
        let lists = Lists::of(&config);
        let mut files = Files::new(&config, dir.path().to_owned());
        let file = dir.path().join("ACCEPTORS");
        for refused in ["a:1,a:2", "a:1,a:2,a:3,a:4"] {
            fs::write(&file, refused).unwrap();
            assert_eq!(files.read(&lists), None, "{refused}");
        }
        fs::write(&file, "a:1,b:2,a:3").unwrap();
        let moved = files.read(&lists).unwrap();
        assert_eq!(moved.of_role(Role::Acceptor), ["a:1", "b:2", "a:3"]);
    }

    #[test]
    fn stores_come_and_go_whatever_the_environment_says() {
        let dir = tempfile::tempdir().unwrap();
        let config = Config {
            stores: list(&["s:1"]),
            ..config(Role::Learner, 1, dir.path())
        };
        let lists = Lists::of(&config);
        assert!(lists.of_role(Role::Store).is_empty(), "they are not used");
        let mut files = Files::new(&config, dir.path().to_owned());
        let file = dir.path().join("STORES");
        fs::write(&file, "s:1,s:2").unwrap();
        let on = files.read(&lists).unwrap();
        assert_eq!(on.of_role(Role::Store), ["s:1", "s:2"]);
        fs::write(&file, "").unwrap();
        let off = files.read(&on).unwrap();
        assert!(off.of_role(Role::Store).is_empty());
    }

    #[tokio::test]
    async fn links_follow_the_lists_and_keep_what_stays() {
        let dir = tempfile::tempdir().unwrap();
        let here = |ports: &[u16]| {
            ports
                .iter()
                .map(|port| format!("127.0.0.1:{port}"))
                .collect()
        };
        let config = Config {
            proposers: here(&[1, 2, 3]),
            ..config(Role::Proposer, 2, dir.path())
        };
        let identity = Identity::open(&config).unwrap();
        let (lists, addresses) = watch::channel(Lists::of(&config));
        let mut links = Links::new(&Addresses(addresses), &identity, Role::Proposer);
        let change = |ports: &[u16]| {
            lists.send_modify(|lists| drop(lists.0.insert(Role::Proposer, here(ports))));
        };
        let shown = |links: &Links| -> Vec<String> {
            let shown = |link: &Link| format!("{} at {}", link.node.id, link.peer.address());
            links.iter().map(shown).collect()
        };
        let first = ["1 at 127.0.0.1:1", "3 at 127.0.0.1:3"];
        assert_eq!(shown(&links), first);
        // So that it has a past by which it is known again. Nothing listens there.
        let call = links[0].get("", Duration::from_secs(5));
        assert!(call.await.is_err());
        assert_eq!(links[0].peer.stats().failed, 1);
        change(&[1, 2, 9, 4]);
        assert_eq!(shown(&links), first, "until they are refreshed");
        links.refresh();
        let second = ["1 at 127.0.0.1:1", "3 at 127.0.0.1:9", "4 at 127.0.0.1:4"];
        assert_eq!(shown(&links), second);
        assert_eq!(links[0].peer.stats().failed, 1);
        change(&[1]);
        links.refresh();
        assert_eq!(shown(&links), first[..1]);
    }
}
