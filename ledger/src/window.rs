//! Which sequences of an account are still unused: `next` is the lowest of them, a bitmap marks the used ones above.
//!
//! Only sequences in `next ..= next + 127` are executable. So a payer may send 128 payments in any order and each of
//! them is executed at most once, for ever, in constant memory. (A wider window, up to 65,536, is a setting of an
//! account that comes with the `Account` operation.)

use crate::amount::Sequence;

/// Sequences that a window holds.
pub const WINDOW_WIDTH: u64 = 128;

/// Why a sequence is not executable now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SequenceError {
    /// It was used before, by whatever transaction.
    #[error("the sequence is used")]
    Used,
    /// It lies beyond the window.
    #[error("the sequence is beyond the window of {WINDOW_WIDTH} from the lowest unused one")]
    OutOfWindow,
}

/// The sequence window of one account.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Window {
    next: u64,
    /// Bit i marks sequence `next + i` as used; bit 0 is always clear. Two words keep the alignment at 8.
    used: [u64; 2],
}

impl Window {
    /// Rebuilds a window from its stored parts; `None` if bit 0 is set (no window looks like that).
    pub fn from_parts(next: Sequence, used: u128) -> Option<Self> {
        (used & 1 == 0).then_some(Self { next: next.0, used: [used as u64, (used >> 64) as u64] })
    }

    /// The lowest unused sequence.
    pub fn next(&self) -> Sequence {
        Sequence(self.next)
    }

    /// Bit i tells whether `next + i` is used.
    pub fn used_bits(&self) -> u128 {
        u128::from(self.used[0]) | u128::from(self.used[1]) << 64
    }

    /// Whether `sequence` may be used now.
    pub fn check(&self, sequence: Sequence) -> Result<(), SequenceError> {
        let Some(offset) = sequence.0.checked_sub(self.next) else { return Err(SequenceError::Used) };
        if offset >= WINDOW_WIDTH {
            return Err(SequenceError::OutOfWindow);
        }
        match self.used_bits() >> offset & 1 {
            0 => Ok(()),
            _ => Err(SequenceError::Used),
        }
    }

    /// Marks `sequence` as used and moves `next` to the lowest unused one.
    pub fn use_up(&mut self, sequence: Sequence) -> Result<(), SequenceError> {
        self.check(sequence)?;
        let used = self.used_bits() | 1u128 << (sequence.0 - self.next);
        let advance = used.trailing_ones();
        // The last sequence of all leaves no lower unused one to stand at; it stays out of reach.
        let Some(next) = self.next.checked_add(u64::from(advance)) else { return Err(SequenceError::OutOfWindow) };
        let used = used.checked_shr(advance).unwrap_or(0);
        *self = Self { next, used: [used as u64, (used >> 64) as u64] };
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    #[test]
    fn rejects_a_spent_sequence() {
        let mut window = Window::default();
        assert_eq!(window.use_up(Sequence(0)), Ok(()));
        assert_eq!(window.use_up(Sequence(0)), Err(SequenceError::Used));
        assert_eq!(window.next(), Sequence(1));
    }

    #[test]
    fn takes_sequences_in_any_order_and_closes_the_gap() {
        let mut window = Window::default();
        for sequence in (1..128).rev() {
            assert_eq!(window.use_up(Sequence(sequence)), Ok(()));
            assert_eq!(window.next(), Sequence(0));
        }
        assert_eq!(window.use_up(Sequence(128)), Err(SequenceError::OutOfWindow));
        assert_eq!(window.use_up(Sequence(0)), Ok(()));
        assert_eq!(window.next(), Sequence(128));
        assert_eq!(window.used_bits(), 0);
    }

    #[test]
    fn the_end_of_the_number_line_is_not_an_overflow() {
        let mut window = Window::from_parts(Sequence(u64::MAX), 0).unwrap();
        assert_eq!(window.use_up(Sequence(u64::MAX)), Err(SequenceError::OutOfWindow));
        assert_eq!(window.use_up(Sequence(u64::MAX - 1)), Err(SequenceError::Used));
    }

    proptest! {
        /// Against the obvious model: a set of all used sequences.
        #[test]
        fn agrees_with_a_set(sequences in prop::collection::vec(0u64..300, 0..400)) {
            let (mut window, mut model) = (Window::default(), BTreeSet::new());
            for sequence in sequences {
                let next = (0..).find(|candidate| !model.contains(candidate)).unwrap();
                let expected = if model.contains(&sequence) {
                    Err(SequenceError::Used)
                } else if sequence >= next + WINDOW_WIDTH {
                    Err(SequenceError::OutOfWindow)
                } else {
                    model.insert(sequence);
                    Ok(())
                };
                prop_assert_eq!(window.use_up(Sequence(sequence)), expected);
            }
        }
    }
}
