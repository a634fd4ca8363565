//! One node of a local network: running or not.

use super::LocalError;
use super::control::{NodeAction, NodeStatus};
use crate::identity::Identity;
use crate::serve::{JoinSatellite, NodeDaemon, NodeDaemonOptions, ServeError};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use strewn_node::Faults;
use tokio::sync::Mutex;

/// How the nodes of a local network are reached.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum LocalTransport {
    /// Piece channels only: the cheapest.
    #[default]
    Channel,
    /// libp2p over TCP, TLS and yamux.
    Tcp,
    /// libp2p over QUIC.
    Quic,
}

/// What a node needs to start, every time.
pub(super) struct SlotPlan {
    pub(super) number: usize,
    pub(super) home: PathBuf,
    pub(super) identity: Identity,
    pub(super) satellite: String,
    /// Needed until it has joined.
    pub(super) ticket: Option<String>,
    pub(super) transport: LocalTransport,
    /// Nodes of the network: they share one disk.
    pub(super) nodes: usize,
}

/// A node's place in the network.
pub(super) struct Slot {
    plan: SlotPlan,
    daemon: Mutex<Option<NodeDaemon>>,
}

impl Slot {
    pub(super) fn new(plan: SlotPlan) -> Self {
        Self { plan, daemon: Mutex::new(None) }
    }

    /// Starts the node; returns when the satellite knows where it is. A running node is healed of its faults.
    pub(super) async fn start(&self) -> Result<(), LocalError> {
        let mut daemon = self.daemon.lock().await;
        match &*daemon {
            Some(running) => running.node().faults().clear(),
            None => *daemon = Some(self.started().await?),
        }
        Ok(())
    }

    async fn started(&self) -> Result<NodeDaemon, LocalError> {
        let options = self.plan.options().map_err(|error| ServeError::Node(error.into()))?;
        let started = NodeDaemon::start(&self.plan.home, &self.plan.identity, options).await?;
        if let Err(error) = started.check_in().await {
            started.stop().await;
            return Err(error.into());
        }
        started.run();
        Ok(started)
    }

    /// Stops the node, as a machine that is switched off.
    pub(super) async fn stop(&self) {
        if let Some(daemon) = self.daemon.lock().await.take() {
            daemon.stop().await;
        }
    }

    /// Removes all pieces. A running node is stopped for that and started again.
    async fn wipe(&self) -> Result<(), LocalError> {
        let mut daemon = self.daemon.lock().await;
        let running = daemon.take();
        let was_running = running.is_some();
        if let Some(running) = running {
            running.stop().await;
        }
        let home = self.plan.home.clone();
        let wiped = tokio::task::spawn_blocking(move || strewn_node::wipe(&home)).await;
        let wiped = wiped.map_err(|error| ServeError::Node(error.into()))?;
        wiped.map_err(|error| ServeError::Node(error.into()))?;
        if was_running {
            *daemon = Some(self.started().await?);
        }
        Ok(())
    }

    pub(super) async fn obey(&self, action: NodeAction) -> Result<(), LocalError> {
        match action {
            NodeAction::Start => self.start().await,
            NodeAction::Stop => {
                self.stop().await;
                Ok(())
            }
            NodeAction::Wipe => self.wipe().await,
            NodeAction::Hang => self.fault(|faults| faults.set_hang(true)).await,
            NodeAction::Slow(milliseconds) => self.fault(|faults| faults.set_slow(milliseconds)).await,
            NodeAction::Corrupt => self.fault(|faults| faults.set_corrupt(true)).await,
            NodeAction::Full => self.fault(|faults| faults.set_full(true)).await,
        }
    }

    async fn fault(&self, set: impl FnOnce(&Faults)) -> Result<(), LocalError> {
        match &*self.daemon.lock().await {
            Some(daemon) => {
                set(daemon.node().faults());
                Ok(())
            }
            None => Err(LocalError::Stopped(self.plan.number)),
        }
    }

    pub(super) async fn status(&self) -> NodeStatus {
        let daemon = self.daemon.lock().await;
        let (state, pieces, bytes) = match &*daemon {
            None => ("stopped".to_owned(), 0, 0),
            Some(daemon) => {
                let status = daemon.node().status();
                let state = match (status.failed, status.faults.join(", ")) {
                    (Some(failed), _) => format!("failed: {failed}"),
                    (None, faults) if faults.is_empty() => "running".to_owned(),
                    (None, faults) => faults,
                };
                (state, status.pieces, status.bytes.live)
            }
        };
        NodeStatus { number: self.plan.number, id: self.plan.identity.node_id().to_string(), state, pieces, bytes }
    }
}

impl SlotPlan {
    fn options(&self) -> io::Result<NodeDaemonOptions> {
        let listen = match self.transport {
            LocalTransport::Channel => None,
            LocalTransport::Tcp => Some("/ip4/127.0.0.1/tcp/0"),
            LocalTransport::Quic => Some("/ip4/127.0.0.1/udp/0/quic-v1"),
        };
        let channel = matches!(self.transport, LocalTransport::Channel).then(|| ([127, 0, 0, 1], 0).into());
        Ok(NodeDaemonOptions {
            listen: listen.iter().map(|address| address.parse().expect("a valid multiaddress")).collect(),
            channel,
            announce: None,
            satellites: vec![JoinSatellite { address: self.satellite.clone(), ticket: self.ticket.clone() }],
            capacity: self.capacity()?,
        })
    }

    /// What the node has, and its part of what is left of the disk.
    fn capacity(&self) -> io::Result<u64> {
        let disk = rustix::fs::statvfs(&self.home)?;
        let free = disk.f_bavail.saturating_mul(disk.f_frsize) / self.nodes as u64;
        Ok(free.saturating_add(bytes_below(&self.home)?))
    }
}

/// Bytes of all files below a directory.
fn bytes_below(directory: &Path) -> io::Result<u64> {
    let mut bytes = 0;
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let metadata = entry.metadata()?;
        bytes += if metadata.is_dir() { bytes_below(&entry.path())? } else { metadata.len() };
    }
    Ok(bytes)
}
