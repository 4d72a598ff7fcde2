//! Proofs that a stranger can check: that a root commits to this account, to no such account, or to this receipt.
//!
//! An account proof is the account's bucket, the other entries in it only as hashes, and the siblings on the bucket's
//! way to the top. The account's place among the strangers follows from the keys, so it is not written; an absence is
//! a bucket whose keys leave no room for it.
//!
//! Canonical bytes of an account proof: version u16, depth u8, accounts u64, id 32, presence u8 (0 absent, 1 present),
//! the account's content if present, strangers u16, key 32 and content hash 32 of each, `depth` siblings of 32. Of a
//! receipt proof: version u16, index u32, count u32, receipt 39, siblings u8, 32 of each.

use crate::account::{ACCOUNT_BYTES_MAX, Account};
use crate::encoding::{DecodeError, Decoder, Encoder};
use crate::hash::{ReceiptsRoot, StateRoot};
use crate::identity::AccountId;
use crate::merkle;
use crate::receipt::{RECEIPT_BYTES, Receipt};
use crate::state::{
    BUCKET_ENTRIES_MAX, DEPTH_MAX, DEPTH_MIN, State, account_key, bucket_hash, bucket_of, content_hash, state_root,
};

/// Bytes of the largest account proof.
pub const ACCOUNT_PROOF_BYTES_MAX: usize =
    2 + 1 + 8 + 32 + 1 + ACCOUNT_BYTES_MAX + 2 + 64 * BUCKET_ENTRIES_MAX + 32 * DEPTH_MAX as usize;
/// Bytes of the largest receipt proof.
pub const RECEIPT_PROOF_BYTES_MAX: usize = 2 + 4 + 4 + RECEIPT_BYTES + 1 + 32 * merkle::PATH_MAX;

const VERSION: u16 = 1;

/// Receipts below one of the [`receipt_tops`].
pub const RECEIPT_RUN: usize = 1_024;

/// Key and content hash of one entry of a bucket.
pub type BucketEntry = ([u8; 32], [u8; 32]);

/// Why a proof proves nothing about the root asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ProofError {
    #[error("the state depth is {found}, it lies from {DEPTH_MIN} to {DEPTH_MAX}")]
    Depth { found: u32 },
    #[error("the proof has {found} siblings, a tree of this depth needs {expected}")]
    Siblings { found: usize, expected: usize },
    #[error("the bucket holds {found} entries, the limit is {BUCKET_ENTRIES_MAX}")]
    BucketOverfull { found: usize },
    #[error("the bucket's keys do not rise strictly at entry {entry}")]
    KeysNotRising { entry: usize },
    #[error("the key of entry {entry} belongs to another bucket")]
    ForeignKey { entry: usize },
    #[error("the bucket holds the key of the account that it should show to be absent")]
    NotAbsent,
    #[error("the proof shows the account {found} and claims to show {expected}")]
    OtherAccount { found: AccountId, expected: AccountId },
    #[error("the proof leads to the state root {found} instead of {expected}")]
    OtherStateRoot { found: StateRoot, expected: StateRoot },
    #[error("the receipt does not stand at {index} of {count} below this receipts root")]
    OtherReceiptsRoot { index: u32, count: u32 },
}

/// Shows what a state root says of one account: its content, or that it does not exist.
///
/// Whoever checks one for an account of their choice compares [`Self::id`] too: a proof that some other account is
/// absent may hold as well.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccountProof {
    pub id: AccountId,
    /// `None` proves that there is no such account.
    pub account: Option<Account>,
    /// Every other entry of the bucket, by rising key.
    pub strangers: Vec<BucketEntry>,
    /// From the bucket's sibling up to the child of the top.
    pub siblings: Vec<[u8; 32]>,
    /// The tree has 2^depth buckets.
    pub depth: u32,
    /// How many accounts the state has.
    pub accounts: u64,
}

/// The proof of `id` against `state.root()`, which is the root of the last commit: commit changes first.
pub fn prove(state: &State, id: &AccountId) -> AccountProof {
    let key = account_key(id);
    let bucket = bucket_of(&key, state.depth());
    let account = state.account(id).cloned();
    let strangers = state.bucket_entries(bucket).into_iter().filter(|(stranger, _)| *stranger != key).collect();
    let siblings = state.bucket_path(bucket);
    AccountProof { id: *id, account, strangers, siblings, depth: state.depth(), accounts: state.len() }
}

impl AccountProof {
    /// Checks the proof against a root that the caller trusts.
    pub fn verify(&self, root: &StateRoot) -> Result<(), ProofError> {
        if !(DEPTH_MIN..=DEPTH_MAX).contains(&self.depth) {
            return Err(ProofError::Depth { found: self.depth });
        }
        let (found, expected) = (self.siblings.len(), self.depth as usize);
        if found != expected {
            return Err(ProofError::Siblings { found, expected });
        }
        let mut node = bucket_of(&account_key(&self.id), self.depth);
        let mut hash = bucket_hash(&self.bucket(node)?);
        for sibling in &self.siblings {
            hash = if node & 1 == 0 { merkle::node_hash(&hash, sibling) } else { merkle::node_hash(sibling, &hash) };
            node >>= 1;
        }
        let found = state_root(self.depth, self.accounts, &hash);
        if found == *root { Ok(()) } else { Err(ProofError::OtherStateRoot { found, expected: *root }) }
    }

    /// The whole bucket: the strangers and, at its place, the account.
    fn bucket(&self, bucket: u32) -> Result<Vec<BucketEntry>, ProofError> {
        let found = self.strangers.len() + usize::from(self.account.is_some());
        if found > BUCKET_ENTRIES_MAX {
            return Err(ProofError::BucketOverfull { found });
        }
        let key = account_key(&self.id);
        let mut entries = self.strangers.clone();
        match &self.account {
            Some(account) if account.id() != self.id => {
                return Err(ProofError::OtherAccount { found: account.id(), expected: self.id });
            }
            Some(account) => {
                let place = entries.partition_point(|(stranger, _)| *stranger < key);
                entries.insert(place, (key, content_hash(account)));
            }
            None if entries.iter().any(|(stranger, _)| *stranger == key) => return Err(ProofError::NotAbsent),
            None => {}
        }
        if let Some(entry) = entries.windows(2).position(|pair| pair[0].0 >= pair[1].0) {
            return Err(ProofError::KeysNotRising { entry: entry + 1 });
        }
        match entries.iter().position(|(key, _)| bucket_of(key, self.depth) != bucket) {
            Some(entry) => Err(ProofError::ForeignKey { entry }),
            None => Ok(entries),
        }
    }

    /// The canonical bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut encoder = Encoder::with_capacity(128 + 64 * self.strangers.len() + 32 * self.siblings.len());
        encoder.u16(VERSION).u8(self.depth as u8).u64(self.accounts).raw(&self.id.0);
        encoder.u8(self.account.is_some().into());
        if let Some(account) = &self.account {
            account.encode_content(&mut encoder);
        }
        encoder.u16(self.strangers.len() as u16);
        for (key, content) in &self.strangers {
            encoder.raw(key).raw(content);
        }
        for sibling in &self.siblings {
            encoder.raw(sibling);
        }
        encoder.finish()
    }

    /// Parses canonical bytes: limits first, strangers by rising key, and the same bytes when written again.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut decoder = Decoder::new(bytes);
        let proof = Self::decode(&mut decoder)?;
        decoder.finish()?;
        check_canonical(bytes, &proof.to_bytes(), "account proof")?;
        Ok(proof)
    }

    /// Reads a proof from the front of longer bytes; that these are the only ones for it is for the caller to check.
    pub(crate) fn decode(decoder: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        read_version(decoder, "account proof")?;
        let depth = u32::from(decoder.u8()?);
        if !(DEPTH_MIN..=DEPTH_MAX).contains(&depth) {
            return Err(DecodeError::Invalid { what: "state depth of an account proof", found: depth.into() });
        }
        let (accounts, id) = (decoder.u64()?, AccountId(decoder.array()?));
        let account = match decoder.u8()? {
            0 => None,
            1 => Some(Account::decode_content(id, decoder)?),
            found => {
                return Err(DecodeError::Invalid { what: "presence in an account proof", found: found.into() });
            }
        };
        let count = usize::from(decoder.u16()?);
        if count > BUCKET_ENTRIES_MAX {
            let (found, limit) = (count as u64, BUCKET_ENTRIES_MAX as u64);
            return Err(DecodeError::OverLimit { what: "strangers of an account proof", found, limit });
        }
        let (pairs, _) = decoder.raw(64 * count)?.as_chunks::<64>();
        let strangers: Vec<_> = pairs.iter().map(halves).collect();
        if let Some(place) = strangers.windows(2).position(|pair| pair[0].0 >= pair[1].0) {
            let found = place as u64 + 1;
            return Err(DecodeError::Invalid { what: "key order of an account proof at entry", found });
        }
        let siblings = decoder.raw(32 * depth as usize)?.as_chunks::<32>().0.to_vec();
        Ok(Self { id, account, strangers, siblings, depth, accounts })
    }
}

/// Shows that a receipt stands at one place of a block's result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReceiptProof {
    pub receipt: Receipt,
    /// Its place among the block's receipts.
    pub index: u32,
    /// How many receipts the block has; its header says so too.
    pub count: u32,
    /// From the receipt's sibling up.
    pub siblings: Vec<[u8; 32]>,
}

/// The proof of the receipt at `index` of a block's receipts; `None` if there is none.
pub fn prove_receipt(receipts: &[Receipt], index: usize) -> Option<ReceiptProof> {
    let leaves: Vec<[u8; 32]> = receipts.iter().map(Receipt::leaf_hash).collect();
    let siblings = merkle::path(&leaves, index)?;
    let count = u32::try_from(receipts.len()).expect("a block holds fewer than 2^32 payments");
    Some(ReceiptProof { receipt: receipts[index], index: index as u32, count, siblings })
}

/// What to keep of a block's receipts so that a few of them are enough for a proof: the node above each
/// [`RECEIPT_RUN`] of them.
pub fn receipt_tops(receipts: &[Receipt]) -> Vec<[u8; 32]> {
    let top = |run: &[Receipt]| merkle::top(&run.iter().map(Receipt::leaf_hash).collect::<Vec<_>>());
    receipts.chunks(RECEIPT_RUN).filter_map(top).collect()
}

/// As [`prove_receipt`] of the receipt at `index` of `count`, from the run that holds it and the tops of all runs. `None`
/// if the run holds no such receipt.
pub fn prove_receipt_in_run(run: &[Receipt], index: u32, count: u32, tops: &[[u8; 32]]) -> Option<ReceiptProof> {
    let (number, place) = (index as usize / RECEIPT_RUN, index as usize % RECEIPT_RUN);
    let leaves: Vec<[u8; 32]> = run.iter().map(Receipt::leaf_hash).collect();
    let mut siblings = merkle::path(&leaves, place)?;
    siblings.extend(merkle::path(tops, number)?);
    Some(ReceiptProof { receipt: run[place], index, count, siblings })
}

impl ReceiptProof {
    /// Checks the proof against the receipts root of a header that the caller trusts.
    pub fn verify(&self, root: &ReceiptsRoot) -> Result<(), ProofError> {
        let leaf = self.receipt.leaf_hash();
        if merkle::verify(&root.0, self.count.into(), self.index.into(), &leaf, &self.siblings) {
            return Ok(());
        }
        Err(ProofError::OtherReceiptsRoot { index: self.index, count: self.count })
    }

    /// The canonical bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut encoder = Encoder::with_capacity(RECEIPT_PROOF_BYTES_MAX);
        encoder.u16(VERSION).u32(self.index).u32(self.count).raw(&self.receipt.to_bytes());
        encode_path(&self.siblings, &mut encoder);
        encoder.finish()
    }

    /// Parses canonical bytes.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut decoder = Decoder::new(bytes);
        let proof = Self::decode(&mut decoder)?;
        decoder.finish()?;
        check_canonical(bytes, &proof.to_bytes(), "receipt proof")?;
        Ok(proof)
    }

    /// As [`AccountProof::decode`].
    pub(crate) fn decode(decoder: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        read_version(decoder, "receipt proof")?;
        let (index, count) = (decoder.u32()?, decoder.u32()?);
        let receipt = Receipt::from_bytes(decoder.raw(RECEIPT_BYTES)?)?;
        let siblings = decode_path(decoder, "siblings of a receipt proof")?;
        Ok(Self { receipt, index, count, siblings })
    }
}

fn read_version(decoder: &mut Decoder<'_>, what: &'static str) -> Result<(), DecodeError> {
    match decoder.u16()? {
        VERSION => Ok(()),
        found => Err(DecodeError::UnknownVersion { what, found, known: VERSION }),
    }
}

/// Writes a path of at most [`merkle::PATH_MAX`] siblings: how many u8, then 32 bytes of each.
pub(crate) fn encode_path(siblings: &[[u8; 32]], encoder: &mut Encoder) {
    encoder.u8(siblings.len() as u8);
    for sibling in siblings {
        encoder.raw(sibling);
    }
}

/// Reads what [`encode_path`] writes.
pub(crate) fn decode_path(decoder: &mut Decoder<'_>, what: &'static str) -> Result<Vec<[u8; 32]>, DecodeError> {
    let length = usize::from(decoder.u8()?);
    if length > merkle::PATH_MAX {
        return Err(DecodeError::OverLimit { what, found: length as u64, limit: merkle::PATH_MAX as u64 });
    }
    Ok(decoder.raw(32 * length)?.as_chunks::<32>().0.to_vec())
}

fn halves(pair: &[u8; 64]) -> BucketEntry {
    let (halves, _) = pair.as_chunks::<32>();
    (halves[0], halves[1])
}

/// Proofs travel as files between strangers, so nothing rests on the decoder alone refusing a second encoding.
pub(crate) fn check_canonical(read: &[u8], written: &[u8], what: &'static str) -> Result<(), DecodeError> {
    match read.iter().zip(written).position(|(one, other)| one != other) {
        None if read.len() == written.len() => Ok(()),
        place => Err(DecodeError::Invalid { what, found: place.unwrap_or(written.len()) as u64 }),
    }
}
