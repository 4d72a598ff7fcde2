//! What the fuzz targets run. Each check is the one that the crate's own tests run, so that a target and a test can
//! never differ in what they demand.

#[path = "../../ledger/tests/parsers/checks.rs"]
pub mod ledger;
// The checks of `schemas` stand here as `pub mod schemas;`, with one target each named `schemas_*`.
