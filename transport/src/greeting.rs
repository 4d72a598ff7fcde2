//! The exchange of hellos, on the first stream of a connection: the dialler speaks first.

use quinn::{ReadToEndError, WriteError};
use zeni_ledger::GenesisId;
use zeni_schemas::hello::{self, HELLO_BYTES_MAX};
use zeni_schemas::{Hello, PROTOCOL_VERSION, WireError};

use crate::close::{CloseCode, Lost};

/// Why two processes do not talk.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GreetingError {
    #[error("the peer speaks protocol version {found}, this build speaks {PROTOCOL_VERSION}")]
    ProtocolVersion { found: u16 },
    #[error("the peer belongs to ledger {found}, this process to {expected}")]
    WrongGenesis { found: GenesisId, expected: GenesisId },
    #[error("the peer's hello is malformed: {0}")]
    Malformed(#[from] WireError),
    #[error("the peer's hello did not arrive whole")]
    Interrupted,
    #[error(transparent)]
    Lost(#[from] Lost),
}

impl GreetingError {
    /// What the connection is closed with.
    pub(crate) const fn close_code(&self) -> CloseCode {
        match self {
            Self::ProtocolVersion { .. } => CloseCode::ProtocolVersion,
            Self::WrongGenesis { .. } => CloseCode::WrongGenesis,
            Self::Malformed(_) | Self::Interrupted => CloseCode::Malformed,
            Self::Lost(_) => CloseCode::Done,
        }
    }
}

impl From<WriteError> for GreetingError {
    fn from(error: WriteError) -> Self {
        match error {
            WriteError::ConnectionLost(error) => Self::Lost(error.into()),
            WriteError::Stopped(_) | WriteError::ClosedStream | WriteError::ZeroRttRejected => Self::Interrupted,
        }
    }
}

impl From<ReadToEndError> for GreetingError {
    fn from(error: ReadToEndError) -> Self {
        match error {
            ReadToEndError::TooLong => {
                let (found, limit) = (HELLO_BYTES_MAX + 1, HELLO_BYTES_MAX);
                Self::Malformed(WireError::TooLong { what: "hello", found, limit })
            }
            ReadToEndError::Read(quinn::ReadError::ConnectionLost(error)) => Self::Lost(error.into()),
            ReadToEndError::Read(_) => Self::Interrupted,
        }
    }
}

/// Introduces this process and hears who accepted it.
pub(crate) async fn greet(quic: &quinn::Connection, own: &Hello) -> Result<Hello, GreetingError> {
    let (mut send, mut recv) = quic.open_bi().await.map_err(Lost::from)?;
    send.write_all(&hello::encode(own)).await?;
    // A stream that is gone already shows when its answer is read.
    send.finish().ok();
    let peer = hello::decode(&recv.read_to_end(HELLO_BYTES_MAX).await?)?;
    check(&peer, own)?;
    Ok(peer)
}

/// A dialler that has introduced itself and waits for the answer.
pub(crate) struct Greeted {
    pub(crate) peer: Hello,
    answer: quinn::SendStream,
}

/// Hears who dials.
pub(crate) async fn hear(quic: &quinn::Connection, own: &Hello) -> Result<Greeted, GreetingError> {
    let (answer, mut recv) = quic.accept_bi().await.map_err(Lost::from)?;
    let peer = hello::decode(&recv.read_to_end(HELLO_BYTES_MAX).await?)?;
    check(&peer, own)?;
    Ok(Greeted { peer, answer })
}

impl Greeted {
    /// Introduces this process in turn.
    pub(crate) async fn answer(mut self, own: &Hello) -> Result<(), GreetingError> {
        self.answer.write_all(&hello::encode(own)).await?;
        // A stream that is gone already shows on the connection.
        self.answer.finish().ok();
        Ok(())
    }
}

fn check(peer: &Hello, own: &Hello) -> Result<(), GreetingError> {
    if peer.version != own.version {
        return Err(GreetingError::ProtocolVersion { found: peer.version });
    }
    if peer.genesis != own.genesis {
        return Err(GreetingError::WrongGenesis { found: peer.genesis, expected: own.genesis });
    }
    Ok(())
}
