//! What must hold of any bytes at all, one function for each parser: no panic, and whatever is accepted is written
//! again as the same bytes. The fuzz targets in `fuzz/` run these functions too.
//!
//! Each function returns whether it accepted the bytes.

use zeni_consensus::Evidence;
use zeni_consensus::finality::{FinalityMessage, LogEntry};
use zeni_consensus::snapshot::Manifest;

pub fn finality_message(bytes: &[u8]) -> bool {
    let Ok(message) = FinalityMessage::from_bytes(bytes) else { return false };
    assert_eq!(message.to_bytes(), bytes);
    true
}

pub fn evidence(bytes: &[u8]) -> bool {
    let Ok(evidence) = Evidence::from_bytes(bytes) else { return false };
    assert_eq!(evidence.to_bytes(), bytes);
    true
}

pub fn snapshot_manifest(bytes: &[u8]) -> bool {
    let Ok(manifest) = Manifest::from_bytes(bytes) else { return false };
    assert_eq!(manifest.to_bytes(), bytes);
    true
}

pub fn finality_log_entry(bytes: &[u8]) -> bool {
    let Ok(entry) = LogEntry::from_bytes(bytes) else { return false };
    assert_eq!(entry.to_bytes(), bytes);
    true
}
