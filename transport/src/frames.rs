//! Length-prefixed frames on unidirectional streams.
//!
//! A stream begins with one byte, its class; each frame is a little-endian u32 length and as many bytes. A stream ends
//! between two frames.

use std::fmt;

use bytes::{Bytes, BytesMut};
use quinn::{ReadError, RecvStream, SendStream, VarInt, WriteError};

use crate::close::{CloseCode, Lost};

/// Allocated for a frame before its bytes are there, at most: a peer must send what it wants memory for.
const FRAME_ALLOCATION_BYTES: usize = 64 << 10;
const LENGTH_BYTES: usize = 4;

/// What a stream of frames carries. Control is sent before requests, and those before bulk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Class {
    /// Statuses, blocks, confirmations, questions: short and urgent.
    Control,
    /// Batches.
    Bulk,
}

impl Class {
    pub(crate) const fn byte(self) -> u8 {
        match self {
            Self::Control => 0,
            Self::Bulk => 1,
        }
    }

    pub(crate) const fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            0 => Some(Self::Control),
            1 => Some(Self::Bulk),
            _ => None,
        }
    }

    pub(crate) const fn priority(self) -> i32 {
        match self {
            Self::Control => 1,
            Self::Bulk => -1,
        }
    }
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Control => "control",
            Self::Bulk => "bulk",
        })
    }
}

/// Why a frame did not get across.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// Nothing of it was read or sent. A received one has closed its connection with [`CloseCode::OversizedFrame`].
    #[error("a frame of {found} bytes on a {class} stream, the limit is {limit}")]
    Oversized { class: Class, found: usize, limit: usize },
    /// The stream ended inside a frame (or inside its length).
    #[error("the stream ended after {found} bytes of a frame of {expected}")]
    Truncated { found: usize, expected: usize },
    /// The peer began a stream of a class that this build does not know.
    #[error("a stream of the unknown class {found}")]
    UnknownClass { found: u8 },
    /// The sender gave the stream up.
    #[error("the sender reset the stream")]
    Reset,
    /// The receiver wants no more of this stream.
    #[error("the receiver stopped the stream")]
    Stopped,
    /// An earlier send was dropped halfway, so the stream's framing is lost. Open another.
    #[error("an earlier frame of this stream was sent in part; open another stream")]
    Interrupted,
    #[error(transparent)]
    Lost(#[from] Lost),
}

impl From<WriteError> for FrameError {
    fn from(error: WriteError) -> Self {
        match error {
            WriteError::ConnectionLost(error) => Self::Lost(error.into()),
            WriteError::Stopped(_) => Self::Stopped,
            WriteError::ClosedStream | WriteError::ZeroRttRejected => Self::Interrupted,
        }
    }
}

impl From<ReadError> for FrameError {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::ConnectionLost(error) => Self::Lost(error.into()),
            ReadError::Reset(_) => Self::Reset,
            ReadError::ClosedStream | ReadError::IllegalOrderedRead | ReadError::ZeroRttRejected => Self::Interrupted,
        }
    }
}

/// Sends frames in order. Dropping it ends the stream after the last whole frame.
#[derive(Debug)]
pub struct FrameSender {
    stream: SendStream,
    class: Class,
    bytes_max: usize,
    /// A frame is partly sent: the peer would take what follows for its rest.
    halfway: bool,
}

impl FrameSender {
    pub(crate) async fn begin(mut stream: SendStream, class: Class, bytes_max: usize) -> Result<Self, FrameError> {
        stream.set_priority(class.priority()).map_err(|_| FrameError::Interrupted)?;
        stream.write_all(&[class.byte()]).await?;
        Ok(Self { stream, class, bytes_max, halfway: false })
    }

    pub fn class(&self) -> Class {
        self.class
    }

    /// Hands one frame to QUIC, without copying it. Waits while the receiver's window or the send window is full.
    ///
    /// # Errors
    /// [`FrameError`]; after [`FrameError::Oversized`] the stream goes on, after all others it does not. A send that
    /// is dropped before it ends spoils the stream: the next one fails with [`FrameError::Interrupted`].
    pub async fn send(&mut self, frame: impl Into<Bytes>) -> Result<(), FrameError> {
        let frame = frame.into();
        let (found, limit) = (frame.len(), self.bytes_max);
        let length = match u32::try_from(found) {
            Ok(length) if found <= limit => length,
            _ => return Err(FrameError::Oversized { class: self.class, found, limit }),
        };
        if std::mem::replace(&mut self.halfway, true) {
            return Err(FrameError::Interrupted);
        }
        let length = Bytes::copy_from_slice(&length.to_le_bytes());
        self.stream.write_all_chunks(&mut [length, frame]).await?;
        self.halfway = false;
        Ok(())
    }
}

impl Drop for FrameSender {
    fn drop(&mut self) {
        if self.halfway {
            // Without a reset the receiver would see a truncated frame. A stream that is gone needs none.
            self.stream.reset(VarInt::from_u32(0)).ok();
        }
    }
}

/// Receives frames in order.
#[derive(Debug)]
pub struct FrameReceiver {
    stream: RecvStream,
    connection: quinn::Connection,
    class: Class,
    bytes_max: usize,
    length: [u8; LENGTH_BYTES],
    /// Bytes of `length` that have arrived.
    length_found: usize,
    /// The frame so far, once its length is known.
    body: BytesMut,
}

impl FrameReceiver {
    pub(crate) fn new(stream: RecvStream, connection: quinn::Connection, class: Class, bytes_max: usize) -> Self {
        let (length, length_found, body) = ([0; LENGTH_BYTES], 0, BytesMut::new());
        Self { stream, connection, class, bytes_max, length, length_found, body }
    }

    pub fn class(&self) -> Class {
        self.class
    }

    /// The next frame; `None` when the sender ended the stream. Dropping the future loses nothing: the next call goes
    /// on where it stood.
    ///
    /// # Errors
    /// [`FrameError`]; the stream is of no use afterwards. An oversized frame closes the whole connection.
    pub async fn recv(&mut self) -> Result<Option<Bytes>, FrameError> {
        while self.length_found < LENGTH_BYTES {
            match self.stream.read(&mut self.length[self.length_found..]).await? {
                Some(read) => self.length_found += read,
                None if self.length_found == 0 => return Ok(None),
                None => return Err(FrameError::Truncated { found: self.length_found, expected: LENGTH_BYTES }),
            }
        }
        let expected = u32::from_le_bytes(self.length) as usize;
        if expected > self.bytes_max {
            self.connection.close(CloseCode::OversizedFrame.into(), CloseCode::OversizedFrame.name().as_bytes());
            return Err(FrameError::Oversized { class: self.class, found: expected, limit: self.bytes_max });
        }
        while self.body.len() < expected {
            let missing = expected - self.body.len();
            let Some(chunk) = self.stream.read_chunk(missing, true).await? else {
                return Err(FrameError::Truncated { found: self.body.len(), expected });
            };
            if self.body.is_empty() {
                if chunk.bytes.len() == expected {
                    self.length_found = 0;
                    return Ok(Some(chunk.bytes));
                }
                self.body.reserve(expected.min(FRAME_ALLOCATION_BYTES));
            }
            self.body.extend_from_slice(&chunk.bytes);
        }
        self.length_found = 0;
        Ok(Some(std::mem::take(&mut self.body).freeze()))
    }
}
