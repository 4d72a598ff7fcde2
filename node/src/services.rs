//! What every connection's tasks share.

use std::sync::Arc;

use zeni_ledger::{Genesis, ValidatorIndex};
use zeni_storage::{DiskFiles, Reader};

use crate::admission::Admission;
use crate::config::Limits;
use crate::copies::UnderWay;
use crate::core_queue::CoreSender;
use crate::evidence::EvidenceKeeper;
use crate::links::Links;
use crate::snapshots::Snapshots;
use crate::unsynced::Unsynced;
use crate::verify::pool::VerifySender;

/// Handles to the parts of a running node.
#[derive(Debug)]
pub struct Services {
    pub genesis: Arc<Genesis>,
    pub me: ValidatorIndex,
    /// Drawn at random at each process start.
    pub boot: u64,
    pub limits: Limits,
    pub admission: Arc<Admission>,
    pub verify: VerifySender,
    pub core: CoreSender,
    pub links: Arc<Links>,
    pub reader: Reader<DiskFiles>,
    pub unsynced: Arc<Unsynced>,
    pub under_way: UnderWay,
    pub evidence: Arc<EvidenceKeeper>,
    pub snapshots: Snapshots,
}
