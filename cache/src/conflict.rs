//! What happens when the network refuses a batch: nothing is dropped, and the batch stays in the queue.

use crate::Error;
use crate::cut::batch::Queued;
use crate::shared::Shared;
use std::sync::Arc;
use strewn_engine::bucket::{self, Refusal};

impl Shared {
    /// Deals with a refusal.
    pub(crate) async fn resolve(self: &Arc<Self>, queued: &Arc<Queued>, reason: &Refusal) -> Result<(), Error> {
        Err(Error::Pending(format!("batch {} lost against another writer: {reason}", queued.commit.number)))
    }

    /// Deals with a stream that is out of step.
    pub(crate) fn restart_stream(&self) -> Result<(), Error> {
        Err(Error::Network(bucket::Error::OutOfOrder(String::from("the stream of batches"))))
    }
}
