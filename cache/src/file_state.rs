//! How far a file is on its way to the network, and how the network stores it.

use crate::Error;
use crate::shared::Shared;
use std::sync::Arc;
use strewn_engine::bucket::{self, SegmentState};
use strewn_engine::ids::InodeId;

/// Runs of a file that are asked about; what lies beyond counts as more.
const MOST_RUNS: usize = 256;

/// How far a file is on its way to the network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FileState {
    /// The network has it as it is here.
    Committed,
    /// It has changes that wait for the next upload.
    Pending,
    /// All of its changes are being uploaded.
    Uploading,
    /// Its upload fails for this reason, and is tried again.
    Failed(String),
}

/// As programs read it: one line.
impl std::fmt::Display for FileState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Committed => f.write_str("committed"),
            Self::Pending => f.write_str("pending"),
            Self::Uploading => f.write_str("uploading"),
            Self::Failed(why) => write!(f, "failed: {why}"),
        }
    }
}

/// How the network stores what it has of a file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stored {
    /// The network knows the file.
    pub is_there: bool,
    /// Segments that hold bytes of it, in the order of the file; each once.
    pub segments: Vec<SegmentState>,
    /// There are more.
    pub more: bool,
}

impl Shared {
    /// See [`Cache::file_state`](crate::Cache::file_state).
    pub(crate) fn file_state(&self, inode: InodeId) -> FileState {
        let state = self.state.lock();
        if let Some(why) = state.failures.why(inode) {
            return FileState::Failed(why.to_string());
        }
        match state.tree.node(inode) {
            Some(node) if node.dirty.is_some() || node.renamed => FileState::Pending,
            Some(node) if node.cut > state.tree.committed => FileState::Uploading,
            // What is not known has been forgotten, and only clean state is.
            _ => FileState::Committed,
        }
    }

    /// See [`Cache::stored`](crate::Cache::stored).
    pub(crate) async fn stored(self: &Arc<Self>, inode: InodeId, most: usize) -> Result<Stored, Error> {
        let extents = match self.ask(self.bucket.extents(inode, 0, bucket::MAX_OFFSET)).await {
            Ok(extents) => extents.extents,
            Err(bucket::Error::NotFound(_)) => return Ok(Stored::default()),
            Err(error) => return Err(error.into()),
        };
        let mut stored = Stored { is_there: true, ..Stored::default() };
        let mut runs: Vec<_> = extents.iter().map(|extent| extent.run).collect();
        runs.dedup();
        stored.more = runs.len() > MOST_RUNS;
        for run in runs.into_iter().take(MOST_RUNS) {
            for segment in self.ask(self.bucket.run_segments(inode, run)).await? {
                if stored.segments.iter().any(|known| known.segment == segment.segment) {
                    continue;
                }
                if stored.segments.len() == most {
                    stored.more = true;
                    return Ok(stored);
                }
                stored.segments.push(segment);
            }
        }
        Ok(stored)
    }
}
