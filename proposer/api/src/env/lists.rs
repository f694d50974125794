//! The lists of nodes' addresses, in variables and in the files of `MEMBERS_DIR`.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, ErrorKind};
use std::net::{SocketAddr, SocketAddrV6};
use std::path::Path;

use paxos::ids::Role;

/// What a list holds.
pub const EXPECTED_LIST: &str =
    "host:port,host:port,… (position k is node k; each once; at most 255)";

/// What the file of a role's list holds; `None` when there is no such file.
pub fn read(dir: &Path, role: Role) -> io::Result<Option<String>> {
    match fs::read_to_string(dir.join(role.list_variable())) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Reads the text of a list's file; a cluster may have no stores. An error says what is wrong with it.
pub fn list(role: Role, text: &str) -> Result<Vec<String>, String> {
    match text.trim() {
        "" if role == Role::Store => Ok(Vec::new()),
        "" => Err("it is empty".to_owned()),
        list => addresses(list),
    }
}

pub(super) fn addresses(list: &str) -> Result<Vec<String>, String> {
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
