//! The first frame each way on a connection: which protocol, which ledger, in which role.

use zeni_ledger::GenesisId;

use crate::error::WireError;
use crate::frame::{FrameKind, builder};
use crate::generated::zeni::wire;

/// The peer protocol of this build. Peers of another version are refused.
pub const PROTOCOL_VERSION: u16 = 1;
/// Bytes of the longest hello.
pub const HELLO_BYTES_MAX: usize = 256;

const FRAME: FrameKind = FrameKind { what: "hello", bytes_max: HELLO_BYTES_MAX, tables_max: 1, identifier: "ZNHL" };

/// What one side of a connection is to the other. Each may do what the ones behind it may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// Asks and submits.
    Client,
    /// Also hears batches, blocks and statuses, and fetches them.
    Follower,
    /// Also takes part in consensus.
    Validator,
}

/// How a peer introduces itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hello {
    /// Version of the peer protocol, [`PROTOCOL_VERSION`] of the sender.
    pub version: u16,
    pub genesis: GenesisId,
    pub role: Role,
}

impl Hello {
    /// A hello of this build.
    pub const fn new(genesis: GenesisId, role: Role) -> Self {
        Self { version: PROTOCOL_VERSION, genesis, role }
    }
}

/// Writes one hello.
pub fn encode(hello: &Hello) -> Vec<u8> {
    let mut builder = builder(64);
    let role = match hello.role {
        Role::Client => wire::Role::Client,
        Role::Follower => wire::Role::Follower,
        Role::Validator => wire::Role::Validator,
    };
    let genesis = wire::Bytes32(hello.genesis.0);
    let table =
        wire::Hello::create(&mut builder, &wire::HelloArgs { version: hello.version, genesis: Some(&genesis), role });
    FRAME.finish(builder, table)
}

/// Reads one hello. Its version and genesis are for the caller to judge.
///
/// # Errors
/// [`WireError`] if the bytes are no hello.
pub fn decode(bytes: &[u8]) -> Result<Hello, WireError> {
    let table = FRAME.root::<wire::Hello<'_>>(bytes)?;
    let role = match table.role() {
        wire::Role::Client => Role::Client,
        wire::Role::Follower => Role::Follower,
        wire::Role::Validator => Role::Validator,
        other => return Err(WireError::UnknownCode { what: "role", found: u32::from(other.0) }),
    };
    Ok(Hello { version: table.version(), genesis: GenesisId(table.genesis().0), role })
}
