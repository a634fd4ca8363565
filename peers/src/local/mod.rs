//! A whole network in one process, on loopback: one satellite and any number of storage nodes, kept under one directory.
//!
//! It survives restart with the same identities. The satellite keeps its port, because grants name it; nodes listen
//! wherever there is room and check in with their new addresses. Every node can be stopped, started and made to
//! misbehave, from here or through the [`control`] socket. What runs is what the daemons run: real transports, real disks.

pub mod control;
mod directory;
mod slot;

use crate::identity::{Identity, IdentityError};
use crate::serve::{SatelliteDaemon, ServeError, raise_descriptor_limit};
use control::{ControlServer, NodeAction, Reply, Request, Status, Steered};
use directory::{Directory, Settings};
use futures::StreamExt;
use slot::{Slot, SlotPlan};
use std::collections::HashSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use strewn_engine::bucket;
use strewn_engine::grant::{AccessGrant, ApiKey};
use strewn_engine::ids::NodeId;
use strewn_engine::redundancy::Redundancy;
use strewn_engine::segment::MAX_SEGMENT;
use tokio_util::sync::CancellationToken;

pub use directory::LOG;
pub use slot::LocalTransport;

/// Most nodes of a local network.
pub const MAX_NODES: usize = 1000;
/// Nodes of a local network if nobody says otherwise.
const DEFAULT_NODES: usize = 10;
/// Smallest segment size of a bucket in bytes.
const MIN_SEGMENT: u64 = 64 << 10;
/// Nodes that start or stop at the same time.
const STARTING: usize = 16;

/// How a local network is set up. What is `None` is as it was, or the default in a fresh directory.
#[derive(Debug, Clone, Default)]
pub struct LocalOptions {
    /// Number of nodes, 1..=[`MAX_NODES`], at least what the redundancy begins; 10. May grow later, not shrink.
    pub nodes: Option<usize>,
    /// Redundancy of buckets that do not ask for one; 4/6/8/10.
    pub redundancy: Option<Redundancy>,
    /// Segment size of new buckets in bytes, 64 KiB..=64 MiB; 64 MiB.
    pub segment_size: Option<u64>,
    /// How nodes are reached.
    pub transport: LocalTransport,
}

/// Why a local network did not start, or did not do what it was told.
#[derive(Debug, thiserror::Error)]
pub enum LocalError {
    /// The directory cannot be used.
    #[error("{path}: {source}")]
    Directory {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Another process uses it.
    #[error("{0} is in use by a running local network")]
    InUse(PathBuf),
    /// It holds something else.
    #[error("{0} is not the data directory of a local network, and not empty")]
    NotANetwork(PathBuf),
    /// It was made by another version.
    #[error("{path} is of version {found}; this program knows version {known}")]
    Version {
        /// The directory.
        path: PathBuf,
        /// Its version.
        found: u32,
        /// The version this program reads and writes.
        known: u32,
    },
    /// The options cannot be.
    #[error("{0}")]
    Options(String),
    /// The redundancy needs more nodes.
    #[error("{nodes} nodes are too few: the redundancy needs {needed}")]
    TooFewNodes {
        /// Nodes there are, or that came up.
        nodes: usize,
        /// Nodes needed.
        needed: usize,
    },
    /// No such node.
    #[error("there is no node {0}")]
    NoNode(usize),
    /// The node does not run.
    #[error("node {0} is stopped")]
    Stopped(usize),
    /// A peer's identity.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// A daemon did not start.
    #[error(transparent)]
    Serve(#[from] ServeError),
    /// The satellite did not let a node in.
    #[error("check-in: {0}")]
    CheckIn(#[from] bucket::Error),
    /// The satellite could not do something.
    #[error("satellite: {0}")]
    Satellite(#[from] strewn_satellite::Error),
}

/// A running local network. Dropped without [`shutdown`](Self::shutdown) it stops abruptly, as in a crash.
pub struct LocalNetwork {
    inner: Arc<Inner>,
    control: ControlServer,
    /// Unlocked last.
    directory: Directory,
    satellite: SatelliteDaemon,
}

/// What the control socket steers.
struct Inner {
    settings: Settings,
    address: String,
    api_key: ApiKey,
    slots: Vec<Slot>,
    stop: CancellationToken,
}

impl LocalNetwork {
    /// Starts the network in `directory`, making it if there is none; returns when it can store and serve segments.
    pub async fn start(directory: &Path, options: &LocalOptions) -> Result<Self, LocalError> {
        raise_descriptor_limit();
        let directory = Directory::open(directory)?;
        let mut settings = settle(directory.settings()?, options)?;
        // First of all: a directory half made is recognised as ours.
        directory.store(&settings)?;

        let satellite = start_satellite(&directory, &settings).await?;
        match Self::start_around(&directory, &mut settings, &satellite, options.transport).await {
            Ok(inner) => {
                let control = ControlServer::start(directory.path(), inner.clone());
                let failed = |source| LocalError::Directory { path: directory.path().to_owned(), source };
                Ok(Self { control: control.map_err(failed)?, inner, directory, satellite })
            }
            Err(error) => {
                satellite.stop().await;
                Err(error)
            }
        }
    }

    /// What runs beside the satellite.
    async fn start_around(
        directory: &Directory,
        settings: &mut Settings,
        satellite: &SatelliteDaemon,
        transport: LocalTransport,
    ) -> Result<Arc<Inner>, LocalError> {
        let address = satellite.addresses().first().map(ToString::to_string).unwrap_or_default();
        let port = address.split('/').nth(4).and_then(|port| port.parse().ok()).unwrap_or(0);
        if settings.satellite_port != port {
            settings.satellite_port = port;
            directory.store(settings)?;
        }
        let api_key = match directory.api_key()? {
            Some(key) => key,
            None => {
                let key = satellite.satellite().create_api_key().await?;
                directory.store_api_key(&key)?;
                key
            }
        };
        let slots = start_nodes(directory, settings, satellite, &address, transport).await?;
        let settings = settings.clone();
        Ok(Arc::new(Inner { settings, address, api_key, slots, stop: CancellationToken::new() }))
    }

    /// The data directory.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// A grant that may make buckets and do everything in them. It holds no key yet: add a root secret.
    pub fn access(&self) -> AccessGrant {
        AccessGrant { satellite: self.inner.address.clone(), api_key: self.inner.api_key.clone(), keys: Vec::new() }
    }

    /// Segment size of new buckets in bytes.
    pub fn segment_size(&self) -> u64 {
        self.inner.settings.segment_size
    }

    /// Does something to a node. Returns when it is done; a started node has checked in.
    pub async fn node(&self, node: usize, action: NodeAction) -> Result<(), LocalError> {
        self.inner.node(node, action).await
    }

    /// How it is.
    pub async fn status(&self) -> Status {
        self.inner.status().await
    }

    /// Waits until somebody asks through the control socket to stop everything.
    pub async fn stop_requested(&self) {
        self.inner.stop.cancelled().await;
    }

    /// Stops everything in order; what was acknowledged is on disk anyway.
    pub async fn shutdown(self) {
        drop(self.control);
        let slots = futures::stream::iter(&self.inner.slots);
        slots.for_each_concurrent(STARTING, Slot::stop).await;
        self.satellite.stop().await;
        drop(self.directory);
    }
}

impl Inner {
    async fn node(&self, node: usize, action: NodeAction) -> Result<(), LocalError> {
        self.slots.get(node).ok_or(LocalError::NoNode(node))?.obey(action).await
    }

    async fn status(&self) -> Status {
        let nodes = self.slots.iter().map(Slot::status);
        Status {
            pid: std::process::id(),
            satellite: self.address.clone(),
            redundancy: self.settings.redundancy,
            segment_size: self.settings.segment_size,
            nodes: futures::future::join_all(nodes).await,
        }
    }
}

impl Steered for Inner {
    async fn obey(&self, request: Request) -> Reply {
        match request {
            Request::Status => Reply::Status(self.status().await),
            Request::Node { node, action } => match self.node(node, action).await {
                Ok(()) => Reply::Done,
                Err(error) => Reply::Failed { reason: error.to_string() },
            },
            Request::Stop => {
                self.stop.cancel();
                Reply::Done
            }
        }
    }
}

/// What was kept, changed as the options say.
fn settle(kept: Option<Settings>, options: &LocalOptions) -> Result<Settings, LocalError> {
    let mut settings = kept.unwrap_or_else(|| Settings::new(0, Redundancy::SMALL, MAX_SEGMENT));
    let nodes = options.nodes.unwrap_or(if settings.nodes == 0 { DEFAULT_NODES } else { settings.nodes });
    if nodes < settings.nodes || nodes > MAX_NODES {
        let kept = settings.nodes.max(1);
        return Err(LocalError::Options(format!(
            "{nodes} nodes: must be {kept}..={MAX_NODES}, nodes cannot be removed"
        )));
    }
    settings.nodes = nodes;
    settings.redundancy = options.redundancy.unwrap_or(settings.redundancy);
    settings.segment_size = options.segment_size.unwrap_or(settings.segment_size);
    if !(MIN_SEGMENT..=MAX_SEGMENT).contains(&settings.segment_size) {
        return Err(LocalError::Options(format!("a segment of {} bytes cannot be", settings.segment_size)));
    }
    let needed = usize::from(settings.redundancy.total);
    if nodes < needed {
        return Err(LocalError::TooFewNodes { nodes, needed });
    }
    Ok(settings)
}

async fn start_satellite(directory: &Directory, settings: &Settings) -> Result<SatelliteDaemon, LocalError> {
    let home = directory.peer("satellite")?;
    let identity = Identity::open_or_create(&home.join("identity"))?;
    let own = strewn_satellite::Settings { redundancy: settings.redundancy, ..strewn_satellite::Settings::local() };
    let listen = format!("/ip4/127.0.0.1/tcp/{}", settings.satellite_port);
    let listen = listen.parse().expect("a multiaddress of parts that are valid");
    Ok(SatelliteDaemon::start(&home, &identity, own, vec![listen]).await?)
}

/// Starts all nodes; returns when enough have checked in for a segment.
async fn start_nodes(
    directory: &Directory,
    settings: &Settings,
    satellite: &SatelliteDaemon,
    address: &str,
    transport: LocalTransport,
) -> Result<Vec<Slot>, LocalError> {
    let joined: HashSet<NodeId> = satellite.satellite().nodes().await?.into_iter().map(|node| node.node).collect();
    let mut plans = Vec::with_capacity(settings.nodes);
    for number in 0..settings.nodes {
        let home = directory.peer(&format!("node-{number:03}"))?;
        let identity = Identity::open_or_create(&home.join("identity"))?;
        let ticket = match joined.contains(&identity.node_id()) {
            true => None,
            false => Some(satellite.satellite().create_ticket().await?),
        };
        let (satellite, nodes) = (address.to_owned(), settings.nodes);
        plans.push(SlotPlan { number, home, identity, satellite, ticket, transport, nodes });
    }
    let mut slots: Vec<Slot> = plans.into_iter().map(Slot::new).collect();
    let started = futures::stream::iter(&slots).map(Slot::start).buffer_unordered(STARTING);
    let results: Vec<Result<(), LocalError>> = started.collect().await;
    let mut running = 0;
    let mut failure = None;
    for result in results {
        match result {
            Ok(()) => running += 1,
            Err(error) => failure = Some(error),
        }
    }
    let needed = usize::from(settings.redundancy.total);
    match failure {
        Some(error) if running < needed => {
            for slot in slots.drain(..) {
                slot.stop().await;
            }
            Err(error)
        }
        Some(error) => {
            tracing::error!(%error, "a node did not start");
            Ok(slots)
        }
        None => Ok(slots),
    }
}
