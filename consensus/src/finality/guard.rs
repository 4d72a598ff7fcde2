//! The last line of defence against signing twice: what was signed last, and that only rises.
//!
//! The engine with its log never signs twice; the guard does not rely on it. Within a decision rounds rise, and within a
//! round come proposal, prevote and precommit, one of each. Whatever is not above the last signature, or exactly that
//! one again, is refused.

use zeni_ledger::encoding::{DecodeError, Decoder, Encoder};

/// The steps of a round in the order in which a validator signs in them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    Propose,
    Prevote,
    Precommit,
}

/// Something signed: where, and the digest that was signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Signed {
    pub decision: u64,
    pub round: u32,
    pub step: Step,
    pub digest: [u8; 32],
}

/// What was signed last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Guard {
    last: Option<Signed>,
}

/// A signature that was refused because it could be a second one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "refused to sign {asked:?} in decision {decision}, round {round}: decision {last_decision}, round {last_round} was signed up to {last_step:?}"
)]
pub struct SignsTwice {
    pub decision: u64,
    pub round: u32,
    pub asked: Step,
    pub last_decision: u64,
    pub last_round: u32,
    pub last_step: Step,
}

impl Signed {
    const fn place(&self) -> (u64, u32, Step) {
        (self.decision, self.round, self.step)
    }
}

impl Guard {
    /// A guard that knows what was signed last.
    pub const fn after(last: Option<Signed>) -> Self {
        Self { last }
    }

    /// What was signed last; to be on disk before the signature leaves.
    pub const fn last(&self) -> Option<Signed> {
        self.last
    }

    /// Whether this guard knows of everything that the other one knows of.
    pub fn covers(&self, other: &Self) -> bool {
        match (&self.last, &other.last) {
            (_, None) => true,
            (None, Some(_)) => false,
            (Some(mine), Some(theirs)) => mine == theirs || mine.place() > theirs.place(),
        }
    }

    /// Whether something was signed in a later decision than this.
    pub fn is_above(&self, decision: u64) -> bool {
        self.last.is_some_and(|last| last.decision > decision)
    }

    /// A guard that allows everything behind `decision`, and nothing up to it.
    pub const fn behind(decision: u64) -> Self {
        Self::after(Some(Signed { decision, round: u32::MAX, step: Step::Precommit, digest: [0; 32] }))
    }

    /// Allows a signature and notes it.
    ///
    /// # Errors
    /// It is not above the last one, nor the very same.
    pub fn allow(&mut self, asked: Signed) -> Result<(), SignsTwice> {
        match &self.last {
            Some(last) if *last != asked && last.place() >= asked.place() => Err(SignsTwice {
                decision: asked.decision,
                round: asked.round,
                asked: asked.step,
                last_decision: last.decision,
                last_round: last.round,
                last_step: last.step,
            }),
            _ => {
                self.last = Some(asked);
                Ok(())
            }
        }
    }

    /// Writes presence u8, and decision u64, round u32, step u8 and digest 32 if there is one.
    pub fn encode(&self, encoder: &mut Encoder) {
        encoder.u8(self.last.is_some().into());
        if let Some(last) = &self.last {
            encoder.u64(last.decision).u32(last.round).u8(last.step as u8).raw(&last.digest);
        }
    }

    /// Reads what [`Self::encode`] writes.
    ///
    /// # Errors
    /// Bytes that it does not write.
    pub fn decode(decoder: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        match decoder.u8()? {
            0 => return Ok(Self::default()),
            1 => {}
            found => return Err(DecodeError::Invalid { what: "presence of a last signature", found: found.into() }),
        }
        let (decision, round) = (decoder.u64()?, decoder.u32()?);
        let step = match decoder.u8()? {
            0 => Step::Propose,
            1 => Step::Prevote,
            2 => Step::Precommit,
            found => return Err(DecodeError::Invalid { what: "step of a last signature", found: found.into() }),
        };
        Ok(Self::after(Some(Signed { decision, round, step, digest: decoder.array()? })))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn signed(decision: u64, round: u32, step: Step, digest: u8) -> Signed {
        Signed { decision, round, step, digest: [digest; 32] }
    }

    #[test]
    fn signatures_only_rise_and_the_last_may_be_given_again() {
        let mut guard = Guard::default();
        for (decision, round, step) in
            [(3, 0, Step::Propose), (3, 0, Step::Precommit), (3, 2, Step::Prevote), (4, 0, Step::Prevote)]
        {
            assert_eq!(guard.allow(signed(decision, round, step, 1)), Ok(()));
            assert_eq!(guard.allow(signed(decision, round, step, 1)), Ok(()), "the very same");
            assert!(guard.allow(signed(decision, round, step, 2)).is_err(), "another at the same place");
        }
        for below in [(4, 0, Step::Propose), (3, 9, Step::Precommit), (0, 0, Step::Propose)] {
            assert!(guard.allow(signed(below.0, below.1, below.2, 1)).is_err(), "{below:?}");
        }
        assert_eq!(guard.last(), Some(signed(4, 0, Step::Prevote, 1)), "a refusal changes nothing");
    }

    #[test]
    fn bytes_round_trip() {
        for guard in [Guard::default(), Guard::after(Some(signed(7, 1, Step::Precommit, 9)))] {
            let mut encoder = Encoder::default();
            guard.encode(&mut encoder);
            let bytes = encoder.finish();
            let mut decoder = Decoder::new(&bytes);
            assert_eq!(Guard::decode(&mut decoder), Ok(guard));
            assert_eq!(decoder.remaining(), 0);
            for length in 0..bytes.len() {
                assert!(Guard::decode(&mut Decoder::new(&bytes[..length])).is_err());
            }
        }
    }
}
