//! BLAKE3 digests with one domain each, so that no digest of one kind can be taken for one of another.

use std::fmt;

/// Hashes `parts` one behind another under `domain`. Domains are of fixed text and none is a prefix of another
/// because each ends in a NUL byte.
pub fn hash_parts(domain: &'static str, parts: &[&[u8]]) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(domain.as_bytes());
    hasher.update(&[0]);
    for part in parts {
        hasher.update(part);
    }
    *hasher.finalize().as_bytes()
}

/// The domain of a tree's hashes, as the key of BLAKE3's keyed mode: unlike a prefix it costs no compression, so a
/// tree node is one compression of 64 bytes.
#[derive(Debug, Clone, Copy)]
pub struct TreeDomain([u8; 32]);

impl TreeDomain {
    /// A domain from its text, at most 31 bytes, filled up with NUL.
    ///
    /// # Panics
    /// If the text is longer: domains are constants, so the build says so.
    pub const fn new(text: &'static str) -> Self {
        let bytes = text.as_bytes();
        assert!(bytes.len() < 32, "a domain has at most 31 bytes");
        let mut key = [0; 32];
        let mut place = 0;
        while place < bytes.len() {
            key[place] = bytes[place];
            place += 1;
        }
        Self(key)
    }

    /// Hashes `bytes` in this domain.
    pub fn hash(&self, bytes: &[u8]) -> [u8; 32] {
        *blake3::keyed_hash(&self.0, bytes).as_bytes()
    }
}

macro_rules! digest {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        pub struct $name(pub [u8; 32]);

        impl $name {
            pub const fn as_bytes(&self) -> &[u8; 32] {
                &self.0
            }

            /// Parses 64 hexadecimal digits, as [`fmt::Display`] writes them.
            pub fn from_hex(text: &str) -> Option<Self> {
                crate::hash::array_from_hex(text).map(Self)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                crate::hash::write_hex(&self.0, f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}(", stringify!($name))?;
                self.0[..6].iter().try_for_each(|byte| write!(f, "{byte:02x}"))?;
                write!(f, "…)")
            }
        }
    };
}
pub(crate) use digest;

digest!(
    /// Names a ledger: the digest of its genesis. Everything signed covers it.
    GenesisId
);
digest!(
    /// Names a payment or transaction: the digest of what its signers signed, without the signatures.
    TransactionId
);
digest!(
    /// Names a batch: the digest of what its author signed.
    BatchDigest
);
digest!(
    /// Names a block: the digest of its header.
    BlockId
);
digest!(
    /// Commits to every account of the ledger after a block.
    StateRoot
);
digest!(
    /// Commits to the receipts of a block, in order.
    ReceiptsRoot
);
digest!(
    /// Commits to the batch digests that a block lists, in order.
    TransactionsRoot
);

/// Writes 64 hexadecimal digits at once: an answer of the API may name a thousand ids.
pub(crate) fn write_hex(bytes: &[u8; 32], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut text = [0; 64];
    for (pair, byte) in text.as_chunks_mut::<2>().0.iter_mut().zip(bytes) {
        *pair = [DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]];
    }
    f.write_str(str::from_utf8(&text).expect("digits are ASCII"))
}

/// Parses exactly `2 * N` hexadecimal digits.
pub fn array_from_hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digits = text.as_bytes();
    if digits.len() != 2 * N {
        return None;
    }
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        let high = char::from(pair[0]).to_digit(16)?;
        let low = char::from(pair[1]).to_digit(16)?;
        *byte = u8::try_from(high * 16 + low).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hex_round_trips_and_refuses_other_text() {
        let id = TransactionId(hash_parts("test", &[b"x"]));
        assert_eq!(TransactionId::from_hex(&id.to_string()), Some(id));
        let each = id.0.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        assert_eq!(id.to_string(), each);
        assert_eq!(TransactionId::from_hex("zz"), None);
        assert_eq!(TransactionId::from_hex(&"g".repeat(64)), None);
        assert_eq!(TransactionId::from_hex(&"é".repeat(32)), None);
    }

    #[test]
    fn tree_domains_separate() {
        let (one, other) = (TreeDomain::new("one"), TreeDomain::new("other"));
        assert_ne!(one.hash(b"x"), other.hash(b"x"));
        assert_ne!(one.hash(b"x"), *blake3::hash(b"x").as_bytes());
    }

    #[test]
    fn domains_separate() {
        assert_ne!(hash_parts("a", &[b"bc"]), hash_parts("ab", &[b"c"]));
    }
}
