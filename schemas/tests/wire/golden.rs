//! What every kind of frame is held to.

use std::env;
use std::fs;
use std::path::Path;

use zeni_schemas::WireError;

/// Compares with the recorded bytes; `ZENI_BLESS=1` records them anew.
pub(crate) fn assert_golden(name: &str, bytes: &[u8]) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name).with_extension("hex");
    // Lines of 32 bytes, so that a change shows where it is.
    let lines: Vec<String> = bytes.chunks(32).map(hex::encode).collect();
    let found = lines.join("\n") + "\n";
    if env::var_os("ZENI_BLESS").is_some_and(|value| value == "1") {
        fs::write(&path, &found).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    }
    let recorded = fs::read_to_string(&path)
        .unwrap_or_else(|error| panic!("{}: {error}; ZENI_BLESS=1 records it", path.display()));
    assert!(
        recorded == found,
        "{name} is no longer encoded as recorded: peers of the recorded version would not understand it. \
         ZENI_BLESS=1 records the new bytes.\nrecorded:\n{recorded}\nfound:\n{found}"
    );
}

/// Every truncation is refused, and so are bytes behind the frame.
pub(crate) fn assert_no_other_length(bytes: &[u8], decode: impl Fn(&[u8]) -> Result<(), WireError>) {
    for length in (0..bytes.len()).filter(|length| *length < 2_048 || length % 997 == 0) {
        assert!(decode(&bytes[..length]).is_err(), "{length} of {} bytes were accepted", bytes.len());
    }
    assert!(decode(&bytes[..bytes.len() - 1]).is_err(), "all but one of {} bytes were accepted", bytes.len());
    let longer = [bytes, &[0]].concat();
    assert!(decode(&longer).is_err(), "a byte behind the frame was accepted");
}
