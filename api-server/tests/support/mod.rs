//! A scripted ledger and the API over it: real keys, payments, execution, index and transport; only the nodes' insides
//! are made up.
#![allow(dead_code, reason = "each test file uses some of it")]

pub(crate) mod chain_node;
pub(crate) mod harness;
pub(crate) mod ledger;

#[path = "../../../client/tests/support/fake_node.rs"]
pub(crate) mod fake_node;
