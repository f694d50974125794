//! Draws a dashboard as Grafana would, roughly: the same panels with the same queries in the same places.

use std::fmt::Write as _;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::Value;
use testkit::prometheus::Prometheus;
use testkit::tools::root;

/// Pixels of one column and one row of Grafana's grid.
const COLUMN: f64 = 50.0;
const ROW: f64 = 30.0;
/// Points in time in a panel.
const POINTS: f64 = 150.0;
/// Names in a legend.
const NAMES: usize = 8;
const COLOURS: [&str; 8] = [
    "#73bf69", "#f2cc0c", "#5794f2", "#ff9830", "#f2495c", "#b877d9", "#8ab8ff", "#ffb357",
];

struct Series {
    name: String,
    points: Vec<(f64, f64)>,
}

/// The cluster's dashboard from one time to another, as SVG.
pub(crate) fn draw(prometheus: &Prometheus, from: SystemTime, to: SystemTime) -> String {
    let seconds = |time: SystemTime| {
        time.duration_since(UNIX_EPOCH)
            .map_or(0.0, |d| d.as_secs_f64())
    };
    let (from, to) = (seconds(from), seconds(to));
    let file = root().join("charts/paxos-operator/dashboards/cluster.json");
    let text = std::fs::read_to_string(file).expect("the chart has a dashboard");
    let dashboard: Value = serde_json::from_str(&text).expect("it is JSON");
    let panels = dashboard["panels"].as_array().expect("panels");
    let bottom = panels.iter().map(|panel| at(panel, "y") + at(panel, "h"));
    let height = bottom.fold(0.0, f64::max) * ROW;
    let width = 24.0 * COLUMN;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" \
         font-family=\"sans-serif\" font-size=\"11\" fill=\"#ccccdc\">\n\
         <rect width=\"{width}\" height=\"{height}\" fill=\"#111217\"/>\n"
    );
    for panel in panels {
        let (x, y) = (at(panel, "x") * COLUMN, at(panel, "y") * ROW);
        let (w, h) = (at(panel, "w") * COLUMN, at(panel, "h") * ROW);
        let title = escaped(panel["title"].as_str().unwrap_or_default());
        put(&mut svg, &format!("<g transform=\"translate({x} {y})\">"));
        if panel["type"] == "row" {
            put(
                &mut svg,
                &format!("<text x=\"8\" y=\"20\" font-size=\"14\">{title}</text></g>"),
            );
            continue;
        }
        put(
            &mut svg,
            &format!(
                "<rect x=\"3\" y=\"3\" width=\"{}\" height=\"{}\" rx=\"2\" fill=\"#181b1f\" \
                 stroke=\"#2c3235\"/><text x=\"10\" y=\"18\" font-weight=\"bold\">{title}</text>",
                w - 6.0,
                h - 6.0
            ),
        );
        let unit = panel["fieldConfig"]["defaults"]["unit"]
            .as_str()
            .unwrap_or("none");
        let series = series(prometheus, panel, from, to);
        match panel["type"] == "stat" {
            true => {
                let named = panel["options"]["textMode"] == "name";
                stat(&mut svg, &series, unit, named, w, h);
            }
            false => graph(&mut svg, &series, unit, (from, to), w, h),
        }
        put(&mut svg, "</g>");
    }
    svg.push_str("</svg>\n");
    svg
}

fn at(panel: &Value, key: &str) -> f64 {
    panel["gridPos"][key].as_f64().expect("a place")
}

/// Writing to a string cannot fail.
fn put(svg: &mut String, text: &str) {
    let _ = writeln!(svg, "{text}");
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}

fn series(prometheus: &Prometheus, panel: &Value, from: f64, to: f64) -> Vec<Series> {
    let step = ((to - from) / POINTS).max(1.0);
    let targets = panel["targets"].as_array().into_iter().flatten();
    let series = targets.flat_map(|target| {
        let expression = target["expr"].as_str().expect("a query");
        let expression = expression.replace("$__rate_interval", "10s");
        let expression = expression
            .replace("$namespace", ".*")
            .replace("$cluster", ".*");
        let range = [
            ("query", expression.as_str()),
            ("start", &from.to_string()),
            ("end", &to.to_string()),
            ("step", &step.to_string()),
        ];
        let answer = prometheus.get("query_range", &range);
        let found = answer["result"].as_array().cloned().unwrap_or_default();
        let legend = target["legendFormat"]
            .as_str()
            .unwrap_or_default()
            .to_owned();
        found.into_iter().map(move |series| Series {
            name: name(&legend, &series["metric"]),
            points: points(&series["values"]),
        })
    });
    series.collect()
}

fn name(legend: &str, labels: &Value) -> String {
    let labels = labels.as_object().into_iter().flatten();
    labels.fold(legend.to_owned(), |name, (label, value)| {
        name.replace(
            &format!("{{{{{label}}}}}"),
            value.as_str().unwrap_or_default(),
        )
    })
}

fn points(values: &Value) -> Vec<(f64, f64)> {
    let values = values.as_array().into_iter().flatten();
    let number = |value: &Value| match value {
        Value::String(text) => text.parse().ok(),
        other => other.as_f64(),
    };
    values
        .filter_map(|point| Some((number(&point[0])?, number(&point[1])?)))
        .filter(|(_, value): &(f64, f64)| value.is_finite())
        .collect()
}

fn stat(svg: &mut String, series: &[Series], unit: &str, named: bool, w: f64, h: f64) {
    // Now, so not what has ended.
    let newest = series.iter().filter_map(|s| s.points.last()).map(|p| p.0);
    let newest = newest.fold(0.0, f64::max);
    let now = series
        .iter()
        .filter(|s| s.points.last().is_some_and(|p| p.0 >= newest));
    let shown: Vec<(&str, f64)> = now
        .filter_map(|s| Some((s.name.as_str(), s.points.last()?.1)))
        .collect();
    for (i, (name, value)) in shown.iter().enumerate() {
        let y = h / 2.0 + 8.0 + 26.0 * i as f64;
        put(
            svg,
            &format!(
                "<text x=\"{}\" y=\"{y}\" text-anchor=\"middle\" font-size=\"20\" fill=\"#73bf69\">{} \
                 {}</text>",
                w / 2.0,
                escaped(name),
                if named {
                    String::new()
                } else {
                    amount(*value, unit)
                }
            ),
        );
    }
}

fn graph(svg: &mut String, series: &[Series], unit: &str, (from, to): (f64, f64), w: f64, h: f64) {
    let (left, right, top, bottom) = (60.0, w - 14.0, 28.0, h - 44.0);
    let values = || series.iter().flat_map(|s| s.points.iter().map(|p| p.1));
    let high = values().fold(0.0, f64::max);
    let high = if high > 0.0 { high * 1.05 } else { 1.0 };
    let low = values().fold(0.0, f64::min);
    let x = |time: f64| left + (time - from) / (to - from).max(1.0) * (right - left);
    let y = |value: f64| bottom - (value - low) / (high - low) * (bottom - top);
    for i in 0..=4 {
        let value = low + (high - low) * f64::from(i) / 4.0;
        put(
            svg,
            &format!(
                "<path d=\"M{left} {y:.1}H{right}\" stroke=\"#2c3235\"/><text x=\"{}\" y=\"{:.1}\" \
                 text-anchor=\"end\" font-size=\"9\">{}</text>",
                left - 4.0,
                y(value) + 3.0,
                amount(value, unit),
                y = y(value)
            ),
        );
        let time = from + (to - from) * f64::from(i) / 4.0;
        put(
            svg,
            &format!(
                "<text x=\"{:.1}\" y=\"{}\" text-anchor=\"middle\" font-size=\"9\">{:.0} s</text>",
                x(time),
                bottom + 12.0,
                time - from
            ),
        );
    }
    for (i, s) in series.iter().enumerate() {
        let mut path = String::new();
        let mut before = f64::NEG_INFINITY;
        for (time, value) in &s.points {
            // A gap where nothing was scraped.
            let pen = if time - before > 3.0 * (to - from) / POINTS + 2.0 {
                'M'
            } else {
                'L'
            };
            let _ = write!(path, "{pen}{:.1} {:.1}", x(*time), y(*value));
            before = *time;
        }
        let colour = COLOURS[i % COLOURS.len()];
        put(
            svg,
            &format!("<path d=\"{path}\" fill=\"none\" stroke=\"{colour}\"/>"),
        );
    }
    let mut place = 10.0;
    for (i, s) in series.iter().take(NAMES).enumerate() {
        let width = 16.0 + 5.2 * s.name.len() as f64;
        let line = f64::from(u8::from(place + width > w));
        if line > 0.0 {
            break;
        }
        put(
            svg,
            &format!(
                "<rect x=\"{place:.0}\" y=\"{:.0}\" width=\"8\" height=\"3\" fill=\"{}\"/><text \
                 x=\"{:.0}\" y=\"{:.0}\" font-size=\"9\">{}</text>",
                h - 17.0,
                COLOURS[i % COLOURS.len()],
                place + 11.0,
                h - 12.0,
                escaped(&s.name)
            ),
        );
        place += width;
    }
}

/// A value in its unit, short.
fn amount(value: f64, unit: &str) -> String {
    let scaled = |steps: &[(f64, &str)]| {
        let step = steps.iter().find(|(least, _)| value.abs() >= *least);
        let (by, name) = step.or(steps.last()).copied().unwrap_or((1.0, ""));
        let value = value / by;
        let decimals = match value.abs() {
            100.0.. => 0,
            10.0.. => 1,
            _ => 2,
        };
        let text = format!("{value:.decimals$}");
        let text = match decimals {
            0 => &text,
            _ => text.trim_end_matches('0').trim_end_matches('.'),
        };
        text.to_owned() + name
    };
    match unit {
        "s" => scaled(&[(1.0, " s"), (1e-3, " ms"), (1e-6, " µs")]),
        "bytes" => scaled(&[(1e9, " GB"), (1e6, " MB"), (1e3, " kB"), (1.0, " B")]),
        "Bps" => scaled(&[(1e6, " MB/s"), (1e3, " kB/s"), (1.0, " B/s")]),
        "percentunit" => format!("{:.0} %", value * 100.0),
        "reqps" | "cps" => scaled(&[(1e3, " k/s"), (1.0, " /s")]),
        _ => scaled(&[(1e6, " M"), (1e3, " k"), (1.0, "")]),
    }
}
