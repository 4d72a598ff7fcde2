//! A block: a signed header and the batch digests that it lists. Executing it is what gives the header's roots.
//!
//! Canonical bytes of the header: version u16, proposer u16, rank u16, reserved u16 (0), height u64, slot u64,
//! parent 32, transactions root 32, state root 32, receipts root 32, receipts u32, digests u32. Of the block: header,
//! digests, signature 64. The block id covers domain, genesis id and header; the transactions root binds the digests. So
//! a header and a signature, without the digests, are all that shows who signed what: [`SignedHeader`].

use crate::encoding::{DecodeError, Decoder, Encoder};
use crate::hash::{BatchDigest, BlockId, GenesisId, ReceiptsRoot, StateRoot, TransactionsRoot, hash_parts};
use crate::identity::{SignatureBytes, ValidatorIndex};
use crate::merkle;

/// Digests in one block, at most, whatever genesis says: 2,048 batches of 1,024 payments are 139,000 payments a second
/// at 15 s blocks.
pub const BLOCK_BATCHES_LIMIT: usize = 2_048;
/// Bytes of the largest block.
pub const BLOCK_BYTES_MAX: usize = HEADER_BYTES + 64 + BLOCK_BATCHES_LIMIT * 32;

/// Bytes of an encoded header.
pub const HEADER_BYTES: usize = 8 + 8 + 8 + 4 * 32 + 4 + 4;
/// Bytes of a signed header.
pub const SIGNED_HEADER_BYTES: usize = HEADER_BYTES + 64;

const VERSION: u16 = 1;
const DOMAIN: &str = "zeni block v1";

/// What a block commits to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockHeader {
    pub proposer: ValidatorIndex,
    /// The proposer's place in the slot's full permutation of validators; 0 is first.
    pub rank: u16,
    /// Genesis has height 0; the first block has height 1.
    pub height: u64,
    /// Slot time = genesis time + slot × interval. Slots rise strictly along a chain; genesis stands in slot 0.
    pub slot: u64,
    pub parent: BlockId,
    pub transactions_root: TransactionsRoot,
    pub state_root: StateRoot,
    pub receipts_root: ReceiptsRoot,
    /// Receipts below `receipts_root`.
    pub receipts: u32,
}

/// What a block's proposer signed, and its signature: a block without its digests. Canonical bytes: header, signature.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SignedHeader {
    pub header: BlockHeader,
    /// Digests that the block lists.
    pub digests: u32,
    pub signature: SignatureBytes,
}

/// A block in its canonical form. Well-formed, which says nothing yet about its signature or its roots.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Block {
    pub header: BlockHeader,
    pub digests: Vec<BatchDigest>,
    pub signature: SignatureBytes,
}

/// A header and what its bytes say besides: how many digests the block lists. The block's id covers no more than this.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SealedHeader {
    pub header: BlockHeader,
    /// Digests below `header.transactions_root`.
    pub digests: u32,
}

impl SealedHeader {
    /// The block's name, which its proposer signed.
    pub fn id(&self, genesis: &GenesisId) -> BlockId {
        let mut encoder = Encoder::with_capacity(HEADER_BYTES);
        self.encode(&mut encoder);
        BlockId(hash_parts(DOMAIN, &[&genesis.0, encoder.as_bytes()]))
    }

    /// Writes the header's canonical bytes.
    pub fn encode(&self, encoder: &mut Encoder) {
        let header = &self.header;
        encoder.u16(VERSION).u16(header.proposer.0).u16(header.rank).u16(0).u64(header.height).u64(header.slot);
        encoder.raw(&header.parent.0).raw(&header.transactions_root.0).raw(&header.state_root.0);
        encoder.raw(&header.receipts_root.0).u32(header.receipts).u32(self.digests);
    }

    /// Reads what [`Self::encode`] writes, and nothing else.
    pub fn decode(decoder: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        let version = decoder.u16()?;
        if version != VERSION {
            return Err(DecodeError::UnknownVersion { what: "block", found: version, known: VERSION });
        }
        let proposer = ValidatorIndex(decoder.u16()?);
        let rank = decoder.u16()?;
        let reserved = decoder.u16()?;
        if reserved != 0 {
            return Err(DecodeError::Invalid { what: "reserved field of a block", found: u64::from(reserved) });
        }
        let (height, slot) = (decoder.u64()?, decoder.u64()?);
        let parent = BlockId(decoder.array()?);
        let transactions_root = TransactionsRoot(decoder.array()?);
        let state_root = StateRoot(decoder.array()?);
        let receipts_root = ReceiptsRoot(decoder.array()?);
        let receipts = decoder.u32()?;
        let digests = decoder.count("digests of a block", BLOCK_BATCHES_LIMIT)? as u32;
        let header = BlockHeader {
            proposer,
            rank,
            height,
            slot,
            parent,
            transactions_root,
            state_root,
            receipts_root,
            receipts,
        };
        Ok(Self { header, digests })
    }
}

impl SignedHeader {
    /// The name of the block.
    pub fn id(&self, genesis: &GenesisId) -> BlockId {
        self.sealed().id(genesis)
    }

    fn sealed(&self) -> SealedHeader {
        SealedHeader { header: self.header, digests: self.digests }
    }

    /// Writes the canonical bytes.
    pub fn encode(&self, encoder: &mut Encoder) {
        self.sealed().encode(encoder);
        encoder.raw(&self.signature.0);
    }

    /// Reads canonical bytes. Says nothing about the signature.
    pub fn decode(decoder: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        let SealedHeader { header, digests } = SealedHeader::decode(decoder)?;
        Ok(Self { header, digests, signature: SignatureBytes(decoder.array()?) })
    }
}

impl Block {
    /// A block signed by its proposer. The header's transactions root must be that of the digests.
    pub fn sign(
        header: BlockHeader,
        digests: Vec<BatchDigest>,
        key: &ed25519_dalek::SigningKey,
        genesis: &GenesisId,
    ) -> Self {
        assert_eq!(header.transactions_root, transactions_root(&digests), "a header binds its digests");
        let mut block = Self { header, digests, signature: SignatureBytes([0; 64]) };
        block.signature = crate::signature::sign(key, block.id(genesis).as_bytes());
        block
    }

    /// What the proposer signs, and the block's name.
    pub fn id(&self, genesis: &GenesisId) -> BlockId {
        self.sealed_header().id(genesis)
    }

    /// The header with the number of digests, from which the id is made.
    pub fn sealed_header(&self) -> SealedHeader {
        SealedHeader { header: self.header, digests: self.digests.len() as u32 }
    }

    /// The block without its digests.
    pub fn signed_header(&self) -> SignedHeader {
        SignedHeader { header: self.header, digests: self.digests.len() as u32, signature: self.signature }
    }

    /// The canonical bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut encoder = Encoder::with_capacity(self.encoded_len());
        self.sealed_header().encode(&mut encoder);
        for digest in &self.digests {
            encoder.raw(&digest.0);
        }
        encoder.raw(&self.signature.0);
        encoder.finish()
    }

    /// Length of the canonical bytes.
    pub fn encoded_len(&self) -> usize {
        HEADER_BYTES + 32 * self.digests.len() + 64
    }

    /// Parses canonical bytes and checks that the header binds the digests.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut decoder = Decoder::new(bytes);
        let SealedHeader { header, digests } = SealedHeader::decode(&mut decoder)?;
        let raw = decoder.raw(32 * digests as usize)?;
        let digests: Vec<BatchDigest> = raw.as_chunks::<32>().0.iter().map(|chunk| BatchDigest(*chunk)).collect();
        let signature = SignatureBytes(decoder.array()?);
        decoder.finish()?;
        if transactions_root(&digests) != header.transactions_root {
            return Err(DecodeError::Invalid { what: "transactions root of a block", found: 0 });
        }
        Ok(Self { header, digests, signature })
    }
}

/// The Merkle root of the digests that a block lists.
pub fn transactions_root(digests: &[BatchDigest]) -> TransactionsRoot {
    let leaves: Vec<[u8; 32]> = digests.iter().map(|digest| merkle::leaf_hash(&digest.0)).collect();
    TransactionsRoot(merkle::root(&leaves))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(count: u8) -> Block {
        let digests: Vec<BatchDigest> = (0..count).map(|number| BatchDigest([number; 32])).collect();
        let header = BlockHeader {
            proposer: ValidatorIndex(1),
            rank: 2,
            height: 3,
            slot: 4,
            parent: BlockId([5; 32]),
            transactions_root: transactions_root(&digests),
            state_root: StateRoot([6; 32]),
            receipts_root: ReceiptsRoot([7; 32]),
            receipts: 8,
        };
        Block::sign(header, digests, &ed25519_dalek::SigningKey::from_bytes(&[1; 32]), &GenesisId([9; 32]))
    }

    #[test]
    fn bytes_round_trip() {
        for count in [0, 1, 200] {
            let block = block(count);
            let bytes = block.to_bytes();
            assert_eq!(bytes.len(), block.encoded_len());
            assert_eq!(Block::from_bytes(&bytes), Ok(block));
        }
    }

    #[test]
    fn a_signed_header_has_the_blocks_id_and_its_bytes_round_trip() {
        let (block, genesis) = (block(3), GenesisId([9; 32]));
        let signed = block.signed_header();
        assert_eq!(signed.id(&genesis), block.id(&genesis));
        let mut encoder = Encoder::default();
        signed.encode(&mut encoder);
        let bytes = encoder.finish();
        assert_eq!(bytes.len(), SIGNED_HEADER_BYTES);
        assert_eq!(SignedHeader::decode(&mut Decoder::new(&bytes)), Ok(signed));
        for length in 0..bytes.len() {
            assert!(SignedHeader::decode(&mut Decoder::new(&bytes[..length])).is_err(), "{length} bytes were read");
        }
    }

    #[test]
    fn every_truncation_is_a_typed_error() {
        let bytes = block(2).to_bytes();
        for length in 0..bytes.len() {
            assert!(Block::from_bytes(&bytes[..length]).is_err(), "{length} bytes were accepted");
        }
    }

    #[test]
    fn digests_that_the_header_does_not_bind_are_refused() {
        let mut bytes = block(2).to_bytes();
        bytes[HEADER_BYTES] ^= 1;
        let refused = Block::from_bytes(&bytes);
        assert!(matches!(refused, Err(DecodeError::Invalid { what: "transactions root of a block", .. })));
    }

    #[test]
    fn the_id_covers_every_header_field() {
        let genesis = GenesisId([9; 32]);
        let base = block(2);
        let change = |edit: fn(&mut BlockHeader)| {
            let mut other = base.clone();
            edit(&mut other.header);
            other.id(&genesis)
        };
        let ids = [
            base.id(&genesis),
            change(|header| header.proposer = ValidatorIndex(0)),
            change(|header| header.rank = 0),
            change(|header| header.height = 0),
            change(|header| header.slot = 0),
            change(|header| header.parent = BlockId([0; 32])),
            change(|header| header.transactions_root = TransactionsRoot([0; 32])),
            change(|header| header.state_root = StateRoot([0; 32])),
            change(|header| header.receipts_root = ReceiptsRoot([0; 32])),
            change(|header| header.receipts = 0),
        ];
        let distinct: std::collections::BTreeSet<_> = ids.iter().collect();
        assert_eq!(distinct.len(), ids.len());
    }
}
