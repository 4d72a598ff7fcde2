//! Frames: whole, in order, bounded, each stream for itself.

use bytes::Bytes;

use super::*;
use crate::{Class, CloseCode, FrameError, Lost};

#[tokio::test]
async fn large_frames_arrive_intact_and_in_order() {
    const FRAMES: usize = 60;
    const BYTES: usize = 180_000;
    let pair = pair().await;
    let sending = async {
        let mut sender = pair.at_client.open_frames(Class::Bulk).await.unwrap();
        for number in 0..FRAMES {
            sender.send(pattern(number, BYTES + number)).await.unwrap();
        }
    };
    let receiving = async {
        let mut receiver = pair.at_server.accept_frames().await.unwrap();
        assert_eq!(receiver.class(), Class::Bulk);
        for number in 0..FRAMES {
            let frame = receiver.recv().await.unwrap().unwrap();
            assert!(frame == pattern(number, BYTES + number), "frame {number} differs");
        }
        assert_eq!(receiver.recv().await, Ok(None));
    };
    tokio::join!(sending, receiving);
}

#[tokio::test]
async fn small_and_empty_frames_keep_their_borders() {
    let pair = pair().await;
    let mut sender = pair.at_server.open_frames(Class::Control).await.unwrap();
    for length in [0, 1, 0, 3, 1_199, 1_200, 70_000, 0] {
        sender.send(pattern(length, length)).await.unwrap();
    }
    drop(sender);
    let mut receiver = pair.at_client.accept_frames().await.unwrap();
    assert_eq!(receiver.class(), Class::Control);
    for length in [0, 1, 0, 3, 1_199, 1_200, 70_000, 0] {
        assert_eq!(receiver.recv().await, Ok(Some(Bytes::from(pattern(length, length)))));
    }
    assert_eq!(receiver.recv().await, Ok(None));
}

#[tokio::test]
async fn an_oversized_frame_closes_its_connection_and_no_other() {
    let narrow = TransportConfig { bulk_frame_bytes_max: 1_000, ..TransportConfig::default() };
    let pair = pair_with(narrow, TransportConfig::default()).await;
    let (other_client, other_server) = connect(&pair.client, &pair.server, pair.address).await;
    let mut sender = pair.at_client.open_frames(Class::Bulk).await.unwrap();
    sender.send(pattern(1, 1_000)).await.unwrap();
    sender.send(pattern(2, 1_001)).await.unwrap();
    let mut receiver = pair.at_server.accept_frames().await.unwrap();
    assert_eq!(receiver.recv().await, Ok(Some(Bytes::from(pattern(1, 1_000)))));
    let oversized = FrameError::Oversized { class: Class::Bulk, found: 1_001, limit: 1_000 };
    assert_eq!(receiver.recv().await, Err(oversized));
    assert_eq!(pair.at_client.closed().await, Lost::ClosedByPeer { code: CloseCode::OversizedFrame });
    prove_alive(&other_client, &other_server).await;
}

#[tokio::test]
async fn an_announced_gigabyte_is_refused_before_it_is_sent() {
    let (server, address) = server_with(TransportConfig::default());
    let pair = raw_pair(&server, address).await;
    let mut stream = pair.raw.open_uni().await.unwrap();
    stream.write_all(&[Class::Control.byte()]).await.unwrap();
    stream.write_all(&u32::MAX.to_le_bytes()).await.unwrap();
    let mut receiver = pair.at_server.accept_frames().await.unwrap();
    assert!(matches!(receiver.recv().await, Err(FrameError::Oversized { found: 0xffff_ffff, .. })));
    assert_eq!(Lost::from(pair.raw.closed().await), Lost::ClosedByPeer { code: CloseCode::OversizedFrame });
}

#[tokio::test]
async fn the_sender_refuses_its_own_oversized_frame_and_goes_on() {
    let pair = pair().await;
    let mut sender = pair.at_client.open_frames(Class::Bulk).await.unwrap();
    let limit = TransportConfig::default().bulk_frame_bytes_max;
    let oversized = FrameError::Oversized { class: Class::Bulk, found: limit + 1, limit };
    assert_eq!(sender.send(vec![0; limit + 1]).await, Err(oversized));
    sender.send("after").await.unwrap();
    let mut receiver = pair.at_server.accept_frames().await.unwrap();
    assert_eq!(receiver.recv().await, Ok(Some(Bytes::from("after"))));
}

/// A connection whose dialling side writes streams by hand.
struct RawPair {
    _quic: quinn::Endpoint,
    raw: quinn::Connection,
    at_server: Connection,
}

async fn raw_pair(server: &Endpoint, address: SocketAddr) -> RawPair {
    let (quic, raw) = raw_peer(CLIENT, address).await;
    let hello = Hello::new(GENESIS, Role::Follower);
    let (_, at_server) =
        tokio::try_join!(crate::greeting::greet(&raw, &hello), async { Ok(server.accept().await) }).unwrap();
    RawPair { _quic: quic, raw, at_server: at_server.unwrap() }
}

#[tokio::test]
async fn every_truncation_of_a_frame_is_a_typed_error() {
    let (server, address) = server_with(TransportConfig::default());
    let pair = raw_pair(&server, address).await;
    let whole = [vec![Class::Control.byte(), 5, 0, 0, 0], pattern(1, 5)].concat();
    for length in 2..whole.len() {
        let mut stream = pair.raw.open_uni().await.unwrap();
        stream.write_all(&whole[..length]).await.unwrap();
        stream.finish().unwrap();
        let mut receiver = pair.at_server.accept_frames().await.unwrap();
        let expected = match length {
            2..5 => FrameError::Truncated { found: length - 1, expected: 4 },
            _ => FrameError::Truncated { found: length - 5, expected: 5 },
        };
        assert_eq!(receiver.recv().await, Err(expected));
    }
    assert_eq!(pair.at_server.close_reason(), None);
}

#[tokio::test]
async fn a_stream_without_a_known_class_closes_the_connection() {
    for (first, error) in
        [(vec![9], FrameError::UnknownClass { found: 9 }), (vec![], FrameError::Truncated { found: 0, expected: 1 })]
    {
        let (server, address) = server_with(TransportConfig::default());
        let pair = raw_pair(&server, address).await;
        let mut stream = pair.raw.open_uni().await.unwrap();
        stream.write_all(&first).await.unwrap();
        stream.finish().unwrap();
        assert_eq!(pair.at_server.accept_frames().await.map(|receiver| receiver.class()), Err(error));
        assert_eq!(Lost::from(pair.raw.closed().await), Lost::ClosedByPeer { code: CloseCode::Malformed });
    }
}

#[tokio::test]
async fn a_receive_that_is_dropped_halfway_loses_nothing() {
    let (server, address) = server_with(TransportConfig::default());
    let pair = raw_pair(&server, address).await;
    let body = pattern(3, 100_000);
    let whole = [&[Class::Bulk.byte()], 100_000u32.to_le_bytes().as_slice(), &body].concat();
    let mut stream = pair.raw.open_uni().await.unwrap();
    let mut receiver = None;
    for piece in whole.chunks(9_001) {
        stream.write_all(piece).await.unwrap();
        if receiver.is_none() {
            receiver = Some(pair.at_server.accept_frames().await.unwrap());
        }
        // A request behind it tells that time passed; which pieces arrived until then may differ.
        let (mut other, _answer) = pair.raw.open_bi().await.unwrap();
        other.write_all(b"tick").await.unwrap();
        other.finish().unwrap();
        tokio::select! {
            biased;
            frame = receiver.as_mut().unwrap().recv() => {
                assert_eq!(frame, Ok(Some(Bytes::from(body.clone()))));
                return;
            }
            request = pair.at_server.accept_request() => assert_eq!(request.unwrap().body.as_ref(), b"tick"),
        }
    }
    assert_eq!(receiver.unwrap().recv().await, Ok(Some(Bytes::from(body))));
}

#[tokio::test]
async fn a_send_that_is_dropped_halfway_spoils_only_its_stream() {
    let narrow = TransportConfig { stream_window_bytes: 10_000, ..TransportConfig::default() };
    let pair = pair_with(narrow, TransportConfig::default()).await;
    let mut sender = pair.at_client.open_frames(Class::Bulk).await.unwrap();
    tokio::select! {
        biased;
        sent = sender.send(pattern(1, 100_000)) => panic!("a full window took everything: {sent:?}"),
        () = prove_alive(&pair.at_client, &pair.at_server) => {}
    }
    assert_eq!(sender.send("next").await, Err(FrameError::Interrupted));
    drop(sender);
    let mut receiver = pair.at_server.accept_frames().await.unwrap();
    assert_eq!(receiver.recv().await, Err(FrameError::Reset));
    prove_alive(&pair.at_client, &pair.at_server).await;
}

#[tokio::test]
async fn a_reader_that_does_not_read_stalls_only_its_own_stream() {
    const FRAMES: usize = 100;
    const BYTES: usize = 32_000;
    let narrow = TransportConfig { stream_window_bytes: 100_000, ..TransportConfig::default() };
    let pair = pair_with(narrow, TransportConfig::default()).await;
    let mut stalled = pair.at_client.open_frames(Class::Bulk).await.unwrap();
    stalled.send(pattern(0, BYTES)).await.unwrap();
    let mut unread = pair.at_server.accept_frames().await.unwrap();
    let sent = std::cell::Cell::new(1);
    let stalling = async {
        for number in 1..FRAMES {
            stalled.send(pattern(number, BYTES)).await.unwrap();
            sent.set(number + 1);
        }
        drop(stalled);
    };
    let going_on = async {
        let mut sender = pair.at_client.open_frames(Class::Bulk).await.unwrap();
        let sending = async {
            for number in 0..FRAMES {
                sender.send(pattern(number, BYTES)).await.unwrap();
            }
            drop(sender);
        };
        let receiving = async {
            let mut receiver = pair.at_server.accept_frames().await.unwrap();
            for number in 0..FRAMES {
                assert!(receiver.recv().await.unwrap().unwrap() == pattern(number, BYTES));
            }
        };
        tokio::join!(sending, receiving);
        prove_alive(&pair.at_client, &pair.at_server).await;
        assert!(sent.get() <= 3, "{} frames went into a window of three", sent.get());
        for number in 0..FRAMES {
            assert!(unread.recv().await.unwrap().unwrap() == pattern(number, BYTES));
        }
        assert_eq!(unread.recv().await, Ok(None));
    };
    tokio::join!(stalling, going_on);
}

#[tokio::test]
async fn the_sender_learns_that_nobody_listens() {
    let pair = pair().await;
    let mut sender = pair.at_client.open_frames(Class::Control).await.unwrap();
    sender.send("heard").await.unwrap();
    let mut receiver = pair.at_server.accept_frames().await.unwrap();
    assert_eq!(receiver.recv().await, Ok(Some(Bytes::from("heard"))));
    drop(receiver);
    let error = loop {
        if let Err(error) = sender.send(vec![0; 100_000]).await {
            break error;
        }
    };
    assert_eq!(error, FrameError::Stopped);
    pair.at_server.close(CloseCode::Twin);
    let lost = pair.at_client.closed().await;
    let opened = pair.at_client.open_frames(Class::Control).await.map(|sender| sender.class());
    assert_eq!(opened, Err(FrameError::Lost(lost)));
}
