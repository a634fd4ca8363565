//! Leases on names: what makes creating exclusive across the mounts of a bucket.
//!
//! A mount that brings a name to be (create, mkdir, link, rename to a free name) tells its user so before the network
//! knows. It may do that while it holds a *lease* on the name: then nobody else will be told the same. Leases give
//! exclusiveness and speed, never safety: what a batch changes is compared and set whatever lease it comes under.
//!
//! - A mount that is alone holds *all names* and asks nobody. As soon as another one wants a name, that is recalled: the
//!   holder reserves the names it has not committed yet and gives up the rest.
//! - A mount counts what it holds from the moment it **asked**; the keeper counts from when it answered, and by
//!   [`CLOCK_MARGIN`] longer. So at no time two mounts both believe to hold a name.
//! - What a mount holds has one end. Every request moves it, but not while something of it is wanted by another mount:
//!   so a mount that gives nothing back, dead or cut off, blocks nobody for longer than [`LEASE`].
//! - Whatever a mount holds without a break has one *epoch*. A batch names the epoch under which it was made, and one of an
//!   epoch that has ended is not applied: its sender has to hear that what it promised is no longer certain.
//!
//! [`Leases`] is the keeper's side, without a clock: `now` is the time since any fixed moment and never runs backwards.

mod leases;

pub use leases::{Leases, Saved, SavedHolder};

use super::{Commit, EncryptedName, Error, Operation};
use crate::ids::{InodeId, MountId};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// How long a lease lasts after the last request of its holder: shorter than the 30 s after which a drive gives an operation
/// up, so that who waits for the name of a mount that is gone gets it.
pub const LEASE: Duration = Duration::from_secs(20);
/// By so much earlier than its keeper a holder takes a lease for over: their clocks need not run equally fast.
pub const CLOCK_MARGIN: Duration = Duration::from_millis(200);
/// All names are granted only when no other mount wanted a name for this long.
pub const QUIET: Duration = Duration::from_secs(30);
/// Most names wanted, and most names released, in one request.
pub const MAX_LEASE_NAMES: usize = 1_024;
/// Most names told in one reply to be wanted by others.
pub const MAX_WANTED: usize = 256;
/// Most names one mount may hold.
pub const MAX_NAMES_PER_MOUNT: usize = 16_384;
/// Most names held in one bucket.
pub const MAX_NAMES_PER_BUCKET: usize = 65_536;
/// Most mounts that may hold something of one bucket.
pub const MAX_HOLDERS: usize = 1_024;

/// A name of a directory, whether something bears it or not.
pub type NameKey = (InodeId, EncryptedName);

/// What a mount wants, gives back, and believes to hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseRequest {
    /// Who asks: any id that this mount alone uses, the same after a restart.
    pub mount: MountId,
    /// Larger than in any earlier request of this mount, also of its earlier lives (it begins with the time of the clock);
    /// the same when a request is sent again. So a request that was delayed undoes nothing.
    pub number: u64,
    /// The epoch of what the mount believes to hold; `None`: it holds nothing, and what is kept for it is void.
    pub held: Option<u64>,
    /// It would like to hold all names.
    pub all: bool,
    /// It wants these, at most [`MAX_LEASE_NAMES`].
    pub names: Vec<NameKey>,
    /// It believes to hold `names` already, perhaps as part of all names: they are to be held one by one.
    pub reserve: bool,
    /// It gives up all names. What it still needs it has reserved since it was told to, here or before, also if it held it one
    /// by one already: a keeper that has restarted does not know that any more. Judged before `all`.
    pub release_all: bool,
    /// It gives up these, at most [`MAX_LEASE_NAMES`]. Judged before `names`.
    pub release: Vec<NameKey>,
}

/// What a mount holds now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseReply {
    /// The epoch of what it holds; `None`: nothing. If it is not the one the mount believed in, it holds nothing but what this
    /// reply grants.
    pub epoch: Option<u64>,
    /// How long it holds that, counted from when it asked.
    pub valid_for: Duration,
    /// It holds all names, and nobody wants one of them.
    pub all: bool,
    /// Others want a name: it has to give up all names, if it holds them, after reserving those it still needs. Until then
    /// it has what it had.
    pub recalled: bool,
    /// Names it holds that others want, at most [`MAX_WANTED`].
    pub wanted: Vec<NameKey>,
    /// What became of the names it asked for, in their order.
    pub names: Vec<NameLease>,
    /// The bucket's sequence number when this was decided: who has heard the feed up to it knows whether a name that was
    /// granted is free.
    pub sequence: u64,
}

/// What became of a name that was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum NameLease {
    /// It is held now.
    Granted,
    /// Another mount holds it and was told; ask again.
    Busy,
    /// Too many names or mounts: do without.
    Full,
}

/// The lease under which a batch was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeldLease {
    /// Whose it is, as in [`LeaseRequest`].
    pub mount: MountId,
    /// Its epoch.
    pub epoch: u64,
}

/// Why a batch was not applied that breaks no rule of the tree. Nothing of it is remembered: it may be sent again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Lapse {
    /// The lease it names is over. It may come again without.
    #[error("the lease is over")]
    Stale,
    /// Another mount holds a name that it would bring to be, and was told.
    #[error("another mount holds the name")]
    Held {
        /// Index of the operation.
        operation: u32,
    },
}

impl LeaseRequest {
    /// A request that wants nothing and gives nothing up: it renews what is held.
    pub fn new(mount: MountId, number: u64, held: Option<u64>) -> Self {
        let (names, release) = (Vec::new(), Vec::new());
        Self { mount, number, held, all: false, names, reserve: false, release_all: false, release }
    }

    /// Fails with [`Error::Invalid`] if it names too much.
    pub fn check(&self) -> Result<(), Error> {
        let most = self.names.len().max(self.release.len());
        match most > MAX_LEASE_NAMES {
            true => Err(Error::Invalid(format!("a lease request of {most} names"))),
            false => Ok(()),
        }
    }
}

/// The names that a batch brings to be where there was nothing, each with the index of its operation.
pub fn added(commit: &Commit) -> impl Iterator<Item = (u32, InodeId, &EncryptedName)> {
    commit.operations.iter().zip(0..).filter_map(|(operation, index)| match operation {
        Operation::SetEntry(set) if set.expected.is_none() && set.target.is_some() => {
            Some((index, set.parent, &set.name))
        }
        _ => None,
    })
}

#[cfg(test)]
mod tests;
