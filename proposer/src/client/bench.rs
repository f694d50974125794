//! A closed loop of writes. Each connection waits for its answer before it sends the next request,
//! so a slow server is asked less often: the percentiles are what this many waiting callers saw, not
//! what an open stream of arrivals would see (Tene's "coordinated omission").

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use serde_json::json;
use serde_json::value::to_raw_value;
use tokio::task::JoinSet;

use super::Context;
use super::args::{Bench, Server};
use super::exit::{Failure, Verdict};
use super::http::Http;
use super::propose::{CLIENT, Name, body, propose, request_id};

/// Microseconds to two hours, three digits kept.
fn histogram() -> Result<Histogram<u64>, Failure> {
    let histogram = Histogram::new_with_bounds(1, 7_200_000_000, 3);
    histogram.map_err(|error| Failure::Refused(error.to_string()))
}

/// What one connection saw, or all.
struct Seen {
    /// Of committed writes, in microseconds, from the first try on.
    latency: Histogram<u64>,
    failures: BTreeMap<String, u64>,
}

pub(super) async fn bench(context: &Context, bench: &Bench) -> Result<Verdict, Failure> {
    let started = Instant::now();
    let mut connections = JoinSet::new();
    for number in 0..bench.connections {
        // Its own connections, as another process would have.
        let http = Http::new();
        let servers = context.options.servers.clone();
        let client_id = context.options.client_id.clone();
        let (client_id, bench) = (client_id.unwrap_or_else(|| CLIENT.to_owned()), *bench);
        let timeout = context.options.timeout;
        connections.spawn(async move {
            connection(&http, &servers, number, &client_id, &bench, timeout).await
        });
    }
    let mut all = Seen {
        latency: histogram()?,
        failures: BTreeMap::new(),
    };
    while let Some(seen) = connections.join_next().await {
        let seen = seen.map_err(|error| Failure::Unknown(error.to_string()))??;
        let added = all.latency.add(&seen.latency);
        added.map_err(|error| Failure::Unknown(error.to_string()))?;
        for (why, count) in seen.failures {
            *all.failures.entry(why).or_default() += count;
        }
    }
    report(context, bench, &all, started.elapsed())
}

async fn connection(
    http: &Http,
    servers: &[Server],
    number: u16,
    client_id: &str,
    bench: &Bench,
    timeout: Duration,
) -> Result<Seen, Failure> {
    let mut seen = Seen {
        latency: histogram()?,
        failures: BTreeMap::new(),
    };
    let text = "x".repeat(bench.size as usize);
    let data = to_raw_value(&text).map_err(|error| Failure::Refused(error.to_string()))?;
    let until = Instant::now() + bench.duration;
    let mut at = usize::from(number) % servers.len();
    let mut turn = u32::from(number);
    // Its own client, so that its requests can be numbered: that costs the servers least.
    let client_id = format!("{client_id}-{}", request_id());
    let mut sequence = 0;
    while Instant::now() < until {
        let resource = format!("bench-{}", turn % bench.resources);
        turn = turn.wrapping_add(u32::from(bench.connections));
        sequence += 1;
        let name = Name::Sequence(sequence);
        let data = Some(&*data);
        let request = body(&client_id, &name, "WRITE", &resource, data, (None, None));
        let sent = Instant::now();
        match propose(http, servers, &mut at, &request, sent + timeout).await {
            Ok(_) => {
                let micros = u64::try_from(sent.elapsed().as_micros()).unwrap_or(u64::MAX);
                seen.latency.saturating_record(micros);
            }
            // Nothing would become of the next one either.
            Err(failure @ Failure::Refused(_)) => return Err(failure),
            Err(failure) => *seen.failures.entry(failure.to_string()).or_default() += 1,
        }
    }
    Ok(seen)
}

fn report(
    context: &Context,
    bench: &Bench,
    seen: &Seen,
    took: Duration,
) -> Result<Verdict, Failure> {
    let latency = &seen.latency;
    let committed = latency.len();
    let failed: u64 = seen.failures.values().sum();
    let per_second = committed as f64 / took.as_secs_f64();
    let ms = |micros: u64| micros as f64 / 1000.0;
    let percentiles = [50.0, 90.0, 99.0, 99.9].map(|p| (p, ms(latency.value_at_percentile(p))));
    let [p50, p90, p99, p999] = percentiles.map(|(_, ms)| ms);
    let max = ms(latency.max());
    let mut text = format!(
        "closed loop, {} connections, {} bytes, {:.1} s: {committed} writes committed, {failed} failed\n\
         throughput  {per_second:.0} writes/s\n\
         latency     p50 {p50:.2} ms, p90 {p90:.2} ms, p99 {p99:.2} ms, p99.9 {p999:.2} ms, max {max:.2} ms",
        bench.connections,
        bench.size,
        took.as_secs_f64(),
    );
    for (why, count) in &seen.failures {
        text.push_str(&format!("\n{count} × {why}"));
    }
    let json = json!({
        "loop": "closed",
        "connections": bench.connections,
        "dataBytes": bench.size,
        "seconds": took.as_secs_f64(),
        "committed": committed,
        "failed": failed,
        "failures": seen.failures,
        "writesPerSecond": per_second,
        "latencyMs": {"p50": p50, "p90": p90, "p99": p99, "p99.9": p999, "max": max},
    });
    context.printer.print(&text, json)?;
    match committed {
        0 => Err(Failure::Unavailable("no write was committed".to_owned())),
        _ => Ok(Verdict::Yes),
    }
}
