//! Keys in files, and payments signed with them.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use ed25519_dalek::SigningKey;
use zeni_ledger::hash::array_from_hex;
use zeni_ledger::payment::PaymentBody;
use zeni_ledger::{AccountId, Amount, GenesisId, Payment, PublicKey, Sequence, TokenId};

/// Bytes of a key file, at most: 64 digits and an end of line.
const KEY_FILE_BYTES_MAX: u64 = 66;
/// Nobody but the owner may read a key.
const KEY_FILE_MODE: u32 = 0o600;

/// Why a key file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyFileError {
    #[error("{path} exists already; a key file is never overwritten, choose another name")]
    Exists { path: PathBuf },
    #[error("{path} cannot be written: {error}")]
    Write { path: PathBuf, error: io::Error },
    #[error("{path} cannot be read: {error}")]
    Read { path: PathBuf, error: io::Error },
    #[error("{path} is not a key file: it must hold 64 hexadecimal digits")]
    Malformed { path: PathBuf },
    #[error("{path} can be read by others (mode {mode:o}); run: chmod 600 {path}")]
    Exposed { path: PathBuf, mode: u32 },
}

/// An ed25519 key, which is a single-key account.
#[derive(Clone)]
pub struct Key {
    signing: SigningKey,
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Key").field("account", &self.account()).finish_non_exhaustive()
    }
}

/// What a payment says besides who pays.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Order {
    pub network: u32,
    /// Unix seconds.
    pub valid_until: u32,
    pub to: AccountId,
    pub sequence: Sequence,
    pub amount: Amount,
    pub token: TokenId,
    pub reference: [u8; 16],
}

impl Key {
    /// A new key from the system's randomness.
    pub fn generate() -> Self {
        Self::from_seed(&rand::random())
    }

    /// The key of a seed (RFC 8032, section 5.1.5).
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        Self { signing: SigningKey::from_bytes(seed) }
    }

    /// Reads a key file. One that others may read is refused.
    pub fn load(path: &Path) -> Result<Self, KeyFileError> {
        let read_error = |error| KeyFileError::Read { path: path.into(), error };
        let file = File::open(path).map_err(read_error)?;
        let metadata = file.metadata().map_err(read_error)?;
        let mode = metadata.permissions().mode() & 0o777;
        if mode & 0o077 != 0 {
            return Err(KeyFileError::Exposed { path: path.into(), mode });
        }
        if metadata.len() > KEY_FILE_BYTES_MAX {
            return Err(KeyFileError::Malformed { path: path.into() });
        }
        let text = io::read_to_string(file).map_err(|_| KeyFileError::Malformed { path: path.into() })?;
        let seed = array_from_hex(text.trim_end()).ok_or_else(|| KeyFileError::Malformed { path: path.into() })?;
        Ok(Self::from_seed(&seed))
    }

    /// Writes a new key file that only the owner can read, and has it on disk before it returns.
    pub fn save(&self, path: &Path) -> Result<(), KeyFileError> {
        let write_error = |error: io::Error| match error.kind() {
            io::ErrorKind::AlreadyExists => KeyFileError::Exists { path: path.into() },
            _ => KeyFileError::Write { path: path.into(), error },
        };
        let mut options = OpenOptions::new();
        let mut file = options.write(true).create_new(true).mode(KEY_FILE_MODE).open(path).map_err(write_error)?;
        writeln!(file, "{}", hex::encode(self.signing.to_bytes())).map_err(write_error)?;
        file.sync_all().map_err(write_error)
    }

    pub fn account(&self) -> AccountId {
        AccountId(self.signing.verifying_key().to_bytes())
    }

    pub fn public(&self) -> PublicKey {
        PublicKey(self.signing.verifying_key().to_bytes())
    }

    /// The key as transports take it.
    pub fn signing(&self) -> &SigningKey {
        &self.signing
    }

    /// Signs a payment of this key's account in the ledger `genesis`.
    pub fn pay(&self, order: &Order, genesis: &GenesisId) -> Payment {
        let body = PaymentBody {
            network: order.network,
            valid_until: order.valid_until,
            from: self.account(),
            to: order.to,
            sequence: order.sequence,
            amount: order.amount,
            token: order.token,
            flags: 0,
            reference: order.reference,
        };
        body.sign(&self.signing, genesis)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_file_gives_the_same_key_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("alice.key");
        let key = Key::generate();
        key.save(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(Key::load(&path).unwrap().account(), key.account());
    }

    #[test]
    fn a_key_file_is_never_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("alice.key");
        let key = Key::generate();
        key.save(&path).unwrap();
        assert!(matches!(Key::generate().save(&path), Err(KeyFileError::Exists { .. })));
        assert_eq!(Key::load(&path).unwrap().account(), key.account());
    }

    #[test]
    fn a_key_that_others_can_read_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("alice.key");
        Key::generate().save(&path).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        assert!(matches!(Key::load(&path), Err(KeyFileError::Exposed { mode: 0o644, .. })));
    }

    #[test]
    fn other_content_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        for (name, content) in
            [("a", "00".repeat(31)), ("b", "zz".repeat(32)), ("c", "00".repeat(400)), ("d", "\n".into())]
        {
            let path = dir.path().join(name);
            std::fs::write(&path, content).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
            assert!(matches!(Key::load(&path), Err(KeyFileError::Malformed { .. })), "{name}");
        }
        assert!(matches!(Key::load(&dir.path().join("none")), Err(KeyFileError::Read { .. })));
    }

    #[test]
    fn a_payment_verifies_under_its_payers_key() {
        let (key, genesis) = (Key::from_seed(&[1; 32]), GenesisId([2; 32]));
        let order = Order {
            network: 1,
            valid_until: 2,
            to: AccountId([3; 32]),
            sequence: Sequence(4),
            amount: Amount(5),
            token: TokenId(6),
            reference: [7; 16],
        };
        let payment = key.pay(&order, &genesis);
        assert_eq!((payment.from(), payment.to(), payment.amount()), (key.account(), order.to, order.amount));
        let signature = ed25519_dalek::Signature::from_bytes(&payment.signature().0);
        let verified = key.signing().verifying_key().verify_strict(&payment.signed_bytes(&genesis), &signature);
        assert!(verified.is_ok());
    }
}
