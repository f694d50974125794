//! A network namespace for each node, on one bridge. Packets between nodes can be dropped without a
//! trace in one direction or both, at random, or be held up by a slow link. Packets of the clients,
//! which stand at the bridge itself, are spared but for the slow link.

use std::collections::{BTreeMap, BTreeSet};

use api::env::Role;

use super::Name;
use super::place::run;

/// The bridge, and the clients' address on it.
const BRIDGE: &str = "chaos";
const CLIENTS: &str = "10.73.0.1";

/// The nodes' networks. Removed with this value.
pub struct Network {
    faults: BTreeMap<Name, Faults>,
}

/// What becomes of the packets that one node receives and sends.
#[derive(Clone, Debug, Default)]
struct Faults {
    /// Packets from these never arrive.
    unheard: BTreeSet<Name>,
    /// This many of a hundred packets from any node never arrive.
    loss_percent: u64,
    /// What it sends leaves at this many kilobits per second.
    kbits: Option<u64>,
}

impl Network {
    /// Whether this machine has all that it takes.
    pub(super) fn probe() -> Result<(), String> {
        let name = (Role::Proposer, 1);
        let mut network = Network::start(&[name])?;
        network.cut(name, name);
        network.lose(name, 1);
        network.slow_down(name, 1000);
        network.write(name)
    }

    /// A namespace for each of these.
    pub(super) fn start(names: &[Name]) -> Result<Network, String> {
        run("ip", ["link", "add", BRIDGE, "type", "bridge"], "")?;
        let network = Network {
            faults: names
                .iter()
                .map(|name| (*name, Faults::default()))
                .collect(),
        };
        let cidr = format!("{CLIENTS}/16");
        let bridge = format!("address add {cidr} dev {BRIDGE}\nlink set {BRIDGE} up\n");
        run("ip", ["-batch", "-"], &bridge)?;
        for name in names {
            let (space, outside) = (namespace(*name), interface(*name));
            let batch = format!(
                "netns add {space}\n\
                 link add {outside} type veth peer name eth0 netns {space}\n\
                 link set {outside} master {BRIDGE} up\n"
            );
            run("ip", ["-batch", "-"], &batch)?;
            let address = address(*name);
            let batch =
                format!("link set lo up\naddress add {address}/16 dev eth0\nlink set eth0 up\n");
            run("ip", ["-netns", &space, "-batch", "-"], &batch)?;
        }
        Ok(network)
    }

    /// From now on nothing that `from` sends reaches `to`. As all of these it counts only with
    /// [`Self::apply`].
    pub fn cut(&mut self, from: Name, to: Name) {
        self.of(to).unheard.insert(from);
    }

    /// `percent` per cent of the packets from other nodes do not reach this one.
    pub fn lose(&mut self, name: Name, percent: u64) {
        self.of(name).loss_percent = percent;
    }

    /// What this node sends leaves at `kbits` kilobits per second, through a short queue.
    pub fn slow_down(&mut self, name: Name, kbits: u64) {
        self.of(name).kbits = Some(kbits);
    }

    /// Nothing is wrong any more, once applied.
    pub fn heal(&mut self) {
        for faults in self.faults.values_mut() {
            *faults = Faults::default();
        }
    }

    /// Makes all that was said true.
    ///
    /// # Panics
    /// When that fails, which [`super::Place`] found out before.
    pub fn apply(&self) {
        for name in self.faults.keys() {
            self.write(*name).expect("a node's network can be changed");
        }
    }

    fn of(&mut self, name: Name) -> &mut Faults {
        self.faults.get_mut(&name).expect("the node has a network")
    }

    fn write(&self, name: Name) -> Result<(), String> {
        let Faults {
            unheard,
            loss_percent,
            kbits,
        } = &self.faults[&name];
        let cut = unheard
            .iter()
            .map(|from| format!("ip saddr {} drop\n", address(*from)));
        let lost = format!("ip saddr != {CLIENTS} numgen random mod 100 < {loss_percent} drop\n");
        let rules: String = cut.chain((*loss_percent > 0).then_some(lost)).collect();
        let rules = format!(
            "flush ruleset\n\
             table ip faults {{ chain input {{ type filter hook input priority 0;\n{rules}}}\n}}\n"
        );
        let space = namespace(name);
        run("ip", ["netns", "exec", &space, "nft", "-f", "-"], &rules)?;
        let mut queue = vec!["-netns", &space, "qdisc", "replace", "dev", "eth0", "root"];
        let rate = kbits.map(|kbits| format!("{kbits}kbit"));
        match &rate {
            Some(rate) => queue.extend(["tbf", "rate", rate, "burst", "8kb", "latency", "300ms"]),
            None => queue.push("pfifo_fast"),
        }
        run("tc", queue, "")
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        // What is not there need not be removed. The cables are removed here, since the kernel takes
        // its time with those of a namespace that has ended.
        for name in self.faults.keys() {
            let _ = run("ip", ["link", "delete", &interface(*name)], "");
            let _ = run("ip", ["netns", "delete", &namespace(*name)], "");
        }
        let _ = run("ip", ["link", "delete", BRIDGE], "");
    }
}

/// The name of a node's namespace.
pub(super) fn namespace((role, id): Name) -> String {
    format!("chaos-{role}-{id}")
}

/// Its address.
pub(super) fn address((role, id): Name) -> String {
    format!("10.73.{}.{id}", role as u8 + 1)
}

/// Its end of the cable at the bridge. Names of interfaces have 15 bytes at most.
fn interface((role, id): Name) -> String {
    format!("ch-{}-{id}", role as u8)
}
