//! How the cost of a payment grows: storms that differ in one thing at a time.

use serde_json::json;

use crate::context::{Context, say};
use crate::error::BenchError;
use crate::network::{add_storm, required, settings};
use crate::payments::Receivers;
use crate::picture::{Chart, Series, escape, page};
use crate::report::{Findings, Page};
use crate::storm::{self, Rate, Storm};

/// One thing that is varied.
struct Variation {
    name: &'static str,
    /// What differs, and what stays.
    what: String,
    storms: Vec<(String, Storm)>,
    /// The last storm's cost of a node over the first's, at most, as the project wants it: more fails.
    most: Option<f64>,
}

/// Between two checkpoints: a storm of a minute has three of them, so that what grows with the accounts there counts, too. By
/// themselves processes take one in five minutes, or a node after 4 million accounts, which no such storm reaches.
const CHECKPOINT_S: u64 = 20;
const CHECKPOINT_QUICK_S: u64 = 2;

/// Every variation's storms in every round, and a page of pictures.
pub(crate) fn run(context: &Context) -> Result<Findings, BenchError> {
    let all = variations(context);
    let known: Vec<&str> = all.iter().map(|variation| variation.name).collect();
    if let Some(unknown) = context.only.iter().find(|name| !known.contains(&name.as_str())) {
        return Err(BenchError::Wrong(format!("there is no variation {unknown}; known are {}", known.join(", "))));
    }
    let chosen: Vec<&Variation> = (all.iter())
        .filter(|variation| context.only.is_empty() || context.only.iter().any(|name| name == variation.name))
        .collect();
    let mut findings = Findings::default();
    for round in context.rounds("growth") {
        for variation in &chosen {
            // Back and forth: a machine that drifts strikes first and last alike.
            let mut storms: Vec<&(String, Storm)> = variation.storms.iter().collect();
            if round % 2 == 1 {
                storms.reverse();
            }
            for (label, storm) in storms {
                say(&format!("growth: {} {label}", variation.name));
                add_storm(&mut findings, &prefix(variation, label), &storm::run(context, storm)?)?;
            }
        }
    }
    let mut body = String::new();
    for variation in &chosen {
        compare(&mut findings, variation, !context.quick)?;
        body.push_str(&section(&findings, variation));
    }
    let scenarios = chosen.iter().flat_map(|variation| {
        variation
            .storms
            .iter()
            .map(|(label, storm)| json!({ "of": prefix(variation, label), "storm": settings(storm) }))
    });
    findings.settings = json!(scenarios.collect::<Vec<_>>());
    findings.pages.push(Page { ending: "html", content: page("Growth", &format!("{}{body}", intro(context))) });
    Ok(findings)
}

/// What a reader should know about the page.
fn intro(context: &Context) -> String {
    format!(
        "<p class=\"quiet\">Medians of the rounds; every value is in the JSON beside this page. CPU counts from the \
         first intended send until the last payment was final, and in it are the checkpoints that every process takes \
         each {} s; all processes share one machine.</p>\n",
        checkpoint_s(context)
    )
}

fn checkpoint_s(context: &Context) -> u64 {
    context.choose(CHECKPOINT_QUICK_S, CHECKPOINT_S)
}

fn prefix(variation: &Variation, label: &str) -> String {
    format!("{} {label}: ", variation.name)
}

fn variations(context: &Context) -> Vec<Variation> {
    // A minute each. Batches fill with the rate, so it is the same within a variation.
    let (rate, payers, times) = context.choose((1_000, 2_500, 2), (10_000, 100_000, 6));
    let base = Storm {
        payers,
        payments_per_account: times,
        rate: Rate::PerSecond(rate),
        checkpoint_s: Some(checkpoint_s(context)),
        ..Storm::new("bench-growth", payers)
    };
    let payments = base.payments();
    let named = |name: String, storm: Storm| Storm { name: format!("bench-growth-{name}"), ..storm };
    let sizes = context.accounts_or(&[5_000, 20_000], &[100_000, 1_000_000, 10_800_000]);
    let accounts = sizes.into_iter().map(|accounts| {
        let storm = Storm { accounts, payers: payers.min(accounts), ..base.clone() };
        (short(accounts), named(format!("accounts-{accounts}"), storm))
    });
    // Seven nodes on two cores bear half of it.
    let half = Storm { payments_per_account: times / 2, rate: Rate::PerSecond(rate / 2), ..base.clone() };
    let nodes = [3, 4, 7].map(|nodes| {
        let storm = Storm { nodes, ..half.clone() };
        (nodes.to_string(), named(format!("nodes-{nodes}"), storm))
    });
    let many = Storm { accounts: payments, ..base.clone() };
    let each = |times: u64| Storm { payers: payments / times, payments_per_account: times, ..many.clone() };
    // A window takes 128 of a payer's payments until some are final, so this is as fast as one payer can be.
    let one = Storm {
        payers: 1,
        payments_per_account: context.choose(300, 6_000),
        block_interval_ms: 1_000,
        rate: Rate::Full { in_flight: 16 },
        ..many.clone()
    };
    let payers = [("1".into(), each(1)), ("100".into(), each(100)), ("all".into(), one)];
    let payers =
        payers.map(|(label, storm): (String, Storm)| (label.clone(), named(format!("of-each-{label}"), storm)));
    let receivers = Receivers::BOTH.map(|receivers| {
        let label = receivers.text().replace(' ', "-");
        (receivers.text().to_owned(), named(label, Storm { receivers, ..base.clone() }))
    });
    let intervals = [15_000, 3_000, 1_000].map(|block_interval_ms| {
        let seconds = block_interval_ms / 1_000;
        (format!("{seconds} s"), named(format!("blocks-{seconds}s"), Storm { block_interval_ms, ..base.clone() }))
    });
    vec![
        Variation {
            name: "accounts",
            what: format!("The same {payments} payments at {rate}/s by as many payers, among more accounts."),
            storms: accounts.collect(),
            most: Some(1.25),
        },
        Variation {
            name: "nodes",
            what: format!(
                "More nodes on the same cores, at {}/s; the nodes' CPU is divided by their number.",
                rate / 2
            ),
            storms: nodes.into(),
            most: Some(1.1),
        },
        Variation {
            name: "payments-of-each",
            what: format!(
                "1 payment of each payer, 100, and all of one: the first two {payments} at {rate}/s, the last as many \
                 as its window of 128 lets through 1 s blocks, so its cost is mostly that of standing by."
            ),
            storms: payers.into(),
            most: None,
        },
        Variation {
            name: "receivers",
            what: "All payments to one account, and each payer to another one.".into(),
            storms: receivers.into(),
            most: None,
        },
        Variation {
            name: "block-interval",
            what: "Blocks of 15, 3 and 1 s.".into(),
            storms: intervals.into(),
            most: None,
        },
    ]
}

/// `10.8M`.
fn short(count: u64) -> String {
    match count {
        millions if millions >= 1_000_000 => format!("{}M", millions as f64 / 1e6),
        thousands if thousands >= 1_000 => format!("{}k", thousands as f64 / 1e3),
        few => few.to_string(),
    }
}

/// The last storm's cost of a node over the first's; `judged`, it fails if that is more than is wanted, or unknown.
fn compare(findings: &mut Findings, variation: &Variation, judged: bool) -> Result<(), BenchError> {
    let ends = variation.storms.first().zip(variation.storms.last());
    let ((first, _), (last, _)) = required(ends, "a variation has storms")?;
    let cost = |label: &str| format!("{}a node", prefix(variation, label));
    let most = variation.most.map_or(String::new(), |most| format!(" (at most {most} is wanted)"));
    let name = format!("{}: CPU of a node at {last} over {first}{most}", variation.name);
    let before = findings.ratios.len();
    findings.compare(name, &cost(last), &cost(first));
    let ratio = findings.ratios.get(before).map(|found| found.ratio);
    if let (true, Some(most)) = (judged, variation.most)
        && ratio.is_none_or(|ratio| ratio > most)
    {
        let found = ratio.map_or("unknown".into(), |ratio| format!("{ratio:.3}"));
        let what = variation.name;
        findings
            .failures
            .push(format!("{what}: the ratio of {last} over {first} is {found}, at most {most} is wanted"));
    }
    Ok(())
}

fn section(findings: &Findings, variation: &Variation) -> String {
    let labels: Vec<String> = variation.storms.iter().map(|(label, _)| label.clone()).collect();
    let series = |name: &str, measured: &str| Series {
        name: name.into(),
        values: labels
            .iter()
            .map(|label| findings.median(&format!("{}{measured}", prefix(variation, label))))
            .collect(),
    };
    let chart = |title: &str, series: Vec<Series>| Chart { title: title.into(), labels: labels.clone(), series };
    let cpu = chart(
        "CPU per payment, µs",
        vec![
            series("a node", "a node"),
            series("API server", "API server"),
            series("load generator", "load generator"),
        ],
    );
    let latency = chart("submitted to final, ms", vec![series("p50", "final p50"), series("p99", "final p99")]);
    let accepted =
        chart("submitted to accepted, ms", vec![series("p50", "accepted p50"), series("p99", "accepted p99")]);
    let mean = chart("mean, payments/s", vec![series("mean", "mean")]);
    let (name, what) = (escape(variation.name), escape(&variation.what));
    let tables: String = [&cpu, &latency, &accepted, &mean].map(Chart::table).concat();
    format!("<h2>{name}</h2>\n<p>{what}</p>\n<div class=\"panels\">\n{}{}</div>\n{tables}", cpu.svg(), latency.svg())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::{Limit, Unit};
    use std::path::PathBuf;

    fn context(quick: bool) -> Context {
        Context {
            rounds: 1,
            quick,
            accounts: Vec::new(),
            scenario: String::new(),
            outage_s: 0,
            only: vec!["moon".into()],
            root: PathBuf::new(),
            programs: PathBuf::new(),
            data: PathBuf::new(),
            scratch: PathBuf::new(),
            limit: Limit { batch: 1, cores: 1, one_core_per_s: 1.0, all_cores_per_s: 1.0 },
        }
    }

    /// What can differ between two storms.
    fn differences(one: &Storm, other: &Storm) -> Vec<&'static str> {
        let fields = [
            ("accounts", one.accounts != other.accounts),
            ("payments", one.payments() != other.payments()),
            ("payers", one.payers != other.payers),
            ("receivers", one.receivers != other.receivers),
            ("nodes", one.nodes != other.nodes),
            ("interval", one.block_interval_ms != other.block_interval_ms),
            ("rate", one.rate != other.rate),
            ("checkpoint", one.checkpoint_s != other.checkpoint_s),
        ];
        fields.into_iter().filter(|(_, differ)| *differ).map(|(name, _)| name).collect()
    }

    #[test]
    fn each_variation_changes_one_thing_but_for_the_single_payer_that_cannot_pay_as_fast() {
        for quick in [false, true] {
            for variation in variations(&context(quick)) {
                let (_, first) = &variation.storms[0];
                for (label, storm) in &variation.storms[1..] {
                    let changed = differences(first, storm);
                    let known = if label == "all" { 4 } else { 1 };
                    assert_eq!(changed.len(), known, "{} {label}: {changed:?}", variation.name);
                    assert_ne!(storm.name, first.name);
                }
            }
        }
    }

    #[test]
    fn storms_that_vary_last_a_minute_with_checkpoints_and_have_names_that_a_scenario_may_have() {
        for variation in variations(&context(false)) {
            for (_, storm) in &variation.storms {
                let named = storm.name.chars().all(|letter| letter.is_ascii_alphanumeric() || letter == '-');
                assert!(named && storm.name.len() <= 64, "{}", storm.name);
                if let Rate::PerSecond(rate) = storm.rate {
                    let seconds = storm.payments() / u64::from(rate);
                    assert!(seconds >= 60, "{}", storm.name);
                    let checkpoints = storm.checkpoint_s.map_or(0, |interval_s| seconds / interval_s);
                    assert!(checkpoints >= 3, "{} has {checkpoints} checkpoints", storm.name);
                }
            }
        }
    }

    #[test]
    fn an_unknown_variation_is_answered_with_the_known_ones() {
        let told = run(&context(true)).unwrap_err().to_string();
        assert!(told.contains("moon") && told.contains("accounts") && told.contains("nodes"), "{told}");
    }

    #[test]
    fn what_was_measured_is_drawn() {
        let variations = variations(&context(false));
        let variation = &variations[1];
        let mut findings = Findings::default();
        for (label, cost) in [("3", 11.0), ("4", 11.5), ("7", 13.2)] {
            findings.add(format!("nodes {label}: a node"), Unit::CpuMicrosPerPayment, cost);
        }
        compare(&mut findings, variation, true).unwrap();
        assert!((findings.ratios[0].ratio - 1.2).abs() < 1e-9);
        let drawn = section(&findings, variation);
        assert!(drawn.contains("<svg") && drawn.contains("13.20") && drawn.contains("<td>–</td>"), "{drawn}");
    }

    #[test]
    fn a_cost_that_grows_too_much_fails_unless_no_figure_counts() {
        let variations = variations(&context(false));
        let nodes = &variations[1];
        let failures = |variation: &Variation, cost: f64, judged: bool| {
            let mut findings = Findings::default();
            for ((label, _), cost) in variation.storms.iter().zip([10.0, 10.0, cost]) {
                findings.add(format!("{}a node", prefix(variation, label)), Unit::CpuMicrosPerPayment, cost);
            }
            compare(&mut findings, variation, judged).unwrap();
            findings.failures
        };
        assert_eq!(failures(nodes, 11.2, true), ["nodes: the ratio of 7 over 3 is 1.120, at most 1.1 is wanted"]);
        assert_eq!(failures(nodes, 10.9, true), Vec::<String>::new());
        assert_eq!(failures(nodes, 11.2, false), Vec::<String>::new());
        assert_eq!(failures(&variations[4], 99.0, true), Vec::<String>::new(), "nothing is wanted of it");
        let mut nothing = Findings::default();
        compare(&mut nothing, nodes, true).unwrap();
        assert_eq!(nothing.failures.len(), 1, "what was not measured has not held");
    }

    #[test]
    fn the_page_tells_of_the_checkpoints() {
        assert!(intro(&context(false)).contains("each 20 s") && intro(&context(true)).contains("each 2 s"));
    }

    #[test]
    fn counts_are_short() {
        assert_eq!([100_000, 1_000_000, 10_800_000, 7].map(short), ["100k", "1M", "10.8M", "7"]);
    }
}
