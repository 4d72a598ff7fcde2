//! Requests of clients: what is refused at the door, what goes to verification, what the core answers.

use std::sync::Arc;

use tokio::sync::oneshot;
use zeni_consensus::submission::SUBMISSION_PAYMENTS_MAX;
use zeni_ledger::Payment;
use zeni_schemas::request::{Reply, Request, RequestError, STATUS_IDS_MAX};

use crate::admission::{Admitted, ClientShare};
use crate::clock;
use crate::core_queue::{Question, Task};
use crate::screen::screen;
use crate::services::Services;
use crate::snapshots::Room;
use crate::submission::PendingSubmission;
use crate::verify::suspicion::Suspicion;
use crate::verify::work::{What, Work};

/// Who asks.
#[derive(Debug, Clone)]
pub struct Asker {
    /// Shared by all connections of one client.
    pub share: Arc<ClientShare>,
    /// Of this connection.
    pub suspicion: Suspicion,
    /// Has a validator's key.
    pub is_validator: bool,
}

/// Serves one request. The future ends when the answer may be given. The room of a snapshot's page is held until it has
/// left.
pub async fn serve(request: Request, asker: &Asker, services: &Services) -> (Reply, Option<Room>) {
    let served = match request {
        Request::SnapshotPage { block, page } if asker.is_validator && !services.admission.is_closed() => {
            let page = services.snapshots.page(block, page).await;
            page.map(|(records, room)| (Reply::SnapshotPage(records), Some(room)))
        }
        other => serve_or_refuse(other, asker, services).await.map(|reply| (reply, None)),
    };
    match served {
        Ok(served) => served,
        Err(error) => {
            metrics::counter!("zeni_requests_refused_total", "reason" => reason(&error)).increment(1);
            (Reply::Refused(error), None)
        }
    }
}

async fn serve_or_refuse(request: Request, asker: &Asker, services: &Services) -> Result<Reply, RequestError> {
    if services.admission.is_closed() {
        return Err(RequestError::Stopping);
    }
    match request {
        Request::Submit(payments) => submit(payments, asker, services).await.map(Reply::Submitted),
        Request::Node => ask(Question::Node, asker, services).await,
        Request::Account(id) => ask(Question::Account(id), asker, services).await,
        Request::Pending(ids) if ids.len() > STATUS_IDS_MAX => {
            Err(RequestError::Malformed(format!("{} ids in one request, the limit is {STATUS_IDS_MAX}", ids.len())))
        }
        Request::Pending(ids) => ask(Question::Pending(ids), asker, services).await,
        Request::Snapshot { height_min } if asker.is_validator => {
            services.snapshots.manifest(height_min).map(Reply::Snapshot)
        }
        Request::Snapshot { .. } | Request::SnapshotPage { .. } => Err(RequestError::Forbidden),
    }
}

async fn submit(
    payments: Vec<Payment>,
    asker: &Asker,
    services: &Services,
) -> Result<Vec<zeni_consensus::Verdict>, RequestError> {
    if payments.is_empty() || payments.len() > SUBMISSION_PAYMENTS_MAX {
        let found = payments.len();
        return Err(RequestError::Malformed(format!("{found} payments in one submission, 1 to 1,024 are allowed")));
    }
    let admitted = admit(services, asker, payments.len())?;
    let (mut pending, answer) = PendingSubmission::new(payments.len(), admitted);
    let (now, rules) = (clock::now(), &services.genesis.rules);
    let mut positions = Vec::with_capacity(payments.len());
    let mut passed = Vec::with_capacity(payments.len());
    for (position, payment) in payments.into_iter().enumerate() {
        match screen(&payment, rules, now) {
            Ok(()) => {
                positions.push(position as u16);
                passed.push(payment);
            }
            Err(refusal) => pending.refuse(position, refusal),
        }
    }
    if passed.is_empty() {
        pending.answer(Vec::new());
    } else {
        let what = What::Submission { pending, positions, payments: passed };
        services.verify.send(Work { what, suspicion: asker.suspicion.clone() });
    }
    // The sender is dropped unanswered only when the node ends.
    answer.await.map_err(|_| RequestError::Stopping)
}

async fn ask(question: Question, asker: &Asker, services: &Services) -> Result<Reply, RequestError> {
    let admitted = admit(services, asker, 0)?;
    let (answer, receiver) = oneshot::channel();
    services.core.control(Task::Ask { question, answer, admitted }, None);
    receiver.await.map_err(|_| RequestError::Stopping)
}

fn admit(services: &Services, asker: &Asker, payments: usize) -> Result<Admitted, RequestError> {
    (services.admission)
        .admit(&asker.share, payments, services.core.backlog())
        .map_err(|overload| RequestError::Overloaded { retry_after_ms: overload.retry_after_ms })
}

const fn reason(error: &RequestError) -> &'static str {
    match error {
        RequestError::Overloaded { .. } => "overloaded",
        RequestError::Forbidden => "forbidden",
        RequestError::Malformed(_) => "malformed",
        RequestError::Stopping => "stopping",
        RequestError::NotHere => "not_here",
    }
}
