//! Hellos: round trip, golden bytes, and what is refused.

use zeni_ledger::GenesisId;
use zeni_schemas::hello::{self, HELLO_BYTES_MAX};
use zeni_schemas::{Hello, PROTOCOL_VERSION, Role, WireError};

use crate::{checks, golden};

fn hellos() -> [(&'static str, Hello); 3] {
    let hello = |role| Hello::new(GenesisId([7; 32]), role);
    [
        ("hello_client", hello(Role::Client)),
        ("hello_follower", hello(Role::Follower)),
        ("hello_validator", hello(Role::Validator)),
    ]
}

#[test]
fn hellos_round_trip_in_their_golden_bytes() {
    for (name, hello) in hellos() {
        let bytes = hello::encode(&hello);
        assert_eq!(hello::decode(&bytes), Ok(hello));
        golden::assert_golden(name, &bytes);
    }
}

#[test]
fn the_version_is_for_the_caller_to_judge() {
    let other = Hello { version: PROTOCOL_VERSION + 1, ..hellos()[0].1 };
    assert_eq!(hello::decode(&hello::encode(&other)), Ok(other));
}

#[test]
fn every_truncation_and_every_extension_is_refused() {
    for (_, hello) in hellos() {
        golden::assert_no_other_length(&hello::encode(&hello), |bytes| hello::decode(bytes).map(drop));
    }
}

#[test]
fn a_long_hello_is_refused_unread() {
    let found = HELLO_BYTES_MAX + 1;
    let error = WireError::TooLong { what: "hello", found, limit: HELLO_BYTES_MAX };
    assert_eq!(hello::decode(&vec![0; found]), Err(error));
}

#[test]
fn changed_hellos_never_panic_and_unknown_roles_are_refused() {
    let bytes = hello::encode(&hellos()[0].1);
    let mut unknown_roles = 0;
    for place in 0..bytes.len() {
        for value in 0..=u8::MAX {
            let mut changed = bytes.clone();
            changed[place] = value;
            checks::hello(&changed);
            let refused = matches!(hello::decode(&changed), Err(WireError::UnknownCode { what: "role", .. }));
            unknown_roles += u32::from(refused);
        }
    }
    assert!(unknown_roles >= 253, "{unknown_roles} values of the role were refused");
}
