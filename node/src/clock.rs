//! The one place where the node reads the wall clock.

use std::time::{SystemTime, UNIX_EPOCH};

use zeni_consensus::Millis;

/// Now. A clock before 1970 reads as 1970: then every payment is refused as too far ahead, and the log says why.
pub fn now() -> Millis {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Millis(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}
