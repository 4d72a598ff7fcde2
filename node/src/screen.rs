//! The cheap refusals: what a payment's bytes alone say, before any signature is checked.

use zeni_consensus::{Millis, Refusal};
use zeni_ledger::execute::{Validity, validity};
use zeni_ledger::genesis::Rules;
use zeni_ledger::payment::KNOWN_FLAGS;
use zeni_ledger::{Amount, Payment};

/// Refuses a payment that no node could ever execute now, whatever the state holds.
///
/// The clock stands for the slot time of the next block; execution decides by that slot time alone.
pub fn screen(payment: &Payment, rules: &Rules, now: Millis) -> Result<(), Refusal> {
    if payment.network() != rules.network {
        return Err(Refusal::WrongNetwork { found: payment.network(), expected: rules.network });
    }
    let flags = payment.flags() & !KNOWN_FLAGS;
    if flags != 0 {
        return Err(Refusal::UnknownFlags { flags });
    }
    if payment.amount() == Amount(0) {
        return Err(Refusal::ZeroAmount);
    }
    if payment.from() == payment.to() {
        return Err(Refusal::ToSelf);
    }
    if !rules.tokens.contains_key(&payment.token()) {
        return Err(Refusal::UnknownToken);
    }
    match validity(payment, rules, now.0) {
        Validity::Valid => Ok(()),
        Validity::Expired => Err(Refusal::Expired),
        Validity::TooFar => Err(Refusal::ValidUntilTooFar { validity_max_s: rules.validity_max_s }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;
    use zeni_ledger::genesis::Token;
    use zeni_ledger::payment::PaymentBody;
    use zeni_ledger::{AccountId, Sequence, SignatureBytes, TokenId};

    const NOW: Millis = Millis(1_000_000_000);

    fn rules() -> Rules {
        let token = Token { symbol: "JPY".into(), decimals: 0, issuer: AccountId([9; 32]) };
        Rules { network: 7, validity_max_s: 100, tokens: BTreeMap::from([(TokenId(1), token)]) }
    }

    fn body() -> PaymentBody {
        PaymentBody {
            network: 7,
            valid_until: 1_000_050,
            from: AccountId([1; 32]),
            to: AccountId([2; 32]),
            sequence: Sequence(0),
            amount: Amount(1),
            token: TokenId(1),
            flags: 0,
            reference: [0; 16],
        }
    }

    fn screened(body: PaymentBody) -> Result<(), Refusal> {
        screen(&body.with_signature(SignatureBytes([0; 64])), &rules(), NOW)
    }

    #[test]
    fn each_fault_has_its_own_refusal() {
        assert_eq!(screened(body()), Ok(()));
        let faults = [
            (PaymentBody { network: 8, ..body() }, Refusal::WrongNetwork { found: 8, expected: 7 }),
            (PaymentBody { flags: 4, ..body() }, Refusal::UnknownFlags { flags: 4 }),
            (PaymentBody { amount: Amount(0), ..body() }, Refusal::ZeroAmount),
            (PaymentBody { to: body().from, ..body() }, Refusal::ToSelf),
            (PaymentBody { token: TokenId(2), ..body() }, Refusal::UnknownToken),
            (PaymentBody { valid_until: 999_999, ..body() }, Refusal::Expired),
            (PaymentBody { valid_until: 1_000_101, ..body() }, Refusal::ValidUntilTooFar { validity_max_s: 100 }),
        ];
        for (fault, refusal) in faults {
            assert_eq!(screened(fault), Err(refusal));
        }
    }

    #[test]
    fn the_last_valid_second_is_taken() {
        assert_eq!(screened(PaymentBody { valid_until: 1_000_000, ..body() }), Ok(()));
        assert_eq!(screened(PaymentBody { valid_until: 1_000_100, ..body() }), Ok(()));
    }
}
