//! Numbers that decide how fast the wire is, and the sockets and configurations they go into.

use std::any::Any;
use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::{Duration, Instant};

use quinn::congestion::{BbrConfig, Controller, ControllerFactory};
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn::{AckFrequencyConfig, ClientConfig, EndpointConfig, ServerConfig, TransportConfig, VarInt};
use socket2::{Domain, Socket, Type};

use crate::transport::identity::Identity;
use crate::transport::tls;

/// Flow-control window of the one stream of a connection on one host: what may arrive before the reader has taken it
/// up.
const LOOPBACK_STREAM_WINDOW_BYTES: u32 = 64 << 20;
/// The same between hosts, where packets get lost. What lies behind a lost packet waits in pieces, and quinn ends a
/// connection with more than [`PIECES_MAX`] of them that it cannot join; this window has no room for so many, even if
/// every other packet is lost. It carries 420 Mbit/s over 40 ms and 8 Gbit/s over 2 ms.
const STREAM_WINDOW_BYTES: u32 = 2 << 20;
const PIECES_MAX: u32 = 1024;
/// Payload of the smallest packet that a path may ask for, less QUIC's own.
const PACKET_BYTES_MIN: u32 = 1150;
const _: () = assert!(STREAM_WINDOW_BYTES / PACKET_BYTES_MIN / 2 < PIECES_MAX, "a window with gaps fits");
/// Written but not yet acknowledged bytes of a connection.
const SEND_WINDOW_BYTES: u64 = 256 << 20;
/// First congestion window between hosts: a lane sends megabytes at once, over links of 10 Gbit/s and 0.5 ms or
/// 1 Gbit/s and 5 ms without waiting; much more would only be dropped by the first slow link. A quarter of it costs a
/// fifth of the speed over 100 Mbit/s and 40 ms.
const INITIAL_CONGESTION_WINDOW_BYTES: u64 = 1 << 20;
/// Asked of the kernel, which grants at most `net.core.rmem_max` and `wmem_max`.
const SOCKET_BUFFER_BYTES: usize = 8 << 20;
/// Where nothing gets lost, acknowledgements only cost time.
const LOOPBACK_PACKETS_PER_ACK: u32 = 8;
/// The last packets before a pause are acknowledged after so long; a goodbye waits for that.
const LOOPBACK_ACK_DELAY_MAX: Duration = Duration::from_millis(2);
/// Packets that quinn hands to the kernel as one batch, where the kernel can cut it (GSO).
const SEGMENTS_MAX: usize = 10;
/// How far packets may overtake each other before one counts as lost; 3, the default, takes packets that 1 ms of jitter
/// has put out of order for lost.
const REORDER_PACKETS_MAX: u32 = 64;

/// What may be set from outside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WireTuning {
    /// Silence after which a peer counts as gone.
    pub idle_timeout: Duration,
    /// Interval at which an idle connection shows that it lives; a third of the timeout or less.
    pub keep_alive: Duration,
    /// How long a waiting protocol thread looks for the next frame before it sleeps; zero sleeps at once. Waking up
    /// costs more than a round on loopback takes. Gives way when the processor is wanted or waits turn out longer.
    pub spin: Duration,
    /// UDP payload between processes of one host.
    pub loopback_mtu: u16,
    /// Bytes in flight between processes of one host: below what the receiver's socket buffer holds, so that nothing
    /// is lost there. `None` leaves it to the congestion controller.
    pub loopback_window: Option<u64>,
}

impl Default for WireTuning {
    fn default() -> Self {
        Self {
            idle_timeout: Duration::from_secs(8),
            keep_alive: Duration::from_secs(2),
            spin: Duration::from_micros(50),
            loopback_mtu: 65_000,
            loopback_window: Some(2 << 20),
        }
    }
}

impl WireTuning {
    /// Settings of one connection to `peer`.
    pub fn transport_config(&self, peer: IpAddr) -> Arc<TransportConfig> {
        let mut config = TransportConfig::default();
        let window = if peer.is_loopback() { LOOPBACK_STREAM_WINDOW_BYTES } else { STREAM_WINDOW_BYTES };
        config
            .max_concurrent_bidi_streams(1_u32.into())
            .max_concurrent_uni_streams(0_u32.into())
            .datagram_receive_buffer_size(None)
            .stream_receive_window(window.into())
            .receive_window(window.into())
            .send_window(SEND_WINDOW_BYTES)
            .packet_threshold(REORDER_PACKETS_MAX)
            .max_idle_timeout(Some(milliseconds(self.idle_timeout).into()))
            .keep_alive_interval(Some(self.keep_alive));
        // Not Cubic, which takes every loss for congestion: four times slower where one packet of a thousand gets lost.
        let mut bbr = BbrConfig::default();
        bbr.initial_window(INITIAL_CONGESTION_WINDOW_BYTES);
        config.congestion_controller_factory(Arc::new(bbr));
        if peer.is_loopback() {
            // The path is known: nothing to discover, and no wide-area round trip to assume for the first packets.
            config.initial_rtt(Duration::from_millis(10)).initial_mtu(self.loopback_mtu).mtu_discovery_config(None);
            // The kernel refuses a batch of more than 64 KiB.
            let fits = usize::from(self.loopback_mtu) * SEGMENTS_MAX <= usize::from(u16::MAX);
            config.enable_segmentation_offload(fits);
            let mut acks = AckFrequencyConfig::default();
            acks.ack_eliciting_threshold(LOOPBACK_PACKETS_PER_ACK.into()).max_ack_delay(Some(LOOPBACK_ACK_DELAY_MAX));
            config.ack_frequency_config(Some(acks));
            if let Some(bytes) = self.loopback_window {
                config.congestion_controller_factory(Arc::new(FixedWindow { bytes }));
            }
        }
        Arc::new(config)
    }

    /// For dialling `peer`, who must show the `pinned` certificate.
    pub fn dialling(&self, identity: &Identity, pinned: &[u8], peer: IpAddr) -> Result<ClientConfig, rustls::Error> {
        let tls = tls::client_config(identity, pinned)?;
        let tls = QuicClientConfig::try_from(tls).expect("the provider has QUIC's initial cipher suite");
        let mut config = ClientConfig::new(Arc::new(tls));
        config.transport_config(self.transport_config(peer));
        Ok(config)
    }

    /// For accepting whoever shows one of the `pinned` certificates; the connection's own settings depend on where
    /// it comes from and are set later.
    pub fn accepting<'a>(
        &self,
        identity: &Identity,
        pinned: impl IntoIterator<Item = &'a [u8]>,
    ) -> Result<ServerConfig, rustls::Error> {
        let tls = tls::server_config(identity, pinned)?;
        let tls = QuicServerConfig::try_from(tls).expect("the provider has QUIC's initial cipher suite");
        Ok(ServerConfig::with_crypto(Arc::new(tls)))
    }

    /// Settings of the endpoint: accepts the largest datagrams, which loopback uses.
    pub fn endpoint_config(&self) -> EndpointConfig {
        let mut config = EndpointConfig::default();
        config.max_udp_payload_size(65_527).expect("the largest UDP payload is allowed");
        config
    }
}

/// Binds a UDP socket with large buffers.
pub fn bind(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, None)?;
    // Smaller buffers only cost speed.
    let _ = socket.set_recv_buffer_size(SOCKET_BUFFER_BYTES);
    let _ = socket.set_send_buffer_size(SOCKET_BUFFER_BYTES);
    socket.bind(&address.into())?;
    Ok(socket.into())
}

fn milliseconds(duration: Duration) -> VarInt {
    VarInt::from_u32(u32::try_from(duration.as_millis()).unwrap_or(u32::MAX))
}

/// Congestion control for a path without congestion: always the same window.
#[derive(Clone, Debug)]
struct FixedWindow {
    bytes: u64,
}

impl ControllerFactory for FixedWindow {
    fn build(self: Arc<Self>, _now: Instant, _current_mtu: u16) -> Box<dyn Controller> {
        Box::new(Self::clone(&self))
    }
}

impl Controller for FixedWindow {
    fn on_congestion_event(&mut self, _: Instant, _: Instant, _: bool, _: u64) {}

    fn on_mtu_update(&mut self, _new_mtu: u16) {}

    fn window(&self) -> u64 {
        self.bytes
    }

    fn clone_box(&self) -> Box<dyn Controller> {
        Box::new(self.clone())
    }

    fn initial_window(&self) -> u64 {
        self.bytes
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}
