//! Who may reach the node: the address it listens on, and the hosts and web pages it answers to.

use std::net::IpAddr;

use super::Reader;

/// The address a node listens on, and whom it answers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Access {
    /// `LISTEN`: the address to listen on; `None`: all of this machine's.
    pub listen: Option<IpAddr>,
    /// `ALLOWED_HOSTS`: names by which clients may call this node, beside its own.
    pub hosts: Vec<String>,
    /// `ALLOWED_ORIGINS`: the web pages that may use it.
    pub origins: Vec<String>,
}

const LISTEN: &str = "an IP address of this machine, such as 127.0.0.1";
const HOSTS: &str = "host,host,… without ports (at most 255)";
const ORIGINS: &str =
    "http://host[:port] or https://host[:port], with commas between (at most 255)";

impl Access {
    /// Bad variables are noted in the reader.
    pub(super) fn read<L: Fn(&str) -> Option<String>>(reader: &mut Reader<L>) -> Access {
        let listen = reader.read("LISTEN", LISTEN, |held| {
            let bare = held
                .strip_prefix('[')
                .and_then(|held| held.strip_suffix(']'));
            bare.unwrap_or(held).parse().ok()
        });
        let hosts = reader.read("ALLOWED_HOSTS", HOSTS, |held| list(held, host));
        let origins = reader.read("ALLOWED_ORIGINS", ORIGINS, |held| list(held, origin));
        Access {
            listen: listen.flatten(),
            hosts: hosts.flatten().unwrap_or_default(),
            origins: origins.flatten().unwrap_or_default(),
        }
    }

    /// The variables that are not as by default.
    pub(super) fn to_env(&self) -> impl Iterator<Item = (&'static str, String)> {
        let listen = self.listen.map(|listen| listen.to_string());
        let joined = |list: &[String]| Some(list.join(",")).filter(|list| !list.is_empty());
        let variables = [
            ("LISTEN", listen),
            ("ALLOWED_HOSTS", joined(&self.hosts)),
            ("ALLOWED_ORIGINS", joined(&self.origins)),
        ];
        let set = variables.into_iter();
        set.filter_map(|(name, value)| Some((name, value?)))
    }
}

fn list(held: &str, one: impl Fn(&str) -> Option<String>) -> Option<Vec<String>> {
    let parsed: Option<Vec<String>> = held.split(',').map(|entry| one(entry.trim())).collect();
    parsed.filter(|list| list.len() <= 255)
}

/// A host's name in one spelling. A port says nothing about who is meant, and is refused here.
pub fn host(text: &str) -> Option<String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
    let name = text.strip_suffix('.').unwrap_or(text);
    let good = !name.is_empty() && name.len() <= 253 && name.chars().all(plain);
    good.then(|| name.to_ascii_lowercase())
}

/// A web page's origin as browsers write it.
fn origin(text: &str) -> Option<String> {
    let (scheme, rest) = text.split_once("://")?;
    let authority: http::uri::Authority = rest.parse().ok()?;
    let good = matches!(scheme, "http" | "https") && !rest.contains(['@', '*']);
    (good && !authority.host().is_empty()).then(|| text.to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use crate::env::{Config, Role};
    use paxos::ids::NodeId;

    fn config(more: &[(&str, &str)]) -> Result<Config, Vec<&'static str>> {
        let base = [("NODE_ID", "1"), ("ROLE", "acceptor"), ("ACCEPTORS", "a:1")];
        let read = Config::from_env(|name| {
            let mut pairs = base.iter().chain(more);
            pairs
                .find(|(key, _)| *key == name)
                .map(|(_, value)| (*value).to_owned())
        });
        read.map_err(|invalid| invalid.into_iter().map(|i| i.variable).collect())
    }

    #[test]
    fn hosts_and_origins_are_kept_in_one_spelling_and_survive_the_environment() {
        let read = config(&[
            ("LISTEN", "[::1]"),
            ("ALLOWED_HOSTS", "Paxos.Example.COM, other."),
            ("ALLOWED_ORIGINS", "https://Console.example:8443"),
        ]);
        let access = read.unwrap().access;
        assert_eq!(access.listen, Some("::1".parse().unwrap()));
        assert_eq!(access.hosts, ["paxos.example.com", "other"]);
        assert_eq!(access.origins, ["https://console.example:8443"]);
        let env: Vec<_> = access.to_env().collect();
        let again: Vec<_> = env.iter().map(|(name, held)| (*name, &**held)).collect();
        assert_eq!(config(&again).unwrap().access, access);
        let default = Config::new(Role::Acceptor, NodeId::new(1).unwrap());
        assert_eq!(default.access.to_env().count(), 0);
    }

    #[test]
    fn what_is_none_is_named() {
        for (variable, held) in [
            ("LISTEN", "localhost"),
            ("LISTEN", "127.0.0.1:80"),
            ("ALLOWED_HOSTS", "a:80"),
            ("ALLOWED_HOSTS", "a,,b"),
            ("ALLOWED_HOSTS", "*"),
            ("ALLOWED_ORIGINS", "a"),
            ("ALLOWED_ORIGINS", "*"),
            ("ALLOWED_ORIGINS", "file://a"),
        ] {
            assert_eq!(config(&[(variable, held)]), Err(vec![variable]), "{held}");
        }
        assert!(config(&[("LISTEN", ""), ("ALLOWED_HOSTS", "")]).is_ok());
    }
}
