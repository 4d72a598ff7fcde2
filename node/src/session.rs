//! One connection from its handshake to its end.
//!
//! A validator's or follower's connection carries frames both ways; every connection may carry requests. Each stream
//! has a task of its own; the first one to end decides how the connection ends.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinSet;
use zeni_schemas::WireError;
use zeni_schemas::message;
use zeni_schemas::request::{Reply, RequestError, decode_request, encode_reply};
use zeni_transport::{Class, CloseCode, Connection, FrameError, FrameReceiver, FrameSender, IncomingRequest, Lost};

use crate::bulk::Bulk;
use crate::inbound::{Asked, Inbound, Offence};
use crate::links::{Link, LinkId, Links, Remote};
use crate::requests::{self, Asker};
use crate::serve_batches::{self, SERVED_MAX};
use crate::serve_blocks::{self, Unsent};
use crate::services::Services;

/// How a connection ended.
#[derive(Debug, thiserror::Error)]
pub enum End {
    #[error("{0}")]
    Lost(#[from] Lost),
    #[error("a frame failed: {0}")]
    Frame(#[from] FrameError),
    #[error("a frame is malformed: {0}")]
    Malformed(#[from] WireError),
    #[error("the peer misbehaved: {0}")]
    Offence(#[from] Offence),
    #[error("the peer does not take what it is sent")]
    Slow,
}

/// Runs a connection to its end. `remote` is `None` for a client that only asks.
pub async fn run(connection: Connection, remote: Option<Remote>, asker: Asker, services: Arc<Services>) -> End {
    let mut tasks = JoinSet::new();
    let (requests, asked) = (connection.clone(), Arc::clone(&services));
    tasks.spawn(async move { answer_requests(&requests, &asker, &asked).await });
    let unlink = match remote {
        None => None,
        Some(remote) => match link(&connection, remote, &services, &mut tasks).await {
            Ok(unlink) => Some(unlink),
            Err(error) => return finish(&connection, End::Frame(error)),
        },
    };
    let end = tasks.join_next().await.expect("the task that answers requests was spawned");
    drop(unlink);
    finish(&connection, end.expect("tasks of a connection do not panic and are aborted only with it"))
}

/// Closes the connection for the right reason and counts that reason.
fn finish(connection: &Connection, end: End) -> End {
    let code = match &end {
        End::Frame(FrameError::Oversized { .. }) => CloseCode::OversizedFrame,
        End::Frame(FrameError::Lost(_)) | End::Lost(_) => CloseCode::Done,
        End::Frame(_) | End::Malformed(_) => CloseCode::Malformed,
        End::Offence(Offence::Myself) => CloseCode::Duplicate,
        End::Offence(_) => CloseCode::Misbehaviour,
        End::Slow => CloseCode::Busy,
    };
    match (&end, code) {
        // Only the transport itself closes a standing connection behind a session's back: for a request too long.
        (End::Lost(Lost::ClosedHere), _) | (_, CloseCode::OversizedFrame) => {
            metrics::counter!("zeni_oversized_frames_total").increment(1);
        }
        (_, CloseCode::Malformed) => metrics::counter!("zeni_malformed_frames_total").increment(1),
        (End::Offence(offence), CloseCode::Misbehaviour) => {
            metrics::counter!("zeni_misbehaviour_total", "kind" => offence.code()).increment(1);
        }
        _ => {}
    }
    connection.close(code);
    end
}

/// Removes a link when its connection ends, however it ends.
struct Unlink {
    links: Arc<Links>,
    id: LinkId,
}

impl Drop for Unlink {
    fn drop(&mut self) {
        self.links.remove(self.id);
    }
}

/// Opens the streams of frames and starts their tasks.
async fn link(
    connection: &Connection,
    remote: Remote,
    services: &Arc<Services>,
    tasks: &mut JoinSet<End>,
) -> Result<Unlink, FrameError> {
    let control_sender = connection.open_frames(Class::Control).await?;
    let bulk_sender = connection.open_frames(Class::Bulk).await?;
    let (control, control_queue) = mpsc::channel(services.limits.send_control);
    let (bulk, pushed) = mpsc::channel(services.limits.send_bulk);
    let (serve, served) = mpsc::channel(SERVED_MAX);
    let cut = Arc::new(Notify::new());
    let link = Link { control: control.clone(), bulk, cut: Arc::clone(&cut) };
    let (id, peer) = services.links.add(remote, link);
    let (inbound, Asked { fetches, questions }) = Inbound::new(peer, &services.limits);
    let (sent, core, unsent) = (Arc::new(Notify::new()), services.core.clone(), control.clone());
    let (reading, shared) = (connection.clone(), Arc::clone(services));
    let (reader, unsynced) = (services.reader.clone(), Arc::clone(&services.unsynced));
    tasks.spawn(async move { read_streams(&reading, Arc::new(inbound), &shared).await });
    tasks.spawn(write_control(control_queue, control_sender, Arc::clone(&sent)));
    tasks.spawn(write_bulk(Bulk::new(pushed, served), bulk_sender));
    if remote == Remote::Follower {
        let (evidence, control, sent) = (Arc::clone(&services.evidence), control.clone(), Arc::clone(&sent));
        tasks.spawn(async move {
            evidence.tell(control, sent).await;
            std::future::pending().await
        });
    }
    tasks.spawn(async move {
        serve_blocks::serve(questions, peer, &core, Unsent { control: &unsent, sent: &sent }).await;
        // It ends with the connection's readers, which say why, or with the core.
        std::future::pending().await
    });
    tasks.spawn(async move {
        tokio::select! {
            // It ends with the connection's readers or writers, which say why.
            () = serve_batches::serve(fetches, reader, &unsynced, serve, control) => std::future::pending().await,
            () = cut.notified() => End::Slow,
        }
    });
    Ok(Unlink { links: Arc::clone(&services.links), id })
}

/// Takes frames from every stream that the peer opens; the transport bounds how many those are.
async fn read_streams(connection: &Connection, inbound: Arc<Inbound>, services: &Arc<Services>) -> End {
    let mut streams = JoinSet::new();
    loop {
        tokio::select! {
            stream = connection.accept_frames() => match stream {
                Ok(frames) => {
                    let (inbound, services) = (Arc::clone(&inbound), Arc::clone(services));
                    streams.spawn(async move { read_frames(frames, &inbound, &services).await });
                }
                Err(error) => return End::Frame(error),
            },
            Some(read) = streams.join_next() => {
                if let Err(end) = read.expect("reading frames does not panic") {
                    return end;
                }
            }
        }
    }
}

async fn read_frames(mut frames: FrameReceiver, inbound: &Inbound, services: &Services) -> Result<(), End> {
    while let Some(frame) = frames.recv().await? {
        inbound.take(message::decode(&frame)?, services).await?;
    }
    Ok(())
}

async fn write_control(mut queue: mpsc::Receiver<Bytes>, mut sender: FrameSender, sent: Arc<Notify>) -> End {
    while let Some(frame) = queue.recv().await {
        if let Err(error) = sender.send(frame).await {
            return End::Frame(error);
        }
        sent.notify_one();
    }
    std::future::pending().await
}

async fn write_bulk(mut bulk: Bulk, mut sender: FrameSender) -> End {
    while let Some(frame) = bulk.next().await {
        if let Err(error) = sender.send(frame).await {
            return End::Frame(error);
        }
    }
    std::future::pending().await
}

/// Answers each request in a task of its own; the transport bounds how many are open.
async fn answer_requests(connection: &Connection, asker: &Asker, services: &Arc<Services>) -> End {
    let mut open = JoinSet::new();
    loop {
        tokio::select! {
            request = connection.accept_request() => match request {
                Ok(request) => {
                    let (asker, services) = (asker.clone(), Arc::clone(services));
                    open.spawn(async move { answer(request, &asker, &services).await });
                }
                Err(lost) => return End::Lost(lost),
            },
            Some(_) = open.join_next() => {}
        }
    }
}

async fn answer(request: IncomingRequest, asker: &Asker, services: &Services) {
    let (reply, room) = match decode_request(&request.body) {
        Ok(request) => requests::serve(request, asker, services).await,
        Err(error) => {
            metrics::counter!("zeni_malformed_frames_total").increment(1);
            (Reply::Refused(RequestError::Malformed(error.to_string())), None)
        }
    };
    // A client that is gone does not hear its answer.
    if let Err(error) = request.respond(encode_reply(&reply)).await {
        tracing::debug!(%error, "an answer was not taken");
    }
    drop(room);
}
