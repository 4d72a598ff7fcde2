//! Hears from one node which blocks are canonical and final there, for as long as the storm lasts.
//!
//! Batches are not read, so their stream stands still and the connection's other streams go on. The node keeps one full
//! queue of batches for it (`limits.send_bulk`, some 20 MB) and drops all further ones, which costs it nothing else.

use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio::task::JoinSet;
use zeni_consensus::Message;
use zeni_consensus::finality::FinalityMessage;
use zeni_ledger::Batch;
use zeni_schemas::message;
use zeni_transport::{Class, Connection, Endpoint};

use crate::finals::{self, SharedFinals};
use crate::follow::{self, QUEUE_MAX, SharedTracker};
use crate::link::NodeAddress;
use crate::storm_clock::StormClock;

/// Between losing a node and dialling it again.
const PAUSE: Duration = Duration::from_millis(100);
/// How long a question for blocks may stay unanswered until it is asked again.
const ASK_AGAIN: Duration = Duration::from_secs(1);

/// What a witness writes to.
#[derive(Debug, Clone)]
pub struct Notebook {
    pub finals: SharedFinals,
    pub tracker: SharedTracker,
    pub clock: StormClock,
}

/// Hears one node, again after every loss, for as long as it is polled. `source` is its number in the record.
pub async fn witness(notebook: Notebook, source: usize, node: NodeAddress, endpoint: Endpoint) {
    loop {
        match endpoint.connect(node.quic, node.key).await {
            Ok(connection) => {
                let left = hear(&notebook, source, &connection).await;
                tracing::info!(node = node.name, "no longer heard: {left}");
            }
            Err(error) => tracing::debug!(node = node.name, "cannot be heard: {error}"),
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Hears until the connection ends, and says why.
async fn hear(notebook: &Notebook, source: usize, connection: &Connection) -> String {
    let mut questions = match connection.open_frames(Class::Control).await {
        Ok(questions) => questions,
        Err(error) => return error.to_string(),
    };
    let (sender, mut heard) = mpsc::channel(QUEUE_MAX);
    let mut ears = JoinSet::new();
    ears.spawn(follow::hear(connection.clone(), sender, |class| class == Class::Control));
    let (mut asked, mut lacking) = (None::<Instant>, true);
    loop {
        if lacking && asked.is_none_or(|asked| asked.elapsed() > ASK_AGAIN) {
            let locator = finals::with(&notebook.finals, |finals| finals.locator());
            let question: Message<Batch> = Message::FetchBlocks { locator };
            if let Err(error) = questions.send(message::encode(&question)).await {
                return error.to_string();
            }
            asked = Some(Instant::now());
        }
        match tokio::time::timeout(ASK_AGAIN, heard.recv()).await {
            Ok(Some(Message::Block(block))) => {
                lacking |= !finals::with(&notebook.finals, |finals| finals.on_block(source, &block));
            }
            Ok(Some(Message::Blocks(blocks))) => {
                lacking = finals::with(&notebook.finals, |finals| finals.on_blocks(&blocks));
                asked = None;
            }
            Ok(Some(Message::Finality(told))) => {
                if let FinalityMessage::Commit(certificate) = *told {
                    notebook.note(source, &certificate);
                }
            }
            Ok(Some(_)) | Err(_) => {}
            Ok(None) => return connection.close_reason().map_or("its streams ended".into(), |lost| lost.to_string()),
        }
    }
}

impl Notebook {
    fn note(&self, source: usize, certificate: &zeni_ledger::CommitCertificate) {
        let now = self.clock.tick();
        if let Some(block) = finals::with(&self.finals, |finals| finals.on_certificate(source, certificate, now)) {
            follow::with(&self.tracker, |tracker| tracker.on_final(block, now));
        }
    }
}
