//! How a node says that it cannot start: all that is wrong at once, each with its place.

use std::fs;
use std::net::{Ipv4Addr, Ipv6Addr, TcpListener};
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use node::media::FileMedia;
use testkit::cluster::binary;

const WITHIN: Duration = Duration::from_secs(10);

/// An acceptor's exit code and what it says on standard error.
fn fails(data: &Path, port: u16, more: &[(&str, &str)]) -> (i32, String) {
    let mut child = Command::new(binary::path())
        .env_clear()
        .envs([
            ("NODE_ID", "1"),
            ("ROLE", "acceptor"),
            ("ACCEPTORS", "127.0.0.1:1"),
        ])
        .env("PORT", port.to_string())
        .env("DATA_DIR", data)
        .envs(more.iter().copied())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let deadline = Instant::now() + WITHIN;
    while child.try_wait().unwrap().is_none() {
        if Instant::now() > deadline {
            let _ = child.kill();
            panic!("it runs: {:?}", child.wait_with_output());
        }
        thread::sleep(Duration::from_millis(10));
    }
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    (output.status.code().expect("it ends by itself"), said)
}

fn port_of(listener: &TcpListener) -> u16 {
    listener.local_addr().unwrap().port()
}

#[test]
fn a_port_that_is_taken_is_named() {
    let data = tempfile::tempdir().unwrap();
    let everywhere = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
    let loopback = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let sixth = TcpListener::bind((Ipv6Addr::UNSPECIFIED, 0));
    let taken = [Some(everywhere), Some(loopback), sixth.ok()];
    for listener in taken.iter().flatten() {
        let port = port_of(listener);
        let (code, said) = fails(data.path(), port, &[]);
        assert_eq!(code, 1, "{said}");
        assert!(said.contains(&format!(":{port}: ")), "{said}");
        assert!(said.contains("Address already in use"), "{said}");
        assert_eq!(said.lines().count(), 1, "{said}");
    }
}

#[test]
fn a_port_and_a_folder_that_cannot_be_used_are_said_together() {
    let root = tempfile::tempdir().unwrap();
    let taken = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
    let port = port_of(&taken);
    let file = root.path().join("file");
    fs::write(&file, "").unwrap();
    let used = root.path().join("used");
    let media = FileMedia::open(&used).unwrap();
    for (folder, why) in [
        (file.clone(), "file"),
        (file.join("below"), "below"),
        (used.clone(), "another process uses this folder"),
        ("/proc/none".into(), "/proc/none"),
    ] {
        let (code, said) = fails(&folder, port, &[("LOG_DIR", root.path().to_str().unwrap())]);
        assert_eq!(code, 1, "{said}");
        assert!(said.contains(&format!(":{port}: ")), "{said}");
        assert!(said.contains(folder.to_str().unwrap()), "{said}");
        assert!(said.contains(why), "{said}");
        assert_eq!(said.lines().count(), 2, "{said}");
    }
    drop(media);
}

#[test]
fn a_filter_for_logs_that_is_bad_is_one_of_the_bad_variables() {
    let data = tempfile::tempdir().unwrap();
    let (code, said) = fails(data.path(), 0, &[("RUST_LOG", "a=b=c"), ("DEBUG", "maybe")]);
    assert_eq!(code, 2, "{said}");
    for variable in ["RUST_LOG=", "DEBUG=", "PORT="] {
        let lines = said.lines().filter(|line| line.starts_with(variable));
        assert_eq!(lines.count(), 1, "{said}");
    }
    let (code, said) = fails(data.path(), 1, &[("RUST_LOG", "info,node=lots")]);
    assert_eq!((code, said.lines().count()), (2, 1), "{said}");
    assert!(!data.path().join("LOCK").exists(), "nothing was touched");
}
