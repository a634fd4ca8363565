//! The libp2p behaviour behind a [`Host`](super::Host): plain streams by protocol name, nothing else.
//!
//! Outbound streams are asked for by peer. They go over the oldest living connection that this side dialled; while there
//! is none they wait for the dial that the host has begun, and fail with it. A connection on which no stream can be opened
//! any more (its other end is gone without a word) is closed, so that the next stream dials anew.

use super::{BoxStream, Inbound, Protocol, TransportError};
use libp2p::core::transport::PortUse;
use libp2p::core::{Endpoint, UpgradeInfo};
use libp2p::swarm::handler::{ConnectionEvent, DialUpgradeError, FullyNegotiatedInbound, FullyNegotiatedOutbound};
use libp2p::swarm::{
    CloseConnection, ConnectionDenied, ConnectionHandler, ConnectionHandlerEvent, ConnectionId, FromSwarm,
    NetworkBehaviour, NotifyHandler, Stream, StreamProtocol, StreamUpgradeError, SubstreamProtocol, THandlerInEvent,
    THandlerOutEvent, ToSwarm,
};
use libp2p::{InboundUpgrade, Multiaddr, OutboundUpgrade, PeerId};
use parking_lot::Mutex;
use std::collections::{HashMap, HashSet, VecDeque};
use std::convert::Infallible;
use std::future::{Ready, ready};
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::{mpsc, oneshot};
use tokio_util::compat::{Compat, FuturesAsyncReadCompatExt};

/// A wish for a stream.
#[derive(Debug)]
pub(super) struct Open {
    pub(super) protocol: Protocol,
    pub(super) reply: oneshot::Sender<Result<Stream, TransportError>>,
}

/// The behaviour.
pub(super) struct Streams {
    accepted: Arc<[StreamProtocol]>,
    inbound: mpsc::Sender<Inbound>,
    /// Connections this side dialled, oldest first.
    dialled: HashMap<PeerId, Vec<ConnectionId>>,
    /// Connections that only prove an address and carry no stream.
    probes: HashSet<ConnectionId>,
    /// Wishes that wait for the dial of their peer. Bounded by the callers, who each wait for one.
    waiting: HashMap<PeerId, (ConnectionId, Vec<Open>)>,
    events: VecDeque<ToSwarm<Infallible, Open>>,
}

/// A connection gives no streams any more.
#[derive(Debug)]
pub(super) struct Dead;

impl Streams {
    pub(super) fn new(accepted: &[Protocol], inbound: mpsc::Sender<Inbound>) -> Self {
        Self {
            accepted: accepted.iter().map(|protocol| protocol.stream_protocol()).collect(),
            inbound,
            dialled: HashMap::new(),
            probes: HashSet::new(),
            waiting: HashMap::new(),
            events: VecDeque::new(),
        }
    }

    /// Opens a stream on a living connection, or adds the wish to a dial under way; gives it back if there is neither.
    pub(super) fn open(&mut self, peer: PeerId, open: Open) -> Option<Open> {
        if let Some(&connection) = self.dialled.get(&peer).and_then(|connections| connections.first()) {
            let handler = NotifyHandler::One(connection);
            self.events.push_back(ToSwarm::NotifyHandler { peer_id: peer, handler, event: open });
        } else if let Some((_, waiting)) = self.waiting.get_mut(&peer) {
            waiting.push(open);
        } else {
            return Some(open);
        }
        None
    }

    /// Lets the wish wait for a dial that is about to begin.
    pub(super) fn wait_for(&mut self, peer: PeerId, dial: ConnectionId, open: Open) {
        self.waiting.insert(peer, (dial, vec![open]));
    }

    /// Notes a dial that only proves an address.
    pub(super) fn probe(&mut self, connection: ConnectionId) {
        self.probes.insert(connection);
    }

    /// Ends the wait for a dial that failed.
    pub(super) fn fail(&mut self, dial: ConnectionId, reason: &str) {
        self.probes.remove(&dial);
        let found = self.waiting.iter().find(|(_, (waited, _))| *waited == dial).map(|(peer, _)| *peer);
        let Some((peer, (_, opens))) = found.and_then(|peer| self.waiting.remove_entry(&peer)) else { return };
        for open in opens {
            // The caller may have given up meanwhile.
            let _ = open.reply.send(Err(TransportError::Unreachable { peer, reason: reason.to_owned() }));
        }
    }

    fn connected(&mut self, peer: PeerId, connection: ConnectionId) {
        self.dialled.entry(peer).or_default().push(connection);
        for event in self.waiting.remove(&peer).map(|(_, opens)| opens).unwrap_or_default() {
            let handler = NotifyHandler::One(connection);
            self.events.push_back(ToSwarm::NotifyHandler { peer_id: peer, handler, event });
        }
    }

    fn disconnected(&mut self, peer: PeerId, connection: ConnectionId) {
        self.probes.remove(&connection);
        if let Some(connections) = self.dialled.get_mut(&peer) {
            connections.retain(|other| *other != connection);
            if connections.is_empty() {
                self.dialled.remove(&peer);
            }
        }
    }

    fn handler(&self, peer: PeerId, remote: &Multiaddr) -> Handler {
        let (accepted, inbound) = (self.accepted.clone(), self.inbound.clone());
        Handler { peer, remote: remote.clone(), accepted, inbound, wishes: VecDeque::new(), dead: false }
    }
}

impl NetworkBehaviour for Streams {
    type ConnectionHandler = Handler;
    type ToSwarm = Infallible;

    fn handle_established_inbound_connection(
        &mut self,
        _: ConnectionId,
        peer: PeerId,
        _: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<Handler, ConnectionDenied> {
        Ok(self.handler(peer, remote))
    }

    fn handle_established_outbound_connection(
        &mut self,
        _: ConnectionId,
        peer: PeerId,
        remote: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<Handler, ConnectionDenied> {
        Ok(self.handler(peer, remote))
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        match event {
            FromSwarm::ConnectionEstablished(made)
                if made.endpoint.is_dialer() && !self.probes.contains(&made.connection_id) =>
            {
                self.connected(made.peer_id, made.connection_id);
            }
            FromSwarm::ConnectionClosed(closed) => self.disconnected(closed.peer_id, closed.connection_id),
            FromSwarm::DialFailure(failure) => self.fail(failure.connection_id, &failure.error.to_string()),
            _ => {}
        }
    }

    fn on_connection_handler_event(&mut self, peer_id: PeerId, connection: ConnectionId, Dead: THandlerOutEvent<Self>) {
        self.disconnected(peer_id, connection);
        let connection = CloseConnection::One(connection);
        self.events.push_back(ToSwarm::CloseConnection { peer_id, connection });
    }

    fn poll(&mut self, _: &mut Context<'_>) -> Poll<ToSwarm<Infallible, THandlerInEvent<Self>>> {
        // Events are added only by the swarm's own task, which polls again afterwards: no waker is needed.
        self.events.pop_front().map_or(Poll::Pending, Poll::Ready)
    }
}

/// One connection's side of the behaviour.
pub(super) struct Handler {
    peer: PeerId,
    remote: Multiaddr,
    accepted: Arc<[StreamProtocol]>,
    inbound: mpsc::Sender<Inbound>,
    wishes: VecDeque<Open>,
    dead: bool,
}

impl Handler {
    fn accept(&self, stream: Stream, protocol: &StreamProtocol) {
        let Some(protocol) = Protocol::by_name(protocol) else { return };
        let remote = self.remote.clone();
        let inbound = Inbound { peer: self.peer, remote, protocol, stream: boxed(stream) };
        if self.inbound.try_send(inbound).is_err() {
            tracing::warn!(peer = %self.peer, ?protocol, "inbound stream dropped: too many wait to be accepted");
        }
    }
}

impl ConnectionHandler for Handler {
    type FromBehaviour = Open;
    type ToBehaviour = Dead;
    type InboundProtocol = Negotiate;
    type OutboundProtocol = Negotiate;
    type InboundOpenInfo = ();
    type OutboundOpenInfo = Open;

    fn listen_protocol(&self) -> SubstreamProtocol<Negotiate> {
        SubstreamProtocol::new(Negotiate(self.accepted.clone()), ())
    }

    fn poll(&mut self, _: &mut Context<'_>) -> Poll<ConnectionHandlerEvent<Negotiate, Open, Dead>> {
        if std::mem::take(&mut self.dead) {
            return Poll::Ready(ConnectionHandlerEvent::NotifyBehaviour(Dead));
        }
        // Wishes are added by the connection's own task just before it polls: no waker is needed.
        let Some(open) = self.wishes.pop_front() else { return Poll::Pending };
        let negotiate = Negotiate([open.protocol.stream_protocol()].into());
        let protocol = SubstreamProtocol::new(negotiate, open);
        Poll::Ready(ConnectionHandlerEvent::OutboundSubstreamRequest { protocol })
    }

    fn on_behaviour_event(&mut self, open: Open) {
        self.wishes.push_back(open);
    }

    fn on_connection_event(&mut self, event: ConnectionEvent<'_, Negotiate, Negotiate, (), Open>) {
        match event {
            ConnectionEvent::FullyNegotiatedInbound(FullyNegotiatedInbound { protocol: (stream, name), .. }) => {
                self.accept(stream, &name);
            }
            // Whoever wished for the stream may have given up meanwhile: then it closes.
            ConnectionEvent::FullyNegotiatedOutbound(FullyNegotiatedOutbound { protocol: (stream, _), info }) => {
                let _ = info.reply.send(Ok(stream));
            }
            ConnectionEvent::DialUpgradeError(DialUpgradeError { info, error }) => {
                let unreachable = |reason: String| TransportError::Unreachable { peer: self.peer, reason };
                self.dead |= matches!(error, StreamUpgradeError::Timeout | StreamUpgradeError::Io(_));
                let error = match error {
                    StreamUpgradeError::NegotiationFailed => TransportError::Unsupported(info.protocol.name()),
                    StreamUpgradeError::Timeout => unreachable("no answer to a new stream".into()),
                    StreamUpgradeError::Io(error) => unreachable(error.to_string()),
                    StreamUpgradeError::Apply(never) => match never {},
                };
                let _ = info.reply.send(Err(error));
            }
            _ => {}
        }
    }
}

/// A libp2p stream as everyone else uses streams.
pub(super) fn boxed(stream: Stream) -> BoxStream {
    Box::new(Exclusive(Mutex::new(stream.compat())))
}

/// Lends `Sync` to a stream that lacks it. All access is through `&mut`, so the lock is never taken.
struct Exclusive(Mutex<Compat<Stream>>);

impl AsyncRead for Exclusive {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(self.get_mut().0.get_mut()).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Exclusive {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(self.get_mut().0.get_mut()).poll_write(cx, buffer)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffers: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(self.get_mut().0.get_mut()).poll_write_vectored(cx, buffers)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(self.get_mut().0.get_mut()).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(self.get_mut().0.get_mut()).poll_shutdown(cx)
    }
}

/// Agrees on one of the protocols and hands out the bare stream.
pub(super) struct Negotiate(Arc<[StreamProtocol]>);

impl UpgradeInfo for Negotiate {
    type Info = StreamProtocol;
    type InfoIter = std::vec::IntoIter<StreamProtocol>;

    fn protocol_info(&self) -> Self::InfoIter {
        Vec::from(&self.0[..]).into_iter()
    }
}

impl InboundUpgrade<Stream> for Negotiate {
    type Output = (Stream, StreamProtocol);
    type Error = Infallible;
    type Future = Ready<Result<Self::Output, Infallible>>;

    fn upgrade_inbound(self, stream: Stream, protocol: StreamProtocol) -> Self::Future {
        ready(Ok((stream, protocol)))
    }
}

impl OutboundUpgrade<Stream> for Negotiate {
    type Output = (Stream, StreamProtocol);
    type Error = Infallible;
    type Future = Ready<Result<Self::Output, Infallible>>;

    fn upgrade_outbound(self, stream: Stream, protocol: StreamProtocol) -> Self::Future {
        ready(Ok((stream, protocol)))
    }
}
