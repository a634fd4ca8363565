//! What a cache tells about itself.

use serde::{Deserialize, Serialize};
use strewn_engine::ids::InodeId;

use crate::{LeaseKind, Name};

/// A moment's state of a cache.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)] // a command may ask a mount of another version
pub struct Status {
    /// Files with content or attributes the network does not have.
    pub pending_files: u64,
    /// Bytes of content the network does not have.
    pub pending_bytes: u64,
    /// Changes of names and inodes the network does not have.
    pub pending_operations: u64,
    /// Cuts that are sealed and wait for the network.
    pub queued_cuts: u64,
    /// Age in seconds of the oldest change that the network does not have; 0 when there is none.
    pub oldest_seconds: f64,
    /// How much of the pending content is on its way: handed to the uplink, and not confirmed by the network.
    pub sending_bytes: u64,
    /// Bytes of content committed since the cache was opened.
    pub uploaded_bytes: u64,
    /// Bytes per second of the latest uploads; 0 when idle.
    pub upload_rate: f64,
    /// Bytes fetched from the network since the cache was opened.
    pub fetched_bytes: u64,
    /// Files whose upload fails for a reason that does not pass by itself; they are tried again for ever.
    pub failed_files: u64,
    /// True if the last request to the network was answered.
    pub reachable: bool,
    /// What went wrong last, for people; empty if nothing did or it has passed.
    pub last_error: String,
    /// Entries, records and extents that did not authenticate and were left out.
    pub unauthentic: u64,
    /// Conflict copies made since the cache was opened.
    pub conflicts: u64,
    /// Those that are there, also from before: the newest, oldest first.
    pub conflict_copies: Vec<ConflictCopy>,
    /// Bytes the cache uses on disk: data files, journal, sealed segments and batches, and the index.
    pub cache_bytes: u64,
    /// Most bytes it may use.
    pub cache_budget: u64,
    /// Files that the kernel reads by itself.
    pub lent_files: u64,
    /// Inodes known in memory.
    pub known_inodes: u64,
    /// What it holds of the bucket's names.
    pub lease: LeaseKind,
    /// Names it holds one by one.
    pub lease_names: u64,
    /// Requests for a lease that somebody waited for, since the cache was opened.
    pub lease_waits: u64,
    /// No changes are taken: read-only by option or by grant.
    pub read_only: bool,
}

/// A file or directory that was kept beside what another mount made of its name, a file that came back because another mount
/// changed it, or a directory whose move was given up.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ConflictCopy {
    /// Where it is now, below the mounted directory; where it was then if that is not known.
    pub path: String,
    /// When it was made, in seconds since 1970.
    pub seconds: u64,
}

/// A name that was not used for long, for whoever refers to what it names to let go of: memory is short. Nothing changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unused {
    /// What it names; no directory.
    pub inode: InodeId,
    /// The directory it is in.
    pub directory: InodeId,
    /// The name.
    pub name: Name,
}

/// What a kernel or another follower must forget, because another mount changed it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Invalidation {
    /// Attributes and content of an inode.
    Inode(InodeId),
    /// A name of a directory.
    Entry(InodeId, Name),
    /// Everything: the feed lost track.
    All,
}
