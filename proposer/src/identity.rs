//! Whose disk this is: `identity.json` in the data folder of every node, with the cluster, the role,
//! the node's number, the disk's incarnation and the name of its last start.
//!
//! It catches what the node can see by itself, the disk of another node. The rest it takes to the
//! acceptors ([`paxos::standing`]), who know which disk each node has had.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use api::env::{Config, Role};
use bytes::Bytes;
use paxos::codec::{Frame, Version};
use paxos::ids::{ClusterId, Members, NodeId, NodeName};
use paxos::message::{Message, Reply, Request};
use paxos::standing::{Refusal, Start};

use crate::json_file::{self, Fields, Loaded};
use crate::media::FileMedia;
use crate::snapshots::Snapshots;

const FILE: &str = "identity.json";
const FORMAT: u64 = 1;
/// Where nodes keep what they must not lose.
const DATA: [&str; 4] = ["wal", "log", "snapshots", "store"];

/// Why a node does not start on this disk.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The folder cannot be used.
    #[error("cannot use the data folder {path}: {source}")]
    Folder {
        /// Which.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// The file cannot be read or written.
    #[error(transparent)]
    File(#[from] json_file::Error),
    /// The file is damaged.
    #[error(
        "{0} is damaged, so it is not known whose disk this is. Nothing was changed. Restore the \
         file, or give the node its own disk"
    )]
    Damaged(String),
    /// Another node's disk.
    #[error(
        "{file} says that this is the disk of {found}, and this node is {expected}. Nothing was \
         changed. Give each node its own disk"
    )]
    OtherNode {
        /// The file's path.
        file: String,
        /// Whose it is.
        found: NodeName,
        /// Who this is.
        expected: NodeName,
    },
    /// There is data without the file.
    #[error(
        "{path} holds data ({data}) but no {FILE}: it was removed, or the data is of an older \
         program. Nothing was changed. Restore the file, or give the node its own disk"
    )]
    NoIdentity {
        /// The data folder.
        path: String,
        /// What it holds.
        data: &'static str,
    },
    /// The list of acceptors does not fit the cluster. An acceptor finds out by its log, and says so
    /// while it runs.
    #[error("{file} says that this disk is of cluster {cluster}: {refusal}. Nothing was changed")]
    OtherCount {
        /// The file's path.
        file: String,
        /// The cluster.
        cluster: ClusterId,
        /// How many founded it, and how many are listed.
        refusal: Refusal,
    },
    /// The file says that there must be more.
    #[error(
        "{file} says that this acceptor votes in cluster {cluster}, but its log is {log}. Nothing \
         was changed. Restore the log, or leave the acceptor down: a quorum of the others works without it"
    )]
    LogLost {
        /// The file's path.
        file: String,
        /// The cluster it votes in.
        cluster: ClusterId,
        /// What the log says.
        log: String,
    },
}

/// A message of another cluster than this node's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "it is of cluster {}, and this node of cluster {mine}",
    theirs.map_or_else(|| "unknown".to_owned(), |theirs| theirs.to_string())
)]
pub struct OtherCluster {
    /// The cluster of this node's disk.
    pub mine: ClusterId,
    /// The message's; `None` when its sender knows of none.
    pub theirs: Option<ClusterId>,
}

/// A node and its disk. Cheap to clone.
#[derive(Clone)]
pub struct Identity(Arc<Inner>);

struct Inner {
    name: NodeName,
    start: Start,
    /// 0: not known yet.
    cluster: AtomicU64,
    /// How many acceptors founded it; 0: not known yet.
    founders: AtomicU8,
    /// Whether a quorum of acceptors has named the cluster, or had before this start.
    confirmed: AtomicBool,
    media: FileMedia,
    /// Held while the file is written.
    writing: Mutex<()>,
}

impl Identity {
    /// Reads whose disk the data folder is, and counts this start, durably. The folder is made if
    /// absent, and locked.
    pub fn open(config: &Config) -> Result<Identity, Error> {
        let name = NodeName {
            role: config.role,
            id: config.node_id,
        };
        let path = config.data_dir.display().to_string();
        let folder = |source| Error::Folder {
            path: path.clone(),
            source,
        };
        let media = FileMedia::open(&config.data_dir).map_err(folder)?;
        let file = config.data_dir.join(FILE).display().to_string();
        let random = || rand::random_range(1..=u64::MAX);
        let (cluster, founders, start) = match json_file::load(&media, FILE, FORMAT, decode)? {
            Loaded::Read(read) => {
                if read.name != name {
                    return Err(Error::OtherNode {
                        file,
                        found: read.name,
                        expected: name,
                    });
                }
                if name.role != Role::Acceptor
                    && let (Some(cluster), Some(founded)) = (read.cluster, read.founders)
                    && let Some(refusal) = refuses(founded, config)
                {
                    return Err(Error::OtherCount {
                        file,
                        cluster,
                        refusal,
                    });
                }
                let start = match read.witnessed {
                    true => read.start.next(random()),
                    false => read.start,
                };
                (read.cluster, read.founders, start)
            }
            Loaded::Unreadable => return Err(Error::Damaged(file)),
            Loaded::Absent => {
                let holds = |data: &&str| config.data_dir.join(data).exists();
                if let Some(data) = DATA.into_iter().find(holds) {
                    return Err(Error::NoIdentity { path, data });
                }
                let start = Start {
                    incarnation: random(),
                    count: 1,
                    run: random(),
                };
                (None, None, start)
            }
        };
        let identity = Identity(Arc::new(Inner {
            name,
            start,
            cluster: AtomicU64::new(cluster.map_or(0, ClusterId::number)),
            founders: AtomicU8::new(founders.map_or(0, Members::count)),
            confirmed: AtomicBool::new(cluster.is_some() && founders.is_some()),
            media,
            writing: Mutex::new(()),
        }));
        match identity.write(cluster, founders, false) {
            Err(error) if error.is_lack_of_room() && remove_unfinished(config) => {
                identity.write(cluster, founders, false)?;
            }
            written => written?,
        }
        Ok(identity)
    }

    /// Who this is.
    pub fn name(&self) -> NodeName {
        self.0.name
    }

    /// This start.
    pub fn start(&self) -> Start {
        self.0.start
    }

    /// The cluster that the disk belongs to, once that is known.
    pub fn cluster(&self) -> Option<ClusterId> {
        ClusterId::new(self.0.cluster.load(Ordering::Acquire))
    }

    /// How many acceptors founded the cluster, once that is known.
    pub fn founders(&self) -> Option<Members> {
        Members::new(self.0.founders.load(Ordering::Acquire))
    }

    /// Whether this node's list of acceptors is known to fit the cluster: a proposer may lead.
    pub fn may_lead(&self) -> bool {
        self.cluster().is_some() && self.founders().is_some()
    }

    /// Whether a quorum of acceptors stands by the cluster and the list: a learner may ask them for
    /// votes.
    pub fn may_learn(&self) -> bool {
        self.0.confirmed.load(Ordering::Acquire)
    }

    /// The data folder.
    pub fn media(&self) -> &FileMedia {
        &self.0.media
    }

    /// Writes down, durably, that acceptors of this cluster have witnessed the start. The disk
    /// belongs to the cluster from then on. `founders` is `None` when they are of a build that does not
    /// tell how many founded it.
    pub fn witnessed(
        &self,
        cluster: ClusterId,
        founders: Option<Members>,
    ) -> Result<(), json_file::Error> {
        let founders = founders.or(self.founders());
        self.write(Some(cluster), founders, true)?;
        let founders = founders.map_or(0, Members::count);
        self.0.founders.store(founders, Ordering::Release);
        self.0.cluster.store(cluster.number(), Ordering::Release);
        self.0.confirmed.store(true, Ordering::Release);
        Ok(())
    }

    /// Compares with what an acceptor's log says.
    pub fn check_log(
        &self,
        cluster: Option<ClusterId>,
        founders: Option<Members>,
    ) -> Result<(), Error> {
        let Some(mine) = self.cluster() else {
            return Ok(());
        };
        let log = match (cluster, self.founders(), founders) {
            (None, ..) => "empty".to_owned(),
            (Some(log), ..) if log != mine => format!("that of cluster {log}"),
            (_, Some(mine), Some(log)) if mine != log => {
                format!("of one with {log} acceptors, not {mine}")
            }
            _ => return Ok(()),
        };
        Err(Error::LogLost {
            file: crate::media::Media::describe(self.media(), FILE),
            cluster: mine,
            log,
        })
    }

    /// The bytes of a message from this node, in the newest version. A link puts it into the one that its
    /// peer reads.
    pub fn frame(&self, message: Message) -> Bytes {
        self.frame_in(Version::NEWEST, message)
    }

    /// The same in the version of a question, for its answer.
    pub fn frame_in(&self, version: Version, message: Message) -> Bytes {
        Frame {
            version,
            from: self.name(),
            cluster: self.cluster(),
            message,
        }
        .encode()
    }

    /// Whether a frame is of this node's cluster, or says itself which cluster it is of.
    pub fn check(&self, frame: &Frame) -> Result<(), OtherCluster> {
        match &frame.message {
            Message::Request(Request::Enlist { .. })
            | Message::Reply(Reply::Witnessed { .. } | Reply::Refused { .. }) => Ok(()),
            _ => self.check_cluster(frame.cluster),
        }
    }

    /// Whether what comes from this cluster is for this node. One that knows no cluster yet takes
    /// everything: it does nothing with it that matters.
    pub fn check_cluster(&self, theirs: Option<ClusterId>) -> Result<(), OtherCluster> {
        match self.cluster() {
            Some(mine) if theirs != Some(mine) => Err(OtherCluster { mine, theirs }),
            _ => Ok(()),
        }
    }

    fn write(
        &self,
        cluster: Option<ClusterId>,
        founders: Option<Members>,
        witnessed: bool,
    ) -> Result<(), json_file::Error> {
        let _one = self
            .0
            .writing
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let name = self.name();
        let fields = Fields::from([
            ("format".to_owned(), FORMAT.into()),
            (
                "cluster".to_owned(),
                cluster.map(|cluster| cluster.to_string()).into(),
            ),
            ("acceptors".to_owned(), founders.map(Members::count).into()),
            ("role".to_owned(), name.role.name().into()),
            ("node_id".to_owned(), name.id.number().into()),
            (
                "incarnation".to_owned(),
                format!("{:016x}", self.0.start.incarnation).into(),
            ),
            ("starts".to_owned(), self.0.start.count.into()),
            (
                "run".to_owned(),
                format!("{:016x}", self.0.start.run).into(),
            ),
            ("witnessed".to_owned(), witnessed.into()),
        ]);
        json_file::replace(&self.0.media, FILE, fields)
    }
}

/// Removes what is left of snapshots that were not finished, of which a node that found no room has no
/// use. Whether there is a folder of snapshots at all.
fn remove_unfinished(config: &Config) -> bool {
    let folder = config.data_dir.join("snapshots");
    let media = folder.is_dir().then(|| FileMedia::open(&folder).ok());
    let snapshots = media.flatten().map(Snapshots::open);
    snapshots.is_some_and(|opened| opened.is_ok())
}

struct Read {
    name: NodeName,
    cluster: Option<ClusterId>,
    founders: Option<Members>,
    start: Start,
    witnessed: bool,
}

/// Whether the list has another length than the cluster has acceptors.
fn refuses(founded: Members, config: &Config) -> Option<Refusal> {
    let listed = u8::try_from(config.acceptors.len()).ok();
    let listed = listed.and_then(Members::new)?;
    (listed != founded).then_some(Refusal::OtherCount { founded, listed })
}

/// What an acceptor's folder says, without opening it for use: the cluster that it votes in, and with
/// how many acceptors that was founded, as far as it knows. `None`: there is no such file, or it is not
/// an acceptor's.
pub fn acceptors_of(folder: &std::path::Path) -> Option<(ClusterId, Option<Members>)> {
    let text = std::fs::read(folder.join(FILE)).ok()?;
    let read = decode(&serde_json::from_slice(&text).ok()?)?;
    let of_acceptor = read.name.role == Role::Acceptor;
    Some((read.cluster.filter(|_| of_acceptor)?, read.founders))
}

fn decode(fields: &Fields) -> Option<Read> {
    let hex = |text: &str| u64::from_str_radix(text, 16).ok().filter(|n| *n != 0);
    let cluster = match fields.get("cluster")? {
        serde_json::Value::Null => None,
        cluster => Some(ClusterId::parse(cluster.as_str()?)?),
    };
    // Builds before this field left it out.
    let founders = match fields.get("acceptors") {
        None | Some(serde_json::Value::Null) => None,
        Some(count) => Some(Members::new(u8::try_from(count.as_u64()?).ok()?)?),
    };
    let node = u8::try_from(fields.get("node_id")?.as_u64()?).ok()?;
    Some(Read {
        name: NodeName {
            role: Role::parse(fields.get("role")?.as_str()?)?,
            id: NodeId::new(node)?,
        },
        cluster,
        founders,
        start: Start {
            incarnation: hex(fields.get("incarnation")?.as_str()?)?,
            count: fields.get("starts")?.as_u64()?,
            run: hex(fields.get("run")?.as_str()?)?,
        },
        witnessed: fields.get("witnessed")?.as_bool()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(dir: &std::path::Path, role: Role, id: u8) -> Config {
        Config {
            data_dir: dir.to_owned(),
            ..Config::new(role, NodeId::new(id).unwrap())
        }
    }

    #[test]
    fn each_witnessed_start_counts_and_the_disk_stays_the_same() {
        let dir = tempfile::tempdir().unwrap();
        let config = config(dir.path(), Role::Acceptor, 2);
        let first = Identity::open(&config).unwrap();
        let start = first.start();
        assert_eq!((start.count, first.cluster()), (1, None));
        let cluster = ClusterId::new(0xabc).unwrap();
        assert!(matches!(Identity::open(&config), Err(Error::Folder { .. })));
        drop(first);
        let again = Identity::open(&config).unwrap();
        assert_eq!(again.start(), start, "nobody has seen it yet");
        again.witnessed(cluster, Members::new(3)).unwrap();
        drop(again);
        let second = Identity::open(&config).unwrap();
        assert_eq!(second.start().incarnation, start.incarnation);
        assert_eq!(second.start().count, 2);
        assert_ne!(second.start().run, start.run);
        assert_eq!(second.cluster(), Some(cluster));
        assert_eq!(second.founders(), Members::new(3));
        assert_eq!(acceptors_of(dir.path()), Some((cluster, Members::new(3))));
        for count in [None, Some(3)] {
            let count = count.and_then(Members::new);
            assert!(second.check_log(Some(cluster), count).is_ok());
        }
        let lost = |cluster, count| second.check_log(cluster, count).unwrap_err().to_string();
        assert!(lost(None, None).contains("its log is empty"));
        let other = lost(Some(cluster), Members::new(5));
        assert!(other.contains("of one with 5 acceptors, not 3"), "{other}");
    }

    #[test]
    fn a_list_that_does_not_fit_is_refused_before_anything_is_written() {
        for role in [Role::Proposer, Role::Learner, Role::Store] {
            let dir = tempfile::tempdir().unwrap();
            let with = |acceptors: usize| Config {
                acceptors: (1..=acceptors).map(|port| format!("a:{port}")).collect(),
                ..config(dir.path(), role, 1)
            };
            let new = Identity::open(&with(3)).unwrap();
            assert!(!new.may_lead() && !new.may_learn());
            new.witnessed(ClusterId::new(0xabc).unwrap(), Members::new(3))
                .unwrap();
            assert!(new.may_lead() && new.may_learn());
            drop(new);
            let before = std::fs::read(dir.path().join(FILE)).unwrap();
            for other in [1, 2, 4, 5] {
                let error = Identity::open(&with(other)).err().unwrap().to_string();
                let says = format!("was founded with 3 acceptors, and ACCEPTORS names {other}");
                assert!(error.contains(&says), "{error}");
            }
            assert_eq!(std::fs::read(dir.path().join(FILE)).unwrap(), before);
            let again = Identity::open(&with(3)).unwrap();
            assert!(again.may_lead() && again.may_learn());
            assert_eq!(acceptors_of(dir.path()), None, "it is no acceptor's");
        }
    }

    #[test]
    fn a_file_without_the_count_is_that_of_an_earlier_build() {
        let dir = tempfile::tempdir().unwrap();
        let config = config(dir.path(), Role::Proposer, 1);
        let old = Identity::open(&config).unwrap();
        // What builds up to 0.1.0 wrote: no count.
        old.witnessed(ClusterId::new(0xabc).unwrap(), None).unwrap();
        drop(old);
        let file = dir.path().join(FILE);
        let text = std::fs::read_to_string(&file).unwrap();
        let mut fields: Fields = serde_json::from_str(&text).unwrap();
        fields.remove("acceptors").unwrap();
        fields.remove("crc32c");
        std::fs::write(&file, serde_json::to_vec(&fields).unwrap()).unwrap();
        let opened = Identity::open(&config).unwrap();
        assert_eq!(opened.founders(), None);
        assert!(opened.cluster().is_some() && !opened.may_lead() && !opened.may_learn());
    }

    #[test]
    fn another_nodes_disk_is_refused_and_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        drop(Identity::open(&config(dir.path(), Role::Learner, 1)).unwrap());
        let before = std::fs::read(dir.path().join(FILE)).unwrap();
        for (role, id) in [(Role::Learner, 2), (Role::Store, 1)] {
            let error = Identity::open(&config(dir.path(), role, id)).err().unwrap();
            let expected = format!("the disk of learner-1, and this node is {role}-{id}");
            assert!(error.to_string().contains(&expected), "{error}");
        }
        assert_eq!(std::fs::read(dir.path().join(FILE)).unwrap(), before);
    }

    #[test]
    fn damage_and_absence_are_not_taken_for_a_new_disk() {
        let dir = tempfile::tempdir().unwrap();
        let config = config(dir.path(), Role::Learner, 1);
        drop(Identity::open(&config).unwrap());
        let file = dir.path().join(FILE);
        let text = std::fs::read_to_string(&file).unwrap();
        std::fs::write(&file, text.replace("\"starts\": 1", "\"starts\": 7")).unwrap();
        assert!(matches!(Identity::open(&config), Err(Error::Damaged(_))));
        std::fs::remove_file(&file).unwrap();
        std::fs::create_dir(dir.path().join("snapshots")).unwrap();
        let error = Identity::open(&config).err().unwrap();
        assert!(
            error.to_string().contains("holds data (snapshots)"),
            "{error}"
        );
    }

    #[test]
    fn frames_of_another_cluster_are_refused_once_the_own_is_known() {
        let dir = tempfile::tempdir().unwrap();
        let identity = Identity::open(&config(dir.path(), Role::Proposer, 1)).unwrap();
        let frame = |cluster| Frame {
            version: Version::NEWEST,
            from: identity.name(),
            cluster: ClusterId::new(cluster),
            message: Message::Done,
        };
        assert!(identity.check(&frame(5)).is_ok());
        identity
            .witnessed(ClusterId::new(4).unwrap(), None)
            .unwrap();
        assert!(identity.check(&frame(4)).is_ok());
        let error = identity.check(&frame(0)).unwrap_err().to_string();
        assert!(error.contains("of cluster unknown"), "{error}");
        assert!(identity.check(&frame(5)).is_err());
    }
}
