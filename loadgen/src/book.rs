//! One line for each payment of a storm: sent, accepted, refused, included, final. Fourteen bytes a payment.
//!
//! Submitters and the tracker write to it at the same time, each their own part, so its cells are atomic; nothing else
//! depends on the order in which they are seen.

use std::sync::atomic::{AtomicU16, AtomicU32, AtomicU64, Ordering::Relaxed};

/// Microseconds in one tick, the book's unit of time: 32 bits of them last eleven hours.
pub const TICK_US: u64 = 10;

const SENT: u16 = 1;
const ACCEPTED: u16 = 2;
const REFUSED: u16 = 4;
const FINAL: u16 = 8;
/// Of an overload: an offer of the payment is under way.
const UNDER_WAY: u16 = 16;
/// Of an overload: nobody knows whether an earlier offer was taken.
const UNCERTAIN: u16 = 32;
/// The upper half of a line counts how often the canonical chain lists the payment.
const LISTED_ONE: u16 = 1 << LISTED_SHIFT;
const LISTED_SHIFT: u32 = 8;
const LISTED_MAX: u16 = 255;

/// A moment in ticks from the start of the storm.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Tick(pub u32);

impl Tick {
    /// The tick of a moment in microseconds; moments before the storm count as its start.
    pub fn from_us(us: u64) -> Self {
        Self(u32::try_from(us / TICK_US).unwrap_or(u32::MAX))
    }

    pub fn as_us(self) -> u64 {
        u64::from(self.0) * TICK_US
    }
}

/// The book of a storm's payments.
#[derive(Debug)]
pub struct Book {
    lines: Vec<AtomicU16>,
    intended: Vec<AtomicU32>,
    included: Vec<AtomicU32>,
    finals: Vec<AtomicU32>,
    sent: AtomicU64,
    accepted: AtomicU64,
    refused: AtomicU64,
    in_chain: AtomicU64,
    in_final: AtomicU64,
}

/// How the payments stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Tally {
    pub sent: u64,
    pub accepted: u64,
    pub refused: u64,
    /// In the canonical chain, each payment once.
    pub included: u64,
    /// In a final block, each payment once.
    pub finals: u64,
    /// Acknowledged and not in the canonical chain.
    pub missing: u64,
    /// Acknowledged and in no final block.
    pub unfinal: u64,
    /// Listings of the canonical chain beyond the first of each payment. Only the first is executed.
    pub listed_again: u64,
}

impl Book {
    /// The book of `payments` payments, none of them sent.
    pub fn new(payments: u64) -> Self {
        let count = usize::try_from(payments).expect("a prepared storm fits the address space");
        let zeros = || std::iter::repeat_with(|| AtomicU32::new(0)).take(count).collect();
        let lines = std::iter::repeat_with(|| AtomicU16::new(0)).take(count).collect();
        let zero = || AtomicU64::new(0);
        Self {
            lines,
            intended: zeros(),
            included: zeros(),
            finals: zeros(),
            sent: zero(),
            accepted: zero(),
            refused: zero(),
            in_chain: zero(),
            in_final: zero(),
        }
    }

    /// Payments in the book.
    pub fn len(&self) -> u64 {
        self.lines.len() as u64
    }

    pub fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    /// A payment leaves for the first time. Later calls change nothing.
    pub fn send(&self, index: u64, intended: Tick) {
        let place = index as usize;
        if self.lines[place].fetch_or(SENT, Relaxed) & SENT == 0 {
            self.intended[place].store(intended.0, Relaxed);
            self.sent.fetch_add(1, Relaxed);
        }
    }

    /// A payment is acknowledged. True the first time.
    pub fn accept(&self, index: u64) -> bool {
        let first = self.lines[index as usize].fetch_or(ACCEPTED, Relaxed) & ACCEPTED == 0;
        self.accepted.fetch_add(u64::from(first), Relaxed);
        first
    }

    /// A payment is refused for good.
    pub fn refuse(&self, index: u64) {
        let first = self.lines[index as usize].fetch_or(REFUSED, Relaxed) & REFUSED == 0;
        self.refused.fetch_add(u64::from(first), Relaxed);
    }

    /// Takes a payment to offer it, if it may be offered: nothing of it is under way, and it is neither taken nor refused for
    /// good.
    pub fn take(&self, index: u64) -> bool {
        let line = &self.lines[index as usize];
        let may = line.load(Relaxed) & (UNDER_WAY | ACCEPTED | REFUSED) == 0;
        if may {
            line.fetch_or(UNDER_WAY, Relaxed);
        }
        may
    }

    /// An offer is over: the payment may be offered again, if it may at all.
    pub fn put_back(&self, index: u64) {
        self.lines[index as usize].fetch_and(!UNDER_WAY, Relaxed);
    }

    /// Nobody knows whether an offer of the payment was taken.
    pub fn doubt(&self, index: u64) {
        self.lines[index as usize].fetch_or(UNCERTAIN, Relaxed);
    }

    /// Whether that ever was so.
    pub fn is_uncertain(&self, index: u64) -> bool {
        self.lines[index as usize].load(Relaxed) & UNCERTAIN != 0
    }

    /// Whether a payment is acknowledged, or refused for good.
    pub fn is_settled(&self, index: u64) -> bool {
        self.lines[index as usize].load(Relaxed) & (ACCEPTED | REFUSED) != 0
    }

    /// A canonical block lists the payment. True if it is the chain's first.
    pub fn include(&self, index: u64, at: Tick) -> bool {
        let place = index as usize;
        let listed = self.lines[place].load(Relaxed) >> LISTED_SHIFT;
        assert!(
            listed < LISTED_MAX,
            "payment {index} is listed by {listed} batches of one chain: no run resends so often"
        );
        self.lines[place].fetch_add(LISTED_ONE, Relaxed);
        if listed == 0 {
            self.included[place].store(at.0, Relaxed);
            self.in_chain.fetch_add(1, Relaxed);
        }
        listed == 0
    }

    /// A block that lists the payment is final. Later calls change nothing.
    pub fn finalise(&self, index: u64, at: Tick) {
        let place = index as usize;
        if self.lines[place].fetch_or(FINAL, Relaxed) & FINAL == 0 {
            self.finals[place].store(at.0, Relaxed);
            self.in_final.fetch_add(1, Relaxed);
        }
    }

    /// A block that listed the payment is taken back.
    pub fn exclude(&self, index: u64) {
        let place = index as usize;
        let listed = self.lines[place].load(Relaxed) >> LISTED_SHIFT;
        assert!(listed > 0, "payment {index} was listed by the block that is taken back");
        self.lines[place].fetch_sub(LISTED_ONE, Relaxed);
        if listed == 1 {
            self.in_chain.fetch_sub(1, Relaxed);
        }
    }

    /// When a payment was intended to be sent; `None` if it never was.
    pub fn intended(&self, index: u64) -> Option<Tick> {
        let sent = self.lines[index as usize].load(Relaxed) & SENT != 0;
        sent.then(|| Tick(self.intended[index as usize].load(Relaxed)))
    }

    /// When the canonical chain first listed it; `None` if it does not.
    pub fn included(&self, index: u64) -> Option<Tick> {
        let listed = self.lines[index as usize].load(Relaxed) >> LISTED_SHIFT;
        (listed > 0).then(|| Tick(self.included[index as usize].load(Relaxed)))
    }

    /// When a block that lists it became final; `None` if none is.
    pub fn finalised(&self, index: u64) -> Option<Tick> {
        let is_final = self.lines[index as usize].load(Relaxed) & FINAL != 0;
        is_final.then(|| Tick(self.finals[index as usize].load(Relaxed)))
    }

    /// How many payments are final so far.
    pub fn finals(&self) -> u64 {
        self.in_final.load(Relaxed)
    }

    /// The running counts: sent, accepted, refused, included.
    pub fn counts(&self) -> (u64, u64, u64, u64) {
        let load = |cell: &AtomicU64| cell.load(Relaxed);
        (load(&self.sent), load(&self.accepted), load(&self.refused), load(&self.in_chain))
    }

    /// Reads every line.
    pub fn tally(&self) -> Tally {
        let mut tally = Tally::default();
        for line in &self.lines {
            let line = line.load(Relaxed);
            let listed = u64::from(line >> LISTED_SHIFT);
            tally.sent += u64::from(line & SENT != 0);
            tally.accepted += u64::from(line & ACCEPTED != 0);
            tally.refused += u64::from(line & REFUSED != 0);
            tally.included += u64::from(listed > 0);
            tally.finals += u64::from(line & FINAL != 0);
            tally.missing += u64::from(line & ACCEPTED != 0 && listed == 0);
            tally.unfinal += u64::from(line & ACCEPTED != 0 && line & FINAL == 0);
            tally.listed_again += listed.saturating_sub(1);
        }
        tally
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_payment_goes_its_way() {
        let book = Book::new(3);
        book.send(1, Tick(5));
        book.send(1, Tick(9));
        assert!(book.accept(1));
        assert!(!book.accept(1));
        assert_eq!(book.tally().missing, 1);
        assert!(book.include(1, Tick(20)));
        assert_eq!((book.intended(1), book.included(1), book.intended(0)), (Some(Tick(5)), Some(Tick(20)), None));
        let expected = Tally { sent: 1, accepted: 1, included: 1, unfinal: 1, ..Tally::default() };
        assert_eq!((book.tally(), book.counts()), (expected, (1, 1, 0, 1)));
        book.finalise(1, Tick(30));
        book.finalise(1, Tick(40));
        assert_eq!((book.finalised(1), book.finalised(0), book.finals()), (Some(Tick(30)), None, 1));
        assert_eq!(book.tally(), Tally { finals: 1, unfinal: 0, ..expected });
    }

    #[test]
    fn a_payment_taken_back_is_missing_until_it_returns() {
        let book = Book::new(1);
        book.send(0, Tick(0));
        book.accept(0);
        book.include(0, Tick(1));
        book.exclude(0);
        assert_eq!((book.tally().missing, book.included(0)), (1, None));
        book.include(0, Tick(7));
        assert_eq!((book.tally().missing, book.included(0)), (0, Some(Tick(7))));
    }

    #[test]
    fn a_payment_listed_twice_is_counted_once_and_told() {
        let book = Book::new(1);
        book.include(0, Tick(1));
        assert!(!book.include(0, Tick(2)));
        assert_eq!((book.tally().included, book.tally().listed_again), (1, 1));
        book.exclude(0);
        assert_eq!((book.tally().included, book.tally().listed_again), (1, 0));
    }
}
