#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    zeni_fuzz::consensus::snapshot_manifest(bytes);
});
