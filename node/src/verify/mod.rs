//! Signature checks: what clients and peers send is merged into jobs of 512 to 1,024 signatures, each one task of the
//! rayon pool, a bounded number of them at a time.

pub mod job;
pub mod lines;
pub mod pool;
pub mod suspicion;
pub mod work;
