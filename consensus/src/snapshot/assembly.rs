//! What the pages of a snapshot hold, checked as they come.

use std::sync::Arc;

use zeni_ledger::encoding::{DecodeError, Decoder};
use zeni_ledger::{Account, AccountId, Block, BlockId, CommitCertificate, Genesis, GenesisId, State};

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
    /// Every block from height 1.
    blocks: Vec<Arc<Block>>,
    /// Of the last block.
    head: BlockId,
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
            head: genesis.block_id(),
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
        let mut decoder = Decoder::new(page);
        match name.part {
            Part::Blocks => {
                while decoder.remaining() > 0 {
                    let block = decode_block(&mut decoder);
                    self.add_block(block.map_err(|error| FalseSnapshot::Undecodable { page: name, error })?)?;
                }
                if self.taken == self.manifest.blocks.len() {
                    self.check_head()?;
                }
                Ok(Vec::new())
            }
            Part::Accounts => self.add_accounts(name, &mut decoder),
        }
    }

    fn add_block(&mut self, block: Block) -> Result<(), FalseSnapshot> {
        let (header, height) = (&block.header, self.blocks.len() as u64);
        let slot = self.blocks.last().map_or(0, |below| below.header.slot);
        if header.parent != self.head || header.height != height + 1 || header.slot <= slot {
            return Err(FalseSnapshot::NotLinked { height });
        }
        check_header(&self.genesis, &self.genesis_id, &self.schedule, &block, true)
            .map_err(|error| FalseSnapshot::Header { height: header.height, error })?;
        self.head = block.id(&self.genesis_id);
        self.blocks.push(Arc::new(block));
        Ok(())
    }

    /// That the blocks lead to the certified one. By their parents' ids it vouches for all of them.
    fn check_head(&self) -> Result<(), FalseSnapshot> {
        let (found, height) = (self.head, self.blocks.len() as u64);
        let certified = self.manifest.block();
        match found == certified.id && height == certified.height {
            true => Ok(()),
            false => Err(FalseSnapshot::OtherBlock { found, height }),
        }
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
            if !self.state.replace(account.clone()) {
                self.state.open(account.clone()).map_err(|error| FalseSnapshot::Account { id, error })?;
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
        let certified = self.blocks.last().expect("there are blocks: their last one was compared with the certificate");
        let expected = certified.header.state_root;
        if found != expected {
            return Err(FalseSnapshot::WrongRoot { found, expected });
        }
        let sums = self.state.token_sums();
        if sums.values().any(|sum| *sum != 0) {
            return Err(FalseSnapshot::Sums(sums));
        }
        Ok(Assembled { certificate: self.manifest.certificate, blocks: self.blocks })
    }
}

fn decode_block(decoder: &mut Decoder<'_>) -> Result<Block, DecodeError> {
    let length = decoder.u32()? as usize;
    Block::from_bytes(decoder.raw(length)?)
}
