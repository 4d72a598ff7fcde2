//! One authenticated connection.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use quinn::RecvStream;
use tokio::sync::Mutex;
use tokio::time::timeout;
use zeni_ledger::PublicKey;
use zeni_schemas::Role;

use crate::close::{CloseCode, Lost};
use crate::config::TransportConfig;
use crate::frames::{Class, FrameError, FrameReceiver, FrameSender};
use crate::places::Place;
use crate::requests::{self, IncomingRequest, RequestFailure};

/// A connection whose peer proved its key, was admitted, and belongs to the same ledger. Cheap to clone; when the last
/// clone and the last of its streams are dropped it is closed with [`CloseCode::Done`].
#[derive(Clone)]
pub struct Connection {
    peer: PublicKey,
    role: Role,
    quic: quinn::Connection,
    config: Arc<TransportConfig>,
    incoming: Arc<Incoming>,
    /// Held by a connection that was taken; one that was dialled has none.
    _place: Option<Arc<Place>>,
}

/// What has begun to arrive and was not handed out yet. Both are bounded by the stream limits.
#[derive(Default)]
struct Incoming {
    /// A stream of frames whose class byte is awaited.
    frames: Mutex<Option<RecvStream>>,
    /// Requests whose bodies are awaited.
    requests: Mutex<FuturesUnordered<BoxFuture<'static, Option<IncomingRequest>>>>,
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection")
            .field("peer", &self.peer)
            .field("role", &self.role)
            .field("remote_address", &self.remote_address())
            .finish_non_exhaustive()
    }
}

impl Connection {
    pub(crate) fn new(peer: PublicKey, role: Role, quic: quinn::Connection, config: Arc<TransportConfig>) -> Self {
        Self { peer, role, quic, config, incoming: Arc::default(), _place: None }
    }

    /// The same connection, which holds this place until its last clone is dropped.
    pub(crate) fn at(self, place: Place) -> Self {
        Self { _place: Some(Arc::new(place)), ..self }
    }

    /// The key that the peer proved.
    pub const fn peer(&self) -> PublicKey {
        self.peer
    }

    /// The peer's role: the one it asked for, and was admitted to if it dialled.
    pub const fn role(&self) -> Role {
        self.role
    }

    pub fn remote_address(&self) -> SocketAddr {
        self.quic.remote_address()
    }

    /// Tells this connection from all others of the process, also from earlier ones to the same peer while they live.
    pub fn stable_id(&self) -> usize {
        self.quic.stable_id()
    }

    /// The current estimate of the round-trip time.
    pub fn round_trip(&self) -> Duration {
        self.quic.rtt()
    }

    /// Opens a stream of frames to the peer. Waits while the peer allows no further stream.
    ///
    /// # Errors
    /// [`FrameError::Lost`] if the connection is gone.
    pub async fn open_frames(&self, class: Class) -> Result<FrameSender, FrameError> {
        let stream = self.quic.open_uni().await.map_err(Lost::from)?;
        FrameSender::begin(stream, class, self.config.frame_bytes_max(class)).await
    }

    /// The next stream of frames that the peer opened. Dropping the future loses nothing.
    ///
    /// # Errors
    /// [`FrameError::Lost`] if the connection is gone. A peer that opens a stream without a class or with an unknown
    /// one is closed with [`CloseCode::Malformed`].
    pub async fn accept_frames(&self) -> Result<FrameReceiver, FrameError> {
        let mut begun = self.incoming.frames.lock().await;
        let stream = match &mut *begun {
            Some(stream) => stream,
            none => none.insert(self.quic.accept_uni().await.map_err(Lost::from)?),
        };
        let class = read_class(stream, self.config.handshake_deadline).await;
        let stream = begun.take().expect("its class was read from it");
        match class {
            Ok(class) => {
                let limit = self.config.frame_bytes_max(class);
                Ok(FrameReceiver::new(stream, self.quic.clone(), class, limit))
            }
            Err(error) => {
                self.close(CloseCode::Malformed);
                Err(error)
            }
        }
    }

    /// Asks the peer and waits for its answer, at most [`TransportConfig::request_deadline`]. Many requests go at once;
    /// beyond the peer's limit they wait here, within their deadlines.
    ///
    /// # Errors
    /// [`RequestFailure`] says why there is no answer.
    pub async fn request(&self, body: impl Into<Bytes>) -> Result<Bytes, RequestFailure> {
        self.request_within(body, self.config.request_deadline).await
    }

    /// As [`Self::request`] with a deadline of its own.
    ///
    /// # Errors
    /// [`RequestFailure`] says why there is no answer.
    pub async fn request_within(&self, body: impl Into<Bytes>, deadline: Duration) -> Result<Bytes, RequestFailure> {
        requests::ask(&self.quic, &self.config, body.into(), deadline).await
    }

    /// The next request of the peer that has arrived whole, not necessarily in the order of asking: a slow one holds up
    /// no other. Dropping the future loses nothing.
    ///
    /// # Errors
    /// [`Lost`] when the connection is gone.
    pub async fn accept_request(&self) -> Result<IncomingRequest, Lost> {
        let mut arriving = self.incoming.requests.lock().await;
        loop {
            tokio::select! {
                Some(arrived) = arriving.next() => {
                    if let Some(request) = arrived {
                        return Ok(request);
                    }
                }
                stream = self.quic.accept_bi() => {
                    let taking = requests::take(self.quic.clone(), Arc::clone(&self.config), stream.map_err(Lost::from)?);
                    arriving.push(Box::pin(taking));
                }
            }
        }
    }

    /// Closes the connection for this reason, with everything on it. What is not delivered yet is lost. A peer to which
    /// more is under way than congestion control lets through hears of it as [`Lost::Reset`] or [`Lost::TimedOut`]
    /// instead, because QUIC then holds the reason back.
    pub fn close(&self, code: CloseCode) {
        self.quic.close(code.into(), code.name().as_bytes());
    }

    /// Waits until the connection is gone, and says why.
    pub async fn closed(&self) -> Lost {
        self.quic.closed().await.into()
    }

    /// Why the connection is gone; `None` while it stands.
    pub fn close_reason(&self) -> Option<Lost> {
        self.quic.close_reason().map(Lost::from)
    }
}

async fn read_class(stream: &mut RecvStream, deadline: Duration) -> Result<Class, FrameError> {
    let mut byte = [0];
    match timeout(deadline, stream.read(&mut byte)).await {
        Ok(Ok(Some(_))) => Class::from_byte(byte[0]).ok_or(FrameError::UnknownClass { found: byte[0] }),
        Ok(Ok(None)) | Err(_) => Err(FrameError::Truncated { found: 0, expected: 1 }),
        Ok(Err(error)) => Err(error.into()),
    }
}
