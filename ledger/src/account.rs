//! What the ledger remembers of one account: which sequences it used and what it holds.

use crate::amount::{Balance, Sequence, TokenId};
use crate::encoding::{DecodeError, Decoder, Encoder};
use crate::identity::AccountId;
use crate::window::Window;

/// Tokens that one account can hold, at most.
pub const HOLDINGS_MAX: usize = 1_024;
/// Bytes of the largest encoded account.
pub const ACCOUNT_BYTES_MAX: usize = 32 + 24 + 4 + HOLDINGS_MAX * 20;

/// One account. Millions are in memory, so the first holding sits inside and only further ones are allocated.
#[derive(Debug, Clone)]
pub struct Account {
    id: AccountId,
    window: Window,
    /// The lowest token held; a zero balance means that none is.
    first_balance: Balance,
    first_token: TokenId,
    /// Which entry of which execution it has, if it has one ([`crate::execute`]). Not part of its value.
    pub(crate) mark: u32,
    /// Further holdings by rising token, none zero. Boxed twice, so that the usual account spends 8 bytes on it.
    #[allow(clippy::box_collection)]
    further: Option<Box<Vec<(TokenId, Balance)>>>,
}

impl PartialEq for Account {
    fn eq(&self, other: &Self) -> bool {
        self.id == other.id && self.window == other.window && self.holdings().eq(other.holdings())
    }
}

impl Eq for Account {}

impl Account {
    /// An account that holds nothing and used no sequence.
    pub fn new(id: AccountId) -> Self {
        Self {
            id,
            window: Window::default(),
            first_balance: Balance::ZERO,
            first_token: TokenId(0),
            mark: 0,
            further: None,
        }
    }

    pub fn id(&self) -> AccountId {
        self.id
    }

    pub fn window(&self) -> &Window {
        &self.window
    }

    pub fn window_mut(&mut self) -> &mut Window {
        &mut self.window
    }

    /// The lowest unused sequence.
    pub fn next_sequence(&self) -> Sequence {
        self.window.next()
    }

    /// What it holds of `token`; zero if nothing.
    pub fn balance(&self, token: TokenId) -> Balance {
        if self.first_token == token {
            return self.first_balance;
        }
        self.holdings().find(|(held, _)| *held == token).map_or(Balance::ZERO, |(_, balance)| balance)
    }

    /// Every token that it holds, rising, with a balance that is not zero.
    pub fn holdings(&self) -> impl Iterator<Item = (TokenId, Balance)> + '_ {
        let first = (self.first_balance != Balance::ZERO).then_some((self.first_token, self.first_balance));
        first.into_iter().chain(self.further.iter().flat_map(|further| further.iter().copied()))
    }

    /// Sets what it holds of `token`. False, and nothing changes, if that would be one token too many.
    #[must_use]
    pub fn set_balance(&mut self, token: TokenId, balance: Balance) -> bool {
        let alone = self.further.is_none();
        if alone && (self.first_token == token || self.first_balance == Balance::ZERO) {
            (self.first_token, self.first_balance) = (token, balance);
            return true;
        }
        let mut holdings: Vec<(TokenId, Balance)> = self.holdings().filter(|(held, _)| *held != token).collect();
        if balance != Balance::ZERO {
            if holdings.len() == HOLDINGS_MAX {
                return false;
            }
            let place = holdings.partition_point(|(held, _)| *held < token);
            holdings.insert(place, (token, balance));
        }
        self.set_holdings(holdings);
        true
    }

    fn set_holdings(&mut self, mut holdings: Vec<(TokenId, Balance)>) {
        (self.first_token, self.first_balance) = match holdings.is_empty() {
            true => (TokenId(0), Balance::ZERO),
            false => holdings.remove(0),
        };
        holdings.shrink_to_fit();
        self.further = (!holdings.is_empty()).then(|| Box::new(holdings));
    }

    /// The canonical bytes of everything but the id, as the state tree hashes them: next u64, used u128, holdings
    /// u16, then token u32 and balance i128 of each.
    pub fn encode_content(&self, encoder: &mut Encoder) {
        encoder.u64(self.window.next().0).u128(self.window.used_bits());
        encoder.u16(self.holdings().count() as u16);
        for (token, balance) in self.holdings() {
            encoder.u32(token.0).i128(balance.units());
        }
    }

    /// The canonical bytes: the id, then the content.
    pub fn encode(&self, encoder: &mut Encoder) {
        encoder.raw(&self.id.0);
        self.encode_content(encoder);
    }

    /// Reads one account; refuses what [`Self::encode`] never writes.
    pub fn decode(decoder: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        let id = AccountId(decoder.array()?);
        Self::decode_content(id, decoder)
    }

    /// Reads the content of account `id`.
    pub fn decode_content(id: AccountId, decoder: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        let (next, used) = (decoder.u64()?, decoder.u128()?);
        let window = Window::from_parts(Sequence(next), used)
            .ok_or(DecodeError::Invalid { what: "used bit of the next sequence", found: 1 })?;
        let count = usize::from(decoder.u16()?);
        if count > HOLDINGS_MAX {
            let (found, limit) = (count as u64, HOLDINGS_MAX as u64);
            return Err(DecodeError::OverLimit { what: "holdings of an account", found, limit });
        }
        let mut holdings: Vec<(TokenId, Balance)> = Vec::with_capacity(count);
        for _ in 0..count {
            let (token, balance) = (TokenId(decoder.u32()?), Balance::new(decoder.i128()?));
            let rising = holdings.last().is_none_or(|(before, _)| *before < token);
            if !rising || balance == Balance::ZERO {
                return Err(DecodeError::Invalid { what: "holding of an account", found: u64::from(token.0) });
            }
            holdings.push((token, balance));
        }
        let mut account = Self { window, ..Self::new(id) };
        account.set_holdings(holdings);
        Ok(account)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn bytes(account: &Account) -> Vec<u8> {
        let mut encoder = Encoder::default();
        account.encode(&mut encoder);
        encoder.finish()
    }

    #[test]
    fn an_entry_stays_small() {
        assert_eq!(size_of::<Account>(), 88);
    }

    #[test]
    fn an_emptied_account_encodes_like_one_that_never_held_anything() {
        let mut account = Account::new(AccountId([1; 32]));
        assert!(account.set_balance(TokenId(9), Balance::new(5)));
        assert!(account.set_balance(TokenId(9), Balance::ZERO));
        assert_eq!(bytes(&account), bytes(&Account::new(AccountId([1; 32]))));
    }

    #[test]
    fn holdings_out_of_order_or_zero_are_refused() {
        let mut account = Account::new(AccountId([1; 32]));
        assert!(account.set_balance(TokenId(1), Balance::new(5)) && account.set_balance(TokenId(2), Balance::new(6)));
        let good = bytes(&account);
        let mut swapped = good.clone();
        swapped[58] = 3;
        assert!(Account::decode(&mut Decoder::new(&swapped)).is_err());
        let mut zero = good.clone();
        zero[62] = 0;
        assert!(Account::decode(&mut Decoder::new(&zero)).is_err());
        assert_eq!(Account::decode(&mut Decoder::new(&good)), Ok(account));
    }

    proptest! {
        #[test]
        fn holdings_agree_with_a_map(changes in prop::collection::vec((0u32..6, -3i128..4), 0..60)) {
            let (mut account, mut model) = (Account::new(AccountId([1; 32])), BTreeMap::new());
            for (token, units) in changes {
                prop_assert!(account.set_balance(TokenId(token), Balance::new(units)));
                if units == 0 { model.remove(&TokenId(token)); } else { model.insert(TokenId(token), Balance::new(units)); }
                let held: Vec<_> = account.holdings().collect();
                let expected: Vec<_> = model.iter().map(|(token, balance)| (*token, *balance)).collect();
                prop_assert_eq!(held, expected);
                for token in (0..6).map(TokenId) {
                    prop_assert_eq!(account.balance(token), model.get(&token).copied().unwrap_or(Balance::ZERO));
                }
                prop_assert_eq!(Account::decode(&mut Decoder::new(&bytes(&account))), Ok(account.clone()));
            }
        }
    }
}
