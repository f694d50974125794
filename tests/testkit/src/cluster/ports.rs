//! Free ports on loopback.

use std::net::{Ipv4Addr, TcpListener};
use std::process;
use std::sync::atomic::{AtomicU32, Ordering};

/// Ports lie from here to below 32768, where the kernel's own choices for outgoing connections
/// begin: a port must stay free while its process is down.
const FIRST: u32 = 10_000;
const BLOCK: u32 = 32;
const BLOCKS: u32 = 700;

/// The first of `count` free ports in a row, at most 32; another block with each call.
pub fn block(count: u16) -> u16 {
    static CALLS: AtomicU32 = AtomicU32::new(0);
    assert!(u32::from(count) <= BLOCK, "at most {BLOCK} processes");
    for _ in 0..BLOCKS {
        let call = CALLS.fetch_add(1, Ordering::Relaxed);
        let block = process::id().wrapping_mul(37).wrapping_add(call) % BLOCKS;
        let first = (FIRST + BLOCK * block) as u16;
        let free = |port| TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).is_ok();
        if (first..first + count).all(free) {
            return first;
        }
    }
    panic!("no {count} free ports in a row");
}
