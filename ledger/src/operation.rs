//! What a leg of a general transaction asks for. Defined and pinned in bytes now; executed in a later version.
//!
//! Canonical bytes: a tag u8, then the fields in the order of this file; an unknown tag is refused. What is wrong with
//! the bytes themselves (counts, order, unknown tags) is refused here; what is wrong with the request (no such account,
//! zero amount, no right to act) is for execution to reject, with a receipt.
//!
//! | tag | operation | fields |
//! |---|---|---|
//! | 1 | transfer | to 32, token u32, amount u64, reference 16 |
//! | 2 | hold | to 32, settler 32, token u32, amount u64, expires u32, condition, reference 16 |
//! | 3 | settle | hold 32, amount u64, preimage |
//! | 4 | account | kind u8: 1 open (id 32, policy, window u32), 2 keys (policy), 3 window (u32) |
//! | 5 | token | kind u8: 1 define (token u32, issuer 32, decimals u8, symbol), 2 hand over (token u32, issuer 32) |
//!
//! Condition and preimage: 0, or 1 and 32 bytes. Policy: threshold u32, keys u8, then key 32 and weight u16 of each.
//! Symbol: length u8, then that many bytes.

use std::fmt;

use crate::amount::{Amount, TokenId};
use crate::encoding::{DecodeError, Decoder, Encoder};
use crate::hash::{TransactionId, digest, hash_parts};
use crate::identity::{AccountId, PublicKey};
use crate::window::WINDOW_WIDTH;

/// Keys of one account, at most.
pub const POLICY_KEYS_MAX: usize = 16;
/// Sequences that an account's window may hold, at most; the least is the default of 128.
pub const WINDOW_WIDTH_MAX: u32 = 65_536;
/// Bytes of a token's symbol, at most.
pub const SYMBOL_BYTES_MAX: usize = 16;
/// Digits behind the point of a token, at most.
pub const DECIMALS_MAX: u8 = 18;
/// Bytes of the largest encoded operation: opening an account with all the keys it may have.
pub const OPERATION_BYTES_MAX: usize = 1 + 1 + 32 + (4 + 1 + POLICY_KEYS_MAX * 34) + 4;

const HOLD_DOMAIN: &str = "zeni hold v1";

digest!(
    /// Names a hold: the digest of the transaction and the leg that made it.
    HoldId
);

impl HoldId {
    /// The hold that leg `leg` of `transaction` makes.
    pub fn of(transaction: &TransactionId, leg: u16) -> Self {
        Self(hash_parts(HOLD_DOMAIN, &[&transaction.0, &leg.to_le_bytes()]))
    }
}

/// What one leg asks for, in the name of its account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Operation {
    /// Pays at once. Mints if the issuer of the token pays, burns if it is paid.
    Transfer { to: AccountId, token: TokenId, amount: Amount, reference: [u8; 16] },
    /// Sets money aside for `to`, until it is settled or expires.
    Hold(Hold),
    /// Ends a hold: `amount` goes to its receiver and the rest back to its payer (0: all of it goes back).
    Settle { hold: HoldId, amount: Amount, preimage: Option<[u8; 32]> },
    /// Opens an account or changes the acting one.
    Account(AccountChange),
    /// Defines a token or hands it over.
    Token(TokenChange),
}

/// Money set aside: a card's authorisation, an escrow, or one half of an exchange with another ledger.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hold {
    pub to: AccountId,
    /// Who may settle it: the receiver, the payer or a third account.
    pub settler: AccountId,
    pub token: TokenId,
    pub amount: Amount,
    /// Unix seconds; in blocks with a later slot time it goes back to its payer.
    pub expires: u32,
    /// If set, paying out of it needs the 32-byte preimage of this SHA-256 digest.
    pub condition: Option<[u8; 32]>,
    pub reference: [u8; 16],
}

/// A change of accounts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AccountChange {
    /// Opens the account `id`, which may be any 32 bytes that no account has yet.
    Open { id: AccountId, policy: KeyPolicy, window: WindowWidth },
    /// Replaces the keys of the acting account; those left out are retired.
    Keys(KeyPolicy),
    /// Changes how many sequences the acting account may use ahead of its lowest unused one.
    Window(WindowWidth),
}

/// How many sequences a window holds: 128 to 65,536.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WindowWidth(u32);

/// Who may act for an account: any of its keys whose weights reach the threshold together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyPolicy {
    threshold: u32,
    keys: Vec<(PublicKey, u16)>,
}

/// A change of tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TokenChange {
    Define {
        token: TokenId,
        issuer: AccountId,
        decimals: Decimals,
        symbol: Symbol,
    },
    /// Makes `issuer` the issuer of the token.
    HandOver {
        token: TokenId,
        issuer: AccountId,
    },
}

/// Digits behind the point when people read amounts of a token: 0 to 18.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Decimals(u8);

/// A token's short name: 1 to 16 visible ASCII characters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Symbol(String);

impl WindowWidth {
    pub fn new(width: u32) -> Result<Self, DecodeError> {
        match (WINDOW_WIDTH..=u64::from(WINDOW_WIDTH_MAX)).contains(&u64::from(width)) {
            true => Ok(Self(width)),
            false => Err(DecodeError::Invalid { what: "width of a window", found: width.into() }),
        }
    }

    pub fn get(self) -> u32 {
        self.0
    }
}

impl Decimals {
    pub fn new(decimals: u8) -> Result<Self, DecodeError> {
        match decimals {
            0..=DECIMALS_MAX => Ok(Self(decimals)),
            _ => Err(DecodeError::Invalid { what: "decimals of a token", found: decimals.into() }),
        }
    }

    pub fn get(self) -> u8 {
        self.0
    }
}

impl Symbol {
    pub fn new(symbol: &str) -> Result<Self, DecodeError> {
        if symbol.is_empty() || symbol.len() > SYMBOL_BYTES_MAX {
            return Err(DecodeError::Invalid { what: "length of a token's symbol", found: symbol.len() as u64 });
        }
        match symbol.bytes().find(|byte| !byte.is_ascii_graphic()) {
            Some(byte) => Err(DecodeError::Invalid { what: "character of a token's symbol", found: byte.into() }),
            None => Ok(Self(symbol.into())),
        }
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl KeyPolicy {
    /// Keys rise strictly, every weight is positive and all of them together reach the threshold.
    pub fn new(threshold: u32, keys: Vec<(PublicKey, u16)>) -> Result<Self, DecodeError> {
        if keys.is_empty() || keys.len() > POLICY_KEYS_MAX {
            let (found, limit) = (keys.len() as u64, POLICY_KEYS_MAX as u64);
            return Err(DecodeError::OverLimit {
                what: "keys of an account (of which it has one at least)",
                found,
                limit,
            });
        }
        if let Some(place) = keys.windows(2).position(|pair| pair[0].0 >= pair[1].0) {
            return Err(DecodeError::Invalid { what: "order of an account's keys at", found: place as u64 + 1 });
        }
        if let Some(place) = keys.iter().position(|(_, weight)| *weight == 0) {
            return Err(DecodeError::Invalid { what: "weight 0 of an account's key at", found: place as u64 });
        }
        let weight: u32 = keys.iter().map(|(_, weight)| u32::from(*weight)).sum();
        if threshold == 0 || threshold > weight {
            return Err(DecodeError::Invalid { what: "threshold of an account's keys", found: threshold.into() });
        }
        Ok(Self { threshold, keys })
    }

    /// The weight that acting needs.
    pub fn threshold(&self) -> u32 {
        self.threshold
    }

    /// Keys and their weights, by rising key.
    pub fn keys(&self) -> &[(PublicKey, u16)] {
        &self.keys
    }

    fn encode(&self, encoder: &mut Encoder) {
        encoder.u32(self.threshold).u8(self.keys.len() as u8);
        for (key, weight) in &self.keys {
            encoder.raw(&key.0).u16(*weight);
        }
    }

    fn decode(decoder: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        let (threshold, count) = (decoder.u32()?, usize::from(decoder.u8()?));
        if count > POLICY_KEYS_MAX {
            let (found, limit) = (count as u64, POLICY_KEYS_MAX as u64);
            return Err(DecodeError::OverLimit { what: "keys of an account", found, limit });
        }
        let keys = (0..count).map(|_| Ok((PublicKey(decoder.array()?), decoder.u16()?)));
        Self::new(threshold, keys.collect::<Result<_, DecodeError>>()?)
    }
}

impl Operation {
    /// Appends the canonical bytes.
    pub fn encode(&self, encoder: &mut Encoder) {
        match self {
            Self::Transfer { to, token, amount, reference } => {
                encoder.u8(1).raw(&to.0).u32(token.0).u64(amount.0).raw(reference);
            }
            Self::Hold(hold) => {
                encoder.u8(2).raw(&hold.to.0).raw(&hold.settler.0).u32(hold.token.0).u64(hold.amount.0);
                encoder.u32(hold.expires);
                encode_optional(hold.condition.as_ref(), encoder);
                encoder.raw(&hold.reference);
            }
            Self::Settle { hold, amount, preimage } => {
                encoder.u8(3).raw(&hold.0).u64(amount.0);
                encode_optional(preimage.as_ref(), encoder);
            }
            Self::Account(change) => {
                encoder.u8(4);
                change.encode(encoder);
            }
            Self::Token(change) => {
                encoder.u8(5);
                change.encode(encoder);
            }
        }
    }

    /// Reads one operation; refuses what [`Self::encode`] never writes.
    pub fn decode(decoder: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        Ok(match decoder.u8()? {
            1 => Self::Transfer {
                to: AccountId(decoder.array()?),
                token: TokenId(decoder.u32()?),
                amount: Amount(decoder.u64()?),
                reference: decoder.array()?,
            },
            2 => Self::Hold(Hold {
                to: AccountId(decoder.array()?),
                settler: AccountId(decoder.array()?),
                token: TokenId(decoder.u32()?),
                amount: Amount(decoder.u64()?),
                expires: decoder.u32()?,
                condition: decode_optional(decoder)?,
                reference: decoder.array()?,
            }),
            3 => Self::Settle {
                hold: HoldId(decoder.array()?),
                amount: Amount(decoder.u64()?),
                preimage: decode_optional(decoder)?,
            },
            4 => Self::Account(AccountChange::decode(decoder)?),
            5 => Self::Token(TokenChange::decode(decoder)?),
            found => return Err(DecodeError::Invalid { what: "tag of an operation", found: found.into() }),
        })
    }
}

impl AccountChange {
    fn encode(&self, encoder: &mut Encoder) {
        match self {
            Self::Open { id, policy, window } => {
                encoder.u8(1).raw(&id.0);
                policy.encode(encoder);
                encoder.u32(window.0);
            }
            Self::Keys(policy) => {
                encoder.u8(2);
                policy.encode(encoder);
            }
            Self::Window(width) => {
                encoder.u8(3).u32(width.0);
            }
        }
    }

    fn decode(decoder: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        Ok(match decoder.u8()? {
            1 => Self::Open {
                id: AccountId(decoder.array()?),
                policy: KeyPolicy::decode(decoder)?,
                window: WindowWidth::new(decoder.u32()?)?,
            },
            2 => Self::Keys(KeyPolicy::decode(decoder)?),
            3 => Self::Window(WindowWidth::new(decoder.u32()?)?),
            found => return Err(DecodeError::Invalid { what: "kind of an account operation", found: found.into() }),
        })
    }
}

impl TokenChange {
    fn encode(&self, encoder: &mut Encoder) {
        match self {
            Self::Define { token, issuer, decimals, symbol } => {
                encoder.u8(1).u32(token.0).raw(&issuer.0).u8(decimals.0);
                encoder.u8(symbol.0.len() as u8).raw(symbol.0.as_bytes());
            }
            Self::HandOver { token, issuer } => {
                encoder.u8(2).u32(token.0).raw(&issuer.0);
            }
        }
    }

    fn decode(decoder: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        let kind = decoder.u8()?;
        if !matches!(kind, 1 | 2) {
            return Err(DecodeError::Invalid { what: "kind of a token operation", found: kind.into() });
        }
        let (token, issuer) = (TokenId(decoder.u32()?), AccountId(decoder.array()?));
        if kind == 2 {
            return Ok(Self::HandOver { token, issuer });
        }
        let (decimals, length) = (Decimals::new(decoder.u8()?)?, usize::from(decoder.u8()?));
        let text = std::str::from_utf8(decoder.raw(length)?).map_err(|error| DecodeError::Invalid {
            what: "symbol of a token at byte",
            found: error.valid_up_to() as u64,
        })?;
        Ok(Self::Define { token, issuer, decimals, symbol: Symbol::new(text)? })
    }
}

fn encode_optional(bytes: Option<&[u8; 32]>, encoder: &mut Encoder) {
    encoder.u8(bytes.is_some().into());
    if let Some(bytes) = bytes {
        encoder.raw(bytes);
    }
}

fn decode_optional(decoder: &mut Decoder<'_>) -> Result<Option<[u8; 32]>, DecodeError> {
    match decoder.u8()? {
        0 => Ok(None),
        1 => Ok(Some(decoder.array()?)),
        found => Err(DecodeError::Invalid { what: "presence of a condition or preimage", found: found.into() }),
    }
}
