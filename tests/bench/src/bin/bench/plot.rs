//! Lines in an SVG: a point for each value of x, x evenly spaced in the order given.

use std::fmt::Write as _;

const WIDTH: f64 = 640.0;
const HEIGHT: f64 = 300.0;
const LEFT: f64 = 70.0;
const RIGHT: f64 = 20.0;
const TOP: f64 = 40.0;
const BOTTOM: f64 = 45.0;
const COLOURS: [&str; 5] = ["#3274d9", "#e0752d", "#37872d", "#8f3bb8", "#c4162a"];

/// What is drawn.
pub(crate) struct Plot<'a> {
    pub(crate) title: &'a str,
    pub(crate) x: &'a str,
    pub(crate) ticks: Vec<String>,
    /// Name and a value for each tick.
    pub(crate) lines: Vec<(String, Vec<f64>)>,
}

impl Plot<'_> {
    pub(crate) fn svg(&self) -> String {
        let most = self.lines.iter().flat_map(|(_, values)| values).copied();
        let top = nice(most.fold(0.0, f64::max));
        let (inner_width, inner_height) = (WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM);
        let step = inner_width / (self.ticks.len().max(2) - 1) as f64;
        let x = |i: usize| LEFT + step * i as f64;
        let y = |value: f64| TOP + inner_height * (1.0 - value / top);
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" \
             font-family=\"sans-serif\" font-size=\"11\" fill=\"#333\">\n\
             <rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"white\"/>\n\
             <text x=\"{LEFT}\" y=\"18\" font-size=\"13\">{}</text>\n",
            self.title
        );
        // Writing to a string cannot fail.
        let mut put = |text: String| {
            let _ = writeln!(svg, "{text}");
        };
        for part in 0..=4 {
            let value = top * f64::from(part) / 4.0;
            let at = y(value);
            put(format!(
                "<path d=\"M{LEFT} {at:.1}H{}\" stroke=\"#ddd\"/><text x=\"{}\" y=\"{:.1}\" \
                 text-anchor=\"end\">{}</text>",
                WIDTH - RIGHT,
                LEFT - 6.0,
                at + 4.0,
                readable(value)
            ));
        }
        for (i, tick) in self.ticks.iter().enumerate() {
            put(format!(
                "<text x=\"{:.1}\" y=\"{}\" text-anchor=\"middle\">{tick}</text>",
                x(i),
                HEIGHT - BOTTOM + 16.0
            ));
        }
        put(format!(
            "<text x=\"{}\" y=\"{}\" text-anchor=\"middle\">{}</text>",
            LEFT + inner_width / 2.0,
            HEIGHT - 8.0,
            self.x
        ));
        let mut legend = LEFT;
        for (number, (name, values)) in self.lines.iter().enumerate() {
            let colour = COLOURS[number % COLOURS.len()];
            let points = values.iter().enumerate();
            let points = points.map(|(i, value)| format!("{:.1},{:.1}", x(i), y(*value)));
            let points: Vec<String> = points.collect();
            put(format!(
                "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>",
                points.join(" ")
            ));
            put(format!(
                "<text x=\"{legend:.0}\" y=\"33\" fill=\"{colour}\">{name}</text>"
            ));
            legend += 20.0 + 6.5 * name.len() as f64;
        }
        svg.push_str("</svg>\n");
        svg
    }
}

/// The next of 1, 2, 4, 5, 8 or 10 times a power of ten.
fn nice(value: f64) -> f64 {
    if value <= 0.0 {
        return 1.0;
    }
    let power = 10_f64.powf(value.log10().floor());
    let steps = [1.0, 2.0, 4.0, 5.0, 8.0, 10.0].map(|step| step * power);
    let enough = steps.into_iter().find(|step| *step >= value);
    enough.unwrap_or(10.0 * power)
}

fn readable(value: f64) -> String {
    match value {
        v if v >= 1e6 => format!("{}M", v / 1e6),
        v if v >= 1e3 => format!("{}k", v / 1e3),
        v => format!("{v}"),
    }
}
