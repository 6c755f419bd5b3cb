//! What was found: a table, and the numbers for the figure.

use std::fmt::Write;
use std::fs;
use std::process::Command;

use crate::Bench;
use crate::measure::COUNTS;

/// Nanoseconds, sorted.
#[derive(Clone, Default)]
pub struct Times(Vec<f64>);

impl Times {
    pub fn new(mut times: Vec<f64>) -> Times {
        times.sort_by(f64::total_cmp);
        Times(times)
    }

    /// The value that a part of all does not exceed.
    pub fn quantile(&self, part: f64) -> f64 {
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "an index")]
        let rank = (part * self.0.len() as f64).ceil() as usize;
        self.0[rank.clamp(1, self.0.len()) - 1]
    }

    pub fn median(&self) -> f64 {
        self.quantile(0.5)
    }

    pub fn worst(&self) -> f64 {
        self.quantile(1.0)
    }
}

/// A time as one reads it.
pub fn time(nanoseconds: f64) -> String {
    let (value, unit) = match nanoseconds.abs() {
        n if n < 1e3 => return format!("{nanoseconds:.0} ns"),
        n if n < 1e6 => (nanoseconds / 1e3, "µs"),
        n if n < 1e9 => (nanoseconds / 1e6, "ms"),
        _ => (nanoseconds / 1e9, "s"),
    };
    let digits = usize::from(value.abs() < 99.95) + usize::from(value.abs() < 9.995);
    format!("{value:.digits$} {unit}")
}

/// A point in the figure.
pub struct Point {
    pub group: &'static str,
    pub label: String,
    pub ours: bool,
    pub median: f64,
    /// The 99th percentile, where there are enough rounds for one.
    pub p99: Option<f64>,
}

struct Row {
    what: String,
    ours: String,
    theirs: String,
    ratio: String,
    target: String,
    met: &'static str,
}

pub struct Report {
    pub machine: String,
    pub notes: Vec<String>,
    pub points: Vec<Point>,
    rows: Vec<Row>,
    /// The few rows for the README of the project: what, ours, the others.
    choices: Vec<[String; 3]>,
    /// How something grows with the number of locks, one cell for each of `measure::COUNTS`.
    curves: Vec<Vec<String>>,
}

impl Report {
    pub fn new(bench: &Bench) -> Report {
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let field = |key: &str| {
            let line = cpuinfo.lines().find(|line| line.starts_with(key))?;
            Some(line.split_once(':')?.1.trim().to_owned())
        };
        let cpu = field("model name").unwrap_or_else(|| "unknown processor".into());
        let cpus = cpuinfo.lines().filter(|line| line.starts_with("processor")).count();
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        let say = |program: &str, args: &[&str]| {
            let output = Command::new(program).args(args).output();
            output.map_or(String::new(), |out| String::from_utf8_lossy(&out.stdout).trim().into())
        };
        let date = say("date", &["-u", "+%F"]);
        let kind = say("stat", &["-f", "-c", "%T", bench.scratch.to_str().unwrap()]);
        let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
        let load = load.split(' ').next().unwrap_or_default();
        let quick = if bench.quick { ", quick run" } else { "" };
        let machine = format!(
            "{cpu}, {cpus} cores, Linux {}, {}; {date}; load at the start {load}{quick}",
            kernel.trim(),
            kind.replace("ext2/ext3", "ext4"),
        );
        Report {
            machine,
            notes: Vec::new(),
            points: Vec::new(),
            rows: Vec::new(),
            curves: Vec::new(),
            choices: Vec::new(),
        }
    }

    pub fn point(&mut self, group: &'static str, label: &str, ours: bool, times: &Times) {
        let p99 = (times.0.len() >= 100).then(|| times.quantile(0.99));
        self.points.push(Point { group, label: label.into(), ours, median: times.median(), p99 });
    }

    fn row(&mut self, what: &str, ours: String, theirs: String, ratio: String) -> &mut Row {
        let (target, met) = (String::new(), "");
        self.rows.push(Row { what: what.into(), ours, theirs, ratio, target, met });
        self.rows.last_mut().unwrap()
    }

    /// Ours alone.
    pub fn plain(&mut self, what: &str, ours: String) {
        self.row(what, ours, String::new(), String::new());
    }

    /// Ours alone, which is to be `ok`.
    pub fn alone(&mut self, what: &str, ours: String, target: &str, ok: bool) {
        self.row(what, ours, String::new(), String::new()).judge(target, ok);
    }

    /// Ours and theirs, without a target.
    pub fn pair(&mut self, what: &str, ours: f64, theirs: f64, name: &str) {
        self.row(what, time(ours), said(theirs, name), ratio(ours / theirs));
    }

    /// Ours is to be at most so many times theirs. The ratio is not always that of the two times:
    /// where both were measured in pairs it is the median over the pairs.
    pub fn at_most(&mut self, what: &str, ours: f64, theirs: f64, name: &str, by: f64, most: f64) {
        self.row(what, time(ours), said(theirs, name), ratio(by))
            .judge(&format!("≤ {most}"), by <= most);
    }

    /// Ours is to be later than theirs by at most so many nanoseconds.
    pub fn not_later(&mut self, what: &str, ours: f64, theirs: f64, name: &str, most: f64) {
        let difference = format!("+{}", time(ours - theirs));
        self.row(what, time(ours), said(theirs, name), difference)
            .judge(&format!("≤ +{}", time(most)), ours - theirs <= most);
    }

    /// Ours is to be so many times sooner.
    pub fn sooner(&mut self, what: &str, ours: f64, theirs: f64, name: &str, least: f64) {
        self.row(what, time(ours), said(theirs, name), ratio(ours / theirs))
            .judge(&format!("≤ 1/{least}"), theirs / ours >= least);
    }

    /// What is no single time, without a target.
    pub fn words(&mut self, what: &str, ours: String, theirs: &str) {
        self.row(what, ours, theirs.into(), String::new());
    }

    /// What is no single time, and is to be `ok`.
    pub fn words_judged(&mut self, what: &str, ours: String, theirs: &str, target: &str, ok: bool) {
        self.row(what, ours, theirs.into(), String::new()).judge(target, ok);
    }

    /// What one would choose by: beside each of the others that was measured.
    pub fn choice(&mut self, what: &str, ours: String, others: &[(&str, Option<String>)]) {
        let others =
            others.iter().filter_map(|(name, said)| Some(format!("{name} {}", said.as_ref()?)));
        let others = others.collect::<Vec<_>>().join(", ");
        self.choices.push([what.into(), ours, others]);
    }

    pub fn choices(&self) -> String {
        let mut text = String::from("| | session-lock | others |\n|---|---|---|\n");
        for [what, ours, others] in &self.choices {
            let _ = writeln!(text, "| {what} | {ours} | {others} |");
        }
        text
    }

    pub fn curve(&mut self, what: &str, mut cells: Vec<String>) {
        cells.insert(0, what.into());
        self.curves.push(cells);
    }

    pub fn text(&self) -> String {
        let mut text = String::new();
        let _ = writeln!(text, "Measured on: {}.\n", self.machine);
        let head = ["", "ours", "the other", "ratio", "target", "met"];
        let mut lines = vec![head.map(str::to_owned)];
        for row in &self.rows {
            let Row { what, ours, theirs, ratio, target, met } = row;
            let met = (*met).to_owned();
            lines.push([what, ours, theirs, ratio, target, &met].map(Clone::clone));
        }
        table(&mut text, &lines);
        if !self.curves.is_empty() {
            let head = COUNTS.iter().map(ToString::to_string);
            let head = std::iter::once("so many locks".to_owned()).chain(head).collect();
            let lines: Vec<Vec<String>> = [vec![head], self.curves.clone()].concat();
            let _ = writeln!(text);
            table(&mut text, &lines);
        }
        for note in &self.notes {
            let _ = writeln!(text, "\n{note}");
        }
        text
    }
}

/// In Markdown, the first line as its head.
fn table<L: AsRef<[String]>>(text: &mut String, lines: &[L]) {
    let columns = lines.first().map_or(0, |line| line.as_ref().len());
    let width = |column: usize| {
        lines.iter().map(|line| line.as_ref()[column].chars().count()).max().unwrap_or_default()
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    for (number, line) in lines.iter().enumerate() {
        let cells =
            line.as_ref().iter().zip(&widths).map(|(cell, &width)| format!("{cell:width$}"));
        let _ = writeln!(text, "| {} |", cells.collect::<Vec<_>>().join(" | "));
        if number == 0 {
            let rule: Vec<_> = widths.iter().map(|width| "-".repeat(width + 2)).collect();
            let _ = writeln!(text, "|{}|", rule.join("|"));
        }
    }
}

impl Row {
    fn judge(&mut self, target: &str, ok: bool) {
        target.clone_into(&mut self.target);
        self.met = if ok { "yes" } else { "**no**" };
    }
}

fn said(theirs: f64, name: &str) -> String {
    format!("{} ({name})", time(theirs))
}

fn ratio(ratio: f64) -> String {
    if ratio >= 0.1 { format!("{ratio:.2}") } else { format!("1/{:.0}", 1.0 / ratio) }
}
