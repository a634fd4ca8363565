//! Connections between peers: QUIC and TCP + TLS + yamux as libp2p has them, behind one [`Host`] per peer, and *piece
//! channels* beside them.
//!
//! A [`Host`] owns a swarm task. Streams are opened only on connections that this side dialled to an address with a
//! known peer id, and the peer id is always checked; inbound streams come through one bounded queue. Connections are
//! made when first needed, closed when idle, and counted against limits.
//!
//! Pieces go through a [`PieceTransport`]: one kept stream carries one transfer after the other. The multiplexer costs more
//! than the cipher, so nodes that announce a piece channel (one TCP connection, TLS 1.3 with AES-256-GCM under the same
//! libp2p identity, no multiplexer) are reached through it; libp2p streams serve for the others.

mod address;
mod channel;
mod host;
mod pieces;
mod streams;

pub(crate) use address::is_quic;
pub use address::{PeerAddress, parse_announced, parse_listen};
pub use channel::{ChannelDialer, ChannelListener};
pub use host::{Host, HostOptions};
pub use pieces::{PieceTransport, Pieces};

use libp2p::{Multiaddr, PeerId, StreamProtocol};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;

/// What a stream speaks. The version is part of the name, so peers of different versions find out when a stream opens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// An uplink's requests to its satellite: [`strewn_wire::satellite::Request`].
    Uplink,
    /// A node's requests to its satellite: [`strewn_wire::satellite::NodeRequest`].
    Node,
    /// Pieces: [`strewn_wire::node::Request`].
    Piece,
}

impl Protocol {
    const ALL: [Self; 3] = [Self::Uplink, Self::Node, Self::Piece];

    /// Its name on the wire.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Uplink => "/strewn/uplink/1",
            Self::Node => "/strewn/node/1",
            Self::Piece => "/strewn/piece/1",
        }
    }

    fn stream_protocol(self) -> StreamProtocol {
        StreamProtocol::new(self.name())
    }

    fn by_name(name: &StreamProtocol) -> Option<Self> {
        Self::ALL.into_iter().find(|protocol| protocol.name() == name.as_ref())
    }
}

/// A bidirectional stream of any transport.
pub trait Duplex: AsyncRead + AsyncWrite + Send + Sync + Unpin + 'static {}
impl<S: AsyncRead + AsyncWrite + Send + Sync + Unpin + 'static> Duplex for S {}

/// A stream of any transport.
pub type BoxStream = Box<dyn Duplex>;

/// A stream that another peer opened.
pub struct Inbound {
    /// Who, as the transport has proven.
    pub peer: PeerId,
    /// From where.
    pub remote: Multiaddr,
    /// What it speaks.
    pub protocol: Protocol,
    /// The stream.
    pub stream: BoxStream,
}

/// Inbound streams of a peer; ends when its listeners are gone.
pub type Incoming = mpsc::Receiver<Inbound>;

/// Inbound streams that may wait to be accepted; more are dropped, which their opener sees as an early end and retries.
pub const INBOUND_QUEUE: usize = 256;

/// Why a connection or stream could not be had.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TransportError {
    /// Not an address with a peer id, or one of a peer that cannot be dialled.
    #[error("not a usable peer address: {0}")]
    BadAddress(String),
    /// Nobody answered, or another peer did.
    #[error("{peer} unreachable: {reason}")]
    Unreachable {
        /// Who was wanted.
        peer: PeerId,
        /// What happened.
        reason: String,
    },
    /// The peer does not speak the protocol in this version.
    #[error("peer does not speak {0}")]
    Unsupported(&'static str),
    /// Listening failed.
    #[error("cannot listen on {address}: {reason}")]
    Listen {
        /// Where.
        address: Multiaddr,
        /// Why.
        reason: String,
    },
    /// The transport could not be set up, or was shut down.
    #[error("transport: {0}")]
    Closed(String),
}
