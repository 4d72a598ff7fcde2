//! The key file: the validator's ed25519 seed (RFC 8032) in 64 hexadecimal digits.

use std::path::{Path, PathBuf};

use ed25519_dalek::SigningKey;
use zeni_ledger::PublicKey;

/// Bytes of a key file that are read, at most: digits and some white space.
const KEY_FILE_BYTES_MAX: u64 = 256;

/// Why a key file is refused. The text never holds a part of the key.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    #[error("cannot read the key file {path}: {error}")]
    Read { path: PathBuf, error: std::io::Error },
    #[error("the key file {path} must hold an ed25519 seed in 64 hexadecimal digits and nothing else")]
    NotAKey { path: PathBuf },
}

/// Reads the signing key of this validator.
pub fn load(path: &Path) -> Result<SigningKey, KeyError> {
    let read = |error| KeyError::Read { path: path.to_owned(), error };
    let length = std::fs::metadata(path).map_err(read)?.len();
    if length > KEY_FILE_BYTES_MAX {
        return Err(KeyError::NotAKey { path: path.to_owned() });
    }
    let bytes = std::fs::read(path).map_err(read)?;
    let seed = std::str::from_utf8(&bytes).ok().and_then(|text| zeni_ledger::hash::array_from_hex(text.trim()));
    seed.map(|seed| SigningKey::from_bytes(&seed)).ok_or_else(|| KeyError::NotAKey { path: path.to_owned() })
}

/// The public half, as genesis names it.
pub fn public(key: &SigningKey) -> PublicKey {
    PublicKey(key.verifying_key().to_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load_text(text: &[u8]) -> Result<SigningKey, KeyError> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("key");
        std::fs::write(&path, text).unwrap();
        load(&path)
    }

    #[test]
    fn reads_64_digits_and_a_line_end() {
        let key = load_text(format!("{}\n", "07".repeat(32)).as_bytes()).unwrap();
        assert_eq!(key.to_bytes(), [7; 32]);
    }

    #[test]
    fn refuses_anything_else_without_repeating_it() {
        for text in [&b""[..], b"secret", &[0xff; 64], &[b'a'; 63], &[b'a'; 300]] {
            let error = load_text(text).unwrap_err();
            assert!(matches!(error, KeyError::NotAKey { .. }), "{error}");
            assert!(!error.to_string().contains("secret"), "{error}");
        }
    }
}
