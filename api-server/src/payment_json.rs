//! Payments between JSON and their 176 bytes.

use serde::Deserialize;
use serde_json::{Value, json};
use zeni_ledger::hash::array_from_hex;
use zeni_ledger::payment::{PAYMENT_BYTES, PaymentBody};
use zeni_ledger::{AccountId, Amount, Payment, Sequence, SignatureBytes, TokenId};

use crate::problem::Problem;
use crate::rfc3339;

/// Bytes of the longest JSON body of one payment.
pub const PAYMENT_JSON_BYTES_MAX: usize = 4_096;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Whole {
    payment: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Fields {
    network: u32,
    valid_until: String,
    from: String,
    to: String,
    sequence: String,
    amount: String,
    token: u32,
    #[serde(default)]
    flags: u32,
    #[serde(default)]
    reference: Option<String>,
    signature: String,
}

/// Reads a payment from the body of a submission: `{"payment": 352 hexadecimal digits}`, or its fields.
pub fn parse_payment(body: &[u8]) -> Result<Payment, Problem> {
    let value: Value = serde_json::from_slice(body).map_err(not_json)?;
    if value.get("payment").is_some() {
        let whole: Whole = serde_json::from_value(value).map_err(not_json)?;
        return parse_hex(&whole.payment);
    }
    let fields: Fields = serde_json::from_value(value).map_err(not_json)?;
    from_fields(&fields)
}

fn not_json(error: serde_json::Error) -> Problem {
    Problem::malformed(format!("the body is not the JSON of a payment: {error}"))
}

fn parse_hex(text: &str) -> Result<Payment, Problem> {
    if text.len() != 2 * PAYMENT_BYTES {
        let detail = format!(
            "a payment has {PAYMENT_BYTES} bytes, {} hexadecimal digits; this has {}",
            2 * PAYMENT_BYTES,
            text.len()
        );
        return Err(Problem::wrong_length(detail));
    }
    let bytes = array_from_hex(text).ok_or_else(|| bad_field("payment", "hexadecimal digits"))?;
    Ok(Payment::from_bytes(bytes))
}

fn from_fields(fields: &Fields) -> Result<Payment, Problem> {
    let valid_until = rfc3339::parse_s(&fields.valid_until).and_then(|seconds| u32::try_from(seconds).ok());
    let body = PaymentBody {
        network: fields.network,
        valid_until: valid_until
            .ok_or_else(|| bad_field("valid_until", "a moment like 2026-01-31T12:00:00Z, at most in 2106"))?,
        from: account("from", &fields.from)?,
        to: account("to", &fields.to)?,
        sequence: Sequence(decimal("sequence", &fields.sequence)?),
        amount: Amount(decimal("amount", &fields.amount)?),
        token: TokenId(fields.token),
        flags: fields.flags,
        reference: match &fields.reference {
            None => [0; 16],
            Some(text) => array_from_hex(text).ok_or_else(|| bad_field("reference", "32 hexadecimal digits"))?,
        },
    };
    let signature =
        array_from_hex(&fields.signature).ok_or_else(|| bad_field("signature", "128 hexadecimal digits"))?;
    Ok(body.with_signature(SignatureBytes(signature)))
}

fn account(field: &'static str, text: &str) -> Result<AccountId, Problem> {
    text.parse().map_err(|error| Problem::malformed(format!("{field}: {error}")).with("field", field))
}

/// A decimal string of digits alone: JSON numbers lose precision above 2^53, so they are not taken.
fn decimal(field: &'static str, text: &str) -> Result<u64, Problem> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let value = digits.then(|| text.parse().ok()).flatten();
    value.ok_or_else(|| bad_field(field, "a decimal string of minor units from \"0\" to \"18446744073709551615\""))
}

fn bad_field(field: &'static str, expected: &str) -> Problem {
    Problem::malformed(format!("{field} must be {expected}")).with("field", field)
}

/// Reads concatenated payments of a bulk submission in place.
pub fn parse_bulk(body: &[u8], payments_max: usize) -> Result<&[Payment], Problem> {
    let payments = Payment::slice_from_bytes(body).filter(|payments| !payments.is_empty()).ok_or_else(|| {
        let detail = format!("the body has {} bytes, which is not a positive multiple of {PAYMENT_BYTES}", body.len());
        Problem::wrong_length(detail)
    })?;
    if payments.len() > payments_max {
        let detail = format!("{} payments in one call; send at most {payments_max}", payments.len());
        return Err(Problem::too_large(detail));
    }
    Ok(payments)
}

/// The fields of a payment for people and programs.
pub fn payment_json(payment: &Payment) -> Value {
    json!({
        "network": payment.network(),
        "valid_until": rfc3339::format_s(payment.valid_until()),
        "from": payment.from().to_string(),
        "to": payment.to().to_string(),
        "sequence": payment.sequence().0.to_string(),
        "amount": payment.amount().0.to_string(),
        "token": payment.token().0,
        "flags": payment.flags(),
        "reference": hex::encode(payment.body().reference),
        "signature": hex::encode(payment.signature().0),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn payment() -> Payment {
        let body = PaymentBody {
            network: 7,
            valid_until: 1_800_000_000,
            from: AccountId([1; 32]),
            to: AccountId([2; 32]),
            sequence: Sequence(u64::MAX),
            amount: Amount((1 << 53) + 1),
            token: TokenId(3),
            flags: 0,
            reference: [4; 16],
        };
        body.with_signature(SignatureBytes([5; 64]))
    }

    fn code(body: &str) -> (&'static str, Option<String>) {
        let problem = parse_payment(body.as_bytes()).unwrap_err();
        let field = problem.members.get("field").and_then(|field| field.as_str().map(String::from));
        (problem.code, field)
    }

    #[test]
    fn a_payment_survives_its_json() {
        let text = payment_json(&payment()).to_string();
        assert_eq!(parse_payment(text.as_bytes()), Ok(payment()));
        let text = json!({ "payment": hex::encode(payment().as_bytes()) }).to_string();
        assert_eq!(parse_payment(text.as_bytes()), Ok(payment()));
    }

    #[test]
    fn every_truncation_of_the_json_is_a_typed_error() {
        let text = payment_json(&payment()).to_string();
        for length in 0..text.len() {
            assert_eq!(parse_payment(&text.as_bytes()[..length]).unwrap_err().code, "malformed");
        }
    }

    #[test]
    fn hex_of_another_length_or_alphabet_is_refused() {
        let digits = hex::encode(payment().as_bytes());
        assert_eq!(code(&json!({ "payment": digits[2..] }).to_string()).0, "wrong_length");
        assert_eq!(code(&json!({ "payment": format!("{digits}00") }).to_string()).0, "wrong_length");
        assert_eq!(code(&json!({ "payment": digits.replace('0', "g") }).to_string()).0, "malformed");
        assert_eq!(code(&json!({ "payment": digits, "extra": 1 }).to_string()).0, "malformed");
    }

    #[test]
    fn each_bad_field_is_named() {
        for (field, bad) in [
            ("valid_until", json!("2027-01-15")),
            ("valid_until", json!("2200-01-15T00:00:00Z")),
            ("from", json!("zeni1qqq")),
            ("to", json!(hex::encode([2; 32]))),
            ("sequence", json!("-1")),
            ("amount", json!("1.5")),
            ("amount", json!("")),
            ("amount", json!("18446744073709551616")),
            ("amount", json!("+1")),
            ("reference", json!("00")),
            ("signature", json!("00")),
        ] {
            let mut value = payment_json(&payment());
            value[field] = bad;
            assert_eq!(code(&value.to_string()), ("malformed", Some(field.into())));
        }
    }

    #[test]
    fn numbers_for_amounts_missing_and_unknown_fields_are_refused() {
        let mut number = payment_json(&payment());
        number["amount"] = json!(5);
        assert_eq!(code(&number.to_string()).0, "malformed");
        let mut missing = payment_json(&payment());
        missing.as_object_mut().unwrap().remove("to");
        assert_eq!(code(&missing.to_string()).0, "malformed");
        let mut unknown = payment_json(&payment());
        unknown["tip"] = json!("1");
        assert_eq!(code(&unknown.to_string()).0, "malformed");
        assert_eq!(code("[]").0, "malformed");
    }

    #[test]
    fn bulk_bytes_are_read_in_place_and_bounded() {
        let payments = vec![payment(); 3];
        let bytes = Payment::slice_as_bytes(&payments);
        assert_eq!(parse_bulk(bytes, 3), Ok(&payments[..]));
        assert_eq!(parse_bulk(bytes, 2).unwrap_err().code, "too_large");
        assert_eq!(parse_bulk(&bytes[1..], 3).unwrap_err().code, "wrong_length");
        assert_eq!(parse_bulk(&[], 3).unwrap_err().code, "wrong_length");
    }
}
