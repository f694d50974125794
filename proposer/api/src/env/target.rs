//! Clients that are notified of what was applied.

use std::fmt;

use http::uri::Authority;

/// The port of an address without one, as in any `http` URL.
const DEFAULT_PORT: u16 = 80;

/// Where a client is notified: `host:port`, in one spelling.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Target(String);

impl Target {
    /// Reads `host[:port]`; `None` for anything else.
    pub fn parse(text: &str) -> Option<Target> {
        let address: Authority = text.parse().ok()?;
        let host = address.host();
        // User names, which come before the host, have no place here.
        let port = match text.strip_prefix(host)? {
            "" => DEFAULT_PORT,
            port => port.strip_prefix(':')?.parse().ok()?,
        };
        // As in names and addresses: an authority may hold more, such as `*`.
        let plain = |c: char| c.is_ascii_alphanumeric() || "-._:[]".contains(c);
        if host.is_empty() || !host.chars().all(plain) || port == 0 {
            return None;
        }
        let host = host.to_ascii_lowercase();
        Some(Target(format!("{host}:{port}")))
    }

    /// As `host:port`.
    pub fn address(&self) -> &str {
        &self.0
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        let port = self.0.rsplit(':').next();
        port.and_then(|port| port.parse().ok())
            .expect("parsed with a port")
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
