//! A satellite behind its transports.

use super::sweep::Sweeper;
use super::{NodeDialer, ServeError, raise_descriptor_limit, serve_streams};
use crate::identity::{Identity, public_key};
use crate::transport::{BoxStream, ChannelDialer, Host, HostOptions, Inbound, Protocol};
use libp2p::Multiaddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use strewn_engine::bucket::Error;
use strewn_engine::ids::NodeId;
use strewn_satellite::{Satellite, Session, Settings, Swept, SystemClock};
use strewn_wire::frame::{self, FrameError};
use strewn_wire::satellite::{Hello, MAX_COMMIT_FRAME, MAX_REPLY, MAX_REQUEST, NodeReply, NodeRequest, Reply, Request};
use tokio::io::AsyncWriteExt;
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Streams served at once.
const MAX_STREAMS: usize = 4096;
/// Requests worked on at once, long polls not counted; more wait.
const MAX_REQUESTS: usize = 256;
/// Connections in each direction.
const MAX_CONNECTIONS: u32 = 4096;
/// An uplink says who it is within this time.
const HELLO: Duration = Duration::from_secs(10);
/// A stream without requests is closed after this long: keepers of streams open another.
const IDLE: Duration = Duration::from_secs(600);
/// A request is answered within this time, without the time a long poll asks for.
const ANSWER: Duration = Duration::from_secs(60);
/// Longest wait that a long poll is granted.
const MAX_WAIT: Duration = Duration::from_secs(300);
/// The peer takes its answer within this time.
const WRITE: Duration = Duration::from_secs(60);

/// A running satellite.
pub struct SatelliteDaemon {
    satellite: Satellite,
    sweeper: Sweeper,
    host: Host,
    cancel: CancellationToken,
    tasks: TaskTracker,
}

impl SatelliteDaemon {
    /// Opens the satellite in `directory`, whose identity is in `identity`, and listens on these multiaddresses. What
    /// nothing refers to any more is swept up from now on, every hour.
    pub async fn start(
        directory: &Path,
        identity: &Identity,
        settings: Settings,
        listen: Vec<Multiaddr>,
    ) -> Result<Self, ServeError> {
        raise_descriptor_limit();
        let accept = vec![Protocol::Uplink, Protocol::Node];
        // Nodes may be reached by QUIC alone, so it is always spoken; the sockets come with the first use.
        // Without a listener yet: the port must not answer before there is a satellite behind it.
        let options = HostOptions { accept, max_connections: MAX_CONNECTIONS, ..HostOptions::default() };
        let (host, incoming) = Host::start(identity, options).await?;
        let dialer = Arc::new(NodeDialer::new(host.clone(), ChannelDialer::new(identity)?));
        let (directory, key) = (directory.to_owned(), identity.signing_key());
        let open = move || Satellite::open(&directory, key, settings, Arc::new(SystemClock), dialer);
        let opened = tokio::task::spawn_blocking(open).await;
        let satellite = opened.map_err(|error| ServeError::Satellite(error.into()))?;
        let satellite = satellite.map_err(|error| ServeError::Satellite(error.into()))?;
        for address in listen {
            host.listen(address).await?;
        }
        let (sweeper, sweeping) = Sweeper::new(satellite.clone());
        let daemon = Self { satellite, sweeper, host, cancel: CancellationToken::new(), tasks: TaskTracker::new() };
        daemon.tasks.spawn(daemon.cancel.clone().run_until_cancelled_owned(sweeping));
        let (satellite, requests) = (daemon.satellite.clone(), Arc::new(Semaphore::new(MAX_REQUESTS)));
        serve_streams(incoming, MAX_STREAMS, &daemon.tasks, &daemon.cancel, move |inbound: Inbound| {
            let server = StreamServer { satellite: satellite.clone(), requests: requests.clone() };
            async move {
                let peer = inbound.peer;
                if let Err(error) = server.serve(inbound).await {
                    tracing::debug!(%peer, %error, "stream ended");
                }
            }
        });
        Ok(daemon)
    }

    /// The satellite itself.
    pub fn satellite(&self) -> &Satellite {
        &self.satellite
    }

    /// Sweeps now instead of within the hour: see [`Satellite::collect_unreferenced`]. `None` while it stops.
    pub async fn sweep(&self) -> Option<Result<Swept, strewn_satellite::Error>> {
        self.sweeper.trigger().await
    }

    /// Where it listens, with its peer id: what goes into grants and node configurations.
    pub fn addresses(&self) -> Vec<Multiaddr> {
        let peer = self.host.peer_id();
        let with_peer = |address: Multiaddr| address.with(libp2p::multiaddr::Protocol::P2p(peer));
        self.host.addresses().into_iter().map(with_peer).collect()
    }

    /// Ends all streams and listeners, and closes the metabase.
    pub async fn stop(self) {
        self.cancel.cancel();
        self.tasks.close();
        self.tasks.wait().await;
        self.host.shutdown().await;
        // Closing waits for the last write.
        let satellite = self.satellite;
        if let Err(error) = tokio::task::spawn_blocking(move || drop(satellite)).await {
            tracing::error!(%error, "satellite not closed cleanly");
        }
    }
}

struct StreamServer {
    satellite: Satellite,
    requests: Arc<Semaphore>,
}

impl StreamServer {
    async fn serve(&self, inbound: Inbound) -> Result<(), FrameError> {
        match inbound.protocol {
            Protocol::Uplink => self.serve_uplink(inbound.stream).await,
            Protocol::Node => match public_key(&inbound.peer) {
                Some(key) => {
                    let remote = inbound.remote.to_string();
                    self.serve_node(NodeId::from_bytes(key), &remote, inbound.stream).await
                }
                None => Ok(()),
            },
            Protocol::Piece => Ok(()),
        }
    }

    async fn serve_uplink(&self, mut stream: BoxStream) -> Result<(), FrameError> {
        let hello = timeout(HELLO, frame::read::<Hello>(&mut stream, MAX_REQUEST)).await.map_err(timed_out)??;
        let Some(hello) = hello else { return Ok(()) };
        let session = match self.satellite.open_session(&hello) {
            Ok(session) => session,
            // A refusal takes the place of the first answer.
            Err(error) => return answer(&mut stream, &Reply::Failed(error)).await,
        };
        while let Some(request) = next(&mut stream, MAX_COMMIT_FRAME).await? {
            let reply = self.answer(&session, request).await;
            answer(&mut stream, &reply).await?;
        }
        Ok(())
    }

    async fn answer(&self, session: &Session, request: Request) -> Reply {
        // The satellite grants no longer waits than that.
        let wait = request.wait().map(|wait| wait.min(MAX_WAIT));
        let work = async {
            let _slot = match wait {
                // A long poll works on nothing while it waits.
                Some(_) => None,
                None => Some(self.requests.acquire().await.expect("never closed")),
            };
            self.satellite.handle(session, request).await
        };
        let late = |_| Reply::Failed(Error::Unreachable("the satellite is too busy".into()));
        timeout(ANSWER + wait.unwrap_or_default(), work).await.unwrap_or_else(late)
    }

    async fn serve_node(&self, node: NodeId, remote: &str, mut stream: BoxStream) -> Result<(), FrameError> {
        while let Some(request) = next::<NodeRequest>(&mut stream, MAX_REQUEST).await? {
            let work = async {
                let _slot = self.requests.acquire().await.expect("never closed");
                self.satellite.handle_node(node, remote, request).await
            };
            let late = |_| NodeReply::Failed(Error::Unreachable("the satellite is too busy".into()));
            let reply = timeout(ANSWER, work).await.unwrap_or_else(late);
            answer(&mut stream, &reply).await?;
        }
        Ok(())
    }
}

async fn next<T: serde::de::DeserializeOwned>(stream: &mut BoxStream, limit: usize) -> Result<Option<T>, FrameError> {
    timeout(IDLE, frame::read(stream, limit)).await.map_err(timed_out)?
}

async fn answer<T: serde::Serialize>(stream: &mut BoxStream, reply: &T) -> Result<(), FrameError> {
    let write = async {
        frame::write(stream, reply, MAX_REPLY).await?;
        Ok(stream.flush().await?)
    };
    timeout(WRITE, write).await.map_err(timed_out)?
}

fn timed_out(_: tokio::time::error::Elapsed) -> FrameError {
    FrameError::Io(std::io::ErrorKind::TimedOut.into())
}
