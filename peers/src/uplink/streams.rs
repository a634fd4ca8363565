//! Kept streams to storage nodes: a new one costs a handshake, a kept one nothing.

use crate::transport::{BoxStream, PieceTransport, TransportError};
use futures::FutureExt;
use lru::LruCache;
use parking_lot::Mutex;
use std::sync::Arc;
use std::time::{Duration, Instant};
use strewn_engine::ids::NodeId;
use strewn_wire::satellite::NodeAddress;
use tokio::io::AsyncReadExt;

/// Idle streams kept per node.
const MAX_IDLE_PER_NODE: usize = 4;
/// Idle streams kept in all: with those in use this bounds the process's connections to nodes.
const MAX_IDLE: usize = 128;
/// A stream that was idle for longer is not used again: middleboxes forget connections.
const MAX_AGE: Duration = Duration::from_secs(120);

/// The pool.
pub(super) struct NodeStreams {
    transport: Arc<dyn PieceTransport>,
    idle: Mutex<Idle>,
}

struct Idle {
    /// Most recently used node last to go.
    nodes: LruCache<NodeId, Vec<(Instant, BoxStream)>>,
    count: usize,
}

/// A stream to one node. Dropped it closes; [`NodeStreams::keep`] keeps it for the next transfer.
pub(super) struct NodeStream {
    pub(super) node: NodeId,
    pub(super) stream: BoxStream,
    /// True if it was kept before, and so may turn out to be dead.
    pub(super) kept: bool,
}

impl NodeStreams {
    pub(super) fn new(transport: Arc<dyn PieceTransport>) -> Self {
        Self { transport, idle: Mutex::new(Idle { nodes: LruCache::unbounded(), count: 0 }) }
    }

    /// A kept stream if there is one that looks alive, else a new one.
    pub(super) async fn take(&self, node: &NodeAddress) -> Result<NodeStream, TransportError> {
        while let Some(mut stream) = self.idle.lock().pop(node.node) {
            if is_quiet(&mut stream) {
                return Ok(NodeStream { node: node.node, stream, kept: true });
            }
        }
        self.fresh(node).await
    }

    /// A new stream.
    pub(super) async fn fresh(&self, node: &NodeAddress) -> Result<NodeStream, TransportError> {
        let stream = self.transport.open(node).await?;
        Ok(NodeStream { node: node.node, stream, kept: false })
    }

    /// Keeps a stream between whose transfers this is.
    pub(super) fn keep(&self, stream: NodeStream) {
        self.idle.lock().push(stream.node, stream.stream);
    }
}

impl Idle {
    fn pop(&mut self, node: NodeId) -> Option<BoxStream> {
        let streams = self.nodes.get_mut(&node)?;
        let before = streams.len();
        streams.retain(|(since, _)| since.elapsed() < MAX_AGE);
        let stream = streams.pop();
        self.count -= before - streams.len();
        if streams.is_empty() {
            self.nodes.pop(&node);
        }
        stream.map(|(_, stream)| stream)
    }

    fn push(&mut self, node: NodeId, stream: BoxStream) {
        let streams = self.nodes.get_or_insert_mut(node, Vec::new);
        if streams.len() == MAX_IDLE_PER_NODE {
            return;
        }
        streams.push((Instant::now(), stream));
        self.count += 1;
        while self.count > MAX_IDLE {
            let Some((_, dropped)) = self.nodes.pop_lru() else { return };
            self.count -= dropped.len();
        }
    }
}

/// True unless the other side has closed the stream, or said something nobody asked for.
fn is_quiet(stream: &mut BoxStream) -> bool {
    stream.read(&mut [0; 1]).now_or_never().is_none()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::Identity;
    use async_trait::async_trait;
    use tokio::io::DuplexStream;
    use tokio::sync::mpsc;

    struct Pipes(mpsc::Sender<DuplexStream>);

    #[async_trait]
    impl PieceTransport for Pipes {
        async fn open(&self, _: &NodeAddress) -> Result<BoxStream, TransportError> {
            let (near, far) = tokio::io::duplex(64);
            self.0.send(far).await.unwrap();
            Ok(Box::new(near))
        }
    }

    fn node() -> NodeAddress {
        NodeAddress { node: Identity::fresh().node_id(), addresses: Vec::new() }
    }

    #[tokio::test]
    async fn keeps_living_streams_and_drops_dead_ones() {
        let (send, mut opened) = mpsc::channel(1000);
        let streams = NodeStreams::new(Arc::new(Pipes(send)));
        let node = node();
        let first = streams.take(&node).await.unwrap();
        let far = opened.recv().await.unwrap();
        streams.keep(first);
        let again = streams.take(&node).await.unwrap();
        assert!(again.kept);
        streams.keep(again);
        drop(far);
        assert!(!streams.take(&node).await.unwrap().kept, "its other end is gone");
        assert_eq!(streams.idle.lock().count, 0);
    }

    #[tokio::test]
    async fn is_bounded_per_node_and_in_all() {
        let (send, _opened) = mpsc::channel(10_000);
        let streams = NodeStreams::new(Arc::new(Pipes(send)));
        let nodes: Vec<_> = (0..100).map(|_| node()).collect();
        for node in &nodes {
            for stream in futures::future::join_all((0..6).map(|_| streams.fresh(node))).await {
                streams.keep(stream.unwrap());
            }
        }
        let idle = streams.idle.lock();
        assert!(idle.count <= MAX_IDLE && idle.count > MAX_IDLE - MAX_IDLE_PER_NODE, "{}", idle.count);
        assert!(idle.nodes.iter().all(|(_, streams)| streams.len() <= MAX_IDLE_PER_NODE));
        assert_eq!(idle.nodes.iter().map(|(_, streams)| streams.len()).sum::<usize>(), idle.count);
    }
}
