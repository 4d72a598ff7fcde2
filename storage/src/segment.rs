//! One segment file: a header in two copies, frames, and (once it is finished) a seal.
//!
//! Header copy, 152 bytes: magic `ZENISEG1`, version u16, stream u8, zeros 5, number u64, genesis id 32, the hash that
//! the previous segment ends in 32, salt 32, BLAKE3 of all before 32. The second copy follows the first: a rotten byte
//! in one must not make the segment's key, and with it every record, unreadable.
//!
//! **Chains.** Within a segment every frame names the hash of the one before, the first that of the header. From one
//! segment to the next leads the seal: it holds the hash that the next header names, which is that of the last frame,
//! unless the segment had to be rewritten: then it is what the next header named before. So a damaged segment is
//! rewritten alone, and those behind it stay as they are.

use zeni_ledger::GenesisId;
use zeni_ledger::encoding::{DecodeError, Decoder, Encoder};
use zeni_ledger::hash::hash_parts;

use crate::error::{Damage, DamageKind, Subject};
use crate::frame::{self, FRAME_BYTES, Frame, Kind};

/// Where the first frame begins.
pub(crate) const FRAMES_AT: usize = 2 * COPY_BYTES;

const COPY_BYTES: usize = 152;
const MAGIC: [u8; 8] = *b"ZENISEG1";
pub(crate) const VERSION: u16 = 1;

/// What a segment says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) stream: u8,
    pub(crate) number: u64,
    pub(crate) genesis: GenesisId,
    /// The hash that the previous segment ends in; zeros in the first segment.
    pub(crate) previous: [u8; 32],
    pub(crate) salt: [u8; 32],
}

/// A header as found in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FoundHeader {
    Whole(Header),
    /// One copy is damaged; the damage begins in the copy at this offset.
    OneCopy(Header, u64),
    /// Both copies are whole but written by a newer build.
    Version(u16),
    Unreadable,
}

impl Header {
    /// Both copies.
    pub(crate) fn to_bytes(self) -> Vec<u8> {
        let mut encoder = Encoder::with_capacity(COPY_BYTES);
        encoder.raw(&MAGIC).u16(VERSION).u8(self.stream).raw(&[0; 5]).u64(self.number);
        encoder.raw(&self.genesis.0).raw(&self.previous).raw(&self.salt);
        let hash = blake3::hash(encoder.as_bytes());
        encoder.raw(hash.as_bytes());
        encoder.finish().repeat(2)
    }

    /// The key of the segment's frame hashes.
    pub(crate) fn key(&self) -> [u8; 32] {
        hash_parts("zeni segment key v1", &[&self.to_bytes()[..COPY_BYTES]])
    }

    /// The hash that the first frame names as the one before.
    pub(crate) fn hash(&self) -> [u8; 32] {
        hash_parts("zeni segment header v1", &[&self.to_bytes()[..COPY_BYTES]])
    }
}

/// Reads the header at the front of a file.
pub(crate) fn read_header(bytes: &[u8]) -> FoundHeader {
    let copies = [bytes.get(..COPY_BYTES), bytes.get(COPY_BYTES..FRAMES_AT)];
    match copies.map(|copy| copy.map_or(Err(None), read_copy)) {
        [Ok(first), Ok(second)] if first == second => FoundHeader::Whole(first),
        [Ok(first), _] => FoundHeader::OneCopy(first, COPY_BYTES as u64),
        [_, Ok(second)] => FoundHeader::OneCopy(second, 0),
        [Err(Some(version)), _] | [_, Err(Some(version))] => FoundHeader::Version(version),
        _ => FoundHeader::Unreadable,
    }
}

/// Reads one copy; an error names the version if that is what is wrong.
fn read_copy(copy: &[u8]) -> Result<Header, Option<u16>> {
    let (content, hash) = copy.split_last_chunk::<32>().ok_or(None)?;
    if blake3::hash(content).as_bytes() != hash {
        return Err(None);
    }
    let mut decoder = Decoder::new(content);
    let header = decode_copy(&mut decoder).map_err(|error| match error {
        DecodeError::UnknownVersion { found, .. } => Some(found),
        _ => None,
    })?;
    Ok(header)
}

fn decode_copy(decoder: &mut Decoder<'_>) -> Result<Header, DecodeError> {
    if decoder.array::<8>()? != MAGIC {
        return Err(DecodeError::Invalid { what: "magic of a segment", found: 0 });
    }
    let found = decoder.u16()?;
    if found != VERSION {
        return Err(DecodeError::UnknownVersion { what: "segment", found, known: VERSION });
    }
    let stream = decoder.u8()?;
    decoder.raw(5)?;
    let number = decoder.u64()?;
    let (genesis, previous, salt) = (GenesisId(decoder.array()?), decoder.array()?, decoder.array()?);
    Ok(Header { stream, number, genesis, previous, salt })
}

/// What a seal says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Seal {
    pub(crate) records: u64,
    /// The hash that the next segment's header names.
    pub(crate) next: [u8; 32],
}

impl Seal {
    pub(crate) fn to_bytes(self) -> Vec<u8> {
        let mut encoder = Encoder::with_capacity(40);
        encoder.u64(self.records).raw(&self.next);
        encoder.finish()
    }

    fn from_bytes(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut decoder = Decoder::new(bytes);
        let seal = Self { records: decoder.u64()?, next: decoder.array()? };
        decoder.finish()?;
        Ok(seal)
    }
}

/// What walking over a segment's frames found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Walk {
    /// Where the last readable frame ends.
    pub(crate) end: usize,
    pub(crate) records: u64,
    /// Hash of the last readable frame, or of the header.
    pub(crate) chain: [u8; 32],
    pub(crate) seal: Option<Seal>,
    pub(crate) damage: Vec<Damage>,
    /// There are bytes behind `end`, none of them a readable frame, and no seal.
    pub(crate) tail: Option<Damage>,
}

/// Walks over the frames of a segment and shows each readable record to `visit`, with its offset. `visit` returns
/// false if the record does not decode. The image is the whole file, header included.
pub(crate) fn walk(
    file: &str,
    header: &Header,
    image: &[u8],
    visit: &mut dyn FnMut(usize, &Frame<'_>) -> bool,
) -> Walk {
    let key = header.key();
    let mut walk = Walk {
        end: FRAMES_AT.min(image.len()),
        records: 0,
        chain: header.hash(),
        seal: None,
        damage: Vec::new(),
        tail: None,
    };
    while walk.end < image.len() && walk.seal.is_none() {
        let at = walk.end;
        let Some(frame) = frame::read(&key, &image[at..]) else {
            let (subject, likely) = hint(&image[at..]);
            let next = frame::find(&key, image, at + 1, likely.map(|length| at + length));
            let bytes = (next.unwrap_or(image.len()) - at) as u64;
            let damage = damage(file, at, bytes, DamageKind::Record, subject);
            let Some(next) = next else {
                walk.tail = Some(damage);
                return walk;
            };
            walk.damage.push(damage);
            walk.chain = frame::read_head(&image[next..]).expect("a frame was just read there").previous;
            walk.end = next;
            continue;
        };
        walk.take(file, at, &frame, visit);
    }
    if walk.end < image.len() {
        let bytes = (image.len() - walk.end) as u64;
        walk.damage.push(damage(file, walk.end, bytes, DamageKind::BehindSeal, Subject::Unknown));
    }
    walk
}

impl Walk {
    fn take(&mut self, file: &str, at: usize, frame: &Frame<'_>, visit: &mut dyn FnMut(usize, &Frame<'_>) -> bool) {
        if frame.head.previous != self.chain {
            self.damage.push(damage(file, at, 0, DamageKind::Chain, Subject::Unknown));
        }
        self.chain = frame.head.hash;
        self.end = at + frame.len();
        let bytes = frame.len() as u64;
        if frame.head.kind == Kind::Seal {
            match Seal::from_bytes(frame.payload) {
                Ok(seal) => {
                    // Where records are damaged the count is short too, and says nothing new.
                    if seal.records != self.records && self.damage.is_empty() {
                        self.damage.push(damage(file, at, 0, DamageKind::SealCount, Subject::Unknown));
                    }
                    self.seal = Some(seal);
                }
                Err(_) => self.damage.push(damage(file, at, bytes, DamageKind::Undecodable, Subject::Unknown)),
            }
            return;
        }
        match visit(at, frame) {
            true => self.records += 1,
            false => self.damage.push(damage(file, at, bytes, DamageKind::Undecodable, subject_of(frame))),
        }
    }
}

/// What a frame says that it holds.
fn subject_of(frame: &Frame<'_>) -> Subject {
    subject(frame.head.kind, frame.head.key)
}

fn subject(kind: Kind, key: [u8; 32]) -> Subject {
    match kind {
        Kind::Batch => Subject::Batch(zeni_ledger::BatchDigest(key)),
        Kind::Block => Subject::Block(zeni_ledger::BlockId(key)),
        Kind::Undo => Subject::Undo(zeni_ledger::BlockId(key)),
        Kind::Certificate | Kind::Base => Subject::Certificate(zeni_ledger::BlockId(key)),
        Kind::Finality => Subject::Finality,
        Kind::Seal => Subject::Unknown,
    }
}

/// What an unreadable frame seems to be, and how long.
fn hint(bytes: &[u8]) -> (Subject, Option<usize>) {
    match frame::read_head(bytes) {
        Some(head) => (subject(head.kind, head.key), Some(FRAME_BYTES + head.length)),
        None => (Subject::Unknown, None),
    }
}

pub(crate) fn damage(file: &str, offset: usize, bytes: u64, what: DamageKind, subject: Subject) -> Damage {
    Damage { file: file.to_owned(), offset: offset as u64, bytes, what, subject }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> Header {
        Header { stream: 1, number: 2, genesis: GenesisId([3; 32]), previous: [4; 32], salt: [5; 32] }
    }

    /// A sealed segment of three records, and where its frames begin.
    fn sealed() -> (Vec<u8>, Vec<usize>) {
        let header = header();
        let (mut image, mut chain, mut places) = (header.to_bytes(), header.hash(), Vec::new());
        let mut add = |kind, key: [u8; 32], payload: &[u8]| {
            places.push(image.len());
            let (bytes, hash) = frame::encode(&header.key(), &chain, kind, &key, payload);
            image.extend(bytes);
            chain = hash;
        };
        for record in 0..3u8 {
            add(Kind::Batch, [record; 32], &[record; 50]);
        }
        add(Kind::Seal, [0; 32], &Seal { records: 3, next: [9; 32] }.to_bytes());
        (image, places)
    }

    fn keys(image: &[u8]) -> (Vec<u8>, Walk) {
        let mut keys = Vec::new();
        let walk = walk("s", &header(), image, &mut |_, frame| {
            keys.push(frame.head.key[0]);
            true
        });
        (keys, walk)
    }

    #[test]
    fn a_sealed_segment_is_clean() {
        let (image, _) = sealed();
        let (found, walk) = keys(&image);
        assert_eq!((found, walk.damage.len(), walk.tail.clone()), (vec![0, 1, 2], 0, None));
        assert_eq!(walk.seal, Some(Seal { records: 3, next: [9; 32] }));
        assert_eq!(read_header(&image), FoundHeader::Whole(header()));
    }

    #[test]
    fn every_flipped_byte_behind_the_header_is_named_and_hides_only_its_record() {
        let (image, places) = sealed();
        for position in FRAMES_AT..image.len() {
            let mut flipped = image.clone();
            flipped[position] ^= 0x10;
            let record = places.partition_point(|place| *place <= position) - 1;
            let (found, walk) = keys(&flipped);
            let expected: Vec<u8> = (0..3).filter(|key| usize::from(*key) != record).collect();
            assert_eq!(found, expected, "flip at {position}");
            let named = walk.damage.first().or(walk.tail.as_ref()).expect("the flip is seen");
            assert_eq!(named.offset, places[record] as u64, "flip at {position}");
        }
    }

    #[test]
    fn every_flipped_byte_of_the_header_is_named() {
        let (image, _) = sealed();
        for position in 0..FRAMES_AT {
            let mut flipped = image.clone();
            flipped[position] ^= 1;
            let offset = if position < COPY_BYTES { 0 } else { COPY_BYTES as u64 };
            assert_eq!(read_header(&flipped), FoundHeader::OneCopy(header(), offset));
        }
        assert_eq!(read_header(&image[..COPY_BYTES - 1]), FoundHeader::Unreadable);
    }

    #[test]
    fn records_that_were_cut_out_or_swapped_break_the_chain() {
        let (image, places) = sealed();
        let cut = [&image[..places[1]], &image[places[2]..]].concat();
        assert_eq!(keys(&cut).1.damage[0].what, DamageKind::Chain);
        let swapped =
            [&image[..places[0]], &image[places[1]..places[2]], &image[places[0]..places[1]], &image[places[2]..]];
        assert_eq!(keys(&swapped.concat()).1.damage[0].what, DamageKind::Chain);
        let behind = [&image[..], b"x"].concat();
        assert_eq!(keys(&behind).1.damage[0].what, DamageKind::BehindSeal);
    }
}
