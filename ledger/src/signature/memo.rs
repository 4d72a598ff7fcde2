//! Verdicts that this thread gave before, for simulations in which many nodes of one process check the same signatures.
//!
//! Off in every thread until it holds a [`Memo`], which nothing but the simulator does (`xtask/tests/dependencies.rs` looks);
//! elsewhere it costs one read of a thread-local. A verdict is found by the hash of all that it depends on, so one from the
//! memo is the one that [`super::verify`] would give.

#![allow(clippy::disallowed_types, reason = "it is never iterated")]

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::marker::PhantomData;

use super::Claim;

/// Verdicts that are kept, at most; then all are forgotten.
const VERDICTS_MAX: usize = 1 << 16;

thread_local! {
    static VERDICTS: RefCell<Option<BTreeMap<[u8; 32], bool>>> = const { RefCell::new(None) };
}

/// While this lives, its thread gives each verdict once.
#[derive(Debug)]
pub struct Memo {
    /// It belongs to the thread that made it.
    _thread: PhantomData<*const ()>,
}

impl Memo {
    /// Begins with no verdicts.
    ///
    /// # Panics
    /// If this thread has a memo.
    #[must_use = "verdicts are forgotten when it is dropped"]
    pub fn begin() -> Self {
        let before = VERDICTS.replace(Some(BTreeMap::new()));
        assert!(before.is_none(), "a thread has one memo of verdicts");
        Self { _thread: PhantomData }
    }
}

impl Drop for Memo {
    fn drop(&mut self) {
        VERDICTS.set(None);
    }
}

/// The verdict on a claim: from the memo, if this thread has one and it is there; otherwise by `check`.
pub(super) fn verdict(claim: &Claim<'_>, check: impl FnOnce() -> bool) -> bool {
    VERDICTS.with_borrow_mut(|verdicts| match verdicts {
        None => check(),
        Some(verdicts) => {
            if verdicts.len() >= VERDICTS_MAX {
                verdicts.clear();
            }
            *verdicts.entry(name(claim)).or_insert_with(check)
        }
    })
}

/// What this thread signed holds, and need not be checked.
pub(super) fn signed(claim: &Claim<'_>) {
    VERDICTS.with_borrow_mut(|verdicts| {
        if let Some(verdicts) = verdicts {
            verdicts.insert(name(claim), true);
        }
    });
}

/// Key and signature have fixed lengths, so no two claims are hashed alike.
fn name(claim: &Claim<'_>) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&claim.key.0).update(&claim.signature.0).update(claim.message);
    hasher.finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{PublicKey, SignatureBytes};

    fn claims() -> [Claim<'static>; 4] {
        let claim = Claim { key: PublicKey([1; 32]), message: b"pay", signature: SignatureBytes([2; 64]) };
        let (key, message, signature) = (PublicKey([3; 32]), b"paz", SignatureBytes([4; 64]));
        [claim, Claim { key, ..claim }, Claim { message, ..claim }, Claim { signature, ..claim }]
    }

    #[test]
    fn without_a_memo_every_claim_is_checked_each_time() {
        let mut checked = 0;
        for claim in claims().iter().chain(&claims()) {
            verdict(claim, || {
                checked += 1;
                true
            });
        }
        assert_eq!(checked, 8);
    }

    #[test]
    fn what_was_signed_here_holds_and_nothing_like_it_does() {
        let key = ed25519_dalek::SigningKey::from_bytes(&[7; 32]);
        let _memo = Memo::begin();
        let signature = super::super::sign(&key, b"pay");
        let claim = Claim { key: PublicKey(key.verifying_key().to_bytes()), message: b"pay", signature };
        assert!(verdict(&claim, || panic!("it was signed here")));
        assert!(!super::super::verify(&Claim { message: b"paz", ..claim }));
    }

    #[test]
    fn with_a_memo_each_claim_is_checked_once_and_keeps_its_own_verdict() {
        let memo = Memo::begin();
        for (place, claim) in claims().iter().enumerate() {
            assert_eq!(verdict(claim, || place % 2 == 0), place % 2 == 0);
        }
        for (place, claim) in claims().iter().enumerate() {
            assert_eq!(verdict(claim, || panic!("it was checked before")), place % 2 == 0);
        }
        drop(memo);
        assert!(!verdict(&claims()[0], || false), "the memo is gone");
        let _memo = Memo::begin();
        assert!(!verdict(&claims()[0], || false), "a new memo begins empty");
    }
}
