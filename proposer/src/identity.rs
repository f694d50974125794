//! Whose disk this is: `identity.json` in the data folder of every node, with the cluster, the role,
//! the node's number, the disk's incarnation and the name of its last start.
//!
//! It catches what the node can see by itself, the disk of another node. The rest it takes to the
//! acceptors ([`crate::paxos::standing`]), who know which disk each node has had.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;

use crate::config::{Config, Role};
use crate::json_file::{self, Fields, Loaded};
use crate::media::FileMedia;
use crate::paxos::codec::Frame;
use crate::paxos::ids::{ClusterId, NodeId, NodeName};
use crate::paxos::message::{Message, Reply, Request};
use crate::paxos::standing::Start;

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
    /// The file says that there must be more.
    #[error(
        "{file} says that this acceptor votes in cluster {cluster}, but its log is {log}. Nothing \
         was changed. Restore the log, or leave the acceptor down: the others go on without it"
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
        let (cluster, start) = match json_file::load(&media, FILE, FORMAT, decode)? {
            Loaded::Read(read) => {
                if read.name != name {
                    return Err(Error::OtherNode {
                        file,
                        found: read.name,
                        expected: name,
                    });
                }
                let start = match read.witnessed {
                    true => read.start.next(random()),
                    false => read.start,
                };
                (read.cluster, start)
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
                (None, start)
            }
        };
        let identity = Identity(Arc::new(Inner {
            name,
            start,
            cluster: AtomicU64::new(cluster.map_or(0, ClusterId::number)),
            media,
            writing: Mutex::new(()),
        }));
        identity.write(cluster, false)?;
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

    /// The data folder.
    pub fn media(&self) -> &FileMedia {
        &self.0.media
    }

    /// Writes down, durably, that acceptors of this cluster have witnessed the start. The disk
    /// belongs to the cluster from then on.
    pub fn witnessed(&self, cluster: ClusterId) -> Result<(), json_file::Error> {
        self.write(Some(cluster), true)?;
        self.0.cluster.store(cluster.number(), Ordering::Release);
        Ok(())
    }

    /// Compares with what an acceptor's log says.
    pub fn check_log(&self, log: Option<ClusterId>) -> Result<(), Error> {
        match (self.cluster(), log) {
            (Some(cluster), log) if log != Some(cluster) => Err(Error::LogLost {
                file: crate::media::Media::describe(self.media(), FILE),
                cluster,
                log: log.map_or_else(
                    || "empty".to_owned(),
                    |log| format!("that of cluster {log}"),
                ),
            }),
            _ => Ok(()),
        }
    }

    /// The bytes of a message from this node.
    pub fn frame(&self, message: Message) -> Bytes {
        Frame {
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

    fn write(&self, cluster: Option<ClusterId>, witnessed: bool) -> Result<(), json_file::Error> {
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

struct Read {
    name: NodeName,
    cluster: Option<ClusterId>,
    start: Start,
    witnessed: bool,
}

fn decode(fields: &Fields) -> Option<Read> {
    let hex = |text: &str| u64::from_str_radix(text, 16).ok().filter(|n| *n != 0);
    let cluster = match fields.get("cluster")? {
        serde_json::Value::Null => None,
        cluster => Some(ClusterId::parse(cluster.as_str()?)?),
    };
    let node = u8::try_from(fields.get("node_id")?.as_u64()?).ok()?;
    Some(Read {
        name: NodeName {
            role: Role::parse(fields.get("role")?.as_str()?)?,
            id: NodeId::new(node)?,
        },
        cluster,
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
        again.witnessed(cluster).unwrap();
        drop(again);
        let second = Identity::open(&config).unwrap();
        assert_eq!(second.start().incarnation, start.incarnation);
        assert_eq!(second.start().count, 2);
        assert_ne!(second.start().run, start.run);
        assert_eq!(second.cluster(), Some(cluster));
        assert!(second.check_log(Some(cluster)).is_ok());
        let lost = second.check_log(None).unwrap_err().to_string();
        assert!(lost.contains("its log is empty"), "{lost}");
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
            from: identity.name(),
            cluster: ClusterId::new(cluster),
            message: Message::Done,
        };
        assert!(identity.check(&frame(5)).is_ok());
        identity.witnessed(ClusterId::new(4).unwrap()).unwrap();
        assert!(identity.check(&frame(4)).is_ok());
        let error = identity.check(&frame(0)).unwrap_err().to_string();
        assert!(error.contains("of cluster unknown"), "{error}");
        assert!(identity.check(&frame(5)).is_err());
    }
}
