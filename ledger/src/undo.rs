//! How to take a block back: every account that it touched, as it was before.

use crate::account::Account;
use crate::encoding::{DecodeError, Decoder, Encoder};

/// Accounts that one undo record holds, at most: two for each payment of the largest block.
pub const UNDO_ACCOUNTS_MAX: usize = 2 * crate::block::BLOCK_BATCHES_LIMIT * crate::batch::BATCH_PAYMENTS_MAX;

/// The accounts that a block changed, each once, as they were before it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Undo {
    pub accounts: Vec<Account>,
}

impl Undo {
    /// The canonical bytes: accounts u32, then each.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut encoder = Encoder::with_capacity(self.bytes_about());
        self.encode(&mut encoder);
        encoder.finish()
    }

    /// About how many bytes [`Self::encode`] writes.
    pub fn bytes_about(&self) -> usize {
        4 + self.accounts.len() * 80
    }

    /// Writes the canonical bytes.
    pub fn encode(&self, encoder: &mut Encoder) {
        encoder.u32(self.accounts.len() as u32);
        for account in &self.accounts {
            account.encode(encoder);
        }
    }

    pub fn from_bytes(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut decoder = Decoder::new(bytes);
        let count = decoder.count("accounts of an undo record", UNDO_ACCOUNTS_MAX)?;
        // An account takes at least 58 bytes, so a false count cannot make us allocate more than the input's length.
        let mut accounts = Vec::with_capacity(count.min(decoder.remaining() / 58));
        for _ in 0..count {
            accounts.push(Account::decode(&mut decoder)?);
        }
        decoder.finish()?;
        Ok(Self { accounts })
    }
}
