//! One direction between two nodes: what happens to each datagram that takes it.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tokio::net::UdpSocket;
use tokio::sync::Notify;
use zeni_ledger::hash::hash_parts;

use super::Way;
use super::delayed::Delayed;

const DICE_DOMAIN: &str = "zeni loadgen relay dice\0";

/// What a lane does to datagrams.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Rule {
    #[default]
    Pass,
    Drop,
    /// Each waits `ms` and up to `jitter_ms` more, whatever became of those before it.
    Delay {
        ms: u64,
        jitter_ms: u64,
    },
    /// So many of a hundred are dropped.
    Loss {
        percent: u64,
    },
}

/// How many datagrams a rule struck.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Struck {
    pub dropped: u64,
    pub delayed: u64,
    /// Dropped because too many were waiting, which no rule asked for.
    pub overflowed: u64,
}

impl Struck {
    pub fn total(&self) -> u64 {
        self.dropped + self.delayed + self.overflowed
    }

    pub fn in_words(&self) -> String {
        let Self { dropped, delayed, overflowed } = self;
        let mut words = format!("{dropped} datagrams dropped, {delayed} delayed");
        if *overflowed > 0 {
            words.push_str(&format!(", {overflowed} dropped because too many were waiting"));
        }
        words
    }

    pub(super) fn plus(self, other: Self) -> Self {
        Self {
            dropped: self.dropped + other.dropped,
            delayed: self.delayed + other.delayed,
            overflowed: self.overflowed + other.overflowed,
        }
    }
}

/// Where a datagram leaves the relay.
#[derive(Debug, Clone)]
pub(super) struct Exit {
    pub(super) socket: Arc<UdpSocket>,
    /// `None` if the socket is connected.
    pub(super) to: Option<SocketAddr>,
}

impl Exit {
    async fn send(&self, datagram: &[u8]) -> io::Result<()> {
        let sent = match self.to {
            Some(to) => self.socket.send_to(datagram, to).await,
            None => self.socket.send(datagram).await,
        };
        match sent {
            Err(error) if !nobody_listens(&error) => Err(error),
            // A datagram to a node that is down is lost, as on any network.
            Ok(_) | Err(_) => Ok(()),
        }
    }
}

/// Whether the system tells that an earlier datagram met no socket.
pub(super) fn nobody_listens(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::ConnectionRefused
}

/// One direction between two nodes, on whichever of their connections.
#[derive(Debug)]
pub(super) struct Lane {
    state: Mutex<State>,
    /// Told when a datagram was put aside.
    put_aside: Notify,
}

#[derive(Debug)]
struct State {
    rule: Rule,
    dice: Dice,
    struck: Struck,
    delayed: Delayed<(Exit, Box<[u8]>)>,
}

/// What becomes of a datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Now,
    Never,
    After(Duration),
}

impl Lane {
    pub(super) fn new(seed: u64, way: Way) -> Self {
        let state = State {
            rule: Rule::Pass,
            dice: Dice { seed, way, thrown: 0 },
            struck: Struck::default(),
            delayed: Delayed::default(),
        };
        Self { state: Mutex::new(state), put_aside: Notify::new() }
    }

    /// What is waiting already still leaves at its time.
    pub(super) fn set(&self, rule: Rule) {
        self.state().rule = rule;
    }

    /// Since the relay was started.
    pub(super) fn struck(&self) -> Struck {
        self.state().struck
    }

    /// Sends a datagram on, puts it aside or drops it, as the rule says.
    pub(super) async fn carry(&self, datagram: &[u8], exit: &Exit) -> io::Result<()> {
        let fate = self.state().judge();
        match fate {
            Fate::Now => exit.send(datagram).await?,
            Fate::Never => {}
            Fate::After(wait) => {
                let mut state = self.state();
                match state.delayed.push(Instant::now() + wait, (exit.clone(), datagram.into())) {
                    Ok(()) => state.struck.delayed += 1,
                    Err(_) => state.struck.overflowed += 1,
                }
                drop(state);
                self.put_aside.notify_one();
            }
        }
        Ok(())
    }

    /// Sends what was put aside when its time has come, without end.
    pub(super) async fn release(&self) -> io::Result<()> {
        loop {
            let next_due = self.state().delayed.next_due();
            match next_due {
                None => self.put_aside.notified().await,
                Some(due) => {
                    tokio::select! {
                        () = tokio::time::sleep_until(due.into()) => {}
                        // One that is due earlier may have come.
                        () = self.put_aside.notified() => continue,
                    }
                }
            }
            while let Some((exit, datagram)) = self.pop_due() {
                exit.send(&datagram).await?;
            }
        }
    }

    fn pop_due(&self) -> Option<(Exit, Box<[u8]>)> {
        self.state().delayed.pop_due(Instant::now())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn judge(&mut self) -> Fate {
        let fate = match self.rule {
            Rule::Pass => Fate::Now,
            Rule::Drop => Fate::Never,
            Rule::Delay { ms, jitter_ms } => {
                let jitter_us = self.dice.below(jitter_ms * 1_000 + 1);
                Fate::After(Duration::from_micros(ms * 1_000 + jitter_us))
            }
            Rule::Loss { percent } if self.dice.below(100) < percent => Fate::Never,
            Rule::Loss { .. } => Fate::Now,
        };
        self.struck.dropped += u64::from(fate == Fate::Never);
        fate
    }
}

/// Chance that a seed, a direction and the number of the throw decide.
#[derive(Debug)]
struct Dice {
    seed: u64,
    way: Way,
    thrown: u64,
}

impl Dice {
    /// A number from 0 to `bound` − 1.
    fn below(&mut self, bound: u64) -> u64 {
        let numbers = [self.seed, self.way.from as u64, self.way.to as u64, self.thrown].map(u64::to_le_bytes);
        self.thrown += 1;
        let parts = [&numbers[0][..], &numbers[1], &numbers[2], &numbers[3]];
        let hash = hash_parts(DICE_DOMAIN, &parts);
        let head = u64::from_le_bytes(hash[..8].try_into().expect("eight of 32 bytes"));
        ((u128::from(head) * u128::from(bound)) >> 64) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WAY: Way = Way { from: 0, to: 1 };

    fn fates(seed: u64, way: Way, rule: Rule, count: usize) -> Vec<Fate> {
        let lane = Lane::new(seed, way);
        lane.set(rule);
        let mut state = lane.state();
        (0..count).map(|_| state.judge()).collect()
    }

    #[test]
    fn loss_follows_its_seed_and_direction() {
        let rule = Rule::Loss { percent: 20 };
        let lost = fates(2016, WAY, rule, 1_000);
        assert_eq!(lost, fates(2016, WAY, rule, 1_000));
        assert_ne!(lost, fates(2017, WAY, rule, 1_000));
        assert_ne!(lost, fates(2016, Way { from: 1, to: 0 }, rule, 1_000));
        let never = lost.iter().filter(|fate| **fate == Fate::Never).count();
        assert!((150..250).contains(&never), "{never} of 1,000 at 20 %: the seed decides, so this is always the same");
    }

    #[test]
    fn a_delay_lies_within_its_jitter_and_does_not_stay_the_same() {
        let waits = fates(2016, WAY, Rule::Delay { ms: 100, jitter_ms: 50 }, 200);
        let within = |fate: &Fate| {
            matches!(fate, Fate::After(wait)
                if (Duration::from_millis(100)..=Duration::from_millis(150)).contains(wait))
        };
        assert!(waits.iter().all(within), "{waits:?}");
        assert!(waits.windows(2).any(|pair| pair[0] != pair[1]));
        let steady = fates(2016, WAY, Rule::Delay { ms: 7, jitter_ms: 0 }, 3);
        assert_eq!(steady, [Fate::After(Duration::from_millis(7)); 3]);
    }

    #[test]
    fn what_is_dropped_is_counted_and_what_passes_is_not() {
        let lane = Lane::new(1, WAY);
        lane.set(Rule::Drop);
        assert_eq!((0..3).map(|_| lane.state().judge()).collect::<Vec<_>>(), [Fate::Never; 3]);
        lane.set(Rule::Pass);
        assert_eq!(lane.state().judge(), Fate::Now);
        assert_eq!(lane.struck(), Struck { dropped: 3, ..Struck::default() });
    }
}
