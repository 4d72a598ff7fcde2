//! Latencies from the intended send time, as percentiles of the whole storm and over its course.

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use crate::book::{Book, Tick};

/// The longest latency that is told apart, in microseconds: two hours.
const LONGEST_US: u64 = 7_200_000_000;
/// Points of a course over time, at most.
pub const COURSE_POINTS_MAX: u64 = 300;

/// Percentiles in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Percentiles {
    pub p50: f64,
    pub p90: f64,
    pub p99: f64,
    pub p999: f64,
    pub max: f64,
}

/// Latencies of the payments that were intended in one stretch of the storm.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct CoursePoint {
    /// Seconds from the start of the storm, where the stretch begins.
    pub at_s: f64,
    pub count: u64,
    pub p50_ms: f64,
    pub p99_ms: f64,
    pub max_ms: f64,
}

/// Collects latencies.
#[derive(Debug)]
pub struct Latencies {
    all: Histogram<u64>,
    /// By the second of the intended send.
    stretches: Vec<Histogram<u32>>,
    stretch_us: u64,
}

impl Latencies {
    /// For a storm that is expected to last `expected_us`; a longer one fills the last stretch.
    pub fn new(expected_us: u64) -> Self {
        let stretch_us = expected_us.div_ceil(COURSE_POINTS_MAX).max(1_000_000);
        let all = Histogram::new_with_max(LONGEST_US, 3).expect("three digits up to two hours is a valid range");
        Self { all, stretches: Vec::new(), stretch_us }
    }

    /// Notes one payment.
    pub fn record(&mut self, intended_us: u64, happened_us: u64) {
        let latency = happened_us.saturating_sub(intended_us).max(1);
        self.all.saturating_record(latency);
        let place = (intended_us / self.stretch_us).min(4 * COURSE_POINTS_MAX) as usize;
        while self.stretches.len() <= place {
            let empty = Histogram::new_with_max(LONGEST_US / 1_000, 2).expect("two digits up to two hours is valid");
            self.stretches.push(empty);
        }
        self.stretches[place].saturating_record(latency.div_ceil(1_000));
    }

    /// Every included payment of a book.
    pub fn of_inclusion(book: &Book, expected_us: u64) -> Self {
        Self::of(book, expected_us, Book::included)
    }

    /// Every final payment of a book.
    pub fn of_finality(book: &Book, expected_us: u64) -> Self {
        Self::of(book, expected_us, Book::finalised)
    }

    fn of(book: &Book, expected_us: u64, happened: impl Fn(&Book, u64) -> Option<Tick>) -> Self {
        let mut latencies = Self::new(expected_us);
        for index in 0..book.len() {
            if let (Some(intended), Some(happened)) = (book.intended(index), happened(book, index)) {
                latencies.record(intended.as_us(), happened.as_us());
            }
        }
        latencies
    }

    /// `None` if nothing was noted.
    pub fn percentiles(&self) -> Option<Percentiles> {
        let at = |quantile: f64| self.all.value_at_quantile(quantile) as f64 / 1_000.0;
        let max = self.all.max() as f64 / 1_000.0;
        let found = Percentiles { p50: at(0.5), p90: at(0.9), p99: at(0.99), p999: at(0.999), max };
        (!self.all.is_empty()).then_some(found)
    }

    /// The latencies over the course of the storm; stretches without a payment are left out.
    pub fn course(&self) -> Vec<CoursePoint> {
        let points = self.stretches.iter().enumerate().filter(|(_, stretch)| !stretch.is_empty());
        let point = |(place, stretch): (usize, &Histogram<u32>)| CoursePoint {
            at_s: (place as u64 * self.stretch_us) as f64 / 1e6,
            count: stretch.len(),
            p50_ms: stretch.value_at_quantile(0.5) as f64,
            p99_ms: stretch.value_at_quantile(0.99) as f64,
            max_ms: stretch.max() as f64,
        };
        points.map(point).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_those_of_the_series() {
        let mut latencies = Latencies::new(1_000_000);
        for value in 1..=1_000u64 {
            latencies.record(0, value * 1_000);
        }
        let found = latencies.percentiles().unwrap();
        let near = |found: f64, expected: f64| assert!((found / expected - 1.0).abs() < 0.002, "{found} {expected}");
        near(found.p50, 500.0);
        near(found.p90, 900.0);
        near(found.p99, 990.0);
        near(found.p999, 999.0);
        near(found.max, 1_000.0);
    }

    #[test]
    fn waiting_counts_from_the_intended_moment_and_never_below_zero() {
        let mut latencies = Latencies::new(1_000_000);
        latencies.record(10_000_000, 9_000_000);
        assert!(latencies.percentiles().unwrap().max < 0.01);
        assert_eq!(Latencies::new(5).percentiles(), None);
    }

    #[test]
    fn the_course_has_a_point_for_each_stretch_with_payments() {
        let mut latencies = Latencies::new(10_000_000);
        latencies.record(500_000, 600_000);
        latencies.record(3_200_000, 3_250_000);
        let course: Vec<(f64, u64, f64)> =
            latencies.course().iter().map(|point| (point.at_s, point.count, point.p50_ms)).collect();
        assert_eq!(course, [(0.0, 1, 100.0), (3.0, 1, 50.0)]);
        assert!(Latencies::new(3_600_000_000).stretch_us >= 3_600_000_000 / COURSE_POINTS_MAX);
    }

    #[test]
    fn inclusion_and_finality_are_read_from_the_book() {
        let book = Book::new(2);
        book.send(0, Tick::from_us(1_000));
        book.include(0, Tick::from_us(501_000));
        book.send(1, Tick::from_us(2_000));
        let found = Latencies::of_inclusion(&book, 1_000_000).percentiles().unwrap();
        assert!((found.max - 500.0).abs() < 1.0, "{found:?}");
        assert_eq!(Latencies::of_finality(&book, 1_000_000).percentiles(), None);
        book.finalise(0, Tick::from_us(801_000));
        let found = Latencies::of_finality(&book, 1_000_000).percentiles().unwrap();
        assert!((found.max - 800.0).abs() < 1.0, "{found:?}");
    }
}
