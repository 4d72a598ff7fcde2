//! Money and counters. There is no `From<u64>`: whoever makes an amount says that it is one.

use std::fmt;

/// A quantity of one token in its smallest unit, as a payment moves it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Amount(pub u64);

/// What an account holds of one token. Only an issuer's balance of its own token is ever negative.
///
/// Stored as bytes so that an account entry needs no 16-byte alignment (there are millions of them in memory).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Balance([u8; 16]);

/// Names a token of this ledger.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct TokenId(pub u32);

/// The number that a payer gives a payment, used at most once for ever.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Sequence(pub u64);

impl Amount {
    pub fn checked_add(self, other: Self) -> Option<Self> {
        self.0.checked_add(other.0).map(Self)
    }
}

impl Balance {
    pub const ZERO: Self = Self([0; 16]);

    pub const fn new(units: i128) -> Self {
        Self(units.to_le_bytes())
    }

    /// The balance in the token's smallest unit.
    pub const fn units(self) -> i128 {
        i128::from_le_bytes(self.0)
    }

    pub fn checked_add(self, amount: Amount) -> Option<Self> {
        self.units().checked_add(i128::from(amount.0)).map(Self::new)
    }

    pub fn checked_sub(self, amount: Amount) -> Option<Self> {
        self.units().checked_sub(i128::from(amount.0)).map(Self::new)
    }

    pub const fn is_negative(self) -> bool {
        self.units() < 0
    }
}

impl PartialOrd for Balance {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Balance {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.units().cmp(&other.units())
    }
}

impl fmt::Debug for Balance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Balance({})", self.units())
    }
}

impl fmt::Display for Balance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.units().fmt(f)
    }
}

impl fmt::Display for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for TokenId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for Sequence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_balance_never_wraps() {
        assert_eq!(Balance::new(i128::MAX).checked_add(Amount(1)), None);
        assert_eq!(Balance::new(i128::MIN).checked_sub(Amount(1)), None);
        assert_eq!(Balance::new(-3).checked_add(Amount(5)), Some(Balance::new(2)));
    }

    #[test]
    fn balances_are_ordered_by_value_and_not_by_bytes() {
        assert!(Balance::new(-1) < Balance::ZERO);
        assert!(Balance::new(255) < Balance::new(256));
    }
}
