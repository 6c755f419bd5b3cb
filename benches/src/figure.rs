//! The figure: for each group of points one scale, logarithmic, from left to right. No font but the
//! viewer's own, and colours for light and dark.

use std::fmt::Write;

use crate::measure::KILL as NOT_SHOWN;
use crate::report::{Point, Report, time};

/// To be read also at half the width of a page.
const WIDTH: f64 = 480.0;
/// Where the scale begins and ends; labels stand to the left of it, times to the right of a point.
const SCALE: (f64, f64) = (170.0, 410.0);
const LINE: f64 = 21.0;

/// Of what was measured, what one would choose from.
const SHOWN: [&str; 14] = [
    "session-lock, C functions",
    "session-lock, Python",
    "session-lock, Go",
    "session-lock, deadline",
    "session-lock run",
    "session-lock run, static",
    "fd-lock",
    "C: blocked flock",
    "Go gofrs/flock",
    "Go gofrs/flock, deadline",
    "Python filelock",
    "Python portalocker",
    "flock(1)",
    "s6-setlock",
];

const STYLE: &str = "
  text { font: 14px system-ui, -apple-system, 'Segoe UI', Helvetica, Arial, sans-serif; fill: #1f2328; }
  .title { font-size: 16px; font-weight: 600; }
  .group { font-weight: 600; }
  .small { font-size: 12px; fill: #59636e; }
  .ours { font-weight: 600; fill: #0969da; }
  .grid { stroke: #d1d9e0; stroke-width: 1; }
  .bar { fill: #afb8c1; }
  .bar.ours { fill: #0969da; }
  .tail { stroke: #818b98; stroke-width: 2; }
  .tail.ours { stroke: #54aeff; }
  @media (prefers-color-scheme: dark) {
    text { fill: #f0f6fc; }
    .small { fill: #9198a1; }
    .ours { fill: #4493f8; }
    .grid { stroke: #3d444d; }
    .bar { fill: #656c76; }
    .bar.ours { fill: #4493f8; }
    .tail { stroke: #9198a1; }
    .tail.ours { stroke: #1f6feb; }
  }
";

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

pub fn draw(report: &Report) -> String {
    let mut body = String::new();
    let mut top = 34.0;
    text(&mut body, "title", 16.0, top, "start", "session-lock beside its alternatives");
    top += 20.0;
    for line in [
        "Median, to the 99th percentile (thin line). Shorter is faster;",
        "each step of the grid is ten times the one before.",
    ] {
        text(&mut body, "small", 16.0, top, "start", line);
        top += 16.0;
    }
    for part in report.machine.split("; ") {
        text(&mut body, "small", 16.0, top, "start", part);
        top += 16.0;
    }
    top -= 16.0;
    let shown = |point: &&Point| point.group != NOT_SHOWN && SHOWN.contains(&point.label.as_str());
    let points: Vec<&Point> = report.points.iter().filter(shown).collect();
    let mut points = &points[..];
    while let Some(first) = points.first() {
        let count = points.iter().take_while(|point| point.group == first.group).count();
        let mut group = points[..count].to_vec();
        group.sort_by(|a, b| a.median.total_cmp(&b.median));
        points = &points[count..];
        top += 38.0;
        text(&mut body, "group", 16.0, top, "start", first.group);
        top += 10.0;

        // Not a bar too short to be seen.
        let least = (group[0].median.log10() - 0.25).floor();
        let most = group.iter().map(|point| point.p99.unwrap_or(0.0).max(point.median));
        let most = most.fold(0.0, f64::max).log10().ceil();
        let x = |ns: f64| SCALE.0 + (ns.log10() - least) / (most - least) * (SCALE.1 - SCALE.0);
        let bottom = top + count as f64 * LINE + 4.0;
        let mut decade = least;
        while decade <= most {
            let at = x(10f64.powf(decade));
            let _ = writeln!(
                body,
                r#"<line class="grid" x1="{at:.1}" y1="{top:.1}" x2="{at:.1}" y2="{bottom:.1}"/>"#
            );
            let label = time(10f64.powf(decade)).replace(".00", "").replace(".0", "");
            text(&mut body, "small", at, bottom + 13.0, "middle", &label);
            decade += 1.0;
        }
        for (row, point) in group.iter().enumerate() {
            let middle = top + (row as f64 + 0.5) * LINE + 2.0;
            let class = if point.ours { " ours" } else { "" };
            text(&mut body, class.trim(), SCALE.0 - 10.0, middle + 4.5, "end", &point.label);
            let mut end = x(point.median);
            let (left, width, y) = (SCALE.0, (end - SCALE.0).max(2.0), middle - 6.0);
            let _ = writeln!(
                body,
                r#"<rect class="bar{class}" x="{left}" y="{y:.1}" width="{width:.1}" height="12" rx="2"/>"#
            );
            if let Some(p99) = point.p99 {
                let (from, to) = (end, x(p99));
                let _ = writeln!(
                    body,
                    r#"<line class="tail{class}" x1="{from:.1}" y1="{middle:.1}" x2="{to:.1}" y2="{middle:.1}"/>"#
                );
                end = to;
            }
            text(&mut body, class.trim(), end + 7.0, middle + 4.5, "start", &time(point.median));
        }
        top = bottom + 14.0;
    }
    let height = top + 14.0;
    format!(
        r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:.0}" width="{WIDTH}" height="{height:.0}" role="img" aria-label="session-lock beside what one would take instead">
<style>{STYLE}</style>
{body}</svg>
"#
    )
}

fn text(body: &mut String, class: &str, x: f64, y: f64, anchor: &str, text: &str) {
    let class = if class.is_empty() { String::new() } else { format!(r#" class="{class}""#) };
    let text = escape(text);
    let _ = writeln!(
        body,
        r#"<text{class} x="{x:.1}" y="{y:.1}" text-anchor="{anchor}">{text}</text>"#
    );
}
