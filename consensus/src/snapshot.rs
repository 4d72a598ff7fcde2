//! State snapshots: how a node that lost its disk gets the state at a final block, and how it finds every false piece
//! of it.
//!
//! A snapshot is a commit certificate, every block from genesis up to the certified one, and the accounts that changed
//! since genesis, by rising id. Blocks and accounts travel in pages; the manifest names the hash of each. [`Fetch`]
//! decides who is asked for which page, [`Assembly`] checks what came. Both are pure; the node asks and writes
//! (decision 0010).
//!
//! A liar may name any pages beside a true certificate, so what it can cost is bounded: blocks are taken from the
//! certified one down, each by the name that the one above it gives; accounts are genesis's; and pages must come at a
//! pace.
//!
//! Canonical bytes of a manifest: version u16, certificate, pages of blocks u32, pages of accounts u32, the hash of
//! each page. A page is as many whole records as fit into [`PAGE_BYTES_MAX`]: of a block, its length u32 and its
//! canonical bytes; of an account, its canonical bytes. So whoever has the same blocks and accounts has the same pages.

mod assembly;
mod fetch;

use std::collections::BTreeMap;

use zeni_ledger::encoding::{DecodeError, Decoder, Encoder};
use zeni_ledger::finality::{CERTIFICATE_BYTES_MAX, CertificateError};
use zeni_ledger::hash::hash_parts;
use zeni_ledger::{AccountId, Block, BlockId, CommitCertificate, FinalBlock, Genesis, StateRoot, TokenId};

use crate::chain::HeaderError;

pub use assembly::{Assembled, Assembly};
pub use fetch::{Fetch, IN_FLIGHT_PER_PEER_MAX, PACE_BYTES_MIN, PACE_MS, WINDOW_PAGES};

/// Bytes of a page, at most. Every block and every account fits.
pub const PAGE_BYTES_MAX: usize = 512 << 10;
/// Pages of a snapshot, at most: 6 GiB, which are 80 million accounts.
pub const PAGES_MAX: usize = 12_288;
/// Bytes of the longest manifest.
pub const MANIFEST_BYTES_MAX: usize = 2 + CERTIFICATE_BYTES_MAX + 2 * 4 + PAGES_MAX * 32;

const VERSION: u16 = 1;
const PAGE_DOMAIN: &str = "zeni snapshot page v1";

/// What a page holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Part {
    Blocks,
    Accounts,
}

impl std::fmt::Display for Part {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Blocks => "blocks",
            Self::Accounts => "accounts",
        })
    }
}

/// One page of a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PageName {
    pub part: Part,
    /// Counts the pages of this part from 0.
    pub number: u32,
}

impl std::fmt::Display for PageName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "page {} of the {}", self.number, self.part)
    }
}

/// The hash by which a manifest names a page.
pub fn page_hash(page: &[u8]) -> [u8; 32] {
    hash_parts(PAGE_DOMAIN, &[page])
}

/// What a snapshot consists of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    /// Of the block that the accounts stand at.
    pub certificate: CommitCertificate,
    /// The hash of each page of blocks.
    pub blocks: Vec<[u8; 32]>,
    /// The hash of each page of accounts.
    pub accounts: Vec<[u8; 32]>,
}

impl Manifest {
    /// The block that the accounts stand at.
    pub const fn block(&self) -> FinalBlock {
        self.certificate.block
    }

    /// Pages of both parts.
    pub fn pages(&self) -> usize {
        self.blocks.len() + self.accounts.len()
    }

    /// The hash of a page; `None` if there is no such page.
    pub fn hash(&self, page: PageName) -> Option<&[u8; 32]> {
        let hashes = match page.part {
            Part::Blocks => &self.blocks,
            Part::Accounts => &self.accounts,
        };
        hashes.get(page.number as usize)
    }

    /// The page at this place in the order of taking: blocks first, from the certified one down, so that each is known
    /// by the one above it; then accounts, up.
    fn page(&self, place: usize) -> PageName {
        match place.checked_sub(self.blocks.len()) {
            None => PageName { part: Part::Blocks, number: (self.blocks.len() - 1 - place) as u32 },
            Some(number) => PageName { part: Part::Accounts, number: number as u32 },
        }
    }

    /// That no part names more pages than there can be records.
    fn check_pages(&self, genesis: &Genesis) -> Result<(), FalseSnapshot> {
        if self.blocks.is_empty() {
            return Err(FalseSnapshot::NoBlocks);
        }
        // Issuers need not stand among the accounts of the file; nothing opens an account later.
        let accounts = genesis.accounts.saturating_add(genesis.rules.tokens.len() as u64);
        for (part, found, limit) in
            [(Part::Blocks, self.blocks.len(), self.block().height), (Part::Accounts, self.accounts.len(), accounts)]
        {
            if found as u64 > limit {
                return Err(FalseSnapshot::TooManyPages { part, found: found as u64, limit });
            }
        }
        Ok(())
    }

    /// Whether both name the same pages of the same block. Their certificates may bear the names of other validators.
    fn is_of_same_pages(&self, other: &Self) -> bool {
        let same_block = self.certificate.block == other.certificate.block;
        same_block && self.blocks == other.blocks && self.accounts == other.accounts
    }

    pub fn to_bytes(&self) -> Vec<u8> {
        let mut encoder = Encoder::with_capacity(2 + CERTIFICATE_BYTES_MAX + 8 + self.pages() * 32);
        encoder.u16(VERSION).raw(&self.certificate.to_bytes());
        encoder.u32(self.blocks.len() as u32).u32(self.accounts.len() as u32);
        for hash in self.blocks.iter().chain(&self.accounts) {
            encoder.raw(hash);
        }
        encoder.finish()
    }

    /// Parses canonical bytes; whether they are true is for [`Fetch`] and [`Assembly`] to find.
    ///
    /// # Errors
    /// Bytes that [`Self::to_bytes`] does not write, or more than [`PAGES_MAX`] pages.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut decoder = Decoder::new(bytes);
        let found = decoder.u16()?;
        if found != VERSION {
            return Err(DecodeError::UnknownVersion { what: "snapshot manifest", found, known: VERSION });
        }
        let certificate = CommitCertificate::decode(&mut decoder)?;
        let (blocks, accounts) = (decoder.u32()?, decoder.u32()?);
        let (found, limit) = (u64::from(blocks) + u64::from(accounts), PAGES_MAX as u64);
        if found > limit {
            return Err(DecodeError::OverLimit { what: "pages of a snapshot", found, limit });
        }
        let mut hashes = |count: u32| (0..count).map(|_| decoder.array()).collect::<Result<Vec<_>, _>>();
        let (blocks, accounts) = (hashes(blocks)?, hashes(accounts)?);
        decoder.finish()?;
        Ok(Self { certificate, blocks, accounts })
    }
}

/// Fills pages with records, one part of a snapshot after its beginning to its end.
#[derive(Debug, Default)]
pub struct PageWriter {
    page: Vec<u8>,
}

impl PageWriter {
    /// Adds a block; returns the page before it, if that is full.
    pub fn block(&mut self, block: &Block) -> Option<Vec<u8>> {
        let bytes = block.to_bytes();
        let mut encoder = Encoder::with_capacity(4 + bytes.len());
        encoder.u32(bytes.len() as u32).raw(&bytes);
        self.record(encoder.as_bytes())
    }

    /// Adds an account by its id and canonical content; returns the page before it, if that is full.
    pub fn account(&mut self, id: &AccountId, content: &[u8]) -> Option<Vec<u8>> {
        let mut encoder = Encoder::with_capacity(32 + content.len());
        encoder.raw(&id.0).raw(content);
        self.record(encoder.as_bytes())
    }

    /// The last page, if anything is in it.
    pub fn finish(self) -> Option<Vec<u8>> {
        Some(self.page).filter(|page| !page.is_empty())
    }

    fn record(&mut self, record: &[u8]) -> Option<Vec<u8>> {
        assert!(record.len() <= PAGE_BYTES_MAX, "every block and every account fits into a page");
        let full = self.page.len() + record.len() > PAGE_BYTES_MAX;
        let before = full.then(|| std::mem::take(&mut self.page));
        self.page.extend_from_slice(record);
        before
    }
}

/// In what way a snapshot, or a part of it, is false. No honest node sends such a one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FalseSnapshot {
    #[error("its certificate does not hold: {0}")]
    Certificate(#[from] CertificateError),
    #[error("it names no page of blocks")]
    NoBlocks,
    #[error("it names {found} pages of {part}, and there are at most {limit} of these")]
    TooManyPages { part: Part, found: u64, limit: u64 },
    #[error("{0} does not have the hash that the manifest names")]
    PageHash(PageName),
    #[error("{0} is empty")]
    EmptyPage(PageName),
    #[error("{page} cannot be read: {error}")]
    Undecodable { page: PageName, error: DecodeError },
    #[error("its last block is {found} at height {height}, and the certificate is of another one")]
    OtherBlock { found: BlockId, height: u64 },
    #[error("what stands on height {height} names another block there")]
    NotLinked { height: u64 },
    #[error("there is no block at height {height}")]
    NoBlock { height: u64 },
    #[error("the block at height {height} is refused: {error}")]
    Header { height: u64, error: HeaderError },
    #[error("account {id} does not come after the one before it")]
    NotRising { id: AccountId },
    #[error("account {id} is not in genesis, and no other is ever opened")]
    UnknownAccount { id: AccountId },
    #[error("account {id} holds token {token}, which genesis does not define")]
    UnknownToken { id: AccountId, token: TokenId },
    #[error("its accounts give the state root {found}, the block names {expected}")]
    WrongRoot { found: StateRoot, expected: StateRoot },
    #[error("the balances do not sum to zero: {0:?}")]
    Sums(BTreeMap<TokenId, i128>),
}
