//! The parsers of finality against random bytes behind every tag: the part of fuzzing that runs with every test. That
//! valid bytes are read, and cut ones are not, stands beside the parsers.

#[expect(unreachable_pub, reason = "the fuzz targets use the same functions from their own crate")]
mod checks;

use proptest::prelude::*;

/// Small numbers where counts and tags stand, anything elsewhere.
fn bytes() -> impl Strategy<Value = Vec<u8>> {
    let byte = prop_oneof![3 => 0u8..4, 1 => any::<u8>()];
    (0u8..6, prop::collection::vec(byte, 0..600)).prop_map(|(tag, rest)| [vec![tag], rest].concat())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 5_000, ..ProptestConfig::default() })]

    #[test]
    fn a_message_survives_any_bytes(bytes in bytes()) {
        checks::finality_message(&bytes);
    }

    #[test]
    fn evidence_survives_any_bytes(bytes in bytes()) {
        checks::evidence(&bytes);
        checks::evidence(&[&[1, 0], &bytes[..]].concat());
    }

    #[test]
    fn a_manifest_survives_any_bytes(bytes in bytes()) {
        checks::snapshot_manifest(&bytes);
        // Both versions, decision, round, block and no signature stand in front of the counts.
        checks::snapshot_manifest(&[&[1, 0, 1, 0], &[7; 52][..], &[0, 0], &bytes[..]].concat());
    }

    #[test]
    fn a_log_entry_survives_any_bytes(bytes in bytes()) {
        checks::finality_log_entry(&bytes);
    }
}

#[test]
fn some_random_bytes_are_accepted() {
    // A timeout is tag, round and kind: short enough to be met by chance, so that the properties above say something.
    assert!(checks::finality_log_entry(&[3, 0, 0, 0, 0, 1]));
    assert!(!checks::finality_log_entry(&[3, 0, 0, 0, 0, 3]));
    // A vote for nothing: tag, voter, kind, decision, round, no block, signature.
    let vote = [&[1, 2, 0, 0][..], &[0; 8], &[0; 4], &[0], &[7; 64]].concat();
    assert!(checks::finality_message(&vote));
    // An empty batch: version, kind, place, then version, author, number, counts and signature of the batch.
    let batch = [&[1, 0, 3, 0, 0][..], &[1, 0, 2, 0], &[0; 8], &[0; 8], &[7; 64]].concat();
    assert!(checks::evidence(&batch));
    // A manifest of one page of blocks.
    let manifest = [&[1, 0, 1, 0][..], &[7; 52], &[0, 0], &[1, 0, 0, 0], &[0; 4], &[9; 32]].concat();
    assert!(checks::snapshot_manifest(&manifest));
    assert!(!checks::snapshot_manifest(&[&manifest[..], &[9]].concat()));
}
