//! Requests: one bidirectional stream each, the question until its end, then the answer until its end.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use quinn::{ReadToEndError, RecvStream, SendStream, VarInt, WriteError};
use tokio::time::timeout;

use crate::close::{CloseCode, Lost};
use crate::config::TransportConfig;

/// A stream is reset with this when its request is dropped without an answer.
const UNANSWERED: VarInt = VarInt::from_u32(1);
/// A stream is reset or stopped with this when the asker waits no more.
const GIVEN_UP: VarInt = VarInt::from_u32(2);

/// Why a request has no answer. It may have been served all the same, except where a variant says otherwise.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RequestFailure {
    #[error("no answer within {after:?}")]
    Deadline { after: Duration },
    /// Nothing was sent.
    #[error("the request has {found} bytes, the limit is {limit}")]
    TooLong { found: usize, limit: usize },
    #[error("the answer is longer than {limit} bytes")]
    AnswerTooLong { limit: usize },
    /// The peer took the request and dropped it.
    #[error("the peer dropped the request without an answer")]
    Unanswered,
    #[error(transparent)]
    Lost(#[from] Lost),
}

/// Why an answer did not leave.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RespondError {
    #[error("the answer has {found} bytes, the limit is {limit}")]
    TooLong { found: usize, limit: usize },
    #[error("the asker waits no more")]
    GivenUp,
    #[error("the asker did not take the answer within {after:?}")]
    Deadline { after: Duration },
    #[error(transparent)]
    Lost(#[from] Lost),
}

/// Asks and waits for the answer, at most `deadline`.
pub(crate) async fn ask(
    quic: &quinn::Connection,
    config: &TransportConfig,
    body: Bytes,
    deadline: Duration,
) -> Result<Bytes, RequestFailure> {
    let (found, limit) = (body.len(), config.request_bytes_max);
    if found > limit {
        return Err(RequestFailure::TooLong { found, limit });
    }
    match timeout(deadline, exchange(quic, body, config.reply_bytes_max)).await {
        Ok(answer) => answer,
        Err(_) => Err(RequestFailure::Deadline { after: deadline }),
    }
}

async fn exchange(quic: &quinn::Connection, body: Bytes, limit: usize) -> Result<Bytes, RequestFailure> {
    let (send, mut recv) = quic.open_bi().await.map_err(Lost::from)?;
    let mut question = Outgoing { stream: send, finished: false, code: GIVEN_UP };
    match question.write(body).await {
        // A peer that stopped the question may still have said why; the answer tells.
        Ok(()) | Err(WriteError::Stopped(_)) => {}
        Err(WriteError::ConnectionLost(error)) => return Err(RequestFailure::Lost(error.into())),
        Err(WriteError::ClosedStream | WriteError::ZeroRttRejected) => return Err(RequestFailure::Unanswered),
    }
    match recv.read_to_end(limit).await {
        Ok(answer) => Ok(Bytes::from(answer)),
        Err(ReadToEndError::TooLong) => Err(RequestFailure::AnswerTooLong { limit }),
        Err(ReadToEndError::Read(quinn::ReadError::ConnectionLost(error))) => Err(RequestFailure::Lost(error.into())),
        Err(ReadToEndError::Read(_)) => Err(RequestFailure::Unanswered),
    }
}

/// The sending half of a request's stream. Dropped before its end it is reset, so that nobody takes a part for the
/// whole.
#[derive(Debug)]
struct Outgoing {
    stream: SendStream,
    finished: bool,
    code: VarInt,
}

impl Outgoing {
    async fn write(&mut self, body: Bytes) -> Result<(), WriteError> {
        self.stream.write_chunk(body).await?;
        self.stream.finish().map_err(WriteError::from)?;
        self.finished = true;
        Ok(())
    }
}

impl Drop for Outgoing {
    fn drop(&mut self) {
        if !self.finished {
            // A stream that is gone needs no reset.
            self.stream.reset(self.code).ok();
        }
    }
}

/// A request of the peer. Dropping it without an answer tells the peer so.
#[derive(Debug)]
pub struct IncomingRequest {
    /// What is asked, at most [`TransportConfig::request_bytes_max`] bytes.
    pub body: Bytes,
    answer: Outgoing,
    config: Arc<TransportConfig>,
}

impl IncomingRequest {
    /// Answers. Returns when the answer is handed to QUIC, which delivers it while the connection stands.
    ///
    /// # Errors
    /// [`RespondError`] if nobody will read it; that is no reason to close the connection.
    pub async fn respond(mut self, body: impl Into<Bytes>) -> Result<(), RespondError> {
        let body = body.into();
        let (found, limit) = (body.len(), self.config.reply_bytes_max);
        if found > limit {
            return Err(RespondError::TooLong { found, limit });
        }
        let after = self.config.request_deadline;
        match timeout(after, self.answer.write(body)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(WriteError::ConnectionLost(error))) => Err(RespondError::Lost(error.into())),
            Ok(Err(_)) => Err(RespondError::GivenUp),
            Err(_) => Err(RespondError::Deadline { after }),
        }
    }
}

/// Reads what is asked on a new stream. `None` if it did not arrive whole and in time; a request beyond its limit closes
/// the connection.
pub(crate) async fn take(
    quic: quinn::Connection,
    config: Arc<TransportConfig>,
    (send, mut recv): (SendStream, RecvStream),
) -> Option<IncomingRequest> {
    let answer = Outgoing { stream: send, finished: false, code: UNANSWERED };
    match timeout(config.request_deadline, recv.read_to_end(config.request_bytes_max)).await {
        Ok(Ok(body)) => Some(IncomingRequest { body: Bytes::from(body), answer, config }),
        Ok(Err(ReadToEndError::TooLong)) => {
            tracing::debug!(peer = %quic.remote_address(), limit = config.request_bytes_max, "a request is too long");
            quic.close(CloseCode::OversizedFrame.into(), CloseCode::OversizedFrame.name().as_bytes());
            None
        }
        Ok(Err(ReadToEndError::Read(error))) => {
            tracing::debug!(peer = %quic.remote_address(), %error, "a request did not arrive");
            None
        }
        Err(_) => {
            tracing::debug!(peer = %quic.remote_address(), "a request arrived too slowly");
            // A stream that is gone needs no stop.
            recv.stop(GIVEN_UP).ok();
            None
        }
    }
}
