//! Puts finality receipts together from the log, the index and the proof log. Reads from disk: for a thread that may wait.

use zeni_ledger::block::SealedHeader;
use zeni_ledger::finality_receipt::{FinalityReceiptError, HEADERS_MAX, PaymentProof, Statement};
use zeni_ledger::proof::{AccountProof, RECEIPT_RUN, prove_receipt_in_run};
use zeni_ledger::{CommitCertificate, FinalityReceipt, Receipt, TransactionId, VerifiedBatch};

use crate::chronicle::{CanonicalBlock, Chronicle, ChronicleError, Inclusion};

/// What is said of a payment instead of a proof, or the proof.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PaymentAnswer {
    /// The file's bytes.
    Proven(Vec<u8>),
    /// No block of the chain executed it.
    NotOnChain,
    NotFinal(Inclusion),
}

/// Why a proof that should be there cannot be given.
#[derive(Debug, thiserror::Error)]
pub enum ProofError {
    #[error(transparent)]
    Chronicle(#[from] ChronicleError),
    #[error(
        "the next certified block above height {height} is {above} blocks away; a proof holds at most {HEADERS_MAX} headers"
    )]
    TooFar { height: u64, above: u64 },
    #[error("the proof that was made does not hold: {0}")]
    False(#[from] FinalityReceiptError),
    #[error("the proof log lacks {what} of height {height}; move it away and it is built again")]
    Lacking { what: &'static str, height: u64 },
}

/// The payments of a block that left a receipt, from the one at `index` on.
#[derive(Debug, Clone)]
pub struct ReceiptPage {
    pub found: CanonicalBlock,
    pub receipts: Vec<Receipt>,
}

/// Proves that a payment was executed in a final block.
pub fn prove_payment(chronicle: &Chronicle, id: &TransactionId) -> Result<PaymentAnswer, ProofError> {
    let Some(inclusion) = chronicle.find(id)? else { return Ok(PaymentAnswer::NotOnChain) };
    if !inclusion.is_final {
        return Ok(PaymentAnswer::NotFinal(inclusion));
    }
    // From here on nothing moves: what is final stays.
    let height = inclusion.height;
    let found = block_at(chronicle, height)?;
    let kept = chronicle.proof_log().receipts(&found.id).map_err(ChronicleError::from)?;
    let kept = kept.ok_or(ProofError::Lacking { what: "the receipts", height })?;
    let lacking = ProofError::Lacking { what: "a receipt", height };
    let Some(index) = kept.index_of(inclusion.batch, inclusion.position) else { return Err(lacking) };
    let first = index / RECEIPT_RUN as u32 * RECEIPT_RUN as u32;
    let run = receipts(chronicle, &found, first, RECEIPT_RUN)?;
    let receipt = prove_receipt_in_run(&run, index, kept.count(), kept.tops()).ok_or(lacking)?;
    if receipt.receipt.id != *id {
        // Another payment shares half of its id.
        return Ok(PaymentAnswer::NotOnChain);
    }
    let batch = batch(chronicle, &found, receipt.receipt.batch)?;
    let genesis = chronicle.genesis_id();
    let payment = PaymentProof::new(receipt, &found.block, batch.batch(), &genesis);
    let payment = payment.ok_or(ProofError::Lacking { what: "a payment", height })?;
    seal(chronicle, height, Statement::Payment(payment)).map(PaymentAnswer::Proven)
}

/// Adds to an account's proof at a final height what makes it final.
pub fn prove_account(chronicle: &Chronicle, height: u64, proof: AccountProof) -> Result<Vec<u8>, ProofError> {
    seal(chronicle, height, Statement::Account(proof))
}

/// Certificate and headers around a statement, checked as a stranger would.
fn seal(chronicle: &Chronicle, height: u64, statement: Statement) -> Result<Vec<u8>, ProofError> {
    let (certificate, headers) = finality(chronicle, height)?;
    let genesis = chronicle.genesis_id();
    let receipt = FinalityReceipt { genesis, certificate, headers, statement };
    receipt.verify(chronicle.genesis(), &genesis)?;
    Ok(receipt.to_bytes())
}

/// The nearest certificate that makes the block at `height` final, and the headers from there to the certified block.
fn finality(chronicle: &Chronicle, height: u64) -> Result<(CommitCertificate, Vec<SealedHeader>), ProofError> {
    let last = chronicle.last_final().height;
    let certificate = chronicle.proof_log().certificate(height, last).map_err(ChronicleError::from)?;
    let certificate = certificate.ok_or(ProofError::Lacking { what: "a certificate", height })?;
    let above = certificate.block.height - height;
    if above >= HEADERS_MAX as u64 {
        return Err(ProofError::TooFar { height, above });
    }
    let header = |height| block_at(chronicle, height).map(|found| found.block.sealed_header());
    let headers = (height..=certificate.block.height).map(header).collect::<Result<_, _>>()?;
    Ok((certificate, headers))
}

/// Payments of the canonical block at `height` that left a receipt, at most `length` from the one at `index` on. `None`
/// if there is no such block.
pub fn receipt_page(
    chronicle: &Chronicle,
    height: u64,
    index: u32,
    length: usize,
) -> Result<Option<ReceiptPage>, ProofError> {
    let Some(found) = chronicle.block_at(height)? else { return Ok(None) };
    let receipts = receipts(chronicle, &found, index, length)?;
    Ok(Some(ReceiptPage { found, receipts }))
}

/// Receipts of a block, at most `length` from the one at `index` on.
fn receipts(
    chronicle: &Chronicle,
    found: &CanonicalBlock,
    index: u32,
    length: usize,
) -> Result<Vec<Receipt>, ProofError> {
    let height = found.block.header.height;
    let kept = chronicle.proof_log().receipts(&found.id).map_err(ChronicleError::from)?;
    let kept = kept.ok_or(ProofError::Lacking { what: "the receipts", height })?;
    let mut receipts = Vec::with_capacity(length);
    for run in kept.places(index, length).chunk_by(|left, right| left.batch == right.batch) {
        let batch = batch(chronicle, found, run[0].batch)?;
        for place in run {
            let id = batch.ids().get(usize::from(place.position)).copied();
            let id = id.ok_or(ProofError::Lacking { what: "a payment", height })?;
            receipts.push(Receipt { batch: place.batch, position: place.position, id, outcome: place.outcome });
        }
    }
    Ok(receipts)
}

fn batch(chronicle: &Chronicle, found: &CanonicalBlock, number: u32) -> Result<VerifiedBatch, ProofError> {
    let digest = found.block.digests.get(number as usize);
    let digest = digest.ok_or(ProofError::Lacking { what: "a batch", height: found.block.header.height })?;
    Ok(chronicle.stored_batch(digest)?)
}

fn block_at(chronicle: &Chronicle, height: u64) -> Result<CanonicalBlock, ProofError> {
    chronicle.block_at(height)?.ok_or(ProofError::Lacking { what: "the block", height })
}
