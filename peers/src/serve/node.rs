//! A storage node behind its transports.

use super::announce::announced;
use super::link::SatelliteLink;
use super::{ServeError, raise_descriptor_limit, serve_streams};
use crate::identity::{Identity, public_key};
use crate::transport::{ChannelListener, Host, HostOptions, Inbound, PeerAddress, Protocol, TransportError, is_quic};
use libp2p::Multiaddr;
use parking_lot::Mutex;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use strewn_engine::bucket::Error;
use strewn_engine::ids::SatelliteId;
use strewn_node::{Node, NodeOptions};
use strewn_wire::satellite::{NodeReply, NodeRequest};
use tokio::sync::watch;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Streams served at once: kept ones of many uplinks.
const MAX_STREAMS: usize = 2048;
/// After a check-in that failed the next one follows after this, doubled up to [`MAX_PAUSE`] or the time that the satellite
/// wants between check-ins, if that is shorter.
const MIN_PAUSE: Duration = Duration::from_millis(250);
/// Longest pause after a check-in that failed.
const MAX_PAUSE: Duration = Duration::from_secs(60);
/// Bounds of what a satellite may say about the next check-in.
const CHECK_IN: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(4 * 3600));
/// Time between settlements.
const SETTLE: Duration = Duration::from_secs(3600);
/// Orders settled in one request: what fits its frame.
const SETTLE_BATCH: usize = 1000;
/// Time between rounds of housekeeping: expiry, compaction, the ledger.
const HOUSEKEEPING: Duration = Duration::from_secs(60);

/// A satellite that a node serves.
#[derive(Debug, Clone)]
pub struct JoinSatellite {
    /// Its multiaddress with its peer id.
    pub address: String,
    /// The operator's ticket; needed until the first check-in has succeeded.
    pub ticket: Option<String>,
}

/// How a node is run.
#[derive(Debug, Clone)]
pub struct NodeDaemonOptions {
    /// libp2p multiaddresses to listen on; may be empty if there is a piece channel.
    pub listen: Vec<Multiaddr>,
    /// Where to listen for piece channels.
    pub channel: Option<SocketAddr>,
    /// Addresses to announce instead of those it listens on, as seen from outside.
    pub announce: Option<Vec<String>>,
    /// Whom it serves.
    pub satellites: Vec<JoinSatellite>,
    /// Bytes it offers.
    pub capacity: u64,
}

/// How a node stands with one of its satellites.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// It has not been asked yet.
    Unknown,
    /// The last check-in succeeded.
    Member,
    /// The last check-in failed; the next one follows by itself.
    Failed(Error),
}

/// A running node.
pub struct NodeDaemon {
    shared: Arc<Shared>,
    channel: Option<ChannelListener>,
    cancel: CancellationToken,
    tasks: TaskTracker,
}

struct Shared {
    node: Node,
    host: Host,
    announced: Vec<String>,
    satellites: Vec<Membership>,
}

/// A node's dealings with one satellite.
struct Membership {
    id: SatelliteId,
    link: SatelliteLink,
    ticket: Mutex<Option<String>>,
    standing: watch::Sender<Standing>,
}

impl NodeDaemon {
    /// Opens the node in `directory`, listens, and serves; nobody knows of it before [`check_in`](Self::check_in) or
    /// [`run`](Self::run).
    pub async fn start(directory: &Path, identity: &Identity, options: NodeDaemonOptions) -> Result<Self, ServeError> {
        raise_descriptor_limit();
        let mut satellites = Vec::new();
        for satellite in &options.satellites {
            let address = PeerAddress::parse(&satellite.address)?;
            let bad = || TransportError::BadAddress(satellite.address.clone());
            let id = SatelliteId::from_bytes(public_key(&address.peer).ok_or_else(bad)?);
            satellites.push((id, address, satellite.ticket.clone()));
        }
        let known = satellites.iter().map(|(id, ..)| *id).collect();
        let (home, key, capacity) = (directory.to_owned(), identity.signing_key(), options.capacity);
        let open = move || Node::open(&home, key, NodeOptions::new(capacity, known));
        let opened = tokio::task::spawn_blocking(open).await.map_err(|error| ServeError::Node(error.into()))?;
        let node = opened.map_err(|error| ServeError::Node(error.into()))?;

        let mut dialled = satellites.iter().flat_map(|(_, address, _)| &address.addresses);
        let quic = options.listen.iter().any(is_quic) || dialled.any(is_quic);
        let accept = vec![Protocol::Piece];
        let host_options = HostOptions { listen: options.listen.clone(), accept, quic, ..HostOptions::default() };
        let (host, incoming) = Host::start(identity, host_options).await?;
        let (cancel, tasks) = (CancellationToken::new(), TaskTracker::new());
        let serve = {
            let node = node.clone();
            move |inbound: Inbound| {
                let node = node.clone();
                async move {
                    if let Err(error) = node.serve_stream(inbound.stream).await {
                        tracing::debug!(peer = %inbound.peer, %error, "piece stream ended");
                    }
                }
            }
        };
        serve_streams(incoming, MAX_STREAMS, &tasks, &cancel, serve.clone());
        let mut channel = None;
        if let Some(socket) = options.channel {
            let (listener, incoming) = ChannelListener::start(identity, socket).await?;
            serve_streams(incoming, MAX_STREAMS, &tasks, &cancel, serve);
            channel = Some(listener);
        }
        // Channels first: they cost least.
        let mut listening: Vec<_> = channel.iter().map(|channel| channel.address().clone()).collect();
        listening.extend(host.addresses());
        let announced = options.announce.unwrap_or_else(|| announced(&options.listen, &listening));
        let satellites = satellites.into_iter().map(|(id, address, ticket)| Membership {
            id,
            link: SatelliteLink::new(host.clone(), address),
            ticket: Mutex::new(ticket),
            standing: watch::Sender::new(Standing::Unknown),
        });
        let shared = Shared { node, announced, satellites: satellites.collect(), host };
        Ok(Self { shared: Arc::new(shared), channel, cancel, tasks })
    }

    /// The node itself.
    pub fn node(&self) -> &Node {
        &self.shared.node
    }

    /// Starts the background work: housekeeping, and for each satellite on its own check-ins and settlements.
    pub fn run(&self) {
        let (node, cancel) = (self.shared.node.clone(), self.cancel.clone());
        self.tasks.spawn(cancel.run_until_cancelled_owned(async move { housekeeping_loop(node).await }));
        for index in 0..self.shared.satellites.len() {
            let (shared, cancel) = (self.shared.clone(), self.cancel.clone());
            self.tasks
                .spawn(cancel.clone().run_until_cancelled_owned(async move { shared.check_in_loop(index).await }));
            let shared = self.shared.clone();
            self.tasks.spawn(cancel.run_until_cancelled_owned(async move { shared.settle_loop(index).await }));
        }
    }

    /// Checks in once with every satellite; fails with the first failure.
    pub async fn check_in(&self) -> Result<(), Error> {
        for satellite in &self.shared.satellites {
            self.shared.check_in(satellite).await?;
        }
        Ok(())
    }

    /// How it stands with each of its satellites, in the order they were given; changes are told.
    pub fn standings(&self) -> Vec<watch::Receiver<Standing>> {
        self.shared.satellites.iter().map(|satellite| satellite.standing.subscribe()).collect()
    }

    /// Settles with every satellite what can be settled; returns how many orders were accepted.
    pub async fn settle(&self) -> Result<u32, Error> {
        let mut settled = 0;
        for satellite in &self.shared.satellites {
            settled += self.shared.settle(satellite).await?;
        }
        Ok(settled)
    }

    /// Ends all streams and listeners, waits for what is being written, and closes the node.
    pub async fn stop(self) {
        self.cancel.cancel();
        drop(self.channel);
        self.shared.host.shutdown().await;
        if let Err(error) = self.shared.node.close().await {
            tracing::error!(node = %self.shared.node.id(), %error, "node not closed cleanly");
        }
        self.tasks.close();
        self.tasks.wait().await;
    }
}

async fn housekeeping_loop(node: Node) {
    loop {
        sleep(HOUSEKEEPING).await;
        match node.run_once().await {
            Ok(done) => tracing::debug!(node = %node.id(), ?done, "housekeeping"),
            Err(error) => tracing::error!(node = %node.id(), %error, "housekeeping failed"),
        }
    }
}

impl Shared {
    async fn check_in_loop(&self, index: usize) {
        let Some(satellite) = self.satellites.get(index) else { return };
        let (mut pause, mut longest) = (MIN_PAUSE, MAX_PAUSE);
        loop {
            match self.check_in(satellite).await {
                Ok(next) => {
                    (pause, longest) = (MIN_PAUSE, next.clamp(MIN_PAUSE, MAX_PAUSE));
                    sleep(next).await;
                }
                Err(_) => {
                    sleep(pause).await;
                    pause = (pause * 2).min(longest);
                }
            }
        }
    }

    /// Returns when to come again.
    async fn check_in(&self, satellite: &Membership) -> Result<Duration, Error> {
        let result = self.ask_to_check_in(satellite).await;
        let standing = result.as_ref().map_or_else(|error| Standing::Failed(error.clone()), |_| Standing::Member);
        let changed =
            satellite.standing.send_if_modified(|before| std::mem::replace(before, standing.clone()) != standing);
        match &result {
            Err(error) if changed => tracing::warn!(satellite = %satellite.id, "not checked in, trying again: {error}"),
            Ok(_) if changed => tracing::info!(satellite = %satellite.id, "checked in"),
            _ => {}
        }
        result
    }

    async fn ask_to_check_in(&self, satellite: &Membership) -> Result<Duration, Error> {
        let ticket = satellite.ticket.lock().clone();
        let check_in = self.node.check_in(self.announced.clone(), ticket);
        match satellite.link.ask(&NodeRequest::CheckIn(check_in)).await? {
            NodeReply::Welcome { next, .. } => {
                *satellite.ticket.lock() = None;
                Ok(next.clamp(CHECK_IN.0, CHECK_IN.1))
            }
            _ => Err(Error::Invalid("the satellite's answer fits no question".into())),
        }
    }

    async fn settle_loop(&self, index: usize) {
        let Some(satellite) = self.satellites.get(index) else { return };
        loop {
            sleep(SETTLE).await;
            if let Err(error) = self.settle(satellite).await {
                tracing::warn!(satellite = %satellite.id, %error, "settlement failed");
            }
        }
    }

    async fn settle(&self, satellite: &Membership) -> Result<u32, Error> {
        let mut accepted = 0;
        loop {
            let orders = self.node.orders_to_settle(satellite.id, SETTLE_BATCH);
            if orders.is_empty() {
                return Ok(accepted);
            }
            let serials = orders.iter().filter_map(|(limit, _)| Some(limit.unverified().ok()?.serial)).collect();
            match satellite.link.ask(&NodeRequest::Settle(orders)).await? {
                NodeReply::Settled(number) => accepted += number,
                _ => return Err(Error::Invalid("the satellite's answer fits no question".into())),
            }
            // What it refused it will refuse again.
            self.node.settled(serials).await.map_err(|error| Error::Internal(error.to_string()))?;
        }
    }
}
