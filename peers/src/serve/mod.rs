//! Daemons: a satellite or a storage node behind the transports.
//!
//! Each has the same shape: listeners put inbound streams into bounded queues, one task takes them and starts a task per
//! stream up to a limit, and [`stop`](NodeDaemon::stop) ends all of them before it returns. Background work (check-ins,
//! settlement, sweeping) is a loop of rounds; one round can be asked for and waited for.

mod announce;
mod dialer;
mod link;
mod node;
mod satellite;
mod sweep;

pub use dialer::NodeDialer;
pub use node::{JoinSatellite, NodeDaemon, NodeDaemonOptions, Standing};
pub use satellite::SatelliteDaemon;

use crate::identity::IdentityError;
use crate::transport::{Inbound, Incoming, TransportError};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::sync::Arc;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Why a daemon did not start.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// No identity.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// No transport, or an address that cannot be listened on.
    #[error(transparent)]
    Transport(#[from] TransportError),
    /// The satellite's metabase did not open.
    #[error("satellite: {0}")]
    Satellite(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The node's piece store did not open.
    #[error("storage node: {0}")]
    Node(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// Lets the process open as many files and connections as the system permits: daemons hold many, and the usual limit of 1024
/// is far below what is permitted.
pub fn raise_descriptor_limit() {
    let limit = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum }) {
        tracing::warn!(%error, "limit of file descriptors not raised");
    }
}

/// Starts a task per inbound stream, at most `limit` at once; a stream beyond that is closed, which its opener sees as a
/// peer that is busy.
fn serve_streams<F>(
    mut incoming: Incoming,
    limit: usize,
    tasks: &TaskTracker,
    cancel: &CancellationToken,
    serve: impl Fn(Inbound) -> F + Send + Sync + 'static,
) where
    F: Future<Output = ()> + Send + 'static,
{
    let slots = Arc::new(Semaphore::new(limit));
    let (started, stop) = (tasks.clone(), cancel.clone());
    tasks.spawn(cancel.clone().run_until_cancelled_owned(async move {
        while let Some(inbound) = incoming.recv().await {
            let Ok(slot) = slots.clone().try_acquire_owned() else {
                tracing::warn!(peer = %inbound.peer, limit, "stream refused: too many are open");
                continue;
            };
            let served = serve(inbound);
            started.spawn(stop.clone().run_until_cancelled_owned(async move {
                served.await;
                drop(slot);
            }));
        }
    }));
}
