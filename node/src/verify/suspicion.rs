//! Which connections sent a bad signature lately.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::verify::job::JOB_SIGNATURES_MAX;

/// Good signatures, in works without a bad one, after which a connection is no longer suspicious: four full jobs. So a
/// bad signature among everybody's costs its sender four jobs that cost nobody else.
pub const CLEAN_SIGNATURES_MIN: usize = 4 * JOB_SIGNATURES_MAX;

/// Marks a connection that sent a bad signature: for a while its work is verified apart from everyone else's, so that
/// the cost of finding its bad signatures is not theirs. It does not last for ever, because an API server has one
/// connection for all its users, and any of them can sign badly.
#[derive(Debug, Clone, Default)]
pub struct Suspicion(Arc<AtomicUsize>);

impl Suspicion {
    /// A bad signature was found.
    pub fn raise(&self) {
        self.0.store(CLEAN_SIGNATURES_MIN, Ordering::Relaxed);
    }

    /// Work with this many signatures was good.
    pub fn allay(&self, signatures: usize) {
        let less = |left: usize| (left > 0).then(|| left.saturating_sub(signatures));
        // An error says that nothing was left: there is no suspicion.
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less).ok();
    }

    pub fn is_raised(&self) -> bool {
        self.0.load(Ordering::Relaxed) > 0
    }
}

/// Two handles are equal if they belong to one connection.
impl PartialEq for Suspicion {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for Suspicion {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suspicion_ends_after_enough_good_signatures_and_begins_anew_with_a_bad_one() {
        let suspicion = Suspicion::default();
        assert!(!suspicion.is_raised());
        suspicion.raise();
        suspicion.allay(CLEAN_SIGNATURES_MIN - 1);
        assert!(suspicion.is_raised());
        suspicion.raise();
        suspicion.allay(1);
        assert!(suspicion.is_raised(), "the good ones before the last bad one count no more");
        suspicion.allay(CLEAN_SIGNATURES_MIN);
        assert!(!suspicion.is_raised());
    }

    #[test]
    fn good_signatures_are_no_credit_for_bad_ones() {
        let suspicion = Suspicion::default();
        suspicion.allay(1_000_000);
        suspicion.raise();
        assert!(suspicion.is_raised());
    }
}
