//! Limits and times of an endpoint.

use std::sync::Arc;
use std::time::Duration;

use quinn::congestion::CubicConfig;
use quinn::{IdleTimeout, MtuDiscoveryConfig, VarInt};
use zeni_schemas::message::{BATCH_FRAME_BYTES_MAX, CONTROL_FRAME_BYTES_MAX};
use zeni_schemas::request::{REPLY_BYTES_MAX, REQUEST_BYTES_MAX};

use crate::frames::Class;

/// What an endpoint allows its peers, and itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TransportConfig {
    /// Unread bytes of one stream, at most.
    pub stream_window_bytes: u32,
    /// Unread bytes of one connection, at most. Must hold every frame stream's window and one more, so that frames that
    /// nobody reads cannot stop requests.
    pub connection_window_bytes: u32,
    /// Bytes sent on one connection and not yet confirmed, at most.
    pub send_window_bytes: u32,
    /// Frame streams that a peer may have open at once.
    pub frame_streams_max: u32,
    /// Requests that a peer may have open at once; further ones wait at the peer.
    pub requests_max: u32,
    /// Connections taken of all keys that are no validators, at most; further ones are turned away. Validators never
    /// are because of them: each has [`Self::connections_per_key_max`] of its own.
    pub connections_max: usize,
    /// Connections taken of one key, at most, those included that have not greeted yet; further ones are turned away.
    pub connections_per_key_max: usize,
    /// Handshakes at once, at most; further ones are turned away.
    pub handshakes_max: usize,
    /// Accepted connections that wait for [`crate::Endpoint::accept`], at most; further ones wait in their handshake.
    pub accept_backlog: usize,
    /// Bytes of a frame on a control stream, at most.
    pub control_frame_bytes_max: usize,
    /// Bytes of a frame on a bulk stream, at most.
    pub bulk_frame_bytes_max: usize,
    /// Bytes of a request, at most.
    pub request_bytes_max: usize,
    /// Bytes of a reply, at most.
    pub reply_bytes_max: usize,
    /// From the first packet of a connection to both hellos.
    pub handshake_deadline: Duration,
    /// How long [`crate::Connection::request`] waits, and how long a request may take to arrive and its reply to leave.
    pub request_deadline: Duration,
    /// Silence after which a connection is lost.
    pub idle_timeout: Duration,
    /// A sign of life is sent after this much silence.
    pub keep_alive: Duration,
    /// How long [`crate::Endpoint::close`] waits for peers to hear of it.
    pub close_deadline: Duration,
    /// Asked of the kernel for each direction; it may grant less.
    pub socket_buffer_bytes: usize,
    /// The largest UDP payload that path discovery may find, at most. Ethernet carries 1,452; on loopback 6,500 cost
    /// 150 to 170 µs of CPU for both ends of a frame of 180,000 bytes, 1,452 cost 350 to 370, and beyond 6,553 ten of
    /// them no longer fit into one segmented send, which costs 410 to 430.
    pub datagram_bytes_max: u16,
}

impl Default for TransportConfig {
    fn default() -> Self {
        Self {
            stream_window_bytes: 2 << 20,
            connection_window_bytes: 20 << 20,
            send_window_bytes: 20 << 20,
            frame_streams_max: 8,
            requests_max: 128,
            connections_max: 512,
            connections_per_key_max: 8,
            handshakes_max: 64,
            accept_backlog: 64,
            control_frame_bytes_max: CONTROL_FRAME_BYTES_MAX,
            bulk_frame_bytes_max: BATCH_FRAME_BYTES_MAX,
            request_bytes_max: REQUEST_BYTES_MAX,
            reply_bytes_max: REPLY_BYTES_MAX,
            handshake_deadline: Duration::from_secs(5),
            request_deadline: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(10),
            keep_alive: Duration::from_secs(3),
            close_deadline: Duration::from_secs(2),
            socket_buffer_bytes: 8 << 20,
            datagram_bytes_max: 6_500,
        }
    }
}

/// Why a configuration makes no sense.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    #[error("{setting} must be at least {least}, it is {found}")]
    TooSmall { setting: &'static str, found: u64, least: u64 },
    #[error("keep_alive must be shorter than idle_timeout ({idle_timeout:?}), it is {keep_alive:?}")]
    KeepAlive { keep_alive: Duration, idle_timeout: Duration },
    #[error("idle_timeout of {0:?} is longer than QUIC can say")]
    IdleTimeout(Duration),
}

/// Sent before the first acknowledgement, at most: a full batch. The processes of a ledger are few and known to one
/// another. QUIC's own dozen small packets would be filled by one probe of a large datagram, and a close that the
/// congestion window holds back is never sent: its peer would hear of it late, and without the reason.
const INITIAL_WINDOW_BYTES: u64 = 256 << 10;
/// The smallest datagram that every QUIC path must carry (RFC 9000, section 14).
const DATAGRAM_BYTES_MIN: u16 = 1_200;

impl TransportConfig {
    /// The longest frame of this class.
    pub(crate) const fn frame_bytes_max(&self, class: Class) -> usize {
        match class {
            Class::Control => self.control_frame_bytes_max,
            Class::Bulk => self.bulk_frame_bytes_max,
        }
    }

    /// Checks that the settings go together.
    ///
    /// # Errors
    /// [`ConfigError`] names the first setting that does not.
    pub fn check(&self) -> Result<(), ConfigError> {
        let frames = u64::from(self.stream_window_bytes) * (u64::from(self.frame_streams_max) + 1);
        let least = [
            ("stream_window_bytes", u64::from(self.stream_window_bytes), 1),
            ("connection_window_bytes", u64::from(self.connection_window_bytes), frames),
            ("send_window_bytes", u64::from(self.send_window_bytes), u64::from(self.stream_window_bytes)),
            ("frame_streams_max", u64::from(self.frame_streams_max), 1),
            ("requests_max", u64::from(self.requests_max), 1),
            ("connections_max", self.connections_max as u64, 1),
            ("connections_per_key_max", self.connections_per_key_max as u64, 1),
            ("handshakes_max", self.handshakes_max as u64, 1),
            ("accept_backlog", self.accept_backlog as u64, 1),
            ("datagram_bytes_max", u64::from(self.datagram_bytes_max), u64::from(DATAGRAM_BYTES_MIN)),
        ];
        for (setting, found, least) in least {
            if found < least {
                return Err(ConfigError::TooSmall { setting, found, least });
            }
        }
        if self.keep_alive >= self.idle_timeout {
            return Err(ConfigError::KeepAlive { keep_alive: self.keep_alive, idle_timeout: self.idle_timeout });
        }
        self.idle().map(drop)
    }

    fn idle(&self) -> Result<IdleTimeout, ConfigError> {
        IdleTimeout::try_from(self.idle_timeout).map_err(|_| ConfigError::IdleTimeout(self.idle_timeout))
    }

    /// The settings that both ends of a QUIC connection take.
    pub(crate) fn quic(&self) -> Result<Arc<quinn::TransportConfig>, ConfigError> {
        self.check()?;
        let mut discovery = MtuDiscoveryConfig::default();
        discovery.upper_bound(self.datagram_bytes_max);
        let mut congestion = CubicConfig::default();
        congestion.initial_window(INITIAL_WINDOW_BYTES);
        let mut config = quinn::TransportConfig::default();
        config
            .stream_receive_window(VarInt::from_u32(self.stream_window_bytes))
            .receive_window(VarInt::from_u32(self.connection_window_bytes))
            .send_window(u64::from(self.send_window_bytes))
            .max_concurrent_uni_streams(VarInt::from_u32(self.frame_streams_max))
            // One more than requests: the hello goes over a stream of its own.
            .max_concurrent_bidi_streams(VarInt::from_u32(self.requests_max.saturating_add(1)))
            .max_idle_timeout(Some(self.idle()?))
            .keep_alive_interval(Some(self.keep_alive))
            .mtu_discovery_config(Some(discovery))
            .congestion_controller_factory(Arc::new(congestion))
            .datagram_receive_buffer_size(None)
            .enable_segmentation_offload(true);
        Ok(Arc::new(config))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_goes_together() {
        assert_eq!(TransportConfig::default().check(), Ok(()));
    }

    #[test]
    fn settings_that_contradict_each_other_are_named() {
        let narrow = TransportConfig { connection_window_bytes: 1 << 20, ..TransportConfig::default() };
        assert!(matches!(narrow.check(), Err(ConfigError::TooSmall { setting: "connection_window_bytes", .. })));
        let late = TransportConfig { keep_alive: Duration::from_secs(10), ..TransportConfig::default() };
        assert!(matches!(late.check(), Err(ConfigError::KeepAlive { .. })));
        let none = TransportConfig { frame_streams_max: 0, ..TransportConfig::default() };
        assert!(matches!(none.check(), Err(ConfigError::TooSmall { setting: "frame_streams_max", .. })));
    }
}
