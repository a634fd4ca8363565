//! How an uplink reaches storage nodes: a seam, so that transfers do not care what carries them.

use super::{BoxStream, ChannelDialer, Host, PeerAddress, Protocol, TransportError};
use async_trait::async_trait;
use strewn_wire::satellite::NodeAddress;

/// Opens streams that speak [`strewn_wire::node`].
#[async_trait]
pub trait PieceTransport: Send + Sync + 'static {
    /// A new stream to a node whose id has been proven.
    async fn open(&self, node: &NodeAddress) -> Result<BoxStream, TransportError>;
}

/// The network's transport: a piece channel where the node announces one that answers, else a libp2p stream.
pub struct Pieces {
    channels: ChannelDialer,
    host: Host,
}

impl Pieces {
    /// Over these two.
    pub fn new(channels: ChannelDialer, host: Host) -> Self {
        Self { channels, host }
    }
}

#[async_trait]
impl PieceTransport for Pieces {
    async fn open(&self, node: &NodeAddress) -> Result<BoxStream, TransportError> {
        let address = PeerAddress::of_node(node)?;
        match self.channels.open(&address).await {
            Ok(stream) => Ok(stream),
            Err(failed) if address.only_channels() => Err(failed),
            Err(_) => self.host.open(&address, Protocol::Piece).await,
        }
    }
}
