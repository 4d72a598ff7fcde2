//! What every parser is held to, whatever bytes it gets: no panic, and what it reads is within the limits, so that it
//! can be written and read again. The fuzz targets run the same checks.

#![allow(unreachable_pub)] // The fuzz targets include this file as a module of theirs.

use zeni_schemas::{hello, message, request};

pub fn hello(bytes: &[u8]) {
    if let Ok(read) = hello::decode(bytes) {
        assert_eq!(hello::decode(&hello::encode(&read)), Ok(read));
    }
}

pub fn message(bytes: &[u8]) {
    if let Ok(read) = message::decode(bytes) {
        assert_eq!(message::decode(&message::encode(&read)), Ok(read));
    }
}

pub fn request(bytes: &[u8]) {
    if let Ok(read) = request::decode_request(bytes) {
        assert_eq!(request::decode_request(&request::encode_request(&read)), Ok(read));
    }
}

pub fn reply(bytes: &[u8]) {
    if let Ok(read) = request::decode_reply(bytes) {
        assert_eq!(request::decode_reply(&request::encode_reply(&read)), Ok(read));
    }
}
