//! Genesis and its account file: what is read, and everything that is refused, with its reason.
#![expect(clippy::unwrap_used, reason = "what a test builds for itself is well-formed")]

use std::collections::BTreeMap;

use zeni_ledger::genesis::{Genesis, GenesisError, Token, account_file, account_records, accounts_digest};
use zeni_ledger::state::OpenError;
use zeni_ledger::{AccountId, Amount, DecodeError, PublicKey, StateRoot, TokenId, ValidatorIndex};

const TOML: &str = include_str!("golden/genesis.toml");

type Record = (AccountId, TokenId, Amount);

fn genesis() -> Genesis {
    Genesis::from_toml(TOML).unwrap()
}

fn record(number: u8, token: u32, amount: u64) -> Record {
    (AccountId([number; 32]), TokenId(token), Amount(amount))
}

/// A genesis that names exactly this file.
fn naming(file: &[u8]) -> Genesis {
    let accounts = u64::from_le_bytes(file.get(8..16).map_or([0; 8], |count| count.try_into().unwrap()));
    Genesis { accounts, accounts_digest: accounts_digest(file), ..genesis() }
}

fn file(records: &[Record]) -> Vec<u8> {
    account_file(records.iter().copied())
}

fn refused(find: &str, replace: &str) -> GenesisError {
    assert!(TOML.contains(find), "the file has no {find}");
    Genesis::from_toml(&TOML.replacen(find, replace, 1)).unwrap_err()
}

fn assert_field(find: &str, replace: &str, name: &str) {
    let error = refused(find, replace);
    assert!(matches!(&error, GenesisError::Field { field, .. } if field == name), "{replace}: {error}");
}

fn assert_toml(find: &str, replace: &str, mentions: &str) {
    let error = refused(find, replace);
    assert!(matches!(&error, GenesisError::Toml(text) if text.contains(mentions)), "{replace}: {error}");
}

#[test]
fn survives_being_written_and_read() {
    let genesis = genesis();
    assert_eq!(Genesis::from_toml(&genesis.to_toml()), Ok(genesis));
}

#[test]
fn unknown_and_missing_fields_are_refused_by_name() {
    assert_toml("network = 1", "network = 1\nnetwrok = 2", "netwrok");
    assert_toml("count = 2", "count = 2\nsize = 2", "size");
    assert_toml("symbol = \"JPY\"", "symbol = \"JPY\"\nname = \"yen\"", "name");
    assert_toml("stake = 1", "stake = 1\nweight = 1", "weight");
    assert_toml("network = 1", "", "network");
    assert_toml("purpose = \"test\"", "purpose = \"fun\"", "fun");
    assert_toml("fault_model = \"crash\"", "fault_model = \"none\"", "none");
    assert_toml("network = 1", "network = -1", "network");
    assert_toml("network = 1", "network = 4294967296", "network");
    assert!(matches!(Genesis::from_toml("not toml"), Err(GenesisError::Toml(_))));
}

#[test]
fn values_out_of_bounds_are_refused_by_field() {
    for interval in ["199", "600001"] {
        let line = format!("block_interval_ms = {interval}");
        assert_field("block_interval_ms = 15000", &line, "block_interval_ms");
    }
    assert_field("validity_max_s = 7200", "validity_max_s = 0", "validity_max_s");
    assert_field("validity_max_s = 7200", "validity_max_s = 2592001", "validity_max_s");
    assert_field("state_depth = 4", "state_depth = 3", "state_depth");
    assert_field("state_depth = 4", "state_depth = 27", "state_depth");
    assert_field("batches_max = 1024", "batches_max = 0", "batches_max");
    assert_field("batches_max = 1024", "batches_max = 2049", "batches_max");
    assert_field("time_ms = 1700000000000", "time_ms = 4294967295001", "time_ms");
    assert_field("stake = 1", "stake = 0", "validator.stake");
}

#[test]
fn the_greatest_numbers_are_refused_or_survive_being_written() {
    for number in ["9223372036854775807", "9223372036854775808", "18446744073709551615"] {
        for line in ["count = 2", "stake = 1", "time_ms = 1700000000000", "block_interval_ms = 15000"] {
            let (name, _) = line.split_once(" = ").unwrap();
            let text = TOML.replacen(line, &format!("{name} = {number}"), 1);
            if let Ok(genesis) = Genesis::from_toml(&text) {
                assert_eq!(Genesis::from_toml(&genesis.to_toml()), Ok(genesis), "{name} = {number}");
            }
        }
    }
}

#[test]
fn a_validator_key_or_a_token_that_stands_twice_is_refused() {
    let genesis = genesis();
    let (first, second) = (genesis.validators[0].key.to_string(), genesis.validators[1].key.to_string());
    assert_field(&second, &first, "validator.key");
    assert_field("id = 2", "id = 1", "token.id");
}

#[test]
fn malformed_keys_issuers_and_digests_are_refused() {
    let key = genesis().validators[0].key.to_string();
    assert_field(&key, &key[..62], "validator.key");
    assert_field(&key, &key.replace('f', "g"), "validator.key");
    assert_field("zeni1zwv0", "zeni1zwv1", "token.issuer");
    assert_field("blake3 = \"e0", "blake3 = \"", "accounts.blake3");
}

#[test]
fn a_ledger_has_at_least_one_validator_and_one_token() {
    let mut none = genesis();
    none.validators.clear();
    assert!(matches!(Genesis::from_toml(&none.to_toml()), Err(GenesisError::Field { found, .. }) if found == "0"));
    let mut none = genesis();
    none.rules.tokens = BTreeMap::new();
    assert!(matches!(Genesis::from_toml(&none.to_toml()), Err(GenesisError::Field { found, .. }) if found == "0"));
}

#[test]
fn the_id_covers_rules_and_keys_but_not_names_and_addresses() {
    let base = genesis();
    let change = |edit: &dyn Fn(&mut Genesis)| {
        let mut other = base.clone();
        edit(&mut other);
        other.id()
    };
    assert_eq!(change(&|genesis| genesis.validators[0].address = "10.0.0.1:1".into()), base.id());
    assert_eq!(change(&|genesis| genesis.validators[0].name = "kyoto".into()), base.id());
    assert_eq!(change(&|genesis| genesis.accounts_file = "elsewhere.bin".into()), base.id());
    let rules: [&dyn Fn(&mut Genesis); 13] = [
        &|genesis| genesis.purpose = zeni_ledger::genesis::Purpose::Production,
        &|genesis| genesis.fault_model = zeni_ledger::genesis::FaultModel::Byzantine,
        &|genesis| genesis.time_ms += 1,
        &|genesis| genesis.block_interval_ms += 1,
        &|genesis| genesis.state_depth += 1,
        &|genesis| genesis.batches_max += 1,
        &|genesis| genesis.rules.network += 1,
        &|genesis| genesis.rules.validity_max_s += 1,
        &|genesis| genesis.accounts += 1,
        &|genesis| genesis.accounts_digest[0] ^= 1,
        &|genesis| genesis.validators[1].stake += 1,
        &|genesis| genesis.validators[1].key = PublicKey([1; 32]),
        &|genesis| genesis.validators.swap(0, 1),
    ];
    for (number, edit) in rules.into_iter().enumerate() {
        assert_ne!(change(edit), base.id(), "change {number}");
    }
    let token: [&dyn Fn(&mut Token); 3] =
        [&|token| token.symbol.push('X'), &|token| token.decimals += 1, &|token| token.issuer = AccountId([1; 32])];
    for edit in token {
        let id = change(&|genesis| edit(genesis.rules.tokens.get_mut(&TokenId(1)).unwrap()));
        assert_ne!(id, base.id());
    }
}

#[test]
fn validators_are_found_by_key_and_slots_by_time() {
    let genesis = genesis();
    let key = genesis.validators[1].key;
    assert_eq!(genesis.validator_by_key(&key), Some(ValidatorIndex(1)));
    assert_eq!(genesis.validator_by_key(&PublicKey([1; 32])), None);
    assert_eq!(genesis.slot_time_ms(2), genesis.time_ms + 30_000);
    assert_eq!(genesis.slot_at(genesis.time_ms + 29_999), 1);
    assert_eq!(genesis.slot_at(0), 0);
    assert_eq!(genesis.slot_time_ms(u64::MAX), u64::MAX);
}

#[test]
fn the_issuer_gets_the_negative_sum_and_every_token_sums_to_zero() {
    let genesis = genesis();
    let issuer = genesis.rules.tokens[&TokenId(1)].issuer;
    let file = file(&[record(1, 1, 5), record(2, 1, 7), record(3, 2, 11)]);
    let state = naming(&file).state(&file).unwrap();
    assert_eq!(state.account(&issuer).unwrap().balance(TokenId(1)).units(), -12);
    assert_eq!(state.account(&AccountId([2; 32])).unwrap().balance(TokenId(1)).units(), 7);
    assert!(state.token_sums().values().all(|sum| *sum == 0));
    assert_eq!(state.len(), 5);
    let root = state.root();
    let mut state = state;
    assert_eq!(state.commit(), root, "nothing is left to be hashed");
}

#[test]
fn an_issuer_that_stands_in_the_file_owes_what_the_others_hold() {
    let issuer = genesis().rules.tokens[&TokenId(1)].issuer;
    let file = file(&[(issuer, TokenId(1), Amount(100)), record(2, 1, 7)]);
    let state = naming(&file).state(&file).unwrap();
    assert_eq!(state.account(&issuer).unwrap().balance(TokenId(1)).units(), -7);
    assert!(state.token_sums().values().all(|sum| *sum == 0));
}

#[test]
fn the_greatest_amounts_do_not_overflow() {
    let file = file(&[record(1, 1, u64::MAX), record(2, 1, u64::MAX), record(3, 1, u64::MAX)]);
    let state = naming(&file).state(&file).unwrap();
    let issuer = genesis().rules.tokens[&TokenId(1)].issuer;
    assert_eq!(state.account(&issuer).unwrap().balance(TokenId(1)).units(), -3 * i128::from(u64::MAX));
}

#[test]
fn the_first_root_does_not_depend_on_the_order_of_the_file() {
    let root = |records: &[Record]| -> StateRoot {
        let file = file(records);
        naming(&file).state(&file).unwrap().root()
    };
    assert_eq!(root(&[record(1, 1, 5), record(2, 2, 6)]), root(&[record(2, 2, 6), record(1, 1, 5)]));
}

#[test]
fn a_file_that_is_no_account_file_is_refused() {
    for bytes in [&b""[..], b"ZENIACC", b"ZENIACC2\0\0\0\0\0\0\0\0", b"[accounts]"] {
        assert_eq!(naming(bytes).state(bytes).err(), Some(GenesisError::NotAnAccountFile), "{bytes:?}");
    }
    let refused = naming(b"ZENIACC1\0\0").state(b"ZENIACC1\0\0").err();
    assert!(matches!(refused, Some(GenesisError::Accounts(DecodeError::Truncated { .. }))), "{refused:?}");
}

#[test]
fn every_truncation_and_extension_of_an_account_file_is_refused() {
    let whole = file(&[record(1, 1, 5), record(2, 1, 7)]);
    assert_eq!(account_records(&whole).unwrap().collect::<Vec<_>>(), vec![record(1, 1, 5), record(2, 1, 7)]);
    for length in 0..whole.len() {
        let cut = &whole[..length];
        assert!(naming(cut).state(cut).is_err(), "{length} bytes were accepted");
    }
    let longer = [&whole[..], &[0]].concat();
    assert!(matches!(naming(&longer).state(&longer), Err(GenesisError::Accounts(DecodeError::Invalid { .. }))));
    let mut lying = whole;
    lying[8..16].copy_from_slice(&u64::MAX.to_le_bytes());
    assert!(matches!(naming(&lying).state(&lying), Err(GenesisError::Accounts(DecodeError::Invalid { .. }))));
}

#[test]
fn the_account_file_of_another_ledger_is_refused() {
    let file = file(&[record(1, 1, 5)]);
    assert!(matches!(genesis().state(&file), Err(GenesisError::OtherAccounts { .. })));
    let mut damaged = file.clone();
    damaged[40] ^= 1;
    assert!(matches!(naming(&file).state(&damaged), Err(GenesisError::OtherAccounts { .. })));
}

#[test]
fn a_wrong_count_of_accounts_is_refused() {
    let file = file(&[record(1, 1, 5)]);
    let lying = Genesis { accounts: 2, ..naming(&file) };
    assert!(matches!(lying.state(&file), Err(GenesisError::Field { field, .. }) if field == "accounts.count"));
}

#[test]
fn an_unknown_token_or_an_account_that_stands_twice_is_refused() {
    let unknown = file(&[record(1, 1, 5), record(2, 3, 7)]);
    let expected = GenesisError::UnknownToken { id: AccountId([2; 32]), token: TokenId(3) };
    assert_eq!(naming(&unknown).state(&unknown).err(), Some(expected));
    let twice = file(&[record(1, 1, 5), record(1, 2, 7)]);
    let expected = GenesisError::Open { id: AccountId([1; 32]), error: OpenError::Exists };
    assert_eq!(naming(&twice).state(&twice).err(), Some(expected));
}
