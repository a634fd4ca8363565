//! How a satellite finds out whether a node is where it says.

use crate::transport::{ChannelDialer, Host, PeerAddress};
use async_trait::async_trait;
use strewn_engine::ids::NodeId;
use strewn_satellite::Dialer;
use strewn_wire::satellite::NodeAddress;

/// Dials nodes over whatever transport their address names.
pub struct NodeDialer {
    host: Host,
    channels: ChannelDialer,
}

impl NodeDialer {
    /// Dials under the identity of these two.
    pub fn new(host: Host, channels: ChannelDialer) -> Self {
        Self { host, channels }
    }
}

#[async_trait]
impl Dialer for NodeDialer {
    async fn dial(&self, node: NodeId, address: &str) -> Result<(), String> {
        let address = NodeAddress { node, addresses: vec![address.to_owned()] };
        let address = PeerAddress::of_node(&address).map_err(|error| error.to_string())?;
        let dialled = match address.only_channels() {
            true => self.channels.open(&address).await.map(drop),
            false => self.host.probe(&address).await,
        };
        dialled.map_err(|error| error.to_string())
    }
}
