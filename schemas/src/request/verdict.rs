//! [`Verdict`]s as structs of 12 bytes, with the ids that some of them name in a list of their own.

use flatbuffers::Vector;
use zeni_consensus::Verdict;
use zeni_consensus::submission::Refusal;
use zeni_ledger::TransactionId;

use crate::error::WireError;
use crate::generated::zeni::wire;
use wire::VerdictCode as Code;

/// Appends to `pending` the id that the verdict names, if it names one.
pub(super) fn encode_verdict(verdict: &Verdict, pending: &mut Vec<wire::Bytes32>) -> wire::Verdict {
    let (code, first, second) = match verdict {
        Verdict::Accepted { copies } => (Code::Accepted, u32::from(*copies), 0),
        Verdict::Known { copies } => (Code::Known, u32::from(*copies), 0),
        Verdict::Refused(refusal) => encode_refusal(refusal, pending),
    };
    wire::Verdict::new(first, second, code)
}

fn encode_refusal(refusal: &Refusal, pending: &mut Vec<wire::Bytes32>) -> (Code, u32, u32) {
    match *refusal {
        Refusal::WrongNetwork { found, expected } => (Code::WrongNetwork, found, expected),
        Refusal::Expired => (Code::Expired, 0, 0),
        Refusal::ValidUntilTooFar { validity_max_s } => (Code::ValidUntilTooFar, validity_max_s, 0),
        Refusal::SequenceUsed => (Code::SequenceUsed, 0, 0),
        Refusal::SequenceOutOfWindow => (Code::SequenceOutOfWindow, 0, 0),
        Refusal::SequencePending { by } => {
            let place = pending.len() as u32;
            pending.push(wire::Bytes32(by.0));
            (Code::SequencePending, place, 0)
        }
        Refusal::UnknownToken => (Code::UnknownToken, 0, 0),
        Refusal::UnknownAccount => (Code::UnknownAccount, 0, 0),
        Refusal::UnknownReceiver => (Code::UnknownReceiver, 0, 0),
        Refusal::ZeroAmount => (Code::ZeroAmount, 0, 0),
        Refusal::ToSelf => (Code::ToSelf, 0, 0),
        Refusal::UnknownFlags { flags } => (Code::UnknownFlags, flags, 0),
        Refusal::BadSignature => (Code::BadSignature, 0, 0),
        Refusal::PendingLimit { limit } => (Code::PendingLimit, u32::from(limit), 0),
        Refusal::Overloaded { retry_after_ms } => (Code::Overloaded, retry_after_ms, 0),
        Refusal::DiskFull => (Code::DiskFull, 0, 0),
    }
}

/// Reads one verdict of a reply whose list of waiting payments is `pending`.
pub(super) fn decode_verdict(
    verdict: &wire::Verdict,
    pending: &Vector<'_, wire::Bytes32>,
) -> Result<Verdict, WireError> {
    let first = verdict.first();
    let refusal = match verdict.code() {
        Code::Accepted => return Ok(Verdict::Accepted { copies: small("copies of a payment", first)? }),
        Code::Known => return Ok(Verdict::Known { copies: small("copies of a payment", first)? }),
        Code::WrongNetwork => Refusal::WrongNetwork { found: first, expected: verdict.second() },
        Code::Expired => Refusal::Expired,
        Code::ValidUntilTooFar => Refusal::ValidUntilTooFar { validity_max_s: first },
        Code::SequenceUsed => Refusal::SequenceUsed,
        Code::SequenceOutOfWindow => Refusal::SequenceOutOfWindow,
        Code::SequencePending => {
            let place = first as usize;
            if place >= pending.len() {
                return Err(WireError::Invalid { what: "place of a waiting payment", found: u64::from(first) });
            }
            Refusal::SequencePending { by: TransactionId(pending.get(place).0) }
        }
        Code::UnknownToken => Refusal::UnknownToken,
        Code::UnknownAccount => Refusal::UnknownAccount,
        Code::UnknownReceiver => Refusal::UnknownReceiver,
        Code::ZeroAmount => Refusal::ZeroAmount,
        Code::ToSelf => Refusal::ToSelf,
        Code::UnknownFlags => Refusal::UnknownFlags { flags: first },
        Code::BadSignature => Refusal::BadSignature,
        Code::PendingLimit => Refusal::PendingLimit { limit: small("limit of waiting payments", first)? },
        Code::Overloaded => Refusal::Overloaded { retry_after_ms: first },
        Code::DiskFull => Refusal::DiskFull,
        other => return Err(WireError::UnknownCode { what: "verdict", found: u32::from(other.0) }),
    };
    Ok(Verdict::Refused(refusal))
}

fn small(what: &'static str, found: u32) -> Result<u16, WireError> {
    u16::try_from(found).map_err(|_| WireError::Invalid { what, found: u64::from(found) })
}
