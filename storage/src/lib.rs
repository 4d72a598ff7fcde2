//! placeholder

pub mod index;
