//! Who acts: accounts, keys and validators.

use std::fmt;
use std::str::FromStr;

use bech32::primitives::decode::CheckedHrpstring;
use bech32::{Bech32m, Hrp};

use crate::hash::digest;

/// The human-readable part of an account's text form.
const ACCOUNT_HRP: Hrp = Hrp::parse_unchecked("zeni");

/// Names an account: of a single-key account it is the ed25519 public key itself.
///
/// People read and type it as bech32m (BIP-350) with the prefix `zeni`, whose checksum catches typing errors.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct AccountId(pub [u8; 32]);

/// Why text does not name an account.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AccountIdError {
    #[error("an account is written in bech32m and begins with zeni1: {0}")]
    Checksum(String),
    #[error("an account's text begins with {found}1 instead of zeni1")]
    Prefix { found: String },
    #[error("an account has 32 bytes, the text holds {found}")]
    Length { found: usize },
}

impl FromStr for AccountId {
    type Err = AccountIdError;

    fn from_str(text: &str) -> Result<Self, AccountIdError> {
        let checked =
            CheckedHrpstring::new::<Bech32m>(text).map_err(|error| AccountIdError::Checksum(error.to_string()))?;
        if checked.hrp() != ACCOUNT_HRP {
            return Err(AccountIdError::Prefix { found: checked.hrp().to_string() });
        }
        let bytes: Vec<u8> = checked.byte_iter().collect();
        let found = bytes.len();
        Ok(Self(bytes.try_into().map_err(|_| AccountIdError::Length { found })?))
    }
}

impl fmt::Display for AccountId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        bech32::encode_to_fmt::<Bech32m, _>(f, ACCOUNT_HRP, &self.0).map_err(|_| fmt::Error)
    }
}

impl fmt::Debug for AccountId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

digest!(
    /// The 32 bytes of an ed25519 public key (RFC 8032), not yet decompressed.
    PublicKey
);

/// The 64 bytes of an ed25519 signature (RFC 8032): R, then s.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct SignatureBytes(pub [u8; 64]);

impl fmt::Debug for SignatureBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SignatureBytes(")?;
        self.0[..4].iter().try_for_each(|byte| write!(f, "{byte:02x}"))?;
        write!(f, "…)")
    }
}

/// A validator's place in the genesis list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ValidatorIndex(pub u16);

impl ValidatorIndex {
    pub const fn as_usize(self) -> usize {
        self.0 as usize
    }
}

impl fmt::Display for ValidatorIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn account_text_round_trips() {
        let account = AccountId([7; 32]);
        let text = account.to_string();
        assert!(text.starts_with("zeni1"), "{text}");
        assert_eq!(text.parse(), Ok(account));
    }

    #[test]
    fn one_wrong_character_is_caught() {
        let text = AccountId([7; 32]).to_string();
        let position = text.len() - 3;
        let wrong = if text.as_bytes()[position] == b'q' { "p" } else { "q" };
        let mut typo = text;
        typo.replace_range(position..=position, wrong);
        assert!(matches!(typo.parse::<AccountId>(), Err(AccountIdError::Checksum(_))));
    }

    #[test]
    fn another_prefix_or_length_is_refused() {
        let other = bech32::encode::<Bech32m>(Hrp::parse_unchecked("yen"), &[1; 32]).unwrap();
        assert_eq!(other.parse::<AccountId>(), Err(AccountIdError::Prefix { found: "yen".into() }));
        let short = bech32::encode::<Bech32m>(ACCOUNT_HRP, &[1; 31]).unwrap();
        assert_eq!(short.parse::<AccountId>(), Err(AccountIdError::Length { found: 31 }));
    }
}
