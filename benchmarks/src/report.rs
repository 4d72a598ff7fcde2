//! What a benchmark found: every round's value, medians, spread, and ratios to the limit of the same run. As a table
//! for people, as JSON for everything else.

use std::fmt::Write;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::machine::{Commit, Machine};

/// Everything that one benchmark measured in one run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Report {
    pub(crate) benchmark: String,
    /// RFC 3339, when it began.
    pub(crate) started: String,
    /// The command line as it was given.
    pub(crate) command: String,
    /// Small inputs and few repetitions: it shows that the benchmark works, and no figure.
    pub(crate) quick: bool,
    pub(crate) machine: Machine,
    pub(crate) commit: Commit,
    /// Measured just before.
    pub(crate) limit: Limit,
    #[serde(flatten)]
    pub(crate) findings: Findings,
}

/// Signatures that this machine checks in a second: what no ledger of signed payments passes.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(crate) struct Limit {
    /// Signatures in one batch.
    pub(crate) batch: usize,
    pub(crate) cores: usize,
    /// On one core while the others rest.
    pub(crate) one_core_per_s: f64,
    /// On all of them together.
    pub(crate) all_cores_per_s: f64,
}

/// What a rate or a cost is compared with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Yardstick {
    /// One core that does nothing but check signatures.
    OneCore,
    /// All cores doing nothing else.
    AllCores,
    /// All cores doing nothing else for so many nodes that each check everything.
    Nodes(u16),
}

/// What a value counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Unit {
    #[serde(rename = "payments/s")]
    PaymentsPerS,
    #[serde(rename = "payments/CPU-s")]
    PaymentsPerCpuS,
    #[serde(rename = "signatures/s")]
    SignaturesPerS,
    #[serde(rename = "µs/payment")]
    MicrosPerPayment,
    #[serde(rename = "µs CPU/payment")]
    CpuMicrosPerPayment,
    #[serde(rename = "µs/account")]
    MicrosPerAccount,
    #[serde(rename = "ms")]
    Milliseconds,
    #[serde(rename = "s")]
    Seconds,
    #[serde(rename = "CPU-s")]
    CpuSeconds,
    #[serde(rename = "bytes")]
    Bytes,
    #[serde(rename = "bytes/payment")]
    BytesPerPayment,
    #[serde(rename = "count")]
    Count,
    #[serde(rename = "ratio")]
    Ratio,
}

/// One thing that was measured in every round.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Measurement {
    pub(crate) name: String,
    pub(crate) unit: Unit,
    /// In the order of the rounds.
    pub(crate) rounds: Vec<f64>,
    pub(crate) median: f64,
    /// The distance of greatest and least value, in parts of the median; 0 for one round.
    pub(crate) spread: f64,
    /// The median over the limit of the same run: of a rate the share that is reached, of a cost how many signature
    /// checks it is worth.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) limit: Option<LimitRatio>,
}

/// A comparison with the limit.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(crate) struct LimitRatio {
    pub(crate) of: Yardstick,
    pub(crate) ratio: f64,
}

/// Medians of two measurements of this run, one over the other.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Ratio {
    pub(crate) name: String,
    pub(crate) over: String,
    pub(crate) under: String,
    pub(crate) ratio: f64,
}

/// What a benchmark hands back.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub(crate) struct Findings {
    pub(crate) measurements: Vec<Measurement>,
    pub(crate) ratios: Vec<Ratio>,
    /// What a reader should know about the figures.
    pub(crate) notes: Vec<String>,
    /// What went wrong though figures were taken.
    pub(crate) failures: Vec<String>,
    /// Why nothing (or not all) was measured, and what would change that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) not_measured: Option<String>,
    /// Sizes and settings that the figures belong to.
    pub(crate) settings: Value,
    /// Files beside the JSON, as names and contents; not in it.
    #[serde(skip)]
    pub(crate) pages: Vec<Page>,
}

/// A file that goes beside the JSON.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Page {
    /// `html` or the like.
    pub(crate) ending: &'static str,
    pub(crate) content: String,
}

impl Unit {
    /// As in the JSON.
    pub(crate) const fn text(self) -> &'static str {
        match self {
            Self::PaymentsPerS => "payments/s",
            Self::PaymentsPerCpuS => "payments/CPU-s",
            Self::SignaturesPerS => "signatures/s",
            Self::MicrosPerPayment => "µs/payment",
            Self::CpuMicrosPerPayment => "µs CPU/payment",
            Self::MicrosPerAccount => "µs/account",
            Self::Milliseconds => "ms",
            Self::Seconds => "s",
            Self::CpuSeconds => "CPU-s",
            Self::Bytes => "bytes",
            Self::BytesPerPayment => "bytes/payment",
            Self::Count => "count",
            Self::Ratio => "ratio",
        }
    }
}

impl Limit {
    /// The rate that this yardstick stands for, in signatures or payments a second.
    pub(crate) fn per_s(&self, yardstick: Yardstick) -> f64 {
        match yardstick {
            Yardstick::OneCore => self.one_core_per_s,
            Yardstick::AllCores => self.all_cores_per_s,
            Yardstick::Nodes(nodes) => self.all_cores_per_s / f64::from(nodes.max(1)),
        }
    }

    /// A value of this unit over the yardstick; `None` for units that have nothing to do with it.
    fn ratio(&self, unit: Unit, value: f64, of: Yardstick) -> Option<f64> {
        match unit {
            Unit::PaymentsPerS | Unit::PaymentsPerCpuS | Unit::SignaturesPerS => Some(value / self.per_s(of)),
            Unit::MicrosPerPayment | Unit::CpuMicrosPerPayment => Some(value * self.per_s(of) / 1e6),
            _ => None,
        }
    }
}

/// The middle value, or the mean of the two in the middle; `None` of nothing.
pub(crate) fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => None,
        even if even.is_multiple_of(2) => Some(f64::midpoint(sorted[middle - 1], sorted[middle])),
        _ => Some(sorted[middle]),
    }
}

impl Findings {
    /// Findings that belong to these sizes and settings.
    pub(crate) fn of(settings: Value) -> Self {
        Self { settings, ..Self::default() }
    }

    /// Nothing but a reason.
    pub(crate) fn none(why: String) -> Self {
        Self { not_measured: Some(why), settings: Value::Null, ..Self::default() }
    }

    /// Adds one round's value to the measurement of this name.
    ///
    /// # Panics
    /// If the name was used with another unit.
    pub(crate) fn add(&mut self, name: impl Into<String>, unit: Unit, value: f64) {
        let name = name.into();
        let place = self.measurements.iter().position(|found| found.name == name).unwrap_or_else(|| {
            let (rounds, limit) = (Vec::new(), None);
            self.measurements.push(Measurement { name, unit, rounds, median: 0.0, spread: 0.0, limit });
            self.measurements.len() - 1
        });
        let found = &mut self.measurements[place];
        assert_eq!(found.unit, unit, "{} has one unit", found.name);
        found.rounds.push(value);
        found.median = median(&found.rounds).expect("there is a value");
        let (least, most) = (found.rounds.iter())
            .fold((f64::MAX, f64::MIN), |(least, most), value| (least.min(*value), most.max(*value)));
        found.spread = if found.median > 0.0 { (most - least) / found.median } else { 0.0 };
    }

    /// The median of a measurement, if it was taken.
    pub(crate) fn median(&self, name: &str) -> Option<f64> {
        self.measurements.iter().find(|found| found.name == name).map(|found| found.median)
    }

    /// Compares a measurement with the limit. Nothing happens if it was not taken, or its unit is no rate or cost.
    pub(crate) fn against(&mut self, name: &str, limit: &Limit, of: Yardstick) {
        if let Some(found) = self.measurements.iter_mut().find(|found| found.name == name) {
            found.limit = limit.ratio(found.unit, found.median, of).map(|ratio| LimitRatio { of, ratio });
        }
    }

    /// Notes a ratio of two medians; nothing happens unless both were taken.
    pub(crate) fn compare(&mut self, name: impl Into<String>, over: &str, under: &str) {
        if let (Some(top), Some(bottom)) = (self.median(over), self.median(under).filter(|found| *found > 0.0)) {
            let ratio = top / bottom;
            self.ratios.push(Ratio { name: name.into(), over: over.into(), under: under.into(), ratio });
        }
    }
}

impl Report {
    /// The table for people.
    pub(crate) fn table(&self) -> String {
        let mut text = String::new();
        let quick = if self.quick { " (quick: no figure counts)" } else { "" };
        put(&mut text, format_args!("{}{quick}\n", self.benchmark));
        let Limit { batch, cores, one_core_per_s, all_cores_per_s } = self.limit;
        put(
            &mut text,
            format_args!(
                "  limit: {} checks/s on one core, {} on {cores} (batches of {batch}, {})\n",
                figure(one_core_per_s),
                figure(all_cores_per_s),
                self.machine.backend
            ),
        );
        let width = self.findings.measurements.iter().map(|found| found.name.chars().count()).max().unwrap_or(0);
        for found in &self.findings.measurements {
            let limit = found.limit.map_or(String::new(), |limit| limit.text(found.unit));
            put(
                &mut text,
                format_args!(
                    "  {:width$}  {:>12} {:14} ± {:>3.0} %  {limit}\n",
                    found.name,
                    figure(found.median),
                    found.unit.text(),
                    found.spread * 50.0
                ),
            );
        }
        for ratio in &self.findings.ratios {
            put(&mut text, format_args!("  {}: {:.3}\n", ratio.name, ratio.ratio));
        }
        for note in &self.findings.notes {
            put(&mut text, format_args!("  note: {note}\n"));
        }
        for failure in &self.findings.failures {
            put(&mut text, format_args!("  FAILED: {failure}\n"));
        }
        if let Some(why) = &self.findings.not_measured {
            put(&mut text, format_args!("  not measured: {why}\n"));
        }
        text
    }
}

impl LimitRatio {
    fn text(&self, unit: Unit) -> String {
        let of = match self.of {
            Yardstick::OneCore => "one core's checks".into(),
            Yardstick::AllCores => "all cores' checks".into(),
            Yardstick::Nodes(nodes) => format!("the limit for {nodes} nodes"),
        };
        match unit {
            Unit::MicrosPerPayment | Unit::CpuMicrosPerPayment => format!("{:.2} signature checks", self.ratio),
            _ => format!("{:.3} of {of}", self.ratio),
        }
    }
}

/// A number as people read it: commas between thousands, and as many decimals as it is small.
pub(crate) fn figure(value: f64) -> String {
    match value.abs() {
        small if small < 1.0 => format!("{value:.3}"),
        some if some < 100.0 => format!("{value:.2}"),
        _ => {
            let digits = format!("{:.0}", value.abs());
            let sign = if value < 0.0 { "-" } else { "" };
            let groups: Vec<&str> = digits
                .as_bytes()
                .rchunks(3)
                .rev()
                .map(|group| str::from_utf8(group).expect("digits are ASCII"))
                .collect();
            format!("{sign}{}", groups.join(","))
        }
    }
}

fn put(text: &mut String, arguments: std::fmt::Arguments<'_>) {
    text.write_fmt(arguments).expect("writing to a text never fails");
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const LIMIT: Limit = Limit { batch: 512, cores: 2, one_core_per_s: 100_000.0, all_cores_per_s: 180_000.0 };

    fn near(found: f64, expected: f64) {
        assert!((found - expected).abs() < 1e-9 * expected.abs().max(1.0), "{found} is not {expected}");
    }

    fn findings() -> Findings {
        let mut findings = Findings::of(json!({ "payments": 7 }));
        for (rate, cost) in [(45_000.0, 10.0), (90_000.0, 20.0), (54_000.0, 12.0)] {
            findings.add("rate", Unit::PaymentsPerS, rate);
            findings.add("cost", Unit::CpuMicrosPerPayment, cost);
        }
        findings.against("rate", &LIMIT, Yardstick::AllCores);
        findings.against("cost", &LIMIT, Yardstick::OneCore);
        findings.compare("rate over cost", "rate", "cost");
        findings
    }

    fn report() -> Report {
        Report {
            benchmark: "sample".into(),
            started: "2016-12-15T09:00:00Z".into(),
            command: "bench sample".into(),
            quick: false,
            machine: Machine::of_this(),
            commit: Commit { id: "0123".into(), dirty: true },
            limit: LIMIT,
            findings: findings(),
        }
    }

    #[test]
    fn the_median_is_the_middle_or_between_the_middle_two() {
        assert_eq!(median(&[]), None);
        near(median(&[3.0]).unwrap(), 3.0);
        near(median(&[9.0, 1.0, 5.0]).unwrap(), 5.0);
        near(median(&[4.0, 1.0, 2.0, 9.0]).unwrap(), 3.0);
    }

    #[test]
    fn medians_spreads_and_ratios_follow_from_the_rounds() {
        let findings = findings();
        let [rate, cost] = &findings.measurements[..] else { panic!("two measurements") };
        near(rate.median, 54_000.0);
        near(rate.spread, 45_000.0 / 54_000.0);
        near(rate.limit.unwrap().ratio, 0.3);
        // A check takes 10 µs of one core, so 12 µs are worth 1.2 of them.
        near(cost.limit.unwrap().ratio, 1.2);
        near(findings.ratios[0].ratio, 54_000.0 / 12.0);
        near(LIMIT.per_s(Yardstick::Nodes(3)), 60_000.0);
    }

    #[test]
    fn what_was_not_taken_is_not_compared() {
        let mut findings = findings();
        findings.compare("nonsense", "rate", "nobody");
        findings.against("nobody", &LIMIT, Yardstick::OneCore);
        findings.add("length", Unit::Bytes, 5.0);
        findings.against("length", &LIMIT, Yardstick::OneCore);
        assert_eq!(findings.ratios.len(), 1);
        assert_eq!(findings.measurements[2].limit, None);
    }

    #[test]
    fn json_keeps_everything_and_has_its_shape() {
        let report = report();
        let text = serde_json::to_string(&report).unwrap();
        assert_eq!(serde_json::from_str::<Report>(&text).unwrap(), report);
        let value: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(value["measurements"][0]["unit"], "payments/s");
        assert_eq!(value["measurements"][0]["rounds"], json!([45_000.0, 90_000.0, 54_000.0]));
        assert_eq!(value["measurements"][1]["limit"]["of"], "one_core");
        assert_eq!(value["commit"], json!({ "id": "0123", "dirty": true }));
        for field in ["benchmark", "started", "command", "machine", "limit", "ratios", "notes", "failures", "settings"]
        {
            assert!(!value[field].is_null(), "{field} is missing");
        }
    }

    #[test]
    fn every_units_text_is_what_the_json_says() {
        let units = [
            Unit::PaymentsPerS,
            Unit::PaymentsPerCpuS,
            Unit::SignaturesPerS,
            Unit::MicrosPerPayment,
            Unit::CpuMicrosPerPayment,
            Unit::MicrosPerAccount,
            Unit::Milliseconds,
            Unit::Seconds,
            Unit::CpuSeconds,
            Unit::Bytes,
            Unit::BytesPerPayment,
            Unit::Count,
            Unit::Ratio,
        ];
        for unit in units {
            assert_eq!(serde_json::to_value(unit).unwrap(), unit.text());
        }
    }

    #[test]
    fn the_table_names_every_figure_and_whatever_went_wrong() {
        let mut report = report();
        report.findings.failures.push("it rained".into());
        report.findings.not_measured = Some("the rest".into());
        let table = report.table();
        for part in ["54,000", "0.300 of all cores' checks", "1.20 signature checks", "FAILED: it rained", "the rest"] {
            assert!(table.contains(part), "{part} is missing in\n{table}");
        }
    }

    #[test]
    fn numbers_are_grouped_and_small_ones_keep_decimals() {
        let figures = [1_234_567.0, -12_345.0, 100.0, 99.5, 0.25].map(figure);
        assert_eq!(figures, ["1,234,567", "-12,345", "100", "99.50", "0.250"]);
    }
}
