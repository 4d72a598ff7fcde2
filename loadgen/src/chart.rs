//! Charts as inline SVG: bars and lines over the time of a storm, with its faults marked behind them.
//!
//! Colours are CSS variables of the page, so that a chart follows its light or dark scheme.

use std::fmt::Write;

const WIDTH: f64 = 960.0;
const HEIGHT: f64 = 260.0;
const LEFT: f64 = 64.0;
const RIGHT: f64 = 16.0;
const TOP: f64 = 22.0;
const BOTTOM: f64 = 34.0;

/// A stretch of time that is marked.
#[derive(Debug, Clone, PartialEq)]
pub struct Mark {
    pub from_s: f64,
    pub until_s: f64,
    pub label: String,
}

/// A bar that stands at a time.
#[derive(Debug, Clone, PartialEq)]
pub struct Bar {
    pub at_s: f64,
    pub width_s: f64,
    pub value: f64,
    /// Shown when the pointer rests on it.
    pub title: String,
}

/// A line through points (seconds, value).
#[derive(Debug, Clone, PartialEq)]
pub struct Line {
    pub name: &'static str,
    /// A CSS class of the page.
    pub class: &'static str,
    pub points: Vec<(f64, f64)>,
}

/// How values are placed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scale {
    Linear,
    Logarithmic,
}

struct Frame {
    from_s: f64,
    until_s: f64,
    least: f64,
    most: f64,
    scale: Scale,
}

impl Frame {
    fn x(&self, at_s: f64) -> f64 {
        LEFT + (at_s - self.from_s) / (self.until_s - self.from_s) * (WIDTH - LEFT - RIGHT)
    }

    fn y(&self, value: f64) -> f64 {
        let share = match self.scale {
            Scale::Linear => (value - self.least) / (self.most - self.least),
            Scale::Logarithmic => (value.max(self.least) / self.least).ln() / (self.most / self.least).ln(),
        };
        HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM)
    }

    fn value_ticks(&self) -> Vec<f64> {
        match self.scale {
            Scale::Linear => linear_ticks(self.most),
            Scale::Logarithmic => {
                let decades = (self.most / self.least).log10().round() as i32;
                (0..=decades).map(|decade| self.least * 10f64.powi(decade)).collect()
            }
        }
    }
}

/// The time that a chart shows, in seconds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Span {
    pub from_s: f64,
    pub until_s: f64,
}

/// Bars from zero.
pub fn bars(title: &str, span: Span, bars: &[Bar], marks: &[Mark]) -> String {
    let most = nice_top(bars.iter().map(|bar| bar.value).fold(0.0, f64::max));
    let frame = Frame { from_s: span.from_s, until_s: span.until_s, least: 0.0, most, scale: Scale::Linear };
    let mut svg = begin(title, &frame, marks);
    for bar in bars {
        let (left, right) = (frame.x(bar.at_s), frame.x(bar.at_s + bar.width_s));
        let gap = if right - left > 4.0 { 1.0 } else { 0.0 };
        let (top, bottom) = (frame.y(bar.value), frame.y(0.0));
        let (x, width, height) = (left + gap / 2.0, (right - left - gap).max(0.4), bottom - top);
        write_to(
            &mut svg,
            format_args!(
                "<rect class=\"bar\" x=\"{x:.1}\" y=\"{top:.1}\" width=\"{width:.1}\" height=\"{height:.1}\">\
                 <title>{}</title></rect>",
                escape(&bar.title)
            ),
        );
    }
    svg.push_str("</svg>");
    svg
}

/// Lines on a logarithmic scale of powers of ten.
pub fn lines(title: &str, span: Span, lines: &[Line], marks: &[Mark]) -> String {
    let points = || lines.iter().flat_map(|line| &line.points);
    let least = points().map(|point| point.1).filter(|value| *value > 0.0).fold(f64::MAX, f64::min);
    let most = points().map(|point| point.1).fold(0.0, f64::max);
    let least = if least < f64::MAX { 10f64.powf(least.log10().floor()) } else { 1.0 };
    let most = if most > least { 10f64.powf(most.log10().ceil()).max(least * 10.0) } else { least * 10.0 };
    let frame = Frame { from_s: span.from_s, until_s: span.until_s, least, most, scale: Scale::Logarithmic };
    let mut svg = begin(title, &frame, marks);
    for line in lines {
        let path: Vec<String> =
            line.points.iter().map(|(at_s, value)| format!("{:.1},{:.1}", frame.x(*at_s), frame.y(*value))).collect();
        write_to(
            &mut svg,
            format_args!(
                "<polyline class=\"line {}\" points=\"{}\"><title>{}</title></polyline>",
                line.class,
                path.join(" "),
                escape(line.name)
            ),
        );
    }
    svg.push_str("</svg>");
    svg
}

fn begin(title: &str, frame: &Frame, marks: &[Mark]) -> String {
    let mut svg = format!("<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{}\">", escape(title));
    let bottom = HEIGHT - BOTTOM;
    for mark in marks {
        let (left, right) = (frame.x(mark.from_s.max(frame.from_s)), frame.x(mark.until_s.min(frame.until_s)));
        let width = (right - left).max(1.5);
        write_to(
            &mut svg,
            format_args!(
                "<rect class=\"fault\" x=\"{left:.1}\" y=\"{TOP}\" width=\"{width:.1}\" height=\"{:.1}\"/>\
                 <text class=\"fault-label\" x=\"{left:.1}\" y=\"{:.1}\">{}</text>",
                bottom - TOP,
                TOP - 7.0,
                escape(&mark.label)
            ),
        );
    }
    for value in frame.value_ticks() {
        let y = frame.y(value);
        write_to(
            &mut svg,
            format_args!(
                "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/>\
                 <text class=\"tick\" x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
                WIDTH - RIGHT,
                LEFT - 8.0,
                y + 4.0,
                grouped(value)
            ),
        );
    }
    for at_s in linear_ticks(frame.until_s) {
        let x = frame.x(at_s);
        write_to(
            &mut svg,
            format_args!(
                "<text class=\"tick\" x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{} s</text>",
                bottom + 20.0,
                grouped(at_s)
            ),
        );
    }
    svg
}

/// Round values from zero, about five.
fn linear_ticks(most: f64) -> Vec<f64> {
    let step = nice(most / 6.0);
    let count = (most / step).floor() as usize;
    (0..=count).map(|tick| tick as f64 * step).collect()
}

/// A round step between ticks, not below `value`.
fn nice(value: f64) -> f64 {
    round_up(value, &[1.0, 2.0, 2.5, 5.0])
}

/// A round end of a scale, not below `value`.
fn nice_top(value: f64) -> f64 {
    round_up(value, &[1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0])
}

/// The least of these times a power of ten that is not below `value`; 1 for nothing.
fn round_up(value: f64, factors: &[f64]) -> f64 {
    if value <= 0.0 {
        return 1.0;
    }
    let power = 10f64.powf(value.log10().floor());
    factors.iter().map(|factor| factor * power).find(|round| *round >= value).unwrap_or(10.0 * power)
}

/// A number with thin gaps between thousands; small ones keep their fraction.
pub fn grouped(value: f64) -> String {
    if value.abs() < 10.0 && value.fract().abs() > 1e-9 {
        return format!("{value:.2}").trim_end_matches('0').trim_end_matches('.').to_owned();
    }
    grouped_integer(value.round() as i128)
}

/// An integer with commas between thousands.
pub fn grouped_integer(value: i128) -> String {
    let digits = value.unsigned_abs().to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3 + 1);
    if value < 0 {
        text.push('-');
    }
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Text that is safe between tags and in attributes.
pub fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            other => escaped.push(other),
        }
    }
    escaped
}

fn write_to(svg: &mut String, arguments: std::fmt::Arguments<'_>) {
    svg.write_fmt(arguments).expect("writing to a text never fails");
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPAN: Span = Span { from_s: 0.0, until_s: 10.0 };

    #[test]
    fn ticks_are_round_and_within() {
        assert_eq!(linear_ticks(12.0), [0.0, 2.0, 4.0, 6.0, 8.0, 10.0, 12.0]);
        assert_eq!(linear_ticks(90.0), [0.0, 20.0, 40.0, 60.0, 80.0]);
        assert_eq!((nice(0.0), nice(7_300.0), nice(1_000.0)), (1.0, 10_000.0, 1_000.0));
        assert_eq!((nice_top(6_660.0), nice_top(12.0)), (8_000.0, 15.0));
    }

    #[test]
    fn numbers_are_grouped() {
        assert_eq!(grouped(58_320_005_400_000.0), "58,320,005,400,000");
        assert_eq!((grouped(999.0), grouped(2.5), grouped(-1_234.0)), ("999".into(), "2.5".into(), "-1,234".into()));
    }

    #[test]
    fn bars_rise_with_their_values_and_nothing_is_left_unescaped() {
        let bar = |at_s, value| Bar { at_s, width_s: 3.0, value, title: "<b> & \"c\"".into() };
        let mark = Mark { from_s: 4.0, until_s: 9.0, label: "kill <x>".into() };
        let svg = bars("throughput", SPAN, &[bar(0.0, 50.0), bar(3.0, 100.0)], &[mark]);
        assert!(svg.starts_with("<svg") && svg.ends_with("</svg>"));
        assert!(!svg.contains("<b>") && !svg.contains("<x>"));
        assert_eq!(svg.matches("class=\"bar\"").count(), 2);
        assert_eq!(svg.matches("class=\"fault\"").count(), 1);
    }

    #[test]
    fn empty_charts_are_drawn_without_nonsense() {
        for svg in
            [bars("x", SPAN, &[], &[]), lines("y", SPAN, &[Line { name: "n", class: "c", points: Vec::new() }], &[])]
        {
            assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
        }
        let flat = Line { name: "n", class: "c", points: vec![(0.0, 0.0), (5.0, 0.0)] };
        assert!(!lines("y", SPAN, &[flat], &[]).contains("NaN"));
    }
}
