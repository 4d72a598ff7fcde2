//! The tracker's ears: follows one node over QUIC, and another when that one falls silent, dies or lags.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio::task::JoinSet;
use zeni_consensus::{Message, Mode};
use zeni_ledger::Batch;
use zeni_schemas::message;
use zeni_transport::{Class, Connection, Endpoint, FrameSender};

use crate::link::NodeAddress;
use crate::storm_clock::StormClock;
use crate::tracker::Tracker;

/// Messages that wait for the tracker, at most: further ones wait in the node.
pub(crate) const QUEUE_MAX: usize = 256;
/// A node that says nothing for so long is left.
const SILENCE: Duration = Duration::from_secs(5);
const TICK: Duration = Duration::from_millis(200);
/// Between leaving one node and dialling the next.
const PAUSE: Duration = Duration::from_millis(100);

/// The tracker, shared between its follower and those who read it.
pub type SharedTracker = Arc<Mutex<Tracker>>;

/// Reads or changes the tracker.
pub fn with<T>(tracker: &SharedTracker, act: impl FnOnce(&mut Tracker) -> T) -> T {
    act(&mut tracker.lock().unwrap_or_else(PoisonError::into_inner))
}

/// Follows the chain, beginning with node `first`, for as long as it is polled.
pub async fn follow(
    tracker: SharedTracker,
    nodes: Vec<NodeAddress>,
    first: usize,
    endpoint: Endpoint,
    clock: StormClock,
) {
    let mut place = first;
    loop {
        let node = &nodes[place % nodes.len()];
        match endpoint.connect(node.quic, node.key).await {
            Ok(connection) => {
                let left = listen(&tracker, &connection, clock).await;
                tracing::info!(node = node.name, "left the followed node: {left}");
            }
            Err(error) => tracing::debug!(node = node.name, "cannot follow: {error}"),
        }
        place += 1;
        tokio::time::sleep(PAUSE).await;
    }
}

/// Listens until there is a reason to leave, and says which.
async fn listen(tracker: &SharedTracker, connection: &Connection, clock: StormClock) -> String {
    let mut questions = match connection.open_frames(Class::Control).await {
        Ok(questions) => questions,
        Err(error) => return error.to_string(),
    };
    let (sender, mut heard) = mpsc::channel(QUEUE_MAX);
    let mut ears = JoinSet::new();
    ears.spawn(hear(connection.clone(), sender, |_| true));
    let (mut last_heard, mut last_tick) = (Instant::now(), Instant::now());
    let asks = with(tracker, |tracker| tracker.connected(clock.tick()));
    if let Err(error) = ask(&mut questions, asks).await {
        return error;
    }
    loop {
        let message = tokio::time::timeout(TICK, heard.recv()).await;
        let now = clock.tick();
        let asks = match message {
            Ok(Some(message)) => {
                last_heard = Instant::now();
                if lags(tracker, &message) {
                    return "it is behind and not active".into();
                }
                let asks = with(tracker, |tracker| tracker.on_message(message, now));
                if with(tracker, |tracker| tracker.stood_beside()) {
                    return "it stands beside what is final".into();
                }
                asks
            }
            Ok(None) => return connection.close_reason().map_or("its streams ended".into(), |lost| lost.to_string()),
            Err(_) if last_heard.elapsed() > SILENCE => return format!("it said nothing for {SILENCE:?}"),
            Err(_) => Vec::new(),
        };
        if let Err(error) = ask(&mut questions, asks).await {
            return error;
        }
        if last_tick.elapsed() >= TICK {
            last_tick = Instant::now();
            let asks = with(tracker, |tracker| tracker.on_tick(now));
            if let Err(error) = ask(&mut questions, asks).await {
                return error;
            }
        }
    }
}

/// Whether a node's status says that following another one is better.
fn lags(tracker: &SharedTracker, message: &Message<Batch>) -> bool {
    match message {
        Message::Status(status) => {
            let best = with(tracker, |tracker| tracker.best_height());
            status.mode != Mode::Active && status.height + 1 < best
        }
        _ => false,
    }
}

async fn ask(questions: &mut FrameSender, asks: Vec<Message<Batch>>) -> Result<(), String> {
    for question in asks {
        questions.send(message::encode(&question)).await.map_err(|error| error.to_string())?;
    }
    Ok(())
}

/// Takes every stream of frames that the node opens and passes on what it says on those of the classes that are wanted.
/// Others are held and never read, so that the node can say no more on them.
pub(crate) async fn hear(connection: Connection, sender: mpsc::Sender<Message<Batch>>, wants: fn(Class) -> bool) {
    let mut streams = JoinSet::new();
    let mut unread = Vec::new();
    while let Ok(mut stream) = connection.accept_frames().await {
        if !wants(stream.class()) {
            unread.push(stream);
            continue;
        }
        let sender = sender.clone();
        streams.spawn(async move {
            while let Ok(Some(frame)) = stream.recv().await {
                match message::decode(&frame) {
                    Ok(message) => {
                        if sender.send(message).await.is_err() {
                            return;
                        }
                    }
                    Err(error) => {
                        tracing::warn!("the followed node sent nonsense: {error}");
                        return;
                    }
                }
            }
        });
    }
}
