//! What the pages of a snapshot hold, checked as they come.

use std::sync::Arc;

use zeni_ledger::encoding::{DecodeError, Decoder};
use zeni_ledger::{Account, AccountId, Block, CommitCertificate, FinalBlock, Genesis, GenesisId, State};

use super::{FalseSnapshot, Manifest, PageName, Part};
use crate::chain::check_header;
use crate::schedule::Schedule;

/// Takes the pages of one snapshot in order.
#[derive(Debug)]
pub struct Assembly {
    genesis: Arc<Genesis>,
    genesis_id: GenesisId,
    schedule: Schedule,
    manifest: Manifest,
    /// Every block from the certified one down, as far as they came.
    blocks: Vec<Arc<Block>>,
    /// Which block comes next: the certified one, then the parent of the one before. A block is true if it is this one.
    next: FinalBlock,
    state: State,
    last_account: Option<AccountId>,
    taken: usize,
}

/// A snapshot in which everything was checked; its accounts were returned page by page.
#[derive(Debug)]
pub struct Assembled {
    pub certificate: CommitCertificate,
    /// Every block from height 1 up to the certified one.
    pub blocks: Vec<Arc<Block>>,
}

impl Assembly {
    /// `state` is that of genesis; the manifest's certificate was checked by [`super::Fetch::offer`].
    pub fn new(genesis: Arc<Genesis>, state: State, manifest: Manifest) -> Self {
        Self {
            genesis_id: genesis.id(),
            schedule: Schedule::new(&genesis),
            next: manifest.block(),
            genesis,
            manifest,
            blocks: Vec::new(),
            state,
            last_account: None,
            taken: 0,
        }
    }

    /// Takes the next page, whose hash is the manifest's. Returns the accounts in it, which are right only if
    /// [`Self::finish`] says so.
    ///
    /// # Errors
    /// If no honest node has such a page: the manifest is false.
    pub fn take(&mut self, page: &[u8]) -> Result<Vec<Account>, FalseSnapshot> {
        let name = self.manifest.page(self.taken);
        self.taken += 1;
        if page.is_empty() {
            return Err(FalseSnapshot::EmptyPage(name));
        }
        match name.part {
            Part::Blocks => self.add_blocks(name, page).map(|()| Vec::new()),
            Part::Accounts => self.add_accounts(name, &mut Decoder::new(page)),
        }
    }

    /// Takes a page of blocks, the highest first.
    fn add_blocks(&mut self, page: PageName, bytes: &[u8]) -> Result<(), FalseSnapshot> {
        let (mut decoder, mut blocks) = (Decoder::new(bytes), Vec::new());
        while decoder.remaining() > 0 {
            blocks.push(decode_block(&mut decoder).map_err(|error| FalseSnapshot::Undecodable { page, error })?);
        }
        blocks.into_iter().rev().try_for_each(|block| self.add_block(block))?;
        let all_came = self.taken == self.manifest.blocks.len();
        match self.next.height {
            height if all_came && height > 0 => Err(FalseSnapshot::NoBlock { height }),
            _ => Ok(()),
        }
    }

    /// Takes the block that is the next one down, and no other: by its name it is what the quorum certified.
    fn add_block(&mut self, block: Block) -> Result<(), FalseSnapshot> {
        let (header, found, FinalBlock { id, height }) = (block.header, block.id(&self.genesis_id), self.next);
        let above = self.blocks.last();
        let slot_falls = above.is_none_or(|above| header.slot < above.header.slot);
        let leads_to_genesis = height != 1 || (header.parent == self.genesis.block_id() && header.slot > 0);
        if found != id || header.height != height || height == 0 || !slot_falls || !leads_to_genesis {
            return Err(match above {
                Some(_) => FalseSnapshot::NotLinked { height },
                None => FalseSnapshot::OtherBlock { found, height: header.height },
            });
        }
        check_header(&self.genesis, &self.genesis_id, &self.schedule, &block, true)
            .map_err(|error| FalseSnapshot::Header { height, error })?;
        self.next = FinalBlock { id: header.parent, height: height - 1 };
        self.blocks.push(Arc::new(block));
        Ok(())
    }

    fn add_accounts(&mut self, page: PageName, decoder: &mut Decoder<'_>) -> Result<Vec<Account>, FalseSnapshot> {
        let mut accounts = Vec::new();
        while decoder.remaining() > 0 {
            let account = Account::decode(decoder).map_err(|error| FalseSnapshot::Undecodable { page, error })?;
            let id = account.id();
            if self.last_account.is_some_and(|last| last >= id) {
                return Err(FalseSnapshot::NotRising { id });
            }
            self.last_account = Some(id);
            let tokens = &self.genesis.rules.tokens;
            if let Some((token, _)) = account.holdings().find(|(token, _)| !tokens.contains_key(token)) {
                return Err(FalseSnapshot::UnknownToken { id, token });
            }
            if !self.state.replace(account.clone()) {
                return Err(FalseSnapshot::UnknownAccount { id });
            }
            accounts.push(account);
        }
        Ok(accounts)
    }

    /// Compares the root of all accounts with the one that the certified block names.
    ///
    /// # Errors
    /// If they differ, or a token does not sum to zero: the manifest is false.
    ///
    /// # Panics
    /// If not every page was taken.
    pub fn finish(mut self) -> Result<Assembled, FalseSnapshot> {
        assert_eq!(self.taken, self.manifest.pages(), "every page is taken first");
        let found = self.state.commit();
        let certified = self.blocks.first().expect("there are blocks: the first one taken was the certified one");
        let expected = certified.header.state_root;
        if found != expected {
            return Err(FalseSnapshot::WrongRoot { found, expected });
        }
        let sums = self.state.token_sums();
        if sums.values().any(|sum| *sum != 0) {
            return Err(FalseSnapshot::Sums(sums));
        }
        self.blocks.reverse();
        Ok(Assembled { certificate: self.manifest.certificate, blocks: self.blocks })
    }
}

fn decode_block(decoder: &mut Decoder<'_>) -> Result<Block, DecodeError> {
    let length = decoder.u32()? as usize;
    Block::from_bytes(decoder.raw(length)?)
}
