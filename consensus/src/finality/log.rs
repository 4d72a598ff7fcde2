//! What the engine must find again after a crash: its write-ahead log of the running decision.
//!
//! Canonical bytes of an entry: a tag u8 (0 proposal, 1 vote, 2 polka, 3 timeout, 4 verdict, 5 start), then its fields. A storage
//! layer frames and hashes entries; here only their content is fixed.

use zeni_ledger::encoding::{DecodeError, Decoder, Encoder};
use zeni_ledger::{FinalBlock, ValidatorIndex};

use super::message::{PolkaCertificate, SignedProposal, SignedVote, decode_round, encode_round};

/// Which of its own timers ran out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum LoggedTimeout {
    Propose,
    Prevote,
    Precommit,
}

/// One entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LogEntry {
    /// A proposal that was taken, this validator's own included.
    Proposal(SignedProposal),
    /// A vote that was taken, this validator's own included.
    Vote(SignedVote),
    Polka(PolkaCertificate),
    Timeout {
        round: u32,
        timeout: LoggedTimeout,
    },
    /// What this node found out about a proposed block.
    Verdict {
        decision: u64,
        round: u32,
        valid_round: Option<u32>,
        proposer: ValidatorIndex,
        block: FinalBlock,
        valid: bool,
    },
    /// The decision began, with nothing behind it: what stands before this in the log is not to be replayed. Written by
    /// whoever owns the engine.
    Start,
}

impl LogEntry {
    /// The canonical bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut encoder = Encoder::with_capacity(160);
        match self {
            Self::Proposal(signed) => signed.encode(encoder.u8(0)),
            Self::Vote(signed) => signed.encode(encoder.u8(1)),
            Self::Polka(certificate) => certificate.encode(encoder.u8(2)),
            Self::Timeout { round, timeout } => {
                encoder.u8(3).u32(*round).u8(*timeout as u8);
            }
            Self::Verdict { decision, round, valid_round, proposer, block, valid } => {
                encoder.u8(4).u64(*decision).u32(*round);
                encode_round(*valid_round, &mut encoder);
                encoder.u16(proposer.0);
                block.encode(&mut encoder);
                encoder.u8((*valid).into());
            }
            Self::Start => {
                encoder.u8(5);
            }
        }
        encoder.finish()
    }

    /// Parses canonical bytes.
    ///
    /// # Errors
    /// Bytes that [`Self::to_bytes`] does not write.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut decoder = Decoder::new(bytes);
        let entry = match decoder.u8()? {
            0 => Self::Proposal(SignedProposal::decode(&mut decoder)?),
            1 => Self::Vote(SignedVote::decode(&mut decoder)?),
            2 => Self::Polka(PolkaCertificate::decode(&mut decoder)?),
            3 => Self::Timeout { round: decoder.u32()?, timeout: decode_timeout(&mut decoder)? },
            4 => {
                let (decision, round) = (decoder.u64()?, decoder.u32()?);
                let valid_round = decode_round(&mut decoder)?;
                let proposer = ValidatorIndex(decoder.u16()?);
                let block = FinalBlock::decode(&mut decoder)?;
                let valid = match decoder.u8()? {
                    0 => false,
                    1 => true,
                    found => return Err(DecodeError::Invalid { what: "verdict of a log entry", found: found.into() }),
                };
                Self::Verdict { decision, round, valid_round, proposer, block, valid }
            }
            5 => Self::Start,
            found => return Err(DecodeError::Invalid { what: "tag of a finality log entry", found: found.into() }),
        };
        decoder.finish()?;
        Ok(entry)
    }
}

fn decode_timeout(decoder: &mut Decoder<'_>) -> Result<LoggedTimeout, DecodeError> {
    match decoder.u8()? {
        0 => Ok(LoggedTimeout::Propose),
        1 => Ok(LoggedTimeout::Prevote),
        2 => Ok(LoggedTimeout::Precommit),
        found => Err(DecodeError::Invalid { what: "timeout of a log entry", found: found.into() }),
    }
}

#[cfg(test)]
mod tests {
    use zeni_ledger::BlockId;
    use zeni_ledger::finality::{FinalityProposal, FinalityVote, VoteKind};
    use zeni_ledger::{SignatureBytes, ValidatorIndex};

    use super::*;
    use crate::finality::message::SignedVote;

    #[test]
    fn bytes_round_trip_and_no_truncation_or_extension_is_read() {
        let block = FinalBlock { id: BlockId([7; 32]), height: 12 };
        let (validator, signature) = (ValidatorIndex(2), SignatureBytes([5; 64]));
        let proposal = FinalityProposal { decision: 3, round: 1, valid_round: Some(0), block };
        let vote = FinalityVote { kind: VoteKind::Prevote, decision: 3, round: 1, block: None };
        let verdict = |valid_round, valid| LogEntry::Verdict {
            decision: 3,
            round: 1,
            valid_round,
            proposer: validator,
            block,
            valid,
        };
        let entries = [
            LogEntry::Proposal(SignedProposal { proposer: validator, proposal, signature }),
            LogEntry::Vote(SignedVote { voter: validator, vote, signature }),
            LogEntry::Polka(PolkaCertificate {
                decision: 3,
                round: 0,
                block,
                signatures: vec![(validator, signature)],
            }),
            LogEntry::Timeout { round: 0, timeout: LoggedTimeout::Propose },
            LogEntry::Timeout { round: 1, timeout: LoggedTimeout::Prevote },
            LogEntry::Timeout { round: u32::MAX, timeout: LoggedTimeout::Precommit },
            verdict(None, true),
            verdict(Some(0), false),
            LogEntry::Start,
        ];
        for entry in entries {
            let bytes = entry.to_bytes();
            assert_eq!(LogEntry::from_bytes(&bytes).as_ref(), Ok(&entry));
            for length in 0..bytes.len() {
                assert!(LogEntry::from_bytes(&bytes[..length]).is_err(), "{length} bytes of {entry:?}");
            }
            assert!(LogEntry::from_bytes(&[&bytes[..], &[0]].concat()).is_err(), "a byte behind {entry:?}");
        }
    }
}
