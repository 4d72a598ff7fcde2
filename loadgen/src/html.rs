//! The report as one page that needs nothing else: styles, charts and figures in a single file.

use std::fmt::Write;

use crate::chart::{Bar, Line, Mark, Span, bars, escape, grouped, grouped_integer, lines};
use crate::latency::{CoursePoint, Percentiles};
use crate::report::{BlockFinal, BlockPoint, Report};

const STYLE: &str = include_str!("page.css");

/// Renders the page.
pub fn render(report: &Report) -> String {
    let title = escape(&format!("{} — payment storm", report.scenario));
    let mut page = format!(
        "<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>{title}</title>\n<style>\n{STYLE}</style>\n<main>\n"
    );
    page.push_str(&head(report));
    page.push_str(&tiles(report));
    page.push_str(&verdicts(report));
    page.push_str(&throughput(report));
    page.push_str(&latency(report));
    page.push_str(&faults(report));
    page.push_str(&overload(report));
    page.push_str(&nodes(report));
    page.push_str(&resources(report));
    page.push_str(&circumstances(report));
    page.push_str("</main>\n</html>\n");
    page
}

fn head(report: &Report) -> String {
    let (class, word) = if report.passed { ("good", "passed") } else { ("bad", "failed") };
    let target = format!("{:?}", report.settings.target).to_lowercase();
    format!(
        "<h1>{} <span class=\"badge {class}\">{word}</span></h1>\n<p class=\"sub\">{} payments of {} accounts to {} \
         nodes with {} s blocks, target {target}, begun {}</p>\n",
        escape(&report.scenario),
        grouped_integer(report.offered.into()),
        grouped_integer(report.accounts.into()),
        report.nodes,
        grouped(report.block_interval_ms as f64 / 1_000.0),
        escape(&report.started),
    )
}

fn tiles(report: &Report) -> String {
    let rate = |found: Option<f64>| found.map_or("–".into(), |found| format!("{}/s", grouped(found.round())));
    let accepted = report.latency_ms.accepted;
    let balance = report.receiver_balance.as_ref().and_then(|text| text.parse().ok()).map(grouped_integer);
    let ratio = report.limit.ratio.map_or("–".into(), |ratio| format!("{:.0} %", ratio * 100.0));
    let tiles = [
        (rate(report.throughput_tps.mean), "mean throughput"),
        (rate(report.throughput_tps.best_block), "best block"),
        (
            accepted.map_or("–".into(), |found| format!("{} ms", grouped(found.p90.round()))),
            "accepted, 90th percentile",
        ),
        (
            report.latency_ms.finals.map_or("–".into(), |found| format!("{} ms", grouped(found.p90.round()))),
            "final, 90th percentile",
        ),
        (format!("{} / {}", report.lost, report.duplicated), "payments lost / duplicated"),
        (report.final_reverted.map_or("–".into(), |found| found.to_string()), "final blocks contradicted"),
        (balance.unwrap_or("–".into()), "receiver's balance"),
        (ratio, "of this machine's signature limit"),
    ];
    let tile = |(value, name): &(String, &str)| {
        format!("<div class=\"tile\"><b>{}</b><span>{name}</span></div>\n", escape(value))
    };
    format!("<div class=\"tiles\">\n{}</div>\n", tiles.iter().map(tile).collect::<String>())
}

fn verdicts(report: &Report) -> String {
    let list = |items: &[String]| items.iter().map(|item| format!("<li>{}</li>", escape(item))).collect::<String>();
    let mut html = String::new();
    if !report.failures.is_empty() {
        put(
            &mut html,
            format_args!(
                "<h2>What failed</h2>\n<div class=\"card failures\"><ul>{}</ul></div>\n",
                list(&report.failures)
            ),
        );
    }
    if !report.notes.is_empty() {
        put(&mut html, format_args!("<h2>To know</h2>\n<div class=\"card\"><ul>{}</ul></div>\n", list(&report.notes)));
    }
    html
}

fn marks(report: &Report) -> Vec<Mark> {
    (report.faults.iter())
        .map(|fault| Mark { from_s: fault.at_s, until_s: fault.at_s + fault.duration_s, label: fault.label() })
        .collect()
}

/// From the start of the storm to the end of its last block, the same for every chart.
fn span(report: &Report) -> Span {
    let interval_s = report.block_interval_ms as f64 / 1_000.0;
    let ends = report.series.blocks.iter().map(|block| block.at_s + interval_s);
    let sends = report.series.accepted.iter().map(|point| point.at_s);
    Span { from_s: 0.0, until_s: ends.chain(sends).fold(1.0, f64::max) }
}

fn throughput(report: &Report) -> String {
    let interval_s = report.block_interval_ms as f64 / 1_000.0;
    let bar = |block: &BlockPoint| {
        let value = block.payments as f64 / interval_s;
        let title = format!(
            "block {} at {:.1} s: {} payments, {}/s, by node {} (rank {})",
            block.height,
            block.at_s,
            grouped_integer(block.payments.into()),
            grouped(value.round()),
            block.proposer + 1,
            block.rank
        );
        Bar { at_s: block.at_s, width_s: interval_s, value, title }
    };
    // The block before the storm is among them, for its slot bounds the first one's time.
    let chart: Vec<Bar> = report.series.blocks.iter().filter(|block| block.at_s >= 0.0).map(bar).collect();
    let svg = bars("payments a second in each block", span(report), &chart, &marks(report));
    format!("<h2>Payments a second, block by block</h2>\n<div class=\"card\">{svg}</div>\n")
}

fn latency(report: &Report) -> String {
    let line = |name, class, course: &[CoursePoint], value: fn(&CoursePoint) -> f64| Line {
        name,
        class,
        points: course.iter().map(|point| (point.at_s, value(point))).collect(),
    };
    let series = &report.series;
    let chart = [
        line("accepted, median", "accepted median", &series.accepted, |point| point.p50_ms),
        line("accepted, 99th percentile", "accepted", &series.accepted, |point| point.p99_ms),
        line("included, median", "included median", &series.included, |point| point.p50_ms),
        line("included, 99th percentile", "included", &series.included, |point| point.p99_ms),
        line("final, median", "final median", &series.finals, |point| point.p50_ms),
        line("final, 99th percentile", "final", &series.finals, |point| point.p99_ms),
    ];
    let svg = lines("latency in milliseconds by the time of the intended send", span(report), &chart, &marks(report));
    let legend = |class: &str, dotted: &str, name: &str| {
        format!("<span><i class=\"{dotted}\" style=\"border-color: var(--{class})\"></i>{name}</span>")
    };
    let legends = [
        legend("accepted", "", "accepted, 99th percentile"),
        legend("accepted", "dotted", "median"),
        legend("included", "", "included, 99th percentile"),
        legend("included", "dotted", "median"),
        legend("final", "", "final, 99th percentile"),
        legend("final", "dotted", "median"),
    ];
    let row = |name: &str, found: Option<Percentiles>| match found {
        Some(found) => {
            let cells = [found.p50, found.p90, found.p99, found.p999, found.max];
            let cells: String = cells.iter().map(|value| format!("<td>{}</td>", grouped(value.round()))).collect();
            format!("<tr><td>{name}</td>{cells}</tr>")
        }
        None => format!("<tr><td>{name}</td><td colspan=\"5\">not yet</td></tr>"),
    };
    let latency = &report.latency_ms;
    let blocks = latency_of_blocks(report);
    format!(
        "<h2>Latency from the intended send, in milliseconds</h2>\n<div class=\"card\"><div class=\"legend\">{}</div>{svg}\
         </div>\n<div class=\"card\" style=\"margin-top: 12px\"><table><tr><th></th><th>p50</th><th>p90</th><th>p99</th>\
         <th>p99.9</th><th>max</th></tr>{}{}{}</table>{blocks}</div>\n",
        legends.concat(),
        row("accepted", latency.accepted),
        row("included", latency.included),
        row("final", latency.finals),
    )
}

fn latency_of_blocks(report: &Report) -> String {
    let told = |found: BlockFinal| {
        format!(
            "<p>From the beginning of a block's slot until it was final: median {} ms, 99th percentile {} ms, longest {} ms, \
             of {} blocks.</p>",
            grouped_integer(found.p50.into()),
            grouped_integer(found.p99.into()),
            grouped_integer(found.max.into()),
            grouped_integer(found.blocks.into())
        )
    };
    report.block_final_ms.map_or(String::new(), told)
}

fn faults(report: &Report) -> String {
    if report.faults.is_empty() {
        return String::new();
    }
    let told = |found: Option<f64>| found.map_or("–".into(), |found| format!("{found:.3}"));
    let rows: String = (report.faults.iter())
        .map(|fault| {
            format!(
                "<tr><td>{}{}</td><td>{:.1} s</td><td>{:.1} s</td><td>{}</td><td>{} s</td><td>{}</td><td>{} s</td></tr>",
                escape(&fault.label()),
                fault.struck.map(|struck| format!("<br>{}", escape(&struck.in_words()))).unwrap_or_default(),
                fault.at_s,
                fault.duration_s,
                told(fault.dip_ratio),
                told(fault.resync_s),
                fault.final_during.map_or("–".into(), |found| grouped_integer(found.into())),
                told(fault.first_final_s)
            )
        })
        .collect();
    format!(
        "<h2>Faults</h2>\n<div class=\"card\"><table><tr><th></th><th>at</th><th>for</th><th>dip ratio</th>\
         <th>back after restart or healing</th><th>blocks final meanwhile</th><th>next one final after</th></tr>{rows}</table></div>\n"
    )
}

fn overload(report: &Report) -> String {
    let Some(overload) = &report.overload else { return String::new() };
    let (offers, count) = (&overload.offers, |count: u64| grouped_integer(count.into()));
    let rate = |found: Option<f64>| found.map_or("–".into(), |found| format!("{}/s", grouped(found.round())));
    let mut rows = vec![
        ("offered".to_owned(), format!("{} at {}/s", count(offers.offered), count(offers.rate_per_s.into()))),
        ("withheld, too many under way".into(), count(offers.withheld)),
        ("rate of both".into(), rate(overload.offered_tps)),
        ("accepted".into(), count(offers.accepted)),
        ("without an answer".into(), count(offers.unanswered)),
    ];
    rows.extend(offers.refused.iter().map(|(reason, refused)| (format!("refused, {reason}"), count(*refused))));
    rows.push(("goodput".into(), rate(overload.goodput_tps)));
    rows.push(("the same in the phase before".into(), rate(overload.calibrated_tps)));
    rows.push(("ratio".into(), overload.goodput_ratio.map_or("–".into(), |ratio| format!("{ratio:.3}"))));
    let rows: String =
        rows.iter().map(|(name, value)| format!("<tr><td>{}</td><td>{value}</td></tr>", escape(name))).collect();
    format!("<h2>Overload</h2>\n<div class=\"card\"><table>{rows}</table></div>\n")
}

fn nodes(report: &Report) -> String {
    let rows: String = (report.nodes_state.iter())
        .map(|state| {
            format!(
                "<tr><td>{}</td><td>{}</td><td class=\"hash\">{}</td><td class=\"hash\">{}</td></tr>",
                escape(&state.node),
                grouped_integer(state.height.into()),
                escape(&short(&state.block)),
                escape(&short(&state.state_root))
            )
        })
        .collect();
    let equal = if report.nodes_equal { "equal" } else { "not equal" };
    let asked = grouped_integer(report.payer_balances.asked.into());
    let wrong = if report.payer_balances.wrong.is_empty() { "none of them wrong" } else { "some of them wrong" };
    format!(
        "<h2>Nodes at the end: {equal}</h2>\n<div class=\"card\"><table><tr><th></th><th>height</th><th>block</th>\
         <th>state root</th></tr>{rows}</table><p>Balances of {asked} payers were looked at, {wrong}.</p></div>\n"
    )
}

fn short(hash: &str) -> String {
    hash.chars().take(24).collect::<String>() + "…"
}

fn resources(report: &Report) -> String {
    let mib = |bytes: u64| format!("{} MiB", grouped((bytes as f64 / f64::from(1 << 20)).round()));
    let rows: String = (report.resources.iter())
        .map(|(name, usage)| {
            format!(
                "<tr><td>{}</td><td>{:.1} s</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td></tr>",
                escape(name),
                usage.cpu_s,
                usage.storm_cpu_s.map_or("–".into(), |found| format!("{found:.1} s")),
                usage.rss_after_start_bytes.map_or("–".into(), mib),
                mib(usage.rss_max_bytes),
                mib(usage.disk_bytes),
                mib(usage.written_bytes),
                usage.fsyncs.map_or("–".into(), |fsyncs| grouped_integer(fsyncs.into())),
            )
        })
        .collect();
    format!(
        "<h2>Resources</h2>\n<div class=\"card\"><table><tr><th></th><th>processor time</th><th>in the storm</th>\
         <th>memory after start</th><th>largest memory</th><th>data directory</th><th>written</th><th>syncs</th></tr>{rows}</table></div>\n"
    )
}

fn circumstances(report: &Report) -> String {
    let (limit, host, start) = (&report.limit, &report.host, &report.start);
    let rows = [
        ("machine", format!("{}, {} cores, {} GiB, {}", host.cpu, host.cores, host.memory_bytes >> 30, host.kernel)),
        (
            "signature limit",
            format!(
                "{}/s a core; {} nodes on this machine stop at {} payments/s",
                grouped(limit.verify_per_s_per_core.round()),
                report.nodes,
                grouped(limit.payments_per_s.round())
            ),
        ),
        (
            "start",
            format!(
                "prepared {:.1} s, data made {:.1} s, active {:.1} s",
                start.prepare_s, start.init_s, start.active_s
            ),
        ),
        (
            "sent over loopback in the storm",
            report.loopback_sent_bytes.map_or("–".into(), |bytes| format!("{} bytes", grouped_integer(bytes.into()))),
        ),
        ("version", report.version.clone()),
    ];
    let rows: String =
        rows.iter().map(|(name, value)| format!("<tr><td>{name}</td><td>{}</td></tr>", escape(value))).collect();
    format!(
        "<h2>Circumstances</h2>\n<div class=\"card\"><table>{rows}<tr><td>command</td><td><code>{}</code></td></tr>\
         </table></div>\n",
        escape(&report.command)
    )
}

fn put(html: &mut String, arguments: std::fmt::Arguments<'_>) {
    html.write_fmt(arguments).expect("writing to a text never fails");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::overload::Offers;
    use crate::relay::Struck;
    use crate::report::OverloadReport;
    use crate::report_sample::sample;

    #[test]
    fn the_page_needs_nothing_from_outside() {
        let page = render(&sample());
        for outside in ["http:", "https:", "src=", "href=", "@import", "url(", "<script", "<link"] {
            assert!(!page.contains(outside), "the page holds {outside}");
        }
    }

    #[test]
    fn the_page_tells_the_figures_and_marks_the_faults() {
        let page = render(&sample());
        for told in [
            "5,000,050,000",
            "kill node-2, node-3",
            "0.991",
            "class=\"line final\"",
            "median 3,150 ms",
            "class=\"fault\"",
            "class=\"bar\"",
            "passed",
        ] {
            assert!(page.contains(told), "the page does not hold {told}");
        }
        assert!(!page.contains("NaN"));
    }

    #[test]
    fn a_fault_of_the_network_is_marked_with_who_was_parted_from_whom_and_what_it_struck() {
        let mut report = sample();
        let fault = &mut report.faults[0];
        (fault.kind, fault.whom) = ("partition".into(), "node-1 | node-2, node-3".into());
        fault.struck = Some(Struck { dropped: 1_234, delayed: 0, overflowed: 0 });
        let page = render(&report);
        assert_eq!(page.matches("partition node-1 | node-2, node-3").count(), 3, "two charts and the table");
        assert!(page.contains("1234 datagrams dropped"));
        report.faults[0].whom = String::new();
        assert!(render(&report).contains("partition node-2, node-3"), "as older reports have it");
    }

    #[test]
    fn an_overload_is_told_with_what_was_refused_and_why() {
        let mut report = sample();
        assert!(!render(&report).contains("Overload"));
        let refused = [("overloaded".to_owned(), 7_654_321)].into();
        let offers = Offers { refused, ..Offers::default() };
        let offered_tps = Some(123_456.0);
        report.overload =
            Some(OverloadReport { goodput_ratio: Some(0.987), offered_tps, offers, ..OverloadReport::default() });
        let page = render(&report);
        for told in ["refused, overloaded", "7,654,321", "0.987", "123,456/s"] {
            assert!(page.contains(told), "{told}");
        }
    }

    #[test]
    fn what_others_wrote_is_escaped() {
        let mut report = sample();
        report.failures.push("<script>alert(1)</script>".into());
        report.command = "loadgen \"<b>\"".into();
        let page = render(&report);
        assert!(!page.contains("<script>") && !page.contains("<b>\""));
    }

    #[test]
    fn an_empty_storm_has_a_page_too() {
        let mut report = sample();
        report.series = Default::default();
        report.faults.clear();
        report.latency_ms = Default::default();
        assert!(render(&report).contains("not yet"));
    }
}
