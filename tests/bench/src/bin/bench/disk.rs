//! The disk alone: how long fdatasync takes after 4 KiB are written over zeroes.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::thread;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

const BLOCK: usize = 4096;
const BLOCKS: u64 = 4096;

/// Of nanoseconds, up to ten seconds.
fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 10_000_000_000, 3).expect("bounds that can be")
}

/// The median in microseconds, with `writers` writers at once, each with its own file.
pub(crate) fn fdatasync_p50(writers: usize, lasting: Duration) -> f64 {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let write = |number: usize| {
        let file = File::create(folder.path().join(number.to_string())).expect("a file");
        file.write_all_at(&vec![0; BLOCK * BLOCKS as usize], 0)
            .expect("room on the disk");
        file.sync_all().expect("the disk works");
        let mut took = histogram();
        let until = Instant::now() + lasting;
        for turn in 0.. {
            let started = Instant::now();
            if started >= until {
                break;
            }
            file.write_all_at(&[1; BLOCK], turn % BLOCKS * BLOCK as u64)
                .expect("room on the disk");
            file.sync_data().expect("the disk works");
            let nanos = started.elapsed().as_nanos() as u64;
            took.saturating_record(nanos);
        }
        took
    };
    let write = &write;
    let mut all = histogram();
    thread::scope(|scope| {
        let writers: Vec<_> = (0..writers)
            .map(|number| scope.spawn(move || write(number)))
            .collect();
        for writer in writers {
            let took = writer.join().expect("the writer works");
            all.add(took).expect("the same bounds");
        }
    });
    all.value_at_quantile(0.5) as f64 / 1000.0
}
