//! One peer's libp2p endpoint: a task that owns the swarm, and the handle everyone else holds.

use super::address::tcp_socket;
use super::streams::{Open, Streams, boxed};
use super::{BoxStream, INBOUND_QUEUE, Incoming, PeerAddress, Protocol, TransportError};
use crate::identity::Identity;
use futures::{FutureExt, StreamExt};
use libp2p::core::muxing::StreamMuxerBox;
use libp2p::core::transport::timeout::TransportTimeout;
use libp2p::core::transport::{Boxed, ListenerId};
use libp2p::core::upgrade::Version;
use libp2p::swarm::dial_opts::{DialOpts, PeerCondition};
use libp2p::swarm::{Config, ConnectionId, NetworkBehaviour, SwarmEvent};
use libp2p::{Multiaddr, PeerId, Swarm, Transport, connection_limits, quic, tcp, tls, yamux};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot};
use tokio::time::sleep;

/// Requests to the swarm's task that may wait.
const COMMAND_QUEUE: usize = 64;
/// A connection without streams is closed after this long.
const IDLE_CONNECTION: Duration = Duration::from_secs(60);
/// Events that are taken at once when a listener is bound: one that listens on all interfaces tells each in an event of its own.
const MAX_EVENTS: usize = 256;
/// Connecting and all handshakes, together.
const CONNECT: Duration = Duration::from_secs(10);
/// First pause after a stream was asked of a connection that is closing, doubled up to [`MAX_PAUSE`].
const MIN_PAUSE: Duration = Duration::from_millis(5);
/// Longest such pause.
const MAX_PAUSE: Duration = Duration::from_millis(200);
/// Handshakes under way at once, in each direction.
const MAX_PENDING: u32 = 256;
/// Connections of one other peer, in both directions together.
const MAX_PER_PEER: u32 = 8;

/// How a host connects.
#[derive(Debug, Clone)]
pub struct HostOptions {
    /// Where to listen: TCP and QUIC multiaddresses without peer id. None: the host only dials.
    pub listen: Vec<Multiaddr>,
    /// Protocols whose streams are accepted.
    pub accept: Vec<Protocol>,
    /// Dial and listen over TCP + TLS + yamux.
    pub tcp: bool,
    /// Dial and listen over QUIC.
    pub quic: bool,
    /// Most connections in each direction.
    pub max_connections: u32,
}

impl Default for HostOptions {
    fn default() -> Self {
        Self { listen: Vec::new(), accept: Vec::new(), tcp: true, quic: true, max_connections: 1024 }
    }
}

/// A handle to a peer's endpoint; clones share it. The endpoint stops when all are gone or one says so.
#[derive(Clone)]
pub struct Host {
    peer: PeerId,
    commands: mpsc::Sender<Command>,
    listening: Arc<Mutex<Vec<Multiaddr>>>,
}

enum Command {
    Listen { address: Multiaddr, reply: oneshot::Sender<Result<(), String>> },
    Open { peer: PeerId, addresses: Vec<Multiaddr>, open: Open },
    Probe { peer: PeerId, addresses: Vec<Multiaddr>, reply: oneshot::Sender<Result<(), String>> },
    Shutdown { reply: oneshot::Sender<()> },
}

impl Host {
    /// Starts an endpoint and listens; returns once every address is bound.
    pub async fn start(identity: &Identity, options: HostOptions) -> Result<(Self, Incoming), TransportError> {
        let (inbound, incoming) = mpsc::channel(INBOUND_QUEUE);
        let swarm = swarm(identity, &options, Streams::new(&options.accept, inbound))?;
        let (commands, queue) = mpsc::channel(COMMAND_QUEUE);
        let listening = Arc::new(Mutex::new(Vec::new()));
        let task = Task {
            swarm,
            queue,
            listening: listening.clone(),
            listeners: HashMap::new(),
            bound: Vec::new(),
            probes: HashMap::new(),
        };
        tokio::spawn(task.run());
        let host = Self { peer: identity.peer_id(), commands, listening };
        for address in options.listen {
            host.listen(address).await?;
        }
        Ok((host, incoming))
    }

    /// This peer.
    pub fn peer_id(&self) -> PeerId {
        self.peer
    }

    /// Where it listens, without peer id; port 0 and wildcard addresses replaced by what was bound.
    pub fn addresses(&self) -> Vec<Multiaddr> {
        self.listening.lock().clone()
    }

    /// Listens on one more address.
    pub async fn listen(&self, address: Multiaddr) -> Result<(), TransportError> {
        let failed = |reason| TransportError::Listen { address: address.clone(), reason };
        if let Some(socket) = tcp_socket(&address) {
            // libp2p listens with SO_REUSEPORT, which would silently share the port with another program's listener.
            drop(TcpListener::bind(socket).await.map_err(|error| failed(error.to_string()))?);
        }
        let asked = self.ask(|reply| Command::Listen { address: address.clone(), reply }).await?;
        asked.map_err(failed)
    }

    /// Opens a stream, dialling first if need be. Fails when no address answers with the right peer id. A connection that
    /// turns out to be closing is waited out, so that the stream goes over a new one.
    pub async fn open(&self, to: &PeerAddress, protocol: Protocol) -> Result<BoxStream, TransportError> {
        let mut pause = MIN_PAUSE;
        loop {
            let (peer, addresses) = (to.peer, to.libp2p().await);
            let asked = self.ask(|reply| Command::Open { peer, addresses, open: Open { protocol, reply } }).await;
            match asked {
                Ok(stream) => return stream.map(boxed),
                Err(closed) if self.commands.is_closed() => return Err(closed),
                // The wish got lost with the connection it was sent to.
                Err(_) if pause > MAX_PAUSE => {
                    return Err(TransportError::Unreachable { peer, reason: "connection lost".into() });
                }
                Err(_) => {
                    sleep(pause).await;
                    pause *= 2;
                }
            }
        }
    }

    /// Dials an address with a new connection, only to see whether the right peer answers there.
    pub async fn probe(&self, to: &PeerAddress) -> Result<(), TransportError> {
        let (peer, addresses) = (to.peer, to.libp2p().await);
        let answer = self.ask(|reply| Command::Probe { peer, addresses, reply }).await?;
        answer.map_err(|reason| TransportError::Unreachable { peer, reason })
    }

    /// Closes all connections and listeners; returns once the ports are free.
    pub async fn shutdown(&self) {
        // An error means that the task is gone already.
        let _ = self.ask(|reply| Command::Shutdown { reply }).await;
    }

    async fn ask<T>(&self, command: impl FnOnce(oneshot::Sender<T>) -> Command) -> Result<T, TransportError> {
        let closed = || TransportError::Closed("shut down".into());
        let (reply, answer) = oneshot::channel();
        self.commands.send(command(reply)).await.map_err(|_| closed())?;
        answer.await.map_err(|_| closed())
    }
}

/// What the swarm runs: streams, within connection limits.
#[derive(NetworkBehaviour)]
#[behaviour(prelude = "libp2p::swarm::derive_prelude")]
struct Behaviour {
    streams: Streams,
    limits: connection_limits::Behaviour,
}

fn swarm(identity: &Identity, options: &HostOptions, streams: Streams) -> Result<Swarm<Behaviour>, TransportError> {
    let limits = connection_limits::ConnectionLimits::default()
        .with_max_pending_incoming(Some(MAX_PENDING))
        .with_max_pending_outgoing(Some(MAX_PENDING))
        .with_max_established_incoming(Some(options.max_connections))
        .with_max_established_outgoing(Some(options.max_connections))
        .with_max_established_per_peer(Some(MAX_PER_PEER));
    let behaviour = Behaviour { streams, limits: connection_limits::Behaviour::new(limits) };
    let config = Config::with_tokio_executor().with_idle_connection_timeout(IDLE_CONNECTION);
    Ok(Swarm::new(transport(identity, options)?, behaviour, identity.peer_id(), config))
}

fn transport(identity: &Identity, options: &HostOptions) -> Result<Boxed<(PeerId, StreamMuxerBox)>, TransportError> {
    let keypair = identity.keypair();
    let quic = || {
        let transport = quic::tokio::Transport::new(quic::Config::new(&keypair));
        transport.map(|(peer, connection), _| (peer, StreamMuxerBox::new(connection)))
    };
    let tcp = || {
        let security = tls::Config::new(&keypair).map_err(|error| TransportError::Closed(error.to_string()))?;
        let transport = tcp::tokio::Transport::new(tcp::Config::default());
        let secured = transport.upgrade(Version::V1Lazy).authenticate(security).multiplex(yamux::Config::default());
        Ok(secured.map(|(peer, muxer), _| (peer, StreamMuxerBox::new(muxer))))
    };
    let transport = match (options.tcp, options.quic) {
        (true, true) => tcp()?.or_transport(quic()).map(|either, _| either.into_inner()).boxed(),
        (false, true) => quic().boxed(),
        _ => tcp()?.boxed(),
    };
    Ok(TransportTimeout::new(transport, CONNECT).boxed())
}

struct Task {
    swarm: Swarm<Behaviour>,
    queue: mpsc::Receiver<Command>,
    listening: Arc<Mutex<Vec<Multiaddr>>>,
    /// Listeners that are not bound yet.
    listeners: HashMap<ListenerId, oneshot::Sender<Result<(), String>>>,
    /// Listeners that have just been bound.
    bound: Vec<oneshot::Sender<Result<(), String>>>,
    probes: HashMap<ConnectionId, oneshot::Sender<Result<(), String>>>,
}

impl Task {
    async fn run(mut self) {
        loop {
            tokio::select! {
                command = self.queue.recv() => match command {
                    None => return,
                    Some(Command::Shutdown { reply }) => {
                        drop(self.swarm);
                        let _ = reply.send(());
                        return;
                    }
                    Some(command) => self.obey(command),
                },
                event = self.swarm.select_next_some() => {
                    self.note(event);
                    self.answer_listeners();
                }
            }
        }
    }

    /// Tells those who wait for a listener that is bound, once all of its addresses are known.
    fn answer_listeners(&mut self) {
        if self.bound.is_empty() {
            return;
        }
        for _ in 0..MAX_EVENTS {
            match self.swarm.select_next_some().now_or_never() {
                Some(event) => self.note(event),
                None => break,
            }
        }
        for reply in self.bound.drain(..) {
            answer(reply, Ok(()));
        }
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::Listen { address, reply } => match self.swarm.listen_on(address) {
                Ok(listener) => {
                    self.listeners.insert(listener, reply);
                }
                Err(error) => answer(reply, Err(error.to_string())),
            },
            Command::Open { peer, addresses, open } => {
                if let Some(open) = self.swarm.behaviour_mut().streams.open(peer, open) {
                    let dial = dial(peer, addresses);
                    let connection = dial.connection_id();
                    self.swarm.behaviour_mut().streams.wait_for(peer, connection, open);
                    if let Err(error) = self.swarm.dial(dial) {
                        self.swarm.behaviour_mut().streams.fail(connection, &error.to_string());
                    }
                }
            }
            Command::Probe { peer, addresses, reply } => {
                let dial = dial(peer, addresses);
                let connection = dial.connection_id();
                self.swarm.behaviour_mut().streams.probe(connection);
                match self.swarm.dial(dial) {
                    Ok(()) => {
                        self.probes.insert(connection, reply);
                    }
                    Err(error) => answer(reply, Err(error.to_string())),
                }
            }
            Command::Shutdown { .. } => unreachable!("handled by run"),
        }
    }

    fn note(&mut self, event: SwarmEvent<BehaviourEvent>) {
        match event {
            SwarmEvent::NewListenAddr { listener_id, address } => {
                self.listening.lock().push(address);
                self.bound.extend(self.listeners.remove(&listener_id));
            }
            SwarmEvent::ExpiredListenAddr { address, .. } => self.listening.lock().retain(|other| *other != address),
            SwarmEvent::ListenerClosed { listener_id, addresses, reason } => {
                self.listening.lock().retain(|other| !addresses.contains(other));
                if let Some(reply) = self.listeners.remove(&listener_id) {
                    let reason = reason.err().map_or_else(|| "closed".into(), |error| error.to_string());
                    answer(reply, Err(reason));
                }
            }
            SwarmEvent::ConnectionEstablished { connection_id, .. } => {
                if let Some(reply) = self.probes.remove(&connection_id) {
                    self.swarm.close_connection(connection_id);
                    answer(reply, Ok(()));
                }
            }
            SwarmEvent::OutgoingConnectionError { connection_id, error, .. } => {
                if let Some(reply) = self.probes.remove(&connection_id) {
                    answer(reply, Err(error.to_string()));
                }
            }
            _ => {}
        }
    }
}

fn dial(peer: PeerId, addresses: Vec<Multiaddr>) -> DialOpts {
    DialOpts::peer_id(peer).condition(PeerCondition::Always).addresses(addresses).allocate_new_port().build()
}

/// Whoever asked may have given up: then nobody needs the answer.
fn answer<T>(reply: oneshot::Sender<T>, value: T) {
    let _ = reply.send(value);
}
