//! How fast blocks execute: `cargo run --release -p zeni-ledger --example execute_rate -- [ACCOUNTS] [BLOCK_PAYMENTS]`.
//!
//! Every account pays its balance to one receiver, in blocks. Prints, per payment and median over the blocks, the time
//! to execute (with receipts, undo record and roots), to undo, and to vouch for batches as a restart does. Signatures
//! are not made and not checked: execution never looks at them.

#![allow(clippy::disallowed_types, clippy::disallowed_methods, reason = "a benchmark reads the clock")]

use std::collections::BTreeMap;
use std::time::Instant;

use zeni_ledger::execute::{execute, undo};
use zeni_ledger::genesis::{Rules, Token};
use zeni_ledger::payment::PaymentBody;
use zeni_ledger::{
    Account, AccountId, Amount, Balance, Batch, GenesisId, Sequence, SignatureBytes, State, TokenId, ValidatorIndex,
    VerifiedBatch,
};

const TOKEN: TokenId = TokenId(1);

fn id(number: u64) -> AccountId {
    AccountId(zeni_ledger::hash::hash_parts("example account", &[&number.to_le_bytes()]))
}

fn main() {
    let mut arguments = std::env::args().skip(1).map(|text| text.parse::<u64>().expect("a number"));
    let accounts = arguments.next().unwrap_or(1_000_000);
    let per_block = arguments.next().unwrap_or(36_000);
    let depth = (accounts / 2).max(16).ilog2() + 1;
    let begun = Instant::now();
    let mut state = State::new(depth);
    for number in 0..=accounts {
        let mut account = Account::new(id(number));
        let units = if number == 0 { -i128::from(accounts) } else { 1 };
        assert!(account.set_balance(TOKEN, Balance::new(units)));
        state.open(account).expect("each account opens once");
    }
    state.commit();
    println!("{accounts} accounts at depth {depth}: built and hashed in {:.2} s", begun.elapsed().as_secs_f64());

    let token = Token { symbol: "ZEN".into(), decimals: 0, issuer: id(0) };
    let rules = Rules { network: 1, validity_max_s: 1_000, tokens: BTreeMap::from([(TOKEN, token)]) };
    let genesis = GenesisId([1; 32]);
    let (mut executing, mut undoing, mut vouching) = (Vec::new(), Vec::new(), Vec::new());
    for block in 0..(accounts / per_block).min(8) {
        let payment = |place: u64| {
            let body = PaymentBody {
                network: 1,
                valid_until: 100,
                from: id(1 + block * per_block + place),
                to: id(0),
                sequence: Sequence(0),
                amount: Amount(1),
                token: TOKEN,
                flags: 0,
                reference: [0; 16],
            };
            body.with_signature(SignatureBytes([0; 64]))
        };
        let payments: Vec<_> = (0..per_block).map(payment).collect();
        let batch = |payments: &[zeni_ledger::Payment]| Batch {
            author: ValidatorIndex(0),
            number: 0,
            payments: payments.to_vec(),
            signature: SignatureBytes([0; 64]),
        };
        let raw: Vec<Batch> = payments.chunks(1_000).map(batch).collect();
        let begun = Instant::now();
        let batches: Vec<_> = raw.into_iter().map(|batch| VerifiedBatch::vouch(batch, &genesis)).collect();
        vouching.push(begun.elapsed());
        let begun = Instant::now();
        let executed = execute(&mut state, &rules, 50_000, &batches);
        executing.push(begun.elapsed());
        assert_eq!(executed.applied, per_block);
        let begun = Instant::now();
        undo(&mut state, &executed.undo);
        undoing.push(begun.elapsed());
        let again = execute(&mut state, &rules, 50_000, &batches);
        assert_eq!(again.state_root, executed.state_root);
    }
    for (what, times) in [("vouch", &mut vouching), ("execute", &mut executing), ("undo", &mut undoing)] {
        times.sort();
        let median = times.get(times.len() / 2).expect("there is a block").as_nanos() as u64;
        println!("{what:8} {:6} ns a payment", median / per_block);
    }
}
