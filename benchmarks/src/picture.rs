//! Bar charts as SVG, in a page that needs nothing else.

use std::fmt::Write;

use crate::report::figure;

const WIDTH: f64 = 440.0;
const HEIGHT: f64 = 260.0;
const LEFT: f64 = 12.0;
const RIGHT: f64 = 12.0;
const TOP: f64 = 26.0;
const BOTTOM: f64 = 34.0;
/// Of a group's width, what its bars leave free.
const GAP: f64 = 0.25;

const STYLE: &str = "
:root { color-scheme: light dark; --ink: #1c1e21; --paper: #fff; --quiet: #676d76; --line: #d9dce1;
  --a: #2f6fde; --b: #e0872b; --c: #3a9d6a; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e8eb; --paper: #15171a; --quiet: #9aa1ab; --line: #34383e;
    --a: #6d9eff; --b: #f0a85c; --c: #6cc897; } }
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 960px; padding: 0 1rem;
  color: var(--ink); background: var(--paper); }
h1, h2 { line-height: 1.2; } p, li { max-width: 70ch; } .quiet { color: var(--quiet); }
.panels { display: flex; flex-wrap: wrap; gap: 1rem; } .panels svg { flex: 1 1 400px; max-width: 100%; }
svg text { font: 12px system-ui, sans-serif; fill: var(--ink); } svg .tick, svg .value { fill: var(--quiet); }
svg .title { font-weight: 600; } svg line { stroke: var(--line); }
.s0 { fill: var(--a); } .s1 { fill: var(--b); } .s2 { fill: var(--c); }
table { border-collapse: collapse; margin: 1rem 0; } th, td { padding: .25rem .75rem; text-align: right;
  border-bottom: 1px solid var(--line); } th:first-child, td:first-child { text-align: left; }
";

/// Bars of one kind, a value for each label; `None` where nothing was measured.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Series {
    pub(crate) name: String,
    pub(crate) values: Vec<Option<f64>>,
}

/// Groups of bars from zero, one group for each label.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Chart {
    /// With the unit.
    pub(crate) title: String,
    pub(crate) labels: Vec<String>,
    /// Three at most.
    pub(crate) series: Vec<Series>,
}

impl Chart {
    pub(crate) fn svg(&self) -> String {
        let values = self.series.iter().flat_map(|series| series.values.iter().flatten());
        let most = values.copied().fold(0.0, f64::max);
        let most = if most > 0.0 { most } else { 1.0 };
        let bottom = HEIGHT - BOTTOM;
        let mut svg = format!(
            "<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{0}\">\
             <text class=\"title\" x=\"{LEFT}\" y=\"14\">{0}</text>\
             <line x1=\"{LEFT}\" x2=\"{1}\" y1=\"{bottom}\" y2=\"{bottom}\"/>",
            escape(&self.title),
            WIDTH - RIGHT
        );
        let group = (WIDTH - LEFT - RIGHT) / self.labels.len().max(1) as f64;
        let width = group * (1.0 - GAP) / self.series.len().max(1) as f64;
        for (place, label) in self.labels.iter().enumerate() {
            let left = LEFT + group * (place as f64 + GAP / 2.0);
            for (number, series) in self.series.iter().enumerate() {
                let Some(value) = series.values.get(place).copied().flatten() else { continue };
                // Room for the value above the highest bar.
                let height = (value / most * (bottom - TOP - 18.0)).max(0.5);
                let x = left + width * number as f64;
                put(
                    &mut svg,
                    format_args!(
                        "<rect class=\"s{number}\" x=\"{x:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"{height:.1}\">\
                         <title>{}, {}: {}</title></rect>\
                         <text class=\"value\" x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
                        bottom - height,
                        (width - 2.0).max(1.0),
                        escape(label),
                        escape(&series.name),
                        figure(value),
                        x + width / 2.0,
                        bottom - height - 4.0,
                        figure(value)
                    ),
                );
            }
            put(
                &mut svg,
                format_args!(
                    "<text class=\"tick\" x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
                    left + group * (1.0 - GAP) / 2.0,
                    bottom + 14.0,
                    escape(label)
                ),
            );
        }
        let mut x = LEFT;
        for (number, series) in self.series.iter().enumerate() {
            put(
                &mut svg,
                format_args!(
                    "<rect class=\"s{number}\" x=\"{x:.1}\" y=\"{:.1}\" width=\"9\" height=\"9\"/>\
                     <text class=\"tick\" x=\"{:.1}\" y=\"{:.1}\">{}</text>",
                    HEIGHT - 12.0,
                    x + 13.0,
                    HEIGHT - 3.0,
                    escape(&series.name)
                ),
            );
            x += 30.0 + 6.5 * series.name.chars().count() as f64;
        }
        svg.push_str("</svg>\n");
        svg
    }

    /// The same figures as a table.
    pub(crate) fn table(&self) -> String {
        let heads: String = self.labels.iter().map(|label| format!("<th>{}</th>", escape(label))).collect();
        let mut html = format!("<table>\n<tr><th>{}</th>{heads}</tr>\n", escape(&self.title));
        for series in &self.series {
            let cell = |value: &Option<f64>| format!("<td>{}</td>", value.map_or("–".into(), figure));
            let cells: String = series.values.iter().map(cell).collect();
            put(&mut html, format_args!("<tr><td>{}</td>{cells}</tr>\n", escape(&series.name)));
        }
        html.push_str("</table>\n");
        html
    }
}

/// A page around `body`.
pub(crate) fn page(title: &str, body: &str) -> String {
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>{0}</title>\n<style>{STYLE}</style>\n<h1>{0}</h1>\n{body}</html>\n",
        escape(title)
    )
}

/// Text that is safe between tags and in attributes.
pub(crate) fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

fn put(text: &mut String, arguments: std::fmt::Arguments<'_>) {
    text.write_fmt(arguments).expect("writing to a text never fails");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chart(values: [Option<f64>; 2]) -> Chart {
        let series = Series { name: "a node".into(), values: values.to_vec() };
        Chart { title: "CPU <µs>".into(), labels: vec!["3".into(), "7".into()], series: vec![series] }
    }

    #[test]
    fn each_value_has_its_bar_and_nothing_is_left_unescaped() {
        let svg = chart([Some(12.0), Some(6.0)]).svg();
        assert_eq!(svg.matches("<title>").count(), 2);
        assert!(svg.contains("12.00") && svg.contains("CPU &lt;µs&gt;") && !svg.contains("<µs>"));
    }

    #[test]
    fn what_was_not_measured_has_no_bar_and_no_number() {
        let chart = chart([Some(12.0), None]);
        assert_eq!(chart.svg().matches("<title>").count(), 1);
        assert!(chart.table().contains("<td>–</td>"));
        let none = Chart { series: Vec::new(), labels: Vec::new(), ..chart };
        assert!(!none.svg().contains("NaN") && !none.svg().contains("inf"));
    }
}
