#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    zeni_fuzz::ledger::finality_receipt(bytes);
});
