//! Every parser against random bytes and against valid ones that were cut, spliced and flipped: the part of fuzzing
//! that runs with every test. The pinned files are where mutation starts.
#![expect(clippy::unwrap_used, reason = "what a test builds for itself is well-formed")]

#[expect(unreachable_pub, reason = "the fuzz targets use the same functions from their own crate")]
mod checks;

use proptest::prelude::*;
use proptest::sample::Index;

fn golden(text: &str) -> Vec<u8> {
    hex::decode(text.split_whitespace().collect::<String>()).unwrap()
}

/// One change of some bytes.
#[derive(Debug, Clone)]
enum Mutation {
    Set(Index, u8),
    Flip(Index, u8),
    Truncate(Index),
    Remove(Index),
    Insert(Index, Vec<u8>),
    /// Copies one run of bytes over another place: counts over counts, hashes over hashes.
    Copy(Index, Index, usize),
}

fn mutation() -> impl Strategy<Value = Mutation> {
    let edge = prop_oneof![Just(0u8), Just(1), Just(0x7f), Just(0x80), Just(0xff), any::<u8>()];
    prop_oneof![
        4 => (any::<Index>(), edge).prop_map(|(at, byte)| Mutation::Set(at, byte)),
        4 => (any::<Index>(), 0u8..8).prop_map(|(at, bit)| Mutation::Flip(at, bit)),
        1 => any::<Index>().prop_map(Mutation::Truncate),
        1 => any::<Index>().prop_map(Mutation::Remove),
        1 => (any::<Index>(), prop::collection::vec(any::<u8>(), 1..40)).prop_map(|(at, bytes)| Mutation::Insert(at, bytes)),
        2 => (any::<Index>(), any::<Index>(), 1usize..65).prop_map(|(from, to, length)| Mutation::Copy(from, to, length)),
    ]
}

fn mutate(mut bytes: Vec<u8>, mutations: &[Mutation]) -> Vec<u8> {
    for mutation in mutations {
        let length = bytes.len();
        if length == 0 {
            break;
        }
        match mutation {
            Mutation::Set(at, byte) => bytes[at.index(length)] = *byte,
            Mutation::Flip(at, bit) => bytes[at.index(length)] ^= 1 << bit,
            Mutation::Truncate(at) => bytes.truncate(at.index(length)),
            Mutation::Remove(at) => drop(bytes.remove(at.index(length))),
            Mutation::Insert(at, more) => drop(bytes.splice(at.index(length)..at.index(length), more.iter().copied())),
            Mutation::Copy(from, to, run) => {
                let (from, to) = (from.index(length), to.index(length));
                let run = (*run).min(length - from).min(length - to);
                bytes.copy_within(from..from + run, to);
            }
        }
    }
    bytes
}

/// For each parser: the valid bytes are accepted, and no others make it panic or accept what it would not write.
macro_rules! parser {
    ($parser:ident, $($valid:expr),+) => {
        mod $parser {
            use super::*;

            fn valid() -> Vec<Vec<u8>> {
                vec![$($valid),+]
            }

            #[test]
            fn accepts_the_pinned_bytes() {
                for bytes in valid() {
                    assert!(checks::$parser(&bytes));
                }
            }

            proptest! {
                #![proptest_config(ProptestConfig { cases: 1_000, ..ProptestConfig::default() })]

                #[test]
                fn survives_random_bytes(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
                    checks::$parser(&bytes);
                }

                #[test]
                fn survives_mutated_bytes(
                    bytes in prop::sample::select(valid()),
                    mutations in prop::collection::vec(mutation(), 1..5),
                ) {
                    checks::$parser(&mutate(bytes, &mutations));
                }
            }
        }
    };
}

macro_rules! pinned {
    ($name:literal) => {
        golden(include_str!(concat!("../golden/", $name, ".hex")))
    };
}

parser!(payments, pinned!("payment"), pinned!("payment").repeat(3), vec![]);
parser!(batch, pinned!("batch"));
parser!(block, pinned!("block"));
parser!(undo, pinned!("undo"));
parser!(receipt, pinned!("receipts")[..39].to_vec());
parser!(account, pinned!("account"), pinned!("account.new"));
parser!(account_proof, pinned!("proof.present"), pinned!("proof.absent"));
parser!(receipt_proof, pinned!("proof.receipt"));
parser!(commit_certificate, pinned!("commit_certificate"));
parser!(
    finality_receipt,
    pinned!("finality_receipt.payment"),
    pinned!("finality_receipt.account"),
    pinned!("finality_receipt.absent")
);
parser!(
    transaction,
    pinned!("transaction.all"),
    pinned!("transaction.transfer"),
    pinned!("transaction.hold.conditional"),
    pinned!("transaction.settle.preimage"),
    pinned!("transaction.account.open"),
    pinned!("transaction.token.define")
);
parser!(
    operation,
    operation_of(pinned!("transaction.transfer")),
    operation_of(pinned!("transaction.hold")),
    operation_of(pinned!("transaction.settle")),
    operation_of(pinned!("transaction.account.keys")),
    operation_of(pinned!("transaction.account.window")),
    operation_of(pinned!("transaction.token.define")),
    operation_of(pinned!("transaction.token.hand_over"))
);
parser!(genesis_toml, include_bytes!("../golden/genesis.toml").to_vec());
parser!(account_file, pinned!("accounts"));
parser!(account_text, b"zeni1zwv0vtrdrfzhc5d6df9470da9a5le2fjzcscmjye0eqkh5taj09qfqduac".to_vec());
parser!(signature, signature_of(&pinned!("payment"), &pinned!("payment.signed")));

/// The only operation of a transaction with one signer and one leg.
fn operation_of(transaction: Vec<u8>) -> Vec<u8> {
    let start = 2 + 4 + 4 + 2 + 72 + 2 + 32;
    transaction[start..transaction.len() - 64].to_vec()
}

fn signature_of(payment: &[u8], signed: &[u8]) -> Vec<u8> {
    [&payment[8..40], &payment[112..176], signed].concat()
}
