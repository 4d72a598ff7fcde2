//! Wire formats: FlatBuffers for every message that crosses a process, and bounded parsing into types.

pub mod request;
