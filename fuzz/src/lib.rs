//! What the fuzz targets run. Each check is the one that the crate's own tests run, so that a target and a test can
//! never differ in what they demand.

#[path = "../../consensus/tests/parsers/checks.rs"]
pub mod consensus;
#[path = "../../ledger/tests/parsers/checks.rs"]
pub mod ledger;
#[path = "../../schemas/tests/wire/checks.rs"]
pub mod schemas;
