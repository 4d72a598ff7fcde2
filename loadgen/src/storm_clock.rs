//! Time within a storm: microseconds from the first intended send, and what that is on the wall.

use std::time::{Duration, Instant};

use crate::book::Tick;
use crate::clock;

/// Counts from the start of a storm, which may still lie ahead.
#[derive(Debug, Clone, Copy)]
pub struct StormClock {
    start: Instant,
    start_unix_ms: u64,
}

impl StormClock {
    /// A clock of a storm that starts after `delay`.
    pub fn starting_in(delay: Duration) -> Self {
        Self { start: Instant::now() + delay, start_unix_ms: clock::unix_ms() + delay.as_millis() as u64 }
    }

    /// Microseconds since the start; 0 before it.
    pub fn now_us(&self) -> u64 {
        self.start.elapsed().as_micros() as u64
    }

    pub fn tick(&self) -> Tick {
        Tick::from_us(self.now_us())
    }

    /// The moment `us` microseconds after the start.
    pub fn instant(&self, us: u64) -> Instant {
        self.start + Duration::from_micros(us)
    }

    /// The same in Unix milliseconds.
    pub fn unix_ms(&self, us: u64) -> u64 {
        self.start_unix_ms + us / 1_000
    }
}
