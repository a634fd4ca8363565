//! A node's link to one of its satellites: one kept stream, one request at a time.

use crate::transport::{BoxStream, Host, PeerAddress, Protocol};
use std::io;
use std::time::Duration;
use strewn_engine::bucket::Error;
use strewn_wire::frame::{self, FrameError};
use strewn_wire::satellite::{MAX_REQUEST, NodeReply, NodeRequest};
use tokio::io::AsyncWriteExt;
use tokio::sync::Mutex;
use tokio::time::timeout;

/// One exchange, connecting included.
const ATTEMPT: Duration = Duration::from_secs(20);

/// The link; connects when first used, and again after a failure.
pub(super) struct SatelliteLink {
    host: Host,
    address: PeerAddress,
    kept: Mutex<Option<BoxStream>>,
}

impl SatelliteLink {
    pub(super) fn new(host: Host, address: PeerAddress) -> Self {
        Self { host, address, kept: Mutex::new(None) }
    }

    /// Asks; a kept stream that turns out to be dead is replaced once. Everything a node asks may be asked twice.
    pub(super) async fn ask(&self, request: &NodeRequest) -> Result<NodeReply, Error> {
        let mut kept = self.kept.lock().await;
        let mut result = Err(FrameError::Io(io::ErrorKind::NotConnected.into()));
        if let Some(stream) = kept.take() {
            result = self.exchange(&mut kept, stream, request).await;
        }
        if let Err(FrameError::Io(_)) = result {
            let opened = timeout(ATTEMPT, self.host.open(&self.address, Protocol::Node)).await;
            let stream = opened.map_err(|_| unreachable("no answer"))?.map_err(unreachable)?;
            result = self.exchange(&mut kept, stream, request).await;
        }
        match result {
            Ok(NodeReply::Failed(error)) => Err(error),
            Ok(reply) => Ok(reply),
            Err(error @ FrameError::Io(_)) => Err(unreachable(error)),
            Err(error) => Err(Error::Invalid(format!("satellite: {error}"))),
        }
    }

    async fn exchange(
        &self,
        kept: &mut Option<BoxStream>,
        mut stream: BoxStream,
        request: &NodeRequest,
    ) -> Result<NodeReply, FrameError> {
        let exchange = async {
            frame::write(&mut stream, request, MAX_REQUEST).await?;
            stream.flush().await?;
            let reply = frame::read(&mut stream, MAX_REQUEST).await?;
            reply.ok_or_else(|| FrameError::Io(io::ErrorKind::UnexpectedEof.into()))
        };
        let timed_out = |_| FrameError::Io(io::ErrorKind::TimedOut.into());
        let reply = timeout(ATTEMPT, exchange).await.map_err(timed_out)??;
        *kept = Some(stream);
        Ok(reply)
    }
}

fn unreachable(reason: impl std::fmt::Display) -> Error {
    Error::Unreachable(format!("satellite: {reason}"))
}
